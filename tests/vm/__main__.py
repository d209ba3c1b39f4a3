"""Run tests in virtual machines, or the hardware tests in one of them: see scripts/vm-test."""

from __future__ import annotations

import argparse
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Final, get_args

from hwtrust.testing.manufacture import Vendor
from vm.conftest import INTERFACE_VARIABLE, VARIABLE
from vm.image import ImageError
from vm.inside import hardware_tests
from vm.machine import ROOT, Machine, MachineError, Plan, TpmInterface

LOG: Final = ROOT / "build" / "vm-test.log"
BROKEN: Final = 3
"""The status of pytest for an internal error: the VM did not come so far as to run it."""


def main(arguments: list[str]) -> int:
    """Do as scripts/vm-test is told; gives the exit status."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--device", choices=get_args(TpmInterface))
    options, rest = parser.parse_known_args(arguments)
    if not rest:
        os.environ[VARIABLE] = "all" if options.all else "short"
        if options.device:
            os.environ[INTERFACE_VARIABLE] = options.device
        return from_outside()
    # As for Ctrl-C: what was started is ended, and its files are removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    interfaces = get_args(TpmInterface) if options.all else (options.device or "tpm-tis",)
    return max(in_a_machine(one, rest) for one in interfaces)


def from_outside() -> int:
    """Run tests/vm on this machine; gives pytest's status. All their files are gone then.

    What it prints is also in LOG.
    """
    began = time.monotonic()
    LOG.parent.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="hwtrust-vm-") as directory,
        LOG.open("w") as log,
    ):
        child = subprocess.Popen(
            [
                *(sys.executable, "-m", "pytest", "-m", "vm", "-p", "no:cacheprovider", "-v"),
                str(ROOT / "tests" / "vm"),
            ],
            env=os.environ | {"TMPDIR": directory, "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        # A terminal tells the child of Ctrl-C itself.
        signal.signal(signal.SIGINT, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: child.send_signal(signal.SIGINT))
        assert child.stdout is not None
        while text := os.read(child.stdout.fileno(), 1 << 16).decode(errors="replace"):
            show(text, log)
        status = child.wait()
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = used.ru_utime + used.ru_stime
        took = time.monotonic() - began
        show(f"vm-test: {took:.0f} s, of a processor's time {seconds:.0f} s\n", log)
        return status


def show(text: str, log: IO[str]) -> None:
    """Print something, and keep it."""
    for where in (sys.stdout, log):
        where.write(text)
        where.flush()


def in_a_machine(interface: TpmInterface, arguments: list[str]) -> int:
    """Run the hardware tests in a VM made for them; gives pytest's status."""
    vendor = Vendor.create(now=datetime.now(UTC))
    with tempfile.TemporaryDirectory(prefix="hwtrust-vm-") as directory:
        try:
            made = Machine.make(
                Path(directory, "vm"), vendor=vendor, plan=Plan(interface=interface)
            )
            with made as machine:
                machine.start()
                return hardware_tests(machine, *arguments, show=sys.stdout).status
        except (ImageError, MachineError) as error:
            sys.stderr.write(f"vm-test: {error}\n")
            return BROKEN


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
