"""IMA's log in its binary form: where its records lie, and what they are.

Rules:

1. The form is found once, from the first record, and holds for all of them: byte
   order, size of the template hash (20, or 32, 48, 64 in a bank's own log). Where
   not exactly one form fits, the log is refused.
2. `walk` goes over the records and looks into none of them: what it gives is what is
   hashed. Record headers are bound by no PCR, so nothing rests on them but where the
   data lies; data that is looked at is read strictly, by `record` or by `files`.
3. Sizes are compared with what is there, and with a bound, before anything is made.
"""

from __future__ import annotations

import contextlib
import re
import struct
from functools import cache
from struct import Struct
from typing import TYPE_CHECKING, Final

import msgspec

from hwtrust.errors import MalformedError, UnsupportedError
from hwtrust.wire.logs.ima_template import (
    LONGEST_TEMPLATE,
    MAX_DATA,
    OLD,
    ImaEntry,
    Order,
    fields_of,
    old_data,
    read_fields,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

MAX_ENTRIES: Final = 1 << 20
PCRS: Final = 24
HASH_SIZES: Final = (20, 32, 48, 64)

_MARK: Final = {"little": "<", "big": ">"}
_NAME: Final = re.compile(rb"[a-z0-9|-]{1,255}")
_U32: Final = Struct("<I").unpack_from
_IMA_NG, _IMA_SIG = b"\x06\0\0\0ima-ng", b"\x07\0\0\0ima-sig"


class ImaForm(msgspec.Struct, frozen=True, gc=False):
    """How a log is written; `hash_size` is 0 and `order` of no meaning in ASCII."""

    order: Order
    hash_size: int

    @property
    def is_ascii(self) -> bool:
        """Whether the log is of lines."""
        return self.hash_size == 0


def binary_form(raw: bytes) -> ImaForm:
    """How a log is written, from its first record.

    Raises:
        MalformedError: no form fits, or more than one.
        UnsupportedError: as far as one form fits, the template is not known.
    """
    refused: UnsupportedError | None = None
    fitting = []
    for order in ("little", "big"):
        for size in HASH_SIZES:
            form = ImaForm(order, size)
            try:
                fits = _fits(raw, form)
            except UnsupportedError as error:
                refused, fits = error, False
            if fits:
                fitting.append(form)
    if len(fitting) == 1:
        return fitting[0]
    if refused is not None:
        raise refused
    raise MalformedError("the bytes are no IMA log, or one whose form is not certain")


def _fits(raw: bytes, form: ImaForm) -> bool:
    """Whether the first record is of `form`; cut short is enough, if its template's name is not."""
    try:
        record(raw, 0, form)
    except EOFError:
        try:
            _head(raw, 0, form)
        except (EOFError, MalformedError):
            return False
        return True
    except MalformedError:
        return False
    return True


def walk(raw: bytes, form: ImaForm, pcr: int) -> tuple[list[bytes], list[int]]:
    """The template data of the records of `pcr`, and where they begin; it has to be fast."""
    found: list[bytes] = []
    starts: list[int] = []
    append, start = found.append, starts.append
    at, end, only, least, others = 0, len(raw), pcr, len(OLD), 0
    place = name = 0
    # A kernel writes one template nearly always: a record's head is read as the last one's was.
    expected = len("ima-ng")
    head, skip = _head_of(form, expected)
    with contextlib.suppress(EOFError):
        while at < end:
            try:
                while at < end:
                    number, name, size = head(raw, at)
                    if name != expected or number != only:
                        break
                    start(at)
                    place = at + skip
                    at = place + size
                    append(raw[place:at])
            except struct.error:
                name = 0
            if at > end:
                at = starts.pop()
                found.pop()
            if least < name <= LONGEST_TEMPLATE and name != expected and at < end:
                expected = name
                head, skip = _head_of(form, expected)
                if at + skip > end:
                    name = 0
                else:
                    continue
            if at < end:
                begin = at
                entry, at = record(raw, at, form)
                if entry.pcr == only:
                    start(begin)
                    append(entry.data)
                else:
                    others += 1
    bound(len(found) + others)
    return found, starts


@cache
def _head_of(form: ImaForm, name: int) -> tuple[Callable[[bytes, int], tuple[int, ...]], int]:
    """What reads PCR, size of a name of `name` bytes, and size of the data; and where that lies."""
    head = Struct(f"{_MARK[form.order]}I{form.hash_size}xI{name}xI")
    return head.unpack_from, head.size


def files(
    raw: bytes, form: ImaForm, walked: tuple[list[bytes], list[int]], numbers: Iterable[int]
) -> Iterator[tuple[int, bytes, bytes]]:
    """Numbered records of what `walk` gave, and their fields `d-ng` and `n-ng`, made no entries.

    Of whatever is no `ima-ng` or `ima-sig` of exactly its form, both are empty: only
    `record` says what it is. The digest is not looked into.
    """
    data, starts = walked
    skip = 4 + form.hash_size
    for number in numbers:
        one, template = data[number], starts[number] + skip
        size, at, end = len(one), 0, 0
        try:
            (at,) = _U32(one)
            at += 8
            (end,) = _U32(one, at - 4)
            end += at
            if raw.startswith(_IMA_NG, template):
                fills = end == size
            else:
                fills = raw.startswith(_IMA_SIG, template) and end + 4 + _U32(one, end)[0] == size
        except struct.error:
            fills = False
        # The name ends with its only zero.
        if fills and one.find(0, at) == end - 1 and size <= MAX_DATA:
            yield number, one[4 : at - 4], one[at:end]
        else:
            yield number, b"", b""


def bound(count: int) -> None:
    """Refuse a log of more than `MAX_ENTRIES` entries.

    Raises:
        MalformedError: it has more.
    """
    if count > MAX_ENTRIES:
        raise MalformedError(f"an IMA log has more than {MAX_ENTRIES} entries")


def _number(raw: bytes, at: int, order: Order) -> int:
    if at + 4 > len(raw):
        raise EOFError("the log ends within a record")
    return int.from_bytes(raw[at : at + 4], order)


def _head(raw: bytes, at: int, form: ImaForm) -> tuple[int, bytes, str, int]:
    """PCR, template hash and template of the record at `at`, and where its data's size is."""
    pcr = _number(raw, at, form.order)
    if pcr >= PCRS:
        raise MalformedError(f"an IMA entry is of PCR {pcr}", offset=at)
    place = at + 4 + form.hash_size
    size = _number(raw, place, form.order)
    if not 0 < size <= LONGEST_TEMPLATE:
        raise MalformedError(f"an IMA entry has a template name of {size} bytes", offset=at)
    name = raw[place + 4 : place + 4 + size]
    if not _NAME.fullmatch(name) and name:
        raise MalformedError("an IMA entry has a template name that cannot be", offset=at)
    if len(name) < size:
        raise EOFError("the log ends within a record")
    template = name.decode("ascii")
    fields_of(template)
    return pcr, raw[at + 4 : place], template, place + 4 + size


def record(raw: bytes, at: int, form: ImaForm) -> tuple[ImaEntry, int]:
    """The record at `at`, strictly read, and where it ends.

    Raises:
        EOFError: it ends beyond the log.
        MalformedError: it is not of its form.
        UnsupportedError: its template is not known.
    """
    pcr, template_hash, template, place = _head(raw, at, form)
    if template == OLD:
        size = _number(raw, place + 20, form.order)
        if size > LONGEST_TEMPLATE:
            raise MalformedError(f"an IMA entry has a name of {size} bytes", offset=at)
        end = place + 24 + size
        if end > len(raw):
            raise EOFError("the log ends within a record")
        data = old_data(raw[place : place + 20], raw[place + 24 : end])
    else:
        size = _number(raw, place, form.order)
        if size > MAX_DATA:
            raise MalformedError(f"an IMA entry has {size} bytes, {MAX_DATA} at most", offset=at)
        end = place + 4 + size
        if end > len(raw):
            raise EOFError("the log ends within a record")
        data = raw[place + 4 : end]
    fields = read_fields(template, data, form.order)
    return ImaEntry(pcr, template_hash, template, data, fields), end
