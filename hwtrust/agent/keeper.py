"""Keep one open device trusted: load, attest, measure again, take updates.

    load ─▶ attest ─▶ heartbeat ─▶ heartbeat ─▶ …
              │           ├─ backend away ─▶ back off ─▶ grace over ─▶ limited
              │           └─ locked ─▶ keys dropped ─▶ back off
              └─ file event · interval ─▶ measure ─▶ changed: violation, locked, attest

Everything here runs in the thread that owns the device; `turn` does what has come
due, and nothing here waits.

Rules:
1. Whatever fails is tried again, later and later, with full jitter, and never
   later than a heartbeat. Nothing that fails ends the agent but the device's own
   errors that no trying mends: another process has it, it is not enrolled.
2. A TPM that does not answer any more ends the keeper (`TpmAwayError`): the
   device is closed, and with it the keys are gone. The service opens it again.
3. Only an answer of the backend ends `limited` and `locked`.
4. A layer that has changed is reported at once: by attesting, with the failure in
   the statement.
5. Nothing keeps an open device from being watched: a download gives way to
   heartbeats, file events and whoever asks, and goes on after them. File events
   without end cost half of one core, at most.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import msgspec

from hwtrust.agent.backoff import Backoff
from hwtrust.device.results import Condition, Outcome, State, utc_ms
from hwtrust.errors import (
    AgentStoppedError,
    ChannelError,
    ConfigError,
    HwTrustError,
    KeyStoreLockedError,
    NotEnrolledError,
    TpmAwayError,
    TpmBusyError,
    TpmFailureModeError,
    TpmNotFoundError,
    TpmObjectConflictError,
    TpmPermissionError,
    TpmTransportError,
)
from hwtrust.wire.messages import Mode

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from hwtrust.agent.config import AgentConfig
    from hwtrust.agent.offline import OfflineGrace
    from hwtrust.agent.timers import Timers
    from hwtrust.device.api import Device
    from hwtrust.device.push import Line
    from hwtrust.device.results import AttestResult, Step
    from hwtrust.keys.keystore import KeyStore
    from hwtrust.updates.staging import Progress
    from hwtrust.wire.messages import UpdateOrder

T = TypeVar("T")

AWAY = (
    TpmBusyError,
    TpmFailureModeError,
    TpmNotFoundError,
    TpmPermissionError,
    TpmTransportError,
)
"""What a TPM's absence looks like, when it is opened and when it is used."""

ATTEST, GRACE, MEASURE = "attest", "grace", "measure"
SETTLE = "settle"
"""After file events, until the layers are measured."""
PAUSE = "pause"
UPDATE = "update"
"""After a load or an update that failed, until an answer may lead to another."""

_MILLISECONDS = 1000
_UPDATE_AGAIN, _UPDATE_LATEST = 120.0, 3600.0
"""Seconds until an update that failed is tried again, at first and at most."""
_DOWNLOAD, _AFTERWARDS = 10.0, 1.0
"""Seconds that a download goes on before it gives way, and until it is asked for again."""
_SPREAD = 0.1
"""The part of a heartbeat by which an attestation may come early."""


