"""What firmware and kernel measured, as a part of a TPM device's evidence.

    Claims + logs + PlatformRules + PlatformState ── appraise_platform ──▶ PlatformClaims

The values that the quote vouches for prove the logs; the binding does not name them.
Rules:

1. A log that does not explain the quoted values is no evidence: it is refused, and
   nothing that it says is looked at.
2. What was found is remembered with what it follows from, so that a heartbeat costs
   neither log nor replay: of the firmware the rules and the values of its PCRs, of
   IMA the rules and the boot, with how far its log was verified.
3. A log that is not there, and is not remembered, is wanted: until it comes nothing
   is found against the device, and it is not complete.
4. The kernel's log only grows. What was found in it stands until the next boot, or
   until the rules change: then it is wanted from its beginning.
5. A log in pieces is replayed piece by piece. What is found in them is set aside, and
   counts from the moment in which one of them leads to a quoted value.
6. A PCR that a log is to explain, and that the quote leaves out, is a finding. So are
   rules for the firmware's log that name no PCR: they would ask for nothing.

`FINDINGS` documents every code that is not of `logs.firmware_rules` or `logs.ima_rules`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from hwtrust.errors.logs import ImaReplayError
from hwtrust.verify.attestation import VERIFIED, made_elsewhere, take_away
from hwtrust.verify.logs import firmware_rules, ima_rules
from hwtrust.verify.logs.firmware import verify_firmware_log
from hwtrust.verify.logs.firmware_rules import FirmwareRules, appraise_firmware
from hwtrust.verify.logs.ima import PCR, START, Boot, ImaState, verify_ima
from hwtrust.verify.logs.ima_pieces import begin_ima
from hwtrust.verify.logs.ima_rules import ImaRules, PreparedImaRules, appraise_ima
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.logs.firmware import FirmwareLog
from hwtrust.wire.logs.ima import ImaLog
from hwtrust.wire.logs.ima_binary import bound
from hwtrust.wire.messages import FIRMWARE_LOG, IMA_LOG, Finding, Severity

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from hwtrust.verify.evidence import Claims
    from hwtrust.verify.logs.firmware_claims import FirmwareClaims
    from hwtrust.verify.logs.ima import ImaClaims
    from hwtrust.wire.messages import ImaPart

FINDINGS: Final[Mapping[str, tuple[Severity, str]]] = MappingProxyType(
    {
        "firmware:log-missing": (
            Severity.INCOMPLETE,
            "the firmware's log of what the quote shows has not come",
        ),
        "ima:log-missing": (
            Severity.INCOMPLETE,
            "the kernel's log of what the quote shows has not come, or not all of it",
        ),
        "ima:pcr-missing": (Severity.FAIL, "the quote does not cover the PCR of the kernel's log"),
    }
)
"""What each code means, and how it weighs."""

ALL_FINDINGS: Final[Mapping[str, tuple[Severity, str]]] = MappingProxyType(
    {**firmware_rules.FINDINGS, **ima_rules.FINDINGS, **FINDINGS}
)
"""Every code that the logs of firmware and kernel can lead to."""

MOST_OF_A_CODE: Final = ima_rules.MOST_OF_A_CODE + 1
_LONGEST_FACT: Final = 200
_MOST_FACTS: Final = 16

Facts = dict[str, str | int | bool | list[str]]
Number = Annotated[int, Meta(ge=0, le=23)]


class FirmwareLogRules(FirmwareRules, frozen=True, kw_only=True, omit_defaults=True):
    """The rules for what the firmware measured, as a table of a policy.

    Attributes:
        pcrs: which PCRs the log is to explain: those that nothing else extends.
    """

    pcrs: Annotated[tuple[Number, ...], Meta(min_length=1)] | UnsetType = UNSET


class ImaLogRules(ImaRules, frozen=True, kw_only=True, omit_defaults=True):
    """The rules for what the kernel measured, as a table of a policy."""

    pcr: Number = PCR


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformRules:
    """What is asked of the two logs; None: the log is not looked at.

    Raises:
        ImaRulesError: a key or a digest in the rules for IMA is none.
    """

    firmware: FirmwareLogRules | None
    ima: ImaLogRules | None
    firmware_digest: bytes = field(init=False, repr=False)
    ima_digest: bytes = field(init=False, repr=False)
    prepared: PreparedImaRules | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "firmware_digest", _digest(self.firmware))
        put(self, "ima_digest", _digest(self.ima))
        prepared = None if self.ima is None else _prepared(msgspec.json.encode(self.ima))
        put(self, "prepared", prepared)

    @property
    def explained(self) -> frozenset[int]:
        """The PCRs that a log explains, so that no value of them need be known."""
        firmware, ima = self.firmware, self.ima
        numbers = () if firmware is None or firmware.pcrs is UNSET else firmware.pcrs
        return frozenset(numbers) | (frozenset() if ima is None else {ima.pcr})


def _digest(rules: FirmwareLogRules | ImaLogRules | None) -> bytes:
    encoded = b"" if rules is None else msgspec.json.encode(rules, order="deterministic")
    return hashlib.sha256(encoded).digest()


@lru_cache(maxsize=32)
def _prepared(encoded: bytes) -> PreparedImaRules:
    # What these rules have accepted is worth keeping when a policy is read again.
    return PreparedImaRules(msgspec.json.decode(encoded, type=ImaLogRules))


class _Kept(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    pass


class FirmwareSeen(_Kept, frozen=True, kw_only=True):
    """What was found in a firmware's log that was verified.

    Attributes:
        digest: SHA-256 over the rules and the values that the log explains.
    """

    digest: bytes
    findings: tuple[Finding, ...] = ()


class ImaSeen(_Kept, frozen=True, kw_only=True):
    """How far the kernel's log of one boot was verified, and what was found.

    Attributes:
        boot: the TPM's reset count.
        rules: SHA-256 over the rules.
        state: what a quoted value has proven; None: nothing yet.
        begun: states behind it that no quoted value has proven yet, one for each way of
            the kernel to extend; what was found on the way is `suspected`.
    """

    boot: int
    rules: bytes
    state: ImaState | None = None
    findings: tuple[Finding, ...] = ()
    begun: tuple[ImaState, ...] = ()
    suspected: tuple[Finding, ...] = ()

    @property
    def entries(self) -> int:
        """How many entries have come: the number of the next one."""
        newest = self.begun[0] if self.begun else self.state
        return 0 if newest is None else newest.entries


class PlatformState(_Kept, frozen=True, kw_only=True):
    """What is remembered of a device between two attestations."""

    firmware: FirmwareSeen | None = None
    ima: ImaSeen | None = None


NOTHING_SEEN: Final = PlatformState()


class PlatformClaims(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What is known of firmware and kernel after an attestation; only `hwtrust.verify` makes them.

    Attributes:
        findings: of this attestation's logs, and those that are remembered.
        wants: the logs that have to come; of IMA's the entries from `ima_start` on.
        state: what to remember.
        firmware, ima: what the logs say that came with this attestation.
    """

    findings: tuple[Finding, ...]
    wants: tuple[str, ...]
    ima_start: int
    state: PlatformState
    firmware: FirmwareClaims | None
    ima: ImaClaims | None
    verified: object

    def __post_init__(self) -> None:
        if self.verified is not VERIFIED:
            raise made_elsewhere(self)
        take_away(self, "verified", None)

    def facts(self) -> Facts:
        """What the logs say that came with this attestation, for people; nothing if none did."""
        facts: Facts = {}
        if self.firmware is not None:
            # A log can be long, and hostile.
            said = self.firmware.facts()
            facts |= {
                name: [text[:_LONGEST_FACT] for text in value[:_MOST_FACTS]]
                if isinstance(value, list)
                else value
                for name, value in said.items()
                if not name.startswith("pcr_")
            }
        if self.ima is not None:
            facts |= {f"ima_{name}": value for name, value in self.ima.facts().items()}
        return facts


