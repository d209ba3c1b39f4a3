"""What a process does in the background, and what stops it from doing so."""

from __future__ import annotations

import dataclasses
import threading
from typing import TYPE_CHECKING

import msgspec
import pytest

from hwtrust.errors import ClockSkewError, DatabaseError
from hwtrust.wire.messages import EnrolBegin
from hwtrust_backend.app.background import TASKS, Background, Task, run_once, run_task
from hwtrust_backend.app.serving import ReadOnly
from hwtrust_backend.enrolment import Enrolment
from hwtrust_backend.enrolment.trust import allow_ek
from hwtrust_backend.testing import HOUR
from simulators.backend_clients import BackendDevice, DirectApi, ek_of

if TYPE_CHECKING:
    from hwtrust_backend.app.backend import Backend
    from hwtrust_backend.testing import ManualClock

PATIENCE = 30
"""Seconds within which a thread does what it does at once."""


def fails(_: Backend) -> None:
    """A task with a defect."""
    raise DatabaseError("the database is not there")


def test_every_task_can_run_on_an_empty_backend(backend: Backend) -> None:
    """Once each, with nothing to do; their names are labels of metrics and are unique."""
    run_once(backend)
    names = [task.name for task in TASKS]
    assert len(set(names)) == len(names) > 5
    assert not TASKS[0].by_the_clock


def test_a_task_that_fails_is_counted_and_ends_nothing(backend: Backend) -> None:
    """The others run on, and it runs again."""
    ran = threading.Semaphore(0)
    tasks = (
        Task("bad", 1, fails),
        Task("good", 1, lambda _: ran.release()),
    )
    background = Background(backend, tasks)
    background.start()
    for _ in range(3):
        assert ran.acquire(timeout=PATIENCE)
    background.stop()
    assert not run_task(tasks[0], backend, failing=set())
    assert run_task(tasks[1], backend, failing=set())


def test_a_task_that_goes_on_failing_is_one_line(
    backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    """A database that is away for an hour fills no disk; that it works again is a line too."""
    works = False

    def sometimes(backend: Backend) -> None:
        if not works:
            fails(backend)

    task, failing = Task("some", 1, sometimes), set[str]()
    assert not any(run_task(task, backend, failing=failing) for _ in range(5))
    assert [record.exc_info for record in caplog.records] == [None]
    works = True
    assert all(run_task(task, backend, failing=failing) for _ in range(5))
    assert len(caplog.records) == 2
    works = False
    assert not run_task(task, backend, failing=failing)
    assert len(caplog.records) == 3


def test_a_task_s_first_time_may_be_later(backend: Backend) -> None:
    """Devices get time to attest before anybody misses them."""
    ran = threading.Semaphore(0)
    missed: list[int] = []
    tasks = (
        Task("later", 1, lambda _: missed.append(1), first_ms=HOUR),
        Task("now", 1, lambda _: ran.release()),
    )
    background = Background(backend, tasks)
    background.start()
    for _ in range(3):
        assert ran.acquire(timeout=PATIENCE)
    background.stop()
    assert missed == []
    (watchdog,) = [task for task in TASKS if task.name == "missing"]
    assert watchdog.first_ms > 0


def test_a_process_that_begins_changes_nothing_before_it_looks_at_the_switch(
    backend: Backend,
) -> None:
    """The clocks are compared at once; a database that cannot be written is not written."""
    ran: list[str] = []
    tasks = (
        Task("compares", HOUR, lambda _: ran.append("compares"), by_the_clock=False, changes=False),
        Task("writes", HOUR, lambda _: ran.append("writes"), by_the_clock=False),
    )
    background = Background(backend, tasks)
    background._read_only = ReadOnly(
        dataclasses.replace(
            backend, settings=msgspec.structs.replace(backend.settings, read_only=True)
        )
    )
    background.start()
    background.stop()
    assert ran[:1] == ["compares"]
    assert "writes" not in ran


@pytest.mark.parametrize("by_the_clock", [True, False])
def test_while_the_clock_is_off_nothing_runs_that_decides_by_it(
    backend: Backend, *, by_the_clock: bool
) -> None:
    """The clock is compared all the same, so that it can be found right again."""
    ran: list[int] = []
    task = Task("some", 1, lambda _: ran.append(1), by_the_clock=by_the_clock)
    backend.clock_watch.skew_ms = -HOUR
    assert run_task(task, backend, failing=set())
    run_once(backend, (task,))
    assert len(ran) == (0 if by_the_clock else 2)


@pytest.mark.parametrize(
    ("skew", "is_right"), [(30_000, True), (-30_000, True), (30_001, False), (-30_001, False)]
)
def test_a_clock_may_be_off_by_the_limit_and_no_more(
    backend: Backend, skew: int, *, is_right: bool
) -> None:
    """Ahead and behind alike; beyond the limit every decision is refused."""
    backend.clock_watch.skew_ms = skew
    assert backend.clock_watch.is_right is is_right
    if not is_right:
        with pytest.raises(ClockSkewError) as caught:
            backend.clock_watch.require_right()
        assert (caught.value.code, caught.value.data) == ("backend:clock", {"skew_ms": skew})


def test_enrolments_that_took_too_long_are_forgotten(backend: Backend, clock: ManualClock) -> None:
    """What somebody began and left does not stay."""
    device = BackendDevice(backend)
    with backend.database.transaction() as session:
        allow_ek(session, device.name.hex(), label="", now=clock())
    DirectApi(backend).begin(EnrolBegin(ek_public=ek_of(device)))
    for advance, left in ((0, 1), (HOUR, 0)):
        clock.advance(advance)
        run_once(backend, tuple(task for task in TASKS if task.name == "enrolments"))
        with backend.database.reading() as session:
            assert session.query(Enrolment).count() == left
