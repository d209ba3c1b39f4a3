"""The certificates of real TPMs verify, and those of anything else do not."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from hwtrust.errors import (
    EkChainError,
    EkExpiredError,
    EkKeyError,
    EkMalformedError,
    EkUsageError,
)
from hwtrust.verify.certificates import pem_blocks, read_certificate, read_crl
from hwtrust.verify.ek import EkTrust, verify_ek_certificate
from hwtrust.verify.ek_chain import find_chain
from simulators.ek_authority import ek_public, new_ek

if TYPE_CHECKING:
    from pathlib import Path

    from hwtrust.wire.structures import Public

COLLECTED = datetime(2026, 11, 23, tzinfo=UTC)
"""When every certificate of the corpus that has not expired is valid."""

DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def vendors(vectors: Path) -> EkTrust:
    """A store with all CAs of the corpus."""
    folder = vectors / "ek-certs"
    paths = sorted([*folder.glob("ca/*.pem"), *folder.glob("vendor-ica-*.pem")])
    files = [path.read_bytes() for path in paths]
    assert len(files) >= 45
    return EkTrust.load(files)


def read(vectors: Path, name: str) -> tuple[bytes, Public, dict[str, Any]]:
    """A certificate of the corpus, the EK that it is for, and what is known about it."""
    data = (vectors / "ek-certs" / f"{name}.der").read_bytes()
    facts = json.loads((vectors / "ek-certs" / f"{name}.json").read_bytes())
    key = read_certificate(data[: facts["der_length"]]).key
    return data, ek_public(key), facts


EKS = {
    "stm-rsa-trailing-ff": ("id:53544D20", "ST33HTPHAHB4", "id:00490004"),
    "stm-ecc": ("id:53544D20", "ST33HTPHAHB4", "id:00490004"),
    "infineon-rsa": ("id:49465800", "SLB 9670 TPM2.0", "id:073f"),
    "infineon-ecc": ("id:49465800", "SLB 9670 TPM2.0", "id:073f"),
    "gce-pca-tpm-ecc-enc": (None, None, None),
    "gce-pca-tpm-rsa-enc": (None, None, None),
    "gce-uca-tpm-ecc-enc": ("id:474F4F47", "vTPM", "id:20160511"),
    "gce-uca-tpm-rsa-enc": ("id:474F4F47", "vTPM", "id:20160511"),
    "swtpm-ek-rsa": ("id:00001014", "swtpm", "id:20191023"),
    "swtpm-ek-p384": ("id:00001014", "swtpm", "id:20191023"),
}


@pytest.mark.parametrize("name", EKS)
def test_the_ek_certificates_of_real_tpms_are_accepted(
    vectors: Path, vendors: EkTrust, name: str
) -> None:
    """Vendors' certificates verify with their padding, empty subjects and long chains."""
    data, ek, facts = read(vectors, name)
    found = verify_ek_certificate(data, ek, trust=vendors, now=COLLECTED)
    assert (found.manufacturer, found.model, found.version) == EKS[name]
    assert found.serial == facts["serial"].lstrip("0")
    assert found.sha256 == facts["sha256"]
    assert len(found.issuers) == len(facts["chain"])
    assert found.not_before == datetime.fromisoformat(facts["not_before"])
    assert found.not_after == datetime.fromisoformat(facts["not_after"])
    assert found.chain_not_after <= found.not_after


@pytest.mark.parametrize("name", EKS)
def test_the_ek_certificates_of_real_tpms_expire(
    vectors: Path, vendors: EkTrust, name: str
) -> None:
    """Before its first and after its last day, no chain of the corpus is good."""
    data, ek, _ = read(vectors, name)
    found = verify_ek_certificate(data, ek, trust=vendors, now=COLLECTED)
    moments = [found.not_before - DAY]
    if found.chain_not_after.year < 9999:
        moments.append(found.chain_not_after + DAY)
    for now in moments:
        with pytest.raises(EkExpiredError) as refusal:
            verify_ek_certificate(data, ek, trust=vendors, now=now)
        assert refusal.value.code == "enrolment:ek:expired"


@pytest.mark.parametrize("name", EKS)
def test_no_certificate_is_good_for_the_ek_of_another_tpm(
    vectors: Path, vendors: EkTrust, name: str
) -> None:
    """A vendor's genuine certificate says nothing about another key of the same kind."""
    data, _, _ = read(vectors, name)
    other = "infineon-ecc" if name != "infineon-ecc" else "stm-ecc"
    _, ek, _ = read(vectors, other)
    with pytest.raises(EkKeyError) as refusal:
        verify_ek_certificate(data, ek, trust=vendors, now=COLLECTED)
    assert refusal.value.code == "enrolment:ek:key"


@pytest.mark.parametrize("name", EKS)
def test_no_certificate_is_good_without_its_vendor(vectors: Path, name: str) -> None:
    """A store without the vendor's root trusts nothing below it, intermediates or not."""
    data, ek, facts = read(vectors, name)
    root = facts["chain"][-1]
    files = [p.read_bytes() for p in (vectors / "ek-certs/ca").glob("*.pem") if p.name not in root]
    with pytest.raises(EkChainError) as refusal:
        verify_ek_certificate(data, ek, trust=EkTrust.load(files), now=COLLECTED)
    assert refusal.value.code == "enrolment:ek:chain"


