"""How long `import hwtrust` takes, beyond the start of the interpreter itself.

Both are started in turn, so that whatever else the machine does meets both
alike; the result is the difference of the medians.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

RUNS = 9
GOAL_MS = 150.0


def milliseconds(statement: str) -> float:
    """How long a new interpreter takes to run `statement`."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return (time.perf_counter() - start) * 1000


def main() -> None:
    """Measure, and print one result."""
    milliseconds("import hwtrust")  # compiles the modules, fills the file cache
    bare: list[float] = []
    full: list[float] = []
    for _ in range(RUNS):
        bare.append(milliseconds("pass"))
        full.append(milliseconds("import hwtrust"))
    value = statistics.median(full) - statistics.median(bare)
    result = {
        "name": "import_time",
        "value": round(value, 1),
        "unit": "ms",
        "goal": GOAL_MS,
        "ok": value <= GOAL_MS,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
