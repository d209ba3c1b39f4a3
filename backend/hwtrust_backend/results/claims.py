"""The claims of an attestation result: EAT Attestation Results, draft-ietf-rats-ear-04.

    { eat_profile, iat, exp, iss, sub, jti, ear_verifier_id, ear_status,
      submods: { "hwtrust": { ear_status, ear_trustworthiness_vector,
                              ear_appraisal_policy_ids, ear_verifier_claims },
                 "tee", "gpu": { ear_status, ear_trustworthiness_vector } } }

Rules:
1. A result says what the last attestation came to and when that was. It is not good
   for longer than the device may be away (`grace_end`); once that is over it says
   just this, and affirms nothing.
2. What is ours and not the draft's is in `ear_verifier_claims`, under names that
   begin with `hwtrust_`. Of findings the codes alone: messages are for
   administrators.
3. `hwtrust` is about the whole device. Of an enclave `tee` says what its hardware and
   launch come to, whatever was loaded since; `gpu` is there where a GPU's report is.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from hwtrust.errors import ResultProfileError
from hwtrust.wire.messages import Finding, Mode, Standing
from hwtrust_backend.config.clock import SECOND
from hwtrust_backend.enrolment import DeviceKind
from hwtrust_backend.results.ar4si import Tier
from hwtrust_backend.results.vector import (
    affirmed_of,
    appraised,
    appraised_gpu,
    appraised_tee,
)

PROFILE: Final = "tag:ietf.org,2026:rats/ear#04"
SUBMODULE: Final = "hwtrust"
TEE: Final = "tee"
GPU: Final = "gpu"
DEVELOPER: Final = "hwtrust"
LEAST_NONCE: Final = 8
MOST_NONCE: Final = 64
_JTI_BYTES: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What a result tells of. Times are UTC milliseconds."""

    device: str
    kind: DeviceKind
    debug: bool
    """An enclave whose host sees into it, as its policy allows."""
    gpu: bool
    """The report of a GPU came along."""
    group: str
    standing: Standing
    mode: Mode
    findings: tuple[Finding, ...]
    epoch: int
    release: str
    attested_at: int
    grace_end: int
    """Until when the device may be away."""
    missed: bool
    """It was found missing before that."""
    withdrawn: bool
    """An administrator has locked or retired it."""
    policy: str
    """Identifies the policy that it was appraised by; empty: not known any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a relying party wants in a result; `nonce` and `audience` may be empty."""

    nonce: bytes
    audience: str


def make_claims(
    subject: Subject, request: Request, *, issuer: str, build: str, lifetime_ms: int, now: int
) -> dict[str, Any]:
    """The claims about a device at `now`."""
    silent = subject.missed or now >= subject.grace_end
    vector, status = appraised(
        affirmed=affirmed_of(subject.kind, debug=subject.debug),
        standing=subject.standing,
        findings=subject.findings,
        mode=subject.mode,
        withdrawn=subject.withdrawn,
        silent=silent,
    )
    ends = now + lifetime_ms
    if not silent:
        ends = min(ends, subject.grace_end)
    claims: dict[str, Any] = {
        "eat_profile": PROFILE,
        "iat": now // SECOND,
        "exp": ends // SECOND,
        "iss": issuer,
        "sub": subject.device,
        "jti": secrets.token_urlsafe(_JTI_BYTES),
        "ear_verifier_id": {"developer": DEVELOPER, "build": build},
        "ear_status": status.value,
        "submods": {
            SUBMODULE: _appraisal(subject, vector, status, silent=silent),
            **_parts(subject, silent=silent),
        },
    }
    if request.nonce:
        claims["eat_nonce"] = nonce_text(request.nonce)
    if request.audience:
        claims["aud"] = request.audience
    return claims


def nonce_text(nonce: bytes) -> str:
    """How a nonce of 8 to 64 bytes is written in a result: base64, 12 to 88 characters."""
    return base64.b64encode(nonce).decode()


def _appraisal(
    subject: Subject, vector: Mapping[str, int], status: Tier, *, silent: bool
) -> dict[str, Any]:
    appraisal: dict[str, Any] = {
        "ear_status": status.value,
        "ear_trustworthiness_vector": dict(vector),
        "ear_verifier_claims": {
            "hwtrust_device": subject.device,
            "hwtrust_kind": subject.kind.value,
            "hwtrust_group": subject.group,
            "hwtrust_standing": subject.standing.value,
            "hwtrust_mode": subject.mode.value,
            "hwtrust_silent": silent,
            "hwtrust_findings": [finding.code for finding in subject.findings],
            "hwtrust_epoch": subject.epoch,
            "hwtrust_release": subject.release,
            "hwtrust_attested_at": subject.attested_at // SECOND,
        },
    }
    if subject.policy:
        appraisal["ear_appraisal_policy_ids"] = [subject.policy]
    return appraisal


def _parts(subject: Subject, *, silent: bool) -> dict[str, dict[str, Any]]:
    """The submodules of an enclave's parts (rule 3)."""
    if subject.kind is DeviceKind.TPM:
        return {}
    parts = {TEE: appraised_tee(subject.kind, subject.findings, debug=subject.debug, silent=silent)}
    if subject.gpu:
        parts[GPU] = appraised_gpu(subject.findings, silent=silent)
    return {
        name: {"ear_status": status.value, "ear_trustworthiness_vector": vector}
        for name, (vector, status) in parts.items()
    }


class VerifierClaims(msgspec.Struct, frozen=True, kw_only=True):
    """What a result says that is ours. Times are UTC seconds."""

    hwtrust_device: str
    hwtrust_group: str
    hwtrust_standing: str
    hwtrust_mode: str
    hwtrust_silent: bool
    hwtrust_findings: tuple[str, ...]
    hwtrust_epoch: int
    hwtrust_release: str
    hwtrust_attested_at: int
    hwtrust_kind: str = DeviceKind.TPM.value


class Appraisal(msgspec.Struct, frozen=True, kw_only=True):
    """One submodule of a result."""

    ear_status: Tier
    ear_trustworthiness_vector: dict[str, int]
    ear_verifier_claims: VerifierClaims | None = None
    """Of the submodule that is about the whole device."""
    ear_appraisal_policy_ids: tuple[str, ...] = ()


class VerifierId(msgspec.Struct, frozen=True, kw_only=True):
    """Who appraised."""

    developer: str
    build: str


class ResultClaims(msgspec.Struct, frozen=True, kw_only=True):
    """A result as it is read. Times are UTC seconds, whole ones; unknown claims are ignored."""

    eat_profile: str
    iat: int
    exp: int
    iss: str
    sub: str
    jti: str
    ear_verifier_id: VerifierId
    ear_status: Tier
    submods: dict[str, Appraisal]
    eat_nonce: str = ""
    aud: str = ""
    nbf: int = 0

    @property
    def device(self) -> VerifierClaims:
        """What it says that is ours.

        Raises:
            ResultProfileError: nothing.
        """
        whole = self.submods.get(SUBMODULE)
        if whole is None or whole.ear_verifier_claims is None:
            raise ResultProfileError(f"the result says nothing of {SUBMODULE}")
        return whole.ear_verifier_claims
