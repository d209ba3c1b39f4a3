"""One file, from a source to its place on the disk, whole and as signed or not at all.

    .NAME.DIGEST.part ── grows, over as many runs as it takes ──▶ checked ──▶ NAME

Rules:
1. A file has its final name only when its length and every signed digest fit.
   The caller brings it to the disk, and hashes it again after a power cut.
2. What an interrupted run has left is hashed anew, never believed, and the rest
   is asked for by range. When the whole then does not fit, the fault may be the
   disk's: it is fetched once more, from the start.
3. Never more than the signed length is written.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from hwtrust.errors import (
    StateBusyError,
    StateDamagedError,
    StateError,
    TargetDigestError,
    TargetLengthError,
    TargetMissingError,
    UpdateResponseError,
    UpdateUnreachableError,
)
from hwtrust.files import PRIVATE_FILE, read_limited, state_error
from hwtrust.updates.source import PIECE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import TracebackType

    from hwtrust.updates.source import Answer, Source

    Progress = Callable[[int, int], None]

STRONG: Final = frozenset({"sha256", "sha384", "sha512"})

_CONNECTIONS: Final = 8
"""How often a download that breaks off, but gets on, is taken up again at once."""
_MISSING: Final = frozenset({403, 404, 410})
_NO_RANGE: Final = frozenset({206, 416})
_FINAL_MODE: Final = 0o644
_TAG_LIMIT: Final = 256


@dataclass(frozen=True, slots=True)
class Target:
    """A file as signed metadata describe it; `url` is where it lies below its source."""

    path: str
    url: str
    length: int
    hashes: Mapping[str, str]


def download(source: Source, target: Target, into: Path, on_progress: Progress) -> None:
    """Put `target` at `into`, mode 0644; go on where an interrupted run has stopped.

    `on_progress` is called with the bytes that are there and the bytes that there
    will be; an exception of its own ends the run, which can be taken up later.

    Raises:
        TargetError: the server does not have the file as it was signed.
        UpdateChannelError: the server cannot be reached or answers wrongly.
        StateError: the disk is full or failing, or another process is at it.
    """
    if _is_there(target, into):
        on_progress(target.length, target.length)
        return
    with _Part(target, into) as part:
        resumed = part.resume()
        while True:
            _fill(source, target, part, on_progress)
            try:
                part.check()
                break
            except TargetDigestError:
                part.restart()
                if not resumed:
                    raise
                resumed = False
        part.finish()


def _fill(source: Source, target: Target, part: _Part, on_progress: Progress) -> None:
    on_progress(part.size, target.length)
    for _ in range(_CONNECTIONS):
        before = part.size
        if before == target.length:
            return
        try:
            with _ask(source, target, part) as answer:
                _receive(answer, target, part, on_progress)
        except UpdateUnreachableError:
            if part.size <= before:
                raise
    if part.size != target.length:
        raise UpdateUnreachableError(f"{source.url} breaks off again and again", path=target.path)


def _ask(source: Source, target: Target, part: _Part) -> Answer:
    try:
        return _get(source, target, offset=part.size, tag=part.tag)
    except UpdateResponseError as error:
        if error.data.get("status") not in _NO_RANGE:
            raise
    part.restart()
    return _get(source, target)


def _get(source: Source, target: Target, *, offset: int = 0, tag: str = "") -> Answer:
    try:
        return source.get(target.url, most=target.length - offset, offset=offset, tag=tag)
    except UpdateResponseError as error:
        if error.data.get("status") not in _MISSING:
            raise
        message = f"{source.url} does not have {target.path}"
        raise TargetMissingError(message, path=target.path) from error


def _receive(answer: Answer, target: Target, part: _Part, on_progress: Progress) -> None:
    if answer.length is not None and answer.length != target.length:
        raise _wrong_length(target, answer.length)
    if answer.offset != part.size:
        part.restart()
    part.remember(answer.tag)
    before = part.size
    while piece := answer.read():
        if part.size + len(piece) > target.length:
            raise _wrong_length(target, part.size + len(piece))
        part.add(piece)
        on_progress(part.size, target.length)
    if part.size < target.length and part.size == before:
        raise UpdateUnreachableError(f"no more of {target.path} comes", path=target.path)


def _wrong_length(target: Target, found: int) -> TargetLengthError:
    message = f"{target.path} should have {target.length} bytes and comes with {found}"
    return TargetLengthError(message, path=target.path, expected=target.length, found=found)


def read(source: Source, target: Target) -> bytes:
    """The content of a small target, for the memory.

    Raises:
        TargetError: the server does not have it as it was signed.
        UpdateChannelError: the server cannot be reached or answers wrongly.
    """
    received = b""
    hashes = _Hashes(target)
    with _get(source, target) as answer:
        while len(received) <= target.length and (piece := answer.read()):
            hashes.update(piece)
            received += piece
    if len(received) != target.length:
        raise _wrong_length(target, len(received))
    hashes.check()
    return received


class _Hashes:
    """Every strong digest that was signed; others are too weak to count, so there must be one."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._running = {name: hashlib.new(name) for name in STRONG & target.hashes.keys()}

    def update(self, piece: bytes | memoryview) -> None:
        for running in self._running.values():
            running.update(piece)

    def check(self) -> None:
        fit = [
            running.hexdigest() == self._target.hashes[name]
            for name, running in self._running.items()
        ]
        if not fit or not all(fit):
            path = self._target.path
            raise TargetDigestError(f"{path} is not what was signed", path=path)


