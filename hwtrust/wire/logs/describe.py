"""What an event of the firmware's log says of itself, in words.

A description follows from type and data, which nobody vouches for: it is for people.
Nothing is decided by it. With it comes what the event's digest should be made of, so
that whoever has the digest can tell how much of the description it covers:

    whole    everything that the description says
    part     its content, such as a command line, and not the label before it

Where both are empty the digest is that of something which is not in the log: a file,
a volume of firmware, the image of a boot loader.
"""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from typing import TYPE_CHECKING, Final
from uuid import UUID

import msgspec

from hwtrust.errors.evidence import MalformedError
from hwtrust.wire.algorithms import Alg, new_hash
from hwtrust.wire.logs import uefi
from hwtrust.wire.logs.firmware import SPEC_ID_3, STARTUP_LOCALITY, EventType, type_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from hwtrust.wire.logs.firmware import FirmwareEvent


class Topic(StrEnum):
    """What an event is about."""

    CRTM_VERSION = "crtm-version"
    FIRMWARE = "firmware"
    CONFIGURATION = "configuration"
    VARIABLE = "variable"
    AUTHORITY = "authority"
    BOOT_LOADER = "boot-loader"
    DRIVER = "driver"
    PARTITIONS = "partitions"
    ACTION = "action"
    SEPARATOR = "separator"
    MOK_LIST = "mok-list"
    COMMAND = "command"
    COMMAND_LINE = "command-line"
    KERNEL = "kernel"
    INITRD = "initrd"
    FILE = "file"
    NO_ACTION = "no-action"
    OTHER = "other"


class Description(msgspec.Struct, frozen=True, gc=False):
    """An event in words, and what its digest should be made of."""

    topic: Topic
    text: str
    whole: tuple[bytes, ...] = ()
    part: tuple[bytes, ...] = ()


MOK_LISTS: Final = (
    "MokList",
    "MokListX",
    "MokListTrusted",
    "MokSBState",
    "MokDBState",
    "MokPolicy",
)
"""What shim measures into PCR 14; the data is the name, the digest that of the content."""

_LABELS: Final = {
    b"grub_cmd: ": Topic.COMMAND,
    b"grub_cmd ": Topic.COMMAND,
    b"kernel_cmdline: ": Topic.COMMAND_LINE,
    b"grub_kernel_cmdline ": Topic.COMMAND_LINE,
    b"module_cmdline: ": Topic.COMMAND_LINE,
}
"""How GRUB begins what it measures; the digest is that of what follows."""

_SECTIONS: Final = {
    ".linux": Topic.KERNEL,
    ".initrd": Topic.INITRD,
    ".ucode": Topic.INITRD,
    ".cmdline": Topic.COMMAND_LINE,
}
"""Sections of a unified kernel image, of which systemd-stub measures name and content."""

_KERNELS: Final = ("vmlinuz", "vmlinux", "linux", "bzimage", "kernel", "image")
_INITRDS: Final = ("initrd", "initramfs", "microcode", "intel-ucode", "amd-ucode")
_KERNEL_COMMAND_LINE: Final = 0xA6120208
_TAGS: Final = {
    0x8F3B22EC: Topic.INITRD,
    0x8F3B22ED: Topic.COMMAND_LINE,
    _KERNEL_COMMAND_LINE: Topic.COMMAND_LINE,
}
"""Tagged events of Linux' EFI stub and of a kernel command line."""
_MOST_BEHIND: Final = 24
_MOST_COUNTED: Final = 1 << 16
_CERTIFICATE: Final = b"\x30\x82"
"""DER of a sequence of more than 255 bytes."""
_SIGNATURES: Final = ("PK", "KEK", "db", "dbx", "dbt", "dbr")
_KINDS: Final = {uefi.CERT_X509: "certificates", uefi.CERT_SHA256: "SHA-256 hashes"}
_UNICODE_PCRS: Final = (8, 12)
"""Where systemd-boot and systemd-stub measure command lines, as UTF-16."""


def describe(event: FirmwareEvent) -> Description:
    """`event` in words; data of no known form is described by its type alone."""
    form = _FORMS.get(event.type)
    if form is not None:
        try:
            return form(event)
        except MalformedError:
            pass
    return Description(Topic.OTHER, type_name(event.type), (event.data,))


