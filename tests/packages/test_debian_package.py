"""The Debian package of the device's side, built, read, and installed in clean systems.

What is marked `packages` builds with scripts/deb and installs into systems of scripts/debian-root;
both keep what they download in ~/.cache/hwtrust. The rest needs neither. On CI both releases of
Debian are tested, else the second is marked `long`.
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

import msgspec
import pytest
from click import Context, Option

from hwtrust.layers import reference
from hwtrust.wire.messages import Release

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from hwtrust.testing.swtpm import Swtpm
    from hwtrust_backend.testing import BackendServer

ROOT = Path(__file__).resolve().parents[2]
PACKAGING = ROOT / "packaging"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "hwtrust"


@dataclass(frozen=True, slots=True)
class Suite:
    """A release of Debian: its number, its Python, and what connects its TSS to swtpm."""

    number: int
    python: str
    tcti: str


SUITES = {
    "bookworm": Suite(12, "3.11", "libtss2-tcti-swtpm0"),
    "trixie": Suite(13, "3.13", "libtss2-tcti-swtpm0t64"),
}
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


SHARED = "/mnt"
"""Where a clean system has the directory that it shares with its test."""
DEBIAN_ROOT = ROOT / "scripts" / "debian-root"


@dataclass(frozen=True, slots=True)
class System:
    """A Debian whose programs run in name spaces of their own, on a layer over `base`.

    `home` has the layer, and `shared`, which the system has as /mnt.
    """

    base: Path
    home: Path

    def run(self, script: str, *, sees: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run a script of bash as root of the system; what it starts ends with it.

        It has the host's loopback, and the directory `sees` at the same place.
        """
        apt = CACHE / f"{self.base.name}-apt"
        places = {
            SHARED: self.home / "shared",
            "/var/lib/apt/lists": apt / "lists",
            "/var/cache/apt/archives": apt / "archives",
        }
        for place in places.values():
            place.mkdir(parents=True, exist_ok=True)
        if sees is not None:
            places[str(sees)] = sees
        options = [word for to, place in places.items() for word in ("--write", place, to)]
        return subprocess.run(
            [DEBIAN_ROOT, "enter", "--layer", self.home, *options, self.base, "bash", "-c", script],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
            env={
                "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                "LC_ALL": "C.UTF-8",
                "HOME": "/root",
                "DEBIAN_FRONTEND": "noninteractive",
            },
        )

    def must(self, script: str, *, sees: Path | None = None) -> str:
        """What a script prints, which has to succeed."""
        done = self.run(f"set -euo pipefail\n{script}", sees=sees)
        assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def bring(self, file: Path) -> str:
        """Copy a file into the system; gives its place there."""
        shared = self.home / "shared"
        shared.mkdir(exist_ok=True)
        shutil.copy(file, shared)
        return f"{SHARED}/{file.name}"


