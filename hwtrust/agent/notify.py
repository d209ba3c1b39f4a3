"""Words to the service manager: sd_notify(3), by its datagram socket.

Without NOTIFY_SOCKET nobody is told anything, and nothing fails.

Rules:
1. The watchdog is fed by the thread that owns the device, as it gets on with its
   work, and by nobody else: an agent that hangs is restarted.
2. A manager that cannot be reached is no reason to stop: the watchdog is.
"""

from __future__ import annotations

import contextlib
import os
import socket
from typing import TYPE_CHECKING

from hwtrust.agent.timers import boottime

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_STATUS_LIMIT = 200


class Notifier:
    """The service manager, if there is one."""

    def __init__(
        self,
        environment: Mapping[str, str] | None = None,
        *,
        clock: Callable[[], float] = boottime,
        pid: int | None = None,
    ) -> None:
        """`environment` holds NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID, if anything."""
        found = os.environ if environment is None else environment
        self._address = _address(found.get("NOTIFY_SOCKET", ""))
        self._clock = clock
        self._status = ""
        self._fed: float | None = None
        self._interval = _interval(found, os.getpid() if pid is None else pid)
        self._socket: socket.socket | None = None
        if self._address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.settimeout(0)

    @property
    def interval(self) -> float | None:
        """Seconds between two words to the watchdog; None: there is none to feed."""
        return self._interval if self._socket is not None else None

    def ready(self) -> None:
        """The agent has started."""
        self._send("READY=1")

    def stopping(self) -> None:
        """The agent ends."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """What `systemctl status` shows, one line; sent where it has changed."""
        line = " ".join(text.split())[:_STATUS_LIMIT]
        if line != self._status:
            self._status = line
            self._send(f"STATUS={line}")

    def progress(self) -> None:
        """Feed the watchdog; it is told at most twice in each of its intervals."""
        interval = self.interval
        if interval is None:
            return
        now = self._clock()
        if self._fed is None or now - self._fed >= interval / 2:
            self._fed = now
            self._send("WATCHDOG=1")

    def close(self) -> None:
        """Tell nobody any more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, message: str) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.sendto(message.encode(), self._address)


def _address(name: str) -> str:
    # An @ stands for the zero byte before an abstract name.
    if name.startswith("@"):
        return "\0" + name[1:]
    return name if name.startswith("/") else ""


def _interval(environment: Mapping[str, str], pid: int) -> float | None:
    try:
        meant = int(environment.get("WATCHDOG_PID", pid)) == pid
        microseconds = int(environment.get("WATCHDOG_USEC", 0))
    except ValueError:
        return None
    return microseconds / 2_000_000 if meant and microseconds > 0 else None
