"""Our event log is canonical, and holds what was extended and nothing else."""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwtrust.errors import HwTrustError, LogError, MalformedError, UnsupportedError, WireError
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.cel import (
    CAP,
    LOG_LIMIT,
    RELOAD,
    RESET_VALUE,
    Event,
    EventKind,
    EventLog,
    Record,
    extended,
)

if TYPE_CHECKING:
    from collections.abc import Callable

BANKS: Final = (Alg.SHA1, Alg.SHA256)
KERNEL: Final = Event(EventKind.LAYER, "kernel", "6.1", b"\xaa" * 32)
LOG: Final = (
    EventLog()
    .appended(KERNEL, pcr=12, banks=BANKS)
    .appended(CAP, pcr=12, banks=BANKS)
    .appended(RELOAD, pcr=12, banks=BANKS)
)

events = st.builds(
    Event,
    kind=st.sampled_from(EventKind),
    name=st.text(max_size=40),
    version=st.text(max_size=20),
    digest=st.one_of(st.just(b""), st.binary(min_size=32, max_size=32)),
)
banks = st.lists(
    st.sampled_from((Alg.SHA1, Alg.SHA256, Alg.SHA384, Alg.SHA512)), min_size=1, unique=True
)


@st.composite
def logs(draw: st.DrawFn) -> EventLog:
    """Any log that can be written."""
    log = EventLog()
    for event in draw(st.lists(events, max_size=5)):
        log = log.appended(event, pcr=draw(st.integers(0, 23)), banks=draw(banks))
    return log


def tlv(kind: int, value: bytes) -> bytes:
    """A TLV, written without hwtrust."""
    return struct.pack(">BI", kind, len(value)) + value


def content(event: Event = KERNEL, *, kind: int | None = None, name: bytes | None = None) -> bytes:
    """An event's content, written without hwtrust."""
    return tlv(
        0xC8,
        tlv(0, bytes([event.kind if kind is None else kind]))
        + tlv(1, event.name.encode() if name is None else name)
        + tlv(2, event.version.encode())
        + tlv(3, event.digest),
    )


def record(
    *,
    number: bytes = bytes(8),
    pcr: bytes = b"\x0c",
    digests: bytes | None = None,
    body: bytes | None = None,
) -> bytes:
    """The first record of a log, written without hwtrust."""
    body = content() if body is None else body
    if digests is None:
        digests = tlv(0x0B, hashlib.sha256(body).digest())
    return tlv(0, number) + tlv(1, pcr) + tlv(3, digests) + body


def test_a_record_has_the_form_of_the_specification() -> None:
    """CEL 1.0 TLV: recnum 0, pcr 1, digests 3; lengths of four bytes, big-endian."""
    log = EventLog().appended(KERNEL, pcr=12, banks=(Alg.SHA256,))
    assert log.encode() == record()
    assert EventLog.decode(record()) == log


def test_a_log_explains_a_pcr() -> None:
    """The value is that of TPM2_PCR_Extend with the hash of each content."""
    value = bytes(32)
    for event in (KERNEL, CAP, RELOAD):
        value = hashlib.sha256(value + hashlib.sha256(content(event)).digest()).digest()
    assert LOG.value() == value
    assert EventLog().value() == RESET_VALUE == bytes(32)
    assert LOG.value(initial=b"\1" * 32) == extended(b"\1" * 32, LOG.events)
    assert LOG.value(initial=b"\1" * 32) != value


def test_every_bank_gets_the_hash_of_the_content() -> None:
    """One extend covers all banks, each with its own hash."""
    assert KERNEL.digests(BANKS) == {
        Alg.SHA1: hashlib.sha1(content(), usedforsecurity=False).digest(),
        Alg.SHA256: hashlib.sha256(content()).digest(),
    }


def test_a_log_grows_and_shrinks_at_its_end() -> None:
    """Records are numbered from zero; the last one can be cut."""
    assert [item.number for item in LOG.records] == [0, 1, 2]
    assert LOG.without_last().events == (KERNEL, CAP)
    assert LOG.without_last().appended(RELOAD, pcr=12, banks=BANKS) == LOG


def test_a_log_is_named_by_the_hash_of_its_bytes() -> None:
    """What a quote binds is what travels."""
    assert LOG.digest() == hashlib.sha256(LOG.encode()).digest()


@given(logs())
def test_decoding_reverses_encoding(log: EventLog) -> None:
    """Any log comes back as it was."""
    assert EventLog.decode(log.encode()) == log


@given(st.data())
def test_a_changed_log_is_refused_or_reads_as_what_it_is(data: st.DataObject) -> None:
    """There is one way to write a log: what decodes, encodes to the same bytes."""
    raw = bytearray(LOG.encode())
    position = data.draw(st.integers(0, len(raw) - 1))
    raw[position] = data.draw(st.integers(0, 255))
    try:
        log = EventLog.decode(bytes(raw))
    except (WireError, LogError):
        return
    assert log.encode() == bytes(raw)


@given(st.binary(max_size=200))
def test_no_bytes_end_in_a_foreign_exception(raw: bytes) -> None:
    """Bytes from outside are a log, or a typed error."""
    try:
        log = EventLog.decode(raw)
    except (WireError, LogError):
        return
    assert log.encode() == raw


@pytest.mark.parametrize("length", range(1, len(LOG.encode())))
def test_a_log_cut_short_is_refused_or_shorter(length: int) -> None:
    """3: a cut within a record is noticed; recovery keeps the whole records."""
    raw = LOG.encode()[:length]
    whole = [EventLog(LOG.records[:count]) for count in range(4)]
    kept = max(
        (log for log in whole if len(log.encode()) <= length), key=lambda log: len(log.records)
    )
    if kept.encode() == raw:
        assert EventLog.decode(raw) == kept
    else:
        with pytest.raises(MalformedError):
            EventLog.decode(raw)
    assert EventLog.recover(raw) == kept


