"""An EK certificate is believed when a trusted vendor issued it for this EK, and only then.

A vendor under a test root (`simulators.ek_authority`) makes what has to be
accepted, and everything that has to be refused, with one defect each.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from hwtrust.errors import (
    EkCertificateError,
    EkChainError,
    EkExpiredError,
    EkKeyError,
    EkRevokedError,
    EkUsageError,
    WeakKeyError,
)
from hwtrust.verify.certificates import Certificate
from hwtrust.verify.ek_chain import MAX_LENGTH
from hwtrust.wire.structures import EccPoint
from simulators.ek_authority import (
    AK,
    EK,
    END,
    NOW,
    START,
    TLS_SERVER,
    Ca,
    EkAuthority,
    Offer,
    common_name,
    ek_public,
    new_ek,
    offer,
    revoked,
    serial_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

DAY = timedelta(days=1)


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


def forged_by_another_kind_of_key() -> Offer:
    """A certificate in the name of a CA with RSA, signed with ECDSA."""
    made = forged()
    root = Ca.root()
    made.files = [root.pem, root.issue_ca(key=rsa.generate_private_key(65537, 2048)).pem]
    return made


def sent_by_device(authority: EkAuthority) -> Offer:
    """A chain of which the operator has the root alone."""
    made = offer(authority)
    made.intermediates = [made.files.pop()]
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
    weak = rsa.generate_private_key(65537, 1024)  # noqa: S505 - to be refused
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
    "a certificate signed by a key of another kind": (
        forged_by_another_kind_of_key,
        EkChainError,
        "chain",
    ),
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
        lambda: sent_by_device(EkAuthority.new(ca=False)),
        EkChainError,
        "chain",
    ),
    "an intermediate that does not say that it is a CA": (
        lambda: sent_by_device(EkAuthority.new(ca=None)),
        EkChainError,
        "chain",
    ),
    "an intermediate in the store that is no CA": (
        lambda: offer(EkAuthority.new(ca=False)),
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
    made = offer(authority := EkAuthority(old, new.issue_ca()))
    made.files = [*authority.files, new.pem]
    return made


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
        EkAuthority.new(extended=(ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,))
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


# --- the search --------------------------------------------------------------------


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The subjects of the certificates whose signatures are checked, one a check."""
    done: list[str] = []
    genuine = Certificate.signed_by

    def counted(certificate: Certificate, issuer: Certificate) -> bool:
        done.append(certificate.subject_text)
        return genuine(certificate, issuer)

    monkeypatch.setattr(Certificate, "signed_by", counted)
    return done


def test_the_search_for_a_chain_is_bounded(checks: list[str]) -> None:
    """CAs that have certified each other in every way cannot keep a server busy."""
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(4)]
    ring = [Ca.root(key=key).issue_ca("Test TPM Root CA", key=key) for key in keys * 4]
    ek = new_ek()
    made = Offer(ring[0].issue(ek), ek, EkAuthority.new().files)
    made.intermediates = [ca.der for ca in ring]
    with pytest.raises(EkChainError):
        made.verify()
    assert 16 <= len(checks) <= 70  # 64, and those of the store's own CAs


def test_the_search_does_not_go_in_circles(checks: list[str]) -> None:
    """Two CAs that have certified each other are tried once each."""
    one = Ca.root("One")
    two = Ca.root("Two")
    ek = new_ek()
    made = Offer(one.issue(ek), ek, [])
    made.intermediates = [
        two.issue_ca("One", key=one.key).der,
        one.issue_ca("Two", key=two.key).der,
    ]
    with pytest.raises(EkChainError):
        made.verify()
    assert len(checks) == 2


def test_only_so_many_cas_of_a_device_are_looked_at() -> None:
    """A device that sends a flood of CA certificates gains nothing but a refusal."""
    made = from_device(several_in_one=False)
    useless = [Ca.root(f"Useless {number}").der for number in range(16)]
    made.verify()
    made.intermediates = [*useless, *made.intermediates]
    with pytest.raises(EkChainError):
        made.verify()
    made.intermediates = [b"".join(made.intermediates)]
    with pytest.raises(EkChainError):
        made.verify()


def test_a_weak_ek_is_refused_whatever_its_certificate_says() -> None:
    """A vendor cannot vouch for a point that is on no curve."""
    made = offer()
    assert isinstance(made.ek.unique, EccPoint)
    made.ek = replace(made.ek, unique=EccPoint(made.ek.unique.x, bytes(32)))
    with pytest.raises(WeakKeyError) as refusal:
        made.verify()
    assert refusal.value.code == "evidence:key:weak"
