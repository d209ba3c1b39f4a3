"""Rules for TDX and SGX: what a policy does not accept is a finding, and all of them are told."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import pytest

from hwtrust.errors import MalformedError
from hwtrust.verify.attestation import VERIFIED
from hwtrust.verify.enclaves import sgx_rules, tdx_rules
from hwtrust.verify.enclaves.dcap import DcapPlatform
from hwtrust.verify.enclaves.rtmr import (
    explained,
    from_ccel,
    from_pcrs,
    replay,
    rtmr_of_mr_index,
    rtmr_of_pcr,
)
from hwtrust.verify.enclaves.sgx import SgxClaims
from hwtrust.verify.enclaves.sgx_rules import SgxRules, appraise_sgx
from hwtrust.verify.enclaves.tdx import TdxClaims
from hwtrust.verify.enclaves.tdx_rules import (
    KEY_LOCKER,
    MOST_EVENTS,
    PERFMON,
    PKS,
    TdxRules,
    appraise_tdx,
)
from hwtrust.wire.enclaves.dcap import EnclaveReport, TdReport
from hwtrust.wire.messages import Severity
from simulators.dcap_signer import SEPT_VE_DISABLE, TEE_TCB_SVN, enclave_report, td_report

PLATFORM = DcapPlatform(
    tcb_status="UpToDate",
    platform_tcb_status="UpToDate",
    qe_tcb_status="UpToDate",
    advisory_ids=(),
    tcb_evaluation_data_number=18,
    collateral_expires=0,
    fmspc=bytes(6),
    pce_id=bytes(2),
    ppid=bytes(16),
    cpu_svn=bytes(16),
    pce_svn=13,
    sgx_type=0,
    dynamic_platform=False,
    cached_keys=None,
    smt_enabled=False,
)
COMMON: dict[str, Any] = {
    "accepted_tcb_statuses": ["UpToDate"],
    "tcb_evaluation_data_number_floor": 18,
}
TD = TdReport.decode(td_report())
ENCLAVE = EnclaveReport.decode(enclave_report())
TDX_TABLE: dict[str, Any] = {
    **COMMON,
    "mr_td": [TD.mr_td.hex().upper(), "00" * 48],
    **{f"rtmr{n}": [value.hex()] for n, value in enumerate(TD.rtmrs)},
    "mr_seam": [TD.mr_seam.hex()],
    "xfam": [f"0x{TD.xfam:016X}"],
    "tee_tcb_svn_floor": TEE_TCB_SVN.hex(),
}
SGX_TABLE: dict[str, Any] = {
    **COMMON,
    "mr_enclave": [ENCLAVE.mr_enclave.hex()],
    "mr_signer": [ENCLAVE.mr_signer.hex().upper()],
    "isv_prod_id": [7],
    "isv_svn_floor": 3,
    "xfrm": f"0x{ENCLAVE.xfrm:016x}",
}
NOTHING = object()
"""In the place of a rule that is not there."""


def table(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A table of a policy with changes."""
    return {name: value for name, value in (base | changes).items() if value is not NOTHING}


def tdx(
    report: dict[str, Any] | None = None,
    *,
    platform: dict[str, Any] | None = None,
    log: tuple[tuple[int, bytes], ...] = (),
    **rules: object,
) -> list[str]:
    """The codes of what is found in a TD that is good but for the changes."""
    claims = TdxClaims(
        report=TdReport.decode(td_report(**(report or {}))),
        platform=msgspec.structs.replace(PLATFORM, **(platform or {})),
        verified=VERIFIED,
    )
    read = msgspec.convert(table(TDX_TABLE, rules), TdxRules)
    found = appraise_tdx(claims, rules=read, log=log)
    assert all(tdx_rules.FINDINGS[each.code][0] is each.severity for each in found)
    return [each.code for each in found]


def sgx(
    report: dict[str, Any] | None = None,
    *,
    platform: dict[str, Any] | None = None,
    **rules: object,
) -> list[str]:
    """The codes of what is found in an enclave that is good but for the changes."""
    claims = SgxClaims(
        report=EnclaveReport.decode(enclave_report(**(report or {}))),
        platform=msgspec.structs.replace(PLATFORM, **(platform or {})),
        verified=VERIFIED,
    )
    read = msgspec.convert(table(SGX_TABLE, rules), SgxRules)
    found = appraise_sgx(claims, rules=read)
    assert all(sgx_rules.FINDINGS[each.code][0] is each.severity for each in found)
    return [each.code for each in found]


