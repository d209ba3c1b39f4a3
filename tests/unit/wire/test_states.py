"""The states that a root is approved for are those that a good device gets into."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

import pytest

from hwtrust.wire.cel import CAP, RELOAD, RESET_VALUE, Event, EventKind, extended
from hwtrust.wire.policy import MAX_BRANCHES, pcr_digest
from hwtrust.wire.states import (
    approved_states,
    cold_value,
    layer_event,
    layer_events,
    live_value,
    root_selection,
    state_digest,
)
from hwtrust.wire.structures import PcrSelection
from simulators.attester import Attester, make_release

if TYPE_CHECKING:
    from hwtrust.wire.messages import Release

RELEASE: Final = make_release("1.0", "root-of-trust", "kernel")
OTHER: Final = make_release("2.0", "root-of-trust", "kernel")
THIRD: Final = make_release("3.0", "root-of-trust", "kernel")
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
    cold, live = approved_states(
        RELEASE, other=None, selection=SELECTION, values=device.values, pcr=12
    )
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


# --- two releases ----------------------------------------------------------------------


def state(device: Attester) -> bytes:
    """What the selected PCRs hash to now."""
    return pcr_digest(device.values[number] for number in (0, 7, 12))


def after(device: Attester, *steps: Release | Event | str) -> bytes:
    """The state after these steps: events, loads of releases without a cap, a reset."""
    for step in steps:
        if isinstance(step, str):
            device.reset()
        elif isinstance(step, Event):
            device.append(step)
        else:
            device.append(*layer_events(step))
    return state(device)


REACHED: Final[dict[str, tuple[Release | Event | str, ...]]] = {
    "cold": ("reset", RELEASE),
    "live": (RELOAD, RELEASE),
    "other-cold": ("reset", OTHER),
    "other-live": (RELOAD, OTHER),
    "return-live": (RELOAD, OTHER, CAP, RELOAD, RELEASE),
    "return-cold": ("reset", OTHER, CAP, RELOAD, RELEASE),
}

NOT_REACHED: Final[dict[str, tuple[Release | Event | str, ...]]] = {
    "a third release after a reboot": ("reset", THIRD),
    "a third release without one": (RELOAD, THIRD),
    "a return from a third release": (RELOAD, THIRD, CAP, RELOAD, RELEASE),
    "a return from a load that was not capped": (RELOAD, OTHER, RELOAD, RELEASE),
    "a return from a load that was not complete": (
        *(RELOAD, layer_event(OTHER.layers[0]), CAP, RELOAD, RELEASE),
    ),
    "the other release twice": (RELOAD, OTHER, CAP, RELOAD, OTHER),
    "a switch after the cap": (RELOAD, OTHER, CAP),
    "a return after the cap": (RELOAD, OTHER, CAP, RELOAD, RELEASE, CAP),
    "a second switch": (RELOAD, OTHER, CAP, RELOAD, RELEASE, CAP, RELOAD, OTHER),
    "the other release's layers without a reload": (OTHER,),
}


def approved(other: Release | None) -> tuple[Attester, dict[str, bytes]]:
    """A device that runs `RELEASE`, and the states that are approved for it by their labels."""
    device = Attester()
    device.load(RELEASE)
    branches = approved_states(
        RELEASE, other=other, selection=SELECTION, values=device.values, pcr=12
    )
    return device, {branch.label: branch.pcr_digest for branch in branches}


@pytest.mark.parametrize("label", REACHED)
def test_a_second_release_can_be_switched_to_and_left_again(label: str) -> None:
    """Each branch is the state that a good device gets into by the way that it is named for."""
    device, branches = approved(OTHER)
    assert set(branches) == set(REACHED)
    assert len(set(branches.values())) == len(REACHED) <= MAX_BRANCHES
    assert after(device, *REACHED[label]) == branches[label]


@pytest.mark.parametrize("case", NOT_REACHED)
def test_no_other_way_leads_to_an_approved_state(case: str) -> None:
    """What was not asked for, was not complete, or has been opened already is in no branch."""
    device, branches = approved(OTHER)
    assert after(device, *NOT_REACHED[case]) not in branches.values()


def test_without_a_second_release_only_the_running_one_is_approved() -> None:
    """The other branches come with the second release, and with nothing else."""
    device, branches = approved(None)
    assert set(branches) == {"cold", "live"}
    assert after(device, *REACHED["other-live"]) not in branches.values()


@pytest.mark.parametrize(
    ("quoted", "pcr", "covered"),
    [
        ("sha256:0,7,12", 12, "sha256:0,7,12"),
        ("sha256:0,7,11,12", 12, "sha256:0,7,11,12"),
        ("sha256:0,7,8,9,10,12", 12, "sha256:0,7,12"),
        ("sha256:0,8,10,11,14", 8, "sha256:0,8,11"),
    ],
)
def test_a_root_does_not_depend_on_what_is_quoted_for_a_log(
    quoted: str, pcr: int, covered: str
) -> None:
    """What IMA extends is another at every moment: no state with it would be met again."""
    assert root_selection(PcrSelection.parse(quoted), pcr=pcr) == PcrSelection.parse(covered)
