"""The words and numbers of AR4SI (draft-ietf-rats-ar4si-10): claims, their values, their tiers.

The values with a minus sign are ours (AR4SI 2.3.1, non-standard reasons).
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Final


class Claim(StrEnum):
    """The trustworthiness claims that are made here."""

    INSTANCE = "instance-identity"
    CONFIGURATION = "configuration"
    EXECUTABLES = "executables"
    FILES = "file-system"
    HARDWARE = "hardware"
    RUNTIME = "runtime-opaque"
    """Whether others on the machine see into its memory; a TPM does not say."""


class Tier(StrEnum):
    """The trustworthiness tiers, from the best to the worst; none is beside them."""

    NONE = "none"
    AFFIRMING = "affirming"
    WARNING = "warning"
    CONTRAINDICATED = "contraindicated"


NO_ASSERTION: Final = 0
RECOGNIZED: Final = 2
ENCRYPTED: Final = 2
"""Runtime: the hardware encrypts its memory, and keeps others out."""
APPROVED_BOOT: Final = 3
"""Executables: approved ones were loaded during boot."""
UNAVAILABLE: Final = 36
"""Configuration: what matters for security is not shown."""
UNTRUSTED: Final = 96
VISIBLE: Final = 96
"""Runtime: others see its memory."""
ALERT: Final = -33
"""Accepted, and an administrator should look."""
LIMITED: Final = -34
"""Accepted, and held back by its policy."""
WITHDRAWN: Final = -97
"""An administrator has locked the device or taken it out of service."""

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


def worse(one: int, other: int) -> int:
    """The worse of two values of a claim; of two in one tier the first.

    That nothing can be said is worse than that all is well.
    """
    ranks = [_weight(tier_of(value)) for value in (one, other)]
    return other if ranks[1] > ranks[0] else one


def _weight(tier: Tier) -> int:
    order = (Tier.AFFIRMING, Tier.NONE, Tier.WARNING, Tier.CONTRAINDICATED)
    return order.index(tier)