def test_what_is_accepted_gives_no_finding() -> None:
    """Neither a TD nor an enclave, with values in either case of hex."""
    assert tdx() == []
    assert tdx({"tee_tcb_svn2": TEE_TCB_SVN}) == []
    assert sgx() == []


def test_an_empty_policy_refuses_everything() -> None:
    """Each field that it does not have is told."""
    td = TdxClaims(report=TD, platform=PLATFORM, verified=VERIFIED)
    found = appraise_tdx(td, rules=TdxRules())
    assert [each.code for each in found] == ["tdx:absent"] * 10
    enclave = SgxClaims(report=ENCLAVE, platform=PLATFORM, verified=VERIFIED)
    found = appraise_sgx(enclave, rules=SgxRules())
    assert [each.code for each in found] == ["sgx:absent"] * 4
    assert {each.severity for each in found} == {Severity.FAIL}


@pytest.mark.parametrize("name", TDX_TABLE)
def test_each_field_that_a_tdx_policy_lacks_is_a_finding(name: str) -> None:
    """An absent field accepts nothing."""
    rules: dict[str, Any] = {name: NOTHING}
    assert tdx(**rules) == ["tdx:absent"]


@pytest.mark.parametrize("name", [n for n in SGX_TABLE if n not in {"mr_enclave", "mr_signer"}])
def test_each_field_that_an_sgx_policy_lacks_is_a_finding(name: str) -> None:
    """An absent field accepts nothing."""
    rules: dict[str, Any] = {name: NOTHING}
    assert sgx(**rules) == ["sgx:absent"]


def test_an_enclave_is_named_by_itself_or_by_its_vendor() -> None:
    """By one of the two at least; a vendor without a product and a version is no name."""
    by_itself: dict[str, Any] = {
        "mr_signer": NOTHING,
        "isv_prod_id": NOTHING,
        "isv_svn_floor": NOTHING,
    }
    assert sgx(**by_itself) == []
    assert sgx(mr_enclave=NOTHING) == []
    assert sgx(**by_itself, mr_enclave=NOTHING) == ["sgx:absent"]
    assert sgx(mr_enclave=NOTHING, isv_prod_id=NOTHING, isv_svn_floor=NOTHING) == [
        "sgx:absent",
        "sgx:absent",
    ]


