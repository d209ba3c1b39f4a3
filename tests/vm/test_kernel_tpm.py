"""hwtrust on a kernel's TPM: device files, udev's permissions, the logs in securityfs."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest

from hwtrust.errors import TpmPermissionError
from vm.inside import MANAGED, RAW, hardware_tests

if TYPE_CHECKING:
    from vm.machine import Machine

pytestmark = pytest.mark.vm

PERMISSION_STATUS = 4


def test_a_member_of_group_tss_finds_and_uses_the_tpm(machine: Machine) -> None:
    """The permissions that udev sets suffice; the device that the kernel manages comes first."""
    found = json.loads(machine.run("hwtrust", "tpm", "list", "--json", user="device").good())
    assert [(one["path"], one["problem"]) for one in found] == [
        (MANAGED, None),
        (RAW, "tpm:permission"),
    ]
    info = machine.run("hwtrust", "tpm", "info", user="device")
    assert f"device:{MANAGED}" in info.good()


def test_others_are_refused_by_name(machine: Machine) -> None:
    """Who is not in the group is told which error it is and which group it needs."""
    done = machine.run("hwtrust", "tpm", "info", user="nobody")
    assert done.status == PERMISSION_STATUS
    assert f"[{TpmPermissionError.code}]" in done.complaint
    assert "tss" in done.complaint
    assert done.output == ""


LONG = (pytest.mark.long,)
BASICS, LIFE = (("tests/hardware/test_hardware_" + name + ".py",) for name in ("basics", "life"))
# Not even loaded: who takes part in a device's life loads a backend, which takes long in a VM.
WITHOUT_LIFE = ("--ignore", *LIFE)
Row = tuple[str, tuple[str, ...], tuple[pytest.MarkDecorator, ...]]
BODIES: dict[str, Row] = {
    "all bodies but a life": (MANAGED, WITHOUT_LIFE, ()),
    "some, without the kernel's resource manager": (RAW, BASICS, ()),
    "all but a life, without it": (RAW, WITHOUT_LIFE, LONG),
    "a life": (MANAGED, LIFE, LONG),
}


@pytest.mark.parametrize(
    ("device_file", "which"),
    [pytest.param(*row[:2], marks=row[2], id=name) for name, row in BODIES.items()],
)
def test_the_tests_for_hardware_pass(
    machine: Machine, device_file: str, which: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """The bodies that run on software TPMs pass through the kernel's driver."""
    with capsys.disabled():
        done = hardware_tests(machine, *which, device=device_file, show=sys.stdout)
    assert done.status == 0
    assert " passed" in done.output
