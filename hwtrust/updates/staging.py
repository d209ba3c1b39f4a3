"""Bring a release into the inactive slot: whole, measured and on the disk, or not at all.

    manifest ─▶ each layer: kept · copied · fetched ─▶ measured ─▶ sealed

Rules:
1. What the device runs is not touched: nothing here changes what `current` is.
2. However a layer came, kept from an interrupted run, copied from the current
   slot or unpacked, it is measured where it lies before the slot is sealed; a
   file that is fetched is, on its way.
3. What an interrupted run has left stays of use for the same manifest only, by
   the digest of that manifest beside it.
4. A layer that did not change is copied, and fetched where the copy is no good.
"""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from hwtrust.errors import LayerError, SlotLayerError, StagedLayerError, StateError
from hwtrust.files import read_limited, state_error
from hwtrust.layers import measure
from hwtrust.updates.archive import unpack
from hwtrust.wire.messages import Release
from hwtrust.wire.release import LayerKind, encode_manifest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from hwtrust.updates.client import ReleaseClient
    from hwtrust.updates.slots import Slots
    from hwtrust.wire.release import LayerEntry, ReleaseManifest

_MARK: Final = ".staging"
"""In a slot that is being filled: SHA-256 of the manifest that it is filled by."""
_MARK_SIZE: Final = 32


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the staging of one layer is: `done` of `total` bytes are there."""

    release: str
    layer: str
    done: int
    total: int


def unseen(_: Progress) -> None:
    """Watch nothing."""


def stage(
    client: ReleaseClient,
    slots: Slots,
    manifest: ReleaseManifest,
    *,
    on_progress: Callable[[Progress], None] = unseen,
) -> None:
    """Fill the inactive slot with the release of `manifest`, and seal it.

    Interrupted in any way, it goes on where it was when it is called again.

    Raises:
        StagedLayerError: a layer is not what the manifest says, though it came as signed.
        UpdateError: the repository does not give a layer, or an archive is not one.
        SlotError: the slots are missing or damaged.
        StateError: the disk is full, read-only or failing.
    """
    content = msgspec.json.format(msgspec.json.encode(manifest.release()))
    layers = [
        _Staging(client, slots, manifest.name, layer, on_progress) for layer in manifest.layers
    ]
    if slots.release(slots.inactive) == content and all(layer.fits() for layer in layers):
        return
    mark = hashlib.sha256(encode_manifest(manifest)).digest()
    place = slots.begin(keep=_mark_of(slots) == mark)
    _write_mark(place / _MARK, mark)
    running = _running(slots)
    for layer in layers:
        layer.bring(running.get(layer.layer.name))
    slots.seal(content)


@dataclass(frozen=True, slots=True)
class _Staging:
    """One layer on its way into the inactive slot."""

    client: ReleaseClient
    slots: Slots
    release: str
    layer: LayerEntry
    on_progress: Callable[[Progress], None]

    def bring(self, running: bytes | None) -> None:
        """Have the layer there; `running` is the digest of the current one of its name."""
        if self.fits():
            self._tell(1, 1)
            return
        if running == self.layer.digest:
            # A current layer that has changed, or cannot be read, is no reason to give up.
            with contextlib.suppress(LayerError, SlotLayerError):
                self.slots.copy_unchanged(self.layer.name)
            if self.fits():
                self._tell(1, 1)
                return
        self.slots.discard(self.layer.name)
        if self.layer.kind is LayerKind.TREE:
            self._fetch_tree()
            return
        # A file that came as it was signed is the layer.
        self.client.fetch(self.layer, self._place, self._tell)
        self._take_mode()

    def fits(self) -> bool:
        """Whether what lies in the slot is the layer."""
        try:
            return measure(self._place) == self.layer.digest
        except LayerError:
            return False

    def _fetch_tree(self) -> None:
        archive = self._place.with_name(f".{self.layer.name}.tar")
        self.client.fetch(self.layer, archive, self._tell)
        try:
            with archive.open("rb") as file:
                unpack(file, self._place, limit=archive.stat().st_size)
            if self.fits():
                archive.unlink()
                return
        except OSError as error:
            raise state_error(error, archive) from error
        # The archive stays: a release that is ordered again and again is not fetched so often.
        self.slots.discard(self.layer.name)
        message = f"layer {self.layer.name} of release {self.release} is not what it says"
        raise StagedLayerError(message, layer=self.layer.name, release=self.release)

    def _take_mode(self) -> None:
        """Give a file the mode of the one that it replaces: its digest says nothing of it."""
        current = self.slots.path(self.slots.current, self.layer.name)
        try:
            if current.is_file() and not current.is_symlink():
                self._place.chmod(current.stat().st_mode & 0o777)
        except OSError as error:
            raise state_error(error, self._place) from error

    def _tell(self, done: int, total: int) -> None:
        self.on_progress(Progress(self.release, self.layer.name, done, total))

    @property
    def _place(self) -> Path:
        return self.slots.path(self.slots.inactive, self.layer.name)


def _write_mark(place: Path, mark: bytes) -> None:
    try:
        # Torn or lost with the power, it is another one: the slot is begun anew.
        place.write_bytes(mark)
    except OSError as error:
        raise state_error(error, place) from error


def _mark_of(slots: Slots) -> bytes:
    place = slots.path(slots.inactive, "x").with_name(_MARK)
    # What cannot be read is another one.
    with contextlib.suppress(StateError):
        return read_limited(place, limit=_MARK_SIZE)
    return b""


def _running(slots: Slots) -> dict[str, bytes]:
    """The digests of the current slot's layers, as its release says that they are."""
    content = slots.release(slots.current)
    if content is None:
        return {}
    try:
        release = msgspec.json.decode(content, type=Release)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}
    return {layer.name: layer.digest for layer in release.layers}
