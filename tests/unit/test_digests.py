"""What is remembered of a file rests on fs-verity, and on nothing else."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import struct
from typing import TYPE_CHECKING

import pytest

from hwtrust import digests
from hwtrust.digests import MeasureCache, sha256, verity_digest
from hwtrust.errors import LayerUnreadableError
from hwtrust.layers import measure

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_ENABLE = 0x4080_6685
"""FS_IOC_ENABLE_VERITY, <linux/fsverity.h>."""


class Verity:
    """The kernel's fs-verity, by its rules: what is enabled never changes; others have no name."""

    def __init__(self) -> None:
        """Enabled for nothing yet."""
        self.enabled: dict[int, bytes] = {}
        self.meanwhile: Callable[[int], object] = lambda _: None

    def enable(self, path: Path, salt: bytes = b"") -> None:
        """FS_IOC_ENABLE_VERITY: from here on the file cannot be opened for writing."""
        self.enabled[path.stat().st_ino] = (
            b"\1\0\x20\0" + hashlib.sha256(b"verity" + salt + path.read_bytes()).digest()
        )

    def __call__(self, descriptor: int) -> bytes | None:
        """FS_IOC_MEASURE_VERITY."""
        name = self.enabled.get(os.fstat(descriptor).st_ino)
        self.meanwhile(descriptor)
        return name


@pytest.fixture
def verity() -> Verity:
    """A file system that has fs-verity."""
    return Verity()


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The inodes of the files whose bytes were read."""
    inodes: list[int] = []

    def counted(descriptor: int, buffer: bytearray | None = None) -> bytes:
        inodes.append(os.fstat(descriptor).st_ino)
        return sha256(descriptor, buffer)

    monkeypatch.setattr(digests, "sha256", counted)
    return inodes


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    """A tree of small and large files."""
    top = tmp_path / "layer"
    (top / "lib").mkdir(parents=True)
    for number in range(4):
        (top / "lib" / f"small{number}").write_bytes(b"%d" % number)
        (top / "lib" / f"large{number}").write_bytes(b"%d" % number * 3_000_000)
    return top


def files(top: Path) -> list[Path]:
    """All files of a layer."""
    return sorted(path for path in top.rglob("*") if path.is_file())


def rewritten(path: Path, content: bytes) -> None:
    """Other bytes in the same inode, of the same size, with the times of before."""
    status = path.stat()
    assert len(content) == status.st_size
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


# --- unchanged: not read again ---------------------------------------------------


def test_a_cache_does_not_change_the_digest(layer: Path, verity: Verity) -> None:
    """First and later measurements are what a device without cache measures."""
    for path in files(layer)[::2]:
        verity.enable(path)
    cache = MeasureCache(verity)
    assert measure(layer, cache=cache) == measure(layer, cache=cache) == measure(layer)
    kernel = files(layer)[0]
    assert measure(kernel, cache=cache) == measure(kernel, cache=cache) == measure(kernel)


def test_what_fs_verity_guards_is_read_once(layer: Path, verity: Verity, read: list[int]) -> None:
    """An unchanged tree is measured again without reading its files."""
    for path in files(layer):
        verity.enable(path)
    cache = MeasureCache(verity)
    measure(layer, cache=cache)
    assert sorted(read) == sorted(path.stat().st_ino for path in files(layer))
    read.clear()
    measure(layer, cache=cache)
    assert read == []


def test_a_moved_file_is_not_read_again_and_counts_at_its_new_place(
    layer: Path, verity: Verity, read: list[int]
) -> None:
    """Content is remembered; names and modes are looked at each time."""
    for path in files(layer):
        verity.enable(path)
    cache = MeasureCache(verity)
    before = measure(layer, cache=cache)
    read.clear()
    (layer / "lib" / "small0").rename(layer / "small0")
    (layer / "lib" / "small1").chmod(0o755)
    after = measure(layer, cache=cache)
    assert read == []
    assert after != before
    assert after == measure(layer)


# --- nothing else vouches --------------------------------------------------------


def test_without_fs_verity_every_byte_is_read_each_time(
    layer: Path, verity: Verity, read: list[int]
) -> None:
    """The file system vouches for nothing, so nothing is remembered."""
    cache = MeasureCache(verity)
    measure(layer, cache=cache)
    first = sorted(read)
    read.clear()
    measure(layer, cache=cache)
    assert sorted(read) == first != []


@pytest.mark.parametrize("name", ["lib/small1", "lib/large1"])
def test_a_change_behind_unchanged_times_is_found(layer: Path, verity: Verity, name: str) -> None:
    """Inode, size and times of before do not make a content of before."""
    cache = MeasureCache(verity)
    before = measure(layer, cache=cache)
    path = layer / name
    rewritten(path, b"9" * path.stat().st_size)
    after = measure(layer, cache=cache)
    assert after != before
    assert after == measure(layer)


@pytest.mark.parametrize("guarded", [True, False])
def test_a_file_in_place_of_a_guarded_one_is_read(
    layer: Path, verity: Verity, guarded: bool
) -> None:
    """A guarded file cannot be written, but it can be replaced, by a guarded one too."""
    path = layer / "lib" / "large1"
    verity.enable(path)
    cache = MeasureCache(verity)
    before = measure(layer, cache=cache)
    other = layer.with_name("other")
    other.write_bytes(b"9" * path.stat().st_size)
    if guarded:
        verity.enable(other)
    other.rename(path)
    after = measure(layer, cache=cache)
    assert after != before
    assert after == measure(layer)


def test_a_file_that_is_guarded_only_after_it_was_looked_at_is_not_remembered(
    tmp_path: Path, verity: Verity, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Changed and fixed between asking and reading: what was read is not what is fixed (74)."""
    path = tmp_path / "kernel"
    path.write_bytes(b"good")
    cache = MeasureCache(verity)

    def fix(_: int) -> None:
        if not verity.enabled:
            path.write_bytes(b"evil")
            verity.enable(path)

    def reading(descriptor: int, buffer: bytearray | None = None) -> bytes:
        content = sha256(descriptor, buffer)
        fix(descriptor)
        return content

    verity.meanwhile = fix
    monkeypatch.setattr(digests, "sha256", reading)
    measure(path, cache=cache)
    assert verity.enabled
    assert measure(path, cache=cache) == hashlib.sha256(b"evil").digest()


