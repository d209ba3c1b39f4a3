"""A log of IMA that comes in pieces, of which only the last one leads to a quoted value.

    piece + ImaState ── begin_ima ──▶ states from which the next piece goes on

What is in a piece is what the device says, until a later one leads from a state of it
to a quoted value. Then it is what the kernel measured: nobody finds another beginning
that comes to the value from which that one went on.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final, Literal

from hwtrust.verify.logs.ima import Boot, Extend, ImaState, verify_ima, ways
from hwtrust.verify.logs.ima_rules import PreparedImaRules, appraise_ima
from hwtrust.wire.algorithms import Alg

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hwtrust.verify.quote import PcrValues
    from hwtrust.wire.logs.ima import ImaLog
    from hwtrust.wire.messages import Finding

_ONES: Final = b"\xff" * 32
_SHORT_ONES: Final = b"\xff" * 20 + bytes(12)
_FILL: Final = bytes(12)

Begin = ImaState | Literal[Boot.START]


def begin_ima(
    log: ImaLog,
    *,
    states: Sequence[Begin],
    pcr: int,
    rules: PreparedImaRules,
    pcrs: PcrValues,
) -> tuple[tuple[ImaState, ...], tuple[Finding, ...]]:
    """Where a piece leads from `states`, in the SHA-256 bank, and what is found in it.

    One state for each way in which the kernel may extend: one of them is right, if any.
    What came before has shown that some of them are none; these cost nothing.
    `pcrs` are values that a verified quote gives. None of it is to be believed yet.

    Raises:
        ImaStateError: a state is of another PCR or bank.
        UnsupportedError, MalformedError: as `verify_ima`.
    """
    data = log.template_data(pcr)
    violations = frozenset(log.violations(pcr, range(len(data))))
    found: dict[bytes, ImaState] = {}
    findings: tuple[Finding, ...] = ()
    for state in states:
        before = None if isinstance(state, Boot) else state
        begin = bytes(32) if before is None else before.value
        for extend in ways(before, Alg.SHA256):
            value = begin
            for added in _added(extend, data, violations):
                value = hashlib.sha256(value + added).digest()
            if value in found:
                # Without a violation, or with nothing else, two ways are the same so far.
                continue
            claims = verify_ima(
                log,
                bank=Alg.SHA256,
                value=value,
                state=state,
                pcr=pcr,
                known=rules.known,
                extend=extend,
            )
            if not found:
                findings = appraise_ima(claims, rules=rules, pcrs=pcrs)
            found[value] = claims.state
    return tuple(found.values()), findings


def _added(extend: Extend, data: list[bytes], violations: frozenset[int]) -> Iterator[bytes]:
    """What is added to the PCR, entry by entry; `verify_ima` has the last word."""
    for at, one in enumerate(data):
        if at in violations:
            yield _SHORT_ONES if extend is Extend.PADDED_ONES else _ONES
        elif extend is Extend.HASHED:
            yield hashlib.sha256(one).digest()
        else:
            yield hashlib.sha1(one, usedforsecurity=False).digest() + _FILL