def _no_action(event: FirmwareEvent) -> Description:
    data = event.data
    if data.startswith(STARTUP_LOCALITY) and len(data) == len(STARTUP_LOCALITY) + 1:
        return Description(Topic.NO_ACTION, f"StartupLocality {data[-1]}")
    signature = SPEC_ID_3 if data.startswith(SPEC_ID_3) else data[:16]
    return Description(Topic.NO_ACTION, _text(signature.partition(b"\0")[0]))


def _text(data: bytes) -> str:
    """Text in ASCII or UTF-16, whichever it looks like; else hexadecimal."""
    if _is_utf16(data):
        return uefi.printable(uefi.utf16(data))
    try:
        return uefi.printable(data.rstrip(b"\0").decode("ascii"))
    except UnicodeDecodeError:
        return data[:40].hex()


def _is_utf16(data: bytes) -> bool:
    """Whether most of `data` is Latin text in UTF-16."""
    return data[1:2] == b"\0" and not len(data) % 2 and data[1::2].count(0) * 4 > len(data)


def _version(event: FirmwareEvent) -> Description:
    data = event.data
    text = str(UUID(bytes_le=data)) if len(data) == 16 and data[0] > 0x7E else _text(data)  # noqa: PLR2004
    return Description(Topic.CRTM_VERSION, text, (data,))


def _separator(event: FirmwareEvent) -> Description:
    return Description(Topic.SEPARATOR, event.data[:16].hex(), (event.data,))


def _action(event: FirmwareEvent) -> Description:
    return Description(Topic.ACTION, _text(event.data), (event.data,))


def _variable(event: FirmwareEvent) -> Description:
    variable = uefi.Variable.decode(event.data)
    name, data = uefi.printable(variable.name), variable.data
    encoded = variable.encode()
    # Much firmware measures the content alone of what decides the order of booting.
    return Description(
        Topic.VARIABLE, f"{name}{_content(variable)}", (encoded, event.data), (data,)
    )


def _authority(event: FirmwareEvent) -> Description:
    variable = uefi.Variable.decode(event.data)
    name, encoded = uefi.printable(variable.name), variable.encode()
    whole = [encoded]
    if len(encoded) <= _MOST_COUNTED:
        # Some shims count a part of what they leave behind the variable.
        rest = event.data[len(encoded) :][:_MOST_BEHIND]
        whole += [encoded + rest[:count] for count in range(1, len(rest) + 1)]
    for certificate in (variable.data, variable.data[16:]):
        if certificate.startswith(_CERTIFICATE):
            digest = new_hash(Alg.SHA256, certificate)
            name = f"{name}, certificate sha256:{digest.hex()}"
            break
    return Description(Topic.AUTHORITY, name, (*whole, event.data))


def _content(variable: uefi.Variable) -> str:
    """What is in a variable: how many signatures, or its value."""
    data = variable.data
    if variable.name in _SIGNATURES and data:
        kinds = Counter(_KINDS.get(item.type, "others") for item in uefi.read_signature_lists(data))
        return ", " + ", ".join(f"{kind}: {count}" for kind, count in kinds.items())
    return f", {len(data)} bytes" if len(data) > 1 else f" = {data.hex() or 'empty'}"


def _image(event: FirmwareEvent) -> Description:
    path = uefi.device_path_text(uefi.ImageLoad.decode(event.data).device_path)
    loader = event.type == EventType.EFI_BOOT_SERVICES_APPLICATION
    return Description(Topic.BOOT_LOADER if loader else Topic.DRIVER, uefi.printable(path))


def _partitions(event: FirmwareEvent) -> Description:
    disk, partitions = uefi.read_gpt(event.data)
    names = ", ".join(uefi.printable(part.name, most=36) for part in partitions[:8])
    text = uefi.printable(f"disk {disk}, {len(partitions)} partitions: {names}")
    return Description(Topic.PARTITIONS, text, (event.data,))


def _blob(event: FirmwareEvent) -> Description:
    try:
        description, base, length = uefi.read_blob(event.data)
    except MalformedError:
        return Description(Topic.FIRMWARE, _text(event.data), (event.data,))
    return Description(Topic.FIRMWARE, f"{description} {length} bytes at {base:#x}".strip())


