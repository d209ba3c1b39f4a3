"""A TUF repository for one test: real keys, real signatures, and every way to misbehave.

    repository = TufRepository(now=NOW)
    repository.add_release("2026.1", {"kernel": ("6.1", b"...")})
    repository.publish()
    with repository.serve(pki) as server:
        client(server.url, repository.trusted_root)

What is signed is python-tuf's; `files` is what a static host would have. A test
changes roles before `publish`, or files after it.
"""

from __future__ import annotations

import hashlib
import re
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Final, Self

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    T,
    TargetFile,
    Targets,
    Timestamp,
)

from hwtrust.errors import UpdateResponseError
from hwtrust.updates.client import METADATA_PATH, TARGETS_PATH, ReleaseClient
from hwtrust.updates.source import PinnedCa, Source
from hwtrust.wire.release import (
    LayerEntry,
    LayerKind,
    ReleaseManifest,
    encode_manifest,
    layer_target,
    release_target,
)
from simulators.tls_server import Pki, TlsServer

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable, Mapping
    from datetime import datetime
    from pathlib import Path

    from hwtrust.updates.source import Limits

METADATA: Final = METADATA_PATH
TARGETS: Final = TARGETS_PATH
ROLES: Final = ("root", "timestamp", "snapshot", "targets")


class TufRepository:
    """The keys, the roles and the files of a repository; all roles end `life` after `now`."""

    def __init__(self, now: datetime, *, root_keys: int = 3, threshold: int = 2) -> None:
        self.now = now
        self.life = timedelta(days=30)
        self.signers = {
            role: [CryptoSigner.generate_ecdsa() for _ in range(root_keys if role == "root" else 1)]
            for role in ROLES
        }
        self.root = Root(consistent_snapshot=True)
        self.root.roles["root"].threshold = threshold
        self.timestamp, self.snapshot, self.targets = Timestamp(), Snapshot(), Targets()
        for role in ROLES:
            for signer in self.signers[role]:
                self.root.add_key(signer.public_key, role)
        self.root.version = self.timestamp.version = self.snapshot.version = 0
        self.targets.version = 0
        self.files: dict[str, bytes] = {}
        self.blobs: dict[str, bytes] = {}
        self.releases: dict[str, ReleaseManifest] = {}
        self.answers: dict[str, Callable[[socket.socket, bytes], None]] = {}
        """Answers to tell instead of a file, by the path's last part without its hash."""
        self.asked: list[str] = []
        """Every path that was asked for."""
        self.publish_root()
        self.trusted_root = self.files["1.root.json"]

    # --- content -------------------------------------------------------------------

    def add_target(self, path: str, content: bytes) -> str:
        """Put `content` at `path`, to be signed; the name that it is served by."""
        found = TargetFile.from_data(path, content, ["sha256"])
        self.targets.targets[path] = found
        served = found.get_prefixed_paths()[0]
        self.blobs[served] = content
        return served

    def add_release(self, name: str, layers: Mapping[str, tuple[str, bytes]]) -> ReleaseManifest:
        """A release of files: each layer's version and content."""
        made = self.releases[name] = release(name, layers)
        for layer in made.layers:
            self.add_target(layer.target, layers[layer.name][1])
        self.add_target(release_target(name), encode_manifest(made))
        return made

    # --- publishing ----------------------------------------------------------------

    def publish(self) -> None:
        """Sign new targets, a new snapshot of them and a new timestamp."""
        self.publish_targets()
        self.publish_snapshot()
        self.publish_timestamp()

    def publish_root(self, signers: Iterable[CryptoSigner] | None = None) -> None:
        """Sign the next root, by all keys of the root role when `signers` are not given."""
        self.root.version += 1
        self.root.expires = self.now + self.life
        by = self.signers["root"] if signers is None else signers
        self.files[f"{self.root.version}.root.json"] = signed(self.root, by)

    def publish_targets(self) -> None:
        """Sign the next targets."""
        self.targets.version += 1
        self.targets.expires = self.now + self.life
        self.files[f"{self.targets.version}.targets.json"] = self.sign("targets", self.targets)

    def publish_snapshot(self) -> None:
        """Sign the next snapshot, of the newest targets."""
        self.snapshot.version += 1
        self.snapshot.expires = self.now + self.life
        listed = self.files[f"{self.targets.version}.targets.json"]
        self.snapshot.meta["targets.json"] = meta(self.targets.version, listed)
        self.files[f"{self.snapshot.version}.snapshot.json"] = self.sign("snapshot", self.snapshot)

    def publish_timestamp(self) -> None:
        """Sign the next timestamp, of the newest snapshot."""
        self.timestamp.version += 1
        self.timestamp.expires = self.now + self.life
        listed = self.files[f"{self.snapshot.version}.snapshot.json"]
        self.timestamp.snapshot_meta = meta(self.snapshot.version, listed)
        self.files["timestamp.json"] = self.sign("timestamp", self.timestamp)

    def sign(self, role: str, content: T) -> bytes:
        """`content` as a file, under all keys of `role`."""
        return signed(content, self.signers[role])

    def replace_key(self, role: str, signer: CryptoSigner | None = None) -> CryptoSigner:
        """Have `role` signed by a new key alone; the next root says so."""
        fresh = signer or CryptoSigner.generate_ecdsa()
        for old in self.signers[role]:
            self.root.revoke_key(old.public_key.keyid, role)
        self.root.add_key(fresh.public_key, role)
        self.signers[role] = [fresh]
        return fresh

    # --- serving -------------------------------------------------------------------

    def serve(self, pki: Pki) -> TlsServer:
        """A server of the files as they are when they are asked for, with ranges."""
        return TlsServer(pki.server(), self.answer)

    def answer(self, connection: socket.socket, request: bytes) -> None:
        """Answer one request as a static host does."""
        path = asked_for(request)
        self.asked.append(path)
        name = re.sub(r"^[0-9a-f]{64}\.", "", path.rpartition("/")[2])
        if name in self.answers:
            self.answers[name](connection, request)
            return
        if path.startswith(METADATA):
            content = self.files.get(path.removeprefix(METADATA))
        else:
            content = self.blobs.get(path.removeprefix(TARGETS))
        if content is None:
            connection.sendall(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
        else:
            send(connection, request, content)


def send(
    connection: socket.socket,
    request: bytes,
    content: bytes,
    *,
    ranges: bool = True,
    tag: str | None = None,
    stop: int | None = None,
) -> None:
    """Send `content`, or the range of it that was asked for, but at most `stop` bytes of it."""
    etag = f'"{hashlib.sha256(content).hexdigest()[:20]}"' if tag is None else tag
    begin = asked_range(request)
    condition = header(request, "if-range")
    if not ranges or begin is None or (condition and condition != etag):
        head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(content)}\r\n"
        begin = 0
    elif begin >= len(content):
        connection.sendall(b"HTTP/1.1 416 Range Not Satisfiable\r\ncontent-length: 0\r\n\r\n")
        return
    else:
        size = len(content)
        head = f"HTTP/1.1 206 Partial Content\r\ncontent-length: {size - begin}\r\n"
        head += f"content-range: bytes {begin}-{size - 1}/{size}\r\n"
    if etag:
        head += f"etag: {etag}\r\n"
    rest = content[begin:]
    connection.sendall(head.encode() + b"\r\n" + (rest if stop is None else rest[:stop]))