OTHER = b"\1" * 48
TDX_CASES: dict[str, tuple[list[str], dict[str, Any], dict[str, Any]]] = {
    "another TD": (["tdx:mr-td"], {"mr_td": OTHER}, {}),
    "another configuration": (["tdx:mr-config-id"], {"mr_config_id": OTHER}, {}),
    "an accepted configuration": ([], {"mr_config_id": OTHER}, {"mr_config_id": [OTHER.hex()]}),
    "zeros where a configuration is named": (
        ["tdx:mr-config-id"],
        {},
        {"mr_config_id": [OTHER.hex()]},
    ),
    "another owner": (["tdx:mr-owner"], {"mr_owner": OTHER}, {}),
    "an accepted owner": ([], {"mr_owner": OTHER}, {"mr_owner": [OTHER.hex()]}),
    "another configuration by the owner": (
        ["tdx:mr-owner-config"],
        {"mr_owner_config": OTHER},
        {},
    ),
    "another TDX module": (["tdx:mr-seam"], {"mr_seam": OTHER}, {}),
    "any TDX module, spelled out": (
        [],
        {"mr_seam": OTHER},
        {"mr_seam": NOTHING, "unsafe_any_mr_seam": True},
    ),
    "somebody else's TDX module": (["tdx:mr-signer-seam"], {"mr_signer_seam": OTHER}, {}),
    "a TDX module with attributes": (["tdx:seam-attributes"], {"seam_attributes": 1}, {}),
    "a service TD": (
        ["tdx:service-td"],
        {"tee_tcb_svn2": TEE_TCB_SVN, "mr_service_td": OTHER},
        {},
    ),
    "debug mode": (["tdx:debug"], {"td_attributes": SEPT_VE_DISABLE | 1}, {}),
    "another attribute that ends trust": (
        ["tdx:debug"],
        {"td_attributes": SEPT_VE_DISABLE | 1 << 7},
        {},
    ),
    "no SEPT_VE_DISABLE": (["tdx:attributes"], {"td_attributes": 0}, {}),
    "protection keys": (["tdx:attributes"], {"td_attributes": SEPT_VE_DISABLE | PKS}, {}),
    "protection keys that are allowed": (
        [],
        {"td_attributes": SEPT_VE_DISABLE | PKS},
        {"allow_pks": True},
    ),
    "Key Locker": (["tdx:attributes"], {"td_attributes": SEPT_VE_DISABLE | KEY_LOCKER}, {}),
    "Key Locker that is allowed": (
        [],
        {"td_attributes": SEPT_VE_DISABLE | KEY_LOCKER},
        {"allow_key_locker": True},
    ),
    "performance monitoring": (
        ["tdx:attributes"],
        {"td_attributes": SEPT_VE_DISABLE | PERFMON},
        {"allow_pks": True, "allow_key_locker": True},
    ),
    "performance monitoring that is allowed": (
        [],
        {"td_attributes": SEPT_VE_DISABLE | PERFMON},
        {"allow_perfmon": True},
    ),
    "a reserved attribute": (
        ["tdx:attributes"],
        {"td_attributes": SEPT_VE_DISABLE | 1 << 29},
        {"allow_pks": True, "allow_key_locker": True, "allow_perfmon": True},
    ),
    "other processor features": (["tdx:xfam"], {"xfam": 3}, {}),
    "a version below its floor, others above": (
        ["tdx:tcb-svn"],
        {"tee_tcb_svn": b"\xff" * 15 + b"\0"},
        {"tee_tcb_svn_floor": "00" * 15 + "01"},
    ),
    "a version above its floor": ([], {"tee_tcb_svn": b"\xff" * 16}, {}),
    "a second version below its floor": (
        ["tdx:tcb-svn"],
        {"tee_tcb_svn2": bytes(16)},
        {},
    ),
    **{f"another value of RTMR {n}": (["tdx:rtmr"], {f"rtmr{n}": OTHER}, {}) for n in range(4)},
    **{
        f"any value of RTMR {n}, spelled out": (
            [],
            {f"rtmr{n}": OTHER},
            {f"rtmr{n}": NOTHING, "unsafe_any_rtmr": [str(n)]},
        )
        for n in range(4)
    },
    "any value of another RTMR": (["tdx:rtmr"], {"rtmr3": OTHER}, {"unsafe_any_rtmr": ["2"]}),
    "everything at once": (
        ["tdx:mr-td", "tdx:rtmr", "tdx:mr-owner", "tdx:mr-seam"],
        {"mr_td": OTHER, "rtmr2": OTHER, "mr_owner": OTHER, "mr_seam": OTHER},
        {},
    ),
}


@pytest.mark.parametrize(("codes", "report", "rules"), TDX_CASES.values(), ids=TDX_CASES)
def test_a_td_that_differs_is_found(
    codes: list[str], report: dict[str, Any], rules: dict[str, Any]
) -> None:
    """And nothing but what differs."""
    assert tdx(report, **rules) == codes


