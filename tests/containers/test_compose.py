"""The whole of it: four services, and a root that is rotated."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.containers

Podman = Callable[..., subprocess.CompletedProcess[str]]
ROOT = Path(__file__).resolve().parents[2]


def test_the_root_is_rotated_and_nothing_stays_behind(podman: Podman) -> None:
    """The backend shows the second root with who asked and why; then all is removed."""
    done = subprocess.run(
        [str(ROOT / "scripts" / "compose-demo")],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The root went from epoch 1 to 2." in done.stdout
    assert "shown in the demonstration" in done.stdout
    left = podman("ps", "--all", "--filter", "name=hwtrust-demo", "--quiet").stdout
    volumes = podman("volume", "ls", "--filter", "name=hwtrust-demo", "--quiet").stdout
    assert (left, volumes) == ("", "")
