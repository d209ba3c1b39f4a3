"""A backend that accepts enclaves of test roots, and one that has enrolled."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hwtrust_backend.testing import ManualClock
from simulators.enclave_clients import BackendEnclave, DirectWay, enclave_policy, trust_signers
from simulators.snp_signer import NOW

if TYPE_CHECKING:
    from collections.abc import Callable

    from hwtrust_backend.app.backend import Backend


@pytest.fixture
def clock() -> ManualClock:
    """A clock at which the signers' certificates are valid."""
    return ManualClock(int(NOW.timestamp()) * 1000)


@pytest.fixture
def way(backend: Backend, hold_to_document: Callable[[str], None]) -> DirectWay:
    """A backend that accepts enclaves."""
    trust_signers(backend)
    hold_to_document(enclave_policy())
    return DirectWay(backend)


@pytest.fixture
def enclave(way: DirectWay, token: str) -> BackendEnclave:
    """An enclave that has enrolled."""
    made = BackendEnclave()
    made.enrol(way, token)
    return made
