"""COSE_Sign1: one signature, by the key's own algorithm, over the bytes as received."""

from __future__ import annotations

from itertools import permutations

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from hwtrust.errors import MalformedError, UnsupportedError
from hwtrust.errors.cose import CoseAlgorithmError, CoseSignatureError
from hwtrust.verify.enclaves.cose import require_signed
from hwtrust.wire.enclaves.cose import MAX_SIZE, CoseAlg, CoseSign1
from simulators.cose_signer import key_named, raw_signature, sign1

KEYS = {
    CoseAlg.ES256: key_named("256", ec.SECP256R1()),
    CoseAlg.ES384: key_named("384", ec.SECP384R1()),
    CoseAlg.ES512: key_named("521", ec.SECP521R1()),
}
KEY = KEYS[CoseAlg.ES384]
ORDER_384 = int(
    "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf"
    "581a0db248b0a77aecec196accc52973",
    16,
)


@pytest.mark.parametrize("tagged", [True, False])
@pytest.mark.parametrize("alg", CoseAlg, ids=lambda alg: alg.name)
def test_a_signed_message_is_believed(alg: CoseAlg, tagged: bool) -> None:
    """By each algorithm, with the tag and without."""
    message = CoseSign1.decode(sign1(b"payload", key=KEYS[alg], tagged=tagged), tagged=tagged)
    assert (message.alg, message.payload) == (alg, b"payload")
    require_signed(message, key=KEYS[alg].public_key())


@pytest.mark.parametrize("tagged", [True, False])
def test_a_tag_is_there_exactly_where_it_belongs(tagged: bool) -> None:
    """A message without its tag is another kind of message."""
    with pytest.raises(MalformedError):
        CoseSign1.decode(sign1(b"payload", key=KEY, tagged=tagged), tagged=not tagged)
    # The tags of COSE_Mac0 and COSE_Encrypt0.
    for other in (b"\xd1", b"\xd0"):
        with pytest.raises(MalformedError):
            CoseSign1.decode(other + sign1(b"payload", key=KEY, tagged=False), tagged=tagged)


def message_of(*parts: object) -> bytes:
    """A message of any parts."""
    return cbor2.dumps(list(parts))


