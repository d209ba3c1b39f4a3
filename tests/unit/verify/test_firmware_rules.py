"""What firmware measured is accepted by digests, or every finding is told."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Collection
from typing import Any

import msgspec
import pytest

from hwtrust.errors.logs import FirmwareBankError, FirmwarePcrError
from hwtrust.verify.logs.firmware import verify_cc_log, verify_firmware_log
from hwtrust.verify.logs.firmware_claims import FirmwareClaims
from hwtrust.verify.logs.firmware_rules import (
    FINDINGS,
    MOST_OF_A_CODE,
    appraise_firmware,
)
from hwtrust.verify.logs.reference import reference_from_eventlog
from hwtrust.verify.platform import FirmwareLogRules
from hwtrust.wire.algorithms import Alg, new_hash
from hwtrust.wire.logs.firmware import EventType, FirmwareEvent
from hwtrust.wire.messages import Severity
from simulators.firmware_log import Firmware, booted

NUMBERS = (*range(10), 14)


def claims_of(
    firmware: Firmware, *, numbers: Collection[int] = NUMBERS, bank: Alg = Alg.SHA256
) -> FirmwareClaims:
    """What a machine's log claims."""
    return verify_firmware_log(firmware.log, pcrs=firmware.pcrs, bank=bank, numbers=numbers)


def table_of(firmware: Firmware, *, numbers: Collection[int] = NUMBERS) -> dict[str, Any]:
    """The rules that a machine gives, as a table to change."""
    text = reference_from_eventlog(firmware.log, pcrs=numbers, bank=Alg.SHA256)
    table: dict[str, Any] = tomllib.loads(text)["firmware_log"]
    return table


def codes(firmware: Firmware, table: dict[str, Any], **options: Any) -> set[str]:  # noqa: ANN401
    """The codes of all findings."""
    rules = msgspec.convert(table, FirmwareLogRules)
    findings = appraise_firmware(claims_of(firmware, **options), rules=rules)
    assert all(finding.severity is FINDINGS[finding.code][0] for finding in findings)
    return {finding.code for finding in findings}


def digest(content: bytes) -> str:
    """SHA-256, as rules spell it."""
    return new_hash(Alg.SHA256, content).hex()


def test_a_machine_is_accepted_by_the_rules_that_were_made_of_its_log() -> None:
    """And by no finding at all."""
    assert codes(booted(), table_of(booted())) == set()


def test_the_order_and_number_of_what_is_accepted_do_not_count() -> None:
    """Another order of the same commands is the same boot loader."""
    firmware = booted()
    firmware.command("grub_cmd: ", "/vmlinuz root=/dev/sda2 quiet")
    firmware.command("grub_cmd: ", "linux /vmlinuz root=/dev/sda2")
    assert codes(firmware, table_of(booted())) == set()


Change = Callable[[Firmware], object]

BOOTS: dict[str, tuple[Change, str]] = {
    "another kernel": (
        lambda f: f.measure(9, EventType.IPL, b"/vmlinuz\0", b"evil"),
        "firmware:digest",
    ),
    "another boot loader": (
        lambda f: f.measure(4, EventType.IPL, b"grub", b"evil"),
        "firmware:digest",
    ),
    "a digest of another register": (
        lambda f: f.measure(4, EventType.IPL, b"/vmlinuz-6.1\0", b"the kernel"),
        "firmware:digest",
    ),
    "a digest under another type": (
        lambda f: f.measure(4, EventType.SEPARATOR, b"evil"),
        "firmware:digest",
    ),
    "another authority": (
        lambda f: f.authority("db", b"another certificate"),
        "firmware:authority",
    ),
    "a policy of Secure Boot once more": (
        lambda f: f.variable("SecureBoot", b"\x01"),
        "firmware:authority",
    ),
    "a second separator": (lambda f: f.separate(2), "firmware:separator"),
    "a second separator of PCR 7": (lambda f: f.separate(7), "firmware:separator"),
    "a second separator of ones": (lambda f: f.separate(4, data=b"\xff" * 4), "firmware:separator"),
}


