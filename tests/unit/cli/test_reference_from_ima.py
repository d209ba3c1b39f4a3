"""`hwtrust reference from-ima` and `from-tree`: rules to edit, from a log or from files."""

from __future__ import annotations

import hashlib
import json
import os
import tomllib
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from hwtrust.cli.reference import reference
from hwtrust.errors import WireError
from hwtrust.errors.logs import ImaRulesError
from hwtrust.verify.logs.ima_rules import ImaRules
from simulators.ima_log import ImaKernel
from vectors.make_ima import kernel


def run(*arguments: str) -> str:
    """Standard output of the command."""
    result = CliRunner().invoke(reference, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


@pytest.mark.parametrize("form", ["binary", "text"])
def test_a_log_becomes_rules(tmp_path: Path, form: str) -> None:
    """What was measured is listed; what rules cannot accept is counted."""
    file = tmp_path / "log"
    file.write_bytes(kernel().log() if form == "binary" else kernel().text())

    rules = msgspec.convert(tomllib.loads(run("from-ima", str(file)))["ima"], ImaRules)

    shell = f"sha256:{hashlib.sha256(b'shell').hexdigest()}"
    assert isinstance(rules.digests, dict)
    assert rules.digests["/bin/sh"] == (shell,)
    assert set(rules.digests) == {"/bin/sh", "/bin/signed", "/bin/second", "/bin/custom"}
    document = json.loads(run("from-ima", str(file), "--json"))
    assert document["log"]["entries"] == 8
    assert document["toml"].count("# left out: 1 ") == 2


def test_what_is_no_log_is_refused(tmp_path: Path) -> None:
    """With an error that has a code."""
    file = tmp_path / "log"
    for content, error in ((b"text", WireError), (ImaKernel().log(), ImaRulesError)):
        file.write_bytes(content)
        with pytest.raises(error):
            run("from-ima", str(file))


def test_a_tree_becomes_rules(tmp_path: Path) -> None:
    """Files by the paths of the device; links and pipes are passed over."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "a b").write_bytes(b"a")
    (tmp_path / "link").symlink_to("/etc/passwd")
    (tmp_path / "folder").symlink_to("/etc")
    os.mkfifo(tmp_path / "pipe")
    digest = f"sha256:{hashlib.sha256(b'a').hexdigest()}"

    for place, path in (("/", "/bin/a_b"), ("/opt/app/", "/opt/app/bin/a_b")):
        text = run("from-tree", str(tmp_path), "--at", place)
        assert tomllib.loads(text)["ima"]["digests"] == {path: [digest]}
    assert json.loads(run("from-tree", str(tmp_path), "--json"))["files"] == 1
