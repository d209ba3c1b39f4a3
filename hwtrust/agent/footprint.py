"""Give back the memory that only starting needed.

A start touches most pages of the libraries that it loads, and the kernel maps
their neighbours as well; a heartbeat needs less than half of them. They are the
files' own pages: whatever is needed again is mapped again, from the page cache.

Rules:
1. Only mappings of files that may not be written and hold no page of their own
   are given back: there the advice changes nothing but what is resident.
2. It is a courtesy. Where the kernel does not take it, nothing happens.
"""

from __future__ import annotations

import gc
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_MADV_DONTNEED = 4
_READ_ONLY = frozenset({"r-xp", "r--p"})


def give_back(smaps: Path = Path("/proc/self/smaps")) -> int:
    """Give the pages back; gives of how many mappings."""
    import ctypes  # noqa: PLC0415 - for a few calls

    gc.collect()
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    try:
        lines = smaps.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return 0
    return sum(madvise(start, size, _MADV_DONTNEED) == 0 for start, size in untouched(lines))


def untouched(lines: Iterable[str]) -> Iterator[tuple[int, int]]:
    """Start and size of the mappings of rule 1, from the lines of an smaps file."""
    start = size = 0
    fits = False
    for line in lines:
        words = line.split()
        if not words[0].endswith(":"):
            begin, _, end = words[0].partition("-")
            start, size = int(begin, 16), int(end, 16) - int(begin, 16)
            fits = words[1] in _READ_ONLY and len(words) > 5 and words[5].startswith("/")  # noqa: PLR2004
        elif words[0] == "Anonymous:" and fits and words[1] == "0":
            yield start, size