SGX_CASES: dict[str, tuple[list[str], dict[str, Any], dict[str, Any]]] = {
    "another enclave": (["sgx:mr-enclave"], {"mr_enclave": b"\1" * 32}, {}),
    "another vendor": (["sgx:mr-signer"], {"mr_signer": b"\1" * 32}, {}),
    "another product": (["sgx:isv-prod-id"], {"isv_prod_id": 8}, {}),
    "an older version": (["sgx:isv-svn"], {"isv_svn": 2}, {}),
    "a newer version": ([], {"isv_svn": 4}, {}),
    "debug mode": (["sgx:debug"], {"attributes": 0x07}, {}),
    "debug mode under a mask of nothing": (
        ["sgx:debug"],
        {"attributes": 0x07},
        {"attributes_mask": "0x" + "00" * 8},
    ),
    "debug mode that is asked for": (
        ["sgx:debug"],
        {"attributes": 0x07},
        {"attributes": "0x0000000000000007"},
    ),
    "the key for provisioning": (["sgx:attributes"], {"attributes": 0x15}, {}),
    "the key for provisioning, accepted": (
        [],
        {"attributes": 0x15},
        {"attributes": "0x0000000000000015"},
    ),
    "the key for provisioning, masked": (
        [],
        {"attributes": 0x15},
        {"attributes_mask": "0xffffffffffffffef"},
    ),
    "not in 64-bit mode": (["sgx:attributes"], {"attributes": 0x01}, {}),
    "other processor features": (["sgx:xfrm"], {"xfrm": 0x3}, {}),
    "other processor features, masked": (
        [],
        {"xfrm": 0x3},
        {"xfrm_mask": "0x0000000000000003"},
    ),
    "extended features": (["sgx:misc-select"], {"misc_select": 1}, {}),
    "extended features, accepted": ([], {"misc_select": 1}, {"misc_select": "0x00000001"}),
    "extended features, masked": ([], {"misc_select": 1}, {"misc_select_mask": "0xfffffffe"}),
    "another configuration": (["sgx:config-id"], {"config_id": b"\1" * 64}, {}),
    "an accepted configuration": (
        [],
        {"config_id": b"\1" * 64},
        {"config_id": ["01" * 64]},
    ),
    "a version of the configuration": (["sgx:config-svn"], {"config_svn": 1}, {}),
    "an older configuration": (["sgx:config-svn"], {"config_svn": 1}, {"config_svn_floor": 2}),
    "a newer configuration": ([], {"config_svn": 3}, {"config_svn_floor": 2}),
    "the oldest configuration that is accepted": (
        [],
        {"config_svn": 2},
        {"config_svn_floor": 2},
    ),
}


@pytest.mark.parametrize(("codes", "report", "rules"), SGX_CASES.values(), ids=SGX_CASES)
def test_an_enclave_that_differs_is_found(
    codes: list[str], report: dict[str, Any], rules: dict[str, Any]
) -> None:
    """And nothing but what differs."""
    assert sgx(report, **rules) == codes


PLATFORM_CASES: dict[str, tuple[list[str], dict[str, Any], dict[str, Any]]] = {
    "the quote's status": (["tcb"], {"tcb_status": "OutOfDate"}, {}),
    "the platform's status": (["tcb"], {"platform_tcb_status": "OutOfDate"}, {}),
    "the quoting enclave's status": (["tcb"], {"qe_tcb_status": "OutOfDate"}, {}),
    "a status that is accepted": (
        [],
        {"tcb_status": "OutOfDate", "platform_tcb_status": "OutOfDate"},
        {"accepted_tcb_statuses": ["UpToDate", "OutOfDate"]},
    ),
    "no status is accepted": (["tcb"] * 3, {}, {"accepted_tcb_statuses": []}),
    "an advisory": (["advisory"], {"advisory_ids": ("INTEL-SA-00001",)}, {}),
    "an advisory that is accepted": (
        [],
        {"advisory_ids": ("INTEL-SA-00001",)},
        {"accepted_advisories": ["INTEL-SA-00001"]},
    ),
    "an advisory that is not accepted beside one that is": (
        ["advisory"],
        {"advisory_ids": ("INTEL-SA-00001", "INTEL-SA-00002")},
        {"accepted_advisories": ["INTEL-SA-00001"]},
    ),
    "any advisory, spelled out": (
        [],
        {"advisory_ids": ("INTEL-SA-00001",)},
        {"unsafe_any_advisory": True},
    ),
    "any advisory but one": (
        ["advisory"],
        {"advisory_ids": ("INTEL-SA-00001", "INTEL-SA-00002")},
        {"unsafe_any_advisory": True, "refused_advisories": ["INTEL-SA-00002"]},
    ),
    "an advisory that is accepted and refused": (
        ["advisory"],
        {"advisory_ids": ("INTEL-SA-00001",)},
        {
            "accepted_advisories": ["INTEL-SA-00001"],
            "refused_advisories": ["INTEL-SA-00001"],
        },
    ),
    "an older evaluation": (["collateral"], {"tcb_evaluation_data_number": 17}, {}),
    "a newer evaluation": ([], {"tcb_evaluation_data_number": 19}, {}),
    "a dynamic platform": (["platform"], {"dynamic_platform": True}, {}),
    "cached keys": (["platform"], {"cached_keys": True}, {}),
    "hyper-threading": (["platform"], {"smt_enabled": True}, {}),
    "all three, allowed": (
        [],
        {"dynamic_platform": True, "cached_keys": True, "smt_enabled": True},
        {"allow_dynamic_platform": True, "allow_cached_keys": True, "allow_smt": True},
    ),
    "each, where only the others are allowed": (
        ["platform"],
        {"dynamic_platform": True, "cached_keys": True, "smt_enabled": True},
        {"allow_dynamic_platform": True, "allow_smt": True},
    ),
    "nothing that is said of it": (
        [],
        {"dynamic_platform": None, "cached_keys": None, "smt_enabled": None},
        {},
    ),
}


