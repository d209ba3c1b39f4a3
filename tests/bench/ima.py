"""How fast an IMA log of 100,000 entries is decoded, replayed and appraised.

The floor is a plain Python loop over entries that are split already: one
`hashlib.sha256(data).digest()` and one look-up in a set for each. Floor and
product run in turn in one process; a ratio is the median of those of the rounds.

The log is one of a machine whose files are signed by half, and the rules are those
of a fleet: a digest for each path, and PCR values for `boot_aggregate`.

    pinned       the first log that these rules meet. What they expect was hashed when
                 they were prepared, once for a fleet, but for the signed half: a
                 signature is in what is hashed, so these entries are hashed and read
    known        the second one: what was accepted before costs its extend alone.
                 This is what the goal is for.
    longer       known, and the quote saw 100 entries less than the log has
    first        nothing is known nor expected: every entry is hashed, extended, read
                 and looked up, as for files that only `digests_anywhere` has. Two
                 hashes an entry cannot be done in 1.5 of a floor that has one.
    incremental  1,000 new entries after 99,000 verified ones, by 1,000 alone
"""

from __future__ import annotations

import hashlib
import json
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[1]))

from hwtrust.verify.logs.ima import START, verify_ima
from hwtrust.verify.logs.ima_rules import (
    ImaRules,
    PreparedImaRules,
    appraise_ima,
)
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.logs.ima import ImaLog
from simulators.ima_log import ImaKernel, ec_key, sign

if TYPE_CHECKING:
    from collections.abc import Callable

    from hwtrust.verify.logs.ima import ImaState

ENTRIES = 100_000
NEW = 1_000
ROUNDS = 7
GOAL = 1.5
FIRST = 5
"""What is not known beforehand is hashed and extended: twice the floor before it is read."""
PCRS = {number: bytes(32) for number in range(10)}
SAME = 1.3
"""How much longer new entries may take after others than alone; it is noise, not work."""


def kernel() -> ImaKernel:
    """One that has measured `ENTRIES` files, half of them as `ima-ng`, then half as `ima-sig`."""
    measured = ImaKernel().boot(PCRS)
    signature = sign(ec_key(), bytes(32))
    for number in range(ENTRIES - 1):
        path = f"/usr/lib/x86_64-linux-gnu/lib{number:06d}.so.{number % 7}"
        if number < ENTRIES // 2:
            measured.file(path, b"%d" % number)
        else:
            measured.file(path, b"%d" % number, template="ima-sig", signature=signature)
    return measured


def rules_of(measured: ImaKernel, *, pinned: bool) -> ImaRules:
    """Rules that accept what was measured: by path, or by digest alone."""
    files: dict[str, tuple[str, ...]] = {
        entry.fields[1][:-1].decode(): (entry.fields[0][8:].hex(),)
        for entry in measured.entries[1:]
    }
    if pinned:
        return ImaRules(digests=files)
    return ImaRules(digests_anywhere=tuple(digest for (digest,) in files.values()))


def floor(data: list[bytes], known: set[bytes]) -> int:
    """What has to be done at least, in plain Python."""
    found = 0
    for one in data:
        if hashlib.sha256(one).digest() in known:
            found += 1
    return found


def check(raw: bytes, value: bytes, rules: PreparedImaRules, state: ImaState | None) -> ImaState:
    """Decode, replay and appraise; nothing may be found."""
    claims = verify_ima(
        ImaLog.decode(raw),
        bank=Alg.SHA256,
        value=value,
        state=START if state is None else state,
        known=rules.known,
    )
    findings = appraise_ima(claims, rules=rules, pcrs={Alg.SHA256: PCRS})
    if findings:
        raise SystemExit(f"the benchmark's log was not accepted: {findings[0]}")
    return claims.state


def seconds(call: Callable[[], object]) -> float:
    """How long a call takes, of the processor's time: other work on the machine does not count."""
    start = time.thread_time()
    call()
    return time.thread_time() - start


def report(name: str, value: float, unit: str, goal: float | None) -> None:
    """Print one result."""
    ok = goal is None or value <= goal
    result = {"name": name, "value": round(value, 3), "unit": unit, "goal": goal, "ok": ok}
    print(json.dumps(result), flush=True)


def main() -> None:
    """Run everything in turn, and print the results."""
    measured = kernel()
    raw, value = measured.log(), measured.pcr(Alg.SHA256)
    less = measured.pcr(Alg.SHA256, entries=ENTRIES - 100)
    data = [bytes(bytearray(entry.data)) for entry in measured.entries]
    known = {hashlib.sha256(one).digest() for one in data}
    pinned, anywhere = (rules_of(measured, pinned=one) for one in (True, False))
    rules = PreparedImaRules(pinned)
    prepare = seconds(lambda: PreparedImaRules(pinned).known.digests(Alg.SHA256))
    check(raw, value, rules, None)
    earlier = check(
        measured.log()[: -len(measured.log(begin=ENTRIES - NEW))],
        measured.pcr(Alg.SHA256, entries=ENTRIES - NEW),
        rules,
        None,
    )
    new = measured.log(begin=ENTRIES - NEW)
    alone = ImaKernel(entries=[measured.entries[0], *measured.entries[-NEW + 1 :]])
    alone_raw, alone_value = alone.log(), alone.pcr(Alg.SHA256)
    ratios: dict[str, list[float]] = {}
    floors = []
    for _ in range(ROUNDS):
        unused, unlisted = PreparedImaRules(pinned), PreparedImaRules(anywhere)
        unused.known.digests(Alg.SHA256)
        base = seconds(partial(floor, data, known))
        floors.append(base)
        calls: dict[str, Callable[[], object]] = {
            "known": partial(check, raw, value, rules, None),
            "longer": partial(check, raw, less, rules, None),
            "pinned": partial(check, raw, value, unused, None),
            "first": partial(check, raw, value, unlisted, None),
        }
        for name, call in calls.items():
            ratios.setdefault(name, []).append(seconds(call) / base)
        more = seconds(partial(check, new, value, rules, earlier))
        ratios.setdefault("incremental", []).append(
            more / seconds(partial(check, alone_raw, alone_value, rules, None))
        )
    goals = {"known": GOAL, "longer": GOAL, "pinned": FIRST, "first": FIRST, "incremental": SAME}
    for name, goal in goals.items():
        report(f"ima_100k_{name}", statistics.median(ratios[name]), "ratio", goal)
    report("ima_100k_floor", statistics.median(floors) * 1000, "ms", None)
    report("ima_prepare_rules", prepare * 1000, "ms", None)


if __name__ == "__main__":
    main()