@pytest.mark.parametrize("what", BOOTS)
def test_whatever_else_was_measured_is_a_finding_that_fails(what: str) -> None:
    """Digests decide."""
    change, code = BOOTS[what]
    firmware = booted()
    change(firmware)
    assert code in codes(firmware, table_of(booted()))
    assert FINDINGS[code][0] is Severity.FAIL


def test_secure_boot_must_have_the_required_state() -> None:
    """On, off, and neither; one of them must be spelled out."""
    off = Firmware().start(secure_boot=b"\0").load()
    table = table_of(off)
    assert table["secure_boot"] is False
    assert codes(off, table) == set()
    assert codes(off, table | {"secure_boot": True}) == {"firmware:secure-boot"}
    on = table_of(booted())
    assert codes(booted(), on | {"secure_boot": False}) == {"firmware:secure-boot"}
    del on["secure_boot"]
    assert codes(booted(), on) == {"firmware:absent"}
    assert codes(booted(), on | {"unsafe_any_secure_boot": True}) == set()
    either = {"unsafe_any_secure_boot": True, "secure_boot": False}
    assert codes(booted(), on | either) == set()


def test_secure_boot_is_not_on_where_nothing_tells() -> None:
    """Unknown is not the state that is required."""
    table = table_of(booted()) | {"digests": table_of(booted(), numbers=(0, 4))["digests"]}
    assert codes(booted(), table, numbers=(0, 4)) == {"firmware:secure-boot"}


@pytest.mark.parametrize("name", ["bank", "digests", "required", "authorities", "secure_boot"])
def test_a_field_that_is_absent_refuses(name: str) -> None:
    """Nothing is accepted by silence."""
    table = table_of(booted())
    del table[name]
    also = {"digests": {"firmware:register-unlisted"}, "authorities": {"firmware:authority"}}
    assert codes(booted(), table) == {"firmware:absent"} | also.get(name, set())


def test_empty_rules_accept_nothing() -> None:
    """Every register is a finding."""
    found = codes(booted(), {})
    assert {"firmware:absent", "firmware:register-unlisted", "firmware:authority"} <= found


def test_rules_of_another_bank_refuse() -> None:
    """Digests of one bank say nothing of another."""
    assert "firmware:bank" in codes(booted(), table_of(booted()) | {"bank": "sha384"})


def test_registers_of_rules_and_claims_must_be_the_same() -> None:
    """One that was left out of the quote, and one that no rule speaks of."""
    table = table_of(booted())
    assert codes(booted(), table, numbers=range(9)) == {"firmware:register-missing"}
    del table["digests"]["9"]
    assert codes(booted(), table) == {"firmware:register-unlisted"}
    assert codes(booted(), table | {"unsafe_any_pcrs": [9]}) == set()
    table["digests"]["9"] = []
    assert codes(booted(), table) == {"firmware:digest"}
    assert codes(booted(), table | {"unsafe_any_pcrs": [9]}) == set()


@pytest.mark.parametrize("field", ["sequences", "required"])
def test_every_table_names_registers_that_must_be_there(field: str) -> None:
    """A rule for a register that was not quoted is not fulfilled."""
    table = table_of(booted()) | {field: {"12": []}}
    assert codes(booted(), table) == {"firmware:register-missing"}


def test_what_is_required_must_be_measured() -> None:
    """A list of what is accepted does not say that it was there."""
    table = table_of(booted())
    table["required"] = {"9": [digest(b"the kernel")]}
    assert codes(booted(), table) == set()
    table["required"] = {"4": [digest(b"the kernel")]}
    assert codes(booted(), table) == {"firmware:required"}


def test_an_exact_sequence_accepts_nothing_else() -> None:
    """No other order, no more and no less."""
    shim, grub, separator = digest(b"shim"), digest(b"grub"), digest(bytes(4))
    table = table_of(booted())
    for sequence, found in {
        (separator, shim, grub): set(),
        (separator, grub, shim): {"firmware:sequence"},
        (separator, shim): {"firmware:sequence"},
        (separator, shim, grub, grub): {"firmware:sequence"},
    }.items():
        assert codes(booted(), table | {"sequences": {"4": list(sequence)}}) == found
    table["digests"]["4"] = []
    assert codes(booted(), table | {"sequences": {"4": [separator, shim, grub]}}) == set()


