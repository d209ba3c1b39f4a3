"""What TDX and SGX rules have in common: in which state Intel's platform has to be.

Rules:
1. TCB statuses are accepted by their names: each of the quote's, the platform's and
   the quoting enclave's has to be one of them.
2. An advisory that applies to the platform is named as accepted, or refuses. One
   that is named as refused refuses in any case.
3. What a certificate says of its platform (dynamic, keys cached, hyper-threading)
   is allowed by name. Certificates of the Processor CA say nothing of these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

from hwtrust.wire.messages import Finding, Severity

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from hwtrust.verify.enclaves.dcap import DcapPlatform

TcbStatus = Literal[
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
]
Sha256Hex = Annotated[str, msgspec.Meta(pattern="^[0-9a-fA-F]{64}$")]
Sha384Hex = Annotated[str, msgspec.Meta(pattern="^[0-9a-fA-F]{96}$")]
Bits32 = Annotated[str, msgspec.Meta(pattern="^0x[0-9a-fA-F]{8}$")]
Bits64 = Annotated[str, msgspec.Meta(pattern="^0x[0-9a-fA-F]{16}$")]

COMMON: Final[Mapping[str, tuple[Severity, str]]] = {
    "absent": (Severity.FAIL, "the policy does not say what is accepted"),
    "tcb": (Severity.FAIL, "the TCB status of platform or quoting enclave is not accepted"),
    "advisory": (Severity.FAIL, "a security advisory applies that is not accepted"),
    "collateral": (Severity.FAIL, "the collateral is of an older evaluation than accepted"),
    "platform": (Severity.FAIL, "the platform is configured in a way that is not allowed"),
    "debug": (Severity.FAIL, "the host can read and change what is attested"),
}
"""Codes of both kinds, without the kind."""


class DcapRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is accepted of the platform. An absent field fails, unless it says otherwise."""

    accepted_tcb_statuses: tuple[TcbStatus, ...] | UnsetType = UNSET
    accepted_advisories: tuple[str, ...] = ()
    """Such as `INTEL-SA-00615`. Absent: none may apply."""
    unsafe_any_advisory: bool = False
    """Advisories that nobody has looked at may apply."""
    refused_advisories: tuple[str, ...] = ()
    """Refused in any case; absent: whatever is not accepted is refused all the same."""
    tcb_evaluation_data_number_floor: int | UnsetType = UNSET
    """Collateral of an older evaluation by Intel may not know a newer flaw."""
    allow_dynamic_platform: bool = False
    """Whether processors may be added to the platform. Absent: no."""
    allow_cached_keys: bool = False
    """Whether Intel may keep the platform's root keys. Absent: no."""
    allow_smt: bool = False
    """Whether hyper-threading may be on. Absent: no."""


class Notes:
    """Findings of one kind of evidence, by the table that documents them."""

    __slots__ = ("_findings", "_kind", "_table")

    def __init__(self, kind: str, table: Mapping[str, tuple[Severity, str]]) -> None:
        self._kind = kind
        self._table = table
        self._findings: list[Finding] = []

    def add(self, problem: str, message: str) -> None:
        """Note `problem`, a code without its kind."""
        code = f"{self._kind}:{problem}"
        self._findings.append(Finding(code=code, severity=self._table[code][0], message=message))

    def absent(self, name: str) -> None:
        """Note that the policy does not say what `name` may be."""
        self.add("absent", f"the policy says nothing of {name}")

    def one_of(self, name: str, found: bytes, accepted: tuple[str, ...] | UnsetType) -> None:
        """Note, under `name`, a value that is not accepted, or that none is named."""
        if isinstance(accepted, UnsetType):
            self.absent(name)
        elif found.hex() not in {value.lower() for value in accepted}:
            self.add(_problem(name), f"{name} is {found.hex()}, which is not accepted")

    def one_of_or_zero(
        self, name: str, found: bytes, accepted: tuple[str, ...] | UnsetType
    ) -> None:
        """The same, where nothing but zeros is accepted if no value is named."""
        zeros = (bytes(len(found)).hex(),)
        self.one_of(name, found, zeros if isinstance(accepted, UnsetType) else accepted)

    def all(self) -> tuple[Finding, ...]:
        """All of them."""
        return tuple(self._findings)


def _problem(name: str) -> str:
    return name.replace("_", "-")


def common_findings(kind: str) -> Iterator[tuple[str, tuple[Severity, str]]]:
    """The part of a kind's table that is common to both."""
    return ((f"{kind}:{problem}", meaning) for problem, meaning in COMMON.items())


def of_platform(notes: Notes, platform: DcapPlatform, rules: DcapRules) -> None:
    """Hold what Intel says of the platform against `rules`."""
    # (1): statuses.
    if isinstance(rules.accepted_tcb_statuses, UnsetType):
        notes.absent("accepted_tcb_statuses")
    else:
        for whose, status in (
            ("quote", platform.tcb_status),
            ("platform", platform.platform_tcb_status),
            ("quoting enclave", platform.qe_tcb_status),
        ):
            if status not in rules.accepted_tcb_statuses:
                notes.add("tcb", f"the TCB status of the {whose} is {status}")
    # (2): advisories.
    for advisory in platform.advisory_ids:
        accepted = rules.unsafe_any_advisory or advisory in rules.accepted_advisories
        if not accepted or advisory in rules.refused_advisories:
            notes.add("advisory", f"{advisory} applies to the platform")
    floor = rules.tcb_evaluation_data_number_floor
    if isinstance(floor, UnsetType):
        notes.absent("tcb_evaluation_data_number_floor")
    elif platform.tcb_evaluation_data_number < floor:
        notes.add(
            "collateral",
            f"the TCB evaluation data number is {platform.tcb_evaluation_data_number}, "
            f"the floor is {floor}",
        )
    # (3): configuration.
    for what, is_so, allowed in (
        ("processors can be added to", platform.dynamic_platform, rules.allow_dynamic_platform),
        ("Intel keeps the keys of", platform.cached_keys, rules.allow_cached_keys),
        ("hyper-threading is on on", platform.smt_enabled, rules.allow_smt),
    ):
        if is_so and not allowed:
            notes.add("platform", f"{what} the platform")
