"""What stands in results and complaints is text, whoever has written it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hwtrust_backend.cli.output import complain, say_fields, say_table

if TYPE_CHECKING:
    from collections.abc import Callable

EVIL = "1.0\x1b[2J\r\u202e\x9b1A"
WAYS: dict[str, Callable[[], None]] = {
    "a field": lambda: say_fields([("release", EVIL)]),
    "a cell": lambda: say_table(("RELEASE",), [(EVIL,)]),
    "a complaint": lambda: complain(EVIL),
}


@pytest.mark.parametrize("way", WAYS)
def test_no_text_moves_the_cursor(way: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A device, a vendor or a colleague who wrote it changes no line but their own."""
    WAYS[way]()
    said = "".join(capsys.readouterr())
    assert "1.0" in said
    assert all(line.isprintable() for line in said.split("\n"))


def test_a_complaint_may_have_several_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """What we wrote in lines is shown in lines."""
    complain("first\nsecond")
    assert capsys.readouterr().err == "hwtrust-backend: first\nsecond\n"
