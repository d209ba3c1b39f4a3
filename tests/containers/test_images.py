"""The images are small, labelled, and their programs are nobody special."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable

import pytest

pytestmark = pytest.mark.containers

Podman = Callable[..., subprocess.CompletedProcess[str]]
IMAGES = ("swtpm", "backend", "device", "postgresql")
MOST_BYTES = {"swtpm": 120_000_000, "backend": 250_000_000}
LABELS = (
    *("title", "description", "licenses", "version", "revision", "source"),
    *("base.name", "base.digest"),
)


def inspect(podman: Podman, image: str) -> dict[str, object]:
    """What podman knows of an image."""
    (known,) = json.loads(podman("image", "inspect", f"localhost/hwtrust/{image}").stdout)
    found: dict[str, object] = known
    return found


@pytest.mark.parametrize("image", MOST_BYTES)
def test_an_image_is_smaller_than_its_limit(podman: Podman, image: str) -> None:
    """Uncompressed, as podman counts."""
    size = inspect(podman, image)["Size"]
    assert isinstance(size, int)
    assert size < MOST_BYTES[image]


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_says_what_it_is_and_of_what_it_was_made(podman: Podman, image: str) -> None:
    """Every annotation is there, and none is empty."""
    labels = inspect(podman, image)["Labels"]
    assert isinstance(labels, dict)
    assert all(labels[f"org.opencontainers.image.{name}"] for name in LABELS)


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_is_no_root_even_where_nobody_says_so(podman: Podman, image: str) -> None:
    """Its own setting decides, and it is a number that orchestrators can check."""
    made = podman(
        *("run", "--rm", "--network=none", "--entrypoint", '["id", "-u"]'),
        f"localhost/hwtrust/{image}",
    )
    assert int(made.stdout) > 10_000
