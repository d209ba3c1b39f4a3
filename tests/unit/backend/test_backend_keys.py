"""The vault, its signers, and what the CAs issue and recognise."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, utils
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from hwtrust.errors import (
    CsrError,
    HwTrustError,
    IdentityCertificateError,
    IdentityKeyError,
    VaultDamagedError,
    VaultError,
    VaultExistsError,
    VaultMissingError,
    VaultPassphraseError,
    WeakKeyError,
)
from hwtrust_backend.keys import (
    FileVault,
    KeyRole,
    Secret,
    device_of_certificate,
    find_passphrase,
    issue_device_certificate,
    issue_server_certificate,
    make_authority,
    new_passphrase,
)
from hwtrust_backend.keys import vault as vault_module
from hwtrust_backend.keys.signing import IssuingKey, SoftwareSigner
from hwtrust_backend.testing import CHEAP, DAY, HOUR, MINUTE
from simulators.attester import make_csr, spki
from simulators.backend_clients import leaf_der, malformed

if TYPE_CHECKING:
    from pathlib import Path

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""SP 800-186, §3.2.1.3."""
NOW = 1_800_000_000_000
DEVICE = b"\x00\x0b" + bytes(range(32))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the vault is."""
    return tmp_path / "keys.vault"


def make_vault(path: Path, passphrase: bytes = b"right") -> FileVault:
    """A new vault."""
    return FileVault.create(path, passphrase=Secret(passphrase), now=NOW, cost=CHEAP)


# --- the vault -----------------------------------------------------------------------


def test_a_vault_gives_the_same_keys_again(path: Path) -> None:
    """What is opened signs with the keys that were made."""
    made = make_vault(path)
    opened = FileVault.open(path, passphrase=Secret(b"right"))
    for role in KeyRole:
        assert opened.signer(role).public_key == made.signer(role).public_key
    assert opened.challenge_key.reveal() == made.challenge_key.reveal()
    assert opened.authority(KeyRole.DEVICE_CA) == made.authority(KeyRole.DEVICE_CA)


def test_every_role_has_a_key_of_its_own(path: Path) -> None:
    """One key, one purpose."""
    vault = make_vault(path)
    numbers = {vault.signer(role).public_key.public_numbers() for role in KeyRole}
    assert len(numbers) == len(KeyRole)


def test_the_audit_key_is_derived_and_not_stored(path: Path) -> None:
    """A vault that was made before there was one gives it too; each vault its own."""
    vault = make_vault(path)
    content = vault_module._unseal(path.read_bytes(), Secret(b"right"), path)
    assert KeyRole.AUDIT not in content.keys
    public = vault.signer(KeyRole.AUDIT).public_key
    expanded = HKDF(hashes.SHA256(), 64, salt=None, info=b"hwtrust-backend v1, key: audit").derive(
        vault.challenge_key.reveal()
    )
    scalar = int.from_bytes(expanded, "big") % (P256_ORDER - 1) + 1
    assert ec.derive_private_key(scalar, ec.SECP256R1()).public_key() == public
    other = make_vault(path.with_name("other"))
    assert other.signer(KeyRole.AUDIT).public_key != public


def test_a_derived_secret_is_the_same_again_and_one_a_purpose(path: Path) -> None:
    """Replicas share it; it shows nothing of another one, nor of the vault's own key."""
    made = make_vault(path)
    opened = FileVault.open(path, passphrase=Secret(b"right"))
    first, second = made.derive("sessions").reveal(), made.derive("webhooks").reveal()
    assert opened.derive("sessions").reveal() == first
    assert len(first) == 32
    assert len({first, second, made.challenge_key.reveal()}) == 3
    assert make_vault(path.with_name("other")).derive("sessions").reveal() != first
    assert first.hex() not in repr(made.derive("sessions"))


def test_a_wrong_passphrase_is_an_error_with_a_code(path: Path) -> None:
    """It says what is wrong, and shows nothing of what is inside."""
    make_vault(path)
    with pytest.raises(VaultPassphraseError) as caught:
        FileVault.open(path, passphrase=Secret(b"zebra"))
    assert caught.value.code == "vault:passphrase"
    assert "zebra" not in str(caught.value)


