"""The key hierarchy of the key store: dynamic root → KEK → data key → entries.

    dynamic root E ──HKDF──► Kek(E) ──AES-256-GCM──► data key ──HKDF──► entry key
    (the TPM releases it)                            (random)      └──► seal key

The dynamic root itself never reaches the key store: it is turned into the key
encryption key (KEK) of one device and one epoch, and is forgotten.

Rules:
1. A key has one use, and its derivation or associated data names that use,
   the device and the epoch. Nothing made for one of them opens as another.
2. What is encoded for a derivation or as associated data is unambiguous: every
   part of variable length carries its length.
3. A secret has no repr, no str, no pickle and no copy by accident. It can be
   erased. Erasing is best effort: Python and OpenSSL may have made copies,
   and the cipher's return values are immutable. What must not leave memory
   needs a process without core dumps and swap.
4. Nonces are 96 random bits each time. A data key lives for one rotation and
   writes far fewer than the 2^32 entries that random nonces allow.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from typing import NoReturn

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from hwtrust.errors import KeyStoreDamagedError, KeyStoreLockedError, MalformedError

ROOT_SIZE = 32
KEY_SIZE = 32
NONCE_SIZE = 12
TAG_SIZE = 16
MAX_EPOCH = 2**63 - 1  # what an SQLite integer holds; a TPM counter never gets there
MAX_DEVICE_SIZE = 1024

_KEK_PURPOSE = b"hwtrust key store kek v1"
_ENTRY_PURPOSE = b"hwtrust key store entry v1"
_SEAL_PURPOSE = b"hwtrust key store seal v1"


def encode(*parts: bytes | int) -> bytes:
    """Concatenate byte strings (each after its u32 length) and integers (u64), big-endian."""
    return b"".join(
        part.to_bytes(8, "big") if isinstance(part, int) else len(part).to_bytes(4, "big") + part
        for part in parts
    )


class Secret:
    """Key bytes that do not show, do not pickle and can be erased."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes | bytearray) -> None:
        self._key = bytearray(key)

    def __repr__(self) -> str:
        return f"<Secret, {'held' if self._key else 'erased'}>"

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        raise TypeError("a secret cannot be pickled or copied")

    @property
    def erased(self) -> bool:
        """Whether the key is gone."""
        return not self._key

    def reveal(self) -> bytearray:
        """The key itself, not a copy: erasing the secret overwrites it.

        Raises:
            KeyStoreLockedError: it has been erased.
        """
        if not self._key:
            raise KeyStoreLockedError("the key has been erased from memory")
        return self._key

    def erase(self) -> None:
        """Overwrite the key with zeros and drop it; does nothing the second time."""
        self._key[:] = bytes(len(self._key))
        self._key = bytearray()


class Sealed(msgspec.Struct, frozen=True):
    """What AES-256-GCM made of a plaintext: the nonce, and ciphertext with tag."""

    nonce: bytes
    ciphertext: bytes

    @property
    def digest(self) -> bytes:
        """SHA-256 over nonce and ciphertext, by which the store's seal names them."""
        return hashlib.sha256(encode(self.nonce, self.ciphertext)).digest()

    @property
    def size(self) -> int:
        """Length of the plaintext in bytes."""
        return len(self.ciphertext) - TAG_SIZE


def _encrypt(key: Secret, plaintext: bytes | bytearray, context: bytes) -> Sealed:
    nonce = os.urandom(NONCE_SIZE)
    return Sealed(nonce, AESGCM(key.reveal()).encrypt(nonce, plaintext, context))


def _decrypt(key: Secret, sealed: Sealed, context: bytes, *, reason: str) -> bytes:
    if len(sealed.nonce) != NONCE_SIZE or len(sealed.ciphertext) < TAG_SIZE:
        raise KeyStoreDamagedError(
            "a stored ciphertext has a size that hwtrust never writes", reason=reason
        )
    try:
        return AESGCM(key.reveal()).decrypt(sealed.nonce, sealed.ciphertext, context)
    except InvalidTag as error:
        raise KeyStoreDamagedError(
            "a stored ciphertext was changed, moved, or made with another key", reason=reason
        ) from error


def _derive(key: Secret, purpose: bytes) -> Secret:
    expand = HKDFExpand(hashes.SHA256(), KEY_SIZE, encode(purpose))
    return Secret(expand.derive(bytes(key.reveal())))


