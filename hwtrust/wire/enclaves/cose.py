"""A message with one signature: COSE_Sign1, RFC 9052 §4.2.

    bytes ── CoseSign1.decode ──▶ protected, payload, signature
                                  to_be_signed: Sig_structure over the bytes as received

Rules:
1. The tag 18 is in front exactly where the kind of evidence has it.
2. The protected header is a map with an algorithm and nothing else; the unprotected
   one, which nobody signs, is empty. The payload is inside.
3. The signature has the one length that its algorithm has.
4. What is signed are the bytes of header and payload as received.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, Self

import cbor2
import msgspec

from hwtrust.errors import MalformedError, UnsupportedError
from hwtrust.wire.enclaves import cbor

MAX_SIZE: Final = 32 * 1024
MAX_PROTECTED: Final = 16
"""Bytes: a map of one small number to another has at most 12."""
_DEPTH: Final = 2
_TAG_18: Final = b"\xd2"
_PARTS: Final = 4
_ALG: Final = 1
_NUMBERS: Final = range(-(2**16), 2**16)
_CONTEXT: Final = "Signature1"


class CoseAlg(IntEnum):
    """Signature algorithms, RFC 9053 §2.1."""

    ES256 = -7
    ES384 = -35
    ES512 = -36

    @property
    def signature_size(self) -> int:
        """Of r and s, each as long as the order of the curve."""
        return _SIGNATURE_SIZES[self]


_SIGNATURE_SIZES: Final = {CoseAlg.ES256: 64, CoseAlg.ES384: 96, CoseAlg.ES512: 132}
_ALGORITHMS: Final = {int(alg): alg for alg in CoseAlg}


class CoseSign1(msgspec.Struct, frozen=True, gc=False):
    """A signed message; nothing of it is believed yet."""

    protected: bytes
    alg: CoseAlg
    payload: bytes
    signature: bytes

    @classmethod
    def decode(cls, raw: bytes, *, tagged: bool) -> Self:
        """Read a whole message; `tagged` says whether it has its tag in front.

        Raises:
            MalformedError: it is no such message, too large, or has other headers.
            UnsupportedError: it is signed with another algorithm.
        """
        # (1): tag.
        if tagged:
            if raw[:1] != _TAG_18:
                raise MalformedError("a COSE_Sign1 message lacks its tag")
            raw = raw[1:]
        value = cbor.decode(raw, "a COSE_Sign1 message", most=MAX_SIZE, depth=_DEPTH)
        if type(value) is not list or len(value) != _PARTS:
            raise MalformedError("a COSE_Sign1 message is not made of its four parts")
        protected, unprotected, payload, signature = value
        # (2): headers and payload.
        if type(unprotected) is not dict or unprotected:
            raise MalformedError("a COSE_Sign1 message has headers that nobody has signed")
        if not (type(protected) is type(payload) is type(signature) is bytes):
            raise MalformedError("a COSE_Sign1 message has a part that is no byte string")
        alg = _read_alg(protected)
        # (3): signature.
        if len(signature) != alg.signature_size:
            raise MalformedError(
                f"a signature with {alg.name} has {len(signature)} bytes, "
                f"it should have {alg.signature_size}"
            )
        return cls(protected, alg, payload, signature)

    @property
    def to_be_signed(self) -> bytes:
        """Sig_structure without external data, RFC 9052 §4.4."""
        # (4): as received; byte strings stay what they are when they are wrapped.
        return cbor2.dumps([_CONTEXT, self.protected, b"", self.payload])


def _read_alg(protected: bytes) -> CoseAlg:
    what = "the protected header of a COSE_Sign1 message"
    headers = cbor.Fields(cbor.decode(protected, what, most=MAX_PROTECTED, depth=1), what)
    alg = _ALGORITHMS.get(headers.number(_ALG, _NUMBERS))
    headers.end()
    if alg is None:
        raise UnsupportedError("a COSE_Sign1 message has another algorithm than ES256/384/512")
    return alg
