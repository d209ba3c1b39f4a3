"""Our client under the conformance suite of theupdateframework, where the suite is at hand.

The suite is in no package registry: HWTRUST_TUF_CONFORMANCE names a checkout of
github.com/theupdateframework/tuf-conformance (commit eec841c and its like, which
want pytest 9 and tuf 7). Its clients are programs, and `simulators/tuf_client.py` is
ours. All of its cases run; those in `BY_DESIGN` have to fail.
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

_SEARCH: Final = "test_targetfile_search"
BY_DESIGN: Final = {
    "a target that another role than the targets role signs": (
        "test_graph_traversal",
        f"{_SEARCH}[targetpath matches wildcard]",
        f"{_SEARCH}[targetpath matches question mark wildcard]",
        f"{_SEARCH}[targetpath with separators x]",
        f"{_SEARCH}[targetpath with separators y]",
        f"{_SEARCH}[targetpath is not delegated by all roles in the chain]",
        "test_static_repository[tuf-on-ci-0.11]",
    ),
    "metadata of a delegated role, asked for by its name": ("test_unusual_role_name",),
}
"""What the client would have to do and does not: delegations are not followed
(`hwtrust.updates.metadata`, rule 4), so nothing of them is fetched or believed."""
PASSING: Final = 80
"""Cases that pass, at least: of 113, and 22 are on delegations."""


def test_the_client_passes_the_conformance_cases(tmp_path: Path) -> None:
    """Order, versions, keys, expiry, digests and what is kept, by somebody else's repository."""
    suite = os.environ.get("HWTRUST_TUF_CONFORMANCE")
    if not suite:
        pytest.skip("HWTRUST_TUF_CONFORMANCE names no checkout of tuf-conformance")
    for name, content in {
        "faketime": FAKETIME,
        "client": f'#!/bin/sh\nexec "{sys.executable}" "{CLIENT}" "$@"\n',
        # Strict: a case of these that passes is a failure.
        "client.xfails": "\n".join(case for cases in BY_DESIGN.values() for case in cases),
    }.items():
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(0o700)
    result = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rA", "--tb=line"),
            "tuf_conformance",
            *("--entrypoint", str(tmp_path / "client")),
        ],
        cwd=suite,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": suite},
        capture_output=True,
        text=True,
        check=False,
    )
    assert re.findall(r"^(?:FAILED|ERROR) (\S.*)", result.stdout, re.MULTILINE) == []
    assert len(re.findall(r"^PASSED", result.stdout, re.MULTILINE)) > PASSING
