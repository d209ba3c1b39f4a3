"""Is this TD one that is accepted? Claims and rules in, findings out.

Rules:
1. A TD in debug mode is never accepted; nor is one without SEPT_VE_DISABLE, with
   attributes that are not allowed by name, or with a service TD. The module that
   runs it has no attributes.
2. Each run-time register holds an accepted value, or is explained by the log: the
   first events of it give the value that is signed, and each of them is accepted.
   What a log says beyond that happened after the quote.
3. Security versions are compared one by one: none may be below its floor.

`FINDINGS` documents every code; no other leaves this module.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

from hwtrust.verify.enclaves.dcap_rules import (
    Bits64,
    DcapRules,
    Notes,
    Sha384Hex,
    common_findings,
    of_platform,
)
from hwtrust.verify.enclaves.rtmr import explained
from hwtrust.wire.messages import Severity

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hwtrust.verify.enclaves.rtmr import Extend
    from hwtrust.verify.enclaves.tdx import TdxClaims
    from hwtrust.wire.enclaves.dcap import TdReport
    from hwtrust.wire.messages import Finding

DEBUG: Final = 0xFF
"""The group TUD of the attributes: bit 0 is DEBUG, the others may mean no better."""
SEPT_VE_DISABLE: Final = 1 << 28
PKS: Final = 1 << 30
KEY_LOCKER: Final = 1 << 31
PERFMON: Final = 1 << 63

MOST_EVENTS: Final = 64
"""So many events of a register are told as findings; the others are counted."""

Rtmr = Literal["0", "1", "2", "3"]
SvnHex = Annotated[str, msgspec.Meta(pattern="^[0-9a-fA-F]{32}$")]

FINDINGS: Final[Mapping[str, tuple[Severity, str]]] = MappingProxyType(
    {
        **dict(common_findings("tdx")),
        "tdx:attributes": (Severity.FAIL, "the TD has attributes that are not accepted"),
        "tdx:event": (Severity.FAIL, "an event was measured that is not accepted"),
        "tdx:log": (Severity.FAIL, "the log does not give the value that is signed"),
        "tdx:mr-config-id": (Severity.FAIL, "the TD has another configuration"),
        "tdx:mr-owner": (Severity.FAIL, "the TD has another owner"),
        "tdx:mr-owner-config": (Severity.FAIL, "the owner has configured the TD otherwise"),
        "tdx:mr-seam": (Severity.FAIL, "another TDX module runs the TD"),
        "tdx:mr-signer-seam": (Severity.FAIL, "somebody else has signed the TDX module"),
        "tdx:mr-td": (Severity.FAIL, "the TD was built from something else"),
        "tdx:rtmr": (Severity.FAIL, "a run-time register holds a value that is not accepted"),
        "tdx:seam-attributes": (Severity.FAIL, "the TDX module has attributes"),
        "tdx:service-td": (Severity.FAIL, "a service TD is bound to the TD"),
        "tdx:tcb-svn": (Severity.FAIL, "a security version is below its floor"),
        "tdx:xfam": (Severity.FAIL, "the TD has other processor features"),
    }
)
"""What each code means, and how it weighs."""


class TdxRules(DcapRules, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is accepted of a TD. An absent field fails, unless it says otherwise."""

    mr_td: tuple[Sha384Hex, ...] | UnsetType = UNSET
    rtmr0: tuple[Sha384Hex, ...] | UnsetType = UNSET
    rtmr1: tuple[Sha384Hex, ...] | UnsetType = UNSET
    rtmr2: tuple[Sha384Hex, ...] | UnsetType = UNSET
    rtmr3: tuple[Sha384Hex, ...] | UnsetType = UNSET
    rtmr_events: dict[Rtmr, tuple[Sha384Hex, ...]] = msgspec.field(default_factory=dict)
    """Digests that may be extended into a register, in any order. Absent: values decide."""
    unsafe_any_rtmr: tuple[Rtmr, ...] = ()
    """Registers that may hold anything: whatever they measure is not looked at."""
    mr_config_id: tuple[Sha384Hex, ...] | UnsetType = UNSET
    """Absent: zeros."""
    mr_owner: tuple[Sha384Hex, ...] | UnsetType = UNSET
    """Absent: zeros."""
    mr_owner_config: tuple[Sha384Hex, ...] | UnsetType = UNSET
    """Absent: zeros."""
    mr_seam: tuple[Sha384Hex, ...] | UnsetType = UNSET
    unsafe_any_mr_seam: bool = False
    """Any TDX module of Intel's whose TCB status is accepted may run the TD."""
    mr_signer_seam: tuple[Sha384Hex, ...] | UnsetType = UNSET
    """Absent: zeros, which stand for Intel."""
    xfam: tuple[Bits64, ...] | UnsetType = UNSET
    tee_tcb_svn_floor: SvnHex | UnsetType = UNSET
    """Sixteen bytes, each of them a floor."""
    allow_pks: bool = False
    """Whether the TD may use supervisor protection keys. Absent: no."""
    allow_key_locker: bool = False
    """Whether the TD may use Key Locker. Absent: no."""
    allow_perfmon: bool = False
    """Whether the TD may use performance monitoring. Absent: no."""


