"""Documents with numbered lines, and what differs between two of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher


@dataclass(frozen=True, slots=True)
class Line:
    """One line; `kind` is `same`, `added` or `removed`, a number is absent where it is not."""

    kind: str
    old: int | None
    new: int | None
    text: str


def numbered(document: str) -> tuple[Line, ...]:
    """Every line of a document with its number."""
    lines = document.splitlines()
    return tuple(Line("same", number, number, text) for number, text in enumerate(lines, 1))


def difference(old: str, new: str) -> tuple[Line, ...]:
    """Both documents in one: what was removed, what was added, and what is the same."""
    return tuple(_compared(old.splitlines(), new.splitlines()))


def _compared(old: list[str], new: list[str]) -> Iterator[Line]:
    matcher = SequenceMatcher(a=old, b=new, autojunk=False)
    for kind, old_from, old_to, new_from, new_to in matcher.get_opcodes():
        if kind == "equal":
            for step in range(old_to - old_from):
                at = old_from + step
                yield Line("same", at + 1, new_from + step + 1, old[at])
            continue
        for at in range(old_from, old_to):
            yield Line("removed", at + 1, None, old[at])
        for at in range(new_from, new_to):
            yield Line("added", None, at + 1, new[at])
