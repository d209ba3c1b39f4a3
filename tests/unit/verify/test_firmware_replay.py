"""The firmware's log explains what was quoted, or is refused; what it then claims."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
import pytest

from hwtrust.errors.evidence import EvidenceError, WeakBankError
from hwtrust.errors.logs import (
    FirmwareBankError,
    FirmwareKindError,
    FirmwareLocalityError,
    FirmwareOrderError,
    FirmwarePcrError,
    FirmwareReplayError,
    FirmwareUnloggedError,
)
from hwtrust.verify.logs.firmware import verify_cc_log, verify_firmware_log
from hwtrust.verify.logs.firmware_claims import Covered, FirmwareClaims, SecureBoot
from hwtrust.wire.algorithms import Alg, new_hash
from hwtrust.wire.logs.describe import Topic
from hwtrust.wire.logs.firmware import EventType, FirmwareEvent, FirmwareLog
from hwtrust.wire.logs.uefi import GLOBAL_VARIABLE, SECURITY_DATABASE, Variable
from simulators.firmware_log import CERTIFICATE, Firmware, booted

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

NUMBERS = (*range(10), 14)
NO_ACTION = int(EventType.NO_ACTION)


def replay(
    firmware: Firmware,
    *,
    log: FirmwareLog | None = None,
    bank: Alg = Alg.SHA256,
    numbers: Collection[int] = NUMBERS,
    pcrs: Mapping[Alg, Mapping[int, bytes]] | None = None,
) -> FirmwareClaims:
    """Verify a machine's log into its PCRs, or others."""
    return verify_firmware_log(
        firmware.log if log is None else log,
        pcrs=firmware.pcrs if pcrs is None else pcrs,
        bank=bank,
        numbers=numbers,
    )


def altered(log: FirmwareLog, number: int, **changes: object) -> FirmwareLog:
    """`log` with one event changed."""
    events = list(log.events)
    events[number] = msgspec.structs.replace(events[number], **changes)
    return msgspec.structs.replace(log, events=tuple(events))


def without(log: FirmwareLog, *numbers: int) -> FirmwareLog:
    """`log` with events left out."""
    events = tuple(event for n, event in enumerate(log.events) if n not in numbers)
    return msgspec.structs.replace(log, events=events)


@pytest.mark.parametrize("locality", [0, 3, 4])
@pytest.mark.parametrize("bank", ["sha256", "sha384", "sha512"])
def test_a_log_that_explains_the_quote_is_believed(bank: str, locality: int) -> None:
    """In any bank, wherever TPM2_Startup came from."""
    firmware = booted("sha1", bank, locality=locality)
    claims = replay(firmware, bank=Alg[bank.upper()])
    assert claims.seen == len(firmware.events)
    assert claims.after == 0
    assert claims.locality == locality
    assert {n: len(digests) for n, digests in claims.digests.items()} == {
        n: sum(event.register == n and event.type != NO_ACTION for event in firmware.events)
        for n in NUMBERS
    }


def test_a_hardware_core_root_of_trust_starts_pcr_0_at_4() -> None:
    """H-CRTM: its event says so, whatever else the log says of the locality."""
    firmware = Firmware("sha256", locality=4, says_locality=3)
    firmware.measure(0, EventType.EFI_HCRTM_EVENT, b"HCRTM", b"its code").start()
    assert replay(firmware, numbers=(0,)).locality == 4


def test_the_first_locality_that_the_log_says_counts() -> None:
    """Another one behind it changes nothing, and in front of it is refused."""
    firmware = booted(locality=3)
    said = firmware.log.events[1]
    other = msgspec.structs.replace(said, data=b"StartupLocality\0\0")
    for events in ((said, other), (other, said)):
        together = (firmware.log.events[0], *events, *firmware.log.events[2:])
        log = msgspec.structs.replace(firmware.log, events=together)
        if events[0] is said:
            assert replay(firmware, log=log).locality == 3
        else:
            with pytest.raises(FirmwareLocalityError):
                replay(firmware, log=log)


