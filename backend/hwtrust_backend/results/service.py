"""Issuing attestation results for relying parties.

    the device's row, its policy ── Subject ── make_claims ──▶ signed by the current key

Rules:
1. Nothing is appraised here: a result tells what the last attestation came to.
2. Whoever asks has shown that it may: the device itself, or a principal that sees
   it. That is the caller's to check.
3. Every result that is issued leaves a record, with the digest of its `jti`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.metadata import version
from typing import Final

import jwt
import msgspec
from sqlalchemy.orm import Session

from hwtrust.errors import DeviceUnknownError, RequestError
from hwtrust_backend.audit import Event, record
from hwtrust_backend.config import Settings
from hwtrust_backend.config.clock import SECOND
from hwtrust_backend.enrolment import Device, DeviceKind, facts_of, findings_of
from hwtrust_backend.keys import KeyVault
from hwtrust_backend.policies import ActivePolicy, Group, policy_of
from hwtrust_backend.results.claims import (
    LEAST_NONCE,
    MOST_NONCE,
    Request,
    Subject,
    make_claims,
)
from hwtrust_backend.results.keys import ResultKeys
from hwtrust_backend.results.verify import ALGORITHM, TYPE

AUDIENCE_LIMIT: Final = 200
BUILD: Final = f"hwtrust-backend {version('hwtrust-backend')}"


class IssuedResult(msgspec.Struct, frozen=True, kw_only=True):
    """An attestation result: the signed token, and what it comes to.

    `expires_at` is UTC milliseconds.
    """

    result: str
    status: str
    expires_at: int


@dataclass(frozen=True, slots=True)
class Results:
    """Issues results; every method works in its caller's transaction."""

    settings: Settings
    vault: KeyVault

    @property
    def keys(self) -> ResultKeys:
        """The keys that sign."""
        return ResultKeys(self.settings, self.vault)

    def issue(
        self, session: Session, device: str, *, nonce: bytes, audience: str, by: str, now: int
    ) -> IssuedResult:
        """A result about a device; `nonce` and `audience` may be empty, `by` says who asked.

        Raises:
            DeviceUnknownError: it is not enrolled here.
            RequestError: the nonce has less than 8 or more than 64 bytes.
        """
        if nonce and not LEAST_NONCE <= len(nonce) <= MOST_NONCE:
            raise RequestError(f"a nonce has {LEAST_NONCE} to {MOST_NONCE} bytes")
        if len(audience) > AUDIENCE_LIMIT:
            raise RequestError(f"an audience has at most {AUDIENCE_LIMIT} characters")
        row = session.get(Device, device)
        if row is None:
            raise DeviceUnknownError("this device is not enrolled here")
        claims = make_claims(
            subject_of(session, row),
            Request(nonce=nonce, audience=audience),
            issuer=self.settings.url,
            build=BUILD,
            lifetime_ms=self.settings.result_lifetime_ms,
            now=now,
        )
        kid, key = self.keys.signing(session, now=now)
        token = jwt.encode(claims, key, algorithm=ALGORITHM, headers={"kid": kid, "typ": TYPE})
        status = str(claims["ear_status"])
        record(
            session,
            Event.RESULT_ISSUED,
            now=now,
            device=row.id,
            reason=status,
            evidence=hashlib.sha256(claims["jti"].encode()).digest(),
            actor=by,
        )
        return IssuedResult(result=token, status=status, expires_at=claims["exp"] * SECOND)


def subject_of(session: Session, device: Device) -> Subject:
    """What a result tells of a device."""
    policy, facts = policy_of(session, device.group), facts_of(device)
    return Subject(
        device=device.id,
        kind=DeviceKind(device.kind),
        debug=facts.get("debug") is True or facts.get("tee_debug") is True,
        gpu="gpu_device" in facts,
        group=device.group,
        standing=device.standing,
        mode=device.mode,
        findings=findings_of(device),
        epoch=device.counter,
        release=device.release,
        attested_at=device.attested_at,
        grace_end=device.attested_at + policy.offline_grace_ms,
        missed=device.silent_since is not None,
        withdrawn=device.locked_at is not None or device.retired_at is not None,
        policy=_policy_id(session, device),
    )


def _policy_id(session: Session, device: Device) -> str:
    """The version that appraised the device; nothing where another came into force since."""
    group = session.get(Group, device.group)
    active = None if group is None else session.get(ActivePolicy, group.policy)
    if active is None or active.activated_at > device.attested_at:
        return ""
    return f"hwtrust:policy:{active.name}:{active.version}"
