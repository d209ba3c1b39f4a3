"""What an enclave's hardware vouches for, in words, and what it cannot do; what logs say.

    kind, facts ── hardware_of ──▶ groups of facts for a page

Shown is what the last authentic evidence said, under the field's terms; a fact that has
no place here is shown among the others, not left out. Nothing is decided: the verdict is
the appraisal's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from hwtrust_backend.enrolment import DeviceKind, Fact, Facts
from hwtrust_backend.pages.fact_names import GROUPS, NAMES, Group

KINDS: Final[Mapping[DeviceKind, str]] = MappingProxyType(
    {
        DeviceKind.TPM: "TPM 2.0",
        DeviceKind.SNP: "AMD SEV-SNP",
        DeviceKind.TDX: "Intel TDX",
        DeviceKind.SGX: "Intel SGX",
        DeviceKind.NITRO: "AWS Nitro Enclave",
        DeviceKind.CCA: "Arm CCA",
        DeviceKind.AZURE: "Azure confidential VM with vTPM",
    }
)
"""The kinds of evidence as their makers call them."""

_NO_REVOCATION: Final = (
    "No hardware counts its epochs: that an old root is void is this backend's word, and the "
    "enclave's measured code that heeds it."
)
_NO_EXPIRY: Final = (
    "No hardware ends a root when its time is over: the enclave's measured code does, and "
    "between two attestations it goes by a clock that its host may stop."
)
_SOFT_TPM: Final = (
    "Its vTPM is a program of the provider's inside the machine. Its counters and its clock are "
    "that program's."
)
_NOT_ENCRYPTED: Final = (
    "Its report does not say that its memory is encrypted: AWS keeps the host out of it."
)
_EPHEMERAL: Final = (
    "It has nothing that keeps a secret over a restart: its root is held in memory, and after a "
    "restart it is a new device here."
)
_NO_REGISTER: Final = (
    "Its hardware measures nothing after the start: what it loads later is vouched for by its "
    "measured code alone."
)
_OF_KIND: Final[Mapping[DeviceKind, tuple[str, ...]]] = MappingProxyType(
    {
        DeviceKind.SNP: (_NO_REGISTER,),
        DeviceKind.TDX: (_EPHEMERAL,),
        DeviceKind.SGX: (_NO_REGISTER,),
        DeviceKind.NITRO: (_EPHEMERAL, _NOT_ENCRYPTED),
        DeviceKind.CCA: (_EPHEMERAL,),
        DeviceKind.AZURE: (_SOFT_TPM,),
    }
)

_GPU: Final = "gpu_"
_FIRMWARE: Final = "firmware_"
_IMA: Final = "ima_"
_INNER: Final = "tee_"
_NOTHING: Final = re.compile(r"^(?:0x)?0+$")
_LONG: Final = 24
"""Characters from which on a value of hexadecimal digits is shown as a digest."""
_DIGITS: Final = re.compile(rf"\b[0-9a-f]{{{_LONG},}}\b")
_MOMENTS: Final = frozenset({"timestamp", "collateral_expires"})
_ORDER: Final = {name: place for place, name in enumerate(NAMES)}


@dataclass(frozen=True, slots=True)
class Value:
    """One value; `is_digest` says how it is set, `at` is a moment, UTC milliseconds."""

    text: str
    is_digest: bool = False
    at: int | None = None


@dataclass(frozen=True, slots=True)
class FactRow:
    """One fact: what it is in words, its name in the field, and its values."""

    label: str
    name: str
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class FactGroup:
    """Facts that belong together; `anchor` names it in the page."""

    anchor: str
    title: str
    rows: tuple[FactRow, ...]


@dataclass(frozen=True, slots=True)
class Hardware:
    """All of it."""

    kind: str
    title: str
    groups: tuple[FactGroup, ...]
    limits: tuple[str, ...]


def kind_name(kind: str) -> str:
    """`snp` as its maker calls it."""
    return KINDS[DeviceKind(kind)]


def hardware_of(kind: str, facts: Facts) -> Hardware | None:
    """What there is to show of an enclave, or of the logs of a TPM's device, if there are any."""
    known = DeviceKind(kind)
    tpm = known is DeviceKind.TPM
    if tpm and not facts:
        return None
    placed: dict[Group, list[FactRow]] = {group: [] for group in Group}
    for name, value in facts.items():
        if name != "kind":
            group, label = _of_log(name) if tpm else _named(name)
            placed[group].append(FactRow(label, name, tuple(_values(name, value))))
    for rows in placed.values():
        rows.sort(key=_place)
    return Hardware(
        kind=KINDS[known],
        title="What firmware and kernel measured" if tpm else "What the hardware vouches for",
        groups=tuple(
            FactGroup(f"facts-{group.value}", GROUPS[group], tuple(rows))
            for group, rows in placed.items()
            if rows
        ),
        limits=() if tpm else (_NO_REVOCATION, _NO_EXPIRY, *_OF_KIND[known]),
    )


def _place(row: FactRow) -> int:
    """The most telling facts of a group come first."""
    return _ORDER.get(row.name, _ORDER.get(row.name.removeprefix(_INNER), len(_ORDER)))


def _of_log(name: str) -> tuple[Group, str]:
    """The same of a TPM device's logs: all that is not the kernel's is the firmware's."""
    if name.startswith(_IMA):
        return Group.IMA, _plain(name.removeprefix(_IMA))
    return Group.FIRMWARE, _plain(name)


def _named(name: str) -> tuple[Group, str]:
    """Where a fact stands, and what it is in words."""
    if name in NAMES:
        return NAMES[name]
    for prefix, group in ((_GPU, Group.GPU), (_FIRMWARE, Group.FIRMWARE)):
        if name.startswith(prefix):
            return group, _plain(name.removeprefix(prefix))
    inner = name.removeprefix(_INNER)
    return NAMES.get(inner, (Group.OTHER, _plain(inner)))


def _plain(name: str) -> str:
    words = name.replace("_", " ")
    return words[:1].upper() + words[1:]


def _values(name: str, value: Fact) -> Iterator[Value]:
    if isinstance(value, list):
        for item in value:
            yield Value(item, is_digest=_is_digest(item))
    elif isinstance(value, bool):
        yield Value("yes" if value else "no")
    elif isinstance(value, int) and name.removeprefix(_INNER) in _MOMENTS:
        yield Value("", at=value)
    else:
        text = str(value)
        zero = len(text) >= _LONG and _NOTHING.match(text) is not None
        yield Value("none (zeros)" if zero else text or "none", _is_digest(text) and not zero)


def _is_digest(text: str) -> bool:
    return _DIGITS.search(text) is not None
