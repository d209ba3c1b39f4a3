"""A TPM's signature: TPMT_SIGNATURE, TPM 2.0 Part 2 §11.3.4.

The form only; `hwtrust.verify.signature` checks one. ECDSA values are numbers,
because TPMs differ in whether they write leading zeros; a decoded signature
remembers how its TPM wrote them, so that encoding gives the same bytes.
"""

from __future__ import annotations

import struct
from struct import Struct
from typing import Final, NoReturn, Self

import msgspec
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)

from hwtrust.errors import MalformedError, UnsupportedError
from hwtrust.wire import codec
from hwtrust.wire.algorithms import Alg, digest_size, to_alg, to_hash_alg
from hwtrust.wire.codec import Reader

RSA_ALGS: Final = frozenset({Alg.RSASSA, Alg.RSAPSS})

_ECDSA: Final = Alg.ECDSA

_TAKEN: Final = {int(alg): alg for alg in (*RSA_ALGS, _ECDSA)}

_HEAD: Final = Struct(">HHH")
"""sigAlg, hash, and the size of the signature's first field."""
_U16: Final = Struct(">H")

_ECC_SIZES: Final = (32, 48, 66)
_MAX_ECC: Final = 128
_MAX_RSA: Final = 512


class Signature(msgspec.Struct, frozen=True, eq=False):
    """TPMT_SIGNATURE: RSASSA or RSAPSS with its bytes, or ECDSA with (r, s).

    Raises:
        MalformedError: the value has not the form that `alg` has.
        UnsupportedError: another algorithm, or `hash` is no hash.
    """

    alg: Alg
    hash: Alg
    value: bytes | tuple[int, int]
    sizes: tuple[int, int] | None = None
    """Bytes in which `r` and `s` are written; the smallest curve that fits, if None.

    It says nothing about the signature: two that differ in it alone are equal.
    """

    def __post_init__(self) -> None:
        digest_size(self.hash)
        value = self.value
        if self.alg is _ECDSA:
            if isinstance(value, bytes) or value[0] < 0 or value[1] < 0:
                raise MalformedError("ECDSA signatures are two numbers that are not negative")
        elif self.alg in RSA_ALGS:
            if not isinstance(value, bytes):
                raise MalformedError(f"{self.alg.name} signatures are bytes")
        else:
            raise UnsupportedError(
                f"{self.alg.name} is no signature that hwtrust takes", alg=int(self.alg)
            )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Signature):
            return NotImplemented
        return (self.alg, self.hash, self.value) == (other.alg, other.hash, other.value)

    def __hash__(self) -> int:
        return hash((self.alg, self.hash, self.value))

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Read a whole TPMT_SIGNATURE.

        Raises:
            MalformedError: cut short, or followed by something.
            UnsupportedError: neither RSASSA, RSAPSS nor ECDSA; no known hash.
        """
        alg, hash_, first, second = signature_fields(raw)
        if alg is not _ECDSA:
            return cls(alg, hash_, first)
        value = int.from_bytes(first, "big"), int.from_bytes(second, "big")
        return cls(alg, hash_, value, (len(first), len(second)))

    @classmethod
    def from_der_ecdsa(cls, der: bytes, hash_: Alg) -> Self:
        """Read a strict-DER `ECDSA-Sig-Value`, as `tpm2_quote -f plain` writes it.

        Raises:
            MalformedError: not DER, not the one DER encoding of its numbers, or
                followed by something.
        """
        try:
            r, s = decode_dss_signature(der)
            canonical = encode_dss_signature(r, s)
        except ValueError:
            raise MalformedError("the signature is no DER-encoded ECDSA signature") from None
        if canonical != der:
            raise MalformedError("the signature is not written as DER requires")
        return cls(Alg.ECDSA, hash_, (r, s))

    @classmethod
    def from_raw_rsa(cls, value: bytes, hash_: Alg, alg: Alg = Alg.RSASSA) -> Self:
        """Take bare RSA signature bytes, as `tpm2_quote -f plain` writes them."""
        if len(value) > _MAX_RSA:
            raise MalformedError(f"an RSA signature has {len(value)} bytes, {_MAX_RSA} at most")
        return cls(alg, hash_, bytes(value))

    @property
    def fields(self) -> tuple[Alg, Alg, bytes, bytes]:
        """As `signature_fields` gives them, the numbers without leading zeros."""
        value = self.value
        if isinstance(value, bytes):
            return self.alg, self.hash, value, b""
        r, s = (number.to_bytes(_bytes_in(number), "big") for number in value)
        return self.alg, self.hash, r, s

    def encode(self) -> bytes:
        """The TPMT_SIGNATURE.

        Raises:
            MalformedError: r or s does not fit into its size.
        """
        head = codec.u16(self.alg) + codec.u16(self.hash)
        if isinstance(self.value, bytes):
            return head + codec.tpm2b(self.value)
        sizes = self.sizes or _fitting(self.value)
        try:
            r, s = (
                number.to_bytes(size, "big") for number, size in zip(self.value, sizes, strict=True)
            )
        except OverflowError:
            raise MalformedError("an ECDSA signature's numbers are too large") from None
        return head + codec.tpm2b(r) + codec.tpm2b(s)


def signature_fields(raw: bytes) -> tuple[Alg, Alg, bytes, bytes]:
    """Read a whole TPMT_SIGNATURE: algorithm, hash, and its one or two fields as written.

    The fields of ECDSA are `r` and `s`; RSA has one alone, and an empty second.

    Raises:
        MalformedError: cut short, or followed by something.
        UnsupportedError: neither RSASSA, RSAPSS nor ECDSA; no known hash.
    """
    raw = bytes(raw)
    try:
        number, hash_number, size = _HEAD.unpack_from(raw)
        alg = _TAKEN.get(number) or _refused(number)
        hash_ = to_hash_alg(hash_number)
        end = _HEAD.size + size
        if alg is not _ECDSA:
            _require_form(raw, end, size, _MAX_RSA)
            return alg, hash_, raw[_HEAD.size :], b""
        (second_size,) = _U16.unpack_from(raw, end)
    except struct.error:
        _cut_short(raw)
    if len(raw) != end + 2 + second_size or size > _MAX_ECC or second_size > _MAX_ECC:
        _require_form(raw, end + 2 + second_size, max(size, second_size), _MAX_ECC)
    return alg, hash_, raw[_HEAD.size : end], raw[end + 2 :]


def _bytes_in(number: int) -> int:
    return (number.bit_length() + 7) // 8


def _refused(number: int) -> NoReturn:
    name = to_alg(number).name
    raise UnsupportedError(f"{name} is no signature that hwtrust takes", alg=number)


def _cut_short(raw: bytes) -> NoReturn:
    """Say what is wrong with a signature that ends too early: its algorithms come first."""
    reader = Reader(raw, "TPMT_SIGNATURE")
    number = reader.u16()
    if number not in _TAKEN:
        _refused(number)
    to_hash_alg(reader.u16())
    raise MalformedError("TPMT_SIGNATURE is cut short", size=len(raw))


def _require_form(raw: bytes, end: int, size: int, most: int) -> None:
    """Refuse what does not end at `end`, and a field of `size` bytes where `most` are possible."""
    if len(raw) != end:
        raise MalformedError(
            "TPMT_SIGNATURE is cut short, or followed by bytes that do not belong to it",
            size=len(raw),
        )
    if size > most:
        raise MalformedError(f"TPMT_SIGNATURE has a field of {size} bytes, {most} at most")


def _fitting(value: tuple[int, int]) -> tuple[int, int]:
    for size in _ECC_SIZES:
        if max(value).bit_length() <= 8 * size:
            return size, size
    return _ECC_SIZES[-1], _ECC_SIZES[-1]
