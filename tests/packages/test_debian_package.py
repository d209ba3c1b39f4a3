"""The Debian package of the device's side, built, read, and installed in clean systems.

What is marked `packages` builds with scripts/deb and installs into systems that mmdebstrap makes;
both keep what they download in ~/.cache/hwtrust. The rest needs neither.
"""

from __future__ import annotations

import gzip
import importlib.util
import os
import re
import shutil
import subprocess
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click import Context, Option

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
PACKAGING = ROOT / "packaging"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "hwtrust"
SUITES = {
    "bookworm": ("12", "3.11", "libtss2-tcti-swtpm0"),
    "trixie": ("13", "3.13", "libtss2-tcti-swtpm0t64"),
}
"""Of each suite: the release's number, its Python, and what connects a TSS to swtpm."""
KEY_STORE_LEFT = "/var/lib/hwtrust/keystore"


# --- what the repository says, without building ---------------------------------------


def generator() -> ModuleType:
    """packaging/man/generate.py, which is a program and no module of a package."""
    spec = importlib.util.spec_from_file_location("generate_man", PACKAGING / "man" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    """The manual pages as a reader sees them, spaces made one."""
    if shutil.which("man") is None:
        missing = "man is not installed: apt install man-db"
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
    return {name: shown(text) for name, text in generator().pages(ROOT / "docs").items()}


def shown(troff: str) -> str:
    """What man shows of a page; a warning of the formatter fails."""
    said = subprocess.run(
        ["man", "--warnings", "-E", "UTF-8", "-l", "-"],
        input=troff,
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "MANWIDTH": "200"},
    )
    assert said.stderr == ""
    return " ".join(said.stdout.split())


def every_command() -> list[Context]:
    """The command and all that are below it."""
    man = generator()
    top = man.whole()
    return [top, *man.commands(top)]


def test_the_manual_has_every_option_of_every_command(pages: dict[str, str]) -> None:
    """An option that is added to the command is in the manual without anybody's doing."""
    contexts = every_command()
    assert len(contexts) > 25
    for ctx in contexts:
        assert ctx.command_path in pages["hwtrust.1"]
        for parameter in ctx.command.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if isinstance(parameter, Option) and record is not None:
                assert " ".join(record[0].split()) in pages["hwtrust.1"], ctx.command_path


@pytest.mark.parametrize(
    ("document", "page"),
    [("device-configuration.md", "hwtrust.toml.5"), ("agent.md", "hwtrust-agent.8")],
)
def test_the_manual_has_every_row_of_the_documents(
    pages: dict[str, str], document: str, page: str
) -> None:
    """The first column of each table, so that no option is left out on the way."""
    text = (ROOT / "docs" / document).read_text()
    terms = re.findall(r"^\| `([^`]+)`", text, re.MULTILINE)
    assert terms
    assert [term for term in terms if term not in pages[page]] == []


def test_a_page_is_not_made_of_a_document_that_lost_its_heading(tmp_path: Path) -> None:
    """A heading that is renamed stops the build; it does not leave a page without it."""
    document = tmp_path / "agent.md"
    document.write_text("# The agent\n\n## Settings\n\ntext\n")
    with pytest.raises(SystemExit):
        generator().section(document, "Configuration")


