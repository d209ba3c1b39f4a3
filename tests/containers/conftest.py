"""Images and containers for these tests: built by scripts/images, run by podman, removed again.

`pytest -m containers` runs what fits into a pipeline; HWTRUST_TEST_CONTAINERS=all also what builds
everything anew, twice, and what fetches a whole environment.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[2]
BUILD_SECONDS = 900
SECONDS = 180


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes long, unless HWTRUST_TEST_CONTAINERS is `all`."""
    if os.environ.get("HWTRUST_TEST_CONTAINERS") == "all":
        return
    left_out = {
        item
        for item in items
        if item.get_closest_marker("containers") and item.get_closest_marker("long")
    }
    config.hook.pytest_deselected(items=[item for item in items if item in left_out])
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def podman_settings() -> dict[str, str]:
    """What podman needs in its environment on this machine; every image is there."""
    for program in ("podman", "mmdebstrap"):
        if shutil.which(program) is None:
            missing = f"{program} is not installed: scripts/setup --test"
            if os.environ.get("CI"):
                pytest.fail(missing)
            pytest.skip(missing)
    script = str(ROOT / "scripts" / "images")
    subprocess.run([script], check=True, timeout=BUILD_SECONDS)
    printed = subprocess.run(
        [script, "--settings"], check=True, capture_output=True, text=True, timeout=SECONDS
    ).stdout
    return dict(line.split("=", 1) for line in printed.splitlines())


@pytest.fixture(scope="session")
def podman(podman_settings: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run podman with what it needs on this machine."""

    def run(
        *arguments: str, check: bool = True, seconds: float = SECONDS
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["podman", *arguments],
            env=os.environ | podman_settings,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=check,
        )

    return run


@pytest.fixture
def name(podman: Callable[..., subprocess.CompletedProcess[str]]) -> Iterator[str]:
    """A name for a container and a volume, both removed after the test."""
    made = f"hwtrust-test-{uuid.uuid4().hex[:12]}"
    yield made
    podman("rm", "--force", "--ignore", "--time", "0", "--volumes", made)
    podman("volume", "rm", "--force", made, check=False)
