"""Give back the memory that only starting needed.

A start touches most pages of the libraries that it loads, and the kernel maps
their neighbours as well; a heartbeat needs less than half of them. They are the
files' own pages: whatever is needed again is mapped again, from the page cache.

Rules:
1. Only mappings of files that may not be written and hold no page of their own
   are given back: there the advice changes nothing but what is resident.
2. Another thread may just be loading a library. The loader first maps all of it
   to be read, then its data over the end of that, which is written. So a mapping
   counts only where one of the same file that can be written lies above it: what
   lies below that changes no more.
3. It is a courtesy. Where the kernel does not take it, nothing happens.
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
    """Start and size of the mappings of rules 1 and 2, from the lines of an smaps file."""
    below: list[tuple[int, int]] = []
    place = 0, 0
    here, fits = "", False
    for line in lines:
        words = line.split(maxsplit=5)
        if not words[0].endswith(":"):
            file = words[5] if len(words) > 5 and words[5].startswith("/") else ""  # noqa: PLR2004
            if file != here:
                here, below = file, []
            if file and words[1] == "rw-p":
                yield from below
                below = []
            begin, _, end = words[0].partition("-")
            place = int(begin, 16), int(end, 16) - int(begin, 16)
            fits = bool(file) and words[1] in _READ_ONLY
        elif words[0] == "Anonymous:" and fits and words[1] == "0":
            below.append(place)
