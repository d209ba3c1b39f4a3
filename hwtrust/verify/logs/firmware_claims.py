"""What a firmware log that explains the quoted values says; see `firmware` for the replay.

Rules:

1. A digest is a fact: it was extended into its register. What the log says that it is
   (`topic`, `text`) is the word of the machine, unless `covered` says that the digest
   is made of it.
2. What is decided by follows from digests alone: the state of Secure Boot is the digest
   of the variable with that state; separators and the end of the boot services are the
   digests of their known data; authorities are what PCR 7 has behind its separator.
   The firmware extends PCR 7 before the separator, others may afterwards, so that of
   the variables what stands before the first separator counts, and the first of a name.
"""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Self

import msgspec

from hwtrust.errors.evidence import MalformedError
from hwtrust.verify.attestation import VERIFIED, made_elsewhere, take_away
from hwtrust.wire.algorithms import Alg, alg_name, new_hash
from hwtrust.wire.logs.describe import Description, Topic, describe, must_cover
from hwtrust.wire.logs.firmware import EventType, type_name
from hwtrust.wire.logs.uefi import GLOBAL_VARIABLE, SECURITY_DATABASE, Variable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from hwtrust.wire.logs.firmware import FirmwareEvent, FirmwareLog

SECURE_BOOT_PCR: Final = 7
SEPARATED: Final = range(8)
"""PCRs that the firmware separates from what comes after it."""

_SEPARATORS: Final = (b"\0\0\0\0", b"\xff\xff\xff\xff")
_EXIT: Final = b"Exit Boot Services Returned with Success"
_NO_ACTION: Final = int(EventType.NO_ACTION)
_KEYS: Final = {
    "PK": GLOBAL_VARIABLE,
    "KEK": GLOBAL_VARIABLE,
    "db": SECURITY_DATABASE,
    "dbx": SECURITY_DATABASE,
}


class SecureBoot(StrEnum):
    """Whether the firmware checked the signature of what it started."""

    ON = "on"
    OFF = "off"
    UNKNOWN = "unknown"
    """PCR 7 was not looked at, or begins otherwise."""


_STATES: Final = {b"\x01": SecureBoot.ON, b"\x00": SecureBoot.OFF, b"": SecureBoot.OFF}


class Covered(StrEnum):
    """How much of what an event says its digest is made of."""

    WHOLE = "whole"
    CONTENT = "content"
    """The content, such as a command line; not the label before it."""
    NOTHING = "nothing"
    """The digest is that of something that is not in the log, or data and digest disagree."""


class Measurement(msgspec.Struct, frozen=True, gc=False):
    """One event: a digest that was extended, and what the log says that it is."""

    number: int
    """Of the event in the log, from 0."""
    register: int
    type: int
    digest: bytes
    topic: Topic
    text: str
    covered: Covered
    disagrees: bool
    """The digest should be made of the data, and is not."""

    @property
    def verified(self) -> bool:
        """Whether what is said is what was measured."""
        return self.covered is not Covered.NOTHING

    def __str__(self) -> str:
        """In a line, for people."""
        doubt = "" if self.verified else " (not verified)"
        return f"{self.topic}: {self.text}{doubt}"


