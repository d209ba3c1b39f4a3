"""The form of firmware event logs: what is kept, what is padding, what is refused."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwtrust.errors.base import HwTrustError
from hwtrust.errors.evidence import MalformedError
from hwtrust.errors.logs import FirmwareLogSizeError
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.logs import firmware
from hwtrust.wire.logs.describe import Topic, describe
from hwtrust.wire.logs.firmware import EventType, FirmwareEvent, FirmwareLog, spec_id
from hwtrust.wire.logs.uefi import (
    CERT_X509,
    GLOBAL_VARIABLE,
    ImageLoad,
    Variable,
    device_path_text,
    printable,
    read_blob,
    read_gpt,
    read_signature_lists,
    read_tag,
    signature_list,
)
from simulators.firmware_log import CERTIFICATE, OWNER, Firmware, booted

UNKNOWN = 0x1234
BANKS = ((4, 20), (11, 32))


def header(data: bytes, *, register: int = 0) -> bytes:
    """The first event of a crypto-agile log."""
    return struct.pack("<II20sI", register, EventType.NO_ACTION, bytes(20), len(data)) + data


def event(*digests: tuple[int, bytes], data: bytes = b"", size: int | None = None) -> bytes:
    """A TCG_PCR_EVENT2."""
    body = b"".join(struct.pack("<H", bank) + digest for bank, digest in digests)
    length = len(data) if size is None else size
    return struct.pack("<III", 0, 1, len(digests)) + body + struct.pack("<I", length) + data


def head_of(count: int) -> bytes:
    """What a Spec ID event has before its algorithms, of which it says to have `count`."""
    return struct.pack("<16sIBBBBI", firmware.SPEC_ID_3, 0, 0, 2, 0, 2, count)


AGILE = header(spec_id(BANKS))
DIGESTS = ((4, bytes(20)), (11, bytes(32)))


@pytest.mark.parametrize(
    "banks", [("sha1",), ("sha256",), ("sha1", "sha256"), ("sha384", "sha512")]
)
def test_a_log_encodes_to_the_bytes_that_it_was_decoded_from(banks: tuple[str, ...]) -> None:
    """Any number of banks, and the SHA-1-only form."""
    raw = booted(*banks).raw
    log = FirmwareLog.decode(raw)
    assert log.encode() == raw
    assert log.padding == 0
    assert log.crypto_agile is (banks != ("sha1",))


def test_unknown_types_and_declared_unknown_algorithms_are_kept() -> None:
    """What is new to hwtrust is no reason to refuse a log."""
    raw = header(spec_id(((11, 32), (UNKNOWN, 7))))
    raw += event((11, bytes(32)), (UNKNOWN, b"seven b"), data=b"data")
    log = FirmwareLog.decode(
        raw.replace(struct.pack("<III", 0, 1, 2), struct.pack("<III", 0, 999, 2))
    )
    assert log.events[1].type == 999
    assert log.events[1].digests[UNKNOWN] == b"seven b"
    assert log.facts()["banks"] == ["sha256", "0x1234"]
    assert log.events[1].facts()["event_type"] == "0x000003e7"


def test_fewer_digests_and_another_order_of_them_are_kept() -> None:
    """An event need not have a digest of each bank."""
    log = FirmwareLog.decode(AGILE + event((11, bytes(32))) + event(*DIGESTS[::-1], data=b"x"))
    assert [list(item.digests) for item in log.events[1:]] == [[11], [11, 4]]
    assert log.encode() == AGILE + event((11, bytes(32))) + event(*DIGESTS[::-1], data=b"x")


@pytest.mark.parametrize("fill", [b"\0", b"\xff"])
@pytest.mark.parametrize("banks", [("sha1",), ("sha256",)])
def test_padding_behind_the_last_event_is_no_event(banks: tuple[str, ...], fill: bytes) -> None:
    """Kernels give zeros behind a log, and a CCEL is filled with ones."""
    raw = booted(*banks).raw
    log = FirmwareLog.decode(raw + fill * 5000)
    assert log.padding == 5000
    assert log.encode() == raw


def test_zeros_that_belong_to_the_last_event_are_not_padding() -> None:
    """A separator ends in zeros."""
    raw = Firmware().separate(0).raw
    assert FirmwareLog.decode(raw).padding == 0


def test_the_header_tells_a_log_of_measurement_registers() -> None:
    """A CCEL begins in register 1, a TPM's log in PCR 0."""
    assert FirmwareLog.decode(Firmware("sha384", confidential=True).raw).is_confidential
    assert not FirmwareLog.decode(booted().raw).is_confidential


