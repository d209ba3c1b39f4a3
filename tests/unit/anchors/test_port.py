"""The port to Linux: one write, a close, nothing created; memory is bounded."""

from __future__ import annotations

import array
import errno
import fcntl
import os
import pty
import stat
import struct
import termios
from typing import TYPE_CHECKING

import pytest

from hwtrust.anchors.port import LinuxPort, address, converted, erase, read_exactly, read_file
from hwtrust.errors.anchors import (
    AnchorBusyError,
    AnchorError,
    AnchorIoError,
    AnchorMissingError,
    AnchorPermissionError,
    AnchorProviderError,
    AnchorRequestError,
    AnchorResponseError,
)
from simulators.fake_machine import peek

if TYPE_CHECKING:
    from pathlib import Path

PORT = LinuxPort()


def test_a_write_neither_creates_nor_truncates(tmp_path: Path) -> None:
    """Files of the kernel are there, and take what is written at offset 0."""
    path = tmp_path / "file"
    with pytest.raises(FileNotFoundError):
        PORT.write(str(path), b"data")
    assert not path.exists()
    path.write_bytes(b"12345678")
    assert PORT.write(str(path), b"ab") == 2
    assert path.read_bytes() == b"ab345678"


def test_a_write_is_one_call_and_a_close(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was taken of it is told, not made up for by a second write."""
    path = tmp_path / "file"
    path.write_bytes(b"")
    steps: list[str] = []
    real_close = os.close

    def write(_handle: int, data: bytes) -> int:
        steps.append("write")
        return len(data) - 1

    def close(handle: int) -> None:
        steps.append("close")
        real_close(handle)

    monkeypatch.setattr(os, "write", write)
    monkeypatch.setattr(os, "close", close)
    assert PORT.write(str(path), b"data") == 3
    assert steps == ["write", "close"]


def test_a_read_stops_behind_its_limit(tmp_path: Path) -> None:
    """At one byte more, so that the reader sees that there is more."""
    path = tmp_path / "file"
    path.write_bytes(bytes(200_000))
    assert len(PORT.read(str(path), limit=10)) == 11
    assert len(PORT.read(str(path), limit=200_000)) == 200_000
    assert len(PORT.read("/dev/zero", limit=100_000)) == 100_001
    with pytest.raises(AnchorResponseError):
        read_file(PORT, str(path), limit=199_999)
    with pytest.raises(AnchorResponseError):
        read_exactly(PORT, str(path), 200_001)


def test_a_read_goes_on_after_a_short_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel may give less than there is; one byte behind the limit is still seen."""
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    real_read = os.read
    monkeypatch.setattr(os, "read", lambda handle, _size: real_read(handle, 1))
    assert PORT.read(str(path), limit=20) == b"0123456789"
    assert PORT.read(str(path), limit=5) == b"012345"
    with pytest.raises(AnchorResponseError):
        read_file(PORT, str(path), limit=5)


def test_no_handle_is_left_open(tmp_path: Path) -> None:
    """Whether a call succeeded or failed."""
    path = str(tmp_path / "file")
    (tmp_path / "file").write_bytes(b"x")
    before = os.listdir("/proc/self/fd")  # noqa: PTH208
    PORT.read(path, limit=1)
    PORT.write(path, b"y")
    with pytest.raises(OSError, match="ioctl"):
        PORT.ioctl(path, 0xC0205300, bytearray(32))
    assert os.listdir("/proc/self/fd") == before  # noqa: PTH208


def test_directories_are_private(tmp_path: Path) -> None:
    """Made, listed in order, removed."""
    path = tmp_path / "entry"
    PORT.mkdir(str(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    (tmp_path / "a").touch()
    assert PORT.listdir(str(tmp_path)) == ["a", "entry"]
    PORT.rmdir(str(path))
    assert not path.exists()


def test_a_probe_tells_absence_from_permission(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without opening anything."""
    path = tmp_path / "device"
    with pytest.raises(FileNotFoundError):
        PORT.probe(str(path))
    path.touch()
    PORT.probe(str(path))
    asked: list[tuple[object, ...]] = []

    def access(*arguments: object, effective_ids: bool = False) -> bool:
        asked.append((*arguments, effective_ids))
        return False

    monkeypatch.setattr(os, "access", access)
    with pytest.raises(PermissionError):
        PORT.probe(str(path))
    assert asked == [(str(path), os.R_OK | os.W_OK, True)]


def test_an_ioctl_changes_its_argument() -> None:
    """Tried on a terminal: the size of its window."""
    leader, follower = pty.openpty()
    try:
        path = os.ttyname(follower)
        fcntl.ioctl(follower, termios.TIOCSWINSZ, array.array("H", [24, 80, 0, 0]))
        argument = bytearray(8)
        PORT.ioctl(path, termios.TIOCGWINSZ, argument)
        assert struct.unpack("4H", argument)[:2] == (24, 80)
    finally:
        os.close(leader)
        os.close(follower)


def test_a_pause_waits_as_long_as_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the system's sleep."""
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    PORT.pause(0.25)
    assert waited == [0.25]


KINDS: dict[int, type[AnchorError]] = {
    errno.ENOENT: AnchorMissingError,
    errno.ENODEV: AnchorMissingError,
    errno.ENOTDIR: AnchorMissingError,
    errno.ENXIO: AnchorProviderError,
    errno.ENOTTY: AnchorProviderError,
    errno.EACCES: AnchorPermissionError,
    errno.EPERM: AnchorPermissionError,
    errno.EROFS: AnchorPermissionError,
    errno.EBUSY: AnchorBusyError,
    errno.EAGAIN: AnchorBusyError,
    errno.EINTR: AnchorBusyError,
    errno.EINVAL: AnchorRequestError,
    errno.EFBIG: AnchorRequestError,
    errno.E2BIG: AnchorRequestError,
    errno.EMSGSIZE: AnchorRequestError,
    errno.ETXTBSY: AnchorRequestError,
    errno.EIO: AnchorIoError,
    0: AnchorIoError,
}


def test_an_os_error_becomes_one_of_the_tree() -> None:
    """With its name, so that a report of it can be understood."""
    for number, kind in KINDS.items():
        with pytest.raises(AnchorError) as refused, converted("/dev/x"):
            raise OSError(number, "as the kernel says")
        assert type(refused.value) is kind
        assert refused.value.data["path"] == "/dev/x"
        assert refused.value.data["errno"] == errno.errorcode.get(number, "0")
    with pytest.raises(AnchorIoError) as unnumbered, converted("/dev/x"):
        raise OSError("without a number")
    assert unnumbered.value.data["errno"] == "0"


def test_an_address_is_where_the_buffer_lies() -> None:
    """What is written to the buffer is seen there; erased, it is zeros."""
    buffer = bytearray(b"secret")
    where = address(buffer)
    buffer[:] = b"SECRET"
    assert peek(where, 6) == b"SECRET"
    erase(buffer)
    assert peek(where, 6) == bytes(6)
