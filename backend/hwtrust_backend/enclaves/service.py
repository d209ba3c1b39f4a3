"""Enclaves: how they enrol and attest, and what they get for it.

    who is calling        with certificate            without              without
    purpose               ATTEST                      SESSION              ENROL
    evidence binds        the certificate's key       the enclave's key    the key of the CSR
    reply may hold        root, certificate, order    certificate, order   certificate, root

Rules:
1. An enclave is known by its TLS key: whoever has another is another device. No
   vendor says which machine it is, so every enrolment takes a token.
2. Evidence that is not authentic changes nothing, not even the nonce. A nonce is used
   once: it is noted with the device, under the lock of its row.
3. An enclave that fails its first appraisal is not enrolled, and its token not used.
   Neither is one that is not complete, as it gets its root at once.
4. An enclave that has failed gets its findings, the time, a challenge, and the order to
   update. For a session there is no root.
5. A lock outlasts an enrolment: an enclave that is locked does not enrol anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from hmac import compare_digest
from typing import Final

import msgspec
from sqlalchemy.orm import Session

from hwtrust.errors import (
    ChallengeExpiredError,
    ChallengeUsedError,
    ChannelBindingError,
    DeviceUnknownError,
    TlsKeyRefusedError,
    UntrustedError,
)
from hwtrust.verify.policy import order_by
from hwtrust.wire import challenge
from hwtrust.wire.challenge import Purpose
from hwtrust.wire.enclave import (
    EnclaveAttest,
    EnclaveChallengeRequest,
    EnclaveEnrol,
    EnclaveEnrolled,
    EnclaveReply,
    EnclaveRoot,
    enclave_name,
)
from hwtrust.wire.envelope import Envelope, seal
from hwtrust.wire.messages import (
    ChallengeReply,
    Finding,
    Mode,
    Release,
    SignedTime,
    Standing,
    TlsKeyKind,
    UpdateOrder,
)
from hwtrust_backend.appraisal.queries import keep_shown, require_answers
from hwtrust_backend.appraisal.service import (
    accepted_kind,
    announce_change,
    held,
    note_words,
    purpose_of,
)
from hwtrust_backend.audit import Event, record
from hwtrust_backend.config import Settings
from hwtrust_backend.enclaves.evidence import (
    Authentic,
    judged,
    keep_evidence,
    opened,
    shown,
    verify,
)
from hwtrust_backend.enclaves.roots import EnclaveRoots, require_release_key
from hwtrust_backend.enclaves.trust import enclave_trust
from hwtrust_backend.enrolment import (
    AnyDevice,
    Device,
    DeviceState,
    GroupRules,
    lock_states,
    note_findings,
    require_kind,
    rules_of,
    write_states,
)
from hwtrust_backend.enrolment.devices import LAST_EPOCH, check_may_enrol
from hwtrust_backend.enrolment.tokens import find_token, token_group, use_token
from hwtrust_backend.keys import DeviceIdentity, KeyRole, KeyVault, issue_device_certificate
from hwtrust_backend.webhooks import Topic, announce

_MESSAGE_LIMIT: Final = 300


@dataclass(frozen=True, slots=True)
class Enclaves:
    """Enrols enclaves and takes their evidence; every method works in its caller's transaction."""

    settings: Settings
    vault: KeyVault
    roots: EnclaveRoots

    def challenge(
        self, session: Session, request: EnclaveChallengeRequest, *, now: int
    ) -> ChallengeReply:
        """A nonce for the enclave with this TLS key. Nothing is written.

        Raises:
            DeviceUnknownError: it is not enrolled, and does not ask to be.
        """
        name = enclave_name(request.kind, request.tls_key)
        if request.purpose is not Purpose.ENROL and session.get(Device, name.hex()) is None:
            raise DeviceUnknownError("this device is not enrolled here")
        return ChallengeReply(nonce=self._issue(name, request.purpose, now))

    def enrol(self, session: Session, request: EnclaveEnrol, *, now: int) -> EnclaveEnrolled:
        """Make an enclave known: its evidence is authentic, and accepted as it is.

        Raises:
            TokenError: there is none, or it cannot be used any more.
            ReleaseKeyMissingError: there is no key to seal its root to.
            ChallengeError: the nonce is not ours, not for this, too old, or used.
            EvidenceError, WireError: the evidence is not authentic.
            TlsKeyRefusedError: keys that no TPM holds are not accepted here.
            UntrustedError: it is not in an accepted state.
            DeviceRetiredError: it is out of service for good.
            CsrError, IdentityKeyError, WeakKeyError: the certificate request is refused.
        """
        evidence = request.evidence
        binding = evidence.binding
        name = enclave_name(evidence.kind, binding.tls_key)
        nonce = opened(
            evidence,
            device=name,
            purpose=Purpose.ENROL,
            key=self.vault.challenge_key.reveal(),
            lifetime_ms=self.settings.enrolment_lifetime_ms,
            now=now,
        )
        require_release_key(binding)
        token = find_token(session, request.token, now=now)
        group = token_group(session, token)
        held_to = rules_of(session, group)
        if TlsKeyKind.ATTESTED not in held_to.policy.tls_keys:
            message = f"TLS keys of kind {TlsKeyKind.ATTESTED} are not accepted here"
            raise TlsKeyRefusedError(message)
        found = verify(evidence, nonce, trust=enclave_trust(session), now=now)
        device = session.get(Device, name.hex(), with_for_update=True)
        check_may_enrol(device)
        if device is not None:
            self._require_new(session, device, found)
        release, findings = _first_verdict(found, held_to, device, now)
        use_token(session, token, device=name.hex(), now=now)
        device = _stored(session, device, found, findings, group=group, now=now)
        certificate = self._certificate(session, device, request.csr, now=now)
        root = self.roots.first(
            session, device, binding=binding, release=release, policy=held_to.policy, now=now
        )
        _note_enrolled(session, device, found, now)
        return EnclaveEnrolled(
            device=name,
            certificate=certificate,
            root=root,
            challenge=self._issue(name, Purpose.ATTEST, now),
            time=self._time(name, nonce.nonce, now),
            heartbeat_ms=held_to.policy.heartbeat_ms,
            offline_grace_ms=held_to.policy.offline_grace_ms,
        )

    def attest(
        self,
        session: Session,
        request: EnclaveAttest,
        *,
        identity: DeviceIdentity | None,
        now: int,
    ) -> EnclaveReply:
        """Verify, appraise, store the verdict, and say what follows.

        Raises:
            DeviceUnknownError: it is not enrolled.
            DeviceKindError: it is a TPM's device.
            DeviceRetiredError: it is out of service.
            IdentityError: no certificate where one is needed, or another device's.
            ChallengeError: the nonce is not ours, not for this, too old, or used.
            EvidenceError, WireError: the evidence is not authentic.
            TlsKeyRefusedError: keys that no TPM holds are not accepted here.
            CsrError, IdentityKeyError, WeakKeyError: the certificate request is refused.
        """
        purpose = purpose_of(request, identity)
        name = request.device.hex()
        device = held(lock_states(session, [name]), name)
        require_kind(device, tpm=False)
        nonce = opened(
            request.evidence,
            device=request.device,
            purpose=purpose,
            key=self.vault.challenge_key.reveal(),
            now=now,
        )
        binding = request.evidence.binding
        if identity is not None and not compare_digest(binding.tls_key, identity.tls_key):
            raise ChannelBindingError("the evidence names another TLS key than the connection's")
        if purpose is Purpose.ATTEST:
            require_release_key(binding)
        found = verify(request.evidence, nonce, trust=enclave_trust(session), now=now)
        held_to = rules_of(session, device.group)
        accepted_kind(held_to.policy, device, binding.tls_key)
        self._require_new(session, device, found)
        require_answers(device, nonce, now=now)
        reply = self._decided(session, device, request, found, held_to, purpose=purpose, now=now)
        write_states(session, [device])
        return reply

    def _require_new(self, session: Session, device: AnyDevice, found: Authentic) -> None:
        # (2): once.
        if device.nonce_issued >= found.nonce.issued:
            raise ChallengeUsedError("this challenge, or a newer one, has been answered before")
        if self.roots.publisher.forgets_before(session) >= found.nonce.issued:
            message = "the challenge is from before the backend was restored"
            raise ChallengeExpiredError(message, issued=found.nonce.issued)

    def _decided(
        self,
        session: Session,
        device: DeviceState,
        request: EnclaveAttest,
        found: Authentic,
        held_to: GroupRules,
        *,
        purpose: Purpose,
        now: int,
    ) -> EnclaveReply:
        binding, policy = found.binding, held_to.policy
        device.nonce_issued = found.nonce.issued
        before = device.standing, device.mode
        judgement = judged(
            found,
            held_to,
            epochs=self.roots.epochs(session, device, claimed=binding.epoch),
            locked=None if device.locked_at is None else device.lock_reason,
            now=now,
        )
        standing, findings = judgement.standing, judgement.findings
        note_findings(device, standing, findings, judgement.mode, release=binding.release, now=now)
        announce_change(session, device, before, findings, now)
        publisher = self.roots.publisher
        root, certificate = None, ""
        if standing is not Standing.FAILED:
            # What code says that is not accepted counts for nothing, its epoch neither.
            device.counter = min(binding.epoch, LAST_EPOCH)
            publisher.confirm(session, device, counter=binding.epoch, now=now)
        publisher.attested(session, device, before=before[0], policy=policy, now=now)
        if standing is not Standing.FAILED:
            if standing is Standing.TRUSTED and purpose is Purpose.ATTEST:
                root = self._next_root(session, device, found, held_to, now)
            if request.csr:
                certificate = self._certificate(session, device, request.csr, now=now)
        keep_evidence(session, device, found, now=now)
        _note_attested(session, device, found, findings, now)
        reply = EnclaveReply(
            standing=standing,
            mode=device.mode,
            heartbeat_ms=policy.heartbeat_ms,
            offline_grace_ms=policy.offline_grace_ms,
            findings=findings,
            time=self._time(device.name, found.nonce.nonce, now),
            challenge=self._issue(device.name, Purpose.ATTEST, now),
            root=root,
            certificate=certificate,
            update=_order(binding.release, findings, held_to, now),
        )
        note_words(session, device, found.statement, reply.update, now)
        if device.query_asked_at is not None:
            keep_shown(session, device, shown(found), reply, now=now)
        return reply

    def _next_root(
        self,
        session: Session,
        device: DeviceState,
        found: Authentic,
        held_to: GroupRules,
        now: int,
    ) -> EnclaveRoot | None:
        # Where a policy only alerts of it, an enclave may run one that nobody knows.
        release = held_to.rules.references.releases.get(found.binding.release)
        if release is None:
            return None
        return self.roots.follow(
            session,
            device,
            binding=found.binding,
            release=release,
            policy=held_to.policy,
            now=now,
        )

    def _certificate(self, session: Session, device: AnyDevice, csr: bytes, *, now: int) -> str:
        issued = issue_device_certificate(
            csr,
            tls_key=device.tls_key,
            device=device.name,
            signer=self.vault.signer(KeyRole.DEVICE_CA),
            authority=self.vault.authority(KeyRole.DEVICE_CA),
            now=now,
            lifetime_ms=self.settings.certificate_lifetime(TlsKeyKind.ATTESTED),
        )
        reason = f"serial {issued.serial:x}, key {TlsKeyKind.ATTESTED}"
        record(session, Event.CERTIFICATE_ISSUED, now=now, device=device.id, reason=reason)
        return issued.pem

    def _issue(self, device: bytes, purpose: Purpose, now: int) -> bytes:
        key = self.vault.challenge_key.reveal()
        return challenge.issue(key=key, device=device, purpose=purpose, now_ms=now)

    def _time(self, device: bytes, nonce: bytes, now: int) -> Envelope:
        time = SignedTime(device=device, nonce=nonce, utc_ms=now)
        return seal(time, sign=self.vault.signer(KeyRole.METADATA).sign)


