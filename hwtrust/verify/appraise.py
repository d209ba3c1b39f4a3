"""Is this device in a state that is accepted? Claims in, a verdict out.

    Claims + References, History, epochs, ClockRules ── appraise ──▶ Verdict

Never raises for a bad state: every finding is named, not the first alone. Rules:

1. A log is `[layers] [cap] ( reload [layers] [cap] )*`. The segment after the
   last reload is what runs now: it must be the release that the device claims.
   Earlier ones ran before in the same boot: they are the beginning of a release
   that is known, though it need not be accepted any more.
2. A segment is capped only when it is complete, because a root opens only then.
3. A violation counts until the reset: what has run may still be there.
4. The counter must be one of `epochs`, and the claimed epoch the counter's own
   or, in the midst of a rotation, the next one.
5. Clocks: what no TPM can do fails; what its surroundings can do to it (power
   cuts, a local program that sets the clock) alerts and is recoverable.
6. Whatever is empty refuses: no releases, no accepted names, no epochs.
7. Standing: failed by any FAIL, else incomplete by any INCOMPLETE, else trusted.
   An ALERT changes nothing: an administrator should look.

8. What a log holds can be long and hostile: of each code the first few findings
   are spelled out and the others counted, and names are cut.

`FINDINGS` documents every code; no other leaves this module.

What a log comes to is kept, by the rules of `hwtrust.verify.kept`: it follows from
the log, the content of the release that is claimed, and, where the log has loads
before the last one, the content of every known release. All of them are compared,
and none of them by its name alone.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import Enum, auto
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, Self

import msgspec

from hwtrust.errors import UntrustedError
from hwtrust.verify.attestation import made_elsewhere, take_away
from hwtrust.verify.kept import Kept
from hwtrust.wire.cel import CAP, RELOAD, Event, EventKind
from hwtrust.wire.challenge import SKEW_MS
from hwtrust.wire.messages import Finding, Release, Severity, Standing
from hwtrust.wire.states import layer_event, layer_events

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from hwtrust.verify.evidence import Claims
    from hwtrust.wire.cel import EventLog
    from hwtrust.wire.messages import LayerReference
    from hwtrust.wire.structures import ClockInfo

_FAIL, _INCOMPLETE, _ALERT = Severity.FAIL, Severity.INCOMPLETE, Severity.ALERT

FINDINGS: Final[Mapping[str, tuple[Severity, str]]] = MappingProxyType(
    {
        "log:empty": (_INCOMPLETE, "nothing was measured since the reset"),
        "log:incomplete": (_INCOMPLETE, "the load has not come to its last layer"),
        "log:violation": (_FAIL, "a layer was found changed since the reset"),
        "log:grammar": (_FAIL, "events are in an order that no load gives"),
        "log:earlier": (_FAIL, "an earlier load of this boot is of no known release"),
        "layer:mismatch": (_FAIL, "a layer has another digest or version than the release's"),
        "layer:order": (_FAIL, "a layer of the release was loaded out of its place, or twice"),
        "layer:unknown": (_FAIL, "a layer was loaded that the release does not have"),
        "release:unknown": (_FAIL, "the device claims a release that is not known"),
        "release:refused": (_FAIL, "the device runs a release that is not accepted"),
        "epoch:revoked": (_FAIL, "the epoch counter stands below every accepted epoch"),
        "epoch:unknown": (_FAIL, "the epoch counter stands at no accepted epoch"),
        "epoch:mismatch": (_FAIL, "the device claims an epoch that its counter denies"),
        "clock:backward": (_FAIL, "clock or restart count fell without a reset"),
        "clock:reset-fell": (_FAIL, "the reset count fell: the TPM was cleared or replaced"),
        "clock:rewound": (_ALERT, "the clock fell over a reset: the power was cut"),
        "clock:drift": (_ALERT, "the clock runs too slowly, too fast, or was set"),
        "clock:ahead": (_ALERT, "the clock is ahead of the backend's"),
        "clock:behind": (_ALERT, "the clock lags behind the backend's"),
        "clock:unsafe": (_ALERT, "the TPM is not sure of its clock since a power cut"),
        "firmware:changed": (_ALERT, "the TPM's firmware is another than at the last time"),
        "firmware:floor": (_FAIL, "the TPM's firmware is older than accepted"),
    }
)
"""What each code means, and how it weighs."""

MOST_OF_A_CODE: Final = 64
"""A release has so many layers at most, and a finding for each can be told."""

LONGEST_NAME: Final = 80

LOGS_KEPT: Final = 512
LONGEST_KEPT: Final = 16 * 1024
"""Bytes, roughly, of a log whose findings are kept."""
RECORD_SIZE: Final = 100
"""Bytes in a record beside its texts, at least; names are of Unicode, hence roughly."""

DRIFT_SLACK_MS: Final = SKEW_MS
"""What two observations may differ by for other reasons than drift: replicas and networks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class References:
    """Every release that is known, and the names of those that may run now."""

    releases: Mapping[str, Release]
    accepted: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What the TPM said last, and when (`observed_ms`, UTC) the backend heard it."""

    clock: int
    reset_count: int
    restart_count: int
    firmware_version: int
    observed_ms: int

    @classmethod
    def of(cls, claims: Claims, *, observed_ms: int) -> Self:
        """What to keep of `claims` for the next appraisal."""
        return cls(
            clock=claims.clock.clock,
            reset_count=claims.clock.reset_count,
            restart_count=claims.clock.restart_count,
            firmware_version=claims.firmware_version,
            observed_ms=observed_ms,
        )


class Sight(Enum):
    """What stands in the place of a history."""

    FIRST = auto()
    """The device was never seen before, or has just been enrolled again."""


FIRST_SIGHT: Final = Sight.FIRST


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockRules:
    """What of a TPM's clock and firmware passes without a finding.

    Attributes:
        max_lag_ms: how far the clock may be behind UTC.
        max_ahead_ms: how far it may be ahead.
        max_drift: by which part of the time passed it may run slow or fast
            between two quotes; 0.01 is one percent.
        firmware_floor: the lowest accepted firmware version.
    """

    max_lag_ms: int
    max_ahead_ms: int
    max_drift: float
    firmware_floor: int


_APPRAISED: Final = object()


class Verdict(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What appraisal came to; only `appraise` makes them."""

    claims: Claims
    findings: tuple[Finding, ...]
    appraised: object

    def __post_init__(self) -> None:
        if self.appraised is not _APPRAISED:
            raise made_elsewhere(self)
        take_away(self, "appraised", None)

    @property
    def standing(self) -> Standing:
        """What the findings come to."""
        return standing_of(self.findings)

    def require_trusted(self) -> None:
        """Refuse every other standing; whoever hands out secrets calls this first.

        Raises:
            UntrustedError: the device failed or is not complete; `findings` holds
                the codes.
        """
        if self.standing is not Standing.TRUSTED:
            codes = ", ".join(
                finding.code for finding in self.findings if finding.severity is not Severity.ALERT
            )
            raise UntrustedError(f"the device is {self.standing}: {codes}", findings=codes)


