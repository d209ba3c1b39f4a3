"""What an agent costs at rest: memory, and a part of one core, at a heartbeat a minute.

    swtpm ◀── hwtrust agent ──▶ backend      SECONDS of nothing but heartbeats

The agent is a process of its own, as it is started by a service manager, with four
small layers, whose file events it watches, and a socket that nobody uses. It
is left alone until it is loaded and has attested; then it rests. Its memory is
the resident set of /proc/PID/smaps_rollup at the end, shared libraries included; its
time is that of all its threads, with the kernel's part.

    agent.py [SECONDS]      180 by default: three heartbeats
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

sys.path.insert(0, str(Path(__file__).parents[1]))

from hwtrust.agent.client import AgentClient
from hwtrust.device.results import State
from hwtrust.errors import HwTrustError
from hwtrust.testing.manufacture import Vendor
from hwtrust.testing.swtpm import Swtpm
from hwtrust_backend.testing import BackendServer, policy_document
from simulators.site import Site

if TYPE_CHECKING:
    from collections.abc import Iterator

SECONDS: Final = 180.0
GOAL_MIB: Final = 45.0
GOAL_PERCENT: Final = 0.2
_HEARTBEAT: Final = "1m"
_LOADING_SECONDS: Final = 60.0
_SETTLING_SECONDS: Final = 5.0
"""After the load: the first attestation, and the line to the backend."""
_ENDING_SECONDS: Final = 20.0
_NOT_KEPT: Final = "PYTHONDONTWRITEBYTECODE"
_KIB_IN_MIB: Final = 1024


@contextlib.contextmanager
def passing_time(backend: BackendServer) -> Iterator[None]:
    """Let the backend's clock, which waits to be told, follow the real one."""
    over = threading.Event()

    def follow() -> None:
        told = time.monotonic()
        while not over.wait(1):
            now = time.monotonic()
            backend.clock.advance(round((now - told) * 1000))
            told = now

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextlib.contextmanager
def agent(config: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The agent's process, until the end of a `with`."""
    environ = {name: value for name, value in os.environ.items() if name != _NOT_KEPT}
    program = "import sys; from hwtrust.cli import main; sys.exit(main())"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", program, "agent", "--config", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=environ,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_ENDING_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def await_normal(process: subprocess.Popen[bytes], socket: Path, log: Path) -> None:
    """Wait until the layers are loaded and the backend trusts the device."""
    end = time.monotonic() + _LOADING_SECONDS
    state: object = "silent"
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(HwTrustError), AgentClient(socket) as client:
            state = client.state().state
            if state == State.NORMAL:
                return
        time.sleep(0.2)
    sys.stderr.write(log.read_text(errors="replace"))
    sys.exit(f"the agent is {state}, not normal")


def core_seconds(pid: int) -> float:
    """User and system time of all threads (proc(5), fields 14 and 15)."""
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")


def resident_mib(pid: int) -> float:
    """The resident set."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) / _KIB_IN_MIB
    raise AssertionError(pid)


def rested(seconds: float) -> tuple[float, float]:
    """The agent's resident MiB, and the percentage of a core that it took, over a rest."""
    policy = policy_document(heartbeat=_HEARTBEAT)
    with (
        tempfile.TemporaryDirectory(prefix="hwtrust-bench-") as directory,
        Swtpm.start() as tpm,
        BackendServer(policy=policy) as backend,
        passing_time(backend),
    ):
        home = Path(directory)
        vendor = Vendor.create(now=datetime.now(UTC) - timedelta(days=1))
        vendor.manufacture(tpm, algorithm="ecc256")
        site = Site(home, tpm, backend, vendor)
        site.enrol()
        tpm.reboot()
        socket, log = home / "agent.sock", home / "agent.log"
        with site.config_path.open("a") as file:
            file.write(f'\n[agent]\nsocket = "{socket}"\n')
        with agent(site.config_path, log) as process:
            await_normal(process, socket, log)
            time.sleep(_SETTLING_SECONDS)
            used, begun = core_seconds(process.pid), time.monotonic()
            time.sleep(seconds)
            if process.poll() is not None:
                sys.exit(log.read_text(errors="replace"))
            spent = (core_seconds(process.pid) - used) / (time.monotonic() - begun)
            return resident_mib(process.pid), 100 * spent


def report(name: str, value: float, unit: str, goal: float) -> None:
    """Print one result."""
    result = {
        "name": name,
        "value": round(value, 3),
        "unit": unit,
        "goal": goal,
        "ok": value <= goal,
    }
    print(json.dumps(result))


def main() -> None:
    """Let an agent rest, and print what that cost."""
    memory, core = rested(float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS)
    report("agent_rss_mib", memory, "MiB", GOAL_MIB)
    report("agent_cpu_percent", core, "% of one core", GOAL_PERCENT)


if __name__ == "__main__":
    main()
