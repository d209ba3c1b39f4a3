"""Releases as a device sees them: which there are, what is in them, and how their files come.

    refresh ─▶ releases ─▶ manifest(name) ─▶ fetch(layer, into) … for the layers that change

Rules:
1. Nothing is offered that signed and current metadata do not list; a listing
   that expires while it is held is refused from then on.
2. Nothing here decides to update, and nothing is put in place: the caller says
   where a file goes, and measures what it makes of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self

from hwtrust.errors import ManifestError, TargetDigestError, TargetMissingError, UpdateExpiredError
from hwtrust.updates.download import download, read
from hwtrust.updates.source import PinnedCa, Source
from hwtrust.wire.release import (
    MANIFEST_LIMIT,
    LayerKind,
    decode_manifest,
    release_target,
    released,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

    from hwtrust.updates.download import Target
    from hwtrust.updates.metadata import Listing
    from hwtrust.wire.release import LayerEntry, ReleaseManifest

METADATA_PATH: Final = "/v1/releases/metadata/"
TARGETS_PATH: Final = "/v1/releases/targets/"


class ReleaseClient:
    """The releases in one repository. It connects when it is asked to, never before."""

    def __init__(
        self,
        root: bytes,
        *,
        state: Path,
        metadata: Source,
        targets: Source,
        now: Callable[[], datetime],
    ) -> None:
        """`root` is the first root.json that the device trusts, as it came with the device.

        `state` is a directory for this client alone; `now` gives aware datetimes.
        """
        self._root = root
        self._state = state
        self._metadata = metadata
        self._targets = targets
        self._now = now
        self._listing: Listing | None = None

    @classmethod
    def of_backend(
        cls, url: str, *, tls_ca: str, root: bytes, state: Path, now: Callable[[], datetime]
    ) -> Self:
        """The client of the backend at `url` (https://host[:port]), under its own CA (PEM).

        Raises:
            ConfigError: not such a URL, or no CA.
        """
        metadata = Source(url.rstrip("/") + METADATA_PATH, tls=PinnedCa(tls_ca))
        targets = metadata.beside(TARGETS_PATH)
        return cls(root, state=state, metadata=metadata, targets=targets, now=now)

    def __enter__(self) -> Self:
        """Keep connections for what is asked next."""
        self._metadata.__enter__()
        self._targets.__enter__()
        return self

    def __exit__(self, *_exception: object) -> None:
        """Close them."""
        self._metadata.__exit__()
        self._targets.__exit__()

    def refresh(self, *, on_piece: Callable[[], None] | None = None) -> None:
        """Ask the repository what there is now.

        When it fails, what was known before is not used either. `on_piece` is called
        as the answers come; what it raises ends the run.

        Raises:
            UpdateMetadataError: what is served is not newer, not signed, not complete.
            UpdateChannelError: the server cannot be reached, or answers wrongly.
            StateError: what was accepted cannot be remembered, or another process is at it.
        """
        from hwtrust.updates import metadata  # noqa: PLC0415 - python-tuf takes long to import

        self._listing = None
        self._listing = metadata.refresh(
            self._root,
            state=self._state,
            source=self._metadata,
            now=self._now(),
            on_piece=on_piece or metadata.unseen,
        )

    def releases(self) -> tuple[str, ...]:
        """The names of all releases, in alphabetical order; refreshes first if nothing has.

        Raises:
            UpdateError, StateError: as `refresh`.
        """
        names = (released(path) for path in self._current().targets)
        return tuple(sorted(name for name in names if name is not None))

    def manifest(self, name: str) -> ReleaseManifest:
        """What is in release `name`; refreshes first if nothing has.

        Raises:
            TargetMissingError: there is no such release, or not any more.
            ManifestError: what was published is no manifest, or another release's.
            TargetError: the server does not give it as it was signed.
            UpdateError, StateError: as `refresh`.
        """
        target = self._target(release_target(name))
        if target.length > MANIFEST_LIMIT:
            message = f"{target.path} is too long for a manifest"
            raise ManifestError(message, size=target.length, limit=MANIFEST_LIMIT)
        manifest = decode_manifest(read(self._targets, target))
        if manifest.name != name:
            message = f"{target.path} is the manifest of {manifest.name}"
            raise ManifestError(message, release=name)
        return manifest

    def fetch(self, layer: LayerEntry, into: Path, on_progress: Callable[[int, int], None]) -> None:
        """Put the target of `layer` at `into`, in a private directory; take up what was left there.

        A file's target is the layer itself; a tree's is an archive. `on_progress`
        is called with the bytes that are there and the bytes that there will be.

        Raises:
            TargetMissingError: it is not listed, or not any more.
            TargetDigestError: it is not what was signed, or signed as another file.
            TargetError: the server does not give it as it was signed.
            UpdateError, StateError: as `refresh`; the disk is full or failing.
        """
        target = self._target(layer.target)
        # Nobody measures a file again that came as it is listed, so the digest must be there.
        listed = target.hashes.get("sha256")
        if layer.kind is LayerKind.FILE and listed != layer.digest.hex():
            message = f"{target.path} is listed as another file than layer {layer.name}"
            raise TargetDigestError(message, path=target.path)
        download(self._targets, target, into, on_progress)

    def _current(self) -> Listing:
        if self._listing is None:
            self.refresh()
        listing = self._listing
        assert listing is not None  # noqa: S101 - `refresh` sets it or raises
        if self._now() >= listing.expires:
            raise UpdateExpiredError("what is known of the repository has expired: refresh it")
        return listing

    def _target(self, path: str) -> Target:
        target = self._current().targets.get(path)
        if target is None:
            raise TargetMissingError(f"{path} is not published, or not any more", path=path)
        return target
