"""A device: its TPM, its layers, its dynamic root and its key store.

    from hwtrust.device import Device, DeviceConfig, State

    with Device.open(DeviceConfig.load("hwtrust.toml")) as device:
        if device.load().state is State.NORMAL:
            secret = device.keystore["payments/transport"]

api         the class `Device`; context is what its parts share, opening makes it
load        all of a start: ask, update, boot, attest; each is a module of that name
update      the next release: update begins, trial remembers, confirm ends it
rotate      the next root; enrol has the first
conditions  what becomes of a device when a step fails; failures tells the backend
state       what is on the disk

Everything is synchronous, and an open device belongs to one thread and one
process. Every error is a `hwtrust.errors.HwTrustError` with a code.
"""

from hwtrust.loading import uncollected

with uncollected():
    from hwtrust.device.api import Device
    from hwtrust.device.config import DeviceConfig
    from hwtrust.device.results import AttestResult, Condition, DeviceStatus, State, Step

__all__ = [
    "AttestResult",
    "Condition",
    "Device",
    "DeviceConfig",
    "DeviceStatus",
    "State",
    "Step",
]
