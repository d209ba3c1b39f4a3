"""A device: its TPM, its layers, its dynamic root and its key store.

    from hwtrust.device import Device, DeviceConfig

    with Device.open(DeviceConfig.load("hwtrust.toml")) as device:
        device.boot()
        secret = device.keystore["payments/transport"]
        device.attest()

Everything is synchronous, and an open device belongs to one thread and one
process. Every error is a `hwtrust.errors.HwTrustError` with a code.
"""

from hwtrust.device.api import Device
from hwtrust.device.config import DeviceConfig
from hwtrust.device.results import AttestResult, DeviceStatus, Step

__all__ = ["AttestResult", "Device", "DeviceConfig", "DeviceStatus", "Step"]
