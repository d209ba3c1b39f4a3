"""A TPM made of `cryptography` keys: real structures, real signatures, no TPM.

It signs what a TPM would sign in the form in which a TPM would, so that verifiers
can be tested, and loaded, without one. It guards nothing: whoever holds it can
have any PCR value quoted.

    tpm = SoftwareTpm()
    quote = tpm.quote(nonce, {Alg.SHA256: {10: bytes(32)}})
    verify_quote(quote.message, quote.signature, key=tpm.ak, signer=tpm.ak_qualified_name, …)
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec
from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES

from hwtrust.errors import TpmError
from hwtrust.verify.attestation import ENDORSEMENT, OWNER, qualified_name
from hwtrust.wire.algorithms import Alg, Curve, digest_size, new_hash
from hwtrust.wire.attested import Attested
from hwtrust.wire.codec import Reader
from hwtrust.wire.kdf import kdf_a, kdf_e, mac
from hwtrust.wire.protect import Credential
from hwtrust.wire.structures import (
    AES_128_CFB,
    NO_SYMMETRIC,
    Attest,
    CertifyInfo,
    ClockInfo,
    EccParams,
    EccPoint,
    NvAttributes,
    NvCertifyInfo,
    NvPublic,
    ObjectAttributes,
    PcrSelection,
    Public,
    QuoteInfo,
    RsaParams,
    Signature,
)

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

MADE_INSIDE: Final = (
    ObjectAttributes.FIXED_TPM
    | ObjectAttributes.FIXED_PARENT
    | ObjectAttributes.SENSITIVE_DATA_ORIGIN
)
AK_ATTRIBUTES: Final = (
    MADE_INSIDE
    | ObjectAttributes.USER_WITH_AUTH
    | ObjectAttributes.RESTRICTED
    | ObjectAttributes.SIGN
)
STORAGE_ATTRIBUTES: Final = (
    MADE_INSIDE
    | ObjectAttributes.USER_WITH_AUTH
    | ObjectAttributes.NO_DA
    | ObjectAttributes.RESTRICTED
    | ObjectAttributes.DECRYPT
)
EK_ATTRIBUTES: Final = (
    MADE_INSIDE
    | ObjectAttributes.ADMIN_WITH_POLICY
    | ObjectAttributes.RESTRICTED
    | ObjectAttributes.DECRYPT
)
TLS_ATTRIBUTES: Final = MADE_INSIDE | ObjectAttributes.USER_WITH_AUTH | ObjectAttributes.SIGN
COUNTER_ATTRIBUTES: Final = (
    NvAttributes.COUNTER
    | NvAttributes.POLICYWRITE
    | NvAttributes.AUTHREAD
    | NvAttributes.NO_DA
    | NvAttributes.WRITTEN
)

# PolicySecret(TPM_RH_ENDORSEMENT): TCG EK Credential Profile 2.5, §B.3, template L-2.
EK_POLICY: Final = bytes.fromhex("837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa")

_CURVES: Final[dict[Curve, ec.EllipticCurve]] = {
    Curve.P256: ec.SECP256R1(),
    Curve.P384: ec.SECP384R1(),
}
_HASHES: Final[dict[Alg, hashes.HashAlgorithm]] = {
    Alg.SHA1: hashes.SHA1(),  # noqa: S303  to be refused
    Alg.SHA256: hashes.SHA256(),
    Alg.SHA384: hashes.SHA384(),
    Alg.SHA512: hashes.SHA512(),
}
_INTEGRITY_FAILURE: Final = 0x1DF


@dataclass(frozen=True, slots=True)
class Signed:
    """An attestation as a TPM returns it: TPMS_ATTEST and TPMT_SIGNATURE."""

    message: bytes
    signature: bytes


def ecc_public(
    key: ec.EllipticCurvePrivateKey,
    attributes: ObjectAttributes,
    *,
    scheme: Alg = Alg.NULL,
    hash_: Alg | None = None,
    policy: bytes = b"",
) -> Public:
    """The TPMT_PUBLIC of an ECC key; keys that protect others use AES-128-CFB."""
    numbers, size = key.public_key().public_numbers(), (key.curve.key_size + 7) // 8
    curve = Curve.P256 if isinstance(key.curve, ec.SECP256R1) else Curve.P384
    is_parent = ObjectAttributes.RESTRICTED | ObjectAttributes.DECRYPT in attributes
    return Public(
        type=Alg.ECC,
        name_alg=Alg.SHA256,
        attributes=attributes,
        auth_policy=policy,
        params=EccParams(AES_128_CFB if is_parent else NO_SYMMETRIC, scheme, hash_, curve),
        unique=EccPoint(numbers.x.to_bytes(size, "big"), numbers.y.to_bytes(size, "big")),
    )


def rsa_public(
    key: rsa.RSAPrivateKey,
    attributes: ObjectAttributes,
    *,
    scheme: Alg = Alg.NULL,
    hash_: Alg | None = None,
    policy: bytes = b"",
) -> Public:
    """The TPMT_PUBLIC of an RSA key; keys that protect others use AES-128-CFB."""
    numbers = key.public_key().public_numbers()
    is_parent = ObjectAttributes.RESTRICTED | ObjectAttributes.DECRYPT in attributes
    return Public(
        type=Alg.RSA,
        name_alg=Alg.SHA256,
        attributes=attributes,
        auth_policy=policy,
        params=RsaParams(AES_128_CFB if is_parent else NO_SYMMETRIC, scheme, hash_, key.key_size),
        unique=numbers.n.to_bytes(key.key_size // 8, "big"),
    )


def counter_public(policy: bytes, *, index: int = 0x0180_0100) -> NvPublic:
    """The public area of an epoch counter that is written under `policy`."""
    return NvPublic(index, Alg.SHA256, COUNTER_ATTRIBUTES, policy, 8)


class SoftwareTpm:
    """One TPM: its keys, its clock, and the commands that attest.

    With a `seed` the ECC keys are derived from it, so that the same device comes
    back; without, all keys are fresh. `ak_key` brings an AK of another kind.
    """

    def __init__(
        self,
        *,
        seed: bytes | None = None,
        ak_key: PrivateKey | None = None,
        scheme: Alg = Alg.ECDSA,
        hash_: Alg = Alg.SHA256,
        firmware_version: int = 0x2019_1023_0016_3636,
    ) -> None:
        self.seed = secrets.token_bytes(32) if seed is None else seed
        self.firmware_version = firmware_version
        self.clock = ClockInfo(clock=1_000, reset_count=1, restart_count=0, safe=True)
        self.ek_key = self.derive("ek")
        self.storage_key = self.derive("storage")
        self.tls_key = self.derive("tls")
        self.ak_key = self.derive("ak") if ak_key is None else ak_key
        self.ek = ecc_public(self.ek_key, EK_ATTRIBUTES, policy=EK_POLICY)
        self.storage = ecc_public(self.storage_key, STORAGE_ATTRIBUTES)
        self.tls = ecc_public(self.tls_key, TLS_ATTRIBUTES)
        self.ak = (
            rsa_public(self.ak_key, AK_ATTRIBUTES, scheme=scheme, hash_=hash_)
            if isinstance(self.ak_key, rsa.RSAPrivateKey)
            else ecc_public(self.ak_key, AK_ATTRIBUTES, scheme=scheme, hash_=hash_)
        )
        self._scheme, self._hash = scheme, hash_

    def derive(self, label: str, curve: Curve = Curve.P256) -> ec.EllipticCurvePrivateKey:
        """A private key of this TPM; the same seed and label give the same one."""
        digest = hashlib.sha512(self.seed + label.encode()).digest()
        return ec.derive_private_key(int.from_bytes(digest[:31], "big") + 1, _CURVES[curve])

    @property
    def ak_qualified_name(self) -> bytes:
        """The AK's qualified Name: it is a primary object of the endorsement hierarchy."""
        return qualified_name(self.ak.name, hierarchy=ENDORSEMENT)

    def advance(self, milliseconds: int) -> None:
        """Let time pass."""
        self.clock = msgspec.structs.replace(self.clock, clock=self.clock.clock + milliseconds)

    def reset(self) -> None:
        """TPM2_Startup(CLEAR) after power was off."""
        self.clock = msgspec.structs.replace(
            self.clock, reset_count=self.clock.reset_count + 1, restart_count=0
        )

    def quote(
        self,
        nonce: bytes,
        pcrs: Mapping[Alg, Mapping[int, bytes]],
        *,
        selection: PcrSelection | None = None,
    ) -> Signed:
        """TPM2_Quote of `pcrs`, by default all of them in the order of their banks."""
        if selection is None:
            selection = PcrSelection(
                tuple((bank, tuple(sorted(values))) for bank, values in pcrs.items())
            )
        values = b"".join(
            pcrs[bank][number] for bank, numbers in selection.banks for number in numbers
        )
        return self.attest(nonce, QuoteInfo(selection, new_hash(self._hash, values)))

    def certify(
        self, public: Public, nonce: bytes, *, hierarchy: int = OWNER, name: bytes | None = None
    ) -> Signed:
        """TPM2_Certify of the primary object `public`."""
        found = public.name if name is None else name
        return self.attest(
            nonce, CertifyInfo(found, qualified_name(public.name, hierarchy=hierarchy))
        )

    def nv_certify(
        self, nv_public: NvPublic, contents: bytes, nonce: bytes, *, offset: int = 0
    ) -> Signed:
        """TPM2_NV_Certify of an index that holds `contents` at `offset`."""
        return self.attest(nonce, NvCertifyInfo(nv_public.name, offset, contents))

    def attest(self, nonce: bytes, attested: Attested, *, signer: bytes | None = None) -> Signed:
        """Whatever a TPM may say, signed by the AK."""
        message = Attest.build(
            qualified_signer=self.ak_qualified_name if signer is None else signer,
            extra_data=nonce,
            clock=self.clock,
            firmware_version=self.firmware_version,
            attested=attested,
        ).raw
        return Signed(message, self.sign(message).encode())

    def sign(self, message: bytes) -> Signature:
        """The AK's signature over any bytes at all, which no TPM would give."""
        return sign(self.ak_key, message, scheme=self._scheme, hash_=self._hash)

    def activate_credential(self, credential: Credential) -> bytes:
        """TPM2_ActivateCredential of the AK under the EK, TPM 2.0 Part 3 §12.5.

        Raises:
            TpmError: the credential is not for this EK and this AK.
        """
        point = Reader(credential.encrypted_secret, "TPMS_ECC_POINT")
        x, y = point.sized(), point.sized()
        point.end()
        peer = ec.EllipticCurvePublicNumbers(
            int.from_bytes(x, "big"), int.from_bytes(y, "big"), ec.SECP256R1()
        ).public_key()
        own_x = self.ek_key.public_key().public_numbers().x.to_bytes(32, "big")
        alg, name = self.ek.name_alg, self.ak.name
        bits = 8 * digest_size(alg)
        seed = kdf_e(alg, self.ek_key.exchange(ec.ECDH(), peer), b"IDENTITY", x, own_x, bits=bits)
        blob = Reader(credential.id_object, "TPMS_ID_OBJECT")
        integrity, encrypted = blob.sized(), blob.rest()
        hmac_key = kdf_a(alg, seed, b"INTEGRITY", b"", b"", bits=bits)
        if mac(alg, hmac_key, encrypted + name) != integrity:
            raise TpmError("the credential's integrity check fails", rc=_INTEGRITY_FAILURE)
        key = kdf_a(alg, seed, b"STORAGE", name, b"", bits=AES_128_CFB.bits)
        decryptor = Cipher(AES(key), CFB(bytes(16))).decryptor()
        plain = Reader(decryptor.update(encrypted) + decryptor.finalize(), "credential")
        secret = plain.sized()
        plain.end()
        return secret


def sign(
    key: PrivateKey,
    message: bytes,
    *,
    scheme: Alg,
    hash_: Alg,
    salt: int | None = None,
) -> Signature:
    """A TPM's signature over `message`; `salt` is the digest's length unless given (RSAPSS)."""
    if isinstance(key, ec.EllipticCurvePrivateKey):
        der = key.sign(message, ec.ECDSA(_HASHES[hash_]))
        return Signature(scheme, hash_, decode_dss_signature(der))
    if scheme is Alg.RSAPSS:
        length = digest_size(hash_) if salt is None else salt
        scheme_padding: padding.AsymmetricPadding = padding.PSS(
            padding.MGF1(_HASHES[hash_]), length
        )
    else:
        scheme_padding = padding.PKCS1v15()
    return Signature(scheme, hash_, key.sign(message, scheme_padding, _HASHES[hash_]))
