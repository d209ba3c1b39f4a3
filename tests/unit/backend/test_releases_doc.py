"""What is written about releases is so: its commands, in their order, do what is said."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from tuf.api.metadata import Metadata, Root

from hwtrust.cli import run as run_hwtrust
from hwtrust.wire.messages import TrustAnchor
from hwtrust_backend.app.setup import install
from hwtrust_backend.config import Settings, system_clock
from hwtrust_backend.keys import Secret
from hwtrust_backend.testing import CHEAP
from simulators.backend_shell import Shell

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCUMENT = Path(__file__).parents[3] / "docs" / "releases.md"
SECRET = "what opens the keys"


def commands() -> Iterator[list[str]]:
    """Every command of the document, in its order."""
    for block in re.findall(r"```sh\n(.*?)```", DOCUMENT.read_text(), re.DOTALL):
        for line in block.splitlines():
            yield shlex.split(line, comments=True)


class Reader:
    """Somebody who follows the document."""

    def __init__(self, shell: Shell, directory: Path) -> None:
        self.shell = shell
        self.passphrase = directory / "passphrase"
        self.passphrase.write_text(SECRET)
        self.passphrase.chmod(0o600)

    def follow(self, command: list[str]) -> None:
        """Run one command; a passphrase that would be asked for comes from a file."""
        program, *arguments = command
        if program == "hwtrust":
            assert run_hwtrust(arguments) == 0
        elif program == "hwtrust-backend":
            opens = ["--key-passphrase-file", str(self.passphrase)]
            self.shell.run(*arguments, *(opens if "--key" in arguments else []))
        elif program == "openssl":
            way = "-pass" if arguments[0] == "genpkey" else "-passin"
            arguments = [*arguments, way, f"file:{self.passphrase}"]
            subprocess.run([program, *arguments], check=True, capture_output=True)
        else:
            assert program == "chmod"
            for name in arguments[1:]:
                Path(name).chmod(int(arguments[0], 8))


@pytest.fixture
def reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Reader:
    """A reader with a new backend, in an empty directory with the layers of the example."""
    data, secret = tmp_path / "data", tmp_path / "backend-passphrase"
    secret.write_bytes(b"protects nothing")
    install(
        Settings(data_dir=str(data)),
        passphrase=Secret(b"protects nothing"),
        clock=system_clock,
        cost=CHEAP,
    )
    monkeypatch.setenv("HWTRUST_BACKEND_PASSPHRASE_FILE", str(secret))
    desk = tmp_path / "desk"
    (desk / "build" / "frontend").mkdir(parents=True)
    (desk / "build" / "kernel").write_bytes(b"a kernel")
    (desk / "build" / "frontend" / "index.html").write_text("a page")
    [plan] = re.findall(r"```toml\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    (desk / "release.toml").write_text(plan)
    monkeypatch.chdir(desk)
    return Reader(Shell(data, capsys), tmp_path)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_the_documented_ceremonies_work_in_the_order_of_the_document(reader: Reader) -> None:
    """First root, release, revocation, and every key replaced, by the commands as written."""
    seen: dict[str, str] = {}
    for command in commands():
        reader.follow(command)
        if command[:3] == ["hwtrust-backend", "repository", "root"] and "publish" in command:
            trust = reader.shell.data / "trust.json"
            anchor = msgspec.json.decode(trust.read_bytes(), type=TrustAnchor)
            root = Metadata[Root].from_bytes(anchor.releases).signed
            assert Path(f"root-{root.version}.json").read_bytes() == anchor.releases
            seen[str(root.version)] = root.roles["timestamp"].keyids[0]
        if command[:3] == ["hwtrust-backend", "release", "publish"]:
            [row] = reader.shell.json("release", "list")
            assert (row["name"], row["state"], row["published"]) == ("2026.11", "accepted", True)
        if command[:3] == ["hwtrust-backend", "release", "revoke"]:
            [row] = reader.shell.json("release", "list")
            assert (row["state"], row["published"]) == ("retired", False)
    assert list(seen) == ["1", "2", "3", "4", "5"]
    assert seen["4"] != seen["5"]
    roles = {row["role"]: row["version"] for row in reader.shell.json("repository", "status")}
    assert roles.keys() == {"root", "targets", "snapshot", "timestamp"}


def test_a_signer_is_shown_what_is_signed(reader: Reader) -> None:
    """Keys and thresholds of a root, to be compared with what was agreed upon."""
    for command in commands():
        if command[:3] == ["hwtrust-backend", "repository", "sign"]:
            break
        reader.follow(command)
    opens = ["--key-passphrase-file", str(reader.passphrase)]
    told = reader.shell.json("repository", "sign", "root-1.json", "--key", "a.pem", *opens)
    assert (told["role"], told["version"], len(told["signed_by"])) == ("root", 1, 1)
    assert told["keys"]["root"].startswith("2 of ")


REFUSED = {
    "a root below its threshold": (
        ["repository", "root", "publish", "root-1.json"],
        "signed by 1 of the 2 keys",
    ),
    "a passphrase in nobody's file": (
        ["repository", "sign", "root-1.json", "--key", "b.pem"],
        "nobody is there to ask",
    ),
    "a key that others can read": (
        ["repository", "sign", "root-1.json", "--key", "open.pem"],
        "can be read by other users",
    ),
    "a proposal over another one": (
        [
            *("repository", "init", "--root-key", "a.pub", "--threshold", "1"),
            *("--targets-key", "targets.pub", "--output", "root-1.json"),
        ],
        "is there already",
    ),
    "a public key as a private one": (
        ["repository", "sign", "root-1.json", "--key", "private.pub"],
        "no private key",
    ),
    "a release before the root": (
        ["release", "revoke", "1.0", "--key", "targets.pem"],
        "is not published",
    ),
}


def test_what_goes_wrong_in_a_ceremony_is_said(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each mistake is refused with a sentence that names it, and changes nothing."""
    for command in commands():
        if "publish" in command:
            break
        if command[-1] != "b.pem" or "sign" not in command:
            reader.follow(command)
    Path("open.pem").write_bytes(Path("a.pem").read_bytes())
    Path("open.pem").chmod(0o644)
    Path("private.pub").write_bytes(Path("a.pub").read_bytes())
    Path("private.pub").chmod(0o600)
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    for case, (arguments, said) in REFUSED.items():
        opens = (
            []
            if case == "a passphrase in nobody's file"
            else [
                "--key-passphrase-file",
                str(reader.passphrase),
            ]
        )
        _, error = reader.shell.run(*arguments, *(opens if "--key" in arguments else []), code=1)
        assert said in error, case
        assert SECRET not in error
    assert reader.shell.json("repository", "status") == []
