"""The backend, put together: what the HTTP routes and the command line work with."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from sqlalchemy.orm import Session

from hwtrust.errors import DatabaseError, DeviceUnknownError, HwTrustError
from hwtrust_backend.appraisal import Attestations
from hwtrust_backend.audit import Event, record
from hwtrust_backend.config import Clock, Settings
from hwtrust_backend.db import Database
from hwtrust_backend.enrolment import NAME_DIGITS, EkAuthorities, Enrolments
from hwtrust_backend.keys import KeyRole, KeyVault
from hwtrust_backend.publishing import Publisher
from hwtrust_backend.references import references

VAULT_NAME: Final = "keys.vault"

Answer = TypeVar("Answer")

_log = logging.getLogger("hwtrust_backend")


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
            HwTrustError: what `work` raised.
        """
        now = self.clock()
        try:
            with self.database.transaction() as session:
                return work(session, now)
        except (DatabaseError, DeviceUnknownError):
            # Anybody can name a device that does not exist: no record for that.
            raise
        except HwTrustError as error:
            reason = f"{error.code}: {error.message}"
            _log.info("%s %s %s", refused, device[:NAME_DIGITS], reason)
            with self.database.transaction() as session:
                record(
                    session,
                    refused,
                    now=now,
                    device=device[:NAME_DIGITS],
                    reason=reason,
                    evidence=evidence,
                )
            raise


def make_backend(
    settings: Settings, *, database: Database, vault: KeyVault, clock: Clock
) -> Backend:
    """Put the services together."""
    publisher = Publisher(
        policy_key=vault.signer(KeyRole.POLICY),
        metadata_key=vault.signer(KeyRole.METADATA),
        root_lifetime_ms=settings.root_lifetime_ms,
        offline_grace_ms=settings.offline_grace_ms,
    )
    enrolments = Enrolments(
        settings=settings,
        vault=vault,
        authorities=EkAuthorities(settings.ek_authorities),
        releases=references,
        first_root=publisher.first,
    )
    attestations = Attestations(
        settings=settings, vault=vault, releases=references, rotation=publisher
    )
    return Backend(settings, database, vault, clock, publisher, enrolments, attestations)
