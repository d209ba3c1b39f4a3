"""Boot and attest a device that may be on trial with a release: it is confirmed, or given up.

    boot ─▶ attest ─▶ trusted: confirmed
      └───────┴─ failed, or too late ─▶ the release before: boot, attest

Without a trial these are `boot` and `attest` as they are. Rules:
1. What speaks against the release gives it up: a layer, the root that does not
   open in its state, a verdict. A TPM or a backend that is away does not, but
   starts are counted, and time is.
2. A verdict counts once the release has come up in this process: before that it
   is one on what ran before. One that would meet the release before as well gives
   nothing up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hwtrust.device import rotate, trial
from hwtrust.device.boot import boot
from hwtrust.device.conditions import take_back
from hwtrust.errors import (
    ChannelError,
    HwTrustError,
    LayerError,
    RootError,
    TrialFailedError,
    TrialOverdueError,
)
from hwtrust.wire.messages import Severity

if TYPE_CHECKING:
    from hwtrust.device.context import DeviceContext
    from hwtrust.device.results import AttestResult

_OF_THE_DEVICE: Final = ("admin:", "clock:", "epoch:", "evidence:", "policy:")
"""Findings that the release before would get too, by their beginnings."""

_GIVES_UP: tuple[type[HwTrustError], ...] = (LayerError, RootError)
"""What of a boot speaks against the release, and not against the device."""


def boot_on_trial(device: DeviceContext) -> None:
    """Boot; a release on trial that does not come up is given up, and the last one booted.

    Raises:
        LayerError, RootError, TpmError, KeyStoreError: as `boot`; where a trial was
            given up on the way, the last release needs a restart to come up.
    """
    trial.count_start(device)
    try:
        boot(device, activate=device.activate)
    except _GIVES_UP as error:
        if trial.trial_of(device) is None:
            raise
        trial.give_up(device, error)
        boot(device, activate=device.activate)


def attest_on_trial(device: DeviceContext) -> AttestResult:
    """Attest; a release on trial is confirmed by it, or given up and the last one booted.

    Raises:
        ChannelError: the backend is away, or refuses; a trial that has lasted too
            long is given up all the same.
        RootError, TpmError: as `rotate.attest`, or the last release needs a restart.
    """
    came_up, heard = device.keystore is not None, device.heard
    try:
        result = rotate.attest(device)
    except ChannelError:
        try:
            trial.require_in_time(device)
        except TrialOverdueError as error:
            trial.give_up(device, error)
            boot(device, activate=device.activate)
        raise
    on_trial = trial.trial_of(device)
    failed = [finding for finding in result.findings if finding.severity is Severity.FAIL]
    against = [finding for finding in failed if not finding.code.startswith(_OF_THE_DEVICE)]
    if on_trial is None or not came_up or not against:
        return result
    codes = ", ".join(finding.code for finding in failed)
    message = f"the backend does not accept release {on_trial.release}: {codes}"
    trial.give_up(device, TrialFailedError(message, release=on_trial.release))
    if against == failed:
        # What the backend said was said of the release that is gone.
        take_back(device, heard)
    boot(device, activate=device.activate)
    return rotate.attest(device)
