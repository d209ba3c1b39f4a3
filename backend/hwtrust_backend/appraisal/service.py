"""Attestation: challenges, verdicts, and what a device gets for them.

    who is calling        with certificate            without
    purpose               ATTEST                      SESSION
    evidence binds        the certificate's key       any key of an accepted kind
    reply may hold        approval, root, certificate certificate
                          order                       order

Rules:
1. Evidence that is not authentic changes nothing, not even the nonce: whoever
   can ask for a challenge could otherwise use up another's.
2. A nonce is used up under the lock of the device's row; a replica that was
   faster wins.
3. What the certified counter shows is noted even if the device has failed: it
   is true of its TPM.
4. A device that has failed gets its findings, the time, a challenge, and the order
   to update, which may be its way out.
5. For a session there is no root and no approval: they need the channel that a
   certificate opens.
6. What a device says of itself is read before anything is decided. A second release
   that it names gets leave by the group's rules alone.
7. A log of firmware or kernel that is wanted comes with the next attestation. Until
   then there is neither approval nor root: a device could keep quiet for ever.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from hmac import compare_digest
from typing import Protocol

from sqlalchemy.orm import Session

from hwtrust.errors import (
    ChallengeExpiredError,
    ChallengeUsedError,
    DeviceUnknownError,
    HwTrustError,
    IdentityError,
    IdentityKeyError,
    MalformedError,
    TlsKeyRefusedError,
)
from hwtrust.verify.appraise import Verdict
from hwtrust.verify.evidence import Claims, Offered, verify_group
from hwtrust.verify.logs.ima import PCR
from hwtrust.verify.platform import PlatformClaims, appraise_platform
from hwtrust.verify.policy import Judgement, Rules, judge, order, second_release
from hwtrust.wire import challenge
from hwtrust.wire.challenge import Challenge, Purpose
from hwtrust.wire.enclave import EnclaveAttest
from hwtrust.wire.envelope import Envelope, seal
from hwtrust.wire.messages import (
    AttestReply,
    AttestRequest,
    ChallengeReply,
    ChallengeRequest,
    Finding,
    Mode,
    Release,
    SignedTime,
    Standing,
    TlsKeyKind,
    UpdateOrder,
)
from hwtrust.wire.root import Approval, RootDelivery
from hwtrust.wire.statement import Statement, decode_statement
from hwtrust_backend.appraisal.queries import keep_answer, require_answers
from hwtrust_backend.appraisal.stored import keep_evidence
from hwtrust_backend.audit import Event, evidence_digest, record
from hwtrust_backend.config import Settings
from hwtrust_backend.enrolment import (
    AnyDevice,
    Device,
    DeviceKeys,
    DeviceState,
    history_of,
    lock_states,
    note_failure,
    note_platform,
    note_verdict,
    platform_of,
    require_kind,
    retired,
    rules_of,
    settle,
    write_states,
)
from hwtrust_backend.keys import DeviceIdentity, KeyRole, KeyVault, issue_device_certificate
from hwtrust_backend.policies import Policy
from hwtrust_backend.webhooks import Topic, announce


class Rotation(Protocol):
    """What follows for a device's roots; `publishing.Publisher` is one."""

    def prepare(self, session: Session, devices: Collection[str]) -> None:
        """Read at once what the other methods look up for these devices."""
        ...

    def epochs(self, session: Session, device: DeviceState, *, counter: int) -> frozenset[int]:
        """The values that are accepted of the counter, which shows `counter`."""
        ...

    def confirm(self, session: Session, device: DeviceState, *, counter: int, now: int) -> None:
        """Note what the certified counter shows."""
        ...

    def forgets_before(self, session: Session) -> int:
        """Until when challenges may have been answered and forgotten, UTC milliseconds."""
        ...

    def attested(
        self, session: Session, device: DeviceState, *, before: Standing, policy: Policy, now: int
    ) -> None:
        """Note that a device was heard of, `before` being its standing until now."""
        ...

    def follow(
        self,
        session: Session,
        device: DeviceState,
        *,
        claims: Claims,
        release: Release,
        other: Release | None,
        policy: Policy,
        now: int,
    ) -> tuple[Approval | None, RootDelivery | None]:
        """Leave for the current root, and the next root if it is due.

        For `release`, which the device runs, and for `other`, to which it may switch.
        """
        ...