def appraise(
    claims: Claims,
    *,
    references: References,
    history: History | Literal[Sight.FIRST],
    epochs: frozenset[int],
    clock_rules: ClockRules,
    now_ms: int,
) -> Verdict:
    """Hold `claims` against what is expected; `now_ms` is UTC.

    `epochs` are the counter values that are accepted: the current epoch and, from
    the offer of the next root until it is confirmed, the next.
    """
    binding = claims.binding
    found = list(
        of_whole_log(
            claims.log, digest=binding.log_digest, claimed=binding.release, references=references
        )
    )
    clock, version = claims.quote.clock, claims.quote.firmware_version
    of_release(found, binding.release, references)
    _of_epoch(found, claims.counter, binding.epoch, epochs)
    _of_clock(found, clock, clock_rules, now_ms)
    if history is not FIRST_SIGHT:
        _of_history(found, clock, history, clock_rules, now_ms)
        if version != history.firmware_version:
            _note(
                found,
                "firmware:changed",
                f"{history.firmware_version:#018x} became {version:#018x}",
            )
    if version < clock_rules.firmware_floor:
        floor = clock_rules.firmware_floor
        _note(found, "firmware:floor", f"{version:#018x} is below the floor {floor:#018x}")
    return Verdict(claims=claims, findings=tuple(found), appraised=_APPRAISED)


