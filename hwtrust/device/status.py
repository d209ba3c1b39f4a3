"""What a device knows of itself, without asking its backend."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hwtrust.device.boot import active_root, read_pcrs
from hwtrust.device.conditions import absence_noted
from hwtrust.device.results import DeviceStatus, Lease
from hwtrust.errors import TpmResetError
from hwtrust.tpm import commands
from hwtrust.tpm.discover import identify
from hwtrust.tpm.provision import read_counter

if TYPE_CHECKING:
    from hwtrust.device.context import DeviceContext
    from hwtrust.wire.cel import EventLog


def status(device: DeviceContext) -> DeviceStatus:
    """Identity, root, clock and log."""
    with absence_noted(device):
        return _status(device)


def _status(device: DeviceContext) -> DeviceStatus:
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
        heard=device.heard,
        failure=device.failure,
        refused=device.state.updates().refused,
    )


def lease(device: DeviceContext) -> Lease:
    """How long the TPM opens the device's root."""
    with absence_noted(device):
        not_after = active_root(device).approval.not_after
        return Lease(commands.read_clock(device.tpm).clock, not_after)


def event_log(device: DeviceContext) -> EventLog:
    """The event log, held against the PCR.

    Raises:
        TpmPcrConflictError: the PCR holds what the log does not explain.
        TpmResetError: the TPM has forgotten the layers, which run on.
    """
    with absence_noted(device):
        cold = device.measured.synchronise(read_pcrs(device))
        if cold and device.keystore is not None:
            message = "the TPM was reset while the device was open"
            raise TpmResetError(message, pcr=device.measured.pcr)
        return device.measured.log
