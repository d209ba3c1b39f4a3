"""What an appraisal comes to in an attestation result."""

from __future__ import annotations

import pytest

from hwtrust.verify.appraise import FINDINGS
from hwtrust.wire.messages import Finding, Mode, Severity, Standing
from hwtrust_backend.results.vector import (
    AFFIRMED,
    CLAIM_OF_PREFIX,
    CLAIMS_OF,
    NO_ASSERTION,
    Claim,
    Tier,
    appraised,
    tier_of,
    touched,
)

TIERS_OF_SEVERITY = {
    Severity.FAIL: Tier.CONTRAINDICATED,
    Severity.INCOMPLETE: Tier.WARNING,
    Severity.ALERT: Tier.WARNING,
}

STANDINGS = {
    Severity.FAIL: Standing.FAILED,
    Severity.INCOMPLETE: Standing.INCOMPLETE,
    Severity.ALERT: Standing.TRUSTED,
}


def finding(code: str, severity: Severity) -> Finding:
    """A finding of that code."""
    return Finding(code=code, severity=severity, message="")


def status_of(
    *findings: Finding,
    standing: Standing = Standing.TRUSTED,
    mode: Mode = Mode.NORMAL,
    withdrawn: bool = False,
    silent: bool = False,
) -> Tier:
    """The status of a device."""
    _, status = appraised(
        standing=standing, findings=findings, mode=mode, withdrawn=withdrawn, silent=silent
    )
    return status


def test_every_finding_of_an_appraisal_has_its_place_in_the_vector() -> None:
    """No code is left out, and none is there that appraisal does not know."""
    assert set(CLAIMS_OF) == set(FINDINGS)


@pytest.mark.parametrize("code", sorted(FINDINGS))
def test_a_finding_alone_brings_the_status_to_the_tier_of_its_severity(code: str) -> None:
    """What fails contraindicates, and the rest warns, even where the standing says nothing."""
    severity, _ = FINDINGS[code]
    found = finding(code, severity)
    assert status_of(found) is TIERS_OF_SEVERITY[severity]
    assert status_of(found, standing=STANDINGS[severity]) is TIERS_OF_SEVERITY[severity]


@pytest.mark.parametrize("severity", list(Severity))
@pytest.mark.parametrize("code", ["policy:on-failure", "pcr:mismatch", "admin:locked", "new:code"])
def test_a_finding_of_no_table_weighs_by_its_severity(code: str, severity: Severity) -> None:
    """A code that is made later is never without effect."""
    assert status_of(finding(code, severity)) is TIERS_OF_SEVERITY[severity]


def test_findings_of_policies_pcrs_and_administrators_touch_a_claim_of_their_own() -> None:
    """A relying party sees what it is about."""
    for prefix, claim in CLAIM_OF_PREFIX.items():
        assert set(touched(finding(f"{prefix}any", Severity.FAIL))) == {claim}


def test_a_good_appraisal_claims_what_a_tpm_can_show_and_no_more() -> None:
    """Nothing is said of memory, of storage encryption or of other machines' data."""
    vector, status = appraised(
        standing=Standing.TRUSTED,
        findings=(),
        mode=Mode.NORMAL,
        withdrawn=False,
        silent=False,
    )
    assert status is Tier.AFFIRMING
    assert vector == {
        "instance-identity": 2,
        "configuration": 2,
        "executables": 3,
        "file-system": 2,
        "hardware": 2,
    }


STATUSES = {
    "a device that failed, though no finding is known": (
        {"standing": Standing.FAILED},
        Tier.CONTRAINDICATED,
    ),
    "a device whose load is incomplete": ({"standing": Standing.INCOMPLETE}, Tier.WARNING),
    "a device that its policy limits": ({"mode": Mode.LIMITED}, Tier.WARNING),
    "a device that its policy locks": ({"mode": Mode.LOCKED}, Tier.CONTRAINDICATED),
    "a device that an administrator locked or retired": (
        {"withdrawn": True},
        Tier.CONTRAINDICATED,
    ),
    "a silent device": ({"silent": True}, Tier.NONE),
    "a silent device that had failed": (
        {"silent": True, "standing": Standing.FAILED},
        Tier.CONTRAINDICATED,
    ),
    "a silent device that was limited": ({"silent": True, "mode": Mode.LIMITED}, Tier.WARNING),
    "a silent device that is locked": ({"silent": True, "withdrawn": True}, Tier.CONTRAINDICATED),
}


@pytest.mark.parametrize("case", STATUSES)
def test_a_result_is_never_better_than_the_device(case: str) -> None:
    """Standing, mode, lock and silence each keep a result from affirming."""
    given, expected = STATUSES[case]
    assert status_of(**given) is expected  # type: ignore[arg-type]


def test_a_silent_device_is_affirmed_in_nothing() -> None:
    """What was good is not claimed any more; what was bad stays."""
    alert = finding("clock:drift", Severity.ALERT)
    vector, _ = appraised(
        standing=Standing.TRUSTED,
        findings=(alert,),
        mode=Mode.NORMAL,
        withdrawn=False,
        silent=True,
    )
    assert tier_of(vector.pop(Claim.HARDWARE.value)) is Tier.WARNING
    assert set(vector.values()) == {NO_ASSERTION}
    assert len(vector) == len(AFFIRMED) - 1


def test_the_first_of_two_contraindications_is_not_made_better_by_the_second() -> None:
    """The worst value of a claim stays, in whatever order findings come."""
    bad = finding("firmware:floor", Severity.FAIL)
    alert = finding("clock:ahead", Severity.ALERT)
    vectors = [
        appraised(
            standing=Standing.FAILED,
            findings=order,
            mode=Mode.NORMAL,
            withdrawn=False,
            silent=False,
        )[0]
        for order in ((bad, alert), (alert, bad))
    ]
    assert [vector["hardware"] for vector in vectors] == [96, 96]


TIERS = {
    Tier.NONE: (-1, 0, 1),
    Tier.AFFIRMING: (2, 3, 31, -2, -32),
    Tier.WARNING: (32, 95, -33, -96),
    Tier.CONTRAINDICATED: (96, 127, -97, -128),
}


@pytest.mark.parametrize("tier", list(Tier))
def test_a_value_is_in_the_tier_that_ar4si_says(tier: Tier) -> None:
    """The borders of the tiers, on both sides of nought (draft-ietf-rats-ar4si 2.3.1)."""
    assert [tier_of(value) for value in TIERS[tier]] == [tier] * len(TIERS[tier])
