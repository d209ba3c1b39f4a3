"""Is this enclave one that is accepted? Claims and rules in, findings out.

Rules:
1. An enclave in debug mode is never accepted.
2. It is named by its own measurement, or by its vendor together with the product
   and the lowest security version, or by both.
3. Attributes, processor features and MISCSELECT are compared under a mask; without
   one, in all their bits.

`FINDINGS` documents every code; no other leaves this module.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from msgspec import UNSET, UnsetType

from hwtrust.verify.enclaves.dcap_rules import (
    Bits32,
    Bits64,
    DcapRules,
    Notes,
    Sha256Hex,
    common_findings,
    of_platform,
)
from hwtrust.wire.messages import Severity

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hwtrust.verify.enclaves.sgx import SgxClaims
    from hwtrust.wire.enclaves.dcap import EnclaveReport
    from hwtrust.wire.messages import Finding

DEBUG: Final = 1 << 1
INITIALIZED_64_BIT: Final = 0x05
"""ATTRIBUTES.INIT and MODE64BIT: what every enclave of today has."""
_ALL: Final = 0xFFFF_FFFF_FFFF_FFFF

ConfigIdHex = Annotated[str, msgspec.Meta(pattern="^[0-9a-fA-F]{128}$")]

FINDINGS: Final[Mapping[str, tuple[Severity, str]]] = MappingProxyType(
    {
        **dict(common_findings("sgx")),
        "sgx:attributes": (Severity.FAIL, "the enclave has attributes that are not accepted"),
        "sgx:config-id": (Severity.FAIL, "the enclave has another configuration"),
        "sgx:config-svn": (Severity.FAIL, "the configuration is older than accepted"),
        "sgx:isv-prod-id": (Severity.FAIL, "the enclave is another product of its vendor"),
        "sgx:isv-svn": (Severity.FAIL, "the enclave is older than accepted"),
        "sgx:misc-select": (Severity.FAIL, "the enclave has extended features"),
        "sgx:mr-enclave": (Severity.FAIL, "another enclave is attested"),
        "sgx:mr-signer": (Severity.FAIL, "the enclave is another vendor's"),
        "sgx:xfrm": (Severity.FAIL, "the enclave has other processor features"),
    }
)
"""What each code means, and how it weighs."""


class SgxRules(DcapRules, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is accepted of an enclave. An absent field fails, unless it says otherwise."""

    mr_enclave: tuple[Sha256Hex, ...] | UnsetType = UNSET
    """Absent: `mr_signer` decides; one of the two is there."""
    mr_signer: tuple[Sha256Hex, ...] | UnsetType = UNSET
    """Absent: `mr_enclave` decides."""
    isv_prod_id: tuple[int, ...] | UnsetType = UNSET
    """Absent: fails where `mr_signer` is there."""
    isv_svn_floor: int | UnsetType = UNSET
    """Absent: fails where `mr_signer` is there."""
    attributes: Bits64 | UnsetType = UNSET
    """ATTRIBUTES.FLAGS. Absent: INIT and MODE64BIT."""
    attributes_mask: Bits64 | UnsetType = UNSET
    """Absent: all bits count. Whatever it is, debug mode is refused."""
    xfrm: Bits64 | UnsetType = UNSET
    xfrm_mask: Bits64 | UnsetType = UNSET
    """Absent: all bits count."""
    misc_select: Bits32 | UnsetType = UNSET
    """Absent: zero."""
    misc_select_mask: Bits32 | UnsetType = UNSET
    """Absent: all bits count."""
    config_id: tuple[ConfigIdHex, ...] | UnsetType = UNSET
    """Absent: zeros."""
    config_svn_floor: int | UnsetType = UNSET
    """Absent: the configuration has the version 0, as where there is none."""


def appraise_sgx(claims: SgxClaims, *, rules: SgxRules) -> tuple[Finding, ...]:
    """Everything in `claims` that `rules` do not accept."""
    notes = Notes("sgx", FINDINGS)
    report = claims.report
    of_platform(notes, claims.platform, rules)
    # (1): debug mode.
    if report.attributes & DEBUG:
        notes.add("debug", "the enclave is in debug mode")
    _of_identity(notes, report, rules)
    _of_features(notes, report, rules)
    notes.one_of_or_zero("config_id", report.config_id, rules.config_id)
    floor = rules.config_svn_floor
    if isinstance(floor, UnsetType):
        if report.config_svn:
            notes.add("config-svn", f"CONFIGSVN is {report.config_svn}, expected is 0")
    elif report.config_svn < floor:
        notes.add("config-svn", f"CONFIGSVN is {report.config_svn}, the floor is {floor}")
    return notes.all()


def _of_identity(notes: Notes, report: EnclaveReport, rules: SgxRules) -> None:
    # (2): who it is.
    by_signer = not isinstance(rules.mr_signer, UnsetType)
    by_itself = not isinstance(rules.mr_enclave, UnsetType)
    if not by_signer and not by_itself:
        notes.absent("mr_enclave and mr_signer")
    if by_itself:
        notes.one_of("mr_enclave", report.mr_enclave, rules.mr_enclave)
    if by_signer:
        notes.one_of("mr_signer", report.mr_signer, rules.mr_signer)
    if not isinstance(rules.isv_prod_id, UnsetType):
        if report.isv_prod_id not in rules.isv_prod_id:
            notes.add("isv-prod-id", f"ISVPRODID is {report.isv_prod_id}")
    elif by_signer:
        notes.absent("isv_prod_id")
    if not isinstance(rules.isv_svn_floor, UnsetType):
        if report.isv_svn < rules.isv_svn_floor:
            notes.add("isv-svn", f"ISVSVN is {report.isv_svn}, the floor is {rules.isv_svn_floor}")
    elif by_signer:
        notes.absent("isv_svn_floor")


def _of_features(notes: Notes, report: EnclaveReport, rules: SgxRules) -> None:
    # (3): bits under masks.
    attributes = _number(rules.attributes, INITIALIZED_64_BIT)
    if (report.attributes ^ attributes) & _number(rules.attributes_mask, _ALL) & ~DEBUG:
        notes.add("attributes", f"they are 0x{report.attributes:016x}")
    if isinstance(rules.xfrm, UnsetType):
        notes.absent("xfrm")
    elif (report.xfrm ^ int(rules.xfrm, 16)) & _number(rules.xfrm_mask, _ALL):
        notes.add("xfrm", f"XFRM is 0x{report.xfrm:016x}")
    if (report.misc_select ^ _number(rules.misc_select, 0)) & _number(rules.misc_select_mask, _ALL):
        notes.add("misc-select", f"MISCSELECT is 0x{report.misc_select:08x}")


def _number(text: str | UnsetType, absent: int) -> int:
    return absent if isinstance(text, UnsetType) else int(text, 16)
