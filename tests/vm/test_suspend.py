"""A machine that slept: firmware starts its TPM from the state that the kernel had it save."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

import pytest

from vm.evidence import FIRMWARE_LOG, appraise, quote_into
from vm.image import SUSPENDED
from vm.machine import Plan

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vm.machine import Machine

pytestmark = [pytest.mark.vm, pytest.mark.long]

EXTENDED: Final = "sha256:14"
# TPM2_ReadClock: time, clock, resetCount, restartCount, safe, behind the response's header.
CLOCK: Final = struct.Struct(">10xQQII?")


def test_a_tpm_is_resumed_with_the_machine(
    new_machine: Callable[[Plan], Machine], tmp_path: Path
) -> None:
    """TPM2_Startup(STATE) after S3: PCRs are as before, and the log still explains the quote."""
    machine = new_machine(Plan(suspend=True))
    machine.start()
    before, after = (machine.read(f"{SUSPENDED}/pcrs-{when}") for when in ("before", "after"))
    assert after == before
    values = dict(line.split() for line in after.decode().splitlines())
    assert len(values) == 48
    assert int(values[EXTENDED], 16) != 0
    clocks = [
        CLOCK.unpack(machine.read(f"{SUSPENDED}/clock-{when}")) for when in ("before", "after")
    ]
    (_, clock, resets, restarts, _), (_, later, resets_later, restarts_later, _) = clocks
    assert later > clock
    assert resets_later == resets
    assert restarts_later == restarts + 1
    rules = machine.run("hwtrust", "reference", "from-eventlog", FIRMWARE_LOG).good()
    pcrs = quote_into(tmp_path, machine)
    good = appraise(machine.read(FIRMWARE_LOG), policy=rules, pcrs=pcrs)
    assert (good.status, good.codes) == (0, set())
