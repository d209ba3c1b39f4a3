"""The TPM as a service: clients come and go, and the state is as lasting as its volume."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from cryptography import x509

pytestmark = pytest.mark.containers

Podman = Callable[..., subprocess.CompletedProcess[str]]
IMAGE = "localhost/hwtrust/swtpm"
LOCKED = ("--read-only", "--cap-drop=all", "--security-opt=no-new-privileges")
ZEROS, ONE = "0" * 64, "0" * 63 + "1"
SECONDS = 40


@dataclass(frozen=True)
class Service:
    """A running container with a TPM."""

    podman: Podman
    name: str
    port: int

    def start(self, *options: str) -> None:
        """Run it, and wait until it says that it is healthy."""
        self.podman(
            *("run", "--detach", "--name", self.name, "--network=host", *LOCKED, *options),
            *("--env", "TPM_BIND=127.0.0.1", "--env", f"TPM_PORT={self.port}", IMAGE),
        )
        end = time.monotonic() + SECONDS
        while self.podman("healthcheck", "run", self.name, check=False).returncode:
            assert time.monotonic() < end, self.podman("logs", self.name).stderr
            time.sleep(0.2)  # the health check is asked from here: nobody tells

    def tool(self, *command: str, tcti: str = "") -> str:
        """Run a program of tpm2-tools on it: one client that comes and goes."""
        where = tcti or f"swtpm:host=127.0.0.1,port={self.port}"
        done = subprocess.run(
            [*command, "-T", where], capture_output=True, text=True, check=True, timeout=SECONDS
        )
        return done.stdout

    def pcr(self) -> str:
        """PCR 16 of the bank sha256."""
        return self.tool("tpm2_pcrread", "sha256:16").split("0x")[1].strip()


@pytest.fixture
def service(podman: Podman, name: str) -> Service:
    """A service that is yet to be started."""
    return Service(podman, name, random.randrange(20000, 32000, 2))  # noqa: S311 - a port


def test_clients_follow_each_other_and_only_a_reset_resets(service: Service) -> None:
    """What one client extends the next one reads, until somebody asks for a reset."""
    service.start()
    assert service.pcr() == ZEROS
    service.tool("tpm2_pcrextend", f"16:sha256={ONE}")
    extended = service.pcr()
    assert extended != ZEROS
    service.podman("exec", service.name, "tpm-reset")
    assert service.pcr() == ZEROS


def test_a_client_of_the_unix_socket_has_the_same_tpm(service: Service, name: str) -> None:
    """TCP and socket are two ways to one TPM."""
    service.start("--volume", f"{name}:/run/swtpm")
    service.tool("tpm2_pcrextend", f"16:sha256={ONE}")
    place = service.podman("volume", "inspect", "--format", "{{.Mountpoint}}", name).stdout.strip()
    read = service.tool("tpm2_pcrread", "sha256:16", tcti=f"swtpm:path={place}/tpm.sock")
    assert service.pcr().lower() in read.lower()


def test_the_ek_certificate_is_under_the_ca_that_is_given_out(service: Service) -> None:
    """RSA at its usual index, issued by what /run/swtpm/ek-ca.pem holds."""
    service.start()
    pem = service.podman("exec", service.name, "cat", "/run/swtpm/ek-ca.pem").stdout
    _, issuer = x509.load_pem_x509_certificates(pem.encode())
    done = subprocess.run(
        ["tpm2_nvread", "0x1c00002", "-T", f"swtpm:host=127.0.0.1,port={service.port}"],
        capture_output=True,
        check=True,
        timeout=SECONDS,
    )
    x509.load_der_x509_certificate(done.stdout).verify_directly_issued_by(issuer)


@pytest.mark.parametrize("kept", [True, False], ids=["in a volume", "thrown away"])
def test_a_tpm_lasts_as_long_as_its_volume(service: Service, name: str, *, kept: bool) -> None:
    """The next container is the same TPM with the volume, and another one without."""
    options = ("--volume", f"{name}:/var/lib/swtpm") if kept else ()
    certificates = []
    for _ in range(2):
        service.start(*options)
        certificates.append(service.podman("exec", name, "cat", "/run/swtpm/ek-ca.pem").stdout)
        service.podman("rm", "--force", "--time", "10", "--volumes", name)
    assert (certificates[0] == certificates[1]) is kept


def test_a_signal_ends_it_in_time_and_well(service: Service) -> None:
    """SIGTERM ends it with status 0, long before podman loses its patience."""
    service.start()
    service.podman("stop", "--time", "20", service.name)
    shown = service.podman("inspect", "--format", "{{.State.ExitCode}}", service.name)
    assert int(shown.stdout) == 0
