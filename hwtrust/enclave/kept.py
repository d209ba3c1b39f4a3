"""What makes an enclave the same device after a restart, and where it is kept.

    state_dir/             0700
      lock                 held while a process works with the enclave
      enclave.sealed       keys, certificate, roots: one blob, sealed by the anchor
      eventlog.cel         hwtrust.enclave.measured, where there is a register
      keystore.db          hwtrust.keys, where the anchor can seal

Rules:
1. What is secret is written sealed, or not at all. Without a sealer there is neither
   `enclave.sealed` nor a key store on the disk: all is gone with the process.
2. One blob, replaced whole or not at all: whatever was cut off, keys and roots are those
   of one moment.
3. A blob is sealed anew as soon as the anchor says that its key is one of older firmware.
4. A blob that does not open is an error, and stays. Only who asks for it gets a new one;
   the old one, and its key store, are set aside.
5. An older blob of this enclave opens like the newest: the backend notices, since
   nothing is opened before it has said which epoch is the present one.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from hwtrust.channel import AttestedKey
from hwtrust.errors import EnclaveSealedError, SealedBlobError, StateMissingError
from hwtrust.files import (
    FileLock,
    private_directory,
    read_limited,
    state_error,
    sync_directory,
    write_atomic,
)
from hwtrust.keys.kek import Secret
from hwtrust.wire.enclave import EnclaveKind, EnclaveRootMetadata, enclave_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hwtrust.anchors.protocols import Sealer

FILE_LIMIT: Final = 1024 * 1024


class _Root(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    metadata: EnclaveRootMetadata
    secret: bytes

    def __repr__(self) -> str:
        return f"<_Root of epoch {self.metadata.epoch}>"


class _Kept(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is in the blob."""

    kind: EnclaveKind
    tls_key: bytes
    """PKCS #8, PEM."""
    release_key: bytes
    enrolled: bool
    certificate: str
    keystore_made: bool
    roots: tuple[_Root, ...]

    def __repr__(self) -> str:
        return f"<_Kept of {self.kind}>"


class Root:
    """A root that is open in memory."""

    def __init__(self, metadata: EnclaveRootMetadata, secret: bytes) -> None:
        self.metadata = metadata
        self.secret = Secret(secret)

    def __repr__(self) -> str:
        return f"<Root of epoch {self.metadata.epoch}>"


class Identity:
    """An enclave's keys, its certificate and its roots. `name` is its `enclave_name`."""

    def __init__(self, kind: EnclaveKind) -> None:
        self.kind = kind
        self.tls_key = AttestedKey()
        self.release_key = X25519PrivateKey.generate()
        self.enrolled = False
        self.certificate = ""
        self.keystore_made = False
        self.asked = False
        """Whether the backend may know it, although it did not answer yet."""
        self.roots: dict[int, Root] = {}

    def __repr__(self) -> str:
        return f"<Identity {self.name.hex()[:12]}>"

    @property
    def name(self) -> bytes:
        """By what the backend knows it."""
        return enclave_name(self.kind, self.tls_key.spki)

    @property
    def release_public(self) -> bytes:
        """The public X25519 key, raw."""
        return self.release_key.public_key().public_bytes_raw()

    def drop(self, *, but: int) -> None:
        """Leave one root alone."""
        for epoch in set(self.roots) - {but}:
            self.roots.pop(epoch).secret.erase()

    def wipe(self) -> None:
        """Forget the roots' secrets. What is wiped cannot be kept over what was."""
        for root in self.roots.values():
            root.secret.erase()

    @property
    def wiped(self) -> bool:
        """Whether the roots' secrets are gone from memory."""
        return any(root.secret.erased for root in self.roots.values())

    def encode(self) -> bytes:
        """All of it, secrets too.

        Raises:
            KeyStoreLockedError: it was wiped.
        """
        roots = sorted(self.roots.items())
        kept = _Kept(
            kind=self.kind,
            tls_key=self.tls_key.key_pem(),
            release_key=self.release_key.private_bytes_raw(),
            enrolled=self.enrolled,
            certificate=self.certificate,
            keystore_made=self.keystore_made,
            roots=tuple(
                _Root(metadata=root.metadata, secret=bytes(root.secret.reveal()))
                for _, root in roots
            ),
        )
        return msgspec.json.encode(kept)

    @classmethod
    def decode(cls, data: bytes, *, kind: EnclaveKind) -> Identity:
        """What `encode` gave.

        Raises:
            EnclaveSealedError: it is something else, or of another kind of enclave.
        """
        try:
            kept = msgspec.json.decode(data, type=_Kept)
            key = serialization.load_pem_private_key(kept.tls_key, password=None)
            release_key = X25519PrivateKey.from_private_bytes(kept.release_key)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            raise EnclaveSealedError("what was sealed is not what an enclave keeps") from None
        if kept.kind is not kind or not isinstance(key, ec.EllipticCurvePrivateKey):
            raise EnclaveSealedError("what was sealed is of another kind of enclave")
        identity = cls(kind)
        identity.tls_key, identity.release_key = AttestedKey(key), release_key
        identity.enrolled, identity.certificate = kept.enrolled, kept.certificate
        identity.keystore_made, identity.asked = kept.keystore_made, True
        identity.roots = {
            root.metadata.epoch: Root(root.metadata, root.secret) for root in kept.roots
        }
        return identity


