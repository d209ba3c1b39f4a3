"""A vendor whose people hold keys for a backend: the ceremony, releases and revocations."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import select
from tuf.api.metadata import Metadata, Root, Targets

from hwtrust_backend.admin import Principal, local_administrator
from hwtrust_backend.admin import repository as admin
from hwtrust_backend.audit import AuditRecord, Event
from hwtrust_backend.repository import Blobs, TufRole, newest
from hwtrust_backend.repository.bundle import take_bundle
from hwtrust_backend.repository.online import Online
from hwtrust_backend.repository.publishing import Signing
from hwtrust_backend.repository.roots import RootChange, propose_root
from hwtrust_backend.testing import DAY
from simulators.release_bundle import Holder, make_bundle

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from sqlalchemy.orm import Session

    from hwtrust_backend.app.backend import Backend

YEAR = 365 * DAY
KERNEL = {"kernel": ("6.1", b"a kernel")}
BOTH = {"kernel": ("6.1", b"a kernel"), "www": ("2", b"pages")}


def signed(content: bytes, holders: Sequence[Holder]) -> bytes:
    """Metadata with the signatures of these holders."""
    metadata = Metadata.from_bytes(content)
    for holder in holders:
        metadata.sign(holder.signer, append=True)
    return metadata.to_bytes()


@dataclass
class Vendor:
    """A backend with those who hold keys for it: two of three sign roots, one signs targets."""

    backend: Backend
    directory: Path
    root: list[Holder] = field(default_factory=lambda: [Holder.new() for _ in range(3)])
    targets: Holder = field(default_factory=Holder.with_p256)

    @property
    def online(self) -> Online:
        """The online key."""
        return Online(self.backend.settings, self.backend.vault)

    @property
    def blobs(self) -> Blobs:
        """Where the files are."""
        return Blobs(self.backend.settings.targets)

    def first(self) -> bytes:
        """The first root, unsigned."""
        change = RootChange(
            root_keys=[holder.public for holder in self.root],
            threshold=2,
            targets_keys=[self.targets.public],
        )
        return self.propose(change)

    def propose(self, change: RootChange, *, lifetime_ms: int = YEAR) -> bytes:
        """The next root, unsigned."""
        with self.backend.database.transaction() as session:
            return propose_root(
                session,
                change,
                online=self.online,
                lifetime_ms=lifetime_ms,
                now=self.backend.clock(),
            )

    def publish_root(self, content: bytes, *signers: Holder) -> int:
        """Put a root into force; gives its version."""
        with self.backend.database.transaction() as session:
            return admin.publish_root(
                session,
                content,
                online=self.online,
                signers=[holder.signer for holder in signers],
                by=local_administrator(),
                now=self.backend.clock(),
            ).version

    def begin(self) -> bytes:
        """The whole first ceremony; gives the root."""
        return self.turn(self.first())

    def turn(self, proposal: bytes) -> bytes:
        """Sign the next root by as many as have to, and put it into force; gives it."""
        content = signed(proposal, self.root[:2])
        self.publish_root(content)
        return content

    def bundle(self, name: str, layers: dict[str, tuple[str, bytes]]) -> Path:
        """A release's bundle."""
        directory = self.directory / f"bundle-{name}"
        shutil.rmtree(directory, ignore_errors=True)
        return make_bundle(directory, name, layers)

    def publish(
        self,
        name: str,
        layers: dict[str, tuple[str, bytes]],
        *,
        accept: bool = False,
        by: Principal | None = None,
        **signing: Any,  # noqa: ANN401 - what `Signing` takes
    ) -> None:
        """Publish a release."""
        bundle = take_bundle(self.bundle(name, layers), self.blobs)
        with self.backend.database.transaction() as session:
            admin.publish_release(
                session,
                bundle,
                blobs=self.blobs,
                online=self.online,
                signing=Signing(**(signing or {"signers": [self.targets.signer]})),
                accept=accept,
                by=by or local_administrator(),
                now=self.backend.clock(),
            )

    def revoke(self, name: str, **signing: Any) -> None:  # noqa: ANN401 - what `Signing` takes
        """Revoke a release."""
        with self.backend.database.transaction() as session:
            admin.revoke_release(
                session,
                name,
                online=self.online,
                signing=Signing(**(signing or {"signers": [self.targets.signer]})),
                by=local_administrator(),
                now=self.backend.clock(),
            )

    def keep(self) -> bool:
        """What the background does."""
        with self.backend.database.transaction() as session:
            return self.online.keep(session, now=self.backend.clock())

    def read(self, work: Callable[[Session], Any]) -> Any:  # noqa: ANN401 - whatever is read
        """Read something from the database."""
        with self.backend.database.reading() as session:
            return work(session)

    def version(self, role: TufRole) -> int:
        """The version that is in force."""
        row = self.read(lambda session: newest(session, role))
        return 0 if row is None else row.version

    def root_in_force(self) -> Root:
        """The root."""
        content = self.read(lambda session: newest(session, TufRole.ROOT)).content
        return Metadata[Root].from_bytes(content).signed

    def listed(self) -> set[str]:
        """The paths of the targets, as clients see them."""
        row = self.read(lambda session: newest(session, TufRole.TARGETS))
        return set(Metadata[Targets].from_bytes(row.content).signed.targets)

    def records(self, event: Event) -> list[tuple[str, str]]:
        """Actor and reason of each record of an event."""
        query = select(AuditRecord).where(AuditRecord.event == event.value)
        with self.backend.database.reading() as session:
            return [(row.actor, row.reason) for row in session.scalars(query)]
