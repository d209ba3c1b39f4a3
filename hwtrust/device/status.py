"""What a device knows of itself, without asking its backend."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hwtrust.device.boot import active_root, read_pcrs
from hwtrust.device.results import DeviceStatus
from hwtrust.tpm import commands
from hwtrust.tpm.discover import identify
from hwtrust.tpm.provision import read_counter

if TYPE_CHECKING:
    from hwtrust.device.context import DeviceContext
    from hwtrust.wire.cel import EventLog


def status(device: DeviceContext) -> DeviceStatus:
    """Identity, root, clock and log."""
    identity = device.known()
    log = event_log(device)
    root = active_root(device)
    return DeviceStatus(
        device=identity.device,
        tpm=identify(device.tpm),
        epoch=root.epoch,
        counter=read_counter(device.tpm, identity.counter),
        release=device.release.name,
        clock=commands.read_clock(device.tpm),
        not_after=root.approval.not_after,
        log=log,
        tls_kind=identity.tls_kind,
    )


def event_log(device: DeviceContext) -> EventLog:
    """The event log, held against the PCR.

    Raises:
        TpmPcrConflictError: the PCR holds what the log does not explain.
    """
    device.measured.synchronise(read_pcrs(device))
    return device.measured.log