class DataKey:
    """The random key of one rotation, under which all entries are encrypted.

    Its 32 bytes are only ever wrapped; entries and the store's seal have keys
    of their own, derived from them.
    """

    __slots__ = ("_entry", "_root", "_seal")

    def __init__(self, root: bytes | bytearray) -> None:
        self._root = Secret(root)
        self._entry = _derive(self._root, _ENTRY_PURPOSE)
        self._seal = _derive(self._root, _SEAL_PURPOSE)

    def __repr__(self) -> str:
        return f"<DataKey, {'erased' if self._root.erased else 'held'}>"

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        raise TypeError("a data key cannot be pickled or copied")

    @classmethod
    def generate(cls) -> DataKey:
        """A fresh one from the kernel's random numbers."""
        return cls(os.urandom(KEY_SIZE))

    def encrypt(self, value: bytes, *, context: bytes) -> Sealed:
        """Encrypt an entry's value, bound to `context`."""
        return _encrypt(self._entry, value, context)

    def decrypt(self, sealed: Sealed, *, context: bytes) -> bytes:
        """The entry's value.

        Raises:
            KeyStoreDamagedError: it was not made by this key for this `context`.
        """
        return _decrypt(self._entry, sealed, context, reason="entry")

    def authenticate(self, message: bytes) -> bytes:
        """HMAC-SHA256 over `message`, 32 bytes."""
        return hmac.digest(self._seal.reveal(), message, "sha256")

    def verify(self, message: bytes, tag: bytes) -> None:
        """Check a tag of `authenticate`, in constant time.

        Raises:
            KeyStoreDamagedError: it is not the tag of this message under this key.
        """
        if not hmac.compare_digest(self.authenticate(message), tag):
            raise KeyStoreDamagedError(
                "entries were added, removed or replaced outside hwtrust", reason="seal"
            )

    def erase(self) -> None:
        """Forget all three keys (best effort)."""
        for key in (self._root, self._entry, self._seal):
            key.erase()

    def wrapped_by(self, key: Secret, *, context: bytes) -> Sealed:
        """Its bytes, encrypted under `key` and bound to `context`."""
        return _encrypt(key, self._root.reveal(), context)


class Kek:
    """The key encryption key of one epoch on one device; made by `derive_kek`."""

    __slots__ = ("_epoch", "_secret")

    def __init__(self, secret: Secret, *, epoch: int) -> None:
        self._secret = secret
        self._epoch = epoch

    def __repr__(self) -> str:
        state = ", erased" if self._secret.erased else ""
        return f"<Kek of epoch {self._epoch}{state}>"

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        raise TypeError("a key encryption key cannot be pickled or copied")

    @property
    def epoch(self) -> int:
        """The number of the dynamic root that it comes from."""
        return self._epoch

    def wrap(self, data_key: DataKey, *, context: bytes) -> Sealed:
        """The data key, encrypted under this key and bound to `context`."""
        return data_key.wrapped_by(self._secret, context=context)

    def unwrap(self, sealed: Sealed, *, context: bytes) -> DataKey:
        """The data key that `wrap` encrypted.

        Raises:
            KeyStoreDamagedError: another key or `context` wrapped it, or it was changed.
        """
        return DataKey(_decrypt(self._secret, sealed, context, reason="wrap"))

    def duplicate(self) -> Kek:
        """Another holder of the same key, erased on its own."""
        return Kek(Secret(self._secret.reveal()), epoch=self._epoch)

    def erase(self) -> None:
        """Forget the key (best effort): later use raises KeyStoreLockedError."""
        self._secret.erase()


def derive_kek(root: bytes | bytearray, *, device: bytes, epoch: int) -> Kek:
    """The KEK that the 32 bytes of dynamic root number `epoch` give on `device`.

    HKDF-SHA256 (RFC 5869) without salt: the root is uniformly random. `device`
    is the EK's Name. The caller forgets `root`.

    Raises:
        MalformedError: the root is not 32 bytes, the device is empty or longer
            than 1024 bytes, or the epoch is no number that a counter reaches.
    """
    if len(root) != ROOT_SIZE:
        raise MalformedError(f"a dynamic root has {ROOT_SIZE} bytes", size=len(root))
    if not 0 <= epoch <= MAX_EPOCH:
        raise MalformedError("the epoch is out of range", epoch=epoch)
    info = encode(_KEK_PURPOSE, check_device(device), epoch)
    derived = HKDF(hashes.SHA256(), KEY_SIZE, None, info).derive(bytes(root))
    return Kek(Secret(derived), epoch=epoch)


def check_device(device: bytes) -> bytes:
    """The same bytes, if they can be a device's identity: 1 to 1024 bytes.

    Raises:
        MalformedError: they cannot.
    """
    if not 1 <= len(device) <= MAX_DEVICE_SIZE:
        raise MalformedError(
            f"a device identity has 1 to {MAX_DEVICE_SIZE} bytes", size=len(device)
        )
    return device
