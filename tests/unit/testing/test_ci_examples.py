"""The examples for CI: each file is one that the service reads, and each of its lines works.

The services themselves are not here. Their steps are run as they stand, by bash, in a copy of
the example project, with two stand-ins on PATH: `apt-get` says what it would install and installs
nothing, `pip` takes hwtrust from this checkout and the rest from uv's cache.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from simulators.distributions import ROOT
from simulators.example_project import (
    EXAMPLE,
    build_wheels,
    fresh_environment,
    make_environment,
    run,
    run_tests,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

CI = ROOT / "docs" / "ci"
VARIABLES = {
    "service": ("TPM2TOOLS_TCTI",),
    "tests-on-service": ("HWTRUST_TEST_TCTI", "HWTRUST_TEST_HARDWARE_OK"),
}
APT_GET = """\
#!/bin/sh
# Whether apt knows these packages; nothing is installed.
[ "$1" = update ] && exit 0
exec /usr/bin/apt-get --simulate "$@"
"""
PODMAN = """\
#!/bin/sh
echo "$*" >>calls
case "$*" in *--detach*) echo tpm-1 ;; *fail*) exit 7 ;; esac
"""
VENV = """\
#!/bin/sh
# `python3 -m venv .venv`, with a pip that knows this checkout's wheels.
[ "$*" = "-m venv .venv" ] && exec ln -s {environment} .venv
exec {python} "$@"
"""


def read(name: str) -> dict[Any, Any]:
    """A file for a CI service."""
    parsed: dict[Any, Any] = yaml.safe_load((CI / name).read_text())
    return parsed


def steps(job: str) -> dict[str, list[str]]:
    """The shell lines of a job, by the service that runs it."""
    hub = read("github-actions.yml")["jobs"][job]["steps"]
    lab = read("gitlab-ci.yml")[job]["script"]
    return {"github": [step["run"] for step in hub if "run" in step], "gitlab": lab}


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The distributions, as a vendor gets them."""
    return build_wheels(tmp_path_factory.mktemp("wheels"))


