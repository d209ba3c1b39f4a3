"""The logs of firmware and kernel against the values of a quote, and what is remembered of them."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from hwtrust.errors import HwTrustError
from hwtrust.verify.evidence import Claims, verify_evidence
from hwtrust.verify.logs.reference import reference_from_eventlog
from hwtrust.verify.platform import (
    ALL_FINDINGS,
    FINDINGS,
    MOST_OF_A_CODE,
    NOTHING_SEEN,
    FirmwareLogRules,
    ImaLogRules,
    PlatformClaims,
    PlatformRules,
    PlatformState,
    appraise_platform,
    not_shown,
)
from hwtrust.wire.algorithms import Alg, new_hash
from hwtrust.wire.challenge import Purpose
from hwtrust.wire.logs.firmware import EventType
from hwtrust.wire.logs.ima import ImaLog
from hwtrust.wire.logs.ima_part import part_of
from hwtrust.wire.messages import FIRMWARE_LOG, IMA_LOG, Evidence, ImaPart, Severity
from simulators.attester import Attester, make_release
from simulators.firmware_log import Firmware, booted
from simulators.ima_log import ImaKernel

if TYPE_CHECKING:
    from collections.abc import Sequence

NONCE = bytes(range(32))
NUMBERS = tuple(range(10))
GOOD = b"a good file"


class Machine:
    """A device with a firmware and a kernel, and what its backend remembers of it."""

    def __init__(self, *, way: str = "hashed", selection: str = "sha256:0-10,12") -> None:
        numbers = [*range(11), 12] if selection == "sha256:0-10,12" else None
        chosen = "sha256:" + ",".join(map(str, numbers)) if numbers else selection
        self.attester = Attester(selection=chosen, pcr=12)
        self.attester.load(make_release())
        self.firmware = booted()
        self.kernel = ImaKernel(way=way)  # type: ignore[arg-type]
        self.kernel.boot(dict(self.firmware.pcrs[Alg.SHA256]))
        self.kernel.file("/usr/bin/good", GOOD)
        self.known = NOTHING_SEEN

    def claims(self) -> Claims:
        """Authentic claims of what it holds now."""
        values = dict(self.firmware.pcrs[Alg.SHA256]) | {10: self.kernel.pcr(Alg.SHA256)}
        self.attester.platform = dict(values)
        evidence = self.attester.evidence(NONCE)
        return verify_evidence(
            evidence,
            device=self.attester.known,
            nonce=NONCE,
            purpose=Purpose.ATTEST,
            tls_key=self.attester.tls_key,
        )

    def show(
        self,
        *,
        firmware: bytes = b"",
        ima: ImaPart | None = None,
        rules: PlatformRules | None = None,
    ) -> PlatformClaims:
        """Attest with these logs; what came of it is remembered as a database would."""
        found = appraise_platform(
            self.claims(),
            firmware_log=firmware,
            ima=ima,
            rules=rules_of(self.firmware) if rules is None else rules,
            known=self.known,
        )
        self.known = msgspec.json.decode(msgspec.json.encode(found.state), type=PlatformState)
        return found

    def part(self, start: int = 0, end: int | None = None) -> ImaPart:
        """The kernel's log from one entry to another."""
        kernel = ImaKernel(entries=self.kernel.entries[start:end])
        return ImaPart(start=start, entries=kernel.log(), more=end is not None)


def table_of(firmware: Firmware) -> dict[str, Any]:
    """Rules that accept what `firmware` measured, to change."""
    text = reference_from_eventlog(firmware.log, pcrs=NUMBERS, bank=Alg.SHA256)
    found: dict[str, Any] = tomllib.loads(text)["firmware_log"]
    return found


def rules_of(
    firmware: Firmware | None, *, ima: dict[str, Any] | None = None, **changes: object
) -> PlatformRules:
    """Rules for both logs; what is changed to UNSET is left out."""
    table = None if firmware is None else table_of(firmware) | changes
    if table is not None:
        table = {name: value for name, value in table.items() if value is not msgspec.UNSET}
    digest = f"sha256:{new_hash(Alg.SHA256, GOOD).hex()}"
    kernel = {"digests_anywhere": [digest]} if ima is None else ima
    return PlatformRules(
        firmware=None if table is None else msgspec.convert(table, FirmwareLogRules),
        ima=msgspec.convert(kernel, ImaLogRules) if kernel else None,
    )


