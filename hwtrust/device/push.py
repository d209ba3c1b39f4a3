"""What passes between two attestations: an event for the backend, or a word from it.

    application ─(event)─▶ backend          backend ─(attest now)─▶ whoever waits

A `Line` is for another thread than the device's: it has a channel of its own, and
knows neither TPM nor key store.

Rules:
1. Both need a channel that presents the device's certificate. Attesting makes it.
2. Nothing follows from what the backend says here but an attestation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from hwtrust.device.attest import present_certificate
from hwtrust.errors import ChannelAnonymousError, MalformedError
from hwtrust.wire.messages import EventReply, EventReport, WaitReply

if TYPE_CHECKING:
    from hwtrust.channel import Channel
    from hwtrust.device.context import DeviceContext


class Line:
    """A way to the backend that presents the device's certificate of when it was made."""

    def __init__(self, channel: Channel) -> None:
        """`channel` is used by nobody else, and presents a certificate."""
        self._channel = channel

    def report(self, kind: str, *, detail: str = "") -> bool:
        """Report an event; gives whether to attest now. See `Device.report`.

        Raises:
            ChannelError: the backend is away, or refuses.
        """
        try:
            event = msgspec.convert({"kind": kind, "detail": detail}, EventReport)
        except msgspec.ValidationError as error:
            raise MalformedError(f"no event: {error}", structure="EventReport") from error
        return self._channel.post("/v1/events", event, EventReply).attest

    def wait(self, seconds: int = 55) -> str:
        """Wait to be told to attest; gives why, or nothing where the time has passed.

        Raises:
            ChannelError: the backend is away, or refuses.
        """
        path = f"/v1/wait?seconds={seconds}"
        told = self._channel.get(path, WaitReply, patience=float(seconds))
        return told.reason if told is not None and told.attest else ""

    def close(self) -> None:
        """Break the calls that are under way, and make no other."""
        self._channel.close()


def line(device: DeviceContext) -> Line:
    """A line of its own for another thread."""
    return Line(_channel(device).sibling())


def report(device: DeviceContext, kind: str, *, detail: str) -> bool:
    """Report an event; gives whether to attest now."""
    event = EventReport(kind=kind, detail=detail)
    return _channel(device).post("/v1/events", event, EventReply).attest


def wait(device: DeviceContext, *, seconds: int) -> str:
    """Wait to be told to attest; gives why, or nothing where the time has passed."""
    return Line(_channel(device)).wait(seconds)


def _channel(device: DeviceContext) -> Channel:
    present_certificate(device)
    if not device.channel.authenticated:
        raise ChannelAnonymousError("the backend does not know yet who calls")
    return device.channel
