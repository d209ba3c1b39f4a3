"""The tutorial does what it says: its commands run in order, in one shell, as a reader's would.

Blocks marked `sh` are run. A `text` block behind one is what that block prints: each
line of it, in order and with nothing between two lines but where a line `…` stands;
`…` within a line stands for anything. Blocks marked `console` are for machines that
have nothing installed, and are not run. The port is a free one, and the shell
waits until the backend listens, which a reader does by being slow.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

TUTORIAL = Path(__file__).parents[3] / "docs" / "tutorial" / "first-root.md"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LIMIT_S = 300
WAITING = """
python3 - <<'PYTHON'
import socket, time
for _ in range(600):
    with socket.socket() as client:
        if client.connect_ex(("localhost", {port})) == 0:
            break
    time.sleep(0.05)
PYTHON
"""


class Step(NamedTuple):
    """Commands, and what the tutorial says that they print; nothing where it does not say."""

    commands: str
    shown: tuple[str, ...]


def steps_of(document: str) -> list[Step]:
    """The steps of a tutorial, in its order."""
    steps: list[Step] = []
    for kind, block in FENCE.findall(document):
        if kind == "sh":
            steps.append(Step(block, ()))
        elif kind == "text":
            steps[-1] = Step(steps[-1].commands, tuple(block.splitlines()))
    return steps


def matches(shown: tuple[str, ...], printed: tuple[str, ...]) -> bool:
    """Whether what was printed is what the tutorial shows."""
    # A line of `…` is any number of lines, also none; in a line it is any text.
    lines = [
        r"(?:.*\n)*?" if line.strip() == "…" else ".*".join(map(re.escape, line.split("…"))) + r"\n"
        for line in shown
    ]
    return re.fullmatch("".join(lines), "".join(line + "\n" for line in printed)) is not None


@pytest.fixture
def port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free: int = probe.getsockname()[1]
        return free


@pytest.fixture
def steps(port: int) -> list[Step]:
    """The steps, with the port of this run."""
    return steps_of(TUTORIAL.read_text().replace("8443", str(port)))


@pytest.fixture
def printed(tmp_path: Path, steps: list[Step], port: int) -> list[tuple[str, ...]]:
    """What each step of the tutorial prints."""
    script = ["set -eu", "trap 'kill $(jobs -p) 2>/dev/null || :; power_off 2>/dev/null || :' EXIT"]
    for step in steps:
        script += [step.commands, "echo '@@@'"]
        if " serve " in step.commands:
            script.append(WAITING.format(port=port))
    environ = {name: value for name, value in os.environ.items() if "HWTRUST" not in name}
    # The TPM's process is told from others by this; see tests/conftest.py.
    environ |= {name: os.environ[name] for name in ("HWTRUST_TEST_PROCESS",) if name in os.environ}
    environ["HWTRUST_BACKEND_LISTEN"] = f"127.0.0.1:{port}"
    environ["PATH"] = f"{Path(sys.executable).parent}:{environ['PATH']}"
    environ["HOME"] = str(tmp_path)
    done = subprocess.run(
        ["bash", "-c", "\n".join(script)],
        check=False,
        cwd=tmp_path,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT_S,
    )
    log = tmp_path / "backend.log"
    assert done.returncode == 0, done.stdout + (log.read_text() if log.exists() else "")
    return [tuple(part.strip("\n").splitlines()) for part in done.stdout.split("@@@\n")]


def test_the_tutorial_prints_what_it_shows(
    printed: list[tuple[str, ...]], steps: list[Step]
) -> None:
    """Whoever follows it sees what it says, from the first command to the last."""
    assert len(printed) == len(steps) + 1
    shown = [(step, part) for step, part in zip(steps, printed, strict=False) if step.shown]
    assert shown
    for step, part in shown:
        assert matches(step.shown, part), f"{step.commands}\n" + "\n".join(part)


@pytest.mark.parametrize(
    ("shown", "real", "same"),
    [
        (["a", "b"], ["a", "b"], True),
        (["a", "b"], ["a", "x", "b"], False),
        (["a", "…", "b"], ["a", "x", "y", "b"], True),
        (["a", "…", "b"], ["a", "x", "y"], False),
        (["…"], [], True),
        (["epoch …, ours"], ["epoch 2, ours"], True),
        (["epoch …, ours"], ["epoch 2, theirs"], False),
        (["a"], ["a", "b"], False),
        (["a.c"], ["abc"], False),
    ],
)
def test_only_what_is_shown_matches(shown: list[str], real: list[str], *, same: bool) -> None:
    """A tutorial whose output has changed is noticed."""
    assert matches(tuple(shown), tuple(real)) is same
