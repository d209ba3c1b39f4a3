"""How long importing hwtrust and its device API takes, beyond the start of the interpreter itself.

All are started in turn, so that whatever else the machine does meets them alike;
a result is the difference of the medians.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time

RUNS = 9
GOAL_MS = 150.0
BARE = "pass"
_NOT_KEPT = "PYTHONDONTWRITEBYTECODE"
MEASURED = {
    "import_time": "import hwtrust",
    "import_time_device_api": "from hwtrust import Device, DeviceConfig",
}


def milliseconds(statement: str) -> float:
    """How long a new interpreter takes to run `statement`."""
    # What a machine has compiled once it keeps, unless it was told not to.
    environ = {name: value for name, value in os.environ.items() if name != _NOT_KEPT}
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True, env=environ)
    return (time.perf_counter() - start) * 1000


def main() -> None:
    """Measure, and print one result for each statement."""
    statements = [BARE, *MEASURED.values()]
    for statement in statements:
        milliseconds(statement)  # compiles the modules, fills the file cache
    runs = [{statement: milliseconds(statement) for statement in statements} for _ in range(RUNS)]
    medians = {
        statement: statistics.median(run[statement] for run in runs) for statement in statements
    }
    for name, statement in MEASURED.items():
        value = medians[statement] - medians[BARE]
        result = {
            "name": name,
            "value": round(value, 1),
            "unit": "ms",
            "goal": GOAL_MS,
            "ok": value <= GOAL_MS,
        }
        print(json.dumps(result))


if __name__ == "__main__":
    main()
