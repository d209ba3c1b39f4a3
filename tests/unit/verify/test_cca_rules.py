"""A CCA platform and its realm: accepted by what is spelled out, refused by all else."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from hwtrust.verify.enclaves.cca import verify_cca
from hwtrust.verify.enclaves.cca_rules import FINDINGS, CcaRules, appraise_cca
from hwtrust.wire.enclaves.cca import LIFECYCLES, SECURED
from hwtrust.wire.messages import Severity
from simulators.cca_signer import (
    CHALLENGE,
    COMPONENTS,
    CONFIG,
    IMPLEMENTATION_ID,
    RIM,
    RPV,
    SIGNER_ID,
    CcaSigner,
)

SIGNER = CcaSigner()
LISTED: dict[str, tuple[str, ...]] = {name: (value.hex(),) for name, value in COMPONENTS.items()}
RULES = CcaRules(
    implementation_ids=(IMPLEMENTATION_ID.hex(),),
    configs=(CONFIG.hex(),),
    sw_components=LISTED,
    signer_ids=(SIGNER_ID.hex(),),
    rims=(RIM.hex(),),
    rpvs=(RPV.hex(),),
)
OTHER = "ab" * 32
REM = bytes.fromhex(OTHER)


def codes(
    rules: CcaRules = RULES,
    *,
    platform: dict[Any, Any] | None = None,
    realm: dict[Any, Any] | None = None,
) -> list[str]:
    """The codes of what is found; `platform` and `realm` are changes to the token."""
    token = SIGNER.token(platform=platform, realm=realm)
    claims = verify_cca(token, challenge=CHALLENGE, trust=SIGNER.trust)
    found = appraise_cca(claims, rules=rules)
    assert all(finding.severity is FINDINGS[finding.code][0] for finding in found)
    assert all(finding.message for finding in found)
    return [finding.code for finding in found]


def changed(**changes: Any) -> CcaRules:  # noqa: ANN401
    """The rules with other fields."""
    return msgspec.structs.replace(RULES, **changes)


def test_a_realm_as_accepted_has_no_findings() -> None:
    """Zeros in the extensible measurements need no rule."""
    assert codes() == []


def test_rules_that_say_nothing_refuse() -> None:
    """Each absent field is a finding, and no component is accepted."""
    found = codes(CcaRules())
    assert found.count("cca:absent") == 6
    assert found.count("cca:component") == len(COMPONENTS)


@pytest.mark.parametrize("field", ["implementation_ids", "configs", "signer_ids", "rims", "rpvs"])
def test_each_field_that_is_absent_or_empty_is_found(field: str) -> None:
    """None means that all are accepted."""
    assert codes(changed(**{field: msgspec.UNSET})) == ["cca:absent"]
    assert codes(changed(**{field: ()})) == ["cca:absent"]


VALUES = {
    "implementation_ids": (OTHER, "cca:implementation"),
    "configs": ("00", "cca:config"),
    "rims": (OTHER, "cca:rim"),
    "rpvs": (OTHER * 2, "cca:rpv"),
}


@pytest.mark.parametrize("field", VALUES)
def test_each_value_has_to_be_accepted(field: str) -> None:
    """One of several; another is a finding."""
    other, code = VALUES[field]
    assert codes(changed(**{field: (other,)})) == [code]
    assert codes(changed(**{field: (other, *getattr(RULES, field))})) == []


LIFECYCLE = {
    "unknown": 0x0000,
    "assembly_and_test": 0x1000,
    "rot_provisioning": 0x20FF,
    "non_cca_platform_rot_debug": 0x4000,
    "recoverable_cca_platform_rot_debug": 0x5001,
    "decommissioned": 0x6000,
}


@pytest.mark.parametrize("state", LIFECYCLE)
def test_a_platform_that_is_not_secured_is_found(state: str) -> None:
    """Debug states above all; each has to be spelled out alone."""
    platform = {2395: LIFECYCLE[state]}
    others = tuple(sorted(LIFECYCLE.keys() - {state}))
    assert codes(platform=platform) == ["cca:lifecycle"]
    assert codes(changed(unsafe_lifecycles=others), platform=platform) == ["cca:lifecycle"]
    assert codes(changed(unsafe_lifecycles=(state,)), platform=platform) == []


def test_each_state_but_secured_is_tried() -> None:
    """The table above leaves none out."""
    assert LIFECYCLE.keys() | {SECURED} == LIFECYCLES
    assert codes(platform={2395: 0x30FF}) == []


def component(kind: str | None, measurement: bytes, signer: bytes = SIGNER_ID) -> dict[int, Any]:
    """A software component as in the token."""
    return {2: measurement, 5: signer} | ({} if kind is None else {1: kind})


GOOD_COMPONENTS = [component(name, value) for name, value in COMPONENTS.items()]


def test_every_component_has_to_be_listed_with_its_measurement() -> None:
    """Also a second one of a type, and one that says of which type it is not."""
    rmm = COMPONENTS["RMM"]
    for added in (
        component("NEW", REM),
        component("RMM", REM),
        component("AP_BL31", rmm),
        component(None, rmm),
    ):
        assert codes(platform={2399: [*GOOD_COMPONENTS, added]}) == ["cca:component"]


def test_components_without_a_type_are_listed_under_none() -> None:
    """An empty name."""
    rules = changed(sw_components=LISTED | {"": (OTHER,)})
    platform = {2399: [*GOOD_COMPONENTS, component(None, REM)]}
    assert codes(rules, platform=platform) == []


def test_every_type_that_is_listed_has_to_be_there() -> None:
    """A token that says nothing of the RMM is not accepted."""
    assert codes(platform={2399: GOOD_COMPONENTS[:2]}) == ["cca:component-missing"]


def test_every_component_has_to_be_signed_by_one_who_is_accepted() -> None:
    """Though its measurement is."""
    platform = {2399: [*GOOD_COMPONENTS[:2], component("RMM", COMPONENTS["RMM"], REM)]}
    assert codes(platform=platform) == ["cca:signer"]
    assert codes(changed(signer_ids=(OTHER, SIGNER_ID.hex())), platform=platform) == []


@pytest.mark.parametrize("number", range(4))
def test_an_extensible_measurement_holds_what_is_accepted_for_it(number: int) -> None:
    """Zeros if nothing is said."""
    rems = [bytes(32)] * 4
    rems[number] = REM
    realm = {44239: rems}
    name, zeros = str(number), bytes(32).hex()
    assert codes(realm=realm) == ["cca:rem"]
    assert codes(changed(rems={name: (zeros,)}), realm=realm) == ["cca:rem"]
    assert codes(changed(rems={str((number + 1) % 4): (OTHER, zeros)}), realm=realm) == ["cca:rem"]
    assert codes(changed(rems={name: (zeros, OTHER)}), realm=realm) == []
    assert codes(changed(unsafe_any_rems=(number,)), realm=realm) == []
    assert codes(changed(rems={name: (OTHER,)})) == ["cca:rem"]


def test_going_without_a_check_is_spelled_out() -> None:
    """Configuration and personalization value."""
    assert codes(changed(configs=msgspec.UNSET, unsafe_any_config=True)) == []
    assert codes(changed(rpvs=(OTHER * 2,), unsafe_any_rpv=True)) == []


@pytest.mark.parametrize("part", ["platform", "realm"])
def test_a_claim_that_is_not_known_is_found(part: str) -> None:
    """It may mean anything."""
    changes: Any = {part: {70000: 1}}
    assert codes(**changes) == ["cca:claim"]
    assert codes(changed(unsafe_unknown_claims=True), **changes) == []


def test_every_finding_fails() -> None:
    """None is only to be looked at."""
    assert {severity for severity, _ in FINDINGS.values()} == {Severity.FAIL}


def test_rules_are_read_from_a_table() -> None:
    """As they stand in a policy."""
    table = json.loads(msgspec.json.encode(RULES)) | {
        "rems": {"0": [OTHER]},
        "unsafe_any_rems": [3],
        "unsafe_lifecycles": ["decommissioned"],
    }
    rules = msgspec.json.decode(json.dumps(table), type=CcaRules)
    assert (rules.rims, rules.rems) == (RULES.rims, {"0": (OTHER,)})


@pytest.mark.parametrize(
    "table",
    [
        {"rim": []},
        {"rims": ["ab"]},
        {"rims": [OTHER.upper()]},
        {"rpvs": [OTHER]},
        {"configs": ["a"]},
        {"rems": {"4": []}},
        {"implementation_ids": ["ab"]},
        {"unsafe_any_rems": [4]},
        {"unsafe_any_rems": [-1]},
        {"unsafe_lifecycles": ["secured"]},
        {"unsafe_lifecycles": ["other"]},
        {"sw_components": {"RMM": ["1.0"]}},
    ],
    ids=str,
)
def test_a_table_with_a_slip_in_it_is_refused(table: dict[str, object]) -> None:
    """A field that is misspelled would else be one that is absent."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(json.dumps(table), type=CcaRules)
