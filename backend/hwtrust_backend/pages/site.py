"""What the pages of one process share: the numbers of the fleet, attempts, the provider."""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Lock

from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy.orm import Session

from hwtrust.errors import AuditError, PageError
from hwtrust_backend.audit import (
    check_continues,
    envelope_of,
    newest_head,
    open_head,
    tree_of,
    verify_log,
)
from hwtrust_backend.config import Settings
from hwtrust_backend.monitor.fleet import FleetView
from hwtrust_backend.pages.attempts import Attempts
from hwtrust_backend.pages.oidc import OidcLogin


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditCheck:
    """What recalculating the whole audit trail came to; `at` is UTC milliseconds.

    `failure` is empty where records 1 to `size` are as they were written.
    """

    at: int
    size: int
    heads: int
    signed: int
    failure: str


class AuditChecks:
    """The newest check of this process; one runs at a time."""

    def __init__(self) -> None:
        self._running = Lock()
        self.newest: AuditCheck | None = None

    def run(self, session: Session, *, key: ec.EllipticCurvePublicKey, now: int) -> AuditCheck:
        """Recalculate the whole trail, which takes as long as the trail is.

        Raises:
            PageError: another check is running.
        """
        if not self._running.acquire(blocking=False):
            raise PageError("the audit trail is being checked already; see the result in a moment")
        try:
            report = verify_log(session, key=key, kept=())
            check = AuditCheck(
                at=now, size=report.size, heads=report.heads, signed=report.signed, failure=""
            )
        except AuditError as error:
            check = AuditCheck(at=now, size=0, heads=0, signed=0, failure=error.message)
        finally:
            self._running.release()
        self.newest = check
        return check


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadState:
    """The newest signed tree head, and whether the trail still begins as it says.

    `size` is 0 where none has been signed; `records` is how many there are now.
    """

    size: int
    at: int
    records: int
    failure: str


def head_state(session: Session, *, key: ec.EllipticCurvePublicKey) -> HeadState:
    """Verify the newest signed head against the trail as it stands; costs a few hashes."""
    stored = newest_head(session)
    if stored is None:
        return HeadState(size=0, at=0, records=tree_of(session).size, failure="")
    try:
        head, tree = open_head(envelope_of(stored), key=key), tree_of(session)
        check_continues(session, head, tree)
    except AuditError as error:
        return HeadState(size=stored.size, at=stored.utc_ms, records=0, failure=error.message)
    return HeadState(size=head.size, at=head.utc_ms, records=tree.size, failure="")


@dataclass(frozen=True, slots=True)
class Site:
    """All of it."""

    settings: Settings
    oidc: OidcLogin
    fleet: FleetView = field(default_factory=FleetView)
    attempts: Attempts = field(default_factory=Attempts)
    audit: AuditChecks = field(default_factory=AuditChecks)


def make_site(settings: Settings) -> Site:
    """The pages of one process."""
    return Site(settings, OidcLogin(settings))
