"""Releases: everybody sees them; an administrator of all devices says which may run."""

from __future__ import annotations

import msgspec
from sqlalchemy.orm import Session

from hwtrust.errors import ReleaseMissingError
from hwtrust.wire.messages import Release
from hwtrust.wire.release import decode_manifest
from hwtrust_backend import references
from hwtrust_backend.admin.principals import Principal, Role
from hwtrust_backend.publishing import release_accepted
from hwtrust_backend.references import StoredRelease
from hwtrust_backend.repository import PublishedRelease, published_releases


class ReleaseReport(msgspec.Struct, frozen=True, kw_only=True):
    """A release as lists show it. Times are UTC milliseconds."""

    name: str
    state: str
    """`added`, `accepted` or `retired`."""
    published: bool
    """Whether devices find it in the repository."""
    current: bool
    """Whether it is the one accepted last: devices that say nothing better get roots for it."""
    added_at: int
    accepted_at: int | None
    retired_at: int | None
    layers: tuple[str, ...]


class LayerDetail(msgspec.Struct, frozen=True, kw_only=True):
    """A layer of a release. What only a manifest says is empty where there is none."""

    name: str
    version: str
    digest: str
    """SHA-256, in hexadecimal digits."""
    kind: str = ""
    """`file` or `tree`."""
    frequency: str = ""
    note: str = ""
    target: str = ""
    """Its path in the repository."""


class ReleaseDetail(msgspec.Struct, frozen=True, kw_only=True):
    """A release with its layers in load order. Times are UTC milliseconds."""

    release: ReleaseReport
    published_at: int | None
    revoked_at: int | None
    layers: tuple[LayerDetail, ...]


def add_release(session: Session, release: Release, *, by: Principal, now: int) -> ReleaseReport:
    """Store a release; it is not accepted by that. The same one again changes nothing.

    Raises:
        ReleaseConflictError: the name is taken by other layers.
    """
    by.require_all_groups(Role.ADMINISTRATOR)
    stored = references.add_release(session, release, by=by.name, now=now)
    return _report(session, stored)


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
    return _report(session, stored)


def retire_release(session: Session, name: str, *, by: Principal, now: int) -> ReleaseReport:
    """Refuse a release from now on: devices that run it fail.

    Raises:
        ReleaseMissingError: it was never added.
    """
    by.require_all_groups(Role.ADMINISTRATOR)
    _stored(session, name)
    stored = references.retire_release(session, name, by=by.name, now=now)
    return _report(session, stored)


def releases(session: Session, *, by: Principal) -> tuple[ReleaseReport, ...]:
    """Every release, in the order in which they were added."""
    by.require(Role.VIEWER)
    current, published = _current(session), _published(session)
    rows = references.list_releases(session)
    return tuple(_described(row, current, published) for row in rows)


def release_report(session: Session, name: str, *, by: Principal) -> ReleaseReport:
    """One release.

    Raises:
        ReleaseMissingError: it was never added.
    """
    by.require(Role.VIEWER)
    return _report(session, _stored(session, name))


def release_detail(session: Session, name: str, *, by: Principal) -> ReleaseDetail:
    """One release with what its manifest says, where it was published with one.

    Raises:
        ReleaseMissingError: it was never added.
    """
    by.require(Role.VIEWER)
    stored = _stored(session, name)
    row = session.get(PublishedRelease, name)
    entries = () if row is None else decode_manifest(row.manifest).layers
    of_manifest = {entry.name: entry for entry in entries}
    layers = []
    for layer in references.decode_release(stored.content).layers:
        detail = LayerDetail(name=layer.name, version=layer.version, digest=layer.digest.hex())
        if (entry := of_manifest.get(layer.name)) is not None:
            detail = msgspec.structs.replace(
                detail,
                kind=entry.kind.value,
                frequency=entry.frequency,
                note=entry.note,
                target=entry.target,
            )
        layers.append(detail)
    return ReleaseDetail(
        release=_report(session, stored),
        published_at=None if row is None else row.published_at,
        revoked_at=None if row is None else row.revoked_at,
        layers=tuple(layers),
    )


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


def _published(session: Session) -> frozenset[str]:
    rows = published_releases(session)
    return frozenset(row.name for row in rows if row.revoked_at is None)


def _report(session: Session, row: StoredRelease) -> ReleaseReport:
    return _described(row, _current(session), _published(session))


def _described(row: StoredRelease, current: str, published: frozenset[str]) -> ReleaseReport:
    return ReleaseReport(
        name=row.name,
        state=row.state,
        published=row.name in published,
        current=row.name == current,
        added_at=row.added_at,
        accepted_at=row.accepted_at,
        retired_at=row.retired_at,
        layers=tuple(layer.name for layer in references.decode_release(row.content).layers),
    )
