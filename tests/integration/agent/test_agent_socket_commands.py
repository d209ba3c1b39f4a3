"""Applications and commands beside a running agent: its socket is their way to the device."""

from __future__ import annotations

import io
import json
import sys
from typing import TYPE_CHECKING

import pytest

from hwtrust import AgentClient
from hwtrust.cli import run
from hwtrust.device.state import DeviceState
from hwtrust.errors import KeyStoreLockedError
from simulators.running_agent import AgentProcess

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from simulators.site import Site

SECRET = b"a secret\n\0\xff of any bytes"


@pytest.fixture
def agent(site: Site) -> Iterator[AgentProcess]:
    """An agent that is ready."""
    with AgentProcess(site) as started:
        started.await_word("READY=1")
        yield started


class Shell:
    """The `hwtrust` command with the site's configuration."""

    def __init__(
        self, site: Site, capture: pytest.CaptureFixture[bytes], patch: pytest.MonkeyPatch
    ) -> None:
        self._config = str(site.config_path)
        self._capture = capture
        self._patch = patch

    def run(self, *arguments: str, given: bytes = b"", code: int = 0) -> tuple[bytes, str]:
        """Run a command: what it printed, and what it complained of."""
        self._patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
        ended = run([*arguments, "--config", self._config])
        said = self._capture.readouterr()
        assert ended == code, said.err
        return said.out, said.err.decode()


@pytest.fixture
def shell(
    site: Site, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> Shell:
    """A shell on the device."""
    return Shell(site, capfdbinary, monkeypatch)


def test_the_key_store_commands_work_while_an_agent_has_the_device(
    site: Site, agent: AgentProcess, shell: Shell
) -> None:
    """As without one; and what they have stored is in the one key store."""
    out, _ = shell.run("keystore", "put", "payments/pin", given=SECRET)
    assert out == f"stored payments/pin, version 1, {len(SECRET)} bytes\n".encode()
    shell.run("keystore", "put", "other", given=b"x")
    assert shell.run("keystore", "get", "payments/pin")[0] == SECRET
    (first, second) = json.loads(shell.run("keystore", "list", "--json")[0])
    assert (first["name"], second["name"], second["size"]) == ("other", "payments/pin", len(SECRET))
    assert b"payments/pin" in shell.run("keystore", "list")[0]
    shell.run("keystore", "delete", "other")
    _, said = shell.run("keystore", "get", "other", code=7)
    assert "[keystore:entry:missing]" in said
    _, log = agent.end()
    assert "Traceback" not in log
    with site.open() as device:
        assert device.boot()["payments/pin"] == SECRET


@pytest.mark.usefixtures("agent")
def test_status_and_event_go_through_the_agent(shell: Shell) -> None:
    """The state that the application sees, and an event that reaches the backend."""
    condition = json.loads(shell.run("status", "--json")[0])["condition"]
    assert (condition["state"], condition["release"]) == ("normal", "1.0")
    assert b"normal since" in shell.run("status")[0]
    assert shell.run("event", "secure-input", "--detail", "pad 3")[0].startswith(b"reported")
    assert "attest" in json.loads(shell.run("event", "secure-input", "--json")[0])
    assert "[agent:request]" in shell.run("event", "No Kind", code=12)[1]


def test_without_an_agent_an_event_says_so_and_a_busy_device_is_busy(
    site: Site, shell: Shell, tmp_path: Path
) -> None:
    """Who holds the device without serving a socket is told apart from an agent."""
    text = f'\n[agent]\nsocket = "{tmp_path / "none.sock"}"\n'
    site.config_path.write_text(site.config_path.read_text() + text)
    assert "[agent:unreachable]" in shell.run("event", "transaction", code=12)[1]
    with DeviceState(tmp_path / "state").locked():
        assert "[state:busy]" in shell.run("status", code=10)[1]
        assert "[state:busy]" in shell.run("keystore", "list", code=10)[1]
    assert shell.run("keystore", "list", "--json")[0].strip() == b"[]"


def test_an_application_learns_of_a_changed_layer_and_gets_no_more_keys(
    site: Site, agent: AgentProcess
) -> None:
    """The notification comes, and the key store is locked for everybody."""
    with AgentClient(agent.socket_path) as client:
        client.keystore.put("payments/pin", SECRET)
        assert client.attest().standing == "trusted"
        watch = client.watch()
        assert next(watch).state == "normal"
        site.change("frontend")
        condition = next(told for told in watch if told.state != "normal")
        assert (condition.state, condition.layer) == ("locked", "frontend")
        assert condition.code == "layer:mismatch"
        with pytest.raises(KeyStoreLockedError):
            client.keystore["payments/pin"]
        assert client.state().state == "locked"
        watch.close()  # type: ignore[attr-defined]