class _Part(msgspec.Struct, frozen=True, kw_only=True):
    """What one of the two logs comes to."""

    findings: tuple[Finding, ...]
    wanted: bool


class _OfFirmware(_Part, frozen=True, kw_only=True):
    seen: FirmwareSeen | None
    claims: FirmwareClaims | None = None


class _OfIma(_Part, frozen=True, kw_only=True):
    seen: ImaSeen | None
    claims: ImaClaims | None = None


def appraise_platform(
    claims: Claims,
    *,
    firmware_log: bytes,
    ima: ImaPart | None,
    rules: PlatformRules,
    known: PlatformState,
) -> PlatformClaims:
    """Verify and appraise the logs that came beside the evidence of `claims`.

    `known` is what is remembered of the device, `firmware_log` empty where none came.

    Raises:
        LogError: a log does not explain the quoted values; the class says why.
        WireError: a log is malformed.
    """
    of_firmware = _firmware(claims, firmware_log, rules, known.firmware)
    of_ima = _ima(claims, ima, rules, known.ima)
    wants = []
    if of_firmware.wanted:
        wants.append(FIRMWARE_LOG)
    if of_ima.wanted:
        wants.append(IMA_LOG)
    return PlatformClaims(
        findings=(*of_firmware.findings, *of_ima.findings),
        wants=tuple(wants),
        ima_start=of_ima.seen.entries if of_ima.wanted and of_ima.seen is not None else 0,
        state=PlatformState(firmware=of_firmware.seen, ima=of_ima.seen),
        firmware=of_firmware.claims,
        ima=of_ima.claims,
        verified=VERIFIED,
    )


