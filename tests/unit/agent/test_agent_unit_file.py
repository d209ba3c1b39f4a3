"""The systemd unit: well-formed, and as closed as docs/agent.md says."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
UNIT = ROOT / "packaging" / "systemd" / "hwtrust-agent.service"
SYSTEMD_ANALYZE = shutil.which("systemd-analyze")
EXPOSURE = 1.5
"""What systemd 252 says of it; docs/agent.md says the same."""

needs_systemd = pytest.mark.skipif(
    SYSTEMD_ANALYZE is None, reason="systemd-analyze is not installed on this machine"
)


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run systemd-analyze."""
    assert SYSTEMD_ANALYZE is not None
    return subprocess.run(
        [SYSTEMD_ANALYZE, *arguments], capture_output=True, text=True, check=False, timeout=60
    )


@needs_systemd
def test_the_unit_is_no_more_exposed_than_the_documentation_says() -> None:
    """The score of systemd itself, 0 for closed and 10 for open."""
    said = analyze("security", "--offline=true", "--no-pager", str(UNIT)).stdout
    found = re.search(r"Overall exposure level for hwtrust-agent\.service: ([0-9.]+)", said)
    assert found is not None, said
    assert float(found[1]) <= EXPOSURE
    assert f"**{EXPOSURE}**" in (ROOT / "docs" / "agent.md").read_text()


@needs_systemd
def test_systemd_understands_every_line_of_the_unit(tmp_path: Path) -> None:
    """No directive is misspelt, which systemd would only warn of and leave out."""
    program = tmp_path / "hwtrust"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("/usr/bin/hwtrust", str(program)))
    said = analyze("verify", "--man=no", str(copy))
    ours = [line for line in said.stderr.splitlines() if UNIT.name in line]
    assert ours == []


@pytest.mark.parametrize(
    "line",
    [
        "Type=notify",
        "Restart=on-failure",
        "StartLimitIntervalSec=0",
        "LimitCORE=0",
        "CapabilityBoundingSet=",
        "NoNewPrivileges=yes",
        "MemoryDenyWriteExecute=yes",
        "ProtectSystem=strict",
        "DeviceAllow=/dev/tpmrm0 rw",
        "DevicePolicy=closed",
    ],
)
def test_the_unit_keeps_what_the_agent_relies_on(line: str) -> None:
    """Also where there is no systemd to ask."""
    assert line in UNIT.read_text().splitlines()
    assert re.search(r"^WatchdogSec=\S+$", UNIT.read_text(), re.MULTILINE)