def test_vendor_data_that_the_header_leaves_out_is_taken() -> None:
    """Some firmware counts its Spec ID event without its vendor data."""
    data = spec_id(BANKS, vendor=b"four")
    raw = header(data[:-4]) + b"four" + event(*DIGESTS)
    assert len(FirmwareLog.decode(raw).events) == 2
    with pytest.raises(MalformedError):
        FirmwareLog.decode(header(data[:-4]) + b"fo")


MALFORMED = {
    "nothing": b"",
    "text": b"bogus\ninvalid\nevent\nlog\nfile\nhere\n",
    "shorter than any event": bytes(31) + b"\x01",
    "a size of more than is there": header(b"abc")[:-1],
    "a size of 4 GiB": struct.pack("<II20sI", 4, 13, bytes(20), 0xFFFFFFFF),
    "a size of 4 GiB in an event": AGILE + event(*DIGESTS, size=0xFFFFFFFF),
    "a size of 4 GiB behind other digests": AGILE + event(DIGESTS[1], size=0xFFFFFFFF),
    "a header that is cut short": header(spec_id(BANKS)[:30]),
    "a header without the size of vendor data": header(spec_id(BANKS)[:-1]),
    "no algorithm": header(spec_id(())),
    "more algorithms than are there": header(head_of(9)),
    "billions of algorithms": header(head_of(0xFFFFFFFF) + bytes(40)),
    "too many algorithms": header(spec_id(tuple((0x1000 + n, 1) for n in range(17)))),
    "an algorithm declared twice": header(spec_id(((11, 32), (11, 32)))),
    "SHA-256 of 20 bytes": header(spec_id(((11, 20),))),
    "an unknown algorithm of no bytes": header(spec_id(((UNKNOWN, 0),))),
    "an unknown algorithm of many bytes": header(spec_id(((UNKNOWN, 129),))),
    "a digest of an undeclared algorithm": AGILE + event((12, bytes(48))),
    "a digest that is there twice": AGILE + event((11, bytes(32)), (11, bytes(32))),
    "more digests than are declared": AGILE + event(*DIGESTS, (12, bytes(48))),
    "billions of digests": AGILE + struct.pack("<III", 0, 1, 0xFFFFFFFF) + b"\x01" * 90,
    "something behind the last event": booted().raw + b"something",
}


@pytest.mark.parametrize("problem", MALFORMED)
def test_what_is_no_whole_log_is_refused(problem: str) -> None:
    """Bytes that are cut short or make no sense have their code."""
    with pytest.raises(MalformedError) as caught:
        FirmwareLog.decode(MALFORMED[problem])
    assert caught.value.code == "wire:malformed"


@pytest.mark.parametrize("banks", [("sha1",), ("sha1", "sha256")])
def test_a_log_cut_short_within_an_event_is_refused(banks: tuple[str, ...]) -> None:
    """At every byte that is not the end of an event."""
    log = booted(*banks).log
    raw, ends, at = log.encode(), set(), 0
    for count in range(1, len(log.events) + 1):
        part = FirmwareLog(
            banks=log.banks, events=log.events[:count], crypto_agile=log.crypto_agile, padding=0
        )
        at = len(part.encode())
        ends.add(at)
    accepted = set()
    for size in range(len(raw) + 1):
        try:
            FirmwareLog.decode(raw[:size])
        except MalformedError:
            continue
        accepted.add(size)
    # Zeros of the next event's beginning pass for padding.
    assert ends <= accepted
    assert all(not raw[max(e for e in ends if e <= size) : size].strip(b"\0") for size in accepted)


