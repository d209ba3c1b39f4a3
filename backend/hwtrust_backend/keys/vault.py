"""The key vault as one encrypted file.

    passphrase ──scrypt──▶ key ──AES-256-GCM──▶ PKCS#8 keys, CA certificates, MAC key

Rules:
1. The file is 0600 from its first byte, and is never replaced by another one.
2. The header (KDF parameters, salt, nonce) is authenticated with the content.
3. What was not in the first form of the file is derived from its MAC key, by
   HKDF-SHA256 (RFC 5869) with a label of its own for each purpose: the audit key,
   the secrets of `derive`. None of it shows anything of another.
4. A wrong passphrase and a changed content are one error: they cannot be told
   apart. A header that is not ours is another.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from msgspec import Meta

from hwtrust.errors import (
    ConfigError,
    VaultDamagedError,
    VaultError,
    VaultExistsError,
    VaultMissingError,
    VaultPassphraseError,
)
from hwtrust_backend.config import write_file
from hwtrust_backend.keys.authority import make_authority
from hwtrust_backend.keys.passphrase import Passphrase
from hwtrust_backend.keys.signing import KeyRole, Secret, Signer, SoftwareSigner

SCRYPT_COST: Final = 2**17
"""128 MiB and about half a second."""
_LEAST_COST: Final = 2**10
_MOST_COST: Final = 2**20
_SIZE_LIMIT: Final = 256 * 1024

_STORED: Final[tuple[KeyRole, ...]] = tuple(role for role in KeyRole if role is not KeyRole.AUDIT)
"""The roles whose keys are in the file."""
_P256_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_SCALAR_SIZE: Final = 64
"""So many bytes that their remainder shows no bias (FIPS 186-5, A.2.1)."""


class _Header(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    format: str
    cost: Annotated[int, Meta(ge=_LEAST_COST, le=_MOST_COST)]
    salt: Annotated[bytes, Meta(min_length=32, max_length=32)]
    nonce: Annotated[bytes, Meta(min_length=12, max_length=12)]


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    header: _Header
    sealed: bytes


class _Content(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    keys: dict[KeyRole, bytes]
    authorities: dict[KeyRole, bytes]
    challenge_key: Annotated[bytes, Meta(min_length=32, max_length=32)]

    def __repr__(self) -> str:
        return "_Content(…)"


_FORMAT: Final = "hwtrust-backend keys v1"


class FileVault:
    """A `KeyVault` whose keys are in one encrypted file, and in this process while it runs."""

    def __init__(
        self,
        signers: dict[KeyRole, SoftwareSigner],
        authorities: dict[KeyRole, x509.Certificate],
        challenge_key: Secret,
    ) -> None:
        self._signers = {**signers, KeyRole.AUDIT: SoftwareSigner(_audit_key(challenge_key))}
        self._authorities = authorities
        self._challenge_key = challenge_key

    @classmethod
    def create(
        cls, path: Path, *, passphrase: Passphrase, now: int, cost: int = SCRYPT_COST
    ) -> FileVault:
        """Make new keys and write them to `path`.

        Raises:
            VaultExistsError: there is a file already.
            VaultError: the file cannot be written.
        """
        if path.exists():
            raise VaultExistsError(f"{path} holds keys already", path=str(path))
        keys = {role: ec.generate_private_key(ec.SECP256R1()) for role in _STORED}
        signers = {role: SoftwareSigner(key) for role, key in keys.items()}
        authorities = {
            role: make_authority(signers[role], name=f"hwtrust {role}", now=now)
            for role in (KeyRole.DEVICE_CA, KeyRole.SERVER_CA)
        }
        content = _Content(
            keys={role: _pkcs8(key) for role, key in keys.items()},
            authorities={
                role: certificate.public_bytes(serialization.Encoding.DER)
                for role, certificate in authorities.items()
            },
            challenge_key=os.urandom(32),
        )
        try:
            write_file(path, _seal(content, passphrase, cost), mode=0o600, replace=False)
        except ConfigError as error:
            raise VaultError(error.message, path=str(path)) from error
        return cls(signers, authorities, Secret(content.challenge_key))

    @classmethod
    def open(cls, path: Path, *, passphrase: Passphrase) -> FileVault:
        """Decrypt the keys in `path`.

        Raises:
            VaultMissingError: there is no file.
            VaultPassphraseError: the passphrase does not fit, or the content was changed.
            VaultDamagedError: the file is no key file.
            VaultError: it cannot be read, or others can read it too.
        """
        content = _unseal(_read(path), passphrase, path)
        try:
            signers = {role: SoftwareSigner(_private(content.keys[role])) for role in _STORED}
            authorities = {
                role: x509.load_der_x509_certificate(der)
                for role, der in content.authorities.items()
            }
        except (KeyError, ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise VaultDamagedError(f"{path} lacks a key or holds a bad one") from error
        return cls(signers, authorities, Secret(content.challenge_key))

    def signer(self, role: KeyRole) -> Signer:
        """The key of that role."""
        return self._signers[role]

    def authority(self, role: KeyRole) -> x509.Certificate:
        """The CA certificate of that role; only the two CA roles have one."""
        return self._authorities[role]

    @property
    def challenge_key(self) -> Secret:
        """The key of the challenges' MACs."""
        return self._challenge_key

    def derive(self, purpose: str) -> Secret:
        """A secret of 32 bytes for `purpose`, always the same."""
        return Secret(_expanded(self._challenge_key, f"secret: {purpose}", 32))

    def __repr__(self) -> str:
        return "FileVault(…)"


