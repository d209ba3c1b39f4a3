"""Encodings from the field are accepted as they are, and everything else is refused.

Vendors have signed certificates that are almost DER; attackers send anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hwtrust.errors import EkCertificateError, EkChainError, EkMalformedError
from hwtrust.verify.certificates import read_certificate
from hwtrust.verify.der import children
from hwtrust.verify.ek import MAX_CERTIFICATE, EkTrust, verify_ek_certificate
from simulators.ek_authority import (
    ECDSA_WITH_SHA256,
    END,
    NOW,
    RSA_WITH_SHA256,
    START,
    Ca,
    EkAuthority,
    Offer,
    common_name,
    new_ek,
    offer,
    tlv,
)

if TYPE_CHECKING:
    from collections.abc import Callable


def changed(part: bytes, into: bytes) -> Callable[[bytes], bytes]:
    """Replace what occurs once in the signed part."""

    def change(signed: bytes) -> bytes:
        assert signed.count(part) == 1
        return signed.replace(part, into)

    return change


def rebuilt(signed: bytes, replace: Callable[[int, bytes], bytes]) -> bytes:
    """The signed part with each of its members passed through `replace`."""
    members = [replace(number, member) for number, member in enumerate(children(signed))]
    return tlv(0x30, *members)


def misordered(authority: EkAuthority) -> Offer:
    """Nuvoton's: the attributes of the TPM's name in one SET that is not sorted."""
    ek = new_ek()
    good = authority.issue(ek, one_rdn=True)
    alternative = x509.load_der_x509_certificate(good).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    name = alternative.value.get_values_for_type(x509.DirectoryName)[0].public_bytes()
    rdn = children(name)[0]
    attributes = children(rdn)
    bad = tlv(0x31, *reversed(attributes))
    assert bad != rdn
    again = authority.intermediate.sign_again(good, changed(rdn, bad))
    return Offer(again, ek, authority.files)


def misordered_issuer() -> Offer:
    """Nuvoton's: a root, hence an issuer, whose name is one SET that is not sorted."""
    attributes = [
        x509.NameAttribute(x509.NameOID.COUNTRY_NAME, "TW"),
        x509.NameAttribute(x509.NameOID.COMMON_NAME, "Odd Root"),
    ]
    name = x509.Name([x509.RelativeDistinguishedName(attributes)])
    der = name.public_bytes()
    rdn = children(der)[0]
    bad = tlv(0x30, tlv(0x31, *reversed(children(rdn))))
    assert bad != der
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(START)
        .not_valid_after(END)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    )
    root = Ca(key, builder.sign(key, hashes.SHA256()))
    ek = new_ek()
    odd_root = root.sign_again(root.der, lambda signed: signed.replace(der, bad))
    odd_leaf = root.sign_again(root.issue(ek), changed(der, bad))
    return Offer(odd_leaf, ek, [odd_root])


def with_written_default() -> Offer:
    """Intel's: `critical FALSE`, and a basicConstraints that writes `cA FALSE`."""
    made = offer(authority := EkAuthority.new())

    def explicit(extension: bytes) -> bytes:
        oid, *critical, value = children(extension)
        if value == bytes.fromhex("04023000"):
            return tlv(0x30, oid, *critical, bytes.fromhex("04053003010100"))
        return tlv(0x30, oid, *(critical or [bytes.fromhex("010100")]), value)

    def replace(_: int, member: bytes) -> bytes:
        if member[0] != 0xA3:
            return member
        extensions = children(children(member)[0])
        return tlv(0xA3, tlv(0x30, *map(explicit, extensions)))

    made.certificate = authority.intermediate.sign_again(
        made.certificate, lambda signed: rebuilt(signed, replace)
    )
    return made


def with_null_parameters() -> Offer:
    """Intel's: an ECDSA signature algorithm with NULL parameters."""
    made = offer(authority := EkAuthority.new())
    with_null = tlv(0x30, children(ECDSA_WITH_SHA256)[0], b"\x05\x00")
    made.certificate = authority.intermediate.sign_again(
        made.certificate,
        lambda signed: rebuilt(
            signed, lambda _, member: with_null if member == ECDSA_WITH_SHA256 else member
        ),
    )
    return made


def with_serial(serial: bytes) -> Offer:
    """A serial number that RFC 5280 does not allow."""
    made = offer(authority := EkAuthority.new())
    made.certificate = authority.intermediate.sign_again(
        made.certificate,
        lambda signed: rebuilt(
            signed, lambda number, member: tlv(0x02, serial) if number == 1 else member
        ),
    )
    return made


def with_long_subject() -> Offer:
    """A subject that is longer than X.520 allows, as Google's CAs have."""
    made = offer(authority := EkAuthority.new())
    text = tlv(0x0C, b"x" * 80)
    subject = tlv(0x30, tlv(0x31, tlv(0x30, bytes.fromhex("0603550403"), text)))
    made.certificate = authority.intermediate.sign_again(
        made.certificate,
        lambda signed: rebuilt(signed, lambda number, member: subject if number == 5 else member),
    )
    return made


