"""Who signs: people with keys in PEM files, and the online key, which the vault derives.

Rules:
1. A key is Ed25519 or P-256. Its id is the digest of the public key, as the TUF
   library computes it.
2. A private key's file is its owner's alone, encrypted or not.
3. The passphrase is asked for where the file needs one; it stands in no argument.
4. An online key has a number; the next number is another key. Whoever has the vault
   has all of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from securesystemslib.signer import CryptoSigner, SSlibKey

from hwtrust.errors import RepositoryKeyError
from hwtrust_backend.keys import KeyVault, Secret

PURPOSE: Final = "tuf online key"
"""For what the vault derives online keys, with their number after it."""

_FILE_LIMIT: Final = 64 * 1024
_P256_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_SCALAR_SIZE: Final = 64
"""So many bytes that their remainder shows no bias (FIPS 186-5, A.2.1)."""
_ED25519: Final = "ed25519"

_PublicKey = Ed25519PublicKey | ec.EllipticCurvePublicKey


def online_signer(vault: KeyVault, number: int) -> CryptoSigner:
    """The online key of that number."""
    seed = vault.derive(f"{PURPOSE} {number}").reveal()
    expanded = HKDFExpand(hashes.SHA256(), _SCALAR_SIZE, b"P-256").derive(seed)
    scalar = int.from_bytes(expanded, "big") % (_P256_ORDER - 1) + 1
    return CryptoSigner(ec.derive_private_key(scalar, ec.SECP256R1()))


def load_signer(path: Path, *, passphrase: Callable[[], Secret]) -> CryptoSigner:
    """The private key in a PEM file; `passphrase` is asked where it is encrypted.

    Raises:
        RepositoryKeyError: no such key, a wrong passphrase, or others can read the file.
    """
    content = _read(path, private=True)
    try:
        try:
            key = load_pem_private_key(content, None)
        except TypeError:
            # What the library says of a key that needs a passphrase.
            key = load_pem_private_key(content, passphrase().reveal())
    except (ValueError, UnsupportedAlgorithm):
        # Without the cause: it has seen the key.
        message = f"{path} is no private key in PEM, or the passphrase is wrong"
        raise RepositoryKeyError(message, path=str(path)) from None
    if isinstance(key, Ed25519PrivateKey) or (
        isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1)
    ):
        return CryptoSigner(key)
    raise RepositoryKeyError(f"the key in {path} is neither Ed25519 nor P-256", path=str(path))


def load_public(path: Path) -> SSlibKey:
    """The public key in a PEM file.

    Raises:
        RepositoryKeyError: there is no such key.
    """
    return SSlibKey.from_crypto(_public(_read(path, private=False), str(path)))


def same_key(keyid: str, key: SSlibKey) -> bool:
    """Whether metadata calls a key by its own id, and it is of a kind that signs here."""
    value = key.keyval.get("public")
    try:
        if key.keytype == _ED25519:
            public: _PublicKey = Ed25519PublicKey.from_public_bytes(bytes.fromhex(str(value)))
        else:
            public = _public(str(value).encode(), "metadata")
    except (RepositoryKeyError, ValueError, TypeError):
        return False
    ours = SSlibKey.from_crypto(public)
    return (keyid, key.keyid, key.scheme) == (ours.keyid, ours.keyid, ours.scheme)


def _public(content: bytes, where: str) -> _PublicKey:
    try:
        key = load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise RepositoryKeyError(f"{where} is no public key in PEM", path=where) from error
    if isinstance(key, Ed25519PublicKey):
        return key
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    raise RepositoryKeyError(f"the key in {where} is neither Ed25519 nor P-256", path=where)


def _read(path: Path, *, private: bool) -> bytes:
    try:
        with path.open("rb") as file:
            if private and os.fstat(file.fileno()).st_mode & 0o077:
                message = f"{path} can be read by other users; chmod 600 it"
                raise RepositoryKeyError(message, path=str(path))
            return file.read(_FILE_LIMIT)
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror}"
        raise RepositoryKeyError(message, path=str(path)) from error