def _first_verdict(
    found: Authentic, held_to: GroupRules, device: Device | None, now: int
) -> tuple[Release, tuple[Finding, ...]]:
    """The release that a root is made for, and alerts.

    Raises:
        UntrustedError: the enclave is not in an accepted state.
    """
    binding = found.binding
    locked = None if device is None or device.locked_at is None else device.lock_reason
    # It has no root of this enrolment yet, whatever it had before.
    epochs = frozenset({binding.epoch})
    judgement = judged(found, held_to, epochs=epochs, locked=locked, now=now)
    if judgement.standing is not Standing.TRUSTED:
        codes = ", ".join(finding.code for finding in judgement.findings)
        # Whoever writes the policy has no row of the enclave to look at: this is what he gets.
        first = judgement.findings[0].message[:_MESSAGE_LIMIT]
        message = f"the enclave is not in an accepted state: {codes}: {first}"
        raise UntrustedError(message, findings=codes)
    release = held_to.rules.references.releases.get(binding.release)
    if release is None:
        raise UntrustedError(f"there is no release {binding.release!r} to make a root for")
    return release, judgement.findings


def _stored(
    session: Session,
    device: Device | None,
    found: Authentic,
    findings: tuple[Finding, ...],
    *,
    group: str,
    now: int,
) -> Device:
    binding, kind = found.binding, found.claims.kind
    if device is None:
        device = Device(id=enclave_name(kind, binding.tls_key).hex(), kind=kind.value)
        # What only a TPM has.
        device.ak_public = device.storage_public = device.counter_name = device.history = b""
        device.selection, device.pcr = "", 0
        device.base_epoch = device.counter = 0
        session.add(device)
    device.ek_source = f"token; {kind.value} evidence"
    device.tls_kind, device.tls_key = TlsKeyKind.ATTESTED, binding.tls_key
    device.nonce_issued = found.nonce.issued
    device.enrolled_at = device.standing_since = now
    device.standing = Standing.TRUSTED
    note_findings(device, Standing.TRUSTED, findings, Mode.NORMAL, release=binding.release, now=now)
    device.facts = msgspec.json.encode(found.facts)
    device.group = group
    device.retired_at = device.readmitted_at = None
    session.flush()
    return device


