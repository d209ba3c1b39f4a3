"""hwtrust: a dynamic software root of trust, anchored in hardware.

    errors → wire → layers | verify | roots | tpm → measure | keys | attest
           → tls → channel → updates → device → agent → cli

The base install verifies, and speaks to an agent (`hwtrust.AgentClient`);
`hwtrust[device]` adds the TPM stack, and with it `hwtrust.Device`. Importing
this package imports none of them. What a device's own program takes is a
distribution of its own, `hwtrust-device`, which works without the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hwtrust.agent.client import AgentClient
    from hwtrust.device import Device, DeviceConfig

__all__ = ["AgentClient", "Device", "DeviceConfig"]


def __getattr__(name: str) -> object:
    if name == "AgentClient":
        from hwtrust.agent.client import AgentClient  # noqa: PLC0415 - loaded when it is used

        return AgentClient
    if name in __all__:
        from hwtrust import device  # noqa: PLC0415 - the TPM stack is loaded when it is used

        return getattr(device, name)
    raise AttributeError(f"module 'hwtrust' has no attribute {name!r}")
