"""Commands as bytes over swtpm's socket, where others want it too."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING

from hwtrust.testing.bus import Bus

if TYPE_CHECKING:
    from pathlib import Path

ANSWER = b"\x80\x01\x00\x00\x00\x0a\x00\x00\x00\x00"


def test_a_command_waits_for_its_turn(tmp_path: Path) -> None:
    """One client is served at a time; whoever comes while the queue is full is not lost."""
    with contextlib.ExitStack() as open_sockets:
        listener = open_sockets.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(tmp_path / "tpm.sock"))
        listener.listen(0)
        first = open_sockets.enter_context(socket.socket(socket.AF_UNIX))
        first.connect(str(tmp_path / "tpm.sock"))  # the queue is full

        answers: list[bytes] = []
        bus = Bus(tmp_path / "tpm.sock")
        command = threading.Thread(target=lambda: answers.append(bus.transact(b"\0" * 12)))
        command.start()
        command.join(0.1)
        assert command.is_alive()
        open_sockets.enter_context(listener.accept()[0])
        connection = open_sockets.enter_context(listener.accept()[0])
        connection.recv(12)
        connection.sendall(ANSWER)
        command.join(10)
        assert answers == [ANSWER]
