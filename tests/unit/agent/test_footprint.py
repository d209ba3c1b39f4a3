"""Memory that only starting needed."""

from __future__ import annotations

import ctypes
import hashlib
from pathlib import Path

from hwtrust.agent.footprint import give_back, untouched

SMAPS = """\
7f00-7f10 r-xp 00000000 fe:00 12 /usr/lib/libcrypto.so.3
Rss:                  64 kB
Anonymous:             0 kB
7f10-7f20 r--p 00000000 fe:00 12 /usr/lib/libcrypto.so.3
Anonymous:             4 kB
7f20-7f30 rw-p 00000000 fe:00 12 /usr/lib/libcrypto.so.3
Anonymous:             0 kB
7f30-7f40 r--p 00000000 fe:00 13 /usr/lib/with a space.so
Anonymous:             0 kB
7f38-7f40 rw-p 00000000 fe:00 13 /usr/lib/with a space.so
Anonymous:             0 kB
7f40-7f50 r-xp 00000000 00:00 0 [vdso]
Anonymous:             0 kB
7f50-7f60 r--p 00000000 00:00 0
Anonymous:             0 kB
7f60-7f70 r--s 00000000 fe:00 14 /usr/share/locale
Anonymous:             0 kB
"""


def test_only_a_files_own_pages_are_given_back() -> None:
    """What was written, such as relocations, would be lost; what has no file would be zero."""
    assert list(untouched(SMAPS.splitlines())) == [(0x7F00, 0x10), (0x7F30, 0x10)]


LOADING = """\
7f00-7f10 r--p 00000000 fe:00 12 /usr/lib/libbegun.so
Anonymous:             0 kB
7f10-7f20 r-xp 00000000 fe:00 12 /usr/lib/libbegun.so
Anonymous:             0 kB
7f20-7f40 r--p 00000000 fe:00 12 /usr/lib/libbegun.so
Anonymous:             0 kB
7f40-7f50 r--p 00000000 fe:00 13 /usr/lib/libhalf.so
Anonymous:             0 kB
7f50-7f60 rw-p 00000000 fe:00 13 /usr/lib/libhalf.so
Anonymous:             0 kB
7f60-7f70 r--p 00000000 fe:00 13 /usr/lib/libhalf.so
Anonymous:             0 kB
7f70-7f80 rw-p 00000000 00:00 0
Anonymous:             4 kB
"""


def test_where_a_library_is_just_being_loaded_nothing_is_given_back() -> None:
    """What can only be read now may be its data in a moment, and would lose what is written."""
    assert list(untouched(LOADING.splitlines())) == [(0x7F40, 0x10)]


def test_everything_works_as_before() -> None:
    """In this very process: libraries are mapped again where they are needed."""
    before = hashlib.sha256(b"x" * 100_000).digest()
    assert give_back() > 0
    assert hashlib.sha256(b"x" * 100_000).digest() == before
    assert ctypes.CDLL(None).getpid() > 0


def test_where_the_kernel_says_nothing_nothing_happens(tmp_path: Path) -> None:
    """A container may hide it."""
    assert give_back(tmp_path / "missing") == 0
