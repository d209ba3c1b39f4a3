"""`hwtrust-backend audit`: what an administrator and an auditor do with the trail."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)
from sqlalchemy import text

from hwtrust_backend.app.fence import keep_head
from hwtrust_backend.app.setup import AUDIT_KEY_NAME, install, open_backend
from hwtrust_backend.audit import Event, decode_head, open_head, record
from hwtrust_backend.cli import main
from hwtrust_backend.config import Settings
from hwtrust_backend.db import Database
from hwtrust_backend.keys import KeyRole, Secret
from hwtrust_backend.publishing import note_recovery
from hwtrust_backend.testing import CHEAP, ManualClock

if TYPE_CHECKING:
    from pathlib import Path

PASSPHRASE = b"protects nothing"


class Shell:
    """Runs `hwtrust-backend audit` on an installed backend."""

    def __init__(self, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.data = data
        self.key = data / AUDIT_KEY_NAME
        self.passphrase = data.parent / "passphrase"
        self.passphrase.write_bytes(PASSPHRASE)
        self._capsys = capsys

    def run(self, *arguments: object, code: int = 0, data: Path | None = None) -> tuple[str, str]:
        """Standard output and error of a command that must end with `code`."""
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main(["--data", str(data or self.data), "audit", *map(str, arguments)])
        found = self._capsys.readouterr()
        assert caught.value.code == code, found.err
        return found.out, found.err

    def json(self, *arguments: object) -> Any:  # noqa: ANN401 - whatever JSON holds
        """The result of a command as JSON."""
        return json.loads(self.run(*arguments, "--json")[0])

    def head(self, *arguments: object) -> Any:  # noqa: ANN401 - whatever JSON holds
        """Sign a head."""
        return self.json("head", "--passphrase-file", self.passphrase, *arguments)

    def write(self, count: int, **fields: Any) -> None:  # noqa: ANN401 - what a record has
        """Append records."""
        database = Database(f"sqlite:///{self.data / 'backend.sqlite'}")
        with database.transaction() as session:
            for number in range(count):
                given = {"now": number, "reason": f"reason {number}", **fields}
                record(session, Event.EVIDENCE_ACCEPTED, **given)
        database.close()

    def change(self, statement: str) -> None:
        """What somebody with access to the database can do."""
        database = Database(f"sqlite:///{self.data / 'backend.sqlite'}")
        with database.transaction() as session:
            session.execute(text(statement))
        database.close()


@pytest.fixture
def shell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Shell:
    """A shell on a new backend."""
    for name in list(os.environ):
        if name.startswith("HWTRUST_BACKEND_"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(os, "umask", lambda _: 0o022)
    settings = Settings(data_dir=str(tmp_path / "data"))
    install(settings, passphrase=Secret(PASSPHRASE), clock=ManualClock(), cost=CHEAP)
    return Shell(tmp_path / "data", capsys)


def test_the_audit_key_lies_beside_the_trust_file(shell: Shell) -> None:
    """Checking needs no passphrase; a backend of an older version gets the file when it opens."""
    first = shell.key.read_bytes()
    assert shell.key.stat().st_mode & 0o777 == 0o644
    shell.key.unlink()
    settings = Settings(data_dir=str(shell.data))
    backend = open_backend(settings, passphrase=Secret(PASSPHRASE), clock=ManualClock())
    backend.database.close()
    assert shell.key.read_bytes() == first
    assert load_pem_public_key(first) == backend.vault.signer(KeyRole.AUDIT).public_key


def test_a_head_is_signed_and_saved(shell: Shell) -> None:
    """The file is the signed envelope; it is never overwritten."""
    shell.write(3)
    kept = shell.data.parent / "head.json"
    found = shell.head("--save", kept)
    key = load_pem_public_key(shell.key.read_bytes())
    assert isinstance(key, ec.EllipticCurvePublicKey)
    head = open_head(decode_head(kept.read_bytes()), key=key)
    assert (found["records"], found["root"]) == (head.size, head.root.hex())
    assert found["origin"] == head.origin == "https://localhost:8443"
    before = kept.read_bytes()
    arguments = ("head", "--passphrase-file", shell.passphrase, "--save", kept)
    assert "there already" in shell.run(*arguments, code=1)[1]
    assert kept.read_bytes() == before


def test_verify_says_what_it_checked(shell: Shell) -> None:
    """Records, root, signed heads; for people and for programs."""
    shell.write(3)
    count = shell.head()["records"]
    shell.write(2)
    found = shell.json("verify")
    assert (found["records"], found["heads"], found["signed"]) == (count + 2, 1, count)
    assert f"records  {count + 2}" in shell.run("verify")[0]


def test_verify_finds_a_changed_record(shell: Shell) -> None:
    """It ends with 1 and the record's number."""
    shell.write(9)
    shell.change("UPDATE audit_records SET reason = 'x' WHERE sequence = 7")
    out, err = shell.run("verify", code=1)
    assert out == ""
    assert "record 7" in err
    assert "hint: " in err


