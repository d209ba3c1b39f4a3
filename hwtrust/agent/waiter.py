"""The long poll: a thread that waits for a word from the backend.

    line ──▶ GET /v1/wait ──(attest)──▶ owner ──(attested: a line)──▶ again

Rules:
1. It has a line of its own, and touches neither device nor TPM.
2. What the backend says here only ever leads to an attestation.
3. Told once, it waits until the owner has attested: one word, one attestation.
4. What comes back sooner than a wait should, be it an error, nothing or a word, is
   followed by a pause that grows: no backend makes this thread spin.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from hwtrust.agent.timers import boottime
from hwtrust.errors import ChannelError

if TYPE_CHECKING:
    from collections.abc import Callable

    from hwtrust.agent.backoff import Backoff
    from hwtrust.device.push import Line

_END_SECONDS = 2.0
_SHORTEST = 5.0


class Waiter:
    """A thread; `start` and `stop` it."""

    def __init__(
        self,
        told: Callable[[str], None],
        *,
        backoff: Backoff,
        clock: Callable[[], float] = boottime,
    ) -> None:
        """`told` is called, in this thread, with what the backend says."""
        self._told = told
        self._clock = clock
        self._backoff = backoff
        self._changed = threading.Condition()
        self._line: Line | None = None
        self._waited_on: Line | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="wait", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin; it waits for a line first."""
        self._thread.start()

    def use(self, line: Line) -> None:
        """Wait on `line` from now on: the device has attested."""
        with self._changed:
            self._line = line
            self._changed.notify()

    def stop(self) -> None:
        """End the thread; a call under way is broken off."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
            line = self._waited_on
        if line is not None:
            line.close()
        if self._thread.is_alive():
            # It ends at once, unless it is just connecting; the process need not wait for that.
            self._thread.join(_END_SECONDS)

    def _run(self) -> None:
        while (line := self._next()) is not None:
            began, reason = self._clock(), ""
            try:
                reason = line.wait()
            except ChannelError:
                pass
            else:
                if reason:
                    self._told(reason)
            if self._clock() - began >= _SHORTEST:
                self._backoff.reset()
            else:
                self._pause(self._backoff.next())
            if not reason:
                self._again(line)

    def _next(self) -> Line | None:
        with self._changed:
            while self._line is None and not self._stopping:
                self._changed.wait()
            if self._stopping:
                return None
            self._waited_on, self._line = self._line, None
            return self._waited_on

    def _again(self, line: Line) -> None:
        with self._changed:
            self._line = self._line or line

    def _pause(self, seconds: float) -> None:
        until = self._clock() + seconds
        with self._changed:
            while not self._stopping and (left := until - self._clock()) > 0:
                self._changed.wait(left)
