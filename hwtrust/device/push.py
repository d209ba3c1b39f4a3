"""What passes between two attestations: an event for the backend, or a word from it.

    application ─(event)─▶ backend          backend ─(attest now)─▶ whoever waits

Rules:
1. Both need a channel that presents the device's certificate. Attesting makes it.
2. Nothing follows from what the backend says here but an attestation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hwtrust.device.attest import present_certificate
from hwtrust.errors import ChannelAnonymousError
from hwtrust.wire.messages import EventReply, EventReport, WaitReply

if TYPE_CHECKING:
    from hwtrust.channel import Channel
    from hwtrust.device.context import DeviceContext


def report(device: DeviceContext, kind: str, *, detail: str) -> bool:
    """Report an event; gives whether to attest now."""
    event = EventReport(kind=kind, detail=detail)
    return _channel(device).post("/v1/events", event, EventReply).attest


def wait(device: DeviceContext, *, seconds: int) -> str:
    """Wait to be told to attest; gives why, or nothing where the time has passed."""
    path = f"/v1/wait?seconds={seconds}"
    told = _channel(device).get(path, WaitReply, patience=float(seconds))
    return told.reason if told is not None and told.attest else ""


def _channel(device: DeviceContext) -> Channel:
    present_certificate(device)
    if not device.channel.authenticated:
        raise ChannelAnonymousError("the backend does not know yet who calls")
    return device.channel
