"""The whole of it: four services, and a root that is rotated."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.containers

Podman = Callable[..., subprocess.CompletedProcess[str]]
ROOT = Path(__file__).resolve().parents[2]
SCRIPT = str(ROOT / "scripts" / "compose-demo")
LOG = ROOT / "build" / "compose-demo.log"
Demo = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def project() -> str:
    """A name for a demonstration beside which somebody's own may go on running."""
    return f"hwtrust-test-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def demo(podman: Podman, project: str) -> Iterator[Demo]:
    """Run scripts/compose-demo; what a test leaves of it is ended."""

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [SCRIPT, *arguments],
            env=os.environ | {"HWTRUST_DEMO_PROJECT": project} | variables,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    yield run
    run("--end")
    assert there(podman, project)[::2] == ("", "")


def there(podman: Podman, project: str) -> tuple[str, set[str], str]:
    """Containers and networks of a demonstration, and all volumes that nothing uses.

    Some of its volumes have no name to be known by.
    """
    containers = podman("ps", "--all", "--filter", f"name={project}", "--quiet").stdout
    volumes = podman("volume", "ls", "--filter", "dangling=true", "--quiet").stdout
    networks = podman("network", "ls", "--filter", f"name={project}", "--quiet").stdout
    return containers, set(volumes.split()), networks


def test_the_root_is_rotated_and_nothing_stays_behind(
    podman: Podman, demo: Demo, project: str
) -> None:
    """Backend and device both show the second root, the backend with who asked and why."""
    _, before, _ = there(podman, project)
    done = demo()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The root went from epoch 1 to 2." in done.stdout
    assert "shown in the demonstration" in done.stdout
    assert "the root was replaced: epoch 2" in done.stdout
    assert LOG.read_text() == done.stdout
    containers, volumes, networks = there(podman, project)
    assert (containers, volumes - before, networks) == ("", set(), "")


def test_nothing_stays_behind_what_failed(
    podman: Podman, demo: Demo, project: str, tmp_path: Path
) -> None:
    """A demonstration that has no time says so, shows what its services said, and removes all."""
    _, before, _ = there(podman, project)
    log = tmp_path / "log"
    done = demo(HWTRUST_DEMO_SECONDS="0", HWTRUST_DEMO_LOG=str(log))
    assert done.returncode == 1
    assert "compose-demo: the device is trusted: not after 0 s" in done.stdout
    assert log.read_text() == done.stdout
    containers, volumes, networks = there(podman, project)
    assert (containers, volumes - before, networks) == ("", set(), "")


def test_one_that_was_kept_goes_on_until_it_is_ended(
    podman: Podman, demo: Demo, project: str, tmp_path: Path
) -> None:
    """Another start is refused, touches nothing and says how to end it; then nothing is left."""
    _, before, _ = there(podman, project)
    log = tmp_path / "log"
    # It need not come to its end to be kept.
    kept = demo("--keep", HWTRUST_DEMO_SECONDS="0", HWTRUST_DEMO_LOG=str(log))
    said = log.read_text()
    assert said == kept.stdout
    running, _, _ = there(podman, project)
    assert running.split()
    refused = demo(HWTRUST_DEMO_LOG=str(log))
    assert refused.returncode == 1
    assert "scripts/compose-demo --end" in refused.stderr
    assert there(podman, project)[0] == running
    assert log.read_text() == said
    assert demo("--end").returncode == 0
    containers, volumes, networks = there(podman, project)
    assert (containers, volumes - before, networks) == ("", set(), "")


def test_what_it_does_not_know_is_a_usage_error(demo: Demo) -> None:
    """Nothing is started."""
    done = demo("--keep", "--end")
    assert done.returncode == 2
    assert "usage: scripts/compose-demo" in done.stderr
