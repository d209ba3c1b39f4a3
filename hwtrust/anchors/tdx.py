"""Intel TDX, from inside a trust domain: quotes, and the run-time measurement registers.

    quote    configfs-tsm
    RTMRs    /sys/class/misc/tdx_guest/measurements (Linux 6.16): a write extends
    TDREPORT /dev/tdx_guest: the registers on older kernels, read only

A trust domain has no key to seal with. Its registers are not extended by older kernels.

Rules:
1. A register is extended by one write of exactly 48 bytes. RTMR 0 and 1 belong to the
   firmware: what it measured there could not be replayed any more.
2. An extend that left the register as it was is a failure.
3. The kernel keeps no log of what is extended here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hwtrust.anchors.binding import require_report_data
from hwtrust.anchors.port import converted, read_exactly, write_file
from hwtrust.anchors.tsm import TsmAttester
from hwtrust.errors.anchors import (
    AnchorMissingError,
    AnchorRegisterError,
    AnchorResponseError,
    AnchorStaleError,
)

if TYPE_CHECKING:
    from hwtrust.anchors.port import Port
    from hwtrust.anchors.tsm import Tsm

PROVIDER: Final = "tdx_guest"
DEVICE: Final = "/dev/tdx_guest"
MEASUREMENTS: Final = "/sys/class/misc/tdx_guest/measurements"
REGISTER_SIZE: Final = 48
TDX_CMD_GET_REPORT0: Final = 0xC440_5401
TDREPORT_SIZE: Final = 1024

EXTENDABLE: Final = ("rtmr2", "rtmr3")
_FILES: Final = {
    **{f"rtmr{number}": f"rtmr{number}:sha384" for number in range(4)},
    "mrtd": "mrtd:sha384",
    "mrconfigid": "mrconfigid",
    "mrowner": "mrowner",
    "mrownerconfig": "mrownerconfig",
}
_OFFSETS: Final = {
    "mrtd": 528,
    "mrconfigid": 576,
    "mrowner": 624,
    "mrownerconfig": 672,
    "rtmr0": 720,
    "rtmr1": 768,
    "rtmr2": 816,
    "rtmr3": 864,
}
_REPORT_DATA: Final = 128


def tdx_attester(tsm: Tsm) -> TsmAttester:
    """Makes TDX quotes; the report data is 64 bytes."""
    return TsmAttester(tsm, provider=PROVIDER)


class TdxMeasurer:
    """The RTMRs that belong to the operating system and the application."""

    def __init__(self, port: Port, *, root: str = MEASUREMENTS) -> None:
        self._port = port
        self._root = root

    @property
    def registers(self) -> tuple[str, ...]:
        """The names of those that can be extended."""
        return EXTENDABLE

    def read(self, register: str) -> bytes:
        """The value of a register, 48 bytes: an RTMR, MRTD, or what the owner configured.

        Raises:
            AnchorRegisterError: there is no such register.
            AnchorError: it cannot be read.
        """
        return read_exactly(self._port, self._path(register), REGISTER_SIZE)

    def extend(self, register: str, digest: bytes) -> bytes:
        """RTMR = SHA-384(RTMR || digest); `digest` is 48 bytes. Gives the new value.

        Raises:
            AnchorRegisterError: the register cannot be extended, or not by these bytes.
            AnchorStaleError: the register did not change.
            AnchorError: the kernel refused.
        """
        if register not in EXTENDABLE:
            raise AnchorRegisterError(f"{register} is not one of {', '.join(EXTENDABLE)}")
        require_digest(digest)
        before = self.read(register)
        write_file(self._port, self._path(register), digest)
        after = self.read(register)
        if after == before:
            raise AnchorStaleError(f"{register} did not change when it was extended")
        return after

    def _path(self, register: str) -> str:
        name = _FILES.get(register)
        if name is None:
            raise AnchorRegisterError(f"there is no register {register}")
        return f"{self._root}/{name}"


def require_digest(digest: bytes) -> None:
    """Refuse what is no SHA-384 digest.

    Raises:
        AnchorRegisterError: it has another size.
    """
    if len(digest) != REGISTER_SIZE:
        raise AnchorRegisterError(
            f"a register takes {REGISTER_SIZE} bytes, not {len(digest)}", size=len(digest)
        )


def td_report(port: Port, report_data: bytes, *, path: str = DEVICE) -> bytes:
    """The TDREPORT that binds `report_data`: 1024 bytes, which this processor alone can check.

    TDX_CMD_GET_REPORT0 of <linux/tdx-guest.h>.

    Raises:
        ReportDataError: the report data is not 64 bytes.
        AnchorStaleError: the report is for other report data.
        AnchorError: the kernel refused.
    """
    require_report_data(report_data)
    argument = bytearray(report_data) + bytearray(TDREPORT_SIZE)
    with converted(path):
        port.ioctl(path, TDX_CMD_GET_REPORT0, argument)
    report = bytes(argument[len(report_data) :])
    if report[_REPORT_DATA : _REPORT_DATA + len(report_data)] != report_data:
        raise AnchorStaleError(f"{path} reported on other report data", path=path)
    return report


def td_registers(report: bytes) -> dict[str, bytes]:
    """The registers in a TDREPORT, by name; 48 bytes each.

    Raises:
        AnchorResponseError: it has not 1024 bytes.
    """
    if len(report) != TDREPORT_SIZE:
        raise AnchorResponseError(f"a TDREPORT has {TDREPORT_SIZE} bytes", size=len(report))
    return {name: report[at : at + REGISTER_SIZE] for name, at in _OFFSETS.items()}


def tdx_measurer(port: Port, *, root: str = MEASUREMENTS) -> TdxMeasurer:
    """The registers, if this kernel extends them.

    Raises:
        AnchorMissingError: it is older than Linux 6.16.
        AnchorPermissionError: this user may not extend them.
    """
    measurer = TdxMeasurer(port, root=root)
    try:
        with converted(root):
            for register in EXTENDABLE:
                port.probe(f"{root}/{_FILES[register]}")
    except AnchorMissingError as error:
        message = "this kernel does not extend the registers: Linux 6.16 does"
        raise AnchorMissingError(message, path=root) from error
    return measurer
