"""The `hwtrust` command as such: help, exit codes, errors, completion, start. No TPM is used."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwtrust import errors
from hwtrust.cli import EXIT_CODES, LazyGroup, cli, exit_code, run
from hwtrust.cli.init import _toml

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAM = Path(sys.executable).with_name("hwtrust")
ERROR_LINE = re.compile(r"hwtrust: (?P<message>[^\n]+[^.\n]) \[(?P<code>[a-z:, -]+)\]")


def commands(
    group: click.Group = cli, *path: str
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command and group, with the words that lead to it."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)


COMMANDS = dict(commands())


def ran(
    *arguments: str | Path, capture: pytest.CaptureFixture[str], code: int
) -> tuple[str, list[str]]:
    """Run the command: what is on standard output, and the lines on standard error."""
    assert run([str(argument) for argument in arguments]) == code
    said = capture.readouterr()
    return said.out, said.err.splitlines()


# --- help ------------------------------------------------------------------------------


def test_there_are_commands_to_look_at() -> None:
    """What follows is not about an empty list."""
    assert {("attest",), ("keystore", "put"), ("tpm", "info")} <= set(COMMANDS)


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_helps(path: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """--help prints the usage, a sentence, and every option in words, on standard output."""
    out, err = ran(*path, "--help", capture=capsys, code=0)
    assert not err
    assert out.startswith(f"Usage: hwtrust {' '.join(path)} ")
    command = COMMANDS[path]
    assert (command.help or "").split("\n\n")[0].endswith(".")
    options = [item for item in command.params if isinstance(item, click.Option)]
    assert [option.name for option in options if not option.help] == []


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_a_command_that_takes_arguments_shows_an_example(path: tuple[str, ...]) -> None:
    """A newcomer can copy a line."""
    command = COMMANDS[path]
    if any(isinstance(item, click.Argument) for item in command.params):
        assert f"hwtrust {' '.join(path)} " in (command.help or "").partition("Example:")[2]


def test_the_help_explains_its_words(capsys: pytest.CaptureFixture[str]) -> None:
    """Every abbreviation in a command's help is one that everybody knows, or is explained."""
    known = {"TPM", "JSON", "TLS", "PATH", "NAME", "SOCKET", "VERSION", "ID", "TOML", "FILE"}
    known |= {"VM", "TREE", "HCL", "SEV", "SNP", "TDX", "SGX", "CCA", "GPU", "AMD", "TPMS_ATTEST"}
    out, _ = ran("--help", capture=capsys, code=0)
    explained = set(re.findall(r"^ +([A-Z]{2,}) {3,}\w", out, re.MULTILINE))
    ours = {path: command for path, command in COMMANDS.items() if path != ("verify-quote",)}
    used = {
        word for command in ours.values() for word in re.findall(r"\b[A-Z]{2,}\b", told(command))
    }
    assert {"EK", "PCR"} <= explained
    assert used - explained <= known


def told(command: click.Command) -> str:
    """What a command's help says in words."""
    options = [item for item in command.params if isinstance(item, click.Option)]
    return "\n".join([command.help or "", *(option.help or "" for option in options)])


