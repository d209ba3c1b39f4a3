"""What is installed from the wheels works, in environments that hold nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hwtrust.errors import DeviceSoftwareError
from hwtrust.errors.forms import EnclaveSoftwareError
from simulators.distributions import ROOT, Environment

if TYPE_CHECKING:
    from simulators.distributions import Install

# What an environment has of an extra, told by the metadata of what is installed there.
LACKING = """
import importlib.metadata, json, sys
from importlib.metadata import PackageNotFoundError, requires
import re
lacking = []
for text in requires(sys.argv[1]):
    name, _, marker = text.partition(";")
    extra = re.search(r"extra == '(.+)'", marker)
    if extra is None or extra[1] in sys.argv[2:]:
        distribution = re.match(r"[\\w.-]+", name)[0]
        try:
            importlib.metadata.version(distribution)
        except PackageNotFoundError:
            lacking.append(distribution)
print(json.dumps(lacking))
"""


@pytest.fixture(scope="module")
def base(install: Install) -> Environment:
    """The library without any extra: it verifies."""
    return install("hwtrust")


@pytest.fixture(scope="module")
def device(install: Install) -> Environment:
    """The library as a device has it."""
    return install("hwtrust", ("device",))


@pytest.fixture(scope="module")
def backend(install: Install) -> Environment:
    """The backend, with the library that it brings along."""
    return install("hwtrust-backend")


def lacks(environment: Environment, name: str, *extras: str) -> list[str]:
    """What a distribution and its extras declare and the environment does not have."""
    done = environment.run("python", "-c", LACKING, name, *extras)
    assert done.returncode == 0, done.stderr
    lacking: list[str] = json.loads(done.stdout)
    return lacking


def test_the_library_comes_from_its_wheel(base: Environment) -> None:
    """The tests below say something: neither checkout nor another environment is in sight."""
    done = base.run("python", "-c", "import hwtrust; print(hwtrust.__file__)")
    assert done.stdout.startswith(str(base.bin.parent)), done.stderr
    places = base.run("python", "-c", "import sys; print(*sys.path, sep='\\n')").stdout.splitlines()
    assert places
    assert not [place for place in places if Path(place).is_relative_to(ROOT)]


def test_an_environment_has_what_is_declared_and_no_extra_unasked(
    base: Environment, device: Environment, backend: Environment
) -> None:
    """uv.lock, from which it is made, and the wheels' own metadata agree."""
    assert lacks(base, "hwtrust") == []
    assert lacks(base, "hwtrust-device") == []
    assert "inotify-simple" in lacks(base, "hwtrust", "device")
    assert "tpm2-pytss" in lacks(base, "hwtrust-device", "tpm")
    assert lacks(device, "hwtrust", "device") == []
    assert lacks(device, "hwtrust-device", "tpm") == []
    assert lacks(backend, "hwtrust-backend") == []
    assert lacks(backend, "hwtrust", "enclaves") == []
    assert "psycopg" in lacks(backend, "hwtrust-backend", "postgresql")


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("tpm", "list", "--help")])
def test_the_command_starts_without_an_extra(arguments: tuple[str, ...], base: Environment) -> None:
    """Whoever only verifies has a command too."""
    done = base.run("hwtrust", *arguments)
    assert done.returncode == 0, done.stderr
    assert "hwtrust" in done.stdout


def test_the_front_door_opens_without_an_extra(base: Environment) -> None:
    """Importing the names needs no TPM stack; opening a device does."""
    names = "from hwtrust import AgentClient, Device, DeviceConfig"
    assert base.run("python", "-c", names).returncode == 0


def test_a_device_without_the_extra_is_a_named_error(base: Environment) -> None:
    """It is of the tree, and says what to install."""
    done = base.run(
        "python",
        "-c",
        "from hwtrust import Device\n"
        "from hwtrust.errors import HwTrustError\n"
        "try:\n"
        "    with Device.open(None): pass\n"
        "except HwTrustError as error:\n"
        "    print(error.code, error.hint)\n",
    )
    assert done.stdout.strip() == f"{DeviceSoftwareError.code} {DeviceSoftwareError.hint}"


def test_a_command_that_needs_the_tpm_stack_says_so(base: Environment) -> None:
    """Exit code, code and cure, and no traceback."""
    done = base.run("hwtrust", "tpm", "list")
    assert done.returncode == 9
    assert f"[{DeviceSoftwareError.code}]" in done.stderr
    assert f"hint: {DeviceSoftwareError.hint}" in done.stderr
    assert "Traceback" not in done.stderr


def test_evidence_that_needs_an_extra_says_so(base: Environment) -> None:
    """A Nitro document is CBOR, which the extra `enclaves` reads."""
    document = next((ROOT / "tests" / "vectors" / "nitro").glob("*.cbor"))
    done = base.run("hwtrust", "evidence", "show", str(document))
    assert done.returncode == 9
    assert f"[{EnclaveSoftwareError.code}]" in done.stderr
    assert f"hint: {EnclaveSoftwareError.hint}" in done.stderr


def test_the_base_install_measures_a_release(base: Environment) -> None:
    """A build machine has no TPM, and needs no TPM stack."""
    layer = base.home / "kernel"
    layer.write_bytes(b"a kernel")
    done = base.run("hwtrust", "measure", "--release", "1.0", f"kernel@1.0={layer}")
    assert json.loads(done.stdout)["name"] == "1.0"


def test_a_device_lists_its_tpms(device: Environment) -> None:
    """The TPM stack is there and loads; which TPMs there are is the machine's affair."""
    done = device.run("hwtrust", "tpm", "list", "--json")
    assert done.returncode == 0, done.stderr
    assert isinstance(json.loads(done.stdout), list)


def test_a_device_imports_all_that_it_is_made_of(device: Environment) -> None:
    """No module of the device side needs what only the tests bring."""
    done = device.run(
        "python",
        "-c",
        "import importlib, pkgutil, hwtrust.agent, hwtrust.device, hwtrust.tpm, hwtrust.updates\n"
        "for package in (hwtrust.agent, hwtrust.device, hwtrust.tpm, hwtrust.updates):\n"
        "    for module in pkgutil.iter_modules(package.__path__, package.__name__ + '.'):\n"
        "        importlib.import_module(module.name)\n"
        "        print(module.name)\n",
    )
    assert done.returncode == 0, done.stderr
    assert "hwtrust.device.opening" in done.stdout.split()


def test_the_backend_makes_itself_and_names_what_an_extra_brings(backend: Environment) -> None:
    """From the wheel alone: keys, database with its migrations, settings."""
    assert backend.run("hwtrust-backend", "--help").returncode == 0
    place = ("--data", str(backend.home / "data"))
    done = backend.run(
        "hwtrust-backend",
        *(*place, "init", "--url", "https://localhost:8443"),
        *("--generate-passphrase", str(backend.home / "passphrase")),
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(backend.run("hwtrust-backend", *place, "devices", "--json").stdout) == []
