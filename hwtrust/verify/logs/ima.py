"""Is this what the kernel measured? An IMA log against the quoted value of its PCR.

    ImaLog + value from a verified quote + ImaState ── verify_ima ──▶ ImaClaims
                                                       (appraise: hwtrust.verify.logs.ima_rules)

Rules:

1. What is added to the PCR is made anew from the template data. The template hash
   in the log is not believed; that it is zeros only says how to try (rule 3).
2. A bank is extended by the hash of the data under its own algorithm. Where the
   kernel lacks that, or is old, by SHA-1 filled up with zeros. Which of them it is
   follows from which explains the value, holds for the whole boot, and is in the state.
3. A violation adds all ones: the kernel does not know what was read. It is counted.
4. The log may be longer than the quote saw: what comes after the longest part that
   explains the value is not believed, and counted. A log that is cut, or in which
   anything differs, explains nothing and is refused.
5. A state says how far a log was verified in this boot: the next log begins behind
   it, and costs its own entries alone. That it is the same boot is the caller's to
   know, from the reset count in the quote.
6. Digests of template data that came before are kept by `KnownEntries`, by the whole
   data, from which they were made here.
"""

from __future__ import annotations

import contextlib
import hashlib
from enum import Enum, StrEnum, auto
from hmac import compare_digest
from itertools import islice
from typing import TYPE_CHECKING, Final, Literal, cast

import msgspec

from hwtrust.errors.logs import ImaReplayError, ImaStateError
from hwtrust.verify.attestation import VERIFIED, made_elsewhere, take_away
from hwtrust.wire.algorithms import Alg, alg_name, digest_size, new_hash

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from hwtrust.wire.logs.ima import ImaLog
    from hwtrust.wire.logs.ima_template import ImaEntry

PCR: Final = 10
"""Where the kernel adds its measurements unless it is built or told otherwise."""

KNOWN: Final = 1 << 19
"""Entries whose digests are kept for one policy."""
LONGEST_KNOWN: Final = 1024

_STEP: Final = 1024
_SHA1_SIZE: Final = 20


class Boot(Enum):
    """What stands in the place of a state."""

    START = auto()
    """Nothing of this boot's log was verified yet: the PCR began at zeros."""


START: Final = Boot.START


class Extend(StrEnum):
    """What the kernel adds to a bank for each entry."""

    HASHED = "hashed"
    """The hash of the template data under the bank's algorithm."""
    PADDED = "padded"
    """SHA-1, filled up with zeros; all ones for a violation."""
    PADDED_ONES = "padded-ones"
    """The same; a violation is 20 bytes of ones filled up with zeros (before Linux 5.8)."""


