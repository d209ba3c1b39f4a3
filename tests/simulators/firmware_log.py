"""A machine's firmware, as far as its measurements go: real digests, and PCRs to quote.

The PCRs are extended beside the log, as a TPM would: what replays the log cannot be
wrong in the same way. A test alters the log, or the machine before it boots.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final
from uuid import UUID

from hwtrust.wire.algorithms import Alg, alg_from_name
from hwtrust.wire.logs.firmware import (
    STARTUP_LOCALITY,
    EventType,
    FirmwareEvent,
    FirmwareLog,
    spec_id,
)
from hwtrust.wire.logs.uefi import (
    CERT_X509,
    GLOBAL_VARIABLE,
    SECURITY_DATABASE,
    SHIM_LOCK,
    ImageLoad,
    Variable,
    signature_list,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

OWNER: Final = UUID("77fa9abd-0359-4d32-bd60-28f4e78f784b")
CERTIFICATE: Final = b"\x30\x82\x01\x00" + bytes(range(256))
FILE_PATH: Final = b"\x04\x04\x1e\x00" + "\\EFI\\shim.efi".encode("utf-16-le") + b"\x7f\xff\x04\x00"
SEPARATED: Final = range(8)
EXIT: Final = (b"Exit Boot Services Invocation", b"Exit Boot Services Returned with Success")


class Firmware:
    """What measures into a log and into PCRs at once."""

    def __init__(
        self,
        *banks: str,
        locality: int = 0,
        says_locality: int | None = None,
        confidential: bool = False,
    ) -> None:
        self.banks = banks or ("sha1", "sha256")
        self.crypto_agile = self.banks != ("sha1",)
        self.confidential = confidential
        self.events: list[FirmwareEvent] = []
        sizes = {name: hashlib.new(name).digest_size for name in self.banks}
        self.declared = tuple((int(alg_from_name(name)), size) for name, size in sizes.items())
        self.values = {
            name: {pcr: (b"\xff" if 17 <= pcr <= 22 else b"\0") * size for pcr in range(24)}
            for name, size in sizes.items()
        }
        for name, size in sizes.items():
            self.values[name][0] = bytes(size - 1) + bytes([locality])
        if self.crypto_agile:
            self._note(int(confidential), spec_id(self.declared), banks=("sha1",))
        said = locality if says_locality is None else says_locality
        if said:
            self._note(0, STARTUP_LOCALITY + bytes([said]))

    def _note(self, register: int, data: bytes, *, banks: tuple[str, ...] = ()) -> None:
        digests = {
            int(alg_from_name(name)): bytes(hashlib.new(name).digest_size)
            for name in banks or self.banks
        }
        self.events.append(FirmwareEvent(register, EventType.NO_ACTION, digests, data))

    def measure(
        self, register: int, type_: int, data: bytes, measured: bytes | None = None
    ) -> Firmware:
        """Log `data`, and extend `register` with the digest of `measured`, or of `data`."""
        content = data if measured is None else measured
        digests = {}
        for name in self.banks:
            digest = digests[int(alg_from_name(name))] = hashlib.new(name, content).digest()
            values = self.values[name]
            values[register] = hashlib.new(name, values[register] + digest).digest()
        self.events.append(FirmwareEvent(register, int(type_), digests, data))
        return self

    def variable(self, name: str, content: bytes, *, guid: UUID = GLOBAL_VARIABLE) -> Firmware:
        """Measure a variable that the policy of Secure Boot is made of."""
        data = Variable(guid, name, content).encode()
        register = 1 if self.confidential else 7
        return self.measure(register, EventType.EFI_VARIABLE_DRIVER_CONFIG, data)

    def authority(self, name: str, content: bytes, *, guid: UUID = SECURITY_DATABASE) -> Firmware:
        """Measure what vouched for an image."""
        data = Variable(guid, name, content).encode()
        register = 1 if self.confidential else 7
        return self.measure(register, EventType.EFI_VARIABLE_AUTHORITY, data)

    def separate(self, *registers: int, data: bytes = bytes(4)) -> Firmware:
        """Separate `registers` from what comes after the firmware."""
        for register in registers:
            self.measure(register, EventType.SEPARATOR, data)
        return self

    def start(self, *, secure_boot: bytes = b"\x01") -> Firmware:
        """The firmware, until it hands over."""
        self.measure(0, EventType.S_CRTM_VERSION, "2.7".encode("utf-16-le") + b"\0\0")
        blob = (0x820000).to_bytes(8, "little") + (0xE0000).to_bytes(8, "little")
        self.measure(0, EventType.EFI_PLATFORM_FIRMWARE_BLOB, blob, b"the firmware's volume")
        certificates = signature_list(CERT_X509, OWNER, CERTIFICATE)
        self.variable("SecureBoot", secure_boot)
        self.variable("PK", certificates)
        self.variable("KEK", certificates)
        self.variable("db", certificates, guid=SECURITY_DATABASE)
        self.variable("dbx", b"", guid=SECURITY_DATABASE)
        order = Variable(GLOBAL_VARIABLE, "BootOrder", b"\0\0").encode()
        self.measure(1, EventType.EFI_VARIABLE_BOOT, order, b"\0\0")
        return self.separate(*SEPARATED)

    def load(self) -> Firmware:
        """Shim, GRUB and the kernel, until these are on their own."""
        image = ImageLoad(0x7A000000, 0x10000, FILE_PATH).encode()
        self.authority("db", OWNER.bytes_le + CERTIFICATE)
        self.measure(4, EventType.EFI_BOOT_SERVICES_APPLICATION, image, b"shim")
        self.measure(14, EventType.IPL, b"MokList\0", b"the owner's keys")
        self.authority("SbatLevel", b"sbat,1,2021030218\n", guid=SHIM_LOCK)
        self.measure(4, EventType.EFI_BOOT_SERVICES_APPLICATION, image, b"grub")
        self.measure(9, EventType.IPL, b"(hd0,gpt2)/grub/grub.cfg\0", b"the configuration")
        self.command("grub_cmd: ", "linux /vmlinuz root=/dev/sda2")
        self.measure(9, EventType.IPL, b"/vmlinuz-6.1\0", b"the kernel")
        self.command("kernel_cmdline: ", "/vmlinuz root=/dev/sda2 quiet")
        self.measure(9, EventType.IPL, b"/initrd.img-6.1\0", b"the initial file system")
        for text in EXIT:
            self.measure(5, EventType.EFI_ACTION, text)
        return self

    def command(self, label: str, text: str) -> Firmware:
        """Measure a command as GRUB does: the label is logged and not measured."""
        return self.measure(8, EventType.IPL, f"{label}{text}\0".encode(), text.encode())

    @property
    def log(self) -> FirmwareLog:
        """The log as it stands."""
        banks = self.declared if self.crypto_agile else ((int(Alg.SHA1), 20),)
        return FirmwareLog(
            banks=banks, events=tuple(self.events), crypto_agile=self.crypto_agile, padding=0
        )

    @property
    def raw(self) -> bytes:
        """The log as the kernel gives it."""
        return self.log.encode()

    @property
    def pcrs(self) -> dict[Alg, Mapping[int, bytes]]:
        """What a quote would vouch for now."""
        return {alg_from_name(name): dict(values) for name, values in self.values.items()}

    @property
    def rtmrs(self) -> dict[int, bytes]:
        """The registers of a confidential VM."""
        return {number: self.values["sha384"][number + 1] for number in range(4)}


def booted(*banks: str, locality: int = 0) -> Firmware:
    """A machine with Secure Boot that runs its kernel."""
    return Firmware(*banks, locality=locality).start().load()
