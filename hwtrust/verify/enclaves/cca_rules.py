"""Is the state of a CCA platform and of its realm accepted? Claims and rules in, findings out.

Never raises for a bad state: every finding is named. Rules:

1. What the rules do not say refuses.
2. The platform is secured; any other lifecycle state has to be spelled out.
3. Every software component is listed under its type with a measurement that is
   accepted, and signed by one who is accepted. Every type that is listed is there.
4. The realm's initial measurement and personalization value are accepted.
5. An extensible measurement holds a value that is accepted for it, zeros if none is
   named, or anything if it is named so.
6. A claim that hwtrust does not know may mean anything: it refuses.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

from hwtrust.wire.messages import Finding, Severity

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from hwtrust.verify.enclaves.cca import CcaClaims
    from hwtrust.wire.enclaves.cca import PlatformClaims, RealmClaims

FINDINGS: Final[Mapping[str, tuple[Severity, str]]] = MappingProxyType(
    {
        "cca:absent": (Severity.FAIL, "the rules do not say what is accepted"),
        "cca:lifecycle": (Severity.FAIL, "the platform is not secured: debug, test, or retired"),
        "cca:implementation": (Severity.FAIL, "the platform is of no accepted implementation"),
        "cca:config": (Severity.FAIL, "the platform is configured otherwise than accepted"),
        "cca:component": (Severity.FAIL, "the platform's firmware is not accepted"),
        "cca:component-missing": (Severity.FAIL, "a software component that is listed is missing"),
        "cca:signer": (Severity.FAIL, "the platform's firmware is signed by somebody else"),
        "cca:rim": (Severity.FAIL, "the realm's initial measurement is not accepted"),
        "cca:rem": (Severity.FAIL, "an extensible measurement of the realm is not accepted"),
        "cca:rpv": (Severity.FAIL, "the realm's personalization value is not accepted"),
        "cca:claim": (Severity.FAIL, "the token has a claim that hwtrust does not know"),
    }
)
"""What each code means, and how it weighs."""

Digest = Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{64}|[0-9a-f]{96}|[0-9a-f]{128})$")]
Hex32 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
Hex64 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{128}$")]
Hex = Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{2})*$")]
RemName = Annotated[str, msgspec.Meta(pattern=r"^[0-3]$")]
RemNumber = Annotated[int, msgspec.Meta(ge=0, le=3)]
_SECURED: Final = "secured"
"""As `hwtrust.wire.enclaves.cca` spells it; rules are read where CBOR is not."""
State = Literal[
    "unknown",
    "assembly_and_test",
    "rot_provisioning",
    "non_cca_platform_rot_debug",
    "recoverable_cca_platform_rot_debug",
    "decommissioned",
]


class CcaRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is accepted of a CCA platform, and of a realm on it; byte strings are in hex."""

    implementation_ids: tuple[Hex32, ...] | UnsetType = UNSET
    configs: tuple[Hex, ...] | UnsetType = UNSET
    """Platform configurations."""
    sw_components: dict[str, tuple[Digest, ...]] | UnsetType = UNSET
    """Measurements by the component's type, which may be empty as in the token."""
    signer_ids: tuple[Digest, ...] | UnsetType = UNSET
    """Who may have signed a software component."""
    rims: tuple[Digest, ...] | UnsetType = UNSET
    rpvs: tuple[Hex64, ...] | UnsetType = UNSET
    rems: dict[RemName, tuple[Digest, ...]] = {}
    """Values by the measurement's number, 0 to 3. Zeros alone if absent."""
    unsafe_any_rems: tuple[RemNumber, ...] = ()
    """Extensible measurements that may hold anything. None if absent."""
    unsafe_any_config: bool = False
    """The platform's configuration is not looked at. It is, if absent."""
    unsafe_any_rpv: bool = False
    """The personalization value is not looked at. It is, if absent."""
    unsafe_lifecycles: tuple[State, ...] = ()
    """States that are accepted beside `secured`. None if absent."""
    unsafe_unknown_claims: bool = False
    """Claims that hwtrust does not know are passed over. Refused if absent."""


def appraise(claims: CcaClaims, *, rules: CcaRules) -> tuple[Finding, ...]:
    """Every finding against `claims`; none where they are accepted."""
    return (
        *_of_platform(claims.platform, rules),
        *_of_components(claims.platform, rules),
        *_of_realm(claims.realm, rules),
        *_of_unknown((*claims.platform.unknown, *claims.realm.unknown), rules),
    )


appraise_cca = appraise


def _of_platform(platform: PlatformClaims, rules: CcaRules) -> Iterator[Finding]:
    # (2): lifecycle.
    state = platform.lifecycle_state
    if state != _SECURED and state not in rules.unsafe_lifecycles:
        message = f"the platform is in the lifecycle state {state} ({platform.lifecycle:#06x})"
        yield _finding("cca:lifecycle", message)
    yield from _of_value(
        "cca:implementation",
        "implementation_ids",
        platform.implementation_id,
        rules.implementation_ids,
    )
    if not rules.unsafe_any_config:
        yield from _of_value("cca:config", "configs", platform.config, rules.configs)


def _of_components(platform: PlatformClaims, rules: CcaRules) -> Iterator[Finding]:
    # (3): software components.
    listed = rules.sw_components or {}
    if not listed:
        yield _absent("sw_components")
    if not rules.signer_ids:
        yield _absent("signer_ids")
    for component in platform.sw_components:
        if component.measurement.hex() not in listed.get(component.type, ()):
            yield _finding("cca:component", f"the component {component} is not accepted")
        if rules.signer_ids and component.signer_id.hex() not in rules.signer_ids:
            yield _finding("cca:signer", f"the signer of the component {component} is not accepted")
    for missing in sorted(listed.keys() - {found.type for found in platform.sw_components}):
        yield _finding("cca:component-missing", f"the component {missing!r} is missing")


def _of_realm(realm: RealmClaims, rules: CcaRules) -> Iterator[Finding]:
    # (4): initial measurement and personalization value.
    yield from _of_value("cca:rim", "rims", realm.rim, rules.rims)
    if not rules.unsafe_any_rpv:
        yield from _of_value("cca:rpv", "rpvs", realm.rpv, rules.rpvs)
    # (5): extensible measurements.
    for number, rem in enumerate(realm.rems):
        if number in rules.unsafe_any_rems:
            continue
        accepted = rules.rems.get(str(number))
        if any(rem) if accepted is None else rem.hex() not in accepted:
            message = f"REM {number} holds {rem.hex()}, which is not accepted"
            yield _finding("cca:rem", message)


def _of_unknown(labels: tuple[str, ...], rules: CcaRules) -> Iterator[Finding]:
    # (6): claims that are not known.
    if labels and not rules.unsafe_unknown_claims:
        yield _finding("cca:claim", f"claims that are not known: {', '.join(labels)}")


def _of_value(
    code: str, field: str, found: bytes, accepted: tuple[str, ...] | UnsetType
) -> Iterator[Finding]:
    # (1): absent fields.
    if not accepted:
        yield _absent(field)
    elif found.hex() not in accepted:
        yield _finding(code, f"{found.hex()} is not among the rules' {field}")


def _absent(field: str) -> Finding:
    return _finding("cca:absent", f"the rules say nothing of {field}")


def _finding(code: str, message: str) -> Finding:
    return Finding(code=code, severity=FINDINGS[code][0], message=message)
