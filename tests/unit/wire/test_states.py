"""The states that a root is approved for are those that a good device gets into."""

from __future__ import annotations

import hashlib
from typing import Final

from hwtrust.wire.cel import CAP, RELOAD, RESET_VALUE, Event, EventKind, extended
from hwtrust.wire.policy import pcr_digest
from hwtrust.wire.states import (
    approved_states,
    cold_value,
    layer_event,
    layer_events,
    live_value,
    state_digest,
)
from hwtrust.wire.structures import PcrSelection
from simulators.attester import Attester, make_release

RELEASE: Final = make_release("1.0", "root-of-trust", "kernel")
SELECTION: Final = PcrSelection.parse("sha256:0,7,12")


def test_a_layer_is_extended_with_all_that_its_reference_says() -> None:
    """Name, version and digest are in the event, so none of them can be another."""
    (first, second) = RELEASE.layers
    assert layer_event(first) == Event(
        EventKind.LAYER, "root-of-trust", "1.0", hashlib.sha256(b"1.0 root-of-trust").digest()
    )
    assert layer_events(RELEASE) == (layer_event(first), layer_event(second))


def test_the_cold_state_is_that_of_a_good_load_after_a_reset() -> None:
    """A backend computes what a device's PCR will hold, before `cap`."""
    device = Attester()
    device.load(RELEASE, cap=False)
    assert cold_value(RELEASE) == device.log.value() == extended(RESET_VALUE, layer_events(RELEASE))


def test_the_live_state_follows_from_the_quoted_one() -> None:
    """A reload on top of whatever was measured leads to the approved state."""
    device = Attester()
    device.load(RELEASE)
    before = device.log.value()
    device.append(RELOAD, *layer_events(RELEASE))
    assert live_value(RELEASE, before) == device.log.value()


def test_a_state_covers_all_selected_pcrs_in_their_order() -> None:
    """Platform PCRs enter with their quoted values, the application PCR with the computed."""
    values = {0: b"\1" * 32, 7: b"\2" * 32, 12: b"\3" * 32}
    digest = state_digest(SELECTION, values, pcr=12, value=b"\4" * 32)
    assert digest == hashlib.sha256(b"\1" * 32 + b"\2" * 32 + b"\4" * 32).digest()


def test_the_approved_states_are_cold_and_live() -> None:
    """After `cap` neither holds, until a reset or a reload."""
    device = Attester()
    device.load(RELEASE)
    cold, live = approved_states(RELEASE, selection=SELECTION, values=device.values, pcr=12)
    assert (cold.label, live.label) == ("cold", "live")

    def state() -> bytes:
        return pcr_digest(device.values[number] for number in (0, 7, 12))

    assert state() not in {cold.pcr_digest, live.pcr_digest}
    device.append(RELOAD, *layer_events(RELEASE))
    assert state() == live.pcr_digest
    device.append(CAP)
    assert state() not in {cold.pcr_digest, live.pcr_digest}
    device.reset()
    device.append(*layer_events(RELEASE))
    assert state() == cold.pcr_digest
