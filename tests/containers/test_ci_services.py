"""The examples for CI with real containers: any job gets a TPM in the lines that they show."""

from __future__ import annotations

import os
import re
import shutil
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from cryptography import x509

from simulators.example_project import EXAMPLE, build_wheels

pytestmark = pytest.mark.containers

Podman = Callable[..., subprocess.CompletedProcess[str]]
ROOT = Path(__file__).resolve().parents[2]
BASE = os.environ.get("HWTRUST_BASE", "localhost/hwtrust/debian:bookworm")
RANDOM = (
    "import os; from tpm2_pytss import ESAPI\n"
    "with ESAPI(os.environ['TCTI']) as tpm: print(len(bytes(tpm.get_random(8))))"
)
SECONDS = 120
JOB_SECONDS = 900


@pytest.fixture
def beside(podman: Podman, name: str) -> Iterator[Callable[[], str]]:
    """Start what `services` of a CI job starts: an image beside the job, found by its alias."""
    job = yaml.safe_load((ROOT / "docs" / "ci" / "gitlab-ci.yml").read_text())["service"]
    (service,) = job["services"]
    image, _, tag = service["name"].rpartition("/")[2].partition(":")

    def start() -> str:
        podman("network", "create", name)
        podman(
            *("run", "--detach", "--name", name, "--network", name),
            *("--network-alias", service["alias"], f"localhost/hwtrust/{image}:{tag}"),
        )
        return name

    yield start
    podman("rm", "--force", "--ignore", "--time", "0", "--volumes", name)
    podman("network", "rm", "--force", name, check=False)


def lines_of(job: str) -> tuple[list[str], dict[str, str]]:
    """The shell lines of a job and its variables; GitHub's are the same, see unit tests."""
    found = yaml.safe_load((ROOT / "docs" / "ci" / "gitlab-ci.yml").read_text())[job]
    return found["script"], found.get("variables", {})


