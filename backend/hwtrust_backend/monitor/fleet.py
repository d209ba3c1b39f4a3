"""The fleet in numbers, for a page that is looked at all day.

    devices, roots (indexes alone) ── FleetView ──▶ Fleet, some seconds old

Rules:
1. Nothing here reads all rows: counts come from indexes that hold what is counted,
   lists are short, and what is due is found by when it is due.
2. One reader at a time makes the numbers of a group of readers; the others get
   the same ones. What an overview costs does not grow with who looks at it.
3. Whoever is limited to groups gets the numbers of those groups, and no others.
"""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock
from typing import Final

from sqlalchemy import ColumnElement, case, func, literal_column, select, true
from sqlalchemy.orm import Session

from hwtrust.wire.messages import Mode, Standing
from hwtrust_backend.config.clock import DAY, HOUR, SECOND
from hwtrust_backend.enrolment import Device, DeviceKind
from hwtrust_backend.monitor.activity import attestations_by_minute
from hwtrust_backend.monitor.service import DeviceSummary, summaries_of
from hwtrust_backend.publishing import StoredRoot

FRESH_MS: Final = 10 * SECOND
SLOW_MS: Final = 60 * SECOND
"""How old the numbers may be, and those that change slowly."""
ACTIVITY_MS: Final = 4 * HOUR
ROTATIONS_MS: Final = 7 * DAY
MOST_SHOWN: Final = 6
"""How many devices that need somebody are named; the others are counted."""

_MOST_KEPT: Final = 64
_ACTIVE: Final = StoredRoot.state == literal_column("'active'")
_ENCLAVE: Final = Device.kind != literal_column("'tpm'")
"""In these words, so that the indexes of just these rows are found."""

Groups = frozenset[str] | None
"""The groups that a reader is limited to; None: all devices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How many devices are how; retired ones are in `retired` alone."""

    standing: dict[Standing, int]
    mode: dict[Mode, int]
    kind: dict[DeviceKind, int]
    silent: int
    retired: int

    @property
    def total(self) -> int:
        """All devices that are in service."""
        return sum(self.standing.values())

    @property
    def enclaves(self) -> int:
        """Those whose evidence is not a TPM's."""
        return sum(count for kind, count in self.kind.items() if kind is not DeviceKind.TPM)


