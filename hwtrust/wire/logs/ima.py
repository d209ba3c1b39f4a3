"""The kernel's log of what it measured: IMA's, binary or ASCII.

    binary   pcr u32 | template hash | size u32, template name | size u32, template data
             (the template `ima` has no size before its data: 20 bytes | size u32, name)
    ASCII    pcr SP template hash SP template name SP fields, one line each

Reading believes nothing. Rules:

1. The form is found once, from the first record, and holds for all of them: byte
   order, size of the template hash (20, or 32, 48, 64 in a bank's own log). Where
   not exactly one form fits, the log is refused.
2. A log is read while it grows: a record that is cut short at the end is set aside
   and counted (`tail`). Whatever else does not fit is an error.
3. Sizes are compared with what is there, and with a bound, before anything is made.
4. `template_data` walks over the records and looks into none of them: what it gives
   is what is hashed. Record headers are bound by no PCR, so nothing rests on them
   but where the data lies; data that is looked at is read by `entries`, strictly.
"""

from __future__ import annotations

import contextlib
import re
import struct
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
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
    read_text_field,
    template_data,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

MAX_LOG: Final = 256 << 20
"""Bytes in a log."""
MAX_ENTRIES: Final = 1 << 20
PCRS: Final = 24
_FEW: Final = 64
HASH_SIZES: Final = (20, 32, 48, 64)

_MARK: Final = {"little": "<", "big": ">"}
_LINE: Final = re.compile(
    rb"\s{0,4}(\d{1,2}) ((?:[0-9a-f]{40})(?:[0-9a-f]{24}(?:[0-9a-f]{32}(?:[0-9a-f]{32})?)?)?) "
    rb"([!-~]{1,255}) (.*)",
    re.DOTALL,
)
_NAME: Final = re.compile(rb"[a-z0-9|-]{1,255}")


class ImaForm(msgspec.Struct, frozen=True, gc=False):
    """How a log is written; `hash_size` is 0 and `order` of no meaning in ASCII."""

    order: Order
    hash_size: int

    @property
    def is_ascii(self) -> bool:
        """Whether the log is of lines."""
        return self.hash_size == 0


ASCII: Final = ImaForm("little", 0)


class _CutShort(Exception):  # noqa: N818 - no error: the log grew while it was read
    """The last record is not there as a whole."""


