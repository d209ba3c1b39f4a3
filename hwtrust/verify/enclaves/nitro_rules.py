"""Is the state of a Nitro enclave accepted? Claims and rules in, findings out.

Never raises for a bad state: every finding is named. Rules:

1. What the rules do not say refuses.
2. Every PCR that is named holds a value that is accepted for it.
3. Every other PCR holds zeros, as it does while nothing is measured into it, or is
   named as one that may hold anything. So the image (PCR 0 to 2) is always held
   against values.
4. Debug mode refuses, unless it is spelled out.
5. The document is no older than accepted.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from msgspec import UNSET, UnsetType

from hwtrust.wire.messages import Finding, Severity

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from hwtrust.verify.enclaves.nitro import NitroClaims

FINDINGS: Final[Mapping[str, tuple[Severity, str]]] = MappingProxyType(
    {
        "nitro:absent": (Severity.FAIL, "the rules do not say what is accepted"),
        "nitro:debug": (Severity.FAIL, "the enclave runs in debug mode, open to its host"),
        "nitro:pcr": (Severity.FAIL, "a PCR holds a value that is not accepted"),
        "nitro:pcr-missing": (Severity.FAIL, "a PCR that is named is not in the document"),
        "nitro:pcr-unlisted": (Severity.FAIL, "a PCR holds a value, and no rule names it"),
        "nitro:age": (Severity.FAIL, "the document is older than accepted"),
    }
)
"""What each code means, and how it weighs."""

PcrName = Annotated[str, msgspec.Meta(pattern=r"^([0-9]|[12][0-9]|3[01])$")]
PcrNumber = Annotated[int, msgspec.Meta(ge=0, le=31)]
PcrValue = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{96}$")]


class NitroRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is accepted of a Nitro enclave."""

    pcrs: dict[PcrName, tuple[PcrValue, ...]] | UnsetType = UNSET
    """Values that are accepted, by the PCR's number."""
    max_age_ms: Annotated[int, msgspec.Meta(ge=0)] | UnsetType = UNSET
    """How old a document may be."""
    unsafe_any_pcrs: tuple[PcrNumber, ...] = ()
    """PCRs that may hold anything: whatever they measure is not looked at. None if absent."""
    unsafe_allow_debug: bool = False
    """Enclaves in debug mode hide nothing from their host. Refused if absent."""


def appraise(claims: NitroClaims, *, rules: NitroRules) -> tuple[Finding, ...]:
    """Every finding against `claims`; none where they are accepted."""
    return tuple(_findings(claims, rules))


appraise_nitro = appraise


def _findings(claims: NitroClaims, rules: NitroRules) -> Iterator[Finding]:
    # (4): debug mode.
    if claims.debug and not rules.unsafe_allow_debug:
        yield _finding("nitro:debug", "PCR 0, 1 or 2 is zero: the enclave runs in debug mode")
    # (1) to (3): PCRs.
    if not rules.pcrs:
        yield _finding("nitro:absent", "the rules say nothing of pcrs")
    yield from _of_pcrs(claims.pcrs, rules.pcrs or {}, rules.unsafe_any_pcrs)
    # (5): age.
    if rules.max_age_ms is UNSET:
        yield _finding("nitro:absent", "the rules say nothing of max_age_ms")
    elif claims.age_ms > rules.max_age_ms:
        message = f"the document is {claims.age_ms} ms old, accepted are {rules.max_age_ms}"
        yield _finding("nitro:age", message)


def _of_pcrs(
    values: Mapping[int, bytes], accepted: dict[str, tuple[str, ...]], unsafe_any: tuple[int, ...]
) -> Iterator[Finding]:
    by_number = {int(name): digests for name, digests in accepted.items()}
    for number in sorted(by_number.keys() - values.keys()):
        yield _finding("nitro:pcr-missing", f"the document has no PCR {number}")
    for number, value in sorted(values.items()):
        if number in unsafe_any:
            continue
        digests = by_number.get(number)
        held = f"PCR {number} holds {value.hex()}"
        if digests is not None:
            if value.hex() not in digests:
                yield _finding("nitro:pcr", f"{held}, which is not accepted")
        elif any(value):
            yield _finding("nitro:pcr-unlisted", f"{held}, and no rule names it")


def _finding(code: str, message: str) -> Finding:
    return Finding(code=code, severity=FINDINGS[code][0], message=message)
