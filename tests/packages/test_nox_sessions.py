"""The sessions of nox: there, named in the guide, and calling what exists."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from simulators.distributions import ROOT

EXPECTED = {"lint", "types", "tests", "docs", "packages", "vm", "containers", "fuzz", "sbom"}


@pytest.fixture(scope="module")
def sessions() -> set[str]:
    """The sessions that nox lists."""
    nox = Path(sys.executable).with_name("nox")
    done = subprocess.run([nox, "--list"], cwd=ROOT, check=True, capture_output=True, text=True)
    return set(re.findall(r"^[*-] ([\w-]+) -> ", done.stdout, re.MULTILINE))


def test_every_kind_of_check_has_a_session(sessions: set[str]) -> None:
    """Whoever knows nox finds all of them by `nox -l`."""
    assert sessions >= EXPECTED


def test_the_guide_names_the_sessions_that_there_are(sessions: set[str]) -> None:
    """CONTRIBUTING.md lists each, and none that is gone."""
    guide = (ROOT / "CONTRIBUTING.md").read_text()
    assert set(re.findall(r"^\| `nox -s ([\w-]+)` \|", guide, re.MULTILINE)) == sessions


def test_the_sessions_call_scripts_that_exist() -> None:
    """A session is no second place where a check is written down."""
    called = set(re.findall(r'script\(session, "([\w-]+)"', (ROOT / "noxfile.py").read_text()))
    assert {"bench", "fuzz", "sbom", "test"} <= called
    assert {name for name in called if not os.access(ROOT / "scripts" / name, os.X_OK)} == set()


def test_the_fast_session_passes_on_what_it_is_given() -> None:
    """What follows `--` reaches the script, here a request for its usage."""
    nox = Path(sys.executable).with_name("nox")
    done = subprocess.run(
        [nox, "-s", "sbom", "--", "--help"], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "usage: scripts/sbom" in done.stdout
