"""How fast a layer is measured, against `sha256sum` over the same files in a hot cache.

Both run as whole processes, in turn, so that whatever else the machine does
meets them alike; a result is the median of the rounds' ratios. What a second
core brings is told by the fastest rounds: only there it was free.

Measuring again is timed in one process, with what it remembers by fs-verity
digests against without. Where the file system has no fs-verity, the kernel's
part is played by a system call on the same descriptor; the name of the result
says so. The trees are removed, also when this is interrupted.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROUNDS = 3
GOAL = 0.9
GOALS_CORES = {"large_files": 1.4, "many_files": 1.3}
"""One core's time by all cores'. Small files wait for the interpreter, not for a core."""
MIB = 1024 * 1024
TREES = {
    "large_files": (8, 128 * MIB),
    "many_files": (4096, 256 * 1024),
    "small_files": (65536, 16 * 1024),
}
"""How many files of how many bytes: a GiB each."""
FOLDERS = 64
GOALS_AGAIN = {"large_files": 50.0, "many_files": 2.0}
"""Measuring all bytes by measuring again what is guarded by fs-verity."""

MEASURE = """
import os, sys
from pathlib import Path
from hwtrust.layers import measure
if sys.argv[2] == "one":
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
measure(Path(sys.argv[1]))
"""

AGAIN = """
import os, sys, time
from pathlib import Path
from hwtrust.digests import MeasureCache, verity_digest
from hwtrust.layers import measure
def played(descriptor):
    verity_digest(descriptor)  # costs what the real one costs, or less
    return os.fstat(descriptor).st_ino.to_bytes(8, "big")
top = Path(sys.argv[1])
cache = MeasureCache(verity_digest if sys.argv[2] == "real" else played)
whole = measure(top, cache=cache)
times = [time.perf_counter()]
for cached in (None, cache):
    assert measure(top, cache=cached) == whole
    times.append(time.perf_counter())
print((times[1] - times[0]) / (times[2] - times[1]))
"""
_ENABLE_VERITY = 0x4080_6685
"""FS_IOC_ENABLE_VERITY, <linux/fsverity.h>."""
_ENABLE_ARGUMENT = struct.pack("=IIIIQIIQ88x", 1, 1, 4096, 0, 0, 0, 0, 0)
"""struct fsverity_enable_arg: version 1, SHA-256, blocks of a page, no salt, no signature."""


def guard(names: bytes) -> bool:
    """Enable fs-verity for files; gives whether the file system has it."""
    try:
        for name in names.split(b"\0"):
            descriptor = os.open(name, os.O_RDONLY)
            try:
                fcntl.ioctl(descriptor, _ENABLE_VERITY, _ENABLE_ARGUMENT)
            finally:
                os.close(descriptor)
    except OSError:
        return False
    return True


def times_faster(top: Path, kind: str) -> float:
    """How many times faster a tree is measured again by what is remembered."""
    command = [sys.executable, "-c", AGAIN, str(top), kind]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout)


def make(top: Path, count: int, size: int) -> bytes:
    """A tree of files that differ; gives their names, as xargs takes them."""
    content = os.urandom(min(size, MIB))
    names = []
    for number in range(count):
        folder = top / str(number % FOLDERS)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / str(number)
        with path.open("wb") as file:
            file.write(number.to_bytes(8, "big") + content[8:])
            for _ in range(size // len(content) - 1):
                file.write(content)
        names.append(os.fsencode(path))
    return b"\0".join(names)


def seconds(command: list[str], names: bytes = b"") -> float:
    """How long a process runs."""
    start = time.perf_counter()
    subprocess.run(command, input=names, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def report(name: str, value: float, goal: float) -> None:
    """Print one result."""
    result = {
        "name": name,
        "value": round(value, 2),
        "unit": "ratio",
        "goal": goal,
        "ok": value >= goal,
    }
    print(json.dumps(result), flush=True)


def main() -> None:
    """Measure each tree on all cores and on one, and print the results."""
    # An end by SIGTERM is an exit too: the tree is removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    for name, (count, size) in TREES.items():
        with tempfile.TemporaryDirectory() as scratch:
            top = Path(scratch) / "layer"
            names = make(top, count, size)
            measure = [sys.executable, "-c", MEASURE, str(top)]
            every, one, other = [], [], []
            again, kind = [], ""
            for _ in range(ROUNDS):
                every.append(seconds([*measure, "all"]))
                one.append(seconds([*measure, "one"]))
                other.append(seconds(["xargs", "-0", "sha256sum"], names))
            if name in GOALS_AGAIN:
                kind = "real" if guard(names) else "played"
                again = [times_faster(top, kind) for _ in range(ROUNDS)]
        ratios = (theirs / ours for theirs, ours in zip(other, every, strict=True))
        report(f"measure_{name}", statistics.median(ratios), GOAL)
        if name in GOALS_CORES and len(os.sched_getaffinity(0)) > 1:
            report(f"measure_{name}_cores", min(one) / min(every), GOALS_CORES[name])
        if again:
            report(f"measure_{name}_again_{kind}", statistics.median(again), GOALS_AGAIN[name])


if __name__ == "__main__":
    main()
