"""Telling systemd how a service is: sd_notify(3), one datagram a message.

Without NOTIFY_SOCKET nothing is told. A service manager that does not listen is
no reason to fail.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Mapping

READY = "READY=1"
STOPPING = "STOPPING=1"
WATCHDOG = "WATCHDOG=1"
SEND_SECONDS = 0.5
WATCHDOG_SECONDS = 2.0


def notify(*states: str, environ: Mapping[str, str] = os.environ) -> None:
    """Send states, such as `READY` or `STATUS=…`, in one message."""
    address = environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in {"/", "@"}:
        return
    # An abstract address begins with a zero byte, which no variable can hold.
    target = f"\0{address[1:]}" if address[0] == "@" else address
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel,
    ):
        # Whoever does not read is not waited for.
        channel.settimeout(SEND_SECONDS)
        channel.sendto("\n".join(states).encode(), target)


class Watchdog:
    """Tells that the service lives, but not more often than anybody needs it."""

    def __init__(self) -> None:
        self._told = -WATCHDOG_SECONDS

    def beat(self) -> None:
        """It lives."""
        now = time.monotonic()
        if now - self._told >= WATCHDOG_SECONDS:
            self._told = now
            notify(WATCHDOG)


def reloading() -> None:
    """Say that settings are read anew; `READY` follows when it is done."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
