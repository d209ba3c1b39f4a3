"""scripts/debian-root: roots that are whole or not there, and what a program sees in one.

No release is made here: a stand-in takes the place of mmdebstrap, and programs run on a layer over
this machine's own root.
"""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
SCRIPT = SCRIPTS / "debian-root"

needs_root = pytest.mark.skipif(
    os.geteuid() != 0 and not os.environ.get("CI"), reason="only root makes and enters roots"
)

STAND_IN = """#!/bin/bash
directory=$(printf '%s\\n' "$@" | grep -m 1 ^/)
mkdir -p "$directory/usr"
printf '%s ' "$@" >"$directory/made-with"
[[ ${*: -1} != - ]] || cat >"$directory/sources"
exit $MMDEBSTRAP_ENDS
"""


@dataclass(frozen=True, slots=True)
class Maker:
    """The script, with a stand-in for mmdebstrap and a cache of its own."""

    home: Path

    @property
    def cache(self) -> Path:
        """Where it keeps roots."""
        return self.home / "hwtrust"

    def make(
        self, *arguments: str, given: str = "", ends: int = 0
    ) -> subprocess.CompletedProcess[str]:
        """Run `make`; mmdebstrap ends with a status."""
        return subprocess.run(
            [self.home / "debian-root", "make", *arguments],
            input=given,
            capture_output=True,
            text=True,
            check=False,
            env={
                "PATH": f"{self.home}:{os.environ['PATH']}",
                "XDG_CACHE_HOME": str(self.home),
                "MMDEBSTRAP_ENDS": str(ends),
            },
        )

    def made(self, *arguments: str, given: str = "") -> Path:
        """The root that it names."""
        done = self.make(*arguments, given=given)
        assert done.returncode == 0, done.stderr
        return Path(done.stdout.removesuffix("\n"))

    def roots(self) -> set[Path]:
        """What is there besides the lock."""
        return {path for path in self.cache.iterdir() if path.suffix != ".lock"}


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    """The script takes Debian's own mmdebstrap whatever PATH has first; this one takes PATH's."""
    text, places = re.subn(r"PATH=\S+ (?=unshare)", "", SCRIPT.read_text())
    assert places == 1
    for name, program in {"debian-root": text, "mmdebstrap": STAND_IN}.items():
        (tmp_path / name).write_text(program)
        (tmp_path / name).chmod(0o755)
    return Maker(tmp_path)


# --- the command line --------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("what",),
        ("make", "test", "trixie"),
        ("make", "--days", "many", "test", "trixie", "udev"),
        ("make", "../test", "trixie", "udev"),
        ("make", "test", "../trixie", "udev"),
        ("enter", "/"),
        ("enter", "--what", "/", "true"),
        ("enter", "--copy", "/etc", "etc", "/", "true"),
        ("enter", "--in-place", "--copy", "/etc", "/etc", "/", "true"),
        ("enter", "--in-place", "--layer", "/tmp", "/", "true"),  # noqa: S108 - is refused
    ],
    ids=" ".join,
)
def test_what_it_does_not_know_is_a_usage_error(arguments: tuple[str, ...]) -> None:
    """Nothing is made, and nothing is run."""
    done = subprocess.run([SCRIPT, *arguments], capture_output=True, check=False)
    assert done.returncode == 2
    assert done.stdout == b""


# --- made ---------------------------------------------------------------------------------


@needs_root
def test_a_root_is_made_once(maker: Maker) -> None:
    """Whoever asks for the same gets what is there; the sources are of what it is made from."""
    first = maker.made("test", "trixie", "udev,sudo")
    (first / "mark").touch()
    assert maker.made("test", "trixie", "udev,sudo") == first
    assert (first / "mark").exists()
    assert "--include=udev,sudo trixie " in (first / "made-with").read_text()

    other = maker.made("other", "trixie", "udev", "--variant=minbase", "-", given="deb a\n")
    assert (other / "sources").read_text().strip() == "deb a"
    assert maker.made("other", "trixie", "udev", "--variant=minbase", "-", given="b") != other
    assert first.exists()


@needs_root
def test_a_root_that_could_not_be_made_is_not_there(maker: Maker) -> None:
    """Nor does half of one stand in the way of the next."""
    failed = maker.make("test", "trixie", "udev", ends=25)
    assert (failed.returncode, failed.stdout) == (1, "")
    root = maker.made("test", "trixie", "udev")
    assert maker.roots() == {root}


@needs_root
def test_a_root_that_is_too_old_is_made_anew(maker: Maker) -> None:
    """At the same place; one that is young enough is not."""
    root = maker.made("test", "trixie", "udev")
    (root / "mark").touch()
    assert maker.made("--days", "1", "test", "trixie", "udev") == root
    assert (root / "mark").exists()
    os.utime(root, (0, 0))
    assert maker.made("--days", "1", "test", "trixie", "udev") == root
    assert not (root / "mark").exists()
    assert maker.roots() == {root}


@needs_root
def test_a_root_that_nobody_wants_is_removed_when_nobody_is_in_it(maker: Maker) -> None:
    """Other packages make another root; those of other names and releases stay."""
    others = {maker.made("test", "bookworm", "udev"), maker.made("deb", "trixie", "udev")}
    first = maker.made("test", "trixie", "udev")
    handle = os.open(first, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_SH)
    second = maker.made("test", "trixie", "udev,sudo")
    assert maker.roots() == {*others, first, second}
    os.close(handle)
    third = maker.made("test", "trixie", "sudo")
    assert maker.roots() == {*others, third}


# --- entered ------------------------------------------------------------------------------