ES384 = cbor2.dumps({1: -35})
SIGNATURE = bytes(96)
MALFORMED = {
    "nothing": b"",
    "no list": cbor2.dumps({}),
    "three parts": message_of(ES384, {}, b""),
    "five parts": message_of(ES384, {}, b"", SIGNATURE, b""),
    "a protected header that is no byte string": message_of({1: -35}, {}, b"", SIGNATURE),
    "a payload that is elsewhere": message_of(ES384, {}, None, SIGNATURE),
    "a signature that is no byte string": message_of(ES384, {}, b"", "x"),
    "an unprotected header": message_of(ES384, {4: b"kid"}, b"", SIGNATURE),
    "an unprotected header that is no map": message_of(ES384, [], b"", SIGNATURE),
    "an unprotected header that is null": message_of(ES384, None, b"", SIGNATURE),
    "no protected header": message_of(b"", {}, b"", SIGNATURE),
    "a protected header without an algorithm": message_of(b"\xa0", {}, b"", SIGNATURE),
    "an algorithm by its name": message_of(cbor2.dumps({1: "ES384"}), {}, b"", SIGNATURE),
    "an algorithm under `true`": message_of(bytes.fromhex("a1f53822"), {}, b"", SIGNATURE),
    "an algorithm twice": message_of(bytes.fromhex("a2013822013822"), {}, b"", SIGNATURE),
    "an algorithm in more bytes than needed": message_of(
        bytes.fromhex("a101390022"), {}, b"", SIGNATURE
    ),
    "another header beside it": message_of(cbor2.dumps({1: -35, 4: b"kid"}), {}, b"", SIGNATURE),
    "a list beside the algorithm": message_of(cbor2.dumps({1: -35, 2: [1]}), {}, b"", SIGNATURE),
    "a number": cbor2.dumps(5),
    "a header that is a text": message_of("\xa1", {}, b"", SIGNATURE),
    "a signature that is a text of its length": message_of(ES384, {}, b"", "x" * 96),
    "header and payload that are texts": message_of("\xa1", {}, "", SIGNATURE),
    "all three as texts": message_of("\xa1", {}, "", "x" * 96),
    "something behind the header": message_of(ES384 + b"\x00", {}, b"", SIGNATURE),
    "a signature that is too short": message_of(ES384, {}, b"", SIGNATURE[1:]),
    "a signature that is too long": message_of(ES384, {}, b"", SIGNATURE + b"\x00"),
    "a signature of another curve's length": message_of(ES384, {}, b"", bytes(64)),
    "something behind it": message_of(ES384, {}, b"", SIGNATURE) + b"\x00",
    "a payload that is too large": message_of(ES384, {}, bytes(MAX_SIZE), SIGNATURE),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_message_of_another_form_is_refused(case: str) -> None:
    """What is not signed is not there, and what is has one form."""
    with pytest.raises(MalformedError) as refused:
        CoseSign1.decode(MALFORMED[case], tagged=False)
    assert refused.value.code == "wire:malformed"


@pytest.mark.parametrize("alg", [-8, -37, -47, 5, 0])
def test_another_algorithm_is_not_taken(alg: int) -> None:
    """EdDSA, RSA, secp256k1, a MAC."""
    with pytest.raises(UnsupportedError) as refused:
        CoseSign1.decode(message_of(cbor2.dumps({1: alg}), {}, b"", SIGNATURE), tagged=False)
    assert refused.value.code == "wire:unsupported"


def test_every_cut_is_refused() -> None:
    """At each byte."""
    whole = sign1(b"payload", key=KEY, tagged=True)
    for end in range(len(whole)):
        with pytest.raises(MalformedError):
            CoseSign1.decode(whole[:end], tagged=True)


@pytest.mark.parametrize(("own", "named"), list(permutations(CoseAlg, 2)), ids=lambda alg: alg.name)
def test_the_algorithm_is_the_keys_own(own: CoseAlg, named: CoseAlg) -> None:
    """A message cannot choose the hash: signed so by the very key, it is refused."""
    protected = cbor2.dumps({1: int(named)})
    signed = cbor2.dumps(["Signature1", protected, b"", b"payload"])
    signature = raw_signature(KEYS[own], signed, int(named)).rjust(named.signature_size, b"\x00")
    raw = message_of(protected, {}, b"payload", signature[-named.signature_size :])
    with pytest.raises(CoseAlgorithmError) as refused:
        require_signed(CoseSign1.decode(raw, tagged=False), key=KEYS[own].public_key())
    assert refused.value.code == "evidence:cose:algorithm"


def test_a_key_that_is_no_curve_point_is_refused() -> None:
    """RSA keys sign no such messages."""
    message = CoseSign1.decode(sign1(b"payload", key=KEY, tagged=False), tagged=False)
    with pytest.raises(CoseAlgorithmError):
        require_signed(message, key=rsa.generate_private_key(65537, 2048).public_key())


@pytest.mark.parametrize("number", [0, ORDER_384, ORDER_384 + 1, 2**384 - 1])
@pytest.mark.parametrize("half", ["r", "s"])
def test_numbers_outside_the_group_sign_nothing(half: str, number: int) -> None:
    """Neither zero nor the order, as r or as s."""
    message = CoseSign1.decode(sign1(b"payload", key=KEY, tagged=False), tagged=False)
    r, s = message.signature[:48], message.signature[48:]
    bad = number.to_bytes(48, "big")
    signature = bad + s if half == "r" else r + bad
    raw = message_of(message.protected, {}, message.payload, signature)
    with pytest.raises(CoseSignatureError) as refused:
        require_signed(CoseSign1.decode(raw, tagged=False), key=KEY.public_key())
    assert refused.value.code == "evidence:cose:signature"


def test_another_key_or_payload_is_refused() -> None:
    """The signature is over the payload, by the key."""
    message = CoseSign1.decode(sign1(b"payload", key=KEY, tagged=False), tagged=False)
    with pytest.raises(CoseSignatureError):
        require_signed(message, key=key_named("other").public_key())
    other = message_of(message.protected, {}, b"Payload", message.signature)
    with pytest.raises(CoseSignatureError):
        require_signed(CoseSign1.decode(other, tagged=False), key=KEY.public_key())
