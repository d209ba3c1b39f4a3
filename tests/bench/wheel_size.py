"""How large the wheel is that a device's own program takes: that of `hwtrust-device`.

Command, agent, verifiers and the pytest plugin are in the wheel of `hwtrust`; the backend
has one of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GOAL_KB = 300.0


def main() -> None:
    """Build the wheel, and print its size."""
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run(
            [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", scratch],
            cwd=ROOT / "packaging" / "device",
            check=True,
            capture_output=True,
        )
        (wheel,) = Path(scratch).glob("*.whl")
        value = wheel.stat().st_size / 1000
    result = {
        "name": "wheel_size_device",
        "value": round(value, 1),
        "unit": "kB",
        "goal": GOAL_KB,
        "ok": value <= GOAL_KB,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
