"""The device's condition: what becomes of it when a step fails, and when the backend speaks.

    starting ─▶ loading ─▶ normal ◀─▶ limited        (the backend's mode)
                   │          └────────▶ locked      (its mode, a changed layer, `lock`)
                   └─(a step fails)─▶ locked, or limited as `on_failure` says
    any ─(the TPM does not answer)─▶ tpm-away

Rules:
1. Whatever is told, the key store is locked before it is told: an application
   that hears `locked` finds nothing open.
2. A failure is told to the host application at once, kept on disk, and told to
   the backend by the next attestation that is answered; that one removes it.
3. The backend's mode is believed as its answers are. `normal` and `limited` do
   not open a key store; a device that could not load stays what it is.
4. A disk that takes no failure does not hide it: it is told from memory.
"""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from hwtrust.device.config import OnFailure
from hwtrust.device.failures import failure_of
from hwtrust.device.results import State
from hwtrust.device.state import Heard
from hwtrust.errors import (
    ChannelError,
    DeviceLockedError,
    HwTrustError,
    RefusedError,
    StateError,
    TpmObjectConflictError,
    TpmTransportError,
)
from hwtrust.wire.messages import Mode, Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hwtrust.device.context import DeviceContext
    from hwtrust.wire.messages import AttestReply, Finding
    from hwtrust.wire.statement import StepFailure

_KEEP_AGAIN_MS: Final = 10 * 60 * 1000
"""How old the time on disk may grow before it is written again: disks wear."""


@contextlib.contextmanager
def failures_noted(device: DeviceContext, *, running: bool = False) -> Iterator[None]:
    """Note the error that ends a `with`, under the step that `device.doing` names.

    `running`: the layers are loaded and run, and what was found locks the device
    whatever `on_failure` says.
    """
    try:
        yield
    except HwTrustError as error:
        note(device, error, running=running)
        raise
    except BaseException:
        if device.condition.state is State.LOADING:
            device.become(State.LOCKED, step=device.doing[0], message="the load was interrupted")
        raise


@contextlib.contextmanager
def absence_noted(device: DeviceContext) -> Iterator[None]:
    """Be `tpm-away` where that is what ends a `with`, and locked where another TPM is there."""
    try:
        yield
    except TpmTransportError as error:
        device.doing = "tpm", ""
        tpm_away(device, error)
        raise
    except TpmObjectConflictError as error:
        device.lock()
        device.become(State.LOCKED, step="tpm", code=error.code, message=error.message)
        raise


def note(device: DeviceContext, error: HwTrustError, *, running: bool = False) -> None:
    """Keep what failed, and tell the host application what the device is now."""
    step, layer = device.doing
    if isinstance(error, TpmTransportError):
        tpm_away(device, error)
    elif device.keystore is None:
        limited = device.config.on_failure is OnFailure.LIMITED and not running
        if isinstance(error, DeviceLockedError):
            limited = False
        device.become(
            State.LIMITED if limited else State.LOCKED,
            step=step,
            layer=layer,
            code=error.code,
            message=error.message,
        )
    # What the backend knows is not told; that it was away does not replace why it was needed.
    consequence = isinstance(error, ChannelError) and device.failure is not None
    if not isinstance(error, DeviceLockedError) and not consequence:
        release = device.release.name
        device.note_failure(failure_of(error, step=step, layer=layer, release=release))


def tpm_away(device: DeviceContext, error: HwTrustError) -> None:
    """Drop the keys: whoever took the TPM away may have taken it to another machine."""
    device.lock()
    if device.condition.state is State.TPM_AWAY:
        return
    step, layer = device.doing
    device.become(State.TPM_AWAY, step=step, layer=layer, code=error.code, message=error.message)


def hear(device: DeviceContext, reply: AttestReply, *, utc_ms: int) -> None:
    """Remember the backend's word."""
    kept, device.heard = device.heard_on_disk, Heard(mode=reply.mode, at_ms=utc_ms)
    if kept is None or kept.mode is not reply.mode or utc_ms - kept.at_ms >= _KEEP_AGAIN_MS:
        device.heard_on_disk = device.heard
        with contextlib.suppress(StateError):
            device.state.save_heard(device.heard)


def take_back(device: DeviceContext, heard: Heard | None) -> None:
    """What the backend said last is over: `heard` is what it had said before."""
    device.heard = device.heard_on_disk = heard
    if heard is not None:
        with contextlib.suppress(StateError):
            device.state.save_heard(heard)


def told(device: DeviceContext, failure: StepFailure | None) -> None:
    """An attestation that carried `failure` was answered: it is not told again."""
    if failure is not None and device.failure is failure:
        device.failure = None
        with contextlib.suppress(StateError):
            device.state.drop_failure()


def follow(device: DeviceContext, reply: AttestReply) -> None:
    """Be what the backend's answer says."""
    reason = _reason(reply.findings)
    code, message = (reason.code, reason.message) if reason else ("", "")
    if reply.mode is Mode.LOCKED:
        with device.step("lock", "the backend says so"):
            device.lock()
        _narrow(device, State.LOCKED, code, message)
    elif device.keystore is None:
        if reply.mode is Mode.LIMITED and device.condition.state is State.LOCKED:
            _narrow(device, State.LIMITED, code, message)
    elif reply.mode is Mode.LIMITED:
        device.become(State.LIMITED, code=code, message=message)
    else:
        device.become(State.NORMAL)


def loaded(device: DeviceContext) -> None:
    """The key store is open; the mode is what the backend said last."""
    limited = device.heard is not None and device.heard.mode is Mode.LIMITED
    device.become(State.LIMITED if limited else State.NORMAL)


def troubled(device: DeviceContext, error: HwTrustError) -> None:
    """The key store is open, and the backend was not heard: say why, and since when."""
    if device.keystore is None:
        return
    message = error.message
    if isinstance(error, ChannelError) and not isinstance(error, RefusedError):
        since = "yet" if device.heard is None else f"since {_utc(device.heard.at_ms)}"
        message = f"nothing was heard of the backend {since}: {message}"
    device.become(device.condition.state, code=error.code, message=message)


def _narrow(device: DeviceContext, state: State, code: str, message: str) -> None:
    """The device's own failure says more than what the backend made of it."""
    was = device.condition
    if was.step:
        device.become(state, step=was.step, layer=was.layer, code=was.code, message=was.message)
    else:
        device.become(state, code=code, message=message or "the backend says so")


def _reason(findings: tuple[Finding, ...]) -> Finding | None:
    weighty = [finding for finding in findings if finding.severity is Severity.FAIL]
    return next(iter(weighty or findings), None)


def _utc(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
