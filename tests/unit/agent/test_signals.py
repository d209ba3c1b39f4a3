"""Signals reach who waits, whichever thread the kernel gives them to."""

from __future__ import annotations

import select
import signal
import threading

from hwtrust.agent.inbox import Inbox
from hwtrust.agent.signals import handled

PATIENCE = 10.0


def test_a_signal_that_another_thread_gets_wakes_the_owner() -> None:
    """The owner sleeps in the main thread, and is not asleep any more when its work is there."""
    inbox = Inbox()
    ran: list[str] = []
    done = threading.Event()
    other = threading.Thread(target=done.wait, daemon=True)
    other.start()

    def work() -> None:
        inbox.post(lambda: ran.append("told"))

    with handled({signal.SIGUSR1: work}, waker=inbox.waker):
        assert other.ident is not None
        timer = threading.Timer(0.2, signal.pthread_kill, (other.ident, signal.SIGUSR1))
        timer.start()
        assert select.select([inbox], [], [], PATIENCE)[0]
        inbox.take()
        timer.join()
    done.set()
    other.join()
    inbox.take()
    assert ran == ["told"]
    inbox.close()


def test_handlers_are_as_before_at_the_end() -> None:
    """Nobody is left who would write into a descriptor that belongs to somebody else by then."""
    inbox = Inbox()
    before = signal.getsignal(signal.SIGUSR1)
    with handled({signal.SIGUSR1: lambda: None}, waker=inbox.waker):
        assert signal.getsignal(signal.SIGUSR1) is not before
    assert signal.getsignal(signal.SIGUSR1) is before
    assert signal.set_wakeup_fd(-1) == -1
    inbox.close()


def test_more_wakes_than_a_pipe_holds_lose_no_work() -> None:
    """A full pipe is one that has woken its owner."""
    inbox = Inbox()
    ran: list[int] = []
    for number in range(100_000):
        inbox.post(lambda number=number: ran.append(number))  # type: ignore[misc]
    inbox.take()
    assert len(ran) == 100_000
    inbox.close()
