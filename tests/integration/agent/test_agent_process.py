"""`hwtrust agent` as its service manager sees it: words, signals, exit codes, and kills."""

from __future__ import annotations

import signal
import socket
from typing import TYPE_CHECKING

import msgspec
import pytest

from hwtrust.tpm.connection import Tpm
from hwtrust.tpm.leftovers import loaded
from simulators.running_agent import AgentProcess

if TYPE_CHECKING:
    from hwtrust.testing.swtpm import Swtpm
    from simulators.site import Site

SECRET = b"a secret that is in no log"


def stored(site: Site) -> None:
    """Put something into the key store."""
    with site.open() as device:
        device.boot().put("payments/pin", SECRET)


def still_there(site: Site) -> bool:
    """Whether it still opens, and holds what it held."""
    with site.open() as device:
        return device.boot()["payments/pin"] == SECRET


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_an_agent_says_that_it_is_ready_and_ends_cleanly(
    site: Site, tpm: Swtpm, how: signal.Signals
) -> None:
    """Key store closed, socket file gone, nothing left in the TPM, exit code 0, no secret said."""
    stored(site)
    with AgentProcess(site, WATCHDOG_USEC="60000000") as agent:
        agent.await_word("READY=1")
        assert "STATUS=normal" in agent.words
        assert "WATCHDOG=1" in agent.words
        assert agent.socket_path.is_socket()
        code, log = agent.end(how)
        assert agent.hear_rest()[-1] == "STOPPING=1"
    assert code == 0
    assert not agent.socket_path.exists()
    with Tpm(tpm.tcti) as opened:
        assert loaded(opened) == ()
    assert "attested: trusted" in log
    assert SECRET.decode() not in log
    assert "Traceback" not in log
    assert still_there(site)


def test_one_agent_owns_a_device(site: Site) -> None:
    """The second ends with a code and a hint, and the first does not notice."""
    with AgentProcess(site) as first:
        first.await_word("READY=1")
        with AgentProcess(site) as second:
            code, log = second.ended()
        assert code == 10
        assert "[state:busy]" in log
        assert "hint: " in log
        assert first.socket_path.is_socket()
        first.send(signal.SIGHUP)
        assert first.end()[0] == 0


def test_a_device_that_is_not_enrolled_is_not_kept(site: Site) -> None:
    """The agent says what to do first."""
    (site.home / "state" / "identity.json").unlink()
    with AgentProcess(site) as agent:
        code, log = agent.ended()
    assert code == 10
    assert "[state:not-enrolled]" in log


@pytest.mark.parametrize("moment", ["STATUS=starting", "STATUS=loading", "STATUS=normal", "READY"])
def test_an_agent_that_was_killed_starts_again_and_has_lost_nothing(
    site: Site, moment: str
) -> None:
    """It leaves a socket file, a lock and perhaps sessions; the next start finds its way."""
    stored(site)
    with AgentProcess(site) as agent:
        agent.await_word(moment)
        assert agent.end(signal.SIGKILL)[0] == -signal.SIGKILL
    with AgentProcess(site) as agent:
        agent.await_word("READY=1")
        assert "STATUS=normal" in agent.words
        assert agent.end()[0] == 0
    assert still_there(site)


@pytest.mark.parametrize("number", range(4))
def test_an_agent_killed_in_the_midst_of_an_attestation_starts_again(
    site: Site, number: int
) -> None:
    """Whatever it was doing: the moment is another in each run."""
    with AgentProcess(site) as agent:
        agent.await_word("READY=1")
        for _ in range(number + 1):
            agent.send(signal.SIGHUP)
        agent.end(signal.SIGKILL)
    with AgentProcess(site) as agent:
        agent.await_word("READY=1")
        assert "STATUS=normal" in agent.words
        assert agent.end()[0] == 0


def test_an_agent_whose_backend_says_nothing_ends_at_once_all_the_same(site: Site) -> None:
    """SIGTERM in the midst of a handshake that no one answers."""
    stored(site)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        trust = msgspec.json.decode((site.home / "trust.json").read_bytes())
        trust["url"] = f"https://localhost:{port}"
        (site.home / "trust.json").write_bytes(msgspec.json.encode(trust))
        with AgentProcess(site) as agent:
            connection, _ = silent.accept()
            with connection:
                connection.recv(1)
                code, log = agent.end()
    assert code == 0
    assert "Traceback" not in log


def test_a_backend_that_is_away_at_the_start_keeps_no_agent_from_its_work(site: Site) -> None:
    """The approval on disk opens the key store; the agent is ready, and asks again."""
    site.backend.go_away()
    with AgentProcess(site) as agent:
        agent.await_word("READY=1")
        assert any(word.startswith("STATUS=normal") for word in agent.words)
        site.backend.come_back()
        agent.send(signal.SIGHUP)
        agent.await_word("STATUS=normal")
        assert agent.end()[0] == 0
