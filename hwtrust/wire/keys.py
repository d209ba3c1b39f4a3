"""The public area of a TPM object: TPMT_PUBLIC, TPM 2.0 Part 2 §12.2.4.

Keys and sealed data objects alike. Rules:

1. An object's Name is a digest over all of its public area: type, attributes,
   policy, key. What is certified by Name is known entirely.
2. Decoding judges the form only. `key()` refuses weak keys; what a key may be
   used for is judged in `hwtrust.verify.roles`.
3. Parsing a key costs as much as a signature that it verifies. The structures
   decoded last are kept, by all of their bytes, and each remembers its key and
   its Name once they were asked for. What is refused is refused anew each time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntFlag
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from hwtrust.errors import MalformedError, UnsupportedError, WeakKeyError
from hwtrust.wire import codec
from hwtrust.wire.algorithms import (
    MAX_DIGEST_SIZE,
    Alg,
    Curve,
    digest_size,
    new_hash,
    to_alg,
)
from hwtrust.wire.codec import Reader
from hwtrust.wire.params import EccParams, KeyedHashParams, RsaParams, SymCipherParams

if TYPE_CHECKING:
    from hwtrust.wire.params import Params

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey

KEPT: Final = 4096
"""How many decoded structures are kept: attestation keys, above all, some 3 KiB each."""

_MIN_RSA_BITS: Final = 2048
_MAX_RSA_BITS: Final = 4096
_DEFAULT_EXPONENT: Final = 65537
_MAX_UNIQUE: Final = _MAX_RSA_BITS // 8
_MAX_ECC: Final = 128

_CURVES: Final[dict[Curve, tuple[ec.EllipticCurve, int]]] = {
    Curve.P256: (ec.SECP256R1(), 2**256 - 2**224 + 2**192 + 2**96 - 1),
    Curve.P384: (ec.SECP384R1(), 2**384 - 2**128 - 2**96 + 2**32 - 1),
}
_ACCEPTED_CURVES: Final = (ec.SECP256R1, ec.SECP384R1)


class ObjectAttributes(IntFlag):
    """TPMA_OBJECT, TPM 2.0 Part 2 §8.3; bits without a name here are kept."""

    FIXED_TPM = 1 << 1
    ST_CLEAR = 1 << 2
    FIXED_PARENT = 1 << 4
    SENSITIVE_DATA_ORIGIN = 1 << 5
    USER_WITH_AUTH = 1 << 6
    ADMIN_WITH_POLICY = 1 << 7
    FIRMWARE_LIMITED = 1 << 8
    SVN_LIMITED = 1 << 9
    NO_DA = 1 << 10
    ENCRYPTED_DUPLICATION = 1 << 11
    RESTRICTED = 1 << 16
    DECRYPT = 1 << 17
    SIGN = 1 << 18
    X509_SIGN = 1 << 19


class EccPoint(msgspec.Struct, frozen=True):
    """TPMS_ECC_POINT as written; templates leave it empty or zero."""

    x: bytes
    y: bytes


@dataclass(frozen=True, slots=True)
class Public:
    """TPMT_PUBLIC.

    `unique` is the modulus (RSA), the point (ECC) or a digest (all others).

    Raises:
        MalformedError: `type`, `params` and `unique` do not belong together.
        UnsupportedError: `name_alg` is no hash.
    """

    type: Alg
    name_alg: Alg
    attributes: ObjectAttributes
    auth_policy: bytes
    params: Params
    unique: bytes | EccPoint
    _key: PublicKey | None = field(default=None, init=False, compare=False, repr=False)
    _name: bytes = field(default=b"", init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.name_alg is not Alg.NULL:
            digest_size(self.name_alg)
        if _TYPES[type(self.params)] is not self.type:
            raise MalformedError(
                f"the parameters are not those of an object of type {self.type.name}"
            )
        if isinstance(self.unique, EccPoint) is not (self.type is Alg.ECC):
            raise MalformedError(
                f"the unique field is not that of an object of type {self.type.name}"
            )

    @classmethod
    def decode(cls, raw: bytes) -> Public:
        """Read a whole TPMT_PUBLIC.

        Raises:
            MalformedError: cut short, or followed by something.
            UnsupportedError: an unknown type, algorithm, scheme or curve.
        """
        return _decoded(bytes(raw))

    @classmethod
    def decode_sized(cls, raw: bytes) -> Public:
        """Read a whole TPM2B_PUBLIC, as `tpm2_readpublic -o` writes it."""
        reader = Reader(raw, "TPM2B_PUBLIC")
        inner = reader.sized()
        reader.end()
        return cls.decode(inner)

    def encode(self) -> bytes:
        """The TPMT_PUBLIC."""
        if isinstance(self.unique, EccPoint):
            unique = codec.tpm2b(self.unique.x) + codec.tpm2b(self.unique.y)
        else:
            unique = codec.tpm2b(self.unique)
        return (
            codec.u16(self.type)
            + codec.u16(self.name_alg)
            + codec.u32(self.attributes)
            + codec.tpm2b(self.auth_policy)
            + self.params.encode()
            + unique
        )

    def encode_sized(self) -> bytes:
        """The TPM2B_PUBLIC."""
        return codec.tpm2b(self.encode())

    @property
    def name(self) -> bytes:
        """The object's Name: nameAlg || H(public area), TPM 2.0 Part 1 §16.

        Raises:
            UnsupportedError: the object has no name algorithm, hence no Name.
        """
        if not self._name:
            name = codec.u16(self.name_alg) + new_hash(self.name_alg, self.encode())
            object.__setattr__(self, "_name", name)
        return self._name

    def key(self) -> PublicKey:
        """The public key.

        Raises:
            WeakKeyError: not a key, or none that hwtrust would believe: a curve
                other than P-256 and P-384, a point that is not on it, RSA below
                2048 bits, an exponent that is even or below 65537.
        """
        key = self._key
        if key is None:
            key = _parsed(self)
            object.__setattr__(self, "_key", key)
        return key


_CLASSES: Final[dict[Alg, type[Params]]] = {
    Alg.RSA: RsaParams,
    Alg.ECC: EccParams,
    Alg.KEYEDHASH: KeyedHashParams,
    Alg.SYMCIPHER: SymCipherParams,
}
_TYPES: Final = {cls: alg for alg, cls in _CLASSES.items()}


@lru_cache(maxsize=KEPT)
def _decoded(raw: bytes) -> Public:
    reader = Reader(raw, "TPMT_PUBLIC")
    type_ = to_alg(reader.u16())
    if type_ not in _CLASSES:
        raise UnsupportedError(f"{type_.name} is no type of object", alg=int(type_))
    name_alg = to_alg(reader.u16())
    attributes = ObjectAttributes(reader.u32())
    auth_policy = reader.sized(MAX_DIGEST_SIZE)
    params = _CLASSES[type_].read(reader)
    unique: bytes | EccPoint
    if type_ is Alg.ECC:
        unique = EccPoint(reader.sized(_MAX_ECC), reader.sized(_MAX_ECC))
    else:
        unique = reader.sized(_MAX_UNIQUE if type_ is Alg.RSA else MAX_DIGEST_SIZE)
    reader.end()
    return Public(type_, name_alg, attributes, auth_policy, params, unique)


def require_strong(key: PublicKey) -> None:
    """Refuse a key that hwtrust would not believe, wherever it came from.

    Raises:
        WeakKeyError: a curve other than P-256 and P-384; RSA below 2048 or above
            4096 bits; an exponent that is even or below 65537.
    """
    if isinstance(key, ec.EllipticCurvePublicKey):
        if not isinstance(key.curve, _ACCEPTED_CURVES):
            raise WeakKeyError(
                f"keys on the curve {key.curve.name} are not accepted, only P-256 and P-384"
            )
        return
    if not _MIN_RSA_BITS <= key.key_size <= _MAX_RSA_BITS:
        raise WeakKeyError(
            f"an RSA key has {key.key_size} bits; {_MIN_RSA_BITS} to {_MAX_RSA_BITS} are accepted",
            bits=key.key_size,
        )
    numbers = key.public_numbers()
    if numbers.e < _DEFAULT_EXPONENT or numbers.n % 2 == 0:
        raise WeakKeyError(
            f"an RSA key has the exponent {numbers.e} or an even modulus; "
            f"exponents from {_DEFAULT_EXPONENT} are accepted",
            exponent=numbers.e,
        )


def _parsed(public: Public) -> PublicKey:
    if isinstance(public.params, EccParams) and isinstance(public.unique, EccPoint):
        return _ecc_key(public.params.curve, public.unique)
    if isinstance(public.params, RsaParams) and isinstance(public.unique, bytes):
        return _rsa_key(public.params, public.unique)
    raise WeakKeyError(f"an object of type {public.type.name} holds no public key")


def _ecc_key(curve: Curve, point: EccPoint) -> PublicKey:
    if curve not in _CURVES:
        raise WeakKeyError(
            f"keys on the curve {curve.name} are not accepted, only P-256 and P-384",
            curve=int(curve),
        )
    x, y = int.from_bytes(point.x, "big"), int.from_bytes(point.y, "big")
    on, prime = _CURVES[curve]
    refused = WeakKeyError(f"the key is no point on the curve {curve.name}", curve=int(curve))
    # OpenSSL would reduce what is too large, and so give one key many Names.
    if max(x, y) >= prime:
        raise refused
    try:
        return ec.EllipticCurvePublicNumbers(x, y, on).public_key()
    except ValueError:
        raise refused from None


def _rsa_key(params: RsaParams, modulus: bytes) -> PublicKey:
    n, e = int.from_bytes(modulus, "big"), params.exponent or _DEFAULT_EXPONENT
    if n.bit_length() != params.bits:
        raise WeakKeyError(
            f"an RSA key says {params.bits} bits, and has {n.bit_length()}", bits=n.bit_length()
        )
    try:
        key = rsa.RSAPublicNumbers(e, n).public_key()
    except ValueError:
        raise WeakKeyError("the modulus and exponent are no RSA key") from None
    require_strong(key)
    return key
