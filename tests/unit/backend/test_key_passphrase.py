"""The passphrase of a key, asked for at a terminal: never echoed, and nowhere to be read."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys
import termios
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from tuf.api.metadata import Metadata, Root

from simulators.release_bundle import Holder

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET: Final = b"what opens the key 4711"
PROMPT: Final = b"passphrase of"
# The terminal becomes this session's own, as a login makes it: a prompt asks there.
PROGRAM: Final = """
import fcntl, termios
fcntl.ioctl(0, termios.TIOCSCTTY)
from hwtrust_backend.cli import main
main()
"""


@dataclass
class Terminal:
    """A person's terminal with a command on it."""

    master: int
    slave: int
    process: subprocess.Popen[bytes]
    seen: bytes = b""

    def await_prompt(self, number: int) -> None:
        """Read until the command has asked so often."""
        while self.seen.count(PROMPT) < number or not self.seen.endswith(b": "):
            self.seen += os.read(self.master, 4096)

    @property
    def echoes(self) -> bool:
        """Whether what is typed would be seen."""
        return bool(termios.tcgetattr(self.slave)[3] & termios.ECHO)

    def enter(self, line: bytes) -> None:
        """Type a line."""
        os.write(self.master, line + b"\n")

    def end(self) -> int:
        """Read on to the end; the exit code."""
        os.close(self.slave)
        self.slave = -1
        try:
            while piece := os.read(self.master, 4096):
                self.seen += piece
        except OSError:
            pass  # How a terminal says that nobody has it open any more.
        return self.process.wait(30)


@contextmanager
def signing(root: Path, *keys: Path) -> Iterator[Terminal]:
    """`repository sign`, with nothing said about a passphrase."""
    master, slave = pty.openpty()
    options = [word for key in keys for word in ("--key", str(key))]
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "repository", "sign", str(root), *options],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    terminal = Terminal(master, slave, process)
    try:
        yield terminal
    finally:
        process.kill()
        process.wait()
        os.close(master)
        if terminal.slave >= 0:
            os.close(terminal.slave)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """An encrypted private key."""
    return Holder.new().write(tmp_path / "a.pem", passphrase=SECRET)


@pytest.fixture
def root(tmp_path: Path, key: Path) -> Path:
    """A root to be signed, which that key is one of two in."""
    from hwtrust_backend.repository.signers import load_public  # noqa: PLC0415 - loads TUF

    other, targets, online = Holder.new(), Holder.new(), Holder.with_p256()
    made = Root(version=1, consistent_snapshot=True)
    for public in (load_public(key.with_suffix(".pub")), other.public):
        made.add_key(public, "root")
    made.add_key(targets.public, "targets")
    for role in ("snapshot", "timestamp"):
        made.add_key(online.public, role)
    path = tmp_path / "root.json"
    path.write_bytes(Metadata(made).to_bytes())
    return path


def signatures(root: Path) -> int:
    """How many there are."""
    return len(Metadata.from_bytes(root.read_bytes()).signatures)


def test_a_passphrase_is_asked_for_and_not_echoed(root: Path, key: Path) -> None:
    """The terminal is silent while it is typed; it is in no output, argument or variable."""
    with signing(root, key) as terminal:
        terminal.await_prompt(1)
        assert str(key).encode() in terminal.seen
        assert not terminal.echoes
        terminal.enter(SECRET)
        process = Path(f"/proc/{terminal.process.pid}")
        for name in ("cmdline", "environ"):
            assert SECRET not in (process / name).read_bytes()
        assert terminal.end() == 0
        assert SECRET not in terminal.seen
    assert signatures(root) == 1


def test_a_wrong_passphrase_is_refused_without_being_told(root: Path, key: Path) -> None:
    """Neither the wrong one nor the right one stands in the message; nothing is signed."""
    with signing(root, key) as terminal:
        terminal.await_prompt(1)
        terminal.enter(b"wrong 4711")
        assert terminal.end() == 1
        assert b"passphrase is wrong" in terminal.seen
        assert b"wrong 4711" not in terminal.seen
    assert signatures(root) == 0


def test_each_key_is_asked_for_by_its_name(root: Path, key: Path, tmp_path: Path) -> None:
    """Two holders at one machine do not take one prompt for the other's."""
    second = Holder.new().write(tmp_path / "b.pem", passphrase=b"another secret")
    with signing(root, key, second) as terminal:
        terminal.await_prompt(1)
        terminal.enter(SECRET)
        terminal.await_prompt(2)
        assert str(second).encode() in terminal.seen
        terminal.enter(b"another secret")
        assert terminal.end() == 0
        assert b"secret" not in terminal.seen.replace(str(tmp_path).encode(), b"")
    assert signatures(root) == 2


def test_who_changes_their_mind_has_signed_nothing(root: Path, key: Path) -> None:
    """Ctrl-C at the prompt ends the command, and the terminal echoes again."""
    with signing(root, key) as terminal:
        terminal.await_prompt(1)
        for _ in range(30):
            # Python misses a signal that comes just before it waits: a person presses again.
            os.write(terminal.master, b"\x03")
            with contextlib.suppress(subprocess.TimeoutExpired):
                terminal.process.wait(1)
                break
        assert terminal.echoes
        assert terminal.end() == 1
        assert b"aborted" in terminal.seen
        assert b"Traceback" not in terminal.seen
    assert signatures(root) == 0