def with_findings(verdict: Verdict, findings: tuple[Finding, ...]) -> Verdict:
    """The same claims with the findings that a policy has come to; for `hwtrust.verify.policy`."""
    return Verdict(claims=verdict.claims, findings=findings, appraised=_APPRAISED)


def standing_of(findings: tuple[Finding, ...]) -> Standing:
    """What findings come to (rule 7)."""
    if not findings:
        return Standing.TRUSTED
    severities = {finding.severity for finding in findings}
    if Severity.FAIL in severities:
        return Standing.FAILED
    if Severity.INCOMPLETE in severities:
        return Standing.INCOMPLETE
    return Standing.TRUSTED


def _note(found: list[Finding], code: str, message: str) -> None:
    found.append(_finding(code, message))


def _finding(code: str, message: str) -> Finding:
    severity, _ = FINDINGS[code]
    return Finding(code=code, severity=severity, message=message)


def _bounded(findings: Iterator[Finding]) -> Iterator[Finding]:
    seen: Counter[str] = Counter()
    for finding in findings:
        seen[finding.code] += 1
        if seen[finding.code] <= MOST_OF_A_CODE:
            yield finding
    for code, count in seen.items():
        if count > MOST_OF_A_CODE:
            yield _finding(code, f"and {count - MOST_OF_A_CODE} times more")


# --- log and release ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Segment:
    """What was measured between two reloads."""

    events: tuple[Event, ...]

    @property
    def layers(self) -> list[Event]:
        return [event for event in self.events if event.kind is EventKind.LAYER]

    @property
    def capped(self) -> bool:
        return any(event.kind is EventKind.CAP for event in self.events)


def _segments(events: tuple[Event, ...]) -> list[_Segment]:
    segments: list[list[Event]] = [[]]
    for event in events:
        if event.kind is EventKind.RELOAD:
            segments.append([])
        else:
            segments[-1].append(event)
    return [_Segment(tuple(segment)) for segment in segments]


@dataclass(frozen=True, slots=True)
class _Appraised:
    """What a log came to, and all that this followed from."""

    log: EventLog
    release: Release | None
    releases: Mapping[str, Release] | None
    """Every known release, or None where the log has no load before the last one."""
    findings: tuple[Finding, ...]


_APPRAISED_LOGS: Final[Kept[tuple[bytes, str], _Appraised]] = Kept(most=LOGS_KEPT)
"""By the log's SHA-256 and the name of the release: where to look, not what to believe."""


def of_whole_log(
    log: EventLog, *, digest: bytes, claimed: str, references: References
) -> tuple[Finding, ...]:
    """What a log says against the release that its device claims; `digest` is its SHA-256."""
    release = references.releases.get(claimed)
    place = digest, claimed
    kept = _APPRAISED_LOGS.get(place)
    if (
        kept is not None
        and kept.log is log
        and (kept.release is release or kept.release == release)
        and (kept.releases is None or kept.releases == references.releases)
    ):
        return kept.findings
    findings = tuple(_bounded(_of_log(log, release, references)))
    if _fits(log):
        releases = dict(references.releases) if log.was_reloaded else None
        _APPRAISED_LOGS.keep(place, _Appraised(log, release, releases, findings))
    return findings