def _note_enrolled(session: Session, device: Device, found: Authentic, now: int) -> None:
    record(
        session,
        Event.ENROLMENT_ACCEPTED,
        now=now,
        device=device.id,
        reason=f"{device.ek_source}; TLS key {device.tls_kind}; epoch {device.base_epoch}",
        evidence=found.digest,
    )
    data = {
        "kind": device.kind,
        "group": device.group,
        "standing": device.standing.value,
        "release": device.release,
        "epoch": device.base_epoch,
    }
    announce(session, Topic.ENROLLED, device=device.id, data=data, now=now)


def _note_attested(
    session: Session,
    device: DeviceState,
    found: Authentic,
    findings: tuple[Finding, ...],
    now: int,
) -> None:
    codes = ", ".join(finding.code for finding in findings)
    record(
        session,
        Event.EVIDENCE_ACCEPTED,
        now=now,
        device=device.id,
        reason=f"{device.standing}: {codes}" if codes else str(device.standing),
        evidence=found.digest,
    )


def _order(
    release: str, findings: tuple[Finding, ...], held_to: GroupRules, now: int
) -> UpdateOrder | None:
    found = order_by(release, findings, rules=held_to.rules, now_ms=now)
    return None if found is None else UpdateOrder(release=found.release, forced=found.forced)
