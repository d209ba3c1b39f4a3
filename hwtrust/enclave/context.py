"""What the parts of an enclave's life share while it is open.

load · attest · rotate ── work on ──▶ EnclaveContext
anchor, keys, channel, clock, open key store
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeVar

import msgspec

from hwtrust.device.failures import cut
from hwtrust.device.results import Condition, State, utc_ms
from hwtrust.enclave.roots import NO_EPOCH
from hwtrust.errors import KeyStoreLockedError, RootExpiredError

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.hazmat.primitives.asymmetric import ec

    from hwtrust.anchors.protocols import Attester
    from hwtrust.enclave.clock import SignedClock
    from hwtrust.enclave.config import EnclaveConfig
    from hwtrust.enclave.kept import EnclaveState, Identity
    from hwtrust.enclave.measured import Measured
    from hwtrust.keys.keystore import KeyStore
    from hwtrust.tls import ClientKey
    from hwtrust.wire.enclave import EnclaveKind
    from hwtrust.wire.messages import Release, Request
    from hwtrust.wire.statement import StepFailure

R = TypeVar("R", bound=msgspec.Struct)

_log = logging.getLogger(__name__)


class Way(Protocol):
    """A way to the backend: `hwtrust.channel.Channel`, or what a vendor puts in its place."""

    @property
    def authenticated(self) -> bool:
        """Whether calls present a client certificate."""

    def authenticate(self, key: ClientKey, certificate: str) -> None:
        """Present `certificate` (PEM chain) with `key` from now on."""

    def anonymous(self) -> None:
        """Present no client certificate from now on."""

    def post(self, path: str, request: Request, reply: type[R]) -> R:
        """Send `request` to `path` and decode the answer as `reply`."""


@dataclass(slots=True, kw_only=True, repr=False, eq=False)
class EnclaveContext:
    """An open enclave."""

    config: EnclaveConfig
    release: Release
    metadata_key: ec.EllipticCurvePublicKey
    kind: EnclaveKind
    attester: Attester
    measured: Measured
    state: EnclaveState
    channel: Way
    clock: SignedClock
    on_condition: Callable[[Condition], None]
    identity: Identity | None = None
    keystore: KeyStore | None = None
    epoch: int = NO_EPOCH
    """Of the root that the enclave holds, in memory or sealed."""
    not_after: int = 0
    """Until when that root is good, UTC milliseconds."""
    grace_until: int | None = None
    """Until when it may run on without being heard, UTC milliseconds; None: nobody said."""
    challenge: bytes = b""
    failure: StepFailure | None = None
    """What failed and was not told to the backend yet."""
    doing: tuple[str, str] = ("tpm", "")
    """The step that is under way, and its layer."""
    condition: Condition = field(default_factory=lambda: Condition(State.STARTING, since_ms=0))

    def opened(self) -> KeyStore:
        """The key store.

        Raises:
            RootExpiredError: its root has expired; the keys are dropped.
            KeyStoreLockedError: it is not open.
        """
        expired = self.expire()
        if expired is not None:
            raise expired
        keystore = self.keystore
        if keystore is None:
            raise KeyStoreLockedError("the key store is locked: the enclave has not started")
        return keystore

    def expire(self) -> RootExpiredError | None:
        """Drop the keys if their time is over; gives why."""
        if self.keystore is None:
            return None
        now = self.clock.now()
        if now < self.until():
            return None
        what = "the root has expired: start again"
        if now < self.not_after:
            what = "the backend was not heard for longer than it allows: start again"
        self.lock()
        error = RootExpiredError(what, not_after=self.not_after, now=now)
        self.become(State.LOCKED, step="open", code=error.code, message=error.message)
        return error

    def until(self) -> int:
        """Until when the key store may be used, UTC milliseconds."""
        return min(self.not_after, self.grace_until or self.not_after)

    def lock(self) -> None:
        """Forget keys and roots; what is sealed stays. Nothing finds them any more."""
        keystore, self.keystore = self.keystore, None
        if keystore is not None:
            keystore.close()
        if self.identity is not None:
            self.identity.wipe()
        if not self.state.sealing:
            self.epoch = NO_EPOCH

    def become(
        self, state: State, *, step: str = "", layer: str = "", code: str = "", message: str = ""
    ) -> None:
        """Be in another condition, and tell the host application at once.

        What its callback raises is written to the log, and goes no further.
        """
        was = self.condition
        since = was.since_ms if was.state is state and was.since_ms else utc_ms()
        condition = Condition(
            state,
            since,
            step=step,
            layer=layer,
            release=self.release.name,
            code=code,
            message=message,
        )
        if condition == was:
            return
        self.condition = condition
        try:
            self.on_condition(condition)
        except Exception:  # noqa: BLE001 - whatever a callback raises
            _log.exception("the host application's on_condition has failed")

    def note_failure(self, failure: StepFailure) -> None:
        """Keep what failed until the backend has been told; the latest counts."""
        self.failure = cut(failure, at_ms=utc_ms())