class Keeper:
    """One open device, from its opening to its closing."""

    def __init__(
        self,
        device: Device,
        settings: AgentConfig,
        *,
        timers: Timers,
        grace: OfflineGrace,
        tell: Callable[[Condition], None],
        lines: Callable[[Line], None],
        log: Callable[[str], None],
        fraction: Callable[[], float],
        progress: Callable[[], None],
        ending: Callable[[], bool],
        wanted: Callable[[], bool],
    ) -> None:
        """`tell` hears of conditions, `lines` is given a line after each attestation.

        `wanted` says whether something else waits for the owner.
        """
        self.device = device
        self._settings = settings
        self._timers = timers
        self._grace = grace
        self._tell = tell
        self._lines = lines
        self._log = log
        self._fraction = fraction
        self._progress = progress
        self._ending = ending
        self._wanted = wanted
        self._gives_way_at: float | None = None
        self._gave_way = False
        self._measured_in = 0.0
        self._heartbeat = settings.heartbeat
        self._backoff = Backoff(settings.retry, cap=settings.heartbeat, fraction=fraction)
        self._loading = Backoff(settings.retry, cap=settings.heartbeat, fraction=fraction)
        self._failure: HwTrustError | None = None
        self._updating = Backoff(_UPDATE_AGAIN, cap=_UPDATE_LATEST, fraction=fraction)
        self._declined: UpdateOrder | None = None
        self._changed: set[str] = set()
        self._offline_since: int | None = None
        self._failing: dict[str, str] = {}
        self._in_phase = False
        self._line: Line | None = None
        self._result: AttestResult | None = None

    # --- what the rest of the agent sees ----------------------------------------------

    @property
    def condition(self) -> Condition:
        """Where the device stands, its backend's absence included."""
        found = self.device.condition
        since_ms = self._offline_since
        if since_ms is not None and found.state is State.NORMAL:
            return msgspec.structs.replace(
                found,
                state=State.LIMITED,
                since_ms=since_ms,
                code="agent:offline",
                message="the backend has been away for longer than it allows",
            )
        return found

    @property
    def line(self) -> Line | None:
        """The way to the backend that other threads may use, once there is one."""
        return self._line

    @property
    def result(self) -> AttestResult | None:
        """What the backend said last."""
        return self._result

    @property
    def failure(self) -> HwTrustError | None:
        """What went wrong last."""
        return self._failure

    @property
    def settling(self) -> bool:
        """Whether layers wait to be measured: more file events change nothing until then."""
        return self._timers.left(SETTLE) is not None

    @property
    def keystore(self) -> KeyStore | None:
        """The key store, while it is open."""
        try:
            return self.device.keystore
        except KeyStoreLockedError:
            return None

    def closed(self) -> bool:
        """Whether the key store is closed."""
        return self.keystore is None

    # --- doing what is due ------------------------------------------------------------

    def begin(self) -> None:
        """Load, and attest; what fails is tried again later.

        Raises:
            TpmAwayError: the TPM does not answer.
            NotEnrolledError: the device is nobody yet.
            ConfigError: the configuration does not do.
        """
        self._start_measuring()
        former = self.device.answer
        self._try(
            "load",
            lambda: self.device.load(on_step=self._step, update=self._ordered),
            final=(ConfigError, NotEnrolledError),
        )
        self._tell(self.condition)
        self._log_condition("loaded")
        answer = self.device.answer
        if answer is not None and answer is not former:
            self._answered(answer)
        else:
            self._not_answered()

    def turn(self, due: Iterable[str]) -> None:
        """Do what has come due.

        Raises:
            TpmAwayError: the TPM does not answer.
        """
        for name in due:
            self._progress()
            if name == ATTEST:
                self.attest()
            elif name == GRACE:
                self._check_grace()
            elif name == SETTLE:
                self._timers.stop(SETTLE)
                changed, self._changed = self._changed, set()
                began = self._timers.now()
                self._measure(changed)
                self._measured_in = self._timers.now() - began
            elif name == MEASURE:
                self._measure(None)
                self._start_measuring()

    def probe(self) -> None:
        """See whether the TPM still answers.

        Raises:
            TpmAwayError: it does not.
        """
        self._try("read the TPM's clock", self.device.lease)

    def layers_touched(self, names: Iterable[str]) -> None:
        """Something happened to files of these layers: measure them, soon."""
        self._changed |= set(names)
        if self._changed and not self.settling:
            self._timers.start(SETTLE, max(self._settings.settle, self._measured_in))

    def attest(self) -> AttestResult | None:
        """Attest now, and do what the answer asks for; None: there was no answer.

        Raises:
            TpmAwayError: the TPM does not answer.
        """
        result = self._attest_once()
        if result is None:
            return None
        if result.update is not None:
            self._ordered(result.update)
        # A root waits, or what kept the key store closed has been mended.
        if self._may_load(result) and self._boot():
            result = self._attest_once() or result
        return result

    # --- inside ---------------------------------------------------------------------

    def _attest_once(self) -> AttestResult | None:
        self._timers.stop(ATTEST)
        result = self._try("attest", lambda: self.device.attest(on_step=self._step))
        if result is None:
            self._not_answered()
        else:
            self._answered(result)
        self._tell(self.condition)
        return result

    def _boot(self) -> bool:
        self._try("load", lambda: self.device.boot(on_step=self._step))
        self._tell(self.condition)
        if self.closed():
            self._timers.start(PAUSE, self._loading.next())
            return False
        self._loading.reset()
        self._log_condition("loaded")
        return True

    def _may_load(self, result: AttestResult) -> bool:
        paused = self._timers.left(PAUSE) is not None
        return result.mode is not Mode.LOCKED and self.closed() and not paused

    def _try(
        self,
        what: str,
        work: Callable[[], T],
        *,
        final: tuple[type[HwTrustError], ...] = (),
    ) -> T | None:
        """Do `work`; None: it failed, which is kept. `final` errors are raised.

        What goes on failing for the same reason is logged once, and when it has ended.

        Raises:
            TpmAwayError: the TPM does not answer.
        """
        try:
            done = work()
        except final:
            raise
        except AWAY as error:
            self.device.tpm_away(error)
            raise away(error) from error
        except HwTrustError as error:
            if isinstance(error, TpmObjectConflictError) and not self.closed():
                # Cleared, or another TPM in its place: what is open is not this one's any more.
                self.device.tpm_away(error)
                raise away(error) from error
            self._failure = error
            if self._failing.get(what) != error.code:
                self._log(f"{what} failed: {error.message} [{error.code}]")
            self._failing[what] = error.code
            return None
        if self._failing.pop(what, ""):
            self._log(f"{what}: succeeds again")
        return done

    def _answered(self, result: AttestResult) -> None:
        former, self._result = self._result, result
        if former is None or (former.mode, former.standing) != (result.mode, result.standing):
            self._log(f"attested: {result.standing}, mode {result.mode}")
        if result.rotated_to is not None:
            self._log(f"the root was replaced: epoch {result.rotated_to}")
        self._offline_since = None
        self._timers.stop(GRACE)
        if result.heartbeat_ms > 0:
            self._heartbeat = result.heartbeat_ms / _MILLISECONDS
        self._backoff.cap = self._loading.cap = self._heartbeat
        if result.mode is Mode.LOCKED:
            self._timers.start(ATTEST, self._backoff.next())
        else:
            self._backoff.reset()
            self._timers.start(ATTEST, self._until_next())
        self._take_line()
        grace_ms = result.offline_grace_ms
        self._try("keep", lambda: self._grace.answered(result.clock_ms, grace_ms=grace_ms))

    def _not_answered(self) -> None:
        if self.device.condition.state is State.TPM_AWAY:
            # A load says so without an error.
            condition = self.device.condition
            raise TpmAwayError(condition.message, problem=condition.code)
        self._timers.start(ATTEST, self._backoff.next())
        self._check_grace()

    def _until_next(self) -> float:
        # The first heartbeat is anywhere, so that devices that start as one do not go on as one.
        spread = _SPREAD if self._in_phase else 1.0
        self._in_phase = True
        return self._heartbeat * (1 - spread * self._fraction())

    def _take_line(self) -> None:
        try:
            self._line = self.device.line()
        except ChannelError:
            return
        self._lines(self._line)

    def _check_grace(self) -> None:
        lease = self._try("read the TPM's clock", self.device.lease)
        left = 0 if lease is None else self._grace.left(lease)
        if left > 0:
            self._timers.start(GRACE, left / _MILLISECONDS)
        elif self._offline_since is None:
            self._offline_since = utc_ms()
            self._log("the backend has been away for longer than it allows")
        self._tell(self.condition)

    def _start_measuring(self) -> None:
        if self._settings.remeasure > 0:
            early = _SPREAD * self._fraction()
            self._timers.start(MEASURE, self._settings.remeasure * (1 - early))

    def _measure(self, names: Collection[str] | None) -> None:
        if self.closed():
            # Nothing is trusted that could be lost; a load measures all.
            return
        self._try("measure", lambda: self.device.check(only=names, on_step=self._step))
        if self.closed():
            self._tell(self.condition)
            self._backoff.reset()
            self.attest()

    def _ordered(self, order: UpdateOrder) -> None:
        """Bring in what the backend orders, if that is ours to do, and not too soon again."""
        if self._timers.left(UPDATE) is not None:
            return
        if not self.device.takes(order):
            if order != self._declined:
                self._log(f"release {order.release} is ordered, and waits: {self._why(order)}")
            self._declined = order
            return
        self._gives_way_at, self._gave_way = None, False
        result = self._try(
            f"update to release {order.release}",
            lambda: self.device.update(
                on_step=self._step, on_progress=self._fetched, on_wait=self._waits
            ),
        )
        if self._gave_way:
            # The next answer orders it again.
            self._timers.hasten(ATTEST, _AFTERWARDS)
            return
        if result is not None:
            self._log(f"release {result.release}: {result.outcome} {result.code}".rstrip())
        if result is not None and result.outcome in {Outcome.CONFIRMED, Outcome.CURRENT}:
            self._updating.reset()
        else:
            self._timers.start(UPDATE, self._updating.next())
        self._tell(self.condition)

    def _why(self, order: UpdateOrder) -> str:
        refused = self.device.updates.refused
        if refused is not None and refused.release == order.release:
            return f"it was given up before: {refused.message} [{refused.code}]"
        return "this device takes no updates by itself"

    def _log_condition(self, what: str) -> None:
        if not self.closed():
            self._log(f"{what}: the key store is open")

    def _step(self, _: Step) -> None:
        self._progress()

    def _waits(self) -> None:
        self._progress()
        if self._ending():
            # What has been fetched is kept, and gone on with by the next start.
            raise AgentStoppedError("the agent is ending")

    def _fetched(self, _: Progress) -> None:
        self._waits()
        now = self._timers.now()
        if self._gives_way_at is None:
            self._gives_way_at = now + _DOWNLOAD
        if now >= self._gives_way_at and not self.closed():
            self._gives_way_at = now + _AFTERWARDS
            self._gave_way = self._wanted()
            if self._gave_way:
                raise AgentStoppedError("the download goes on after what else is to be done")


def away(error: HwTrustError) -> TpmAwayError:
    """What ends a keeper, made of how it was seen."""
    return TpmAwayError(error.message, problem=error.code)
