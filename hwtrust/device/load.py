"""Load: all that a host application asks for at its start, in one call.

    ask ─▶ [update] ─▶ boot ─▶ attest ─▶ Condition

Rules:
1. What becomes of the device is its condition, not an error. Errors are for what
   is wrong with the caller: a configuration, a device that is not enrolled.
2. One question for all layers. What the answer orders is fetched before anything
   is loaded; where that fails, the release that is there is loaded.
   Where another release was loaded since the reset, as when the power of the process
   went in the midst of an update, it is asked afterwards: nothing good could be said.
3. A backend that is away is no failure: the root opens by the leave that the
   device has kept, until that ends.
4. A backend that has locked the device is obeyed before anything is loaded.
5. A load that failed is told to the backend at once, where it can be asked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hwtrust.device.conditions import note, troubled
from hwtrust.device.confirm import attest_on_trial
from hwtrust.device.results import State
from hwtrust.device.trial import boot_on_trial
from hwtrust.errors import (
    ConfigError,
    HwTrustError,
    KeyStoreError,
    LayerError,
    StateError,
    TpmError,
)
from hwtrust.wire.cel import EventKind
from hwtrust.wire.messages import Mode
from hwtrust.wire.states import layer_events

if TYPE_CHECKING:
    from collections.abc import Callable

    from hwtrust.device.context import DeviceContext
    from hwtrust.device.results import AttestResult, Condition
    from hwtrust.wire.cel import Event
    from hwtrust.wire.messages import UpdateOrder

_STOPPED = frozenset({State.LOCKED, State.LIMITED, State.TPM_AWAY})
_OF_THE_DEVICE: tuple[type[HwTrustError], ...] = (TpmError, StateError, LayerError, KeyStoreError)
"""What stops a load also where it comes while the backend is asked."""


def load(
    device: DeviceContext, *, update: Callable[[UpdateOrder], object] | None = None
) -> Condition:
    """Ask, update where that is ordered, boot, attest; gives what the device is now.

    `update` brings in what the backend orders, and loads it.

    Raises:
        NotEnrolledError: nobody is to be asked, and nothing can be opened.
        ConfigError: the configuration does not do for an update.
    """
    device.known()
    loaded = _ran_another(device)
    if loaded:
        _boot(device)
    result, trouble = _attest(device)
    if isinstance(trouble, _OF_THE_DEVICE):
        return device.condition
    if result is not None and result.update is not None and update is not None:
        _updated(update, result.update)
    elif result is not None and result.mode is Mode.LOCKED:
        return device.condition
    if device.keystore is None and not loaded:
        _boot(device)
    if trouble is None:
        _, trouble = _attest(device)
    if trouble is not None:
        troubled(device, trouble)
    return device.condition


def _ran_another(device: DeviceContext) -> bool:
    """Whether what was loaded last in this boot is another release than the one to run."""
    try:
        device.measured.settle(device.tpm)
    except HwTrustError:
        return False  # the attestation meets it too, and says so
    layers: list[Event] = []
    for event in device.measured.log.events:
        if event.kind is EventKind.RELOAD:
            layers = []
        elif event.kind is EventKind.LAYER:
            layers.append(event)
    return (*layers,) != layer_events(device.release)[: len(layers)]


def _attest(device: DeviceContext) -> tuple[AttestResult | None, HwTrustError | None]:
    try:
        return attest_on_trial(device), None
    except ConfigError:
        raise
    except HwTrustError as error:
        if isinstance(error, _OF_THE_DEVICE):
            device.doing = ("tpm" if isinstance(error, TpmError) else "open"), ""
            _stop(device, error)
        return None, error


def _updated(update: Callable[[UpdateOrder], object], order: UpdateOrder) -> None:
    try:
        update(order)
    except ConfigError:
        raise
    except HwTrustError:
        # Noted where it was raised; what is there is loaded, and the backend judges that.
        return


def _boot(device: DeviceContext) -> None:
    try:
        boot_on_trial(device)
    except ConfigError:
        raise
    except HwTrustError as error:
        _stop(device, error)


def _stop(device: DeviceContext, error: HwTrustError) -> None:
    """Note what was not noted where it was raised."""
    if device.condition.state not in _STOPPED:
        note(device, error)
