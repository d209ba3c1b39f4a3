"""From an event log to the run-time measurement registers of a TD.

    (measurement register, SHA-384 digest), … ── replay ──▶ {RTMR: value}

Each event is extended as `SHA384(register || digest)`, from zeros on. A log of the
firmware (CCEL) numbers the registers by the EFI_CC_MR_INDEX: 0 is MRTD, into which
nothing is extended any more, and RTMR n is n + 1. A log that is numbered by PCRs is
mapped as the firmware does it (UEFI 2.10 §38.4.1). Only digests count here; who
has written the log is of no matter, once it gives the values that are signed.
"""

from __future__ import annotations

import hashlib
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from hwtrust.errors import MalformedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

RTMRS: Final = 4
DIGEST_SIZE: Final = 48
FIRST_MR_INDEX: Final = 1
"""The EFI_CC_MR_INDEX of RTMR 0."""

_OF_PCR: Final[Mapping[int, int]] = MappingProxyType(
    {1: 0, 7: 0, **dict.fromkeys((2, 3, 4, 5, 6), 1), **dict.fromkeys(range(8, 16), 2)}
)

Extend = tuple[int, bytes]
"""A register, and the digest that was extended into it."""


def rtmr_of_mr_index(mr_index: int) -> int:
    """The RTMR of an EFI_CC_MR_INDEX.

    Raises:
        MalformedError: MRTD, or no register at all.
    """
    rtmr = mr_index - FIRST_MR_INDEX
    if not 0 <= rtmr < RTMRS:
        raise MalformedError(f"no RTMR has the measurement register index {mr_index}")
    return rtmr


def rtmr_of_pcr(pcr: int) -> int:
    """The RTMR that stands in the place of a PCR.

    Raises:
        MalformedError: none does: PCR 0 is MRTD, and there are none from 16 on.
    """
    try:
        return _OF_PCR[pcr]
    except KeyError:
        raise MalformedError(f"no RTMR stands in the place of PCR {pcr}") from None


def from_ccel(events: Iterable[Extend]) -> tuple[Extend, ...]:
    """The events of a CCEL, whose registers are EFI_CC_MR_INDEX, by RTMR.

    Raises:
        MalformedError: one is of no RTMR.
    """
    return tuple((rtmr_of_mr_index(index), digest) for index, digest in events)


def from_pcrs(events: Iterable[Extend]) -> tuple[Extend, ...]:
    """The events of a log that is numbered by PCRs, by RTMR.

    Raises:
        MalformedError: one is of no RTMR.
    """
    return tuple((rtmr_of_pcr(pcr), digest) for pcr, digest in events)


def replay(events: Iterable[Extend]) -> Sequence[bytes]:
    """The values of RTMR 0 to 3 after `events`, by their numbers.

    Raises:
        MalformedError: no such register, or no SHA-384 digest.
    """
    values = [bytes(DIGEST_SIZE)] * RTMRS
    for rtmr, digest in events:
        if not 0 <= rtmr < RTMRS or len(digest) != DIGEST_SIZE:
            raise MalformedError(f"{len(digest)} bytes are extended into RTMR {rtmr}")
        values[rtmr] = hashlib.sha384(values[rtmr] + digest).digest()
    return tuple(values)


def explained(events: Iterable[Extend], *, rtmr: int, value: bytes) -> list[bytes] | None:
    """The digests at the beginning of a register's log that give `value`, if any do.

    A log goes on after a quote was made: what follows is not looked at.
    """
    current = bytes(DIGEST_SIZE)
    found: list[bytes] = []
    for register, digest in events:
        if current == value:
            break
        if register != rtmr:
            continue
        current = hashlib.sha384(current + digest).digest()
        found.append(digest)
        if len(digest) != DIGEST_SIZE:
            return None
    return found if current == value else None
