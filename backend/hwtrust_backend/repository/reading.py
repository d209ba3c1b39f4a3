"""What the repository serves and shows. Nothing here signs, or needs the TUF library.

Rules:
1. Metadata is served as it was signed, byte for byte.
2. A target is served under the name that consistent snapshots give it
   (`layers/kernel/HASH.6.1`), while the newest targets metadata lists it, and no longer.
3. What a file on the disk holds is for the device to check: its hash and length are
   in the metadata that it believes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec
from msgspec import Meta
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from hwtrust.errors import DatabaseError, RepositoryTargetUnknownError
from hwtrust.wire.release import released
from hwtrust_backend.config.clock import MINUTE
from hwtrust_backend.db import REPOSITORY, Kept, count_up
from hwtrust_backend.repository.models import (
    PublishedRelease,
    TufMetadata,
    TufRepository,
    TufRole,
)

_VERSIONED: Final = re.compile(r"([1-9][0-9]{0,17})\.(root|targets|snapshot)\.json", re.ASCII)
TIMESTAMP_NAME: Final = f"{TufRole.TIMESTAMP.value}.json"


class _Hashes(msgspec.Struct, frozen=True):
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]


class _Target(msgspec.Struct, frozen=True):
    length: int
    hashes: _Hashes


class _Targets(msgspec.Struct, frozen=True):
    targets: dict[str, _Target]


class _Metadata(msgspec.Struct, frozen=True):
    signed: _Targets


@dataclass(frozen=True, slots=True)
class ServedTarget:
    """A target: the SHA-256 of its content in hexadecimal digits, and its length in bytes."""

    sha256: str
    length: int


class RoleReport(msgspec.Struct, frozen=True, kw_only=True):
    """The newest metadata of a role. Times are UTC milliseconds."""

    role: str
    version: int
    made_at: int
    expires_at: int


def lock(session: Session) -> TufRepository:
    """Lock the repository until the transaction ends, and count what is kept of it as old."""
    moved = session.execute(
        update(TufRepository)
        .where(TufRepository.id == 1)
        .values(changes=TufRepository.changes + 1),
        execution_options={"synchronize_session": False},
    )
    row = session.get(TufRepository, 1, populate_existing=True)
    if moved.rowcount != 1 or row is None:  # type: ignore[attr-defined]
        raise DatabaseError("the repository has no row to lock")
    count_up(session, REPOSITORY)
    return row


def newest(session: Session, role: TufRole) -> TufMetadata | None:
    """The metadata of a role that is in force; None: there was none yet."""
    query = select(TufMetadata).where(TufMetadata.role == role)
    return session.scalars(query.order_by(TufMetadata.version.desc()).limit(1)).first()


def metadata_named(session: Session, name: str) -> bytes:
    """The metadata that a client asks for by this name: `timestamp.json`, `3.root.json`.

    Raises:
        RepositoryTargetUnknownError: there is none.
    """
    found = None
    match = _VERSIONED.fullmatch(name)
    if name == TIMESTAMP_NAME:
        found = newest(session, TufRole.TIMESTAMP)
    elif match is not None:
        found = session.get(TufMetadata, (TufRole(match[2]), int(match[1])))
    if found is None:
        raise RepositoryTargetUnknownError("there is no such metadata")
    return found.content


def target_named(session: Session, path: str) -> ServedTarget:
    """The target that a client asks for by this path, the hash before the file's name.

    Raises:
        RepositoryTargetUnknownError: there is none, or not any more.
    """
    found = _SERVED.get(session).get(path)
    if found is None:
        raise RepositoryTargetUnknownError("there is no such target")
    return found


def listed_releases(session: Session) -> frozenset[str]:
    """The names of the releases that devices find: those that the newest targets list."""
    return frozenset(name for name in map(released, _read_listed(session)) if name is not None)


def published_releases(session: Session) -> list[PublishedRelease]:
    """Every release that was ever published, in the order in which that happened."""
    query = select(PublishedRelease).order_by(PublishedRelease.published_at, PublishedRelease.name)
    return list(session.scalars(query))


def role_reports(session: Session) -> list[RoleReport]:
    """What is in force of each role; a role that has nothing yet is left out."""
    rows = [newest(session, role) for role in TufRole]
    return [
        RoleReport(
            role=row.role.value,
            version=row.version,
            made_at=row.made_at,
            expires_at=row.expires_at,
        )
        for row in rows
        if row is not None
    ]


def due_roles(session: Session, *, now: int) -> frozenset[TufRole]:
    """Which of snapshot and timestamp are to be signed anew: half of their life is over.

    Or they were signed by a clock that was ahead, by more than the clocks of replicas are
    apart: they would hold for longer than they may.
    """
    rows = [newest(session, role) for role in (TufRole.SNAPSHOT, TufRole.TIMESTAMP)]
    return frozenset(
        row.role
        for row in rows
        if row is not None
        and (row.made_at > now + MINUTE or 2 * now >= row.made_at + row.expires_at)
    )


def served_by(row: TufMetadata) -> dict[str, ServedTarget]:
    """What targets metadata lists, by the paths that clients ask for.

    Raises:
        DatabaseError: it is damaged.
    """
    return {
        _consistent(path, target.hashes.sha256): ServedTarget(target.hashes.sha256, target.length)
        for path, target in _listed_by(row).items()
    }


def lately_served(session: Session, *, since: int) -> dict[str, ServedTarget]:
    """What the targets in force list, and what those listed that were in force after `since`.

    As far as old metadata is kept: of very many changes in a short time not all is known.
    """
    query = select(TufMetadata).where(TufMetadata.role == TufRole.TARGETS)
    rows = session.scalars(query.order_by(TufMetadata.version.desc())).all()
    found: dict[str, ServedTarget] = {}
    for number, row in enumerate(rows):
        if number == 0 or rows[number - 1].made_at > since:
            found |= served_by(row)
    return found


def _read_listed(session: Session) -> Mapping[str, _Target]:
    row = newest(session, TufRole.TARGETS)
    return {} if row is None else _listed_by(row)


def _listed_by(row: TufMetadata) -> Mapping[str, _Target]:
    try:
        return msgspec.json.decode(row.content, type=_Metadata).signed.targets
    except msgspec.MsgspecError as error:
        raise DatabaseError("the targets metadata in the database is damaged") from error


def _read_served(session: Session) -> Mapping[str, ServedTarget]:
    row = newest(session, TufRole.TARGETS)
    return {} if row is None else served_by(row)


def _consistent(path: str, sha256: str) -> str:
    directory, slash, name = path.rpartition("/")
    return f"{directory}{slash}{sha256}.{name}"


_SERVED: Final = Kept(REPOSITORY, _read_served)
