"""The files of published releases, in a directory, each named by its SHA-256.

Rules:
1. A file is there whole or not at all, whoever adds the same one at the same time.
2. Adding one that is there writes it anew: what a disk has spoilt is whole again.
3. Reading does not hash: a device hashes what it gets, and believes nothing else.
   What is copied to another place is hashed on its way.
4. What is added comes from below the directory that was named. A link in it could lead
   to a file that is nobody else's to read, and here everybody reads.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from hwtrust.errors import ConfigError, RepositoryBundleError, RepositoryFileError
from hwtrust_backend.config import make_private_directory, written_file

CHUNK: Final = 256 * 1024

_NAME: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_UNFINISHED: Final = re.compile(r"\.[0-9a-f]{64}\.[a-z0-9_]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Blob:
    """A file by its content: SHA-256 in hexadecimal digits, and bytes."""

    sha256: str
    length: int


@dataclass(frozen=True, slots=True)
class Blobs:
    """The files in `directory`."""

    directory: Path

    def add(self, folder: Path, name: str) -> Blob:
        """Copy in the file `name`, a path below `folder`.

        Raises:
            RepositoryBundleError: it is missing, no plain file, behind a link, or changes
                meanwhile.
            ConfigError: the copy cannot be written.
        """
        make_private_directory(self.directory)
        with plain_file(folder, name) as file:
            digest, length = hashlib.sha256(), 0
            for piece in pieces(file):
                digest.update(piece)
                length += len(piece)
            blob = Blob(digest.hexdigest(), length)
            file.seek(0)
            copied = hashlib.sha256()
            with written_file(self.path(blob.sha256), mode=0o600, replace=True) as target:
                for piece in pieces(file):
                    copied.update(piece)
                    target.write(piece)
                if copied.digest() != digest.digest():
                    raise RepositoryBundleError(f"{folder / name} changes while it is read")
        return blob

    def has(self, blob: Blob) -> bool:
        """Whether a file of that name and length is there."""
        try:
            return self.path(blob.sha256).stat().st_size == blob.length
        except OSError:
            return False

    def copy(self, blob: Blob, target: IO[bytes]) -> None:
        """Write a file's content into `target`.

        Raises:
            RepositoryFileError: it is missing or spoilt.
        """
        digest = hashlib.sha256()
        try:
            file = self.path(blob.sha256).open("rb")
        except OSError as error:
            message = f"the file {blob.sha256} of a release cannot be read: {error.strerror}"
            raise RepositoryFileError(message, sha256=blob.sha256) from error
        with file:
            for piece in pieces(file):
                digest.update(piece)
                target.write(piece)
        if digest.hexdigest() != blob.sha256:
            message = f"the file {blob.sha256} of a release is spoilt"
            raise RepositoryFileError(message, sha256=blob.sha256)

    def names(self) -> list[str]:
        """The SHA-256 of every file that is there, in order.

        Raises:
            ConfigError: the directory cannot be read.
        """
        return sorted(name for name in self._listed() if _NAME.fullmatch(name))

    def remove(self, needed: Collection[str], *, before: int, dry_run: bool) -> list[Blob]:
        """Remove files that are not needed, and what an interrupted copy has left.

        What is newer than `before` (UTC milliseconds) stays: somebody may be about to publish
        it. Gives what was removed, or with `dry_run` would be.

        Raises:
            ConfigError: the directory cannot be read or changed.
        """
        removed = []
        try:
            for name in sorted(self._listed()):
                known = name not in needed if _NAME.fullmatch(name) else _UNFINISHED.fullmatch(name)
                path = self.directory / name
                if not known or (status := path.lstat()).st_mtime_ns >= before * 1_000_000:
                    continue
                removed.append(Blob(name, status.st_size))
                if not dry_run:
                    path.unlink()
        except OSError as error:
            message = f"{self.directory} cannot be changed: {error.strerror}"
            raise ConfigError(message, path=str(self.directory)) from error
        return removed

    def _listed(self) -> list[str]:
        try:
            return os.listdir(self.directory)  # noqa: PTH208 - names alone
        except FileNotFoundError:
            return []
        except OSError as error:
            message = f"{self.directory} cannot be read: {error.strerror}"
            raise ConfigError(message, path=str(self.directory)) from error

    def path(self, sha256: str) -> Path:
        """Where the file of that hash is."""
        return self.directory / sha256


def pieces(file: IO[bytes]) -> Iterator[bytes]:
    """The rest of a file, bit by bit."""
    while piece := file.read(CHUNK):
        yield piece


@contextmanager
def plain_file(folder: Path, name: str) -> Iterator[IO[bytes]]:
    """The file `name`, a path below `folder`, open; no link in it is followed.

    Raises:
        RepositoryBundleError: it cannot be read, or is no plain file.
    """
    path = folder / name
    try:
        handle = _opened(folder, name)
        with os.fdopen(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise RepositoryBundleError(f"{path} is no plain file", path=str(path))
            yield file
    except ConfigError:
        raise
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror}"
        raise RepositoryBundleError(message, path=str(path)) from error


def _opened(folder: Path, name: str) -> int:
    *above, last = name.split("/")
    at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for one in above:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            below = os.open(one, flags, dir_fd=at)
            os.close(at)
            at = below
        # O_NONBLOCK: a FIFO must not make anybody wait.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        return os.open(last, flags, dir_fd=at)
    finally:
        os.close(at)