@dataclass(frozen=True, slots=True)
class Opened:
    """An attestation whose challenge is good; nothing of its evidence is believed yet."""

    request: AttestRequest
    keys: DeviceKeys
    purpose: Purpose
    nonce: Challenge
    offered: Offered


@dataclass(frozen=True, slots=True)
class Verified:
    """An attestation that is authentic: what `keys` say of it. Only `verify` makes it."""

    request: AttestRequest
    keys: DeviceKeys
    purpose: Purpose
    nonce: Challenge
    claims: Claims
    digest: bytes
    """Of the evidence, as the audit trail names it."""
    statement: Statement
    """What the device says of itself; its TPM vouches only that it is unchanged."""
    platform: PlatformClaims | None = None
    """What its logs of firmware and kernel come to, once it is admitted."""


@dataclass(frozen=True, slots=True)
class Attestations:
    """Takes evidence. `attest` works in its caller's transaction; its parts serve `groups`."""

    settings: Settings
    vault: KeyVault
    rotation: Rotation

    def challenge(self, session: Session, request: ChallengeRequest, *, now: int) -> ChallengeReply:
        """A nonce for an enrolled device. Nothing is written.

        Raises:
            DeviceUnknownError: it is not enrolled.
            DeviceKindError: it is an enclave.
        """
        device = session.get(Device, request.device.hex())
        if device is None:
            raise DeviceUnknownError("this device is not enrolled here")
        require_kind(device, tpm=True)
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
            DeviceKindError: it is an enclave.
            IdentityError: no certificate where one is needed, or another device's.
            ChallengeError: the nonce is not ours, not for this, too old, or used.
            EvidenceError, WireError: the evidence is not authentic.
            TlsKeyRefusedError: the kind of the TLS key is not accepted here.
        """
        purpose_of(request, identity)
        name = request.device.hex()
        device = held(lock_states(session, [name]), name)
        self.rotation.prepare(session, [name])
        verified = self.verify(request, keys=DeviceKeys.of(device), identity=identity, now=now)
        verified = self.admit(session, device, verified, now=now)
        reply = self.decide(session, device, verified, now=now)
        write_states(session, [device])
        return reply

    def verify(
        self, request: AttestRequest, *, keys: DeviceKeys, identity: DeviceIdentity | None, now: int
    ) -> Verified:
        """Is it this device's own evidence, for a challenge of ours? No database is asked.

        Raises:
            IdentityError, ChallengeError, EvidenceError, WireError: as `attest`.
        """
        opened = self.open(request, keys=keys, identity=identity, now=now)
        (result,) = self.verify_all((opened,))
        if isinstance(result, HwTrustError):
            raise result
        return result

    def verify_all(self, group: Sequence[Opened]) -> list[Verified | HwTrustError]:
        """The same for a group, which costs less than one at a time; in the same order."""
        results = verify_group([opened.offered for opened in group])
        return [
            result if isinstance(result, HwTrustError) else _stated(opened, result)
            for opened, result in zip(group, results, strict=True)
        ]

    def open(
        self, request: AttestRequest, *, keys: DeviceKeys, identity: DeviceIdentity | None, now: int
    ) -> Opened:
        """Is it for a challenge of ours?

        Raises:
            IdentityError, ChallengeError: as `attest`.
        """
        purpose = purpose_of(request, identity)
        binding = request.evidence.binding
        nonce = challenge.check(
            binding.nonce,
            key=self.vault.challenge_key.reveal(),
            device=request.device,
            purpose=purpose,
            now_ms=now,
        )
        offered = Offered(
            evidence=request.evidence,
            device=keys.known,
            nonce=nonce.nonce,
            purpose=purpose,
            tls_key=None if identity is None else identity.tls_key,
        )
        return Opened(request, keys, purpose, nonce, offered)

    def admit(
        self, session: Session, device: DeviceState, verified: Verified, *, now: int
    ) -> Verified:
        """Refuse what may not be decided on; nothing is changed. The caller holds the row.

        Gives the attestation with what its logs of firmware and kernel come to.

        Raises:
            ChallengeUsedError: this challenge, or a newer one, has been answered.
            TlsKeyRefusedError: the kind of the TLS key is not accepted.
            EvidenceError, WireError: a log of firmware or kernel is not authentic.
        """
        policy = rules_of(session, device.group).policy
        accepted_kind(policy, device, verified.claims.binding.tls_key)
        if device.nonce_issued >= verified.nonce.issued:
            raise ChallengeUsedError("this challenge, or a newer one, has been answered before")
        if self.rotation.forgets_before(session) >= verified.nonce.issued:
            message = "the challenge is from before the backend was restored"
            raise ChallengeExpiredError(message, issued=verified.nonce.issued)
        require_answers(device, verified.nonce, now=now)
        if policy.platform is None:
            return verified
        evidence = verified.request.evidence
        platform = appraise_platform(
            verified.claims,
            firmware_log=evidence.firmware_log,
            ima=evidence.ima,
            rules=policy.platform,
            known=platform_of(device),
        )
        return replace(verified, platform=platform)

    def decide(
        self, session: Session, device: DeviceState, verified: Verified, *, now: int
    ) -> AttestReply:
        """Appraise what was admitted, store the verdict, and say what follows.

        Raises:
            CsrError, IdentityKeyError, WeakKeyError: the certificate request is refused;
                what was changed until then has to be rolled back.
        """
        request, nonce, claims = verified.request, verified.nonce, verified.claims
        binding, purpose = claims.binding, verified.purpose
        held_to = rules_of(session, device.group)
        device.nonce_issued = nonce.issued
        before = device.standing
        judgement = self._appraised(session, device, verified, held_to.rules, now)
        platform = verified.platform
        # (7): nothing for a device that has not shown what it is.
        wants = () if platform is None else platform.wants
        verdict = judgement.verdict
        self.rotation.confirm(session, device, counter=claims.counter, now=now)
        self.rotation.attested(session, device, before=before, policy=held_to.policy, now=now)
        approval, root, certificate = None, None, ""
        if verdict.standing is not Standing.FAILED and not wants:
            release = held_to.rules.references.releases.get(binding.release)
            # Where a policy only alerts of it, a device may run one that nobody knows.
            if purpose is Purpose.ATTEST and release is not None:
                approval, root = self.rotation.follow(
                    session,
                    device,
                    claims=claims,
                    release=release,
                    other=second_release(
                        verified.statement.other,
                        running=binding.release,
                        rules=held_to.rules,
                        now_ms=now,
                    ),
                    policy=held_to.policy,
                    now=now,
                )
        if verdict.standing is not Standing.FAILED and request.csr:
            kind = accepted_kind(held_to.policy, device, binding.tls_key)
            certificate = self._certificate(session, device, request.csr, claims, kind, now=now)
        keep_evidence(session, device, request.evidence, claims, now=now)
        self._audit(session, device, verified.digest, verdict, now)
        reply = AttestReply(
            standing=verdict.standing,
            mode=device.mode,
            heartbeat_ms=held_to.policy.heartbeat_ms,
            offline_grace_ms=held_to.policy.offline_grace_ms,
            findings=verdict.findings,
            time=self._time(device.name, nonce.nonce, now),
            challenge=self._issue(device.name, Purpose.ATTEST, now),
            approval=approval,
            root=root,
            certificate=certificate,
            update=_order(claims, judgement, held_to.rules, now),
            wants=wants,
            ima_start=0 if platform is None else platform.ima_start,
            ima_pcr=_ima_pcr(held_to.policy),
        )
        note_words(session, device, verified.statement, reply.update, now)
        keep_answer(session, device, verified, reply, now=now)
        return reply

    def _appraised(
        self, session: Session, device: DeviceState, verified: Verified, rules: Rules, now: int
    ) -> Judgement:
        claims = verified.claims
        epochs = self.rotation.epochs(session, device, counter=claims.counter)
        judgement = judge(
            claims,
            rules=rules,
            history=history_of(device),
            epochs=epochs,
            locked=None if device.locked_at is None else device.lock_reason,
            now_ms=now,
            platform=verified.platform,
        )
        if verified.platform is not None:
            note_platform(device, verified.platform)
        verdict = judgement.verdict
        before = (device.standing, device.mode)
        note_verdict(device, verdict, judgement.mode, now=now)
        announce_change(session, device, before, verdict.findings, now)
        if epochs and claims.counter > max(epochs):
            reason = (
                f"the counter stands at {claims.counter}; the newest known epoch is {max(epochs)}"
            )
            record(session, Event.EPOCH_UNKNOWN, now=now, device=device.id, reason=reason)
        return judgement

    def _certificate(
        self,
        session: Session,
        device: DeviceState,
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
        device: DeviceState,
        digest: bytes,
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
            evidence=digest,
        )

    def _issue(self, device: bytes, purpose: Purpose, now: int) -> bytes:
        key = self.vault.challenge_key.reveal()
        return challenge.issue(key=key, device=device, purpose=purpose, now_ms=now)

    def _time(self, device: bytes, nonce: bytes, now: int) -> Envelope:
        time = SignedTime(device=device, nonce=nonce, utc_ms=now)
        return seal(time, sign=self.vault.signer(KeyRole.METADATA).sign)


def held(devices: Mapping[str, DeviceState], name: str) -> DeviceState:
    """The device of that name among those that are locked.

    Raises:
        DeviceUnknownError: it is not enrolled.
        DeviceRetiredError: it is out of service; its certificate counts no more.
    """
    device = devices.get(name)
    if device is None:
        raise DeviceUnknownError("this device is not enrolled here")
    if device.retired_at is not None:
        raise retired()
    return device


def _stated(opened: Opened, claims: Claims) -> Verified | HwTrustError:
    try:
        statement = decode_statement(claims.binding.statement)
    except MalformedError as error:
        return error
    request = opened.request
    digest = evidence_digest(request.evidence)
    return Verified(request, opened.keys, opened.purpose, opened.nonce, claims, digest, statement)


def _ima_pcr(policy: Policy) -> int:
    platform = policy.platform
    return PCR if platform is None or platform.ima is None else platform.ima.pcr


def _order(claims: Claims, judgement: Judgement, rules: Rules, now: int) -> UpdateOrder | None:
    found = order(claims, judgement, rules=rules, now_ms=now)
    return None if found is None else UpdateOrder(release=found.release, forced=found.forced)


def purpose_of(request: AttestRequest | EnclaveAttest, identity: DeviceIdentity | None) -> Purpose:
    """What evidence is for, by who brings it.

    Raises:
        IdentityError: no certificate where one is needed, or another device's.
    """
    if identity is None:
        if request.evidence.binding.purpose is Purpose.ATTEST:
            raise IdentityError("an attestation comes over a connection with a client certificate")
        return Purpose.SESSION
    if identity.device != request.device.hex():
        raise IdentityKeyError("the client certificate is that of another device")
    return Purpose.ATTEST


def note_words(
    session: Session,
    device: DeviceState,
    statement: Statement,
    ordered: UpdateOrder | None,
    now: int,
) -> None:
    """Keep the failure that a device reports, or note that it has got over the last one."""
    if statement.failure is not None:
        note_failure(session, device, statement.failure, now=now)
    else:
        settle(device, ordered=ordered, now=now)


def announce_change(
    session: Session,
    device: DeviceState,
    before: tuple[Standing, Mode],
    findings: tuple[Finding, ...],
    now: int,
) -> None:
    """Tell of a change, and of nothing else: most attestations change nothing."""
    standing, mode = before
    if (standing, mode) == (device.standing, device.mode):
        return
    change = {
        "kind": device.kind,
        "group": device.group,
        "from": standing.value,
        "to": device.standing.value,
        "mode": device.mode.value,
        "release": device.release,
        "findings": [
            {"code": finding.code, "severity": finding.severity.value} for finding in findings
        ],
    }
    announce(session, Topic.STANDING_CHANGED, device=device.id, data=change, now=now)


def accepted_kind(policy: Policy, device: AnyDevice, tls_key: bytes) -> TlsKeyKind:
    """The kind of the TLS key that evidence is bound to.

    Raises:
        TlsKeyRefusedError: the policy does not accept it.
    """
    in_tpm = device.tls_kind is TlsKeyKind.TPM and compare_digest(tls_key, device.tls_key)
    kind = TlsKeyKind.TPM if in_tpm else TlsKeyKind.ATTESTED
    if kind not in policy.tls_keys:
        raise TlsKeyRefusedError(f"TLS keys of kind {kind} are not accepted here")
    return kind
