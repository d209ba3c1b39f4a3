"""The TPM structures that hwtrust reads, in one place to import them from.

    selection    TPML_PCR_SELECTION              which PCRs
    attested     TPMS_ATTEST, TPMS_CLOCK_INFO    what a TPM signs
    signatures   TPMT_SIGNATURE                  how it signs
    keys, params TPMT_PUBLIC                     objects and their Names
    nv           TPMS_NV_PUBLIC                  NV indices and their Names

Each decoder takes bytes from anywhere, ends in a typed error or in a value
whose `encode()` gives the same bytes, and judges nothing else.
"""

from __future__ import annotations

from hwtrust.wire.attested import (
    Attest,
    AttestType,
    CertifyInfo,
    ClockInfo,
    CreationInfo,
    NvCertifyInfo,
    QuoteInfo,
)
from hwtrust.wire.keys import EccPoint, ObjectAttributes, Public, PublicKey, require_strong
from hwtrust.wire.nv import NvAttributes, NvPublic, NvType
from hwtrust.wire.params import (
    AES_128_CFB,
    AES_256_CFB,
    NO_SYMMETRIC,
    EccParams,
    KeyedHashParams,
    Params,
    RsaParams,
    SymCipherParams,
    Symmetric,
)
from hwtrust.wire.selection import PcrSelection
from hwtrust.wire.signatures import Signature, signature_fields

__all__ = [
    "AES_128_CFB",
    "AES_256_CFB",
    "NO_SYMMETRIC",
    "Attest",
    "AttestType",
    "CertifyInfo",
    "ClockInfo",
    "CreationInfo",
    "EccParams",
    "EccPoint",
    "KeyedHashParams",
    "NvAttributes",
    "NvCertifyInfo",
    "NvPublic",
    "NvType",
    "ObjectAttributes",
    "Params",
    "PcrSelection",
    "Public",
    "PublicKey",
    "QuoteInfo",
    "RsaParams",
    "Signature",
    "SymCipherParams",
    "Symmetric",
    "require_strong",
    "signature_fields",
]
