"""The agent: one thread owns the device, and with it the TPM and its lock.

    signals ┐                              ┌─ Keeper: load, attest, measure, update
    socket  ├──▶ inbox ──▶ owner: wait ────┤
    waiter  ┘      timers, file events ────┘─ TPM gone: closed, keys dropped; back: opened anew

Rules:
1. Only the owner's thread touches the device. What other threads use is safe for
   them: the key store, and a line to the backend of their own.
2. The owner waits for descriptors and deadlines; there is no polling, but for a
   TPM that has gone where udev tells of none.
3. The watchdog is fed from the owner's turns and from what it does in them. It
   ends the agent where another of its threads has died, or the socket's hangs.
4. A device is closed before the agent ends or waits for a TPM: then no key is
   in memory and nothing is left in the TPM.
"""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from hwtrust.agent.backoff import Backoff
from hwtrust.agent.footprint import give_back
from hwtrust.agent.inbox import Inbox
from hwtrust.agent.keeper import ATTEST, AWAY, SETTLE, Keeper, away
from hwtrust.agent.offline import OfflineGrace
from hwtrust.agent.operations import AgentOperations
from hwtrust.agent.ports import LOG, Ports, closing
from hwtrust.agent.signals import handled
from hwtrust.agent.timers import Timers
from hwtrust.agent.waiter import Waiter
from hwtrust.device.results import Condition, State, utc_ms
from hwtrust.errors import AgentSocketError, AgentStoppedError, StateBusyError, TpmAwayError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hwtrust.agent.config import AgentConfig
    from hwtrust.agent.ports import Presence, Publisher, Watch
    from hwtrust.device.api import Device
    from hwtrust.device.config import DeviceConfig
    from hwtrust.device.results import AttestResult

T = TypeVar("T")

GRACE_FILE = "offline.json"
_TPM = "tpm"
"""When the TPM is tried again, whatever is said of it."""
_LOOK = "look"
"""When its device file is looked for, where udev says nothing."""
_SLOWEST_LOOK = 60.0


