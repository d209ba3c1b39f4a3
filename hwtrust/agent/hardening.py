"""Keep the process's memory to itself: no core dump, no debugger of the same user.

While the key store is open its keys are in this process. Pages can still be
swapped out: encrypt the swap, or have none.
"""

from __future__ import annotations

import resource

from hwtrust.errors import StateError

_PR_SET_DUMPABLE = 4


def keep_memory_private() -> None:
    """Set RLIMIT_CORE to 0 and make the process not dumpable.

    Raises:
        StateError: the kernel does not do it.
    """
    import ctypes  # noqa: PLC0415 - for one call, and never in a process that opens no device

    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (OSError, ValueError) as error:
        raise StateError(f"core dumps cannot be switched off: {error}") from error
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise StateError("the kernel does not keep the agent's memory private")
