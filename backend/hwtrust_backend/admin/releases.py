"""Releases: everybody sees them; an administrator of all devices says which may run."""

from __future__ import annotations

import msgspec
from sqlalchemy.orm import Session

from hwtrust.errors import ReleaseMissingError
from hwtrust.wire.messages import Release
from hwtrust_backend import references
from hwtrust_backend.admin.principals import Principal, Role
from hwtrust_backend.publishing import release_accepted
from hwtrust_backend.references import StoredRelease


class ReleaseReport(msgspec.Struct, frozen=True, kw_only=True):
    """A release as lists show it. Times are UTC milliseconds."""

    name: str
    state: str
    """`added`, `accepted` or `retired`."""
    current: bool
    """Whether it is the one accepted last: devices that say nothing better get roots for it."""
    added_at: int
    accepted_at: int | None
    retired_at: int | None
    layers: tuple[str, ...]


def add_release(session: Session, release: Release, *, by: Principal, now: int) -> ReleaseReport:
    """Store a release; it is not accepted by that. The same one again changes nothing.

    Raises:
        ReleaseConflictError: the name is taken by other layers.
    """
    by.require_all_groups(Role.ADMINISTRATOR)
    stored = references.add_release(session, release, by=by.name, now=now)
    return _report(stored, _current(session))


def accept_release(session: Session, name: str, *, by: Principal, now: int) -> ReleaseReport:
    """Let devices run a release; it becomes the current one.

    Where a group's policy says so, its devices get new roots for it, bit by bit.

    Raises:
        ReleaseMissingError: it was never added.
    """
    by.require_all_groups(Role.ADMINISTRATOR)
    _stored(session, name)
    stored = references.accept_release(session, name, by=by.name, now=now)
    release_accepted(session, name, by=by.name, now=now)
    return _report(stored, _current(session))


def retire_release(session: Session, name: str, *, by: Principal, now: int) -> ReleaseReport:
    """Refuse a release from now on: devices that run it fail.

    Raises:
        ReleaseMissingError: it was never added.
    """
    by.require_all_groups(Role.ADMINISTRATOR)
    _stored(session, name)
    stored = references.retire_release(session, name, by=by.name, now=now)
    return _report(stored, _current(session))


def releases(session: Session, *, by: Principal) -> tuple[ReleaseReport, ...]:
    """Every release, in the order in which they were added."""
    by.require(Role.VIEWER)
    current = _current(session)
    return tuple(_report(row, current) for row in references.list_releases(session))


def release(session: Session, name: str, *, by: Principal) -> Release:
    """A release with its layers, as it was added.

    Raises:
        ReleaseMissingError: it was never added.
    """
    by.require(Role.VIEWER)
    return references.decode_release(_stored(session, name).content)


def _stored(session: Session, name: str) -> StoredRelease:
    stored = session.get(StoredRelease, name)
    if stored is None:
        raise ReleaseMissingError(f"there is no release {name!r}", release=name[:200])
    return stored


def _current(session: Session) -> str:
    found = references.current_release(session)
    return "" if found is None else found.name


def _report(row: StoredRelease, current: str) -> ReleaseReport:
    return ReleaseReport(
        name=row.name,
        state=row.state,
        current=row.name == current,
        added_at=row.added_at,
        accepted_at=row.accepted_at,
        retired_at=row.retired_at,
        layers=tuple(layer.name for layer in references.decode_release(row.content).layers),
    )
