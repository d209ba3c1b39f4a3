"""scripts/platform-test: what it refuses. No root is made here."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "platform-test"

UNDER_A_MOUNT = """
die() {{ echo "$2" >&2; exit "$1"; }}
{remove}
mkdir -p "$1/root/dev/shm" "$1/host"
touch "$1/host/precious"
mount --bind "$1/host" "$1/root/dev/shm"
remove "$1/root"
"""


@pytest.mark.parametrize("arguments", [(), ("--quick",), ("nowhere",), ("--quick", "nowhere")])
def test_a_platform_that_it_does_not_know_is_a_usage_error(arguments: tuple[str, ...]) -> None:
    """Nothing is made, and nothing is run."""
    done = subprocess.run([SCRIPT, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "usage:" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0 and not os.environ.get("CI"), reason="only root mounts")
def test_a_root_is_not_removed_through_a_mount(tmp_path: Path) -> None:
    """Behind one lie the host's own files; the script stops and leaves all as it is."""
    (remove,) = re.findall(r"^remove\(\) \{\n.*?^\}$", SCRIPT.read_text(), re.DOTALL | re.MULTILINE)
    program = UNDER_A_MOUNT.format(remove=remove)
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "bash", "-ec", program, "-", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert (tmp_path / "host" / "precious").exists()
    assert (tmp_path / "root").exists()
