"""The state of a process that serves: whether it stops, may change anything, and can work.

    Stopping    set once, when the process is told to end
    ReadOnly    the setting, or the switch in the database
    Readiness   the checks behind /readyz

Rules:
1. A state that comes from the database is kept for a moment: neither load nor
   whoever asks /readyz all day costs a query each.
2. Where the database does not say whether it may be changed, what it said last
   counts; whoever tries will be told by the database itself.
3. A schema that is newer than this version does not make it unready: a replica of
   the old version goes on while the new one is rolled out. An older one does.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import text

from hwtrust.errors import DatabaseError, HwTrustError, NotReadyError, ReadOnlyError
from hwtrust_backend.admin.switches import read_only_state
from hwtrust_backend.app.backend import Backend
from hwtrust_backend.db.schema import revisions
from hwtrust_backend.keys import KeyRole

FRESH_SECONDS: Final = 1.0
DATABASE_SECONDS: Final = 2.0
RETRY_SECONDS: Final = 30
"""When to come again, for whoever finds the backend read-only."""

SERVING: Final = "serving"
"""Under which name the application keeps its `Serving`."""

SecondsClock = Callable[[], float]

_log = logging.getLogger("hwtrust_backend")


class Stopping:
    """Whether this process has been told to end; whoever waits is told."""

    def __init__(self) -> None:
        self._set = threading.Event()
        self._callbacks: list[Callable[[], None]] = []

    def __bool__(self) -> bool:
        return self._set.is_set()

    def on_stop(self, callback: Callable[[], None]) -> None:
        """Call `callback` when the process is told to end."""
        self._callbacks.append(callback)

    def set(self) -> None:
        """End: once."""
        if not self._set.is_set():
            self._set.set()
            for callback in self._callbacks:
                callback()


class ReadOnly:
    """Whether nothing may be changed."""

    def __init__(self, backend: Backend, *, clock: SecondsClock = time.monotonic) -> None:
        self._backend = backend
        self._clock = clock
        self._asked: float | None = None
        self._on = False
        self._lock = threading.Lock()

    @property
    def is_known(self) -> bool:
        """Whether `is_on` answers without asking the database."""
        if self._backend.settings.read_only:
            return True
        return self._asked is not None and self._clock() - self._asked < FRESH_SECONDS

    def is_on(self) -> bool:
        """Whether the setting or the switch says so; at most a second old."""
        if self._backend.settings.read_only:
            return True
        with self._lock:
            if not self.is_known:
                try:
                    with self._backend.database.reading() as session:
                        self._on = read_only_state(session).is_on
                except DatabaseError:
                    pass  # rule 2
                self._asked = self._clock()
            return self._on

    def require_off(self) -> None:
        """Go on if changes are allowed.

        Raises:
            ReadOnlyError: they are not, at the moment.
        """
        if self.is_on():
            message = "the backend is read-only at the moment and changes nothing"
            raise ReadOnlyError(message, seconds=RETRY_SECONDS)


class Readiness:
    """The checks behind /readyz, by name; each raises an error of the tree that says why."""

    def __init__(
        self, backend: Backend, stopping: Stopping, *, clock: SecondsClock = time.monotonic
    ) -> None:
        self._backend = backend
        self._stopping = stopping
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: dict[str, str] = {}
        self._asked: float | None = None
        # One thread: a database that does not answer costs one, however many ask.
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="hwtrust-backend-ready")
        self._checks: dict[str, Callable[[], None]] = {
            "database": self._check_database,
            "keys": self._check_keys,
            "clock": backend.clock_watch.require_right,
        }

    def add(self, name: str, check: Callable[[], None]) -> None:
        """Hold readiness to another check."""
        self._checks[name] = check

    def failures(self) -> dict[str, str]:
        """Which checks fail, and why; at most a second old, but for stopping."""
        with self._lock:
            if self._asked is None or self._clock() - self._asked >= FRESH_SECONDS:
                kept, self._asked = self._checked(), self._clock()
                if kept.keys() != self._kept.keys():
                    _say(kept)
                self._kept = kept
            kept = dict(self._kept)
        if self._stopping:
            kept["stopping"] = "this process has been told to end"
        return kept

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all checks."""
        return (*self._checks, "stopping")

    def close(self) -> None:
        """Give the thread back."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _checked(self) -> dict[str, str]:
        failures: dict[str, str] = {}
        for name, check in self._checks.items():
            try:
                self._pool.submit(check).result(DATABASE_SECONDS)
            except FutureTimeoutError:
                failures[name] = f"no answer within {DATABASE_SECONDS:g} seconds"
            except HwTrustError as error:
                failures[name] = f"{error.code}: {error.message}"
        return failures

    def _check_database(self) -> None:
        with self._backend.database.reading() as session:
            found = session.scalar(text("SELECT version_num FROM alembic_version"))
        if found is None or found < revisions()[-1]:
            message = f"the database has the schema {found!r}; this version needs a newer one"
            raise NotReadyError(message)

    def _check_keys(self) -> None:
        # A key service may be elsewhere; the public key is the least that it can say.
        _ = self._backend.vault.signer(KeyRole.METADATA).public_key


def _say(failures: Mapping[str, str]) -> None:
    if not failures:
        _log.warning("ready again")
    for name, reason in failures.items():
        _log.warning("not ready: %s: %s", name, reason)


@dataclass(slots=True)
class Serving:
    """What routes and middleware ask about their process."""

    stopping: Stopping
    read_only: ReadOnly
    readiness: Readiness
    started: float = field(default_factory=time.time)
    """Seconds since 1970."""

    @classmethod
    def of(cls, backend: Backend) -> Serving:
        """The state of a process that begins to serve."""
        stopping = Stopping()
        stopping.on_stop(backend.waiters.end)
        return cls(stopping, ReadOnly(backend), Readiness(backend, stopping))

    def close(self) -> None:
        """Give back what the checks hold."""
        self.readiness.close()
