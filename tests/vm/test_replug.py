"""A TPM whose driver goes and comes back, under an agent that udev tells of it."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

import pytest

from hwtrust_backend.testing import policy_document
from vm.device_work import SOCKET
from vm.vendor_device import KEPT

if TYPE_CHECKING:
    from vm.vendor_device import VendorDevice

pytestmark = [pytest.mark.vm, pytest.mark.long]


def test_the_agent_misses_the_tpm_and_takes_it_back(device: VendorDevice) -> None:
    """`tpm-away` by udev's word alone, as heartbeats are hours apart; then normal by itself."""
    device.backend.hold_to(policy_document(heartbeat="6h", watchdog="12h"))
    agent = f'\n[agent]\nsocket = "{SOCKET}"\nheartbeat = 21600\nlook_for_tpm = 21600\n'
    device.set_up(tables=agent)
    device.enrol()
    said = device.work("replug").splitlines()
    *states, secret = (one for one, _ in groupby(line.split()[0] for line in said))
    assert states[0] == "normal"
    assert states[-1] == "normal"
    assert "tpm-away" in states
    assert secret == KEPT
