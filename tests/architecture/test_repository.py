"""Rules that hold for the repository as a whole."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grimp
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "hwtrust"
BACKEND = ROOT / "backend"
DEVICE = ROOT / "packaging" / "device"
MAX_LINES = 600
MAX_TEST_LINES = 800


def modules(*directories: Path) -> list[Path]:
    """Every Python file under `directories`."""
    return sorted(path for directory in directories for path in directory.rglob("*.py"))


def project(directory: Path) -> dict[str, Any]:
    """The project table of a distribution."""
    table: dict[str, Any] = tomllib.loads((directory / "pyproject.toml").read_text())["project"]
    return table


def python(*arguments: str, cwd: Path = ROOT) -> str:
    """What a new interpreter prints."""
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, check=True, capture_output=True, text=True
    ).stdout


def too_long(limit: int, *directories: Path) -> dict[str, int]:
    """The modules under `directories` with more than `limit` lines."""
    files = modules(*directories)
    assert len(files) > 10
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files}
    return {name: length for name, length in lengths.items() if length > limit}


def test_no_module_is_longer_than_600_lines() -> None:
    """A module that has grown beyond reading is split."""
    assert too_long(MAX_LINES, LIBRARY, BACKEND / "hwtrust_backend") == {}


def test_no_module_of_tests_is_longer_than_800_lines() -> None:
    """Tests are tables of cases, which may be longer than what a reader holds in mind at once."""
    assert too_long(MAX_TEST_LINES, ROOT / "tests") == {}


def exceptions_defined_in(source: str) -> list[str]:
    """The names of the exception classes that a module defines."""
    return [
        node.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ClassDef)
        and any(ast.unparse(base).endswith(("Error", "Exception")) for base in node.bases)
    ]


def test_every_error_of_the_library_is_in_its_tree() -> None:
    """One place defines all errors, so that it can list them and keep their codes apart."""
    tree = set(modules(LIBRARY / "errors")) | {LIBRARY / "errors.py"}
    assert sum(len(exceptions_defined_in(path.read_text())) for path in tree if path.exists()) > 50
    elsewhere = {
        str(path.relative_to(ROOT)): names
        for path in set(modules(LIBRARY)) - tree - set(modules(LIBRARY / "testing"))
        if (names := exceptions_defined_in(path.read_text()))
    }
    assert elsewhere == {}


@pytest.mark.parametrize(
    "module", ["hwtrust", "hwtrust.errors", "hwtrust.wire", "hwtrust.verify", "hwtrust.roots"]
)
def test_the_base_install_suffices_to_verify(module: str) -> None:
    """A verifier needs no TPM stack, and a program that imports hwtrust no command line."""
    loaded = json.loads(
        python("-c", f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))")
    )
    assert module in loaded
    roots = {name.partition(".")[0] for name in loaded}
    assert roots.isdisjoint({"tpm2_pytss", "pyudev", "click", "rich", "pytest", "hwtrust_backend"})


def test_the_distributions_have_one_version_and_need_each_other_at_it() -> None:
    """Library and backend speak one protocol, hwtrust-device is a part of the library."""
    library, version = project(ROOT), project(ROOT)["version"]
    assert {project(BACKEND)["version"], project(DEVICE)["version"]} == {version}
    assert f"hwtrust[enclaves]=={version}" in project(BACKEND)["dependencies"]
    assert f"hwtrust-device=={version}" in library["dependencies"]
    extra = f"hwtrust-device[tpm]=={version}"
    assert extra in library["optional-dependencies"]["device"]


def test_the_distributions_of_the_library_ask_for_one_range_of_what_both_need() -> None:
    """Neither pulls its own lower bound against the other's."""
    bounds: list[dict[str, str]] = [
        {re.split(r"[^\w-]", text)[0]: text for text in project(source)["dependencies"]}
        for source in (ROOT, DEVICE)
    ]
    assert bounds[1]
    assert bounds[1].items() <= bounds[0].items()


IMPORTED_AS = {"pyjwt": "jwt", "opentelemetry_sdk": "opentelemetry"}
"""What distributions are imported as that have another name."""


def declared_by(directory: Path, *, extras: bool) -> list[str]:
    """What a distribution requires, with or without its extras."""
    table = project(directory)
    extra = [name for extra in table["optional-dependencies"].values() for name in extra]
    return [*table["dependencies"], *(extra if extras else [])]


