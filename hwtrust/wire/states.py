"""The measured states in which a root may be opened, computed by both sides alike.

    cold   reset value ─▶ layers                     after a reboot
    live   value quoted now ─▶ reload ─▶ layers      without one

With a second release, to which a device may switch, and from which it may return:

    other-cold    reset value ─▶ layers of the other
    other-live    value quoted now ─▶ reload ─▶ layers of the other
    return-live   other-live ─▶ cap ─▶ reload ─▶ layers
    return-cold   other-cold ─▶ cap ─▶ reload ─▶ layers

Rules:
1. A state is computed from a release's reference values, never from what a
   device says that it measured.
2. Platform PCRs in the selection enter with the values that the TPM quoted.
3. A device returns from a load that was complete and capped, and from no other.
4. What is quoted beside them for its log alone is no part of a state (`root_selection`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hwtrust.wire.cel import CAP, RELOAD, RESET_VALUE, Event, EventKind, extended
from hwtrust.wire.policy import pcr_digest
from hwtrust.wire.root import Branch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hwtrust.wire.messages import LayerReference, Release
    from hwtrust.wire.structures import PcrSelection

QUOTED_ONLY = frozenset({8, 9, 10, 12, 13, 14, 15})
"""PCRs that no root depends on, unless one of them is the application's."""
COLD, LIVE = "cold", "live"
OTHER_COLD, OTHER_LIVE = "other-cold", "other-live"
RETURN_LIVE, RETURN_COLD = "return-live", "return-cold"


def root_selection(selection: PcrSelection, *, pcr: int) -> PcrSelection:
    """The PCRs that a root depends on, of those that a device quotes; `pcr` is its own.

    Of 8 to 15 no others but 11, into which a unified kernel image is measured: what
    boot loaders and IMA extend besides changes while a device runs.
    """
    ((bank, numbers),) = selection.banks
    if not any(number in QUOTED_ONLY and number != pcr for number in numbers):
        return selection
    kept = tuple(number for number in numbers if number == pcr or number not in QUOTED_ONLY)
    return type(selection)(((bank, kept),))


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


def return_value(release: Release, loaded: bytes) -> bytes:
    """The application PCR after a good load on top of another one, `loaded`, that was capped."""
    return live_value(release, extended(loaded, (CAP,)))


def state_digest(
    selection: PcrSelection, values: Mapping[int, bytes], *, pcr: int, value: bytes
) -> bytes:
    """The digest over the selected PCRs with `value` in the application PCR `pcr`."""
    ((_, indices),) = selection.banks
    return pcr_digest(value if index == pcr else values[index] for index in indices)


def approved_states(
    release: Release,
    *,
    other: Release | None,
    selection: PcrSelection,
    values: Mapping[int, bytes],
    pcr: int,
) -> tuple[Branch, ...]:
    """The branches of an approval for a device whose TPM has quoted `values`.

    Two for the release that it runs. With a second one, `other`, there are six: the
    device may switch to it and return, with a reboot or without. TPM2_PolicyOR takes
    eight.
    """
    quoted = values[pcr]
    reached = {COLD: cold_value(release), LIVE: live_value(release, quoted)}
    if other is not None:
        cold, live = cold_value(other), live_value(other, quoted)
        reached |= {
            OTHER_COLD: cold,
            OTHER_LIVE: live,
            RETURN_LIVE: return_value(release, live),
            RETURN_COLD: return_value(release, cold),
        }
    return tuple(
        Branch(label=label, pcr_digest=state_digest(selection, values, pcr=pcr, value=value))
        for label, value in reached.items()
    )
