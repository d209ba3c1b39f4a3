"""What appraisal found, as a trustworthiness vector (AR4SI, draft-ietf-rats-ar4si-10).

    standing, findings, mode, silence ── appraised ──▶ vector, status

Rules:
1. A claim is made only of what the evidence can show. A TPM, its quote, log and EK,
   says nothing of memory. An enclave's report says that its memory is encrypted and
   nobody else's (AWS does not say that of Nitro), and nothing of files: they are
   spoken of where something is wrong with them. Of the encryption of storage and of
   other machines' data neither says anything: those two are never claimed.
2. Every finding touches at least one claim: what fails contraindicates, and what is
   incomplete or an alert warns. A code that is not in the tables here weighs by
   its severity, so that no finding is without effect.
3. The status is that of the worst claim, and never better than the device's
   standing and mode: incomplete and limited are warnings, failed, locked and
   retired are contraindicated.
4. Of a device that is silent nothing is affirmed: what was good is not claimed any
   more, and what was bad stays.
5. The TEE and a GPU beside it are spoken of each for itself too, by the findings that
   are about them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from hwtrust.wire.messages import Finding, Mode, Severity, Standing
from hwtrust_backend.enrolment import DeviceKind
from hwtrust_backend.results.ar4si import (
    ALERT,
    APPROVED_BOOT,
    ENCRYPTED,
    LIMITED,
    NO_ASSERTION,
    RECOGNIZED,
    UNAVAILABLE,
    UNTRUSTED,
    WITHDRAWN,
    Claim,
    Tier,
    tier_of,
    worse,
    worst,
)
from hwtrust_backend.results.evidence_claims import CLAIMS_OF_EVIDENCE

AFFIRMED: Final[Mapping[Claim, int]] = MappingProxyType(
    {
        Claim.INSTANCE: RECOGNIZED,
        Claim.CONFIGURATION: RECOGNIZED,
        Claim.EXECUTABLES: APPROVED_BOOT,
        Claim.FILES: RECOGNIZED,
        Claim.HARDWARE: RECOGNIZED,
    }
)
"""What an appraisal of a TPM's device without any finding has shown."""

AFFIRMED_PART: Final[Mapping[Claim, int]] = MappingProxyType(
    {claim: value for claim, value in AFFIRMED.items() if claim is not Claim.FILES}
)
"""The same of a GPU, and of an enclave whose memory nothing is said of."""

_AFFIRMED_OPAQUE: Final = MappingProxyType({**AFFIRMED_PART, Claim.RUNTIME: ENCRYPTED})

_THE_GPU: Final = ("nvidia:", "policy:", "evidence:")
_NOT_THE_TEE: Final = ("nvidia:", "log:", "layer:", "release:", "epoch:", "admin:", "ima:")
"""What a policy leaves out, or does not accept, counts against both (rule 5)."""

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
        **CLAIMS_OF_EVIDENCE,
    }
)
"""Which claims a finding of `hwtrust.verify` touches, and with which value."""

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


def touched(finding: Finding) -> Mapping[Claim, int]:
    """The claims that a finding speaks against, with their values."""
    if finding.code in CLAIMS_OF:
        return CLAIMS_OF[finding.code]
    value = _OF_SEVERITY[finding.severity]
    for prefix, claim in CLAIM_OF_PREFIX.items():
        if finding.code.startswith(prefix):
            return {claim: value}
    return {Claim.CONFIGURATION: value}


def affirmed_of(kind: DeviceKind, *, debug: bool) -> Mapping[Claim, int]:
    """What an appraisal of a device of that kind without any finding has shown.

    `debug`: that its host sees into it, which its policy then allows.
    """
    if kind is DeviceKind.TPM:
        return AFFIRMED
    return AFFIRMED_PART if debug or kind is DeviceKind.NITRO else _AFFIRMED_OPAQUE


def appraised(
    *,
    affirmed: Mapping[Claim, int],
    standing: Standing,
    findings: Iterable[Finding],
    mode: Mode,
    withdrawn: bool,
    silent: bool,
) -> tuple[dict[str, int], Tier]:
    """The vector of a device, and its status; `affirmed` is what it shows at best.

    `withdrawn` is a device that an administrator has locked or retired; `silent` one
    that has not been heard of for longer than it may be.
    """
    against = [touched(finding) for finding in findings]
    against += [{claim: value} for claim, value in _of_device(standing, mode, withdrawn=withdrawn)]
    return _weighed(affirmed, against, silent=silent)


def appraised_tee(
    kind: DeviceKind, findings: Iterable[Finding], *, debug: bool, silent: bool
) -> tuple[dict[str, int], Tier]:
    """The same of an enclave's TEE alone, whatever was loaded into it."""
    against = [touched(one) for one in findings if not one.code.startswith(_NOT_THE_TEE)]
    return _weighed(affirmed_of(kind, debug=debug), against, silent=silent)


def appraised_gpu(findings: Iterable[Finding], *, silent: bool) -> tuple[dict[str, int], Tier]:
    """The same of the GPU beside an enclave alone."""
    against = [touched(one) for one in findings if one.code.startswith(_THE_GPU)]
    return _weighed(AFFIRMED_PART, against, silent=silent)


def _weighed(
    affirmed: Mapping[Claim, int], against: Iterable[Mapping[Claim, int]], *, silent: bool
) -> tuple[dict[str, int], Tier]:
    vector = dict(affirmed)
    for values in against:
        for claim, value in values.items():
            vector[claim] = worse(vector.get(claim, NO_ASSERTION), value)
    if silent:
        for claim, value in vector.items():
            if tier_of(value) is Tier.AFFIRMING:
                vector[claim] = NO_ASSERTION
    return {claim.value: value for claim, value in vector.items()}, worst(
        map(tier_of, vector.values())
    )


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