def test_the_exit_codes_in_the_help_are_those_of_the_table(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whoever scripts the command finds every code, and what it stands for."""
    out, _ = ran("--help", capture=capsys, code=0)
    section = out.partition("Exit codes:\n")[2]
    found = {
        int(code): meaning
        for code, meaning in re.findall(r"^ +(\d+) +(\S.*)$", section, re.MULTILINE)
    }
    table = dict(EXIT_CODES.values())
    assert len(table) == len(EXIT_CODES)
    assert set(found) == {0, 1, 2, *table}
    assert {code: found[code] for code in table} == table


def test_without_a_command_the_help_is_printed_as_an_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A script that forgets the command does not go on."""
    out, err = ran(capture=capsys, code=2)
    assert not out
    assert err[0].startswith("Usage: hwtrust ")


# --- errors ----------------------------------------------------------------------------

FAMILIES = {
    "evidence": 3,
    "counter": 3,
    "key": 3,
    "tpm": 4,
    "channel": 5,
    "root": 6,
    "keystore": 7,
    "layer": 8,
    "config": 9,
    "state": 10,
    "update": 11,
    "agent": 12,
    "anchor": 13,
    "ak": 3,
    "azure": 3,
    "nvidia": 3,
    "rules": 9,
}
"""The first word of an error's code, and the exit code."""

ELSEWHERE = {
    errors.ServiceError,  # of a backend
    errors.EnrolmentError,
    errors.ChallengeError,
    errors.WireError,  # told as what was being read
    errors.WatchError,  # the agent measures at intervals instead
    errors.EnclaveError,  # of an enclave's own program
    errors.SoftwareTpmError,  # of tests
    errors.FaultPlanError,
    errors.HardwareTestError,
}
"""Families that do not end this command. If one did, its exit code would be 1."""

ERRORS = errors.all_errors()
FROM_HERE = {cls.__module__ for cls in ERRORS.values()}


@pytest.mark.parametrize("code", ERRORS)
def test_every_error_ends_in_the_exit_code_of_its_family(
    code: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line `hwtrust: message [code]` on standard error, the hint below, nothing else."""
    cls = ERRORS[code]

    def fail(*_: object, **__: object) -> None:
        raise cls("Something has\nhappened.")

    monkeypatch.setattr("hwtrust.cli.device.device_or_agent", fail)
    expected = FAMILIES.get(code.partition(":")[0], 1)
    out, err = ran("status", capture=capsys, code=expected)
    assert not out
    assert err == [f"hwtrust: something has happened [{code}]", *hints(cls.hint)]


def test_every_family_has_an_exit_code_or_ends_no_command() -> None:
    """A family that is added later is not forgotten."""
    families = {cls for cls in errors.HwTrustError.__subclasses__() if cls.__module__ in FROM_HERE}
    assert families == {*EXIT_CODES} | ELSEWHERE


def hints(hint: str) -> list[str]:
    """The lines of a hint."""
    return [f"hint: {hint}"] if hint else []


@pytest.mark.parametrize("family", EXIT_CODES)
def test_a_family_has_its_exit_code(family: type[errors.HwTrustError]) -> None:
    """Subclasses that come later have the code of their family."""
    later = type("LaterError", (family,), {"code": "later"})
    assert exit_code(later("later")) == EXIT_CODES[family][0]
    del later


def test_what_the_backend_refuses_for_is_said_with_its_code_and_hint(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both codes are there: that it refused, and why."""

    def refuse(*_: object, **__: object) -> None:
        raise errors.RefusedError("it refused", problem="enrolment:token:refused", hint="get one")

    monkeypatch.setattr("hwtrust.cli.device.device_or_agent", refuse)
    _, err = ran("status", capture=capsys, code=5)
    assert err == [
        "hwtrust: it refused [channel:refused, enrolment:token:refused]",
        "hint: get one",
    ]


@pytest.mark.parametrize("code", ERRORS)
def test_a_hint_names_only_commands_and_options_that_exist(code: str) -> None:
    """What a hint says can be typed."""
    for words in re.findall(r"\bhwtrust ((?:[a-z-]+ ?)+)", ERRORS[code].hint):
        path = tuple(words.split())
        leading = [path[:length] for length in range(1, len(path) + 1) if path[:length] in COMMANDS]
        if not leading:
            assert path[0] == "needs", words
            continue
        options = {name for item in COMMANDS[leading[-1]].params for name in item.opts}
        assert {word for word in path if word.startswith("--")} <= options


USAGE = {
    "no such command": (["nonsense"], "hwtrust --help"),
    "an argument is missing": (["keystore", "get"], "hwtrust keystore get --help"),
    "no such option": (["status", "--nonsense"], "hwtrust status --help"),
    "a file is missing": (["enrol", "--token-file", "/nowhere"], "hwtrust enrol --help"),
    "a choice is none": (["completion", "tcsh"], "hwtrust completion --help"),
    "a layer has no path": (["measure", "--release", "1", "kernel"], "hwtrust measure --help"),
    "a layer has no name": (["measure", "--release", "1", "=/etc"], "hwtrust measure --help"),
    "a layer is given twice": (
        ["measure", "--release", "1", f"a={__file__}", f"a={__file__}"],
        "hwtrust measure --help",
    ),
    "a name is too long": (
        ["measure", "--release", "1", f"{'a' * 201}={__file__}"],
        "hwtrust measure --help",
    ),
    "a name is not UTF-8": (
        ["measure", "--release", "\udcff", f"a={__file__}"],
        "hwtrust measure --help",
    ),
    "a list is none": (
        ["init", "--trust", __file__, "--release", __file__, "--platform-pcrs", "0;7"],
        "hwtrust init --help",
    ),
}


@pytest.mark.parametrize("case", USAGE)
def test_a_command_line_that_is_wrong_is_told_in_one_line(
    case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, the same form as every error, and where to read on."""
    arguments, hint = USAGE[case]
    out, err = ran(*arguments, capture=capsys, code=2)
    assert not out
    found = ERROR_LINE.fullmatch(err[0])
    assert found
    assert found["code"] == "usage"
    assert err[1] in {f"hint: {hint}", "hint: hwtrust --help"}
    assert len(err) == 2


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"\xff\xfe", id="not UTF-8"),
        pytest.param("süß".encode(), id="not ASCII"),
        pytest.param(b"a" * 5000, id="far too long"),
    ],
)
def test_a_token_file_that_holds_no_token_is_an_error_that_does_not_show_it(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No traceback, and nothing of the file on the terminal (104)."""
    path = tmp_path / "token"
    path.write_bytes(content)
    out, err = ran("enrol", "--token-file", path, capture=capsys, code=2)
    assert not out
    assert err[0] == "hwtrust: invalid value for --token-file: this is no enrolment token [usage]"


def test_without_a_configuration_the_next_step_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever starts with `boot` is sent to `init`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hwtrust.cli.output.CONFIG_PLACES", (Path("hwtrust.toml"),))
    _, err = ran("boot", capture=capsys, code=9)
    assert err[0] == "hwtrust: there is no configuration file [config]"
    assert "hwtrust init" in err[1]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\xff", id="not UTF-8"),
        pytest.param(b"state_dir = 1\n", id="of other types"),
        pytest.param(b"[", id="no TOML"),
    ],
)
def test_a_configuration_that_is_none_is_said_with_its_path(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 9, and the file that is meant."""
    path = tmp_path / "hwtrust.toml"
    path.write_bytes(content)
    _, err = ran("status", "--config", path, capture=capsys, code=9)
    assert str(path) in err[0]
    assert err[0].endswith("[config]")


def test_a_configuration_that_is_not_there_is_said_with_its_path(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A path that was given is not silently replaced by another place."""
    missing = tmp_path / "missing.toml"
    _, err = ran("status", "--config", missing, capture=capsys, code=9)
    assert str(missing) in err[0]


def test_a_full_disk_behind_standard_output_is_an_error() -> None:
    """A result that was not written is no success."""
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [PROGRAM, "--version"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    assert done.stderr == "hwtrust: cannot write: No space left on device [output]\n"


def test_a_reader_that_has_gone_is_no_traceback() -> None:
    """`hwtrust … | head` ends quietly."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [PROGRAM, "--help"], stdout=writer, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writer)
    assert done.returncode == 1
    assert done.stderr == ""


# --- secrets ---------------------------------------------------------------------------


def test_no_option_takes_a_secret_from_the_command_line() -> None:
    """104: arguments are seen by every user of the machine; secrets come by file or stdin."""
    files = click.File
    suspicious = re.compile(r"token|secret|password|passphrase|value|auth\b|pin\b")
    found = {
        (*path, option.name)
        for path, command in COMMANDS.items()
        for option in command.params
        if suspicious.search(str(option.name)) and not isinstance(option.type, files)
    }
    assert found == set()


# --- init's file -----------------------------------------------------------------------


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
        st.text(st.characters(exclude_categories=["Cs"])),
    )
)
def test_a_configuration_holds_whatever_a_path_may_hold(layers: dict[str, str]) -> None:
    """What init writes is what is read: quotes, control characters, signs beyond the BMP."""
    written = tomllib.loads(
        _toml({"state_dir": "s"}, {"tpm": {"pcr": 8, "banks": ["sha256"]}, "layers": layers})
    )
    assert written == {
        "state_dir": "s",
        "tpm": {"pcr": 8, "banks": ["sha256"]},
        "layers": layers,
    }


def test_a_path_that_is_not_utf_8_is_refused() -> None:
    """TOML cannot say it."""
    with pytest.raises(errors.ConfigError) as refused:
        _toml({"state_dir": "\udcff"}, {})
    assert refused.value.code == "config"


# --- measure and tpm list, which need no TPM ---------------------------------------------


def test_measured_layers_are_a_release(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """JSON, in the order given, with versions; the release's where none is given."""
    (tmp_path / "kernel").write_bytes(b"kernel")
    (tmp_path / "www").mkdir()
    layers = [f"kernel@6.1={tmp_path}/kernel", f"www={tmp_path}/www"]
    out, _ = ran("measure", "--release", "2026.11", *layers, capture=capsys, code=0)
    release = json.loads(out)
    assert release["name"] == "2026.11"
    assert [(item["name"], item["version"]) for item in release["layers"]] == [
        ("kernel", "6.1"),
        ("www", "2026.11"),
    ]


def test_a_layer_that_is_not_there_ends_in_its_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 8, by the name of the path."""
    out, err = ran("measure", "--release", "1", f"kernel={tmp_path}/none", capture=capsys, code=8)
    assert not out
    assert f"{tmp_path}/none" in err[0]


def test_a_machine_without_a_tpm_lists_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In words, or as an empty JSON list; that is no error."""
    monkeypatch.setattr("hwtrust.tpm.discover.discover", list)
    out, _ = ran("tpm", "list", "--json", capture=capsys, code=0)
    assert json.loads(out) == []
    out, _ = ran("tpm", "list", capture=capsys, code=0)
    assert out.startswith("no TPM found")


# --- start -------------------------------------------------------------------------------

SLOW = ("tpm2_pytss", "pyudev", "ssl", "sqlite3", "asyncio", "http.client")


def loaded_by(*lines: list[str]) -> set[str]:
    """Which of the slow modules are loaded by command lines, in a fresh interpreter."""
    program = (
        "import sys, json\n"
        "from hwtrust.cli import run\n"
        f"codes = [run(line) for line in {list(lines)!r}]\n"
        f"print(json.dumps([codes, [name for name in {SLOW!r} if name in sys.modules]]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    codes, modules = json.loads(done.stdout.splitlines()[-1])
    assert set(codes) == {0}
    return set(modules)


def test_help_loads_neither_the_tpm_stack_nor_tls() -> None:
    """The command starts at once where nothing is asked of a TPM or a backend."""
    helps = [[*path, "--help"] for path in COMMANDS]
    assert loaded_by(["--help"], *helps, ["completion", "zsh"]) == set()


def test_measuring_loads_no_tpm_stack() -> None:
    """Releases are made on machines without one."""
    assert loaded_by(["measure", "--release", "1", f"a={__file__}"]) == set()


def test_a_machine_without_the_tpm_stack_is_told_what_to_install() -> None:
    """Help and offline commands work; the others name the extra, exit code 9."""
    program = (
        "import sys\n"
        "sys.modules['tpm2_pytss'] = sys.modules['pyudev'] = None\n"
        "from hwtrust.cli import run\n"
        "assert run(['--help']) == run(['tpm', 'info', '--help']) == 0\n"
        "sys.exit(run(['tpm', 'info']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 9, done.stderr
    assert done.stderr.splitlines() == [
        "hwtrust: this command needs the TPM stack [config:device:missing]",
        "hint: pip install 'hwtrust[device]'; without the command, 'hwtrust-device[tpm]'",
    ]


def test_a_command_of_the_table_is_what_its_module_has() -> None:
    """Names in the table and names of the commands are the same."""
    assert isinstance(cli, LazyGroup)
    assert [path[-1] for path in COMMANDS] == [command.name for command in COMMANDS.values()]


# --- completion --------------------------------------------------------------------------


def program_path() -> dict[str, str]:
    """An environment in which the shell finds `hwtrust`."""
    return {**os.environ, "PATH": f"{PROGRAM.parent}{os.pathsep}{os.environ['PATH']}"}


LINES = {
    "a command": ("hwtrust ke", "keystore"),
    "a command of a group": ("hwtrust keystore pu", "put"),
    "an option": ("hwtrust enrol --tok", "--token-file"),
    "a choice": ("hwtrust completion ba", "bash"),
}


@pytest.mark.parametrize("case", LINES)
def test_bash_completes(case: str) -> None:
    """The script is sourced, and its function fills COMPREPLY as for the TAB key."""
    line, expected = LINES[case]
    words = line.split()
    script = (
        f"source <(hwtrust completion bash)\n"
        f"COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}\n"
        "complete -p hwtrust >/dev/null || exit 3\n"
        f"_hwtrust_completion hwtrust {words[-1]} {words[-2]}\n"
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        env=program_path(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [expected]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_a_script_for_other_shells_asks_for_the_same(shell: str) -> None:
    """Called with the words so far, the command answers with the completion."""
    cword = "1" if shell == "zsh" else "ke"
    words = {"COMP_WORDS": "hwtrust ke", "COMP_CWORD": cword}
    done = subprocess.run(
        [PROGRAM],
        env={**os.environ, **words, "_HWTRUST_COMPLETE": f"{shell}_complete"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "keystore" in done.stdout
    script = subprocess.run(
        [PROGRAM, "completion", shell], capture_output=True, text=True, check=True
    ).stdout
    assert f"_HWTRUST_COMPLETE={shell}_complete" in script
