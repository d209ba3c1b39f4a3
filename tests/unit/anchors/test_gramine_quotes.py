"""Gramine: the quote is for the report data that was just written, or there is none."""

from __future__ import annotations

import errno

import pytest

from hwtrust.anchors.gramine import MAX_QUOTE, GramineAttester, GramineFiles
from hwtrust.anchors.protocols import Kind
from hwtrust.errors.anchors import (
    AnchorIoError,
    AnchorMissingError,
    AnchorProviderError,
    AnchorResponseError,
    AnchorStaleError,
    EmptyReportError,
    ReportDataError,
)
from hwtrust.wire.cmw import MediaType
from simulators.fake_gramine import FILES, FakeGramine
from simulators.fake_machine import FakeMachine
from unit.anchors.shapes import DATA, OTHER, os_error, sgx


@pytest.fixture
def kernel() -> FakeGramine:
    """An enclave."""
    return FakeGramine(sgx)


@pytest.fixture
def port(kernel: FakeGramine) -> FakeMachine:
    """What it runs in."""
    return FakeMachine({FILES: kernel})


@pytest.fixture
def attester(port: FakeMachine) -> GramineAttester:
    """What makes quotes."""
    return GramineAttester(GramineFiles(port))


def test_report_data_is_written_before_the_quote(
    port: FakeMachine, attester: GramineAttester
) -> None:
    """In this order, or the quote answers the request before."""
    made = attester.attest(DATA)
    assert (made.kind, made.media_type, made.evidence) == (Kind.SGX, MediaType.SGX, sgx(DATA))
    steps = [f"{call} {path.removeprefix(f'{FILES}/')}" for call, path in port.calls]
    assert steps == [
        "read attestation_type",
        "write user_report_data",
        "read user_report_data",
        "read quote",
    ]


def test_two_quotes_answer_two_requests(attester: GramineAttester) -> None:
    """Nothing of the first is left in the second."""
    assert attester.attest(DATA).evidence != attester.attest(OTHER).evidence


@pytest.mark.parametrize("size", [0, 32, 63, 65, 128])
def test_report_data_has_64_bytes(port: FakeMachine, attester: GramineAttester, size: int) -> None:
    """Gramine would cut it, or fill it up, without a word."""
    with pytest.raises(ReportDataError):
        attester.attest(bytes(size))
    assert [call for call, _ in port.calls] == ["read"]


def test_report_data_that_did_not_arrive_is_noticed(
    kernel: FakeGramine, port: FakeMachine, attester: GramineAttester
) -> None:
    """Before a quote is asked for."""
    kernel.deaf = True
    with pytest.raises(AnchorStaleError):
        attester.attest(DATA)
    assert ("read", f"{FILES}/quote") not in port.calls


def test_a_quote_for_other_report_data_is_refused(
    kernel: FakeGramine, attester: GramineAttester
) -> None:
    """Another thread wrote between."""
    kernel.race = lambda: kernel.held.update(user_report_data=OTHER)
    with pytest.raises(AnchorStaleError) as refused:
        attester.attest(DATA)
    assert refused.value.code == "anchor:stale"


def test_a_quote_that_is_cut_short_is_refused(
    kernel: FakeGramine, attester: GramineAttester
) -> None:
    """Or empty, or endless."""
    kernel.short = 0
    with pytest.raises(EmptyReportError):
        attester.attest(DATA)
    for size in (1, 367, 431):
        kernel.short = size
        with pytest.raises(AnchorResponseError):
            attester.attest(DATA)
    kernel.short = None
    kernel.signer = lambda data: sgx(data).ljust(MAX_QUOTE + 1)
    with pytest.raises(AnchorResponseError):
        attester.attest(DATA)


def test_without_attestation_there_is_no_quote(
    kernel: FakeGramine, attester: GramineAttester
) -> None:
    """Gramine without SGX has the files, too."""
    kernel.attestation_type = "none"
    with pytest.raises(AnchorProviderError):
        attester.attest(DATA)
    with pytest.raises(AnchorMissingError):
        GramineFiles(FakeMachine({})).attestation_type()


def test_each_failing_call_is_coded(port: FakeMachine, attester: GramineAttester) -> None:
    """Whichever file fails."""
    for nth in range(4):
        port.cut_off, port.cut = nth, os_error(errno.EIO)
        with pytest.raises(AnchorIoError):
            attester.attest(DATA)


def test_versions_come_from_a_report_to_itself(kernel: FakeGramine, port: FakeMachine) -> None:
    """CPU and enclave SVN."""
    assert GramineFiles(port).versions() == (kernel.cpu_svn, kernel.isv_svn)