def appraise_tdx(
    claims: TdxClaims, *, rules: TdxRules, log: Sequence[Extend] = ()
) -> tuple[Finding, ...]:
    """Everything in `claims` that `rules` do not accept.

    `log` are the extends of the run-time registers by their numbers, as
    `hwtrust.verify.enclaves.rtmr` makes them of an event log; it counts where the
    rules name events.
    """
    notes = Notes("tdx", FINDINGS)
    report = claims.report
    of_platform(notes, claims.platform, rules)
    _of_attributes(notes, report, rules)
    notes.one_of("mr_td", report.mr_td, rules.mr_td)
    for number, value in enumerate(report.rtmrs):
        _of_rtmr(notes, number, value, rules, log)
    notes.one_of_or_zero("mr_config_id", report.mr_config_id, rules.mr_config_id)
    notes.one_of_or_zero("mr_owner", report.mr_owner, rules.mr_owner)
    notes.one_of_or_zero("mr_owner_config", report.mr_owner_config, rules.mr_owner_config)
    if not rules.unsafe_any_mr_seam:
        notes.one_of("mr_seam", report.mr_seam, rules.mr_seam)
    notes.one_of_or_zero("mr_signer_seam", report.mr_signer_seam, rules.mr_signer_seam)
    _of_versions(notes, report, rules)
    return notes.all()


def _of_attributes(notes: Notes, report: TdReport, rules: TdxRules) -> None:
    # (1): attributes.
    attributes = report.td_attributes
    if attributes & DEBUG:
        notes.add("debug", "the TD is in debug mode")
    if not attributes & SEPT_VE_DISABLE:
        notes.add("attributes", "the TD runs without SEPT_VE_DISABLE")
    allowed = SEPT_VE_DISABLE | DEBUG
    for bit, is_allowed in (
        (PKS, rules.allow_pks),
        (KEY_LOCKER, rules.allow_key_locker),
        (PERFMON, rules.allow_perfmon),
    ):
        allowed |= bit if is_allowed else 0
    if others := attributes & ~allowed:
        notes.add("attributes", f"the TD has the attributes 0x{others:016x}")
    if report.seam_attributes:
        notes.add("seam-attributes", f"they are 0x{report.seam_attributes:016x}")
    if any(report.mr_service_td):
        notes.add("service-td", f"its measurement is {report.mr_service_td.hex()}")
    if isinstance(rules.xfam, UnsetType):
        notes.absent("xfam")
    elif report.xfam not in {int(value, 16) for value in rules.xfam}:
        notes.add("xfam", f"XFAM is 0x{report.xfam:016x}, which is not accepted")


def _of_rtmr(
    notes: Notes, number: int, value: bytes, rules: TdxRules, log: Sequence[Extend]
) -> None:
    # (2): run-time registers.
    if str(number) in rules.unsafe_any_rtmr:
        return
    accepted = (rules.rtmr0, rules.rtmr1, rules.rtmr2, rules.rtmr3)[number]
    events = {rtmr: digests for rtmr, digests in rules.rtmr_events.items() if int(rtmr) == number}
    if not isinstance(accepted, UnsetType) and value.hex() in map(str.lower, accepted):
        return
    if isinstance(accepted, UnsetType) and not events:
        notes.absent(f"rtmr{number}")
        return
    if not events:
        notes.add("rtmr", f"RTMR {number} is {value.hex()}, which is not accepted")
        return
    known = {digest.lower() for digests in events.values() for digest in digests}
    found = explained(log, rtmr=number, value=value)
    if found is None:
        notes.add("log", f"RTMR {number} is {value.hex()}, which the log does not give")
        return
    others = [digest.hex() for digest in found if digest.hex() not in known]
    for digest in others[:MOST_EVENTS]:
        notes.add("event", f"{digest} was extended into RTMR {number}")
    if len(others) > MOST_EVENTS:
        notes.add("event", f"and {len(others) - MOST_EVENTS} more in RTMR {number}")


def _of_versions(notes: Notes, report: TdReport, rules: TdxRules) -> None:
    # (3): security versions.
    if isinstance(rules.tee_tcb_svn_floor, UnsetType):
        notes.absent("tee_tcb_svn_floor")
        return
    floors = bytes.fromhex(rules.tee_tcb_svn_floor)
    for name, versions in (
        ("TEE_TCB_SVN", report.tee_tcb_svn),
        ("TEE_TCB_SVN2", report.tee_tcb_svn2),
    ):
        if any(version < floor for version, floor in zip(versions, floors, strict=bool(versions))):
            notes.add("tcb-svn", f"{name} is {versions.hex()}, the floor is {floors.hex()}")
