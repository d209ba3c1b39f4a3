"""A file's signature in an IMA entry, as `evmctl ima_sign` makes it: was it made by a known key?

    v2   03 | 02 | hash u8 | key id (4) | size u16 | signature over the file's digest
    v3   03 or 06 | 03 | … the same …    | signature over H(type u8 | hash u8 | digest)

big-endian; type 06 is for the digests of fs-verity. Rules:

1. The digest that is signed is the entry's, of the algorithm that both name.
2. The key id is a hint that anybody can write: it chooses keys, and proves nothing.
3. A signature over MD5 or SHA-1 is not believed, which is all that version 1 has.
"""

from __future__ import annotations

import hashlib
import re
import struct
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

from hwtrust.errors.logs import ImaRulesError
from hwtrust.verify.certificates import PARSER_ERRORS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hwtrust.wire.logs.ima_template import FileDigest

Key = ec.EllipticCurvePublicKey | rsa.RSAPublicKey

DIGSIG, VERITY = 3, 6
"""EVM_IMA_XATTR_DIGSIG and IMA_VERITY_DIGSIG, include of Linux security/integrity."""

_HEAD: Final = struct.Struct(">BBB4sH")
_HASHES: Final[dict[int, tuple[str, hashes.HashAlgorithm]]] = {
    4: ("sha256", hashes.SHA256()),
    5: ("sha384", hashes.SHA384()),
    6: ("sha512", hashes.SHA512()),
    7: ("sha224", hashes.SHA224()),
    20: ("sha3-256", hashes.SHA3_256()),
    21: ("sha3-384", hashes.SHA3_384()),
    22: ("sha3-512", hashes.SHA3_512()),
}
"""enum hash_algo of the kernel, as far as it is believed."""
_PEM: Final = re.compile(r"-----BEGIN (PUBLIC KEY|CERTIFICATE)-----.*?-----END \1-----", re.DOTALL)
_LEAST_RSA: Final = 2048
_LEAST_EC: Final = 256
_VERSION_1: Final = bytes((DIGSIG, 1))
_OVER_FILE_ID: Final = 3
_SUBJECT_KEY: Final = x509.SubjectKeyIdentifier.oid


class Outcome(Enum):
    """What a signature comes to."""

    VALID = auto()
    MALFORMED = auto()
    """Not of a form that is known."""
    WEAK = auto()
    """Over a hash that is not believed."""
    NO_KEY = auto()
    """No key has its key id."""
    INVALID = auto()
    """A key has its key id, and did not make it over this digest."""


class FileKeys:
    """Public keys that sign files, by their key ids."""

    __slots__ = ("_keys", "_least_rsa")

    def __init__(self, documents: Iterable[str], *, unsafe_allow_rsa1024: bool = False) -> None:
        """Read keys: each text holds public keys or certificates, PEM.

        RSA keys have 2048 bits at least, or 1024 where the caller says so.

        A certificate is a way to write a key; its dates and its issuer are not looked at.

        Raises:
            ImaRulesError: one holds none, or one that is too weak.
        """
        self._keys: dict[bytes, list[Key]] = {}
        self._least_rsa = 1024 if unsafe_allow_rsa1024 else _LEAST_RSA
        for document in documents:
            blocks = list(_PEM.finditer(document))
            if not blocks:
                raise ImaRulesError(
                    "a key for file signatures is neither public key nor certificate"
                )
            for block in blocks:
                self._add(block.group(0).encode(), block.group(1))

    def _add(self, pem: bytes, label: str) -> None:
        ids = []
        key: object
        try:
            if label == "CERTIFICATE":
                certificate = x509.load_pem_x509_certificate(pem)
                key = certificate.public_key()
                kinds = [one for one in certificate.extensions if one.oid == _SUBJECT_KEY]
                ids = [one.value.digest for one in kinds]
            else:
                key = serialization.load_pem_public_key(pem)
        except PARSER_ERRORS as error:
            raise ImaRulesError(f"a key for file signatures cannot be read: {error}") from error
        if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
            raise ImaRulesError("a key for file signatures is neither RSA nor of an elliptic curve")
        least = self._least_rsa if isinstance(key, rsa.RSAPublicKey) else _LEAST_EC
        if key.key_size < least:
            raise ImaRulesError(f"a key for file signatures has {key.key_size} bits")
        ids.append(x509.SubjectKeyIdentifier.from_public_key(key).digest)
        for key_id in {one[-4:] for one in ids}:
            self._keys.setdefault(key_id, []).append(key)

    def check(self, signature: bytes, digest: FileDigest) -> Outcome:  # noqa: PLR0911 - a table
        """Whether one of the keys made `signature` over `digest`."""
        if signature[:2] == _VERSION_1:
            return Outcome.WEAK
        if len(signature) <= _HEAD.size:
            return Outcome.MALFORMED
        kind, version, number, key_id, size = _HEAD.unpack_from(signature)
        made = signature[_HEAD.size :]
        # (1): the digest.
        known = (kind, version) in {(DIGSIG, 2), (DIGSIG, 3), (VERITY, 3)}
        if not known or len(made) != size or (kind == VERITY) != (digest.kind == "verity"):
            return Outcome.MALFORMED
        # (3): the hash.
        if number not in _HASHES:
            return Outcome.WEAK
        name, algorithm = _HASHES[number]
        if name != digest.algorithm:
            return Outcome.MALFORMED
        signed = digest.digest
        if version == _OVER_FILE_ID:
            signed = hashlib.new(name.replace("-", "_"), bytes((kind, number)) + signed).digest()
        # (2): the keys.
        keys = self._keys.get(key_id, [])
        if any(_made_by(key, made, signed, algorithm) for key in keys):
            return Outcome.VALID
        return Outcome.INVALID if keys else Outcome.NO_KEY


def _made_by(key: Key, made: bytes, signed: bytes, algorithm: hashes.HashAlgorithm) -> bool:
    try:
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(made, signed, padding.PKCS1v15(), utils.Prehashed(algorithm))
        else:
            key.verify(made, signed, ec.ECDSA(utils.Prehashed(algorithm)))
    except (InvalidSignature, *PARSER_ERRORS):
        return False
    return True