def test_a_sha1_only_log_is_believed_only_where_sha1_is_spelled_out() -> None:
    """SHA-1 is refused, else."""
    firmware = booted("sha1")
    with pytest.raises(WeakBankError):
        replay(firmware, bank=Alg.SHA1)
    claims = verify_firmware_log(
        firmware.log, pcrs=firmware.pcrs, bank=Alg.SHA1, numbers=NUMBERS, unsafe_allow_sha1=True
    )
    assert claims.secure_boot is SecureBoot.ON


def test_a_log_longer_than_the_quote_saw_is_fine_and_its_end_is_no_claim() -> None:
    """What was measured between quote and reading is left out."""
    firmware = Firmware().start()
    pcrs, seen = firmware.pcrs, len(firmware.events)
    firmware.load()
    claims = replay(firmware, pcrs=pcrs)
    assert (claims.seen, claims.after) == (seen, len(firmware.events) - seen)
    assert claims.authorities == ()
    assert claims.digests[9] == ()


def test_the_longest_beginning_counts() -> None:
    """Events that no quoted register saw belong to it, as far as they go."""
    firmware = booted()
    firmware.measure(12, EventType.IPL, b"elsewhere")
    assert replay(firmware).after == 0


def test_an_event_without_digest_of_the_bank_was_not_extended_into_it() -> None:
    """Some software extends one bank alone."""
    firmware = booted()
    pcrs = firmware.pcrs
    event = FirmwareEvent(4, EventType.IPL, {Alg.SHA1: bytes(20)}, b"")
    log = msgspec.structs.replace(firmware.log, events=(*firmware.log.events, event))
    claims = replay(firmware, log=log, pcrs=pcrs)
    assert claims.after == 0
    assert len(claims.digests[4]) == 3


def test_a_register_that_nothing_extended_holds_its_reset_value() -> None:
    """Zeros, and ones where only a dynamic launch would have extended."""
    claims = replay(booted(), numbers=(15, 16, 17, 22, 23))
    assert all(digests == () for digests in claims.digests.values())


@dataclass
class Attack:
    """What somebody does to log or quote, and the error that it ends in."""

    error: type[EvidenceError]
    log: Callable[[Firmware], FirmwareLog] = field(default=lambda firmware: firmware.log)
    numbers: tuple[int, ...] = NUMBERS
    firmware: Callable[[], Firmware] = booted


def first(register: int) -> Callable[[Firmware], int]:
    """The first event that extends `register`."""
    return lambda firmware: next(
        n
        for n, event in enumerate(firmware.events)
        if event.register == register and event.type != NO_ACTION
    )


