"""Our client under the conformance suite of theupdateframework, where the suite is at hand.

The suite is in no package registry: HWTRUST_TUF_CONFORMANCE names a checkout
of github.com/theupdateframework/tuf-conformance. Its clients are programs, and
`simulators/tuf_client.py` is ours.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

CLIENT: Final = Path(__file__).resolve().parents[1] / "simulators" / "tuf_client.py"
FAKETIME: Final = '#!/bin/sh\nFAKE_TIME="$1"\nexport FAKE_TIME\nshift\nexec "$@"\n'

CASES: Final = "tuf_conformance/test_basic.py"
"""The suite's other files have not been tried; those on delegations cannot pass, by design."""


def test_the_client_passes_the_basic_conformance_cases(tmp_path: Path) -> None:
    """Order, versions, digests and what is kept, by somebody else's repository."""
    suite = os.environ.get("HWTRUST_TUF_CONFORMANCE")
    if not suite:
        pytest.skip("HWTRUST_TUF_CONFORMANCE names no checkout of tuf-conformance")
    clock = tmp_path / "faketime"
    clock.write_text(FAKETIME)
    clock.chmod(0o700)
    result = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rA", "--tb=line"),
            CASES,
            *("--entrypoint", f"{sys.executable} {CLIENT}"),
        ],
        cwd=suite,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": suite},
        capture_output=True,
        text=True,
        check=False,
    )
    assert re.findall(r"^(?:FAILED|ERROR) (\S+)", result.stdout, re.MULTILINE) == []
    assert len(re.findall(r"^PASSED", result.stdout, re.MULTILINE)) > 20