def not_shown(rules: PlatformRules) -> tuple[Finding, ...]:
    """What there is to say of a device of which no log was looked at."""
    found = []
    if rules.firmware is not None:
        found.append(_finding("firmware:log-missing", "the firmware's log has not come yet"))
    if rules.ima is not None:
        found.append(_finding("ima:log-missing", "the kernel's log has not come yet"))
    return tuple(found)


def _finding(code: str, message: str) -> Finding:
    return Finding(code=code, severity=ALL_FINDINGS[code][0], message=message)


# --- firmware ------------------------------------------------------------------------


def _firmware(
    claims: Claims, raw: bytes, rules: PlatformRules, known: FirmwareSeen | None
) -> _OfFirmware:
    held_to = rules.firmware
    if held_to is None:
        return _OfFirmware(findings=(), wanted=False, seen=None)
    # (6): PCRs of the rules.
    if held_to.pcrs is UNSET:
        absent = _finding("firmware:absent", "the rules say nothing of pcrs")
        return _OfFirmware(findings=(absent,), wanted=False, seen=None)
    values = claims.pcrs
    # The device's own log explains that one, from its reset value on.
    numbers = sorted(set(held_to.pcrs) - {claims.device.pcr})
    left_out = [number for number in numbers if number not in values]
    if left_out or not numbers:
        code = "firmware:register-missing"
        findings = tuple(
            _finding(code, f"the firmware's log is to explain PCR {number}, which is not quoted")
            for number in left_out or held_to.pcrs
        )
        return _OfFirmware(findings=findings, wanted=False, seen=known)
    # (2): rules and values.
    shown = [rules.firmware_digest]
    shown += [bytes([number]) + values[number] for number in numbers]
    digest = hashlib.sha256(b"".join(shown)).digest()
    if known is not None and known.digest == digest:
        return _OfFirmware(findings=known.findings, wanted=False, seen=known)
    # (3): not there.
    if not raw:
        message = "the firmware's log has not come, for these PCR values and rules"
        return _OfFirmware(
            findings=(_finding("firmware:log-missing", message),), wanted=True, seen=known
        )
    # (1): verified before it is appraised.
    found = verify_firmware_log(
        FirmwareLog.decode(raw), pcrs=claims.quote.pcrs, bank=Alg.SHA256, numbers=numbers
    )
    findings = appraise_firmware(found, rules=held_to)
    seen = FirmwareSeen(digest=digest, findings=findings)
    return _OfFirmware(findings=findings, wanted=False, seen=seen, claims=found)


# --- kernel --------------------------------------------------------------------------