class EnclaveState:
    """The directory of one enclave; `sealer` is None where nothing secret is kept."""

    def __init__(self, directory: Path, *, kind: EnclaveKind, sealer: Sealer | None) -> None:
        self._directory = directory
        self._kind = kind
        self._sealer = sealer

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other process away from the enclave's files.

        Raises:
            StateBusyError: another one works with them.
        """
        private_directory(self._directory)
        with FileLock(self._directory / "lock"):
            yield

    @property
    def sealing(self) -> bool:
        """Whether anything secret is kept."""
        return self._sealer is not None

    @property
    def event_log(self) -> Path:
        """The event log's file."""
        return self._directory / "eventlog.cel"

    @property
    def keystore(self) -> Path:
        """The key store's file."""
        return self._directory / "keystore.db"

    def identity(self) -> Identity:
        """Who the enclave is: as it was kept, or somebody new, who is kept.

        Raises:
            EnclaveSealedError: what was kept does not open, or there is a key store and
                nothing that opens it.
            AnchorError: the anchor gave no key.
            StateError: the disk is failing.
        """
        if self._sealer is None:
            return Identity(self._kind)
        try:
            blob = read_limited(self._blob, limit=FILE_LIMIT)
        except StateMissingError:
            if self.keystore.exists():
                message = f"{self._blob} is gone, and {self.keystore} is there"
                raise EnclaveSealedError(message, path=str(self._blob)) from None
            return self._new()
        try:
            identity = Identity.decode(self._sealer.unseal(blob), kind=self._kind)
            stale = self._sealer.needs_reseal(blob)
        except SealedBlobError as error:
            message = f"{self._blob} does not open: {error.message}"
            raise EnclaveSealedError(message, path=str(self._blob), cause=error.code) from error
        if stale:
            self.save(identity)
        return identity

    def anew(self) -> Identity:
        """Somebody new; what was kept is set aside as `*.before`, replacing what was there.

        Raises:
            AnchorError, StateError: as `identity`.
        """
        if self._sealer is None:
            return Identity(self._kind)
        # The blob last: without it the key store would be of nobody.
        for path in (self.keystore, self._blob):
            try:
                path.replace(path.with_name(f"{path.name}.before"))
            except FileNotFoundError:
                continue
            except OSError as error:
                raise state_error(error, path) from error
        sync_directory(self._directory)
        return self._new()

    def save(self, identity: Identity) -> None:
        """Keep the identity, sealed; does nothing where there is no sealer.

        Raises:
            AnchorError: the anchor gave no key.
            StateError: the disk is full or failing; what was kept before still is.
        """
        if self._sealer is not None:
            write_atomic(self._blob, self._sealer.seal(identity.encode()))

    def _new(self) -> Identity:
        # Kept before the backend hears of it: whatever becomes of the answer, it is the
        # same device that asks again.
        identity = Identity(self._kind)
        self.save(identity)
        return identity

    @property
    def _blob(self) -> Path:
        return self._directory / "enclave.sealed"
