"""The scenario of three releases, as somebody who has just cloned this would see it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PLAY = "import sys, scenario_update as scenario; {change}; sys.exit(scenario.main())"


def play(home: Path, *, change: str = "pass") -> subprocess.Popen[str]:
    """Begin the scenario, with something changed in it; its temporary files go to `home`."""
    home.mkdir()
    environment = os.environ | {"TMPDIR": str(home), "PYTHONPATH": str(ROOT / "scripts")}
    return subprocess.Popen(
        [sys.executable, "-c", PLAY.format(change=change), "--plain"],
        cwd=ROOT,
        env=environment | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def left_of(group: int, home: Path) -> list[str]:
    """Processes and files that the scenario has not taken away with it."""
    listed = subprocess.run(["ps", "-eo", "pgid=,stat=,args="], capture_output=True, check=True)
    running = [line.split(None, 2) for line in listed.stdout.decode().splitlines()]
    ours = [args for owner, state, args in running if owner == str(group) and state[0] != "Z"]
    return ours + [path.name for path in home.iterdir()]


def test_each_release_ends_as_it_is_told_on_the_device_and_in_the_backend(tmp_path: Path) -> None:
    """The good one is confirmed, the tampered one refused; from the third the device falls back."""
    playing = play(tmp_path / "home")
    told, _ = playing.communicate(timeout=300)
    assert playing.returncode == 0, told
    good, tampered, failing = told.partition("A good release")[2].split("\n[", 2)
    assert "confirm release 2.0" in good
    for fate, reported in (
        (tampered, "stage of 3.0 failed: update:target:digest"),
        (failing, "confirm of 4.0 failed: update:trial:failed"),
    ):
        assert f"reported   {reported}" in fate  # device show
        assert f"device:failure:reported  {reported}" in fate  # audit list
        assert "device: runs 2.0" in fate
    assert "[update:target:digest], not told to the backend yet" in tampered
    assert "fall back from release 4.0 to 2.0" in failing
    assert "device:evidence:accepted  failed: release:refused" in failing
    assert left_of(playing.pid, tmp_path / "home") == []


def test_a_scenario_that_goes_another_way_fails(tmp_path: Path) -> None:
    """Where nobody tampers the device takes the release: exit status 1, and what was expected."""
    playing = play(tmp_path / "home", change="scenario.tamper = lambda *_: None")
    told, _ = playing.communicate(timeout=300)
    assert playing.returncode == 1
    assert "FAIL TargetDigestError was expected" in told
    assert left_of(playing.pid, tmp_path / "home") == []


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [([], 2, "usage:"), (["upgrade"], 2, "no scenario upgrade"), (["--help"], 0, "usage:")],
)
def test_without_the_name_of_a_scenario_it_says_which_there_are(
    arguments: list[str], status: int, said: str
) -> None:
    """Nothing is installed and nothing begun for a name that does not exist."""
    command = [str(ROOT / "scripts" / "scenario"), *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == status
    assert said in (ended.stderr if status else ended.stdout)
    assert "scripts/scenario update" in ended.stderr + ended.stdout


@pytest.mark.parametrize("chapter", ["[1]", "[2]", "[3]"])
def test_a_scenario_that_is_stopped_leaves_nothing(tmp_path: Path, chapter: str) -> None:
    """Ctrl-C reaches the whole group, also in the midst of a command: no process, no file."""
    playing = play(tmp_path / "home")
    assert playing.stdout is not None
    while (line := playing.stdout.readline()) and not line.startswith(chapter):
        pass
    os.killpg(playing.pid, signal.SIGINT)
    told, _ = playing.communicate(timeout=60)
    assert playing.returncode == 128 + signal.SIGINT
    assert "FAIL" not in told
    assert left_of(playing.pid, tmp_path / "home") == []
