"""What an appraisal comes to in an attestation result."""

from __future__ import annotations

import pytest

from hwtrust.verify import appraise, platform
from hwtrust.verify.enclaves import judge, kinds
from hwtrust.verify.policy import POLICY_FINDINGS
from hwtrust.wire.messages import Finding, Mode, Severity, Standing
from hwtrust_backend.enrolment import DeviceKind
from hwtrust_backend.results.ar4si import NO_ASSERTION, Claim, Tier, tier_of
from hwtrust_backend.results.vector import (
    AFFIRMED,
    CLAIM_OF_PREFIX,
    CLAIMS_OF,
    affirmed_of,
    appraised,
    appraised_gpu,
    appraised_tee,
    touched,
)

FINDINGS = {
    code: found
    for table in (
        *(appraise.FINDINGS, platform.ALL_FINDINGS),
        *(kinds.FINDINGS, judge.ENCLAVE_FINDINGS),
    )
    for code, found in table.items()
    # They are weighed by their prefix.
    if code not in POLICY_FINDINGS and not code.startswith("policy:")
}

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
    kind: DeviceKind = DeviceKind.TPM,
) -> Tier:
    """The status of a device."""
    _, status = appraised(
        affirmed=affirmed_of(kind, debug=False),
        standing=standing,
        findings=findings,
        mode=mode,
        withdrawn=withdrawn,
        silent=silent,
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
    assert status_of(found, kind=DeviceKind.SNP) is TIERS_OF_SEVERITY[severity]


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
        affirmed=affirmed_of(DeviceKind.TPM, debug=False),
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
        affirmed=AFFIRMED,
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
            affirmed=AFFIRMED,
            standing=Standing.FAILED,
            findings=order,
            mode=Mode.NORMAL,
            withdrawn=False,
            silent=False,
        )[0]
        for order in ((bad, alert), (alert, bad))
    ]
    assert [vector["hardware"] for vector in vectors] == [96, 96]


# --- enclaves -----------------------------------------------------------------------------

OPAQUE = {
    "instance-identity": 2,
    "configuration": 2,
    "executables": 3,
    "hardware": 2,
    "runtime-opaque": 2,
}
ENCLAVES = sorted(set(DeviceKind) - {DeviceKind.TPM})


@pytest.mark.parametrize("kind", ENCLAVES)
def test_a_good_enclave_claims_what_its_hardware_says_and_no_more(kind: DeviceKind) -> None:
    """Its memory is encrypted, but where the hardware does not say so; of files it says nothing."""
    vector, status = appraised_tee(kind, (), debug=False, silent=False)
    opaque = {name: value for name, value in OPAQUE.items() if name != "runtime-opaque"}
    assert vector == (opaque if kind is DeviceKind.NITRO else OPAQUE)
    assert status is Tier.AFFIRMING


def test_an_enclave_whose_host_may_see_into_it_is_not_said_to_be_opaque() -> None:
    """A policy that takes debugging does not make memory secret."""
    vector, status = appraised_tee(DeviceKind.SNP, (), debug=True, silent=False)
    assert ("runtime-opaque" in vector, status) == (False, Tier.AFFIRMING)
    found = finding("snp:debug", Severity.FAIL)
    vector, status = appraised_tee(DeviceKind.SNP, (found,), debug=True, silent=False)
    assert (vector["runtime-opaque"], status) == (96, Tier.CONTRAINDICATED)


PARTS = {
    "the machine's launch": ("snp:measurement", True, False),
    "the machine's firmware log": ("firmware:digest", True, False),
    "the GPU": ("nvidia:driver", False, True),
    "a layer": ("layer:mismatch", False, False),
    "an administrator's lock": ("admin:locked", False, False),
    "what the policy leaves out": ("policy:absent", True, True),
    "a kind that is not accepted": ("evidence:kind", True, True),
    "a code that is made later": ("new:code", True, False),
}


@pytest.mark.parametrize("case", PARTS)
def test_a_finding_speaks_against_the_part_that_it_is_about(case: str) -> None:
    """A bad GPU leaves the TEE what it is; what was not appraised is not affirmed."""
    code, tee, gpu = PARTS[case]
    found = (finding(code, Severity.FAIL),)
    _, of_tee = appraised_tee(DeviceKind.SNP, found, debug=False, silent=False)
    _, of_gpu = appraised_gpu(found, silent=False)
    assert (of_tee is Tier.CONTRAINDICATED, of_gpu is Tier.CONTRAINDICATED) == (tee, gpu)


def test_of_a_silent_enclave_no_part_is_affirmed() -> None:
    """What was good is not claimed any more."""
    for _, status in (
        appraised_tee(DeviceKind.TDX, (), debug=False, silent=True),
        appraised_gpu((), silent=True),
    ):
        assert status is Tier.NONE


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