def base_system(suite: str) -> Path:
    """A minimal Debian with what the tests themselves use, made once."""
    wanted = ["systemd", "man-db", SUITES[suite].tcti, "tpm2-tools", "udev", "sudo"]
    made = subprocess.run(
        [DEBIAN_ROOT, "make", "test", suite, " ".join(wanted)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return Path(made.stdout.strip())


@pytest.fixture(
    scope="module",
    params=[
        "bookworm",
        pytest.param("trixie", marks=[] if os.environ.get("CI") else pytest.mark.long),
    ],
)
def suite(request: pytest.FixtureRequest) -> str:
    """Each release of Debian in turn; on CI none is left to who asks for it."""
    need("mmdebstrap", "mmdebstrap")
    name: str = request.param
    return name


def build(suite: str, into: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run scripts/deb in a clean system of a release; the path of the package is its output."""
    return subprocess.run(
        [ROOT / "scripts" / "deb", "--suite", suite, "--output", into, *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )


@pytest.fixture(scope="module")
def package(suite: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, built for that release in a clean system, or before from the same."""
    built = build(suite, tmp_path_factory.mktemp(f"package-{suite}"))
    assert built.returncode == 0, built.stderr
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
    home = tmp_path_factory.mktemp(f"system-{suite}")
    system = System(base_system(suite), home)
    system.must(
        "apt-get -qq update; apt-get -qq -y --no-install-recommends -o Dpkg::Options::="
        f"--force-unsafe-io install {system.bring(package)} 2>&1"
    )
    yield system
    shutil.rmtree(home)


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
        rf"usr/lib/hwtrust/lib/python{SUITES[suite].python}/site-packages/hwtrust/py\.typed",
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
        assert name.startswith("hwtrust") or f"/{name}*\n" in copyright_file
    assert {"hwtrust", "tpm2_pytss", "cryptography", "dcap_qvl", "tuf"} <= set(found)
    assert found == {name: lock[name.replace("_", "-")] for name in found}


@pytest.mark.packages
@pytest.mark.parametrize(
    ("shell", "file"),
    [
        ("bash", "bash-completion/completions/hwtrust"),
        ("zsh", "zsh/vendor-completions/_hwtrust"),
        ("fish", "fish/vendor_completions.d/hwtrust.fish"),
    ],
)
def test_each_shell_can_read_its_completion(content: Path, shell: str, file: str) -> None:
    """None of them is a script of another shell, or cut off."""
    need(shell, shell)
    script = content / "usr" / "share" / file
    assert "_HWTRUST_COMPLETE" in script.read_text()
    subprocess.run([shell, "-n", script], check=True)
    cut = content / f"cut.{shell}"
    cut.write_text(script.read_text().rstrip().rpartition("\n")[0].rpartition("}")[0] + "if ((")
    assert subprocess.run([shell, "-n", cut], check=False, capture_output=True).returncode != 0


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
def test_users_directories_and_unit_are_set_up(installed: System) -> None:
    """The agent's user is a member of tss, its state its own, its unit well-formed and off."""
    assert "tss" in installed.must("id -Gn hwtrust").split()
    assert installed.must("stat -c '%U:%G %a' /var/lib/hwtrust") == "hwtrust:hwtrust 700\n"
    assert installed.must("stat -c '%U:%G %a' /etc/hwtrust") == "root:root 755\n"
    assert "hwtrust" not in installed.must("systemd-analyze verify hwtrust-agent.service 2>&1")
    # It does say what is wrong, and by its status.
    broken = "/etc/systemd/system/hwtrust-broken.service"
    spoilt = installed.run(
        f"printf '[Service]\\nExecStart=/nowhere\\nMemoryMax=much\\n' >{broken};"
        f"systemd-analyze verify {broken} 2>&1; status=$?; rm {broken}; exit $status"
    )
    assert spoilt.returncode != 0
    assert "hwtrust-broken" in spoilt.stdout
    enabled = installed.run("systemctl is-enabled hwtrust-agent.service")
    assert enabled.stdout == "disabled\n"


@pytest.mark.packages
def test_udev_reads_the_rule(installed: System) -> None:
    """By its own check, where udev has one, and by a run over a device's event."""
    rule = installed.must("dpkg -L hwtrust | grep '/70-hwtrust.rules$'").strip()
    broken = "/etc/udev/rules.d/99-broken.rules"
    spoil = f"echo 'ACTION==\"add\", RUN' >{broken}"
    if installed.run("udevadm verify --help").returncode == 0:
        installed.must(f"udevadm verify {rule}")
        assert installed.run(f"{spoil}; udevadm verify {broken}").returncode != 0
    events = "udevadm test --action=add /sys/class/mem/null 2>&1"
    complaint = re.compile(r"(hwtrust|broken)\.rules:\d+.*")
    assert complaint.search(installed.must(f"rm -f {broken}; {events}")) is None
    assert complaint.search(installed.must(f"{spoil}; {events}; rm {broken}")) is not None


@pytest.mark.packages
def test_the_kernels_logs_become_readable_for_the_agent(installed: System) -> None:
    """By tmpfiles.d, tried on a tree with the files that a kernel has; others' stay root's.

    Not for the members of its group, who may connect to its socket. Since Linux 6.10 IMA has a log
    for each bank, and a link to the first.
    """
    for_it = [
        "tpm0/binary_bios_measurements",
        "ima/binary_runtime_measurements_sha1",
        "ima/binary_runtime_measurements_sha256",
    ]
    others = ["ima/binary_runtime_measurements_sha1_staged", "ima/policy"]
    top = "/tmp/t/sys/kernel/security"  # noqa: S108 - its own
    places = " ".join(f"{top}/{log}" for log in for_it + others)
    link = f"{top}/ima/binary_runtime_measurements"
    make = "systemd-tmpfiles --create --root=/tmp/t /usr/lib/tmpfiles.d/hwtrust.conf"
    said = installed.must(
        "mkdir -p /tmp/t/etc; cp /etc/passwd /etc/group /tmp/t/etc;"
        f"for log in {places}; do install -D -m 440 /dev/null $log; done;"
        f"ln -s binary_runtime_measurements_sha1 {link}; {make};"
        f"stat -c '%U:%G %a' {places} /tmp/t/var/lib/hwtrust;"
        # What an older kernel has, without a link.
        f"rm {link}; install -m 440 /dev/null {link}; {make}; stat -c '%U:%G %a' {link};"
        f"sudo -u hwtrust cat {link}; ! sudo -u nobody -g hwtrust cat {link}"
    )
    read, not_read = "hwtrust:root 400", "root:root 440"
    wanted = [*[read] * len(for_it), *[not_read] * len(others), "hwtrust:hwtrust 700", read]
    assert said.splitlines() == wanted


@pytest.mark.packages
def test_every_program_that_the_system_runs_for_it_comes_with_it(installed: System) -> None:
    """What unit and rule call is of a package that this one, or every system, needs."""
    files = installed.must("dpkg -L hwtrust | grep -E '(service|rules)$' | xargs cat")
    programs = set(re.findall(r"(?:Exec\w+=|RUN\+=\")(/\S+)", files))
    assert {"/bin/kill", "/bin/chown", "/usr/bin/hwtrust"} <= programs
    fields = "-f='${Depends} ${Pre-Depends}'"
    depends = re.split(r"[ ,|]+", installed.must(f"dpkg-query -W {fields} hwtrust"))
    for program in programs:
        owner = installed.must(
            f"dpkg -S $(readlink -f {program}) {program} 2>/dev/null | head -n 1 || true"
        ).partition(":")[0]
        essential = installed.must(f"dpkg-query -W -f='${{Essential}}' {owner}")
        assert owner == "hwtrust" or essential == "yes" or owner in depends, program


# --- the life of a device, as docs/debian.md has it -----------------------------------------


def documented(heading: str) -> list[str]:
    """The commands of a section of docs/debian.md, in its order."""
    text = (ROOT / "docs" / "debian.md").read_text().partition(f"\n## {heading}\n")[2]
    block = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    blocks = block.findall(text.partition("\n## ")[0])
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line.removeprefix("$ ") for line in lines]


@pytest.mark.packages
def test_the_documented_commands_make_a_trusted_device(
    installed: System, tpm: Swtpm, backend: BackendServer, tmp_path: Path
) -> None:
    """From an empty configuration to an entry in the key store, on the distribution's own TSS."""
    kernel = tmp_path / "kernel"
    kernel.write_bytes(b"a kernel\n")
    release = Release(name="1.0", layers=(reference("kernel", "1.0", kernel),))
    backend.accept(release)
    for name, data in {
        "release.json": msgspec.json.encode(release),
        "trust.json": backend.trust_file.read_bytes(),
        "token": backend.token().encode(),
    }.items():
        (tmp_path / name).write_bytes(data)
        installed.bring(tmp_path / name)
    installed.must(
        f"install -D -m 644 {installed.bring(kernel)} /opt/app/kernel;"
        f"cd {SHARED}; cp release.json trust.json token /root/"
    )
    sockets = Path(tpm.tcti.removeprefix("swtpm:path=")).parent
    # To the user of the agent, as /dev/tpmrm0 is on a machine that has one.
    subprocess.run(["chmod", "-R", "a+rwX", sockets], check=True)

    install, listing, *enrolment, enable = documented("Install, enrol, start")
    assert (install.split()[:3], listing) == (["sudo", "apt", "install"], "hwtrust tpm list")
    assert enable == "sudo systemctl enable --now hwtrust-agent"
    script = "\n".join(["cd /root", *enrolment])
    assert "hwtrust init " in script
    script = script.replace("hwtrust init ", f"hwtrust init --tcti {tpm.tcti} ")
    said = installed.must(script, sees=sockets)
    assert "enrolled as" in said
    assert installed.must("stat -c '%U %a' /var/lib/hwtrust /etc/hwtrust/hwtrust.toml") == (
        "hwtrust 700\nroot 644\n"
    )

    as_agent = "sudo -u hwtrust hwtrust"
    said = installed.must(f"{as_agent} boot; {as_agent} attest", sees=sockets)
    assert said.count("standing: trusted") == 2
    installed.must(f"printf secret | {as_agent} keystore put a/b", sees=sockets)
    assert installed.must(f"{as_agent} keystore get a/b", sees=sockets) == "secret"
    # There is no systemd that could start it; that it will be started is what is left to see.
    installed.must(enable.replace("--now ", ""))
    assert installed.run("systemctl is-enabled hwtrust-agent").stdout == "enabled\n"

    tools = f"export TPM2TOOLS_TCTI={tpm.tcti};"
    handles = ["0x81018048", "0x81008048", "0x1804857"]
    shown = f"{tools} tpm2_getcap handles-persistent; tpm2_getcap handles-nv-index"
    before = installed.must(shown, sees=sockets)
    assert [handle for handle in handles if handle in before.lower()] == handles
    installed.must("\n".join([tools, *documented("Remove and purge")]), sees=sockets)
    after = installed.must(shown, sees=sockets)
    assert [handle for handle in handles if handle in after.lower()] == []


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
@pytest.mark.parametrize("mount", ["--bind /srv/theirs", "-t tmpfs tmpfs"])
def test_a_purge_removes_nothing_through_a_mount(
    installed: System, package: Path, mount: str
) -> None:
    """What is mounted below the device's state is not the device's: nothing goes meanwhile."""
    slots = "/var/lib/hwtrust/slots"
    deb = installed.bring(package)
    said = installed.must(
        f"mkdir -p {slots} /srv/theirs; mount {mount} {slots}; touch {slots}/precious"
        f" {KEY_STORE_LEFT}; dpkg -r hwtrust >&2; ! dpkg -P hwtrust 2>&1;"
        f"ls {slots}/precious {KEY_STORE_LEFT} >&2; dpkg -i {deb} >&2; umount {slots}"
    )
    assert slots in said
    assert "no longer enrolled" not in said


@pytest.mark.packages
def test_a_purge_empties_a_file_system_of_the_states_own(installed: System, package: Path) -> None:
    """A partition for /var/lib/hwtrust keeps nothing of the device, and stays mounted."""
    installed.must(
        "mount -t tmpfs tmpfs /var/lib/hwtrust; mkdir /var/lib/hwtrust/deep;"
        f"touch {KEY_STORE_LEFT} /var/lib/hwtrust/deep/one; dpkg -P hwtrust;"
        'mountpoint -q /var/lib/hwtrust; test -z "$(ls -A /var/lib/hwtrust)";'
        f"umount /var/lib/hwtrust; dpkg -i {installed.bring(package)}"
    )


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

    assert told_of_the_tpm(installed.must("dpkg -P hwtrust 2>&1")) == documented("Remove and purge")
    # man-db keeps what it has shown for a while, of every package.
    others = " ".join(f"-not -path '{place}/*'" for place in ("/proc", "/tmp", "/var/cache/man"))  # noqa: S108
    left = installed.must(f"find / -xdev -name '*hwtrust*' {others}")
    assert left == ""
    named = installed.must("cd /etc; grep -rlI hwtrust . | sort").split()
    assert {name.rstrip("-") for name in named} == {"./group", "./gshadow", "./passwd", "./shadow"}
    assert "hwtrust" in installed.must("getent passwd hwtrust")


def told_of_the_tpm(said: str) -> list[str]:
    """The commands that a purge names for what is left in the TPM."""
    assert "no longer enrolled" in said
    return [line.strip() for line in said.splitlines() if line.strip().startswith("tpm2_")]
