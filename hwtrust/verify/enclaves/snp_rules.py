"""Is this SEV-SNP guest in a state that is accepted? Claims and rules in, findings out.

    SnpClaims + SnpRules ── appraise_snp ──▶ findings, every one

Never raises for a bad state. Rules:

1. What the rules do not say refuses: an absent field is a finding that fails. What
   may be left out without harm begins with `unsafe_`, and is off then.
2. A guest that may be debugged is refused, whatever else the rules say, unless they
   spell out `unsafe_allow_debug`: the host reads and writes all of its memory.
3. TCB floors hold for each component by itself: a new microcode does not make up
   for an old SNP firmware. They are the product's, and hold for what the firmware
   reports, for what it runs, for what it can no longer be rolled back from, and for
   what it ran when the guest was launched.
4. Bits of the guest's policy that let the host do more are refused unless allowed;
   those that bind the host count if required. Of PLATFORM_INFO each may be either.

`FINDINGS` documents every code; no other leaves this module.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Annotated, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from hwtrust.verify.enclaves.snp import SnpClaims
from hwtrust.wire.enclaves.snp import (
    COMPONENTS,
    PLATFORM_UNKNOWN,
    Firmware,
    Product,
    SigningKey,
    SnpReport,
    Tcb,
)
from hwtrust.wire.messages import Finding, Severity

_FAIL, _ALERT = Severity.FAIL, Severity.ALERT

FINDINGS: Final[Mapping[str, tuple[Severity, str]]] = MappingProxyType(
    {
        "snp:absent": (_FAIL, "the rules do not say"),
        "snp:product": (_FAIL, "the processor is of a product that is not accepted"),
        "snp:signing-key": (_FAIL, "the report is signed with a kind of key that is not accepted"),
        "snp:csp": (_FAIL, "the VLEK was given to a cloud provider that is not accepted"),
        "snp:debug": (_FAIL, "the host may debug the guest"),
        "snp:policy": (_FAIL, "the guest's policy allows the host what is not accepted"),
        "snp:policy-missing": (_FAIL, "the guest's policy does not bind the host as required"),
        "snp:abi": (_FAIL, "the guest's policy allows a firmware ABI older than accepted"),
        "snp:vmpl": (_FAIL, "the report was asked for at a VMPL that is not accepted"),
        "snp:measurement": (_FAIL, "the launch measurement is not one that is accepted"),
        "snp:host-data": (_FAIL, "the host has given data that are not accepted"),
        "snp:id-key": (_FAIL, "the ID block is signed with a key that is not accepted, or not"),
        "snp:author-key": (_FAIL, "the ID key is of an author who is not accepted, or of none"),
        "snp:guest-svn": (_FAIL, "the guest's security version is lower than accepted"),
        "snp:tcb": (_FAIL, "the reported TCB has components older than accepted"),
        "snp:tcb-current": (_FAIL, "the running TCB has components older than accepted"),
        "snp:tcb-committed": (_FAIL, "the firmware can be rolled back to a TCB not accepted"),
        "snp:tcb-launch": (_FAIL, "the guest was launched on a TCB older than accepted"),
        "snp:firmware": (_FAIL, "the firmware is older than accepted"),
        "snp:firmware-committed": (_FAIL, "the firmware can be rolled back to one not accepted"),
        "snp:platform": (_FAIL, "the platform has something enabled that is not accepted"),
        "snp:platform-missing": (_FAIL, "the platform lacks something that is required"),
        "snp:platform-unknown": (_ALERT, "the platform says something that is not known"),
    }
)
"""What each code means, and how it weighs."""

Digest32 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Digest48 = Annotated[str, Meta(pattern="^[0-9a-f]{96}$")]
Level = Annotated[int, Meta(ge=0, le=255)]
Svn = Annotated[int, Meta(ge=0, le=0xFFFF_FFFF)]
Vmpl = Annotated[int, Meta(ge=0, le=3)]
Abi = Annotated[str, Meta(pattern=r"^[0-9]{1,3}\.[0-9]{1,3}$")]
Build = Annotated[str, Meta(pattern=r"^[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}$")]
KeyKind = Literal["vcek", "vlek"]
Freedom = Literal["smt", "migrate_ma", "cxl_allow"]
Bond = Literal[
    "single_socket", "mem_aes_256_xts", "rapl_dis", "ciphertext_hiding_dram", "page_swap_disable"
]
PlatformBit = Literal[
    "smt_en",
    "tsme_en",
    "ecc_en",
    "rapl_dis",
    "ciphertext_hiding_dram_en",
    "alias_check_complete",
    "iommu_write_safe",
    "tio_en",
]
FREEDOMS: Final = frozenset({"smt", "migrate_ma", "cxl_allow"})


class TcbFloor(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The lowest level of each component that is accepted."""

    bootloader: Level | UnsetType = UNSET
    tee: Level | UnsetType = UNSET
    snp: Level | UnsetType = UNSET
    microcode: Level | UnsetType = UNSET
    fmc: Level | UnsetType = UNSET
    """Turin alone has one; of others none need be said."""


class SnpRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is accepted of an SEV-SNP guest and its host; digests in hex, lower case."""

    products: tuple[Product, ...] | UnsetType = UNSET
    signing_keys: tuple[KeyKind, ...] | UnsetType = UNSET
    csp_ids: tuple[str, ...] | UnsetType = UNSET
    """Cloud providers; asked for under a VLEK only."""
    measurements: tuple[Digest48, ...] | UnsetType = UNSET
    """Of the launch: firmware, and kernel and initrd where it measures them."""
    unsafe_allow_debug: bool = False
    """The host reads and changes what the guest has in memory."""
    vmpl_maximum: Vmpl | UnsetType = UNSET
    """The least privileged level that may ask for a report; 0 is the most privileged."""
    policy_allowed: tuple[Freedom, ...] | UnsetType = UNSET
    policy_required: tuple[Bond, ...] | UnsetType = UNSET
    abi_minimum: Abi | UnsetType = UNSET
    """The lowest `major.minor` that the guest's policy may ask for."""
    host_data: tuple[Digest32, ...] | UnsetType = UNSET
    """Zeros where the host gives none."""
    unsafe_any_host_data: bool = False
    id_key_digests: tuple[Digest48, ...] | UnsetType = UNSET
    """Zeros where there is no ID block."""
    unsafe_any_id_key: bool = False
    author_key_digests: tuple[Digest48, ...] | UnsetType = UNSET
    """Zeros where there is no author key."""
    unsafe_any_author_key: bool = False
    guest_svn_minimum: Svn | UnsetType = UNSET
    tcb: dict[Product, TcbFloor] | UnsetType = UNSET
    """The floors, of each product that is accepted."""
    unsafe_any_launch_tcb: bool = False
    """A guest may have been launched before its host was updated, and keep what leaked then."""
    firmware_minimum: Build | UnsetType = UNSET
    """The lowest `major.minor.build` of the SEV-SNP firmware."""
    platform_required: tuple[PlatformBit, ...] | UnsetType = UNSET
    platform_forbidden: tuple[PlatformBit, ...] | UnsetType = UNSET


def appraise_snp(claims: SnpClaims, *, rules: SnpRules) -> tuple[Finding, ...]:
    """Everything about `claims` that `rules` do not accept; nothing if they accept all of it."""
    return tuple(
        Finding(
            code=code,
            severity=FINDINGS[code][0],
            message=f"{FINDINGS[code][1]}: {detail}" if detail else FINDINGS[code][1],
        )
        for code, detail in _findings(claims, rules)
    )


_Found = Iterator[tuple[str, str]]
"""Codes, and what more there is to say."""


def _findings(claims: SnpClaims, rules: SnpRules) -> _Found:
    report = claims.report
    yield from _signer(claims, rules)
    yield from _guest(report, rules)
    yield from _policy(report, rules)
    yield from _tcb(claims, rules)
    yield from _platform(report, rules)


def _listed(code: str, field: str, value: str, accepted: tuple[str, ...] | UnsetType) -> _Found:
    """`value` is one of those accepted."""
    if accepted is UNSET:
        yield "snp:absent", field
    elif value not in accepted:
        yield code, value[:200]


def _signer(claims: SnpClaims, rules: SnpRules) -> _Found:
    """Processor and key."""
    kind = claims.report.signing_key
    yield from _listed("snp:product", "products", claims.product, rules.products)
    yield from _listed("snp:signing-key", "signing_keys", kind.name.lower(), rules.signing_keys)
    if kind is SigningKey.VLEK:
        yield from _listed("snp:csp", "csp_ids", claims.csp_id, rules.csp_ids)