def codes(found: PlatformClaims) -> list[str]:
    """The codes of the findings."""
    return [finding.code for finding in found.findings]


# --- what is wanted, and what is remembered ----------------------------------------------------


def test_logs_that_were_never_shown_are_wanted() -> None:
    """Nothing speaks against the device, and it is not complete."""
    found = Machine().show()
    assert codes(found) == ["firmware:log-missing", "ima:log-missing"]
    assert {finding.severity for finding in found.findings} == {Severity.INCOMPLETE}
    assert (found.wants, found.ima_start) == ((FIRMWARE_LOG, IMA_LOG), 0)


def test_logs_that_were_shown_are_not_wanted_again() -> None:
    """The next attestation carries none, and nothing is found."""
    machine = Machine()
    found = machine.show(firmware=machine.firmware.raw, ima=machine.part())
    assert (codes(found), found.wants) == ([], ())
    again = machine.show()
    assert (codes(again), again.wants, again.firmware, again.ima) == ([], (), None, None)
    assert again.ima_start == 0


def test_other_values_want_the_firmwares_log_again() -> None:
    """What was found was found in other values."""
    machine = Machine()
    machine.show(firmware=machine.firmware.raw, ima=machine.part())
    rules = rules_of(machine.firmware)
    machine.firmware.command("grub_cmd: ", "echo")
    assert machine.show(rules=rules).wants == (FIRMWARE_LOG,)
    found = machine.show(firmware=machine.firmware.raw, rules=rules)
    assert codes(found) == ["firmware:digest"]


def test_what_was_found_in_a_log_is_found_again_without_it() -> None:
    """Silence does not help a device that failed."""
    machine = Machine()
    rules = rules_of(machine.firmware, secure_boot=False)
    shown = machine.show(firmware=machine.firmware.raw, ima=machine.part(), rules=rules)
    assert codes(shown) == ["firmware:secure-boot"]
    assert machine.show(rules=rules).findings == shown.findings


@pytest.mark.parametrize("change", [{"secure_boot": False}, {"pcrs": [0, 1, 2]}])
def test_other_rules_for_the_firmware_want_its_log_again(change: dict[str, Any]) -> None:
    """What was found follows from them."""
    machine = Machine()
    machine.show(firmware=machine.firmware.raw, ima=machine.part())
    assert machine.show(rules=rules_of(machine.firmware, **change)).wants == (FIRMWARE_LOG,)


def test_other_rules_for_the_kernel_want_its_log_from_the_beginning() -> None:
    """What was accepted may not be any more."""
    machine = Machine()
    machine.show(firmware=machine.firmware.raw, ima=machine.part())
    found = machine.show(rules=rules_of(machine.firmware, ima={"digests": {}}))
    assert (found.wants, found.ima_start) == ((IMA_LOG,), 0)


def test_another_boot_wants_the_kernels_log_from_the_beginning() -> None:
    """The firmware's, of the same values, is known."""
    machine = Machine()
    machine.show(firmware=machine.firmware.raw, ima=machine.part())
    machine.attester.tpm.reset()
    machine.kernel.file("/usr/bin/good", GOOD)
    found = machine.show()
    assert (found.wants, found.ima_start) == ((IMA_LOG,), 0)
    assert codes(machine.show(ima=machine.part())) == []


def test_a_boot_of_a_lower_count_is_another_one_too() -> None:
    """A TPM that was cleared counts anew: what its earlier boots measured says nothing."""
    machine = Machine()
    machine.show(firmware=machine.firmware.raw, ima=machine.part())
    seen = machine.known.ima
    assert seen is not None
    later = msgspec.structs.replace(seen, boot=seen.boot + 1)
    machine.known = msgspec.structs.replace(machine.known, ima=later)
    found = machine.show()
    assert (codes(found), found.wants, found.ima_start) == (["ima:log-missing"], (IMA_LOG,), 0)


def test_a_log_without_rules_is_not_looked_at() -> None:
    """Be it what it may."""
    machine = Machine()
    rules = PlatformRules(firmware=None, ima=None)
    found = machine.show(firmware=b"no log", ima=ImaPart(start=0, entries=b"no log"), rules=rules)
    assert (found.findings, found.wants, found.state) == ((), (), PlatformState())


