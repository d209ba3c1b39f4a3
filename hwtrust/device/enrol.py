"""Enrol: prove which TPM this is, have its keys certified, receive the first root.

    EK ─▶ begin ─▶ storage key · AK · counter ─▶ credential ─▶ finish ─▶ root 1

Rules:
1. Nothing is given up before the backend believes the EK and the token: an
   enrolled device that is refused there stays what it is.
2. Handles are claimed on disk before anything is put there, and only claimed or
   free handles are touched: a second try cleans up after a failed first.
3. The clock is set, from signed time, before the quote: approvals are reckoned
   in the clock that the quote shows.
4. The counter's first increment needs the backend's leave, as every other.
5. A key store of an earlier enrolment is set aside, never overwritten: its root
   died with its storage key, but that is not for this function to judge.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec

from hwtrust.attest.tpm import gather, signed
from hwtrust.channel import AttestedKey
from hwtrust.device.config import TlsKeyChoice
from hwtrust.device.rotate import store_root
from hwtrust.device.state import Identity
from hwtrust.errors import (
    TlsKeyError,
    TpmCurveError,
    TpmObjectConflictError,
    TpmOwnerAuthError,
)
from hwtrust.roots import FIRST, accept_root, accept_time
from hwtrust.tpm import commands, provision
from hwtrust.tpm.discover import identify, require_no_lockout
from hwtrust.tpm.handles import Handles
from hwtrust.tpm.leftovers import is_bare
from hwtrust.tpm.tls_key import TpmTlsKey
from hwtrust.wire.challenge import Purpose
from hwtrust.wire.messages import (
    Binding,
    EnrolBegin,
    EnrolChallenge,
    EnrolCredential,
    EnrolFinish,
    EnrolKey,
    Enrolled,
    TlsKeyKind,
)
from hwtrust.wire.root import authorization, counter_policy, increment_ref
from hwtrust.wire.structures import Public

if TYPE_CHECKING:
    from hwtrust.device.context import DeviceContext
    from hwtrust.tls import ClientKey
    from hwtrust.tpm.connection import Pinned
    from hwtrust.tpm.provision import EndorsementKey


def enrol(device: DeviceContext, *, token: str) -> Identity:
    """Make this machine a device of its backend; gives who it is.

    Raises:
        TpmLockoutError: the TPM is locked out.
        TpmCurveError: the TPM has no P-256.
        TpmObjectConflictError: a handle holds something that is not ours.
        TpmOwnerAuthError: the owner password is missing or wrong.
        RefusedError: the backend refuses; `data["problem"]` says why.
        RootError: what it sends is not for this device.
    """
    tpm = device.tpm
    require_no_lockout(identify(tpm))
    if not provision.has_p256(tpm):
        raise TpmCurveError("the TPM has no P-256, and could not check the backend's approvals")
    device.lock()
    _require_usable(device)
    endorsement = provision.find_endorsement_key(tpm)
    with provision.endorsement_key(tpm, endorsement.template) as (_, ek):
        pass
    device.channel.anonymous()
    with device.step("ask to enrol", f"EK {ek.name.hex()[:20]}…"):
        begun = _begin(device, endorsement, ek, token)
    utc_ms = accept_time(
        begun.time, metadata_key=device.metadata_key, device=ek.name, nonce=begun.nonce
    )
    handles = _claim_handles(device)
    _set_clock(device, utc_ms)
    with device.step("make storage key, AK and epoch counter"):
        storage_key, storage = provision.make_storage_key(tpm, handles.storage_key)
        unique = hashlib.sha256(begun.nonce).digest()
        ak, ak_public = provision.make_attestation_key(tpm, handles.ak, unique=unique)
        counter = _counter(device, handles.counter, ek, storage_key, begun)
    with device.step("prove the AK", "TPM2_ActivateCredential"):
        path = f"/v1/enrolments/{begun.enrolment}"
        asked = EnrolKey(ak_public=ak_public.encode_sized())
        credential = device.channel.post(f"{path}/key", asked, EnrolCredential)
        secret = provision.activate(
            tpm,
            endorsement.template,
            ak,
            storage_key,
            id_object=credential.id_object,
            encrypted_secret=credential.encrypted_secret,
        )
    key = choose_tls_key(device, storage_key)
    device.client_key = key
    identity = Identity(
        device=ek.name,
        ek_profile=endorsement.template.profile,
        ak=ak,
        storage_key=storage_key,
        counter=counter,
        tls_kind=TlsKeyKind.TPM if isinstance(key, TpmTlsKey) else TlsKeyKind.ATTESTED,
    )
    with device.step("send evidence"):
        finish = _finish(
            device, identity, storage=storage, key=key, nonce=begun.nonce, secret=secret
        )
        enrolled = device.channel.post(f"{path}/finish", finish, Enrolled)
    _take(device, identity, enrolled, key, finish)
    return identity


def choose_tls_key(device: DeviceContext, storage_key: Pinned) -> ClientKey:
    """The TLS key that the configuration asks for, or the best that works here.

    Raises:
        TlsKeyError: `tpm` is asked for, and OpenSSL cannot use such a key here.
    """
    choice = device.config.tls_key
    if choice is TlsKeyChoice.ATTESTED:
        return AttestedKey()
    try:
        _require_shared(device.tpm.name)
        key = TpmTlsKey.create(device.tpm, storage_key)
        usable_in_tls(key)
    except TlsKeyError:
        if choice is TlsKeyChoice.TPM:
            raise
        return AttestedKey()
    return key


def usable_in_tls(key: TpmTlsKey) -> None:
    """See whether this process's OpenSSL can load a key of the TPM.

    Raises:
        TlsKeyError: it cannot: no tpm2-openssl provider >= 1.2 is configured.
    """
    import ssl  # noqa: PLC0415 - enrolment only

    from hwtrust.tls import load_client_key  # noqa: PLC0415 - as ssl

    load_client_key(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), key, key.self_signed())


def _require_shared(tcti: str) -> None:
    # OpenSSL talks to the TPM over a connection of its own; without a resource
    # manager the TPM would keep it waiting for as long as ours is open.
    if is_bare(tcti):
        raise TlsKeyError("a TLS key in the TPM needs a resource manager: use /dev/tpmrm0")


def _require_usable(device: DeviceContext) -> None:
    """Refuse handles that hold what is not ours; nothing is changed yet."""
    claimed = device.state.claimed_handles()
    ours = {claimed.ak, claimed.storage_key, claimed.counter} if claimed else set()
    for handle in provision.occupied(device.tpm, device.config.handles()):
        if handle not in ours:
            message = f"handle {handle:#010x} holds something that this device did not put there"
            hint = (
                "an earlier enrolment whose state was deleted? then remove it with tpm2-tools; "
                "else choose other handles in the configuration"
            )
            raise TpmObjectConflictError(message, handle=handle, hint=hint)


def _claim_handles(device: DeviceContext) -> Handles:
    handles = device.config.handles()
    claimed = device.state.claimed_handles()
    if claimed is not None:
        provision.remove(device.tpm, claimed)
    provision.require_free(device.tpm, handles)
    device.state.claim_handles(handles)
    device.state.forget()
    device.identity = device.client_key = device.heard = None
    device.challenge = b""
    return handles


def _begin(
    device: DeviceContext, endorsement: EndorsementKey, ek: Public, token: str
) -> EnrolChallenge:
    request = EnrolBegin(
        ek_public=ek.encode_sized(),
        ek_certificate=endorsement.certificate,
        ek_intermediates=endorsement.intermediates,
        token=token,
    )
    return device.channel.post("/v1/enrolments", request, EnrolChallenge)


def _set_clock(device: DeviceContext, utc_ms: int) -> None:
    clock = commands.read_clock(device.tpm).clock
    if utc_ms - clock <= device.config.tpm.clock_threshold_s * 1000:
        return
    try:
        with device.step("set clock", "to the backend's signed time"):
            commands.clock_set(device.tpm, utc_ms)
    except TpmOwnerAuthError:
        # Defining the counter will say the same with more reason.
        return


def _counter(
    device: DeviceContext, handle: int, ek: Public, salt: Pinned, begun: EnrolChallenge
) -> Pinned:
    ref = increment_ref(ek.name)
    leave = authorization(begun.increment, ref, policy_key=device.policy_key)
    policy = counter_policy(device.policy_key, ek.name)
    counter = provision.define_counter(device.tpm, handle, policy=policy)
    return provision.increment_counter(
        device.tpm,
        counter,
        salt,
        recipe=begun.increment.policy(),
        authorization=leave,
        policy_key=device.policy_key,
    )


def _finish(
    device: DeviceContext,
    identity: Identity,
    *,
    storage: Public,
    key: ClientKey,
    nonce: bytes,
    secret: bytes,
) -> EnrolFinish:
    tpm, ak = device.tpm, identity.ak
    device.measured.settle(tpm)
    csr = key.csr()
    tls_certify = None
    if isinstance(key, TpmTlsKey):
        tls_certify = signed(key.certify(ak, qualifying=hashlib.sha256(nonce + csr).digest()))
    storage_certify = commands.certify(tpm, tpm.at(identity.storage_key), ak, qualifying=nonce)
    binding = Binding(
        purpose=Purpose.ENROL,
        nonce=nonce,
        tls_key=key.spki,
        epoch=provision.read_counter(tpm, identity.counter),
        release=device.release.name,
        log_digest=device.measured.log.digest(),
    )
    evidence = gather(
        tpm,
        ak=ak,
        counter=identity.counter,
        selection=device.quoted,
        pcr=device.measured.pcr,
        log=device.measured.log,
        binding=binding,
    )
    return EnrolFinish(
        secret=secret,
        storage_public=storage.encode_sized(),
        storage_certify=signed(storage_certify),
        counter_public=commands.nv_read_public(tpm, tpm.at(identity.counter)).encode(),
        selection=str(device.quoted),
        pcr=device.measured.pcr if device.config.tpm.quoted_pcrs else None,
        tls_kind=identity.tls_kind,
        csr=csr,
        tls_public=key.public.encode_sized() if isinstance(key, TpmTlsKey) else b"",
        tls_certify=tls_certify,
        evidence=evidence,
    )


def _take(
    device: DeviceContext,
    identity: Identity,
    enrolled: Enrolled,
    key: ClientKey,
    finish: EnrolFinish,
) -> None:
    binding = finish.evidence.binding
    now_ms = accept_time(
        enrolled.time,
        metadata_key=device.metadata_key,
        device=identity.device,
        nonce=binding.nonce,
    )
    accepted = accept_root(
        enrolled.root,
        metadata_key=device.metadata_key,
        policy_key=device.policy_key,
        device=identity.device,
        storage_key=identity.storage_key.name,
        held=FIRST,
        counter=binding.epoch,
        release=device.release.name,
        now_ms=now_ms,
        clock_ms=commands.read_clock(device.tpm).clock,
    )
    device.identity = identity
    store_root(device, accepted)
    if isinstance(key, TpmTlsKey):
        device.state.save_tls_key(key.key_pem())
        device.state.save_certificate(enrolled.certificate)
    if device.state.keystore.exists():
        aside = device.state.keystore.with_suffix(f".before-{accepted.metadata.epoch}")
        device.state.keystore.replace(aside)
    device.state.save_identity(msgspec.structs.replace(identity, keystore_made=False))
    device.channel.authenticate(key, enrolled.certificate)
    device.challenge = enrolled.challenge
