"""Adding, accepting and retiring releases.

Rules:
1. A release never changes: the same name with other layers is refused.
2. Only an accepted release is a reference. The one accepted last is current:
   devices that say nothing better get their roots for it.
3. A retired release is refused from then on; it can be accepted again.
"""

from __future__ import annotations

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from hwtrust.errors import MalformedError, ReleaseConflictError, ReleaseUnknownError
from hwtrust.verify.appraise import References
from hwtrust.wire.messages import Release
from hwtrust_backend.audit import Event, record
from hwtrust_backend.db import RULES, count_up
from hwtrust_backend.references.models import StoredRelease


def decode_release(content: bytes) -> Release:
    """Read a release file.

    Raises:
        MalformedError: not JSON, not a release, or one with two layers of a name.
    """
    try:
        release = msgspec.json.decode(content, type=Release)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedError(f"no release: {error}", structure="Release") from error
    names = [layer.name for layer in release.layers]
    if len(set(names)) != len(names):
        raise MalformedError("a release names a layer twice", structure="Release")
    return release


def add_release(session: Session, release: Release, *, now: int, by: str = "") -> StoredRelease:
    """Store a release; it is not accepted by that. The same one again changes nothing.

    Raises:
        ReleaseConflictError: the name is taken by other layers.
    """
    content = msgspec.json.encode(release)
    stored = session.get(StoredRelease, release.name)
    if stored is not None:
        if stored.content != content:
            message = f"the release {release.name!r} exists with other layers"
            raise ReleaseConflictError(message, release=release.name)
        return stored
    stored = StoredRelease(
        name=release.name, content=content, added_at=now, accepted_at=None, retired_at=None
    )
    session.add(stored)
    count_up(session, RULES)
    record(session, Event.RELEASE_ADDED, now=now, reason=release.name, actor=by)
    return stored


def accept_release(session: Session, name: str, *, now: int, by: str = "") -> StoredRelease:
    """Accept a release; it becomes the current one.

    Raises:
        ReleaseUnknownError: it was never added.
    """
    count_up(session, RULES)
    stored = _stored(session, name)
    newest = max((row.accepted_at or 0 for row in list_releases(session)), default=0)
    # Two within a millisecond: the later one is still the current one.
    stored.accepted_at, stored.retired_at = max(now, newest + 1), None
    record(session, Event.RELEASE_ACCEPTED, now=now, reason=name, actor=by)
    return stored


def retire_release(session: Session, name: str, *, now: int, by: str = "") -> StoredRelease:
    """Stop accepting a release.

    Raises:
        ReleaseUnknownError: it was never added.
    """
    count_up(session, RULES)
    stored = _stored(session, name)
    stored.retired_at = now
    record(session, Event.RELEASE_RETIRED, now=now, reason=name, actor=by)
    return stored


def list_releases(session: Session) -> list[StoredRelease]:
    """Every release, in the order in which they were added."""
    query = select(StoredRelease).order_by(StoredRelease.added_at, StoredRelease.name)
    return list(session.scalars(query))


def current_release(session: Session) -> Release | None:
    """The accepted release that was accepted last, if there is one."""
    accepted = [row for row in list_releases(session) if row.state == "accepted"]
    if not accepted:
        return None
    newest = max(accepted, key=lambda row: row.accepted_at or 0)
    return decode_release(newest.content)


def references(session: Session) -> References:
    """All releases, and the names of those that are accepted, for `appraise`."""
    rows = list_releases(session)
    return References(
        releases={row.name: decode_release(row.content) for row in rows},
        accepted=frozenset(row.name for row in rows if row.state == "accepted"),
    )


def acceptances(session: Session) -> dict[str, int]:
    """When each accepted release was accepted, UTC milliseconds; no two at one moment."""
    return {
        row.name: row.accepted_at
        for row in list_releases(session)
        if row.accepted_at is not None and row.state == "accepted"
    }


def _stored(session: Session, name: str) -> StoredRelease:
    stored = session.get(StoredRelease, name, populate_existing=True)
    if stored is None:
        raise ReleaseUnknownError(f"there is no release {name!r}", release=name[:200])
    return stored
