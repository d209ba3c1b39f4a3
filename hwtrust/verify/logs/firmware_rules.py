"""Is what the firmware measured accepted? Claims and rules in, findings out.

Never raises for a bad state: every finding is told, not the first alone. Rules:

1. Digests decide, and nothing else: no type of an event, no path, no data that its
   digest does not cover. Whoever alters what a log says of its digests changes words
   in findings, never whether there is one that fails.
2. Every register of the claims needs a rule: digests that are accepted in any order
   and number (`digests`), or an exact sequence (`sequences`), or `unsafe_any_pcrs`.
3. Every register that the rules speak of must be in the claims.
4. Behind the separator of PCR 7 stand the authorities: each must be accepted as one.
5. A field that is absent refuses.
6. Of each code the first few findings are spelled out, and the others counted.

`FINDINGS` documents every code; no other leaves this module.
"""

from __future__ import annotations

from collections import Counter
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from hwtrust.verify.logs.firmware_claims import SEPARATED, SecureBoot
from hwtrust.wire.algorithms import alg_name
from hwtrust.wire.messages import Finding, Severity

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from hwtrust.verify.logs.firmware_claims import FirmwareClaims, Measurement

_FAIL, _ALERT = Severity.FAIL, Severity.ALERT

FINDINGS: Final[Mapping[str, tuple[Severity, str]]] = MappingProxyType(
    {
        "firmware:absent": (_FAIL, "the rules leave out a field that they must have"),
        "firmware:bank": (_FAIL, "the log was verified in another bank than the rules speak of"),
        "firmware:register-missing": (_FAIL, "the rules speak of a register that was not quoted"),
        "firmware:register-unlisted": (_FAIL, "no rule speaks of a register that was quoted"),
        "firmware:digest": (_FAIL, "something was measured that is not accepted"),
        "firmware:sequence": (
            _FAIL,
            "other measurements, or in another order, than the exact ones",
        ),
        "firmware:required": (_FAIL, "something that is required was not measured"),
        "firmware:secure-boot": (_FAIL, "Secure Boot is not in the required state"),
        "firmware:authority": (
            _FAIL,
            "something was started that no accepted authority vouches for",
        ),
        "firmware:separator": (_FAIL, "a register was separated more than once"),
        "firmware:data": (_ALERT, "what the log says of a measurement is not what was measured"),
    }
)
"""What each code means, and how it weighs."""

MOST_OF_A_CODE: Final = 16

Hex = Annotated[str, Meta(pattern=r"^(?:[0-9a-f]{40}|[0-9a-f]{64}|[0-9a-f]{96}|[0-9a-f]{128})$")]
Number = Annotated[int, Meta(ge=0, le=23)]
Numeral = Annotated[str, Meta(pattern=r"^(?:[0-9]|1[0-9]|2[0-3])$")]
"""A register's number as the key of a TOML table."""
Bank = Literal["sha1", "sha256", "sha384", "sha512", "sm3_256", "sha3_256", "sha3_384", "sha3_512"]


class FirmwareRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which firmware, boot loader and kernel are accepted; digests in hex of lower case.

    Attributes:
        bank: whose digests these are, such as `sha256`.
        digests: by register, what may be measured in any order and number. A register
            that is in neither this nor `sequences` is refused.
        sequences: by register, exactly what must be measured. Absent: none is exact.
        required: by register, what must be there at least once.
        secure_boot: the state that Secure Boot must have.
        authorities: digests of events that may stand behind PCR 7's separator: the
            certificates and hashes that vouched for what was started.
        unsafe_any_pcrs: registers in which anything may be measured.
        unsafe_any_secure_boot: Secure Boot may have any state; `secure_boot` can then
            be absent.
        unsafe_repeated_separators: registers that may be separated more than once, as
            some firmware does.
    """

    bank: Bank | UnsetType = UNSET
    digests: dict[Numeral, tuple[Hex, ...]] | UnsetType = UNSET
    sequences: dict[Numeral, tuple[Hex, ...]] = {}
    required: dict[Numeral, tuple[Hex, ...]] | UnsetType = UNSET
    secure_boot: bool | UnsetType = UNSET
    authorities: tuple[Hex, ...] | UnsetType = UNSET
    unsafe_any_pcrs: tuple[Number, ...] = ()
    unsafe_any_secure_boot: bool = False
    unsafe_repeated_separators: tuple[Number, ...] = ()


def appraise_firmware(claims: FirmwareClaims, *, rules: FirmwareRules) -> tuple[Finding, ...]:
    """Every finding about `claims`; none if they are accepted."""
    spoken: Counter[str] = Counter()
    findings = []
    for finding in _findings(claims, rules):
        spoken[finding.code] += 1
        # (6): the first few.
        if spoken[finding.code] <= MOST_OF_A_CODE:
            findings.append(finding)
    for code, count in spoken.items():
        if count > MOST_OF_A_CODE:
            more = count - MOST_OF_A_CODE
            findings.append(_finding(code, f"and {more} more: {FINDINGS[code][1]}"))
    return tuple(findings)


def _finding(code: str, message: str) -> Finding:
    return Finding(code=code, severity=FINDINGS[code][0], message=message)


def _findings(claims: FirmwareClaims, rules: FirmwareRules) -> Iterator[Finding]:
    yield from _of_absent(rules)
    bank = alg_name(claims.bank)
    if rules.bank is not UNSET and rules.bank != bank:
        yield _finding("firmware:bank", f"the log was verified in {bank}, not in {rules.bank}")
    yield from _of_registers(claims, rules)
    yield from _of_digests(claims, rules)
    yield from _of_required(claims, rules)
    yield from _of_secure_boot(claims, rules)
    yield from _of_separators(claims, rules)
    for item in claims.measurements:
        if item.disagrees:
            yield _finding("firmware:data", f"{_name(claims, item)} is not what was measured")


def _of_absent(rules: FirmwareRules) -> Iterator[Finding]:
    # (5): absent fields.
    needed = ["bank", "digests", "required", "authorities"]
    if not rules.unsafe_any_secure_boot:
        needed.append("secure_boot")
    for name in needed:
        if getattr(rules, name) is UNSET:
            yield _finding("firmware:absent", f"the rules say nothing of {name}")


def _of_registers(claims: FirmwareClaims, rules: FirmwareRules) -> Iterator[Finding]:
    listed = _table(rules.digests)
    # (3): registers of the rules.
    for name in sorted({*listed, *rules.sequences, *_table(rules.required)}, key=int):
        if int(name) not in claims.digests:
            message = f"the quote does not cover {_register(claims, int(name))}"
            yield _finding("firmware:register-missing", message)
    # (2): registers of the claims.
    for register, digests in claims.digests.items():
        name = str(register)
        if register in rules.unsafe_any_pcrs:
            continue
        if name in rules.sequences:
            if tuple(digest.hex() for digest in digests) != rules.sequences[name]:
                message = f"{_register(claims, register)} does not hold exactly what it should"
                yield _finding("firmware:sequence", message)
        elif name not in listed:
            message = f"the rules name no digests for {_register(claims, register)}"
            yield _finding("firmware:register-unlisted", message)


def _of_digests(claims: FirmwareClaims, rules: FirmwareRules) -> Iterator[Finding]:
    authorities = frozenset(() if rules.authorities is UNSET else rules.authorities)
    behind = _behind(claims)
    accepted = {
        int(name): frozenset(digests)
        for name, digests in _table(rules.digests).items()
        if name not in rules.sequences
    }
    for item in claims.measurements:
        register, digest = item.register, item.digest.hex()
        if register in rules.unsafe_any_pcrs:
            continue
        if item.number in behind:
            # (4): authorities.
            if digest not in authorities:
                message = f"{_name(claims, item)} is not accepted as an authority"
                yield _finding("firmware:authority", message)
        elif register in accepted and digest not in accepted[register]:
            yield _finding("firmware:digest", f"{_name(claims, item)} is not accepted")


def _behind(claims: FirmwareClaims) -> frozenset[int]:
    """Numbers of the events that are authorities, where a register has them to itself."""
    if claims.confidential:
        return frozenset()
    return frozenset(item.number for item in claims.authorities)


def _of_required(claims: FirmwareClaims, rules: FirmwareRules) -> Iterator[Finding]:
    for register, required in _table(rules.required).items():
        found = {digest.hex() for digest in claims.digests.get(int(register), ())}
        for digest in required:
            if digest not in found:
                message = f"{_register(claims, int(register))} does not hold {digest}"
                yield _finding("firmware:required", message)


def _of_secure_boot(claims: FirmwareClaims, rules: FirmwareRules) -> Iterator[Finding]:
    if rules.unsafe_any_secure_boot or rules.secure_boot is UNSET:
        return
    wanted = SecureBoot.ON if rules.secure_boot else SecureBoot.OFF
    if claims.secure_boot is not wanted:
        message = f"Secure Boot is {claims.secure_boot}, required is {wanted}"
        yield _finding("firmware:secure-boot", message)


def _of_separators(claims: FirmwareClaims, rules: FirmwareRules) -> Iterator[Finding]:
    # The registers of a confidential VM stand for several PCRs each.
    if claims.confidential:
        return
    for register, count in claims.separators.items():
        if count > 1 and register in SEPARATED and register not in rules.unsafe_repeated_separators:
            message = f"{_register(claims, register)} has {count} separators"
            yield _finding("firmware:separator", message)


def _table(table: dict[str, tuple[str, ...]] | UnsetType) -> dict[str, tuple[str, ...]]:
    return {} if table is UNSET else table


def _register(claims: FirmwareClaims, number: int) -> str:
    return f"{'RTMR' if claims.confidential else 'PCR'} {number}"


def _name(claims: FirmwareClaims, item: Measurement) -> str:
    return (
        f"event {item.number}, {item.digest.hex()} in {_register(claims, item.register)} ({item})"
    )