def test_where_nothing_was_looked_at_each_log_that_is_asked_for_is_missing() -> None:
    """So that a caller that forgets them trusts nobody."""
    assert [finding.code for finding in not_shown(rules_of(booted()))] == [
        "firmware:log-missing",
        "ima:log-missing",
    ]
    assert not_shown(PlatformRules(firmware=None, ima=None)) == ()


def test_only_the_verifier_makes_claims() -> None:
    """Findings cannot be left out by making claims without them."""
    with pytest.raises(TypeError):
        PlatformClaims(
            findings=(),
            wants=(),
            ima_start=0,
            state=NOTHING_SEEN,
            firmware=None,
            ima=None,
            verified=None,
        )
    machine = Machine()
    found = machine.show(firmware=machine.firmware.raw, ima=machine.part())
    with pytest.raises(TypeError):
        msgspec.structs.replace(found, findings=())


def test_what_is_said_of_a_hostile_log_is_bounded() -> None:
    """People see the beginning, and the values of PCRs stand elsewhere."""
    machine = Machine()
    for number in range(100):
        words = f"kernel_cmdline: {number}".encode() + b"x" * 1000
        machine.firmware.measure(8, EventType.IPL, words, b"%d" % number)
    rules = rules_of(machine.firmware)
    facts = machine.show(firmware=machine.firmware.raw, ima=machine.part(), rules=rules).facts()
    lists = [value for value in facts.values() if isinstance(value, list)]
    assert max(map(len, lists)) == 16
    assert max(len(text) for value in lists for text in value) == 200
    assert facts["ima_entries"] == 2
    assert not any(name.startswith("pcr_") for name in facts)
    assert machine.show(rules=rules).facts() == {}


# --- PCRs ---------------------------------------------------------------------------------------


def test_the_rules_name_the_pcrs_that_need_no_values() -> None:
    """Those that a log explains, and no other."""
    both = rules_of(booted(), pcrs=[0, 4], ima={"digests": {}, "pcr": 11})
    assert both.explained == {0, 4, 11}
    assert rules_of(None, ima={"digests": {}}).explained == {10}
    assert rules_of(booted(), pcrs=[7], ima={}).explained == {7}
    assert rules_of(booted(), pcrs=msgspec.UNSET, ima={}).explained == frozenset()
    assert PlatformRules(firmware=None, ima=None).explained == frozenset()


@pytest.mark.parametrize("number", [-1, 24])
def test_rules_for_a_pcr_that_no_quote_has_are_refused(number: int) -> None:
    """A typing error in a policy does not pass as a rule."""
    for numbers in ([0, number], []):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({"pcrs": numbers}, FirmwareLogRules)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"pcr": number}, ImaLogRules)
    assert msgspec.convert({"pcrs": [0, 23]}, FirmwareLogRules).pcrs == (0, 23)


def test_rules_that_name_no_pcrs_for_the_firmwares_log_are_a_finding() -> None:
    """What is left out does not make every log good."""
    machine = Machine()
    rules = rules_of(machine.firmware, pcrs=msgspec.UNSET)
    found = machine.show(firmware=machine.firmware.raw, ima=machine.part(), rules=rules)
    assert (codes(found), found.wants) == (["firmware:absent"], ())
    assert found.findings[0].severity is Severity.FAIL
    assert machine.known.firmware is None


def test_a_quote_that_leaves_out_pcrs_makes_nothing_forgotten() -> None:
    """What was found stands, and counts again with the next quote."""
    machine = Machine()
    machine.kernel.file("/usr/bin/evil", b"evil")
    rules = rules_of(machine.firmware)
    machine.show(firmware=machine.firmware.raw, ima=machine.part(), rules=rules)
    other = Machine(selection="sha256:0,1,2,3,4,5,6,7,8,12")
    other.known = machine.known
    found = other.show(rules=rules)
    assert codes(found) == ["firmware:register-missing", "ima:pcr-missing"]
    assert {finding.severity for finding in found.findings} == {Severity.FAIL}
    assert found.state == machine.known


def test_other_values_leave_what_was_found_in_the_earlier_ones() -> None:
    """Back in these, the log need not come again."""
    machine = Machine()
    rules = rules_of(machine.firmware)
    good = machine.firmware
    machine.show(firmware=good.raw, ima=machine.part(), rules=rules)
    machine.firmware = booted()
    machine.firmware.command("grub_cmd: ", "echo")
    assert machine.show(rules=rules).wants == (FIRMWARE_LOG,)
    machine.firmware = good
    assert machine.show(rules=rules).wants == ()