def test_a_log_of_64_mib_is_refused_before_memory_is_taken() -> None:
    """One event can be as large as a log, and no larger."""
    raw = AGILE + event(*DIGESTS, data=bytes(64 << 20), size=64 << 20)
    tracemalloc.start()
    try:
        with pytest.raises(FirmwareLogSizeError) as caught:
            FirmwareLog.decode(raw)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert caught.value.code == "wire:firmware-log:size"


@pytest.mark.parametrize("agile", [True, False])
def test_a_log_of_a_million_events_is_refused(agile: bool) -> None:
    """Whether by its bytes or by their number."""
    one = event((11, bytes(32))) if agile else header(b"")
    start = header(spec_id(((11, 32),))) if agile else b""
    with pytest.raises(FirmwareLogSizeError):
        FirmwareLog.decode(start + one * 1_000_000)
    with pytest.raises(FirmwareLogSizeError):
        FirmwareLog.decode(start + one * (firmware.MAX_EVENTS + 1) + b"\x01")


@given(st.binary(max_size=300))
def test_no_bytes_raise_what_is_not_of_the_error_tree(raw: bytes) -> None:
    """Behind a header, too, and into the words for each event."""
    for candidate in (raw, AGILE + raw):
        try:
            log = FirmwareLog.decode(candidate)
        except HwTrustError:
            continue
        for item in log.events:
            assert isinstance(describe(item).text, str)


@given(st.binary(max_size=200), st.sampled_from(list(EventType)), st.integers(0, 15))
def test_every_event_has_a_description(data: bytes, type_: EventType, register: int) -> None:
    """Data of no known form is described by its type."""
    item = FirmwareEvent(register, type_, {Alg.SHA256: bytes(32)}, data)
    assert "\n" not in describe(item).text


def described(type_: EventType, data: bytes, register: int = 8) -> tuple[Topic, str]:
    """Topic and words of an event."""
    found = describe(FirmwareEvent(register, type_, {}, data))
    return found.topic, found.text


