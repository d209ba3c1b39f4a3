"""RTMRs: a write extends, once, by 48 bytes; what did not happen is not reported as done."""

from __future__ import annotations

import errno
import hashlib

import pytest

from hwtrust.anchors.tdx import (
    DEVICE,
    EXTENDABLE,
    MEASUREMENTS,
    TdxMeasurer,
    td_registers,
    td_report,
    tdx_measurer,
)
from hwtrust.errors.anchors import (
    AnchorIoError,
    AnchorMissingError,
    AnchorPermissionError,
    AnchorProviderError,
    AnchorRegisterError,
    AnchorResponseError,
    AnchorStaleError,
    ReportDataError,
)
from simulators.fake_machine import FakeMachine, Forbidden
from simulators.fake_tdx import FakeMeasurements, FakeTdxGuest, TrustDomain
from unit.anchors.shapes import DATA, os_error

DIGEST = hashlib.sha384(b"layer").digest()


@pytest.fixture
def kernel() -> FakeMeasurements:
    """The registers of a trust domain."""
    return FakeMeasurements(TrustDomain())


@pytest.fixture
def measurer(kernel: FakeMeasurements) -> TdxMeasurer:
    """What extends them."""
    return tdx_measurer(FakeMachine({MEASUREMENTS: kernel}))


@pytest.mark.parametrize("register", EXTENDABLE)
def test_an_extend_is_one_write_of_the_digest(
    kernel: FakeMeasurements, measurer: TdxMeasurer, register: str
) -> None:
    """RTMR = SHA-384(RTMR || digest), and the new value is given."""
    expected = hashlib.sha384(bytes(48) + DIGEST).digest()
    assert measurer.extend(register, DIGEST) == expected
    assert measurer.read(register) == expected
    assert kernel.writes == [(f"{register}:sha384", DIGEST)]


@pytest.mark.parametrize("register", ["rtmr0", "rtmr1", "mrtd", "rtmr4", "rtmr3:sha384", "../x"])
def test_registers_of_the_firmware_are_not_extended(
    kernel: FakeMeasurements, measurer: TdxMeasurer, register: str
) -> None:
    """What the firmware measured there must stay explainable by its log."""
    with pytest.raises(AnchorRegisterError) as refused:
        measurer.extend(register, DIGEST)
    assert refused.value.code == "anchor:register"
    assert kernel.writes == []


@pytest.mark.parametrize("size", [0, 32, 47, 49, 64])
def test_only_48_bytes_are_written(
    kernel: FakeMeasurements, measurer: TdxMeasurer, size: int
) -> None:
    """A SHA-256 digest is refused before the kernel sees it."""
    with pytest.raises(AnchorRegisterError):
        measurer.extend("rtmr3", bytes(size))
    assert kernel.writes == []


def test_an_extend_that_changed_nothing_is_a_failure(
    kernel: FakeMeasurements, measurer: TdxMeasurer
) -> None:
    """A swallowed measurement would let the next layer run unmeasured."""
    kernel.swallows = True
    with pytest.raises(AnchorStaleError) as refused:
        measurer.extend("rtmr3", DIGEST)
    assert refused.value.code == "anchor:stale"


def test_an_extend_of_a_part_is_a_failure(kernel: FakeMeasurements, measurer: TdxMeasurer) -> None:
    """The write is one, and whole."""
    kernel.taken = 47
    with pytest.raises(AnchorIoError):
        measurer.extend("rtmr3", DIGEST)


@pytest.mark.parametrize("size", [0, 47])
def test_a_short_register_is_refused(
    kernel: FakeMeasurements, measurer: TdxMeasurer, size: int
) -> None:
    """What is not 48 bytes is no value."""
    kernel.short = size
    with pytest.raises(AnchorResponseError):
        measurer.read("rtmr3")


def test_fixed_registers_can_be_read(kernel: FakeMeasurements, measurer: TdxMeasurer) -> None:
    """MRTD and what the owner configured."""
    for register in ("mrtd", "mrconfigid", "mrowner", "mrownerconfig", "rtmr0"):
        assert len(measurer.read(register)) == 48
    with pytest.raises(AnchorRegisterError):
        measurer.read("rtmr9")
    assert kernel.writes == []


def test_an_older_kernel_does_not_extend() -> None:
    """Before Linux 6.16 there are no such files."""
    with pytest.raises(AnchorMissingError):
        tdx_measurer(FakeMachine({}))
    with pytest.raises(AnchorPermissionError):
        tdx_measurer(FakeMachine({MEASUREMENTS: Forbidden()}))


def test_a_tdreport_holds_report_data_and_registers() -> None:
    """The registers on kernels that do not show them otherwise."""
    domain = TrustDomain()
    port = FakeMachine({DEVICE: FakeTdxGuest(domain)})
    report = td_report(port, DATA)
    registers = td_registers(report)
    assert {f"{name}:sha384": registers[name] for name in ("rtmr0", "rtmr3", "mrtd")} == {
        name: domain.registers[name] for name in ("rtmr0:sha384", "rtmr3:sha384", "mrtd:sha384")
    }
    assert registers["mrowner"] == domain.registers["mrowner"]
    with pytest.raises(AnchorResponseError):
        td_registers(report[:-1])


def test_a_tdreport_for_other_report_data_is_refused() -> None:
    """And one without 64 bytes is not asked for."""
    device = FakeTdxGuest(TrustDomain())
    device.other = True
    port = FakeMachine({DEVICE: device})
    with pytest.raises(AnchorStaleError):
        td_report(port, DATA)
    with pytest.raises(ReportDataError):
        td_report(port, DATA[:-1])
    port.cut_off, port.cut = 0, os_error(errno.ENOTTY)
    with pytest.raises(AnchorProviderError):
        td_report(port, DATA)
