"""The repository as files, for any static host.

    DIR/targets/layers/kernel/HASH.6.1 …  ─▶  DIR/metadata/N.root.json …  N.targets.json
    ─▶  N.snapshot.json  ─▶  timestamp.json  ─▶  what nothing names any more goes

Rules:
1. Each file is there whole or not at all, and after what it names: whoever reads
   meanwhile, or after a kill, finds the old state or the new one. Only a root with
   another online key stands for a moment beside a timestamp of the old one.
2. A file that is there is not written again: an export costs what has changed.
3. A directory that holds something else is refused, and two exports do not write at once.
4. What was listed a while ago stays for as long, for who is in the middle of reading it.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from hwtrust.errors import ConfigError, DatabaseError, RepositoryMissingError
from hwtrust_backend.config import write_file, written_file
from hwtrust_backend.repository.blobs import Blob, Blobs
from hwtrust_backend.repository.models import TufMetadata, TufRole
from hwtrust_backend.repository.reading import (
    TIMESTAMP_NAME,
    ServedTarget,
    lately_served,
    served_by,
)

METADATA: Final = "metadata"
TARGETS: Final = "targets"

_FIRST_ROOT: Final = "1.root.json"
_FOLDER_MODE, _FILE_MODE = 0o755, 0o644
_REPLACED: Final = re.compile(r"[1-9][0-9]*\.(targets|snapshot)\.json", re.ASCII)


class _Version(msgspec.Struct, frozen=True):
    version: int


class _Signed(msgspec.Struct, frozen=True):
    meta: dict[str, _Version]


class _Listing(msgspec.Struct, frozen=True):
    signed: _Signed


@dataclass(frozen=True, slots=True)
class Published:
    """One state of the repository: metadata by name, in the order in which it is written."""

    metadata: Mapping[str, bytes]
    targets: Mapping[str, ServedTarget]
    recent: frozenset[str]
    """What may be read still: names of metadata, and paths of targets."""
    expires_at: int
    """Until when devices take the timestamp; UTC milliseconds."""


class Exported(msgspec.Struct, frozen=True, kw_only=True):
    """How many files were written and removed, and until when the timestamp is good."""

    written: int
    removed: int
    expires_at: int


def published_state(session: Session, *, grace_ms: int, now: int) -> Published:
    """What is published now.

    Raises:
        RepositoryMissingError: nothing is.
    """
    # One statement: what it finds was true at one moment, with any database, by any clock.
    rows = session.scalars(select(TufMetadata).order_by(TufMetadata.version)).all()
    stamps = [row for row in rows if row.role is TufRole.TIMESTAMP]
    if not stamps:
        raise RepositoryMissingError("no release was published yet: there is nothing to export")
    stamp = stamps[-1]
    snapshot = _announced(session, stamp, TufRole.SNAPSHOT)
    targets = _announced(session, snapshot, TufRole.TARGETS)
    served, lately = served_by(targets), lately_served(session, since=now - grace_ms)
    written = [*(row for row in rows if row.role is TufRole.ROOT), targets, snapshot]
    return Published(
        metadata={_name(row): row.content for row in written} | {TIMESTAMP_NAME: stamp.content},
        targets=served,
        recent=frozenset(map(_name, rows)).union(served, lately),
        expires_at=stamp.expires_at,
    )


def export(published: Published, blobs: Blobs, directory: Path) -> Exported:
    """Write a state into `directory`, which is made when it is missing.

    Raises:
        RepositoryFileError: a file of a release is missing or spoilt.
        ConfigError: the directory holds something else, is written by another export, or
            cannot be written.
    """
    written = 0
    with _alone(directory, published.metadata[_FIRST_ROOT]):
        for path, target in published.targets.items():
            written += _put_target(directory / TARGETS / path, target, blobs)
        for name, content in published.metadata.items():
            written += _put_metadata(directory / METADATA / name, content)
        removed = _clear(directory, published)
    return Exported(written=written, removed=removed, expires_at=published.expires_at)


def _name(row: TufMetadata) -> str:
    return f"{row.version}.{row.role.value}.json"


def _announced(session: Session, by: TufMetadata, role: TufRole) -> TufMetadata:
    """The metadata of a role that other metadata names."""
    try:
        listing = msgspec.json.decode(by.content, type=_Listing)
        row = session.get(TufMetadata, (role, listing.signed.meta[f"{role.value}.json"].version))
    except (msgspec.MsgspecError, KeyError) as error:
        raise DatabaseError(f"the {by.role.value} in the database is damaged") from error
    if row is None:
        raise DatabaseError(f"the {role.value} that the {by.role.value} names is not kept")
    return row


@contextmanager
def _alone(directory: Path, first_root: bytes) -> Iterator[None]:
    """Work on a directory, alone, if it is empty or an export of this repository."""
    try:
        _make(directory.absolute())
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _is_ours(directory, first_root):
                message = f"{directory} holds something else than this repository"
                raise ConfigError(message, path=str(directory))
            _make(directory / METADATA)
            _make(directory / TARGETS)
            yield
        finally:
            os.close(handle)
    except BlockingIOError as error:
        raise ConfigError(f"another export writes to {directory}", path=str(directory)) from error
    except OSError as error:
        message = f"{directory} cannot be written: {error.strerror or error}"
        raise ConfigError(message, path=str(directory)) from error


def _is_ours(directory: Path, first_root: bytes) -> bool:
    root = directory / METADATA / _FIRST_ROOT
    if root.exists():
        return root.read_bytes() == first_root
    # An export that was interrupted before its first root, or none.
    metadata = directory / METADATA
    return {path.name for path in directory.iterdir()} <= {METADATA, TARGETS} and not (
        metadata.exists() and any(not path.name.startswith(".") for path in metadata.iterdir())
    )


def _put_target(path: Path, target: ServedTarget, blobs: Blobs) -> bool:
    if path.is_file() and path.stat().st_size == target.length:
        return False
    _make(path.parent)
    with written_file(path, mode=_FILE_MODE, replace=True) as file:
        blobs.copy(Blob(target.sha256, target.length), file)
    return True


def _put_metadata(path: Path, content: bytes) -> bool:
    if path.is_file() and path.read_bytes() == content:
        return False
    write_file(path, content, mode=_FILE_MODE, replace=True)
    return True


def _clear(directory: Path, published: Published) -> int:
    """Remove what nothing names, and what interrupted exports have left."""
    targets = directory / TARGETS
    gone = [
        path
        for path in (directory / METADATA).iterdir()
        if path.name.startswith(".")
        or (_REPLACED.fullmatch(path.name) and path.name not in published.recent)
    ]
    folders = []
    for path in targets.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            folders.append(path)
        elif path.relative_to(targets).as_posix() not in published.recent:
            gone.append(path)
    for path in gone:
        path.unlink()
    for folder in sorted(folders, reverse=True):
        if not any(folder.iterdir()):
            folder.rmdir()
    return len(gone)


def _make(path: Path) -> None:
    """Make a directory that a web server may enter, and those around it."""
    if not path.is_dir():
        _make(path.parent)
        path.mkdir()
        path.chmod(_FOLDER_MODE)
