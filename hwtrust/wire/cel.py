"""Our own event log: what was extended into the application PCR, in order.

The form is the TCG Canonical Event Log (CEL 1.0), TLV encoding: a record holds
its number, the PCR, one digest a bank, and the content. hwtrust's content has a
vendor type; a digest is the hash of the content's TLV bytes, so that log and
PCR can be held against each other with no other knowledge.

    record  = recnum | pcr | digests | content
    content = kind | name | version | digest        (nested TLVs, this order)

Rules:
1. A record is appended to the file before the PCR is extended, and a log that
   is one record ahead of the PCR is cut back: a power cut between the two
   loses nothing.
2. Digests are recalculated from the content when a log is decoded; one that
   disagrees is an error, not a finding.
3. There is one way to write a record, so decoding then encoding gives the same
   bytes, or decoding fails.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import IntEnum
from struct import Struct
from typing import TYPE_CHECKING, Final

import msgspec

from hwtrust.errors import LogError, MalformedError, WireError
from hwtrust.wire.algorithms import Alg, digest_size, new_hash, to_hash_alg
from hwtrust.wire.codec import Reader, u8, u32, u64

if TYPE_CHECKING:
    from collections.abc import Iterable

LOG_LIMIT = 4 * 1024 * 1024
RESET_VALUE = bytes(32)

_RECNUM, _PCR, _DIGESTS, _CONTENT = 0, 1, 3, 0xC8
_KIND, _NAME, _VERSION, _DIGEST = 0, 1, 2, 3

_TLV: Final = Struct(">BI")
_RECORD: Final = Struct(">BIQ BIB BI")
"""recnum, pcr, and the head of the digests."""
_RECORD_FORM: Final = (_RECNUM, 8, _PCR, 1, _DIGESTS)
_EVENT: Final = Struct(">BIB BI")
"""kind, and the head of the name."""
_EVENT_FORM: Final = (_KIND, 1, _NAME)


class EventKind(IntEnum):
    """What an event says."""

    __hash__ = int.__hash__

    LAYER = 1
    """A layer was measured; name, version and SHA-256 of its content."""
    CAP = 2
    """The key is out: this state does not unseal again."""
    RELOAD = 3
    """The layers above are measured anew, without a reboot."""
    VIOLATION = 4
    """A layer is not what its release says; `digest` is what was found."""


_KINDS: Final[dict[int, EventKind]] = {int(kind): kind for kind in EventKind}


class Event(msgspec.Struct, frozen=True):
    """One event of ours. `digest` is empty, or 32 bytes of SHA-256."""

    kind: EventKind
    name: str = ""
    version: str = ""
    digest: bytes = b""

    def content(self) -> bytes:
        """The content TLV, whose hash is extended."""
        name, version = self.name.encode(), self.version.encode()
        fields = (
            _EVENT.pack(_KIND, 1, self.kind, _NAME, len(name)),
            name,
            _TLV.pack(_VERSION, len(version)),
            version,
            _TLV.pack(_DIGEST, len(self.digest)),
            self.digest,
        )
        return _tlv(_CONTENT, b"".join(fields))

    def digests(self, banks: Iterable[Alg]) -> dict[Alg, bytes]:
        """What is extended into each bank."""
        content = self.content()
        return {bank: new_hash(bank, content) for bank in banks}


CAP = Event(EventKind.CAP)
RELOAD = Event(EventKind.RELOAD)


class Record(msgspec.Struct, frozen=True):
    """An event with its place in the log and the digests of every bank."""

    number: int
    pcr: int
    event: Event
    banks: tuple[Alg, ...]

    def encode(self) -> bytes:
        """The record's TLV bytes."""
        digests = b"".join(
            _tlv(bank, digest) for bank, digest in self.event.digests(self.banks).items()
        )
        return b"".join(
            (
                _tlv(_RECNUM, u64(self.number)),
                _tlv(_PCR, u8(self.pcr)),
                _tlv(_DIGESTS, digests),
                self.event.content(),
            )
        )


