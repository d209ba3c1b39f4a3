"""Long answers: told line by line as they are read, so that no fleet has to fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final

from litestar.response import Stream
from sqlalchemy.orm import Session

from hwtrust_backend.app.backend import Backend

_LINES: Final = 200
"""So many lines go out together."""


def streamed(
    backend: Backend, lines: Callable[[Session], Iterator[str]], *, media_type: str
) -> Stream:
    """An answer of lines, all as they are at one moment."""

    def chunks() -> Iterator[bytes]:
        with backend.database.reading() as session:
            told = lines(session)
            while chunk := "".join(islice(told, _LINES)):
                yield chunk.encode()

    return Stream(chunks(), media_type=media_type)