def test_a_firmware_pcr_that_is_not_quoted_is_a_finding() -> None:
    """No log could explain it, so none is wanted."""
    machine = Machine(selection="sha256:0,1,2,3,4,5,6,7,8,10,12")
    found = machine.show(firmware=machine.firmware.raw, ima=machine.part())
    assert "firmware:register-missing" in codes(found)
    assert found.wants == ()


def test_the_kernels_pcr_that_is_not_quoted_is_a_finding() -> None:
    """As above."""
    machine = Machine(selection="sha256:0,1,2,3,4,5,6,7,8,9,12")
    found = machine.show(firmware=machine.firmware.raw, ima=machine.part())
    assert codes(found) == ["ima:pcr-missing"]
    assert found.wants == ()


def test_the_devices_own_pcr_is_explained_by_its_own_log() -> None:
    """Rules for a PCR that the firmware left to the application are not met."""
    machine = Machine(selection="sha256:0,1,2,3,4,5,6,7,8,9,10,12")
    rules = rules_of(machine.firmware, pcrs=[12])
    assert "firmware:register-missing" in codes(machine.show(rules=rules))


def test_a_kernel_that_measured_nothing_is_found_without_a_log() -> None:
    """There is nothing to send."""
    machine = Machine()
    machine.kernel.entries.clear()
    found = machine.show(firmware=machine.firmware.raw)
    assert (codes(found), found.wants) == (["ima:empty"], ())


# --- the kernel's log -----------------------------------------------------------------


def test_only_what_is_new_is_wanted_of_the_kernels_log() -> None:
    """By the number of the next entry."""
    machine = Machine()
    machine.show(firmware=machine.firmware.raw, ima=machine.part())
    machine.kernel.file("/usr/bin/evil", b"evil")
    found = machine.show()
    assert (found.wants, found.ima_start) == ((IMA_LOG,), 2)
    found = machine.show(ima=machine.part(2))
    assert codes(found) == ["ima:unknown"]
    assert found.ima is not None
    assert found.ima.new == 1


def test_what_was_found_in_the_kernels_log_stands_until_the_next_boot() -> None:
    """However it goes on, and while something is missing again."""
    machine = Machine()
    machine.kernel.file("/usr/bin/evil", b"evil")
    machine.show(firmware=machine.firmware.raw, ima=machine.part())
    assert codes(machine.show()) == ["ima:unknown"]
    machine.kernel.file("/usr/bin/good", GOOD)
    assert codes(machine.show()) == ["ima:unknown", "ima:log-missing"]
    assert codes(machine.show(ima=machine.part(3))) == ["ima:unknown"]


def test_beginning_again_does_not_make_a_finding_go_away() -> None:
    """A log that is sent from its beginning is good for a device that was refused, not for this."""
    machine = Machine()
    machine.kernel.file("/usr/bin/evil", b"evil")
    machine.show(firmware=machine.firmware.raw, ima=machine.part())
    assert codes(machine.show(ima=machine.part(0, 1))) == ["ima:unknown", "ima:log-missing"]
    again = machine.show(ima=machine.part(1))
    assert (codes(again), again.wants) == (["ima:unknown"], ())


def test_entries_that_were_not_asked_for_are_not_looked_at() -> None:
    """The right ones are wanted."""
    machine = Machine()
    machine.kernel.file("/usr/bin/good", GOOD)
    found = machine.show(firmware=machine.firmware.raw, ima=machine.part(1))
    assert (found.wants, found.ima_start) == ((IMA_LOG,), 0)
    machine.show(ima=machine.part())
    machine.kernel.file("/usr/bin/good", GOOD)
    for start in (1, 2, 4):
        found = machine.show(ima=machine.part(start))
        assert (codes(found), found.ima_start) == (["ima:log-missing"], 3)


