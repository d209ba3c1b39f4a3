"""Quotes: bytes that are not exactly those of a quote are refused, whoever signed them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwtrust.errors import (
    AttestTypeError,
    HwTrustError,
    MalformedError,
    NotAttestedError,
)
from hwtrust.verify.attestation import Unsafe
from hwtrust.wire.structures import Attest
from simulators.good_quote import (
    GOOD,
    NONCE,
    TPM,
    verify,
)
from simulators.software_tpm import Signed


@pytest.mark.parametrize("magic", [b"\xffTCH", b"\x00\xc4TC", b"\xfeTCG"])
def test_a_message_without_the_tpms_magic_is_refused_although_the_key_signed_it(
    magic: bytes,
) -> None:
    """Adversary 1: an unrestricted key signs whatever local software composes."""
    message = magic + GOOD.message[4:]
    with pytest.raises(NotAttestedError) as refused:
        verify(Signed(message, TPM.sign(message).encode()))
    assert refused.value.code == "evidence:magic:mismatch"


def test_another_attestation_is_no_quote() -> None:
    """Adversary 2: a certified object, an index, and a type that is not believed at all."""
    others = [
        TPM.certify(TPM.storage, NONCE),
        TPM.attest(NONCE, Attest.decode(TPM.certify(TPM.tls, NONCE).message).attested),
    ]
    time = GOOD.message[:4] + b"\x80\x19" + GOOD.message[6:]
    others.append(Signed(time, TPM.sign(time).encode()))
    for other in others:
        with pytest.raises(AttestTypeError) as refused:
            verify(other)
        assert refused.value.code == "evidence:type:mismatch"


def test_a_quote_cut_at_every_byte_is_refused_although_the_key_signed_it() -> None:
    """Adversary 3: message and signature alike."""
    for length in range(len(GOOD.message)):
        message = GOOD.message[:length]
        with pytest.raises(MalformedError) as refused:
            verify(Signed(message, TPM.sign(message).encode()))
        assert refused.value.code == "wire:malformed"
    for length in range(len(GOOD.signature)):
        with pytest.raises(MalformedError) as refused:
            verify(Signed(GOOD.message, GOOD.signature[:length]))
        assert refused.value.code == "wire:malformed"


def test_trailing_bytes_are_refused_although_the_key_signed_them() -> None:
    """Adversary 4: message and signature alike."""
    message = GOOD.message + b"\0"
    for quote in (
        Signed(message, TPM.sign(message).encode()),
        Signed(GOOD.message, GOOD.signature + b"\0"),
    ):
        with pytest.raises(MalformedError) as refused:
            verify(quote)
        assert refused.value.code == "wire:malformed"


SELECTION_AT = len(GOOD.message) - 2 - 32 - 10


@pytest.mark.parametrize(
    ("what", "raw"),
    {
        "adversary 5: a huge size": GOOD.message[:6] + b"\xff\xff" + GOOD.message[8:],
        "adversary 6: a bank twice": GOOD.message[:SELECTION_AT]
        + bytes.fromhex("00000002 000b03010000 000b03020000")
        + GOOD.message[SELECTION_AT + 10 :],
        "adversary 7: an oversized bitmap": GOOD.message[:SELECTION_AT]
        + bytes.fromhex("00000001 000b050100000000")
        + GOOD.message[SELECTION_AT + 10 :],
    }.items(),
)
def test_a_malformed_quote_is_refused_although_the_key_signed_it(what: str, raw: bytes) -> None:
    """Lines 5 to 7 of the adversaries."""
    with pytest.raises(MalformedError) as refused:
        verify(Signed(raw, TPM.sign(raw).encode()), selection=Unsafe.ANY_SELECTION)
    assert refused.value.code == "wire:malformed", what


def test_every_bit_of_a_good_quote_counts() -> None:
    """Adversary 13: each bit of each byte flipped, one at a time; none is let through."""
    codes = set()
    for at in range(len(GOOD.message)):
        for bit in range(8):
            damaged = bytearray(GOOD.message)
            damaged[at] ^= 1 << bit
            with pytest.raises(HwTrustError) as refused:
                verify(Signed(bytes(damaged), GOOD.signature), selection=Unsafe.ANY_SELECTION)
            codes.add(refused.value.code)
    assert codes == {
        "evidence:magic:mismatch",
        "evidence:signature:invalid",
        "evidence:type:mismatch",
        "wire:malformed",
        "wire:unsupported",
    }


def test_every_bit_of_a_good_quotes_signature_counts() -> None:
    """Adversary 13: the algorithms in front of it too."""
    codes = set()
    for at in range(len(GOOD.signature)):
        for bit in range(8):
            damaged = bytearray(GOOD.signature)
            damaged[at] ^= 1 << bit
            with pytest.raises(HwTrustError) as refused:
                verify(Signed(GOOD.message, bytes(damaged)))
            codes.add(refused.value.code)
    assert codes == {
        "evidence:signature:invalid",
        "wire:malformed",
        "wire:unsupported",
    }


@given(st.data())
def test_damage_ends_in_a_typed_error(data: st.DataObject) -> None:
    """Whatever is done to message and signature, nothing from outside the tree comes out."""
    message, signature = bytearray(GOOD.message), bytearray(GOOD.signature)
    for raw in (message, signature):
        for at in data.draw(st.lists(st.integers(0, len(raw) - 1), max_size=4)):
            raw[at] = data.draw(st.integers(0, 255))
    if (bytes(message), bytes(signature)) == (GOOD.message, GOOD.signature):
        return
    with pytest.raises(HwTrustError):
        verify(Signed(bytes(message), bytes(signature)))
