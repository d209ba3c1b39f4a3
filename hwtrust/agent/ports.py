"""What the agent meets of the world, in one place, so that tests bring their own.

Everything that costs memory is loaded by the port that needs it.
"""

from __future__ import annotations

import contextlib
import logging
import select
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from hwtrust.agent.backoff import fraction
from hwtrust.agent.notify import Notifier
from hwtrust.agent.timers import boottime
from hwtrust.errors import HwTrustError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from hwtrust.agent.config import AgentConfig
    from hwtrust.agent.protocol import Operations
    from hwtrust.device.api import Device
    from hwtrust.device.config import DeviceConfig
    from hwtrust.device.results import Condition
    from hwtrust.tpm.presence import TpmEvent

LOG = logging.getLogger("hwtrust.agent")
LONGEST_WAIT = 86_400.0
"""Seconds, of `wait`; poll(2) knows no more than 24 days."""


class Watch(Protocol):
    """As `hwtrust.agent.watch.LayerWatch`."""

    def fileno(self) -> int:
        """Readable when something happened."""

    def changed(self) -> frozenset[str]:
        """The layers in which it did."""

    def rearm(self, layers: Mapping[str, Path]) -> None:
        """Watch these, where they are now."""

    def close(self) -> None:
        """Watch no longer."""


class Presence(Protocol):
    """As `hwtrust.tpm.presence.TpmPresence`."""

    def fileno(self) -> int | None:
        """Readable when a TPM came or went; None: `poll` has to do."""

    def events(self) -> Sequence[TpmEvent]:
        """What came or went, by udev's word."""

    def poll(self) -> Sequence[TpmEvent]:
        """What came or went, by looking."""

    def close(self) -> None:
        """Watch no longer."""


class Publisher(Protocol):
    """As `hwtrust.agent.socket.AgentSocket`."""

    @property
    def alive(self) -> bool:
        """Whether it still serves."""

    def publish(self, condition: Condition) -> None:
        """Tell those who watch."""


def open_device(
    config: DeviceConfig, on_condition: Callable[[Condition], None]
) -> AbstractContextManager[Device]:
    """The device, open."""
    from hwtrust.device.api import Device  # noqa: PLC0415 - the TPM stack

    return Device.open(config, on_condition=on_condition)


def watch_layers(layers: Mapping[str, Path]) -> Watch | None:
    """File events, where the kernel gives them; else measuring at intervals has to do."""
    from hwtrust.agent.watch import LayerWatch  # noqa: PLC0415 - not where nothing is watched

    try:
        watch = LayerWatch(layers)
    except HwTrustError as error:
        LOG.warning("%s [%s]", error.message, error.code)
        return None
    for gap in watch.unwatched.values():
        LOG.warning("%s [%s]", gap.message, gap.code)
    return watch


def watch_tpm(tcti: str) -> Presence:
    """The TPM that `tcti` names, or every one: whether it comes or goes."""
    from hwtrust.tpm.presence import TpmPresence  # noqa: PLC0415 - udev

    return TpmPresence(tcti)


def warn_of_advisories() -> None:
    """Log the published advisories that hold for the TPM library; a TPM is not asked."""
    from hwtrust.tpm.installed import exposures, libraries  # noqa: PLC0415 - once

    for exposure in exposures(libraries()):
        LOG.warning("%s", exposure.words)


@contextlib.contextmanager
def serve(settings: AgentConfig, operations: Operations) -> Iterator[Publisher | None]:
    """The socket for host applications, if there is to be one."""
    path = settings.socket_path()
    if path is None:
        yield None
        return
    from hwtrust.agent.permissions import Permissions  # noqa: PLC0415 - only with a socket
    from hwtrust.agent.socket import AgentSocket  # noqa: PLC0415 - only with a socket

    permissions = Permissions.resolved(settings.allow)
    group = None if settings.socket_group == "" else settings.socket_group
    with AgentSocket(path, operations, permissions, group=group) as server:
        yield server


def wait(descriptors: Sequence[int], seconds: float | None) -> frozenset[int]:
    """Wait until one of the descriptors can be read, at most so long; gives which."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    # Rounded up: a deadline that is not quite there would make a busy loop.
    timeout = None if seconds is None else int(min(seconds, LONGEST_WAIT) * 1000) + 1
    return frozenset(descriptor for descriptor, _ in poll.poll(timeout))


@dataclass(frozen=True, slots=True)
class Ports:
    """The world."""

    clock: Callable[[], float] = boottime
    fraction: Callable[[], float] = fraction
    notifier: Notifier = field(default_factory=Notifier)
    open_device: Callable[
        [DeviceConfig, Callable[[Condition], None]], AbstractContextManager[Device]
    ] = open_device
    watch_layers: Callable[[Mapping[str, Path]], Watch | None] = watch_layers
    watch_tpm: Callable[[str], Presence] = watch_tpm
    serve: Callable[[AgentConfig, Operations], AbstractContextManager[Publisher | None]] = serve
    wait: Callable[[Sequence[int], float | None], frozenset[int]] = wait
    warn: Callable[[], None] = warn_of_advisories


@contextlib.contextmanager
def closing(thing: Watch | Presence | None) -> Iterator[None]:
    """Close it at the end, if there is one."""
    try:
        yield
    finally:
        if thing is not None:
            thing.close()
