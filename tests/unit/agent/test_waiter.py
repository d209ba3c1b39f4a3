"""The thread that waits for a word from the backend."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, cast

from hwtrust.agent.backoff import Backoff
from hwtrust.agent.waiter import Waiter
from hwtrust.errors import ChannelUnreachableError

if TYPE_CHECKING:
    from hwtrust.device.push import Line

PATIENCE = 20.0


class ScriptedLine:
    """A line that answers when the test says, and says when it is asked."""

    def __init__(self) -> None:
        self.asked = threading.Semaphore(0)
        self.answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self.closed = False

    def wait(self) -> str:
        """Wait for the test's answer; None: the backend is away."""
        self.asked.release()
        answer = self.answers.get(timeout=PATIENCE)
        if answer is None:
            raise ChannelUnreachableError("away")
        return answer

    def close(self) -> None:
        """Break the call."""
        self.closed = True
        self.answers.put(None)

    def was_asked(self) -> bool:
        """Whether it is asked within the test's patience."""
        return self.asked.acquire(timeout=PATIENCE)


def made() -> tuple[Waiter, queue.SimpleQueue[str], ScriptedLine, Line]:
    """A waiter that has started, what it is told, and a line."""
    told: queue.SimpleQueue[str] = queue.SimpleQueue()
    waiter = Waiter(told.put, backoff=Backoff(0.001, cap=0.001, fraction=lambda: 1.0))
    line = ScriptedLine()
    waiter.start()
    return waiter, told, line, cast("Line", line)


def test_one_word_leads_to_one_attestation() -> None:
    """Told, it does not ask again before the owner has attested."""
    waiter, told, line, real = made()
    waiter.use(real)
    assert line.was_asked()
    line.answers.put("rotation")
    assert told.get(timeout=PATIENCE) == "rotation"
    assert not line.asked.acquire(blocking=False)
    waiter.use(real)
    assert line.was_asked()
    waiter.stop()
    assert line.closed
    assert told.empty()


def test_it_asks_again_where_nothing_was_said_and_where_the_backend_was_away() -> None:
    """An empty answer, then none: the same line is used until there is another."""
    waiter, told, line, real = made()
    waiter.use(real)
    assert line.was_asked()
    line.answers.put("")
    assert line.was_asked()
    line.answers.put(None)
    assert line.was_asked()
    waiter.stop()
    assert told.empty()


def test_it_ends_at_once_while_it_waits() -> None:
    """For a line, or on one; nothing is left of it."""
    waiter, _, line, real = made()
    waiter.stop()
    assert not waiter.alive
    waiter, _, line, real = made()
    waiter.use(real)
    assert line.was_asked()
    waiter.stop()
    assert line.closed
    assert not waiter.alive
