"""A part of IMA's log, cut between its records, as a message carries it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hwtrust.errors import UnsupportedError
from hwtrust.wire.logs.ima_binary import walk

if TYPE_CHECKING:
    from hwtrust.wire.logs.ima import ImaLog


def part_of(log: ImaLog, *, pcr: int, start: int, size: int) -> tuple[bytes, bool]:
    """Records from the one of `pcr` with the number `start` on, at most `size` bytes.

    With whether others of that PCR follow. A record that is longer by itself comes alone.

    Raises:
        MalformedError: a record's sizes cannot be.
        UnsupportedError: the log is of lines.
    """
    if not log.raw:
        return b"", False
    if log.form.is_ascii:
        raise UnsupportedError("the IMA log is of lines; its binary form is what is sent")
    starts = walk(log.raw, log.form, pcr)[1][start:]
    if not starts:
        return b"", False
    begin = starts[0]
    if len(log.raw) - begin <= size or len(starts) == 1:
        return log.raw[begin:], False
    fitting = [end for end in starts[1:] if end - begin <= size]
    return log.raw[begin : fitting[-1] if fitting else starts[1]], True
