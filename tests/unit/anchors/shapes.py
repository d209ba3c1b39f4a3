"""Evidence in the shape of its kind, unsigned: what an anchor sees of it."""

from __future__ import annotations

import errno
import os

from simulators.fake_sev_guest import FakeSevGuest

DATA = bytes(range(64))
OTHER = bytes(64)


def snp(report_data: bytes) -> bytes:
    """An SNP report."""
    return FakeSevGuest().report(report_data, 0)


def tdx(report_data: bytes) -> bytes:
    """A TDX quote, version 4."""
    return bytes([4]).ljust(568, b"\1") + report_data + bytes(128)


def tdx_v5(report_data: bytes) -> bytes:
    """A TDX quote, version 5."""
    return bytes([5]).ljust(574, b"\1") + report_data + bytes(128)


def sgx(report_data: bytes) -> bytes:
    """An SGX quote, version 3."""
    return bytes([3]).ljust(368, b"\1") + report_data + bytes(128)


def token(report_data: bytes) -> bytes:
    """A token or document that holds the report data somewhere."""
    return b"\xd2\x84" + report_data + b"signature"


def os_error(number: int) -> OSError:
    """What a system call raises."""
    return OSError(number, os.strerror(number))


BUSY = os_error(errno.EBUSY)
