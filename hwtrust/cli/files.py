"""Files that a command line names: read whole, with a limit, and never waited for.

Rules:
1. Opening does not wait: of a FIFO that nobody writes there is nothing to read. One that
   somebody writes, such as of `<(…)`, is read to its end.
2. What is read has a limit, so that no device fills the memory.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from pathlib import Path


def read_file(path: Path, *, most: int) -> bytes:
    """The file, and one byte more than `most` of one that is larger.

    Raises:
        click.FileError: it cannot be read.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as file:
            os.set_blocking(handle, True)
            return file.read(most + 1)
    except OSError as error:
        raise click.FileError(str(path), hint=error.strerror or "it cannot be read") from error
