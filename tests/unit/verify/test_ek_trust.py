"""The operator's store: who is a root, who is revoked, and what is said about the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from hwtrust.errors import EkChainError, EkRevokedError, EkTrustError
from hwtrust.verify.ek import EkTrust
from simulators.ek_authority import Ca, EkAuthority, Offer, new_ek, offer, revoked, tlv

if TYPE_CHECKING:
    from collections.abc import Callable


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


def test_a_ca_that_signs_under_another_name_is_no_root() -> None:
    """A root names itself as its issuer; a name that leads elsewhere is followed there."""
    key = ec.generate_private_key(ec.SECP256R1())
    renamed = Ca.root("Old Name", key=key).issue_ca("New Name", key=key)
    trust = EkTrust.load([renamed.pem])
    assert trust.roots == ()
    assert len(trust.intermediates) == 1


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
    loads: list[Callable[[], EkTrust]] = [
        lambda: EkTrust.load([file]),
        lambda: EkTrust.load([], anchors=[file]),
        lambda: EkTrust.load([], [file]),
    ]
    for load in loads:
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
