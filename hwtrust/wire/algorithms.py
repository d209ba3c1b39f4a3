"""The algorithm and curve numbers of the TCG Algorithm Registry that TPMs use.

Numbers that are not here are refused with `UnsupportedError`. A number that is
here may still be refused later, by whoever knows what it is for: SHA-1 is
decoded, so that an unused SHA-1 bank does not spoil a quote, but a signature
over SHA-1 is not believed.
"""

from __future__ import annotations

import hashlib
from enum import IntEnum
from typing import Final

from hwtrust.errors import UnsupportedError


class Alg(IntEnum):
    """TPM_ALG_ID, TPM 2.0 Part 2 §6.3."""

    # As the number that it is equal to; the enum's own hash costs a Python call.
    __hash__ = int.__hash__

    RSA = 0x0001
    TDES = 0x0003
    SHA1 = 0x0004
    HMAC = 0x0005
    AES = 0x0006
    MGF1 = 0x0007
    KEYEDHASH = 0x0008
    XOR = 0x000A
    SHA256 = 0x000B
    SHA384 = 0x000C
    SHA512 = 0x000D
    NULL = 0x0010
    SM3_256 = 0x0012
    SM4 = 0x0013
    RSASSA = 0x0014
    RSAES = 0x0015
    RSAPSS = 0x0016
    OAEP = 0x0017
    ECDSA = 0x0018
    ECDH = 0x0019
    ECDAA = 0x001A
    SM2 = 0x001B
    ECSCHNORR = 0x001C
    ECMQV = 0x001D
    KDF1_SP800_56A = 0x0020
    KDF2 = 0x0021
    KDF1_SP800_108 = 0x0022
    ECC = 0x0023
    SYMCIPHER = 0x0025
    CAMELLIA = 0x0026
    SHA3_256 = 0x0027
    SHA3_384 = 0x0028
    SHA3_512 = 0x0029
    CTR = 0x0040
    OFB = 0x0041
    CBC = 0x0042
    CFB = 0x0043
    ECB = 0x0044


class Curve(IntEnum):
    """TPM_ECC_CURVE, TPM 2.0 Part 2 §6.4; only P-256 and P-384 are ever accepted."""

    P192 = 0x0001
    P224 = 0x0002
    P256 = 0x0003
    P384 = 0x0004
    P521 = 0x0005
    BN_P256 = 0x0010
    BN_P638 = 0x0011
    SM2_P256 = 0x0020


# The look-up of an enum's member through its class costs a Python call.
_SHA256: Final = Alg.SHA256

_DIGEST_SIZES: Final = {
    Alg.SHA1: 20,
    Alg.SHA256: 32,
    Alg.SHA384: 48,
    Alg.SHA512: 64,
    Alg.SM3_256: 32,
    Alg.SHA3_256: 32,
    Alg.SHA3_384: 48,
    Alg.SHA3_512: 64,
}

_ALGS: Final[dict[int, Alg]] = {int(alg): alg for alg in Alg}
_HASH_ALGS: Final[dict[int, Alg]] = {int(alg): alg for alg in _DIGEST_SIZES}

_NAMES: Final = {alg: alg.name.lower() for alg in _DIGEST_SIZES}
_BY_NAME: Final = {name: alg for alg, name in _NAMES.items()}

MAX_DIGEST_SIZE: Final = max(_DIGEST_SIZES.values())


def to_alg(number: int) -> Alg:
    """The algorithm of that number.

    Raises:
        UnsupportedError: hwtrust does not know it.
    """
    try:
        return _ALGS[number]
    except KeyError:
        raise UnsupportedError(f"unknown algorithm 0x{number:04x}", alg=number) from None


def to_hash_alg(number: int) -> Alg:
    """The hash algorithm of that number.

    Raises:
        UnsupportedError: hwtrust does not know it, or it is no hash.
    """
    alg = _HASH_ALGS.get(number)
    if alg is None:
        alg = to_alg(number)
        digest_size(alg)
    return alg


def to_curve(number: int) -> Curve:
    """The elliptic curve of that number.

    Raises:
        UnsupportedError: hwtrust does not know it.
    """
    try:
        return Curve(number)
    except ValueError:
        raise UnsupportedError(f"unknown elliptic curve 0x{number:04x}", curve=number) from None


def digest_size(alg: Alg) -> int:
    """Bytes in a digest of `alg`.

    Raises:
        UnsupportedError: `alg` is no hash.
    """
    try:
        return _DIGEST_SIZES[alg]
    except KeyError:
        raise UnsupportedError(f"{alg.name} is not a hash algorithm", alg=int(alg)) from None


def new_hash(alg: Alg, data: bytes) -> bytes:
    """The digest of `data` under `alg`.

    Raises:
        UnsupportedError: `alg` is no hash, or none that this Python can compute.
    """
    if alg is _SHA256:
        # What nearly all digests are: without a look-up by name.
        return hashlib.sha256(data, usedforsecurity=False).digest()
    name = "sm3" if alg is Alg.SM3_256 else alg_name(alg)
    try:
        return hashlib.new(name, data, usedforsecurity=False).digest()
    except ValueError:
        raise UnsupportedError(
            f"this Python cannot compute {alg_name(alg)}", alg=int(alg)
        ) from None


def alg_name(alg: Alg) -> str:
    """How tpm2-tools spell the hash `alg`, such as `sha256`.

    Raises:
        UnsupportedError: `alg` is no hash.
    """
    digest_size(alg)
    return _NAMES[alg]


def alg_from_name(name: str) -> Alg:
    """The hash that tpm2-tools spell `name`.

    Raises:
        UnsupportedError: there is no such hash.
    """
    try:
        return _BY_NAME[name]
    except KeyError:
        raise UnsupportedError(
            f"{name!r} is not a hash algorithm; known are {', '.join(_BY_NAME)}"
        ) from None
