"""AMD SEV-SNP, from inside a guest: /dev/sev-guest.

    SNP_GET_REPORT      report data in, attestation report out
    SNP_GET_EXT_REPORT  the same, and the certificates that the host has for it
    SNP_GET_DERIVED_KEY a key that depends on chip, guest and firmware as selected

Rules:
1. What the ioctl and `exitinfo2` say comes from the host; what `status` in the response
   says comes from the firmware, over an encrypted channel. A response counts only if
   both are good.
2. Where the host says that it is busy, the request is repeated, a bounded number of
   times; where it says that the certificates need more room, once.
3. A derived key whose status is not 0, or that is all zeros, is none.
4. The buffer in which a key came is overwritten.

include/uapi/linux/sev-guest.h; SEV-SNP Firmware ABI, §7.2 and §7.3.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from typing import TYPE_CHECKING, Final, NoReturn

from hwtrust.anchors.binding import SNP_REPORT_SIZE, require_answer, require_report_data
from hwtrust.anchors.port import address, anchor_error, erase
from hwtrust.anchors.protocols import Kind, RawEvidence
from hwtrust.errors.anchors import (
    AnchorBusyError,
    AnchorFirmwareError,
    AnchorHostError,
    AnchorRequestError,
    AnchorResponseError,
    DerivedKeyError,
)
from hwtrust.wire.cmw import MediaType

if TYPE_CHECKING:
    from hwtrust.anchors.port import Port

DEVICE: Final = "/dev/sev-guest"

SNP_GET_REPORT: Final = 0xC020_5300
SNP_GET_DERIVED_KEY: Final = 0xC020_5301
SNP_GET_EXT_REPORT: Final = 0xC020_5302

_ENVELOPE: Final = struct.Struct("<B7xQQQ")
_REPORT_REQUEST: Final = struct.Struct("<64sI28x")
_EXTENSION: Final = struct.Struct("<QI4x")
_KEY_REQUEST: Final = struct.Struct("<IIQIIQ")
_RESPONSE: Final = struct.Struct("<II24x")
_KEY_RESPONSE_SIZE: Final = 64
_CERTIFICATE: Final = struct.Struct("<16sII")

_MESSAGE_VERSION: Final = 1
_REPORT_RESPONSE_SIZE: Final = 4000
KEY_SIZE: Final = 32
MAX_VMPL: Final = 3

PAGE: Final = 4096
MAX_CERTIFICATES: Final = 0x4000
"""SEV_FW_BLOB_MAX_SIZE of the kernel."""

_VMM_INVALID_LENGTH, _VMM_BUSY = 1, 2
_NO_FIRMWARE_CALL: Final = 0xFFFF_FFFF
TRIES: Final = 5
_FIRST_PAUSE: Final = 0.2

_STATUS: Final = {
    0x01: "invalid platform state",
    0x02: "invalid guest state",
    0x0D: "not supported",
    0x16: "invalid parameters",
    0x17: "out of resources",
    0x27: "invalid key selection",
    0xFF: "the firmware was not called",
    _NO_FIRMWARE_CALL: "the firmware was not called",
}


class RootKey(IntEnum):
    """What a derived key is derived from."""

    VCEK = 0
    """A secret of this chip."""
    VMRK = 1
    """A secret that a migration agent gave this guest."""


class KeyField(IntFlag):
    """What a derived key depends on: bits of guest_field_select."""

    POLICY = 1 << 0
    IMAGE_ID = 1 << 1
    FAMILY_ID = 1 << 2
    MEASUREMENT = 1 << 3
    GUEST_SVN = 1 << 4
    TCB_VERSION = 1 << 5


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRequest:
    """What a derived key is asked for with."""

    root: RootKey
    fields: KeyField
    vmpl: int
    guest_svn: int
    """At most that of the guest's launch."""
    tcb: int
    """A TCB_VERSION, at most CommittedTcb in each component."""


