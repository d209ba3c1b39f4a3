"""Backups: all that is needed, restored into an empty directory; an older database is noticed."""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
import threading
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from hwtrust.errors import DatabaseError, DatabaseOlderError, VaultMissingError
from hwtrust.wire.messages import Standing
from hwtrust_backend.app import fence
from hwtrust_backend.app.fence import HEAD_NAME, keep_head, kept_head, require_newest
from hwtrust_backend.app.setup import open_backend
from hwtrust_backend.audit import Event, open_head, record, tree_of
from hwtrust_backend.cli import backup as cli_backup
from hwtrust_backend.config import load_settings, write_file
from hwtrust_backend.keys import KeyRole, Secret
from hwtrust_backend.publishing import note_recovery, recovered_at
from hwtrust_backend.repository import Blobs
from hwtrust_backend.testing import MINUTE, BackendServer
from simulators.attester import make_release
from simulators.backend_clients import HttpApi, enrolled_device
from simulators.backend_shell import Shell
from simulators.postgres import program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from hwtrust_backend.app.backend import Backend
    from simulators.postgres import Postgres

PASSPHRASE = Secret(b"protects nothing")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[BackendServer]:
    """A backend on SQLite with one release."""
    with BackendServer(tmp_path / "data") as started:
        started.accept(make_release())
        yield started


@pytest.fixture
def shell(server: BackendServer, capsys: pytest.CaptureFixture[str]) -> Shell:
    """The command line of that backend."""
    return Shell(server.directory, capsys)


# --- backup and restore --------------------------------------------------------------------


