"""TPMS_ATTEST: what is decoded is all there is, and it was made by a TPM."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwtrust.errors import (
    AttestTypeError,
    HwTrustError,
    MalformedError,
    NotAttestedError,
)
from hwtrust.wire.attested import LONGEST_KEPT
from hwtrust.wire.structures import (
    Attest,
    AttestType,
    CertifyInfo,
    ClockInfo,
    CreationInfo,
    NvCertifyInfo,
    PcrSelection,
    QuoteInfo,
)
from simulators.strategies import attests

GOOD = Attest.build(
    qualified_signer=b"\x00\x0b" + bytes(32),
    extra_data=b"a nonce",
    clock=ClockInfo(1, 2, 3, safe=True),
    firmware_version=4,
    attested=QuoteInfo(PcrSelection.parse("sha256:0,1,2"), bytes(32)),
)
SAFE_AT = 4 + 2 + 2 + 34 + 2 + 7 + 8 + 4 + 4


@given(attests)
def test_an_attestation_is_decoded_as_it_was_built(attest: Attest) -> None:
    """decode(encode(x)) == x, for every type that hwtrust believes."""
    assert Attest.decode(attest.raw) == attest
    assert Attest.decode(attest.raw).encode() == attest.raw


@pytest.mark.parametrize(
    ("attested", "type_"),
    [
        (GOOD.attested, AttestType.QUOTE),
        (CertifyInfo(b"n", b"q"), AttestType.CERTIFY),
        (NvCertifyInfo(b"n", 0, b"c"), AttestType.NV),
        (CreationInfo(b"n", b"h"), AttestType.CREATION),
    ],
)
def test_the_type_follows_from_what_is_attested(
    attested: QuoteInfo | CertifyInfo | NvCertifyInfo | CreationInfo, type_: AttestType
) -> None:
    """No attestation says one type and holds another."""
    built = Attest.build(
        qualified_signer=b"",
        extra_data=b"",
        clock=GOOD.clock,
        firmware_version=0,
        attested=attested,
    )
    assert built.type is type_
    assert Attest.decode(built.raw).attested == attested


@pytest.mark.parametrize("byte", range(4))
def test_a_bad_magic_is_refused(byte: int) -> None:
    """Adversary 1: bytes that a TPM did not compose are no attestation."""
    raw = bytearray(GOOD.raw)
    raw[byte] ^= 1
    with pytest.raises(NotAttestedError) as refused:
        Attest.decode(bytes(raw))
    assert refused.value.code == "evidence:magic:mismatch"


@pytest.mark.parametrize("number", [0, 0x8015, 0x8016, 0x8019, 0x801C, 0xFFFF])
def test_a_type_that_hwtrust_does_not_believe_is_refused(number: int) -> None:
    """Adversary 2: audits, times and what is no type at all."""
    raw = GOOD.raw[:4] + number.to_bytes(2, "big") + GOOD.raw[6:]
    with pytest.raises(AttestTypeError) as refused:
        Attest.decode(raw)
    assert refused.value.code == "evidence:type:mismatch"


def test_an_attestation_cut_at_every_byte_is_refused() -> None:
    """Adversary 3: no prefix of a quote is a quote."""
    for length in range(len(GOOD.raw)):
        with pytest.raises(MalformedError) as refused:
            Attest.decode(GOOD.raw[:length])
        assert refused.value.code == "wire:malformed"


@pytest.mark.parametrize("extra", [b"\x00", b"\xff" * 1000])
def test_trailing_bytes_are_refused(extra: bytes) -> None:
    """Adversary 4: nothing rides behind an attestation."""
    with pytest.raises(MalformedError) as refused:
        Attest.decode(GOOD.raw + extra)
    assert refused.value.code == "wire:malformed"


def test_a_huge_field_is_refused() -> None:
    """Adversary 5: a qualifiedSigner of 65535 bytes, announced and even present."""
    head = GOOD.raw[:6] + b"\xff\xff"
    for raw in (head + GOOD.raw[8:], head + bytes(2**16)):
        with pytest.raises(MalformedError) as refused:
            Attest.decode(raw)
        assert refused.value.code == "wire:malformed"


@pytest.mark.parametrize("safe", [2, 0x80, 0xFF])
def test_a_clock_that_is_neither_safe_nor_not_is_refused(safe: int) -> None:
    """TPMI_YES_NO has two values."""
    raw = bytearray(GOOD.raw)
    assert raw[SAFE_AT] == 1
    raw[SAFE_AT] = safe
    with pytest.raises(MalformedError) as refused:
        Attest.decode(bytes(raw))
    assert refused.value.code == "wire:malformed"


@given(st.data())
def test_damaged_bytes_end_in_an_attestation_or_a_typed_error(data: st.DataObject) -> None:
    """No damage to a good attestation ends in an exception from outside the tree."""
    raw = bytearray(data.draw(attests).raw)
    for at in data.draw(st.lists(st.integers(0, len(raw) - 1), min_size=1, max_size=4)):
        raw[at] = data.draw(st.integers(0, 255))
    try:
        decoded = Attest.decode(bytes(raw))
    except HwTrustError:
        return
    assert decoded.encode() == bytes(raw)


@given(st.binary(max_size=200))
def test_any_bytes_end_in_an_attestation_or_a_typed_error(noise: bytes) -> None:
    """What follows a good start may be anything."""
    for start in (b"", GOOD.raw[:4], GOOD.raw[:6]):
        try:
            Attest.decode(start + noise)
        except HwTrustError:
            continue


def test_raw_is_what_was_received() -> None:
    """Signatures are checked over it, so it is a copy that nobody can change."""
    received = bytearray(GOOD.raw)
    attest = Attest.decode(bytes(received))
    received[0] = 0
    assert attest.raw == GOOD.raw
    assert msgspec.structs.replace(attest, firmware_version=5).encode() != attest.raw


def test_what_comes_again_is_what_it_was() -> None:
    """Two attestations of the same thing share it, and nothing that differs."""
    later = Attest.decode(
        msgspec.structs.replace(GOOD, firmware_version=5, extra_data=b"x").encode()
    )
    first = Attest.decode(GOOD.raw)
    assert later.attested is first.attested
    assert (later.firmware_version, later.extra_data) == (5, b"x")
    assert first == GOOD


def test_the_same_bytes_of_another_type_are_read_as_that_type() -> None:
    """The type is a part of what an attested info is kept by: it is decided once only."""
    certified = CertifyInfo(b"\0\x0b" + bytes(32), b"")
    created = CreationInfo(certified.name, b"")
    assert certified.encode() == created.encode()
    for attested in (certified, created, certified):
        raw = Attest.build(
            qualified_signer=b"",
            extra_data=b"",
            clock=GOOD.clock,
            firmware_version=0,
            attested=attested,
        ).raw
        assert Attest.decode(raw).attested == attested


def test_an_attested_info_with_one_other_byte_is_read_anew() -> None:
    """All of its bytes are what it is kept by."""
    first = Attest.decode(GOOD.raw)
    other = Attest.decode(GOOD.raw[:-1] + bytes([GOOD.raw[-1] ^ 1]))
    assert other.attested != first.attested
    for _ in range(2):
        with pytest.raises(MalformedError):
            Attest.decode(GOOD.raw + b"\0")


def test_the_longest_contents_are_read_and_not_kept() -> None:
    """What is kept is small, whatever a device sends."""
    attested = NvCertifyInfo(b"\0\x0b" + bytes(32), 0, bytes(LONGEST_KEPT))
    raw = msgspec.structs.replace(GOOD, type=AttestType.NV, attested=attested).encode()
    first, again = Attest.decode(raw), Attest.decode(raw)
    assert first.attested == again.attested == attested
    assert first.attested is not again.attested
