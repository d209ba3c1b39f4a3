"""Is all that a device offers at its enrolment in the one TPM of its EK?

    EK ── TPM2_ActivateCredential ──▶ AK ──┬─ TPM2_Certify ──────▶ storage key, TLS key
       (the secret; the backend's part)    ├─ TPM2_NV_Certify ───▶ epoch counter
                                           └─ TPM2_Quote ────────▶ PCRs, event log

What the secret proves is that the AK's public area, as offered, is in the EK's
TPM: it says nothing of what that key is good for. Rules, in the order in which
they are checked (the code carries their numbers):

1.  AK         it was made inside, never leaves, and signs only what its TPM made.
2.  storage    so was the storage key, which is a parent; the AK certifies it by
               its Name over the nonce.
3.  counter    the index is an epoch counter that the policy key alone counts up,
               for this device.
4.  selection  the PCRs are of the SHA-256 bank alone, none can be reset by a
               program, and exactly one lies in 8 to 15: the application PCR. Where
               others are quoted for their logs, the device says which it is; rule 6
               shows that nobody else extends it.
5.  CSR        the certificate request is signed by its own key, a strong one.
6.  evidence   it is authentic, for enrolment, over the nonce, of the AK, these
               PCRs and this counter; and it binds the request's key. The
               application PCR holds what the log explains, be it nothing.
7.  TLS key    of kind `tpm`: the AK certifies it, by its Name, over nonce and
               request; it is the request's key, and signs TLS and nothing of the
               TPM's. Of kind `attested`: there is no such TPM key, and none is
               claimed.

That the AK is a primary of the endorsement hierarchy follows from what it signs:
its qualified Name stands in every attestation.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hwtrust.errors import CsrError, KeyAttributesError, SelectionError
from hwtrust.verify.attestation import ENDORSEMENT, qualified_name
from hwtrust.verify.certify import verify_certify
from hwtrust.verify.evidence import Claims, KnownDevice, verify_evidence
from hwtrust.verify.roles import (
    require_attestation_key,
    require_epoch_counter,
    require_storage_key,
    require_tls_key,
)
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.challenge import Purpose
from hwtrust.wire.messages import TlsKeyKind
from hwtrust.wire.policy import fold
from hwtrust.wire.root import counter_policy
from hwtrust.wire.structures import NvPublic, PcrSelection, Public, PublicKey, require_strong

if TYPE_CHECKING:
    from hwtrust.wire.messages import EnrolFinish, Signed

APPLICATION_PCRS: Final = range(8, 16)
"""PCRs that only a reset of the machine resets, and that the firmware leaves alone."""

BOOT_LOADER_PCR: Final = 11
"""Where a unified kernel image is measured; the application PCR of machines that have none."""

RESETTABLE_PCRS: Final = frozenset({16, 23})
"""PCRs that any program can reset (TCG PC Client Platform TPM Profile §4.6)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolledDevice:
    """A device whose every key has been shown to be in one TPM.

    Attributes:
        known: what later evidence is verified against.
        storage_key: what roots are wrapped for.
        counter: the epoch counter's public area.
        base_epoch: the counter's certified value, number of the first root.
        tls_kind: where the TLS key lives.
        tls_key: its SubjectPublicKeyInfo, DER.
        claims: what the enrolment's evidence says, to be appraised.
    """

    known: KnownDevice
    storage_key: Public
    counter: NvPublic
    base_epoch: int
    tls_kind: TlsKeyKind
    tls_key: bytes
    claims: Claims


