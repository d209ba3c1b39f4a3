"""Real machines' firmware logs come to what their TPMs held, and no other log does.

The repository's own logs, and the collection of others' logs where it is present. What
it holds of values: computed ones (`.pcrs.json`), and ones that were read from the TPM
(`.known-pcrs.json`), of which it says where a log cannot explain them.
"""

from __future__ import annotations

import json
import os
import random
import re
import tomllib
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from hwtrust.errors.base import HwTrustError
from hwtrust.errors.evidence import LogError, MalformedError
from hwtrust.errors.logs import FirmwareKindError
from hwtrust.verify.logs.firmware import verify_cc_log, verify_firmware_log
from hwtrust.verify.logs.firmware_claims import FirmwareClaims, SecureBoot
from hwtrust.verify.logs.firmware_rules import FirmwareRules, appraise_firmware
from hwtrust.verify.logs.reference import reference_from_eventlog
from hwtrust.verify.platform import FirmwareLogRules
from hwtrust.wire.algorithms import Alg, alg_from_name
from hwtrust.wire.logs.firmware import EventType, FirmwareLog
from hwtrust.wire.logs.uefi import Variable
from hwtrust.wire.messages import Severity
from vectors import make_firmware

ROOT: Final = Path(__file__).resolve().parents[2]
PUBLIC: Final = Path(os.environ.get("HWTRUST_VECTORS", ROOT.parent / "shared" / "vectors"))
LOGS: Final = sorted(PUBLIC.glob("event-logs/*/*.bin"))
BOOTS: Final = sorted(PUBLIC.glob("vm-boots/*/eventlog.bin"))
OWN: Final = sorted(make_firmware.FOLDER.glob("*.bin"))

REFUSED: Final = {
    "go-attestation/inline-event-size-too-large",
    "go-attestation/inline-specid-many-algs",
    "keylime/binary_bios_measurements-bogus",
    "keylime/binary_bios_measurements-empty",
}
SAMPLE: Final = 400

needs_logs = pytest.mark.skipif(not LOGS, reason="the collection of event logs is not here")
needs_boots = pytest.mark.skipif(not BOOTS, reason="the collection of VM boots is not here")


def name_of(path: Path) -> str:
    """Folder and name of a log."""
    return f"{path.parent.name}/{path.stem}"


GOOD: Final = [path for path in LOGS if name_of(path) not in REFUSED]
KNOWN: Final = [path for path in GOOD if path.with_name(f"{path.stem}.known-pcrs.json").exists()]


def values_of(table: dict[str, str]) -> dict[int, bytes]:
    """Register values by number."""
    return {int(number): bytes.fromhex(value) for number, value in table.items()}


def computed(path: Path) -> dict[str, dict[int, bytes]]:
    """What the collection says that a log comes to."""
    facts = json.loads(path.with_suffix(".pcrs.json").read_text())
    values: Any = facts["replay"]["pcrs"]
    if isinstance(values, str):
        values = facts["tpm2_eventlog"]["pcrs"]
    return {bank: values_of(table) for bank, table in values.items() if table}


def verify(log: FirmwareLog, bank: str, values: dict[int, bytes]) -> FirmwareClaims:
    """Replay, into PCRs or RTMRs."""
    if log.is_confidential:
        return verify_cc_log(log, rtmrs={number - 1: value for number, value in values.items()})
    alg = alg_from_name(bank)
    return verify_firmware_log(
        log, pcrs={alg: values}, bank=alg, numbers=tuple(values), unsafe_allow_sha1=True
    )


def test_the_repositorys_own_logs_are_there_and_come_again() -> None:
    """The generator makes the same bytes."""
    stored = {path.name: path.read_bytes() for path in make_firmware.FOLDER.iterdir()}
    assert len(OWN) == 5
    assert stored == make_firmware.files()


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.stem)
def test_the_repositorys_own_logs_come_to_their_values(path: Path) -> None:
    """In every bank, with the claims that stand beside them."""
    facts = json.loads(path.with_suffix(".json").read_text())
    log = FirmwareLog.decode(path.read_bytes())
    for bank, values in facts["pcrs"].items():
        claims = verify(log, bank, values_of(values))
        assert claims.secure_boot == facts["secure_boot"]
        assert claims.confidential is facts["confidential"]
        assert claims.after == 0