def _fits(log: EventLog) -> bool:
    """Whether the log is short enough for its findings to be kept."""
    size = 0
    for record in log.records:
        size += RECORD_SIZE + len(record.event.name) + len(record.event.version)
        if size > LONGEST_KEPT:
            return False
    return True


def _of_log(log: EventLog, release: Release | None, references: References) -> Iterator[Finding]:
    events = log.events
    if not events:
        yield _finding("log:empty", "nothing was measured since the reset")
    for event in events:
        if event.kind is EventKind.VIOLATION:
            yield _finding("log:violation", f"the layer {_name(event)} was found changed")
        if (event.kind is EventKind.RELOAD and event != RELOAD) or (
            event.kind is EventKind.CAP and event != CAP
        ):
            yield _finding("log:grammar", f"a {event.kind.name.lower()} event carries a layer")
    *earlier, current = _segments(events)
    for segment in (*earlier, current):
        yield from _of_grammar(segment)
    if earlier:
        known = _Known(references)
        for segment in earlier:
            yield from _of_earlier(segment, known)
    if release is not None and events:
        yield from _of_current(current, release)


def _of_grammar(segment: _Segment) -> Iterator[Finding]:
    """A segment is layers, then perhaps one cap; a violation ends it wherever it is."""
    stopped = ""
    for event in segment.events:
        if event.kind is EventKind.VIOLATION:
            stopped = "a violation"
        elif stopped:
            what = f"the layer {_name(event)}" if event.kind is EventKind.LAYER else "a cap"
            yield _finding("log:grammar", f"{what} follows {stopped} without a reload")
        elif event.kind is EventKind.CAP:
            stopped = "a cap"


@dataclass(slots=True)
class _Node:
    """A place in the tree of known loads; `complete` where a release ends."""

    following: dict[Event, _Node] = field(default_factory=dict)
    complete: bool = False


class _Known:
    """The layers of all known releases as a tree, so that a long log costs one walk."""

    def __init__(self, references: References) -> None:
        self._root = _Node()
        for release in references.releases.values():
            node = self._root
            for event in layer_events(release):
                node = node.following.setdefault(event, _Node())
            node.complete = True

    def find(self, layers: list[Event]) -> _Node | None:
        """Where `layers` lead to; None if no release begins with them."""
        node: _Node | None = self._root
        for event in layers:
            if node is None:
                break
            node = node.following.get(event)
        return node


def _of_earlier(segment: _Segment, known: _Known) -> Iterator[Finding]:
    node = known.find(segment.layers)
    if node is None:
        names = ", ".join(_name(layer) for layer in segment.layers[:MOST_OF_A_CODE])
        yield _finding("log:earlier", f"no known release begins with the layers {names}")
    elif segment.capped and not node.complete:
        yield _finding("log:grammar", "an earlier load was capped before it was complete")


def _of_current(segment: _Segment, release: Release) -> Iterator[Finding]:
    layers = segment.layers
    for place, event in enumerate(layers):
        expected = release.layers[place] if place < len(release.layers) else None
        yield from _of_layer(event, expected, release)
    if len(layers) < len(release.layers):
        missing = release.layers[len(layers)].name
        yield _finding("log:incomplete", f"the layer {missing!r} is not loaded yet")
        if segment.capped:
            yield _finding("log:grammar", f"the load was capped before the layer {missing!r}")


def _of_layer(event: Event, expected: LayerReference | None, release: Release) -> Iterator[Finding]:
    if expected is not None and event == layer_event(expected):
        return
    if expected is not None and event.name == expected.name:
        yield _finding(
            "layer:mismatch",
            f"the layer {_name(event)} is version {_cut(event.version)} with digest "
            f"{event.digest.hex()}; expected is {expected.version!r} with {expected.digest.hex()}",
        )
    elif any(event.name == layer.name for layer in release.layers):
        place = "after the last layer" if expected is None else f"in the place of {expected.name!r}"
        yield _finding("layer:order", f"the layer {_name(event)} was loaded {place}")
    else:
        yield _finding("layer:unknown", f"the release {release.name!r} has no layer {_name(event)}")


