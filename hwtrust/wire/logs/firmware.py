"""The event log of the firmware: TCG PC Client Platform Firmware Profile §10.

    TCG_PCR_EVENT (SHA-1)                                    a SHA-1-only log
    TCG_PCR_EVENT (Spec ID Event03), TCG_PCR_EVENT2 ...      a crypto-agile log

Decoding believes nothing. A log of confidential computing (ACPI table CCEL) has the
same form; its first field is not a PCR but a measurement register, RTMR + 1. Rules:

1. All numbers are little endian.
2. What is unknown is kept: event types, and digest algorithms that the log declares
   with their size. A digest of an algorithm that it does not declare is refused.
3. A size buys no memory: it is compared with what is there first. The log as a whole
   and the number of its events are bounded.
4. Zeros behind the last event, as some kernels give them, and the 0xFF that fill a
   CCEL, are padding. Anything else that is no whole event is refused.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from struct import Struct
from typing import Final, Self

import msgspec

from hwtrust.errors.evidence import MalformedError, UnsupportedError
from hwtrust.errors.logs import FirmwareLogSizeError
from hwtrust.wire.algorithms import Alg, alg_name, digest_size, to_hash_alg

MAX_SIZE: Final = 8 << 20
"""Bytes of a log; the largest that machines write have some 100 KiB."""
MAX_EVENTS: Final = 1 << 16
MAX_BANKS: Final = 16
MAX_UNKNOWN_DIGEST: Final = 128

SPEC_ID_3: Final = b"Spec ID Event03\0"
STARTUP_LOCALITY: Final = b"StartupLocality\0"

_SHA1: Final = Alg.SHA1
_SHA1_EVENT: Final = Struct("<II20sI")
_HEAD: Final = Struct("<III")
_ALG: Final = Struct("<H")
_PAIR: Final = Struct("<HH")
_SIZE: Final = Struct("<I")
_SPEC: Final = Struct("<16sIBBBBI")
_PADDING: Final = (0x00, 0xFF)


class EventType(IntEnum):
    """Types of events, PC Client Platform Firmware Profile §10.4.1."""

    __hash__ = int.__hash__

    PREBOOT_CERT = 0x0
    POST_CODE = 0x1
    NO_ACTION = 0x3
    SEPARATOR = 0x4
    ACTION = 0x5
    EVENT_TAG = 0x6
    S_CRTM_CONTENTS = 0x7
    S_CRTM_VERSION = 0x8
    CPU_MICROCODE = 0x9
    PLATFORM_CONFIG_FLAGS = 0xA
    TABLE_OF_DEVICES = 0xB
    COMPACT_HASH = 0xC
    IPL = 0xD
    IPL_PARTITION_DATA = 0xE
    NONHOST_CODE = 0xF
    NONHOST_CONFIG = 0x10
    NONHOST_INFO = 0x11
    OMIT_BOOT_DEVICE_EVENTS = 0x12
    POST_CODE2 = 0x13
    EFI_VARIABLE_DRIVER_CONFIG = 0x80000001
    EFI_VARIABLE_BOOT = 0x80000002
    EFI_BOOT_SERVICES_APPLICATION = 0x80000003
    EFI_BOOT_SERVICES_DRIVER = 0x80000004
    EFI_RUNTIME_SERVICES_DRIVER = 0x80000005
    EFI_GPT_EVENT = 0x80000006
    EFI_ACTION = 0x80000007
    EFI_PLATFORM_FIRMWARE_BLOB = 0x80000008
    EFI_HANDOFF_TABLES = 0x80000009
    EFI_PLATFORM_FIRMWARE_BLOB2 = 0x8000000A
    EFI_HANDOFF_TABLES2 = 0x8000000B
    EFI_VARIABLE_BOOT2 = 0x8000000C
    EFI_GPT_EVENT2 = 0x8000000D
    EFI_HCRTM_EVENT = 0x80000010
    EFI_VARIABLE_AUTHORITY = 0x800000E0
    EFI_SPDM_FIRMWARE_BLOB = 0x800000E1
    EFI_SPDM_FIRMWARE_CONFIG = 0x800000E2
    EFI_SPDM_DEVICE_POLICY = 0x800000E3
    EFI_SPDM_DEVICE_AUTHORITY = 0x800000E4


_TYPE_NAMES: Final = {int(type_): f"EV_{type_.name}" for type_ in EventType}
_NO_ACTION: Final = int(EventType.NO_ACTION)


def type_name(number: int) -> str:
    """How the specification spells an event type, or its number if it is unknown."""
    return _TYPE_NAMES.get(number) or f"0x{number:08x}"


def bank_name(number: int) -> str:
    """How tpm2-tools spell a digest algorithm, or its number if it is unknown."""
    try:
        return alg_name(to_hash_alg(number))
    except UnsupportedError:
        return f"0x{number:04x}"


class FirmwareEvent(msgspec.Struct, frozen=True, gc=False):
    """TCG_PCR_EVENT2, or TCG_PCR_EVENT with its SHA-1 digest alone."""

    register: int
    """The PCR; in a log of confidential computing the measurement register."""
    type: int
    digests: dict[int, bytes]
    """By number of the algorithm."""
    data: bytes

    def facts(self) -> dict[str, str | int | bool | list[str]]:
        """The fields, for people."""
        return {
            "pcr": self.register,
            "event_type": type_name(self.type),
            "digests": [
                f"{bank_name(bank)}:{digest.hex()}" for bank, digest in self.digests.items()
            ],
            "event_size": len(self.data),
        }


class FirmwareLog(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A whole log, in the order of the boot."""

    banks: tuple[tuple[int, int], ...]
    """The algorithms that the log declares, each with the size of its digest."""
    events: tuple[FirmwareEvent, ...]
    crypto_agile: bool
    padding: int
    """Bytes behind the last event."""

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Read a whole log.

        Raises:
            FirmwareLogSizeError: it has too many bytes or events.
            MalformedError: it is empty, cut short, or no log at all.
        """
        # (3): bounds.
        if len(raw) > MAX_SIZE:
            raise FirmwareLogSizeError(
                f"the firmware event log has {len(raw)} bytes, accepted are {MAX_SIZE}",
                size=len(raw),
            )
        raw = bytes(raw)
        if not raw:
            raise MalformedError("the firmware event log is empty", offset=0)
        # (4): padding.
        tail = len(raw.rstrip(raw[-1:])) if raw[-1] in _PADDING else len(raw)
        header, at = _sha1_event(raw, 0)
        events = [header]
        if header.type == _NO_ACTION and header.data.startswith(SPEC_ID_3):
            banks, missing = _declared(header.data)
            if missing:
                header, at = _with_vendor_data(raw, header, at, missing)
                events = [header]
            at = _read_agile(raw, at, tail, banks, events)
            agile = True
        else:
            banks, agile = ((int(_SHA1), 20),), False
            at = _read_sha1(raw, at, tail, events)
        return cls(banks=banks, events=tuple(events), crypto_agile=agile, padding=len(raw) - at)

    @property
    def is_confidential(self) -> bool:
        """Whether it is a log of confidential computing: its header stands in register 1."""
        return self.crypto_agile and self.events[0].register != 0

    def encode(self) -> bytes:
        """The log, without padding."""
        head, *rest = self.events
        parts = [_encode_sha1(head)]
        parts += [
            _encode_agile(event) if self.crypto_agile else _encode_sha1(event) for event in rest
        ]
        return b"".join(parts)

    def facts(self) -> dict[str, str | int | bool | list[str]]:
        """The fields, for people."""
        return {
            "format": "crypto-agile" if self.crypto_agile else "sha1",
            "confidential_computing": self.is_confidential,
            "banks": [bank_name(bank) for bank, _ in self.banks],
            "events": len(self.events),
            "padding": self.padding,
        }


def spec_id(banks: tuple[tuple[int, int], ...], *, vendor: bytes = b"") -> bytes:
    """TCG_EfiSpecIDEvent, the data of a crypto-agile log's first event (§10.4.5.1)."""
    head = _SPEC.pack(SPEC_ID_3, 0, 0, 2, 0, 2, len(banks))
    return head + b"".join(_PAIR.pack(*bank) for bank in banks) + bytes([len(vendor)]) + vendor