@dataclass(frozen=True, slots=True)
class GuestState:
    """What a report says of this guest that its keys depend on."""

    guest_svn: int
    policy: bytes
    vmpl: int
    measurement: bytes = field(repr=False)
    committed_tcb: int

    @classmethod
    def of(cls, report: bytes) -> GuestState:
        """Read it from a report, whose size has been checked."""
        guest_svn, policy = struct.unpack_from("<I8s", report, 0x04)
        (vmpl,) = struct.unpack_from("<I", report, 0x30)
        (committed,) = struct.unpack_from("<Q", report, 0x1E0)
        return cls(guest_svn, policy, vmpl, report[0x90:0xC0], committed)


class SevGuest:
    """The guest's channel to the SNP firmware."""

    def __init__(self, port: Port, *, path: str = DEVICE) -> None:
        self._port = port
        self.path = path

    def report(self, report_data: bytes, *, vmpl: int) -> bytes:
        """An attestation report that binds `report_data`, 64 bytes; 1184 bytes.

        Raises:
            ReportDataError: the report data has another size.
            AnchorFirmwareError: the firmware refused.
            AnchorHostError: the host did.
            AnchorStaleError: the report is for other report data.
            AnchorError: in another way.
        """
        request = self._report_request(report_data, vmpl)
        response = self._call(SNP_GET_REPORT, request, _REPORT_RESPONSE_SIZE)
        return _report_of(response, report_data)

    def extended_report(self, report_data: bytes, *, vmpl: int) -> tuple[bytes, bytes]:
        """A report, and the certificate table that the host gives along; often empty.

        Raises:
            AnchorHostError: the host wants more room than the kernel allows.
            AnchorResponseError: the table's entries point outside of it.
            AnchorError: as of `report`.
        """
        head = bytes(self._report_request(report_data, vmpl))
        room = PAGE
        try:
            return self._extended(head, report_data, room)
        except AnchorHostError as error:
            wanted = error.data.get("wanted")
            if not isinstance(wanted, int) or not PAGE < wanted <= MAX_CERTIFICATES:
                raise
            # The kernel takes whole pages alone.
            room = -(-wanted // PAGE) * PAGE
        return self._extended(head, report_data, room)

    def _extended(self, head: bytes, report_data: bytes, room: int) -> tuple[bytes, bytes]:
        table = bytearray(room)
        request = bytearray(head + _EXTENSION.pack(address(table), room))
        try:
            response = self._call(SNP_GET_EXT_REPORT, request, _REPORT_RESPONSE_SIZE)
        except AnchorHostError as error:
            if error.data.get("vmm_error") != _VMM_INVALID_LENGTH:
                raise
            _, wanted = _EXTENSION.unpack_from(request, len(head))
            raise AnchorHostError(
                f"the host wants room for {wanted} bytes of certificates, and got {room}",
                path=self.path,
                vmm_error=_VMM_INVALID_LENGTH,
                wanted=wanted,
            ) from error
        return _report_of(response, report_data), _trimmed(bytes(table))

    def state(self, *, vmpl: int) -> GuestState:
        """What this guest's keys depend on, from a fresh report.

        Raises:
            AnchorError: as of `report`.
        """
        return GuestState.of(self.report(bytes(64), vmpl=vmpl))

    def derived_key(self, wanted: KeyRequest) -> bytearray:
        """A key of 32 bytes; the caller overwrites it.

        Raises:
            DerivedKeyError: the firmware refused, or gave a key of zeros.
            AnchorHostError: the host did not pass the request on.
            AnchorError: in another way.
        """
        request = bytearray(
            _KEY_REQUEST.pack(
                wanted.root,
                0,
                wanted.fields,
                _checked_vmpl(wanted.vmpl),
                wanted.guest_svn,
                wanted.tcb,
            )
        )
        response = self._call(SNP_GET_DERIVED_KEY, request, _KEY_RESPONSE_SIZE)
        (status,) = struct.unpack_from("<I", response)
        key = response[_KEY_RESPONSE_SIZE - KEY_SIZE :]
        erase(response)
        if status:
            raise DerivedKeyError(
                f"the firmware derived no key: {_spelled(status)}", status=status, path=self.path
            )
        if not any(key):
            raise DerivedKeyError("the firmware gave a key of zeros", status=0, path=self.path)
        return key

    def _report_request(self, report_data: bytes, vmpl: int) -> bytearray:
        require_report_data(report_data)
        return bytearray(_REPORT_REQUEST.pack(report_data, _checked_vmpl(vmpl)))

    def _call(self, number: int, request: bytearray, size: int) -> bytearray:
        """One request; `request` may be changed by the kernel. Rule 2."""
        pause = _FIRST_PAUSE
        for _ in range(TRIES):
            response = bytearray(size)
            envelope = bytearray(
                _ENVELOPE.pack(_MESSAGE_VERSION, address(request), address(response), 0)
            )
            try:
                self._port.ioctl(self.path, number, envelope)
            except OSError as error:
                *_, exit_info = _ENVELOPE.unpack(envelope)
                vmm_error, fw_error = exit_info >> 32, exit_info & 0xFFFF_FFFF
                if vmm_error != _VMM_BUSY:
                    self._refused(error, vmm_error, fw_error)
                self._port.pause(pause)
                pause *= 2
            else:
                return response
        raise AnchorBusyError(f"{self.path}: the host stays busy", path=self.path)

    def _refused(self, error: OSError, vmm_error: int, fw_error: int) -> NoReturn:
        if vmm_error:
            raise AnchorHostError(
                f"{self.path}: the host refused, with error {vmm_error}",
                path=self.path,
                vmm_error=vmm_error,
            ) from error
        if fw_error and fw_error not in {0xFF, _NO_FIRMWARE_CALL}:
            raise AnchorFirmwareError(
                f"{self.path}: the firmware refused: {_spelled(fw_error)}",
                path=self.path,
                status=fw_error,
            ) from error
        raise anchor_error(error, self.path) from error


class SevGuestAttester:
    """SNP evidence through /dev/sev-guest, for kernels without configfs-tsm."""

    def __init__(self, device: SevGuest, *, vmpl: int) -> None:
        self._device = device
        self._vmpl = vmpl

    @property
    def kind(self) -> Kind:
        """The kind of its evidence."""
        return Kind.SNP

    def attest(self, report_data: bytes) -> RawEvidence:
        """A report that binds `report_data`, 64 bytes, and the certificates that the host has.

        Raises:
            ReportDataError: it is of another size.
            AnchorError: no report could be had, or none that answers this request.
        """
        report, certificates = self._device.extended_report(report_data, vmpl=self._vmpl)
        return RawEvidence(Kind.SNP, MediaType.SNP, report, certificates=certificates)


def _checked_vmpl(vmpl: int) -> int:
    if not 0 <= vmpl <= MAX_VMPL:
        raise AnchorRequestError(f"a VMPL is 0 to {MAX_VMPL}, not {vmpl}", vmpl=vmpl)
    return vmpl


def _report_of(response: bytearray, report_data: bytes) -> bytes:
    status, size = _RESPONSE.unpack_from(response)
    if status:
        raise AnchorFirmwareError(f"the firmware made no report: {_spelled(status)}", status=status)
    if size != SNP_REPORT_SIZE:
        raise AnchorResponseError(f"the firmware speaks of a report of {size} bytes", size=size)
    report = bytes(response[_RESPONSE.size : _RESPONSE.size + size])
    require_answer(Kind.SNP, report, report_data)
    return report


def _trimmed(table: bytes) -> bytes:
    """The certificate table without the unused room behind it."""
    end = 0
    for offset in range(0, len(table) - _CERTIFICATE.size + 1, _CERTIFICATE.size):
        guid, start, length = _CERTIFICATE.unpack_from(table, offset)
        if not any(guid):
            # Without the entry of zeros that ends it, a table could not be read.
            return table[: max(end, offset + _CERTIFICATE.size)] if offset else b""
        end = max(end, start + length)
        if end > len(table):
            break
    raise AnchorResponseError("the host's certificate table points outside of itself")


def _spelled(status: int) -> str:
    return f"{_STATUS.get(status, 'error')} ({status:#x})"
