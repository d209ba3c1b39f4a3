"""The decision records: numbered without gaps, listed, and each with its three parts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from simulators.distributions import ROOT

DECISIONS = ROOT / "docs" / "decisions"
RECORDS = sorted(DECISIONS.glob("[0-9]*.md"))


def test_there_are_ten_and_their_numbers_have_no_gap() -> None:
    """A number is given once."""
    assert len(RECORDS) >= 10
    assert [int(path.name[:4]) for path in RECORDS] == list(range(1, len(RECORDS) + 1))


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_a_record_has_context_decision_and_consequences(path: Path) -> None:
    """In this order, under a title with its number, and none of them empty."""
    text = path.read_text()
    title, *parts = re.split(r"^#+ ", text, flags=re.MULTILINE)[1:]
    number, _, _ = title.partition(".")
    assert int(number) == RECORDS.index(path) + 1
    assert [part.splitlines()[0] for part in parts] == ["Context", "Decision", "Consequences"]
    assert all(len(part.split()) > 20 for part in parts)


def test_the_list_has_every_record_under_its_title() -> None:
    """Whoever reads the list finds each; the titles are the same."""
    rows = re.findall(
        r"^\| \[(\d+)\]\(([\w-]+\.md)\) \| (.+) \|$",
        (DECISIONS / "index.md").read_text(),
        re.MULTILINE,
    )
    titles = [path.read_text().splitlines()[0] for path in RECORDS]
    assert [f"# {number}. {title}" for number, _, title in rows] == titles
    assert [name for _, name, _ in rows] == [path.name for path in RECORDS]
