"""Releases as a vendor hands them in, and the keys of those who sign for them.

The layers are small files; a layer that is a tree is any bytes that end in `.tar`,
for whom only its hash matters.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata

from hwtrust.wire.release import (
    LayerEntry,
    LayerKind,
    ReleaseManifest,
    encode_manifest,
    layer_target,
    release_target,
)
from hwtrust_backend.repository.online import Online
from hwtrust_backend.repository.roots import RootChange, propose_root, publish_root
from hwtrust_backend.testing import DAY

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from securesystemslib.signer import SSlibKey

    from hwtrust_backend.testing import BackendServer

MADE_AT = 1_790_000_000_000


def make_bundle(directory: Path, name: str, layers: Mapping[str, tuple[str, bytes]]) -> Path:
    """Write a bundle: each layer's version and content by its name."""
    entries = []
    for layer, (version, content) in layers.items():
        target = layer_target(layer, version, LayerKind.FILE)
        path = directory / target
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        entry = LayerEntry(
            name=layer,
            version=version,
            digest=hashlib.sha256(content).digest(),
            kind=LayerKind.FILE,
            target=target,
            frequency="monthly",
        )
        entries.append(entry)
    manifest = ReleaseManifest(name=name, created_at=MADE_AT, layers=tuple(entries))
    path = directory / release_target(name)
    path.parent.mkdir(parents=True)
    path.write_bytes(encode_manifest(manifest))
    return directory


@dataclass(frozen=True)
class Holder:
    """Somebody who holds a key."""

    key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey

    @classmethod
    def new(cls) -> Self:
        """With an Ed25519 key."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def with_p256(cls) -> Self:
        """With a P-256 key."""
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @property
    def signer(self) -> CryptoSigner:
        """What signs."""
        return CryptoSigner(self.key)

    @property
    def public(self) -> SSlibKey:
        """The public key as metadata has it."""
        return self.signer.public_key

    def write(self, path: Path, *, passphrase: bytes = b"") -> Path:
        """Write the private key, and beside it the public one, `.pub`."""
        encryption: KeySerializationEncryption = (
            BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
        )
        path.write_bytes(self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
        path.chmod(0o600)
        public = self.key.public_key()
        path.with_suffix(".pub").write_bytes(
            public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        )
        return path


def begin_repository(server: BackendServer) -> None:
    """The first ceremony, with keys that nobody keeps."""
    holder, now = Holder.new(), server.clock()
    online = Online(server.backend.settings, server.backend.vault)
    change = RootChange(root_keys=[holder.public], threshold=1, targets_keys=[Holder.new().public])
    with server.session() as session:
        content = propose_root(session, change, online=online, lifetime_ms=365 * DAY, now=now)
        metadata = Metadata.from_bytes(content)
        metadata.sign(holder.signer)
        publish_root(session, metadata.to_bytes(), online=online, signers=[], by="test", now=now)
