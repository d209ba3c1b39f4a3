"""`hwtrust tpm info`: what it says of the TPM's libraries. The libraries are made up."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from hwtrust.cli import run
from hwtrust.tpm import installed
from hwtrust.tpm.advisories import Installed, Library

if TYPE_CHECKING:
    from hwtrust.testing.swtpm import Swtpm

OLD = Installed(Library.TSS2, "4.1.3", "4.1.3-1.2")
GOOD = Installed(Library.LIBTPMS, "0.10.2")


def found(monkeypatch: pytest.MonkeyPatch, *libraries: Installed) -> None:
    """Have these libraries found on this machine."""
    monkeypatch.setattr(installed, "libraries", lambda *_, **__: libraries)


def test_a_library_with_known_faults_is_warned_of_and_the_rest_is_shown(
    tpm: Swtpm, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On standard error, by name, and it is no failure."""
    found(monkeypatch, OLD, GOOD)
    assert run(["tpm", "info", "--tcti", tpm.tcti]) == 0
    said = capsys.readouterr()
    (warning,) = said.err.splitlines()
    assert warning.startswith("hwtrust: warning: tpm2-tss 4.1.3")
    assert "GHSA-q759-vqg7-8rc5" in warning
    assert "4.1.3-1.2" in said.out
    assert "0.10.2" in said.out


def test_good_libraries_are_passed_over_in_silence(
    tpm: Swtpm, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No line on standard error."""
    found(monkeypatch, GOOD)
    assert run(["tpm", "info", "--tcti", tpm.tcti]) == 0
    assert capsys.readouterr().err == ""


def test_a_program_reads_libraries_and_advisories_as_data(
    tpm: Swtpm, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --json nothing is said beside the document."""
    found(monkeypatch, OLD, Installed(Library.LIBTPMS, ""))
    assert run(["tpm", "info", "--tcti", tpm.tcti, "--json"]) == 0
    said = capsys.readouterr()
    document = json.loads(said.out)
    assert said.err == ""
    assert [item["version"] for item in document["libraries"]] == ["4.1.3", ""]
    old, unknown = document["advisories"]
    assert old["certainty"] == "version"
    assert old["installed"]["package"] == "4.1.3-1.2"
    assert {item["name"] for item in old["advisories"]} >= {"GHSA-q759-vqg7-8rc5"}
    assert unknown["certainty"] == "unknown"