class _Part:
    """The file that grows, under a lock of this run."""

    def __init__(self, target: Target, into: Path) -> None:
        self._target = target
        self._into = into
        # By its digest: what is left of another version is never added to.
        digest = hashlib.sha256(repr(sorted(target.hashes.items())).encode()).hexdigest()[:16]
        self._path = into.with_name(f".{into.name}.{digest}.part")
        self._tag = into.with_name(f".{into.name}.{digest}.tag")
        self._hashes = _Hashes(target)
        self.size = 0
        self.tag = ""

    def __enter__(self) -> Self:
        with self._converted():
            self._file = _opened(self._path)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._converted(), self._file:
            if not self.size:
                self._path.unlink(missing_ok=True)
                self._tag.unlink(missing_ok=True)

    def resume(self) -> bool:
        """Take up what an earlier run has left; whether there was anything."""
        with self._converted():
            if os.fstat(self._file.fileno()).st_size > self._target.length:
                self._file.truncate(0)
            while piece := self._file.read(PIECE):
                self._hashes.update(piece)
                self.size += len(piece)
        if self.size:
            with contextlib.suppress(StateError):
                self.tag = read_limited(self._tag, limit=_TAG_LIMIT).decode("ascii", "replace")
        return self.size > 0

    def restart(self) -> None:
        """Drop everything."""
        with self._converted():
            self._file.seek(0)
            self._file.truncate(0)
        self._hashes = _Hashes(self._target)
        self.size = 0
        self.tag = ""

    def remember(self, tag: str) -> None:
        """Keep the server's name for this version of the file."""
        if tag != self.tag:
            self.tag = tag
            with self._converted():
                # Lost in a power cut, it is only not asked by.
                self._tag.write_text(tag, encoding="ascii")

    def add(self, piece: bytes) -> None:
        """Append `piece`."""
        with self._converted():
            rest = memoryview(piece)
            while rest:
                written = self._file.write(rest)
                self._hashes.update(rest[:written])
                self.size += written
                rest = rest[written:]

    def check(self) -> None:
        """Raise unless this is the target."""
        self._hashes.check()

    def finish(self) -> None:
        """Give the file its name."""
        with self._converted():
            os.fchmod(self._file.fileno(), _FINAL_MODE)
            self._path.replace(self._into)
            self._tag.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _converted(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise state_error(error, self._into) from error


def _opened(path: Path) -> io.FileIO:
    # Read and write: that waits for nobody at the other end of a FIFO.
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    file = io.FileIO(os.open(path, flags, PRIVATE_FILE), "r+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _require_own(path, os.fstat(file.fileno()))
    except (BlockingIOError, FileNotFoundError) as error:
        # Locked, or given its final name since it was opened.
        file.close()
        raise StateBusyError(f"another process downloads {path}", path=str(path)) from error
    except BaseException:
        file.close()
        raise
    return file


def _require_own(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        raise StateDamagedError(f"{path} is not a file of its own", path=str(path))
    if not os.path.samestat(status, path.lstat()):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))


def _is_there(target: Target, into: Path) -> bool:
    try:
        descriptor = os.open(into, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return False
        raise state_error(error, into) from error
    with io.FileIO(descriptor) as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size != target.length:
            return False
        hashes = _Hashes(target)
        try:
            while piece := file.read(PIECE):
                hashes.update(piece)
            hashes.check()
        except OSError as error:
            raise state_error(error, into) from error
        except TargetDigestError:
            return False
        return True