ODD_ENCODINGS: dict[str, Callable[[], Offer]] = {
    "a subject that is too long": with_long_subject,
    "a SET that is not sorted, in the TPM's name": lambda: misordered(EkAuthority.new()),
    "a SET that is not sorted, in the issuer's name": misordered_issuer,
    "defaults that are written": with_written_default,
    "an ECDSA algorithm with parameters": with_null_parameters,
    "the serial number zero": lambda: with_serial(b"\x00"),
    "a negative serial number": lambda: with_serial(b"\xff"),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("case", ODD_ENCODINGS)
def test_an_odd_encoding_from_the_field_is_accepted_silently(case: str) -> None:
    """Chips with certificates that are almost DER can enrol, and no warning is left over."""
    made = ODD_ENCODINGS[case]()
    found = made.verify()
    assert (found.manufacturer, found.model, found.version) == (
        "id:54455354",
        "simulated",
        "id:00010002",
    )


@pytest.mark.parametrize("case", ODD_ENCODINGS)
def test_an_odd_encoding_is_signed_as_it_stands(case: str) -> None:
    """The signature covers the bytes as received, not the form in which they are read."""
    made = ODD_ENCODINGS[case]()
    received = read_certificate(made.certificate)
    assert received.signed in made.certificate
    at = made.certificate.index(b"simulated")
    made.certificate = made.certificate[:at] + b"Simulated" + made.certificate[at + 9 :]
    with pytest.raises(EkChainError) as refusal:
        made.verify()
    assert refusal.value.code == "enrolment:ek:chain"


def test_a_signature_that_is_no_whole_number_of_bytes_is_refused() -> None:
    """A certificate has one form: unused bits in its signature do not make another one."""
    made = offer(authority := EkAuthority.new())
    while made.certificate[-1] & 1:
        made.certificate = authority.issue(made.ek)
    signed, algorithm, signature = children(made.certificate)
    made.certificate = tlv(0x30, signed, algorithm, tlv(0x03, b"\x01", signature[3:]))
    with pytest.raises(EkMalformedError) as refusal:
        made.verify()
    assert refusal.value.code == "enrolment:ek:malformed"


def mixed_algorithms() -> bytes:
    """A certificate whose signed part names another algorithm than stands beside it."""
    authority = EkAuthority.new()
    return authority.intermediate.sign_again(
        authority.issue(new_ek()), lambda signed: signed, outer=RSA_WITH_SHA256
    )


def with_ed25519(*, signed: bool) -> bytes:
    """A certificate for a key of a kind that no TPM has, or signed by one."""
    odd, usual = Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateBuilder()
        .subject_name(common_name("EK"))
        .issuer_name(common_name("CA"))
        .public_key(usual.public_key() if signed else odd.public_key())
        .serial_number(1)
        .not_valid_before(START)
        .not_valid_after(END)
    )
    made = builder.sign(odd, None) if signed else builder.sign(usual, hashes.SHA256())
    return made.public_bytes(serialization.Encoding.DER)


MALFORMED: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "an NV index that was never written": lambda: b"\xff" * 512,
    "text": lambda: b"this is no certificate",
    "PEM": lambda: EkAuthority.new().root.pem,
    "two certificates": lambda: offer().certificate * 2,
    "a certificate and rubbish": lambda: offer().certificate + b"rubbish",
    "a certificate and mixed padding": lambda: offer().certificate + b"\xff\x00",
    "something far too large": lambda: offer().certificate + bytes(MAX_CERTIFICATE),
    "an empty structure": lambda: b"\x30\x00",
    "three empty structures": lambda: b"\x30\x06\x30\x00\x30\x00\x30\x00",
    "deep nesting": lambda: b"\x30\x80" * 2000,
    "a revocation list": lambda: Ca.root().revoke(1),
    "two signature algorithms": mixed_algorithms,
    "a key of another kind": lambda: with_ed25519(signed=False),
    "a signature of another kind": lambda: with_ed25519(signed=True),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_what_is_no_certificate_is_refused(case: str) -> None:
    """Whatever a device sends as its EK certificate ends in a typed error."""
    with pytest.raises(EkMalformedError) as refusal:
        verify_ek_certificate(MALFORMED[case](), new_ek(), trust=EkTrust.load([]), now=NOW)
    assert refusal.value.code == "enrolment:ek:malformed"


def test_a_certificate_cut_short_anywhere_is_refused() -> None:
    """No prefix of a good certificate is a certificate."""
    made = offer()
    whole, trust = made.certificate, EkTrust.load(made.files)
    for size in range(len(whole)):
        with pytest.raises(EkMalformedError):
            verify_ek_certificate(whole[:size], made.ek, trust=trust, now=NOW)


def test_a_certificate_with_any_byte_changed_is_refused() -> None:
    """Every byte of a certificate counts, and none leads out of the error tree."""
    made = misordered(EkAuthority.new())
    whole, trust = made.certificate, EkTrust.load(made.files)
    for at in range(len(whole)):
        for bit in (0x01, 0x20, 0x80):
            one = bytearray(whole)
            one[at] ^= bit
            with pytest.raises(EkCertificateError):
                verify_ek_certificate(bytes(one), made.ek, trust=trust, now=NOW)