def test_data_that_disagrees_with_its_digest_alerts() -> None:
    """The digest is accepted; the words beside it are not what was measured."""
    firmware = booted()
    number = next(n for n, event in enumerate(firmware.events) if event.register == 8)
    lie = msgspec.structs.replace(firmware.events[number], data=b"grub_cmd: harmless\0")
    firmware.events[number] = lie
    assert codes(firmware, table_of(booted())) == {"firmware:data"}
    assert FINDINGS["firmware:data"][0] is Severity.ALERT


def test_altered_types_change_no_decision() -> None:
    """Whatever the log calls its events, the same findings fail."""
    table = table_of(booted())
    for change, _ in BOOTS.values():
        firmware = booted()
        change(firmware)
        honest = codes(firmware, table) - {"firmware:data"}
        for type_ in (EventType.EFI_VARIABLE_AUTHORITY, EventType.SEPARATOR, 0x1234):
            events = firmware.events
            firmware.events = [
                event
                if event.type == EventType.NO_ACTION
                else msgspec.structs.replace(event, type=int(type_))
                for event in events
            ]
            assert codes(firmware, table) - {"firmware:data"} == honest
            firmware.events = events


def test_firmware_that_separates_twice_is_accepted_where_that_is_spelled_out() -> None:
    """Some machines do; their rules say so."""
    firmware = booted()
    firmware.separate(0, 7)
    table = table_of(firmware)
    assert table["unsafe_repeated_separators"] == [0, 7]
    assert codes(firmware, table) == set()
    assert codes(firmware, table | {"unsafe_repeated_separators": [0]}) == {"firmware:separator"}


def test_registers_that_no_firmware_separates_may_hold_what_separators_are_made_of() -> None:
    """Nothing rests on separators there."""
    firmware = booted().separate(9, 9)
    table = table_of(firmware)
    assert "unsafe_repeated_separators" not in table
    assert codes(firmware, table) == set()


def test_findings_of_a_code_are_counted_beyond_the_first() -> None:
    """A long and hostile log does not make a long verdict."""
    firmware = booted()
    for number in range(MOST_OF_A_CODE):
        firmware.command("grub_cmd: ", f"evil {number}")
    rules = msgspec.convert(table_of(booted()), FirmwareLogRules)
    assert len(appraise_firmware(claims_of(firmware), rules=rules)) == MOST_OF_A_CODE
    for number in range(84):
        firmware.command("grub_cmd: ", f"worse {number}")
    findings = appraise_firmware(claims_of(firmware), rules=rules)
    assert len(findings) == MOST_OF_A_CODE + 1
    assert "84 more" in findings[-1].message


BAD_RULES: dict[str, dict[str, Any]] = {
    "an unknown field": {"secureboot": True},
    "an unknown bank": {"bank": "md5"},
    "a digest of another length": {"digests": {"0": ["00"]}},
    "a digest of upper case": {"digests": {"0": ["AB" * 32]}},
    "a register that is no number": {"digests": {"seven": []}},
    "a register beyond all": {"digests": {"24": []}},
    "a register with a zero in front": {"digests": {"07": []}},
}


