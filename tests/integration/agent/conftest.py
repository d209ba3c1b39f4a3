"""A site for each test: its own TPM, its own backend."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hwtrust_backend.testing import BackendServer, policy_document
from simulators.site import Site

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from hwtrust.testing.manufacture import Vendor
    from hwtrust.testing.swtpm import Swtpm


@pytest.fixture
def backend() -> Iterator[BackendServer]:
    """A backend of the test's own, with a heartbeat that no test waits for."""
    with BackendServer(policy=policy_document(heartbeat="5m")) as server:
        yield server


@pytest.fixture
def site(tmp_path: Path, tpm: Swtpm, backend: BackendServer, tpm_vendor: Vendor) -> Site:
    """A device with two layers, enrolled."""
    site = Site(tmp_path, tpm, backend, tpm_vendor, layers=("kernel", "frontend"))
    site.enrol()
    return site
