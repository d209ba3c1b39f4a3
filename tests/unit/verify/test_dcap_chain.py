"""Each certificate of a quote and of its collateral counts, to the second; so does each list."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from hwtrust.errors import MalformedError
from hwtrust.errors.dcap import (
    DcapCertificationError,
    DcapChainError,
    DcapError,
    DcapExpiredError,
    DcapRevokedError,
)
from hwtrust.verify import der
from hwtrust.verify.enclaves.dcap_chain import (
    PCK,
    PCK_CAS,
    TCB_SIGNING,
    DcapTrust,
    checked_root,
    platform_of,
)
from hwtrust.wire.enclaves.dcap import Collateral, Quote
from simulators.dcap_signer import (
    ISSUED,
    NOW,
    DcapSigner,
    Issuer,
    certify,
    raw_signature,
    revocation_list,
)

SIGNER = DcapSigner()
SECOND = timedelta(seconds=1)
DAY = timedelta(days=1)
PARTS = ("tcb_info", "qe_identity")


def checked(raw: bytes | None = None, *, signer: DcapSigner = SIGNER, now: datetime = NOW) -> None:
    """Check the chains of a good quote and of its collateral, or of that in `raw`."""
    raw = signer.collateral("sgx") if raw is None else raw
    root = checked_root(
        Quote.decode(signer.sgx()),
        Collateral.decode(raw),
        now=now,
        trust=DcapTrust.of(signer.root.der),
    )
    assert root == signer.root.der


def refused(error: type[DcapError], *arguments: Any, **options: Any) -> None:  # noqa: ANN401
    """That it is refused by exactly that class."""
    with pytest.raises(DcapError) as caught:
        checked(*arguments, **options)
    assert type(caught.value) is error


def collateral(**changes: Any) -> bytes:  # noqa: ANN401 - any part
    """Good collateral, but for `changes`."""
    return SIGNER.collateral("sgx", **changes)


def signed_by(part: str, signer: Issuer, **changes: str) -> bytes:
    """Collateral of which that one part is signed by `signer`, and the other as ever."""
    found = json.loads(collateral())
    return json.dumps(
        found
        | {
            f"{part}_issuer_chain": (signer.pem + SIGNER.root.pem).decode(),
            f"{part}_signature": raw_signature(signer.key, found[part].encode()).hex(),
        }
        | changes
    ).encode()


def sequence(*parts: bytes) -> bytes:
    """A DER sequence."""
    content = b"".join(parts)
    size = len(content).to_bytes(2, "big").lstrip(b"\0") or b"\0"
    head = size if len(content) < 0x80 else bytes([0x80 | len(size)]) + size
    return b"\x30" + head + content


@pytest.mark.parametrize("part", PARTS)
def test_each_part_of_the_collateral_has_a_chain_of_its_own(part: str) -> None:
    """A good one is taken; its name, its time, its standing and its root count, each alone."""
    second = certify(TCB_SIGNING, SIGNER.root, key="second")
    checked(signed_by(part, second))
    refused(DcapChainError, signed_by(part, certify(PCK, SIGNER.root)))
    late = certify(TCB_SIGNING, SIGNER.root, key="late", not_after=NOW - DAY)
    refused(DcapExpiredError, signed_by(part, late))
    listed = revocation_list(SIGNER.root, second).hex()
    refused(DcapRevokedError, signed_by(part, second, root_ca_crl=listed))
    other = DcapSigner(seed="other")
    chain = (other.tcb.pem + other.root.pem).decode()
    refused(DcapChainError, collateral(**{f"{part}_issuer_chain": chain}))


def platform_by(chain: bytes) -> tuple[bytes, bytes]:
    """The platform that a quote with that chain names."""
    return platform_of(Quote.decode(SIGNER.sgx(chain=chain)))


def test_a_quote_names_the_platform_whose_collateral_is_looked_for() -> None:
    """Its FMSPC and who has issued its certificate, unverified as they are."""
    issuer = SIGNER.ca.certificate.subject.public_bytes()
    assert platform_by(SIGNER.chain) == (SIGNER.platform.fmspc, issuer)
    with pytest.raises(DcapCertificationError):
        platform_of(Quote.decode(SIGNER.sgx(certification=3)))


FMSPC = bytes.fromhex("060a2a864886f84d010d0104")
NO_PLATFORM = {
    "no extension": None,
    "an empty extension": b"",
    "an extension without parts": b"\x30\x00",
    "a part with nothing in it": sequence(sequence()),
    "a part that is no sequence": b"\x30\x02\x05\x00",
    "an FMSPC without a value": sequence(sequence(FMSPC)),
    "an FMSPC with two values": sequence(sequence(FMSPC, b"\x04\x06" + bytes(6), b"\x05\x00")),
    "an FMSPC that is shorter": sequence(sequence(FMSPC, b"\x04\x05" + bytes(5))),
    "an FMSPC that is longer": sequence(sequence(FMSPC, b"\x04\x07" + bytes(7))),
    "an FMSPC that is no byte string": sequence(sequence(FMSPC, b"\x0c\x06" + bytes(6))),
    "another name": sequence(sequence(FMSPC[:-1] + b"\5", b"\x04\x06" + bytes(6))),
    "an extension that is cut short": b"\x30\x05\x02\x01",
}


@pytest.mark.parametrize("case", NO_PLATFORM)
def test_a_quote_that_names_no_platform_is_malformed(case: str) -> None:
    """Whatever a stranger has written there."""
    leaf = certify(PCK, SIGNER.ca, extension=NO_PLATFORM[case])
    with pytest.raises(MalformedError):
        platform_by(leaf.pem + SIGNER.ca.pem + SIGNER.root.pem)


def test_a_quote_whose_certificates_are_no_pem_is_malformed() -> None:
    """None of them could be read."""
    with pytest.raises(MalformedError):
        platform_by(b"")


@pytest.mark.parametrize("ca_name", PCK_CAS)
def test_platforms_are_certified_by_either_ca(ca_name: str) -> None:
    """Of platforms with one processor, or with several."""
    checked(signer=DcapSigner(ca_name=ca_name))


MISNAMED = {
    "a CA that is named as a platform": {"ca_name": PCK},
    "a CA that is named for TCB info": {"ca_name": TCB_SIGNING},
    "a platform that is named as a CA": {"pck_name": PCK_CAS[0]},
    "a platform that is named for TCB info": {"pck_name": TCB_SIGNING},
    "TCB info by what is named as a platform": {"tcb_name": PCK},
    "TCB info by what is named as a CA": {"tcb_name": PCK_CAS[0]},
}


@pytest.mark.parametrize("case", MISNAMED)
def test_no_certificate_stands_in_for_another_kind(case: str) -> None:
    """A key that the root has certified for one thing does no other."""
    refused(DcapChainError, signer=DcapSigner(**MISNAMED[case]))  # type: ignore[arg-type]


@pytest.mark.parametrize("names", [(), (TCB_SIGNING, PCK), (TCB_SIGNING, TCB_SIGNING)], ids=len)
def test_a_certificate_has_one_name(names: tuple[str, ...]) -> None:
    """With none, or with two, it would depend on the reader what it is for."""
    common = [x509.NameAttribute(x509.NameOID.COMMON_NAME, name) for name in names]
    signed = (
        x509.CertificateBuilder()
        .subject_name(x509.Name(common))
        .issuer_name(SIGNER.root.certificate.subject)
        .public_key(SIGNER.tcb.key.public_key())
        .serial_number(1)
        .not_valid_before(NOW - DAY)
        .not_valid_after(NOW + DAY)
        .sign(SIGNER.root.key, hashes.SHA256())
    )
    refused(DcapChainError, signed_by("tcb_info", Issuer("", SIGNER.tcb.key, signed)))


def test_a_certificate_is_valid_from_its_first_second_to_its_last() -> None:
    """Both of them are within."""
    start = NOW - DAY
    only = certify(TCB_SIGNING, SIGNER.root, key="short", not_before=start, not_after=NOW)
    raw = signed_by("tcb_info", only)
    checked(raw)
    checked(raw, now=start)
    refused(DcapExpiredError, raw, now=NOW + SECOND)
    refused(DcapExpiredError, raw, now=start - SECOND)


@pytest.mark.parametrize("name", ["pck_crl", "root_ca_crl"])
def test_a_list_is_valid_until_the_next_one_is_due(name: str) -> None:
    """In the second before it is; then it is not known who is revoked."""
    issuer = SIGNER.ca if name == "pck_crl" else SIGNER.root
    for next_update in (NOW, NOW - SECOND):
        crl = revocation_list(issuer, next_update=next_update).hex()
        refused(DcapExpiredError, collateral(**{name: crl}))
    for times in ({"next_update": NOW + SECOND}, {"issued": NOW}):
        crl = revocation_list(issuer, **times).hex()
        checked(collateral(**{name: crl}))
    crl = revocation_list(issuer, issued=NOW + SECOND).hex()
    refused(DcapExpiredError, collateral(**{name: crl}))


@pytest.mark.parametrize("name", ["pck_crl", "root_ca_crl"])
def test_a_list_without_an_end_is_refused(name: str) -> None:
    """It would be valid for ever."""
    issuer = SIGNER.ca if name == "pck_crl" else SIGNER.root
    signed, *rest = der.children(revocation_list(issuer))
    fields = der.children(signed)
    begins = fields.index(b"\x17\x0d" + ISSUED.strftime("%y%m%d%H%M%SZ").encode())
    del fields[begins + 1]
    endless = sequence(sequence(*fields), *rest)
    refused(DcapExpiredError, collateral(**{name: endless.hex()}))
