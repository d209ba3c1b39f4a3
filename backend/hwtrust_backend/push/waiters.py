"""Devices that wait: an asyncio future each, and one thread that hears for all of them.

    wait        register ─▶ look into the database ─▶ await the future
    the thread  hear ─▶ tell the futures        (connected anew: look for everybody)

Rules:
1. No wake-up is lost: a waiter registers first and then looks; whenever the
   thread begins to hear, it looks for everybody who waits.
2. A waiter costs a future; no thread, no connection to the database.
3. One waiter for each device: the newer one ends the older one.
4. There is a limit, so that those who wait leave room for those who attest.
5. `end` ends every wait at once; whoever comes later does not wait.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Final

from hwtrust.errors import WaitersFullError
from hwtrust_backend.db import Database
from hwtrust_backend.db.notices import Watch, watching
from hwtrust_backend.push.wakes import CHANNEL, newest_serial, pending, wakes_after

HEAR_SECONDS: Final = 0.5
LINGER: Final = 60
"""So many times nothing is heard and nobody waits before the connection is given back."""
RETRY_SECONDS: Final = 1.0

_log = logging.getLogger("hwtrust_backend")


class _Waiter:
    __slots__ = ("future", "loop")

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[str] = self.loop.create_future()

    def tell(self, reason: str) -> None:
        """From any thread."""
        try:
            self.loop.call_soon_threadsafe(self._tell, reason)
        except RuntimeError:  # the loop has ended, and with it whoever waited
            return

    def _tell(self, reason: str) -> None:
        if not self.future.done():
            self.future.set_result(reason)


class Waiters:
    """Whoever waits in this process."""

    def __init__(self, database: Database, *, limit: int) -> None:
        self._database = database
        self._limit = limit
        self._lock = threading.Lock()
        self._waiting: dict[str, _Waiter] = {}
        self._thread: threading.Thread | None = None
        self._somebody = threading.Event()
        self._ended = threading.Event()
        self._serial = 0

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    async def wait(self, device: str, *, seconds: float) -> str:
        """Why the device is to attest, as soon as it is; empty where there was nothing.

        Raises:
            WaitersFullError: too many wait already.
            DatabaseError: the database is not there.
        """
        waiter = self._register(device)
        if waiter is None:
            return ""
        try:
            reason = await asyncio.to_thread(self._look, device)
            if reason:
                return reason
            async with asyncio.timeout(seconds):
                return await waiter.future
        except TimeoutError:
            return ""
        finally:
            self._forget(device, waiter)

    @property
    def ended(self) -> bool:
        """Whether this process is going away."""
        return self._ended.is_set()

    def end(self) -> None:
        """End every wait, from any thread: this process is going away."""
        with self._lock:
            self._ended.set()
            waiting = list(self._waiting.values())
        for waiter in waiting:
            waiter.tell("")
        self._somebody.set()

    def close(self) -> None:
        """End every wait, and the thread."""
        self.end()
        if self._thread is not None:
            self._thread.join(HEAR_SECONDS * 10)

    def _register(self, device: str) -> _Waiter | None:
        waiter = _Waiter()
        with self._lock:
            if self._ended.is_set():
                return None
            older = self._waiting.get(device)
            if older is None and len(self._waiting) >= self._limit:
                raise WaitersFullError(f"{self._limit} devices wait here already")
            self._waiting[device] = waiter
            self._somebody.set()
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._hear, name="hwtrust-backend-push", daemon=True
                )
                self._thread.start()
        if older is not None:
            older.tell("")
        return waiter

    def _forget(self, device: str, waiter: _Waiter) -> None:
        with self._lock:
            if self._waiting.get(device) is waiter:
                del self._waiting[device]
            if not self._waiting and not self._ended.is_set():
                self._somebody.clear()

    def _look(self, device: str) -> str:
        with self._database.reading() as session:
            return pending(session, [device]).get(device, "")

    # --- the thread ----------------------------------------------------------------

    def _hear(self) -> None:
        while self._somebody.wait() and not self._ended.is_set():
            try:
                with watching(self._database, CHANNEL) as watch:
                    self._look_for_everybody()
                    self._listen(watch)
            except Exception as error:  # noqa: BLE001 - whoever waits depends on this thread
                _log.warning("waiting devices cannot be told for now", exc_info=error)
                self._ended.wait(RETRY_SECONDS)

    def _listen(self, watch: Watch) -> None:
        idle = 0
        while idle < LINGER and not self._ended.is_set():
            told = watch.heard(HEAR_SECONDS)
            if told is None:
                self._tell_new()
            else:
                for text in told:
                    reason, *devices = text.split(" ")
                    for device in devices:
                        self._tell(device, reason)
            idle = 0 if self._somebody.is_set() else idle + 1

    def _look_for_everybody(self) -> None:
        with self._lock:
            devices = list(self._waiting)
        with self._database.reading() as session:
            self._serial = newest_serial(session)
            found = pending(session, devices)
        for device, reason in found.items():
            self._tell(device, reason)

    def _tell_new(self) -> None:
        with self._database.reading() as session:
            new = wakes_after(session, self._serial)
        for wake in new:
            self._tell(wake.device, wake.reason)
            self._serial = wake.serial

    def _tell(self, device: str, reason: str) -> None:
        waiter = self._waiting.get(device)
        if waiter is not None:
            waiter.tell(reason)
