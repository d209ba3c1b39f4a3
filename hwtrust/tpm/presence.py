"""Notice that the TPM has gone, or is back: a USB or virtual one can be unplugged.

    udev (tpm, tpmrm) ─▶ TpmPresence ─▶ TpmEvent(appeared | gone, device file)
    device files ──────▶     poll

Rules:
1. An event is a reason to look, as it is for layers. That a TPM is gone is said
   by its commands failing (`is_away`), that it is back by opening it.
2. Without udev, as in a container, nothing is told and nothing is noisy:
   `fileno` gives None, `problem` says why, and `poll` looks at the device files.
   It may be called beside udev too; what was told once is not told again.
3. Only the device file that the configuration names counts; every TPM's where it
   names none. A TCTI that is no file, such as a resource manager on D-Bus, has
   no events: then `node` is empty and only commands tell.
4. A device file that is back may for a moment not be opened by this user: udev
   sets its permissions after it has told of it.
"""

from __future__ import annotations

import enum
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, Self

from hwtrust.errors import TpmNotFoundError, TpmTransportError, WatchUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

SUBSYSTEMS: Final = ("tpmrm", "tpm")
DEVICES: Final = Path("/dev")
_UDEV_RUNS: Final = Path("/run/udev/control")
_DEVICE_FILE: Final = re.compile(r"tpm(rm)?[0-9]+")


def is_away(error: BaseException) -> bool:
    """Whether `error` says that there is no TPM to talk to now, rather than that it refused.

    Keep trying after it, with growing pauses: it may come back. What it did with
    the last command is not known, and what was loaded in it is lost.
    """
    return isinstance(error, TpmNotFoundError | TpmTransportError)


class TpmChange(enum.StrEnum):
    """What happened to a TPM's device file."""

    APPEARED = "appeared"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class TpmEvent:
    """A device file, such as `/dev/tpmrm0`, is there or is there no more."""

    change: TpmChange
    node: str


class UdevEvent(Protocol):
    """What is read of a pyudev device that a monitor gives."""

    @property
    def action(self) -> str | None:
        """`add`, `remove`, or what else happened."""

    @property
    def device_node(self) -> str | None:
        """Its device file."""


class Monitor(Protocol):
    """What is used of `pyudev.Monitor`, once it listens to the two subsystems."""

    def fileno(self) -> int:
        """What becomes readable."""

    def poll(self, timeout: float | None = None) -> UdevEvent | None:
        """The next event, if there is one within `timeout` seconds."""


class TpmPresence:
    """Watches one TPM's device file, or every TPM's. Of one thread; a context manager."""

    def __init__(
        self,
        tcti: str = "",
        *,
        monitor: Callable[[], Monitor] | None = None,
        devices: Path = DEVICES,
    ) -> None:
        """Watch what `tcti` names, from now on; where it is empty, every TPM.

        `monitor` makes the monitor, udev's by default; `devices` is where device
        files are.
        """
        self._any = not tcti
        self._devices = devices
        self.node = _node(tcti)
        self.problem: WatchUnavailableError | None = None
        self._monitor: Monitor | None = None
        if self._any or self.node:
            try:
                self._monitor = (monitor or udev_monitor)()
            except WatchUnavailableError as error:
                self.problem = error
        # After the monitor: what appears in between is told by one of the two.
        self._present: dict[str, _Identity | None] = {**self._look()}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening; harmless when repeated."""
        # pyudev closes its socket with its last reference.
        self._monitor = None

    @property
    def present(self) -> frozenset[str]:
        """The device files that were there, as far as has been told."""
        return frozenset(self._present)

    def fileno(self) -> int | None:
        """What becomes readable when `events` may have something to tell; None: poll."""
        return None if self._monitor is None else self._monitor.fileno()

    def events(self) -> tuple[TpmEvent, ...]:
        """What udev has told since the last call. Does not wait."""
        told: list[TpmEvent] = []
        try:
            while self._monitor is not None and (device := self._monitor.poll(0)) is not None:
                node = device.device_node
                if not node or not (self._any or node == self.node):
                    continue
                if device.action == "remove":
                    told += self._gone(node)
                elif device.action == "add":
                    told += self._appeared(node, _identity(node))
        except OSError:
            # More was told than the socket holds: the device files know how it ended.
            told += self.poll()
        return tuple(told)

    def poll(self) -> tuple[TpmEvent, ...]:
        """What is different from what was told, by looking at the device files."""
        told: list[TpmEvent] = []
        now = self._look()
        for node, was in sorted(self._present.items()):
            if node not in now or (was is not None and was != now[node]):
                told += self._gone(node)
        for node, identity in sorted(now.items()):
            told += self._appeared(node, identity)
        return tuple(told)

    def _gone(self, node: str) -> list[TpmEvent]:
        if node not in self._present:
            return []
        del self._present[node]
        return [TpmEvent(TpmChange.GONE, node)]

    def _appeared(self, node: str, identity: _Identity | None) -> list[TpmEvent]:
        known = node in self._present
        self._present[node] = identity
        return [] if known else [TpmEvent(TpmChange.APPEARED, node)]

    def _look(self) -> dict[str, _Identity]:
        """The device files that count and are there."""
        if not self._any:
            nodes = [self.node] if self.node else []
        else:
            try:
                names = os.listdir(self._devices)  # noqa: PTH208 - its errors come at once
            except OSError:
                names = []
            nodes = [str(self._devices / name) for name in names if _DEVICE_FILE.fullmatch(name)]
        found = ((node, _identity(node)) for node in nodes)
        return {node: identity for node, identity in found if identity is not None}


_Identity = tuple[int, int, int]
"""Another file of the same name has another one: device, inode, and number of the device."""


def _identity(node: str) -> _Identity | None:
    try:
        status = os.stat(node)  # noqa: PTH116 - a device file's name is a string everywhere here
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino, status.st_rdev


def _node(tcti: str) -> str:
    """The device file, or the software TPM's socket, that a TCTI names; or nothing."""
    name, _, rest = tcti.partition(":")
    if name == "device":
        return rest or "/dev/tpmrm0"
    if name == "swtpm" and rest.startswith("path="):
        return rest.removeprefix("path=")
    return ""


def udev_monitor() -> Monitor:
    """Listen to udev's events of TPMs.

    Raises:
        WatchUnavailableError: udev does not run here, or may not be listened to.
    """
    if not _UDEV_RUNS.exists():
        # The library would give a monitor that never tells anything.
        raise WatchUnavailableError("TPMs are not watched: udev does not run here")
    try:
        import pyudev  # noqa: PLC0415 - only an agent watches

        monitor = pyudev.Monitor.from_netlink(pyudev.Context())
        for subsystem in SUBSYSTEMS:
            monitor.filter_by(subsystem)
        monitor.start()
    except (ImportError, OSError) as error:
        raise WatchUnavailableError(f"TPMs are not watched: {error}") from error
    made: Monitor = monitor
    return made