@pytest.mark.parametrize("way", ["hashed", "padded", "padded-ones"])
def test_pieces_count_once_one_leads_to_the_quoted_value(way: str) -> None:
    """By each way in which a kernel extends, violations among them."""
    machine = Machine(way=way)
    rules = rules_of(
        machine.firmware,
        ima={
            "digests_anywhere": [f"sha256:{new_hash(Alg.SHA256, GOOD).hex()}"],
            "unsafe_allow_sha1": True,
        },
    )
    machine.kernel.file("/usr/bin/evil", b"evil")
    machine.kernel.file("/usr/bin/good", b"", violation=True)
    machine.kernel.file("/usr/bin/good", GOOD)
    raw = machine.firmware.raw
    first = machine.show(firmware=raw, ima=machine.part(0, 3), rules=rules)
    assert (codes(first), first.wants, first.ima_start) == (["ima:log-missing"], (IMA_LOG,), 3)
    second = machine.show(ima=machine.part(3, 4), rules=rules)
    assert (codes(second), second.wants, second.ima_start) == (["ima:log-missing"], (IMA_LOG,), 4)
    last = machine.show(ima=machine.part(4), rules=rules)
    assert (codes(last), last.wants) == (["ima:unknown", "ima:violation"], ())
    assert machine.known.ima is not None
    assert machine.known.ima.state is not None
    assert (machine.known.ima.state.entries, machine.known.ima.state.extend) == (5, way)
    assert machine.known.ima.begun == ()


def test_pieces_go_on_from_what_was_proven() -> None:
    """Each is wanted from where the last one ended; nothing is asked for twice."""
    machine = Machine()
    machine.show(firmware=machine.firmware.raw, ima=machine.part())
    for _ in range(3):
        machine.kernel.file("/usr/bin/good", GOOD)
    for end in (3, 4):
        found = machine.show(ima=machine.part(end - 1, end))
        assert (codes(found), found.ima_start) == (["ima:log-missing"], end)
    last = machine.show(ima=machine.part(4))
    assert (codes(last), last.wants) == ([], ())


@pytest.mark.parametrize(
    ("way", "found"), [("hashed", []), ("padded", ["ima:weak"]), ("padded-ones", ["ima:weak"])]
)
def test_in_pieces_only_a_kernel_that_fills_up_sha1_is_weak(way: str, found: list[str]) -> None:
    """That it may be one while the way is open is no finding."""
    machine = Machine(way=way)
    machine.kernel.file("/usr/bin/good", b"", violation=True).file("/usr/bin/good", GOOD)
    digest = f"sha256:{new_hash(Alg.SHA256, GOOD).hex()}"
    table = {"digests_anywhere": [digest], "unsafe_allow_violations": True}
    rules = rules_of(machine.firmware, ima=table)
    machine.show(firmware=machine.firmware.raw, ima=machine.part(0, 3), rules=rules)
    assert codes(machine.show(ima=machine.part(3), rules=rules)) == found


def test_a_log_in_pieces_is_no_longer_than_one_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device cannot send without end."""
    monkeypatch.setattr("hwtrust.wire.logs.ima_binary.MAX_ENTRIES", 3)
    machine = Machine()
    for _ in range(3):
        machine.kernel.file("/usr/bin/good", GOOD)
    machine.show(firmware=machine.firmware.raw, ima=machine.part(0, 3))
    with pytest.raises(HwTrustError) as error:
        machine.show(ima=machine.part(3, 4))
    assert error.value.code == "wire:malformed"


def test_a_piece_that_the_quote_has_seen_already_is_the_last_one() -> None:
    """Whatever the device says of more."""
    machine = Machine()
    found = machine.show(firmware=machine.firmware.raw, ima=machine.part(0, 2))
    assert (codes(found), found.wants) == ([], ())


def test_an_empty_piece_leads_nowhere() -> None:
    """The same is wanted again."""
    machine = Machine()
    part = ImaPart(start=0, entries=b"", more=True)
    found = machine.show(firmware=machine.firmware.raw, ima=part)
    assert (found.wants, found.ima_start) == ((IMA_LOG,), 0)
    assert codes(machine.show(ima=machine.part())) == []


def test_a_forged_piece_leads_to_no_quoted_value() -> None:
    """Refused with the last one; from the beginning the real log is good."""
    machine = Machine()
    machine.kernel.file("/usr/bin/evil", b"evil")
    machine.kernel.file("/usr/bin/good", GOOD)
    real = machine.part(0, 3)
    forged = msgspec.structs.replace(real, entries=real.entries.replace(b"evil", b"good"))
    machine.show(firmware=machine.firmware.raw, ima=forged)
    with pytest.raises(HwTrustError) as error:
        machine.show(ima=machine.part(3))
    assert error.value.code == "evidence:ima-log:replay"
    assert codes(machine.show(ima=machine.part())) == ["ima:unknown"]


def test_findings_of_a_boot_are_bounded() -> None:
    """A log can be hostile in as many pieces as it likes."""
    machine = Machine()
    machine.show(firmware=machine.firmware.raw, ima=machine.part())
    for number in range(3 * MOST_OF_A_CODE):
        machine.kernel.file(f"/evil/{number}", b"evil")
        machine.show(ima=machine.part(2 + number))
    assert codes(machine.show()) == ["ima:unknown"] * MOST_OF_A_CODE


def forged_firmware(machine: Machine) -> tuple[bytes, ImaPart | None]:
    """A firmware's log with another digest."""
    digest = new_hash(Alg.SHA256, b"the kernel")
    return machine.firmware.raw.replace(digest, bytes(32)), None


