"""A device that works in a process of its own, to be killed at one point of its work.

    died = run_and_kill(config, AtCommand(7, "after"))

The process boots the device and attests, which rotates the root where one is
offered; or it does another `Work`. It is killed by SIGKILL, as kill -9 or a power
cut would: nothing of it runs any more.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hwtrust.device import Device, DeviceConfig, Step
from hwtrust.testing.faults import Fault as TpmFault
from hwtrust.testing.faults import FaultPlan, FaultyTcti, kill_at
from simulators.failing_disk import FailingDisk, Fault

if TYPE_CHECKING:
    from tpm2_pytss.TCTI import TCTI

_FOREVER_S = 60

_context = multiprocessing.get_context("forkserver")
# What takes long to import, and is installed: the server does not see pytest's own sys.path.
_context.set_forkserver_preload(
    ["hwtrust.device.opening", "hwtrust.device.rotate", "hwtrust.testing.faults"]
)


@dataclass(frozen=True, slots=True)
class AtCommand:
    """Die at the `nth` TPM command of the work, before it is sent or after it was done."""

    nth: int
    moment: Literal["before", "after"]


@dataclass(frozen=True, slots=True)
class AfterStep:
    """Die after the `nth` step that the library reports of the work."""

    nth: int


@dataclass(frozen=True, slots=True)
class AtDiskCall:
    """Die at the `nth` change of a file below `home`: before it, or in the middle."""

    nth: int
    home: str
    fault: Fault


Point = AtCommand | AfterStep | AtDiskCall


@dataclass(frozen=True, slots=True)
class Work:
    """What the process does; before it attests or updates it boots, unarmed.

    `token` is what it enrols with, `release` what it updates to.
    """

    kind: Literal["attest", "boot", "enrol", "update"] = "attest"
    token: str = ""
    release: str = ""


ATTESTING = Work()


class _ArmedPlan(FaultPlan):
    """Counts only once it is armed."""

    armed = False

    def faults_of(self, request: bytes) -> list[TpmFault]:
        return super().faults_of(request) if self.armed else []


def run_and_kill(config: str, point: Point, work: Work = ATTESTING) -> bool:
    """Run the device; True if it was killed, False if it finished before that point."""
    process = _context.Process(target=_work, args=(config, point, work))
    process.start()
    process.join(_FOREVER_S)
    code = process.exitcode
    process.close()
    if code not in {0, -signal.SIGKILL}:
        raise AssertionError(f"the device's process ended with {code}")
    return code != 0


def _work(config: str, point: Point, work: Work) -> None:
    plan = _ArmedPlan(*([kill_at(point.nth, point.moment)] if isinstance(point, AtCommand) else []))

    def wrap(inner: TCTI) -> TCTI:
        return FaultyTcti(inner, plan)

    steps = 0

    def on_step(_: Step) -> None:
        nonlocal steps
        steps += 1
        if isinstance(point, AfterStep) and steps == point.nth:
            os.kill(os.getpid(), signal.SIGKILL)

    opened = Device.open(DeviceConfig.load(config), wrap_tcti=wrap)
    with opened as device, contextlib.ExitStack() as stack:
        if work.kind in {"attest", "update"}:
            device.boot()
        plan.armed = True
        if isinstance(point, AtDiskCall):
            disk = FailingDisk(Path(point.home), nth=point.nth, fault=point.fault)
            stack.enter_context(disk)
        if work.kind == "enrol":
            device.enrol(token=work.token, on_step=on_step)
        elif work.kind == "boot":
            device.boot(on_step=on_step)
        elif work.kind == "update":
            device.update(work.release, on_step=on_step)
        else:
            device.attest(on_step=on_step)
        plan.armed = False
