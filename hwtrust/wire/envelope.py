"""Signed messages: DSSE envelopes, signed with ECDSA P-256 over SHA-256.

Rules:
1. The signature covers the payload's type and the payload's received bytes
   (DSSE's pre-authentication encoding); nothing is re-serialised to be checked.
2. The payload is decoded only after the signature has verified.
3. A type is accepted only where it is asked for: a signed time cannot stand in
   for signed root metadata.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from hwtrust.errors import EnvelopeError, MalformedError

if TYPE_CHECKING:
    from collections.abc import Callable

PAYLOAD_LIMIT = 64 * 1024

Message = TypeVar("Message", bound=msgspec.Struct)


class EnvelopeSignature(msgspec.Struct, frozen=True, kw_only=True):
    """One signature of an envelope; `sig` is a DER ECDSA-Sig-Value."""

    sig: bytes
    keyid: str = ""


class Envelope(msgspec.Struct, frozen=True, kw_only=True, rename={"payload_type": "payloadType"}):
    """A DSSE envelope (secure-systems-lab/dsse, protocol 1.0)."""

    payload_type: str
    payload: bytes
    signatures: tuple[EnvelopeSignature, ...]


def seal(message: msgspec.Struct, *, sign: Callable[[bytes], bytes]) -> Envelope:
    """Encode `message` and sign it; `sign` gives a DER ECDSA signature of the bytes it gets."""
    payload = msgspec.json.encode(message)
    kind = _payload_type(type(message))
    signature = EnvelopeSignature(sig=sign(_pre_authentication_encoding(kind, payload)))
    return Envelope(payload_type=kind, payload=payload, signatures=(signature,))


def unseal(
    envelope: Envelope, expected: type[Message], *, key: ec.EllipticCurvePublicKey
) -> Message:
    """Verify `envelope` under `key` and decode it as `expected`.

    Raises:
        EnvelopeError: another payload type, or no signature that verifies.
        MalformedError: validly signed, but not an `expected`.
    """
    kind = _payload_type(expected)
    if envelope.payload_type != kind:
        message = f"a signed {kind} is needed, this is a {envelope.payload_type[:80]!r}"
        raise EnvelopeError(message)
    if len(envelope.payload) > PAYLOAD_LIMIT:
        raise MalformedError("a signed message is larger than any real one", structure=kind)
    signed = _pre_authentication_encoding(kind, envelope.payload)
    if not any(_verifies(key, item.sig, signed) for item in envelope.signatures[:4]):
        raise EnvelopeError(f"the signature of this {kind} is not by the trusted key")
    try:
        return msgspec.json.decode(envelope.payload, type=expected)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedError(f"signed {kind}: {error}", structure=kind) from error


def _payload_type(message: type[msgspec.Struct]) -> str:
    return f"application/vnd.hwtrust.{message.__name__}+json"


def _pre_authentication_encoding(kind: str, payload: bytes) -> bytes:
    name = kind.encode()
    return b"DSSEv1 %d %b %d %b" % (len(name), name, len(payload), payload)


def _verifies(key: ec.EllipticCurvePublicKey, signature: bytes, signed: bytes) -> bool:
    try:
        key.verify(signature, signed, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True
