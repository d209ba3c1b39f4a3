"""Is the state of this GPU acceptable?

    NvidiaClaims + NvidiaRules ── appraise_nvidia ──▶ every finding

Pure, and it never raises for a bad state. What a policy does not say is not accepted.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from msgspec import UNSET, Meta, UnsetType

from hwtrust.wire.messages import Finding, Severity

if TYPE_CHECKING:
    from hwtrust.verify.enclaves.nvidia import NvidiaClaims

Digest = Annotated[str, Meta(pattern="^(?:[0-9a-f]{64}|[0-9a-f]{96}|[0-9a-f]{128})$")]
Index = Annotated[str, Meta(pattern="^[1-9][0-9]{0,2}$")]
Version = Annotated[str, Meta(min_length=1, max_length=64)]


class NvidiaRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is accepted of a GPU. A field that is absent fails.

    `measurements` are the accepted values by index, as NVIDIA publishes them for
    a driver and a VBIOS; NVIDIA counts them from 0, and SPDM, which counts here, from
    1. An index that is not listed is not looked at: some change with every start.
    """

    models: tuple[Version, ...] | UnsetType = UNSET
    driver_versions: tuple[Version, ...] | UnsetType = UNSET
    vbios_versions: tuple[Version, ...] | UnsetType = UNSET
    measurements: Mapping[Index, tuple[Digest, ...]] | UnsetType = UNSET


FINDINGS: Final[Mapping[str, tuple[Severity, str]]] = MappingProxyType(
    {
        "nvidia:absent": (Severity.FAIL, "the rules do not say what is accepted of a GPU"),
        "nvidia:missing": (Severity.FAIL, "the evidence holds no report of a GPU"),
        "nvidia:model": (Severity.FAIL, "the GPU is of a model that is not accepted"),
        "nvidia:driver": (Severity.FAIL, "the GPU's driver is of a version that is not accepted"),
        "nvidia:vbios": (Severity.FAIL, "the GPU's VBIOS is of a version that is not accepted"),
        "nvidia:measurement": (Severity.FAIL, "a measurement of the GPU is not an accepted one"),
    }
)


def appraise(claims: NvidiaClaims, *, rules: NvidiaRules) -> tuple[Finding, ...]:
    """Everything that speaks against the state of a GPU; nothing if it is acceptable."""
    found: list[Finding] = []
    for code, name, value in (
        ("nvidia:model", "models", claims.model),
        ("nvidia:driver", "driver_versions", claims.driver_version),
        ("nvidia:vbios", "vbios_versions", claims.vbios_version),
    ):
        accepted = getattr(rules, name)
        if accepted is UNSET:
            found.append(_finding("nvidia:absent", name))
        elif value not in accepted:
            found.append(_finding(code, value or "not told"))
    if not isinstance(rules.measurements, Mapping) or not rules.measurements:
        found.append(_finding("nvidia:absent", "measurements"))
    else:
        for index, digests in rules.measurements.items():
            value = claims.measurements.get(int(index), b"").hex()
            if value not in digests:
                found.append(_finding("nvidia:measurement", f"{index} is {value or 'absent'}"))
    return tuple(found)


appraise_nvidia = appraise


def missing_gpu() -> Finding:
    """That a GPU is asked for, and there is none: whoever has no good one would show none."""
    return _finding("nvidia:missing", "there are rules for one")


def _finding(code: str, detail: str) -> Finding:
    severity, sentence = FINDINGS[code]
    return Finding(code=code, severity=severity, message=f"{sentence}: {detail}")
