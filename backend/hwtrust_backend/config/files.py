"""Files that are there whole or not at all, and private from their first byte."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from hwtrust.errors import ConfigError


def write_file(path: Path, content: bytes, *, mode: int, replace: bool) -> None:
    """Write `content` into a file, as `written_file` does.

    Raises:
        ConfigError: the file exists and may not be replaced, or cannot be written.
    """
    with written_file(path, mode=mode, replace=replace) as file:
        file.write(content)


@contextmanager
def written_file(path: Path, *, mode: int, replace: bool) -> Iterator[IO[bytes]]:
    """What the block writes goes beside `path`, is synced, and moved there at its end.

    Raises:
        ConfigError: the file exists and may not be replaced, or cannot be written.
    """
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                os.fchmod(file.fileno(), mode)
                yield file
                file.flush()
                os.fsync(file.fileno())
            if replace:
                Path(temporary).replace(path)
            else:
                os.link(temporary, path)
        finally:
            Path(temporary).unlink(missing_ok=True)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except FileExistsError as error:
        raise ConfigError(f"{path} is there already", path=str(path)) from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}", path=str(path)) from error


def make_private_directory(path: Path) -> None:
    """Make `path`, 0700, or check that it is a directory.

    Raises:
        ConfigError: it cannot be made, or others can get into it.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.stat().st_mode & 0o077:
            message = f"{path} can be entered by other users; chmod 700 it"
            raise ConfigError(message, path=str(path))
    except OSError as error:
        raise ConfigError(f"{path} cannot be made: {error.strerror}", path=str(path)) from error