@dataclass(frozen=True, slots=True)
class EventLog:
    """The records of one boot, oldest first."""

    records: tuple[Record, ...] = ()
    _reloaded: bool | None = field(default=None, init=False, compare=False, repr=False)

    @property
    def was_reloaded(self) -> bool:
        """Whether more than one load is in it; looked for once."""
        reloaded = self._reloaded
        if reloaded is None:
            reloaded = any(record.event.kind is EventKind.RELOAD for record in self.records)
            object.__setattr__(self, "_reloaded", reloaded)
        return reloaded

    @property
    def events(self) -> tuple[Event, ...]:
        """The events alone, oldest first."""
        return tuple(record.event for record in self.records)

    def appended(self, event: Event, *, pcr: int, banks: Iterable[Alg]) -> EventLog:
        """This log with one more record."""
        record = Record(len(self.records), pcr, event, tuple(banks))
        return EventLog((*self.records, record))

    def without_last(self) -> EventLog:
        """This log as it was one record ago."""
        return EventLog(self.records[:-1])

    def value(self, initial: bytes = RESET_VALUE) -> bytes:
        """What the PCR of the SHA-256 bank must hold, if it held `initial` before."""
        return extended(initial, self.events)

    def encode(self) -> bytes:
        """The log's bytes, as they are kept and sent."""
        return b"".join(record.encode() for record in self.records)

    def digest(self) -> bytes:
        """SHA-256 of the encoded log, as a quote binds it."""
        return hashlib.sha256(self.encode()).digest()

    @classmethod
    def decode(cls, data: bytes) -> EventLog:
        """Read a log and check every digest in it.

        Raises:
            MalformedError: not a log of ours, or too long.
            UnsupportedError: a digest of a hash that hwtrust does not know.
            LogError: a digest is not the hash of its content; a record is
                missing, repeated or out of order.
        """
        if len(data) > LOG_LIMIT:
            raise MalformedError("the event log is longer than 4 MiB", structure="CEL")
        reader = Reader(data, "CEL")
        records: list[Record] = []
        while reader.remaining:
            records.append(_decode_record(reader, len(records)))
        return cls(tuple(records))

    @classmethod
    def recover(cls, data: bytes) -> EventLog:
        """The whole records at the start of `data`, whose end may be torn."""
        reader = Reader(data[:LOG_LIMIT], "CEL")
        records: list[Record] = []
        while reader.remaining:
            try:
                records.append(_decode_record(reader, len(records)))
            except (WireError, LogError):
                break
        return cls(tuple(records))


def extended(initial: bytes, events: Iterable[Event]) -> bytes:
    """Fold `events` over a SHA-256 PCR that holds `initial`, as TPM2_PCR_Extend does."""
    value = initial
    for event in events:
        value = hashlib.sha256(value + new_hash(Alg.SHA256, event.content())).digest()
    return value


def _decode_record(reader: Reader, expected: int) -> Record:
    number_kind, number_size, number, pcr_kind, pcr_size, pcr, digests_kind, size = reader.unpack(
        _RECORD
    )
    if (number_kind, number_size, pcr_kind, pcr_size, digests_kind) != _RECORD_FORM:
        raise MalformedError("a record does not begin with its number, its PCR and its digests")
    if number != expected:
        raise LogError("the event log leaves out, repeats or reorders a record", record=expected)
    digests = _decode_digests(reader.take(size))
    start = reader.offset
    event = _decode_content(_expect(reader, _CONTENT))
    # As received: rule 3 says that it is what `event.content()` would give.
    content = reader.since(start)
    if not digests or any(new_hash(bank, content) != digest for bank, digest in digests):
        raise LogError("an event's digest is not the hash of its content", record=expected)
    return Record(expected, pcr, event, tuple([bank for bank, _ in digests]))


def _decode_digests(data: bytes) -> list[tuple[Alg, bytes]]:
    reader = Reader(data, "CEL digests")
    digests: list[tuple[Alg, bytes]] = []
    while reader.remaining:
        number, size = reader.unpack(_TLV)
        bank = to_hash_alg(number)
        digest = reader.take(size)
        if size != digest_size(bank) or any(bank is other for other, _ in digests):
            raise MalformedError("a digest is repeated or of the wrong length", algorithm=number)
        digests.append((bank, digest))
    return digests


def _decode_content(data: bytes) -> Event:
    reader = Reader(data, "CEL content")
    kind_kind, kind_size, number, name_kind, size = reader.unpack(_EVENT)
    if (kind_kind, kind_size, name_kind) != _EVENT_FORM:
        raise MalformedError("an event does not begin with its kind and its name")
    name = reader.take(size)
    version = _expect(reader, _VERSION)
    digest = _expect(reader, _DIGEST)
    reader.end()
    if len(digest) not in {0, digest_size(Alg.SHA256)}:
        raise MalformedError("an event's digest is none of SHA-256", length=len(digest))
    kind = _KINDS.get(number)
    if kind is None:
        raise MalformedError("an event is of an unknown kind", kind=number)
    try:
        return Event(kind, name.decode(), version.decode(), digest)
    except ValueError as error:
        raise MalformedError("an event has a name that is no text") from error


def _expect(reader: Reader, kind: int) -> bytes:
    found, size = reader.unpack(_TLV)
    if found != kind:
        raise MalformedError("a TLV of another type is expected", expected=kind, found=found)
    return reader.take(size)


def _tlv(kind: int, value: bytes) -> bytes:
    return u8(kind) + u32(len(value)) + value