def sender(
    content: bytes, *, ranges: bool = True, tag: str | None = None, stop: int | None = None
) -> Callable[[socket.socket, bytes], None]:
    """An answer that is `send` with these."""
    return partial(send, content=content, ranges=ranges, tag=tag, stop=stop)


def asked_for(request: bytes) -> str:
    """The path that a request names."""
    return request.split(b" ", 2)[1].decode()


def asked_range(request: bytes) -> int | None:
    """The byte from which on a request asks, or None."""
    found = re.fullmatch(r"bytes=(\d+)-", header(request, "range"))
    return int(found[1]) if found else None


def header(request: bytes, name: str) -> str:
    """A header of a request, or nothing."""
    found = re.search(rf"\r\n{name}: ([^\r]*)\r\n".encode(), request, re.IGNORECASE)
    return found[1].decode() if found else ""


def signed(content: T, signers: Iterable[CryptoSigner]) -> bytes:
    """`content` as a metadata file under `signers`."""
    made = Metadata(content)
    for signer in signers:
        made.sign(signer, append=True)
    return made.to_bytes()


def meta(version: int, content: bytes) -> MetaFile:
    """What a snapshot or timestamp says of a metadata file: not its length, so digests decide."""
    return MetaFile(version, None, {"sha256": hashlib.sha256(content).hexdigest()})


def release(name: str, layers: Mapping[str, tuple[str, bytes]]) -> ReleaseManifest:
    """The manifest of a release of files: each layer's version and content."""
    return ReleaseManifest(
        name=name,
        created_at=1_800_000_000_000,
        layers=tuple(
            LayerEntry(
                name=layer,
                version=version,
                digest=hashlib.sha256(content).digest(),
                kind=LayerKind.FILE,
                target=layer_target(layer, version, LayerKind.FILE),
                frequency="monthly",
            )
            for layer, (version, content) in layers.items()
        ),
    )


class MemorySource:
    """A source without a server: what a repository holds, and the URL it would have."""

    url = "https://repository/"

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = files

    def get(self, path: str, *, most: int) -> MemoryAnswer:
        """The file at `path`."""
        if path not in self._files:
            raise UpdateResponseError(path, status=404)
        return MemoryAnswer(self._files[path][: most + 1])


class MemoryAnswer:
    """A file that comes in one piece."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.length = len(content)

    def __enter__(self) -> Self:
        """Nothing to open."""
        return self

    def __exit__(self, *_exception: object) -> None:
        """Nothing to close."""

    def read(self) -> bytes:
        """All, then nothing."""
        content, self._content = self._content, b""
        return content


class UpdateSite:
    """A repository behind its server, and devices that know its first root."""

    def __init__(self, directory: Path, now: datetime) -> None:
        self.directory = directory
        self.now = now
        self.pki = Pki(directory)
        self.repository = TufRepository(now)
        self.server = self.repository.serve(self.pki)

    def __enter__(self) -> Self:
        """Serve."""
        self.server.__enter__()
        return self

    def __exit__(self, *_exception: object) -> None:
        """Stop serving."""
        self.server.__exit__()

    def device(self, name: str = "device", *, limits: Limits | None = None) -> ReleaseClient:
        """The client of a device, as after a start: only its directory remembers."""
        tls = PinnedCa(self.pki.ca_pem)
        return ReleaseClient(
            self.repository.trusted_root,
            state=self.directory / name,
            metadata=Source(self.server.url + METADATA, tls=tls, limits=limits),
            targets=Source(self.server.url + TARGETS, tls=tls, limits=limits),
            now=lambda: self.now,
        )