class FirmwareClaims(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What the firmware measured; only `hwtrust.verify` makes them."""

    bank: Alg
    confidential: bool
    """From a log of measurement registers: `register` is the number of an RTMR."""
    locality: int | None
    """Where PCR 0 started; None if it was not looked at."""
    seen: int
    """How many events of the log the quote saw."""
    after: int
    """How many came after it; nothing of them is in the claims."""
    digests: Mapping[int, tuple[bytes, ...]]
    """What was extended into each register, in order; empty if it holds its reset value."""
    measurements: tuple[Measurement, ...]
    secure_boot: SecureBoot
    variables: Mapping[str, bytes]
    """Digests of the events of PK, KEK, db and dbx; one whose data is not covered is not here."""
    authorities: tuple[Measurement, ...]
    """What vouched for images, and whatever else PCR 7 has behind its first separator."""
    separators: Mapping[int, int]
    """How often each register was extended with a separator."""
    exit_boot_services: bool
    verified: object

    def __post_init__(self) -> None:
        if self.verified is not VERIFIED:
            raise made_elsewhere(self)
        take_away(self, "verified", None)

    @classmethod
    def of(
        cls,
        log: FirmwareLog,
        *,
        seen: int,
        bank: Alg,
        numbers: frozenset[int],
        shift: int,
        locality: int | None,
        verified: object,
    ) -> Self:
        """The claims of the first `seen` events of `log`, as far as they are of `numbers`."""
        known = _known(bank)
        extended: dict[int, list[bytes]] = {number: [] for number in sorted(numbers)}
        separators = dict.fromkeys(extended, 0)
        policy: list[tuple[FirmwareEvent, Measurement]] = []
        measurements: list[Measurement] = []
        policy_register = 1 if shift else SECURE_BOOT_PCR
        for number, event in enumerate(log.events[:seen]):
            register = event.register
            digest = event.digests.get(bank)
            if digest is None or register not in numbers or event.type == _NO_ACTION:
                continue
            extended[register].append(digest)
            if digest in known.separators:
                separators[register] += 1
            measurement = measure(event, number=number, bank=bank, shift=shift)
            measurements.append(measurement)
            if register == policy_register:
                policy.append((event, measurement))
        before, behind = _split(policy, known)
        return cls(
            bank=bank,
            confidential=bool(shift),
            locality=locality,
            seen=seen,
            after=len(log.events) - seen,
            digests=_less(extended, shift),
            measurements=tuple(measurements),
            secure_boot=_secure_boot(before, known),
            variables=MappingProxyType(_variables(before)),
            authorities=tuple(item for _, item in behind if item.digest not in known.separators),
            separators=MappingProxyType({key - shift: n for key, n in separators.items()}),
            exit_boot_services=any(known.exit in values for values in extended.values()),
            verified=verified,
        )

    def about(self, *topics: Topic) -> tuple[Measurement, ...]:
        """The measurements that the log says are about `topics`."""
        return tuple(item for item in self.measurements if item.topic in topics)

    @property
    def crtm_version(self) -> str | None:
        """The version of the core root of trust for measurement, if its digest covers it."""
        versions = [item.text for item in self.about(Topic.CRTM_VERSION) if item.verified]
        return versions[0] if versions else None

    @property
    def boot_loaders(self) -> tuple[Measurement, ...]:
        """UEFI applications; the digest is that of the image, the path is not verified."""
        return self.about(Topic.BOOT_LOADER)

    @property
    def kernels(self) -> tuple[Measurement, ...]:
        """Kernels; the digest is that of the file, the path is not verified."""
        return self.about(Topic.KERNEL)

    @property
    def initrds(self) -> tuple[Measurement, ...]:
        """Initial file systems; the digest is that of the file, the path is not verified."""
        return self.about(Topic.INITRD)

    @property
    def command_lines(self) -> tuple[Measurement, ...]:
        """Command lines of kernels and modules."""
        return self.about(Topic.COMMAND_LINE)

    @property
    def mok_lists(self) -> tuple[Measurement, ...]:
        """Shim's lists of keys of the machine's owner."""
        return self.about(Topic.MOK_LIST)

    def facts(self) -> dict[str, str | int | bool | list[str]]:
        """What is claimed, for people."""
        facts: dict[str, str | int | bool | list[str]] = {
            "bank": alg_name(self.bank),
            "events": self.seen,
            "events_after_the_quote": self.after,
            "secure_boot": self.secure_boot.value,
            "exit_boot_services": self.exit_boot_services,
        }
        if self.locality is not None:
            facts["startup_locality"] = self.locality
        if self.crtm_version is not None:
            facts["crtm_version"] = self.crtm_version
        facts |= {f"{name.lower()}_digest": digest.hex() for name, digest in self.variables.items()}
        lists = {
            "authorities": self.authorities,
            "boot_loaders": self.boot_loaders,
            "kernels": self.kernels,
            "initrds": self.initrds,
            "command_lines": self.command_lines,
            "mok_lists": self.mok_lists,
        }
        facts |= {
            name: [f"{item.digest.hex()} {item.text} (covered: {item.covered})" for item in items]
            for name, items in lists.items()
        }
        facts["separators"] = [f"{number}: {count}" for number, count in self.separators.items()]
        name = "rtmr" if self.confidential else "pcr"
        facts |= {
            f"{name}_{number}": [digest.hex() for digest in digests]
            for number, digests in self.digests.items()
        }
        return facts


def measure(event: FirmwareEvent, *, number: int, bank: Alg, shift: int) -> Measurement:
    """An event in words, and how much of them its digest in `bank` covers."""
    description = describe(event)
    digest = event.digests[bank]
    covered = _covered(description, digest, bank)
    return Measurement(
        number,
        event.register - shift,
        event.type,
        digest,
        description.topic,
        description.text or type_name(event.type),
        covered,
        covered is Covered.NOTHING and must_cover(event, description),
    )


def _covered(description: Description, digest: bytes, bank: Alg) -> Covered:
    for content in description.whole:
        if new_hash(bank, content) == digest:
            return Covered.WHOLE
    for content in description.part:
        if new_hash(bank, content) == digest:
            return Covered.CONTENT
    return Covered.NOTHING


class Known(msgspec.Struct, frozen=True):
    """Digests of known data in one bank."""

    separators: frozenset[bytes]
    states: dict[bytes, SecureBoot]
    exit: bytes


@lru_cache(maxsize=len(Alg))
def _known(bank: Alg) -> Known:
    return Known(
        frozenset(new_hash(bank, data) for data in _SEPARATORS),
        {
            new_hash(bank, Variable(GLOBAL_VARIABLE, "SecureBoot", data).encode()): state
            for data, state in _STATES.items()
        },
        new_hash(bank, _EXIT),
    )


def separator_digests(bank: Alg) -> frozenset[bytes]:
    """The digests of what separates the firmware from what comes after it."""
    return _known(bank).separators


Events = list[tuple["FirmwareEvent", Measurement]]


def secure_boot_of(log: FirmwareLog, bank: Alg) -> SecureBoot:
    """What a log, that nobody has verified, says of Secure Boot."""
    known = _known(bank)
    register = 1 if log.is_confidential else SECURE_BOOT_PCR
    policy = [
        (event, measure(event, number=number, bank=bank, shift=0))
        for number, event in enumerate(log.events)
        if event.register == register and event.type != _NO_ACTION and bank in event.digests
    ]
    return _secure_boot(_split(policy, known)[0], known)


def behind_separator(items: list[Measurement], bank: Alg) -> list[Measurement]:
    """What stands in a register behind its first separator; all if it has none."""
    separators = separator_digests(bank)
    cut = next((at for at, item in enumerate(items) if item.digest in separators), -1)
    return [item for item in items[cut + 1 :] if item.digest not in separators]


def _split(policy: Events, known: Known) -> tuple[Events, Events]:
    """What stands before the first separator, and what behind it."""
    for position, (_, item) in enumerate(policy):
        if item.digest in known.separators:
            return policy[:position], policy[position + 1 :]
    return [], policy


def _secure_boot(before: Events, known: Known) -> SecureBoot:
    # (2): by digests.
    states = (known.states.get(item.digest) for _, item in before)
    return next((state for state in states if state is not None), SecureBoot.UNKNOWN)


def _variables(before: Events) -> dict[str, bytes]:
    return dict(reversed(list(_keys(before))))


def _keys(before: Events) -> Iterator[tuple[str, bytes]]:
    for event, item in before:
        if item.covered is Covered.WHOLE:
            try:
                variable = Variable.decode(event.data)
            except MalformedError:
                continue
            if _KEYS.get(variable.name) == variable.guid:
                yield variable.name, item.digest


def _less(extended: dict[int, list[bytes]], shift: int) -> Mapping[int, tuple[bytes, ...]]:
    return MappingProxyType(
        {register - shift: tuple(digests) for register, digests in extended.items()}
    )
