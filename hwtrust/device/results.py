"""What a device says of its work: plain data, which loads no TPM stack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hwtrust.tpm.discover import Identity as TpmIdentity
    from hwtrust.wire.cel import EventLog
    from hwtrust.wire.messages import Finding, Mode, Standing
    from hwtrust.wire.structures import ClockInfo


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was done, for whoever watches: `milliseconds` is how long it took."""

    name: str
    detail: str
    milliseconds: float


def silent(_: Step) -> None:
    """Watch nothing."""


@dataclass(frozen=True, slots=True)
class AttestResult:
    """What the backend made of the evidence.

    `mode` is what the device may do now; where it is locked, its key store is
    locked already. The next attestation is expected within `heartbeat_ms` (0:
    the backend says nothing of it). `rotated_to` is the new epoch, where the
    root was rotated on the way; `root_waits` that one is offered, and can be
    taken once the device has booted.
    """

    standing: Standing
    findings: tuple[Finding, ...]
    mode: Mode
    heartbeat_ms: int
    rotated_to: int | None = None
    root_waits: bool = False


@dataclass(frozen=True, slots=True)
class DeviceStatus:
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