ATTACKS = {
    "the log is cut short by one event": Attack(
        FirmwareReplayError, lambda f: msgspec.structs.replace(f.log, events=f.log.events[:-1])
    ),
    "the log is only its header": Attack(
        FirmwareUnloggedError, lambda f: msgspec.structs.replace(f.log, events=f.log.events[:1])
    ),
    "an event is left out": Attack(FirmwareReplayError, lambda f: without(f.log, first(4)(f))),
    "all events of a PCR are left out": Attack(
        FirmwareUnloggedError,
        lambda f: without(f.log, *(n for n, e in enumerate(f.log.events) if e.register == 14)),
    ),
    "an event is added in front": Attack(
        FirmwareReplayError,
        lambda f: msgspec.structs.replace(
            f.log, events=(f.log.events[0], f.log.events[first(9)(f)], *f.log.events[1:])
        ),
    ),
    "a digest is another": Attack(
        FirmwareReplayError,
        lambda f: altered(f.log, first(4)(f), digests={4: bytes(20), 11: bytes(32)}),
    ),
    "a digest is removed": Attack(
        FirmwareReplayError, lambda f: altered(f.log, first(4)(f), digests={4: bytes(20)})
    ),
    "an event is moved to another PCR": Attack(
        FirmwareReplayError, lambda f: altered(f.log, first(4)(f), register=5)
    ),
    "the type of an event says that nothing was extended": Attack(
        FirmwareReplayError, lambda f: altered(f.log, first(7)(f), type=NO_ACTION)
    ),
    "an event that was not extended says that it was": Attack(
        FirmwareReplayError,
        lambda f: altered(f.log, 1, type=int(EventType.IPL)),
        firmware=lambda: booted(locality=3),
    ),
    "the log says another locality": Attack(
        FirmwareLocalityError, firmware=lambda: Firmware(locality=3, says_locality=4).start().load()
    ),
    "the log says no locality": Attack(
        FirmwareLocalityError, firmware=lambda: Firmware(locality=3, says_locality=0).start().load()
    ),
    "the log says a locality that no startup comes from": Attack(
        FirmwareLocalityError, firmware=lambda: Firmware(locality=0, says_locality=2).start().load()
    ),
    "a PCR was extended that the log knows nothing of": Attack(
        FirmwareUnloggedError,
        lambda f: without(f.log, len(f.log.events) - 1),
        numbers=(4, 12),
        firmware=lambda: booted().measure(12, EventType.IPL, b"x"),
    ),
    "a log of measurement registers": Attack(
        FirmwareKindError,
        lambda _: Firmware("sha384", confidential=True).start().log,
    ),
    "a log without the bank": Attack(FirmwareBankError, lambda _: booted("sha384").log),
    "no PCR at all": Attack(FirmwarePcrError, numbers=()),
    "a PCR that was not quoted": Attack(FirmwarePcrError, numbers=(0, 24)),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_log_that_does_not_explain_the_quote_is_refused(attack: str) -> None:
    """Each way of not doing so has its error."""
    case = ATTACKS[attack]
    firmware = case.firmware()
    log = case.log(firmware)
    with pytest.raises(EvidenceError) as caught:
        replay(firmware, log=log, numbers=case.numbers)
    assert type(caught.value) is case.error


def test_a_log_whose_order_no_boot_can_have_is_refused() -> None:
    """Each value is explained, and no moment explains all of them."""
    firmware = Firmware().start()
    pcrs = firmware.pcrs
    firmware.load()
    early = first(3)(firmware)
    late = (*without(firmware.log, early).events, firmware.log.events[early])
    with pytest.raises(FirmwareOrderError) as caught:
        replay(firmware, log=msgspec.structs.replace(firmware.log, events=late), pcrs=pcrs)
    assert caught.value.code == "evidence:firmware-log:order"


def test_an_empty_log_does_not_explain_a_pcr_that_was_extended() -> None:
    """SHA-1-only logs have no header that would have to be there."""
    log = FirmwareLog(banks=((11, 32),), events=(), crypto_agile=False, padding=0)
    with pytest.raises(FirmwareUnloggedError) as caught:
        replay(booted(), log=log, numbers=(4,))
    assert caught.value.code == "evidence:firmware-log:unlogged"
    assert caught.value.data["pcr"] == 4


def test_values_of_another_size_and_other_banks_are_refused() -> None:
    """A quote of another bank says nothing of this one."""
    firmware = booted()
    with pytest.raises(FirmwareBankError):
        replay(firmware, pcrs={Alg.SHA1: firmware.pcrs[Alg.SHA1]})
    with pytest.raises(FirmwarePcrError):
        replay(firmware, pcrs={Alg.SHA256: {4: bytes(20)}}, numbers=(4,))


def test_types_change_no_digest_and_no_decision() -> None:
    """Whatever the log says that its events are, the facts are the same."""
    firmware = booted()
    honest = replay(firmware)
    for type_ in (EventType.IPL, EventType.POST_CODE, 0x7777, EventType.EFI_VARIABLE_AUTHORITY):
        log = firmware.log
        for number, event in enumerate(log.events):
            if event.type != NO_ACTION:
                log = altered(log, number, type=int(type_))
        claims = replay(firmware, log=log)
        assert claims.digests == honest.digests
        assert claims.secure_boot is honest.secure_boot
        assert claims.separators == honest.separators
        assert claims.exit_boot_services is honest.exit_boot_services
        assert [item.digest for item in claims.authorities] == [
            item.digest for item in honest.authorities
        ]


STATES = {
    b"\x01": SecureBoot.ON,
    b"\x00": SecureBoot.OFF,
    b"": SecureBoot.OFF,
    b"\x02": SecureBoot.UNKNOWN,
}


@pytest.mark.parametrize("value", STATES)
def test_the_state_of_secure_boot_is_the_digest_of_its_variable(value: bytes) -> None:
    """Altering the data in the log does not turn it on."""
    firmware = Firmware().start(secure_boot=value).load()
    assert replay(firmware).secure_boot is STATES[value]
    lie = Variable(GLOBAL_VARIABLE, "SecureBoot", b"\x01").encode()
    log = altered(firmware.log, first(7)(firmware), data=lie)
    assert replay(firmware, log=log).secure_boot is STATES[value]


def test_a_variable_behind_the_separator_is_not_the_firmwares() -> None:
    """Any program can extend PCR 7 once the firmware has handed over."""
    firmware = Firmware().separate(7).variable("SecureBoot", b"\x01").variable("PK", b"mine")
    claims = replay(firmware, numbers=(7,))
    assert claims.secure_boot is SecureBoot.UNKNOWN
    assert claims.variables == {}
    assert len(claims.authorities) == 2


def test_the_first_variable_of_a_name_counts() -> None:
    """A second one changes nothing."""
    firmware = Firmware().variable("SecureBoot", b"\0").variable("SecureBoot", b"\x01")
    firmware.variable("PK", b"first").variable("PK", b"second").separate(7)
    claims = replay(firmware, numbers=(7,))
    assert claims.secure_boot is SecureBoot.OFF
    expected = new_hash(Alg.SHA256, Variable(GLOBAL_VARIABLE, "PK", b"first").encode())
    assert claims.variables == {"PK": expected}


def test_without_a_separator_nothing_is_the_firmwares() -> None:
    """Where the firmware did not say that it is done, all of PCR 7 may be another's."""
    claims = replay(Firmware().variable("SecureBoot", b"\x01"), numbers=(7,))
    assert claims.secure_boot is SecureBoot.UNKNOWN
    assert len(claims.authorities) == 1


def test_without_pcr_7_the_state_of_secure_boot_is_unknown() -> None:
    """Events of registers that were not looked at are no claims."""
    claims = replay(booted(), numbers=(0, 4))
    assert claims.secure_boot is SecureBoot.UNKNOWN
    assert {item.register for item in claims.measurements} == {0, 4}
    assert claims.authorities == ()


def test_what_was_booted_is_claimed_with_what_its_digest_covers() -> None:
    """A path is the log's word; a command line is what was measured."""
    claims = replay(booted())
    assert claims.crtm_version == "2.7"
    assert [item.digest for item in claims.boot_loaders] == [
        new_hash(Alg.SHA256, b"shim"),
        new_hash(Alg.SHA256, b"grub"),
    ]
    assert claims.boot_loaders[0].text == "\\EFI\\shim.efi"
    assert claims.boot_loaders[0].covered is Covered.NOTHING
    assert not claims.boot_loaders[0].disagrees
    assert [item.text for item in claims.kernels] == ["/vmlinuz-6.1"]
    assert [item.text for item in claims.initrds] == ["/initrd.img-6.1"]
    assert [(item.text, item.covered) for item in claims.command_lines] == [
        ("/vmlinuz root=/dev/sda2 quiet", Covered.CONTENT)
    ]
    assert [item.text for item in claims.mok_lists] == ["MokList"]
    fingerprint = new_hash(Alg.SHA256, CERTIFICATE).hex()
    assert [item.text for item in claims.authorities] == [
        f"db, certificate sha256:{fingerprint}",
        "SbatLevel",
    ]
    assert set(claims.variables) == {"PK", "KEK", "db", "dbx"}
    assert claims.exit_boot_services
    assert dict(claims.separators) == {n: int(n < 8) for n in NUMBERS}
    facts = claims.facts()
    assert facts["secure_boot"] == "on"
    assert facts["pcr_4"] == [digest.hex() for digest in claims.digests[4]]


def test_data_that_its_digest_does_not_cover_is_not_verified() -> None:
    """Neither a variable's content nor a version nor a command line can be altered unseen."""
    firmware = booted()
    changes = {
        first(0)(firmware): "9.9".encode("utf-16-le"),
        first(8)(firmware): b"grub_cmd: linux /evil\0",
        first(7)(firmware) + 3: Variable(SECURITY_DATABASE, "db", b"mine").encode(),
    }
    log = firmware.log
    for number, data in changes.items():
        log = altered(log, number, data=data)
    claims = replay(firmware, log=log)
    assert {item.number for item in claims.measurements if item.disagrees} == set(changes)
    assert claims.crtm_version is None
    assert "db" not in claims.variables


def test_a_variable_of_another_vendor_is_not_the_firmwares() -> None:
    """The name alone is not the variable."""
    firmware = (
        Firmware().variable("db", b"x").variable("PK", b"x", guid=SECURITY_DATABASE).separate(7)
    )
    assert replay(firmware, numbers=(7,)).variables == {}


def test_claims_are_made_by_verification_alone() -> None:
    """A type that only the verifier can make carries the trust."""
    claims = replay(booted())
    with pytest.raises(TypeError):
        msgspec.structs.replace(claims, seen=1)
    with pytest.raises(TypeError):
        FirmwareClaims.of(
            booted().log, seen=1, bank=Alg.SHA256, numbers=frozenset(), shift=0, locality=0,
            verified=object(),
        )  # fmt: skip


def test_a_confidential_vms_log_is_replayed_into_its_registers() -> None:
    """A register of the log is an RTMR + 1."""
    firmware = Firmware("sha384", confidential=True).variable("SecureBoot", b"\x01")
    firmware.separate(1).measure(2, EventType.IPL, b"/vmlinuz\0", b"kernel")
    claims = verify_cc_log(firmware.log, rtmrs=firmware.rtmrs)
    assert claims.confidential
    assert claims.secure_boot is SecureBoot.ON
    assert claims.digests[1] == (new_hash(Alg.SHA384, b"kernel"),)
    assert claims.about(Topic.KERNEL)[0].register == 1
    assert claims.facts()["rtmr_2"] == []


def test_a_confidential_vms_log_is_refused_where_it_does_not_fit() -> None:
    """Changed values, a TPM's log, and no registers at all."""
    firmware = Firmware("sha384", confidential=True).separate(1, 2)
    log = firmware.log
    with pytest.raises(FirmwareReplayError) as caught:
        verify_cc_log(log, rtmrs=firmware.rtmrs | {0: b"\1" * 48})
    assert caught.value.data["pcr"] == 0
    with pytest.raises(FirmwareUnloggedError):
        verify_cc_log(log, rtmrs=firmware.rtmrs | {3: b"\1" * 48})
    with pytest.raises(FirmwareKindError):
        verify_cc_log(booted("sha384").log, rtmrs=firmware.rtmrs)
    with pytest.raises(FirmwarePcrError):
        verify_cc_log(log, rtmrs={})
    with pytest.raises(FirmwareBankError):
        verify_cc_log(Firmware("sha256", confidential=True).log, rtmrs=firmware.rtmrs)