def _audit_key(master: Secret) -> ec.EllipticCurvePrivateKey:
    scalar = int.from_bytes(_expanded(master, "key: audit", _SCALAR_SIZE), "big")
    return ec.derive_private_key(scalar % (_P256_ORDER - 1) + 1, ec.SECP256R1())


def _expanded(master: Secret, purpose: str, length: int) -> bytes:
    info = b"hwtrust-backend v1, " + purpose.encode()
    return HKDF(hashes.SHA256(), length, salt=None, info=info).derive(master.reveal())


def _pkcs8(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _private(pkcs8: bytes) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_der_private_key(pkcs8, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise TypeError("not a P-256 key")
    return key


def _derived(passphrase: Passphrase, header: _Header) -> AESGCM:
    kdf = Scrypt(salt=header.salt, length=32, n=header.cost, r=8, p=1)
    return AESGCM(kdf.derive(passphrase.reveal()))


def _seal(content: _Content, passphrase: Passphrase, cost: int) -> bytes:
    header = _Header(format=_FORMAT, cost=cost, salt=os.urandom(32), nonce=os.urandom(12))
    sealed = _derived(passphrase, header).encrypt(
        header.nonce, msgspec.json.encode(content), msgspec.json.encode(header)
    )
    return msgspec.json.encode(_File(header=header, sealed=sealed)) + b"\n"


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                message = f"{path} can be read by other users; chmod 600 it"
                raise VaultError(message, path=str(path))
            return file.read(_SIZE_LIMIT)
    except FileNotFoundError as error:
        raise VaultMissingError(f"there are no keys at {path}", path=str(path)) from error
    except OSError as error:
        raise VaultError(f"{path} cannot be read: {error.strerror}", path=str(path)) from error


def _unseal(raw: bytes, passphrase: Passphrase, path: Path) -> _Content:
    file: Any
    try:
        file = msgspec.json.decode(raw, type=_File)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise VaultDamagedError(f"{path} is no key file", path=str(path)) from error
    if file.header.format != _FORMAT:
        message = f"{path} is not of a form that this version reads"
        raise VaultDamagedError(message, path=str(path))
    try:
        plain = _derived(passphrase, file.header).decrypt(
            file.header.nonce, file.sealed, msgspec.json.encode(file.header)
        )
        return msgspec.json.decode(plain, type=_Content)
    except (InvalidTag, ValueError) as error:
        # The cause may hold decrypted bytes; it stays here.
        message = f"the passphrase does not open {path}, or the file was changed"
        if isinstance(error, InvalidTag):
            raise VaultPassphraseError(message, path=str(path)) from None
        raise VaultDamagedError(f"{path} is damaged", path=str(path)) from None
