"""A GPU's report is read as it is, and anything else is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hwtrust.errors import MalformedError, UnsupportedError, WireError
from hwtrust.wire.enclaves.nvidia import MAX_REPORT, GpuReport
from simulators.nvidia_signer import DRIVER_VERSION, FWID, VBIOS_VERSION, GpuSigner

GPU = GpuSigner()
NONCE = bytes(range(32))
REPORT = GPU.report(NONCE)


def test_a_report_says_what_the_gpu_told() -> None:
    """Nonce, measurements by index, versions as NVIDIA's tools write them."""
    found = GpuReport.decode(REPORT)
    assert found.nonce == NONCE
    assert dict(found.measurements) == dict(GPU.measurements)
    assert (found.driver_version, found.vbios_version) == ("550.90.07", "96.00.9F.00.01")
    assert found.firmware_id == FWID
    assert found.signed + found.signature == REPORT
    assert found.facts()["driver_version"] == "550.90.07"


def test_versions_that_are_not_told_are_empty() -> None:
    """So are those that are no text, or of another size."""
    for fields in ((), ((DRIVER_VERSION, b"a\nb"), (VBIOS_VERSION, b"1234"))):
        found = GpuReport.decode(replace(GPU, fields=fields).report(NONCE))
        assert (found.driver_version, found.vbios_version, found.firmware_id) == ("", "", b"")


TWICE = (GPU.measurements[0], GPU.measurements[0])
BAD = {
    "another version": (GPU.report(NONCE, version=0x12), UnsupportedError),
    "a response of another version": (GPU.report(NONCE, response_version=0x12), MalformedError),
    "a request for something else": (GPU.report(NONCE, code=0xE1), MalformedError),
    "a response that is an error": (GPU.report(NONCE, response_code=0x7F), MalformedError),
    "a request without a signature": (GPU.report(NONCE, wanted=2), UnsupportedError),
    "a response of another slot": (GPU.report(NONCE, response_slot=1), MalformedError),
    "a measurement of another form": (GPU.report(NONCE, form=2), UnsupportedError),
    "sizes that do not agree": (GPU.report(NONCE, size_off=1), MalformedError),
    "more measurements than it says": (GPU.report(NONCE, count_off=-1), MalformedError),
    "fewer measurements than it says": (GPU.report(NONCE, count_off=1), MalformedError),
    "opaque data longer than there is": (GPU.report(NONCE, opaque_off=1), MalformedError),
    "something behind the opaque data": (GPU.report(NONCE, opaque_off=-1), MalformedError),
    "a measurement twice": (replace(GPU, measurements=TWICE).report(NONCE), MalformedError),
    "a field twice": (replace(GPU, fields=((3, b"a"), (3, b"a"))).report(NONCE), MalformedError),
    "a field cut short": (
        GPU.sign(replace(GPU, fields=((3, b"abc"),)).body(NONCE, opaque_off=-1)[:-1]),
        MalformedError,
    ),
    "half a field's head": (
        GPU.sign(replace(GPU, fields=((3, b""),)).body(NONCE, opaque_off=-1)[:-1]),
        MalformedError,
    ),
    "far too many bytes": (REPORT + bytes(MAX_REPORT), MalformedError),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_report_is_refused(case: str) -> None:
    """By form; nothing of it is looked at."""
    data, error = BAD[case]
    with pytest.raises(WireError) as refused:
        GpuReport.decode(data)
    assert type(refused.value) is error


def test_every_cut_of_a_report_is_refused() -> None:
    """A report ends where it ends."""
    for end in range(len(REPORT)):
        with pytest.raises(WireError):
            GpuReport.decode(REPORT[:end])
    with pytest.raises(MalformedError):
        GpuReport.decode(REPORT + b"\0")
