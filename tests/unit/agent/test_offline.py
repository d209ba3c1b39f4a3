"""How long a device goes on without its backend, in the TPM's clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hwtrust.agent.offline import OfflineGrace
from hwtrust.device.results import Lease
from hwtrust.errors import StateMissingError

if TYPE_CHECKING:
    from pathlib import Path

HOUR = 3_600_000
FAR = 10**15
"""An approval that does not end."""


def test_the_grace_runs_from_the_last_answer(tmp_path: Path) -> None:
    """It ends where the backend said, and an answer begins it anew."""
    grace = OfflineGrace(tmp_path / "offline.json")
    grace.answered(1000, grace_ms=HOUR)
    assert grace.left(Lease(1000, FAR)) == HOUR
    assert grace.left(Lease(1000 + HOUR - 1, FAR)) == 1
    assert grace.left(Lease(1000 + HOUR, FAR)) == 0
    assert grace.left(Lease(FAR, FAR)) == 0
    grace.answered(5 * HOUR, grace_ms=HOUR)
    assert grace.left(Lease(5 * HOUR, FAR)) == HOUR


def test_a_restart_of_the_agent_does_not_stretch_it(tmp_path: Path) -> None:
    """What is on the disk may be older than the last answer, and is never newer."""
    path = tmp_path / "offline.json"
    first = OfflineGrace(path)
    for minute in range(90):
        first.answered(minute * 60_000, grace_ms=HOUR)
    lease = Lease(100 * 60_000, FAR)
    again = OfflineGrace(path).left(lease)
    assert 0 < again <= first.left(lease)
    assert first.left(lease) - again <= HOUR // 64


def test_a_heartbeat_does_not_wear_the_disk(tmp_path: Path) -> None:
    """A grace of a week is written every ten minutes, and at once where it changes."""
    path = tmp_path / "offline.json"
    grace = OfflineGrace(path)
    written = set()
    for minute in range(60):
        grace.answered(minute * 60_000, grace_ms=7 * 24 * HOUR)
        written.add(path.read_bytes())
    assert 1 < len(written) <= 6
    grace.answered(60 * 60_000, grace_ms=HOUR)
    assert path.read_bytes() not in written


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b'{"clock_ms": 1}', b"\xff"])
def test_whoever_removes_the_file_gains_nothing(tmp_path: Path, content: bytes | None) -> None:
    """The root's approval ends by the same grace, and its end is signed."""
    path = tmp_path / "offline.json"
    if content is not None:
        path.write_bytes(content)
    grace = OfflineGrace(path)
    assert grace.left(Lease(1000, 1000 + HOUR)) == HOUR
    assert grace.left(Lease(1000 + HOUR, 1000 + HOUR)) == 0


def test_the_approval_ends_it_where_that_is_earlier(tmp_path: Path) -> None:
    """A file that says more than the backend has signed is not believed."""
    grace = OfflineGrace(tmp_path / "offline.json")
    grace.answered(1000, grace_ms=FAR)
    assert grace.left(Lease(1000, 1000 + HOUR)) == HOUR
    grace.answered(1000, grace_ms=0)
    assert grace.left(Lease(1000, 1000 + HOUR)) == HOUR


def test_a_disk_that_takes_nothing_is_said(tmp_path: Path) -> None:
    """Until the agent ends the answer counts all the same."""
    grace = OfflineGrace(tmp_path / "missing" / "offline.json")
    with pytest.raises(StateMissingError):
        grace.answered(1000, grace_ms=HOUR)
    assert grace.left(Lease(1000, FAR)) == HOUR


def test_what_has_taken_the_files_place_counts_as_nothing(tmp_path: Path) -> None:
    """A directory of that name keeps no agent from its work."""
    (tmp_path / "offline.json").mkdir()
    assert OfflineGrace(tmp_path / "offline.json").left(Lease(0, HOUR)) == HOUR