@pytest.fixture(scope="module")
def installed(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment of nothing but the built wheels, and what the example project needs."""
    return fresh_environment(tmp_path_factory.mktemp("vendor") / "env", wheels, EXAMPLE)


def stand_in(directory: Path, name: str, text: str) -> None:
    """A program of that name."""
    directory.mkdir(exist_ok=True)
    (directory / name).write_text(text)
    (directory / name).chmod(0o755)


@pytest.fixture
def tcp_tpm(tmp_path: Path) -> Iterator[str]:
    """A TPM on TCP, in the place of the service beside a job; gives its TCTI."""
    if shutil.which("swtpm") is None:
        pytest.fail("swtpm is not installed: scripts/setup")
    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        port = first.getsockname()[1]
        second.bind(("127.0.0.1", port + 1))
    (tmp_path / "tpm").mkdir()
    command = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={tmp_path / 'tpm'}"]
    command += ["--server", f"type=tcp,port={port},bindaddr=127.0.0.1"]
    command += ["--ctrl", f"type=tcp,port={port + 1},bindaddr=127.0.0.1"]
    command += ["--flags", "not-need-init,startup-clear"]
    with subprocess.Popen(command) as process:
        try:
            for _ in range(10_000):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
            yield f"swtpm:host=127.0.0.1,port={port}"
        finally:
            process.terminate()


def test_the_example_project_passes_where_only_wheels_are_installed(
    installed: Path, tmp_path: Path
) -> None:
    """An environment of nothing but the built wheels; the project's tests, unchanged."""
    project = Path(shutil.copytree(EXAMPLE, tmp_path / "project"))
    printed = run_tests(installed, project)
    written = (project / "tests" / "test_terminal.py").read_text().count("\ndef test_")
    assert written >= 7
    assert f"{written} passed" in printed


def test_both_services_run_the_same_lines() -> None:
    """What is tested of one holds for the other, and it is three lines as promised."""
    for job in ("tests", "service", "tests-on-service"):
        lines = steps(job)
        assert lines["github"] == lines["gitlab"]
        assert len(lines["github"]) == 3
    assert steps("tests-on-service") == steps("tests")


def test_the_files_have_what_their_service_asks_for() -> None:
    """Triggers, images, and one name under which the job finds the TPM."""
    hub, lab = read("github-actions.yml"), read("gitlab-ci.yml")
    assert hub[True] == ["push", "pull_request"]  # `on`, to a reader of YAML 1.1
    for name, job in hub["jobs"].items():
        assert job["runs-on"]
        assert job["container"] == lab[name]["image"]
    for name, variables in VARIABLES.items():
        service = hub["jobs"][name]
        (alias,) = service["services"]
        (beside,) = lab[name]["services"]
        assert beside == {"name": service["services"][alias]["image"], "alias": alias}
        tcti = f"swtpm:host={alias},port=2321"
        assert lab[name]["variables"] == service["env"] == dict.fromkeys(variables, tcti)


def test_the_lines_of_the_job_with_fixtures_work(wheels: Path, tmp_path: Path) -> None:
    """Every line, in order, in a checkout of the vendor's project."""
    project = Path(shutil.copytree(EXAMPLE, tmp_path / "project"))
    environment = make_environment(tmp_path / "env", wheels)
    programs = tmp_path / "bin"
    stand_in(programs, "apt-get", APT_GET)
    python = environment / "bin" / "python"
    stand_in(programs, "python3", VENV.format(environment=environment, python=python))
    *before, last = steps("tests")["github"]
    printed = ""
    for line in [*before, f"{last} -k opens_after"]:
        bash = ("bash", "-euo", "pipefail", "-c", line)
        printed = run(*bash, cwd=project, seconds=600, path=programs)
    assert "1 passed" in printed


def test_the_lines_of_the_job_with_a_service_work(tcp_tpm: str, tmp_path: Path) -> None:
    """Every line, against a TPM on TCP."""
    stand_in(tmp_path / "bin", "apt-get", APT_GET)
    environ = os.environ | {
        "TPM2TOOLS_TCTI": tcp_tpm,
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
    }
    for line in steps("service")["github"]:
        bash = ["bash", "-euo", "pipefail", "-c", line]
        subprocess.run(bash, env=environ, check=True, timeout=60, cwd=tmp_path)


def test_what_is_marked_runs_on_the_service(installed: Path, tcp_tpm: str, tmp_path: Path) -> None:
    """The example project with the job's variables: one test on the service, the others not."""
    project = Path(shutil.copytree(EXAMPLE, tmp_path / "project"))
    variables = [f"{name}={tcp_tpm}" for name in VARIABLES["tests-on-service"]]
    for chosen, served in (("needs", True), ("opens_after", False)):
        pytest_of = str(installed / "bin" / "pytest")
        command = ("env", *variables, pytest_of, "-k", chosen)
        printed = run(*command, cwd=project, seconds=300)
        assert "1 passed" in printed
        assert (f"These tests run on the TPM {tcp_tpm}." in printed) is served


def test_the_document_shows_the_files_lines() -> None:
    """The YAML in docs/testing.md stands in the files as it is."""
    text = (ROOT / "docs" / "testing.md").read_text()
    blocks = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 3
    lab = (CI / "gitlab-ci.yml").read_text()
    assert [block for block in blocks if block not in lab] == []


def test_podman_runs_a_command_beside_a_tpm(tmp_path: Path) -> None:
    """The script's calls in their order: a TPM on a network of its own, which ends in any case."""
    stand_in(
        tmp_path / "bin",
        "podman",
        PODMAN,
    )
    script = ["bash", str(CI / "podman.sh")]
    environ = os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    for command, status in ((["debian:12", "true"], 0), (["debian:12", "fail"], 7), (["one"], 2)):
        (tmp_path / "calls").unlink(missing_ok=True)
        done = subprocess.run(script + command, env=environ, cwd=tmp_path, check=False, timeout=60)
        assert done.returncode == status
        if status != 2:
            calls = (tmp_path / "calls").read_text().splitlines()
            assert calls[0] == "run --detach --rm --network none localhost/hwtrust/swtpm"
            assert calls[1] == "exec tpm-1 tpm-health"
            assert "--network container:tpm-1" in calls[2]
            assert calls[-1] == "kill tpm-1"


def test_the_command_that_the_document_installs_by_works(wheels: Path, tmp_path: Path) -> None:
    """The shell block of docs/testing.md, in an empty environment: the fixtures are there."""
    text = (ROOT / "docs" / "testing.md").read_text()
    (block,) = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    programs = make_environment(tmp_path / "env", wheels) / "bin"
    run("bash", "-euo", "pipefail", "-c", block, cwd=tmp_path, seconds=600, path=programs)
    printed = run(
        *(programs / "python", "-m", "pytest", "--fixtures", "-q"), cwd=tmp_path, seconds=60
    )
    assert {"tpm", "backend", "enrolled_device"} <= set(
        re.findall(r"^(\w+)", printed, re.MULTILINE)
    )
