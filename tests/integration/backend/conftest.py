"""A backend over HTTP, on each kind of database."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hwtrust_backend.testing import BackendServer
from simulators.attester import make_release

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def server(database_setting: str) -> Iterator[BackendServer]:
    """A backend that accepts release 1.0."""
    with BackendServer(database=database_setting) as started:
        started.accept(make_release())
        yield started
