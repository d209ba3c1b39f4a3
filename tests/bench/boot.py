"""How long a device of four layers takes from the start of a process to its open key store.

    boot                from the start of the process; the interpreter and all imports are in it
    boot_interpreter    until the program's first line
    boot_import         hwtrust's device API
    boot_open           configuration, state and TPM; here the TPM stack is loaded
    boot_load           measure, extend, unseal, cap, open the key store

A program of six lines runs as a whole process, over swtpm, after a reboot of the
TPM each time, where `hwtrust-device` is installed from its wheel and nothing else is,
for the interpreter of the distribution: as on a device, and as the Debian package has
it. Where there is none of Python 3.11 or newer, it is the interpreter of this program;
the standard error stream says which it was. The layers are small: reading them is
measured elsewhere. The result is a median; where the time goes has no goal of its own.
"""

from __future__ import annotations

import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[1]))

from hwtrust.testing.manufacture import Vendor
from hwtrust.testing.swtpm import Swtpm
from hwtrust_backend.testing import BackendServer
from simulators.distributions import DISTRIBUTIONS, build, clean_environ, installed
from simulators.site import Site

RUNS: Final = 15
GOAL_MS: Final = 250.0
_NOT_KEPT: Final = "PYTHONDONTWRITEBYTECODE"
_OF_DISTRIBUTION: Final = "/usr/bin/python3"
_RECENT: Final = "import sys; sys.exit(sys.version_info < (3, 11))"

# The same clock in every process (CLOCK_MONOTONIC); `time` is built in.
PROGRAM: Final = """
import sys, time; times = [time.monotonic()]
from hwtrust import Device, DeviceConfig; times.append(time.monotonic())
with Device.open(DeviceConfig.load(sys.argv[1])) as device:
    times.append(time.monotonic())
    device.boot(); times.append(time.monotonic())
    device.keystore["name"]; print(*times)
"""
PARTS: Final = ("interpreter", "import", "open", "load")


def interpreter() -> str:
    """The distribution's Python, where it is recent enough, or else this one."""
    try:
        recent = subprocess.run([_OF_DISTRIBUTION, "-c", _RECENT], check=False).returncode == 0
    except FileNotFoundError:
        recent = False
    return _OF_DISTRIBUTION if recent else sys.executable


def milliseconds(python: Path, config: Path) -> list[float]:
    """How long a new process takes to boot, and each of its parts."""
    # What a machine has compiled once it keeps, unless it was told not to.
    environ = {name: value for name, value in clean_environ().items() if name != _NOT_KEPT}
    start = time.monotonic()
    done = subprocess.run(
        [python, "-c", PROGRAM, str(config)],
        check=True,
        cwd=config.parent,
        capture_output=True,
        env=environ,
        text=True,
    )
    times = [start, *map(float, done.stdout.split())]
    parts = [after - before for before, after in itertools.pairwise(times)]
    return [1000 * seconds for seconds in (times[-1] - times[0], *parts)]


def measured() -> list[list[float]]:
    """Set a device up, and boot it again and again."""
    with (
        tempfile.TemporaryDirectory(prefix="hwtrust-bench-") as directory,
        Swtpm.start() as tpm,
        BackendServer() as backend,
    ):
        vendor = Vendor.create(now=datetime.now(UTC) - timedelta(days=1))
        vendor.manufacture(tpm, algorithm="ecc256")
        home = Path(directory)
        build(home / "dist", DISTRIBUTIONS["hwtrust-device"])
        own = interpreter()
        print(f"boot: with {own}", file=sys.stderr)
        env = installed(home / "dist", home, "hwtrust-device", ("tpm",), python=own)
        site = Site(home, tpm, backend, vendor)
        site.enrol()
        tpm.reboot()
        with site.open() as device:
            device.boot()
            device.keystore.put("name", b"value")
        runs = []
        for _ in range(RUNS + 1):
            tpm.reboot()
            runs.append(milliseconds(env.bin / "python", site.config_path))
        return runs[1:]  # the first compiles the modules and fills the file cache


def main() -> None:
    """Measure, and print the results."""
    whole, *parts = (statistics.median(values) for values in zip(*measured(), strict=True))
    result = {
        "name": "boot",
        "value": round(whole, 1),
        "unit": "ms",
        "goal": GOAL_MS,
        "ok": whole <= GOAL_MS,
    }
    print(json.dumps(result))
    for name, value in zip(PARTS, parts, strict=True):
        part = {"name": f"boot_{name}", "value": round(value, 1), "unit": "ms"}
        print(json.dumps(part | {"goal": None, "ok": True}))


if __name__ == "__main__":
    main()
