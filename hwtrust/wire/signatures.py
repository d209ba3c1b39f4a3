"""A TPM's signature: TPMT_SIGNATURE, TPM 2.0 Part 2 §11.3.4.

The form only; `hwtrust.verify.signature` checks one. ECDSA values are numbers,
because TPMs differ in whether they write leading zeros; a decoded signature
remembers how its TPM wrote them, so that encoding gives the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Self

from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)

from hwtrust.errors import MalformedError, UnsupportedError
from hwtrust.wire import codec
from hwtrust.wire.algorithms import Alg, digest_size, to_alg, to_hash_alg
from hwtrust.wire.codec import Reader

RSA_ALGS: Final = frozenset({Alg.RSASSA, Alg.RSAPSS})

_ECC_SIZES: Final = (32, 48, 66)
_MAX_ECC: Final = 128
_MAX_RSA: Final = 512


@dataclass(frozen=True, slots=True)
class Signature:
    """TPMT_SIGNATURE: RSASSA or RSAPSS with its bytes, or ECDSA with (r, s).

    Raises:
        MalformedError: the value has not the form that `alg` has.
        UnsupportedError: another algorithm, or `hash` is no hash.
    """

    alg: Alg
    hash: Alg
    value: bytes | tuple[int, int]
    sizes: tuple[int, int] | None = field(default=None, compare=False, repr=False)
    """Bytes in which `r` and `s` are written; the smallest curve that fits, if None."""

    def __post_init__(self) -> None:
        digest_size(self.hash)
        if self.alg in RSA_ALGS:
            if not isinstance(self.value, bytes):
                raise MalformedError(f"{self.alg.name} signatures are bytes")
        elif self.alg is Alg.ECDSA:
            if isinstance(self.value, bytes) or min(self.value) < 0:
                raise MalformedError("ECDSA signatures are two numbers that are not negative")
        else:
            raise UnsupportedError(
                f"{self.alg.name} is no signature that hwtrust takes", alg=int(self.alg)
            )

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Read a whole TPMT_SIGNATURE.

        Raises:
            MalformedError: cut short, or followed by something.
            UnsupportedError: neither RSASSA, RSAPSS nor ECDSA; no known hash.
        """
        reader = Reader(raw, "TPMT_SIGNATURE")
        alg = to_alg(reader.u16())
        if alg is Alg.ECDSA:
            hash_ = to_hash_alg(reader.u16())
            r, s = reader.sized(_MAX_ECC), reader.sized(_MAX_ECC)
            value = int.from_bytes(r, "big"), int.from_bytes(s, "big")
            signature = cls(alg, hash_, value, (len(r), len(s)))
        elif alg in RSA_ALGS:
            signature = cls(alg, to_hash_alg(reader.u16()), reader.sized(_MAX_RSA))
        else:
            raise UnsupportedError(f"{alg.name} is no signature that hwtrust takes", alg=int(alg))
        reader.end()
        return signature

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


def _fitting(value: tuple[int, int]) -> tuple[int, int]:
    for size in _ECC_SIZES:
        if max(value).bit_length() <= 8 * size:
            return size, size
    return _ECC_SIZES[-1], _ECC_SIZES[-1]
