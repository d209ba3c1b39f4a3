"""How fast a layer is measured, against `sha256sum` over the same files in a hot cache.

Both run as whole processes, in turn, so that whatever else the machine does
meets them alike; a result is the median of the rounds' ratios. What a second
core brings is told by the fastest rounds: only there it was free.
"""

from __future__ import annotations

import json
import os
import statistics
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

MEASURE = """
import os, sys
from pathlib import Path
from hwtrust.layers import measure
if sys.argv[2] == "one":
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
measure(Path(sys.argv[1]))
"""


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
    for name, (count, size) in TREES.items():
        with tempfile.TemporaryDirectory() as scratch:
            top = Path(scratch) / "layer"
            names = make(top, count, size)
            measure = [sys.executable, "-c", MEASURE, str(top)]
            every, one, other = [], [], []
            for _ in range(ROUNDS):
                every.append(seconds([*measure, "all"]))
                one.append(seconds([*measure, "one"]))
                other.append(seconds(["xargs", "-0", "sha256sum"], names))
        ratios = (theirs / ours for theirs, ours in zip(other, every, strict=True))
        report(f"measure_{name}", statistics.median(ratios), GOAL)
        if name in GOALS_CORES and len(os.sched_getaffinity(0)) > 1:
            report(f"measure_{name}_cores", min(one) / min(every), GOALS_CORES[name])


if __name__ == "__main__":
    main()
