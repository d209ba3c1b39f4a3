"""Attest a device that may be on trial with a release: it is confirmed, or given up.

    boot ─▶ attest ─▶ trusted: confirmed
      └───────┴─ failed, or too late ─▶ the release before: boot, attest

Without a trial this is `attest` as it is; `hwtrust.device.trial` boots. Rules:
1. What speaks against the release gives it up: a layer, the root that does not
   open in its state, a verdict. A TPM or a backend that is away does not, but
   starts are counted, and time is.
2. A verdict counts once the release has come up: before that it is one on what ran
   before, but for what is said of its name. One that would meet the release before
   as well gives nothing up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hwtrust.device import rotate, trial
from hwtrust.device.conditions import take_back
from hwtrust.errors import (
    ChannelError,
    TrialFailedError,
    TrialOverdueError,
)
from hwtrust.wire.messages import Severity

if TYPE_CHECKING:
    from hwtrust.device.context import DeviceContext
    from hwtrust.device.results import AttestResult
    from hwtrust.device.state import Trial

_OF_THE_DEVICE: Final = ("admin:", "clock:", "epoch:", "evidence:", "policy:")
"""Findings that the release before would get too, by their beginnings."""
_OF_ITS_NAME: Final = "release:"


def attest_on_trial(device: DeviceContext) -> AttestResult:
    """Attest; a release on trial is confirmed by it, or given up and the last one booted.

    Raises:
        ChannelError: the backend is away, or refuses; a trial that has lasted too
            long is given up all the same.
        RootError, TpmError: as `rotate.attest`, or the last release needs a restart.
    """
    heard = device.heard
    try:
        result = rotate.attest(device)
    except ChannelError:
        try:
            trial.require_in_time(device)
        except TrialOverdueError as error:
            trial.fall_back(device, error)
        raise
    on_trial = trial.tried(device)
    if on_trial is None:
        return result
    failed = [finding.code for finding in result.findings if finding.severity is Severity.FAIL]
    against = [code for code in failed if _is_against(code, on_trial)]
    if not against:
        return result
    message = f"the backend does not accept release {on_trial.release}: {', '.join(failed)}"
    if against == failed:
        # What the backend said was said of the release that goes.
        take_back(device, heard)
    trial.fall_back(device, TrialFailedError(message, release=on_trial.release))
    return rotate.attest(device)


def _is_against(code: str, on_trial: Trial) -> bool:
    if code.startswith(_OF_ITS_NAME):
        return on_trial.release != on_trial.previous
    return on_trial.up and not code.startswith(_OF_THE_DEVICE)
