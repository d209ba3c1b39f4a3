"""Attestation: challenges, verdicts, and what a device gets for them.

    who is calling        with certificate            without
    purpose               ATTEST                      SESSION
    evidence binds        the certificate's key       any key of an accepted kind
    reply may hold        approval, root, certificate certificate

Rules:
1. Evidence that is not authentic changes nothing, not even the nonce: whoever
   can ask for a challenge could otherwise use up another's.
2. A nonce is used up by one conditional update; a replica that was faster wins.
3. What the certified counter shows is noted even if the device has failed: it
   is true of its TPM.
4. A device that has failed gets its findings, the time and a challenge.
5. For a session there is no root and no approval: they need the channel that a
   certificate opens.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from hmac import compare_digest
from typing import Protocol

import msgspec
from sqlalchemy import update
from sqlalchemy.orm import Session

from hwtrust.errors import (
    ChallengeUsedError,
    DeviceUnknownError,
    IdentityError,
    IdentityKeyError,
    TlsKeyRefusedError,
)
from hwtrust.verify.appraise import References, Verdict, appraise
from hwtrust.verify.evidence import Claims, verify_evidence
from hwtrust.wire import challenge
from hwtrust.wire.challenge import Challenge, Purpose
from hwtrust.wire.envelope import Envelope, seal
from hwtrust.wire.messages import (
    AttestReply,
    AttestRequest,
    ChallengeReply,
    ChallengeRequest,
    Evidence,
    Release,
    SignedTime,
    Standing,
    TlsKeyKind,
)
from hwtrust.wire.root import Approval, RootDelivery
from hwtrust_backend.audit import Event, record
from hwtrust_backend.config import Settings
from hwtrust_backend.enrolment import (
    Device,
    history_of,
    known_device,
    lock_device,
    note_verdict,
)
from hwtrust_backend.keys import DeviceIdentity, KeyRole, KeyVault, issue_device_certificate


class Rotation(Protocol):
    """What follows for a device's roots; `publishing.Publisher` is one."""

    def epochs(self, session: Session, device: Device) -> frozenset[int]:
        """The counter values that are accepted."""
        ...

    def confirm(self, session: Session, device: Device, *, counter: int, now: int) -> None:
        """Note what the certified counter shows."""
        ...

    def follow(
        self, session: Session, device: Device, *, claims: Claims, release: Release, now: int
    ) -> tuple[Approval | None, RootDelivery | None]:
        """Leave for the current root, and the next root if it is due."""
        ...


class KnownReleases(Protocol):
    """Gives the releases that appraisal holds a log against; `references` does."""

    def __call__(self, session: Session) -> References:
        """Known and accepted releases."""
        ...


def evidence_digest(evidence: Evidence) -> bytes:
    """How the audit trail names a piece of evidence."""
    return hashlib.sha256(msgspec.json.encode(evidence)).digest()


