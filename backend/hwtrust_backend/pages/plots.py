"""Pictures made of numbers: bars as SVG, with the same numbers as a table.

Only geometry is made here, in the units of the picture's own box; the template
draws it and the style sheet gives it size and colour. Rules:

1. Every picture has its numbers in words beside it (`Bar.label`, `Bar.value`).
2. Bars begin at zero, and the scale's top is a round number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

WIDTH: Final = 1000
HEIGHT: Final = 100
_GAP: Final = 0.22
_THINNEST: Final = 1.5
_MOST_BARS: Final = 60
_STEPS: Final = (1, 2, 5)


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar: its box, its number, and what the number is of."""

    x: float
    y: float
    width: float
    height: float
    label: str
    value: int


@dataclass(frozen=True, slots=True)
class Tick:
    """A place on the axis, in percent of its length, with its label."""

    at: float
    label: str
    anchor: str


@dataclass(frozen=True, slots=True)
class Plot:
    """A picture, ready to be drawn in a box of `width` by `height`."""

    name: str
    title: str
    summary: str
    """The picture in one sentence, for whoever does not see it."""
    unit: str
    bars: tuple[Bar, ...]
    rows: tuple[tuple[str, int], ...]
    """The numbers as a table."""
    across: tuple[Tick, ...]
    up: tuple[str, str, str]
    """The scale's labels: its top, its half, zero."""
    width: int = WIDTH
    height: int = HEIGHT

    @property
    def outline(self) -> str:
        """All bars as one path without gaps, for a picture of very many."""
        steps = "".join(f"V{bar.y}H{bar.x + bar.width:.2f}" for bar in self.bars)
        return f"M0 {self.height}{steps}V{self.height}Z"

    @property
    def is_dense(self) -> bool:
        """Whether the bars are too many to be drawn one by one."""
        return len(self.bars) > _MOST_BARS


def plot(
    name: str,
    title: str,
    *,
    summary: str,
    unit: str,
    values: Sequence[tuple[str, int]],
    ticks: Sequence[tuple[float, str]],
    rows: Sequence[tuple[str, int]] | None = None,
) -> Plot:
    """A bar for each of `values` (label and number), and labels at the beginnings of some.

    `ticks` are places among the bars, from 0 to their number (half a step is the
    middle of a bar), each with a label;
    `rows` is what stands in the table, where that is not the same as `values`.
    """
    top = round_up(max((value for _, value in values), default=0))
    slot = WIDTH / max(len(values), 1)
    dense = len(values) > _MOST_BARS
    width = slot if dense else max(slot * (1 - _GAP), _THINNEST)
    bars = []
    for place, (label, value) in enumerate(values):
        height = 0.0 if value == 0 else max(HEIGHT * value / top, _THINNEST)
        bars.append(
            Bar(
                x=round(place * slot + (slot - width) / 2, 2),
                y=round(HEIGHT - height, 2),
                width=round(width, 2),
                height=round(height, 2),
                label=label,
                value=value,
            )
        )
    return Plot(
        name=name,
        title=title,
        summary=summary,
        unit=unit,
        bars=tuple(bars),
        rows=tuple(values if rows is None else rows),
        across=tuple(_across(place, label, len(values)) for place, label in ticks),
        up=(_short(top), _short(top / 2), "0"),
    )


def round_up(value: int) -> int:
    """The next of 2, 4, 10, 20, 40, 100 and so on: what a scale may end at, with a whole half."""
    step = 1
    while True:
        for factor in _STEPS:
            if 2 * factor * step >= value:
                return 2 * factor * step
        step *= 10


def _across(place: float, label: str, count: int) -> Tick:
    at = round(100 * place / max(count, 1), 2)
    if place == 0:
        return Tick(at, label, "start")
    return Tick(at, label, "end" if place == count else "middle")


def _short(value: float) -> str:
    """1500 as `1.5k`."""
    for size, unit in ((1_000_000, "M"), (1_000, "k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"