@pytest.mark.parametrize(
    ("problems", "platform", "rules"), PLATFORM_CASES.values(), ids=PLATFORM_CASES
)
def test_a_platform_that_is_not_accepted_is_found(
    problems: list[str], platform: dict[str, Any], rules: dict[str, Any]
) -> None:
    """The same for TDs and enclaves: dcap-qvl's word that a quote is authentic is no more."""
    assert tdx(platform=platform, **rules) == [f"tdx:{problem}" for problem in problems]
    assert sgx(platform=platform, **rules) == [f"sgx:{problem}" for problem in problems]


@pytest.mark.parametrize(
    "rules",
    [
        {"mr_td": ["00"]},
        {"mr_td": "00" * 48},
        {"mr_tdx": ["00" * 48]},
        {"accepted_tcb_statuses": ["Revoked"]},
        {"unsafe_any_rtmr": ["4"]},
        {"tee_tcb_svn_floor": "00" * 15},
        {"xfam": ["602e7"]},
        {"unsafe_allow_debug": True},
    ],
)
def test_a_policy_that_cannot_be_meant_is_refused(rules: dict[str, Any]) -> None:
    """Digests of another size, misspelled fields, and what cannot be allowed."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(rules, TdxRules)


@pytest.mark.parametrize(
    "rules",
    [
        {"mr_enclave": ["00" * 31]},
        {"mr_signer": ["00" * 33]},
        {"config_id": ["00" * 63]},
        {"config_id": ["0x" * 64]},
        {"attributes": "05"},
        {"xfrm": "0x" + "00" * 7},
        {"misc_select": "0x" + "00" * 8},
        {"mr_enclav": []},
        {"unsafe_allow_debug": True},
    ],
)
def test_a_policy_for_enclaves_that_cannot_be_meant_is_refused(rules: dict[str, Any]) -> None:
    """The same, with the sizes of SGX."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(rules, SgxRules)


# --- run-time measurement registers --------------------------------------------------


def digest(number: int) -> bytes:
    """Of the event of that number."""
    return hashlib.sha384(b"%d" % number).digest()


LOG = tuple((number % 4, digest(number)) for number in range(12))


def test_a_log_is_replayed_into_four_registers() -> None:
    """RTMR = SHA384(RTMR || digest), from zeros on."""
    values = replay(LOG)
    expected = bytes(48)
    for number in (2, 6, 10):
        expected = hashlib.sha384(expected + digest(number)).digest()
    assert values[2] == expected
    assert len(values) == 4
    assert tuple(replay(())) == (bytes(48),) * 4


@pytest.mark.parametrize("event", [(4, digest(0)), (-1, digest(0)), (0, b""), (0, bytes(32))])
def test_what_cannot_be_extended_is_refused(event: tuple[int, bytes]) -> None:
    """Another register, or another size."""
    with pytest.raises(MalformedError):
        replay((event,))