NO_EKS = {
    "an AK's certificate, ECC, of the CA that also certifies EKs": "gce-pca-tpm-ecc-sign",
    "an AK's certificate, RSA, of the CA that also certifies EKs": "gce-pca-tpm-rsa-sign",
    "a signing key that is called an EK, ECC": "gce-uca-tpm-ecc-sign",
    "a signing key that is called an EK, RSA": "gce-uca-tpm-rsa-sign",
    "a device identity, for TLS servers": "hpe-test-idevid",
    "an initial attestation key": "hpe-test-iak",
    "a Windows attestation key of a Surface": "microsoft-aik-surface-pro-4",
    "a Windows attestation key of a Dell": "microsoft-aik-dell-xps-13",
    "a Windows attestation key of a Lenovo": "microsoft-aik-lenovo-carbon-x1",
    "a Windows attestation key of another": "microsoft-aik-tpm-with-ecc-public-area-type",
    "a vendor's root": "amd-root-rsa",
    "a vendor's root that is not quite DER": "nuvoton-root-2110-malformed",
    "a CA for the EKs of one product": "vendor-ica-02849db0fd9f4cc4ef6175e75700b20f40",
    "a CA for EKs": "vendor-ica-pluton-factory-device-ek-ica-dfid0001",
}


@pytest.mark.parametrize("case", NO_EKS)
def test_a_real_certificate_for_something_else_is_refused(
    vectors: Path, vendors: EkTrust, case: str
) -> None:
    """Certificates of AKs, devices and CAs are not those of EKs, though their chains are good."""
    data, key, _ = read(vectors, NO_EKS[case])
    with pytest.raises(EkUsageError) as refusal:
        verify_ek_certificate(data, key, trust=vendors, now=COLLECTED)
    assert refusal.value.code == "enrolment:ek:usage"


def test_an_attribute_certificate_is_refused(vectors: Path) -> None:
    """Platform certificates in the attribute form have no key, and are no EK certificates."""
    folder = vectors / "ek-certs/platform-attribute-certs"
    names = {path.name for path in folder.iterdir()} - {"IntelSigningKey_20April2017.cer"}
    assert len(names) >= 10
    for name in names:
        with pytest.raises(EkMalformedError) as refusal:
            verify_ek_certificate(
                (folder / name).read_bytes(), new_ek(), trust=EkTrust.load([]), now=COLLECTED
            )
        assert refusal.value.code == "enrolment:ek:malformed"


VENDOR_CAS = {
    "vendor-ica-adl-prod-00002226-odca-ca2": "Intel",
    "vendor-ica-lnl-00003642-nz-odca-ca2": "Intel",
    "vendor-ica-microsoft-pluton-policy-ca-a": "Microsoft",
    "vendor-ica-pluton-factory-device-ek-ica-dfid0001": "Microsoft",
    "vendor-ica-wus-ifx-keyid-effeec5e01610082c0e311cbd07a3204408b32b8": "Microsoft",
}


@pytest.mark.parametrize("name", VENDOR_CAS)
def test_vendors_intermediates_chain_to_their_roots(
    vectors: Path, vendors: EkTrust, name: str
) -> None:
    """Chains are found up to the root where the corpus has no leaf, odd encodings included."""
    data, _, facts = read(vectors, name)
    chain = find_chain(
        read_certificate(data),
        anchors=vendors.roots,
        intermediates=vendors.intermediates,
        crls=(),
        now=COLLECTED,
    )
    assert len(chain) == 1 + len(facts["chain"])
    assert VENDOR_CAS[name].lower() in chain[-1].subject_text.lower()


def test_a_ca_without_a_published_root_is_trusted_when_the_operator_says_so(vectors: Path) -> None:
    """AMD's Pluton CA has not signed itself: it counts as an anchor, not as a file."""
    data, _, facts = read(vectors, "vendor-ica-02849db0fd9f4cc4ef6175e75700b20f40")
    files = [(vectors / "ek-certs" / name).read_bytes() for name in facts["chain"]]
    leaf = read_certificate(data)
    plain = EkTrust.load(files)
    assert plain.roots == ()
    anchored = EkTrust.load(files, anchors=[files[-1]])
    assert [root.subject_text for root in anchored.roots] == [plain.intermediates[-1].subject_text]
    assert len(anchored.intermediates) == len(files) - 1
    with pytest.raises(EkChainError):
        find_chain(leaf, anchors=(), intermediates=plain.intermediates, crls=(), now=COLLECTED)
    chain = find_chain(
        leaf,
        anchors=anchored.roots,
        intermediates=anchored.intermediates,
        crls=(),
        now=COLLECTED,
    )
    assert len(chain) == 1 + len(files)


def test_vendors_bundles_load_entirely(vectors: Path) -> None:
    """No CA of the big public bundles is lost, however it is encoded."""
    bundles = [path.read_bytes() for path in (vectors / "ek-certs/bundles").glob("*.pem")]
    trust = EkTrust.load(bundles)
    expected = sum(bundle.count(b"BEGIN CERTIFICATE") for bundle in bundles)
    assert len(trust.roots) + len(trust.intermediates) == expected > 140
    assert trust.refused == ()
    names = [root.subject_text for root in trust.roots]
    assert any("Nuvoton TPM Root CA 2111" in name for name in names)


def test_published_revocation_lists_are_read(vectors: Path) -> None:
    """A real list loads with its CA, and tells the revoked from the rest."""
    folder = vectors / "ek-certs"
    leaf, ca = (
        read_certificate(pem_blocks((folder / name).read_bytes(), b"CERTIFICATE")[0])
        for name in ("test-ca-0.pem", "test-ca-1.pem")
    )
    empty, full = (
        read_crl((folder / name).read_bytes())
        for name in ("test-crls-empty.der", "test-crls-with-revoked.der")
    )
    assert empty.signed_by(ca)
    assert full.signed_by(ca)
    assert leaf.serial in full.serials
    assert leaf.serial not in empty.serials
    root = (folder / "ca/EK-AK-CA-Root-59475959.pem").read_bytes()
    trust = EkTrust.load([root], [(folder / "gcp-root-ca-crl.der").read_bytes()])
    assert len(trust.crls) == 1
