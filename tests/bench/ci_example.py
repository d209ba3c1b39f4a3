"""How long a vendor's CI job takes from nothing to the tests that passed.

    ci_example             the whole job
    ci_example_install     an empty environment, and the project and what it needs in it
    ci_example_first       one test of the example project, the first to run there
    ci_example_all         all of them

"Once images are there" means: the system's packages and the Python packages of others are on the
machine (uv's cache), hwtrust's own wheels are built. Everything else is new: the environment,
its compiled files, TPM, backend, device. The job ends with the first test that passed; the time
of all tests has no goal of its own.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[1]))

from simulators.example_project import EXAMPLE, build_wheels, fresh_environment, run_tests

GOAL_S: Final = 60.0
FIRST: Final = "test_the_key_opens_after_a_restart"


def measured() -> dict[str, float]:
    """Seconds of each part."""
    with tempfile.TemporaryDirectory(prefix="hwtrust-bench-") as directory:
        here = Path(directory)
        wheels = build_wheels(here / "wheels")
        project = Path(shutil.copytree(EXAMPLE, here / "project"))
        # What others have made is on the machine from now on.
        fresh_environment(here / "once", wheels, project)
        start = time.monotonic()
        environment = fresh_environment(here / "env", wheels, project)
        installed = time.monotonic()
        run_tests(environment, project, "-k", FIRST)
        first = time.monotonic()
        run_tests(environment, project)
        end = time.monotonic()
    return {
        "ci_example": first - start,
        "ci_example_install": installed - start,
        "ci_example_first": first - installed,
        "ci_example_all": end - first,
    }


def main() -> None:
    """Measure, and print the results."""
    for name, value in measured().items():
        goal = GOAL_S if name == "ci_example" else None
        result = {"name": name, "value": round(value, 1), "unit": "s", "goal": goal}
        print(json.dumps(result | {"ok": goal is None or value <= goal}))


if __name__ == "__main__":
    main()
