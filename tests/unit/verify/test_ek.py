"""An EK certificate is believed when a trusted vendor issued it for this EK, and only then.

Certificates of real TPMs show what has to be accepted; a vendor under a test
root (`simulators.ek_authority`) makes everything that has to be refused.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from hwtrust.errors import (
    EkCertificateError,
    EkChainError,
    EkExpiredError,
    EkKeyError,
    EkMalformedError,
    EkRevokedError,
    EkTrustError,
    EkUsageError,
    WeakKeyError,
)
from hwtrust.verify import certificates
from hwtrust.verify.certificates import Certificate, read_certificate, read_crl
from hwtrust.verify.ek import MAX_CERTIFICATE, EkCertificate, EkTrust, verify_ek_certificate
from hwtrust.verify.ek_chain import MAX_LENGTH, find_chain
from hwtrust.wire.structures import EccPoint, Public
from simulators.ek_authority import (
    AK,
    CA_USAGE,
    ECDSA_WITH_SHA256,
    EK,
    END,
    NOW,
    RSA_WITH_SHA256,
    START,
    TLS_SERVER,
    Ca,
    EkAuthority,
    common_name,
    ek_public,
    new_ek,
    tlv,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

COLLECTED = datetime(2026, 11, 23, tzinfo=UTC)
"""When every certificate of the corpus that has not expired is valid."""

DAY = timedelta(days=1)


# --- certificates of real TPMs ----------------------------------------------------


def vendors(vectors: Path) -> EkTrust:
    """A store with the CAs of the corpus."""
    files = [path.read_bytes() for path in sorted((vectors / "ek-certs/ca").glob("*.pem"))]
    assert len(files) >= 40
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
def test_the_ek_certificates_of_real_tpms_are_accepted(vectors: Path, name: str) -> None:
    """Vendors' certificates verify with their padding, empty subjects and long chains."""
    data, ek, facts = read(vectors, name)
    found = verify_ek_certificate(data, ek, trust=vendors(vectors), now=COLLECTED)
    assert (found.manufacturer, found.model, found.version) == EKS[name]
    assert found.serial == facts["serial"].lstrip("0")
    assert found.sha256 == facts["sha256"]
    assert len(found.issuers) == len(facts["chain"])
    assert found.not_before == datetime.fromisoformat(facts["not_before"])
    assert found.not_after == datetime.fromisoformat(facts["not_after"])
    assert found.chain_not_after <= found.not_after


@pytest.mark.parametrize("name", EKS)
def test_the_ek_certificates_of_real_tpms_expire(vectors: Path, name: str) -> None:
    """Before its first and after its last day, no chain of the corpus is good."""
    data, ek, _ = read(vectors, name)
    trust = vendors(vectors)
    found = verify_ek_certificate(data, ek, trust=trust, now=COLLECTED)
    moments = [found.not_before - DAY]
    if found.chain_not_after.year < 9999:
        moments.append(found.chain_not_after + DAY)
    for now in moments:
        with pytest.raises(EkExpiredError) as refusal:
            verify_ek_certificate(data, ek, trust=trust, now=now)
        assert refusal.value.code == "enrolment:ek:expired"


