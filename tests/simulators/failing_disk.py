"""A disk that fails at one call of this process: full, read-only, failing, torn, or a kill.

    disk = FailingDisk(home, nth=7, fault=Fault.FULL)
    with disk:
        work()
    disk.failed

Counted are the calls by which this thread changes something below `home`: what
other threads do, a backend for instance, is another machine's.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import threading
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

_PATHS: Final = ("mkdir", "unlink", "remove", "rmdir", "symlink", "replace", "rename", "chmod")
_DESCRIPTORS: Final = ("fchmod", "fsync", "write", "copy_file_range", "ftruncate")
_FREEING: Final = frozenset({"unlink", "remove", "rmdir", "fsync", "chmod", "fchmod", "ftruncate"})
"""What a full disk does all the same."""
_CHANGES: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Fault(Enum):
    """What the disk does at the call, and after it."""

    FULL = "full from then on"
    READ_ONLY = "read-only from then on"
    FAILING = "an input/output error, once"
    TORN = "half of it is written, then an input/output error, once"
    KILL = "the process is killed before the call"
    TORN_KILL = "the process is killed in the middle of the call"


_NUMBERS: Final = {Fault.FULL: errno.ENOSPC, Fault.READ_ONLY: errno.EROFS}
_LASTING: Final = frozenset(_NUMBERS)


class FailingDisk:
    """Enter it to have the `nth` change below `home` fail; `failed` says whether it came to that.

    `calls` are the changes that were tried, by name and place.
    """

    def __init__(self, home: Path, *, nth: int, fault: Fault) -> None:
        self.calls: list[tuple[str, str]] = []
        self._home = f"{home}/"
        self._nth = nth
        self._fault = fault
        self._thread = threading.get_ident()
        self._patch = pytest.MonkeyPatch()

    def __enter__(self) -> Self:
        for name in (*_PATHS, *_DESCRIPTORS, "open"):
            self._patch.setattr(os, name, self._guarded(name, getattr(os, name)))
        disk, real_open = self, io.open

        class File(io.FileIO):
            """A file whose writing is counted."""

            def write(self, data: Any, /) -> int:  # noqa: ANN401 - as the real one
                return int(disk.change("write", self._place(), super().write, (data,), at=0))

            def _place(self) -> str:
                return _opened(self.fileno())

        def open_file(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            counted = not isinstance(file, int) and {*mode} & {*"wax+"}
            if not counted or "opener" in kwargs or not disk.is_ours(file):
                return real_open(file, mode, *args, **kwargs)
            opened = File if "b" in mode else real_open
            return disk.change("open", os.fsdecode(file), opened, (file, mode))

        def fdopen(descriptor: int, mode: str = "r", buffering: int = -1) -> Any:  # noqa: ANN401
            if buffering == 0:
                return File(descriptor, mode)
            return real_open(descriptor, mode, buffering)

        self._patch.setattr(io, "FileIO", File)
        self._patch.setattr(io, "open", open_file)
        self._patch.setattr(os, "fdopen", fdopen)
        return self

    def __exit__(self, *_: object) -> None:
        self._patch.undo()

    @property
    def failed(self) -> bool:
        """Whether the call came."""
        return len(self.calls) >= self._nth

    def is_ours(self, path: Any) -> bool:  # noqa: ANN401 - as calls take it
        """Whether a path is the device's, and the caller the device."""
        if threading.get_ident() != self._thread:
            return False
        return os.fsdecode(path).startswith(self._home)

    def change(
        self,
        name: str,
        place: str,
        real: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None = None,
        *,
        at: int = 1,
    ) -> Any:  # noqa: ANN401 - as the call
        """Do a change, or fail; `at` is where what is written stands in `args`."""
        if not self.is_ours(place):
            return real(*args, **(kwargs or {}))
        self.calls.append((name, place))
        now, fault = len(self.calls) == self._nth, self._fault
        number = _NUMBERS.get(fault, errno.EIO)
        if now and fault is Fault.KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        if now and fault in {Fault.TORN, Fault.TORN_KILL} and name == "write":
            data = memoryview(args[at])
            real(*args[:at], data[: len(data) // 2])
        if now and fault is Fault.TORN_KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        lasting = fault in _LASTING and self.failed
        spared = fault is Fault.FULL and name in _FREEING
        if (now or lasting) and not spared:
            raise OSError(number, os.strerror(number), place)
        return real(*args, **(kwargs or {}))

    def _guarded(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as the call
            if name == "open" and not args[1] & _CHANGES:
                return real(*args, **kwargs)
            return self.change(name, _place(name, args, kwargs), real, args, kwargs)

        return call


def _place(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    if name == "copy_file_range":
        return _opened(args[1])
    if isinstance(args[0], int):
        return _opened(args[0])
    path = os.fsdecode(args[1] if name in {"symlink", "replace", "rename"} else args[0])
    above = kwargs.get("dir_fd")
    return path if above is None else f"{_opened(above)}/{path}"


def _opened(descriptor: int) -> str:
    """What a descriptor was opened by."""
    return str(Path(f"/proc/self/fd/{descriptor}").readlink())