def test_a_file_replaced_between_asking_and_reading_keeps_its_own_digest(
    tmp_path: Path, verity: Verity
) -> None:
    """Both go by one descriptor: the newcomer's bytes get no name of the old file (74)."""
    path, other = tmp_path / "kernel", tmp_path / "other"
    path.write_bytes(b"good")
    verity.enable(path)
    other.write_bytes(b"evil")
    cache = MeasureCache(verity)

    def replace(_: int) -> None:
        if other.exists():
            path.rename(tmp_path / "kept")
            other.rename(path)

    verity.meanwhile = replace
    assert measure(path, cache=cache) == hashlib.sha256(b"good").digest()
    assert measure(path, cache=cache) == hashlib.sha256(b"evil").digest()
    assert measure(tmp_path / "kept", cache=cache) == hashlib.sha256(b"good").digest()


def test_another_cache_knows_nothing(layer: Path, verity: Verity, read: list[int]) -> None:
    """Nothing is kept outside: after a restart all files are read."""
    for path in files(layer):
        verity.enable(path)
    measure(layer, cache=MeasureCache(verity))
    read.clear()
    measure(layer, cache=MeasureCache(verity))
    assert len(read) == len(files(layer))


def test_what_is_remembered_has_a_bound(
    layer: Path, verity: Verity, read: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Years of updates do not fill the memory, and the digests stay right."""
    monkeypatch.setattr(digests, "_REMEMBERED", 3)
    for path in files(layer):
        verity.enable(path)
    cache = MeasureCache(verity)
    assert measure(layer, cache=cache) == measure(layer, cache=cache) == measure(layer)
    assert len(read) > len(files(layer))


def test_an_unreadable_guarded_file_is_refused(layer: Path, verity: Verity) -> None:
    """The kernel found that the disk does not hold what fs-verity fixed."""
    path = layer / "lib" / "large1"
    verity.enable(path)

    def broken(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    verity.meanwhile = broken
    with pytest.raises(LayerUnreadableError) as caught:
        measure(layer, cache=MeasureCache(verity))
    assert caught.value.code == "layer:unreadable"


# --- the kernel's answers --------------------------------------------------------


@pytest.mark.parametrize(
    "refusal", [errno.ENODATA, errno.EOPNOTSUPP, errno.ENOTTY, errno.EOVERFLOW]
)
def test_a_kernel_that_does_not_vouch_gives_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: int
) -> None:
    """Not enabled, not in the file system, not in the kernel, or too long an answer."""

    def ioctl(descriptor: int, request: int, answer: bytearray) -> int:
        raise OSError(refusal, os.strerror(refusal))

    monkeypatch.setattr("hwtrust.digests.fcntl.ioctl", ioctl)
    with (tmp_path / "file").open("w+b") as file:
        assert verity_digest(file.fileno()) is None


@pytest.mark.parametrize(("algorithm", "size"), [(1, 32), (2, 64)])
def test_the_name_is_algorithm_and_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, algorithm: int, size: int
) -> None:
    """As struct fsverity_digest has them: SHA-256 and SHA-512 never share a name."""

    def ioctl(descriptor: int, request: int, answer: bytearray) -> int:
        assert request == 0xC004_6686
        assert struct.unpack_from("=HH", answer) == (0, len(answer) - 4)
        struct.pack_into("=HH", answer, 0, algorithm, size)
        answer[4 : 4 + size] = b"d" * size
        return 0

    monkeypatch.setattr("hwtrust.digests.fcntl.ioctl", ioctl)
    with (tmp_path / "file").open("w+b") as file:
        assert verity_digest(file.fileno()) == struct.pack("=HH", algorithm, size) + b"d" * size


def test_the_kernel_itself_names_a_guarded_file(tmp_path: Path, read: list[int]) -> None:
    """The same with the real ioctl, where kernel and file system have fs-verity."""
    path = tmp_path / "file"
    path.write_bytes(b"x" * 10_000)
    argument = struct.pack("=IIIIQIIQ11Q", 1, 1, 4096, *[0] * 16)
    with path.open("rb") as file:
        assert verity_digest(file.fileno()) is None
        try:
            fcntl.ioctl(file.fileno(), _ENABLE, argument)
        except OSError as error:
            pytest.skip(f"kernel or file system without fs-verity: {error.strerror}")
        assert verity_digest(file.fileno()) is not None
    cache = MeasureCache()
    assert measure(path, cache=cache) == measure(path, cache=cache)
    assert len(read) == 1
