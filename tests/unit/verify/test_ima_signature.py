"""Keys that sign files: which are taken, and what a signature comes to."""

from __future__ import annotations

import datetime as dt
import hashlib
import struct

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, utils

from hwtrust.errors.logs import ImaRulesError
from hwtrust.verify.logs.ima_signature import FileKeys, Outcome
from hwtrust.wire.logs.ima_template import FileDigest
from simulators.ima_log import ec_key, other_key, public_pem, sign

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


@pytest.mark.parametrize("first", [True, False])
def test_a_key_that_takes_the_id_of_another_does_not_put_it_out(first: bool) -> None:
    """The id is a hint: both keys sign files."""
    taken = x509.SubjectKeyIdentifier.from_public_key(other_key().public_key())
    documents = [certificate(taken), public_pem(other_key())]
    keys = FileKeys(documents if first else documents[::-1])
    assert keys.check(sign(other_key(), A), DIGEST) is Outcome.VALID
    assert keys.check(sign(ec_key(), A, key_id=taken.digest[-4:]), DIGEST) is Outcome.VALID


def pem(key: ed25519.Ed25519PublicKey | rsa.RSAPublicKey) -> str:
    """A public key, as rules have it."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_bytes(serialization.Encoding.PEM, form).decode()


def short_rsa() -> rsa.RSAPrivateKey:
    """A key of 1024 bits."""
    return rsa.generate_private_key(65537, 1024)  # noqa: S505 - that is what is refused


def rsa_of(bits: int) -> str:
    """A key of so many bits, with which nobody signs."""
    return pem(rsa.RSAPublicNumbers(65537, (1 << bits - 1) + 1).public_key())


REFUSED = {
    "RSA of 1024 bits": lambda: public_pem(short_rsa()),
    "RSA of 2047 bits": lambda: rsa_of(2047),
    "a curve of 224 bits": lambda: public_pem(ec.derive_private_key(7, ec.SECP224R1())),
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
    for weaker in (rsa_of(1023), REFUSED["a curve of 192 bits"]()):
        with pytest.raises(ImaRulesError) as refused:
            FileKeys([weaker], unsafe_allow_rsa1024=True)
        assert refused.value.code == "rules:ima"


BELIEVED: dict[int, tuple[str, hashes.HashAlgorithm]] = {
    4: ("sha256", hashes.SHA256()),
    5: ("sha384", hashes.SHA384()),
    6: ("sha512", hashes.SHA512()),
    7: ("sha224", hashes.SHA224()),
    20: ("sha3-256", hashes.SHA3_256()),
    21: ("sha3-384", hashes.SHA3_384()),
    22: ("sha3-512", hashes.SHA3_512()),
}
"""enum hash_algo, include/uapi/linux/hash_info.h, as far as it is believed."""


def signed_as(number: int, version: int, algorithm: hashes.HashAlgorithm) -> tuple[bytes, bytes]:
    """A digest, and a signature over it by the numbers of the kernel."""

    def hashed(data: bytes) -> bytes:
        made = hashes.Hash(algorithm)
        made.update(data)
        return made.finalize()

    digest = hashed(b"a")
    signed = digest if version == 2 else hashed(bytes((3, number)) + digest)
    made = ec_key().sign(signed, ec.ECDSA(utils.Prehashed(algorithm)))
    key_id = x509.SubjectKeyIdentifier.from_public_key(ec_key().public_key()).digest[-4:]
    return digest, struct.pack(">BBB4sH", 3, version, number, key_id, len(made)) + made


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("number", BELIEVED)
def test_each_hash_is_known_by_the_kernels_number(number: int, version: int) -> None:
    """Of the same size or not, none is taken for another."""
    keys = FileKeys([public_pem(ec_key())])
    name, algorithm = BELIEVED[number]
    digest, signature = signed_as(number, version, algorithm)
    for other, _ in BELIEVED.values():
        expected = Outcome.VALID if other == name else Outcome.MALFORMED
        assert keys.check(signature, FileDigest(other, digest)) is expected


WEAK: dict[str, tuple[int, hashes.HashAlgorithm]] = {
    "md5": (1, hashes.MD5()),  # noqa: S303 - that is what is not believed
    "sha1": (2, hashes.SHA1()),  # noqa: S303 - nor that
    "rmd160": (3, hashes.SHA1()),  # noqa: S303 - of its size
    "sm3": (17, hashes.SM3()),
}


@pytest.mark.parametrize("name", WEAK)
def test_a_valid_signature_over_another_hash_is_not_believed(name: str) -> None:
    """Whoever makes two files of one digest needs one signature for them."""
    number, algorithm = WEAK[name]
    digest, signature = signed_as(number, 2, algorithm)
    keys = FileKeys([public_pem(ec_key())])
    assert keys.check(signature, FileDigest(name, digest)) is Outcome.WEAK


def test_a_signature_says_the_algorithm_of_the_digest_and_its_own_size() -> None:
    """Digests of one algorithm are not those of another of the same size."""
    keys = FileKeys([public_pem(ec_key())])
    sha3 = sign(ec_key(), A, number=20)
    assert keys.check(sha3, DIGEST) is Outcome.MALFORMED
    assert keys.check(sha3, FileDigest("sha3-256", A)) is Outcome.VALID
    assert keys.check(sign(ec_key(), A) + b"\0", DIGEST) is Outcome.MALFORMED
    assert keys.check(sign(ec_key(), A)[:-1], DIGEST) is Outcome.MALFORMED
    assert keys.check(sign(ec_key(), A)[:7] + bytes(2), DIGEST) is Outcome.MALFORMED
    assert keys.check(b"\x03\x02\x04none\0\0", DIGEST) is Outcome.MALFORMED


@pytest.mark.parametrize("version", [0, 4, 255])
def test_a_signature_of_another_version_is_not_of_a_known_form(version: int) -> None:
    """What a version covers is not guessed."""
    keys = FileKeys([public_pem(ec_key())])
    assert keys.check(sign(ec_key(), A, version=version), DIGEST) is Outcome.MALFORMED


def test_a_digest_of_another_size_than_its_algorithms_was_not_signed() -> None:
    """It is an outcome, and no error of the library beneath."""
    keys = FileKeys([public_pem(ec_key())])
    assert keys.check(sign(ec_key(), A), FileDigest("sha256", A[:31])) is Outcome.INVALID