def verify_enrolment(
    finish: EnrolFinish, *, ek: Public, ak: Public, nonce: bytes, policy_key: Public
) -> EnrolledDevice:
    """Check what a device offers after it has recovered the secret for `ak`.

    `nonce` is the enrolment's; `ek` and `ak` are those for which the credential
    was made. `finish.secret` is not looked at: the caller compares it.

    Raises:
        EvidenceError: a key, index or quote is not what it must be.
        EnrolmentError: the certificate request is refused.
        WireError: a part is malformed.
    """
    signer = qualified_name(ak.name, hierarchy=ENDORSEMENT)
    # (1): AK.
    require_attestation_key(ak)
    # (2): storage.
    storage_key = Public.decode_sized(finish.storage_public)
    require_storage_key(storage_key)
    _require_certified(finish.storage_certify, storage_key, ak=ak, nonce=nonce, signer=signer)
    # (3): counter.
    counter = NvPublic.decode(finish.counter_public)
    require_epoch_counter(counter, policy=fold(counter_policy(policy_key, ek.name)))
    # (4): selection.
    selection = PcrSelection.parse(finish.selection)
    known = KnownDevice(
        name=ek.name,
        ak=ak,
        selection=selection,
        pcr=_application_pcr(selection, named=finish.pcr),
        counter_name=counter.name,
    )
    # (5): CSR.
    key = _requested_key(finish.csr)
    tls_key = _spki(key)
    # (6): evidence.
    claims = verify_evidence(
        finish.evidence, device=known, nonce=nonce, purpose=Purpose.ENROL, tls_key=tls_key
    )
    # (7): TLS key.
    if finish.tls_kind is TlsKeyKind.TPM:
        _require_tpm_key(finish, tls_key, ak=ak, nonce=nonce, signer=signer)
    elif finish.tls_public or finish.tls_certify is not None:
        raise KeyAttributesError("a TLS key that is not in the TPM comes with a TPM's public area")
    return EnrolledDevice(
        known=known,
        storage_key=storage_key,
        counter=counter,
        base_epoch=claims.counter,
        tls_kind=finish.tls_kind,
        tls_key=tls_key,
        claims=claims,
    )


def _require_certified(
    certify: Signed, public: Public, *, ak: Public, nonce: bytes, signer: bytes
) -> None:
    verify_certify(
        certify.message,
        certify.signature,
        key=ak,
        nonce=nonce,
        name=public.name,
        signer=signer,
    )


def _require_tpm_key(
    finish: EnrolFinish, tls_key: bytes, *, ak: Public, nonce: bytes, signer: bytes
) -> None:
    if finish.tls_certify is None:
        raise KeyAttributesError("the attestation key does not certify the TLS key")
    public = Public.decode_sized(finish.tls_public)
    require_tls_key(public)
    if _spki(public.key()) != tls_key:
        raise CsrError("the certificate request is for another key than the TPM's TLS key")
    bound = hashlib.sha256(nonce + finish.csr).digest()
    _require_certified(finish.tls_certify, public, ak=ak, nonce=bound, signer=signer)


def _application_pcr(selection: PcrSelection, *, named: int | None) -> int:
    if [bank for bank, _ in selection.banks] != [Alg.SHA256]:
        raise SelectionError(
            "a device quotes PCRs of the SHA-256 bank and of no other", found=str(selection)
        )
    ((_, numbers),) = selection.banks
    if RESETTABLE_PCRS.intersection(numbers):
        raise SelectionError(
            "PCRs 16 and 23 can be reset by any program and prove nothing", found=str(selection)
        )
    candidates = [number for number in numbers if number in APPLICATION_PCRS]
    if named is not None:
        # The others are quoted for logs that explain them.
        candidates = [number for number in candidates if number == named]
    if len(candidates) > 1:
        # Beside another one, PCR 11 is the boot loader's: a platform PCR.
        candidates = [number for number in candidates if number != BOOT_LOADER_PCR]
    if len(candidates) != 1:
        raise SelectionError(
            "a device quotes exactly one PCR of 8 to 15, its application PCR",
            found=str(selection),
        )
    return candidates[0]


def _requested_key(csr: bytes) -> PublicKey:
    """The key of a certificate request that it proves to hold (RFC 2986 §3)."""
    try:
        request = x509.load_der_x509_csr(csr)
        key, valid = request.public_key(), request.is_signature_valid
    except (ValueError, TypeError, x509.InvalidVersion, UnsupportedAlgorithm) as error:
        raise CsrError(f"this is no PKCS #10 certificate request: {error}") from None
    if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        raise CsrError("a TLS key is an EC key on P-256 or P-384, or an RSA key")
    require_strong(key)
    if not valid:
        raise CsrError("the certificate request is not signed by its own key")
    return key


def _spki(key: PublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
