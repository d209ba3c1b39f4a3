"""One package in two distributions: hwtrust-device is enough by itself, and hwtrust is the rest."""

from __future__ import annotations

import hashlib
import hmac
import json
import subprocess
import tomllib
import zipfile
from typing import TYPE_CHECKING

import pytest

from hwtrust.errors import DeviceSoftwareError
from simulators.distributions import DISTRIBUTIONS, ROOT, clean_environ, uv, wheel_of
from simulators.site import Site

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet
    from pathlib import Path

    from hwtrust.testing.manufacture import Vendor
    from hwtrust.testing.swtpm import Swtpm
    from hwtrust_backend.testing import BackendServer
    from simulators.distributions import Environment, Install

DEVICE, LIBRARY = "hwtrust-device", "hwtrust"
MOST_BYTES = 300_000
EXAMPLE = ROOT / "examples" / "embed" / "terminal.py"

# Every module that the environment has under hwtrust, imported; and what they are.
IMPORT_ALL = """
import importlib, json, pathlib, hwtrust
top = pathlib.Path(hwtrust.__file__).parent
names = []
for path in sorted(top.rglob("*.py")):
    parts = path.relative_to(top.parent).with_suffix("").parts
    names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    importlib.import_module(names[-1])
print(json.dumps(names))
"""
# What a reader of the README writes, and that errors are whole.
FRONT_DOOR = """
from hwtrust import AgentClient, Device, DeviceConfig
from hwtrust.device import State
from hwtrust.errors import HwTrustError, all_errors
assert len(all_errors()) > 300
print(Device.__module__, AgentClient.__module__)
"""
WITHOUT = """
from hwtrust import Device
from hwtrust.errors import HwTrustError
try:
    with Device.open(None): pass
except HwTrustError as error:
    print(error.code)
"""


def files_of(built: Path, name: str) -> set[str]:
    """What a distribution's wheel puts into site-packages, without its metadata."""
    names = zipfile.ZipFile(wheel_of(built, name)).namelist()
    return {one for one in names if ".dist-info/" not in one}


def modules_of(files: AbstractSet[str]) -> set[str]:
    """The modules that files of Python are."""
    names = {one.removesuffix(".py").replace("/", ".") for one in files if one.endswith(".py")}
    return {one.removesuffix(".__init__") for one in names}


def said(environment: Environment, program: str) -> str:
    """What a program prints in the environment, which has to succeed."""
    done = environment.run("python", "-c", program)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def alone(install: Install) -> Environment:
    """hwtrust-device and the TPM stack, and nothing else of this checkout."""
    return install(DEVICE, ("tpm",))


@pytest.fixture(scope="module")
def left(install: Install) -> Environment:
    """An environment that had `hwtrust` beside hwtrust-device, until it was uninstalled."""
    environment = install(LIBRARY, ("device",))
    assert said(environment, "import hwtrust.verify; print('there')") == "there\n"
    subprocess.run(
        [uv(), "pip", "uninstall", "--python", environment.bin / "python", LIBRARY],
        env=clean_environ(),
        check=True,
        capture_output=True,
    )
    return environment


@pytest.fixture
def site(tmp_path: Path, tpm: Swtpm, backend: BackendServer, tpm_vendor: Vendor) -> Site:
    """A device whose one layer is a program."""
    made = Site(tmp_path, tpm, backend, tpm_vendor, layers={"app": b"#!/bin/sh\nexit 0\n"})
    (tmp_path / "app").chmod(0o755)
    return made


# --- the files ---------------------------------------------------------------------------


def test_the_two_wheels_share_no_file_and_are_the_package(built: Path) -> None:
    """An installer writes both into one directory: no file is overwritten, and none is missing."""
    device, library = files_of(built, DEVICE), files_of(built, LIBRARY)
    assert device & library == set()
    package = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "hwtrust").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert device | library == package
    assert len(device) > 100
    assert len(library) > 100


def test_the_wheel_of_the_device_is_small(built: Path) -> None:
    """It goes over the air to devices, and into small file systems."""
    assert wheel_of(built, DEVICE).stat().st_size < MOST_BYTES


