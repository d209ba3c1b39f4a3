"""Keys that sign files: which are taken, and what a signature comes to."""

from __future__ import annotations

import datetime as dt
import hashlib

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from hwtrust.errors.logs import ImaRulesError
from hwtrust.verify.logs.ima_signature import FileKeys, Outcome
from hwtrust.wire.logs.ima_template import FileDigest
from simulators.ima_log import ec_key, public_pem, sign

A = hashlib.sha256(b"a").digest()
DIGEST = FileDigest("sha256", A)
KEY_ID = bytes(range(20))


def certificate(*extensions: x509.ExtensionType) -> str:
    """One for the key that signs files."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "files")])
    now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    builder = x509.CertificateBuilder(name, name, ec_key().public_key(), 1, now, now)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    made = builder.sign(ec_key(), hashes.SHA256())
    return made.public_bytes(serialization.Encoding.PEM).decode()


def test_a_key_in_a_certificate_has_the_id_that_it_says_and_its_own() -> None:
    """Whatever else the certificate has does not matter."""
    constraints = x509.BasicConstraints(ca=False, path_length=None)
    keys = FileKeys([certificate(constraints, x509.SubjectKeyIdentifier(KEY_ID))])
    assert keys.check(sign(ec_key(), A, key_id=KEY_ID[-4:]), DIGEST) is Outcome.VALID
    assert keys.check(sign(ec_key(), A), DIGEST) is Outcome.VALID
    assert keys.check(sign(ec_key(), A, key_id=b"none"), DIGEST) is Outcome.NO_KEY
    assert FileKeys([certificate()]).check(sign(ec_key(), A), DIGEST) is Outcome.VALID


def pem(key: ed25519.Ed25519PublicKey) -> str:
    """A public key, as rules have it."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_bytes(serialization.Encoding.PEM, form).decode()


def short_rsa() -> rsa.RSAPrivateKey:
    """A key of 1024 bits."""
    return rsa.generate_private_key(65537, 1024)  # noqa: S505 - that is what is refused


REFUSED = {
    "RSA of 1024 bits": lambda: public_pem(short_rsa()),
    "a curve of 192 bits": lambda: public_pem(ec.derive_private_key(7, ec.SECP192R1())),
    "Ed25519": lambda: pem(ed25519.Ed25519PrivateKey.generate().public_key()),
}


@pytest.mark.parametrize("what", REFUSED)
def test_keys_that_can_be_broken_or_sign_no_files_are_refused(what: str) -> None:
    """When the rules are prepared."""
    with pytest.raises(ImaRulesError) as refused:
        FileKeys([REFUSED[what]()])
    assert refused.value.code == "rules:ima"


def test_a_short_rsa_key_is_taken_where_that_is_spelled_out() -> None:
    """And no shorter one than is spelled out, nor another kind."""
    key = short_rsa()
    keys = FileKeys([public_pem(key)], unsafe_allow_rsa1024=True)
    assert keys.check(sign(key, A), DIGEST) is Outcome.VALID
    with pytest.raises(ImaRulesError):
        FileKeys([REFUSED["a curve of 192 bits"]()], unsafe_allow_rsa1024=True)


def test_a_signature_says_the_algorithm_of_the_digest_and_its_own_size() -> None:
    """Digests of one algorithm are not those of another of the same size."""
    keys = FileKeys([public_pem(ec_key())])
    sha3 = sign(ec_key(), A, number=20)
    assert keys.check(sha3, DIGEST) is Outcome.MALFORMED
    assert keys.check(sha3, FileDigest("sha3-256", A)) is Outcome.VALID
    assert keys.check(sign(ec_key(), A) + b"\0", DIGEST) is Outcome.MALFORMED
    assert keys.check(sign(ec_key(), A)[:7] + bytes(2), DIGEST) is Outcome.MALFORMED
    assert keys.check(b"\x03\x02\x04none\0\0", DIGEST) is Outcome.MALFORMED