def test_a_backup_of_a_running_backend_is_restored_as_a_whole(
    server: BackendServer, shell: Shell, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Keys, settings, devices and trail are back, the recovery is noted, tokens are closed."""
    device = enrolled_device(server)
    server.token()
    file = tmp_path / "backup.tar"
    assert shell.json("backup", str(file)) == {
        "file": str(file),
        "database": True,
        "release_files": 0,
    }
    assert file.stat().st_mode & 0o777 == 0o600
    later = enrolled_device(server)
    copy = Shell(tmp_path / "new", capsys)
    assert len(copy.json("restore", str(file), "--note", "a test")["tokens_revoked"]) == 1
    for name in ("keys.vault", "trust.json", "config.toml", "audit-key.pem"):
        original = (server.directory / name).read_bytes()
        assert (copy.data / name).read_bytes() == original
        assert (copy.data / name).stat().st_mode == (server.directory / name).stat().st_mode
    assert {row["device"] for row in copy.json("devices")} == {device.name.hex()}
    assert {row["device"] for row in shell.json("devices")} == {device.name.hex(), later.name.hex()}
    assert [row["state"] for row in copy.json("token", "list")] == ["revoked"]
    copy.run("audit", "verify")
    # The command line goes by the machine's clock, which has moved on.
    server.clock.advance(5 * MINUTE)
    device.tpm.advance(5 * MINUTE)
    with BackendServer(copy.data, clock=server.clock) as again:
        with again.session() as session:
            assert recovered_at(session) > 0
        reply = device.session(HttpApi(again))
        assert reply.standing is Standing.TRUSTED


def test_a_backup_overwrites_nothing_and_is_restored_over_nothing(
    server: BackendServer, shell: Shell, tmp_path: Path
) -> None:
    """Neither an older backup nor a backend that is there is lost."""
    file = tmp_path / "backup.tar"
    file.write_text("something of somebody")
    shell.run("backup", str(file), code=1)
    assert file.read_text() == "something of somebody"
    file.unlink()
    shell.run("backup", str(file))
    before = (server.directory / "keys.vault").read_bytes()
    _, err = shell.run("restore", str(file), code=1)
    assert "not empty" in err
    assert (server.directory / "keys.vault").read_bytes() == before


def archive(path: Path, *entries: tarfile.TarInfo, content: bytes = b"x") -> Path:
    """An archive with these entries."""
    with tarfile.open(path, "w") as packed:
        for entry in entries:
            entry.size = len(content) if entry.isreg() else 0
            packed.addfile(entry, io.BytesIO(content))
    return path


def linked(name: str) -> tarfile.TarInfo:
    """A symbolic link in the place of a file."""
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return entry


def junk(path: Path) -> Path:
    """A file that is no archive."""
    path.write_bytes(b"x" * 2000)
    return path


TWICE = ("keys.vault", "trust.json", "trust.json")
BLOB = f"targets/{hashlib.sha256(b'a kernel').hexdigest()}"


def test_the_files_of_releases_are_in_a_backup(
    server: BackendServer, shell: Shell, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Devices find every file in its place again; what is no file of a release stays out."""
    blobs = Blobs(server.backend.settings.targets)
    (tmp_path / "kernel").write_bytes(b"a kernel")
    blob = blobs.add(tmp_path, "kernel")
    (blobs.directory / f".{blob.sha256}.abc").write_bytes(b"half")
    file = tmp_path / "backup.tar"
    assert shell.json("backup", str(file))["release_files"] == 1
    with tarfile.open(file) as packed:
        assert [name for name in packed.getnames() if "targets" in name] == [BLOB]
    copy = Shell(tmp_path / "new", capsys)
    copy.run("restore", str(file))
    restored = copy.data / "targets" / blob.sha256
    assert restored.read_bytes() == b"a kernel"
    assert restored.stat().st_mode & 0o777 == 0o600
    assert restored.parent.stat().st_mode & 0o777 == 0o700
    assert shell.json("backup", str(tmp_path / "2.tar"), "--without-releases")["release_files"] == 0
    with tarfile.open(tmp_path / "2.tar") as packed:
        assert BLOB not in packed.getnames()


def test_a_damaged_file_of_a_release_is_not_restored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What has not the hash that it is named by is refused, before the keys are there."""
    names = (BLOB, "keys.vault", "trust.json")
    file = archive(tmp_path / "bad.tar", *map(tarfile.TarInfo, names), content=b"A kernel")
    copy = Shell(tmp_path / "new", capsys)
    _, err = copy.run("restore", str(file), code=1)
    assert "is not what it was" in err
    assert not (copy.data / "trust.json").exists()
    assert list((copy.data / "targets").iterdir()) == []


BAD: dict[str, Callable[[Path], Path]] = {
    "a path out of the directory": lambda path: archive(path, tarfile.TarInfo("../keys.vault")),
    "an absolute path": lambda path: archive(path, tarfile.TarInfo("/etc/cron.d/x")),
    "a link": lambda path: archive(path, linked("keys.vault")),
    "another file": lambda path: archive(path, tarfile.TarInfo("notes.txt")),
    "a file of a release twice": lambda path: archive(path, *map(tarfile.TarInfo, (BLOB, BLOB))),
    "a file of a release by another name": lambda path: archive(
        path, tarfile.TarInfo("targets/../../kernel")
    ),
    "a file twice": lambda path: archive(path, *map(tarfile.TarInfo, TWICE)),
    "only a part": lambda path: archive(path, tarfile.TarInfo("trust.json")),
    "no archive": junk,
    "nothing": lambda path: path,
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_backup_is_not_restored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    """Nothing is written anywhere."""
    file = BAD[case](tmp_path / "bad.tar")
    copy = Shell(tmp_path / "new", capsys)
    _, err = copy.run("restore", str(file), code=1)
    assert err.startswith("hwtrust-backend: ")
    assert list(copy.data.iterdir()) == []


def test_a_backup_that_was_cut_off_is_not_restored(
    server: BackendServer, shell: Shell, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wherever its end is missing: half of a database is none."""
    assert server.directory.exists()
    file = tmp_path / "backup.tar"
    shell.run("backup", str(file))
    whole = file.read_bytes()
    for number, length in enumerate((100, 600, len(whole) // 2, whole.index(b"trust.json"))):
        file.write_bytes(whole[:length])
        copy = Shell(tmp_path / f"new{number}", capsys)
        copy.run("restore", str(file), code=1)
        assert list(copy.data.iterdir()) == []


def test_a_backup_is_not_restored_beside_another_database(
    shell: Shell,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its recovery would be noted in a database that the environment names."""
    file = tmp_path / "backup.tar"
    shell.run("backup", str(file))
    monkeypatch.setenv("HWTRUST_BACKEND_DATABASE", f"sqlite:///{tmp_path / 'other.sqlite'}")
    copy = Shell(tmp_path / "new", capsys)
    copy.run("restore", str(file), code=1)
    assert list(copy.data.iterdir()) == []
    assert not (tmp_path / "other.sqlite").exists()


def test_a_database_server_is_backed_up_by_its_own_tools(
    server: BackendServer, shell: Shell, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Keys and settings can be backed up without it; a half backup is never called a whole one."""
    config = server.directory / "config.toml"
    config.write_text(config.read_text() + '\ndatabase = "postgresql://somewhere/db"\n')
    file = tmp_path / "backup.tar"
    shell.run("backup", str(file), code=1)
    assert not file.exists()
    shell.run("backup", str(file), "--without-database")
    copy = Shell(tmp_path / "new", capsys)
    assert copy.json("restore", str(file))["database"] is False
    assert (copy.data / "keys.vault").exists()
    assert not (copy.data / "backend.sqlite").exists()


def test_a_backup_holds_no_secret_in_the_clear(
    server: BackendServer, shell: Shell, tmp_path: Path
) -> None:
    """Private keys stay encrypted; the passphrase is not in it."""
    file = tmp_path / "backup.tar"
    shell.run("backup", str(file))
    content = file.read_bytes()
    assert PASSPHRASE.reveal() not in content
    assert server.backend.vault.challenge_key.reveal() not in content
    assert b"PRIVATE KEY" not in content


def test_postgresql_is_backed_up_and_restored_by_its_own_tools(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], postgres: Postgres
) -> None:
    """The documented steps: dump, keys; restore, say so; the device that went on is taken over."""
    url, dump, keys = postgres.create(), tmp_path / "hwtrust.dump", tmp_path / "keys.tar"
    tools = {name: program(name) or name for name in ("pg_dump", "pg_restore")}
    with BackendServer(tmp_path / "data", database=url) as server:
        server.accept(make_release())
        device = enrolled_device(server)
        subprocess.run(
            [tools["pg_dump"], "--format=custom", f"--file={dump}", f"--dbname={url}"], check=True
        )
        shell = Shell(server.directory, capsys)
        shell.run("backup", str(keys), "--without-database")
        server.rotate(device.name)
        device.session(HttpApi(server))
        assert device.attest(HttpApi(server, device)).root is not None
        device.rotate()
        assert device.attest(HttpApi(server, device)).standing is Standing.TRUSTED
        clock = server.clock
    subprocess.run(
        [tools["pg_restore"], "--clean", "--if-exists", f"--dbname={url}", str(dump)], check=True
    )
    copy = Shell(tmp_path / "new", capsys)
    copy.run("restore", str(keys))
    copy.run("recovered", "--note", "a test")
    clock.advance(5 * MINUTE)
    device.tpm.advance(5 * MINUTE)
    with BackendServer(copy.data, clock=clock, database=url) as again:
        device.session(HttpApi(again))
        reply = device.attest(HttpApi(again, device))
        assert reply.standing is Standing.TRUSTED
        assert reply.root is not None
        assert [item.epoch for item in reply.root.increments] == [8, 9]


def test_a_restore_that_is_cut_short_serves_nothing(
    server: BackendServer,
    shell: Shell,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An old database whose recovery is not noted would give epochs away twice (68)."""
    file, new = tmp_path / "backup.tar", Shell(tmp_path / "new", capsys)
    shell.run("backup", str(file))

    def full(*_: object, **__: object) -> object:
        raise DatabaseError("the disk is full")

    monkeypatch.setattr(cli_backup, "note_recovered", full)
    new.run("restore", str(file), code=1)
    settings = load_settings(new.data, file=None, environ={})
    with pytest.raises(VaultMissingError):
        open_backend(settings, passphrase=PASSPHRASE, clock=server.clock)


@pytest.mark.parametrize("name", ["a#b", "a?b", "50%25", "a b"])
def test_a_data_directory_may_have_any_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """What means something in a URL means nothing in a path: the database is where it belongs."""
    with BackendServer(tmp_path / name) as server:
        server.accept(make_release())
        device = enrolled_device(server)
        file = tmp_path / "backup.tar"
        Shell(server.directory, capsys).run("backup", str(file))
        assert (server.directory / "backend.sqlite").is_file()
    copy = Shell(tmp_path / f"{name}-new", capsys)
    copy.run("restore", str(file))
    assert [row["device"] for row in copy.json("devices")] == [device.name.hex()]


# --- an older database is noticed ------------------------------------------------------------


def grow(backend: Backend) -> None:
    """Something happens."""
    with backend.database.transaction() as session:
        record(session, Event.ENROLMENT_BEGUN, now=backend.clock())


def test_a_database_that_lacks_what_was_signed_for_stops_the_backend(
    backend: Backend, save_database: Callable[[], Callable[[], None]]
) -> None:
    """An older database does not serve, until an administrator says that it was restored."""
    settings, vault, clock = backend.settings, backend.vault, backend.clock
    put_back = save_database()
    grow(backend)
    keep_head(backend.database, settings, vault, clock=clock)
    require_newest(backend.database, settings, vault)
    backend.database.close()
    put_back()
    with pytest.raises(DatabaseOlderError) as caught:
        open_backend(settings, passphrase=PASSPHRASE, clock=clock)
    assert caught.value.code == "database:older"
    with pytest.raises(DatabaseOlderError):
        keep_head(backend.database, settings, vault, clock=clock)
    with backend.database.transaction() as session:
        note_recovery(session, by="test", note="", now=clock())
    with closing(open_backend(settings, passphrase=PASSPHRASE, clock=clock).database):
        keep_head(backend.database, settings, vault, clock=clock)
        require_newest(backend.database, settings, vault)


def test_a_database_of_the_same_length_with_other_records_stops_the_backend(
    backend: Backend, save_database: Callable[[], Callable[[], None]]
) -> None:
    """As many records are not the same records."""
    settings, vault, clock = backend.settings, backend.vault, backend.clock
    put_back = save_database()
    grow(backend)
    keep_head(backend.database, settings, vault, clock=clock)
    backend.database.close()
    put_back()
    grow(backend)
    grow(backend)
    with pytest.raises(DatabaseOlderError):
        require_newest(backend.database, settings, vault)


def test_a_kept_head_makes_no_place_for_an_older_one(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that is slow to write does not undo what another one kept meanwhile."""
    settings, vault = backend.settings, backend.vault
    key = vault.signer(KeyRole.AUDIT).public_key
    others: list[threading.Thread] = []

    def keep() -> None:
        keep_head(backend.database, settings, vault, clock=backend.clock)

    def late(path: Path, content: bytes, *, mode: int, replace: bool) -> None:
        monkeypatch.setattr(fence, "write_file", write_file)
        grow(backend)
        other = threading.Thread(target=keep)
        others.append(other)
        other.start()
        other.join(0.3)
        write_file(path, content, mode=mode, replace=replace)

    grow(backend)
    monkeypatch.setattr(fence, "write_file", late)
    keep()
    others[0].join()
    kept = kept_head(settings.directory)
    assert kept is not None
    with backend.database.reading() as session:
        assert open_head(kept, key=key).size == tree_of(session).size


def test_a_kept_head_that_is_not_ours_stops_the_backend(backend: Backend) -> None:
    """A changed file is no proof of anything, and no reason to go on."""
    keep_head(backend.database, backend.settings, backend.vault, clock=backend.clock)
    path = backend.settings.directory / HEAD_NAME
    path.write_bytes(path.read_bytes().replace(b'"sig":"M', b'"sig":"N'))
    with pytest.raises(Exception, match="tree head"):
        require_newest(backend.database, backend.settings, backend.vault)


def test_a_first_start_has_no_head_to_compare_with(backend: Backend) -> None:
    """Nothing was signed, nothing is missing; settings are read as ever."""
    require_newest(backend.database, backend.settings, backend.vault)
    assert not (backend.settings.directory / HEAD_NAME).exists()
    assert load_settings(backend.settings.directory, file=None, environ={}).url
