"""The state of a Nitro enclave: accepted by what is spelled out, refused by all else."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from hwtrust.verify.enclaves.nitro import Unsafe, verify_nitro
from hwtrust.verify.enclaves.nitro_rules import FINDINGS, NitroRules, appraise_nitro
from hwtrust.wire.messages import Severity
from simulators.nitro_signer import AGE_MS, NOW, PCRS, NitroSigner

SIGNER = NitroSigner()
ACCEPTED: dict[str, tuple[str, ...]] = {
    str(number): (PCRS[number].hex(),) for number in (0, 1, 2, 4)
}
RULES = NitroRules(pcrs=ACCEPTED, max_age_ms=AGE_MS)
ZEROS = bytes(48)


def codes(rules: NitroRules = RULES, **fields: Any) -> list[str]:  # noqa: ANN401
    """The codes of what is found; `fields` are changes to the document."""
    claims = verify_nitro(
        SIGNER.document(**fields),
        nonce=Unsafe.NO_NONCE,
        user_data=Unsafe.ANY_USER_DATA,
        now=NOW,
        trust=SIGNER.trust,
    )
    found = appraise_nitro(claims, rules=rules)
    assert all(finding.severity is FINDINGS[finding.code][0] for finding in found)
    assert all(finding.message for finding in found)
    return [finding.code for finding in found]


def changed(**changes: Any) -> NitroRules:  # noqa: ANN401
    """The rules with other fields."""
    return msgspec.structs.replace(RULES, **changes)


def test_an_enclave_as_accepted_has_no_findings() -> None:
    """Zeros need no rule."""
    assert codes() == []


def test_rules_that_say_nothing_refuse() -> None:
    """Each absent field, beside the values that no rule names."""
    found = codes(NitroRules())
    assert found.count("nitro:absent") == 2
    assert found.count("nitro:pcr-unlisted") == 4
    assert "nitro:absent" in codes(changed(pcrs={}))
    assert codes(changed(max_age_ms=msgspec.UNSET)) == ["nitro:absent"]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_debug_mode_is_found_by_any_of_the_images_pcrs(number: int) -> None:
    """Zero, even where the rules accept zero, or missing."""
    rules = changed(pcrs=ACCEPTED | {str(number): (ZEROS.hex(),)})
    assert codes(rules, pcrs=PCRS | {number: ZEROS}) == ["nitro:debug"]
    missing = {other: value for other, value in PCRS.items() if other != number}
    assert codes(pcrs=missing) == ["nitro:debug", "nitro:pcr-missing"]


def test_an_enclave_in_debug_mode_is_refused_for_everything() -> None:
    """Its zeros are no accepted values either."""
    debug = PCRS | {0: ZEROS, 1: ZEROS, 2: ZEROS}
    assert codes(pcrs=debug) == ["nitro:debug", *["nitro:pcr"] * 3]
    allowed = changed(unsafe_allow_debug=True, unsafe_any_pcrs=(0, 1, 2))
    assert codes(allowed, pcrs=debug) == []


def test_every_pcr_that_is_named_holds_an_accepted_value() -> None:
    """One of several; another is a finding."""
    other = "ab" * 48
    assert codes(changed(pcrs=ACCEPTED | {"4": (other, PCRS[4].hex())})) == []
    assert codes(changed(pcrs=ACCEPTED | {"4": (other,)})) == ["nitro:pcr"]
    assert codes(changed(pcrs=ACCEPTED | {"4": ()})) == ["nitro:pcr"]
    assert codes(pcrs=PCRS | {0: b"x" * 48}) == ["nitro:pcr"]


def test_a_pcr_that_is_named_must_be_there() -> None:
    """The document has those that were locked."""
    assert codes(changed(pcrs=ACCEPTED | {"16": (ZEROS.hex(),)})) == ["nitro:pcr-missing"]


def test_a_value_that_no_rule_names_is_found() -> None:
    """Unless the PCR is named as one that may hold anything."""
    assert codes(pcrs=PCRS | {16: b"x" * 48}) == ["nitro:pcr-unlisted"]
    assert codes(changed(unsafe_any_pcrs=(16,)), pcrs=PCRS | {16: b"x" * 48}) == []


def test_a_document_that_is_too_old_is_found() -> None:
    """To the millisecond."""
    assert codes(changed(max_age_ms=AGE_MS - 1)) == ["nitro:age"]


def test_all_is_told_at_once() -> None:
    """Not the first finding alone."""
    assert codes(NitroRules(), pcrs={0: ZEROS, 9: b"x" * 48}) == [
        "nitro:debug",
        "nitro:absent",
        "nitro:pcr-unlisted",
        "nitro:absent",
    ]


def test_every_finding_fails() -> None:
    """None is only to be looked at."""
    assert {severity for severity, _ in FINDINGS.values()} == {Severity.FAIL}


def test_rules_are_read_from_a_table() -> None:
    """As they stand in a policy."""
    table = {
        "pcrs": {"0": ["ab" * 48], "31": []},
        "max_age_ms": 60000,
        "unsafe_any_pcrs": [3],
        "unsafe_allow_debug": True,
    }
    rules = msgspec.json.decode(json.dumps(table), type=NitroRules)
    assert rules.pcrs == {"0": ("ab" * 48,), "31": ()}


@pytest.mark.parametrize(
    "table",
    [
        {"pcr": {}},
        {"pcrs": {"32": []}},
        {"pcrs": {"00": []}},
        {"pcrs": {"0": ["AB" * 48]}},
        {"pcrs": {"0": ["ab" * 32]}},
        {"max_age_ms": -1},
        {"unsafe_any_pcrs": [32]},
        {"unsafe_any_pcrs": [-1]},
    ],
    ids=str,
)
def test_a_table_with_a_slip_in_it_is_refused(table: dict[str, object]) -> None:
    """A field that is misspelled would else be one that is absent."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(json.dumps(table), type=NitroRules)
