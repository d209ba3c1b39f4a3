"""The fleet's numbers as pictures."""

from __future__ import annotations

from typing import Final

from hwtrust_backend.config.clock import DAY, MINUTE, utc_datetime
from hwtrust_backend.monitor.fleet import ACTIVITY_MS, Fleet
from hwtrust_backend.pages.plots import Plot, plot
from hwtrust_backend.pages.rendering import grouped

UNWRITTEN: Final = 1
"""Minutes that are not all written down yet."""

_ROW_MINUTES: Final = 15
_NEWEST: Final = 10
_ROOM_FOR_NOW: Final = 30
_MOST_BARS: Final = 20
_MIDDLE: Final = 0.5


def activity_plot(fleet: Fleet) -> Plot:
    """Attestations of the last hours, minute by minute.

    It ends where every process has written down what it counted.
    """
    minutes = ACTIVITY_MS // MINUTE
    first = fleet.at // MINUTE - minutes - UNWRITTEN
    counts = [fleet.activity.get(first + step, 0) for step in range(minutes)]
    values, ticks, rows = [], [(minutes, "now")], []
    for step, count in enumerate(counts):
        at = utc_datetime((first + step) * MINUTE)
        values.append((f"{at:%H:%M}", count))
        if at.minute == 0 and 0 < step < minutes - _ROOM_FOR_NOW:
            ticks.append((step, f"{at:%H}:00"))
        if step % _ROW_MINUTES == 0:
            rows.append((f"from {at:%H:%M}", sum(counts[step : step + _ROW_MINUTES])))
    newest = sum(counts[-_NEWEST:]) / _NEWEST
    return plot(
        "activity",
        "Attestations a minute",
        summary=f"{newest:.0f} a minute in the last ten minutes, {max(counts)} at most",
        unit="attestations",
        values=values,
        ticks=ticks,
        rows=rows,
    )


def day_plot(fleet: Fleet) -> Plot:
    """Roots that are due in the next 24 hours."""
    values = [
        (f"in {hour} to {hour + 1} hours", fleet.slow.rotations.get(hour, 0)) for hour in range(24)
    ]
    total = sum(value for _, value in values)
    return plot(
        "rotations-day",
        "Next rotations, 24 hours",
        summary=f"{grouped(total)} roots are due in the next 24 hours",
        unit="roots",
        values=values,
        ticks=[(0, "now"), (6, "6h"), (12, "12h"), (18, "18h"), (24, "24h")],
    )


def week_plot(fleet: Fleet) -> Plot:
    """Roots that are due in the next seven days."""
    days = [0] * 7
    for hour, count in fleet.slow.rotations.items():
        days[min(hour // 24, 6)] += count
    values = [
        (f"{utc_datetime(fleet.slow.at + day * DAY):%a %d %b}", count)
        for day, count in enumerate(days)
    ]
    total = sum(days)
    return plot(
        "rotations-week",
        "Next rotations, 7 days",
        summary=f"{grouped(total)} roots are due in the next seven days",
        unit="roots",
        values=values,
        ticks=[
            (day + _MIDDLE, f"{utc_datetime(fleet.slow.at + day * DAY):%a}") for day in range(7)
        ],
    )


def age_plot(fleet: Fleet) -> Plot:
    """How old the active roots are, in days."""
    values, edges = _binned(fleet.slow.root_ages, unit="days")
    oldest = max(fleet.slow.root_ages, default=0)
    return plot(
        "ages",
        "Age of roots",
        summary=f"the oldest root in use is {oldest} days old",
        unit="devices",
        values=values,
        ticks=[(place + _MIDDLE, f"{edge}d") for place, edge in edges],
    )


def epoch_plot(fleet: Fleet) -> Plot:
    """At which epoch the devices are."""
    values, edges = _binned(
        fleet.slow.epochs, unit="epoch", begin=min(fleet.slow.epochs, default=0)
    )
    highest, lowest = max(fleet.slow.epochs, default=0), min(fleet.slow.epochs, default=0)
    return plot(
        "epochs",
        "Epochs",
        summary=f"devices stand at epochs {lowest} to {highest}",
        unit="devices",
        values=values,
        ticks=[(place + _MIDDLE, f"{edge}") for place, edge in edges],
    )


def _binned(
    counts: dict[int, int], *, unit: str, begin: int = 0
) -> tuple[list[tuple[str, int]], list[tuple[int, int]]]:
    """Numbers in at most twenty bins of one width, and where bins begin that get a label."""
    end = max(counts, default=begin) + 1
    width = max(-(-(end - begin) // _MOST_BARS), 1)
    bins = max(-(-(end - begin) // width), 5)
    totals = [0] * bins
    for number, count in counts.items():
        totals[(number - begin) // width] += count
    values = []
    for place, total in enumerate(totals):
        first = begin + place * width
        label = f"{unit} {first}" if width == 1 else f"{unit} {first} to {first + width - 1}"
        values.append((label, total))
    step = max(-(-bins // 5), 1)
    return values, [(place, begin + place * width) for place in range(0, bins, step)]
