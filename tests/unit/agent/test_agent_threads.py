"""What the agent makes of its other threads, of long waits, and of what others say in its log."""

from __future__ import annotations

import logging
import os
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from hwtrust.agent.ports import wait
from hwtrust.cli.agent import OneLine
from hwtrust.device.context import DeviceContext
from hwtrust.errors import KeyStoreDiskError
from unit.agent.served import PATIENCE, served

if TYPE_CHECKING:
    from pathlib import Path

    from unit.agent.served import Served


def alive(agent: Served) -> bool:
    """Whether the socket is served."""
    return agent.server.alive


def test_a_socket_whose_thread_hangs_is_not_alive(tmp_path: Path) -> None:
    """It is asked for a sign; a minute without one, and the agent is started again."""
    with served(tmp_path) as agent:
        assert alive(agent)
        agent.poke()
        agent.clock.now += 1000
        assert alive(agent)
        agent.poke()
        entered, release = threading.Event(), threading.Event()

        def hang() -> None:
            entered.set()
            release.wait(PATIENCE)

        agent.server._inbox.post(hang)
        assert entered.wait(PATIENCE)
        assert alive(agent)
        agent.clock.now += 59
        assert alive(agent)
        agent.clock.now += 1
        assert not alive(agent)
        release.set()
        agent.poke()
        assert alive(agent)


def test_a_wait_may_be_longer_than_the_system_knows() -> None:
    """A heartbeat of two months is no error."""
    ours, theirs = os.pipe()
    os.write(theirs, b"x")
    assert wait([ours], 6e6) == {ours}
    os.close(ours)
    os.close(theirs)


def test_what_others_say_makes_no_line_of_its_own() -> None:
    """Neither a line feed nor what a terminal obeys."""
    said = "away\nhwtrust agent: attested: trusted\x1b[2J\u2028 café"
    record = logging.LogRecord("x", logging.INFO, "", 0, "failed: %s", (said,), None)
    line = OneLine("hwtrust agent: %(message)s").format(record)
    assert len(line.splitlines()) == 1
    assert line.isprintable()
    assert line.endswith(" café")


def test_a_key_store_that_cannot_be_closed_is_found_by_nobody_all_the_same() -> None:
    """A device whose key store fails as it closes is locked."""

    class Failing:
        """A key store on a disk that has gone."""

        def close(self) -> None:
            raise KeyStoreDiskError("gone")

    device: Any = SimpleNamespace(keystore=Failing())
    with pytest.raises(KeyStoreDiskError):
        DeviceContext.lock(device)
    assert device.keystore is None
