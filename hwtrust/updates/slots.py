"""Two slots, each with room for a whole release, and the link that says which one is in use.

    SLOTS/a/release.json  SLOTS/a/kernel  SLOTS/a/frontend/…
    SLOTS/b/…
    SLOTS/current -> a

The device's configuration points through `current`, so that one rename moves
all layers and the release file at once. This module moves and keeps files; what
a release is, and whether a layer is the right one, its callers know.

Rules:
1. Nothing but `switch` and `switch_back` changes what `current` is (`create`
   makes it), and they do by one rename.
2. What is in the current slot is read, never written.
3. `release.json` is a slot's seal: it comes last, when all else is on the disk,
   and goes first when the slot is begun anew. Only to a sealed slot can one switch.
4. A name that starts with a dot is scratch, a download for example. It may lie
   in a slot that is being filled, and is gone when the slot is sealed.
5. One writer at a time: the caller holds the lock on the device's state.
6. A process killed anywhere leaves a `current` that leads to a whole release;
   `begin` clears the rest away.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hwtrust.errors import (
    LayerUnreadableError,
    SlotDamagedError,
    SlotExistsError,
    SlotLayerError,
    SlotMissingError,
    SlotUnsealedError,
    StateMissingError,
)
from hwtrust.files import (
    private_directory,
    read_limited,
    state_error,
    sync_directory,
    write_atomic,
)
from hwtrust.updates.trees import (
    MODE,
    SPECIAL_BITS,
    Tree,
    TreeMaker,
    copy_content,
    new_file,
    open_file,
    remove,
    sync,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

NAMES: Final = ("a", "b")
RELEASE: Final = "release.json"
CURRENT: Final = "current"
MAX_RELEASE: Final = 1 << 20

_NEXT: Final = ".current.tmp"
_SLOT_MODE: Final = 0o755
_RELEASE_MODE: Final = 0o644
_LONGEST: Final = 200


class Slots:
    """The slots in the directory `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __repr__(self) -> str:
        return f"<Slots {self._path}>"

    # --- reading ------------------------------------------------------------------

    @property
    def current(self) -> str:
        """The name of the slot in use.

        Raises:
            SlotMissingError: the slots are not set up.
            SlotDamagedError: `current` is not a link to one of them.
            StateError: the directory cannot be read.
        """
        link = self._path / CURRENT
        try:
            status = link.lstat()
            target = os.readlink(link) if stat.S_ISLNK(status.st_mode) else ""  # noqa: PTH115 - as it is written
        except (FileNotFoundError, NotADirectoryError) as error:
            raise SlotMissingError(f"{self._path} holds no slots", path=str(self._path)) from error
        except OSError as error:
            raise state_error(error, link) from error
        if target not in NAMES or not _is_folder(self._path / target):
            raise SlotDamagedError(f"{link} leads to no slot", path=str(link))
        return target

    @property
    def inactive(self) -> str:
        """The name of the slot that is not in use, whether it is there or not."""
        return NAMES[1 - NAMES.index(self.current)]

    def path(self, slot: str, layer: str) -> Path:
        """Where `layer` lies in the slot named `slot`, or would.

        Raises:
            SlotLayerError: the name cannot be one of a layer's files.
            SlotMissingError: there is no slot of that name.
        """
        if slot not in NAMES:
            raise SlotMissingError(f"there is no slot {slot!r}", slot=slot)
        if (
            not layer
            or layer.startswith(".")
            or layer == RELEASE
            or not layer.isprintable()
            or "/" in layer
            or len(layer.encode(errors="replace")) > _LONGEST
        ):
            raise SlotLayerError(
                f"{layer!r} cannot be the name of a layer in a slot", layer=ascii(layer)
            )
        return self._path / slot / layer

    def release_path(self, slot: str) -> Path:
        """Where the release file lies in the slot named `slot`."""
        return self._path / slot / RELEASE

    def release(self, slot: str) -> bytes | None:
        """The release file of a sealed slot; None of one that is not sealed.

        Raises:
            StateError: it cannot be read, or is longer than any release.
        """
        try:
            return read_limited(self.release_path(slot), limit=MAX_RELEASE)
        except StateMissingError:
            return None

    # --- setting up ---------------------------------------------------------------

    def create(self, from_layers: Mapping[str, Path], release: Path) -> None:
        """Set up the slots with the release in use, copied from where it lies today.

        Where it was is left as it is. Killed on the way, it begins anew.

        Raises:
            SlotExistsError: there are slots already.
            SlotLayerError: a layer cannot be kept in a slot.
            LayerUnreadableError: a layer is missing, or holds what is no layer.
            StateError: the release cannot be read, or the disk is full or failing.
        """
        content = read_limited(release, limit=MAX_RELEASE)
        layers = {self.path(NAMES[0], name): place for name, place in from_layers.items()}
        with _writing(self._path):
            self._path.mkdir(mode=_SLOT_MODE, parents=True, exist_ok=True)
            sync_directory(self._path.parent)
        private_directory(self._path)
        if os.path.lexists(self._path / CURRENT):
            raise SlotExistsError(f"{self._path} holds slots already", path=str(self._path))
        for place in (*layers.values(), release):
            with _reading(place):
                inside = place.resolve(strict=True).is_relative_to(self._path.resolve())
            if inside:
                raise SlotLayerError(
                    f"{place} is to be copied into the slots, and lies there", layer=str(place)
                )
        slot = self._path / NAMES[0]
        self._empty(slot)
        for target, place in layers.items():
            _copy(place, target)
        self._seal(slot, content)
        self._point_to(slot.name)

    # --- staging ------------------------------------------------------------------

    def begin(self, *, keep: bool = False) -> Path:
        """Make the inactive slot ready to be filled, and say where it is.

        Args:
            keep: what an interrupted filling left there stays. Only the caller
                knows that it was for the same release.

        Raises:
            SlotError: the slots are missing or damaged.
            StateError: the disk is full, read-only or failing.
        """
        place = self._inactive_place()
        if keep and _is_folder(place):
            self._unseal(place)
        else:
            self._empty(place)
        return place

    def discard(self, layer: str) -> None:
        """Remove a layer from the inactive slot, whole or half-made; missing is fine.

        Raises:
            SlotError: the slots are missing or damaged, or the name cannot be a layer's.
            StateError: the disk is read-only or failing.
        """
        place = self.path(self.inactive, layer)
        self._unseal(self._inactive_place())
        with _writing(place):
            _remove(place)

    def copy_unchanged(self, layer: str) -> None:
        """Copy a layer from the current slot to the inactive one, in place of what is there.

        The copy shares its blocks where the file system can, but never its files.

        Raises:
            LayerUnreadableError: the layer is missing, or holds what is no layer.
            SlotLayerError: its name, or the mode of a file in it, cannot be.
            StateError: the disk is full, read-only or failing.
        """
        self.discard(layer)
        _copy(self.path(self.current, layer), self.path(self.inactive, layer))

    def seal(self, release: bytes) -> None:
        """Bring all of the inactive slot to the disk, then write its release file.

        Raises:
            SlotError: the slots are missing or damaged.
            StateError: the disk is full, read-only or failing.
        """
        self._seal(self._inactive_place(), release)

    # --- switching ----------------------------------------------------------------

    def switch(self) -> None:
        """Make the inactive slot the current one, by one rename.

        Raises:
            SlotUnsealedError: it does not hold a whole release.
            SlotError: the slots are missing or damaged.
            StateError: the disk is full, read-only or failing; when the switch
                itself was done or not, `current` says.
        """
        slot = self._inactive_place().name
        if self.release(slot) is None:
            raise SlotUnsealedError(f"slot {slot} holds no whole release", slot=slot)
        self._point_to(slot)

    def switch_back(self) -> None:
        """Return to the release that was in use before the last switch.

        Its slot is sealed as long as `begin` was not called since.

        Raises:
            SlotUnsealedError: that release is gone.
            SlotError: the slots are missing or damaged.
            StateError: the disk is full, read-only or failing.
        """
        self.switch()

    # --- inside -------------------------------------------------------------------

    def _inactive_place(self) -> Path:
        """Where the inactive slot is, which must not be the current one by another name."""
        current = self._path / self.current
        place = self._path / self.inactive
        with _writing(place):
            if os.path.lexists(place) and (
                not _is_folder(place) or os.path.samestat(place.stat(), current.stat())
            ):
                raise SlotDamagedError(f"{place} is no slot", path=str(place))
        return place

    def _empty(self, place: Path) -> None:
        if _is_folder(place):
            self._unseal(place)
        with _writing(place):
            _remove(place)
            place.mkdir()
            place.chmod(_SLOT_MODE)
        sync_directory(self._path)

    def _unseal(self, place: Path) -> None:
        # On the disk before anything else changes: half a release is never a sealed one.
        with _writing(place):
            try:
                (place / RELEASE).unlink()
            except FileNotFoundError:
                return
        sync_directory(place)

    def _seal(self, place: Path, release: bytes) -> None:
        if not 0 < len(release) <= MAX_RELEASE:
            raise SlotUnsealedError(
                f"a release file of {len(release)} bytes seals no slot", slot=place.name
            )
        self._unseal(place)
        with _writing(place), Tree.at(place) as tree:
            for name in os.listdir(place):  # noqa: PTH208 - names alone
                if name.startswith("."):
                    _remove(place / name)
            sync(tree)
        write_atomic(place / RELEASE, release, mode=_RELEASE_MODE)

    def _point_to(self, slot: str) -> None:
        temporary = self._path / _NEXT
        with _writing(temporary):
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(slot)
            temporary.replace(self._path / CURRENT)
        sync_directory(self._path)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise state_error(error, path) from error


@contextlib.contextmanager
def _reading(layer: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        message = f"layer {layer} cannot be copied: {reason}"
        raise LayerUnreadableError(message, path=str(layer)) from error


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _remove(path: Path) -> None:
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        remove(path.name, dir_fd=folder)
    finally:
        os.close(folder)


def _copy(source: Path, target: Path) -> None:
    """Copy a layer to the new name `target`; its own path may be a link, as when it is measured."""
    with _reading(source):
        real = source.resolve(strict=True)
        if real.is_dir():
            _copy_tree(real, target)
            return
        descriptor = open_file(real)
        try:
            mode = _mode(os.fstat(descriptor), source)
            with _writing(target), new_file(target, mode) as copy:
                copy_content(descriptor, copy)
        finally:
            os.close(descriptor)


def _copy_tree(source: Path, target: Path) -> None:
    with Tree.at(source) as tree, contextlib.ExitStack() as stack:
        with _writing(target):
            maker = stack.enter_context(TreeMaker(target))
        for path, status in tree.entries():
            if stat.S_ISLNK(status.st_mode):
                link = tree.link(path)
                with _writing(target):
                    maker.make_link(path, link)
                continue
            mode = _mode(status, source / os.fsdecode(path))
            if stat.S_ISDIR(status.st_mode):
                with _writing(target):
                    maker.make_folder(path, mode)
                continue
            descriptor = tree.read(path)
            try:
                with _writing(target), maker.make_file(path, mode) as copy:
                    copy_content(descriptor, copy)
            finally:
                os.close(descriptor)
        with _writing(target):
            maker.finish()


def _mode(status: os.stat_result, path: Path) -> int:
    mode = status.st_mode & MODE
    if mode & SPECIAL_BITS:
        # The copy belongs to whoever copies: the bits would give away another user's rights.
        raise SlotLayerError(f"{path} has mode {mode:04o}", layer=str(path))
    return mode