MALFORMED: Final = (MalformedError, "wire:malformed")
MISMATCH: Final = (LogError, "evidence:log:mismatch")
UNSUPPORTED: Final = (UnsupportedError, "wire:unsupported")
SHA256: Final = tlv(0x0B, hashlib.sha256(content()).digest())


def renumbered(*numbers: int) -> bytes:
    """Records of these numbers."""
    return b"".join(Record(number, 12, KERNEL, BANKS).encode() for number in numbers)


REFUSED: dict[str, tuple[type[HwTrustError], str, Callable[[], bytes]]] = {
    "44: a kind of event that does not exist": (
        *MALFORMED,
        lambda: record(body=content(kind=9)),
    ),
    "44: a kind of event that was altered": (
        *MISMATCH,
        lambda: record(digests=SHA256, body=content(kind=EventKind.CAP)),
    ),
    "47: a digest that is not that of the content": (
        *MISMATCH,
        lambda: record(digests=tlv(0x0B, bytes(32))),
    ),
    "47: one wrong digest of two": (
        *MISMATCH,
        lambda: record(digests=tlv(0x04, bytes(20)) + SHA256),
    ),
    "a record with no digest": (*MISMATCH, lambda: record(digests=b"")),
    "a digest of the wrong length": (
        *MALFORMED,
        lambda: record(digests=tlv(0x0B, bytes(31))),
    ),
    "two digests of one bank": (*MALFORMED, lambda: record(digests=SHA256 + SHA256)),
    "a digest of an unknown hash": (*UNSUPPORTED, lambda: record(digests=tlv(0x99, bytes(32)))),
    "a digest by what is no hash": (*UNSUPPORTED, lambda: record(digests=tlv(0x01, bytes(32)))),
    "a record number of four bytes": (*MALFORMED, lambda: record(number=bytes(4))),
    "a record number of nine bytes": (*MALFORMED, lambda: record(number=bytes(9))),
    "a PCR number of two bytes": (*MALFORMED, lambda: record(pcr=b"\0\x0c")),
    "a kind of event of two bytes": (
        *MALFORMED,
        lambda: record(body=tlv(0xC8, tlv(0, b"\1\1") + tlv(1, b"") + tlv(2, b"") + tlv(3, b""))),
    ),
    "a name that is no text": (*MALFORMED, lambda: record(body=content(name=b"\xff"))),
    "an event's digest of another length": (
        *MALFORMED,
        lambda: record(body=content(Event(EventKind.LAYER, "kernel", "6.1", b"\xaa" * 20))),
    ),
    "content of another vendor": (*MALFORMED, lambda: record(body=tlv(0xC9, b""))),
    "content with a further field": (
        *MALFORMED,
        lambda: record(body=tlv(0xC8, content()[5:] + tlv(4, b""))),
    ),
    "fields in another order": (
        *MALFORMED,
        lambda: tlv(1, b"\x0c") + tlv(0, bytes(8)) + tlv(3, SHA256) + content(),
    ),
    "5: a field longer than the log": (
        *MALFORMED,
        lambda: struct.pack(">BI", 0, 0xFFFF_FFFF) + bytes(8),
    ),
    "4: trailing bytes": (*MALFORMED, lambda: record() + b"\0"),
    "46: a record left out": (*MISMATCH, lambda: renumbered(0, 2)),
    "45: a record repeated": (*MISMATCH, lambda: renumbered(0, 0)),
    "records in another order": (*MISMATCH, lambda: renumbered(1, 0)),
    "no first record": (*MISMATCH, lambda: renumbered(1)),
    "53: more than 4 MiB": (*MALFORMED, lambda: bytes(LOG_LIMIT + 1)),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_log_is_refused_that_has(case: str) -> None:
    """What is not a log as we write it is not read as one."""
    error, code, make = REFUSED[case]
    with pytest.raises(HwTrustError) as caught:
        EventLog.decode(make())
    assert type(caught.value) is error
    assert caught.value.code == code


def test_a_log_that_is_too_long_is_refused_before_it_is_read() -> None:
    """53: the limit holds for well-formed logs too."""
    size = len(Record(0, 12, RELOAD, (Alg.SHA256,)).encode())
    long = Event(EventKind.LAYER, "x" * (LOG_LIMIT - size), "", b"")
    raw = EventLog().appended(long, pcr=12, banks=(Alg.SHA256,)).encode()
    fitting = LOG_LIMIT - (len(raw) - len(long.name))
    longest = Event(EventKind.LAYER, "x" * fitting, "", b"")
    whole = EventLog().appended(longest, pcr=12, banks=(Alg.SHA256,)).encode()
    assert len(whole) == LOG_LIMIT
    assert len(EventLog.decode(whole).records) == 1
    longer = Event(EventKind.LAYER, "x" * (fitting + 1), "", b"")
    with pytest.raises(MalformedError):
        EventLog.decode(EventLog().appended(longer, pcr=12, banks=(Alg.SHA256,)).encode())


TORN: dict[str, bytes] = {
    "nothing": b"",
    "a torn record": record()[:40],
    "rubbish": bytes(64),
    "a digest of an unknown hash": (
        tlv(0, (3).to_bytes(8, "big")) + tlv(1, b"\x0c") + tlv(3, tlv(0x99, b"")) + content()
    ),
    "a record out of order": Record(5, 12, CAP, BANKS).encode(),
}


@pytest.mark.parametrize("case", TORN)
def test_recovery_keeps_the_whole_records_before(case: str) -> None:
    """A power cut costs the torn record and nothing before it."""
    assert EventLog.recover(LOG.encode() + TORN[case]) == LOG
