"""The backend, put together: what the HTTP routes and the command line work with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeVar

from sqlalchemy.orm import Session

from hwtrust.errors import DatabaseError, DeviceUnknownError, HwTrustError
from hwtrust_backend.app.committer import Committer
from hwtrust_backend.appraisal import Attestations, Groups
from hwtrust_backend.audit import Event, record_refusal
from hwtrust_backend.config import Clock, Settings
from hwtrust_backend.db import Database
from hwtrust_backend.enclaves import EnclaveRoots, Enclaves
from hwtrust_backend.enrolment import EkAuthorities, Enrolments
from hwtrust_backend.keys import KeyRole, KeyVault
from hwtrust_backend.monitor import ClockWatch
from hwtrust_backend.monitor.activity import Activity
from hwtrust_backend.publishing import Publisher
from hwtrust_backend.push import Waiters
from hwtrust_backend.results import Results
from hwtrust_backend.webhooks import Courier, Transport, Webhooks

VAULT_NAME: Final = "keys.vault"

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Backend:
    """Settings, database, keys and clock, and the services made of them."""

    settings: Settings
    database: Database
    vault: KeyVault
    clock: Clock
    publisher: Publisher
    enrolments: Enrolments
    attestations: Attestations
    enclaves: Enclaves
    results: Results
    webhooks: Webhooks
    courier: Courier
    waiters: Waiters
    committer: Committer
    clock_watch: ClockWatch
    activity: Activity = field(default_factory=Activity)

    def decide(
        self,
        work: Callable[[Session, int], Answer],
        *,
        refused: Event,
        device: str,
        evidence: bytes = b"",
    ) -> Answer:
        """Do `work` in one transaction; a refusal leaves its audit record and nothing else.

        Raises:
            ClockSkewError: this replica's clock is off.
            HwTrustError: what `work` raised.
        """
        self.clock_watch.require_right()
        now = self.clock()
        try:
            return self.database.run(lambda session: work(session, now))
        except (DatabaseError, DeviceUnknownError):
            # Anybody can name a device that does not exist: no record for that.
            raise
        except HwTrustError as error:
            with self.database.transaction() as session:
                record_refusal(session, refused, error, now=now, device=device, evidence=evidence)
            raise


def make_backend(
    settings: Settings, *, database: Database, vault: KeyVault, clock: Clock
) -> Backend:
    """Put the services together."""
    publisher = Publisher(
        policy_key=vault.signer(KeyRole.POLICY),
        metadata_key=vault.signer(KeyRole.METADATA),
    )
    enrolments = Enrolments(
        settings=settings,
        vault=vault,
        authorities=EkAuthorities(settings.ek_authorities),
        first_root=publisher.first,
    )
    attestations = Attestations(settings=settings, vault=vault, rotation=publisher)
    webhooks = Webhooks(settings, vault)
    return Backend(
        settings=settings,
        database=database,
        vault=vault,
        clock=clock,
        publisher=publisher,
        enrolments=enrolments,
        attestations=attestations,
        enclaves=Enclaves(
            settings=settings,
            vault=vault,
            roots=EnclaveRoots(publisher=publisher, metadata_key=vault.signer(KeyRole.METADATA)),
        ),
        results=Results(settings, vault),
        webhooks=webhooks,
        courier=Courier(
            database=database,
            webhooks=webhooks,
            # Reading the system's CA certificates takes a while, and few need them.
            transport=partial(Transport.of, settings),
            clock=clock,
        ),
        waiters=Waiters(database, limit=settings.wait_limit),
        committer=Committer(Groups(attestations, database, clock).answer),
        clock_watch=ClockWatch(limit_ms=settings.max_clock_skew_ms),
    )
