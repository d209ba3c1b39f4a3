"""The system calls of an agent at work: all of them are let through by its systemd unit."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hwtrust import AgentClient
from simulators.running_agent import AgentProcess

if TYPE_CHECKING:
    from simulators.site import Site

UNIT = Path(__file__).resolve().parents[3] / "packaging" / "systemd" / "hwtrust-agent.service"
STRACE, ANALYZE = shutil.which("strace"), shutil.which("systemd-analyze")
OF_ROOT = frozenset({"fchown"}) if os.geteuid() == 0 else frozenset()
"""SQLite gives its files to the database's owner, where root runs it, and only there."""

needs_tools = pytest.mark.skipif(
    STRACE is None or ANALYZE is None, reason="strace or systemd-analyze is not on this machine"
)


def members(name: str) -> set[str]:
    """The system calls of a set of systemd's, with those of the sets in it."""
    assert ANALYZE is not None
    said = subprocess.run(
        [ANALYZE, "--no-pager", "syscall-filter", name], capture_output=True, text=True, check=True
    ).stdout
    words = {line.strip() for line in said.splitlines()[1:] if line.strip()}
    calls = {word for word in words if not word.startswith(("#", "@"))}
    return calls.union(*(members(word) for word in words if word.startswith("@")))


def let_through() -> set[str]:
    """What the unit's filter lets through: its lines count in their order."""
    allowed = members("@default")
    for line in re.findall(r"^SystemCallFilter=(.+)$", UNIT.read_text(), re.MULTILINE):
        calls = set().union(*(members(name) for name in line.lstrip("~").split()))
        allowed = allowed - calls if line.startswith("~") else allowed | calls
    return allowed


@needs_tools
def test_the_filter_of_the_unit_lets_through_what_the_agent_calls(
    site: Site, tmp_path: Path
) -> None:
    """From its start to its end; its socket has the group of the unit, and a layer changes."""
    assert STRACE is not None
    socket_path = tmp_path / "run" / "agent.sock"
    site.config_path.write_text(
        f'{site.config_path.read_text()}\n[agent]\nsocket = "{socket_path}"\n'
        f"socket_group = {os.getegid()}\nretry = 0.05\nsettle = 0.05\n"
    )
    trace = tmp_path / "trace"
    under = (STRACE, "-D", "-f", "-qq", "-o", str(trace))
    with AgentProcess(site, under=under, WATCHDOG_USEC="60000000") as agent:
        agent.await_word("READY=1")
        with AgentClient(socket_path) as client:
            client.keystore.put("payments/pin", b"0123456789abcdef")
            client.keystore.seal("payments/pin", b"data")
            client.attest()
            client.event("transaction")
            site.change("kernel")
            agent.await_word("STATUS=locked")
        assert agent.end()[0] == 0
    called = set(re.findall(r"^\d+ +(\w+)\(", trace.read_text(), re.MULTILINE))
    assert {"socket", "prctl", "inotify_add_watch"} <= called
    assert called - let_through() - OF_ROOT == set()
