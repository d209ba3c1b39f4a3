"""The bills of materials: valid CycloneDX, complete, and the same for the same lock file."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import jsonschema_rs
import pytest

from simulators.distributions import DISTRIBUTIONS, ROOT

if TYPE_CHECKING:
    from pathlib import Path

NAMES = sorted(DISTRIBUTIONS)


def write(directory: Path) -> None:
    """Write the bills, as scripts/sbom does."""
    program = ROOT / "scripts" / "bill_of_materials.py"
    subprocess.run([sys.executable, program, directory], check=True)


@pytest.fixture(scope="module")
def bills(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with all bills."""
    directory = tmp_path_factory.mktemp("bills")
    write(directory)
    return directory


def read(directory: Path, name: str) -> dict[str, Any]:
    """A bill."""
    bill: dict[str, Any] = json.loads((directory / f"{name}.cdx.json").read_bytes())
    return bill


@pytest.fixture(scope="module")
def schema() -> jsonschema_rs.Validator:
    """CycloneDX 1.5, strict; the schemas are those that cyclonedx-python-lib ships."""
    resources = files("cyclonedx.schema") / "_res"

    def at(name: str) -> str:
        return f"http://cyclonedx.org/schema/{name}.SNAPSHOT.schema.json"

    def of(name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((resources / f"{name}.SNAPSHOT.schema.json").read_text())
        return found

    # They refer to each other by the names of their files.
    others = {name: {**of(name), "$id": at(name)} for name in ("spdx", "jsf-0.82")}
    registry = jsonschema_rs.Registry([(at(name), one) for name, one in others.items()])
    return jsonschema_rs.validator_for(of("bom-1.5"), registry=registry, validate_formats=True)


@pytest.mark.parametrize("name", NAMES)
def test_a_bill_is_valid_cyclonedx(name: str, bills: Path, schema: jsonschema_rs.Validator) -> None:
    """Tools that read bills read these; one that lacks its format's name is refused."""
    bill = read(bills, name)
    assert [error.message for error in schema.iter_errors(bill)] == []
    assert not schema.is_valid({**bill, "bomFormat": "other"})


@pytest.mark.parametrize("name", NAMES)
def test_a_bill_names_every_dependency_at_the_version_of_the_lock_file(
    name: str, bills: Path
) -> None:
    """What pyproject.toml declares, extras included, with the digests that uv checks."""
    project = tomllib.loads((DISTRIBUTIONS[name] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    declared = [*project["dependencies"], *(one for extra in extras for one in extra)]
    lock = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    locked = {(one["name"], one["version"]) for one in lock}
    bill = read(bills, name)
    listed = {(one["name"], one["version"]) for one in bill["components"]}
    assert {re.split(r"[^\w-]", text)[0] for text in declared} <= {one for one, _ in listed}
    assert listed <= locked
    without = [
        one["name"]
        for one in bill["components"]
        if one["name"] not in DISTRIBUTIONS
        and not any(reference.get("hashes") for reference in one["externalReferences"])
    ]
    assert without == []


@pytest.mark.parametrize("name", NAMES)
def test_a_bill_states_the_distributions_own_licence_and_most_others(
    name: str, bills: Path
) -> None:
    """Packages of other platforms are not installed, so theirs are not known here."""
    bill = read(bills, name)
    assert bill["metadata"]["component"]["licenses"] == [{"expression": "Apache-2.0"}]
    stated = [one for one in bill["components"] if one.get("licenses")]
    assert len(stated) >= 0.8 * len(bill["components"])


def test_no_tool_of_developers_is_in_a_bill(bills: Path) -> None:
    """Users get no pytest, and no linter."""
    names = {one["name"] for name in NAMES for one in read(bills, name)["components"]}
    assert names.isdisjoint({"pytest", "ruff", "mypy", "hypothesis", "sphinx"})


def test_the_same_lock_file_gives_the_same_bills(bills: Path, tmp_path: Path) -> None:
    """Neither the time nor chance is in them."""
    write(tmp_path)
    for name in NAMES:
        file = f"{name}.cdx.json"
        assert (tmp_path / file).read_bytes() == (bills / file).read_bytes()
