"""How long importing hwtrust takes, by the interpreter's own account (`-X importtime`).

    import_time          `import hwtrust`
    import_time_device   the parts of a device: `Device`, `DeviceConfig`, and what they load
    import_time_agent    an application's client of the agent

A result is the sum over all modules that the statement loads; what the interpreter loads
at its own start does not count. The TPM stack is loaded when a device is opened, which
the benchmark `boot` measures. A result is the least of several runs: whatever else the
machine does can only add to it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

RUNS = 9
MARK = "from here on"
MEASURED = {
    "import_time": ("import hwtrust", 60.0),
    "import_time_device": ("from hwtrust import Device, DeviceConfig", 150.0),
    "import_time_agent": ("from hwtrust import AgentClient", 150.0),
}
_NOT_KEPT = "PYTHONDONTWRITEBYTECODE"


def milliseconds(statement: str) -> float:
    """How long a new interpreter spends on the modules that `statement` loads."""
    # What a machine has compiled once it keeps, unless it was told not to.
    environ = {name: value for name, value in os.environ.items() if name != _NOT_KEPT}
    program = f"import sys; print({MARK!r}, file=sys.stderr, flush=True); {statement}"
    told = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", program],
        check=True,
        env=environ,
        stderr=subprocess.PIPE,
        text=True,
    ).stderr
    _, _, ours = told.partition(f"{MARK}\n")
    return sum(map(int, re.findall(r"^import time: +(\d+) \|", ours, re.MULTILINE))) / 1000


def main() -> None:
    """Measure, and print one result for each statement."""
    statements = {name: statement for name, (statement, _) in MEASURED.items()}
    for statement in statements.values():
        milliseconds(statement)  # compiles the modules, fills the file cache
    runs = [
        {name: milliseconds(statement) for name, statement in statements.items()}
        for _ in range(RUNS)
    ]
    for name, (_, goal) in MEASURED.items():
        value = min(run[name] for run in runs)
        result = {
            "name": name,
            "value": round(value, 1),
            "unit": "ms",
            "goal": goal,
            "ok": 0 < value <= goal,
        }
        print(json.dumps(result))


if __name__ == "__main__":
    main()