@needs_logs
def test_the_collection_has_the_logs_that_are_known() -> None:
    """None of the tables below is empty."""
    assert {name_of(path) for path in LOGS} >= REFUSED
    assert len(GOOD) >= 70
    assert len(KNOWN) >= 18


@needs_logs
@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_is_no_log_is_refused(name: str) -> None:
    """Text, nothing, and sizes beyond all."""
    with pytest.raises(MalformedError) as caught:
        FirmwareLog.decode((PUBLIC / "event-logs" / f"{name}.bin").read_bytes())
    assert caught.value.code == "wire:malformed"


@needs_logs
@pytest.mark.parametrize("path", GOOD, ids=name_of)
def test_a_log_comes_to_the_values_that_are_known_of_it(path: Path) -> None:
    """In every bank; its rules accept it; the words of its variables are covered."""
    log = FirmwareLog.decode(path.read_bytes())
    facts = json.loads(path.with_suffix(".pcrs.json").read_text())["replay"]
    assert len(log.events) == facts["events"]
    assert log.padding == (facts["padding_bytes"] or 0)
    for bank, values in computed(path).items():
        claims = verify(log, bank, values)
        assert claims.after == 0
        assert not [item for item in claims.measurements if item.disagrees]
        text = reference_from_eventlog(log, pcrs=tuple(claims.digests), bank=alg_from_name(bank))
        rules = msgspec.convert(tomllib.loads(text)["firmware_log"], FirmwareLogRules)
        assert appraise_firmware(claims, rules=rules) == ()
        assert claims.facts()["bank"] == bank


@needs_logs
@pytest.mark.parametrize("path", GOOD, ids=name_of)
def test_the_state_of_secure_boot_is_that_of_the_variable(path: Path) -> None:
    """By digest, on every machine whose log has the variable."""
    log = FirmwareLog.decode(path.read_bytes())
    register = 1 if log.is_confidential else 7
    said = [
        Variable.decode(event.data).data
        for event in log.events
        if event.register == register
        and event.type == EventType.EFI_VARIABLE_DRIVER_CONFIG
        and Variable.decode(event.data).name == "SecureBoot"
    ]
    separated = any(
        event.register == register and event.type == EventType.SEPARATOR for event in log.events
    )
    for bank, values in computed(path).items():
        claims = verify(log, bank, values)
        if said and separated:
            expected = SecureBoot.ON if said[0] == b"\x01" else SecureBoot.OFF
            assert claims.secure_boot is expected
        else:
            assert claims.secure_boot is SecureBoot.UNKNOWN


@needs_logs
@pytest.mark.parametrize("path", KNOWN, ids=name_of)
def test_a_log_comes_to_the_values_that_the_tpm_held(path: Path) -> None:
    """All those of which the collection says so; the others are refused."""
    log = FirmwareLog.decode(path.read_bytes())
    matched = 0
    for case in json.loads(path.with_name(f"{path.stem}.known-pcrs.json").read_text()):
        for bank, table in case["pcrs"].items():
            expected, values = case["replay"].get(bank), values_of(table)
            if expected is None:
                continue
            if expected["match"]:
                verify(log, bank, {number: values[number] for number in expected["match"]})
                matched += 1
            for number in expected["mismatch"]:
                with pytest.raises(LogError):
                    verify(log, bank, {number: values[number]})
    assert matched


