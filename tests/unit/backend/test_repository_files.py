"""The files of releases: which stay, which go, and how a static host gets them."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from typing import IO, TYPE_CHECKING, Any

import pytest
from tuf.api.metadata import Metadata, Timestamp

from hwtrust.errors import (
    ConfigError,
    DatabaseError,
    ForbiddenError,
    RepositoryBundleError,
    RepositoryFileError,
    RepositoryMissingError,
)
from hwtrust_backend.admin import Principal, Role, local_administrator
from hwtrust_backend.admin import repository as admin
from hwtrust_backend.audit import Event
from hwtrust_backend.repository import (
    Blobs,
    TufMetadata,
    TufRepository,
    TufRole,
    blobs,
    exporting,
    newest,
)
from hwtrust_backend.repository.bundle import take_bundle
from hwtrust_backend.repository.exporting import Exported, export, published_state
from hwtrust_backend.repository.roots import RootChange
from hwtrust_backend.testing import DAY, HOUR
from simulators.vendor import BOTH, KERNEL, signed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sqlalchemy.orm import Session

    from hwtrust_backend.repository.pruning import Pruned
    from simulators.vendor import Vendor

PAGES = hashlib.sha256(b"pages").hexdigest()
KERNEL_FILE = hashlib.sha256(b"a kernel").hexdigest()


def prune(vendor: Vendor, *, grace_ms: int = DAY, **options: Any) -> Pruned:  # noqa: ANN401 - as it takes them
    """Remove what nothing needs."""
    given = {"dry_run": False, "by": local_administrator(), **options}
    with vendor.backend.database.transaction() as session:
        return admin.prune_files(
            session, vendor.blobs, grace_ms=grace_ms, now=vendor.backend.clock(), **given
        )


def age(vendor: Vendor, days: int) -> None:
    """Let all files have been there for some days, and the backend's clock go on as long."""
    vendor.backend.clock.advance(days * DAY)  # type: ignore[attr-defined]
    added = vendor.backend.clock() / 1000 - days * 24 * 3600
    for path in vendor.blobs.directory.iterdir():
        os.utime(path, (added, added))


@pytest.fixture
def shrunk(ready: Vendor) -> Vendor:
    """A repository of two releases, of which one was revoked."""
    ready.publish("1.1", KERNEL)
    ready.publish("1.2", BOTH)
    age(ready, 2)
    ready.revoke("1.2")
    return ready


# --- pruning -----------------------------------------------------------------------


