"""Snapshot and timestamp: what this backend signs by itself.

    targets ──▶ snapshot (which targets) ──▶ timestamp (which snapshot, until when)

Rules:
1. Both are signed anew when the targets have changed or the online key has, and
   when half of their life is over, or a clock that was ahead has signed them.
2. Before there are targets, there is nothing to sign.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.orm import Session
from tuf.api.metadata import Metadata, MetaFile, Snapshot, Timestamp

from hwtrust_backend.config import Settings
from hwtrust_backend.keys import KeyVault
from hwtrust_backend.repository import metadata as tuf
from hwtrust_backend.repository.models import TufMetadata, TufRepository, TufRole
from hwtrust_backend.repository.reading import due_roles, lock, newest
from hwtrust_backend.repository.signers import online_signer

_TARGETS = "targets.json"


@dataclass(frozen=True, slots=True)
class Online:
    """The online key at work; every method works in its caller's transaction."""

    settings: Settings
    vault: KeyVault

    def keep(self, session: Session, *, now: int) -> bool:
        """Sign what is due; gives whether there was something."""
        repository = lock(session)
        due = due_roles(session, now=now)
        if due:
            self.sign(session, repository, anew=TufRole.SNAPSHOT in due, now=now)
        return bool(due)

    def sign(self, session: Session, repository: TufRepository, *, anew: bool, now: int) -> None:
        """Sign a timestamp, and before it a snapshot where `anew` says so or there is none."""
        targets = newest(session, TufRole.TARGETS)
        if targets is None:
            return
        signer = online_signer(self.vault, repository.online_key)
        snapshot = newest(session, TufRole.SNAPSHOT)
        if anew or snapshot is None:
            made = Metadata(
                Snapshot(
                    version=tuf.next_version(0 if snapshot is None else snapshot.version, now=now),
                    expires=tuf.moment(now + self.settings.snapshot_lifetime_ms),
                    meta={_TARGETS: _described(targets)},
                )
            )
            tuf.sign(made, [signer])
            snapshot = tuf.store(session, made, now=now)
        last = newest(session, TufRole.TIMESTAMP)
        stamped = Metadata(
            Timestamp(
                version=tuf.next_version(0 if last is None else last.version, now=now),
                expires=tuf.moment(now + self.settings.timestamp_lifetime_ms),
                snapshot_meta=_described(snapshot),
            )
        )
        tuf.sign(stamped, [signer])
        tuf.store(session, stamped, now=now)


def _described(row: TufMetadata) -> MetaFile:
    return MetaFile.from_data(row.version, row.content, ["sha256"])
