"""What is in an image: what uv.lock and the distribution say, and the same in every build."""

from __future__ import annotations

import json
import os
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.containers

Podman = Callable[..., subprocess.CompletedProcess[str]]
ROOT = Path(__file__).resolve().parents[2]
BASE = os.environ.get("HWTRUST_BASE", "localhost/hwtrust/debian:bookworm")
IMAGES = ("swtpm", "backend", "device", "postgresql")
OF_PYTHON = ("backend", "device")
BUILD_SECONDS = 900
DPKG = ("dpkg-query", "--show", "--showformat", "${Package} ${Version} ${db:Status-Status}\\n")
PIP = (
    "import importlib.metadata as m, json;"
    "print(json.dumps({d.metadata['Name']: d.version for d in m.distributions()}))"
)


def debian(podman: Podman, image: str) -> dict[str, str]:
    """Packages of the distribution in an image, and their versions; all are whole."""
    shown = podman("run", "--rm", "--network=none", "--entrypoint", json.dumps(DPKG), image).stdout
    lines = [line.split() for line in shown.splitlines()]
    assert lines
    assert {status for _, _, status in lines} == {"installed"}
    return {package: version for package, version, _ in lines}


def python(podman: Podman, image: str) -> dict[str, str]:
    """Distributions of Python in an image, by their normal names, and their versions."""
    shown = podman("run", "--rm", "--network=none", image, "python3", "-c", PIP).stdout
    versions: dict[str, str] = json.loads(shown)
    return {name.lower().replace("_", "-"): version for name, version in versions.items()}


def named(image: str, tag: str = "latest") -> str:
    """The whole name of one of our images."""
    return f"localhost/hwtrust/{image}:{tag}"


@pytest.mark.parametrize("image", OF_PYTHON)
def test_python_packages_are_those_of_the_lock_file(podman: Podman, image: str) -> None:
    """Each is in uv.lock at this version, and what installed them is gone."""
    packages = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    locked = {(one["name"], one["version"]) for one in packages}
    found = python(podman, named(image))
    assert {"hwtrust", "cryptography", "msgspec"} <= found.keys()
    assert set(found.items()) - locked == set()
    assert {"pip", "setuptools", "pytest"} & found.keys() == set()


def test_images_share_the_base_and_its_versions(podman: Podman) -> None:
    """All that the base has, and what two images have is the same in both."""
    versions: dict[str, str] = {}
    base = debian(podman, BASE)
    for image in IMAGES:
        found = debian(podman, named(image))
        assert base.items() <= found.items()
        different = {name for name in found if versions.get(name, found[name]) != found[name]}
        assert different == set()
        versions |= found


def test_packages_are_those_that_the_distribution_has_now(podman: Podman) -> None:
    """No image is older than the distribution's corrections: else `scripts/images --fresh`."""
    wanted: set[tuple[str, str]] = set()
    for image in IMAGES:
        wanted |= set(debian(podman, named(image)).items())
    script = "apt-get update -qq >&2 && apt-cache madison " + " ".join(name for name, _ in wanted)
    offered = podman("run", "--rm", BASE, "sh", "-c", script).stdout.splitlines()
    newest: dict[str, str] = {}
    for line in offered:
        name, version, _ = (part.strip() for part in line.split("|"))
        newest.setdefault(name, version)  # madison has the newest first
    assert {(name, newest.get(name)) for name, _ in wanted} == wanted


@pytest.mark.long
def test_two_builds_have_the_same_packages(podman: Podman) -> None:
    """Two builds from nothing, base image included, differ in no package and no version."""
    tags = ("first-build", "second-build")
    lists = []
    try:
        for tag in tags:
            subprocess.run(
                [str(ROOT / "scripts" / "images"), "--fresh", "--tag", tag],
                check=True,
                timeout=BUILD_SECONDS,
            )
            lists.append(
                (
                    {image: debian(podman, named(image, tag)) for image in IMAGES},
                    {image: python(podman, named(image, tag)) for image in OF_PYTHON},
                )
            )
        assert lists[0] == lists[1]
    finally:
        for tag in tags:
            podman("rmi", "--ignore", *(named(image, tag) for image in IMAGES), check=False)
