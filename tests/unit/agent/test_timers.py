"""Deadlines and pauses, by a clock of the test's own."""

from __future__ import annotations

import time
from dataclasses import dataclass

import pytest

from hwtrust.agent.backoff import Backoff, fraction
from hwtrust.agent.timers import Timers, boottime


@dataclass
class Clock:
    """Seconds, as the test says."""

    now: float = 1000.0

    def __call__(self) -> float:
        """What time it is."""
        return self.now


def test_what_is_due_comes_in_the_order_of_its_deadlines_and_once() -> None:
    """A late agent does first what was due first."""
    clock = Clock()
    timers = Timers(clock)
    timers.start("measure", 20)
    timers.start("attest", 10)
    timers.start("grace", 60)
    assert timers.wait() == 10
    clock.now += 30
    assert timers.wait() == 0
    assert timers.due() == ("attest", "measure")
    assert timers.due() == ()
    assert timers.left("grace") == 30


def test_a_name_has_one_deadline() -> None:
    """Starting again replaces it, hastening only ever brings it nearer, stopping removes it."""
    timers = Timers(Clock())
    timers.start("attest", 10)
    timers.start("attest", 40)
    timers.hasten("attest", 50)
    assert timers.left("attest") == 40
    timers.hasten("attest", 0)
    assert timers.left("attest") == 0
    timers.stop("attest")
    timers.stop("attest")
    assert timers.left("attest") is None
    assert timers.wait() is None


@pytest.mark.parametrize("jump", [-(10**9), -3600, 3600, 10**9])
def test_a_jump_of_the_wall_clock_moves_no_deadline(
    jump: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever sets the clock neither stops the heartbeat nor makes it a storm."""
    timers = Timers()
    timers.start("attest", 600)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + jump)
    left = timers.left("attest")
    assert left is not None
    assert 590 < left <= 600
    assert timers.due() == ()


def test_time_that_the_machine_slept_through_has_passed() -> None:
    """The clock is CLOCK_BOOTTIME, which counts on where CLOCK_MONOTONIC stands still."""
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert before <= boottime() <= time.clock_gettime(time.CLOCK_BOOTTIME)


def test_pauses_double_up_to_a_heartbeat_and_begin_anew_after_a_success() -> None:
    """At most: first, twice that, and so on; never more than the cap."""
    backoff = Backoff(1, cap=60, fraction=lambda: 1.0)
    assert [backoff.next() for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert backoff.failures == 8
    backoff.reset()
    assert backoff.next() == 1


def test_a_pause_is_anything_up_to_its_bound() -> None:
    """Full jitter: devices that failed together do not come back together."""
    draws = iter([0.0, 0.5, 0.25])
    backoff = Backoff(4, cap=60, fraction=lambda: next(draws))
    assert [backoff.next() for _ in range(3)] == [0, 4, 4]
    assert all(0 <= fraction() < 1 for _ in range(100))
    assert len({fraction() for _ in range(100)}) > 90


def test_a_backend_that_is_away_for_years_overflows_nothing() -> None:
    """The exponent has a bound of its own."""
    backoff = Backoff(0.5, cap=300, fraction=lambda: 1.0)
    for _ in range(5000):
        last = backoff.next()
        assert last <= 300
