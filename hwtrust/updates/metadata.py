"""The TUF client: signed metadata, from the root that a device was given to a list of targets.

    root that the device was given ─▶ newer roots ─▶ timestamp ─▶ snapshot ─▶ targets

python-tuf's ngclient does the steps of the specification (section 5); here are
what it leaves to its user: the way to the server, the clock, and a memory that
survives power cuts.

Rules:
1. The root that the device was given is the anchor, at every run. What is
   remembered only adds to it: newer roots, and versions below which nothing goes.
2. All that is remembered is one file, replaced as a whole. What was accepted
   before a failure is remembered too. A damaged memory is begun anew: who can
   damage it can also delete it.
3. What has expired is judged by the clock that the caller brings.
4. Delegations are not followed: the targets role alone says what a release is.
5. No exception of python-tuf leaves this module.

This module needs python-tuf when it is imported, which takes a while: import it late.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from msgspec import Meta
from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
    UnsignedMetadataError,
)
from tuf.ngclient.config import UpdaterConfig
from tuf.ngclient.fetcher import FetcherInterface
from tuf.ngclient.updater import Updater

from hwtrust.errors import (
    StateDamagedError,
    StateError,
    StateMissingError,
    UpdateAnchorError,
    UpdateExpiredError,
    UpdateLengthError,
    UpdateMalformedError,
    UpdateMetadataError,
    UpdateMismatchError,
    UpdateMissingError,
    UpdateResponseError,
    UpdateRollbackError,
    UpdateThresholdError,
    UpdateUnreachableError,
)
from hwtrust.files import (
    PRIVATE_DIRECTORY,
    FileLock,
    private_directory,
    read_limited,
    state_error,
    write_atomic,
)
from hwtrust.updates.download import Target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime
    from pathlib import Path

    from hwtrust.updates.source import Source

_KIB: Final = 1024
_LIMITS: Final = UpdaterConfig(
    max_root_rotations=256,
    root_max_length=64 * _KIB,
    timestamp_max_length=16 * _KIB,
    snapshot_max_length=256 * _KIB,
    targets_max_length=4 * _KIB * _KIB,
)
_MEMORY_LIMIT: Final = 32 * _KIB * _KIB
_MISSING: Final = frozenset({403, 404})
_FILE: Final = r"^(root_history/[1-9][0-9]{0,9}\.root|timestamp|snapshot|targets)\.json$"

_Files = dict[Annotated[str, Meta(pattern=_FILE)], bytes]

_REASONS: Final[tuple[tuple[type[Exception], type[UpdateMetadataError]], ...]] = (
    (ExpiredMetadataError, UpdateExpiredError),
    (BadVersionNumberError, UpdateRollbackError),
    (UnsignedMetadataError, UpdateThresholdError),
    (LengthOrHashMismatchError, UpdateMismatchError),
    (DownloadLengthMismatchError, UpdateLengthError),
    (RepositoryError, UpdateMalformedError),
)
"""What python-tuf says, and what that means here; the first that fits."""


@dataclass(frozen=True, slots=True)
class Listing:
    """All targets of one state of the repository; it is not to be used from `expires` on."""

    targets: Mapping[str, Target]
    version: int
    expires: datetime


def unseen() -> None:
    """Watch nothing."""


def refresh(
    root: bytes,
    *,
    state: Path,
    source: Source,
    now: datetime,
    on_piece: Callable[[], None] = unseen,
) -> Listing:
    """What the repository holds now, checked from `root` on.

    `state` is a private directory, made when it is missing; `now` is aware.
    `on_piece` is called as the metadata come; what it raises ends the run.

    Raises:
        UpdateMetadataError: what is served is not newer, not signed, not complete.
        UpdateChannelError: the server cannot be reached, or answers wrongly.
        StateError: what was accepted cannot be remembered, or another process is at it.
    """
    private_directory(state)
    with FileLock(state / "lock"):
        memory = _Memory(state)
        memory.lay_out()
        try:
            listing = _refresh(root, memory.work, _Fetcher(source, on_piece), now)
        except BaseException:
            # The failure comes first; but what was accepted before it counts.
            with contextlib.suppress(StateError):
                memory.keep()
            raise
        memory.keep()
        memory.clear()
        return listing


def _refresh(root: bytes, work: Path, fetcher: _Fetcher, now: datetime) -> Listing:
    with _converted(work):
        updater = _updater(root, work, fetcher, now)
        updater.refresh()
        return updater.listing()


def _updater(root: bytes, work: Path, fetcher: _Fetcher, now: datetime) -> _Updater:
    try:
        return _Updater(root, work, fetcher, now)
    except RepositoryError as error:
        raise UpdateAnchorError(f"the device's first root is no root: {error}") from error


class _Updater(Updater):
    """ngclient's updater, with another clock and a view of all targets.

    It lets neither be set nor seen from outside; hence the private attribute.
    """

    def __init__(self, root: bytes, work: Path, fetcher: _Fetcher, now: datetime) -> None:
        super().__init__(
            str(work), fetcher.source.url, fetcher=fetcher, config=_LIMITS, bootstrap=root
        )
        self._trusted_set.reference_time = now

    def listing(self) -> Listing:
        """The targets of metadata that `refresh` has accepted."""
        trusted = self._trusted_set
        prefixed = trusted.root.consistent_snapshot
        targets = {
            path: Target(
                path=path,
                url=found.get_prefixed_paths()[0] if prefixed else path,
                length=found.length,
                hashes=dict(found.hashes),
            )
            for path, found in trusted.targets.targets.items()
        }
        parts = (trusted.root, trusted.timestamp, trusted.snapshot, trusted.targets)
        expires = min(part.expires for part in parts)
        return Listing(targets=targets, version=trusted.targets.version, expires=expires)


class _Fetcher(FetcherInterface):
    """ngclient's way to the server, by a source, and without files of its own."""

    def __init__(self, source: Source, on_piece: Callable[[], None]) -> None:
        self.source = source
        self._on_piece = on_piece

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """The file at `url`, of at most `max_length` bytes."""
        received = bytearray()
        for piece in self._pieces(url, max_length):
            received += piece
            if len(received) > max_length:
                raise DownloadLengthMismatchError(f"{url} has more than {max_length} bytes")
        return bytes(received)

    def _fetch(self, url: str) -> Iterator[bytes]:
        return self._pieces(url, _LIMITS.targets_max_length)

    def _pieces(self, url: str, most: int) -> Iterator[bytes]:
        path = url.removeprefix(self.source.url)
        try:
            answer = self.source.get(path, most=most)
        except UpdateResponseError as error:
            status = error.data.get("status")
            # Before the newest root there is no other sign that it is the newest.
            if status in _MISSING and isinstance(status, int):
                raise DownloadHTTPError(str(error), status) from error
            raise
        received = 0
        with answer:
            while piece := answer.read():
                received += len(piece)
                self._on_piece()
                yield piece
        if answer.length is not None and received < answer.length:
            raise UpdateUnreachableError(f"{url} breaks off after {received} bytes")