def test_verify_compares_the_heads_that_were_kept(shell: Shell) -> None:
    """A trail that is cut short and made to fit does not fit them."""
    shell.write(9)
    kept = shell.data.parent / "head.json"
    shell.head("--save", kept)
    shell.write(3)
    shell.run("verify", "--head", kept)
    shell.change("DELETE FROM audit_records")
    shell.change("DELETE FROM audit_heads")
    shell.change("UPDATE audit_head SET size = 0, frontier = x''")
    shell.run("verify")
    assert "signed" in shell.run("verify", "--head", kept, code=1)[1]
    kept.write_bytes(b"{}")
    assert "tree head" in shell.run("verify", "--head", kept, code=1)[1]


def test_verify_compares_the_head_beside_the_database(shell: Shell) -> None:
    """Whoever can write to the database alone cannot shorten the trail unseen."""
    shell.write(9)
    shell.head()
    settings = Settings(data_dir=str(shell.data))
    backend = open_backend(settings, passphrase=Secret(PASSPHRASE), clock=ManualClock())
    keep_head(backend.database, settings, backend.vault, clock=backend.clock)
    backend.database.close()
    shell.run("verify")
    shell.change("DELETE FROM audit_records")
    shell.change("DELETE FROM audit_heads")
    shell.change("UPDATE audit_head SET size = 0, frontier = x''")
    assert "signed" in shell.run("verify", code=1)[1]


def test_the_head_beside_the_database_does_not_outlive_a_recovery(shell: Shell) -> None:
    """After an administrator's word it is said to be older, and blames no restored trail."""
    shell.write(9)
    settings = Settings(data_dir=str(shell.data))
    backend = open_backend(settings, passphrase=Secret(PASSPHRASE), clock=ManualClock())
    keep_head(backend.database, settings, backend.vault, clock=backend.clock)
    shell.change("DELETE FROM audit_records")
    shell.change("DELETE FROM audit_heads")
    shell.change("DELETE FROM audit_tiles")
    shell.change("UPDATE audit_head SET size = 0, frontier = x''")
    with backend.database.transaction() as session:
        note_recovery(session, by="test", note="", now=backend.clock())
    backend.database.close()
    said, warned = shell.run("verify")
    assert "records  1" in said
    assert "is not compared" in warned


def test_an_export_is_checked_anywhere(shell: Shell, tmp_path: Path) -> None:
    """With the file, the public key and nothing else."""
    shell.write(600)
    count = shell.head()["records"]
    file = tmp_path / "trail.jsonl"
    assert shell.json("export", file)["records"] == count
    arguments = ("verify", "--export", file, "--key", shell.key)
    elsewhere = tmp_path / "nothing"
    assert f"records    {count}" in shell.run(*arguments, data=elsewhere)[0]
    assert "there already" in shell.run("export", file, code=1)[1]
    file.write_text(file.read_text().replace('reason 7"', 'reason 8"'))
    assert "hwtrust-backend: " in shell.run(*arguments, data=elsewhere, code=1)[1]