GPT = (
    struct.pack("<8sIIIIQQQQ", b"EFI PART", 0x10000, 92, 0, 0, 1, 9, 34, 99)
    + OWNER.bytes_le
    + struct.pack("<QIII", 2, 1, 128, 0)
    + struct.pack("<Q", 1)
    + struct.pack("<16s16sQQQ72s", bytes(16), bytes(16), 34, 99, 0, "root".encode("utf-16-le"))
)
HARD_DISK = struct.pack("<BBHIQQ16sBB", 4, 1, 42, 2, 34, 66, OWNER.bytes_le, 2, 2)
PATH = struct.pack("<BBHII", 2, 1, 12, 0x0A0341D0, 0) + b"\x01\x01\x06\0\0\x04" + HARD_DISK
DESCRIPTIONS = {
    "GRUB's command": (EventType.IPL, b"grub_cmd: boot\0", 8, Topic.COMMAND, "boot"),
    "a kernel's command line": (
        EventType.IPL,
        b"kernel_cmdline: /vmlinuz quiet\0",
        8,
        Topic.COMMAND_LINE,
        "/vmlinuz quiet",
    ),
    "systemd-stub's command line": (
        EventType.IPL,
        "quiet\0".encode("utf-16-le"),
        12,
        Topic.COMMAND_LINE,
        "quiet",
    ),
    "a kernel": (
        EventType.IPL,
        b"(hd0)/boot/vmlinuz-6.1\0",
        9,
        Topic.KERNEL,
        "(hd0)/boot/vmlinuz-6.1",
    ),
    "an initial file system": (EventType.IPL, b"/initrd.img\0", 9, Topic.INITRD, "/initrd.img"),
    "a section of a unified kernel": (EventType.IPL, b".linux\0", 11, Topic.KERNEL, ".linux"),
    "another file": (EventType.IPL, b"/grub.cfg\0", 9, Topic.FILE, "/grub.cfg"),
    "shim's list": (EventType.IPL, b"MokListX\0", 14, Topic.MOK_LIST, "MokListX"),
    "initrd of Linux' stub": (
        EventType.EVENT_TAG,
        struct.pack("<II", 0x8F3B22EC, 13) + b"Linux initrd\0",
        9,
        Topic.INITRD,
        "Linux initrd",
    ),
    "another tag": (
        EventType.EVENT_TAG,
        struct.pack("<II", 5, 1) + b"x",
        9,
        Topic.OTHER,
        "tag 0x5, 1 bytes",
    ),
    "locality": (
        EventType.NO_ACTION,
        b"StartupLocality\0\x03",
        0,
        Topic.NO_ACTION,
        "StartupLocality 3",
    ),
    "version": (
        EventType.S_CRTM_VERSION,
        "2.7\0".encode("utf-16-le"),
        0,
        Topic.CRTM_VERSION,
        "2.7",
    ),
    "partitions": (
        EventType.EFI_GPT_EVENT,
        GPT,
        5,
        Topic.PARTITIONS,
        f"disk {OWNER}, 1 partitions: root",
    ),
    "a boot loader": (
        EventType.EFI_BOOT_SERVICES_APPLICATION,
        ImageLoad(0, 1, PATH).encode(),
        4,
        Topic.BOOT_LOADER,
        f"PciRoot(0x0)/Pci(0x4,0x0)/HD(2,{OWNER},0x22,0x42)",
    ),
    "an empty variable": (
        EventType.EFI_VARIABLE_DRIVER_CONFIG,
        Variable(GLOBAL_VARIABLE, "SecureBoot", b"").encode(),
        7,
        Topic.VARIABLE,
        "SecureBoot = empty",
    ),
    "a list of certificates": (
        EventType.EFI_VARIABLE_DRIVER_CONFIG,
        Variable(GLOBAL_VARIABLE, "KEK", signature_list(CERT_X509, OWNER, b"1", b"2")).encode(),
        7,
        Topic.VARIABLE,
        "KEK, certificates: 2",
    ),
    "data of no known form": (
        EventType.EFI_GPT_EVENT,
        b"short",
        5,
        Topic.OTHER,
        "EV_EFI_GPT_EVENT",
    ),
}


@pytest.mark.parametrize("what", DESCRIPTIONS)
def test_events_are_described_in_the_words_of_the_field(what: str) -> None:
    """Who reads a log sees what was measured."""
    type_, data, register, topic, text = DESCRIPTIONS[what]
    assert described(type_, data, register) == (topic, text)


def test_control_characters_do_not_reach_a_terminal() -> None:
    """Words from a log stay in their line, and are cut."""
    assert printable("a\n\x1b[31mb") == "a??[31mb"
    assert len(printable("x" * 1000)) == 201


def test_structures_of_uefi_decode_to_what_was_encoded() -> None:
    """Variables, images and lists of signatures."""
    variable = Variable(GLOBAL_VARIABLE, "PK", b"content")
    assert Variable.decode(variable.encode()) == variable
    image = ImageLoad(1, 2, PATH)
    assert ImageLoad.decode(image.encode()) == image
    raw = signature_list(CERT_X509, OWNER, CERTIFICATE) * 2
    assert [item.owner for item in read_signature_lists(raw)] == [OWNER, OWNER]
    assert read_signature_lists(raw)[0].data == CERTIFICATE
    assert read_gpt(GPT)[0] == OWNER
    assert read_blob(b"\x02ab" + bytes(16)) == ("ab", 0, 0)
    assert read_blob(struct.pack("<QQ", 5, 6)) == ("", 5, 6)
    assert UUID(int=0) not in {OWNER, GLOBAL_VARIABLE}