def _guest(report: SnpReport, rules: SnpRules) -> _Found:
    """What was launched, by whom, and who asks."""
    yield from _listed(
        "snp:measurement", "measurements", report.measurement.hex(), rules.measurements
    )
    if not rules.unsafe_any_host_data:
        yield from _listed("snp:host-data", "host_data", report.host_data.hex(), rules.host_data)
    if not rules.unsafe_any_id_key:
        digest = report.id_key_digest.hex()
        yield from _listed("snp:id-key", "id_key_digests", digest, rules.id_key_digests)
    if not rules.unsafe_any_author_key:
        digest = report.author_key_digest.hex()
        yield from _listed("snp:author-key", "author_key_digests", digest, rules.author_key_digests)
    if rules.guest_svn_minimum is UNSET:
        yield "snp:absent", "guest_svn_minimum"
    elif report.guest_svn < rules.guest_svn_minimum:
        yield "snp:guest-svn", f"{report.guest_svn}, at least {rules.guest_svn_minimum}"
    if rules.vmpl_maximum is UNSET:
        yield "snp:absent", "vmpl_maximum"
    elif report.vmpl > rules.vmpl_maximum:
        yield "snp:vmpl", f"{report.vmpl}, at most {rules.vmpl_maximum}"


def _policy(report: SnpReport, rules: SnpRules) -> _Found:
    """What the guest's owner lets the host do."""
    # (2): debugging.
    if report.debug and not rules.unsafe_allow_debug:
        yield "snp:debug", ""
    names = report.policy_names
    # (4): what lets the host do more, what binds it.
    if rules.policy_allowed is UNSET:
        yield "snp:absent", "policy_allowed"
    else:
        yield from _told("snp:policy", (names & FREEDOMS) - set(rules.policy_allowed))
    if rules.policy_required is UNSET:
        yield "snp:absent", "policy_required"
    else:
        yield from _told("snp:policy-missing", set(rules.policy_required) - names)
    if rules.abi_minimum is UNSET:
        yield "snp:absent", "abi_minimum"
    elif report.abi_minimum < _numbers(rules.abi_minimum):
        major, minor = report.abi_minimum
        yield "snp:abi", f"{major}.{minor}, at least {rules.abi_minimum}"


def _tcb(claims: SnpClaims, rules: SnpRules) -> _Found:
    """Rule 3, and the firmware's own versions."""
    floor = _floor(claims.product, rules)
    if isinstance(floor, str):
        yield "snp:absent", floor
    else:
        versions = [
            ("snp:tcb", claims.reported_tcb),
            ("snp:tcb-current", claims.current_tcb),
            ("snp:tcb-committed", claims.committed_tcb),
        ]
        if not rules.unsafe_any_launch_tcb:
            versions.append(("snp:tcb-launch", claims.launch_tcb))
        for code, tcb in versions:
            lower = tcb.below(floor)
            yield from _told(
                code,
                (f"{name} {getattr(tcb, name)}, at least {getattr(floor, name)}" for name in lower),
            )
    if rules.firmware_minimum is UNSET:
        yield "snp:absent", "firmware_minimum"
        return
    least = Firmware(*_numbers(rules.firmware_minimum))
    for code, firmware in (
        ("snp:firmware", claims.report.current_firmware),
        ("snp:firmware-committed", claims.report.committed_firmware),
    ):
        if firmware < least:
            yield code, f"{firmware}, at least {least}"


def _floor(product: Product, rules: SnpRules) -> Tcb | str:
    """The product's floor, or the field that is absent."""
    if rules.tcb is UNSET:
        return "tcb"
    floor = rules.tcb.get(product)
    if floor is None:
        return f"tcb.{product}"
    levels: dict[str, int] = {}
    for name in COMPONENTS:
        level = getattr(floor, name) if name != "fmc" or product is Product.TURIN else 0
        if level is UNSET:
            return f"tcb.{product}.{name}"
        levels[name] = level
    return Tcb(**levels)


def _platform(report: SnpReport, rules: SnpRules) -> _Found:
    names = report.platform_names
    if rules.platform_required is UNSET:
        yield "snp:absent", "platform_required"
    else:
        yield from _told("snp:platform-missing", set(rules.platform_required) - names)
    if rules.platform_forbidden is UNSET:
        yield "snp:absent", "platform_forbidden"
    else:
        yield from _told("snp:platform", names & set(rules.platform_forbidden))
    if unknown := report.platform_info & PLATFORM_UNKNOWN:
        yield "snp:platform-unknown", f"0x{unknown:x}"


def _told(code: str, what: Iterable[str]) -> _Found:
    """One finding for all of `what`, if there is any."""
    if told := sorted(what):
        yield code, ", ".join(told)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split("."))
