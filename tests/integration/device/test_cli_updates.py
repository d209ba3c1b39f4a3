"""Updates by the `hwtrust` command: slots made by init, words or one document as asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hwtrust.cli import run
from hwtrust.device import DeviceConfig
from hwtrust_backend.references import retire_release
from simulators.updating import UpdatingSite

if TYPE_CHECKING:
    from typing import Any


class Said:
    """What a command ended in and printed."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def document(self) -> dict[str, Any]:
        """The JSON document on standard output."""
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found


@pytest.fixture
def shell(updating: UpdatingSite, capsys: pytest.CaptureFixture[str]) -> Shell:
    """Somebody who types commands on an updating device."""
    return Shell(updating, capsys)


class Shell:
    """Runs `hwtrust` with the site's configuration."""

    def __init__(self, site: UpdatingSite, capture: pytest.CaptureFixture[str]) -> None:
        self.site = site
        self._capture = capture

    def run(self, *arguments: str) -> Said:
        """Run one command."""
        self._capture.readouterr()
        code = run([*arguments, "--config", str(self.site.config_path)])
        return Said(code, *self._capture.readouterr())


def test_an_update_says_what_it_did(shell: Shell) -> None:
    """In words, and the second time that there is nothing to do."""
    shell.site.publish("2.0", kernel=b"the next kernel")
    assert "2.0" in shell.run("attest").out
    said = shell.run("update")
    assert (said.code, said.out.splitlines()[-1]) == (0, "2.0: runs, and is confirmed")
    again = shell.run("update")
    assert (again.code, again.out.splitlines()[-1]) == (0, "2.0: runs already")
    assert shell.site.content("kernel") == b"the next kernel"


def test_an_update_is_one_document_for_programs(shell: Shell) -> None:
    """Nothing but JSON on standard output."""
    shell.site.publish("2.0", kernel=b"the next kernel")
    said = shell.run("update", "2.0", "--json")
    assert said.document == {
        "release": "2.0",
        "outcome": "confirmed",
        "standing": "trusted",
        "code": "",
        "message": "",
    }


def test_a_release_that_is_not_published_is_refused_with_a_code(shell: Shell) -> None:
    """And an exit status of its own."""
    said = shell.run("update", "9.9")
    assert said.code == 11
    assert "[update:target:missing]" in said.err


def test_a_release_that_was_given_up_ends_in_its_own_status(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script sees that the device runs the last release; people, what was given up and why."""
    shell.site.publish("2.0", kernel=b"the next kernel")
    switch = type(shell.site.slots).switch

    def call_back(slots: object) -> None:
        switch(slots)  # type: ignore[arg-type]
        with shell.site.backend.session() as session:
            retire_release(session, "2.0", now=shell.site.backend.clock(), by="test")

    monkeypatch.setattr(type(shell.site.slots), "switch", call_back)
    said = shell.run("update", "2.0", "--json")
    assert said.code == 11
    assert (said.document["outcome"], said.document["code"]) == (
        "fell-back",
        "update:trial:failed",
    )
    refused = shell.run("status", "--json").document["refused"]
    assert (refused["release"], refused["code"]) == ("2.0", "update:trial:failed")
    assert "[update:trial:failed]" in shell.run("status").out


def test_init_copies_the_release_into_slots(updating: UpdatingSite) -> None:
    """Release and layers are found through the link of the slot in use."""
    home = updating.home
    output, slots = home / "second.toml", home / "second-slots"
    release = updating.config.read_release()
    layers = [f"--layer={layer.name}={home / layer.name}" for layer in release.layers]
    files = ("--trust", str(home / "trust.json"), "--release", str(home / "release.json"))
    code = run(
        [
            *("init", *files, *layers, "--tcti", updating.tpm.tcti, "--pcr", "9"),
            *("--slots", str(slots), "--output", str(output)),
        ]
    )
    assert code == 0
    config = DeviceConfig.load(output)
    assert config.updates is not None
    assert config.updates.slots == str(slots)
    assert config.release == str(slots / "current" / "release.json")
    assert config.read_release() == release
    for layer in release.layers:
        place = Path(config.layers[layer.name])
        assert place == slots / "current" / layer.name
        assert place.read_bytes() == (home / layer.name).read_bytes()


def test_init_does_not_touch_slots_that_are_there(updating: UpdatingSite) -> None:
    """They may be those of another device."""
    home = updating.home
    release = updating.config.read_release()
    layers = [f"--layer={layer.name}={home / layer.name}" for layer in release.layers]
    files = ("--trust", str(home / "trust.json"), "--release", str(home / "release.json"))
    output = home / "second.toml"
    code = run(
        [
            *("init", *files, *layers, "--tcti", updating.tpm.tcti, "--pcr", "9"),
            *("--slots", str(home / "slots"), "--output", str(output)),
        ]
    )
    assert code == 11
    assert not output.exists()