def test_structures_of_uefi_have_the_size_that_their_bounds_allow() -> None:
    """No signature, the most signatures, and the most partitions."""
    assert read_signature_lists(struct.pack("<16sIII", b"", 28, 0, 17)) == ()
    most = struct.pack("<16sIII", b"", 28 + 17 * 16384, 0, 17) + bytes(17 * 16384)
    assert len(read_signature_lists(most)) == 16384
    assert len(read_gpt(GPT[:92] + struct.pack("<Q", 1024) + bytes(128 * 1024))[1]) == 1024


def test_device_paths_are_written_as_people_write_them() -> None:
    """Nodes that are known; others in hexadecimal."""

    def node(kind: int, subtype: int, body: bytes) -> bytes:
        return struct.pack("<BBH", kind, subtype, 4 + len(body)) + body

    path = node(1, 4, OWNER.bytes_le) + node(1, 5, b"\x07\0\0\0") + node(9, 9, b"ab")
    path += node(2, 1, struct.pack("<II", 0x0A0341D1, 2))
    expected = f"VenHw({OWNER})/Ctrl(0x7)/Path(9,9,6162)/Acpi(0x0a0341d1,0x2)"
    assert device_path_text(path) == expected


BROKEN: dict[str, Callable[[], object]] = {
    "a variable with a long name": lambda: Variable.decode(struct.pack("<16sQQ", b"", 2**63, 0)),
    "a variable with long data": lambda: Variable.decode(struct.pack("<16sQQ", b"", 0, 2**64 - 1)),
    "a name that is not UTF-16": lambda: Variable.decode(
        struct.pack("<16sQQ", b"", 1, 0) + b"\x00\xd8"
    ),
    "a signature list without end": lambda: read_signature_lists(
        struct.pack("<16sIII", b"", 0xFFFFFFFF, 0, 17)
    ),
    "a signature of no size": lambda: read_signature_lists(struct.pack("<16sIII", b"", 28, 0, 0)),
    "a signature of an owner alone": lambda: read_signature_lists(
        struct.pack("<16sIII", b"", 44, 0, 16) + bytes(16)
    ),
    "a signature list of no size": lambda: read_signature_lists(
        struct.pack("<16sIII", b"", 0, 0, 28)
    ),
    "signatures that are not there": lambda: read_signature_lists(
        struct.pack("<16sIII", b"", 28 + 34, 0, 17) + bytes(17)
    ),
    "signatures that do not divide": lambda: read_signature_lists(
        struct.pack("<16sIII", b"", 58, 0, 17) + bytes(30)
    ),
    "too many signatures": lambda: read_signature_lists(
        struct.pack("<16sIII", b"", 28 + 17 * 16385, 0, 17) + bytes(17 * 16385)
    ),
    "a path with a node of no size": lambda: device_path_text(b"\x01\x01\0\0"),
    "a path with too many nodes": lambda: device_path_text(b"\x01\x01\x06\0\0\0" * 65),
    "an image with a long path": lambda: ImageLoad.decode(struct.pack("<QQQQ", 0, 0, 0, 2**64 - 1)),
    "no partition table": lambda: read_gpt(b"EFI PARK" + GPT[8:]),
    "too many partitions": lambda: read_gpt(GPT[:92] + struct.pack("<Q", 1025) + bytes(128 * 1025)),
    "partitions that are too small": lambda: read_gpt(GPT[:84] + struct.pack("<I", 127) + GPT[88:]),
    "billions of partitions": lambda: read_gpt(GPT[:92] + b"\xff" * 8),
    "partitions that are not there": lambda: read_gpt(GPT[:92] + struct.pack("<Q", 9)),
    "a blob that is cut short": lambda: read_blob(b"\x09ab"),
    "a tag that is cut short": lambda: read_tag(struct.pack("<II", 1, 2**32 - 1)),
}


@pytest.mark.parametrize("problem", BROKEN)
def test_broken_structures_of_uefi_are_refused(problem: str) -> None:
    """Sizes from outside buy no memory, and end in a code."""
    with pytest.raises(MalformedError):
        BROKEN[problem]()