def test_a_file_that_changes_while_it_is_added_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would lie under the hash of what it was before."""
    layer, added, read = tmp_path / "layer", Blobs(tmp_path / "targets"), blobs.pieces
    layer.write_bytes(b"before" * blobs.CHUNK)

    def changing(file: IO[bytes]) -> Iterator[bytes]:
        yield from read(file)
        layer.write_bytes(b"behind" * blobs.CHUNK)

    monkeypatch.setattr(blobs, "pieces", changing)
    with pytest.raises(RepositoryBundleError):
        added.add(tmp_path, "layer")
    assert added.names() == []


def test_a_pipe_is_no_file_of_a_release(tmp_path: Path) -> None:
    """It would pass for an empty file, and be another one at the next reading."""
    os.mkfifo(tmp_path / "layer")
    with pytest.raises(RepositoryBundleError), blobs.plain_file(tmp_path, "layer"):
        pytest.fail("a pipe was opened")


def test_a_file_that_is_cut_short_is_not_there(tmp_path: Path) -> None:
    """A full disk or a copy that was broken off leaves a name, and less than its content."""
    added = Blobs(tmp_path / "targets")
    (tmp_path / "layer").write_bytes(b"a layer")
    blob = added.add(tmp_path, "layer")
    assert added.has(blob)
    added.path(blob.sha256).write_bytes(b"a lay")
    assert not added.has(blob)


def test_only_the_backend_changes_its_files(tmp_path: Path) -> None:
    """Who else could, could take the place of a release until devices refuse it."""
    added = Blobs(tmp_path / "targets")
    (tmp_path / "layer").write_bytes(b"a layer")
    blob = added.add(tmp_path, "layer")
    modes = {path.stat().st_mode & 0o777 for path in (added.directory, added.path(blob.sha256))}
    assert modes == {0o700, 0o600}


def test_files_that_no_release_needs_are_removed(shrunk: Vendor) -> None:
    """The layer of the revoked release and its manifest go; what another one has stays."""
    age(shrunk, 2)
    pruned = prune(shrunk)
    assert PAGES in pruned.files
    assert len(pruned.files) == 2
    assert pruned.size > len(b"pages")
    assert len(shrunk.blobs.names()) == 2
    assert KERNEL_FILE in shrunk.blobs.names()
    [(actor, reason)] = shrunk.records(Event.TARGETS_PRUNED)
    assert actor == local_administrator().name
    assert reason.startswith("2 files, ")
    assert prune(shrunk).files == ()
    assert len(shrunk.records(Event.TARGETS_PRUNED)) == 1


def test_a_layer_goes_with_the_last_release_that_has_it(shrunk: Vendor) -> None:
    """A release that was revoked before keeps nothing in the list."""
    shrunk.revoke("1.1")
    assert shrunk.listed() == set()


def test_files_that_were_needed_a_while_ago_stay(shrunk: Vendor) -> None:
    """However old the file is: what counts is since when no list names it."""
    shrunk.backend.clock.advance(23 * HOUR)  # type: ignore[attr-defined]
    assert prune(shrunk).files == ()
    shrunk.backend.clock.advance(2 * HOUR)  # type: ignore[attr-defined]
    assert PAGES in prune(shrunk).files


def test_files_that_are_about_to_be_published_stay(shrunk: Vendor) -> None:
    """A bundle is taken before its list is signed; one that never is goes in the end."""
    age(shrunk, 2)
    take_bundle(shrunk.bundle("1.3", {"kernel": ("9", b"the next kernel")}), shrunk.blobs)
    age(shrunk, 0)
    waiting = hashlib.sha256(b"the next kernel").hexdigest()
    assert waiting not in prune(shrunk, grace_ms=HOUR).files
    age(shrunk, 2)
    assert waiting in prune(shrunk, grace_ms=HOUR).files


def test_what_an_interrupted_copy_has_left_is_removed(ready: Vendor) -> None:
    """And nothing else that somebody keeps in that directory."""
    ready.publish("1.1", KERNEL)
    left = ready.blobs.directory / f".{KERNEL_FILE}.ab_12xyz"
    other = ready.blobs.directory / "notes.txt"
    left.write_bytes(b"half")
    other.write_text("somebody's")
    age(ready, 2)
    assert prune(ready).files == (left.name,)
    assert not left.exists()
    assert other.exists()


def test_a_dry_run_says_what_would_go(shrunk: Vendor) -> None:
    """Nothing is removed and nothing recorded."""
    age(shrunk, 2)
    assert PAGES in prune(shrunk, dry_run=True).files
    assert PAGES in shrunk.blobs.names()
    assert not shrunk.records(Event.TARGETS_PRUNED)


def test_nobody_publishes_while_files_are_removed(shrunk: Vendor) -> None:
    """It holds the row that whoever publishes locks."""

    def changes(session: Session) -> int:
        row = session.get(TufRepository, 1)
        assert row is not None
        return row.changes

    before = shrunk.read(changes)
    prune(shrunk)
    assert shrunk.read(changes) == before + 1


def test_a_viewer_prunes_nothing(shrunk: Vendor) -> None:
    """Nor does an administrator of some groups."""
    for principal in (
        Principal(name="token:look", role=Role.VIEWER, groups=None),
        Principal(name="token:some", role=Role.ADMINISTRATOR, groups=frozenset({"some"})),
    ):
        with pytest.raises(ForbiddenError):
            prune(shrunk, by=principal)


def test_a_repository_without_files_has_none_to_prune(ready: Vendor) -> None:
    """Before the first release there is no directory."""
    assert prune(ready).files == ()


@pytest.mark.parametrize("method", ["unlink", "lstat"])
def test_a_directory_that_cannot_be_changed_is_said(
    shrunk: Vendor, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """As a fault of the machine's, and not as a traceback."""
    age(shrunk, 2)

    def failing(_: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(f"pathlib.Path.{method}", failing)
    with pytest.raises(ConfigError) as caught:
        prune(shrunk)
    assert caught.value.code == "config"


# --- a disk that takes no more -------------------------------------------------------


def test_a_bundle_that_does_not_fit_leaves_nothing(
    ready: Vendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is published stays as it is; once there is room again, the same bundle goes in."""
    ready.publish("1.1", KERNEL)
    before = ready.blobs.names()
    real = os.fsync

    def full(handle: int) -> None:
        if str(ready.blobs.directory) in os.readlink(f"/proc/self/fd/{handle}"):  # noqa: PTH115 - of a descriptor
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError) as caught:
        ready.publish("1.2", BOTH)
    assert caught.value.code == "config"
    assert sorted(path.name for path in ready.blobs.directory.iterdir()) == before
    assert "releases/1.2.json" not in ready.listed()
    monkeypatch.setattr(os, "fsync", real)
    ready.publish("1.2", BOTH)
    assert "releases/1.2.json" in ready.listed()


# --- what is signed by the backend alone -------------------------------------------


def test_a_timestamp_names_the_snapshot_by_its_hash(ready: Vendor) -> None:
    """Of two snapshots of one version, a client takes no other than the signed one."""
    ready.publish("1.1", KERNEL)
    stamp, snapshot = ready.read(
        lambda session: [
            row.content
            for role in (TufRole.TIMESTAMP, TufRole.SNAPSHOT)
            if (row := newest(session, role)) is not None
        ]
    )
    named = Metadata[Timestamp].from_bytes(stamp).signed.snapshot_meta
    assert named.length == len(snapshot)
    assert named.hashes == {"sha256": hashlib.sha256(snapshot).hexdigest()}


def test_a_new_root_is_a_change_for_every_replica(ready: Vendor) -> None:
    """What they keep of the repository is old when the root is another."""

    def changes() -> int:
        count: int = ready.read(lambda session: session.get_one(TufRepository, 1).changes)
        return count

    proposal = ready.propose(RootChange())
    before = changes()
    ready.turn(proposal)
    assert changes() > before


# --- exporting -----------------------------------------------------------------------


def exported(vendor: Vendor, directory: Path, *, grace_ms: int = DAY) -> Exported:
    """Write what is published into a directory."""
    state = vendor.read(
        lambda session: published_state(session, grace_ms=grace_ms, now=vendor.backend.clock())
    )
    return export(state, vendor.blobs, directory)


def files_in(directory: Path) -> set[str]:
    """The paths of all files."""
    found = (path for path in directory.rglob("*") if not path.is_dir())
    return {path.relative_to(directory).as_posix() for path in found}


def names(vendor: Vendor, role: TufRole) -> set[str]:
    """The file of the metadata in force."""
    return {f"metadata/{vendor.version(role)}.{role.value}.json"}


def test_an_export_has_what_clients_ask_a_static_host_for(ready: Vendor, tmp_path: Path) -> None:
    """Names of consistent snapshots, every root, and modes that a web server can read."""
    ready.publish("1.1", KERNEL)
    ready.publish_root(signed(ready.propose(RootChange()), ready.root))
    www = tmp_path / "srv" / "www"
    done = exported(ready, www)
    found = files_in(www)
    assert done.written == len(found) == 7
    assert found > {
        "metadata/1.root.json",
        "metadata/2.root.json",
        "metadata/timestamp.json",
        f"targets/layers/kernel/{KERNEL_FILE}.6.1",
    } | names(ready, TufRole.TARGETS) | names(ready, TufRole.SNAPSHOT)
    for path in www.rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644)
    assert done.expires_at > ready.backend.clock()


def test_what_a_static_host_could_not_hold_is_not_published(ready: Vendor, tmp_path: Path) -> None:
    """A name that is too long for a file with its hash would end every export from then on."""
    ready.publish("1.1", {"kernel": ("6" * 180, b"a kernel")})
    assert exported(ready, tmp_path / "www").written
    with pytest.raises(RepositoryBundleError):
        ready.publish("1.2", {"kernel": ("7" * 181, b"a kernel")})


def test_an_export_writes_what_has_changed(ready: Vendor, tmp_path: Path) -> None:
    """Nothing, then a new timestamp alone, then one layer with what names it."""
    ready.publish("1.1", KERNEL)
    www = tmp_path / "www"
    exported(ready, www)
    again = exported(ready, www)
    assert (again.written, again.removed) == (0, 0)
    ready.backend.clock.advance(13 * HOUR)  # type: ignore[attr-defined]
    assert ready.keep()
    assert exported(ready, www).written == 1
    layer = www / f"targets/layers/kernel/{KERNEL_FILE}.6.1"
    before = layer.stat()
    ready.publish("1.2", BOTH)
    # The pages, the manifest, targets, snapshot and timestamp.
    assert exported(ready, www).written == 5
    assert layer.stat() == before


def test_an_export_mends_a_file_that_is_not_whole(ready: Vendor, tmp_path: Path) -> None:
    """One that was cut on the host is written anew."""
    ready.publish("1.1", KERNEL)
    exported(ready, tmp_path / "www")
    layer = tmp_path / f"www/targets/layers/kernel/{KERNEL_FILE}.6.1"
    layer.write_bytes(b"a ker")
    assert exported(ready, tmp_path / "www").written == 1
    assert layer.read_bytes() == b"a kernel"


def test_an_export_removes_what_nothing_names_after_a_while(shrunk: Vendor, tmp_path: Path) -> None:
    """Neither the file that a device is in the middle of, nor anything of another's."""
    www = tmp_path / "www"
    exported(shrunk, www)
    gone = www / f"targets/layers/www/{PAGES}.2"
    assert not gone.exists()
    shrunk.publish("1.4", {"app": ("1", b"an app")})
    exported(shrunk, www)
    shrunk.revoke("1.4")
    app = www / f"targets/layers/app/{hashlib.sha256(b'an app').hexdigest()}.1"
    assert exported(shrunk, www).removed == 0
    assert app.exists()
    (www / "metadata" / ".timestamp.json.abc").write_bytes(b"half")
    shrunk.backend.clock.advance(2 * DAY)  # type: ignore[attr-defined]
    assert exported(shrunk, www).removed >= 3
    assert not app.parent.exists()
    assert not (www / "metadata" / ".timestamp.json.abc").exists()
    assert (www / "metadata" / "1.root.json").exists()


def test_an_export_does_not_grow_for_ever(ready: Vendor, tmp_path: Path) -> None:
    """Old snapshots go as they go from the database."""
    ready.publish("1.1", KERNEL)
    www = tmp_path / "www"
    for _ in range(15):
        ready.backend.clock.advance(4 * DAY)  # type: ignore[attr-defined]
        ready.keep()
        exported(ready, www)
    assert len([name for name in files_in(www) if "snapshot" in name]) == 10


def _foreign(www: Path) -> None:
    www.mkdir()
    (www / "index.html").write_text("somebody's page")


def _of_another(www: Path) -> None:
    (www / "metadata").mkdir(parents=True)
    (www / "metadata" / "1.root.json").write_text("{}")


def _metadata_of_another(www: Path) -> None:
    (www / "metadata").mkdir(parents=True)
    (www / "metadata" / "timestamp.json").write_text("{}")


OTHERS: dict[str, Callable[[Path], object]] = {
    "somebody's pages": _foreign,
    "another repository": _of_another,
    "metadata without a root": _metadata_of_another,
    "a file": lambda www: www.write_text("x"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_an_export_overwrites_nothing_of_others(ready: Vendor, tmp_path: Path, case: str) -> None:
    """A wrong path on the command line costs nothing."""
    ready.publish("1.1", KERNEL)
    www = tmp_path / "www"
    OTHERS[case](www)
    before = files_in(tmp_path)
    with pytest.raises(ConfigError) as caught:
        exported(ready, www)
    assert caught.value.code == "config"
    assert files_in(tmp_path) == before


def test_two_exports_do_not_write_at_once(ready: Vendor, tmp_path: Path) -> None:
    """An older state never comes after a newer one."""
    ready.publish("1.1", KERNEL)
    www = tmp_path / "www"
    exported(ready, www)
    handle = os.open(www, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(ConfigError):
        exported(ready, www)
    os.close(handle)
    exported(ready, www)


@pytest.mark.parametrize("content", [None, b"A KERNEL"])
def test_a_file_that_is_missing_or_spoilt_is_not_exported(
    ready: Vendor, tmp_path: Path, content: bytes | None
) -> None:
    """It is hashed on its way; what was exported before stays in force."""
    ready.publish("1.1", KERNEL)
    blob = ready.blobs.path(KERNEL_FILE)
    blob.unlink()
    if content is not None:
        blob.write_bytes(content)
    www = tmp_path / "www"
    with pytest.raises(RepositoryFileError) as caught:
        exported(ready, www)
    assert caught.value.code == "repository:file"
    assert not (www / "metadata" / "timestamp.json").exists()
    assert not [name for name in files_in(www) if KERNEL_FILE in name]
    ready.publish("1.1", KERNEL)
    exported(ready, www)


def test_nothing_is_exported_before_the_first_release(ready: Vendor, tmp_path: Path) -> None:
    """There is no timestamp yet that a client could begin with."""
    with pytest.raises(RepositoryMissingError):
        exported(ready, tmp_path / "www")


def test_a_root_that_comes_while_an_export_reads_goes_with_the_next(
    ready: Vendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No root without the timestamp that its online key has signed."""
    ready.publish("1.1", KERNEL)
    announced, change = exporting._announced, RootChange(new_online_key=True)

    def overtaken(*args: Any) -> TufMetadata:  # noqa: ANN401 - as the original
        if ready.version(TufRole.ROOT) == 1:
            ready.publish_root(signed(ready.propose(change), ready.root[:2]))
        return announced(*args)

    monkeypatch.setattr(exporting, "_announced", overtaken)
    state = ready.read(lambda session: published_state(session, grace_ms=0, now=0))
    assert ready.version(TufRole.ROOT) == 2
    assert [name for name in state.metadata if "root" in name] == ["1.root.json"]
    assert list(state.metadata)[-1] == "timestamp.json"


def test_a_clock_that_was_set_back_leaves_no_root_out(ready: Vendor) -> None:
    """What a clock that was ahead has signed is exported like all else."""
    clock = ready.backend.clock
    clock.advance(DAY)  # type: ignore[attr-defined]
    ready.publish_root(signed(ready.propose(RootChange()), ready.root[:2]))
    clock.advance(-2 * DAY)  # type: ignore[attr-defined]
    ready.publish("1.1", KERNEL)
    state = ready.read(lambda session: published_state(session, grace_ms=0, now=clock()))
    roots = [name for name in state.metadata if "root" in name]
    assert roots == ["1.root.json", "2.root.json"]


@pytest.mark.parametrize("content", [b"{}", b"\xff", b'{"signed": {"meta": {}}}'])
def test_damaged_metadata_is_not_exported(ready: Vendor, content: bytes) -> None:
    """A fault of the database's is said as one."""
    ready.publish("1.1", KERNEL)
    with ready.backend.database.transaction() as session:
        stamp = newest(session, TufRole.TIMESTAMP)
        assert stamp is not None
        stamp.content = content
    with pytest.raises(DatabaseError):
        ready.read(lambda session: published_state(session, grace_ms=0, now=0))


def test_metadata_that_the_database_has_lost_is_not_exported(ready: Vendor) -> None:
    """A timestamp of a snapshot that is not there leads no client anywhere."""
    ready.publish("1.1", KERNEL)
    with ready.backend.database.transaction() as session:
        session.delete(newest(session, TufRole.SNAPSHOT))
    with pytest.raises(DatabaseError):
        ready.read(lambda session: published_state(session, grace_ms=0, now=0))