@dataclass(frozen=True, slots=True)
class Attestations:
    """Takes evidence; `attest` works in its caller's transaction."""

    settings: Settings
    vault: KeyVault
    releases: KnownReleases
    rotation: Rotation

    def challenge(self, session: Session, request: ChallengeRequest, *, now: int) -> ChallengeReply:
        """A nonce for an enrolled device. Nothing is written.

        Raises:
            DeviceUnknownError: it is not enrolled.
        """
        if session.get(Device, request.device.hex()) is None:
            raise DeviceUnknownError("this device is not enrolled here")
        return ChallengeReply(nonce=self._issue(request.device, request.purpose, now))

    def attest(
        self,
        session: Session,
        request: AttestRequest,
        *,
        identity: DeviceIdentity | None,
        now: int,
    ) -> AttestReply:
        """Verify, appraise, store the verdict, and say what follows.

        Raises:
            DeviceUnknownError: it is not enrolled.
            IdentityError: no certificate where one is needed, or another device's.
            ChallengeError: the nonce is not ours, not for this, too old, or used.
            EvidenceError, WireError: the evidence is not authentic.
            TlsKeyRefusedError: the kind of the TLS key is not accepted here.
        """
        purpose = _purpose(request, identity)
        device = lock_device(session, request.device.hex())
        binding = request.evidence.binding
        nonce = challenge.check(
            binding.nonce,
            key=self.vault.challenge_key.reveal(),
            device=device.name,
            purpose=purpose,
            now_ms=now,
        )
        claims = verify_evidence(
            request.evidence,
            device=known_device(device),
            nonce=nonce.nonce,
            purpose=purpose,
            tls_key=None if identity is None else identity.tls_key,
        )
        kind = self._accepted_kind(device, binding.tls_key)
        _use(session, device, nonce)
        verdict = self._appraised(session, device, claims, now)
        self.rotation.confirm(session, device, counter=claims.counter, now=now)
        approval, root, certificate = None, None, ""
        if verdict.standing is not Standing.FAILED:
            if purpose is Purpose.ATTEST:
                release = self.releases(session).releases[binding.release]
                approval, root = self.rotation.follow(
                    session, device, claims=claims, release=release, now=now
                )
            if request.csr:
                certificate = self._certificate(session, device, request.csr, claims, kind, now=now)
        self._audit(session, device, request, verdict, now)
        return AttestReply(
            standing=verdict.standing,
            findings=verdict.findings,
            time=self._time(device.name, nonce.nonce, now),
            challenge=self._issue(device.name, Purpose.ATTEST, now),
            approval=approval,
            root=root,
            certificate=certificate,
        )

    def _accepted_kind(self, device: Device, tls_key: bytes) -> TlsKeyKind:
        in_tpm = device.tls_kind is TlsKeyKind.TPM and compare_digest(tls_key, device.tls_key)
        kind = TlsKeyKind.TPM if in_tpm else TlsKeyKind.ATTESTED
        if kind not in self.settings.tls_keys:
            raise TlsKeyRefusedError(f"TLS keys of kind {kind} are not accepted here")
        return kind

    def _appraised(self, session: Session, device: Device, claims: Claims, now: int) -> Verdict:
        epochs = self.rotation.epochs(session, device)
        verdict = appraise(
            claims,
            references=self.releases(session),
            history=history_of(device),
            epochs=epochs,
            clock_rules=self.settings.clock.rules,
            now_ms=now,
        )
        note_verdict(device, verdict, now=now)
        if epochs and claims.counter > max(epochs):
            reason = (
                f"the counter stands at {claims.counter}; the newest known epoch is {max(epochs)}"
            )
            record(session, Event.EPOCH_UNKNOWN, now=now, device=device.id, reason=reason)
        return verdict

    def _certificate(
        self,
        session: Session,
        device: Device,
        csr: bytes,
        claims: Claims,
        kind: TlsKeyKind,
        *,
        now: int,
    ) -> str:
        issued = issue_device_certificate(
            csr,
            tls_key=claims.binding.tls_key,
            device=device.name,
            signer=self.vault.signer(KeyRole.DEVICE_CA),
            authority=self.vault.authority(KeyRole.DEVICE_CA),
            now=now,
            lifetime_ms=self.settings.certificate_lifetime(kind),
        )
        reason = f"serial {issued.serial:x}, key {kind}"
        record(session, Event.CERTIFICATE_ISSUED, now=now, device=device.id, reason=reason)
        return issued.pem

    def _audit(
        self,
        session: Session,
        device: Device,
        request: AttestRequest,
        verdict: Verdict,
        now: int,
    ) -> None:
        codes = ", ".join(finding.code for finding in verdict.findings)
        record(
            session,
            Event.EVIDENCE_ACCEPTED,
            now=now,
            device=device.id,
            reason=f"{verdict.standing}: {codes}" if codes else str(verdict.standing),
            evidence=evidence_digest(request.evidence),
        )

    def _issue(self, device: bytes, purpose: Purpose, now: int) -> bytes:
        key = self.vault.challenge_key.reveal()
        return challenge.issue(key=key, device=device, purpose=purpose, now_ms=now)

    def _time(self, device: bytes, nonce: bytes, now: int) -> Envelope:
        time = SignedTime(device=device, nonce=nonce, utc_ms=now)
        return seal(time, sign=self.vault.signer(KeyRole.METADATA).sign)


def _purpose(request: AttestRequest, identity: DeviceIdentity | None) -> Purpose:
    if identity is None:
        if request.evidence.binding.purpose is Purpose.ATTEST:
            raise IdentityError("an attestation comes over a connection with a client certificate")
        return Purpose.SESSION
    if identity.device != request.device.hex():
        raise IdentityKeyError("the client certificate is that of another device")
    return Purpose.ATTEST


def _use(session: Session, device: Device, nonce: Challenge) -> None:
    used = session.execute(
        update(Device)
        .where(Device.id == device.id, Device.nonce_issued < nonce.issued)
        .values(nonce_issued=nonce.issued),
        execution_options={"synchronize_session": False},
    )
    if used.rowcount != 1:  # type: ignore[attr-defined]
        raise ChallengeUsedError("this challenge, or a newer one, has been answered before")
