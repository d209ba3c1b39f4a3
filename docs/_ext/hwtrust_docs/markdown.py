"""Text of the source as Markdown that says the same and does nothing else."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_SPECIAL = re.compile(r"([\\*_\[\]<>#|~$])")
_CODE = re.compile(r"(`+[^`]+`+)")


def plain(text: str) -> str:
    """Text in one line; what stands in backticks stays code."""
    parts = _CODE.split(" ".join(text.split()))
    return "".join(
        part.replace("|", "\\|") if part.startswith("`") else _SPECIAL.sub(r"\\\1", part)
        for part in parts
    )


def code(text: object) -> str:
    """A name or a value, as code."""
    written = str(text).replace("|", "\\|")
    return f"`` {written} ``" if "`" in written else f"`{written}`"


def codes(values: Iterable[object]) -> str:
    """Several of them."""
    return ", ".join(code(value) for value in values)


def anchor(kind: str, name: str) -> str:
    """The anchor of a thing, as links name it: `error-layer-mismatch`."""
    return f"{kind}-" + re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def target(kind: str, name: str) -> str:
    """The line that makes the next heading an anchor."""
    return f"({anchor(kind, name)})="


def link(kind: str, name: str) -> str:
    """A link to the thing of that name, as code."""
    return f"[{code(name)}](#{anchor(kind, name)})"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table, with the blank lines around it; nothing where there are no rows."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    if not lines:
        return []
    return ["", f"| {' | '.join(header)} |", "|" + "---|" * len(header), *lines, ""]


def block(text: str, language: str = "text") -> list[str]:
    """A block of code, with the blank lines around it."""
    return ["", f"````{language}", *text.splitlines(), "````", ""]


def paragraphs(text: str) -> list[str]:
    """Several paragraphs of plain text."""
    lines: list[str] = []
    for part in text.strip().split("\n\n"):
        lines += [plain(part), ""]
    return lines