def test_an_export_to_standard_output_is_the_same(shell: Shell, tmp_path: Path) -> None:
    """A dash stands for it."""
    shell.write(3)
    shell.head()
    shell.run("export", tmp_path / "trail.jsonl")
    assert shell.run("export", "-")[0] == (tmp_path / "trail.jsonl").read_text()


def test_an_export_that_fails_leaves_no_file(shell: Shell, tmp_path: Path) -> None:
    """Nothing that looks like one is left behind."""
    shell.write(3)
    file = tmp_path / "trail.jsonl"
    assert "audit head" in shell.run("export", file, code=1)[1]
    assert not file.exists()
    assert "written" in shell.run("export", tmp_path / "no" / "such", code=1)[1]


def test_a_proof_is_checked_anywhere(shell: Shell, tmp_path: Path) -> None:
    """The record, the way to the root, and the signed head, in one file."""
    shell.write(5)
    assert "audit head" in shell.run("prove", 2, code=1)[1]
    shell.head()
    file = tmp_path / "proof.json"
    file.write_text(shell.run("prove", 2)[0])
    arguments = ("verify", "--proof", file, "--key", shell.key)
    assert "record     2" in shell.run(*arguments, data=tmp_path / "nothing")[0]
    content = json.loads(file.read_text())
    content["record"]["reason"] = "another"
    file.write_text(json.dumps(content))
    shell.run(*arguments, code=1)
    file.write_text("[]")
    shell.run(*arguments, code=1)
    assert "no record 999" in shell.run("prove", 999, code=1)[1]


def test_list_shows_the_newest_and_narrows_down(shell: Shell) -> None:
    """By device, event, actor and time."""
    shell.write(2, device="ab" * 34, now=1)
    shell.write(1, actor="token:ci", now=ManualClock()())
    rows = shell.json("list")
    assert [row["sequence"] for row in rows] == sorted(
        (row["sequence"] for row in rows), reverse=True
    )
    assert rows[0]["actor"] == "token:ci"
    assert len(shell.json("list", "--device", "AB" * 34)) == 2
    assert shell.json("list", "--device", "ab") == []
    assert len(shell.json("list", "--event", "device:*")) == 3
    assert len(shell.json("list", "--actor", "token:ci")) == 1
    assert len(shell.json("list", "--event", "device:*", "--since", "1h")) == 1
    assert len(shell.json("list", "--limit", "1")) == 1
    out = shell.run("list", "--device", "ab" * 34)[0]
    assert "NUMBER" in out
    assert "reason 1" in out


@pytest.mark.parametrize(
    "arguments",
    [
        ("list", "--since", "soon"),
        ("list", "--limit", "0"),
        ("prove", "0"),
        ("verify", "--export", "a", "--proof", "b"),
    ],
)
def test_wrong_usage_is_said_so(shell: Shell, arguments: tuple[str, ...]) -> None:
    """Exit code 2, with a hint."""
    assert "hint: " in shell.run(*arguments, code=2)[1]


def test_a_key_that_is_none_is_refused(shell: Shell, tmp_path: Path) -> None:
    """Missing, no PEM, or of another kind: nothing is checked with it."""
    file = tmp_path / "key.pem"
    assert "cannot be read" in shell.run("verify", "--key", file, code=1)[1]
    file.write_text("x")
    assert "no public key" in shell.run("verify", "--key", file, code=1)[1]
    other = ec.generate_private_key(ec.SECP384R1()).public_key()
    file.write_bytes(other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    assert "P-256" in shell.run("verify", "--key", file, code=1)[1]


def test_there_is_nothing_to_sign_in_an_empty_trail(shell: Shell) -> None:
    """It is said, with exit code 1."""
    shell.change("DELETE FROM audit_records")
    shell.change("UPDATE audit_head SET size = 0, frontier = x''")
    assert "empty" in shell.run("head", "--passphrase-file", shell.passphrase, code=1)[1]
