"""What a device should have loaded, and what its newest kept evidence says that it did.

    Release, Evidence, PcrRules ── measured ──▶ rows for a page

Shown is what the TPM has signed, as it was verified when it came. Nothing is
decided here: the verdict is the appraisal's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from hwtrust.errors import HwTrustError
from hwtrust.verify.policy import PcrRules
from hwtrust.wire.cel import Event, EventKind, EventLog
from hwtrust.wire.enclave import EnclaveEvidence
from hwtrust.wire.messages import Evidence, LayerReference, Release

MOST_EVENTS: Final = 200
"""How many events are shown; the newest count."""


@dataclass(frozen=True, slots=True)
class LayerRow:
    """One layer; empty texts stand for what is not there."""

    name: str
    expected_version: str
    expected_digest: str
    measured_version: str
    measured_digest: str
    state: str
    """`match`, `changed`, `missing`, or `extra`: no layer of the release is in this place."""


@dataclass(frozen=True, slots=True)
class EventRow:
    """One record of the event log."""

    number: int
    kind: str
    name: str
    version: str
    digest: str


@dataclass(frozen=True, slots=True)
class PcrRow:
    """One quoted register, and how the group's policy sees it."""

    number: int
    value: str
    note: str
    state: str
    """`match`, `changed`, or `any`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """All of it; `at` is when the evidence came, UTC milliseconds."""

    at: int
    release: str
    release_known: bool
    layers: tuple[LayerRow, ...]
    events: tuple[EventRow, ...]
    events_left_out: int
    pcrs: tuple[PcrRow, ...]
    capped: bool
    """Whether the last load is complete, so that the state does not unseal again."""
    epoch: int


def measured(
    content: bytes,
    *,
    at: int,
    releases: Mapping[str, Release],
    pcr: int,
    rules: PcrRules,
    enclave: bool = False,
) -> Measured | None:
    """What the kept evidence `content` says; None where it cannot be read any more.

    `releases` are all that are known; `pcr` is the application's register. An `enclave`
    has none of those PCRs.
    """
    evidence: Evidence | EnclaveEvidence
    try:
        if enclave:
            evidence = msgspec.json.decode(content, type=EnclaveEvidence)
        else:
            evidence = msgspec.json.decode(content, type=Evidence)
        log = EventLog.decode(evidence.log)
    except (HwTrustError, msgspec.MsgspecError):
        return None
    events = log.events
    release = releases.get(evidence.binding.release)
    last = _last_load(events)
    found_changed = {event.name: event for event in last if event.kind is EventKind.VIOLATION}
    # A layer that was found changed later is what it was found to be, not what was loaded.
    loaded = [
        found_changed.get(event.name, event) for event in last if event.kind is EventKind.LAYER
    ]
    pcrs = evidence.pcrs if isinstance(evidence, Evidence) else {}
    left_out = max(len(log.records) - MOST_EVENTS, 0)
    return Measured(
        at=at,
        release=evidence.binding.release,
        release_known=release is not None,
        layers=tuple(_layers(loaded, () if release is None else release.layers)),
        events=tuple(
            EventRow(
                record.number,
                record.event.kind.name.lower(),
                record.event.name,
                record.event.version,
                record.event.digest.hex(),
            )
            for record in log.records[left_out:]
        ),
        events_left_out=left_out,
        pcrs=tuple(
            _pcr(number, value, own=number == pcr, rules=rules)
            for number, value in sorted(pcrs.items())
        ),
        capped=any(event.kind is EventKind.CAP for event in last),
        epoch=evidence.binding.epoch,
    )


def _last_load(events: tuple[Event, ...]) -> tuple[Event, ...]:
    """What came after the last reload: that is what runs now."""
    reloads = [place for place, event in enumerate(events) if event.kind is EventKind.RELOAD]
    return events[reloads[-1] + 1 :] if reloads else events


def _layers(loaded: list[Event], expected: tuple[LayerReference, ...]) -> Iterator[LayerRow]:
    for place in range(max(len(loaded), len(expected))):
        wanted = expected[place] if place < len(expected) else None
        found = loaded[place] if place < len(loaded) else None
        if wanted is not None and (found is None or found.name == wanted.name):
            yield _row(wanted, found)
            continue
        if wanted is not None:
            yield _row(wanted, None)
        if found is not None:
            digest = found.digest.hex()
            yield LayerRow(found.name, "", "", found.version, digest, "extra")


def _row(wanted: LayerReference, found: Event | None) -> LayerRow:
    digest = wanted.digest.hex()
    if found is None:
        return LayerRow(wanted.name, wanted.version, digest, "", "", "missing")
    expected = Event(EventKind.LAYER, wanted.name, wanted.version, wanted.digest)
    same = found == expected
    return LayerRow(
        wanted.name,
        wanted.version,
        digest,
        found.version,
        found.digest.hex(),
        "match" if same else "changed",
    )


def _pcr(number: int, value: bytes, *, own: bool, rules: PcrRules) -> PcrRow:
    if own:
        return PcrRow(number, value.hex(), "the application's: its event log explains it", "match")
    if number in rules.unsafe_any:
        return PcrRow(number, value.hex(), "may hold anything, says the policy", "any")
    accepted = rules.values.get(number)
    if accepted is None:
        return PcrRow(number, value.hex(), "the policy names no value", "changed")
    if value in accepted:
        return PcrRow(number, value.hex(), "an accepted value", "match")
    return PcrRow(number, value.hex(), "not an accepted value", "changed")
