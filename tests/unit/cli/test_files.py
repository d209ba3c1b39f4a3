"""Files of the command line: nothing is waited for, nothing fills the memory."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import click
import pytest

from hwtrust.cli import run
from hwtrust.cli.files import read_file

READERS = {
    "evidence show": ["evidence", "show", "FILE"],
    "evidence verify": ["evidence", "verify", "FILE", "--policy", "FILE"],
    "reference from-eventlog": ["reference", "from-eventlog", "FILE"],
    "reference from-ima": ["reference", "from-ima", "FILE"],
    "verify-quote": [
        *("verify-quote", "-m", "FILE", "-s", "FILE", "-p", "FILE", "-k", "FILE"),
        *("-n", "00", "--selection", "sha256:0"),
    ],
}


@pytest.fixture
def impatient() -> Iterator[None]:
    """Whoever waits for a file fails."""

    def waited(_number: int, _frame: object) -> None:
        raise AssertionError("a file was waited for")

    before = signal.signal(signal.SIGALRM, waited)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("command", READERS)
def test_a_fifo_that_nobody_writes_is_not_waited_for(command: str, tmp_path: Path) -> None:
    """There is nothing in it."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    assert run([str(path) if word == "FILE" else word for word in READERS[command]]) not in {0, 2}


def test_a_fifo_that_somebody_writes_is_read_to_its_end(tmp_path: Path) -> None:
    """As of a shell's `<(…)`."""
    ends = os.pipe()
    content = b"x" * 200_000

    def write() -> None:
        with os.fdopen(ends[1], "wb") as file:
            file.write(content)

    writer = Thread(target=write)
    writer.start()
    assert read_file(Path(f"/dev/fd/{ends[0]}"), most=1 << 20) == content
    writer.join()
    os.close(ends[0])


def test_no_more_is_read_than_one_byte_beyond_the_limit() -> None:
    """Of a device without an end, too."""
    assert read_file(Path("/dev/zero"), most=10) == bytes(11)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    """With what the kernel says."""
    for path, said in ((tmp_path / "none", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(click.FileError, match=said):
            read_file(path, most=10)