@pytest.mark.parametrize("what", BAD_RULES)
def test_rules_of_another_form_are_refused(what: str) -> None:
    """Where they are read, not where they would silently not match."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(BAD_RULES[what], FirmwareLogRules)


def test_a_confidential_vm_is_accepted_by_the_rules_that_were_made_of_its_log() -> None:
    """By RTMR; its separators stand for several PCRs, and authorities among the rest."""
    firmware = Firmware("sha384", confidential=True).variable("SecureBoot", b"\x01")
    firmware.separate(1, 1).authority("db", b"x").measure(
        2, EventType.IPL, b"/vmlinuz\0", b"kernel"
    )
    text = reference_from_eventlog(firmware.log, pcrs=range(4), bank=Alg.SHA384)
    table = tomllib.loads(text)["firmware_log"]
    assert table["secure_boot"] is True
    assert "unsafe_repeated_separators" not in table
    rules = msgspec.convert(table, FirmwareLogRules)
    assert appraise_firmware(verify_cc_log(firmware.log, rtmrs=firmware.rtmrs), rules=rules) == ()
    firmware.authority("db", b"y")
    (finding,) = appraise_firmware(verify_cc_log(firmware.log, rtmrs=firmware.rtmrs), rules=rules)
    assert finding.code == "firmware:digest"
    assert "RTMR 0" in finding.message


def test_reference_values_have_the_words_of_the_log_beside_them() -> None:
    """And words cannot leave their comment."""
    firmware = booted()
    firmware.command("grub_cmd: ", 'echo\n[firmware_log]\nbank = "sha1" \x1b[2J')
    text = reference_from_eventlog(firmware.log, pcrs=NUMBERS, bank=Alg.SHA256)
    line = next(line for line in text.splitlines() if digest(b"the kernel") in line)
    assert line.endswith("# EV_IPL kernel: /vmlinuz-6.1 (not verified)")
    assert "\nauthorities = []\n" in reference_from_eventlog(
        firmware.log, pcrs=(4,), bank=Alg.SHA256
    )
    assert "\x1b" not in text
    assert tomllib.loads(text)["firmware_log"]["bank"] == "sha256"


def test_reference_values_of_a_log_that_tells_no_state_leave_secure_boot_open() -> None:
    """The name of the field says what that means."""
    table = table_of(Firmware().separate(4), numbers=(4,))
    assert table["unsafe_any_secure_boot"] is True
    assert "secure_boot" not in table
    assert "secure_boot" not in table_of(booted(), numbers=(0, 4))
    assert table_of(Firmware().separate(7), numbers=(7,))["unsafe_any_secure_boot"] is True
    assert table_of(booted(), numbers=(7,))["secure_boot"] is True


def test_reference_values_hold_what_was_extended_once_and_authorities_apart() -> None:
    """No event of another bank, no event that extends nothing, no digest twice."""
    firmware = Firmware(locality=3).start().load()
    firmware.command("grub_cmd: ", "linux /vmlinuz root=/dev/sda2")
    firmware.events.append(FirmwareEvent(4, EventType.IPL, {Alg.SHA1: bytes(20)}, b""))
    table = table_of(firmware)
    assert codes(firmware, table) == set()
    assert "00" * 32 not in table["digests"]["0"]
    assert all(len(values) == len(set(values)) for values in table["digests"].values())
    assert set(table["authorities"]).isdisjoint(table["digests"]["7"])
    assert "7" not in table_of(firmware, numbers=(4,))["digests"]


def test_reference_values_take_secure_boot_from_what_pcr_7_was_extended_with() -> None:
    """Not from another register, another bank or an event that extends nothing."""
    honest = Firmware().start(secure_boot=b"\0").load()
    on = next(event for event in booted().events if event.register == 7)
    for lie in (
        msgspec.structs.replace(on, register=6),
        msgspec.structs.replace(on, type=int(EventType.NO_ACTION)),
        msgspec.structs.replace(on, digests={Alg.SHA1: bytes(20)}),
    ):
        firmware = Firmware().start(secure_boot=b"\0").load()
        firmware.events.insert(1, lie)
        assert table_of(firmware)["secure_boot"] is False
    assert table_of(honest)["secure_boot"] is False


def test_reference_values_need_registers_and_a_bank_of_the_log() -> None:
    """Else there would be rules that accept nothing."""
    with pytest.raises(FirmwarePcrError):
        reference_from_eventlog(booted().log, pcrs=(), bank=Alg.SHA256)
    with pytest.raises(FirmwareBankError):
        reference_from_eventlog(booted().log, pcrs=(0,), bank=Alg.SHA512)