class ImaState(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far the log of one boot was verified; to be kept between two pieces of evidence."""

    pcr: int
    bank: str
    entries: int
    violations: int
    value: bytes
    """Of the PCR after so many entries."""
    extend: Extend


class KnownEntries:
    """Digests of template data that was found good, so that it is not hashed anew each time.

    One object belongs to one set of rules: what is in here needs no further look.
    At most `KNOWN` entries; after that nothing more is remembered.
    """

    __slots__ = ("_by_bank", "_data")

    def __init__(self, data: Iterable[bytes]) -> None:
        self._data = list(islice(data, KNOWN))
        self._by_bank: dict[Alg, dict[bytes, bytes]] = {}

    def digests(self, bank: Alg) -> dict[bytes, bytes]:
        """Digest by template data, under the algorithm of `bank`."""
        digests = self._by_bank.get(bank)
        if digests is None:
            digests = dict(zip(self._data, _hashes(bank, self._data), strict=True))
            self._by_bank[bank] = digests
        return digests

    def learn(self, claims: ImaClaims, numbers: Iterable[int]) -> None:
        """Remember entries in which nothing was found, and never will be."""
        if claims.state.extend is not Extend.HASHED:
            return
        known, data = self.digests(claims.bank), claims.log.template_data(claims.pcr)
        for number in numbers:
            one = data[number]
            if len(one) <= LONGEST_KNOWN and len(known) < KNOWN:
                known[one] = claims.added[number]


class ImaClaims(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What an authentic log says that is new; only `hwtrust.verify` makes them."""

    log: ImaLog
    pcr: int
    bank: Alg
    before: ImaState | None
    """What was verified before; None at the start of the boot."""
    state: ImaState
    """What is verified now; what to do with it says `ima_rules.state_to_keep`."""
    new: int
    """How many entries of the log are verified."""
    beyond: int
    """How many come after the quote, and are not."""
    violations: tuple[int, ...]
    """Which of the new entries are violations; all numbers are from the log's begin."""
    unknown: tuple[int, ...]
    """Which of the new entries are not in `known`."""
    known: KnownEntries | None
    added: list[bytes]
    """What each record of the log adds to the PCR, made from its data."""
    verified: object

    def __post_init__(self) -> None:
        if self.verified is not VERIFIED:
            raise made_elsewhere(self)
        take_away(self, "verified", None)

    @property
    def first(self) -> int:
        """The number, in the boot, of the first new entry."""
        return self.state.entries - self.new

    def entries(self, numbers: Iterable[int] | None = None) -> Iterator[tuple[int, ImaEntry]]:
        """New entries by their numbers; all, unless they are told, in rising order.

        Raises:
            MalformedError: what was measured is of no form that is known.
        """
        if numbers is None:
            numbers = range(self.new)
        return self.log.numbered(self.pcr, numbers)

    @property
    def boot_aggregate(self) -> str | None:
        """The first entry's digest, where it is that over the PCRs of the boot."""
        if self.first:
            return None
        for _, entry in self.entries(range(min(self.new, 1))):
            if entry.name == b"boot_aggregate":
                return str(entry.digest)
        return None

    def facts(self) -> dict[str, str | int | bool | list[str]]:
        """The claims for people and programs."""
        return {
            "pcr": self.pcr,
            "bank": alg_name(self.bank),
            "extend": str(self.state.extend),
            "entries": self.state.entries,
            "entries_new": self.new,
            "entries_after_quote": self.beyond,
            "violations": self.state.violations,
            "value": self.state.value.hex(),
        }


def verify_ima(
    log: ImaLog,
    *,
    bank: Alg,
    value: bytes,
    state: ImaState | Literal[Boot.START],
    pcr: int = PCR,
    known: KnownEntries | None = None,
    extend: Extend | None = None,
) -> ImaClaims:
    """Have `log` explain `value`, which a verified quote gives for `pcr` in `bank`.

    With a `state` the log begins behind what that covers. With `known`, of the
    rules that will appraise the claims, entries that came before cost less. With
    `extend`, of `ways`, that alone is tried.

    Raises:
        ImaReplayError: the log does not explain the value: cut short, or changed.
        ImaStateError: the state is of another PCR or bank, or the value no value of it.
        UnsupportedError: the bank's hash is none that can be computed.
        MalformedError: the log is not of its form.
    """
    size = digest_size(bank)
    if len(value) != size:
        raise ImaStateError(
            f"a PCR of the bank {alg_name(bank)} has {size} bytes, not {len(value)}"
        )
    before = None if state is START else state
    begin = _begin(before, bank, pcr)
    data = log.template_data(pcr)
    digests: list[bytes | None] = (
        [None] * len(data) if known is None else list(map(known.digests(bank).get, data))
    )
    unknown = list(_places_of_none(digests))
    # None that is known is one: the digest in a violation is zeros.
    violations = log.violations(pcr, unknown)
    for way in ways(before, bank) if extend is None else (extend,):
        # (1), (2), (3): what is added.
        added = _added(way, bank, data, digests, unknown, violations)
        # (4): the longest part.
        count = _explaining(bank, begin, added, value)
        if count is None:
            continue
        seen = tuple(at for at in violations if at < count)
        return ImaClaims(
            log=log,
            pcr=pcr,
            bank=bank,
            before=before,
            state=ImaState(
                pcr=pcr,
                bank=alg_name(bank),
                entries=count + (before.entries if before else 0),
                violations=len(seen) + (before.violations if before else 0),
                value=value,
                extend=way,
            ),
            new=count,
            beyond=len(data) - count,
            violations=seen,
            unknown=tuple(unknown if count == len(data) else (at for at in unknown if at < count)),
            known=known,
            added=added,
            verified=VERIFIED,
        )
    raise ImaReplayError(
        f"the IMA log of {len(data)} entries does not explain the quoted value of PCR {pcr}",
        pcr=pcr,
        entries=len(data),
    )


def _begin(state: ImaState | None, bank: Alg, pcr: int) -> bytes:
    size = digest_size(bank)
    if state is None:
        return bytes(size)
    if state.bank != alg_name(bank) or state.pcr != pcr or len(state.value) != size:
        raise ImaStateError(
            f"the IMA log was verified for PCR {state.pcr} of the bank {state.bank} before, "
            f"asked for is PCR {pcr} of {alg_name(bank)}"
        )
    return state.value


def ways(state: ImaState | None, bank: Alg) -> tuple[Extend, ...]:
    """What the kernel may add to `bank`, as far as the state leaves it open."""
    if bank is Alg.SHA1:
        return (Extend.HASHED,)
    if state is None or state.entries == state.violations == 0:
        return tuple(Extend)
    if state.extend is not Extend.PADDED_ONES and state.entries == state.violations:
        # All were violations, which are the same in both.
        return (Extend.HASHED, Extend.PADDED)
    if state.extend is Extend.PADDED and not state.violations:
        return (Extend.PADDED, Extend.PADDED_ONES)
    return (state.extend,)


def _places_of_none(digests: list[bytes | None]) -> Iterator[int]:
    at = -1
    with contextlib.suppress(ValueError):
        while True:
            at = digests.index(None, at + 1)
            yield at


def _added(  # noqa: PLR0917 - the parts of one decision
    extend: Extend,
    bank: Alg,
    data: list[bytes],
    digests: list[bytes | None],
    unknown: list[int],
    violations: list[int],
) -> list[bytes]:
    """What is added to the PCR, entry by entry."""
    size = digest_size(bank)
    if extend is Extend.HASHED:
        if len(unknown) == len(data):
            added = _hashes(bank, data)
        else:
            # No longer with None in it, once the unknown ones are set.
            added = cast("list[bytes]", digests)
            for at, digest in zip(
                unknown, _hashes(bank, [data[at] for at in unknown]), strict=True
            ):
                added[at] = digest
    else:
        fill = bytes(size - _SHA1_SIZE)
        added = [digest + fill for digest in _hashes(Alg.SHA1, data)]
    ones = b"\xff" * size
    if extend is Extend.PADDED_ONES:
        ones = b"\xff" * _SHA1_SIZE + bytes(size - _SHA1_SIZE)
    for at in violations:
        added[at] = ones
    return added


def _hasher(alg: Alg) -> Callable[[], hashlib._Hash]:
    """Makes hash objects: a copy of one that is empty is made faster than a new one."""
    new_hash(alg, b"")
    name = "sm3" if alg is Alg.SM3_256 else alg_name(alg)
    return hashlib.new(name, usedforsecurity=False).copy


def _hashes(alg: Alg, data: Iterable[bytes]) -> list[bytes]:
    start = _hasher(alg)
    digests: list[bytes] = []
    append = digests.append
    for one in data:
        state = start()
        state.update(one)
        append(state.digest())
    return digests


def _explaining(bank: Alg, begin: bytes, added: list[bytes], value: bytes) -> int | None:
    """How many of `added`, as many as possible, lead from `begin` to `value`; None if none do."""
    start = _hasher(bank)
    marks = []
    pcr = begin
    for place in range(0, len(added), _STEP):
        marks.append(pcr)
        for digest in added[place : place + _STEP]:
            state = start()
            state.update(pcr + digest)
            pcr = state.digest()
    if compare_digest(pcr, value):
        return len(added)
    # The quote saw less than the log has: mostly but a few entries less.
    while marks:
        pcr = marks.pop()
        place = len(marks) * _STEP
        found = place if compare_digest(pcr, value) else None
        for at, digest in enumerate(added[place : place + _STEP], start=place + 1):
            state = start()
            state.update(pcr + digest)
            pcr = state.digest()
            if pcr == value:
                found = at
        if found is not None:
            return found
    return None