def _cut_short(at: int, wanted: int, left: int) -> MalformedError:
    return MalformedError(
        f"the firmware event log is cut short, or none: {wanted} bytes wanted at offset {at}, "
        f"{left} are left",
        offset=at,
    )


def _sha1_event(raw: bytes, at: int) -> tuple[FirmwareEvent, int]:
    start = at + _SHA1_EVENT.size
    if start > len(raw):
        raise _cut_short(at, _SHA1_EVENT.size, len(raw) - at)
    register, type_, digest, size = _SHA1_EVENT.unpack_from(raw, at)
    end = start + size
    # (3): sizes.
    if end > len(raw):
        raise _cut_short(start, size, len(raw) - start)
    return FirmwareEvent(register, type_, {_SHA1: digest}, raw[start:end]), end


def _declared(data: bytes) -> tuple[tuple[tuple[int, int], ...], int]:
    """The banks of a Spec ID event, and how many bytes of vendor data its size leaves out."""
    try:
        count = _SPEC.unpack_from(data)[-1]
        if not 0 < count <= MAX_BANKS:
            raise MalformedError(f"the firmware event log declares {count} digest algorithms")
        at = _SPEC.size
        banks = tuple(_PAIR.unpack_from(data, at + _PAIR.size * i) for i in range(count))
        at += _PAIR.size * count
        vendor = data[at]
    except (struct.error, IndexError):
        raise MalformedError("the Spec ID event of the firmware log is cut short") from None
    if len(dict(banks)) != count:
        raise MalformedError("the firmware event log declares a digest algorithm twice")
    for bank, size in banks:
        if size != _size_of(bank, size):
            raise MalformedError(
                f"the firmware event log declares {bank_name(bank)} with {size} bytes", alg=bank
            )
    left = len(data) - at - 1
    return banks, vendor if left == 0 else 0


