"""The release on trial: what a device remembers of an update until it is confirmed.

    switched ─▶ on trial ──(an attestation that is trusted)──▶ confirmed
                   │
                   └──(fails · starts too often · takes too long)──▶ the other slot, and why

Rules:
1. `update.json` is written before the step that it speaks of. Killed anywhere,
   the next start finds which slot is current, and goes on from there.
2. A start is counted before it is made: a release that takes the power with it
   is given up too. Confirmed is only one that has opened the root since its start.
3. What is too long, the TPM's clock says: no one turns it back.
4. A release that was given up is not tried again by itself, unless it is forced.
5. While it waits for its restart nothing speaks for or against it: another one runs.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from hwtrust.device.boot import boot, read_pcrs
from hwtrust.device.conditions import failures_noted
from hwtrust.device.failures import cut, failure_of
from hwtrust.device.state import Refusal, Trial
from hwtrust.errors import (
    ConfigError,
    HwTrustError,
    LayerError,
    RootStateError,
    SlotUnsealedError,
    StateError,
    TrialOverdueError,
    TrialStartsError,
)
from hwtrust.tpm import commands
from hwtrust.wire.messages import Standing

if TYPE_CHECKING:
    from hwtrust.device.context import DeviceContext
    from hwtrust.device.state import UpdateRecord
    from hwtrust.updates.slots import Slots
    from hwtrust.wire.messages import UpdateOrder

MOST_STARTS: Final = 3

_GIVES_UP: tuple[type[HwTrustError], ...] = (LayerError, RootStateError, TrialStartsError)
"""What of a boot speaks against the release, and not against the device."""


def slots_of(device: DeviceContext) -> Slots:
    """The device's slots.

    Raises:
        ConfigError: it has none.
    """
    updates = device.config.updates
    if updates is None:
        message = "the configuration has no table [updates]: this device takes none"
        raise ConfigError(message, hint="run hwtrust init with --slots")
    from hwtrust.updates.slots import Slots  # noqa: PLC0415 - a device without a trial needs none

    return Slots(Path(updates.slots))


def trial_of(device: DeviceContext) -> Trial | None:
    """The trial that the device is on."""
    return device.state.updates().trial


def tried(device: DeviceContext) -> Trial | None:
    """The trial of the release that runs: none before the switch, and before a restart."""
    trial = trial_of(device)
    # Through `current` to the slot that the device's paths lead to.
    runs = Path(os.path.realpath(device.config.release)).parent.name
    return None if trial is None or trial.restart or trial.slot != runs else trial


def note_order(device: DeviceContext, order: UpdateOrder | None) -> None:
    """Remember what the backend said last."""
    record = device.state.updates()
    if record.order != order:
        _save(device, msgspec.structs.replace(record, order=order))
        device.tell_of_updates()


def begin(device: DeviceContext, release: str, *, restart: bool) -> None:
    """Switch to the slot that was filled: what comes up from now on is on trial.

    Where it takes a `restart`, the device goes on with what runs, from its own slot.
    """
    slots, record = slots_of(device), device.state.updates()
    trial = Trial(
        release=release,
        previous=device.release.name,
        slot=slots.inactive,
        begun=commands.read_clock(device.tpm).clock,
        restart=restart,
    )
    _save(device, msgspec.structs.replace(record, trial=trial))
    try:
        with device.step("switch", f"to release {release}"):
            slots.switch()
    except BaseException:
        if slots.current == trial.slot:
            # Renamed, though perhaps not on the disk: the next start takes it up, or forgets it.
            _stay(device, slots, trial)
        raise
    if restart:
        _stay(device, slots, trial)
        device.tell_of_updates()
    else:
        _read_release(device)
        _keep_way_back(device, trial)


def resume(device: DeviceContext) -> None:
    """When a device is opened: take up a trial where it was left; no command without one.

    Raises:
        StateError, SlotError: it cannot be remembered, or the slots are damaged.
    """
    record = device.updates = device.state.updates()
    trial = record.trial
    if trial is None:
        device.tell_of_updates()
        return
    slots = slots_of(device)
    if slots.current != trial.slot:
        # Killed before the switch, or on the way back: the release before runs.
        _forget(device, record)
    elif trial.failed:
        # Without a way back what is here goes on, and its backend judges it.
        with contextlib.suppress(SlotUnsealedError):
            _return(device, record, trial)
    elif trial.restart and not _is_cold(device):
        _stay(device, slots, trial)
    else:
        if trial.restart:
            clock = commands.read_clock(device.tpm).clock
            started = msgspec.structs.replace(trial, restart=False, begun=clock)
            _save(device, msgspec.structs.replace(record, trial=started))
        _keep_way_back(device, trial)
    device.tell_of_updates()


def boot_on_trial(device: DeviceContext) -> None:
    """Boot; a release on trial that does not come up is given up, and the last one booted.

    Raises:
        LayerError, RootError, TpmError, KeyStoreError: as `boot`; where a trial was
            given up on the way, the last release needs a restart to come up.
    """
    device.doing = "confirm", ""
    with failures_noted(device):
        _count_start(device)
    try:
        _require_few_starts(device)
        boot(device, activate=device.activate)
    except _GIVES_UP as error:
        if tried(device) is None:
            raise
        fall_back(device, error)
        return
    on_trial = tried(device)
    if on_trial is not None:
        # Where the disk does not take it, the release is not confirmed, and started again.
        with contextlib.suppress(StateError):
            _replace(device, msgspec.structs.replace(on_trial, up=True))


def fall_back(device: DeviceContext, error: HwTrustError) -> None:
    """Give the release up that runs, because of `error`, and boot the one before.

    Raises:
        SlotError: the release before is gone.
        LayerError, RootError, TpmError, KeyStoreError: it does not come up without a
            restart; the backend is told of `error`, of which that is a consequence.
    """
    give_up(device, error)
    why = device.failure
    try:
        boot(device, activate=device.activate)
    except HwTrustError:
        if why is not None:
            device.note_failure(why)
        raise


def _count_start(device: DeviceContext) -> None:
    """Before a boot: count it, where it is one of the release on trial."""
    trial = tried(device)
    if trial is not None:
        _replace(device, msgspec.structs.replace(trial, starts=trial.starts + 1, up=False))


def _require_few_starts(device: DeviceContext) -> None:
    trial = tried(device)
    if trial is not None and trial.starts > MOST_STARTS:
        message = f"release {trial.release} was started {MOST_STARTS} times and not confirmed"
        raise TrialStartsError(message, release=trial.release)


def confirm(device: DeviceContext, standing: Standing) -> None:
    """After an attestation: a trusted one ends the trial of the release that it was made with.

    Not before that release has opened the root: after this there is no way back.
    """
    trial = tried(device)
    if trial is None or not trial.up or trial.failed or standing is not Standing.TRUSTED:
        return
    with device.step("confirm", f"release {trial.release}"):
        record = device.state.updates()
        _save(device, msgspec.structs.replace(record, trial=None, refused=None))
    device.other = ""


def require_in_time(device: DeviceContext) -> None:
    """While the backend is away: a trial does not last for ever.

    Raises:
        TrialOverdueError: it has lasted longer than the configuration allows.
    """
    trial, updates = tried(device), device.config.updates
    if trial is None or updates is None:
        return
    lasted = commands.read_clock(device.tpm).clock - trial.begun
    if lasted > updates.confirm_within_s * 1000:
        message = f"release {trial.release} was not confirmed within {lasted // 1000} s"
        raise TrialOverdueError(message, release=trial.release)


def give_up(device: DeviceContext, error: HwTrustError) -> None:
    """Return to the slot of the release before; `error` is why. The device is to boot again.

    Raises:
        SlotError: the release before is gone.
    """
    record, trial = device.state.updates(), tried(device)
    assert trial is not None  # noqa: S101 - the caller has seen it
    clock = commands.read_clock(device.tpm).clock
    why = cut(failure_of(error, step="confirm", release=trial.release), at_ms=device.now())
    refused = Refusal(release=trial.release, code=error.code, message=why.detail, at=clock)
    failed = msgspec.structs.replace(trial, failed=error.code)
    record = msgspec.structs.replace(record, trial=failed, refused=refused)
    _save(device, record)
    device.note_failure(why)
    _return(device, record, failed)


def _return(device: DeviceContext, record: UpdateRecord, trial: Trial) -> None:
    slots = slots_of(device)
    try:
        with device.step("fall back", f"from release {trial.release} to {trial.previous}"):
            if slots.current == trial.slot:
                slots.switch_back()
    except StateError:
        # Renamed or not: what is current is what comes up next.
        _read_release(device)
        raise
    except SlotUnsealedError:
        _forget(device, record)
        raise
    _forget(device, record)


def _replace(device: DeviceContext, trial: Trial) -> None:
    _save(device, msgspec.structs.replace(device.state.updates(), trial=trial))


def _save(device: DeviceContext, record: UpdateRecord) -> None:
    device.state.save_updates(record)
    device.updates = record


def _forget(device: DeviceContext, record: UpdateRecord) -> None:
    try:
        _save(device, msgspec.structs.replace(record, trial=None))
    finally:
        _read_release(device)
    device.other = ""


def _read_release(device: DeviceContext) -> None:
    device.lock()
    device.release = device.config.read_release()


def _stay(device: DeviceContext, slots: Slots, trial: Trial) -> None:
    """Go on with the release that is not current any more, until the restart."""
    slot, layers = slots.inactive, device.config.layers
    device.config = msgspec.structs.replace(
        device.config,
        release=str(slots.release_path(slot)),
        layers={name: str(slots.path(slot, name)) for name in layers},
    )
    device.release = device.config.read_release()
    # Its leave is renewed too, so that it comes up while the backend is away.
    device.other = trial.release if trial.release != device.release.name else ""


def _keep_way_back(device: DeviceContext, trial: Trial) -> None:
    """Ask leave for the release before too, as long as the trial lasts."""
    device.other = trial.previous if trial.previous != trial.release else ""


def _is_cold(device: DeviceContext) -> bool:
    return device.measured.synchronise(read_pcrs(device))
