"""Files of releases that nobody needs any more go.

Rules:
1. What the list in force names stays, and for a while what lists before it named.
2. A file that was added a while ago only stays: somebody may be about to publish it.
3. It is done under the repository's lock. Who publishes a file that is gone meanwhile
   is refused, and publishes again.
"""

from __future__ import annotations

import msgspec
from sqlalchemy.orm import Session

from hwtrust_backend.audit import Event, record
from hwtrust_backend.repository.blobs import Blobs
from hwtrust_backend.repository.reading import lately_served, lock


class Pruned(msgspec.Struct, frozen=True, kw_only=True):
    """What was removed: names of files, and how many bytes they had."""

    files: tuple[str, ...]
    size: int


def prune_files(
    session: Session, blobs: Blobs, *, grace_ms: int, dry_run: bool, by: str, now: int
) -> Pruned:
    """Remove files that no list has named for `grace_ms`; `dry_run` only says which.

    Raises:
        ConfigError: the directory cannot be read or changed.
    """
    lock(session)
    since = now - grace_ms
    needed = {target.sha256 for target in lately_served(session, since=since).values()}
    gone = blobs.remove(needed, before=since, dry_run=dry_run)
    pruned = Pruned(
        files=tuple(blob.sha256 for blob in gone), size=sum(blob.length for blob in gone)
    )
    if gone and not dry_run:
        reason = f"{len(gone)} files, {pruned.size} bytes"
        record(session, Event.TARGETS_PRUNED, now=now, reason=reason, actor=by)
    return pruned
