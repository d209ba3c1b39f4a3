"""`result` and `webhook` on the command line."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from hwtrust_backend.admin import local_administrator
from hwtrust_backend.cli import main
from hwtrust_backend.keys import Secret
from hwtrust_backend.testing import BackendServer
from simulators.attester import make_release
from simulators.backend_clients import BackendDevice, HttpApi, enrolled_device
from simulators.tls_server import Pki
from simulators.webhook_receiver import WebhookReceiver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    """The CA that receivers' certificates are under."""
    return Pki(tmp_path)


@pytest.fixture
def server(tmp_path: Path, pki: Pki, monkeypatch: pytest.MonkeyPatch) -> Iterator[BackendServer]:
    """A backend that runs, whose data directory the command line opens too."""
    ca = tmp_path / "receivers.pem"
    ca.write_text(pki.ca_pem)
    monkeypatch.setenv("HWTRUST_BACKEND_WEBHOOK_CA_FILE", str(ca))
    monkeypatch.setenv("HWTRUST_BACKEND_WEBHOOK_PRIVATE_NETWORKS", "127.0.0.0/8,::1/128")
    with BackendServer(tmp_path / "data") as started:
        started.accept(make_release())
        yield started


@pytest.fixture
def device(server: BackendServer) -> BackendDevice:
    """An enrolled device."""
    return enrolled_device(server)


@pytest.fixture
def run(
    server: BackendServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., tuple[str, str]]:
    """Runs a command in this process; gives standard output and error."""
    passphrase = tmp_path / "passphrase"
    passphrase.write_bytes(Secret(b"protects nothing").reveal())
    passphrase.chmod(0o600)
    before = os.umask(0o022)
    os.umask(before)
    monkeypatch.setattr(os, "umask", lambda _: before)

    def ran(*arguments: str, code: int = 0, key: bool = False) -> tuple[str, str]:
        capsys.readouterr()
        given = [*arguments, *(["--passphrase-file", str(passphrase)] if key else [])]
        with pytest.raises(SystemExit) as caught:
            main(["--data", str(server.directory), *given])
        found = capsys.readouterr()
        assert caught.value.code == code, found.err
        return found.out, found.err

    return ran


def decoded(output: tuple[str, str]) -> Any:  # noqa: ANN401 - whatever JSON holds
    """Standard output as JSON."""
    return json.loads(output[0])


def test_a_result_is_issued_and_verified_against_the_server(
    run: Callable[..., tuple[str, str]],
    server: BackendServer,
    device: BackendDevice,
    tmp_path: Path,
) -> None:
    """From one command to the other, with the keys fetched over TLS or read from a file."""
    nonce = "YSBub25jZSBvZiBtaW5l"
    out, _ = run("result", "issue", device.name.hex()[:20], "--nonce", nonce, key=True)
    token, ca, jwks = tmp_path / "token", tmp_path / "ca", tmp_path / "jwks"
    token.write_text(out)
    ca.write_text(server.trust.tls_ca)
    url = f"{server.url}/.well-known/jwks.json"
    verify = ("result", "verify", str(token), "--nonce", nonce)
    found = decoded(run(*verify, "--jwks", url, "--ca", str(ca), "--json"))
    assert (found["sub"], found["ear_status"]) == (device.name.hex(), "affirming")
    jwks.write_text(run("result", "keys", "--jwks", key=True)[0])
    assert "affirming" in run(*verify, "--jwks", str(jwks))[0]
    _, err = run(
        "result", "verify", str(token), "--nonce", "AAAAAAAAAAA=", "--jwks", str(jwks), code=1
    )
    assert err.startswith("hwtrust-backend: ")
    _, err = run("result", "verify", str(token), "--jwks", str(tmp_path / "missing"), code=1)
    assert "hint: " in err


def test_a_result_of_a_bad_device_ends_with_one_unless_any_status_will_do(
    run: Callable[..., tuple[str, str]],
    server: BackendServer,
    device: BackendDevice,
    tmp_path: Path,
) -> None:
    """Exit code 0 means affirmed."""
    device.load(make_release("9.9"))
    device.attest(HttpApi(server, device))
    token, jwks = tmp_path / "token", tmp_path / "jwks"
    token.write_text(run("result", "issue", device.name.hex(), key=True)[0])
    jwks.write_text(run("result", "keys", "--jwks", key=True)[0])
    run("result", "verify", str(token), "--jwks", str(jwks), code=1)
    out, _ = run("result", "verify", str(token), "--jwks", str(jwks), "--any-status")
    assert "contraindicated" in out