def test_the_package_has_the_version_of_the_project() -> None:
    """Its changelog begins with the version that pyproject.toml has."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert (PACKAGING / "debian" / "changelog").read_text().startswith(f"hwtrust ({version}) ")


@pytest.mark.parametrize("arguments", [["--suite", "sid"], ["--output"], ["--what"]], ids=" ".join)
def test_the_build_refuses_what_it_does_not_know(arguments: list[str]) -> None:
    """A misspelt option builds nothing."""
    done = subprocess.run([ROOT / "scripts" / "deb", *arguments], capture_output=True, check=False)
    assert done.returncode == 2
    assert done.stdout == b""


# --- a clean system ----------------------------------------------------------------------


def need(program: str, package: str) -> None:
    """Skip without a program that apt can install; fail on CI."""
    if os.geteuid() == 0 and shutil.which(program) is not None:
        return
    missing = f"these tests need root, and {program}: apt install {package}"
    pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)


@dataclass(frozen=True, slots=True)
class System:
    """A directory with a Debian in it, whose programs run in name spaces of their own."""

    root: Path

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        """Run a script of bash as root of the system; what it starts ends with it."""
        enter = 'mount --bind /dev "$1/dev"; mount -t proc p "$1/proc";'
        enter += ' exec chroot "$1" bash -c "$2"'
        spaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
        clean = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "HOME=/root"]
        bash = ["DEBIAN_FRONTEND=noninteractive", "bash", "-ec", enter, "in", str(self.root)]
        return subprocess.run(
            [*spaces, *clean, *bash, script],
            capture_output=True,
            text=True,
            check=False,
            timeout=200,
        )

    def must(self, script: str) -> str:
        """What a script prints, which has to succeed."""
        done = self.run(f"set -euo pipefail\n{script}")
        assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def bring(self, package: Path) -> str:
        """Copy a package into the system; gives its place there."""
        shutil.copy(package, self.root / "tmp")
        return f"/tmp/{package.name}"  # noqa: S108 - of a system that is this test's alone


def base_system(suite: str) -> Path:
    """A minimal Debian with what the tests themselves use, made once."""
    wanted = f"systemd,man-db,swtpm,{SUITES[suite][2]},tpm2-tools,udev"
    archive = CACHE / f"test-{suite}.tar"
    if not archive.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        made = archive.with_suffix(".making")
        options = ["--quiet", "--format=tar", "--variant=apt", f"--include={wanted}"]
        subprocess.run(["mmdebstrap", *options, suite, made], check=True)
        made.rename(archive)
    return archive


@pytest.fixture(scope="module", params=list(SUITES))
def suite(request: pytest.FixtureRequest) -> str:
    """Each release of Debian in turn."""
    need("mmdebstrap", "mmdebstrap")
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def package(suite: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, built for that release in a clean system."""
    into = tmp_path_factory.mktemp(f"package-{suite}")
    built = subprocess.run(
        [ROOT / "scripts" / "deb", "--suite", suite, "--output", into],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=600,
    )
    return Path(built.stdout.strip())


