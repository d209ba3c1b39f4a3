"""`hwtrust reference from-eventlog`: rules to edit, from a machine's log."""

from __future__ import annotations

import json
import tomllib
from typing import TYPE_CHECKING

import msgspec
from click.testing import CliRunner, Result

from hwtrust.cli.reference import reference
from hwtrust.errors.base import HwTrustError
from hwtrust.verify.platform import FirmwareLogRules
from simulators.firmware_log import Firmware, booted

if TYPE_CHECKING:
    from pathlib import Path


def run(path: Path, raw: bytes, *options: str) -> Result:
    """The command on a log."""
    path.write_bytes(raw)
    return CliRunner().invoke(reference, ["from-eventlog", str(path), *options])


def test_the_rules_are_toml_that_is_read_as_rules(tmp_path: Path) -> None:
    """Of the PCRs that are asked for."""
    result = run(tmp_path / "log", booted().raw, "--pcrs", "4,7")
    assert result.exit_code == 0
    rules = msgspec.convert(tomllib.loads(result.output)["firmware_log"], FirmwareLogRules)
    assert isinstance(rules.digests, dict)
    assert set(rules.digests) == {"4", "7"}
    assert rules.secure_boot is True


def test_json_says_what_the_log_is(tmp_path: Path) -> None:
    """Beside the same text."""
    words = run(tmp_path / "log", booted().raw).output
    result = json.loads(run(tmp_path / "log", booted().raw, "--json").output)
    assert result["toml"] == words
    assert result["log"]["format"] == "crypto-agile"


def test_a_confidential_vms_log_has_its_own_registers_and_bank(tmp_path: Path) -> None:
    """RTMRs of SHA-384, unless others are asked for."""
    raw = Firmware("sha384", confidential=True).separate(1).raw
    table = tomllib.loads(run(tmp_path / "log", raw).output)["firmware_log"]
    assert table["bank"] == "sha384"
    assert set(table["digests"]) == {"0", "1", "2", "3"}
    refused = run(tmp_path / "log", raw, "--bank", "sha256")
    assert isinstance(refused.exception, HwTrustError)
    assert refused.exception.code == "evidence:firmware-log:bank"


def test_a_log_of_another_bank_says_which_it_has(tmp_path: Path) -> None:
    """Firmware that is old measures SHA-1 alone; rules are made of it when they are asked for."""
    raw = booted("sha1").raw
    refused = run(tmp_path / "log", raw)
    assert isinstance(refused.exception, HwTrustError)
    assert refused.exception.code == "evidence:firmware-log:bank"
    assert refused.exception.message.endswith("sha1")
    made = run(tmp_path / "log", raw, "--bank", "sha1")
    assert tomllib.loads(made.output)["firmware_log"]["bank"] == "sha1"


def test_what_is_no_log_and_no_pcr_is_refused(tmp_path: Path) -> None:
    """Each with its code."""
    refused = run(tmp_path / "log", b"text")
    assert isinstance(refused.exception, HwTrustError)
    assert refused.exception.code == "wire:malformed"
    large = run(tmp_path / "log", b"\1" * (9 << 20))
    assert isinstance(large.exception, HwTrustError)
    assert large.exception.code == "wire:firmware-log:size"
    assert run(tmp_path / "log", booted().raw, "--pcrs", "seven").exit_code == 2
    assert run(tmp_path / "log", booted().raw, "--pcrs", "0+sha1:1").exit_code == 2