def test_keys_are_fetched_over_https_from_whom_the_ca_says(
    run: Callable[..., tuple[str, str]], server: BackendServer, tmp_path: Path
) -> None:
    """Plain HTTP, an unknown CA and another answer than a set of keys are refused."""
    token = tmp_path / "token"
    token.write_text("x.y.z")
    for place in (
        server.url.replace("https", "http") + "/.well-known/jwks.json",
        f"{server.url}/.well-known/jwks.json",
        "file:///etc/passwd",
    ):
        run("result", "verify", str(token), "--jwks", place, code=1)
    ca = tmp_path / "ca"
    ca.write_text(server.trust.tls_ca)
    for path in ("/healthz", "/nothing"):
        run("result", "verify", str(token), "--jwks", server.url + path, "--ca", str(ca), code=1)
    run("result", "verify", str(token), "--jwks", "x", "--nonce", "!!", code=2)


def test_keys_are_turned_by_command_and_withdrawn_at_once(
    run: Callable[..., tuple[str, str]],
) -> None:
    """Too early is refused; a compromise does not wait."""
    before = {key["kid"] for key in decoded(run("result", "keys", "--json", key=True))}
    _, err = run("result", "rotate-key", code=1, key=True)
    assert "--compromised" in err
    new = decoded(run("result", "rotate-key", "--compromised", "--json", key=True))["key"]
    assert new not in before
    states = {
        key["kid"]: key["state"] for key in decoded(run("result", "keys", "--json", key=True))
    }
    assert states[new] == "current"
    assert {states[kid] for kid in before} == {"gone"}
    assert new in run("result", "keys", key=True)[0]


def test_a_webhook_lives_from_add_to_remove(
    run: Callable[..., tuple[str, str]], pki: Pki, server: BackendServer
) -> None:
    """Added, tested, its secret rotated, its deliveries listed, removed."""
    with WebhookReceiver(pki) as receiver:
        added = decoded(
            run(
                "webhook", "add", receiver.receiver_url, "--topic", "device.silent", "--json",
                key=True,
            )
        )  # fmt: skip
        identifier = added["id"]
        receiver.secrets.append(added["secret"])
        out, _ = run("webhook", "test", identifier, key=True)
        assert "204" in out
        assert [event["type"] for event in receiver.events] == ["webhook.test"]
        receiver.secrets = [run("webhook", "rotate-secret", identifier, key=True)[0].split()[1]]
        tested = decoded(run("webhook", "test", identifier, "--json", key=True))
        assert tested["state"] == "delivered"
        assert receiver.received[-1].signed
        receiver.statuses = ["500 Broken"]
        run("webhook", "test", identifier, key=True, code=1)
        (listed,) = decoded(run("webhook", "list", "--json"))
        assert (listed["id"], listed["topics"]) == (identifier, ["device.silent"])
        assert listed["created_by"] == local_administrator().name
        assert "secret" not in listed
        assert "failing since" in run("webhook", "list")[0]
        assert len(decoded(run("webhook", "deliveries", identifier, "--json"))) == 3
        assert "given-up" not in run("webhook", "deliveries")[0]
    run("webhook", "enable", identifier)
    assert run("webhook", "remove", identifier)[0] == f"{identifier}: removed\n"
    assert decoded(run("webhook", "list", "--json")) == []
    run("webhook", "remove", identifier, code=1)


def test_a_webhook_that_would_be_wrong_is_refused(run: Callable[..., tuple[str, str]]) -> None:
    """No topic, an unknown one, and a URL that events are not sent to."""
    run("webhook", "add", "https://x.example/", code=2)
    run("webhook", "add", "https://x.example/", "--topic", "everything", code=2)
    _, err = run("webhook", "add", "http://x.example/", "--topic", "all", code=1, key=True)
    assert "https" in err
    known = ("webhook", "add", "https://x.example/", "--topic", "all", "--group")
    assert "no group" in run(*known, "lba", code=1, key=True)[1]


def test_all_topics_are_spelled_out_when_a_webhook_is_added(
    run: Callable[..., tuple[str, str]],
) -> None:
    """A topic that comes later is not sent to who never saw it; a test needs no topic."""
    run("webhook", "add", "https://x.example/", "--topic", "all", "--group", "default", key=True)
    (listed,) = decoded(run("webhook", "list", "--json"))
    assert "device.standing.changed" in listed["topics"]
    assert "webhook.test" not in listed["topics"]
    assert listed["group"] == "default"
