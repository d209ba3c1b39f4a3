"""Secure Boot: a signed unified kernel image is told from a kernel that nobody signed."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING

import pytest

from vm.evidence import FIRMWARE_LOG, appraise, quote_into
from vm.machine import Plan

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vm.machine import Machine

pytestmark = [pytest.mark.vm, pytest.mark.long]


def test_rules_that_require_secure_boot_accept_only_a_signed_start(
    new_machine: Callable[[Plan], Machine], tmp_path: Path
) -> None:
    """The certificate that vouched for the image is in the log; without it nothing is accepted."""
    signed = new_machine(Plan(secure_boot=True))
    signed.start()
    rules = signed.run("hwtrust", "reference", "from-eventlog", FIRMWARE_LOG).good()
    table = tomllib.loads(rules)["firmware_log"]
    assert table["secure_boot"] is True
    assert table["authorities"]
    (tmp_path / "signed").mkdir()
    pcrs = quote_into(tmp_path / "signed", signed)
    good = appraise(signed.read(FIRMWARE_LOG), policy=rules, pcrs=pcrs)
    assert (good.status, good.codes) == (0, set())
    signed.stop()

    unsigned = new_machine(Plan())
    unsigned.start()
    (tmp_path / "unsigned").mkdir()
    pcrs = quote_into(tmp_path / "unsigned", unsigned)
    refused = appraise(unsigned.read(FIRMWARE_LOG), policy=rules, pcrs=pcrs)
    assert refused.status == 3
    assert "firmware:secure-boot" in refused.codes