def _configuration(event: FirmwareEvent) -> Description:
    return Description(Topic.CONFIGURATION, _text(event.data), (event.data,))


def _tagged(event: FirmwareEvent) -> Description:
    number, data = uefi.read_tag(event.data)
    topic = _TAGS.get(number)
    if topic is None:
        return Description(Topic.OTHER, f"tag {number:#x}, {len(data)} bytes", (event.data,))
    # The data of Linux' EFI stub is a label; what it measures is not in the log.
    return Description(topic, _text(data), (event.data,) if number == _KERNEL_COMMAND_LINE else ())


def _ipl(event: FirmwareEvent) -> Description:
    data = event.data
    bare = data.rstrip(b"\0")
    for label, topic in _LABELS.items():
        if data.startswith(label):
            content = bare[len(label) :]
            return Description(topic, _text(content), (), (content, data[len(label) :]))
    text = _text(data)
    if event.register in _UNICODE_PCRS and _is_utf16(data):
        return Description(Topic.COMMAND_LINE, text, (data, data[:-2]))
    return Description(_ipl_topic(text), text, (data, bare))


def _ipl_topic(text: str) -> Topic:
    if text in MOK_LISTS:
        return Topic.MOK_LIST
    if text in _SECTIONS:
        return _SECTIONS[text]
    name = text.rpartition("/")[2].lower()
    if name.startswith(_KERNELS):
        return Topic.KERNEL
    if name.startswith(_INITRDS):
        return Topic.INITRD
    return Topic.FILE if "/" in text else Topic.OTHER


_FORMS: Final[dict[int, Callable[[FirmwareEvent], Description]]] = {
    EventType.NO_ACTION: _no_action,
    EventType.S_CRTM_VERSION: _version,
    EventType.S_CRTM_CONTENTS: _blob,
    EventType.SEPARATOR: _separator,
    EventType.ACTION: _action,
    EventType.EFI_ACTION: _action,
    EventType.OMIT_BOOT_DEVICE_EVENTS: _action,
    EventType.EVENT_TAG: _tagged,
    EventType.IPL: _ipl,
    EventType.POST_CODE: _blob,
    EventType.POST_CODE2: _blob,
    EventType.EFI_PLATFORM_FIRMWARE_BLOB: _blob,
    EventType.EFI_PLATFORM_FIRMWARE_BLOB2: _blob,
    EventType.NONHOST_CODE: _blob,
    EventType.CPU_MICROCODE: _configuration,
    EventType.PLATFORM_CONFIG_FLAGS: _configuration,
    EventType.TABLE_OF_DEVICES: _configuration,
    EventType.NONHOST_CONFIG: _configuration,
    EventType.NONHOST_INFO: _configuration,
    EventType.COMPACT_HASH: _configuration,
    EventType.EFI_VARIABLE_DRIVER_CONFIG: _variable,
    EventType.EFI_VARIABLE_BOOT: _variable,
    EventType.EFI_VARIABLE_BOOT2: _variable,
    EventType.EFI_VARIABLE_AUTHORITY: _authority,
    EventType.EFI_BOOT_SERVICES_APPLICATION: _image,
    EventType.EFI_BOOT_SERVICES_DRIVER: _image,
    EventType.EFI_RUNTIME_SERVICES_DRIVER: _image,
    EventType.EFI_GPT_EVENT: _partitions,
    EventType.EFI_GPT_EVENT2: _partitions,
}

_COVERED_TYPES: Final = frozenset(
    {
        EventType.SEPARATOR,
        EventType.ACTION,
        EventType.EFI_ACTION,
        EventType.S_CRTM_VERSION,
        EventType.EFI_VARIABLE_DRIVER_CONFIG,
        EventType.EFI_VARIABLE_BOOT,
        EventType.EFI_VARIABLE_BOOT2,
        EventType.EFI_VARIABLE_AUTHORITY,
        EventType.EFI_GPT_EVENT,
    }
)
_COVERED_TOPICS: Final = frozenset({Topic.COMMAND, Topic.COMMAND_LINE})


def must_cover(event: FirmwareEvent, description: Description) -> bool:
    """Whether the digest of such an event is to be that of its data, by the specification."""
    if event.type in _COVERED_TYPES:
        return True
    return description.topic in _COVERED_TOPICS and bool(description.whole or description.part)
