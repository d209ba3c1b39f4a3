"""Signed messages verify under one key, for one type, over the bytes as received."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Final

import msgspec
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from hwtrust.errors import EnvelopeError, MalformedError
from hwtrust.wire.envelope import (
    PAYLOAD_LIMIT,
    Envelope,
    EnvelopeSignature,
    _pre_authentication_encoding,
    _verifies,
    seal,
    unseal,
)
from hwtrust.wire.messages import SignedTime
from hwtrust.wire.root import RootMetadata

if TYPE_CHECKING:
    from collections.abc import Callable

KEY: Final = ec.generate_private_key(ec.SECP256R1())
FOREIGN_KEY: Final = ec.generate_private_key(ec.SECP256R1())
TIME: Final = SignedTime(device=b"device", nonce=b"nonce", utc_ms=1_800_000_000_000)
TYPE: Final = "application/vnd.hwtrust.SignedTime+json"


def sign(data: bytes, key: ec.EllipticCurvePrivateKey = KEY) -> bytes:
    """A DER signature."""
    return key.sign(data, ec.ECDSA(hashes.SHA256()))


def signed(payload: bytes, kind: str = TYPE) -> Envelope:
    """An envelope that is validly signed over whatever it holds."""
    signature = sign(_pre_authentication_encoding(kind, payload))
    return Envelope(
        payload_type=kind, payload=payload, signatures=(EnvelopeSignature(sig=signature),)
    )


def test_what_is_sealed_unseals() -> None:
    """Sealing and unsealing give the same message, also over JSON."""
    envelope = seal(TIME, sign=sign)
    travelled = msgspec.json.decode(msgspec.json.encode(envelope), type=Envelope)
    assert travelled == envelope
    assert unseal(travelled, SignedTime, key=KEY.public_key()) == TIME


def test_the_encoding_is_that_of_dsse() -> None:
    """The pre-authentication encoding verifies the specification's own example.

    From secure-systems-lab/dsse, protocol.md, "Test Vectors"; the signature
    there is r || s.
    """
    x = 46950820868899156662930047687818585632848591499744589407958293238635476079160
    y = 5640078356564379163099075877009565129882514886557779369047442380624545832820
    raw = base64.b64decode(
        "A3JqsQGtVsJ2O2xqrI5IcnXip5GToJ3F+FnZ+O88SjtR6rDAajabZKciJTfUiHqJPcIAriEGAHTVeCUjW2JIZA=="
    )
    signature = encode_dss_signature(
        int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big")
    )
    key = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
    encoded = _pre_authentication_encoding("http://example.com/HelloWorld", b"hello world")
    assert encoded == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    assert _verifies(key, signature, encoded)


def test_lengths_are_those_of_bytes() -> None:
    """A type or payload with wide characters is as long as its bytes."""
    assert _pre_authentication_encoding("ä", "€".encode()) == "DSSEv1 2 ä 3 €".encode()


def test_one_good_signature_among_others_is_enough() -> None:
    """A backend that changes its key can sign with both for a while."""
    envelope = seal(TIME, sign=sign)
    foreign = EnvelopeSignature(sig=sign(b"anything", FOREIGN_KEY), keyid="old")
    both = msgspec.structs.replace(envelope, signatures=(foreign, *envelope.signatures))
    assert unseal(both, SignedTime, key=KEY.public_key()) == TIME


def test_a_newer_backend_may_say_more() -> None:
    """Fields that this version does not know are passed over."""
    payload = msgspec.json.encode(
        {"device": "ZGV2aWNl", "nonce": "bm9uY2U=", "utc_ms": TIME.utc_ms, "leap": 1}
    )
    assert unseal(signed(payload), SignedTime, key=KEY.public_key()).utc_ms == TIME.utc_ms


def changed(**changes: object) -> Envelope:
    """A good envelope with changes."""
    return msgspec.structs.replace(seal(TIME, sign=sign), **changes)


def with_signature(signature: bytes) -> Envelope:
    """A good envelope with another signature."""
    return changed(signatures=(EnvelopeSignature(sig=signature),))


def another_type() -> Envelope:
    """Root metadata whose payload reads as a time, validly signed."""
    return signed(msgspec.json.encode(TIME), "application/vnd.hwtrust.RootMetadata+json")


UNTRUSTED: dict[str, Callable[[], Envelope]] = {
    "by another key": lambda: seal(TIME, sign=lambda data: sign(data, FOREIGN_KEY)),
    "over another payload": lambda: changed(
        payload=msgspec.json.encode(msgspec.structs.replace(TIME, utc_ms=0))
    ),
    "over the same message, written otherwise": lambda: changed(
        payload=msgspec.json.encode(TIME).replace(b'":', b'": ')
    ),
    "of another type": another_type,
    "of another type, relabelled": lambda: msgspec.structs.replace(
        another_type(), payload_type=TYPE
    ),
    "of this type, labelled as another": lambda: changed(payload_type="application/json"),
    "over the payload alone": lambda: with_signature(sign(msgspec.json.encode(TIME))),
    "that is empty": lambda: with_signature(b""),
    "that is no DER": lambda: with_signature(b"\x30\x06\x02\x01\x01\x02\x01"),
    "that is missing": lambda: changed(signatures=()),
    "behind more signatures than anybody sends": lambda: changed(
        signatures=(
            *(EnvelopeSignature(sig=b"") for _ in range(4)),
            *seal(TIME, sign=sign).signatures,
        )
    ),
}


@pytest.mark.parametrize("case", UNTRUSTED)
def test_an_envelope_is_refused_with_a_signature(case: str) -> None:
    """No signature by the trusted key over these bytes and this type, no message."""
    envelope = UNTRUSTED[case]()
    with pytest.raises(EnvelopeError) as caught:
        unseal(envelope, SignedTime, key=KEY.public_key())
    assert caught.value.code == "wire:envelope:signature"


MALFORMED: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"{",
    "invalid UTF-8": b'{"device": "\xff"}',
    "a list": b"[]",
    "a message without one of its fields": b'{"device": "", "nonce": ""}',
    "a time that is no number": b'{"device": "", "nonce": "", "utc_ms": "now"}',
    "JSON nested without end": b'{"device": "", "nonce": "", "utc_ms": 0, "x": ' + b"[" * 30_000,
    "more than any real message": b" " * PAYLOAD_LIMIT + msgspec.json.encode(TIME),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_signed_message_is_refused_that_holds(case: str) -> None:
    """What the trusted key has signed is still decoded with care."""
    with pytest.raises(MalformedError) as caught:
        unseal(signed(MALFORMED[case]), SignedTime, key=KEY.public_key())
    assert caught.value.code == "wire:malformed"


def test_a_signed_message_may_be_as_long_as_the_limit() -> None:
    """The limit is far above any real message, and itself allowed."""
    payload = msgspec.json.encode(TIME)
    padded = payload + b" " * (PAYLOAD_LIMIT - len(payload))
    assert unseal(signed(padded), SignedTime, key=KEY.public_key()) == TIME


def test_a_payload_is_not_decoded_before_it_verifies() -> None:
    """Bytes that nobody vouches for never reach the JSON decoder."""
    with pytest.raises(EnvelopeError):
        unseal(changed(payload=b"{"), SignedTime, key=KEY.public_key())


def test_every_signed_message_has_a_type_of_its_own() -> None:
    """A signed time cannot stand in for root metadata."""
    with pytest.raises(EnvelopeError):
        unseal(seal(TIME, sign=sign), RootMetadata, key=KEY.public_key())
