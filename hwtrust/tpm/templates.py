"""The public areas with which hwtrust creates keys: pure data, no TPM needed.

    endorsement ── EK (made by the TCG's templates, certified by the vendor)
               └── AK (restricted signing; unique = enrolment nonce)
    owner ──────── storage key (restricted decryption)
                     └── TLS key (unrestricted signing)

Rules:
1. The EK templates are those of the TCG EK Credential Profile 2.5, to the byte:
   one other bit, and the TPM makes another key, which no vendor has certified.
2. A primary key follows from its hierarchy's seed and its whole template, hence
   from `unique`: the AK of another enrolment nonce is another key.
3. All keys but the EK have an empty password and NO_DA: what protects them is
   that they never leave the TPM, and a dictionary-attack lockout, which any
   local program can cause, must not stop attestation.
4. P-256 first; RSA-2048 is for TPMs without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hwtrust.wire.algorithms import Alg, Curve
from hwtrust.wire.structures import (
    AES_128_CFB,
    AES_256_CFB,
    NO_SYMMETRIC,
    EccParams,
    EccPoint,
    ObjectAttributes,
    Public,
    RsaParams,
    Symmetric,
)

POLICY_A_SHA256: Final = bytes.fromhex(
    "837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa"
)
"""TPM2_PolicySecret with the endorsement hierarchy's password."""

POLICY_A_SHA384: Final = bytes.fromhex(
    "8bbf2266537c171cb56e403c4dc1d4b64f432611dc386e6f532050c3278c930e"
    "143e8bb1133824ccb431053871c6db53"
)
"""The same for SHA-384."""

POLICY_C_SHA256: Final = bytes.fromhex(
    "3767e2edd43ff45a3a7e1eaefcef78643dca964632e7aad82c673a30d8633fde"
)
"""TPM2_PolicyAuthorizeNV with the policy index 0x01C07F01."""

POLICY_C_SHA384: Final = bytes.fromhex(
    "d6032ce61f2fb3c240eb3cf6a33237ef2b6a16f4293c22b455e261cffd217ad5"
    "b4947c2d73e63005eed2dc2b3593d165"
)
"""The same for SHA-384, with the policy index 0x01C07F02."""

POLICY_B_SHA256: Final = bytes.fromhex(
    "ca3d0a99a2b93906f7a3342414efcfb3a385d44cd1fd459089d19b5071c0b7a0"
)
"""TPM2_PolicyOR of policies A and C."""

POLICY_B_SHA384: Final = bytes.fromhex(
    "b26e7d28d11a50bc53d882bcf5fd3a1a074148bb35d3b4e4cb1c0ad9bde419ca"
    "cb47ba09699646150f9fc000f3f80e12"
)
"""The same for SHA-384."""

EK_CHAIN_INDICES: Final = range(0x01C00100, 0x01C00200)
"""NV indices in which a vendor may put the intermediate CAs of its EK certificates."""

_ANCHORED: Final = (
    ObjectAttributes.FIXED_TPM
    | ObjectAttributes.FIXED_PARENT
    | ObjectAttributes.SENSITIVE_DATA_ORIGIN
)
_EK_LOW: Final = (
    _ANCHORED
    | ObjectAttributes.ADMIN_WITH_POLICY
    | ObjectAttributes.RESTRICTED
    | ObjectAttributes.DECRYPT
)
_EK_HIGH: Final = _EK_LOW | ObjectAttributes.USER_WITH_AUTH
_OURS: Final = _ANCHORED | ObjectAttributes.USER_WITH_AUTH | ObjectAttributes.NO_DA
_SIGNING: Final = _OURS | ObjectAttributes.SIGN
_AK: Final = _SIGNING | ObjectAttributes.RESTRICTED
_STORAGE: Final = _OURS | ObjectAttributes.RESTRICTED | ObjectAttributes.DECRYPT

_NO_POINT: Final = EccPoint(b"", b"")


def _ecc(
    attributes: ObjectAttributes,
    *,
    unique: EccPoint = _NO_POINT,
    symmetric: Symmetric = NO_SYMMETRIC,
    policy: bytes = b"",
) -> Public:
    """A P-256 key; one that does not decrypt signs with ECDSA and SHA-256."""
    signs = bool(attributes & ObjectAttributes.SIGN)
    return Public(
        type=Alg.ECC,
        name_alg=Alg.SHA256,
        attributes=attributes,
        auth_policy=policy,
        params=EccParams(
            symmetric=symmetric,
            scheme=Alg.ECDSA if signs else Alg.NULL,
            scheme_hash=Alg.SHA256 if signs else None,
            curve=Curve.P256,
        ),
        unique=unique,
    )