class Agent:
    """One agent for one device. `run` it in the main thread."""

    def __init__(
        self, config: DeviceConfig, settings: AgentConfig, *, ports: Ports | None = None
    ) -> None:
        """`settings` is the `[agent]` table of `config`."""
        self._config = config
        self._settings = settings
        self._ports = ports or Ports()
        self._notifier = self._ports.notifier
        self._inbox = Inbox()
        self._timers = Timers(self._ports.clock)
        self._condition = Condition(state=State.STARTING, since_ms=utc_ms())
        self._publisher: Publisher | None = None
        self._keeper: Keeper | None = None
        self._device: Device | None = None
        self._watch: Watch | None = None
        self._places: dict[str, Path] = {}
        self._presence: Presence | None = None
        self._lost: TpmAwayError | None = None
        self._stopping = False
        self._ready = False
        retry = Backoff(settings.retry, cap=settings.heartbeat, fraction=self._ports.fraction)
        self._waiter = Waiter(self.attest_soon, backoff=retry)
        self._looking = Backoff(
            settings.look_for_tpm, cap=_SLOWEST_LOOK, fraction=self._ports.fraction
        )

    # --- for other threads ------------------------------------------------------------

    @property
    def condition(self) -> Condition:
        """Where the device stands."""
        return self._condition

    @property
    def keeper(self) -> Keeper | None:
        """Who keeps the device, while it is open."""
        return self._keeper

    def attest_soon(self, reason: str) -> None:
        """Have the owner attest; does not wait for it."""

        def hasten() -> None:
            LOG.info("attests: %s", reason)
            self._timers.hasten(ATTEST, 0)

        self._inbox.post(hasten)

    def ask(self, work: Callable[[], T], *, limit: float | None = None) -> T:
        """Have the owner do `work`, and wait for it; see `Inbox.ask`."""
        return self._inbox.ask(work, limit=limit)

    def stop(self) -> None:
        """End soon, also while the backend is being asked. Safe in a signal handler."""
        self._stopping = True
        device = self._device
        if device is not None:
            device.hang_up()
        self._inbox.post(_nothing)

    # --- the owner ----------------------------------------------------------------------

    def run(self, *, signals: bool = False) -> None:
        """Keep the device until `stop` is called.

        With `signals` SIGTERM and SIGINT end it, and SIGHUP makes it attest: in the
        main thread only.

        Raises:
            StateBusyError: another agent has the device.
            NotEnrolledError: the device is nobody yet.
            ConfigError: what the configuration names cannot be used.
        """
        with contextlib.ExitStack() as stack:
            stack.callback(self._inbox.close)
            if signals:
                stack.enter_context(handled(self._handlers(), waker=self._inbox.waker))
            stack.callback(self._notifier.close)
            stack.callback(self._notifier.stopping)
            self._say("starting")
            self._presence = self._ports.watch_tpm(self._config.tpm.tcti)
            stack.enter_context(closing(self._presence))
            self._waiter.start()
            stack.callback(self._waiter.stop)
            with contextlib.ExitStack() as served:
                while not self._stopping:
                    try:
                        self._with_device(served)
                    except TpmAwayError as error:
                        self._tpm_went(error)
                        self._serve(served)
                        self._await_tpm()

    def attest_now(self) -> AttestResult:
        """Attest; of the owner's thread.

        Raises:
            HwTrustError: why the backend could not be asked.
        """
        keeper = self._keeper
        if keeper is None:
            raise TpmAwayError("the TPM is away")
        try:
            result = keeper.attest()
        except TpmAwayError as error:
            # Who asked is told; the owner has to know as well.
            self._lost = error
            raise
        if result is None:
            raise keeper.failure or AgentStoppedError("the agent is ending")
        return result

    def _handlers(self) -> dict[int, Callable[[], None]]:
        return {
            signal.SIGTERM: self.stop,
            signal.SIGINT: self.stop,
            signal.SIGHUP: lambda: self.attest_soon("told by a signal"),
        }

    def _with_device(self, served: contextlib.ExitStack) -> None:
        with self._opened() as device:
            if self._stopping:
                return
            self._serve(served)
            grace = OfflineGrace(Path(self._config.state_dir) / GRACE_FILE)
            keeper = Keeper(
                device,
                self._settings,
                timers=self._timers,
                grace=grace,
                tell=self._tell,
                lines=self._waiter.use,
                log=LOG.info,
                fraction=self._ports.fraction,
                progress=self._notifier.progress,
                ending=lambda: self._stopping,
                wanted=self._wanted,
            )
            self._keeper = keeper
            try:
                self._watch = self._watched(device)
                with closing(self._watch):
                    keeper.begin()
                    self._looking.reset()
                    self._began()
                    while not self._stopping:
                        self._turn(keeper)
            finally:
                self._keeper = self._watch = None
                if keeper.line is not None:
                    # Else a report that is under way would hold up the end.
                    keeper.line.close()

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Device]:
        with contextlib.ExitStack() as stack:
            try:
                device = stack.enter_context(self._ports.open_device(self._config, self._heard))
            except AWAY as error:
                raise away(error) from error
            except StateBusyError as error:
                if not self._ready:
                    raise
                # While the TPM was away a command took the device, for a moment.
                raise away(error) from error
            self._device = device
            try:
                yield device
            finally:
                self._device = None

    def _turn(self, keeper: Keeper) -> None:
        watch = self._watch
        # What happens while layers settle is read when they have: a storm wakes nobody.
        ready = self._wait(None if keeper.settling else watch)
        self._inbox.take()
        if self._lost is not None:
            lost, self._lost = self._lost, None
            raise lost
        due = self._timers.due()
        if watch is not None and (SETTLE in due or watch.fileno() in ready):
            keeper.layers_touched(watch.changed())
        if self._presence is not None and self._presence.fileno() in ready:
            events = self._presence.events()
            if events:
                keeper.probe()
        keeper.turn(due)
        places = keeper.device.places
        if watch is not None and places != self._places:
            # A release waits for its restart: what runs lies in the other slot.
            self._places = places
            watch.rearm(places)
            keeper.layers_touched(places)

    def _wait(self, watch: Watch | None = None) -> frozenset[int]:
        self._notifier.progress()
        if self._stopping:
            return frozenset()
        waits = [self._timers.wait(), self._notifier.interval]
        shortest = min((seconds for seconds in waits if seconds is not None), default=None)
        ready = self._ports.wait(self._sources(watch), shortest)
        self._require_threads()
        self._notifier.progress()
        return ready

    def _sources(self, watch: Watch | None) -> list[int]:
        numbers = [source.fileno() for source in (self._inbox, watch, self._presence) if source]
        return [number for number in numbers if number is not None]

    def _wanted(self) -> bool:
        """Whether something waits for the owner, who is in the midst of something long."""
        return self._timers.wait() == 0 or bool(self._ports.wait(self._sources(self._watch), 0))

    def _require_threads(self) -> None:
        """An agent of which a part has died had better be started again."""
        if self._publisher is not None and not self._publisher.alive:
            raise AgentSocketError("the socket is served no longer")
        if not self._waiter.alive:
            raise AgentStoppedError("the thread that waits for the backend has died")

    # --- a TPM that has gone --------------------------------------------------------------

    def _tpm_went(self, error: TpmAwayError) -> None:
        self._timers = Timers(self._ports.clock)
        was = self._condition
        self._tell(
            msgspec.structs.replace(
                was,
                state=State.TPM_AWAY,
                since_ms=was.since_ms if was.state is State.TPM_AWAY else utc_ms(),
                step="tpm",
                layer="",
                code=str(error.data.get("problem") or error.code),
                message=error.message,
            )
        )

    def _await_tpm(self) -> None:
        """Wait until it is worth while to open the TPM again."""
        self._began()
        self._timers.start(_TPM, self._looking.next())
        if self._presence is None or self._presence.fileno() is None:
            self._timers.start(_LOOK, self._settings.look_for_tpm)
        while not self._stopping:
            self._wait()
            self._inbox.take()
            due = self._timers.due()
            if self._came(looking=_LOOK in due):
                self._looking.reset()
                return
            if _TPM in due:
                return
            if _LOOK in due:
                self._timers.start(_LOOK, self._settings.look_for_tpm)

    def _came(self, *, looking: bool) -> bool:
        if self._presence is None:
            return False
        events = self._presence.poll() if looking else self._presence.events()
        return any(event.change == "appeared" for event in events)

    # --- what others are told -----------------------------------------------------------

    def _serve(self, served: contextlib.ExitStack) -> None:
        """Open the socket, once: not before it is known that no other agent has the device."""
        if self._publisher is None:
            operations = AgentOperations(self)
            self._publisher = served.enter_context(self._ports.serve(self._settings, operations))
            # Ends before the socket does, whose threads may wait for it.
            served.callback(self._inbox.refuse)

    def _began(self) -> None:
        if not self._ready:
            self._ready = True
            self._notifier.ready()
            self._ports.warn()
            give_back()

    def _heard(self, condition: Condition) -> None:
        """Of the device itself, in the midst of its work."""
        keeper = self._keeper
        self._tell(keeper.condition if keeper is not None else condition)

    def _tell(self, condition: Condition) -> None:
        former, self._condition = self._condition, condition
        if condition == former:
            return
        self._say(_words(condition))
        if (former.state, former.code) != (condition.state, condition.code):
            LOG.info("the device is %s", _words(condition))
        if self._publisher is not None:
            self._publisher.publish(condition)

    def _say(self, text: str) -> None:
        self._notifier.status(text)

    def _watched(self, device: Device) -> Watch | None:
        if not self._settings.watch:
            return None
        self._places = device.places
        return self._ports.watch_layers(self._places)


def _words(condition: Condition) -> str:
    why = f": {condition.message} [{condition.code}]" if condition.code else ""
    return f"{condition.state}{why}"


def _nothing() -> None:
    pass
