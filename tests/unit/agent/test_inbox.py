"""Work that other threads and signals hand to the owner of the device."""

from __future__ import annotations

import select
import threading
from typing import TYPE_CHECKING

import pytest

from hwtrust.agent.inbox import Inbox
from hwtrust.errors import AgentStoppedError, KeyStoreLockedError

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE = 20.0


def serve_one(inbox: Inbox) -> None:
    """Be the owner until there was work."""
    assert select.select([inbox], [], [], PATIENCE)[0]
    inbox.take()


def in_thread(work: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    """Run `work` in another thread; gives it, and where its outcome will be."""
    outcome: list[object] = []

    def run() -> None:
        try:
            outcome.append(work())
        except (AgentStoppedError, KeyStoreLockedError) as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, outcome


def test_work_runs_in_the_owners_thread_and_in_order() -> None:
    """One thread touches the device, whoever asks."""
    inbox = Inbox()
    ran: list[tuple[int, int]] = []
    for number in range(3):
        inbox.post(lambda number=number: ran.append((number, threading.get_ident())))  # type: ignore[misc]
    serve_one(inbox)
    assert ran == [(number, threading.get_ident()) for number in range(3)]
    assert not select.select([inbox], [], [], 0)[0]
    inbox.close()


def test_who_asks_is_given_the_outcome() -> None:
    """What the work gives, or what it raises."""
    inbox = Inbox()
    thread, outcome = in_thread(lambda: inbox.ask(lambda: 17))
    serve_one(inbox)
    thread.join(PATIENCE)
    assert outcome == [17]

    def refuse() -> int:
        raise KeyStoreLockedError("locked")

    thread, outcome = in_thread(lambda: inbox.ask(refuse))
    serve_one(inbox)
    thread.join(PATIENCE)
    assert [getattr(found, "code", "") for found in outcome] == ["keystore:locked"]
    inbox.close()


def test_nobody_waits_for_an_owner_that_has_gone() -> None:
    """Who waits when the inbox closes, and who comes later, is told; work is not done."""
    inbox = Inbox()
    ran: list[str] = []
    thread, outcome = in_thread(lambda: inbox.ask(lambda: ran.append("late")))
    assert select.select([inbox], [], [], PATIENCE)[0]
    inbox.close()
    inbox.close()
    thread.join(PATIENCE)
    assert [getattr(found, "code", "") for found in outcome] == ["agent:stopped"]
    with pytest.raises(AgentStoppedError):
        inbox.ask(lambda: None)
    inbox.post(lambda: ran.append("later"))
    assert ran == []


def test_who_waits_too_long_is_told() -> None:
    """A request has a limit, and the work may still be done."""
    inbox = Inbox()
    with pytest.raises(AgentStoppedError):
        inbox.ask(lambda: None, limit=0)
    inbox.take()
    inbox.close()


def test_a_signal_handler_may_post_while_its_own_thread_does() -> None:
    """Posting within posting neither waits nor loses anything."""
    inbox = Inbox()
    ran: list[str] = []
    with inbox._mutex:  # as if the signal came in the middle of `post`
        inbox.post(lambda: ran.append("signal"))
    inbox.take()
    assert ran == ["signal"]
    inbox.close()


def test_who_asks_without_end_keeps_the_owner_from_nothing_else() -> None:
    """What comes while work is done is for the next turn, of which the owner is told."""
    inbox = Inbox()
    ran: list[int] = []

    def again() -> None:
        ran.append(len(ran))
        if len(ran) < 1000:
            inbox.post(again)

    inbox.post(again)
    serve_one(inbox)
    assert ran == [0]
    serve_one(inbox)
    assert ran == [0, 1]
    inbox.close()