@needs_boots
@pytest.mark.parametrize("path", BOOTS, ids=lambda path: path.parent.name)
def test_a_virtual_machines_log_comes_to_the_values_that_its_tpm_held(path: Path) -> None:
    """PCR 0 to 9, in both banks; PCR 10 is IMA's and is refused."""
    log = FirmwareLog.decode(path.read_bytes())
    banks: dict[str, dict[int, bytes]] = {}
    values: dict[int, bytes] = {}
    for line in path.with_name("pcrs.yaml").read_text().splitlines():
        if match := re.match(r"\s+(\w+):\s*$", line):
            values = banks.setdefault(match[1], {})
        elif match := re.match(r"\s+(\d+)\s*:\s*0x([0-9A-F]+)", line):
            values[int(match[1])] = bytes.fromhex(match[2])
    filled = {bank: values for bank, values in banks.items() if values}
    assert "sha256" in filled
    for bank, values in filled.items():
        if alg_from_name(bank) not in dict(log.banks):
            continue
        firmware = {number: values[number] for number in range(10)}
        assert verify(log, bank, firmware).after == 0
        with pytest.raises(LogError):
            verify(log, bank, firmware | {10: values[10]})


@needs_logs
def test_a_log_of_measurement_registers_is_not_matched_to_pcrs() -> None:
    """All of the collection's CCEL."""
    logs = [path for path in GOOD if path.stem.startswith("ccel-")]
    assert len(logs) == 3
    for path in logs:
        log = FirmwareLog.decode(path.read_bytes())
        with pytest.raises(FirmwareKindError):
            verify_firmware_log(
                log, pcrs={Alg.SHA384: {1: bytes(48)}}, bank=Alg.SHA384, numbers=(1,)
            )


def decisions(claims: FirmwareClaims, rules: FirmwareRules) -> object:
    """All of the claims that decides anything."""
    findings = appraise_firmware(claims, rules=rules)
    failing = [finding for finding in findings if finding.severity is not Severity.ALERT]
    return claims.digests, claims.secure_boot, claims.separators, claims.exit_boot_services, failing


def altered(raw: bytes, bit: int) -> bytes:
    """`raw` with one bit changed."""
    changed = bytearray(raw)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@pytest.mark.parametrize("path", [*OWN, *GOOD], ids=name_of)
def test_no_bit_of_a_log_changes_a_decision(path: Path) -> None:
    """Not covered by the quote are types, data, other banks and padding: words for people.

    All bits of small logs, and as many of large ones as are enough. A bit of a digest
    that was extended, or of its register, is refused always.
    """
    raw = path.read_bytes()
    log = FirmwareLog.decode(raw)
    if path in OWN:
        table = json.loads(path.with_suffix(".json").read_text())["pcrs"]
        banks = {bank: values_of(values) for bank, values in table.items()}
    else:
        banks = computed(path)
    if not banks:
        pytest.skip("nothing was extended")
    bank = "sha256" if "sha256" in banks else next(iter(banks))
    values, number = banks[bank], int(alg_from_name(bank))
    honest = verify(log, bank, values)
    text = reference_from_eventlog(log, pcrs=tuple(honest.digests), bank=alg_from_name(bank))
    rules = msgspec.convert(tomllib.loads(text)["firmware_log"], FirmwareLogRules)
    count = 8 * len(raw)
    chosen = range(count) if count <= SAMPLE else random.Random(count).sample(range(count), SAMPLE)  # noqa: S311
    for bit in chosen:
        try:
            claims = verify(FirmwareLog.decode(altered(raw, bit)), bank, values)
        except HwTrustError as error:
            assert error.code.startswith(("wire:", "evidence:"))  # noqa: PT017
            continue
        assert decisions(claims, rules) == decisions(honest, rules)
    for event in random.Random(count).sample(log.events, min(20, len(log.events))):  # noqa: S311
        digest = event.digests.get(number, b"")
        if event.type != EventType.NO_ACTION and raw.count(digest) == 1:
            with pytest.raises(HwTrustError):
                verify(FirmwareLog.decode(altered(raw, 8 * raw.index(digest))), bank, values)