def above_the_device() -> tuple[str, ...]:
    """The modules of the library that are not in hwtrust-device, as the import rules have them."""
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    contracts = tool["importlinter"]["contracts"]
    (names,) = (one["protected_modules"] for one in contracts if one["id"] == "device-alone")
    return tuple(names)


def undeclared(
    package: str, declared: list[str], importers: Callable[[str], bool] = lambda _: True
) -> set[str]:
    """What modules import, beyond the package and the standard library, and do not declare."""
    distributions = {re.split(r"[^\w-]", text)[0].replace("-", "_") for text in declared}
    names = {IMPORTED_AS.get(name, name) for name in distributions}
    graph = grimp.build_graph(package, include_external_packages=True, cache_dir=None)
    return {
        module
        for module in graph.modules
        if graph.is_module_squashed(module)
        and module not in names | sys.stdlib_module_names | {"_typeshed"}  # type checkers' own
        and any(
            importers(importer) and not importer.startswith(f"{package}.testing")
            for importer in graph.find_modules_that_directly_import(module)
        )
    }


def test_a_distribution_declares_what_it_imports() -> None:
    """Nothing works only because another package happens to need the same."""
    above = re.compile(rf"({'|'.join(map(re.escape, above_the_device()))})(\.|$)")

    def in_library(module: str) -> bool:
        return above.match(module) is not None

    def in_device(module: str) -> bool:
        return not in_library(module)

    def lacking(directory: Path, *, extras: bool) -> set[str]:
        declared = declared_by(directory, extras=extras)
        if directory == BACKEND:
            return undeclared("hwtrust_backend", declared)
        return undeclared("hwtrust", declared, in_device if directory == DEVICE else in_library)

    assert lacking(ROOT, extras=False) == {"cbor2", "dcap_qvl", "inotify_simple"}
    assert lacking(DEVICE, extras=False) == {"pyudev", "tpm2_pytss", "tuf"}
    assert lacking(BACKEND, extras=False) == {"opentelemetry", "psycopg"}
    for directory in (ROOT, DEVICE, BACKEND):
        assert lacking(directory, extras=True) == set()


@pytest.mark.parametrize(
    ("directory", "package", "typed"),
    [
        (ROOT, "hwtrust", False),  # by hwtrust-device, which it needs
        (DEVICE, "hwtrust", True),
        (BACKEND, "hwtrust_backend", True),
    ],
    ids=["hwtrust", "hwtrust-device", "hwtrust-backend"],
)
def test_a_wheel_holds_its_package_with_types_and_nothing_else(
    directory: Path, package: str, typed: bool, tmp_path: Path
) -> None:
    """Users get type information, and neither tests nor the other distribution."""
    python("-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path), cwd=directory)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert (f"{package}/py.typed" in names) == typed
    said = project(directory)
    assert {name.partition("/")[0] for name in names} == {
        package,
        f"{said['name'].replace('-', '_')}-{said['version']}.dist-info",
    }


def executables() -> list[Path]:
    """The programs of the repository."""
    return [path for path in (ROOT / "scripts").iterdir() if path.is_file() and not path.suffix]


def test_every_script_can_be_started() -> None:
    """A file in scripts/ is executable, names its interpreter, and bash can read it if it must."""
    assert {"bench", "setup", "test"} <= {path.name for path in executables()}
    for path in [*executables(), ROOT / ".ci" / "run"]:
        first = path.read_text().splitlines()[0]
        assert first in {"#!/usr/bin/env bash", "#!/usr/bin/env python3"}, path.name
        assert os.access(path, os.X_OK), path.name
        if first.endswith("bash"):
            subprocess.run(["bash", "-n", path], check=True)


def commands_in(markdown: str) -> set[str]:
    """The scripts that the code blocks of a document tell its reader to run."""
    blocks = re.findall(r"^```.*?\n(.*?)^```", markdown, re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks)
    return set(re.findall(r"^\s*(?:\$ )?(?:\./)?(scripts/[\w-]+)", lines, re.MULTILINE))


def test_the_commands_of_the_readme_exist() -> None:
    """Whoever follows the README finds what it names."""
    commands = commands_in((ROOT / "README.md").read_text())
    assert "scripts/test" in commands
    assert len(commands) > 1
    assert {name for name in commands if not os.access(ROOT / name, os.X_OK)} == set()
