"""Notice that something happened to a layer: a reason to measure it again, no more.

    layer ─▶ way: each directory and link that leads there ─▶ file, or every part of a tree
                  └── watched for the next name on the way    └── watched for every change

Inotify says when to look; it is no evidence, neither of a change nor of the
absence of one. What it does not tell, and what measuring at intervals is for:

- a change through a mapping of a file is told when the mapping goes, not when
  it is made or written back (inotify(7));
- something mounted over a layer, or over a directory on the way to it;
- changes by other machines on a network file system, below an overlay, or to
  the block device under a file system;
- what happens while nothing is watched: before a `LayerWatch` is made, and
  where `unwatched` names the layer.

Rules:
1. First watch, then look. A directory is watched before its names are read, and
   a layer before it is measured: what comes in between is told.
2. Where it is not known which layer an event concerns, it concerns every layer:
   the kernel's queue was full.
3. What cannot be watched is said (`unwatched`), and everything else is watched:
   an exhausted limit is no reason to stop. Directories come before the files in
   them, for a directory tells of its files; a file's own watch adds only writes
   by way of another hard link.
4. Reading a layer wakes nobody, nor does what happens beside it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol, Self

from hwtrust.errors import WatchError, WatchLimitError, WatchPathError, WatchUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

# <sys/inotify.h>
_MODIFY: Final = 0x0000_0002
_ATTRIB: Final = 0x0000_0004
_CLOSE_WRITE: Final = 0x0000_0008
_MOVED: Final = 0x0000_00C0
_CREATE: Final = 0x0000_0100
_DELETE: Final = 0x0000_0200
_DELETE_SELF: Final = 0x0000_0400
_MOVE_SELF: Final = 0x0000_0800
_UNMOUNT: Final = 0x0000_2000
_OVERFLOW: Final = 0x0000_4000
_IGNORED: Final = 0x0000_8000
_ONLY_DIRECTORY: Final = 0x0100_0000
_DONT_FOLLOW: Final = 0x0200_0000
_MASK_ADD: Final = 0x2000_0000

_NAMES: Final = _MOVED | _CREATE | _DELETE | _DELETE_SELF | _MOVE_SELF
"""That another thing has a name now, or nothing has it."""
# A file that was mapped is closed for writing when its last mapping goes.
_CONTENT: Final = _MODIFY | _ATTRIB | _CLOSE_WRITE
_WAY: Final = _NAMES | _ONLY_DIRECTORY
_TREE: Final = _NAMES | _CONTENT | _ONLY_DIRECTORY
_FILE: Final = _CONTENT | _DELETE_SELF | _MOVE_SELF
_RESHAPES: Final = _NAMES | _UNMOUNT | _OVERFLOW | _IGNORED
"""After these, what has to be watched may be something else."""

_GONE: Final = frozenset({errno.ENOENT, errno.ENOTDIR})
_EXHAUSTED: Final = frozenset({errno.ENOSPC, errno.ENOMEM})
_MOST_LINKS: Final = 40
"""As many as the kernel follows, path_resolution(7)."""


class _Event(Protocol):
    """What inotify-simple makes of a `struct inotify_event`."""

    wd: int
    mask: int
    name: str


class _INotify(Protocol):
    """What is used of `inotify_simple.INotify`."""

    def fileno(self) -> int: ...
    def close(self) -> None: ...
    def add_watch(self, path: str, mask: int, /) -> int: ...
    def rm_watch(self, wd: int, /) -> None: ...
    def read(self, timeout: int) -> Iterable[_Event]: ...


@dataclass(frozen=True, slots=True)
class _Parts:
    """The watches that a layer needs now: whole things, and names in directories."""

    layer: str
    whole: set[int] = field(default_factory=set)
    names: set[tuple[int, str]] = field(default_factory=set)


class LayerWatch:
    """The watches of a device's layers. A context manager; of one thread.

    A layer is named by its key in `layers`, and followed as paths are: when a
    link on the way is turned elsewhere, the layer is what is there then. A layer
    that is missing is told when it appears.
    """

    def __init__(self, layers: Mapping[str, Path]) -> None:
        """Watch each layer from now on; measure it after this, not before.

        Raises:
            WatchUnavailableError: the kernel gives no inotify instance, or
                inotify-simple is not installed.
        """
        self._inotify = _instance()
        self._layers: dict[str, str] = {}
        # A watch descriptor, and whom its events concern: any of them, or those of one name.
        self._whole: dict[int, frozenset[str]] = {}
        self._named: dict[int, dict[str, frozenset[str]]] = {}
        self._sets: dict[frozenset[str], frozenset[str]] = {}
        self._gaps: dict[str, WatchError] = {}
        try:
            self.rearm(layers)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give every watch back; harmless when repeated."""
        self._inotify.close()

    def fileno(self) -> int:
        """What becomes readable when `changed` may have something to tell."""
        return self._inotify.fileno()

    @property
    def complete(self) -> bool:
        """Whether every part of every layer is watched."""
        return not self._gaps

    @property
    def unwatched(self) -> Mapping[str, WatchError]:
        """The layers of which not every part is watched, and why: measure those more often.

        `WatchLimitError`: the user's inotify watches are used up. `WatchPathError`:
        a part may not be read.
        """
        return dict(self._gaps)

    def changed(self, timeout: float = 0) -> frozenset[str]:
        """The layers to which something has happened since the last call.

        Waits for at most `timeout` seconds, and may return nothing before they
        are over: an event beside a layer ends the waiting too.
        """
        touched: set[str] = set()
        reshaped: set[str] = set()
        for event in self._inotify.read(timeout=max(0, round(timeout * 1000))):
            concerned = self._concerned(event)
            touched |= concerned
            if event.mask & _RESHAPES:
                reshaped |= concerned
            if event.mask & _IGNORED:
                self._whole.pop(event.wd, None)
                self._named.pop(event.wd, None)
        self._survey(reshaped)
        return frozenset(touched)

    def rearm(self, layers: Mapping[str, Path]) -> None:
        """Watch these layers, where they are now, in the place of the former ones.

        For after an update; as at the start, measure after this. A layer that is
        still in its place keeps the events that have not been told.
        """
        for former in self._layers.keys() - layers.keys():
            self._forget_others(_Parts(former))
            self._gaps.pop(former, None)
        here = os.getcwd()  # noqa: PTH109 - paths are strings here, as there are many
        self._layers = {name: os.path.join(here, path) for name, path in layers.items()}  # noqa: PTH118
        self._survey(self._layers)

    def _concerned(self, event: _Event) -> frozenset[str]:
        if event.mask & _OVERFLOW:
            return frozenset(self._layers)
        named = self._named.get(event.wd, {})
        if event.name:
            mine = named.get(event.name, frozenset())
        else:
            mine = frozenset().union(*named.values())
        return mine | self._whole.get(event.wd, frozenset())

    # --- what has to be watched -----------------------------------------------------------------

    def _survey(self, layers: Iterable[str]) -> None:
        """Watch all parts that these layers have now, and nothing that was theirs before."""
        surveyed = []
        for layer in layers:
            self._gaps.pop(layer, None)
            parts = _Parts(layer)
            end = self._follow(parts)
            surveyed.append((parts, [] if end is None else self._directories(parts, end)))
        for parts, directories in surveyed:
            for directory in directories:
                for entry in self._entries(parts, directory):
                    if entry.is_file(follow_symlinks=False):
                        self._watch(parts, entry.path, _FILE)
            self._forget_others(parts)

    def _follow(self, parts: _Parts) -> str | None:
        """Watch the way to a layer; gives where it ends, free of links, if anything is there."""
        here, links = "/", 0
        names = self._layers[parts.layer].split("/")[::-1]
        while names:
            name = names.pop()
            if name in {"", "."}:
                continue
            if name == "..":
                here = os.path.dirname(here)  # noqa: PTH120
                continue
            if not self._watch(parts, here, _WAY, name):
                return None
            here = os.path.join(here, name)  # noqa: PTH118
            try:
                mode = os.lstat(here).st_mode
                target = os.readlink(here) if stat.S_ISLNK(mode) else None  # noqa: PTH115
            except (OSError, ValueError) as error:
                self._note(parts, here, error)
                return None
            if target is not None:
                links += 1
                if links > _MOST_LINKS:
                    self._note(parts, here, OSError(errno.ELOOP, os.strerror(errno.ELOOP)))
                    return None
                here = "/" if target.startswith("/") else os.path.dirname(here)  # noqa: PTH120
                names += target.split("/")[::-1]
        return here

    def _directories(self, parts: _Parts, top: str) -> list[str]:
        """Watch `top`, and every directory below it if it is one; gives the directories."""
        try:
            whole = stat.S_ISDIR(os.lstat(top).st_mode)
        except OSError as error:
            self._note(parts, top, error)
            return []
        if not whole:
            self._watch(parts, top, _FILE)
            return []
        found = [top]
        for directory in found:
            if self._watch(parts, directory, _TREE):
                found += [
                    entry.path
                    for entry in self._entries(parts, directory)
                    if entry.is_dir(follow_symlinks=False)
                ]
        return found

    def _entries(self, parts: _Parts, directory: str) -> Iterator[os.DirEntry[str]]:
        try:
            with os.scandir(directory) as entries:
                yield from entries
        except OSError as error:
            self._note(parts, directory, error)

    def _watch(self, parts: _Parts, path: str, mask: int, name: str = "") -> bool:
        """Watch one thing, or only `name` in it; gives whether it is there."""
        try:
            watch = self._inotify.add_watch(path, mask | _DONT_FOLLOW | _MASK_ADD)
        except OSError as error:
            self._note(parts, path, error)
            # A directory that may be passed but not read still leads on.
            return error.errno not in _GONE
        if name:
            names = self._named.setdefault(watch, {})
            names[name] = names.get(name, frozenset()) | {parts.layer}
            parts.names.add((watch, name))
        else:
            known = self._whole.get(watch, frozenset())
            if parts.layer not in known:
                self._whole[watch] = self._shared(known | {parts.layer})
            parts.whole.add(watch)
        return True

    def _shared(self, layers: frozenset[str]) -> frozenset[str]:
        """The one object for these layers: a tree has as many watches as files."""
        return self._sets.setdefault(layers, layers)

    def _note(self, parts: _Parts, path: str, error: OSError | ValueError) -> None:
        """Say that a part is not watched; where it has gone, the directory above tells."""
        number = error.errno if isinstance(error, OSError) else None
        if number in _GONE:
            return
        reason = getattr(error, "strerror", None) or str(error)
        kind = WatchLimitError if number in _EXHAUSTED else WatchPathError
        message = f"layer {parts.layer}: {path!r} is not watched: {reason}"
        self._gaps.setdefault(parts.layer, kind(message, layer=parts.layer, path=path))

    def _forget_others(self, parts: _Parts) -> None:
        """Give back the watches that a layer had and that are none of its parts now."""
        layer = parts.layer
        stale = [
            watch
            for watch, concerned in self._whole.items()
            if layer in concerned and watch not in parts.whole
        ]
        for watch in stale:
            rest = self._whole.pop(watch) - {layer}
            if rest:
                self._whole[watch] = self._shared(rest)
        for watch, names in list(self._named.items()):
            for name in [name for name, concerned in names.items() if layer in concerned]:
                if (watch, name) not in parts.names:
                    rest = names.pop(name) - {layer}
                    if rest:
                        names[name] = rest
            if not names:
                del self._named[watch]
                stale.append(watch)
        for watch in stale:
            if watch not in self._whole and watch not in self._named:
                # The kernel has given it back already, where the thing itself has gone.
                with contextlib.suppress(OSError):
                    self._inotify.rm_watch(watch)


def _instance() -> _INotify:
    try:
        from inotify_simple import INotify  # noqa: PLC0415 - only an agent watches
    except ImportError as error:
        message = "layers cannot be watched: inotify-simple is not installed"
        raise WatchUnavailableError(message) from error
    try:
        instance: _INotify = INotify()
    except OSError as error:
        message = f"layers cannot be watched: {error.strerror}"
        raise WatchUnavailableError(message) from error
    return instance