@dataclass(frozen=True, slots=True, kw_only=True)
class Distributions:
    """What changes slowly. Times are UTC milliseconds."""

    at: int
    epochs: dict[int, int]
    """How many devices' counters stand at which epoch."""
    root_ages: dict[int, int]
    """How many active roots are so many whole days old."""
    rotations: dict[int, int]
    """How many roots are due in so many whole hours from `at`; what is overdue is in 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """The fleet at one moment. Times are UTC milliseconds."""

    at: int
    counts: Counts
    failed: tuple[DeviceSummary, ...]
    silent: tuple[DeviceSummary, ...]
    """Devices that are not failed and are missed; newest first, as those that failed."""
    activity: dict[int, int]
    """Attestations by minute since 1970; nothing stands for none."""
    slow: Distributions


class FleetView:
    """Makes a `Fleet` when somebody looks, and keeps it for a moment."""

    def __init__(self) -> None:
        self._kept: dict[Groups, Fleet] = {}
        self._making: dict[Groups, Lock] = {}
        self._lock = Lock()

    def look(self, session: Session, *, groups: Groups, now: int) -> Fleet:
        """The fleet as it was at most `FRESH_MS` ago."""
        with self._lock:
            if len(self._making) > _MOST_KEPT:
                self._kept, self._making = {}, {}
            making = self._making.setdefault(groups, Lock())
        with making:
            kept = self._kept.get(groups)
            if kept is None or not 0 <= now - kept.at < FRESH_MS:
                slow = None if kept is None else kept.slow
                if slow is not None and not 0 <= now - slow.at < SLOW_MS:
                    slow = None
                kept = count_fleet(session, groups=groups, now=now, slow=slow)
                self._kept[groups] = kept
            return kept

    def forget(self) -> None:
        """Have the next look count anew, for whoever has just changed something."""
        with self._lock:
            self._kept = {}


def count_fleet(
    session: Session, *, groups: Groups, now: int, slow: Distributions | None = None
) -> Fleet:
    """The fleet as it is; `slow` is taken as it was, where it is given."""
    return Fleet(
        at=now,
        counts=_counts(session, groups),
        failed=_failed(session, groups, now),
        silent=_silent(session, groups, now),
        activity=attestations_by_minute(session, since=now - ACTIVITY_MS - HOUR, until=now),
        slow=slow or distributions(session, groups=groups, now=now),
    )


def distributions(session: Session, *, groups: Groups, now: int) -> Distributions:
    """How epochs, ages of roots and next rotations are spread over the fleet."""
    return Distributions(
        at=now,
        epochs=_epochs(session, groups),
        root_ages=_root_ages(session, groups, now),
        rotations=_rotations(session, groups, now),
    )


def _counts(session: Session, groups: Groups) -> Counts:
    serving = Device.retired_at.is_(None)
    query = (
        select(
            Device.standing,
            Device.mode,
            func.sum(case((serving, 1), else_=0)),
            func.sum(case((serving & Device.silent_since.is_not(None), 1), else_=0)),
            func.count(),
        )
        .where(_seen(groups))
        .group_by(Device.group, Device.standing, Device.mode)
    )
    standing = dict.fromkeys(Standing, 0)
    mode = dict.fromkeys(Mode, 0)
    silent = retired = 0
    for one, other, in_service, missed, every in session.execute(query):
        standing[one] += int(in_service)
        mode[other] += int(in_service)
        silent += int(missed)
        retired += int(every - in_service)
    kind = _kinds(session, groups, total=sum(standing.values()))
    return Counts(standing=standing, mode=mode, kind=kind, silent=silent, retired=retired)


def _kinds(session: Session, groups: Groups, *, total: int) -> dict[DeviceKind, int]:
    """How many of `total` devices in service are of which kind."""
    query = (
        select(Device.kind, func.count())
        .where(_ENCLAVE, Device.retired_at.is_(None), _of_seen(groups))
        .group_by(Device.kind)
    )
    kinds = dict.fromkeys(DeviceKind, 0)
    for kind, count in session.execute(query):
        kinds[DeviceKind(kind)] = count
    kinds[DeviceKind.TPM] = max(total - sum(kinds.values()), 0)
    return kinds


def _failed(session: Session, groups: Groups, now: int) -> tuple[DeviceSummary, ...]:
    query = (
        select(Device)
        .where(Device.standing == Standing.FAILED, Device.retired_at.is_(None), _of_seen(groups))
        .order_by(Device.standing_since.desc())
    )
    return summaries_of(session, session.scalars(query.limit(MOST_SHOWN)).all(), now=now)


def _silent(session: Session, groups: Groups, now: int) -> tuple[DeviceSummary, ...]:
    query = (
        select(Device)
        .where(
            Device.silent_since.is_not(None),
            Device.standing != Standing.FAILED,
            Device.retired_at.is_(None),
            _of_seen(groups),
        )
        .order_by(Device.silent_since.desc())
    )
    return summaries_of(session, session.scalars(query.limit(MOST_SHOWN)).all(), now=now)


def _epochs(session: Session, groups: Groups) -> dict[int, int]:
    query = (
        select(Device.counter, func.count())
        .where(Device.retired_at.is_(None), _seen(groups))
        .group_by(Device.counter)
    )
    return {epoch: count for epoch, count in session.execute(query)}  # noqa: C416 - rows


def _root_ages(session: Session, groups: Groups, now: int) -> dict[int, int]:
    age = (now - StoredRoot.made_at) // DAY
    query = select(age, func.count()).where(_ACTIVE).group_by(age)
    if groups is not None:
        query = query.join(Device, Device.id == StoredRoot.device).where(_seen(groups))
    found: dict[int, int] = {}
    for days, count in session.execute(query):
        # A root of another replica may be some milliseconds younger than now.
        found[max(days, 0)] = found.get(max(days, 0), 0) + count
    return found


def _rotations(session: Session, groups: Groups, now: int) -> dict[int, int]:
    hour = (Device.rotate_at - now) // HOUR
    query = (
        select(hour, func.count())
        .where(
            Device.rotate_at.is_not(None),
            Device.rotate_at < now + ROTATIONS_MS,
            Device.retired_at.is_(None),
            _of_seen(groups),
        )
        .group_by(hour)
    )
    found: dict[int, int] = {}
    for hours, count in session.execute(query):
        place = max(hours or 0, 0)
        found[place] = found.get(place, 0) + count
    return found


def _seen(groups: Groups) -> ColumnElement[bool]:
    """The devices that a reader sees; a query may be driven by it."""
    return true() if groups is None else Device.group.in_(sorted(groups))


def _of_seen(groups: Groups) -> ColumnElement[bool]:
    """The same for queries that are driven by something rarer than a group."""
    group = func.coalesce(Device.group, "")
    return true() if groups is None else group.in_(sorted(groups))
