"""The command line: results, complaints, exit codes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from hwtrust.wire.messages import TrustAnchor
from hwtrust_backend.cli import LazyGroup, cli, main
from hwtrust_backend.keys import vault as vault_module
from hwtrust_backend.testing import CHEAP, MINUTE, BackendServer
from simulators.attester import make_release
from simulators.backend_clients import BackendDevice, DirectApi
from simulators.backend_shell import Shell
from simulators.ek_authority import EkAuthority


def every_command() -> list[str]:
    """All commands, with those of groups below them."""
    assert isinstance(cli, LazyGroup)
    context = cli.make_context("hwtrust-backend", ["devices"])
    found = []
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        below = getattr(command, "commands", None)
        found += [f"{name} {sub}" for sub in below] if below else [name]
    return found


COMMANDS = every_command()


@pytest.fixture
def shell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Shell:
    """A shell with a data directory that holds nothing yet."""
    monkeypatch.setattr("hwtrust_backend.cli.server.SCRYPT_COST", CHEAP)
    assert vault_module.SCRYPT_COST >= 2**17
    for name in list(os.environ):
        if name.startswith("HWTRUST_BACKEND_"):
            monkeypatch.delenv(name)
    before = os.umask(0o022)
    os.umask(before)
    monkeypatch.setattr(os, "umask", lambda _: before)
    return Shell(tmp_path / "data", capsys)


@pytest.fixture
def installed(shell: Shell) -> Shell:
    """A shell on an installed backend."""
    shell.run("init", "--generate-passphrase", str(shell.data.parent / "passphrase"))
    return shell


# --- init -----------------------------------------------------------------------------------


def test_init_makes_a_backend(shell: Shell) -> None:
    """Directory 0700, keys and passphrase 0600, and the anchor that devices are given."""
    passphrase = shell.data.parent / "passphrase"
    result = shell.json(
        "init", "--url", "https://b.example:1", "--listen", "127.0.0.1:2",
        "--generate-passphrase", str(passphrase),
    )  # fmt: skip
    assert result["url"] == "https://b.example:1"
    modes = {
        path.name: path.stat().st_mode & 0o777
        for path in (shell.data, passphrase, shell.data / "keys.vault", shell.data / "config.toml")
    }
    assert modes == {"data": 0o700, "passphrase": 0o600, "keys.vault": 0o600, "config.toml": 0o600}
    anchor = msgspec.json.decode(Path(result["trust"]).read_bytes(), type=TrustAnchor)
    assert anchor.url == "https://b.example:1"
    assert "BEGIN CERTIFICATE" in anchor.tls_ca
    assert passphrase.read_text().strip() not in (shell.data / "config.toml").read_text()


def test_init_replaces_nothing(installed: Shell) -> None:
    """A second init refuses, and leaves every key and passphrase as it is."""
    before = (installed.data / "keys.vault").read_bytes()
    passphrase = installed.data.parent / "passphrase"
    _, complaint = installed.run("init", "--generate-passphrase", str(passphrase), code=1)
    assert complaint.startswith("hwtrust-backend: ")
    _, complaint = installed.run("init", "--passphrase-file", str(passphrase), code=1)
    assert "hint: " in complaint
    assert (installed.data / "keys.vault").read_bytes() == before


def test_init_goes_on_where_it_was_interrupted(installed: Shell) -> None:
    """Keys without a trust file are kept, and the rest is made."""
    before = (installed.data / "keys.vault").read_bytes()
    (installed.data / "trust.json").unlink()
    (installed.data / "backend.sqlite").unlink()
    installed.run("init", "--passphrase-file", str(installed.data.parent / "passphrase"))
    assert (installed.data / "keys.vault").read_bytes() == before
    assert installed.json("devices") == []


def test_serve_with_a_wrong_passphrase_ends_with_1(installed: Shell) -> None:
    """The complaint says what to do, in lower case and without a full stop."""
    wrong = installed.data.parent / "wrong"
    wrong.write_text("wrong")
    _, complaint = installed.run("serve", "--passphrase-file", str(wrong), code=1)
    first, hint = complaint.strip().splitlines()
    assert first.startswith("hwtrust-backend: the passphrase does not open")
    assert not first.endswith(".")
    assert hint.startswith("hint: ")


def test_without_a_backend_commands_say_how_to_make_one(shell: Shell) -> None:
    """A newcomer reads the next command, and no database appears."""
    _, complaint = shell.run("devices", code=1)
    assert "hint: hwtrust-backend init" in complaint
    assert not shell.data.exists()


# --- help and usage ---------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(shell: Shell, command: str) -> None:
    """Help for newcomers: what it does, and one line to copy."""
    text, _ = shell.run(*command.split(), "--help")
    assert f"Example: hwtrust-backend {command}" in text.replace("\n ", "")


def test_there_are_commands_to_test() -> None:
    """The list that the tests of this file go by is not empty."""
    assert len(COMMANDS) > 50
    assert {"serve", "devices", "policy dry-run", "audit verify"} <= set(COMMANDS)


@pytest.mark.parametrize(
    "arguments",
    [["no-such-command"], ["device"], ["token", "create", "--expires", "soon"], ["release"]],
)
def test_wrong_usage_ends_with_2(installed: Shell, arguments: list[str]) -> None:
    """Usage errors are told from refusals."""
    _, complaint = installed.run(*arguments, code=2)
    assert complaint.startswith(("hwtrust-backend: ", "Usage: "))


def test_data_can_stand_before_or_after_the_command(installed: Shell) -> None:
    """`--data` belongs to both."""
    with pytest.raises(SystemExit) as caught:
        main(["devices", "--data", str(installed.data), "--json"])
    assert caught.value.code == 0


# --- administration -----------------------------------------------------------------------------


def test_tokens_are_made_listed_and_revoked(installed: Shell) -> None:
    """A token is shown once; the list knows only its id."""
    token = installed.json("token", "create", "--label", "line 3")["token"]
    text, _ = installed.run("token", "list")
    assert token not in text
    (row,) = installed.json("token", "list")
    assert (row["state"], row["label"]) == ("open", "line 3")
    assert installed.json("token", "revoke", row["id"])["state"] == "revoked"
    assert installed.json("token", "list")[0]["state"] == "revoked"
    installed.run("token", "revoke", "ffffff", code=1)
    assert installed.run("token", "create", "--expires", "5m")[0].strip()


def test_releases_are_added_accepted_and_retired(installed: Shell) -> None:
    """What the list shows is what devices may run."""
    file = installed.data.parent / "release.json"
    file.write_bytes(msgspec.json.encode(make_release("1.0")))
    assert installed.json("release", "add", str(file))["state"] == "added"
    assert installed.json("release", "accept", "1.0")["state"] == "accepted"
    (row,) = installed.json("release", "list")
    assert (row["state"], row["current"]) == ("accepted", True)
    assert "1.0" in installed.run("release", "list")[0]
    assert installed.run("release", "retire", "1.0")[0] == "1.0: retired\n"
    installed.run("release", "accept", "2.0", code=1)
    installed.run("release", "add", "/nonexistent", code=1)


def test_eks_and_their_cas_are_managed(installed: Shell) -> None:
    """An allow-list by name, and vendors' certificates."""
    name = "000b" + "ab" * 32
    installed.run("ek", "allow", name, "--label", "lab")
    assert [row["name"] for row in installed.json("ek", "list")] == [name]
    assert name in installed.run("ek", "list")[0]
    installed.run("ek", "remove", name)
    assert installed.json("ek", "list") == []
    installed.run("ek", "remove", name, code=1)
    for bad in ("xyz", "000b", "00" * 34):
        installed.run("ek", "allow", bad, code=1)
    file = installed.data.parent / "ca.pem"
    file.write_bytes(EkAuthority.new().root.pem)
    assert installed.json("ek-ca", "add", str(file))["roots"] == 1
    file.write_text("no certificate")
    installed.run("ek-ca", "add", str(file), code=1)


