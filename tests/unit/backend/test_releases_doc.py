"""What is written about releases is so: its commands, in their order, do what is said."""

from __future__ import annotations

import hashlib
import os
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
from simulators.attester import make_release
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


# --- the commands beside the ceremony ---------------------------------------------------


@pytest.fixture
def published(reader: Reader) -> Reader:
    """A reader who has come to the first published release."""
    for command in commands():
        reader.follow(command)
        if command[:3] == ["hwtrust-backend", "release", "publish"]:
            break
    return reader


def test_a_release_is_shown_with_what_its_vendor_says_of_it(published: Reader) -> None:
    """Layers in load order, each with version, kind, class of frequency, note and digest."""
    shown = published.shell.json("release", "show", "2026.11")
    kernel, frontend = shown["layers"]
    assert (kernel["name"], kernel["version"], kernel["kind"]) == ("kernel", "6.1", "file")
    assert (kernel["frequency"], kernel["note"]) == ("monthly", "signed, on a read-only partition")
    assert kernel["digest"] == hashlib.sha256(b"a kernel").hexdigest()
    assert (frontend["kind"], frontend["frequency"], frontend["note"]) == ("tree", "weekly", "")
    assert shown["release"]["state"] == "accepted"
    assert shown["published_at"] > 0
    assert shown["revoked_at"] is None
    out, _ = published.shell.run("release", "show", "2026.11")
    assert "on a read-only partition" in out
    _, error = published.shell.run("release", "show", "2026.12", code=1)
    assert "there is no release" in error


def test_a_release_without_a_manifest_is_shown_with_what_is_known(
    reader: Reader, tmp_path: Path
) -> None:
    """One that was added by hand has names, versions and digests."""
    file = tmp_path / "release.json"
    file.write_bytes(msgspec.json.encode(make_release()))
    reader.shell.run("release", "add", str(file))
    shown = reader.shell.json("release", "show", make_release().name)
    assert [layer["name"] for layer in shown["layers"]] == [
        layer.name for layer in make_release().layers
    ]
    assert {layer["frequency"] for layer in shown["layers"]} == {""}
    assert shown["published_at"] is None
    reader.shell.run("release", "show", make_release().name)


def test_both_programs_make_the_same_bundle(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`release create` is where an administrator looks for it, and where a vendor has it."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1790000000")
    told = reader.shell.json("release", "create", "theirs")
    assert told["release"] == "2026.11"
    assert [layer["name"] for layer in told["layers"]] == ["kernel", "frontend"]
    assert run_hwtrust(["release", "create", "ours"]) == 0
    files = [path.relative_to("ours") for path in Path("ours").rglob("*") if path.is_file()]
    assert len(files) == 3
    for name in files:
        assert Path("theirs", name).read_bytes() == Path("ours", name).read_bytes()
    out, error = reader.shell.run("release", "create", "another")
    assert "weekly" in out
    assert "release publish another" in error
    _, error = reader.shell.run("release", "create", "another", code=1)
    assert "is there already" in error


def test_ids_of_keys_are_those_of_the_root(published: Reader) -> None:
    """What was agreed upon can be compared with what is signed."""
    names = ["a.pub", "b.pub", "c.pub", "targets.pub"]
    found = published.shell.json("repository", "key", *names)
    root = Metadata[Root].from_bytes(Path("root-1.json").read_bytes()).signed
    assert {found[name] for name in names[:3]} == set(root.roles["root"].keyids)
    assert [found["targets.pub"]] == root.roles["targets"].keyids
    out, _ = published.shell.run("repository", "key", "a.pub")
    assert out.split() == [found["a.pub"], "a.pub"]
    published.shell.run("repository", "key", "a.pem", code=1)


def test_a_signature_that_may_not_count_is_noted(published: Reader) -> None:
    """Of a root: who is none of its root keys is told so, at once and not at the end."""
    published.shell.run("repository", "root", "propose", "--output", "next.json")
    opens = ["--key-passphrase-file", str(published.passphrase)]
    told = published.shell.json("repository", "sign", "next.json", "--key", "a.pem", *opens)
    assert told["strangers"] == []
    sign = ("repository", "sign", "next.json", "--key", "targets.pem", *opens)
    _, error = published.shell.run(*sign)
    assert "none of this root's root keys" in error
    assert len(published.shell.json(*sign)["strangers"]) == 1


def test_what_is_published_is_exported(published: Reader) -> None:
    """Twice, of which the second has nothing to do; into what is somebody else's, never."""
    done = published.shell.json("repository", "export", "www")
    assert (done["written"], done["removed"]) == (7, 0)
    out, error = published.shell.run("repository", "export", "www")
    assert "0 files written" in out
    assert "export again before" in error
    assert Path("www/metadata/timestamp.json").exists()
    _, error = published.shell.run("repository", "export", "build", code=1)
    assert "holds something else" in error


def test_what_nobody_needs_is_pruned(published: Reader) -> None:
    """A file that no list names, once it has lain there for a while."""
    targets = published.shell.data / "targets"
    spare = targets / hashlib.sha256(b"spare").hexdigest()
    spare.write_bytes(b"spare")
    prune = ("repository", "prune", "--grace", "1h")
    assert published.shell.json(*prune) == {"files": [], "size": 0}
    os.utime(spare, (1_000_000_000, 1_000_000_000))
    out, error = published.shell.run(*prune, "--dry-run")
    assert (out.strip(), spare.exists()) == (spare.name, True)
    assert "would be removed" in error
    assert published.shell.json(*prune) == {"files": [spare.name], "size": 5}
    assert not spare.exists()
    assert len(list(targets.iterdir())) == 3
