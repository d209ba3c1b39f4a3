"""Backend on SQLite and device: locked down as far as podman can, and what lasts is in volumes.

They share the network of the TPM's container, in which there is nothing but loopback.
"""

from __future__ import annotations

import json
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

pytestmark = pytest.mark.containers

Podman = Callable[..., subprocess.CompletedProcess[str]]
LOCKED = (
    *("--read-only", "--cap-drop=all", "--security-opt=no-new-privileges"),
    *("--tmpfs", "/tmp"),  # noqa: S108 - the container's own
)
BACKEND = {"data": "/var/lib/hwtrust-backend", "passphrase": "/etc/hwtrust-backend"}
PLACES = {
    "tpm": {"tpm": "/var/lib/swtpm", "vendor": "/run/swtpm"},
    "backend": BACKEND,
    "device": {"device": "/var/lib/hwtrust", "factory": "/factory"},
    "factory": BACKEND | {"vendor": "/tpm", "factory": "/factory"},
}
IMAGES = {"tpm": "swtpm", "backend": "backend", "device": "device", "factory": "backend"}
ENVIRONMENT = {
    "backend": "HWTRUST_BACKEND_URL=https://localhost:8443",
    "device": "HWTRUST_TCTI=swtpm:host=localhost,port=2321",
}
SECONDS = 60


@dataclass(frozen=True)
class Machines:
    """A TPM, a backend and a device that is enrolled, each a container with volumes."""

    podman: Podman
    prefix: str

    def name(self, role: str) -> str:
        """The name of a container, or of a volume."""
        return f"{self.prefix}-{role}"

    def run(self, role: str, *command: str, check: bool = True) -> tuple[int, str]:
        """Run a new container on the volumes that there are; gives its status and what it says."""
        volumes = [
            f"--volume={self.name(volume)}:{place}" for volume, place in PLACES[role].items()
        ]
        network = f"container:{self.name('tpm')}" if role in ENVIRONMENT else "none"
        environment = ["--env", ENVIRONMENT[role]] if role in ENVIRONMENT else []
        kind = ["--rm"] if command else ["--detach", "--name", self.name(role)]
        image = f"localhost/hwtrust/{IMAGES[role]}"
        done = self.podman(
            *("run", f"--network={network}", *LOCKED, *volumes, *environment, *kind, image),
            *command,
            check=check,
        )
        return done.returncode, done.stdout + done.stderr

    def replace(self, role: str) -> None:
        """End a container and throw it away, and start another on its volumes."""
        self.podman("rm", "--force", "--time", "20", "--volumes", self.name(role))
        self.run(role)
        self.await_health(role)

    def await_health(self, role: str) -> None:
        """Wait until its health check is content."""
        end = time.monotonic() + SECONDS
        while self.podman("healthcheck", "run", self.name(role), check=False).returncode:
            logs = self.podman("logs", self.name(role))
            assert time.monotonic() < end, logs.stdout + logs.stderr
            time.sleep(0.5)  # the health check is asked from here: nobody tells

    def inside(self, role: str, *command: str) -> str:
        """What a command prints in a container."""
        return self.podman("exec", self.name(role), *command).stdout

    def device(self) -> dict[str, object]:
        """The one device that the backend knows."""
        printed = self.inside("backend", "hwtrust-backend", "devices", "--json")
        (device,) = json.loads(printed)
        found: dict[str, object] = device
        return found


@pytest.fixture(scope="module")
def machines(podman: Podman) -> Iterator[Machines]:
    """All of them, healthy; removed with their volumes after the last test."""
    made = Machines(podman, f"hwtrust-test-{uuid.uuid4().hex[:12]}")
    try:
        for role in ("tpm", "backend", "device"):
            made.run(role)
        made.run("factory", "provision")
        made.await_health("backend")
        made.await_health("device")
        yield made
    finally:
        for role in ("device", "backend", "tpm"):
            podman("rm", "--force", "--ignore", "--time", "5", "--volumes", made.name(role))
        for volume in {volume for places in PLACES.values() for volume in places}:
            podman("volume", "rm", "--force", made.name(volume), check=False)


def test_a_backend_has_its_database_and_its_keys_after_a_restart(machines: Machines) -> None:
    """Another container on the same volumes knows the device, and opens its own keys."""
    before = machines.device()
    key = machines.inside("backend", "cat", "/var/lib/hwtrust-backend/trust.json")
    machines.replace("backend")
    after = machines.device()
    assert (after["device"], after["epoch"]) == (before["device"], before["epoch"])
    assert machines.inside("backend", "cat", "/var/lib/hwtrust-backend/trust.json") == key


def test_a_device_is_the_same_after_a_reboot(machines: Machines) -> None:
    """It loads with the root that it has: it is trusted without another enrolment."""
    before = machines.device()
    machines.inside("tpm", "tpm-reset")
    machines.replace("device")
    after = machines.device()
    assert (after["device"], after["epoch"]) == (before["device"], before["epoch"])
    log = machines.podman("logs", machines.name("device"))
    assert "the key store is open" in log.stdout + log.stderr
    assert "enrolled" not in log.stdout + log.stderr


def test_a_backend_without_its_passphrase_does_not_make_another(machines: Machines) -> None:
    """Its keys would be lost: it ends, and says why."""
    volume = f"--volume={machines.name('data')}:/var/lib/hwtrust-backend"
    done = machines.podman(
        *("run", "--rm", "--network=none", *LOCKED, volume, "localhost/hwtrust/backend"),
        check=False,
    )
    assert done.returncode == 1
    assert "passphrase" in done.stderr


@pytest.mark.parametrize("role", ["tpm", "backend", "device"])
def test_a_container_may_write_only_where_its_volumes_are(machines: Machines, role: str) -> None:
    """The root file system is read-only, the user is nobody special, and has no capability."""
    name = machines.name(role)
    assert int(machines.inside(role, "id", "-u")) > 10_000
    status = machines.inside(role, "cat", "/proc/self/status")
    assert "CapEff:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status
    (place, *_) = PLACES[role].values()
    for directory, allowed in ((place, True), ("/usr/local", False), ("/opt", False)):
        script = f"touch {directory}/probe && rm {directory}/probe"
        done = machines.podman("exec", name, "sh", "-c", script, check=False)
        assert (done.returncode == 0) is allowed, directory
    root = machines.podman("exec", "--user=0", name, "touch", "/usr/local/probe", check=False)
    assert root.returncode != 0


@pytest.mark.parametrize(
    ("image", "question"),
    [("swtpm", "tpm-health"), ("backend", "backend-health"), ("device", "device-health")],
)
def test_what_does_not_serve_is_not_healthy(podman: Podman, image: str, question: str) -> None:
    """A health check that nobody answers fails."""
    done = podman(
        *("run", "--rm", "--network=none", *LOCKED, f"localhost/hwtrust/{image}", question),
        check=False,
    )
    assert done.returncode == 1
