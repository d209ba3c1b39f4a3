"""How other threads, and signals, hand work to the one that owns the device.

    socket · long poll · signal ──post──▶ Inbox ──take──▶ owner

Rules:
1. Work runs in the owner's thread, in the order in which it was posted.
2. Posting never waits, so it may be done in a signal handler. `ask` waits for
   the outcome: it raises what the work raised.
3. Once the inbox refuses, nobody waits for an owner that has gone.
4. What is posted while work is done waits for the next `take`: who asks without
   end keeps the owner from nothing else.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from hwtrust.errors import AgentStoppedError, HwTrustError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_MOST_WAKES = 1 << 16
"""As many bytes as a pipe holds."""


class _Request(Generic[T]):
    """Work that somebody waits for."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._done = threading.Event()
        self._result: list[T] = []
        self._error: HwTrustError | None = None

    def run(self) -> None:
        """Do it; an error goes to who waits."""
        try:
            self._result.append(self._work())
        except HwTrustError as error:
            self._error = error
        except BaseException:
            self.refuse()
            raise
        self._done.set()

    def refuse(self) -> None:
        """Nobody will do it."""
        self._error = AgentStoppedError("the agent is ending")
        self._done.set()

    def outcome(self, limit: float | None) -> T:
        """What it gave, or raised."""
        if not self._done.wait(limit):
            raise AgentStoppedError("the agent is busy with something else")
        if self._error is not None:
            raise self._error
        return self._result[0]


class Inbox:
    """Work for the owner of the device."""

    def __init__(self) -> None:
        self._woken, self._waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._work: deque[Callable[[], None]] = deque()
        self._waiting: set[_Request[Any]] = set()
        # A signal handler may interrupt who holds it, in the same thread.
        self._mutex = threading.RLock()
        self._refusing = False
        self._closed = False

    def fileno(self) -> int:
        """Readable while there may be work."""
        return self._woken

    @property
    def waker(self) -> int:
        """A descriptor, until `close`: a byte in it wakes the owner, as work does."""
        return self._waker

    def post(self, work: Callable[[], None]) -> None:
        """Have the owner do `work`; nothing where it has gone."""
        with self._mutex:
            if not self._refusing:
                self._work.append(work)
                with contextlib.suppress(BlockingIOError):  # full: it has been woken often enough
                    os.write(self._waker, b"\0")

    def ask(self, work: Callable[[], T], *, limit: float | None = None) -> T:
        """Have the owner do `work`, and wait for what it gives, `limit` seconds at most.

        Raises:
            AgentStoppedError: there is no owner any more, or it took too long.
            HwTrustError: what the work raised.
        """
        request = _Request(work)
        with self._mutex:
            if self._refusing:
                raise AgentStoppedError("the agent is ending")
            self._waiting.add(request)
        try:
            self.post(request.run)
            return request.outcome(limit)
        finally:
            with self._mutex:
                self._waiting.discard(request)

    def take(self) -> None:
        """Do what has been posted until now; the owner calls it."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._woken, _MOST_WAKES)
        for _ in range(len(self._work)):
            self._work.popleft()()

    def refuse(self) -> None:
        """Refuse what has not been done, and all that comes."""
        with self._mutex:
            self._refusing = True
            for request in self._waiting:
                request.refuse()

    def close(self) -> None:
        """Refuse, and give the descriptors back."""
        self.refuse()
        with self._mutex:
            if not self._closed:
                self._closed = True
                os.close(self._woken)
                os.close(self._waker)