@pytest.mark.parametrize("name", EKS)
def test_no_certificate_is_good_for_the_ek_of_another_tpm(vectors: Path, name: str) -> None:
    """A vendor's genuine certificate says nothing about another key of the same kind."""
    data, _, _ = read(vectors, name)
    other = "infineon-ecc" if name != "infineon-ecc" else "stm-ecc"
    _, ek, _ = read(vectors, other)
    with pytest.raises(EkKeyError) as refusal:
        verify_ek_certificate(data, ek, trust=vendors(vectors), now=COLLECTED)
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
def test_a_real_certificate_for_something_else_is_refused(vectors: Path, case: str) -> None:
    """Certificates of AKs, devices and CAs are not those of EKs, though their chains are good."""
    data, key, _ = read(vectors, NO_EKS[case])
    with pytest.raises(EkUsageError) as refusal:
        verify_ek_certificate(data, key, trust=vendors(vectors), now=COLLECTED)
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
def test_vendors_intermediates_chain_to_their_roots(vectors: Path, name: str) -> None:
    """Chains are found up to the root where the corpus has no leaf, odd encodings included."""
    data, _, facts = read(vectors, name)
    trust = vendors(vectors)
    chain = find_chain(
        read_certificate(data),
        anchors=trust.roots,
        intermediates=trust.intermediates,
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
        read_certificate(certificates.pem_blocks((folder / name).read_bytes(), b"CERTIFICATE")[0])
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


# --- a vendor under a test root ---------------------------------------------------


@dataclass
class Offer:
    """What a device sends and an operator trusts; by default all of it is good."""

    certificate: bytes
    ek: Public
    files: list[bytes]
    crls: list[bytes] = field(default_factory=list)
    intermediates: list[bytes] = field(default_factory=list)
    now: datetime = NOW

    def verify(self) -> EkCertificate:
        """Load the trust and verify the certificate."""
        trust = EkTrust.load(self.files, self.crls)
        return verify_ek_certificate(
            self.certificate,
            self.ek,
            trust=trust,
            now=self.now,
            intermediates=self.intermediates,
        )


def offer(authority: EkAuthority | None = None, **defects: Any) -> Offer:  # noqa: ANN401 - passed on
    """An EK certificate of that vendor, with the defects that the keywords name."""
    authority = authority or EkAuthority.new()
    ek = new_ek()
    return Offer(authority.issue(ek, **defects), ek, authority.files)


def serial_of(certificate: bytes) -> int:
    """The serial number of a certificate."""
    return x509.load_der_x509_certificate(certificate).serial_number


def test_a_certificate_of_a_trusted_vendor_is_accepted() -> None:
    """What is refused below is refused for its one defect."""
    authority = EkAuthority.new()
    found = offer(authority).verify()
    assert found.manufacturer == "id:54455354"
    assert (found.model, found.version) == ("simulated", "id:00010002")
    assert found.issuers == ("CN=Test TPM Intermediate CA", "CN=Test TPM Root CA")
    assert (found.not_before, found.not_after, found.chain_not_after) == (START, END, END)


def of_another_tpm() -> Offer:
    """The certificate of one TPM beside the EK of another."""
    made = offer()
    made.ek = new_ek()
    return made


def of_another_kind_of_key() -> Offer:
    """The certificate of the TPM's RSA EK beside its ECC EK."""
    authority = EkAuthority.new()
    key = rsa.generate_private_key(65537, 2048).public_key()
    certificate = authority.issue(key, usage=("key_encipherment",))
    return Offer(certificate, new_ek(), authority.files)


def self_signed(*, trusted: bool) -> Offer:
    """A certificate that a software EK has made for itself, and an operator may have kept."""
    mine = Ca.root("EK", ca=False, usage=("key_agreement",), extended=(EK,))
    files = EkAuthority.new().files
    key = mine.key.public_key()
    return Offer(mine.der, ek_public(key), [*files, mine.pem] if trusted else files)


def own_vendor() -> Offer:
    """A whole chain that an attacker has made, sent along by the device."""
    attacker = EkAuthority.new()
    made = offer(attacker)
    made.files = EkAuthority.new().files
    made.intermediates = [attacker.intermediate.der, attacker.root.der]
    return made


def forged() -> Offer:
    """A certificate in the intermediate's name, signed by another key."""
    genuine, attacker = EkAuthority.new(), EkAuthority.new()
    made = offer(attacker)
    made.files = genuine.files
    return made


def forged_intermediate() -> Offer:
    """An intermediate in the root's name, signed by another key."""
    made = offer(attacker := EkAuthority.new())
    made.files = [EkAuthority.new().root.pem, attacker.intermediate.der]
    return made


def below_another_ek() -> Offer:
    """A TPM's EK certificate used as a CA, with a key that somebody got out of it."""
    authority = EkAuthority.new()
    key = ec.generate_private_key(ec.SECP256R1())
    stolen = authority.issue(key.public_key(), subject=common_name("EK"))
    ek = new_ek()
    issuer = Ca(key, x509.load_der_x509_certificate(stolen))
    return Offer(issuer.issue(ek), ek, authority.files, intermediates=[stolen])


def with_root(**defects: Any) -> Offer:  # noqa: ANN401 - passed on
    """A vendor whose root has a defect."""
    root = Ca.root(**defects)
    return offer(EkAuthority(root, root.issue_ca()))


def with_path_length_of_root(length: int, cas: int) -> Offer:
    """`cas` intermediates below a root that allows `length`."""
    root = Ca.root(path_length=length)
    chain = [root]
    for number in range(cas):
        chain.append(chain[-1].issue_ca(f"Intermediate {number}"))
    ek = new_ek()
    return Offer(chain[-1].issue(ek), ek, [ca.pem for ca in chain])


def with_weak_ca_key() -> Offer:
    """An intermediate with an RSA key that can be factored."""
    root = Ca.root()
    weak = rsa.generate_private_key(65537, 1024)
    return offer(EkAuthority(root, root.issue_ca(key=weak)))


def with_sha1_intermediate() -> Offer:
    """An intermediate that is signed with SHA-1."""
    root = Ca.root(key=rsa.generate_private_key(65537, 2048))
    intermediate = root.issue_ca()
    made = offer(EkAuthority(root, intermediate))
    made.files = [root.pem, root.sign_with_sha1(intermediate.der)]
    return made


def with_sha1_certificate() -> Offer:
    """An EK certificate that is signed with SHA-1."""
    root = Ca.root()
    intermediate = root.issue_ca(key=rsa.generate_private_key(65537, 2048))
    made = offer(EkAuthority(root, intermediate))
    made.certificate = intermediate.sign_with_sha1(made.certificate)
    return made


def without_intermediate() -> Offer:
    """A store that holds the root alone."""
    made = offer(authority := EkAuthority.new())
    made.files = [authority.root.pem]
    return made


def too_long() -> Offer:
    """A chain with one CA more than is looked at."""
    made = with_path_length_of_root(MAX_LENGTH, MAX_LENGTH - 1)
    assert len(made.files) == MAX_LENGTH
    return made


def revoked(which: str) -> Offer:
    """A chain of which one certificate stands on a list, and the list is years old."""
    made = offer(authority := EkAuthority.new())
    root, intermediate = authority.root, authority.intermediate
    made.crls = [
        {
            "leaf": intermediate.revoke(1, serial_of(made.certificate)),
            "intermediate": root.revoke(serial_of(intermediate.der)),
            "root": root.revoke(serial_of(root.der)),
        }[which]
    ]
    return made


def revoked_below_sent_ca() -> Offer:
    """The list of a CA that only the device knows."""
    made = revoked("leaf")
    made.intermediates = [made.files.pop()]
    return made


REFUSALS: dict[str, tuple[Callable[[], Offer], type[EkCertificateError], str]] = {
    # another key
    "the EK of another TPM": (of_another_tpm, EkKeyError, "key"),
    "the same TPM's EK of another kind": (of_another_kind_of_key, EkKeyError, "key"),
    # no vendor
    "a self-signed EK certificate": (
        lambda: self_signed(trusted=False),
        EkChainError,
        "chain",
    ),
    "a self-signed EK certificate that the operator has put among the CAs": (
        lambda: self_signed(trusted=True),
        EkChainError,
        "chain",
    ),
    "an attacker's own vendor": (own_vendor, EkChainError, "chain"),
    "a certificate that the CA has not signed": (forged, EkChainError, "chain"),
    "an intermediate that the root has not signed": (forged_intermediate, EkChainError, "chain"),
    "an intermediate that nobody has": (without_intermediate, EkChainError, "chain"),
    "a chain without end": (too_long, EkChainError, "chain"),
    # validity
    "an expired certificate": (lambda: offer(end=NOW - DAY), EkExpiredError, "expired"),
    "a certificate of tomorrow": (lambda: offer(start=NOW + DAY), EkExpiredError, "expired"),
    "an expired intermediate": (
        lambda: offer(EkAuthority.new(end=NOW - DAY)),
        EkExpiredError,
        "expired",
    ),
    "an intermediate of tomorrow": (
        lambda: offer(EkAuthority.new(start=NOW + DAY)),
        EkExpiredError,
        "expired",
    ),
    "an expired root": (lambda: with_root(end=NOW - DAY), EkExpiredError, "expired"),
    "a root of tomorrow": (lambda: with_root(start=NOW + DAY), EkExpiredError, "expired"),
    # revocation
    "a revoked certificate": (lambda: revoked("leaf"), EkRevokedError, "revoked"),
    "a revoked intermediate": (lambda: revoked("intermediate"), EkRevokedError, "revoked"),
    "a root that has revoked itself": (lambda: revoked("root"), EkRevokedError, "revoked"),
    "a certificate revoked by a CA that the device has sent": (
        revoked_below_sent_ca,
        EkRevokedError,
        "revoked",
    ),
    # CAs that are none
    "an intermediate that says that it is no CA": (
        lambda: offer(EkAuthority.new(ca=False)),
        EkChainError,
        "chain",
    ),
    "an intermediate that does not say that it is a CA": (
        lambda: offer(EkAuthority.new(ca=None)),
        EkChainError,
        "chain",
    ),
    "an EK's certificate as a CA": (below_another_ek, EkChainError, "chain"),
    "an intermediate whose key signs no certificates": (
        lambda: offer(EkAuthority.new(usage=("crl_sign", "digital_signature"))),
        EkChainError,
        "chain",
    ),
    "a root whose key signs no certificates": (
        lambda: with_root(usage=("crl_sign",)),
        EkChainError,
        "chain",
    ),
    "more intermediates than the root allows": (
        lambda: with_path_length_of_root(1, 2),
        EkChainError,
        "chain",
    ),
    "an intermediate below a root that allows none": (
        lambda: with_path_length_of_root(0, 1),
        EkChainError,
        "chain",
    ),
    "an intermediate for TLS servers": (
        lambda: offer(EkAuthority.new(extended=(TLS_SERVER,))),
        EkChainError,
        "chain",
    ),
    "an intermediate for attestation keys": (
        lambda: offer(EkAuthority.new(extended=(AK,))),
        EkChainError,
        "chain",
    ),
    "an intermediate with a critical extension that nobody knows": (
        lambda: offer(EkAuthority.new(unknown_critical=True)),
        EkChainError,
        "chain",
    ),
    "a certificate with a critical extension that nobody knows": (
        lambda: offer(unknown_critical=True),
        EkChainError,
        "chain",
    ),
    # weak signatures
    "an intermediate with a weak key": (with_weak_ca_key, EkChainError, "chain"),
    "an intermediate signed with SHA-1": (with_sha1_intermediate, EkChainError, "chain"),
    "a certificate signed with SHA-1": (with_sha1_certificate, EkChainError, "chain"),
    "a certificate signed with SHA-224": (
        lambda: offer(algorithm=hashes.SHA224()),
        EkChainError,
        "chain",
    ),
    # certificates for something else
    "a TLS server's certificate": (
        lambda: offer(extended=(TLS_SERVER,), usage=("digital_signature", "key_agreement")),
        EkUsageError,
        "usage",
    ),
    "a TLS server's certificate that does not say so": (
        lambda: offer(extended=None, usage=("digital_signature", "key_agreement")),
        EkUsageError,
        "usage",
    ),
    "an attestation key's certificate": (
        lambda: offer(extended=(AK,), usage=("digital_signature",)),
        EkUsageError,
        "usage",
    ),
    "an attestation key's certificate that does not say so": (
        lambda: offer(extended=None, usage=("digital_signature",)),
        EkUsageError,
        "usage",
    ),
    "a signing key's certificate that calls itself an EK's": (
        lambda: offer(usage=("digital_signature",)),
        EkUsageError,
        "usage",
    ),
    "a certificate without a key usage": (lambda: offer(usage=None), EkUsageError, "usage"),
    "a CA's certificate": (lambda: offer(ca=True), EkUsageError, "usage"),
    "a certificate whose key signs certificates": (
        lambda: offer(usage=("key_agreement", "key_cert_sign")),
        EkUsageError,
        "usage",
    ),
    "a certificate whose key signs revocation lists": (
        lambda: offer(usage=("key_agreement", "crl_sign")),
        EkUsageError,
        "usage",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_an_ek_certificate_with_one_defect_is_refused(case: str) -> None:
    """Each rule of RFC 5280 and of the EK profile refuses by itself."""
    make, error, code = REFUSALS[case]
    with pytest.raises(error) as refusal:
        make().verify()
    assert refusal.value.code == f"enrolment:ek:{code}"


def any_padding(padding: bytes) -> Offer:
    """A certificate in an NV index that is larger than it."""
    made = offer()
    made.certificate += padding
    return made


def from_device(*, several_in_one: bool) -> Offer:
    """A chain of which the operator has the root alone."""
    root = Ca.root()
    upper = root.issue_ca("Upper")
    lower = upper.issue_ca("Lower")
    ek = new_ek()
    sent = [lower.der, upper.der]
    if several_in_one:
        sent = [lower.der + upper.der + b"\xff" * 100]
    return Offer(lower.issue(ek), ek, [root.der], intermediates=sent)


def with_rubbish_from_device() -> Offer:
    """Hints that cannot be read, beside what is needed."""
    made = from_device(several_in_one=False)
    made.intermediates = [b"", b"rubbish", b"\x30\x03\x02\x01\x00", *made.intermediates]
    return made


def with_namesakes() -> Offer:
    """Two intermediates of one name; only the second has issued the certificate."""
    root = Ca.root()
    other, right = root.issue_ca(), root.issue_ca()
    ek = new_ek()
    return Offer(right.issue(ek), ek, [root.pem, other.pem, right.pem])


def with_renewed_intermediate() -> Offer:
    """One key with an expired and a current certificate."""
    root = Ca.root()
    old = root.issue_ca(end=NOW - DAY)
    current = root.issue_ca(key=old.key)
    ek = new_ek()
    return Offer(old.issue(ek), ek, [root.pem, old.pem, current.pem])


def with_sha1_root() -> Offer:
    """A root that has signed itself with SHA-1, long ago."""
    root = Ca.root(key=rsa.generate_private_key(65537, 2048))
    made = offer(EkAuthority(root, root.issue_ca()))
    made.files[0] = root.sign_with_sha1(root.der)
    return made


def with_renewing_root() -> Offer:
    """A root that has certified its new key: that one does not count for the path length."""
    old = Ca.root(path_length=1)
    new = old.issue_ca("Test TPM Root CA")
    return offer(EkAuthority(old, new.issue_ca())) if False else _below(old, new)


def _below(old: Ca, new: Ca) -> Offer:
    intermediate = new.issue_ca()
    ek = new_ek()
    return Offer(intermediate.issue(ek), ek, [old.pem, new.pem, intermediate.pem])


def without_revocation() -> Offer:
    """Lists on which others stand: another serial number, and the same of another CA."""
    made = offer(authority := EkAuthority.new())
    serial = serial_of(made.certificate)
    other = authority.root.issue_ca("Another CA")
    made.files.append(other.pem)
    made.crls = [authority.intermediate.revoke(1, 2, 3), other.revoke(serial)]
    return made


def of_rsa_ek() -> Offer:
    """An RSA-2048 EK."""
    authority = EkAuthority.new()
    key = rsa.generate_private_key(65537, 2048).public_key()
    certificate = authority.issue(key, usage=("key_encipherment",))
    return Offer(certificate, ek_public(key), authority.files)


def of_p384_ek() -> Offer:
    """A P-384 EK."""
    authority = EkAuthority.new()
    key = ec.generate_private_key(ec.SECP384R1()).public_key()
    return Offer(authority.issue(key), ek_public(key), authority.files)


def with_p521_cas() -> Offer:
    """CAs with P-521, as newer vendors' roots have."""
    root = Ca.root(key=ec.generate_private_key(ec.SECP521R1()))
    intermediate = root.issue_ca(
        key=ec.generate_private_key(ec.SECP384R1()), algorithm=hashes.SHA512()
    )
    return offer(EkAuthority(root, intermediate), algorithm=hashes.SHA384())


ACCEPTED: dict[str, Callable[[], Offer]] = {
    "an RSA-2048 EK": of_rsa_ek,
    "a P-384 EK": of_p384_ek,
    "padding with 0xFF": lambda: any_padding(b"\xff" * 431),
    "padding with zeros": lambda: any_padding(bytes(300)),
    "a newline from a file": lambda: any_padding(b"\n"),
    "no extended key usage, and nothing but key agreement": lambda: offer(extended=None),
    "an EK's extended key usage among others": lambda: offer(extended=(TLS_SERVER, EK)),
    "a key that may also sign, and is called an EK": lambda: offer(
        usage=("digital_signature", "key_agreement")
    ),
    "no name of the TPM": lambda: offer(tpm_name=None),
    "the name of the TPM in one RDN": lambda: offer(one_rdn=True),
    "no basic constraints": lambda: offer(ca=None),
    "a subject that is longer than X.520 allows": lambda: offer(
        EkAuthority.new(
            name="x" * 64,
        ),
        subject=x509.Name(
            [x509.NameAttribute(x509.NameOID.COMMON_NAME, "x" * 80, _validate=False)]
        ),
    ),
    "intermediates that the device sends": lambda: from_device(several_in_one=False),
    "intermediates that the device sends in one index": lambda: from_device(several_in_one=True),
    "rubbish that the device sends besides": with_rubbish_from_device,
    "two intermediates of one name": with_namesakes,
    "an intermediate that was renewed": with_renewed_intermediate,
    "a root signed with SHA-1": with_sha1_root,
    "a root that renewed its key": with_renewing_root,
    "CAs without a key usage": lambda: offer(EkAuthority.new(usage=None)),
    "an intermediate for EKs": lambda: offer(EkAuthority.new(extended=(EK,))),
    "an intermediate for everything": lambda: offer(
        EkAuthority.new(extended=(x509.ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,))
    ),
    "a root that allows one intermediate": lambda: with_path_length_of_root(1, 1),
    "the longest chain": lambda: with_path_length_of_root(MAX_LENGTH, MAX_LENGTH - 2),
    "revocation lists on which others stand": without_revocation,
    "CAs with P-521": with_p521_cas,
    "the first second of its validity": lambda: offer(start=NOW),
    "the last second of its validity": lambda: offer(end=NOW),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_an_unusual_but_sound_ek_certificate_is_accepted(case: str) -> None:
    """What vendors do in the field, or may do, is no defect."""
    made = ACCEPTED[case]()
    assert made.verify().sha256


# --- encodings ---------------------------------------------------------------------


def changed(part: bytes, into: bytes) -> Callable[[bytes], bytes]:
    """Replace what occurs once in the signed part."""

    def change(signed: bytes) -> bytes:
        assert signed.count(part) == 1
        return signed.replace(part, into)

    return change


def rebuilt(signed: bytes, replace: Callable[[int, bytes], bytes]) -> bytes:
    """The signed part with each of its members passed through `replace`."""
    members = [
        replace(number, member) for number, member in enumerate(certificates.der.children(signed))
    ]
    return tlv(0x30, *members)


def misordered(authority: EkAuthority) -> Offer:
    """Nuvoton's: the attributes of the TPM's name in one SET that is not sorted."""
    ek = new_ek()
    good = authority.issue(ek, one_rdn=True)
    alternative = x509.load_der_x509_certificate(good).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    name = alternative.value.get_values_for_type(x509.DirectoryName)[0].public_bytes()
    rdn = certificates.der.children(name)[0]
    attributes = certificates.der.children(rdn)
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
    rdn = certificates.der.children(der)[0]
    bad = tlv(0x30, tlv(0x31, *reversed(certificates.der.children(rdn))))
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
        oid, *critical, value = certificates.der.children(extension)
        if value == bytes.fromhex("04023000"):
            return tlv(0x30, oid, *critical, bytes.fromhex("04053003010100"))
        return tlv(0x30, oid, *(critical or [bytes.fromhex("010100")]), value)

    def replace(_: int, member: bytes) -> bytes:
        if member[0] != 0xA3:
            return member
        extensions = certificates.der.children(certificates.der.children(member)[0])
        return tlv(0xA3, tlv(0x30, *map(explicit, extensions)))

    made.certificate = authority.intermediate.sign_again(
        made.certificate, lambda signed: rebuilt(signed, replace)
    )
    return made


def with_null_parameters() -> Offer:
    """Intel's: an ECDSA signature algorithm with NULL parameters."""
    made = offer(authority := EkAuthority.new())
    with_null = tlv(0x30, certificates.der.children(ECDSA_WITH_SHA256)[0], b"\x05\x00")
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


ODD_ENCODINGS: dict[str, Callable[[], Offer]] = {
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


def test_an_odd_serial_number_can_be_revoked() -> None:
    """A certificate with the serial number 0 is not beyond its CA's reach."""
    made = with_serial(b"\x01")
    ca = Ca.root()
    assert serial_of(made.certificate) == 1
    trust = EkTrust.load([ca.pem], [ca.revoke(1)])
    assert trust.crls[0].serials == {1}


def mixed_algorithms() -> bytes:
    """A certificate whose signed part names another algorithm than stands beside it."""
    authority = EkAuthority.new()
    return authority.intermediate.sign_again(
        authority.issue(new_ek()), lambda signed: signed, outer=RSA_WITH_SHA256
    )


def ed25519() -> bytes:
    """A certificate for a key of a kind that no TPM has."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (  # noqa: PLC0415
        Ed25519PrivateKey,
    )

    key = Ed25519PrivateKey.generate()
    builder = (
        x509.CertificateBuilder()
        .subject_name(common_name("EK"))
        .issuer_name(common_name("EK"))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(START)
        .not_valid_after(END)
    )
    return builder.sign(key, None).public_bytes(serialization.Encoding.DER)


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
    "a key of another kind": ed25519,
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


def test_a_weak_ek_is_refused_whatever_its_certificate_says() -> None:
    """A vendor cannot vouch for a point that is on no curve."""
    made = offer()
    assert isinstance(made.ek.unique, EccPoint)
    made.ek = Public(
        made.ek.type,
        made.ek.name_alg,
        made.ek.attributes,
        made.ek.auth_policy,
        made.ek.params,
        EccPoint(made.ek.unique.x, bytes(32)),
    )
    with pytest.raises(WeakKeyError) as refusal:
        made.verify()
    assert refusal.value.code == "evidence:key:weak"


# --- the search --------------------------------------------------------------------


def test_the_search_for_a_chain_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """CAs that have certified each other cannot keep a server busy."""
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(4)]
    ring = [Ca.root(key=key).issue_ca("Test TPM Root CA", key=key) for key in keys * 4]
    ek = new_ek()
    made = Offer(ring[0].issue(ek), ek, EkAuthority.new().files)
    made.intermediates = [ca.der for ca in ring]
    checks = 0
    genuine = Certificate.signed_by

    def counted(certificate: Certificate, issuer: Certificate) -> bool:
        nonlocal checks
        checks += 1
        return genuine(certificate, issuer)

    trust = EkTrust.load(made.files)
    monkeypatch.setattr(Certificate, "signed_by", counted)
    with pytest.raises(EkChainError):
        verify_ek_certificate(
            made.certificate, ek, trust=trust, now=NOW, intermediates=made.intermediates
        )
    assert 16 <= checks <= 64


def test_only_so_many_cas_of_a_device_are_looked_at() -> None:
    """A device that sends a flood of CA certificates gains nothing but a refusal."""
    made = from_device(several_in_one=False)
    useless = [Ca.root(f"Useless {number}").der for number in range(16)]
    assert made.verify()
    made.intermediates = [*useless, *made.intermediates]
    with pytest.raises(EkChainError):
        made.verify()
    made.intermediates = [b"".join(made.intermediates)]
    with pytest.raises(EkChainError):
        made.verify()


# --- the store ---------------------------------------------------------------------


def test_an_operators_files_are_sorted_into_roots_and_the_rest() -> None:
    """PEM, DER, bundles and duplicates come in; only what has signed itself is a root."""
    authority, other = EkAuthority.new(), Ca.root("Other Root")
    bundle = b"# vendors\n" + authority.root.pem + b"\n" + authority.intermediate.pem
    trust = EkTrust.load([bundle, authority.root.der, other.der + b"\n"])
    assert [root.subject_text for root in trust.roots] == ["CN=Test TPM Root CA", "CN=Other Root"]
    assert [ca.subject_text for ca in trust.intermediates] == ["CN=Test TPM Intermediate CA"]
    assert trust.refused == ()


def test_a_ca_that_names_itself_without_signing_is_no_root() -> None:
    """A certificate in a root's name by another key is not trusted for its name."""
    genuine, attacker = Ca.root(), Ca.root()
    fake = attacker.issue_ca("Test TPM Root CA")
    trust = EkTrust.load([fake.pem])
    assert trust.roots == ()
    assert len(trust.intermediates) == 1
    ek = new_ek()
    with pytest.raises(EkChainError):
        Offer(fake.issue(ek), ek, [fake.pem, genuine.pem]).verify()


def test_what_cannot_be_used_among_an_operators_files_is_reported() -> None:
    """One odd certificate in a bundle costs itself, and is named with its reason."""
    authority = EkAuthority.new()
    leaf = offer(authority)
    unreadable = tlv(0x30, tlv(0x30), tlv(0x30), tlv(0x03, b"\0"))
    trust = EkTrust.load([authority.root.pem, leaf.certificate, unreadable])
    assert len(trust.roots) == 1
    assert len(trust.refused) == 2
    assert all(len(one.sha256) == 64 and one.reason for one in trust.refused)


@pytest.mark.parametrize(
    "file",
    [
        pytest.param(b"", id="an empty file"),
        pytest.param(b"no certificates", id="text"),
        pytest.param(
            b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n", id="no base64"
        ),
        pytest.param(
            b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", id="another PEM"
        ),
        pytest.param(b"\x30\x82\x01", id="DER cut short"),
    ],
)
def test_a_file_without_certificates_is_an_error(file: bytes) -> None:
    """An operator who names the wrong file learns it at once, for CAs, anchors and lists."""
    for load in (
        lambda: EkTrust.load([file]),
        lambda: EkTrust.load([], anchors=[file]),
        lambda: EkTrust.load([], [file]),
    ):
        with pytest.raises(EkTrustError) as refusal:
            load()
        assert refusal.value.code == "enrolment:ek:trust"


def test_a_revocation_list_that_cannot_be_used_is_an_error() -> None:
    """A list that is unreadable or forged is not passed over: it may be the one that matters."""
    authority, attacker = EkAuthority.new(), Ca.root("Attacker")
    genuine = authority.intermediate.revoke(1)
    broken = bytearray(genuine)
    broken[-1] ^= 1
    for crl in (
        authority.intermediate.revoke(1, by=attacker),
        bytes(broken),
        authority.intermediate.der,
    ):
        with pytest.raises(EkTrustError) as refusal:
            EkTrust.load(authority.files, [crl])
        assert refusal.value.code == "enrolment:ek:trust"
    assert len(EkTrust.load(authority.files, [genuine]).crls) == 1


def test_revocation_lists_come_as_pem_too() -> None:
    """Both forms of a list revoke."""
    made = revoked("leaf")
    listed = x509.load_der_x509_crl(made.crls[0])
    made.crls = [listed.public_bytes(serialization.Encoding.PEM)]
    with pytest.raises(EkRevokedError):
        made.verify()


def test_an_empty_store_trusts_nobody() -> None:
    """An operator who has named no vendor accepts no certificate."""
    made = offer()
    made.files = []
    with pytest.raises(EkChainError) as refusal:
        made.verify()
    assert refusal.value.code == "enrolment:ek:chain"


def test_the_usual_ca_usage_is_what_the_maker_gives() -> None:
    """The good chain of these tests has the bits whose absence is refused above."""
    assert "key_cert_sign" in CA_USAGE