@dataclass(frozen=True, slots=True)
class ImaLog:
    """A log whose form is known; its records are read when they are asked for.

    Attributes:
        raw: the log as received.
        form: how it is written.
    """

    raw: bytes
    form: ImaForm
    _walked: dict[int, list[bytes]] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def decode(cls, raw: bytes) -> ImaLog:
        """Find the form of a log, which may be empty.

        Raises:
            MalformedError: it is no log, or too long.
            UnsupportedError: the first record's template is not known.
        """
        raw = bytes(raw)
        if len(raw) > MAX_LOG:
            raise MalformedError(f"an IMA log has {len(raw)} bytes, {MAX_LOG} at most")
        return cls(raw, find_form(raw))

    @property
    def tail(self) -> int:
        """Bytes of a record that is cut short at the end, 0 if there is none."""
        at = 0
        for _, end in self._records():
            at = end
        return len(self.raw) - at

    def entries(self) -> Iterator[ImaEntry]:
        """Every whole record, of every PCR, strictly read.

        Raises:
            MalformedError: a record is not of its form.
            UnsupportedError: a template is not known.
        """
        for entry, _ in self._records():
            yield entry

    def template_data(self, pcr: int) -> list[bytes]:
        """The template data of every record of `pcr`, in order; not looked into.

        Raises:
            MalformedError: a record's sizes cannot be.
            UnsupportedError: in the ASCII form, a template is not known.
        """
        return self._walk(pcr)

    def violations(self, pcr: int, *, most: int) -> list[int]:
        """Which of the first `most` records of `pcr` have a template hash of zeros."""
        form = self.form
        if most > _FEW and not form.is_ascii and self.raw.find(bytes(form.hash_size)) < 0:
            return []
        return [
            number
            for number, start in enumerate(islice(self._starts(pcr), most))
            if not any(
                start.template_hash
                if isinstance(start, ImaEntry)
                else self.raw[start + 4 : start + 4 + form.hash_size]
            )
        ]

    def numbered(self, pcr: int, numbers: Iterable[int]) -> Iterator[tuple[int, ImaEntry]]:
        """Some records of `pcr`, by their numbers among them, which rise; strictly read.

        Raises:
            MalformedError: one of them is not of its form.
            UnsupportedError: a template is not known.
        """
        starts = self._starts(pcr)
        at = -1
        for number in numbers:
            start = next(islice(starts, number - at - 1, None))
            at = number
            if isinstance(start, ImaEntry):
                yield number, start
            else:
                yield number, _record(self.raw, start, self.form)[0]

    def _starts(self, pcr: int) -> Iterator[ImaEntry | int]:
        """The records of `pcr`: where they begin, or what they are where they are lines."""
        if self.form.is_ascii:
            return (entry for entry in self.entries() if entry.pcr == pcr)
        return _starts(self.raw, self.form, pcr, len(self.template_data(pcr)))

    def facts(self) -> dict[str, str | int | bool | list[str]]:
        """The log for people and programs."""
        templates: dict[str, int] = {}
        wrong, violations, end = [], [], 0
        for number, (entry, place) in enumerate(self._records()):
            templates[entry.template] = templates.get(entry.template, 0) + 1
            end = place
            if entry.violation:
                violations.append(str(number))
            elif entry.hash_fits is False:
                wrong.append(str(number))
        return {
            "form": "ascii" if self.form.is_ascii else "binary",
            "byte_order": self.form.order,
            "entries": sum(templates.values()),
            "templates": [f"{name} {count}" for name, count in templates.items()],
            "violations": violations,
            "template_hash_wrong": wrong,
            "tail": len(self.raw) - end,
        }

    def _walk(self, pcr: int) -> list[bytes]:
        if pcr not in self._walked:
            if self.form.is_ascii:
                self._walked[pcr] = [entry.data for entry in self.entries() if entry.pcr == pcr]
            else:
                self._walked[pcr] = _walk(self.raw, self.form, pcr)
        return self._walked[pcr]

    def _records(self) -> Iterator[tuple[ImaEntry, int]]:
        """Every whole record, and where it ends."""
        if self.form.is_ascii:
            yield from _lines(self.raw)
            return
        raw, at, count = self.raw, 0, 0
        while at < len(raw):
            try:
                entry, at = _record(raw, at, self.form)
            except _CutShort:
                return
            count += 1
            _bound(count)
            yield entry, at


def find_form(raw: bytes) -> ImaForm:
    """How a log is written, from its first record.

    Raises:
        MalformedError: no form fits, or more than one.
        UnsupportedError: as far as one form fits, the template is not known.
    """
    if not raw:
        return ASCII
    if b"\0" not in raw[:4]:
        if next(_lines(raw), None) is None:
            raise MalformedError("an IMA log begins with a line that is none of its lines")
        return ASCII
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
        _record(raw, 0, form)
    except _CutShort:
        try:
            _head(raw, 0, form)
        except (_CutShort, MalformedError):
            return False
        return True
    except MalformedError:
        return False
    return True


def _walk(raw: bytes, form: ImaForm, pcr: int) -> list[bytes]:
    """The template data of the records of `pcr`: the loop that has to be fast."""
    found: list[bytes] = []
    append = found.append
    at, end, only, least, others = 0, len(raw), pcr, len(OLD), 0
    place = name = 0
    # A kernel writes one template nearly always: a record's head is read as the last one's was.
    expected = len("ima-ng")
    head, skip = _head_of(form, expected)
    with contextlib.suppress(_CutShort):
        while at < end:
            try:
                while at < end:
                    number, name, size = head(raw, at)
                    if name != expected or number != only:
                        break
                    place = at + skip
                    at = place + size
                    append(raw[place:at])
            except struct.error:
                name = 0
            if at > end:
                at = place - skip
                found.pop()
            if least < name <= LONGEST_TEMPLATE and name != expected and at < end:
                expected = name
                head, skip = _head_of(form, expected)
                if at + skip > end:
                    name = 0
                else:
                    continue
            if at < end:
                entry, at = _record(raw, at, form)
                if entry.pcr == only:
                    append(entry.data)
                else:
                    others += 1
    _bound(len(found) + others)
    return found


