"""What a process does beside answering: short tasks at regular times, in one thread.

Rules:
1. Every replica runs every task: a task takes its work by locked rows, so that
   several at once share it.
2. A task that fails is counted, and runs again at its next time; it ends neither
   the thread nor another task. That it fails is logged once, and that it works
   again: a database that is away for an hour must not fill the disk.
3. While this machine's clock is off, what decides by the time does not run, nor
   while the backend is read-only.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from sqlalchemy.orm import Session

from hwtrust.errors import DatabaseError, HwTrustError
from hwtrust_backend.app.backend import Backend
from hwtrust_backend.app.fence import keep_head
from hwtrust_backend.app.serving import ReadOnly
from hwtrust_backend.config.clock import HOUR, MINUTE, SECOND
from hwtrust_backend.enrolment import forget_expired
from hwtrust_backend.monitor.due import BATCH, grant_due, note_missing, retire_gone
from hwtrust_backend.observe import metrics
from hwtrust_backend.pages.sessions import sweep
from hwtrust_backend.publishing import campaigns
from hwtrust_backend.repository import due_roles

PASSES: Final = 50
"""Transactions of one run; what is left waits for the next run."""

_log = logging.getLogger("hwtrust_backend")


@dataclass(frozen=True, slots=True)
class Task:
    """Something to do every so often; `first_ms` after the start for the first time."""

    name: str
    every_ms: int
    run: Callable[[Backend], None]
    first_ms: int = 0
    by_the_clock: bool = True
    """Whether it decides by the time (rule 3)."""
    changes: bool = True
    """Whether it writes; then it rests while the backend is read-only."""


class _Batch(Protocol):
    def __call__(self, session: Session, *, now: int) -> int: ...


def _compare_clocks(backend: Backend) -> None:
    backend.clock_watch.compare(backend.database, backend.clock)


def _in_batches(work: _Batch, *, full: int) -> Callable[[Backend], None]:
    """Work in transactions of their own, until one has found less than it could have done."""

    def run(backend: Backend) -> None:
        for _ in range(PASSES):
            now = backend.clock()
            if backend.database.run(lambda session, now=now: work(session, now=now)) < full:  # type: ignore[misc]
                return

    return run


def _forget_enrolments(backend: Backend) -> None:
    now = backend.clock()
    backend.database.run(lambda session: forget_expired(session, now=now))


def _start_deliveries(backend: Backend) -> None:
    backend.courier.start_due()


def _keep_head(backend: Backend) -> None:
    keep_head(backend.database, backend.settings, backend.vault, clock=backend.clock)


def _prune_outbox(backend: Backend) -> None:
    backend.courier.prune()


def _keep_result_keys(backend: Backend) -> None:
    keys, now = backend.results.keys, backend.clock()
    with backend.database.reading() as session:
        due = keys.is_due(session, now=now)
    if due:
        with backend.database.transaction() as session:
            keys.keep(session, now=now)


def _keep_timestamp(backend: Backend) -> None:
    now = backend.clock()
    with backend.database.reading() as session:
        due = due_roles(session, now=now)
    if due:
        # The TUF library takes longer to load than all else here, and signs twice a day.
        from hwtrust_backend.repository.online import Online  # noqa: PLC0415

        online = Online(backend.settings, backend.vault)
        backend.database.run(lambda session: online.keep(session, now=now))


def _write_activity(backend: Backend) -> None:
    counts, now = backend.activity.take(), backend.clock()
    try:
        backend.database.run(lambda session: backend.activity.write(session, counts, now=now))
    except DatabaseError:
        backend.activity.give_back(counts)
        raise


def _sweep_sessions(backend: Backend) -> None:
    now = backend.clock()
    backend.database.run(lambda session: sweep(session, now=now))


TASKS: Final = (
    Task("clock", 10 * SECOND, _compare_clocks, by_the_clock=False, changes=False),
    Task("rotations", SECOND, _in_batches(grant_due, full=BATCH)),
    Task("campaigns", SECOND, _in_batches(campaigns.expand, full=1)),
    # After a start devices first get the time to attest: who was away was perhaps the backend.
    Task("missing", SECOND, _in_batches(note_missing, full=BATCH), first_ms=10 * MINUTE),
    Task("gone", HOUR, _in_batches(retire_gone, full=BATCH), first_ms=HOUR),
    Task("tree-head", MINUTE, _keep_head),
    Task("enrolments", MINUTE, _forget_enrolments),
    Task("webhooks", SECOND, _start_deliveries),
    Task("outbox", HOUR, _prune_outbox),
    Task("result-keys", MINUTE, _keep_result_keys),
    Task("timestamp", MINUTE, _keep_timestamp),
    Task("activity", MINUTE // 2, _write_activity, by_the_clock=False),
    Task("sessions", HOUR, _sweep_sessions),
)
"""Everything that runs in the background; the clock comes first."""


class Background:
    """The thread that runs the tasks of one process."""

    def __init__(self, backend: Backend, tasks: tuple[Task, ...] = TASKS) -> None:
        self._backend = backend
        self._tasks = tasks
        self._read_only = ReadOnly(backend)
        self._ended = threading.Event()
        self._failing: set[str] = set()
        self._thread = threading.Thread(
            target=self._run, name="hwtrust-backend-background", daemon=True
        )

    def start(self) -> None:
        """Compare the clocks, and begin. What changes something waits: the switch may forbid it."""
        for task in self._tasks:
            if not task.by_the_clock and not task.changes:
                run_task(task, self._backend, failing=self._failing)
        self._thread.start()

    def stop(self) -> None:
        """End the thread once the task that it is at is done."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        started = time.monotonic()
        due = {task.name: started + task.first_ms / SECOND for task in self._tasks}
        while not self._ended.wait(max(min(due.values()) - time.monotonic(), 0)):
            for task in self._tasks:
                if due[task.name] <= time.monotonic() and not self._ended.is_set():
                    if not (task.changes and self._read_only.is_on()):
                        run_task(task, self._backend, failing=self._failing)
                    # Replicas that were started together do not stay so.
                    part = random.uniform(0.9, 1.1)  # noqa: S311 - spreads work, hides nothing
                    due[task.name] = time.monotonic() + task.every_ms * part / SECOND


def run_once(backend: Backend, tasks: tuple[Task, ...] = TASKS) -> None:
    """Run every task once, in the caller's thread; what fails is raised."""
    for task in tasks:
        if not task.by_the_clock or backend.clock_watch.is_right:
            task.run(backend)


def run_task(task: Task, backend: Backend, *, failing: set[str]) -> bool:
    """Run a task; gives whether it ended well. A task that may not run now has.

    `failing` has the names of those that failed when they ran last, and is kept up.
    """
    if task.by_the_clock and not backend.clock_watch.is_right:
        return True
    begun = time.monotonic()
    metrics.TASK_FAILURES.inc(0, task=task.name)
    try:
        task.run(backend)
    except Exception as error:  # noqa: BLE001 - rule 2
        metrics.TASK_FAILURES.inc(task=task.name)
        if task.name not in failing:
            failing.add(task.name)
            _log_failure(task, error)
        return False
    finally:
        metrics.TASK_SECONDS.observe(time.monotonic() - begun, task=task.name)
    if task.name in failing:
        failing.remove(task.name)
        _log.warning("the task %s works again", task.name)
    metrics.TASK_TIME.set(time.time(), task=task.name)
    return True


def _log_failure(task: Task, error: Exception) -> None:
    if isinstance(error, HwTrustError):
        _log.error("the task %s failed: %s: %s", task.name, error.code, error.message)
    else:
        _log.error("the task %s failed", task.name, exc_info=error)
