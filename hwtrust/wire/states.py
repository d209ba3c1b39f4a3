"""The measured states in which a root may be opened, computed by both sides alike.

    cold   reset value ─▶ layers                     after a reboot
    live   value quoted now ─▶ reload ─▶ layers      without one

Rules:
1. A state is computed from a release's reference values, never from what a
   device says that it measured.
2. Platform PCRs in the selection enter with the values that the TPM quoted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hwtrust.wire.cel import RELOAD, RESET_VALUE, Event, EventKind, extended
from hwtrust.wire.policy import pcr_digest
from hwtrust.wire.root import Branch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hwtrust.wire.messages import LayerReference, Release
    from hwtrust.wire.structures import PcrSelection

COLD, LIVE = "cold", "live"


def layer_event(layer: LayerReference) -> Event:
    """What is extended for a layer that is as it should be."""
    return Event(EventKind.LAYER, layer.name, layer.version, layer.digest)


def layer_events(release: Release) -> tuple[Event, ...]:
    """What a good load of `release` extends, in order."""
    return tuple(layer_event(layer) for layer in release.layers)


def cold_value(release: Release) -> bytes:
    """The application PCR after a reboot and a good load."""
    return extended(RESET_VALUE, layer_events(release))


def live_value(release: Release, current: bytes) -> bytes:
    """The application PCR after a reload event and a good load on top of `current`."""
    return extended(current, (RELOAD, *layer_events(release)))


def state_digest(
    selection: PcrSelection, values: Mapping[int, bytes], *, pcr: int, value: bytes
) -> bytes:
    """The digest over the selected PCRs with `value` in the application PCR `pcr`."""
    ((_, indices),) = selection.banks
    return pcr_digest(value if index == pcr else values[index] for index in indices)


def approved_states(
    release: Release, *, selection: PcrSelection, values: Mapping[int, bytes], pcr: int
) -> tuple[Branch, Branch]:
    """The two branches of an approval for a device whose TPM has quoted `values`."""
    cold = state_digest(selection, values, pcr=pcr, value=cold_value(release))
    live = state_digest(selection, values, pcr=pcr, value=live_value(release, values[pcr]))
    return (Branch(label=COLD, pcr_digest=cold), Branch(label=LIVE, pcr_digest=live))
