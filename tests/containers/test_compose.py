"""The whole of it: four services, and a root that is rotated."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.containers

Podman = Callable[..., subprocess.CompletedProcess[str]]
ROOT = Path(__file__).resolve().parents[2]


SCRIPT = str(ROOT / "scripts" / "compose-demo")


def there(podman: Podman) -> tuple[str, set[str], str]:
    """Containers and networks of the demonstration, and all volumes that nothing uses.

    Some of its volumes have no name to be known by.
    """
    containers = podman("ps", "--all", "--filter", "name=hwtrust-demo", "--quiet").stdout
    volumes = podman("volume", "ls", "--filter", "dangling=true", "--quiet").stdout
    networks = podman("network", "ls", "--filter", "name=hwtrust-demo", "--quiet").stdout
    return containers, set(volumes.split()), networks


def demo(**variables: str) -> subprocess.CompletedProcess[str]:
    """Run scripts/compose-demo."""
    return subprocess.run(
        [SCRIPT],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def test_the_root_is_rotated_and_nothing_stays_behind(podman: Podman) -> None:
    """Backend and device both show the second root, the backend with who asked and why."""
    _, before, _ = there(podman)
    done = demo()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The root went from epoch 1 to 2." in done.stdout
    assert "shown in the demonstration" in done.stdout
    assert "the root was replaced: epoch 2" in done.stdout
    assert (ROOT / "build" / "compose-demo.log").read_text() == done.stdout
    containers, volumes, networks = there(podman)
    assert (containers, volumes - before, networks) == ("", set(), "")


def test_nothing_stays_behind_what_failed(podman: Podman) -> None:
    """A demonstration that has no time says so, shows what its services said, and removes all."""
    _, before, _ = there(podman)
    done = demo(HWTRUST_DEMO_SECONDS="0")
    assert done.returncode == 1
    assert "compose-demo: the device is trusted: not after 0 s" in done.stdout
    containers, volumes, networks = there(podman)
    assert (containers, volumes - before, networks) == ("", set(), "")
