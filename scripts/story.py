"""How the demonstration tells what happens: for people with colours, or plain for logs."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hwtrust.device import Step
    from hwtrust.tpm.tcti import Exchange


MOST_NAMES = 9


@dataclass
class Chapter:
    """One step of the story, with what the TPM did in it."""

    title: str
    exchanges: list[Exchange] = field(default_factory=list)
    milliseconds: float = 0.0
    outcome: str = ""
    told: int = 0

    def new_commands(self) -> str:
        """The TPM commands that have not been told yet, in order of first use."""
        fresh, self.told = self.exchanges[self.told :], len(self.exchanges)
        counts = Counter(exchange.command.removeprefix("TPM2_") for exchange in fresh)
        names = [f"{name} x{n}" if n > 1 else name for name, n in counts.items()]
        more = len(names) - MOST_NAMES
        return ", ".join(names if more <= 1 else [*names[:MOST_NAMES], f"and {more} more"])

    def tpm_milliseconds(self) -> float:
        """How long the TPM itself took."""
        return sum(exchange.milliseconds for exchange in self.exchanges)


class Story:
    """Prints chapters as they happen and keeps them for the summary."""

    def __init__(self, title: str, *, plain: bool) -> None:
        self.title = title
        self.plain = plain
        self.console = Console(highlight=False, no_color=plain, width=100 if plain else None)
        self.chapters: list[Chapter] = []
        self.conclusions: list[Table] = []
        self._current: Chapter | None = None

    @contextmanager
    def chapter(self, title: str, why: str) -> Iterator[Chapter]:
        """Tell one step; its time is the time within the `with`."""
        chapter = Chapter(title)
        self.chapters.append(chapter)
        self._current = chapter
        number = len(self.chapters)
        if self.plain:
            self.console.print(f"\n[{number}] {title}\n    {why}", markup=False)
        else:
            heading = f"[bold cyan]{number}[/]  [bold]{escape(title)}[/]"
            self.console.print()
            self.console.print(Panel(escape(why), title=heading, title_align="left", style="dim"))
        start = time.perf_counter()
        try:
            yield chapter
        finally:
            chapter.milliseconds = (time.perf_counter() - start) * 1000
            self._current = None
        if chapter.exchanges:
            rest = chapter.new_commands()
            count, took = len(chapter.exchanges), chapter.tpm_milliseconds()
            self.note(
                f"TPM: {count} commands in {took:.0f} ms" + (f"; last: {rest}" if rest else "")
            )
        self._say("green", "done", f"{chapter.outcome} ({chapter.milliseconds:.0f} ms)")

    def on_command(self, exchange: Exchange) -> None:
        """Take note of a TPM command."""
        if self._current is not None:
            self._current.exchanges.append(exchange)

    def on_step(self, step: Step) -> None:
        """Tell what the device library has just done."""
        what = f"{step.name} {step.detail}".strip()
        took = f"{step.milliseconds:.1f} ms"
        commands = self._current.new_commands() if self._current else ""
        if self.plain:
            self._say("white", "    ", f"{what:<44} {took:>10}  {commands}".rstrip())
            return
        row = Table.grid(padding=(0, 2))
        row.add_column(width=44)
        row.add_column(width=10, justify="right", style="cyan")
        row.add_column(style="dim")
        row.add_row(escape(what), took, commands)
        self.console.print(Padding(row, (0, 0, 0, 7)))

    def note(self, text: str) -> None:
        """Tell a fact."""
        self._say("blue", "    ", text)

    def quote(self, command: str, lines: list[str]) -> None:
        """Tell a command that anybody could give now, and what matters of its answer."""
        self._say("blue", "    ", f"$ {command}")
        for line in lines:
            self._say("white", "    ", f"  {line}")

    def refused(self, command: str, text: str) -> None:
        """Tell that something was refused, as it should be."""
        self._say("yellow", "NO  ", f"{command}: {text}")

    def wrong(self, text: str) -> None:
        """Tell that something did not happen as it should."""
        self._say("bold red", "FAIL", text)

    def conclude(self, title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Keep a table for the end of the summary: what all this has shown."""
        table = Table(*headings, title=title, title_justify="left", show_lines=True)
        for row in rows:
            table.add_row(*map(escape, row))
        self.conclusions.append(table)

    def summary(self) -> None:
        """The chapters once more, as a table, and what they have shown."""
        table = Table(title=self.title, title_justify="left")
        for heading, justify in (
            ("#", "right"),
            ("step", "left"),
            ("TPM commands", "right"),
            ("TPM ms", "right"),
            ("ms", "right"),
            ("outcome", "left"),
        ):
            table.add_column(heading, justify=justify)  # type: ignore[arg-type]
        for number, chapter in enumerate(self.chapters, 1):
            table.add_row(
                str(number),
                escape(chapter.title),
                str(len(chapter.exchanges) or ""),
                f"{chapter.tpm_milliseconds():.0f}" if chapter.exchanges else "",
                f"{chapter.milliseconds:.0f}",
                escape(chapter.outcome),
            )
        for each in (table, *self.conclusions):
            self.console.print()
            self.console.print(each)

    def _say(self, style: str, tag: str, text: str) -> None:
        if self.plain:
            self.console.print(f"    {tag} {text}", markup=False, soft_wrap=True)
            return
        line = Text.assemble((f"{tag} ", style), (text, style))
        self.console.print(Padding(line, (0, 0, 0, 2)))