class _Memory:
    """What the device has accepted so far: one file, laid out as ngclient wants it to work with."""

    def __init__(self, state: Path) -> None:
        self._file = state / "metadata.json"
        self.work = state / "work"
        self._kept: dict[str, bytes] = {}

    def lay_out(self) -> None:
        """Make the directory to work in, anew."""
        self.clear()
        self._kept = self._read()
        with self._converted():
            (self.work / "root_history").mkdir(mode=PRIVATE_DIRECTORY, parents=True)
            for name, content in self._kept.items():
                (self.work / name).write_bytes(content)

    def keep(self) -> None:
        """Remember what is in the directory now."""
        with self._converted():
            places = [*self.work.glob("root_history/*.root.json")]
            places += [self.work / f"{role}.json" for role in ("timestamp", "snapshot", "targets")]
            found = {
                str(place.relative_to(self.work)): place.read_bytes()
                for place in places
                if place.exists()
            }
        if found != self._kept:
            write_atomic(self._file, msgspec.json.encode(found))
            self._kept = found

    def clear(self) -> None:
        """Remove the directory."""
        with self._converted(), contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.work)

    def _read(self) -> dict[str, bytes]:
        try:
            return msgspec.json.decode(read_limited(self._file, limit=_MEMORY_LIMIT), type=_Files)
        except (StateMissingError, StateDamagedError, msgspec.MsgspecError, UnicodeDecodeError):
            return {}

    @contextlib.contextmanager
    def _converted(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise state_error(error, self.work) from error


@contextlib.contextmanager
def _converted(work: Path) -> Iterator[None]:
    try:
        yield
    except (RepositoryError, DownloadError) as error:
        if isinstance(error, DownloadHTTPError):
            message = f"the repository does not have what it must have: {error}"
            raise UpdateMissingError(message, status=error.status_code) from error
        meaning = next((ours for theirs, ours in _REASONS if isinstance(error, theirs)), None)
        raise (meaning or UpdateMalformedError)(f"the repository is refused: {error}") from error
    except OSError as error:
        raise state_error(error, work) from error
