"""What appraisal found, as a trustworthiness vector (AR4SI, draft-ietf-rats-ar4si-10).

    standing, findings, mode, silence ── appraised ──▶ vector, status

Rules:
1. A claim is made only of what a quote, its log and the EK can show. A TPM says
   nothing of memory, of the encryption of storage, or of other machines' data:
   those three are never claimed.
2. Every finding touches at least one claim: what fails contraindicates, and what is
   incomplete or an alert warns. A code that is not in the tables here weighs by
   its severity, so that no finding is without effect.
3. The status is that of the worst claim, and never better than the device's
   standing and mode: incomplete and limited are warnings, failed, locked and
   retired are contraindicated.
4. Of a device that is silent nothing is affirmed: what was good is not claimed any
   more, and what was bad stays.

The values with a minus sign are ours (AR4SI 2.3.1, non-standard reasons).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from hwtrust.wire.messages import Finding, Mode, Severity, Standing


class Claim(StrEnum):
    """The trustworthiness claims that are made here."""

    INSTANCE = "instance-identity"
    CONFIGURATION = "configuration"
    EXECUTABLES = "executables"
    FILES = "file-system"
    HARDWARE = "hardware"


class Tier(StrEnum):
    """The trustworthiness tiers, from the best to the worst; none is beside them."""

    NONE = "none"
    AFFIRMING = "affirming"
    WARNING = "warning"
    CONTRAINDICATED = "contraindicated"


NO_ASSERTION: Final = 0
RECOGNIZED: Final = 2
APPROVED_BOOT: Final = 3
"""Executables: approved ones were loaded during boot."""
UNAVAILABLE: Final = 36
"""Configuration: what matters for security is not shown."""
UNTRUSTED: Final = 96
ALERT: Final = -33
"""Accepted, and an administrator should look."""
LIMITED: Final = -34
"""Accepted, and held back by its policy."""
WITHDRAWN: Final = -97
"""An administrator has locked the device or taken it out of service."""

AFFIRMED: Final[Mapping[Claim, int]] = MappingProxyType(
    {
        Claim.INSTANCE: RECOGNIZED,
        Claim.CONFIGURATION: RECOGNIZED,
        Claim.EXECUTABLES: APPROVED_BOOT,
        Claim.FILES: RECOGNIZED,
        Claim.HARDWARE: RECOGNIZED,
    }
)
"""What an appraisal without any finding has shown."""

_CHANGED_LAYER: Final = {Claim.EXECUTABLES: UNTRUSTED, Claim.FILES: UNTRUSTED}
_BAD_LOAD: Final = {Claim.EXECUTABLES: UNTRUSTED}
_NOT_SHOWN: Final = {
    Claim.CONFIGURATION: UNAVAILABLE,
    Claim.EXECUTABLES: NO_ASSERTION,
    Claim.FILES: NO_ASSERTION,
}
_BAD_INSTANCE: Final = {Claim.INSTANCE: UNTRUSTED}
_BAD_HARDWARE: Final = {Claim.HARDWARE: UNTRUSTED}
_ODD_HARDWARE: Final = {Claim.HARDWARE: ALERT}

CLAIMS_OF: Final[Mapping[str, Mapping[Claim, int]]] = MappingProxyType(
    {
        "log:empty": _NOT_SHOWN,
        "log:incomplete": _NOT_SHOWN,
        "log:violation": _CHANGED_LAYER,
        "log:grammar": _BAD_LOAD,
        "log:earlier": _BAD_LOAD,
        "layer:mismatch": _CHANGED_LAYER,
        "layer:order": _BAD_LOAD,
        "layer:unknown": _CHANGED_LAYER,
        "release:unknown": {Claim.CONFIGURATION: UNTRUSTED, Claim.EXECUTABLES: UNTRUSTED},
        "release:refused": {Claim.CONFIGURATION: UNTRUSTED},
        "epoch:revoked": _BAD_INSTANCE,
        "epoch:unknown": _BAD_INSTANCE,
        "epoch:mismatch": _BAD_INSTANCE,
        "clock:backward": _BAD_HARDWARE,
        "clock:reset-fell": {Claim.HARDWARE: UNTRUSTED, Claim.INSTANCE: UNTRUSTED},
        "clock:rewound": _ODD_HARDWARE,
        "clock:drift": _ODD_HARDWARE,
        "clock:ahead": _ODD_HARDWARE,
        "clock:behind": _ODD_HARDWARE,
        "clock:unsafe": _ODD_HARDWARE,
        "firmware:changed": _ODD_HARDWARE,
        "firmware:floor": _BAD_HARDWARE,
    }
)
"""Which claims a finding of `hwtrust.verify.appraise` touches, and with which value."""

CLAIM_OF_PREFIX: Final[Mapping[str, Claim]] = MappingProxyType(
    {
        "pcr:": Claim.HARDWARE,
        "policy:": Claim.CONFIGURATION,
        "admin:": Claim.INSTANCE,
    }
)
"""Which claim every finding touches whose code begins like this; its severity says how."""

_OF_SEVERITY: Final[Mapping[Severity, int]] = MappingProxyType(
    {Severity.FAIL: UNTRUSTED, Severity.INCOMPLETE: UNAVAILABLE, Severity.ALERT: ALERT}
)

_LEAST_WARNING: Final = 32
_LEAST_CONTRAINDICATED: Final = 96
_RANK: Final = {tier: rank for rank, tier in enumerate(Tier)}


def tier_of(value: int) -> Tier:
    """The tier that a claim's value is in (AR4SI 2.3.1): -1, 0 and 1 assert nothing.

    Affirming are 2..31 and -2..-32, warnings 32..95 and -33..-96, and beyond that
    it is contraindicated.
    """
    size = value if value >= 0 else -value - (value <= -_LEAST_WARNING)
    if value in {-1, 0, 1}:
        return Tier.NONE
    if size < _LEAST_WARNING:
        return Tier.AFFIRMING
    return Tier.WARNING if size < _LEAST_CONTRAINDICATED else Tier.CONTRAINDICATED


def worst(tiers: Iterable[Tier]) -> Tier:
    """The worst tier; none where there is nothing else."""
    return max(tiers, key=_RANK.__getitem__, default=Tier.NONE)


def touched(finding: Finding) -> Mapping[Claim, int]:
    """The claims that a finding speaks against, with their values."""
    if finding.code in CLAIMS_OF:
        return CLAIMS_OF[finding.code]
    value = _OF_SEVERITY[finding.severity]
    for prefix, claim in CLAIM_OF_PREFIX.items():
        if finding.code.startswith(prefix):
            return {claim: value}
    return {Claim.CONFIGURATION: value}


def appraised(
    *, standing: Standing, findings: Iterable[Finding], mode: Mode, withdrawn: bool, silent: bool
) -> tuple[dict[str, int], Tier]:
    """The vector of a device, and its status.

    `withdrawn` is a device that an administrator has locked or retired; `silent` one
    that has not been heard of for longer than it may be.
    """
    vector = dict(AFFIRMED)
    for finding in findings:
        for claim, value in touched(finding).items():
            vector[claim] = worse(vector[claim], value)
    for claim, value in _of_device(standing, mode, withdrawn=withdrawn):
        vector[claim] = worse(vector[claim], value)
    if silent:
        for claim, value in vector.items():
            if tier_of(value) is Tier.AFFIRMING:
                vector[claim] = NO_ASSERTION
    return {claim.value: value for claim, value in vector.items()}, worst(
        map(tier_of, vector.values())
    )


def worse(one: int, other: int) -> int:
    """The worse of two values of a claim; of two in one tier the first.

    That nothing can be said is worse than that all is well.
    """
    ranks = [_weight(tier_of(value)) for value in (one, other)]
    return other if ranks[1] > ranks[0] else one


def _weight(tier: Tier) -> int:
    order = (Tier.AFFIRMING, Tier.NONE, Tier.WARNING, Tier.CONTRAINDICATED)
    return order.index(tier)


def _of_device(standing: Standing, mode: Mode, *, withdrawn: bool) -> list[tuple[Claim, int]]:
    """What standing and mode say, whatever the findings are (rule 3)."""
    found = []
    if standing is Standing.FAILED:
        found.append((Claim.CONFIGURATION, UNTRUSTED))
    if standing is Standing.INCOMPLETE:
        found.append((Claim.CONFIGURATION, UNAVAILABLE))
    if withdrawn or mode is Mode.LOCKED:
        found.append((Claim.INSTANCE, WITHDRAWN))
    if mode is Mode.LIMITED:
        found.append((Claim.CONFIGURATION, LIMITED))
    return found
