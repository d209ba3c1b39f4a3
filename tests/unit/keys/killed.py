"""A program that works on copies of a key store and kills itself at each SQL statement.

    python killed.py STORE DIRECTORY STEPS

Copy number N of STORE goes to DIRECTORY/N. A child process opens it with the
KEK of epoch 1, takes the STEPS, and sends itself SIGKILL when SQLite begins the
Nth statement of the last one. The first N that is not reached ends the program:
that child got to the end and was killed there.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from unit.keys.stores import kek, opened

if TYPE_CHECKING:
    from collections.abc import Callable

    from hwtrust.keys import KeyStore

STEPS: dict[str, Callable[[KeyStore], object]] = {
    "replace": lambda store: store.put("wallet", b"new"),
    "insert": lambda store: store.put("another", b"new"),
    "delete": lambda store: store.delete("wallet"),
    "begin": lambda store: store.begin_rotation(kek(2)),
    "finish": lambda store: store.finish_rotation(2),
    "take-back": lambda store: store.finish_rotation(1),
}
REACHED_THE_END = 9


def die() -> None:
    """End this process as a crash or the kernel would: no clean-up of any kind."""
    os.kill(os.getpid(), signal.SIGKILL)


def run(path: Path, steps: list[str], number: int) -> None:
    """Take the steps, and die at statement `number` of the last one or at its end."""
    store = opened(path, 1)
    for step in steps[:-1]:
        STEPS[step](store)
    left = number

    def count(_statement: str) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            die()

    store._database._connection.set_trace_callback(count)
    STEPS[steps[-1]](store)
    path.with_name("finished").touch()
    die()


def main(source: str, directory: str, *steps: str) -> None:
    """One child for each statement of the last step."""
    number, finished = 0, False
    while not finished:
        number += 1
        copy = Path(directory) / str(number) / "keys.db"
        copy.parent.mkdir(mode=0o700)
        shutil.copy2(source, copy)
        child = os.fork()
        if child == 0:
            try:
                run(copy, list(steps), number)
            finally:
                os._exit(REACHED_THE_END)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            sys.exit("a child ended without being killed")
        finished = copy.with_name("finished").exists()


if __name__ == "__main__":
    main(*sys.argv[1:])
