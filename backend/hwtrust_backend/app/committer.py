"""The thread that decides attestations: it takes all that wait, and answers them together.

    requests ──▶ queue (bounded) ──▶ one thread: Groups.answer ──▶ the event loop, once a group

Rules:
1. Nothing waits for a group to fill: the thread takes what is there.
2. The queue is bounded: who finds it full is told to come again later.
3. `close` takes nothing new and answers all that was taken.
4. Whatever goes wrong, everybody who waits is answered.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from hwtrust.errors import BackendBusyError
from hwtrust.wire.messages import AttestReply
from hwtrust_backend.appraisal import GROUP_LIMIT, Asked, Outcome
from hwtrust_backend.observe import metrics

QUEUE_LIMIT: Final = 1024
BUSY_SECONDS: Final = 2
"""When to come again."""

_log = logging.getLogger("hwtrust_backend")


@dataclass(frozen=True, slots=True)
class _Waiting:
    asked: Asked
    future: asyncio.Future[AttestReply]


class Committer:
    """One for each process. Its thread begins with the first attestation."""

    def __init__(
        self,
        answer: Callable[[Sequence[Asked]], Sequence[Outcome]],
        *,
        group_limit: int = GROUP_LIMIT,
        queue_limit: int = QUEUE_LIMIT,
    ) -> None:
        self._answer = answer
        self._group_limit = group_limit
        self._queue_limit = queue_limit
        self._queue: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._idle = True
        self._woken = False
        self._thread: threading.Thread | None = None

    async def submit(self, asked: Asked) -> AttestReply:
        """The answer, once what it says is committed.

        Raises:
            BackendBusyError: too many wait already, or the backend is stopping.
            HwTrustError: it is refused.
        """
        loop = asyncio.get_running_loop()
        if self._closed or len(self._queue) >= self._queue_limit:
            message = "too many attestations wait for their answer"
            raise BackendBusyError(message, seconds=BUSY_SECONDS)
        future: asyncio.Future[AttestReply] = loop.create_future()
        self._queue.append(_Waiting(asked, future))
        if self._idle:
            # Once for all that this turn of the loop brings: waking a thread is dear.
            self._idle = False
            loop.call_soon(self._wake_soon, loop, len(self._queue))
        return await future

    def _wake_soon(self, loop: asyncio.AbstractEventLoop, seen: int) -> None:
        """Wake the thread when a turn of the loop has brought nothing new: no time is waited."""
        waiting = len(self._queue)
        if seen < waiting < self._group_limit:
            loop.call_soon(self._wake_soon, loop, waiting)
        else:
            self._wake()

    def _wake(self) -> None:
        with self._changed:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="hwtrust-backend-committer", daemon=True
                )
                self._thread.start()
            self._woken = True
            self._changed.notify()

    def close(self) -> None:
        """Take nothing new, answer what was taken, and end the thread."""
        self._closed = True
        if self._queue or self._thread is not None:
            self._wake()
        if self._thread is not None:
            self._thread.join()

    def __len__(self) -> int:
        """How many wait for the thread."""
        return len(self._queue)

    def _run(self) -> None:
        while group := self._next_group():
            metrics.COMMIT_SIZE.observe(len(group))
            with metrics.COMMIT_SECONDS.time():
                outcomes = self._outcomes([waiting.asked for waiting in group])
            for outcome in outcomes:
                if isinstance(outcome, AttestReply):
                    metrics.ATTESTATIONS.inc(standing=outcome.standing.value)
            _tell(group, outcomes)

    def _next_group(self) -> list[_Waiting]:
        """What is there, as soon as something is; empty at the end."""
        while not self._queue:
            # In this order: whoever appends after the look sees that a wake is due.
            self._idle = True
            if self._queue:
                break
            with self._changed:
                while not self._woken and not self._closed:
                    self._changed.wait()
                self._woken = False
            if self._closed and not self._queue:
                return []
        self._idle = False
        count = min(len(self._queue), self._group_limit)
        return [self._queue.popleft() for _ in range(count)]

    def _outcomes(self, group: list[Asked]) -> Sequence[Outcome]:
        try:
            return self._answer(group)
        except Exception as error:  # noqa: BLE001 - rule 4
            _log.exception("attestations were not answered")
            return [error] * len(group)


def _tell(group: list[_Waiting], outcomes: Sequence[Outcome]) -> None:
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[_Waiting, Outcome]]] = {}
    for waiting, outcome in zip(group, outcomes, strict=True):
        by_loop.setdefault(waiting.future.get_loop(), []).append((waiting, outcome))
    for loop, told in by_loop.items():
        try:
            loop.call_soon_threadsafe(_tell_in_loop, told)
        except RuntimeError:  # the loop has ended, and with it whoever waited
            continue


def _tell_in_loop(told: list[tuple[_Waiting, Outcome]]) -> None:
    for waiting, outcome in told:
        if waiting.future.done():  # whoever asked has gone
            continue
        if isinstance(outcome, Exception):
            waiting.future.set_exception(outcome)
        else:
            waiting.future.set_result(outcome)
