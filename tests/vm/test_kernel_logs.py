"""The logs of firmware and kernel as securityfs has them, read and appraised by hwtrust."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING

import pytest

from hwtrust.errors import ImaReplayError
from vm.evidence import FIRMWARE_LOG, IMA_LOG, appraise, quote_into

if TYPE_CHECKING:
    from pathlib import Path

    from vm.machine import Machine

pytestmark = pytest.mark.vm

ACCEPTED, REFUSED = 0, 3
READ_LATER = "/var/lib/hwtrust/read-later"


def test_the_firmware_log_explains_the_quote(machine: Machine, tmp_path: Path) -> None:
    """Rules made from the kernel's file accept it; those for Secure Boot refuse it."""
    rules = machine.run("hwtrust", "reference", "from-eventlog", FIRMWARE_LOG).good()
    pcrs = quote_into(tmp_path, machine)
    log = machine.read(FIRMWARE_LOG)
    assert "secure_boot = false" in rules
    good = appraise(log, policy=rules, pcrs=pcrs)
    assert (good.status, good.codes) == (ACCEPTED, set())
    strict = rules.replace("secure_boot = false", "secure_boot = true")
    refused = appraise(log, policy=strict, pcrs=pcrs)
    assert refused.status == REFUSED
    assert "firmware:secure-boot" in refused.codes


def test_the_ima_log_is_believed_as_far_as_the_quote_saw_it(
    machine: Machine, tmp_path: Path
) -> None:
    """PCR 10 moves between quote and reading: what came later is counted, not believed."""
    pcrs = quote_into(tmp_path, machine)
    machine.write(READ_LATER, b"measured after the quote")
    machine.run("cat", READ_LATER).good()
    rules = machine.run("hwtrust", "reference", "from-ima", IMA_LOG).good()
    log = machine.read(IMA_LOG)
    assert READ_LATER in tomllib.loads(rules)["ima"]["digests"]
    good = appraise(log, policy=rules, pcrs=pcrs)
    assert good.status == ACCEPTED
    assert good.shown["facts"]["entries_after_quote"] > 0
    assert log.count(b"boot_aggregate") == 1
    forged = appraise(log.replace(b"boot_aggregate", b"boot_Aggregate"), policy=rules, pcrs=pcrs)
    assert forged.status == REFUSED
    assert ImaReplayError.code in forged.complaint
