"""The distributions, built once for all tests, and environments to install them into."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from simulators.distributions import DISTRIBUTIONS, Environment, build, installed

if TYPE_CHECKING:
    from pathlib import Path

    from simulators.distributions import Install


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a wheel and an sdist of each distribution."""
    into = tmp_path_factory.mktemp("dist")
    for source in DISTRIBUTIONS.values():
        build(into, source)
    return into


@pytest.fixture(scope="module")
def install(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Install:
    """Install a distribution into an environment of its own."""

    def make(name: str, extras: tuple[str, ...] = ()) -> Environment:
        return installed(built, tmp_path_factory.mktemp("installed"), name, extras)

    return make
