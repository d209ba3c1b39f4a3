"""/dev/sev-guest as the kernel has it, with firmware that derives keys.

The ioctl's number and the layout of all structures are checked; pointers in them are
followed. What the firmware refuses comes back in the response's status, with the ioctl
successful, as drivers/virt/coco/sev-guest/sev-guest.c passes it on.
"""

from __future__ import annotations

import errno
import hmac
import struct
from typing import TYPE_CHECKING, Final

from simulators.fake_machine import Device, fail, peek, poke

if TYPE_CHECKING:
    from collections.abc import Callable

GET_REPORT, GET_DERIVED_KEY, GET_EXT_REPORT = 0xC0205300, 0xC0205301, 0xC0205302
INVALID_LENGTH, BUSY = 1, 2
INVALID_PARAM: Final = 0x16
BLOB_MAX: Final = 0x4000
REPORT_SIZE: Final = 1184
VCEK_GUID: Final = bytes.fromhex("63da758de6644564adc5f4b93be8accd")


def certificate_table(*certificates: bytes) -> bytes:
    """The table that a host gives along: entries, one of zeros, certificates."""
    start = 24 * (len(certificates) + 1)
    entries, body = b"", b""
    for certificate in certificates:
        entries += struct.pack("<16sII", VCEK_GUID, start + len(body), len(certificate))
        body += certificate
    return entries + bytes(24) + body


class FakeSevGuest(Device):
    """The device of one guest on one chip.

    `signer` makes the report for report data; without one a report says what the guest is
    and is not signed. Faults: the host is `busy` for so many requests, fails with
    `vmm_error` or `fw_error`; the firmware gives `status`, a report whose size it calls
    `size`, or a `zero_key`.
    """

    def __init__(
        self, signer: Callable[[bytes], bytes] | None = None, *, chip: bytes = b"chip"
    ) -> None:
        self._signer = signer
        self.chip = chip
        self.policy = 0x30000
        self.measurement = bytes(range(48))
        self.image_id, self.family_id = bytes(16), bytes(16)
        self.guest_svn = 2
        self.vmpl = 0
        self.committed_tcb = 0xD1_17_00_00_00_00_00_03
        self.certificates = b""
        self.keys: list[tuple[int, int, int, int, int]] = []
        self.requests: list[int] = []
        self.busy = 0
        self.vmm_error = 0
        self.fw_error = 0
        self.errno = 0
        self.status = 0
        self.key_status = 0
        self.size = REPORT_SIZE
        self.zero_key = False
        self.ignores_fields = False
        self.wanted: int | None = None
        self.other_report_data: bytes | None = None

    def report(self, report_data: bytes, vmpl: int) -> bytes:
        """An attestation report."""
        report_data = self.other_report_data or report_data
        if self._signer is not None:
            return self._signer(report_data)
        report = bytearray(REPORT_SIZE)
        struct.pack_into("<IIQ", report, 0, 2, self.guest_svn, self.policy)
        struct.pack_into("<I", report, 0x30, vmpl)
        report[0x50:0x90] = report_data
        report[0x90:0xC0] = self.measurement
        struct.pack_into("<Q", report, 0x1E0, self.committed_tcb)
        return bytes(report)

    def ioctl(self, path: str, request: int, argument: bytearray) -> None:
        """One of three."""
        if path:
            fail(errno.ENOTDIR)
        self.requests.append(request)
        assert len(argument) == 32, "struct snp_guest_request_ioctl has 32 bytes"
        version, at, answer, _ = struct.unpack("<B7xQQQ", argument)
        if version == 0 or not at or not answer:
            fail(errno.EINVAL)
        handlers = {
            GET_REPORT: self._get_report,
            GET_DERIVED_KEY: self._get_derived_key,
            GET_EXT_REPORT: self._get_ext_report,
        }
        if request not in handlers:
            fail(errno.ENOTTY)
        if self.errno:
            struct.pack_into("<Q", argument, 24, 0xFF)
            fail(self.errno)
        vmm_error, fw_error = self.vmm_error, self.fw_error
        if self.busy:
            self.busy -= 1
            vmm_error = BUSY
        if not vmm_error and not fw_error:
            vmm_error = handlers[request](at, answer)
        if vmm_error or fw_error:
            struct.pack_into("<Q", argument, 24, vmm_error << 32 | fw_error)
            fail(errno.EIO)

    def _get_report(self, at: int, answer: int) -> int:
        data, vmpl = struct.unpack("<64sI28x", peek(at, 96))
        assert peek(at, 96)[68:] == bytes(28)
        status = self.status or (INVALID_PARAM if not self.vmpl <= vmpl <= 3 else 0)
        report = bytes(REPORT_SIZE) if status else self.report(data, vmpl)
        response = struct.pack("<II24x", status, 0 if status else self.size) + report
        poke(answer, response.ljust(4000, b"\0"))
        return 0

    def _get_ext_report(self, at: int, answer: int) -> int:
        table, room = struct.unpack("<QI4x", peek(at + 96, 16))
        if room > BLOB_MAX or room % 4096:
            fail(errno.EINVAL)
        needed = -(-len(self.certificates) // 4096) * 4096
        if self.wanted is not None or needed > room:
            poke(at + 104, struct.pack("<I", self.wanted or needed))
            return INVALID_LENGTH
        poke(table, self.certificates.ljust(room, b"\0"))
        return self._get_report(at, answer)

    def _get_derived_key(self, at: int, answer: int) -> int:
        root, reserved, fields, vmpl, svn, tcb = struct.unpack("<IIQIIQ", peek(at, 32))
        self.keys.append((root, fields, vmpl, svn, tcb))
        committed = self.committed_tcb.to_bytes(8, "little")
        good = (
            reserved == 0
            and root in {0, 1}
            and fields < 1 << 6
            and self.vmpl <= vmpl <= 3
            and svn <= self.guest_svn
            and all(a <= b for a, b in zip(tcb.to_bytes(8, "little"), committed, strict=True))
        )
        status = self.key_status or (0 if good else INVALID_PARAM)
        key = bytes(32) if status or self.zero_key else self._key(root, fields, vmpl, svn, tcb)
        poke(answer, struct.pack("<I28x32s", status, key))
        return 0

    def _key(self, root: int, fields: int, vmpl: int, svn: int, tcb: int) -> bytes:
        values = (
            self.policy.to_bytes(8, "little"),
            self.image_id,
            self.family_id,
            self.measurement,
            svn.to_bytes(4, "little"),
            tcb.to_bytes(8, "little"),
        )
        if self.ignores_fields:
            fields = 0
        mixed = b"".join(v if fields >> bit & 1 else b"" for bit, v in enumerate(values))
        context = struct.pack("<IQI", root, fields, vmpl) + mixed
        return hmac.digest(self.chip, context, "sha256")
