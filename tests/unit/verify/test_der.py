"""Almost-DER becomes DER without a change of meaning, and nothing else does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwtrust.errors import MalformedError
from hwtrust.verify.certificates import pem_blocks
from hwtrust.verify.der import canonical, children, serial, split, with_serial
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


VERSION = tlv(0xA0, b"\x02\x01\x02")
SERIALS = {
    0: "00",
    1: "01",
    127: "7f",
    128: "0080",
    -1: "ff",
    -128: "80",
    -129: "ff7f",
    256: "0100",
}


@pytest.mark.parametrize(("number", "content"), SERIALS.items())
@pytest.mark.parametrize("version", [VERSION, b""], ids=["version 3", "version 1"])
def test_a_serial_number_is_read_and_replaced_in_its_place(
    number: int, content: str, version: bytes
) -> None:
    """Behind the version, if there is one; nothing else changes."""
    rest = sequence(A), sequence(B)
    odd = sequence(sequence(version, tlv(0x02, bytes.fromhex(content)), *rest), A, B)
    assert serial(odd) == number
    replaced = sequence(sequence(version, b"\x02\x01\x01", *rest), A, B)
    assert with_serial(odd, 1) == replaced


@pytest.mark.parametrize("content", ["", "0000", "0001", "ffff", "ff80"])
def test_a_serial_number_that_is_not_der_is_refused(content: str) -> None:
    """There is one form for each number."""
    with pytest.raises(MalformedError):
        serial(sequence(sequence(VERSION, tlv(0x02, bytes.fromhex(content)), A), A))


@pytest.mark.parametrize(
    "certificate",
    [sequence(), sequence(sequence()), sequence(sequence(VERSION)), sequence(sequence(VERSION, A))],
)
def test_a_certificate_without_a_serial_number_is_refused(certificate: bytes) -> None:
    """With a typed error, whatever is missing."""
    for read in (serial, lambda data: with_serial(data, 1)):
        with pytest.raises(MalformedError):
            read(certificate)


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