def test_a_vault_is_private_and_encrypted(path: Path) -> None:
    """0600; no key is in it in the clear."""
    vault = make_vault(path)
    assert path.stat().st_mode & 0o777 == 0o600
    content = path.read_bytes()
    assert b"PRIVATE" not in content
    assert vault.challenge_key.reveal() not in content


def test_a_vault_that_others_can_read_is_refused(path: Path) -> None:
    """A key file with open permissions is not used."""
    make_vault(path)
    path.chmod(0o640)
    with pytest.raises(VaultError) as caught:
        FileVault.open(path, passphrase=Secret(b"right"))
    assert caught.value.code == "vault"


def test_a_missing_and_an_existing_vault_have_their_own_errors(path: Path) -> None:
    """Nothing is opened that is not there, nothing is made over what is."""
    with pytest.raises(VaultMissingError):
        FileVault.open(path, passphrase=Secret(b"right"))
    make_vault(path)
    before = path.read_bytes()
    with pytest.raises(VaultExistsError):
        make_vault(path)
    assert path.read_bytes() == before


def test_no_change_of_the_file_goes_unnoticed(path: Path) -> None:
    """Every byte of the file that is changed ends in a vault error, or changes nothing."""
    make_vault(path)
    good = path.read_bytes()
    for position in range(0, len(good), 97):
        changed = bytearray(good)
        changed[position] ^= 0x01
        path.write_bytes(changed)
        path.chmod(0o600)
        with pytest.raises(VaultError):
            FileVault.open(path, passphrase=Secret(b"right"))


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[" * 5000, b'{"header": 1}'])
def test_a_file_that_is_no_vault_is_damaged(path: Path, content: bytes) -> None:
    """Garbage is told from a wrong passphrase."""
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(VaultDamagedError) as caught:
        FileVault.open(path, passphrase=Secret(b"right"))
    assert caught.value.code == "vault:damaged"


def test_keys_do_not_come_out(path: Path) -> None:
    """Neither repr, pickle nor export gives a private key (104)."""
    vault = make_vault(path)
    signer = vault.signer(KeyRole.POLICY)
    assert "key" not in repr(signer).lower()
    assert repr(vault) == "FileVault(…)"
    for secret in (signer, vault.challenge_key):
        with pytest.raises(TypeError):
            pickle.dumps(secret)
    issuing = IssuingKey(signer)
    for export in (issuing.private_numbers, lambda: issuing.private_bytes(None, None, None)):  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            export()


def test_a_signer_signs_messages_and_digests(path: Path) -> None:
    """Both forms verify under the public half."""
    signer = make_vault(path).signer(KeyRole.METADATA)
    signer.public_key.verify(signer.sign(b"m"), b"m", ec.ECDSA(hashes.SHA256()))
    digest = bytes(32)
    prehashed = ec.ECDSA(utils.Prehashed(hashes.SHA256()))
    signer.public_key.verify(signer.sign_digest(digest), digest, prehashed)


# --- the passphrase --------------------------------------------------------------------


def test_the_passphrase_comes_from_file_credential_or_prompt(tmp_path: Path) -> None:
    """In this order, and without the newline at the end."""
    file, credentials = tmp_path / "p", tmp_path / "credentials"
    file.write_text("from file\n")
    credentials.mkdir()
    (credentials / "hwtrust-backend-passphrase").write_text("from systemd")
    systemd = {"CREDENTIALS_DIRECTORY": str(credentials)}
    variable = {"HWTRUST_BACKEND_PASSPHRASE_FILE": str(file)}
    cases = [
        (find_passphrase(file=file, environ=systemd, prompt=None), b"from file"),
        (find_passphrase(file=None, environ=variable | systemd, prompt=None), b"from file"),
        (find_passphrase(file=None, environ=systemd, prompt=None), b"from systemd"),
        (find_passphrase(file=None, environ={}, prompt=lambda: "typed"), b"typed"),
    ]
    for found, expected in cases:
        assert found.reveal() == expected
        assert expected.decode() not in repr(found)


def test_no_passphrase_is_an_error(tmp_path: Path) -> None:
    """Missing file, empty file, nobody to ask."""
    empty = tmp_path / "empty"
    empty.write_text("\n")
    for file in (empty, tmp_path / "missing", None):
        with pytest.raises(VaultPassphraseError):
            find_passphrase(file=file, environ={}, prompt=None)


def test_new_passphrases_differ() -> None:
    """256 random bits each."""
    assert new_passphrase().reveal() != new_passphrase().reveal()


# --- certificates ------------------------------------------------------------------------


class Issuer:
    """A CA with what is needed to issue."""

    def __init__(self) -> None:
        self.signer = SoftwareSigner(ec.generate_private_key(ec.SECP256R1()))
        self.authority = make_authority(self.signer, name="test CA", now=NOW)

    def device(self, csr: bytes, tls_key: bytes, *, now: int = NOW) -> bytes:
        """A device's certificate, DER."""
        issued = issue_device_certificate(
            csr,
            tls_key=tls_key,
            device=DEVICE,
            signer=self.signer,
            authority=self.authority,
            now=now,
            lifetime_ms=HOUR,
        )
        return leaf_der(issued.pem)


def test_a_device_is_recognised_by_its_certificate() -> None:
    """Name and key come from the certificate that its CA issued; the EKU is the client's."""
    issuer, key = Issuer(), ec.generate_private_key(ec.SECP256R1())
    der = issuer.device(make_csr(key), spki(key))
    identity = device_of_certificate(der, authority=issuer.authority, now=NOW)
    assert (identity.device, identity.tls_key) == (DEVICE.hex(), spki(key))
    certificate = x509.load_der_x509_certificate(der)
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert not constraints.ca


def test_what_is_no_device_s_certificate_in_force_is_refused() -> None:
    """Another CA, expired, not yet valid, a server's, the CA's own, garbage (82)."""
    issuer, other = Issuer(), Issuer()
    key = ec.generate_private_key(ec.SECP256R1())
    good = issuer.device(make_csr(key), spki(key))
    server = issue_server_certificate(
        key.public_key(),
        hosts=("localhost", "127.0.0.1"),
        signer=issuer.signer,
        authority=issuer.authority,
        now=NOW,
    )
    cases: dict[str, tuple[bytes, int]] = {
        "of another CA": (other.device(make_csr(key), spki(key)), NOW),
        "expired": (good, NOW + HOUR + MINUTE),
        "not valid yet": (good, NOW - DAY),
        "a server's": (leaf_der(server.pem), NOW),
        "the CA's own": (issuer.authority.public_bytes(Encoding.DER), NOW),
        "garbage": (b"0\x00", NOW),
        "nothing": (b"", NOW),
        "cut short": (good[:-1], NOW),
        **{f"malformed {number}": (der, NOW) for number, der in enumerate(malformed(good))},
    }
    for case, (der, now) in cases.items():
        with pytest.raises(IdentityCertificateError) as caught:
            device_of_certificate(der, authority=issuer.authority, now=now)
        assert caught.value.code == "identity:certificate:refused", case


def test_a_certificate_is_issued_for_the_evidence_s_key_alone() -> None:
    """Another key, a request that its key has not signed, weak and odd keys."""
    issuer = Issuer()
    key, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    weak = ec.generate_private_key(ec.SECP521R1())
    broken = bytearray(make_csr(key))
    broken[-1] ^= 1
    odd = ed25519.Ed25519PrivateKey.generate()
    odd_csr = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .sign(odd, None)
        .public_bytes(Encoding.DER)
    )
    cases: dict[str, tuple[bytes, type[HwTrustError]]] = {
        "another key": (make_csr(other), IdentityKeyError),
        "not signed by its key": (bytes(broken), CsrError),
        "no request": (b"\x30\x00", CsrError),
        "a weak curve": (make_csr(weak), WeakKeyError),
        "another kind of key": (odd_csr, WeakKeyError),
    }
    for case, (csr, expected) in cases.items():
        with pytest.raises(expected) as caught:
            issuer.device(csr, spki(key))
        assert type(caught.value) is expected, case


def test_the_issuing_key_signs_certificates_and_nothing_else() -> None:
    """Another hash is refused: the seam promises SHA-256."""
    issuing = IssuingKey(Issuer().signer)
    with pytest.raises(TypeError):
        issuing.sign(b"", ec.ECDSA(hashes.SHA384()))