@pytest.fixture(scope="module")
def content(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the package holds, DEBIAN among it."""
    into = tmp_path_factory.mktemp("content")
    subprocess.run(["dpkg-deb", "-R", package, into], check=True)
    return into


@pytest.fixture(scope="module")
def installed(
    suite: str, package: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[System]:
    """A clean system into which apt has installed the package, with what it depends on."""
    root = tmp_path_factory.mktemp(f"system-{suite}")
    subprocess.run(["tar", "-C", root, "--exclude=./dev/*", "-xf", base_system(suite)], check=True)
    shutil.copy("/etc/resolv.conf", root / "etc" / "resolv.conf")
    system = System(root)
    system.must(
        "apt-get -qq update; apt-get -qq -y --no-install-recommends install "
        f"{system.bring(package)} 2>&1"
    )
    yield system
    shutil.rmtree(root)


# --- in the package ----------------------------------------------------------------------


@pytest.mark.packages
def test_the_package_holds_what_a_device_needs(content: Path, suite: str) -> None:
    """Command, unit, rule, users, directories, manuals and completions, each in its place."""
    names = {str(path.relative_to(content)) for path in content.rglob("*")}
    wanted = [
        "usr/bin/hwtrust",
        r"(usr/)?lib/systemd/system/hwtrust-agent\.service",
        r"(usr/)?lib/udev/rules\.d/70-hwtrust\.rules",
        r"usr/lib/sysusers\.d/hwtrust\.conf",
        r"usr/lib/tmpfiles\.d/hwtrust\.conf",
        r"usr/share/man/man1/hwtrust\.1\.gz",
        r"usr/share/man/man5/hwtrust\.toml\.5\.gz",
        r"usr/share/man/man8/hwtrust-agent\.8\.gz",
        "usr/share/bash-completion/completions/hwtrust",
        "usr/share/zsh/vendor-completions/_hwtrust",
        r"usr/share/fish/vendor_completions\.d/hwtrust\.fish",
        "usr/share/doc/hwtrust/copyright",
        rf"usr/lib/hwtrust/lib/python{SUITES[suite][1]}/site-packages/hwtrust/py\.typed",
    ]
    missing = [pattern for pattern in wanted if not any(re.fullmatch(pattern, n) for n in names)]
    assert missing == []
    assert not [name for name in names if "hwtrust_backend" in name or name.endswith(".pyc")]


@pytest.mark.packages
def test_every_file_is_roots_and_nobody_elses_to_write(package: Path) -> None:
    """No owner of the builder's, no set-user-id bit, nothing that a group or all can write."""
    listed = subprocess.run(["dpkg-deb", "-c", package], capture_output=True, text=True, check=True)
    lines = [line.split() for line in listed.stdout.splitlines()]
    assert len(lines) > 500
    assert {owner for _, owner, *_ in lines} == {"root/root"}
    kinds = {"drwxr-xr-x", "-rw-r--r--", "-rwxr-xr-x", "lrwxrwxrwx"}
    assert {mode for mode, *_ in lines} <= kinds


@pytest.mark.packages
def test_nothing_of_the_building_machine_is_in_the_package(content: Path) -> None:
    """Neither the path of the build, nor the checkout's, nor another Python."""
    traces = [b"/build/hwtrust", b"pyenv", bytes(ROOT) + b"/", b"/tmp/pip-"]
    files = [path for path in content.rglob("*") if path.is_file() and not path.is_symlink()]
    assert files
    found = {
        (str(path.relative_to(content)), trace)
        for path in files
        for data in [
            gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        ]
        for trace in traces
        if trace in data
    }
    assert found == set()
    link = content / "usr" / "lib" / "hwtrust" / "bin" / "python3"
    assert os.path.normpath(link.parent / link.readlink()) == str(content / "usr/bin/python3")


@pytest.mark.packages
def test_the_environment_holds_what_the_lock_names(content: Path) -> None:
    """The same versions as everywhere else, and a licence said for each."""
    lock = {
        p["name"]: p["version"] for p in tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    }
    copyright_file = (content / "usr/share/doc/hwtrust/copyright").read_text()
    found = {}
    for metadata in content.glob("usr/lib/hwtrust/lib/*/site-packages/*.dist-info"):
        name, _, version = metadata.name.removesuffix(".dist-info").rpartition("-")
        found[name] = version
        assert name == "hwtrust" or f"/{name}*\n" in copyright_file
    assert {"hwtrust", "tpm2_pytss", "cryptography", "dcap_qvl", "tuf"} <= set(found)
    assert found == {name: lock[name.replace("_", "-")] for name in found}


@pytest.mark.packages
def test_lintian_finds_neither_error_nor_warning(package: Path) -> None:
    """But for the overrides, each of which says why."""
    need("lintian", "lintian")
    said = subprocess.run(
        ["lintian", "--allow-root", "--fail-on", "error,warning", package],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (said.returncode, said.stdout) == (0, "")


# --- installed ---------------------------------------------------------------------------


@pytest.mark.packages
def test_the_installed_command_runs_and_names_what_is_missing(installed: System) -> None:
    """With Debian's Python alone; without a TPM it says so by the error's own code."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert version in installed.must("cd /; hwtrust --version")
    none = installed.run("hwtrust tpm info")
    assert none.returncode == 4
    assert re.search(r"\[tpm:[a-z:-]+\]", none.stderr)
    where = installed.must("/usr/lib/hwtrust/bin/python3 -c 'import sys; print(sys.base_prefix)'")
    assert where == "/usr\n"


@pytest.mark.packages
def test_the_installed_command_imports_nothing_from_where_it_is_called(installed: System) -> None:
    """A directory and an environment that another user prepared change nothing."""
    installed.must(
        "mkdir /tmp/trap; cd /tmp/trap; for name in click hwtrust; do"
        " echo 'raise SystemExit(99)' >$name.py; done;"
        " PYTHONPATH=/tmp/trap PYTHONHOME=/tmp hwtrust --version"
    )


@pytest.mark.packages
def test_the_installed_command_talks_to_a_tpm(installed: System) -> None:
    """To a software TPM by its TCTI, through the distribution's own TSS."""
    said = installed.must(
        "d=$(mktemp -d); swtpm socket --tpm2 --tpmstate dir=$d --server type=unixio,path=$d/s "
        "--ctrl type=unixio,path=$d/s.ctrl --flags not-need-init,startup-clear --daemon;"
        "hwtrust tpm info --help >/dev/null; hwtrust tpm info --tcti swtpm:path=$d/s --json"
    )
    assert '"sha256"' in said


@pytest.mark.packages
def test_users_directories_and_unit_are_set_up(installed: System) -> None:
    """The agent's user is a member of tss, its state its own, its unit well-formed and off."""
    assert "tss" in installed.must("id -Gn hwtrust").split()
    assert installed.must("stat -c '%U:%G %a' /var/lib/hwtrust") == "hwtrust:hwtrust 700\n"
    assert installed.must("stat -c '%U:%G %a' /etc/hwtrust") == "root:root 755\n"
    unit = installed.run("systemd-analyze verify hwtrust-agent.service 2>&1")
    assert [line for line in unit.stdout.splitlines() if "hwtrust" in line] == []
    enabled = installed.run("systemctl is-enabled hwtrust-agent.service")
    assert enabled.stdout == "disabled\n"


@pytest.mark.packages
def test_manuals_and_completions_are_found(installed: System) -> None:
    """By man, and by bash, which completes a command's name."""
    for page in ("1 hwtrust", "5 hwtrust.toml", "8 hwtrust-agent"):
        assert page.split()[1] in installed.must(f"man -w {page}")
    completed = installed.must(
        "source /usr/share/bash-completion/completions/hwtrust; complete -p hwtrust;"
        "COMP_WORDS='hwtrust key' COMP_CWORD=1 _HWTRUST_COMPLETE=bash_complete hwtrust"
    )
    assert "_hwtrust_completion" in completed
    assert "plain,keystore" in completed


# --- upgraded, removed, purged; last, as it ends the system ------------------------------


def older(package: Path, into: Path) -> Path:
    """The same package under a version that the package is an upgrade of."""
    tree = into / "older"
    subprocess.run(["dpkg-deb", "-R", package, tree], check=True)
    control = tree / "DEBIAN" / "control"
    text = control.read_text()
    control.write_text(re.sub(r"^(Version: .*)$", r"\1~old", text, flags=re.MULTILINE))
    file = into / "older.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", tree, file], check=True)
    return file


@pytest.mark.packages
def test_a_device_survives_an_upgrade_and_a_removal_and_is_gone_after_a_purge(
    installed: System, package: Path, tmp_path: Path
) -> None:
    """What the device wrote is removed by a purge alone; then nothing is left but the user."""
    old, new = installed.bring(older(package, tmp_path)), installed.bring(package)
    written = f"/etc/hwtrust/hwtrust.toml {KEY_STORE_LEFT}"
    installed.must(
        f"dpkg -i {old}; touch {written}; dpkg -i {new}; ls {written}; hwtrust --version"
    )

    installed.must(f"dpkg -r hwtrust; ls {written}")
    assert installed.must("ls -A /usr/lib/hwtrust 2>/dev/null || true") == ""
    assert installed.run("hwtrust --version").returncode == 127

    assert "no longer enrolled" in installed.must("dpkg -P hwtrust 2>&1")
    # man-db keeps what it has shown for a while, of every package.
    others = " ".join(f"-not -path '{place}/*'" for place in ("/proc", "/tmp", "/var/cache/man"))  # noqa: S108
    left = installed.must(f"find / -xdev -name '*hwtrust*' {others}")
    assert left == ""
    assert "hwtrust" in installed.must("getent passwd hwtrust")