def _size_of(bank: int, declared: int) -> int:
    """The size of a digest: of an unknown algorithm the declared one, within bounds."""
    try:
        return digest_size(to_hash_alg(bank))
    except UnsupportedError:
        return max(1, min(declared, MAX_UNKNOWN_DIGEST))


def _with_vendor_data(
    raw: bytes, header: FirmwareEvent, at: int, missing: int
) -> tuple[FirmwareEvent, int]:
    """The header with vendor data that its size leaves out: some firmware counts so."""
    end = at + missing
    if end > len(raw):
        raise _cut_short(at, missing, len(raw) - at)
    data = header.data + raw[at:end]
    return FirmwareEvent(header.register, header.type, header.digests, data), end


def _read_sha1(raw: bytes, at: int, tail: int, events: list[FirmwareEvent]) -> int:
    while at < tail:
        event, at = _sha1_event(raw, at)
        events.append(event)
        _require_bounded(events)
    return at


def _read_agile(
    raw: bytes, at: int, tail: int, banks: tuple[tuple[int, int], ...], events: list[FirmwareEvent]
) -> int:
    # Nearly all events have one digest of each bank, in the order in which these are declared.
    form = Struct("<III" + "".join(f"H{size}s" for _, size in banks) + "I")
    order = tuple(bank for bank, _ in banks)
    sizes = dict(banks)
    count, length, end_of_raw = len(banks), form.size, len(raw)
    while at < tail:
        start = at + length
        if start <= end_of_raw:
            fields = form.unpack_from(raw, at)
            if fields[2] == count and fields[3:-1:2] == order:
                end = start + fields[-1]
                # (3): sizes.
                if end > end_of_raw:
                    raise _cut_short(start, fields[-1], end_of_raw - start)
                digests = dict(zip(order, fields[4::2], strict=True))
                events.append(FirmwareEvent(fields[0], fields[1], digests, raw[start:end]))
                at = end
                _require_bounded(events)
                continue
        event, at = _agile_event(raw, at, sizes)
        events.append(event)
        _require_bounded(events)
    return at


def _agile_event(raw: bytes, at: int, sizes: dict[int, int]) -> tuple[FirmwareEvent, int]:
    """An event with fewer digests than banks, or in another order."""
    try:
        register, type_, count = _HEAD.unpack_from(raw, at)
        at += _HEAD.size
        digests: dict[int, bytes] = {}
        for _ in range(count):
            (bank,) = _ALG.unpack_from(raw, at)
            # (2): declared algorithms, each once: no more digests than there are of them.
            size = sizes.get(bank)
            if size is None or bank in digests:
                raise MalformedError(
                    f"an event of the firmware log has a digest of {bank_name(bank)} that is "
                    f"not declared, or is there twice",
                    offset=at,
                )
            at += _ALG.size
            digests[bank] = raw[at : at + size]
            at += size
        (size,) = _SIZE.unpack_from(raw, at)
    except struct.error:
        raise _cut_short(at, _HEAD.size, len(raw) - at) from None
    start = at + _SIZE.size
    end = start + size
    # (3): sizes.
    if end > len(raw):
        raise _cut_short(start, size, len(raw) - start)
    return FirmwareEvent(register, type_, digests, raw[start:end]), end


def _require_bounded(events: list[FirmwareEvent]) -> None:
    if len(events) > MAX_EVENTS:
        raise FirmwareLogSizeError(
            f"the firmware event log has more than {MAX_EVENTS} events", events=len(events)
        )


def _encode_sha1(event: FirmwareEvent) -> bytes:
    head = _SHA1_EVENT.pack(event.register, event.type, event.digests[_SHA1], len(event.data))
    return head + event.data


def _encode_agile(event: FirmwareEvent) -> bytes:
    parts = [_HEAD.pack(event.register, event.type, len(event.digests))]
    parts += [_ALG.pack(bank) + digest for bank, digest in event.digests.items()]
    return b"".join((*parts, _SIZE.pack(len(event.data)), event.data))
