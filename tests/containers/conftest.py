"""Images and containers for these tests: built by scripts/images, run by podman, removed again."""

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
IMAGES = ("swtpm", "backend", "device", "postgresql")
BUILD_SECONDS = 900
SECONDS = 60


@pytest.fixture(scope="session")
def podman() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run podman with what it needs on this machine; every image is there."""
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
    settings = dict(line.split("=", 1) for line in printed.splitlines())

    def run(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["podman", *arguments],
            env=os.environ | settings,
            capture_output=True,
            text=True,
            timeout=SECONDS,
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