def test_the_import_rules_know_what_the_wheels_hold(built: Path) -> None:
    """A module that goes to the other wheel has to go to the other side of the rule, too."""
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    contracts = tool["importlinter"]["contracts"]
    (rule,) = (one for one in contracts if one["id"] == "device-alone")
    apart = rule["protected_modules"]
    library = modules_of(files_of(built, LIBRARY))
    assert set(apart) <= library
    below = {one for one in library if any(one.startswith(f"{name}.") for name in apart)}
    assert set(apart) | below == library
    device = modules_of(files_of(built, DEVICE))
    assert [one for one in device if one.startswith(tuple(f"{name}." for name in apart))] == []
    assert rule["allowed_importers"] == ["hwtrust_backend", *apart]


def test_the_readme_names_what_is_not_in_it(built: Path) -> None:
    """Each name is one of the other distribution alone."""
    text = (DISTRIBUTIONS[DEVICE] / "README.md").read_text()
    missing = text.partition("is a `ModuleNotFoundError`:\n")[2].split("\n\nA device")[0].split()
    assert len(missing) > 5
    assert set(missing) <= modules_of(files_of(built, LIBRARY))
    packages = {one for one in modules_of(files_of(built, LIBRARY)) if one.count(".") == 1}
    assert packages <= set(missing)


# --- hwtrust-device without hwtrust --------------------------------------------------------


def test_it_imports_every_module_that_it_holds(alone: Environment, built: Path) -> None:
    """None needs a module, or a package, that only another distribution brings."""
    names = json.loads(said(alone, IMPORT_ALL))
    assert set(names) == modules_of(files_of(built, DEVICE))


def test_its_front_door_opens(alone: Environment) -> None:
    """The names of the README, and errors that are the same everywhere."""
    assert said(alone, FRONT_DOOR).split() == ["hwtrust.device.api", "hwtrust.agent.client"]


def test_it_has_no_command_and_no_verifier(alone: Environment) -> None:
    """Nothing is there in halves: what belongs to the other distribution is not found."""
    assert not (alone.bin / "hwtrust").exists()
    for name in ("hwtrust.verify", "hwtrust.cli", "hwtrust.agent.service", "hwtrust.testing"):
        done = alone.run("python", "-c", f"import {name}")
        assert "ModuleNotFoundError" in done.stderr
    assert alone.run("python", "-c", "import click").returncode != 0


def test_it_runs_the_vendors_example(alone: Environment, site: Site) -> None:
    """Enrol, load, put a key, attest, against a TPM and a backend; and the key is there again."""
    (site.home / "token").write_text(site.token())

    def sign(*arguments: str) -> list[str]:
        done = subprocess.run(
            [alone.bin / "python", EXAMPLE, str(site.config_path), *arguments],
            input="order 1\norder 2\n",
            env=clean_environ(),
            cwd=alone.home,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    first = sign(str(site.home / "token"))
    assert len(first) == 2
    site.tpm.reboot()
    assert sign() == first
    with site.open() as device:
        device.boot()
        key = device.keystore["payments/transport"]
    assert hmac.new(key, b"order 1\n", hashlib.sha256).hexdigest() == first[0]


def test_without_its_extra_it_says_what_is_missing(install: Install) -> None:
    """An error of the tree; the agent's client needs none of it."""
    environment = install(DEVICE)
    assert said(environment, WITHOUT).strip() == DeviceSoftwareError.code
    assert said(environment, "from hwtrust import AgentClient; print(AgentClient.__name__)")


def test_uninstalling_hwtrust_leaves_it_working(left: Environment, built: Path) -> None:
    """One package in two distributions: what one takes away was its own."""
    assert set(json.loads(said(left, IMPORT_ALL))) == modules_of(files_of(built, DEVICE))
    assert said(left, FRONT_DOOR).split() == ["hwtrust.device.api", "hwtrust.agent.client"]
    assert not (left.bin / "hwtrust").exists()


def test_hwtrust_does_not_come_without_it(install: Install) -> None:
    """The dependency is in the wheel's own metadata, at the version of the wheel."""
    program = (
        "from importlib.metadata import requires, version\n"
        "assert version('hwtrust') == version('hwtrust-device')\n"
        "print(*requires('hwtrust'), sep='\\n')\n"
    )
    environment = install(LIBRARY)
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"{DEVICE}=={version}" in said(environment, program).splitlines()
