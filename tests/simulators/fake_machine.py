"""A machine whose kernel is a model: devices by their path, behind the port of the anchors.

    machine = FakeMachine({"/dev/nsm": FakeNsm(signer)})
    find_anchors(machine)

It counts the calls that it gets, and can be cut off at any of them.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import TYPE_CHECKING, Final, NoReturn

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_READ: Final = 64 * 1024 * 1024


def fail(number: int) -> NoReturn:
    """What a system call does that fails."""
    raise OSError(number, os.strerror(number))


class Device:
    """A device file, or a directory of the kernel's; `path` is relative to it, "" is itself.

    What a device does not have fails as it does in Linux.
    """

    def mkdir(self, path: str) -> None:
        """Make a directory."""
        del path
        fail(errno.EPERM)

    def rmdir(self, path: str) -> None:
        """Remove a directory."""
        del path
        fail(errno.EPERM)

    def listdir(self, path: str) -> list[str]:
        """The names in a directory."""
        del path
        fail(errno.ENOTDIR)

    def probe(self, path: str) -> None:
        """Raise if it is not there, or may not be used."""
        if path:
            fail(errno.ENOENT)

    def read(self, path: str) -> bytes:
        """Read a file to its end."""
        del path
        fail(errno.EINVAL)

    def write(self, path: str, data: bytes) -> int:
        """Write in one call, and close."""
        del path, data
        fail(errno.EINVAL)

    def ioctl(self, path: str, request: int, argument: bytearray) -> None:
        """An ioctl."""
        del path, request, argument
        fail(errno.ENOTTY)


class Forbidden(Device):
    """Something that is there, and that this user may not touch."""

    def mkdir(self, path: str) -> None:
        """Refuse."""
        del path
        fail(errno.EACCES)

    def probe(self, path: str) -> None:
        """Refuse."""
        del path
        fail(errno.EACCES)

    def read(self, path: str) -> bytes:
        """Refuse."""
        del path
        fail(errno.EACCES)


class FakeMachine:
    """A port to model devices.

    Set `cut_off` to have the n-th call from then on (0 is the next) raise `cut`, before it
    has an effect, or with `cut_after` behind it.
    """

    def __init__(self, devices: Mapping[str, Device]) -> None:
        self.devices = dict(devices)
        self.calls: list[tuple[str, str]] = []
        self.pauses: list[float] = []
        self.cut_off: int | None = None
        self.cut_after = False
        self.cut: BaseException = KeyboardInterrupt()

    def mkdir(self, path: str) -> None:
        """Make a directory."""
        device, rest = self._enter("mkdir", path)
        device.mkdir(rest)
        self._leave()

    def rmdir(self, path: str) -> None:
        """Remove a directory."""
        device, rest = self._enter("rmdir", path)
        device.rmdir(rest)
        self._leave()

    def listdir(self, path: str) -> list[str]:
        """The names in a directory, in order."""
        device, rest = self._enter("listdir", path)
        names = sorted(device.listdir(rest))
        self._leave()
        return names

    def probe(self, path: str) -> None:
        """Raise if the path is not there, or may not be used."""
        device, rest = self._enter("probe", path)
        device.probe(rest)
        self._leave()

    def read(self, path: str, *, limit: int) -> bytes:
        """All that a file gives, up to one byte more than `limit`."""
        device, rest = self._enter("read", path)
        data = device.read(rest)[: limit + 1]
        self._leave()
        return data

    def write(self, path: str, data: bytes) -> int:
        """One write, and a close."""
        device, rest = self._enter("write", path)
        taken = device.write(rest, data)
        self._leave()
        return taken

    def ioctl(self, path: str, request: int, argument: bytearray) -> None:
        """An ioctl."""
        device, rest = self._enter("ioctl", path)
        device.ioctl(rest, request, argument)
        self._leave()

    def pause(self, seconds: float) -> None:
        """Note how long it would have waited."""
        self.pauses.append(seconds)

    def _enter(self, call: str, path: str) -> tuple[Device, str]:
        self.calls.append((call, path))
        if self.cut_off == 0 and not self.cut_after:
            self.cut_off = None
            raise self.cut
        for place, device in self.devices.items():
            if path == place or path.startswith(f"{place}/"):
                return device, path[len(place) :].removeprefix("/")
        fail(errno.ENOENT)

    def _leave(self) -> None:
        if self.cut_off == 0:
            self.cut_off = None
            raise self.cut
        if self.cut_off is not None:
            self.cut_off -= 1


def peek(address: int, size: int) -> bytes:
    """What a pointer in an ioctl's argument points to."""
    return ctypes.string_at(address, size)


def poke(address: int, data: bytes) -> None:
    """Write to where a pointer in an ioctl's argument points."""
    ctypes.memmove(address, data, len(data))
