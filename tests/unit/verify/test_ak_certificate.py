"""A certificate makes a key an attestation key only if a trusted vendor issued it for that."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from hwtrust.errors import HwTrustError, MalformedError
from hwtrust.errors.ak import (
    AkChainError,
    AkExpiredError,
    AkKeyError,
    AkRevokedError,
    AkUsageError,
)
from hwtrust.verify.ak_certificate import AkCertificate, verify_ak_certificate
from hwtrust.verify.certificates import pem_blocks, read_certificate
from hwtrust.verify.ek import EkTrust
from simulators.ek_authority import AK, EK, END, NOW, START, TLS_SERVER, EkAuthority, serial_of

if TYPE_CHECKING:
    from pathlib import Path

KEY = ec.generate_private_key(ec.SECP256R1()).public_key()
OTHER = ec.generate_private_key(ec.SECP256R1()).public_key()
VENDOR = EkAuthority.new()
GOOD: dict[str, Any] = {"usage": ("digital_signature",), "extended": (AK,)}
SECOND = timedelta(seconds=1)


def verify(
    certificate: bytes | None = None,
    vendor: EkAuthority = VENDOR,
    now: datetime = NOW,
    crls: list[bytes] | None = None,
    **defects: Any,  # noqa: ANN401 - passed on
) -> AkCertificate:
    """Verify a certificate with the defects that the keywords name."""
    made = vendor.issue(KEY, **(GOOD | defects)) if certificate is None else certificate
    return verify_ak_certificate(made, KEY, trust=EkTrust.load(vendor.files, crls or []), now=now)


def refused(error: type[HwTrustError], **defects: Any) -> str:  # noqa: ANN401 - passed on
    """The code of the refusal, of exactly that class."""
    with pytest.raises(error) as refusal:
        verify(**defects)
    assert type(refusal.value) is error
    return refusal.value.code


def test_an_ak_certificate_is_accepted() -> None:
    """With the purpose that the TCG gave it, with Google's, or with none."""
    for extended in ((AK,), (EK,), None):
        found = verify(extended=extended)
        assert len(found.issuers) == 2
        assert found.chain_not_after == END
    certificate = VENDOR.issue(KEY, **GOOD)
    pem = x509.load_der_x509_certificate(certificate).public_bytes(Encoding.PEM)
    assert verify(pem) == verify(certificate)


def test_a_certificate_of_another_key_is_refused() -> None:
    """Whoever it is of, it says nothing of this one."""
    certificate = VENDOR.issue(OTHER, **GOOD)
    assert refused(AkKeyError, certificate=certificate) == "ak:certificate:key"


NOT_FOR_AN_AK: dict[str, dict[str, Any]] = {
    "a TLS server's": {"extended": (TLS_SERVER,)},
    "that of a CA": {"ca": True},
    "an EK's": {"usage": ("key_agreement",), "extended": (EK,)},
    "a key that also deciphers": {"usage": ("digital_signature", "key_encipherment")},
    "a key without a usage": {"usage": None},
}


@pytest.mark.parametrize("case", NOT_FOR_AN_AK)
def test_a_certificate_for_something_else_is_refused(case: str) -> None:
    """Adversary 37: also under the CA that issues those of AKs."""
    assert refused(AkUsageError, **NOT_FOR_AN_AK[case]) == "ak:certificate:usage"


def test_a_chain_that_is_not_good_is_refused() -> None:
    """Adversaries 34, 35, 36: unknown, expired, revoked, for something else."""
    certificate = EkAuthority.new().issue(KEY, **GOOD)
    assert refused(AkChainError, certificate=certificate) == "ak:certificate:chain"
    for now in (START - SECOND, END + SECOND):
        assert refused(AkExpiredError, now=now) == "ak:certificate:expired"
    certificate = VENDOR.issue(KEY, **GOOD)
    crls = [VENDOR.intermediate.revoke(serial_of(certificate))]
    code = refused(AkRevokedError, certificate=certificate, crls=crls)
    assert code == "ak:certificate:revoked"
    assert refused(AkChainError, vendor=EkAuthority.new(extended=(TLS_SERVER,)))
    assert verify(vendor=EkAuthority.new(extended=(AK,))).chain_not_after == END


def test_a_ca_that_came_beside_it_shows_the_way() -> None:
    """And is trusted no more than others."""
    certificate = VENDOR.issue(KEY, **GOOD)
    trust = EkTrust.load([VENDOR.root.pem])
    with pytest.raises(AkChainError):
        verify_ak_certificate(certificate, KEY, trust=trust, now=NOW)
    between = [VENDOR.intermediate.der]
    found = verify_ak_certificate(certificate, KEY, trust=trust, now=NOW, intermediates=between)
    assert len(found.issuers) == 2