@cache
def _head_of(form: ImaForm, name: int) -> tuple[Callable[[bytes, int], tuple[int, ...]], int]:
    """What reads PCR, size of a name of `name` bytes, and size of the data; and where that lies."""
    head = Struct(f"{_MARK[form.order]}I{form.hash_size}xI{name}xI")
    return head.unpack_from, head.size


def _starts(raw: bytes, form: ImaForm, pcr: int, count: int) -> Iterator[int]:
    """Where the first `count` records of `pcr` begin; `_walk` has been over them."""
    size = form.hash_size
    at = 0
    while count:
        start, name = at, _number(raw, at + 4 + size, form.order)
        place = at + size + 12 + name
        if name <= len(OLD):
            _, at = _record(raw, start, form)
        else:
            at = place + _number(raw, place - 4, form.order)
        if _number(raw, start, form.order) == pcr:
            count -= 1
            yield start


def _bound(count: int) -> None:
    if count > MAX_ENTRIES:
        raise MalformedError(f"an IMA log has more than {MAX_ENTRIES} entries")


def _number(raw: bytes, at: int, order: Order) -> int:
    if at + 4 > len(raw):
        raise _CutShort
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
        raise _CutShort
    template = name.decode("ascii")
    fields_of(template)
    return pcr, raw[at + 4 : place], template, place + 4 + size


def _record(raw: bytes, at: int, form: ImaForm) -> tuple[ImaEntry, int]:
    """The record at `at`, and where it ends."""
    pcr, template_hash, template, place = _head(raw, at, form)
    if template == OLD:
        size = _number(raw, place + 20, form.order)
        if size > LONGEST_TEMPLATE:
            raise MalformedError(f"an IMA entry has a name of {size} bytes", offset=at)
        end = place + 24 + size
        if end > len(raw):
            raise _CutShort
        data = old_data(raw[place : place + 20], raw[place + 24 : end])
    else:
        size = _number(raw, place, form.order)
        if size > MAX_DATA:
            raise MalformedError(f"an IMA entry has {size} bytes, {MAX_DATA} at most", offset=at)
        end = place + 4 + size
        if end > len(raw):
            raise _CutShort
        data = raw[place + 4 : end]
    fields = read_fields(template, data, form.order)
    return ImaEntry(pcr, template_hash, template, data, fields), end


def _lines(raw: bytes) -> Iterator[tuple[ImaEntry, int]]:
    at = count = 0
    while at < len(raw):
        end = raw.find(b"\n", at)
        line = raw[at : end if end >= 0 else len(raw)]
        if end < 0:
            # Without its end, a line is whole only if its hash says so.
            try:
                entry = _line(line)
            except (MalformedError, UnsupportedError):
                if not at:
                    raise
                return
            if at and entry.hash_fits is False:
                return
            end = len(raw) - 1
        elif line.strip():
            entry = _line(line)
        else:
            at = end + 1
            continue
        at = end + 1
        count += 1
        _bound(count)
        yield entry, at


def _line(line: bytes) -> ImaEntry:
    match = _LINE.fullmatch(line) if len(line) <= 3 * MAX_DATA else None
    if match is None:
        raise MalformedError("a line of an IMA log is not of its form")
    pcr, template_hash, name, rest = match.groups()
    if int(pcr) >= PCRS:
        raise MalformedError(f"an IMA entry is of PCR {int(pcr)}")
    template = name.decode("ascii")
    names = fields_of(template)
    texts = rest.split(b" ")
    # What is empty at the end may have been taken away by whoever copied the line.
    texts += [b""] * (len(names) - len(texts))
    if len(texts) != len(names):
        raise MalformedError(f"a line of an IMA log has other fields than {template} has")
    values = [read_text_field(*pair) for pair in zip(names, texts, strict=True)]
    if template == OLD:
        data = old_data(values[0], values[1].removesuffix(b"\0"))
    else:
        data = template_data(values)
    fields = read_fields(template, data)
    return ImaEntry(int(pcr), bytes.fromhex(template_hash.decode()), template, data, fields)
