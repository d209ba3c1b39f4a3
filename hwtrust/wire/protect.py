"""What a server makes for one TPM, with no TPM of its own.

A credential that only the TPM with this EK can recover, and a sealed object
that only the TPM with this storage key can import. Both are an encapsulated
seed and, under keys derived from it, an encrypted and authenticated blob:

    key ──encapsulate(label)──▶ seed, secret
                                 │
        KDFa "STORAGE", Name ────┼──▶ AES-CFB     ─▶ encrypted
        KDFa "INTEGRITY" ────────┴──▶ HMAC over encrypted || Name

Rules:
1. The outer wrap authenticates nothing about its sender: anybody who knows the
   public key can make one. A device checks the signed metadata first.
2. The blob is bound to a Name; the TPM takes it for no other object.
3. Keys come from `Public.key()`, hence weak ones are refused, and they must be
   restricted decryption keys with AES-CFB. That such a key lives in a TPM is
   for whoever certified it to say.
4. Nonces, seeds and ephemeral keys are fresh at every call; no public function
   takes them. Secrets do not appear in any `repr`.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Final, Protocol

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES

from hwtrust.errors import KeyAttributesError, MalformedError, UnsupportedError
from hwtrust.wire.algorithms import Alg, digest_size, new_hash, to_hash_alg
from hwtrust.wire.codec import Reader, tpm2b, u16
from hwtrust.wire.kdf import kdf_a, kdf_e, mac
from hwtrust.wire.structures import (
    EccParams,
    KeyedHashParams,
    ObjectAttributes,
    Public,
    RsaParams,
    Symmetric,
)

try:
    from cryptography.hazmat.decrepit.ciphers.modes import CFB
except ImportError:  # where older releases of cryptography have it
    from cryptography.hazmat.primitives.ciphers.modes import CFB

IDENTITY: Final = b"IDENTITY"
"""The label of TPM2_MakeCredential, Part 1 §24."""

DUPLICATE: Final = b"DUPLICATE"
"""The label of TPM2_Duplicate and TPM2_Import, Part 1 §23.3."""

MAX_SEALED: Final = 128
"""MAX_SYM_DATA: what a sealed object can hold, in bytes."""

_SEALED_HASH: Final = Alg.SHA256
_SEED_SIZE: Final = 32

_HASHES: Final[dict[Alg, type[hashes.HashAlgorithm]]] = {
    Alg.SHA1: hashes.SHA1,
    Alg.SHA256: hashes.SHA256,
    Alg.SHA384: hashes.SHA384,
    Alg.SHA512: hashes.SHA512,
}


@dataclass(frozen=True, slots=True)
class Encapsulated:
    """A seed, and the secret from which only the holder of a key recovers it.

    `secret` is the content of a TPM2B_ENCRYPTED_SECRET: a TPMS_ECC_POINT, or
    the RSAES-OAEP ciphertext.
    """

    seed: bytes = field(repr=False)
    secret: bytes


@dataclass(frozen=True, slots=True)
class Credential:
    """What TPM2_ActivateCredential takes.

    Attributes:
        id_object: the content of the TPM2B_ID_OBJECT: the HMAC as a TPM2B, then
            the encrypted credential.
        encrypted_secret: the content of the TPM2B_ENCRYPTED_SECRET.
    """

    id_object: bytes
    encrypted_secret: bytes


@dataclass(frozen=True, slots=True)
class Duplicate:
    """What TPM2_Import takes, beside an empty inner key and a NULL inner cipher.

    Attributes:
        public: the TPMT_PUBLIC of the object.
        private: the content of the TPM2B_PRIVATE `duplicate`.
        seed: the content of the TPM2B_ENCRYPTED_SECRET `inSymSeed`.
        name: the object's Name, for whoever signs what this is.
    """

    public: bytes
    private: bytes
    seed: bytes
    name: bytes


class RsaEncrypter(Protocol):
    """The one operation that is needed of an RSA public key."""

    def encrypt(self, plaintext: bytes, padding: padding.AsymmetricPadding) -> bytes:
        """Encrypt `plaintext` with the public key."""
        ...


def encapsulate(key: Public, label: bytes) -> Encapsulated:
    """Share a fresh seed with the holder of `key`, for the purpose `label`.

    TPM 2.0 Part 1 §B.10 (RSA) and §C.6 (ECC). `label` comes without its
    terminating zero byte. The seed is as long as a digest of the key's nameAlg
    (or of the OAEP scheme that an unrestricted RSA key names).

    Raises:
        WeakKeyError: the key is none that hwtrust would use.
        UnsupportedError: the key's nameAlg is no hash that can be computed here.
    """
    public_key = key.key()
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        ephemeral = ec.generate_private_key(public_key.curve)
        return _encapsulate_ecc(public_key, key.name_alg, label, ephemeral=ephemeral)
    alg = _oaep_hash(key)
    return _encapsulate_rsa(public_key, alg, label, seed=secrets.token_bytes(digest_size(alg)))


def make_credential(ek: Public, name: bytes, credential: bytes) -> Credential:
    """Encrypt `credential` for the TPM that holds both `ek` and the key of that `name`.

    TPM2_MakeCredential, TPM 2.0 Part 3 §12.6 and Part 1 §24. `credential` is
    at most as long as a digest of the EK's nameAlg.

    Raises:
        WeakKeyError: the EK is none that hwtrust would use.
        KeyAttributesError: `ek` is not a restricted decryption key.
        UnsupportedError: another cipher than AES-CFB, an unknown nameAlg, or a
            credential that is empty or too long.
        MalformedError: `name` is no Name of an object.
    """
    symmetric = _wrapping_cipher(ek)
    _require_name(name)
    if not 0 < len(credential) <= digest_size(ek.name_alg):
        raise UnsupportedError(
            f"a credential of {len(credential)} bytes; "
            f"this EK takes 1 to {digest_size(ek.name_alg)}",
            size=len(credential),
        )
    shared = encapsulate(ek, IDENTITY)
    blob = _outer_wrap(ek.name_alg, symmetric, shared.seed, name, tpm2b(credential))
    return Credential(blob, shared.secret)


def seal_for(parent: Public, secret: bytes, *, auth_policy: bytes) -> Duplicate:
    """Make a sealed object that only the TPM with the storage key `parent` can import.

    TPM2_Duplicate's format with an outer wrap alone, TPM 2.0 Part 1 §23.3. The
    object opens by `auth_policy` only (SHA-256), has no password, and is not
    subject to dictionary-attack lockout. `secret` is 1 to 128 bytes long.

    Raises:
        WeakKeyError: the parent is none that hwtrust would use.
        KeyAttributesError: `parent` is not a restricted decryption key.
        UnsupportedError: another cipher than AES-CFB, an unknown nameAlg, or a
            secret that is empty or too long.
        MalformedError: `auth_policy` is no SHA-256 digest.
    """
    symmetric = _wrapping_cipher(parent)
    sealed, sensitive = _sealed_object(secret, auth_policy, secrets.token_bytes(_SEED_SIZE))
    shared = encapsulate(parent, DUPLICATE)
    name = sealed.name
    private = _outer_wrap(parent.name_alg, symmetric, shared.seed, name, tpm2b(sensitive))
    return Duplicate(sealed.encode(), private, shared.secret, name)


def _encapsulate_ecc(
    key: ec.EllipticCurvePublicKey,
    name_alg: Alg,
    label: bytes,
    *,
    ephemeral: ec.EllipticCurvePrivateKey,
) -> Encapsulated:
    """One-pass ECDH: coordinates are padded to the size of the field, Part 1 §C.8."""
    size = (key.curve.key_size + 7) // 8
    ours = ephemeral.public_key().public_numbers()
    our_x, our_y = ours.x.to_bytes(size, "big"), ours.y.to_bytes(size, "big")
    their_x = key.public_numbers().x.to_bytes(size, "big")
    z = ephemeral.exchange(ec.ECDH(), key)
    seed = kdf_e(name_alg, z, label, our_x, their_x, bits=8 * digest_size(name_alg))
    return Encapsulated(seed, tpm2b(our_x) + tpm2b(our_y))


def _oaep_hash(key: Public) -> Alg:
    """The nameAlg, unless an unrestricted key names another hash in its scheme."""
    scheme = key.params.scheme_hash if isinstance(key.params, RsaParams) else None
    return scheme or key.name_alg


def _encapsulate_rsa(key: RsaEncrypter, alg: Alg, label: bytes, *, seed: bytes) -> Encapsulated:
    """RSAES-OAEP; its label is the only one that has its zero byte inside, Part 1 §B.4."""
    if alg not in _HASHES:
        raise UnsupportedError(f"RSAES-OAEP with {alg.name} is not supported", alg=int(alg))
    algorithm = _HASHES[alg]()
    oaep = padding.OAEP(padding.MGF1(algorithm), algorithm, label + b"\0")
    return Encapsulated(seed, key.encrypt(seed, oaep))


def _sealed_object(secret: bytes, auth_policy: bytes, seed_value: bytes) -> tuple[Public, bytes]:
    """The TPMT_PUBLIC and the TPMT_SENSITIVE of sealed data, Part 2 §12.3.

    `unique` binds the two halves together: H(seedValue || data), Part 1 §27.
    """
    if not 0 < len(secret) <= MAX_SEALED:
        raise UnsupportedError(
            f"a sealed object holds 1 to {MAX_SEALED} bytes, not {len(secret)}", size=len(secret)
        )
    if len(auth_policy) != digest_size(_SEALED_HASH):
        raise MalformedError(
            f"an authPolicy of {len(auth_policy)} bytes is no SHA-256 digest", size=len(auth_policy)
        )
    public = Public(
        type=Alg.KEYEDHASH,
        name_alg=_SEALED_HASH,
        attributes=ObjectAttributes.ADMIN_WITH_POLICY | ObjectAttributes.NO_DA,
        auth_policy=auth_policy,
        params=KeyedHashParams(),
        unique=new_hash(_SEALED_HASH, seed_value + secret),
    )
    no_auth = tpm2b(b"")
    return public, u16(Alg.KEYEDHASH) + no_auth + tpm2b(seed_value) + tpm2b(secret)


def _outer_wrap(
    name_alg: Alg, symmetric: Symmetric, seed: bytes, name: bytes, plain: bytes
) -> bytes:
    """Encrypt, then authenticate with the Name: TPM2B integrity, then the ciphertext.

    TPM 2.0 Part 1 §24.4 (credentials) and §23.3.2.3 (duplication) alike. The IV
    is zero, because the key is used once.
    """
    key = kdf_a(name_alg, seed, b"STORAGE", name, b"", bits=symmetric.bits)
    encryptor = Cipher(AES(key), CFB(bytes(16))).encryptor()
    encrypted = encryptor.update(plain) + encryptor.finalize()
    hmac_key = kdf_a(name_alg, seed, b"INTEGRITY", b"", b"", bits=8 * digest_size(name_alg))
    return tpm2b(mac(name_alg, hmac_key, encrypted + name)) + encrypted


def _wrapping_cipher(key: Public) -> Symmetric:
    """The cipher of a key that a TPM uses for protected storage or as an EK."""
    attributes = key.attributes
    restricted = ObjectAttributes.RESTRICTED | ObjectAttributes.DECRYPT
    if attributes & (restricted | ObjectAttributes.SIGN) != restricted:
        raise KeyAttributesError(
            "only a restricted decryption key protects what is made for a TPM",
            attributes=int(attributes),
        )
    if not isinstance(key.params, EccParams | RsaParams):
        raise UnsupportedError(
            f"an object of type {key.type.name} is no asymmetric key", alg=int(key.type)
        )
    symmetric = key.params.symmetric
    if (symmetric.alg, symmetric.mode) != (Alg.AES, Alg.CFB) or symmetric.bits not in {128, 256}:
        raise UnsupportedError(
            f"the key protects with {symmetric.alg.name}-{symmetric.bits}, not with AES-CFB",
            alg=int(symmetric.alg),
            bits=symmetric.bits,
        )
    return symmetric


def _require_name(name: bytes) -> None:
    """Refuse what is no digest behind its algorithm: such a credential would bind to nothing."""
    reader = Reader(name, "Name of an object")
    reader.take(digest_size(to_hash_alg(reader.u16())))
    reader.end()