def test_what_is_no_certificate_is_refused() -> None:
    """Nothing, two of them, or far too many bytes."""
    one = VENDOR.issue(KEY, **GOOD)
    for data in (b"", one + one, bytes(99_999), one[:-1], b"-----BEGIN CERTIFICATE-----"):
        assert refused(MalformedError, certificate=data) == "wire:malformed"


# --- real ones ----------------------------------------------------------------------

COLLECTED = datetime(2026, 11, 22, tzinfo=UTC)
BEFORE = datetime(2020, 6, 1, tzinfo=UTC)
"""When Windows machines had these certificates."""

ACCEPTED = {
    "gce-pca-tpm-ecc-sign": COLLECTED,
    "gce-pca-tpm-rsa-sign": COLLECTED,
    "gce-uca-tpm-ecc-sign": COLLECTED,
    "gce-uca-tpm-rsa-sign": COLLECTED,
    "microsoft-aik-dell-xps-13": None,
    "microsoft-aik-lenovo-carbon-x1": None,
    "microsoft-aik-surface-pro-4": None,
    "microsoft-aik-tpm-with-ecc-public-area-type": None,
}
REFUSED = ("hpe-test-iak", "hpe-test-idevid", "infineon-rsa", "stm-ecc", "amd-root-rsa")


@pytest.fixture(scope="module")
def vendors(vectors: Path) -> EkTrust:
    """A store with all CAs of the corpus."""
    return EkTrust.load([path.read_bytes() for path in (vectors / "ek-certs/ca").glob("*.pem")])


def read(vectors: Path, name: str) -> tuple[bytes, dict[str, Any]]:
    """A certificate of the corpus and what is known about it."""
    facts = json.loads((vectors / "ek-certs" / f"{name}.json").read_bytes())
    return (vectors / "ek-certs" / f"{name}.der").read_bytes(), facts


@pytest.mark.parametrize("name", ACCEPTED)
def test_the_ak_certificates_of_real_machines_verify(
    vectors: Path, vendors: EkTrust, name: str
) -> None:
    """Of Google's vTPMs and of Windows machines, while they are valid, and not after."""
    data, facts = read(vectors, name)
    leaf = read_certificate(data)
    now = ACCEPTED[name] or leaf.not_before + timedelta(days=1)
    found = verify_ak_certificate(data, leaf.key, trust=vendors, now=now)
    assert len(found.issuers) == len(facts["chain"])
    with pytest.raises(AkExpiredError):
        verify_ak_certificate(
            data, leaf.key, trust=vendors, now=found.chain_not_after + timedelta(days=1)
        )


@pytest.mark.parametrize("name", REFUSED)
def test_real_certificates_of_other_keys_are_refused(
    vectors: Path, vendors: EkTrust, name: str
) -> None:
    """HPE's IAK and IDevID are issued for TLS servers; EKs and CAs are no AKs."""
    data, facts = read(vectors, name)
    data = data[: facts["der_length"]]
    key = read_certificate(data).key
    with pytest.raises(AkUsageError):
        verify_ak_certificate(data, key, trust=vendors, now=datetime(2024, 1, 1, tzinfo=UTC))


def test_the_ak_certificates_beside_quotes_verify(vectors: Path, vendors: EkTrust) -> None:
    """Of Google's machines, and of cmc with a CA of its own."""
    folder = vectors / "tpm-quotes/cmc-valid"
    leaf, ca = ((folder / name).read_bytes() for name in ("ak-cert.pem", "ca.pem"))
    key = read_certificate(pem_blocks(leaf, b"CERTIFICATE")[0]).key
    now = read_certificate(pem_blocks(leaf, b"CERTIFICATE")[0]).not_before + timedelta(days=1)
    found = verify_ak_certificate(leaf, key, trust=EkTrust.load([ca]), now=now)
    assert len(found.issuers) == 1
    with pytest.raises(AkChainError):
        verify_ak_certificate(leaf, key, trust=vendors, now=now)
    folder = vectors / "tpm-quotes/go-tpm-tools-gce-cos-85-no-nonce-sha256"
    leaf = (folder / "ak-cert.pem").read_bytes()
    key = read_certificate(pem_blocks(leaf, b"CERTIFICATE")[0]).key
    assert len(verify_ak_certificate(leaf, key, trust=vendors, now=COLLECTED).issuers) >= 1
