"""The SHA-256 of an open file: read, or remembered where the kernel vouches for it.

fs-verity fixes a file's content for good when it is enabled, and the kernel
names that content by a digest of its own, without reading it. So a content that
was read once need not be read again while its file still has that name:

    descriptor ─▶ fs-verity digest ─▶ remembered ─▶ SHA-256
                         │ none           │ unknown
                         └────────────────┴──────▶ read every byte

Rules:
1. Only fs-verity vouches. Neither time, size nor inode says that a file is
   unchanged; where fs-verity is absent, every byte is read.
2. The kernel is asked before the first byte is read: a file that is fixed only
   afterwards may have changed in between.
3. Everything goes by descriptor. What has taken the file's name meanwhile does
   not matter.
4. What is remembered stays in this process. On the disk, whoever can change a
   layer could change it too.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from struct import Struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

CHUNK = 256 * 1024
_REMEMBERED = 100_000
"""Digests; when there would be more, all are forgotten."""

_MEASURE_VERITY = 0xC004_6686
"""FS_IOC_MEASURE_VERITY, <linux/fsverity.h>."""
_HEAD: Final = Struct("=HH")
"""struct fsverity_digest: algorithm, and the size of the digest that follows."""
_LONGEST = 64


def sha256(descriptor: int, buffer: bytearray | None = None) -> bytes:
    """The SHA-256 of the bytes from the descriptor's position on; `buffer` is used to read them."""
    view = memoryview(bytearray(CHUNK) if buffer is None else buffer)
    digest = hashlib.sha256()
    while count := os.readv(descriptor, [view]):
        digest.update(view[:count])
    return digest.digest()


def verity_digest(descriptor: int) -> bytes | None:
    """The kernel's name for the file's content: algorithm and fs-verity digest.

    None where fs-verity is not enabled for the file, or where file system or
    kernel do not have it.
    """
    answer = bytearray(_HEAD.pack(0, _LONGEST) + bytes(_LONGEST))
    try:
        fcntl.ioctl(descriptor, _MEASURE_VERITY, answer)
    except OSError:
        return None
    _, size = _HEAD.unpack_from(answer)
    return bytes(answer[: _HEAD.size + size])


class MeasureCache:
    """Remembers what files hold by their fs-verity digests. Threads may share it."""

    def __init__(self, verity: Callable[[int], bytes | None] = verity_digest) -> None:
        """`verity` asks the kernel about a descriptor."""
        self._verity = verity
        self._known: dict[bytes, bytes] = {}

    def sha256(self, descriptor: int, buffer: bytearray | None = None) -> bytes:
        """As the function of this name; reads nothing that is remembered."""
        name = self._verity(descriptor)
        known = None if name is None else self._known.get(name)
        if known is None:
            known = sha256(descriptor, buffer)
            if name is not None:
                if len(self._known) >= _REMEMBERED:
                    self._known.clear()
                self._known[name] = known
        return known
