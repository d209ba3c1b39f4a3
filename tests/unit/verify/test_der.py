"""Almost-DER becomes DER without a change of meaning, and nothing else does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwtrust.errors import MalformedError
from hwtrust.verify.certificates import pem_blocks
from hwtrust.verify.der import canonical, children, split
from simulators.ek_authority import EkAuthority, new_ek, tlv

if TYPE_CHECKING:
    from pathlib import Path

OID = tlv(0x06, b"\x55\x1d\x0f")
SUBJECT_ALT_NAME = tlv(0x06, b"\x55\x1d\x11")
BASIC_CONSTRAINTS = tlv(0x06, b"\x55\x1d\x13")
ECDSA_SHA256 = bytes.fromhex("06082a8648ce3d040302")
RSA_SHA256 = bytes.fromhex("06092a864886f70d01010b")
FALSE, TRUE, NULL = b"\x01\x01\x00", b"\x01\x01\xff", b"\x05\x00"
A, B = tlv(0x0C, b"a"), tlv(0x0C, b"b")


def octets(*parts: bytes) -> bytes:
    """An OCTET STRING."""
    return tlv(0x04, *parts)


def sequence(*parts: bytes) -> bytes:
    """A SEQUENCE."""
    return tlv(0x30, *parts)


REPAIRS = {
    "a SET OF is sorted": (tlv(0x31, B, A), tlv(0x31, A, B)),
    "so is one deep inside": (
        sequence(tlv(0xA0, tlv(0x31, B, A))),
        sequence(tlv(0xA0, tlv(0x31, A, B))),
    ),
    "critical FALSE is left out": (sequence(OID, FALSE, octets(A)), sequence(OID, octets(A))),
    "NULL parameters of ECDSA are left out": (
        sequence(ECDSA_SHA256, NULL),
        sequence(ECDSA_SHA256),
    ),
    "a SET OF in subjectAltName is sorted": (
        sequence(SUBJECT_ALT_NAME, TRUE, octets(sequence(tlv(0x31, B, A)))),
        sequence(SUBJECT_ALT_NAME, TRUE, octets(sequence(tlv(0x31, A, B)))),
    ),
    "cA FALSE is left out": (
        sequence(BASIC_CONSTRAINTS, TRUE, octets(sequence(FALSE))),
        sequence(BASIC_CONSTRAINTS, TRUE, octets(sequence())),
    ),
}


@pytest.mark.parametrize("case", REPAIRS)
def test_what_vendors_have_got_wrong_is_put_right(case: str) -> None:
    """Each deviation that is known from the field gets its DER form."""
    odd, right = REPAIRS[case]
    assert canonical(odd) == right
    assert canonical(right) == right


@pytest.mark.parametrize(
    "element",
    [
        pytest.param(sequence(B, A), id="a SEQUENCE, whose order means something"),
        pytest.param(sequence(OID, TRUE, octets(A)), id="critical TRUE"),
        pytest.param(sequence(FALSE, A), id="FALSE elsewhere"),
        pytest.param(sequence(RSA_SHA256, NULL), id="the NULL parameters of RSA"),
        pytest.param(sequence(OID, octets(tlv(0x31, B, A))), id="what is inside another extension"),
        pytest.param(
            sequence(BASIC_CONSTRAINTS, octets(sequence(TRUE, b"\x02\x01\x00"))), id="cA TRUE"
        ),
        pytest.param(octets(tlv(0x31, B, A)), id="octets"),
    ],
)
def test_nothing_else_is_changed(element: bytes) -> None:
    """What is not one of the known deviations stays as it is."""
    assert canonical(element) == element


def test_a_certificate_in_der_stays_as_it_is(vectors: Path) -> None:
    """For the certificates of the field that are DER, the canonical form is the certificate."""
    odd = 0
    paths = [*vectors.glob("ek-certs/ca/*.pem"), *vectors.glob("ek-certs/bundles/*.pem")]
    blocks = [block for path in paths for block in pem_blocks(path.read_bytes(), b"CERTIFICATE")]
    assert len(blocks) > 150
    for block in blocks:
        (certificate,) = split(block)
        odd += canonical(certificate) != certificate
    assert odd == 7  # Nuvoton's roots and Intel's OnDie root, some of them twice
    made = EkAuthority.new().issue(new_ek(), one_rdn=True)
    assert canonical(made) == made


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\x30", id="a tag"),
        pytest.param(b"\x30\x01", id="content that is missing"),
        pytest.param(b"\x30\x80\x00\x00", id="an indefinite length"),
        pytest.param(b"\x30\x81\x01\x00", id="a length in two bytes that fits into one"),
        pytest.param(b"\x30\x82\x00\x80" + bytes(128), id="a length with a leading zero"),
        pytest.param(b"\x30\x84\x00\x00\x00\x00", id="a length in four bytes"),
        pytest.param(b"\x3f\x01\x00", id="a long tag"),
        pytest.param(sequence(b"\x1f\x01\x00"), id="a long tag inside"),
        pytest.param(sequence(A) + A, id="something behind it"),
        pytest.param(sequence(SUBJECT_ALT_NAME, octets()), id="an empty subjectAltName"),
        pytest.param(sequence(BASIC_CONSTRAINTS, octets(A)), id="basicConstraints of text"),
    ],
)
def test_what_is_no_der_is_refused(data: bytes) -> None:
    """Anything else ends in a typed error."""
    with pytest.raises(MalformedError) as refusal:
        canonical(data)
    assert refusal.value.code == "wire:malformed"


def test_deep_nesting_is_refused() -> None:
    """Nesting cannot exhaust the stack."""
    nested = A
    for _ in range(5000):
        nested = sequence(nested)
    with pytest.raises(MalformedError) as refusal:
        canonical(nested)
    assert refusal.value.code == "wire:malformed"


def test_a_text_holds_no_elements() -> None:
    """Only constructed elements have members."""
    with pytest.raises(MalformedError):
        children(A)


@pytest.mark.parametrize("padding", [b"", b"\xff" * 9, bytes(9), b"\n", b"\r\n\r\n"])
def test_elements_are_cut_out_of_their_padding(padding: bytes) -> None:
    """What fills an NV index or ends a file is no part of a certificate."""
    assert split(sequence(A) + sequence(B) + padding) == [sequence(A), sequence(B)]
    assert split(padding) == []


@pytest.mark.parametrize("tail", [A, b"\xff\x00", b"\x00\xff", b"rest", b"\x30"])
def test_a_tail_that_is_no_padding_is_refused(tail: bytes) -> None:
    """What stands behind a certificate is not passed over unless it says nothing."""
    with pytest.raises(MalformedError):
        split(sequence(A) + tail)


@given(st.binary(max_size=200))
def test_any_bytes_end_in_der_or_in_a_typed_error(data: bytes) -> None:
    """The canonical form is canonical, and nothing but MalformedError is raised."""
    for candidate in (data, sequence(data), sequence(SUBJECT_ALT_NAME, octets(data))):
        try:
            once = canonical(candidate)
        except MalformedError:
            continue
        assert canonical(once) == once


@given(st.lists(st.binary(min_size=1, max_size=20).map(sequence), max_size=8))
def test_members_come_out_as_they_went_in(members: list[bytes]) -> None:
    """Taking apart and putting together are inverse."""
    assert children(sequence(*members)) == members
    assert split(b"".join(members)) == members
