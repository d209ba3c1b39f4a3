"""Words to the service manager, read from a real datagram socket."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from hwtrust.agent.notify import Notifier

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Manager:
    """A service manager's end of the socket."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(0)

    def heard(self) -> list[str]:
        """What was said since the last time."""
        found = []
        while True:
            try:
                found.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                return found


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    """A manager that listens."""
    manager = Manager(tmp_path / "notify")
    with manager.socket:
        yield manager


def test_the_manager_hears_of_start_state_and_end(manager: Manager) -> None:
    """Each state once; a line break cannot smuggle another assignment in."""
    notifier = Notifier({"NOTIFY_SOCKET": str(manager.path)})
    notifier.status("loading")
    notifier.status("loading")
    notifier.ready()
    notifier.status("locked: layer kernel\nREADY=1\nMAINPID=1")
    notifier.stopping()
    notifier.close()
    assert manager.heard() == [
        "STATUS=loading",
        "READY=1",
        "STATUS=locked: layer kernel READY=1 MAINPID=1",
        "STOPPING=1",
    ]


def test_the_watchdog_is_fed_by_progress_and_not_more_often_than_it_needs(
    manager: Manager,
) -> None:
    """It bites after WATCHDOG_USEC; it is fed within half of that, whoever calls how often."""
    now = [100.0]
    environment = {"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "60000000"}
    notifier = Notifier(environment, clock=lambda: now[0])
    assert notifier.interval == 30
    for _ in range(100):
        notifier.progress()
    assert manager.heard() == ["WATCHDOG=1"]
    now[0] += 15
    notifier.progress()
    notifier.progress()
    assert manager.heard() == ["WATCHDOG=1"]
    notifier.close()


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"NOTIFY_SOCKET": ""},
        {"NOTIFY_SOCKET": "relative"},
        {"NOTIFY_SOCKET": "/nowhere/at/all"},
        {"WATCHDOG_USEC": "1000000"},
    ],
    ids=lambda environment: " ".join(f"{key}={value}" for key, value in environment.items()),
)
def test_without_a_manager_nothing_fails(environment: dict[str, str]) -> None:
    """The agent runs without systemd, too."""
    notifier = Notifier(environment)
    notifier.ready()
    notifier.status("normal")
    notifier.progress()
    notifier.stopping()
    notifier.close()
    notifier.close()
    notifier.ready()
    assert notifier.interval is None


@pytest.mark.parametrize(
    ("extra", "interval"),
    [
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": str(os.getpid())}, 1.0),
        ({"WATCHDOG_USEC": "2000000"}, 1.0),
    ],
)
def test_a_watchdog_counts_only_where_it_is_meant_for_this_process(
    manager: Manager, extra: dict[str, str], interval: float | None
) -> None:
    """WATCHDOG_PID names who is to feed it."""
    notifier = Notifier({"NOTIFY_SOCKET": str(manager.path), **extra})
    assert notifier.interval == interval
    notifier.close()


def test_an_abstract_socket_is_found_too() -> None:
    """Containers give one: its name begins with an @."""
    name = f"hwtrust-notify-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0{name}")
        notifier = Notifier({"NOTIFY_SOCKET": f"@{name}"})
        notifier.ready()
        assert listening.recv(100) == b"READY=1"
        notifier.close()
