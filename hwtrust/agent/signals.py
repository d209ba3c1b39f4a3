"""Signals, so that none is slept through.

Python runs a handler in the main thread, when that comes to its next step. A signal
that the kernel gives to another thread, or that comes just before the main thread
begins to wait, does not end the wait. Hence whoever waits also waits for a
descriptor into which the interpreter writes at each signal (`signal.set_wakeup_fd`).
"""

from __future__ import annotations

import contextlib
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


@contextlib.contextmanager
def handled(handlers: Mapping[int, Callable[[], None]], *, waker: int) -> Iterator[None]:
    """Call the handler of each signal, and write a byte into `waker`; as before at the end.

    `waker` does not block. In the main thread only.
    """
    with contextlib.ExitStack() as stack:
        for number, handler in handlers.items():
            former = signal.signal(number, lambda *_, handler=handler: handler())
            stack.callback(signal.signal, number, former)
        former_waker = signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        stack.callback(signal.set_wakeup_fd, former_waker)
        yield
