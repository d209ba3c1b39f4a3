"""What dcap-qvl says of a platform is taken over as it says it, or refused."""

from __future__ import annotations

import json
from typing import Any

import dcap_qvl  # type: ignore[import-untyped]  # it ships no py.typed
import pytest

from hwtrust.errors.dcap import DcapError, DcapPlatformError, DcapVerifierError
from hwtrust.verify.enclaves.dcap import DcapPlatform, DcapTrust, Unsafe
from hwtrust.verify.enclaves.tdx import verify_tdx
from hwtrust.wire.enclaves.dcap import Collateral, Quote
from simulators.dcap_signer import NOW, DcapSigner, td_report

SIGNER = DcapSigner()
QUOTE = SIGNER.tdx(td_report())
COLLATERAL = SIGNER.collateral("tdx")


def platform_of(answer: str | Exception, collateral: bytes = COLLATERAL) -> DcapPlatform:
    """The platform of the good quote, where dcap-qvl answers so."""

    class Claims:
        def to_json(self) -> str:
            if isinstance(answer, Exception):
                raise answer
            return answer

    class Verifier:
        def __init__(self, root: bytes) -> None:
            assert root == SIGNER.root.der

        def verify_with_policy(self, *_: object) -> Claims:
            return Claims()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dcap_qvl, "QuoteVerifier", Verifier)
        return verify_tdx(
            Quote.decode(QUOTE),
            collateral=Collateral.decode(collateral),
            report_data=Unsafe.NO_REPORT_DATA,
            now=NOW,
            trust=DcapTrust.of(SIGNER.root.der),
        ).platform


def claims() -> dict[str, Any]:
    """What dcap-qvl says of the good quote."""
    seconds = int(NOW.timestamp())
    found: dict[str, Any] = json.loads(
        dcap_qvl.QuoteVerifier(SIGNER.root.der)
        .verify_with_policy(
            QUOTE,
            dcap_qvl.QuoteCollateralV3.from_json(COLLATERAL.decode()),
            seconds,
            dcap_qvl.QuotePolicy.claims_only(seconds),
        )
        .to_json()
    )
    return found


def test_statuses_and_advisories_are_those_of_each_part() -> None:
    """The quote's, the platform's and the quoting enclave's; an advisory is told once."""
    said = claims()
    said["tcb"] |= {"status": "OutOfDate", "advisory_ids": ["A", "B"]}
    said["platform"]["tcb_level"] |= {"tcbStatus": "SWHardeningNeeded", "advisoryIDs": ["B", "C"]}
    said["qe"]["tcb_level"] |= {"tcbStatus": "ConfigurationNeeded", "advisoryIDs": ["D", "A"]}
    found = platform_of(json.dumps(said))
    assert found.tcb_status == "OutOfDate"
    assert found.platform_tcb_status == "SWHardeningNeeded"
    assert found.qe_tcb_status == "ConfigurationNeeded"
    assert found.advisory_ids == ("A", "B", "C", "D")


@pytest.mark.parametrize(("info", "identity"), [(17, 18), (18, 17)])
def test_the_older_part_of_the_collateral_counts(info: int, identity: int) -> None:
    """Its evaluation, and its end, whichever of the two it is."""
    said = claims()
    said["tcb"]["eval_data_number"] = said["earliest_expiration_date"] = info
    said["qe"]["tcb_eval_data_number"] = said["qe_iden_earliest_expiration_date"] = identity
    found = platform_of(json.dumps(said))
    assert found.tcb_evaluation_data_number == 17
    assert found.collateral_expires == 17_000


@pytest.mark.parametrize("name", ["fmspc", "pce_id"])
def test_tcb_info_for_another_platform_is_refused_by_hwtrust_too(name: str) -> None:
    """Not by the library alone, which reads both."""
    said = claims()
    said["platform"]["pck"][name][-1] ^= 1
    with pytest.raises(DcapPlatformError):
        platform_of(json.dumps(said))


def test_tcb_info_may_be_in_capital_letters() -> None:
    """As Intel's is."""
    said = claims()
    said["platform"]["pck"]["pce_id"] = [0, 0xAB]
    collateral = SIGNER.collateral("tdx", tcb_info={"pceId": "00AB"})
    assert platform_of(json.dumps(said), collateral).pce_id == b"\0\xab"


@pytest.mark.parametrize("byte", [-1, 256])
@pytest.mark.parametrize("name", ["fmspc", "pce_id", "ppid", "cpu_svn"])
def test_what_is_no_byte_is_an_error_of_ours(name: str, byte: int) -> None:
    """The library writes bytes as numbers."""
    said = claims()
    said["platform"]["pck"][name][0] = byte
    with pytest.raises(DcapVerifierError):
        platform_of(json.dumps(said))


def test_a_td_whose_report_is_read_in_the_form_of_another_version_is_refused() -> None:
    """A TD 1.0 is no TD 1.5, whatever its fields are."""
    said = claims()
    said["report"] = {"TD15": said["report"]["TD10"]}
    with pytest.raises(DcapVerifierError):
        platform_of(json.dumps(said))


def test_what_the_library_says_is_cut() -> None:
    """It repeats what is in the evidence."""
    with pytest.raises(DcapError) as refused:
        platform_of(ValueError("x" * 10_000))
    assert len(refused.value.message) < 400