def _rsa(
    attributes: ObjectAttributes,
    *,
    unique: bytes = b"",
    symmetric: Symmetric = NO_SYMMETRIC,
    policy: bytes = b"",
) -> Public:
    """An RSA-2048 key; one that does not decrypt signs with RSASSA and SHA-256."""
    signs = bool(attributes & ObjectAttributes.SIGN)
    return Public(
        type=Alg.RSA,
        name_alg=Alg.SHA256,
        attributes=attributes,
        auth_policy=policy,
        params=RsaParams(
            symmetric=symmetric,
            scheme=Alg.RSASSA if signs else Alg.NULL,
            scheme_hash=Alg.SHA256 if signs else None,
            bits=2048,
        ),
        unique=unique,
    )


@dataclass(frozen=True, slots=True)
class EkTemplate:
    """A default EK of the TCG EK Credential Profile 2.5, annex B.

    Attributes:
        profile: the profile's name of the template, such as `L-1`.
        public: the template.
        certificate_index: the NV index of the EK certificate.
        template_index: the NV index of a template that the vendor set instead.
        nonce_index: the NV index of a nonce for `unique`; low range only.
    """

    profile: str
    public: Public
    certificate_index: int
    template_index: int
    nonce_index: int | None = None


EK_P256: Final = EkTemplate(
    "L-2",
    _ecc(
        _EK_LOW,
        unique=EccPoint(bytes(32), bytes(32)),
        symmetric=AES_128_CFB,
        policy=POLICY_A_SHA256,
    ),
    certificate_index=0x01C0000A,
    nonce_index=0x01C0000B,
    template_index=0x01C0000C,
)

EK_P256_HIGH: Final = EkTemplate(
    "H-2",
    _ecc(_EK_HIGH, symmetric=AES_128_CFB, policy=POLICY_B_SHA256),
    certificate_index=0x01C00014,
    template_index=0x01C00015,
)

EK_P384_HIGH: Final = EkTemplate(
    "H-3",
    Public(
        type=Alg.ECC,
        name_alg=Alg.SHA384,
        attributes=_EK_HIGH,
        auth_policy=POLICY_B_SHA384,
        params=EccParams(AES_256_CFB, Alg.NULL, None, Curve.P384),
        unique=_NO_POINT,
    ),
    certificate_index=0x01C00016,
    template_index=0x01C00017,
)

EK_RSA2048: Final = EkTemplate(
    "L-1",
    _rsa(_EK_LOW, unique=bytes(256), symmetric=AES_128_CFB, policy=POLICY_A_SHA256),
    certificate_index=0x01C00002,
    nonce_index=0x01C00003,
    template_index=0x01C00004,
)

EK_RSA2048_HIGH: Final = EkTemplate(
    "H-1",
    _rsa(_EK_HIGH, symmetric=AES_128_CFB, policy=POLICY_B_SHA256),
    certificate_index=0x01C00012,
    template_index=0x01C00013,
)

EK_TEMPLATES: Final = (EK_P256, EK_P256_HIGH, EK_P384_HIGH, EK_RSA2048, EK_RSA2048_HIGH)
"""In the order in which a device looks for a certificate: elliptic curves first."""

STORAGE_KEY: Final = _ecc(_STORAGE, symmetric=AES_128_CFB)
"""An owner primary: the parent of dynamic roots and of the TLS key."""

STORAGE_KEY_RSA: Final = _rsa(_STORAGE, symmetric=AES_128_CFB)
"""The same for a TPM without P-256."""

TLS_KEY: Final = _ecc(_SIGNING)
"""A child of the storage key that signs what it is given."""

TLS_KEY_RSA: Final = _rsa(_SIGNING)
"""The same for a TPM without P-256."""


def ak_template(unique: bytes) -> Public:
    """The attestation key, an endorsement primary: P-256, ECDSA with SHA-256.

    Restricted: it signs only what its TPM made, or what does not look so.
    `unique` is the enrolment nonce, at most 32 bytes long.
    """
    return _ecc(_AK, unique=EccPoint(unique, b""))


def ak_template_rsa(unique: bytes) -> Public:
    """The attestation key of a TPM without P-256: RSA-2048, RSASSA with SHA-256.

    `unique` is the enrolment nonce, at most 256 bytes long.
    """
    return _rsa(_AK, unique=unique)
