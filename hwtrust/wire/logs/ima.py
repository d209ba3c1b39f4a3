"""The kernel's log of what it measured: IMA's, binary or ASCII.

    binary   pcr u32 | template hash | size u32, template name | size u32, template data
             (the template `ima` has no size before its data: 20 bytes | size u32, name)
    ASCII    pcr SP template hash SP template name SP fields, one line each

Reading believes nothing. A log is read while it grows: a record that is cut short at
the end is set aside and counted (`tail`). Whatever else does not fit is an error.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from hwtrust.errors import MalformedError, UnsupportedError
from hwtrust.wire.logs.ima_binary import (
    PCRS,
    ImaForm,
    binary_form,
    bound,
    files,
    record,
    walk,
)
from hwtrust.wire.logs.ima_template import (
    MAX_DATA,
    OLD,
    ImaEntry,
    fields_of,
    old_data,
    read_fields,
    read_text_field,
    template_data,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MAX_LOG: Final = 256 << 20
"""Bytes in a log."""

_LINE: Final = re.compile(
    rb"\s{0,4}(\d{1,2}) ((?:[0-9a-f]{40})(?:[0-9a-f]{24}(?:[0-9a-f]{32}(?:[0-9a-f]{32})?)?)?) "
    rb"([!-~]{1,255}) (.*)",
    re.DOTALL,
)

ASCII: Final = ImaForm("little", 0)


@dataclass(frozen=True, slots=True)
class ImaLog:
    """A log whose form is known; its records are read when they are asked for.

    Attributes:
        raw: the log as received.
        form: how it is written.
    """

    raw: bytes
    form: ImaForm
    _walked: dict[int, tuple[list[bytes], list[int]]] = field(
        default_factory=dict, repr=False, compare=False
    )

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
        for _, _, end in self._records():
            at = end
        return len(self.raw) - at

    def entries(self) -> Iterator[ImaEntry]:
        """Every whole record, of every PCR, strictly read.

        Raises:
            MalformedError: a record is not of its form.
            UnsupportedError: a template is not known.
        """
        for _, entry, _ in self._records():
            yield entry

    def template_data(self, pcr: int) -> list[bytes]:
        """The template data of every record of `pcr`, in order; not looked into.

        Raises:
            MalformedError: a record's sizes cannot be.
            UnsupportedError: in the ASCII form, a template is not known.
        """
        return self._walk(pcr)[0]

    def violations(self, pcr: int, numbers: Iterable[int]) -> list[int]:
        """Which of some records of `pcr` have a template hash of zeros."""
        if self.form.is_ascii:
            return [number for number, entry in self.numbered(pcr, numbers) if entry.violation]
        starts, zeros = self._walk(pcr)[1], bytes(self.form.hash_size)
        return [number for number in numbers if self.raw.startswith(zeros, starts[number] + 4)]

    def numbered(self, pcr: int, numbers: Iterable[int]) -> Iterator[tuple[int, ImaEntry]]:
        """Some records of `pcr`, by their numbers among them; strictly read.

        Raises:
            MalformedError: one of them is not of its form.
            UnsupportedError: a template is not known.
        """
        starts = self._walk(pcr)[1]
        for number in numbers:
            if self.form.is_ascii:
                yield number, _line(_line_at(self.raw, starts[number])[0])
            else:
                yield number, record(self.raw, starts[number], self.form)[0]

    def files(self, pcr: int, numbers: Iterable[int]) -> Iterator[tuple[int, bytes, bytes]]:
        """Some records of `pcr`, and the fields `d-ng` and `n-ng` of those that are plain files.

        Fields are empty where an entry has to be made to tell what it is. They are no
        less strict than it, but that the digest is not looked into.
        """
        if self.form.is_ascii or self.form.order == "big":
            return ((number, b"", b"") for number in numbers)
        return files(self.raw, self.form, self._walk(pcr), numbers)

    def facts(self) -> dict[str, str | int | bool | list[str]]:
        """The log for people and programs."""
        templates: dict[str, int] = {}
        wrong, violations, end = [], [], 0
        for number, (_, entry, place) in enumerate(self._records()):
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

    def _walk(self, pcr: int) -> tuple[list[bytes], list[int]]:
        """Template data of the records of `pcr`, and where they begin."""
        if pcr not in self._walked:
            if self.form.is_ascii:
                mine = [
                    (entry.data, start) for start, entry, _ in _lines(self.raw) if entry.pcr == pcr
                ]
                self._walked[pcr] = [data for data, _ in mine], [start for _, start in mine]
            else:
                self._walked[pcr] = walk(self.raw, self.form, pcr)
        return self._walked[pcr]

    def _records(self) -> Iterator[tuple[int, ImaEntry, int]]:
        """Every whole record: where it begins, what it is, where it ends."""
        if self.form.is_ascii:
            yield from _lines(self.raw)
            return
        at = count = 0
        while at < len(self.raw):
            start = at
            try:
                entry, at = record(self.raw, start, self.form)
            except EOFError:
                return
            count += 1
            bound(count)
            yield start, entry, at


def find_form(raw: bytes) -> ImaForm:
    """How a log is written, from its first record.

    Raises:
        MalformedError: no form fits, or more than one.
        UnsupportedError: as far as one form fits, the template is not known.
    """
    if not raw:
        return ASCII
    if b"\0" in raw[:4]:
        return binary_form(raw)
    if next(_lines(raw), None) is None:
        raise MalformedError("an IMA log begins with a line that is none of its lines")
    return ASCII


def _lines(raw: bytes) -> Iterator[tuple[int, ImaEntry, int]]:
    """Every whole line: where it begins, what it is, where it ends."""
    at = count = 0
    while at < len(raw):
        start = at
        line, end = _line_at(raw, start)
        if end == len(raw):
            # Without its end, a line is whole only if its hash says so.
            try:
                entry = _line(line)
            except (MalformedError, UnsupportedError):
                if not start:
                    raise
                return
            if start and entry.hash_fits is False:
                return
        elif line.strip():
            entry = _line(line)
        else:
            at = end + 1
            continue
        at = min(end + 1, len(raw))
        count += 1
        bound(count)
        yield start, entry, at


def _line_at(raw: bytes, start: int) -> tuple[bytes, int]:
    """The line that begins at `start`, and where it ends."""
    end = raw.find(b"\n", start)
    end = len(raw) if end < 0 else end
    return raw[start:end], end


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
