"""Whoever has asked a device waits here for its answer.

    ask ─▶ the device is woken, on whichever replica ─▶ its answer is in the database

Rules:
1. The answer is looked for in the database: any replica may have taken it.
2. Whoever waits holds no thread and no connection to the database while nothing is
   looked for, and few may wait at once.
3. A process that is going away lets nobody wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from hwtrust.errors import WaitersFullError
from hwtrust_backend.admin.queries import answered_since
from hwtrust_backend.app.backend import Backend

MOST_WAIT: Final = 64
"""Questions that are waited for at one process."""
LOOK_SECONDS: Final = 0.25


class Asking:
    """Whoever waits for answers in this process."""

    def __init__(self, backend: Backend, *, limit: int = MOST_WAIT) -> None:
        self._backend = backend
        self._limit = limit
        self._waiting = 0

    async def wait(self, device: str, asked_at: int, *, seconds: float) -> bool:
        """Whether the device has answered that question, as soon as it has.

        Raises:
            WaitersFullError: too many wait already.
            DatabaseError: the database is not there.
        """
        if self._waiting >= self._limit:
            raise WaitersFullError(f"{self._limit} questions are waited for here already")
        self._waiting += 1
        try:
            return await self._look(lambda: self._answered(device, asked_at), seconds)
        finally:
            self._waiting -= 1

    async def _look(self, answered: Callable[[], bool], seconds: float) -> bool:
        loop = asyncio.get_running_loop()
        ends = loop.time() + seconds
        while not await asyncio.to_thread(answered):
            left = ends - loop.time()
            if left <= 0 or self._backend.waiters.ended:
                return False
            await asyncio.sleep(min(left, LOOK_SECONDS))
        return True

    def _answered(self, device: str, asked_at: int) -> bool:
        with self._backend.database.reading() as session:
            return answered_since(session, device, asked_at)