def of_release(found: list[Finding], name: str, references: References) -> None:
    """Add what there is to say against the release that a device claims."""
    if name not in references.releases:
        _note(found, "release:unknown", f"there is no release {name!r}")
    elif name not in references.accepted:
        _note(found, "release:refused", f"the release {name!r} is not accepted")


# --- epoch -------------------------------------------------------------------------


def _of_epoch(found: list[Finding], counter: int, claimed: int, epochs: frozenset[int]) -> None:
    if counter not in epochs:
        accepted = ", ".join(map(str, sorted(epochs))) or "none"
        code = "epoch:revoked" if epochs and counter < min(epochs) else "epoch:unknown"
        _note(found, code, f"the counter stands at {counter}, accepted is {accepted}")
    rotating = claimed == counter + 1 and claimed in epochs
    if claimed != counter and not rotating:
        _note(
            found,
            "epoch:mismatch",
            f"the device claims epoch {claimed}, its counter stands at {counter}",
        )


# --- clock -------------------------------------------------------------------------


def _of_clock(found: list[Finding], clock: ClockInfo, rules: ClockRules, now_ms: int) -> None:
    ahead = clock.clock - now_ms
    if not clock.safe:
        _note(found, "clock:unsafe", "the TPM is not sure of its clock since a power cut")
    if ahead > rules.max_ahead_ms:
        _note(found, "clock:ahead", f"the TPM's clock is {_spell(ahead)} ahead")
    if -ahead > rules.max_lag_ms:
        _note(found, "clock:behind", f"the TPM's clock is {_spell(-ahead)} behind")


def _of_history(
    found: list[Finding], clock: ClockInfo, history: History, rules: ClockRules, now_ms: int
) -> None:
    if clock.reset_count < history.reset_count:
        _note(
            found,
            "clock:reset-fell",
            f"the reset count fell from {history.reset_count} to {clock.reset_count}",
        )
        return
    was_reset = clock.reset_count > history.reset_count
    if not was_reset and clock.restart_count < history.restart_count:
        _note(
            found,
            "clock:backward",
            f"the restart count fell from {history.restart_count} to {clock.restart_count}",
        )
    passed = clock.clock - history.clock
    if passed < 0:
        code = "clock:rewound" if was_reset else "clock:backward"
        _note(found, code, f"the TPM's clock went back by {_spell(-passed)}")
        return
    ran_on = not was_reset and clock.restart_count == history.restart_count
    _of_drift(
        found,
        passed=passed,
        # Below zero it tells of two replicas' clocks, and nothing of the TPM's.
        elapsed=max(now_ms - history.observed_ms, 0),
        lag=now_ms - clock.clock,
        ran_on=ran_on,
        rules=rules,
    )


def _of_drift(
    found: list[Finding], *, passed: int, elapsed: int, lag: int, ran_on: bool, rules: ClockRules
) -> None:
    """`passed` by the TPM, `elapsed` by the backend; a clock stands still while it is off."""
    tolerance = rules.max_drift * elapsed + DRIFT_SLACK_MS
    # A device that sets its lagging clock by the signed time is doing what it should.
    was_set = -rules.max_ahead_ms <= lag <= rules.max_lag_ms
    if passed - elapsed > tolerance and not was_set:
        _note(
            found,
            "clock:drift",
            f"the TPM's clock gained {_spell(passed - elapsed)} on the backend's",
        )
    if ran_on and elapsed - passed > tolerance:
        _note(
            found,
            "clock:drift",
            f"the TPM's clock lost {_spell(elapsed - passed)} to the backend's",
        )


def _name(event: Event) -> str:
    return _cut(event.name)


def _cut(text: str) -> str:
    return repr(text if len(text) <= LONGEST_NAME else f"{text[:LONGEST_NAME]}…")


def _spell(milliseconds: int) -> str:
    seconds = milliseconds / 1000
    for size, unit in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} seconds"