def enter(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run `enter`."""
    return subprocess.run(
        [SCRIPT, "enter", *arguments], capture_output=True, text=True, check=False
    )


@needs_root
def test_a_program_in_a_root_has_few_devices() -> None:
    """None of the host's disks or TPMs, which a build or a test might write to."""
    done = enter("/", "ls", "/dev")
    devices = {"null", "zero", "full", "random", "urandom", "tty"}
    assert set(done.stdout.split()) == {*devices, "pts", "ptmx", "shm", "fd"}, done.stderr


@needs_root
def test_a_program_in_a_root_writes_a_layer_and_what_it_is_given(tmp_path: Path) -> None:
    """The root and what can only be read stay; its status is the script's."""
    for name in ("brought", "seen", "shared", "layer"):
        (tmp_path / name).mkdir()
    (tmp_path / "brought" / "file").write_text("brought\n")
    given: list[str | Path] = ["--copy", tmp_path / "brought", "/opt/with space"]
    given += ["--read", tmp_path / "seen", "/opt/seen", "--read", tmp_path / "none", "/opt/none"]
    given += ["--write", tmp_path / "shared", "/opt/shared"]
    script = (
        "cat '/opt/with space/file'; echo >'/opt/with space/file'; touch /opt/shared/out"
        " /opt/written; ! touch /opt/seen/out 2>&1 || exit 1; ls -d /opt/none; exit 7"
    )
    done = enter(*given, "/", "bash", "-c", script)
    assert done.returncode == 7, done.stderr
    assert done.stdout.startswith("brought\n")
    assert (tmp_path / "brought" / "file").read_text() == "brought\n"
    assert {path.name for path in tmp_path.glob("*/out")} == {"out"}
    assert (tmp_path / "shared" / "out").exists()
    assert not Path("/opt/written").exists()
    assert "/opt/none" not in done.stdout


@needs_root
def test_a_layer_that_is_kept_is_there_for_the_next_program(tmp_path: Path) -> None:
    """As the state of a system between its starts."""
    kept = ("--layer", tmp_path, "/", "bash", "-c")
    assert enter(*kept, "echo here >/opt/written").returncode == 0
    assert enter(*kept, "cat /opt/written").stdout == "here\n"
    assert not Path("/opt/written").exists()


@needs_root
@pytest.mark.parametrize("space", ["ipc", "mnt", "pid", "uts"])
def test_what_a_program_leaves_there_ends_with_it(space: str) -> None:
    """Mounts, processes, a name, System V objects: the host keeps none of them."""
    within = enter("/", "readlink", f"/proc/self/ns/{space}")
    assert within.returncode == 0, within.stderr
    assert within.stdout.strip() != str(Path(f"/proc/self/ns/{space}").readlink())


# --- what is secret -----------------------------------------------------------------------

SHOWN = """#!/bin/bash
printf '%s\\n' "$@" >>{record}
exec /usr/bin/env "$@"
"""
WATCHED = """
{functions}
platform=trixie
cleanly {home} bash -c 'cat /proc/[0-9]*/cmdline | tr "\\0" "\\n"; echo; echo ENVIRONMENT; env'
"""


@pytest.mark.parametrize(("script", "home"), [("deb", "/root"), ("platform-test", "")])
@pytest.mark.parametrize("name", ["PIP_INDEX_URL", "http_proxy", "https_proxy"])
def test_the_password_of_an_index_or_a_proxy_is_in_no_arguments(
    script: str, home: str, name: str, tmp_path: Path
) -> None:
    """All users can read those of all processes; the program has it in its environment.

    Nor for the moment in which `env` runs, which here tells its arguments.
    """
    record = tmp_path / "record"
    (tmp_path / "env").write_text(SHOWN.format(record=record))
    (tmp_path / "env").chmod(0o755)
    secret = "http://user:pass word'$(x)@localhost/"
    text = (SCRIPTS / script).read_text()
    functions = re.findall(r"^(?:cleanly|network)\(\) \{\n.*?^\}$", text, re.DOTALL | re.MULTILINE)
    assert len(functions) == 2
    done = subprocess.run(
        ["bash", "-euo", "pipefail"],
        input=WATCHED.format(functions="\n".join(functions), home=home),
        capture_output=True,
        text=True,
        check=True,
        env={
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            name: secret,
            "OTHER": "secret",
            "BASH_FUNC_f%%": "() { :; }",
        },
    )
    arguments, _, environment = done.stdout.partition("\nENVIRONMENT\n")
    assert "cat\n" in arguments
    assert "word'$" not in arguments
    assert "PATH=" in record.read_text()
    assert "word'$" not in record.read_text()
    assert f"{name}={secret}" in environment.splitlines()
    assert "OTHER" not in environment
    assert "BASH_FUNC" not in environment


@pytest.mark.parametrize("script", ["deb", "debian-root", "platform-test"])
def test_no_script_hands_the_environment_to_env(script: str) -> None:
    """`env NAME=VALUE` with a value of the caller's shows it; only what is fixed is given so."""
    text = re.sub(r"^ *#.*$", "", (SCRIPTS / script).read_text(), flags=re.MULTILINE)
    given = re.findall(r"\benv (?:-i )?((?:\w+=(?:\"[^\"]*\"|\S+)\s+(?:\\\n\s*)?)*)(\S+)", text)
    assert not [program for _, program in given if program.startswith('"${')]
    names = {name for words, _ in given for name in re.findall(r"(\w+)=", words)}
    fixed = {"HOME", "PATH", "LANG", "LC_ALL", "TMPDIR", "HWTRUST_PLATFORM"}
    assert names <= fixed | {"UV_LINK_MODE", "SSL_CERT_FILE", "PIP_CERT"}
