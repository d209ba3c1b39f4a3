"""Messages: requests are strict, replies are lenient, a binding binds every field."""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwtrust.wire import messages
from hwtrust.wire.challenge import Purpose
from hwtrust.wire.messages import (
    AttestRequest,
    Binding,
    ChallengeReply,
    ChallengeRequest,
    EnrolFinish,
    Evidence,
    Reply,
    Request,
    Signed,
)
from simulators.attester import Attester, make_release

if TYPE_CHECKING:
    from collections.abc import Callable

NONCE: Final = bytes(range(40))
BINDING: Final = Binding(
    purpose=Purpose.ATTEST,
    nonce=NONCE,
    tls_key=b"a key",
    epoch=7,
    release="1.0",
    log_digest=bytes(32),
)


def attester() -> Attester:
    """A device with something to say."""
    device = Attester()
    device.load(make_release())
    return device


PARTS: Final[tuple[type[msgspec.Struct], ...]] = (Binding, Evidence, Signed)


# --- bindings ------------------------------------------------------------------------


def test_a_binding_hashes_its_length_prefixed_fields() -> None:
    """The qualifyingData, calculated without hwtrust."""
    fields = (
        b"hwtrust binding v1",
        b"attest",
        NONCE,
        b"a key",
        struct.pack(">Q", 7),
        b"1.0",
        bytes(32),
    )
    prefixed = b"".join(struct.pack(">H", len(field)) + field for field in fields)
    assert BINDING.digest() == hashlib.sha256(prefixed).digest()


CHANGES: dict[str, dict[str, object]] = {
    "purpose": {"purpose": Purpose.SESSION},
    "nonce": {"nonce": NONCE[:-1]},
    "TLS key": {"tls_key": b"another key"},
    "epoch": {"epoch": 8},
    "release": {"release": "1.1"},
    "log digest": {"log_digest": b"\1" * 32},
    "statement": {"statement": b"{}"},
    "boundary between nonce and TLS key": {"nonce": NONCE + b"a", "tls_key": b" key"},
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_quote_binds_the(case: str) -> None:
    """19, 80: with any field changed the quote is over something else."""
    assert msgspec.structs.replace(BINDING, **CHANGES[case]).digest() != BINDING.digest()


# --- requests and replies ------------------------------------------------------------


def subclasses(base: type[msgspec.Struct]) -> list[type[msgspec.Struct]]:
    """The messages of one kind."""
    found = [
        item
        for item in vars(messages).values()
        if isinstance(item, type) and issubclass(item, base) and item is not base
    ]
    assert len(found) > 3
    return found


def test_all_messages_are_frozen_and_named() -> None:
    """No message changes after it was checked; no field is told by its place."""
    for message in (*subclasses(Request), *subclasses(Reply), *PARTS):
        assert message.__struct_config__.frozen
        with pytest.raises(TypeError):
            message(object())


def test_requests_refuse_what_they_do_not_know_and_replies_do_not() -> None:
    """A newer backend serves older devices; a device says nothing that is not looked at."""
    for request in (*subclasses(Request), *PARTS):
        assert request.__struct_config__.forbid_unknown_fields
    for reply in subclasses(Reply):
        assert not reply.__struct_config__.forbid_unknown_fields


def test_an_unknown_field_is_refused_in_a_request_and_passed_over_in_a_reply() -> None:
    """The same, as decoding does it."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(
            b'{"device": "AA==", "purpose": "attest", "uuid": "x"}', type=ChallengeRequest
        )
    reply = msgspec.json.decode(b'{"nonce": "AA==", "hint": "x"}', type=ChallengeReply)
    assert reply.nonce == b"\0"


def test_evidence_travels_as_json() -> None:
    """What a device sends is what a backend reads."""
    evidence = attester().evidence(NONCE)
    assert msgspec.json.decode(msgspec.json.encode(evidence), type=Evidence) == evidence


def test_an_enrolment_travels_as_json() -> None:
    """What a device sends is what a backend reads."""
    finish = attester().finish(NONCE)
    assert msgspec.json.decode(msgspec.json.encode(finish), type=EnrolFinish) == finish


@given(st.binary(max_size=300))
def test_no_bytes_are_a_request_or_crash(raw: bytes) -> None:
    """Rubbish is refused by the decoder's own errors, which a server expects."""
    with pytest.raises((msgspec.DecodeError, UnicodeDecodeError)):
        msgspec.json.decode(raw, type=AttestRequest)


def binding_json(**changes: object) -> bytes:
    """A binding as JSON, with changes that its type would not allow."""
    return msgspec.json.encode(msgspec.to_builtins(BINDING) | changes)


def evidence_json(**changes: object) -> bytes:
    """Evidence as JSON, with changes that its type would not allow."""
    return msgspec.json.encode(msgspec.to_builtins(attester().evidence(NONCE)) | changes)


ZERO: Final = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="

INVALID: dict[str, tuple[type[msgspec.Struct], Callable[[], bytes]]] = {
    "18: a nonce in base64url": (Binding, lambda: binding_json(nonce="_-8=")),
    "18: a nonce without its padding": (Binding, lambda: binding_json(nonce="AA")),
    "18: a nonce in hexadecimal": (Binding, lambda: binding_json(nonce="000102030")),
    "5: a nonce of 8193 bytes": (Binding, lambda: binding_json(nonce="AAAA" * 2731)),
    "a purpose that does not exist": (Binding, lambda: binding_json(purpose="admin")),
    "an epoch below zero": (Binding, lambda: binding_json(epoch=-1)),
    "an epoch beyond what a database holds": (Binding, lambda: binding_json(epoch=2**63)),
    "an epoch that is text": (Binding, lambda: binding_json(epoch="7")),
    "a log digest of 31 bytes": (Binding, lambda: binding_json(log_digest="AAAA" * 10 + "AA==")),
    "a zero byte in a name": (
        Binding,
        lambda: binding_json(release="x").replace(b'"x"', b'"\\u0000"'),
    ),
    "half a surrogate pair in a name": (
        Binding,
        lambda: binding_json(release="x").replace(b'"x"', b'"\\ud800"'),
    ),
    "21: a PCR whose number is text": (Evidence, lambda: evidence_json(pcrs={"ten": ZERO})),
    "a PCR value of 33 bytes": (Evidence, lambda: evidence_json(pcrs={"10": "AAAA" * 11})),
    "more than 24 PCR values": (
        Evidence,
        lambda: evidence_json(pcrs={str(number): ZERO for number in range(25)}),
    ),
    "53: a log of more than 4 MiB": (
        Evidence,
        lambda: evidence_json(log="AAAA" * (4 * 1024 * 1024 // 3 + 1)),
    ),
    "93: no evidence": (Evidence, lambda: b"{}"),
}


@pytest.mark.parametrize("case", INVALID)
def test_a_decoder_refuses(case: str) -> None:
    """What a message may not hold never gets past its decoding."""
    kind, make = INVALID[case]
    with pytest.raises(msgspec.DecodeError):
        msgspec.json.decode(make(), type=kind)


def test_the_json_of_these_tests_is_good_without_changes() -> None:
    """So that each case above is refused for what it changes."""
    assert msgspec.json.decode(binding_json(), type=Binding) == BINDING
    assert msgspec.json.decode(evidence_json(), type=Evidence).binding.nonce == NONCE
