"""A device between two attestations: it reports what happens, and waits to be told."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from hwtrust.errors import ChannelAnonymousError, RefusedError
from hwtrust_backend.admin import ask_rotation, local_administrator
from hwtrust_backend.testing import BackendServer, policy_document

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hwtrust.device import Device
    from simulators.site import Site

POLICY = policy_document(rotation={"triggers": ["event"], "events": ["transaction"]})
PATIENCE = 50
"""Seconds that no test waits: whoever waits so long has been forgotten."""


@pytest.fixture
def backend() -> Iterator[BackendServer]:
    """A backend that replaces roots for transactions."""
    with BackendServer(policy=POLICY) as server:
        yield server


@pytest.fixture
def device(site: Site) -> Iterator[Device]:
    """A device that has enrolled, and has booted since."""
    site.enrol()
    with site.open() as opened:
        opened.boot()
        yield opened


def test_an_event_that_the_policy_names_ends_in_the_next_root(device: Device) -> None:
    """The application reports it, and attests when the answer says so."""
    device.attest()
    assert not device.report("secure-input")
    assert device.report("transaction", detail="order 17")
    assert device.attest().rotated_to == 2
    with pytest.raises(RefusedError) as caught:
        device.report("No Event")
    assert caught.value.data["status"] == 400


def test_a_device_that_waits_is_told_at_once(device: Device, backend: BackendServer) -> None:
    """An administrator asks for the next root; who waits for nothing is told nothing."""
    device.attest()
    assert device.wait(0) == ""
    told: list[str] = []
    waiting = threading.Thread(target=lambda: told.append(device.wait()), daemon=True)
    waiting.start()
    pause = threading.Event()
    for _ in range(PATIENCE * 100):
        if len(backend.backend.waiters):
            break
        pause.wait(0.01)
    name = device.status().device.hex()
    with backend.session() as session:
        by = local_administrator()
        ask_rotation(session, name, reason="a test", by=by, now=backend.clock())
    waiting.join(PATIENCE)
    assert told == ["rotation"]
    assert device.attest().rotated_to == 2


def test_nothing_is_asked_without_the_device_s_certificate(device: Device) -> None:
    """Who has not attested is told to, before a byte is sent."""
    with pytest.raises(ChannelAnonymousError):
        device.wait()
    with pytest.raises(ChannelAnonymousError):
        device.report("transaction")
