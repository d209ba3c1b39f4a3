"""What a device says of its work: plain data, which loads no TPM stack."""

from __future__ import annotations

import time
from enum import StrEnum
from typing import TYPE_CHECKING, TypeAlias

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from hwtrust.device.state import Heard, Refusal
    from hwtrust.tpm.discover import Identity as TpmIdentity
    from hwtrust.wire.cel import EventLog
    from hwtrust.wire.messages import Finding, LayerReference, Mode, Standing, UpdateOrder
    from hwtrust.wire.statement import StepFailure
    from hwtrust.wire.structures import ClockInfo


Activate: TypeAlias = "Callable[[LayerReference, Path], object]"
"""Starts a layer that was measured and extended; what it raises stops the load there."""


def utc_ms() -> int:
    """This machine's clock, UTC milliseconds. Nothing is decided by it."""
    return time.time_ns() // 1_000_000


class Step(msgspec.Struct, frozen=True):
    """One thing that was done, for whoever watches: `milliseconds` is how long it took."""

    name: str
    detail: str
    milliseconds: float


def silent(_: Step) -> None:
    """Watch nothing."""


class State(StrEnum):
    """Where a device stands, as its host application is told."""

    STARTING = "starting"
    """Opened; nothing has been loaded yet."""
    LOADING = "loading"
    """The layers are being measured; the key store is closed."""
    NORMAL = "normal"
    """The key store is open."""
    LIMITED = "limited"
    """The backend, or after a failed load the configuration, lets it do only so much.

    The key store is open where the backend has limited a device that has loaded.
    After a failed load it is closed.
    """
    LOCKED = "locked"
    """The key store is closed, and stays so."""
    TPM_AWAY = "tpm-away"
    """The TPM does not answer; the key store is closed."""


class Condition(msgspec.Struct, frozen=True):
    """What the host application is told: where the device stands, since when and why.

    `step`, `layer` and `code` say what failed, as in `hwtrust.wire.statement.StepFailure`,
    and are empty where nothing did; `code` and `message` are an error's, or those of
    the backend's first finding. `release` is the one that is loaded. `since_ms` is
    when the state was entered, by this machine's clock, UTC milliseconds.

    `update` is a release that waits to replace it: ordered by the backend and not
    brought in; or, where `restart` says so, in place, and up with the next restart.
    """

    state: State
    since_ms: int
    step: str = ""
    layer: str = ""
    release: str = ""
    code: str = ""
    message: str = ""
    update: str = ""
    restart: bool = False


def unwatched(_: Condition) -> None:
    """Tell nobody."""


class AttestResult(msgspec.Struct, frozen=True):
    """What the backend made of the evidence.

    `mode` is what the device may do now; where it is locked, its key store is
    locked already. The next attestation is expected within `heartbeat_ms`; without
    one the device may run on for `offline_grace_ms` (0: the backend says nothing of
    it). `rotated_to` is the new epoch, where the
    root was rotated on the way; `root_waits` that one is offered, and can be
    taken once the device has booted.
    """

    standing: Standing
    findings: tuple[Finding, ...]
    mode: Mode
    heartbeat_ms: int
    rotated_to: int | None = None
    root_waits: bool = False
    offline_grace_ms: int = 0
    update: UpdateOrder | None = None
    clock_ms: int = 0
    """The TPM's clock, as the evidence says it."""


class Lease(msgspec.Struct, frozen=True):
    """How long the TPM opens the root: its clock, and until when in that clock. Milliseconds."""

    clock_ms: int
    not_after_ms: int


class Outcome(StrEnum):
    """What became of an update."""

    CURRENT = "current"
    """The device runs that release."""
    CONFIRMED = "confirmed"
    """It runs, and the backend trusts the device with it."""
    ON_TRIAL = "on-trial"
    """It runs, and the backend has not been heard since."""
    RESTART = "restart"
    """It comes up with the next restart, on trial."""
    FELL_BACK = "fell-back"
    """It was given up; the release before runs again."""


class UpdateResult(msgspec.Struct, frozen=True):
    """How an update has ended. `code` and `message` say why the device fell back."""

    release: str
    outcome: Outcome
    attestation: AttestResult | None = None
    code: str = ""
    message: str = ""


class DeviceStatus(msgspec.Struct, frozen=True):
    """What a device knows of itself, without asking its backend. Times are in milliseconds.

    `device` is the EK's Name; `clock` the TPM's clock, UTC where it was set;
    `not_after` is reckoned in it.
    """

    device: bytes
    tpm: TpmIdentity
    epoch: int
    counter: int
    release: str
    clock: ClockInfo
    not_after: int
    log: EventLog
    tls_kind: str
    heard: Heard | None = None
    """What the backend said last; None if it was not heard yet."""
    failure: StepFailure | None = None
    """What failed, where the backend has not been told yet."""
    refused: Refusal | None = None
    """The release that was given up, until another is confirmed."""
