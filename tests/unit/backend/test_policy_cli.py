"""Policies on the command line: checked, tried, added, signed, put into force, compared."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from hwtrust_backend.audit import Event, record
from hwtrust_backend.policies import DEFAULT_DOCUMENT
from hwtrust_backend.testing import BackendServer, policy_document
from simulators.attester import make_release
from simulators.backend_clients import BackendDevice, DirectApi
from simulators.backend_shell import Shell

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def server(tmp_path: Path) -> Iterator[BackendServer]:
    """A backend with one trusted device."""
    with BackendServer(tmp_path / "data") as started:
        started.accept(make_release())
        device = BackendDevice(started.backend)
        device.load(make_release())
        started.allow_ek(device.name)
        device.enrol(DirectApi(started.backend))
        device.attest(DirectApi(started.backend, device))
        yield started


@pytest.fixture
def shell(server: BackendServer, capsys: pytest.CaptureFixture[str]) -> Shell:
    """Its command line."""
    return Shell(server.directory, capsys)


def written(path: Path, text: str) -> str:
    """A policy file."""
    path.write_text(text)
    return str(path)


def test_a_document_is_checked_without_a_backend(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong line is named, what is unsaid is named, a good document is said to be one."""
    shell = Shell(tmp_path / "nothing", capsys)
    good = written(tmp_path / "good.toml", DEFAULT_DOCUMENT)
    assert shell.run("policy", "check", good)[0] == f"{good}: a policy\n"
    partial = written(tmp_path / "partial.toml", policy_document(watchdog=None))
    assert shell.json("policy", "check", partial)["absent"] == ["watchdog"]
    assert "every device fails" in shell.run("policy", "check", partial)[0]
    enclaves = written(
        tmp_path / "tdx.toml", policy_document(evidence=["tdx"], firmware={"floor": None})
    )
    assert shell.run("policy", "check", enclaves)[0].splitlines()[1:] == [
        "  says nothing of firmware.floor: every TPM fails",
        "  has no table tdx: every device of that kind fails",
    ]
    bad = written(tmp_path / "bad.toml", "\n\nrot_lifetime = '1d'")
    assert "line 3" in shell.run("policy", "check", bad, code=1)[1]
    (tmp_path / "latin.toml").write_bytes(b"# \xe9")
    for missing in ("/nonexistent", str(tmp_path / "latin.toml")):
        shell.run("policy", "check", missing, code=1)


def test_a_policy_is_tried_and_then_put_into_force(shell: Shell, tmp_path: Path) -> None:
    """The dry run tells what will happen; activating makes it happen; the old one comes back."""
    strict = written(tmp_path / "strict.toml", policy_document(releases=["9.9"]))
    tried = shell.json("policy", "dry-run", strict)
    assert (tried["examined"], tried["failing"], tried["newly_failing"]) == (1, 1, 1)
    text, _ = shell.run("policy", "dry-run", strict)
    assert "release:refused" in text
    assert text.splitlines()[0] == tried["summary"]
    assert shell.json("policy", "add", "default", strict, "--note", "no old ones")["version"] == 2
    rows = shell.json("policy", "list")
    assert [(row["version"], row["active"]) for row in rows] == [(2, False), (1, True)]
    assert [row["activated_by"] for row in rows] == ["", "init"]
    shell.run("policy", "activate", "default", "2")
    assert "no old ones" in shell.run("policy", "list")[0]
    newest, first = shell.json("policy", "list")
    assert newest["activated_by"].startswith("cli:")
    assert newest["activated_at"] >= newest["added_at"]
    assert (first["activated_by"], first["activated_at"]) == ("", None)
    shown, _ = shell.run("policy", "show", "default")
    assert shown == policy_document(releases=["9.9"])
    diff, _ = shell.run("policy", "diff", "default", "1", "2")
    assert '-releases = "accepted"' in diff
    assert '+releases = ["9.9"]' in diff
    shell.run("policy", "activate", "default", "1")
    assert shell.run("policy", "show", "default")[0] == DEFAULT_DOCUMENT
    shell.run("policy", "activate", "default", "7", code=1)
    for impossible in ("0", "2147483648", str(10**20)):
        for command in ("activate", "show"):
            shell.run("policy", command, "default", impossible, code=2)
    shell.run("policy", "dry-run", strict, "--group", "none", code=1)


def test_a_dry_run_keeps_nobody_waiting(
    shell: Shell, server: BackendServer, tmp_path: Path
) -> None:
    """It takes long in a large fleet: it neither waits for who writes, nor has them wait."""
    strict = written(tmp_path / "strict.toml", policy_document(releases=["9.9"]))
    with server.backend.database.transaction() as session:
        record(session, Event.RELEASE_ADDED, now=server.clock())
        assert shell.json("policy", "dry-run", strict)["failing"] == 1
        for command in (("policy", "list"), ("policy", "show", "default"), ("group", "list")):
            shell.run(*command)


def test_groups_are_held_to_policies(shell: Shell, tmp_path: Path) -> None:
    """A group gets a policy that is in force, and is listed with it."""
    strict = written(tmp_path / "strict.toml", policy_document(root_lifetime="10d"))
    shell.run("group", "set", "line-3", "--policy", "strict", code=1)
    shell.run("policy", "add", "strict", strict, "--activate")
    assert shell.json("group", "set", "line-3", "--policy", "strict")["policy"] == "strict"
    rows = {row["name"]: row for row in shell.json("group", "list")}
    assert rows["line-3"]["policy_version"] == 1
    assert set(rows) == {"default", "line-3"}
    assert "line-3" in shell.run("group", "list")[0]
    shell.run("group", "set", "line-3", "--policy", "strict", "--label", "third line")
    assert shell.json("group", "set", "line-3", "--policy", "default")["label"] == "third line"
    shell.run("policy", "add", "later", strict)
    assert "every device fails" in shell.run("group", "set", "line-3", "--policy", "later")[0]


def test_a_signed_policy_comes_into_force_where_signers_are_named(
    shell: Shell, server: BackendServer, tmp_path: Path
) -> None:
    """Signed away from the backend, checked at it; unsigned, it stays out of force."""
    key = ec.generate_private_key(ec.SECP256R1())
    private, public = tmp_path / "alice.key", tmp_path / "alice.pem"
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    public.write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    config = server.directory / "config.toml"
    config.write_text(config.read_text() + f'\n[policy_signers]\nalice = "{public}"\n')
    strict = written(tmp_path / "strict.toml", policy_document(root_lifetime="10d"))
    _, err = shell.run("policy", "add", "default", strict, "--activate", code=1)
    assert "not signed" in err
    envelope = tmp_path / "envelope.json"
    envelope.write_text(shell.run("policy", "sign", "default", strict, "--key", str(private))[0])
    added = shell.json(
        "policy", "add", "default", strict, "--signature", str(envelope), "--activate"
    )
    assert (added["signer"], added["active"]) == ("alice", True)
    other = written(tmp_path / "other.toml", policy_document(root_lifetime="11d"))
    shell.run("policy", "add", "default", other, "--signature", str(envelope), code=1)
    shell.run("policy", "add", "default", other, "--signature", strict, code=1)
    shell.run("policy", "sign", "default", strict, "--key", str(public), code=1)
    assert next(row for row in shell.json("policy", "list") if row["active"])["version"] == 2