def _ima(
    claims: Claims, part: ImaPart | None, rules: PlatformRules, known: ImaSeen | None
) -> _OfIma:
    held_to, prepared = rules.ima, rules.prepared
    if held_to is None or prepared is None:
        return _OfIma(findings=(), wanted=False, seen=None)
    value = claims.pcrs.get(held_to.pcr)
    # (6): PCR of the rules.
    if value is None:
        message = f"the kernel's log is to explain PCR {held_to.pcr}, which is not quoted"
        return _OfIma(findings=(_finding("ima:pcr-missing", message),), wanted=False, seen=known)
    # (4): boot and rules.
    boot = claims.clock.reset_count
    if known is None or known.boot != boot or known.rules != rules.ima_digest:
        known = ImaSeen(boot=boot, rules=rules.ima_digest)
    if part is not None and not part.start and known.entries:
        # It begins again. What was found in this boot stands.
        known = msgspec.structs.replace(known, state=None, begun=(), suspected=())
    replay = _ImaReplay(claims, value, prepared, held_to.pcr, known)
    if part is not None and part.start == known.entries:
        return replay.of(ImaLog.decode(part.entries), more=part.more)
    # (2): how far it was verified.
    if known.state is not None and known.state.value == value:
        return _OfIma(findings=known.findings, wanted=False, seen=known)
    if known.state is None and not any(value):
        return replay.of(ImaLog.decode(b""), more=False)
    return replay.missing(known)


@dataclass(frozen=True, slots=True)
class _ImaReplay:
    """A piece of the kernel's log against a quoted value."""

    quoted: Claims
    value: bytes
    rules: PreparedImaRules
    pcr: int
    known: ImaSeen

    def of(self, log: ImaLog, *, more: bool) -> _OfIma:
        """What the piece comes to; `more` says that another one follows."""
        found = self._proven(log, last=not more)
        if found is None:
            return self._begun(log)
        findings = _joined(self.known.findings, self.known.suspected, self._appraised(found))
        seen = msgspec.structs.replace(
            self.known, state=found.state, findings=findings, begun=(), suspected=()
        )
        return _OfIma(findings=findings, wanted=False, seen=seen, claims=found)

    def missing(self, known: ImaSeen) -> _OfIma:
        """The log is wanted from where it was left."""
        # (3): not there.
        message = f"the kernel's log has not come from entry {known.entries} on"
        findings = (*known.findings, _finding("ima:log-missing", message))
        return _OfIma(findings=findings, wanted=True, seen=known)

    def _proven(self, log: ImaLog, *, last: bool) -> ImaClaims | None:
        """The claims, if the piece leads to the quoted value.

        Raises:
            ImaReplayError: it does not, and is the last one.
        """
        # (5): from whatever state was reached.
        refused: ImaReplayError | None = None
        for state in self._states:
            try:
                return verify_ima(
                    log,
                    bank=Alg.SHA256,
                    value=self.value,
                    state=state,
                    pcr=self.pcr,
                    known=self.rules.known,
                )
            except ImaReplayError as error:
                refused = error
        if last and refused is not None:
            raise refused
        return None

    def _begun(self, log: ImaLog) -> _OfIma:
        """The piece is set aside until another one shows that it was the kernel's."""
        begun, suspected = begin_ima(
            log, states=self._states, pcr=self.pcr, rules=self.rules, pcrs=self.quoted.quote.pcrs
        )
        if not begun or begun[0].entries == self.known.entries:
            return self.missing(self.known)
        bound(begun[0].entries)
        known = msgspec.structs.replace(
            self.known, begun=begun, suspected=_joined(self.known.suspected, suspected)
        )
        return self.missing(known)

    @property
    def _states(self) -> tuple[ImaState | Literal[Boot.START], ...]:
        return self.known.begun or (self.known.state or START,)

    def _appraised(self, claims: ImaClaims) -> tuple[Finding, ...]:
        return appraise_ima(claims, rules=self.rules, pcrs=self.quoted.quote.pcrs)


def _joined(*several: Iterable[Finding]) -> tuple[Finding, ...]:
    """All of them, each once, and of each code the first few."""
    seen: Counter[str] = Counter()
    joined = []
    for finding in dict.fromkeys(finding for findings in several for finding in findings):
        seen[finding.code] += 1
        if seen[finding.code] <= MOST_OF_A_CODE:
            joined.append(finding)
    return tuple(joined)


__all__ = [
    "ALL_FINDINGS",
    "FINDINGS",
    "NOTHING_SEEN",
    "FirmwareLogRules",
    "FirmwareSeen",
    "ImaLogRules",
    "ImaSeen",
    "PlatformClaims",
    "PlatformRules",
    "PlatformState",
    "appraise_platform",
    "not_shown",
]
