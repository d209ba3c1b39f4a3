"""The list of dependencies is that of the projects: none is missing, none is left over."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from typing import Any

import pytest

from simulators.distributions import DISTRIBUTIONS, ROOT

DOCUMENT = (ROOT / "docs" / "dependencies.md").read_text()


def rows(heading: str) -> dict[str, list[str]]:
    """The table under a heading: the package, and the cells behind it."""
    _, _, rest = DOCUMENT.partition(f"\n## {heading}\n")
    section = rest.split("\n## ")[0]
    lines = re.findall(r"^\| `([\w-]+)` \| (.*) \|$", section, re.MULTILINE)
    return {name: re.split(r" ?\| ", cells) for name, cells in lines}


def name_of(requirement: str) -> str:
    """The package that a requirement names."""
    return re.split(r"[^\w-]", requirement)[0]


def read(name: str) -> dict[str, Any]:
    """The pyproject.toml of a distribution."""
    return tomllib.loads((DISTRIBUTIONS[name] / "pyproject.toml").read_text())


@pytest.mark.parametrize("name", sorted(DISTRIBUTIONS))
def test_each_dependency_of_users_has_its_row(name: str) -> None:
    """With its extra where it belongs to one; and no row is of something that is gone."""
    project = read(name)["project"]
    declared = {name_of(one): "" for one in project["dependencies"]}
    for extra, requirements in project["optional-dependencies"].items():
        for one in requirements:
            declared.setdefault(name_of(one), f"`{extra}`")
    assert {package: cells[0] for package, cells in rows(name).items()} == declared


def test_each_dependency_of_developers_has_its_row() -> None:
    """The group `dev`, without the distributions themselves."""
    declared = {name_of(one) for one in read("hwtrust")["dependency-groups"]["dev"]}
    assert set(rows("For developers")) == declared - set(DISTRIBUTIONS)


@pytest.mark.parametrize("heading", [*sorted(DISTRIBUTIONS), "For developers"])
def test_each_row_gives_reason_alternative_and_licence(heading: str) -> None:
    """No cell was left for later."""
    table = rows(heading)
    assert table
    columns = 3 if heading == "For developers" else 4
    assert {len(cells) for cells in table.values()} == {columns}
    assert [name for name, cells in table.items() if not all(cells[-3:])] == []


def test_the_licences_are_those_that_the_packages_state() -> None:
    """Where a package states an SPDX expression, the list repeats it."""
    wrong = {}
    compared = 0
    for heading in [*sorted(DISTRIBUTIONS), "For developers"]:
        for name, cells in rows(heading).items():
            try:
                said = importlib.metadata.metadata(name)
            except importlib.metadata.PackageNotFoundError:
                continue  # one for another Python or platform
            if "License-Expression" not in said:
                continue
            compared += 1
            stated = said["License-Expression"]
            if stated not in {cells[-1], "MIT License"}:
                wrong[name] = (cells[-1], stated)
    assert wrong == {}
    assert compared > 20
