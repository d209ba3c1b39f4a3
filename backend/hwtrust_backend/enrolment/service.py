"""Enrolling a device in three steps, each of which proves something.

    begin    the EK is believed (a vendor's certificate, or by name)    → nonce
    add_key  the AK could be an attestation key                         → credential
    finish   the AK is in the EK's TPM, and certifies all the rest      → certificate, root

Rules:
1. An EK's Name is the device's identity; nothing that is merely claimed is.
2. A token is used up in the transaction that stores the device: of two
   enrolments with one token, one wins and the other leaves nothing behind.
3. The secret of a credential is kept as its digest.
4. A known device may enrol again (its TPM was cleared). Its counter must start
   above every epoch that it has had, so that no old root opens again.
5. A device that has failed its first appraisal is not enrolled.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from dataclasses import dataclass
from hmac import compare_digest
from typing import Protocol

import msgspec
from sqlalchemy import delete
from sqlalchemy.orm import Session

from hwtrust.errors import (
    CredentialError,
    EnrolmentEpochError,
    EnrolmentOrderError,
    EnrolmentUnknownError,
    RootEpochError,
    TlsKeyRefusedError,
    UntrustedError,
)
from hwtrust.verify.appraise import FIRST_SIGHT, History, Verdict
from hwtrust.verify.enrolment import EnrolledDevice, verify_enrolment
from hwtrust.verify.evidence import Claims
from hwtrust.verify.policy import Rules, judge
from hwtrust.verify.roles import require_attestation_key, require_endorsement_key
from hwtrust.wire import challenge
from hwtrust.wire.challenge import Purpose
from hwtrust.wire.envelope import Envelope, seal
from hwtrust.wire.messages import (
    EnrolBegin,
    EnrolChallenge,
    EnrolCredential,
    EnrolFinish,
    EnrolKey,
    Enrolled,
    Mode,
    Release,
    SignedTime,
    Standing,
)
from hwtrust.wire.protect import make_credential
from hwtrust.wire.root import (
    Increment,
    RootDelivery,
    increment_ref,
    policy_key_public,
    sign_approval,
)
from hwtrust.wire.structures import Public
from hwtrust_backend.audit import Event, evidence_digest, record
from hwtrust_backend.config import Settings
from hwtrust_backend.enrolment.authorities import EkAuthorities
from hwtrust_backend.enrolment.devices import LAST_EPOCH, check_may_enrol
from hwtrust_backend.enrolment.models import Device, Enrolment
from hwtrust_backend.enrolment.rules import GroupRules, rules_of
from hwtrust_backend.enrolment.tokens import find_token, token_group, use_token
from hwtrust_backend.enrolment.trust import trust_ek
from hwtrust_backend.keys import Issued, KeyRole, KeyVault, issue_device_certificate
from hwtrust_backend.policies import Policy
from hwtrust_backend.webhooks import Topic, announce

SECRET_SIZE = 32


class FirstRoot(Protocol):
    """Makes root number one of a device; `publishing` does."""

    def __call__(
        self,
        session: Session,
        device: Device,
        *,
        claims: Claims,
        release: Release,
        policy: Policy,
        now: int,
    ) -> RootDelivery:
        """The root's delivery, stored in the caller's transaction."""
        ...


@dataclass(frozen=True, slots=True)
class Enrolments:
    """Enrols devices; every method works in its caller's transaction."""

    settings: Settings
    vault: KeyVault
    authorities: EkAuthorities
    first_root: FirstRoot

    def begin(self, session: Session, request: EnrolBegin, *, now: int) -> EnrolChallenge:
        """Step one: is this EK believed?

        Raises:
            KeyAttributesError, WeakKeyError: it is no endorsement key.
            EkUnknownError, EkCertificateError: it is not believed.
            TokenError: it needs a token, and this is none.
            DeviceRetiredError: it is out of service for good.
        """
        ek = Public.decode_sized(request.ek_public)
        require_endorsement_key(ek)
        trusted = trust_ek(session, request, ek, authorities=self.authorities, now=now)
        check_may_enrol(session.get(Device, ek.name.hex()))
        token, group = None, trusted.group
        if not trusted.allow_listed:
            token = find_token(session, request.token, now=now)
            group = token_group(session, token)
        nonce = challenge.issue(
            key=self.vault.challenge_key.reveal(),
            device=ek.name,
            purpose=Purpose.ENROL,
            now_ms=now,
        )
        row = Enrolment(
            id=secrets.token_urlsafe(24),
            device=ek.name.hex(),
            ek_public=request.ek_public,
            ek_source=trusted.source,
            nonce=nonce,
            token=token,
            expires_at=now + self.settings.enrolment_lifetime_ms,
            ak_public=None,
            secret_digest=None,
            finish_digest=None,
            reply=None,
            group=group,
        )
        session.add(row)
        reason = trusted.source
        record(session, Event.ENROLMENT_BEGUN, now=now, device=row.device, reason=reason)
        return EnrolChallenge(
            enrolment=row.id,
            nonce=nonce,
            time=self._time(ek.name, nonce, now),
            increment=self._first_increment(ek.name),
        )

    def add_key(
        self, session: Session, enrolment: str, request: EnrolKey, *, now: int
    ) -> EnrolCredential:
        """Step two: a credential that only the TPM with this EK and this AK can open.

        It may be taken again until the enrolment is finished; the last AK counts.

        Raises:
            EnrolmentUnknownError: no such enrolment is under way.
            EnrolmentOrderError: it is finished.
            KeyAttributesError, WeakKeyError: the AK is no attestation key.
        """
        row = _locked(session, enrolment, now)
        if row.finish_digest is not None:
            raise EnrolmentOrderError("this enrolment is finished")
        ak = Public.decode_sized(request.ak_public)
        require_attestation_key(ak)
        secret = os.urandom(SECRET_SIZE)
        made = make_credential(Public.decode_sized(row.ek_public), ak.name, secret)
        row.ak_public = request.ak_public
        row.secret_digest = hashlib.sha256(secret).digest()
        return EnrolCredential(id_object=made.id_object, encrypted_secret=made.encrypted_secret)

    def finish(
        self, session: Session, enrolment: str, request: EnrolFinish, *, now: int
    ) -> Enrolled:
        """Step three: the secret, and everything that the AK certifies.

        The same request again, in time, gets the same answer again.

        Raises:
            EnrolmentUnknownError, EnrolmentOrderError: not under way, or out of order.
            CredentialError: the secret is not the one in the credential.
            EvidenceError, WireError: what is certified does not hold.
            TlsKeyRefusedError: this kind of TLS key is not accepted here.
            UntrustedError: the device is not in an accepted state.
            EnrolmentEpochError: its counter repeats an epoch.
            TokenError: somebody else has used the token meanwhile.
        """
        row = _locked(session, enrolment, now)
        asked = hashlib.sha256(msgspec.json.encode(request)).digest()
        if row.finish_digest is not None and row.reply is not None:
            if not compare_digest(row.finish_digest, asked):
                raise EnrolmentOrderError("this enrolment is finished")
            return msgspec.json.decode(row.reply, type=Enrolled)
        if row.ak_public is None or row.secret_digest is None:
            raise EnrolmentOrderError("the attestation key comes first")
        if not compare_digest(hashlib.sha256(request.secret).digest(), row.secret_digest):
            raise CredentialError("the secret is not the one that was made for this TPM")
        challenge.check(
            row.nonce,
            key=self.vault.challenge_key.reveal(),
            device=bytes.fromhex(row.device),
            purpose=Purpose.ENROL,
            now_ms=now,
            lifetime_ms=self.settings.enrolment_lifetime_ms,
        )
        found = verify_enrolment(
            request,
            ek=Public.decode_sized(row.ek_public),
            ak=Public.decode_sized(row.ak_public),
            nonce=row.nonce,
            policy_key=policy_key_public(self.vault.signer(KeyRole.POLICY).public_key),
        )
        held_to = rules_of(session, row.group)
        if found.tls_kind not in held_to.policy.tls_keys:
            raise TlsKeyRefusedError(f"TLS keys of kind {found.tls_kind} are not accepted here")
        if found.base_epoch >= LAST_EPOCH:
            raise EnrolmentEpochError("the epoch counter is at its end")
        verdict = self._appraised(held_to.rules, found, now)
        if row.token is not None:
            use_token(session, row.token, device=row.device, now=now)
        reply = self._enrolled(
            session, row, request, found, held_to=held_to, verdict=verdict, now=now
        )
        row.finish_digest, row.reply = asked, msgspec.json.encode(reply)
        return reply

    def _appraised(self, rules: Rules, found: EnrolledDevice, now: int) -> Verdict:
        verdict = judge(
            found.claims,
            rules=rules,
            history=FIRST_SIGHT,
            epochs=frozenset({found.base_epoch}),
            locked=None,
            now_ms=now,
        ).verdict
        if verdict.standing is Standing.FAILED:
            codes = ", ".join(finding.code for finding in verdict.findings)
            raise UntrustedError(f"the device is not in an accepted state: {codes}")
        release = found.claims.binding.release
        if release not in rules.references.releases:
            # Where a policy only alerts of it. A root is made for the states of a release.
            raise UntrustedError(f"there is no release {release!r} to make a root for")
        return verdict

    def _enrolled(
        self,
        session: Session,
        row: Enrolment,
        request: EnrolFinish,
        found: EnrolledDevice,
        *,
        held_to: GroupRules,
        verdict: Verdict,
        now: int,
    ) -> Enrolled:
        device = self._stored(session, row, found, verdict, now=now)
        issued = self._certificate(session, device, request.csr, found, now=now)
        release = held_to.rules.references.releases[found.claims.binding.release]
        try:
            root = self.first_root(
                session,
                device,
                claims=found.claims,
                release=release,
                policy=held_to.policy,
                now=now,
            )
        except RootEpochError as error:
            raise EnrolmentEpochError(error.message, **error.data) from error
        reason = f"{row.ek_source}; TLS key {found.tls_kind}; epoch {found.base_epoch}"
        record(
            session,
            Event.ENROLMENT_ACCEPTED,
            now=now,
            device=device.id,
            reason=reason,
            evidence=evidence_digest(request.evidence),
        )
        data = {
            "kind": device.kind,
            "group": device.group,
            "standing": verdict.standing.value,
            "release": device.release,
            "epoch": found.base_epoch,
        }
        announce(session, Topic.ENROLLED, device=device.id, data=data, now=now)
        return Enrolled(
            device=device.name,
            certificate=issued.pem,
            root=root,
            challenge=challenge.issue(
                key=self.vault.challenge_key.reveal(),
                device=device.name,
                purpose=Purpose.ATTEST,
                now_ms=now,
            ),
            time=self._time(device.name, row.nonce, now),
        )

    def _stored(
        self,
        session: Session,
        row: Enrolment,
        found: EnrolledDevice,
        verdict: Verdict,
        *,
        now: int,
    ) -> Device:
        device = session.get(Device, row.device, with_for_update=True)
        check_may_enrol(device)
        if device is None:
            device = Device(id=row.device, nonce_issued=0)
            session.add(device)
        device.ek_source = row.ek_source
        device.ak_public = found.known.ak.encode_sized()
        device.storage_public = found.storage_key.encode_sized()
        device.counter_name = found.known.counter_name
        device.selection = str(found.known.selection)
        device.pcr = found.known.pcr
        device.base_epoch = device.counter = found.base_epoch
        device.tls_kind, device.tls_key = found.tls_kind, found.tls_key
        device.enrolled_at = device.attested_at = device.standing_since = now
        device.standing = verdict.standing
        device.findings = msgspec.json.encode(verdict.findings)
        device.history = msgspec.json.encode(History.of(found.claims, observed_ms=now))
        # A TPM that was cleared counts its resets anew.
        device.platform = None
        if device.release != found.claims.binding.release:
            device.release, device.release_since = found.claims.binding.release, now
        device.group = row.group
        device.retired_at = device.readmitted_at = None
        device.mode = Mode.NORMAL if device.locked_at is None else Mode.LOCKED
        session.flush()
        return device

    def _certificate(
        self, session: Session, device: Device, csr: bytes, found: EnrolledDevice, *, now: int
    ) -> Issued:
        issued = issue_device_certificate(
            csr,
            tls_key=found.tls_key,
            device=device.name,
            signer=self.vault.signer(KeyRole.DEVICE_CA),
            authority=self.vault.authority(KeyRole.DEVICE_CA),
            now=now,
            lifetime_ms=self.settings.certificate_lifetime(found.tls_kind),
        )
        reason = f"serial {issued.serial:x}, key {found.tls_kind}"
        record(session, Event.CERTIFICATE_ISSUED, now=now, device=device.id, reason=reason)
        return issued

    def _time(self, device: bytes, nonce: bytes, now: int) -> Envelope:
        time = SignedTime(device=device, nonce=nonce, utc_ms=now)
        return seal(time, sign=self.vault.signer(KeyRole.METADATA).sign)

    def _first_increment(self, device: bytes) -> Increment:
        recipe = Increment(epoch=None, counter_name=b"")
        signer = self.vault.signer(KeyRole.POLICY)
        return sign_approval(recipe, increment_ref(device), sign_digest=signer.sign_digest)


def forget_expired(session: Session, *, now: int) -> None:
    """Remove the enrolments that have taken too long."""
    session.execute(delete(Enrolment).where(Enrolment.expires_at <= now))


def _locked(session: Session, enrolment: str, now: int) -> Enrolment:
    row = session.get(Enrolment, enrolment, with_for_update=True)
    if row is None or row.expires_at <= now:
        raise EnrolmentUnknownError("no such enrolment is under way")
    return row
