"""The thread that decides attestations: it takes all that wait, and answers them together.

    requests ──▶ queue (bounded) ──▶ one thread: Groups.answer ──▶ the event loop, once a group

Rules:
1. A single attestation waits for no other. Where several come at once, as many as the
   last time are awaited, for `GATHER_SECONDS` at most: a commit costs about the same
   for one as for all.
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
from hwtrust.verify.policy import TPM
from hwtrust.wire.messages import AttestReply
from hwtrust.wire.statement import decode_statement
from hwtrust_backend.appraisal import GROUP_LIMIT, Asked, Outcome
from hwtrust_backend.enrolment import step_label
from hwtrust_backend.observe import metrics

QUEUE_LIMIT: Final = 1024
BUSY_SECONDS: Final = 2
"""When to come again."""
GATHER_SECONDS: Final = 0.002
"""How long a group that follows another one waits to become as large."""
_LOOK_SECONDS: Final = GATHER_SECONDS / 4

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
        self._expected = 1
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
            self._begin_gathering(loop)
        return await future

    def _begin_gathering(self, loop: asyncio.AbstractEventLoop) -> None:
        ends = loop.time() + GATHER_SECONDS
        loop.call_soon(self._gather, loop, ends, len(self._queue))

    def _gather(self, loop: asyncio.AbstractEventLoop, ends: float, seen: int) -> None:
        """Wake the thread when a turn of the loop has brought nothing new, and rule 1 is met."""
        waiting = len(self._queue)
        if seen < waiting < self._group_limit:
            loop.call_soon(self._gather, loop, ends, waiting)
        elif waiting < self._expected and loop.time() < ends:
            loop.call_later(_LOOK_SECONDS, self._gather, loop, ends, waiting)
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
            self._expected = min(len(group) + len(self._queue), self._group_limit)
            _count(group, outcomes)
            _tell(group, outcomes)

    def _next_group(self) -> list[_Waiting]:
        """What was gathered, as soon as something is; empty at the end."""
        while True:
            if len(self._queue) < self._group_limit:
                self._rest()
            if self._queue:
                self._idle = False
                count = min(len(self._queue), self._group_limit)
                return [self._queue.popleft() for _ in range(count)]
            if self._closed:
                return []

    def _rest(self) -> None:
        """Let the loop gather, until it wakes this thread."""
        with self._changed:
            if not self._woken and not self._closed:
                # In this order: whoever appends after the look sees that a wake is due.
                self._idle = True
                if self._queue:
                    self._pass_on(self._queue[0].future.get_loop())
            while not self._woken and not self._closed:
                self._changed.wait()
            self._woken = False

    def _pass_on(self, loop: asyncio.AbstractEventLoop) -> None:
        """Have the loop gather: those who came meanwhile, and those who were just answered."""
        try:
            loop.call_soon_threadsafe(self._resume, loop)
        except RuntimeError:  # the loop has ended
            self._woken = True

    def _resume(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._idle:
            self._idle = False
            self._begin_gathering(loop)

    def _outcomes(self, group: list[Asked]) -> Sequence[Outcome]:
        try:
            return self._answer(group)
        except Exception as error:  # noqa: BLE001 - rule 4
            _log.exception("attestations were not answered")
            return [error] * len(group)


def _count(group: list[_Waiting], outcomes: Sequence[Outcome]) -> None:
    """Count what was decided, and what devices report to have failed; nobody waits for it."""
    try:
        for waiting, outcome in zip(group, outcomes, strict=True):
            if not isinstance(outcome, AttestReply):
                continue
            metrics.ATTESTATIONS.inc(standing=outcome.standing.value)
            metrics.ATTESTATIONS_OF_KIND.inc(kind=TPM)
            said = waiting.asked.request.evidence.binding.statement
            failure = decode_statement(said).failure if said else None
            if failure is not None:
                metrics.FAILURES.inc(step=step_label(failure.step))
    except Exception:  # noqa: BLE001 - rule 4
        _log.exception("attestations were not counted")


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