def no_firmware(machine: Machine) -> tuple[bytes, ImaPart | None]:
    """Bytes that are no firmware's log."""
    return b"nothing", None


def cut_ima(machine: Machine) -> tuple[bytes, ImaPart | None]:
    """A kernel's log that is cut short."""
    return b"", msgspec.structs.replace(machine.part(0, 1), more=False)


def empty_ima(machine: Machine) -> tuple[bytes, ImaPart | None]:
    """A kernel's log without entries."""
    return b"", ImaPart(start=0, entries=b"")


def no_ima(machine: Machine) -> tuple[bytes, ImaPart | None]:
    """Bytes that are no kernel's log."""
    return b"", ImaPart(start=0, entries=b"\0" * 40)


REFUSED = {
    forged_firmware: "evidence:firmware-log:replay",
    no_firmware: "wire:malformed",
    cut_ima: "evidence:ima-log:replay",
    empty_ima: "evidence:ima-log:replay",
    no_ima: "wire:malformed",
}


@pytest.mark.parametrize("make", REFUSED, ids=lambda make: make.__doc__)
def test_a_log_that_does_not_explain_the_quote_is_refused(make: Any) -> None:  # noqa: ANN401
    """And nothing is remembered of it."""
    machine = Machine()
    firmware, ima = make(machine)
    with pytest.raises(HwTrustError) as error:
        machine.show(firmware=firmware, ima=ima)
    assert error.value.code == REFUSED[make]
    assert machine.known == NOTHING_SEEN


# --- messages -------------------------------------------------------------------------


def test_evidence_without_logs_is_written_as_before() -> None:
    """A backend that knows of no logs takes it."""
    machine = Machine()
    machine.claims()
    evidence = machine.attester.evidence(NONCE)
    assert set(msgspec.json.decode(msgspec.json.encode(evidence))) == {
        "binding",
        "quote",
        "pcrs",
        "log",
        "counter",
    }
    with_log = msgspec.structs.replace(evidence, firmware_log=b"log", ima=machine.part())
    assert msgspec.json.decode(msgspec.json.encode(with_log), type=Evidence) == with_log


@pytest.mark.parametrize(
    ("start", "size", "ends"), [(0, 1, 1), (0, 10_000, 6), (2, 400, 4), (6, 9, 6)]
)
def test_a_part_of_a_log_is_whole_records(start: int, size: int, ends: int) -> None:
    """As many as fit, one at the least; it says whether others follow."""
    kernel = ImaKernel()
    for number in range(6):
        kernel.file(f"/file/{number}", b"content")
        kernel.file("/other", b"content", pcr=11)
    entries, more = part_of(ImaLog.decode(kernel.log()), pcr=10, start=start, size=size)
    seen: Sequence[str] = [
        entry.path for entry in ImaLog.decode(entries).entries() if entry.pcr == 10
    ]
    assert seen == [f"/file/{number}" for number in range(start, ends)]
    assert more is (ends < 6)


def test_every_code_says_what_it_means() -> None:
    """Pages and dry runs show it."""
    assert {code.partition(":")[0] for code in ALL_FINDINGS} == {"firmware", "ima"}
    assert {severity for severity, _ in FINDINGS.values()} == {Severity.INCOMPLETE, Severity.FAIL}
    assert all(sentence for _, sentence in ALL_FINDINGS.values())
