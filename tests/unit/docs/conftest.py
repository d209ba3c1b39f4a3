"""The documentation site, built once for all tests of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
FLAGS = "--fail-on-warning --keep-going --quiet --jobs 2"


@pytest.fixture(scope="session")
def docs_flags() -> str:
    """How the site is built."""
    return FLAGS


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built anew unless HWTRUST_DOCS_SITE names one that is built."""
    if named := os.environ.get("HWTRUST_DOCS_SITE"):
        return Path(named)
    if shutil.which("dot") is None and not os.environ.get("CI"):
        pytest.skip("Graphviz is not installed: apt-get install graphviz")
    directory = tmp_path_factory.mktemp("docs")
    command = [sys.executable, "-m", "sphinx", *FLAGS.split(), "--builder", "html"]
    done = subprocess.run(
        [*command, "--doctree-dir", directory / "doctrees", "docs", directory / "html"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    assert (done.returncode, done.stdout) == (0, "")
    return directory / "html"
