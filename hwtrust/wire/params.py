"""The parameters of a TPM object by its type: TPMU_PUBLIC_PARMS, TPM 2.0 Part 2 §12.2.3."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self

import msgspec

from hwtrust.errors import UnsupportedError
from hwtrust.wire import codec
from hwtrust.wire.algorithms import Alg, Curve, to_alg, to_curve, to_hash_alg

if TYPE_CHECKING:
    from hwtrust.wire.codec import Reader

_ECC_SCHEMES: Final = frozenset({Alg.ECDSA, Alg.ECDH, Alg.SM2, Alg.ECSCHNORR, Alg.ECMQV})
_RSA_SCHEMES: Final = frozenset({Alg.RSASSA, Alg.RSAPSS, Alg.OAEP})
_KDFS: Final = frozenset({Alg.MGF1, Alg.KDF1_SP800_56A, Alg.KDF2, Alg.KDF1_SP800_108})
_CIPHERS: Final = frozenset({Alg.TDES, Alg.AES, Alg.SM4, Alg.CAMELLIA})
_MODES: Final = frozenset({Alg.NULL, Alg.CTR, Alg.OFB, Alg.CBC, Alg.CFB, Alg.ECB})


class Symmetric(msgspec.Struct, frozen=True):
    """TPMT_SYM_DEF_OBJECT; `bits` and `mode` mean nothing where `alg` is NULL."""

    alg: Alg = Alg.NULL
    bits: int = 0
    mode: Alg = Alg.NULL

    @classmethod
    def read(cls, reader: Reader) -> Self:
        """Read one; what follows it stays in `reader`.

        Raises:
            UnsupportedError: no cipher or no mode.
        """
        alg = to_alg(reader.u16())
        if alg is Alg.NULL:
            return cls()
        if alg not in _CIPHERS:
            raise _unsupported(alg, "cipher")
        bits, mode = reader.u16(), to_alg(reader.u16())
        if mode not in _MODES:
            raise _unsupported(mode, "mode of a cipher")
        return cls(alg, bits, mode)

    def encode(self) -> bytes:
        """The TPMT_SYM_DEF_OBJECT."""
        if self.alg is Alg.NULL:
            return codec.u16(self.alg)
        return codec.u16(self.alg) + codec.u16(self.bits) + codec.u16(self.mode)


AES_128_CFB: Final = Symmetric(Alg.AES, 128, Alg.CFB)
AES_256_CFB: Final = Symmetric(Alg.AES, 256, Alg.CFB)
NO_SYMMETRIC: Final = Symmetric()


class EccParams(msgspec.Struct, frozen=True):
    """TPMS_ECC_PARMS."""

    symmetric: Symmetric
    scheme: Alg
    scheme_hash: Alg | None
    curve: Curve
    kdf: Alg = Alg.NULL
    kdf_hash: Alg | None = None

    @classmethod
    def read(cls, reader: Reader) -> Self:
        """Read one; what follows it stays in `reader`.

        Raises:
            UnsupportedError: an unknown scheme, curve or key derivation.
        """
        symmetric = Symmetric.read(reader)
        scheme, scheme_hash = _read_scheme(reader, _ECC_SCHEMES, "scheme of an ECC key")
        curve = to_curve(reader.u16())
        kdf, kdf_hash = _read_scheme(reader, _KDFS, "key derivation")
        return cls(symmetric, scheme, scheme_hash, curve, kdf, kdf_hash)

    def encode(self) -> bytes:
        """The TPMS_ECC_PARMS."""
        return (
            self.symmetric.encode()
            + _encode_scheme(self.scheme, self.scheme_hash)
            + codec.u16(self.curve)
            + _encode_scheme(self.kdf, self.kdf_hash)
        )


class RsaParams(msgspec.Struct, frozen=True):
    """TPMS_RSA_PARMS; the exponent 0 stands for 65537."""

    symmetric: Symmetric
    scheme: Alg
    scheme_hash: Alg | None
    bits: int
    exponent: int = 0

    @classmethod
    def read(cls, reader: Reader) -> Self:
        """Read one; what follows it stays in `reader`.

        Raises:
            UnsupportedError: an unknown scheme.
        """
        symmetric = Symmetric.read(reader)
        scheme, scheme_hash = _read_scheme(
            reader, _RSA_SCHEMES, "scheme of an RSA key", bare=Alg.RSAES
        )
        return cls(symmetric, scheme, scheme_hash, reader.u16(), reader.u32())

    def encode(self) -> bytes:
        """The TPMS_RSA_PARMS."""
        return (
            self.symmetric.encode()
            + _encode_scheme(self.scheme, self.scheme_hash)
            + codec.u16(self.bits)
            + codec.u32(self.exponent)
        )


class KeyedHashParams(msgspec.Struct, frozen=True):
    """TPMS_KEYEDHASH_PARMS: sealed data (NULL), an HMAC key, or an XOR key."""

    scheme: Alg = Alg.NULL
    scheme_hash: Alg | None = None
    kdf: Alg | None = None
    """Only where `scheme` is XOR."""

    @classmethod
    def read(cls, reader: Reader) -> Self:
        """Read one; what follows it stays in `reader`.

        Raises:
            UnsupportedError: an unknown scheme.
        """
        scheme, scheme_hash = _read_scheme(
            reader, frozenset({Alg.HMAC, Alg.XOR}), "scheme of a keyed hash"
        )
        if scheme is not Alg.XOR:
            return cls(scheme, scheme_hash)
        kdf = to_alg(reader.u16())
        if kdf not in _KDFS:
            raise _unsupported(kdf, "key derivation")
        return cls(scheme, scheme_hash, kdf)

    def encode(self) -> bytes:
        """The TPMS_KEYEDHASH_PARMS."""
        kdf = b"" if self.kdf is None else codec.u16(self.kdf)
        return _encode_scheme(self.scheme, self.scheme_hash) + kdf


class SymCipherParams(msgspec.Struct, frozen=True):
    """TPMS_SYMCIPHER_PARMS."""

    symmetric: Symmetric

    @classmethod
    def read(cls, reader: Reader) -> Self:
        """Read one; what follows it stays in `reader`."""
        return cls(Symmetric.read(reader))

    def encode(self) -> bytes:
        """The TPMS_SYMCIPHER_PARMS."""
        return self.symmetric.encode()


Params = EccParams | RsaParams | KeyedHashParams | SymCipherParams


def _unsupported(alg: Alg, what: str) -> UnsupportedError:
    return UnsupportedError(f"{alg.name} is no {what} that hwtrust knows", alg=int(alg))


def _read_scheme(
    reader: Reader, schemes: frozenset[Alg], what: str, *, bare: Alg = Alg.NULL
) -> tuple[Alg, Alg | None]:
    scheme = to_alg(reader.u16())
    if scheme in {Alg.NULL, bare}:
        return scheme, None
    if scheme not in schemes:
        raise _unsupported(scheme, what)
    return scheme, to_hash_alg(reader.u16())


def _encode_scheme(scheme: Alg, scheme_hash: Alg | None) -> bytes:
    return codec.u16(scheme) + (b"" if scheme_hash is None else codec.u16(scheme_hash))
