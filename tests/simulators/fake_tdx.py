"""The TDX guest driver as the kernel has it: registers that extend when they are written.

A write that is not one of 48 bytes at offset 0 is EINVAL. drivers/virt/coco/guest/tsm-mr.c,
drivers/virt/coco/tdx-guest/tdx-guest.c.
"""

from __future__ import annotations

import errno
import hashlib
from typing import Final

from simulators.fake_machine import Device, fail

DEVICE: Final = "/dev/tdx_guest"
MEASUREMENTS: Final = "/sys/class/misc/tdx_guest/measurements"
GET_REPORT0: Final = 0xC4405401
_FIXED: Final = ("mrtd:sha384", "mrconfigid", "mrowner", "mrownerconfig")


class TrustDomain:
    """The registers of one trust domain."""

    def __init__(self) -> None:
        self.registers = {f"rtmr{number}:sha384": bytes(48) for number in range(4)}
        self.registers |= {name: hashlib.sha384(name.encode()).digest() for name in _FIXED}


class FakeMeasurements(Device):
    """The directory of the registers.

    Faults: `swallows` writes, reads are `short`, a write takes `taken` bytes.
    """

    def __init__(self, domain: TrustDomain) -> None:
        self.domain = domain
        self.writes: list[tuple[str, bytes]] = []
        self.swallows = False
        self.short: int | None = None
        self.taken: int | None = None

    def listdir(self, path: str) -> list[str]:
        """The registers."""
        if path:
            fail(errno.ENOTDIR)
        return list(self.domain.registers)

    def probe(self, path: str) -> None:
        """Whether there is such a register."""
        if path and path not in self.domain.registers:
            fail(errno.ENOENT)

    def read(self, path: str) -> bytes:
        """Its value."""
        if path not in self.domain.registers:
            fail(errno.ENOENT)
        return self.domain.registers[path][: self.short]

    def write(self, path: str, data: bytes) -> int:
        """Extend it."""
        if path not in self.domain.registers:
            fail(errno.ENOENT)
        if not path.startswith("rtmr"):
            fail(errno.EACCES)
        if len(data) != 48:
            fail(errno.EINVAL)
        self.writes.append((path, data))
        if not self.swallows:
            extended = hashlib.sha384(self.domain.registers[path] + data).digest()
            self.domain.registers[path] = extended
        return len(data) if self.taken is None else self.taken


class FakeTdxGuest(Device):
    """/dev/tdx_guest: the TDREPORT. `other` is a report on other report data."""

    def __init__(self, domain: TrustDomain) -> None:
        self.domain = domain
        self.other = False

    def ioctl(self, path: str, request: int, argument: bytearray) -> None:
        """TDX_CMD_GET_REPORT0, and no other."""
        if path or request != GET_REPORT0:
            fail(errno.ENOTTY)
        assert len(argument) == 64 + 1024, "struct tdx_report_req has 1088 bytes"
        report = bytearray(1024)
        report[128:192] = bytes(64) if self.other else argument[:64]
        names = [*_FIXED, *(f"rtmr{number}:sha384" for number in range(4))]
        values = b"".join(self.domain.registers[name] for name in names)
        report[528 : 528 + len(values)] = values
        argument[64:] = report