def test_registers_of_the_firmwares_log_are_mapped() -> None:
    """EFI_CC_MR_INDEX 1 to 4, and the PCRs that UEFI names for each."""
    assert [rtmr_of_mr_index(index) for index in (1, 2, 3, 4)] == [0, 1, 2, 3]
    assert {pcr: rtmr_of_pcr(pcr) for pcr in range(1, 16)} == {
        1: 0,
        7: 0,
        **dict.fromkeys(range(2, 7), 1),
        **dict.fromkeys(range(8, 16), 2),
    }
    assert from_ccel([(1, digest(0)), (4, digest(1))]) == ((0, digest(0)), (3, digest(1)))
    assert from_pcrs([(7, digest(0)), (4, digest(1))]) == ((0, digest(0)), (1, digest(1)))


@pytest.mark.parametrize("number", [0, 5, -1, 2**32 - 1])
def test_an_index_of_no_register_is_refused(number: int) -> None:
    """MRTD is one: it is not extended at run time."""
    with pytest.raises(MalformedError):
        rtmr_of_mr_index(number)


@pytest.mark.parametrize("number", [0, 16, 23, -1])
def test_a_pcr_without_a_register_is_refused(number: int) -> None:
    """PCR 0 is MRTD."""
    with pytest.raises(MalformedError):
        rtmr_of_pcr(number)


def test_a_log_explains_a_register_by_its_beginning() -> None:
    """It goes on after the quote; a shorter one explains nothing."""
    value = replay(LOG[:8])[1]
    assert explained(LOG, rtmr=1, value=value) == [digest(1), digest(5)]
    assert explained(LOG[:4], rtmr=1, value=value) is None
    assert explained(LOG, rtmr=2, value=value) is None
    assert explained(LOG, rtmr=1, value=bytes(48)) == []
    assert explained(((0, digest(0)[:47]),), rtmr=0, value=digest(1)) is None
    short = hashlib.sha384(bytes(48) + b"x").digest()
    assert explained(((0, b"x"),), rtmr=0, value=short) is None


EVENTS = {"2": [digest(n).hex() for n in (2, 6, 10)]}


def with_log(
    log: tuple[tuple[int, bytes], ...], value: bytes, events: dict[str, list[str]] | None = None
) -> list[str]:
    """The findings where RTMR 2 is explained by a log."""
    rules: dict[str, Any] = {
        "rtmr2": NOTHING,
        "rtmr_events": EVENTS if events is None else events,
    }
    return tdx({"rtmr2": value}, log=log, **rules)


def test_a_register_whose_events_are_all_accepted_is_accepted() -> None:
    """In any order, so long as the log gives the value that is signed."""
    assert with_log(LOG, replay(LOG)[2]) == []
    assert with_log(LOG[::-1], replay(LOG[::-1])[2]) == []
    assert with_log((*LOG, (2, digest(99))), replay(LOG)[2]) == []


def test_a_register_that_the_log_does_not_give_is_found() -> None:
    """Another order, one event too few, no log: each hides what was measured."""
    value = replay(LOG)[2]
    for log in (LOG[::-1], LOG[:10], ()):
        assert with_log(log, value) == ["tdx:log"]


def test_an_event_that_is_not_accepted_is_found() -> None:
    """Each of them, by its digest."""
    log = (*LOG, (2, digest(99)), (2, digest(98)))
    assert with_log(log, replay(log)[2]) == ["tdx:event", "tdx:event"]
    assert with_log(LOG, replay(LOG)[2], {"1": EVENTS["2"]}) == ["tdx:absent"]


def test_a_long_hostile_log_gives_few_findings() -> None:
    """The first are told, the others are counted."""
    log = tuple((2, digest(number)) for number in range(1000, 3000))
    assert with_log(log, replay(log)[2]) == ["tdx:event"] * (MOST_EVENTS + 1)


def test_a_value_or_events_may_explain_a_register() -> None:
    """A policy with both accepts by either."""
    value = replay(LOG)[2]
    both: dict[str, Any] = {"rtmr2": [OTHER.hex()], "rtmr_events": EVENTS}
    assert tdx({"rtmr2": value}, log=LOG, **both) == []
    assert tdx({"rtmr2": OTHER}, log=(), **both) == []
    assert tdx({"rtmr2": digest(0)}, log=LOG, **both) == ["tdx:log"]