def run_job(podman: Podman, lines: list[str], *options: str) -> str:
    """Run the lines as a CI runner does, in a container of the distribution; what is printed."""
    script = "set -euo pipefail\n" + "\n".join(lines)
    command = ("run", "--rm", *options, BASE, "bash", "-c", script)
    done = podman(*command, check=False, seconds=JOB_SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_job_with_the_service_has_a_tpm(podman: Podman, beside: Callable[[], str]) -> None:
    """The three lines that name the service, and the job's own: a PCR is read, and more."""
    network = beside()
    lines, variables = lines_of("service")
    options = [f"--env={name}={value}" for name, value in variables.items()]
    printed = run_job(podman, lines, "--network", network, *options)
    assert "sha256:" in printed
    assert re.search(r"^[0-9a-f]{16}$", printed, re.MULTILINE)


@pytest.mark.long
@pytest.mark.parametrize("job", ["tests", "tests-on-service"])
def test_the_example_project_passes_in_a_container_that_has_nothing(
    podman: Podman, beside: Callable[[], str], tmp_path: Path, job: str
) -> None:
    """Three lines, as they stand, in the distribution's bare image, with and without a service.

    hwtrust's wheels are those of this checkout; all else comes from where anybody has it.
    """
    project = Path(shutil.copytree(EXAMPLE, tmp_path / "project"))
    wheels = build_wheels(tmp_path / "wheels")
    authorities = "/etc/ssl/certs/ca-certificates.crt"
    options = [f"--volume={wheels}:/wheels:ro", "--env=PIP_FIND_LINKS=/wheels"]
    if Path(authorities).exists():  # a network may have an authority of its own
        options += [
            f"--volume={authorities}:/authorities.pem:ro",
            "--env=PIP_CERT=/authorities.pem",
        ]
    lines, variables = lines_of(job)
    assert len(lines) == 3
    options += [f"--env={name}={value}" for name, value in variables.items()]
    if variables:
        options += ["--network", beside()]
    options += [f"--volume={project}:/builds", "--workdir=/builds"]
    written = (project / "tests" / "test_terminal.py").read_text().count("\ndef test_")
    printed = run_job(podman, lines, *options)
    assert f"{written} passed" in printed
    served = "These tests run on the TPM swtpm:host=tpm,port=2321."
    assert (served in printed) is bool(variables)


def podman_sh(*arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run docs/ci/podman.sh as a vendor does, in a directory of theirs."""
    return subprocess.run(
        ["bash", str(ROOT / "docs" / "ci" / "podman.sh"), *arguments],
        cwd=cwd,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )


def running(podman: Podman) -> set[str]:
    """Containers that run the TPM's image."""
    shown = podman("ps", "--quiet", "--filter", "ancestor=localhost/hwtrust/swtpm:latest")
    return set(shown.stdout.split())


def test_plain_podman_runs_a_command_beside_a_tpm(
    podman: Podman, podman_settings: dict[str, str], tmp_path: Path
) -> None:
    """The command finds the TPM, and its files; afterwards the TPM is gone."""
    before = running(podman)
    (tmp_path / "test.py").write_text(RANDOM)
    tmp_path.chmod(0o755)
    image = "localhost/hwtrust/device"
    done = podman_sh(image, "python3", "test.py", cwd=tmp_path, **podman_settings)
    assert (done.returncode, done.stdout) == (0, "8\n"), done.stderr
    failed = podman_sh(image, "sh", "-c", "exit 7", cwd=tmp_path, **podman_settings)
    assert failed.returncode == 7
    assert running(podman) - before == set()


def test_plain_podman_tells_when_there_is_no_tpm(
    podman: Podman, podman_settings: dict[str, str], tmp_path: Path
) -> None:
    """The image is not there: the command is not run, and the status is podman's."""
    variables = podman_settings | {"HWTRUST_SWTPM_IMAGE": "localhost/hwtrust/swtpm:none"}
    done = podman_sh(BASE, "touch", "/work/ran", cwd=tmp_path, **variables)
    assert done.returncode == 125, done.stderr
    assert not (tmp_path / "ran").exists()


@pytest.fixture
def from_the_document(
    podman: Podman, podman_settings: dict[str, str]
) -> Iterator[Callable[[str, str], None]]:
    """Run the command that a section of docs/containers.md shows, until its container is healthy.

    What it makes has the names of the document, and is gone after the test.
    """
    text = (ROOT / "docs" / "containers.md").read_text()
    before = set(podman("volume", "ls", "--quiet").stdout.split())
    started: set[str] = set()

    def start(section: str, name: str) -> None:
        content = text.partition(f"## {section}\n")[2].partition("\n## ")[0]
        (block,) = re.findall(r"```sh\n(.*?)```", content, re.DOTALL)
        wanted = {name, *re.findall(r"--volume (\w+):", block)}
        names = podman("ps", "--all", "--format", "{{.Names}}").stdout.split()
        if taken := wanted & (before | set(names)):
            pytest.skip(f"somebody's own, which this would change: {taken}")
        subprocess.run(
            ["bash", "-euc", block],
            check=True,
            env=os.environ | podman_settings,
            timeout=SECONDS,
            capture_output=True,
        )
        started.update(wanted)
        end = time.monotonic() + SECONDS
        while podman("healthcheck", "run", name, check=False).returncode:
            assert time.monotonic() < end, podman("logs", name).stderr
            time.sleep(0.3)  # the health check is asked from here: nobody tells

    yield start
    for name in started:
        podman("rm", "--force", "--ignore", "--time", "0", "--volumes", name)
        podman("volume", "rm", "--force", name, check=False)


def test_a_client_on_this_machine_has_the_tpm_of_the_document(
    from_the_document: Callable[[str, str], None],
) -> None:
    """docs/containers.md: one command, and a TPM answers on loopback."""
    from_the_document("A TPM for CI", "tpm")
    done = subprocess.run(
        ["tpm2_getrandom", "--hex", "8", "-T", "swtpm:host=127.0.0.1,port=2321"],
        check=True,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert len(done.stdout.strip()) == 16


def test_the_backend_of_the_document_answers_on_this_machine(
    from_the_document: Callable[[str, str], None],
) -> None:
    """docs/containers.md: one command, and TLS is spoken on loopback."""
    from_the_document("A backend", "backend")
    pem = ssl.get_server_certificate(("localhost", 8443), timeout=SECONDS)
    assert x509.load_pem_x509_certificate(pem.encode()).not_valid_after_utc > datetime.now(UTC)


def test_what_is_marked_runs_on_the_service(
    from_the_document: Callable[[str, str], None],
) -> None:
    """The example project's test for any TPM, with the variables of the job: on the service."""
    from_the_document("A TPM for CI", "tpm")
    _, variables = lines_of("tests-on-service")
    given = {name: tcti.replace("host=tpm", "host=127.0.0.1") for name, tcti in variables.items()}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", "hardware"],
        cwd=EXAMPLE,
        env=os.environ | given | {"PYTHONPATH": str(EXAMPLE / "src")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "These tests run on the TPM swtpm:host=127.0.0.1,port=2321." in done.stdout
    assert "1 passed" in done.stdout