def test_devices_are_shown_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """List, detail and rotation of a device by any unique beginning of its name."""
    with BackendServer(tmp_path / "data") as server:
        server.accept(make_release())
        devices = [BackendDevice(server.backend) for _ in range(2)]
        for device in devices:
            device.load(make_release())
            server.allow_ek(device.name)
            device.enrol(DirectApi(server.backend))
        shell = Shell(server.directory, capsys)
        rows = shell.json("devices")
        assert {row["device"] for row in rows} == {device.name.hex() for device in devices}
        assert {row["next_step"] for row in rows} == {"nothing"}
        name = devices[0].name.hex()
        assert name[:16] in shell.run("devices")[0]
        report = shell.json("device", name)
        assert report["summary"]["standing"] == "trusted"
        assert report["trail"][0]["event"] == "device:enrolment:accepted"
        text, _ = shell.run("device", name[:40])
        assert "audit trail" in text
        shell.run("device", "000b", code=1)
        shell.run("device", "ffff", code=1)
        shell.run("rotate", name[:40])
        assert shell.json("rotate", name)["device"] == name
        # The command has the machine's time, which goes faster than the test's.
        server.clock.advance(MINUTE)
        assert devices[0].attest(DirectApi(server.backend, devices[0])).root is not None


def test_a_full_disk_behind_standard_output_is_an_error() -> None:
    """A result that was not written is no success, and no traceback."""
    program = Path(sys.executable).with_name("hwtrust-backend")
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [program, "--version"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    assert done.stderr == "hwtrust-backend: cannot write: No space left on device\n"
