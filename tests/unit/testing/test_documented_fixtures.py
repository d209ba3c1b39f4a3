"""The documents about testing: each block of Python is a test file that passes as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[3] / "docs"
DOCUMENTS = ("testing.md", "how-to/test.md")
SECONDS = 300


def blocks(document: str) -> list[str]:
    """The blocks of Python in a document."""
    text = (DOCS / document).read_text()
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def outcome(directory: Path) -> subprocess.CompletedProcess[str]:
    """Run pytest in a directory in which nobody has configured anything."""
    ours = ("HWTRUST_TEST_TCTI", "HWTRUST_TEST_SKIP_TPM", "PYTEST_ADDOPTS", "PYTEST_XDIST")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "--rootdir", "."],
        cwd=directory,
        env=environ,
        check=False,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_tests_that_a_document_shows_pass(document: str, tmp_path: Path) -> None:
    """Each block is a file of its own, with nothing beside it: all its tests run and pass."""
    shown = blocks(document)
    for number, block in enumerate(shown):
        (tmp_path / f"test_block_{number}.py").write_text(block)
    written = sum(block.count("def test_") for block in shown)
    assert written >= len(shown) > 0
    done = outcome(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{written} passed" in done.stdout


def test_a_block_that_asks_for_what_is_not_there_is_noticed(tmp_path: Path) -> None:
    """A device that has no such method fails its test."""
    block = "def test_it(enrolled_device):\n    enrolled_device.no_such_method()\n"
    (tmp_path / "test_block.py").write_text(block)
    done = outcome(tmp_path)
    assert done.returncode == 1
    assert "1 failed" in done.stdout
