"""A site for each test: its own TPM, its own backend."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hwtrust_backend.testing import BackendServer
from simulators.site import Site
from simulators.updating import UpdatingSite

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from hwtrust.testing.manufacture import Vendor
    from hwtrust.testing.swtpm import Swtpm


@pytest.fixture
def backend() -> Iterator[BackendServer]:
    """A backend of the test's own."""
    with BackendServer() as server:
        yield server


@pytest.fixture
def site(tmp_path: Path, tpm: Swtpm, backend: BackendServer, tpm_vendor: Vendor) -> Site:
    """A device with four layers that is not enrolled yet."""
    return Site(tmp_path, tpm, backend, tpm_vendor)


@pytest.fixture
def updating(
    tmp_path: Path, tpm: Swtpm, backend: BackendServer, tpm_vendor: Vendor
) -> UpdatingSite:
    """An enrolled device that takes updates; its layer `system` takes a restart."""
    site = UpdatingSite(tmp_path, tpm, backend, tpm_vendor, restart=("system",))
    site.enrol()
    with site.open() as device:
        device.boot()
        device.keystore.put(UpdatingSite.ENTRY, UpdatingSite.SECRET)
        device.attest()
    return site
