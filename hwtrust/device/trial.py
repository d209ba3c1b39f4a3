"""The release on trial: what a device remembers of an update until it is confirmed.

    switched ─▶ on trial ──(an attestation that is trusted)──▶ confirmed
                   │
                   └──(fails · starts too often · takes too long)──▶ the other slot, and why

Rules:
1. `update.json` is written before the step that it speaks of. Killed anywhere,
   the next start finds which slot is current, and goes on from there.
2. A start is counted before it is made: a release that takes the power with it
   is given up too.
3. What is too long, the TPM's clock says: no one turns it back.
4. A release that was given up is not tried again by itself, unless it is forced.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from hwtrust.device.boot import read_pcrs
from hwtrust.device.state import Refusal, Trial
from hwtrust.errors import (
    ConfigError,
    HwTrustError,
    StateDamagedError,
    TrialOverdueError,
    TrialStartsError,
)
from hwtrust.tpm import commands
from hwtrust.updates.slots import RELEASE, Slots
from hwtrust.wire.messages import Standing
from hwtrust.wire.statement import StepFailure

if TYPE_CHECKING:
    from hwtrust.device.context import DeviceContext
    from hwtrust.device.state import UpdateRecord
    from hwtrust.wire.messages import UpdateOrder

MOST_STARTS: Final = 3


def slots_of(device: DeviceContext) -> Slots:
    """The device's slots.

    Raises:
        ConfigError: it has none.
    """
    updates = device.config.updates
    if updates is None:
        message = "the configuration has no table [updates]: this device takes none"
        raise ConfigError(message, hint="run hwtrust init with --slots")
    return Slots(Path(updates.slots))


def trial_of(device: DeviceContext) -> Trial | None:
    """The trial that the device is on."""
    return device.state.updates().trial


def note_order(device: DeviceContext, order: UpdateOrder | None) -> None:
    """Remember what the backend said last."""
    record = device.state.updates()
    if record.order != order:
        device.state.save_updates(msgspec.structs.replace(record, order=order))


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
    device.state.save_updates(msgspec.structs.replace(record, trial=trial))
    with device.step("switch", f"to release {release}"):
        slots.switch()
    if restart:
        _stay(device, slots)
    else:
        _read_release(device)


def resume(device: DeviceContext) -> None:
    """When a device is opened: take up a trial where it was left; no command without one.

    Raises:
        StateError, SlotError: it cannot be remembered, or the slots are damaged.
    """
    record = device.state.updates()
    trial = record.trial
    if trial is None:
        return
    slots = slots_of(device)
    if slots.current != trial.slot:
        # Killed before the switch, or on the way back: the release before runs.
        _forget(device, record)
    elif trial.failed:
        _return(device, record, trial)
    elif trial.restart and not _is_cold(device):
        _stay(device, slots)
    elif trial.restart:
        started = msgspec.structs.replace(trial, restart=False)
        device.state.save_updates(msgspec.structs.replace(record, trial=started))


def count_start(device: DeviceContext) -> None:
    """Before a boot: count it, where it is one of the release on trial.

    Raises:
        StateError, SlotError: it cannot be remembered, or the slots are damaged.
    """
    record = device.state.updates()
    trial = record.trial
    if trial is None or trial.restart:
        return
    if trial.starts >= MOST_STARTS:
        message = f"release {trial.release} was started {trial.starts} times and not confirmed"
        give_up(device, TrialStartsError(message, release=trial.release))
        return
    started = msgspec.structs.replace(trial, starts=trial.starts + 1)
    device.state.save_updates(msgspec.structs.replace(record, trial=started))
    device.other = trial.previous if trial.previous != trial.release else ""


def confirm(device: DeviceContext, standing: Standing) -> None:
    """After an attestation: a trusted one ends the trial of the release that it was made with."""
    record = device.state.updates()
    trial = record.trial
    if (
        trial is None
        or trial.restart
        or standing is not Standing.TRUSTED
        or trial.release != device.release.name
    ):
        return
    with device.step("confirm", f"release {trial.release}"):
        device.state.save_updates(msgspec.structs.replace(record, trial=None, refused=None))
    device.other = ""


def require_in_time(device: DeviceContext) -> None:
    """While the backend is away: a trial does not last for ever.

    Raises:
        TrialOverdueError: it has lasted longer than the configuration allows.
    """
    trial, updates = trial_of(device), device.config.updates
    if trial is None or trial.restart or updates is None:
        return
    lasted = commands.read_clock(device.tpm).clock - trial.begun
    if lasted > updates.confirm_within_s * 1000:
        message = f"release {trial.release} was not confirmed within {lasted // 1000} s"
        raise TrialOverdueError(message, release=trial.release)


def give_up(device: DeviceContext, error: HwTrustError) -> None:
    """Return to the slot of the release before; `error` is why. The device is to boot again.

    Raises:
        StateDamagedError: there is no trial.
        SlotError: the release before is gone.
    """
    record = device.state.updates()
    trial = record.trial
    if trial is None:
        raise StateDamagedError("no release is on trial", path=str(device.state.directory))
    clock = commands.read_clock(device.tpm).clock
    refused = Refusal(release=trial.release, code=error.code, message=error.message[:400], at=clock)
    failed = msgspec.structs.replace(trial, failed=error.code)
    record = msgspec.structs.replace(record, trial=failed, refused=refused)
    device.state.save_updates(record)
    device.note_failure(
        StepFailure(
            step="confirm",
            code=error.code,
            layer=str(error.data.get("layer", "")),
            release=trial.release,
            detail=error.message[:400],
        )
    )
    _return(device, record, failed)


def _return(device: DeviceContext, record: UpdateRecord, trial: Trial) -> None:
    with device.step("fall back", f"from release {trial.release} to {trial.previous}"):
        slots_of(device).switch_back()
    _forget(device, record)


def _forget(device: DeviceContext, record: UpdateRecord) -> None:
    device.state.save_updates(msgspec.structs.replace(record, trial=None))
    _read_release(device)
    device.other = ""


def _read_release(device: DeviceContext) -> None:
    device.lock()
    device.release = device.config.read_release()


def _stay(device: DeviceContext, slots: Slots) -> None:
    """Go on with the release that is not current any more, until the restart."""
    slot, layers = slots.inactive, device.config.layers
    device.config = msgspec.structs.replace(
        device.config,
        release=str(slots.path(slot, "x").with_name(RELEASE)),
        layers={name: str(slots.path(slot, name)) for name in layers},
    )
    device.release = device.config.read_release()


def _is_cold(device: DeviceContext) -> bool:
    return device.measured.synchronise(read_pcrs(device))
