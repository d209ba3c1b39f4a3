"""A resource manager before a software TPM, and OpenSSL's provider for keys in a TPM.

    with ResourceManager.start(tpm, directory) as manager:
        subprocess.run([...], env=manager.environment)     # tcti: manager.tcti

tpm2-abrmd on a D-Bus of its own gives a bare TPM what /dev/tpmrm0 has: several
programs at once, each with objects of its own. It ends with its test.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hwtrust.testing.swtpm import Swtpm

TCTI: Final = "tabrmd:bus_type=session"
OLDEST: Final = (1, 2)
"""The first tpm2-openssl whose keys Python's ssl can use."""

_DOCUMENT: Final = Path(__file__).resolve().parents[2] / "docs" / "platforms.md"
_START_SECONDS: Final = 20
_FIRST_DEBIAN: Final = 13
"""The first Debian that has such a provider."""


@dataclass(frozen=True, slots=True)
class ResourceManager:
    """A running tpm2-abrmd. `environment` is that of a process that reaches it."""

    environment: dict[str, str]
    tcti: str = TCTI

    @classmethod
    @contextlib.contextmanager
    def start(cls, tpm: Swtpm, directory: Path, *, openssl_conf: Path) -> Iterator[Self]:
        """One that has `tpm` to itself; OpenSSL is set up by `openssl_conf`."""
        with contextlib.ExitStack() as stack:
            bus = stack.enter_context(_bus(directory))
            environment = {
                **os.environ,
                "DBUS_SESSION_BUS_ADDRESS": bus,
                "OPENSSL_CONF": str(openssl_conf),
                "TPM2OPENSSL_TCTI": TCTI,
            }
            arguments = ["tpm2-abrmd", "--session", f"--tcti={tpm.tcti}"]
            if os.geteuid() == 0:
                arguments.append("--allow-root")
            log = stack.enter_context((directory / "tpm2-abrmd.log").open("wb"))
            process = stack.enter_context(_running(arguments, environment, log.fileno()))
            end = time.monotonic() + _START_SECONDS
            while not _answers(environment):
                said = (directory / "tpm2-abrmd.log").read_text()
                assert process.poll() is None, f"tpm2-abrmd has ended: {said}"
                assert time.monotonic() < end, f"tpm2-abrmd does not answer: {said}"
            yield cls(environment)


@contextlib.contextmanager
def _bus(directory: Path) -> Iterator[str]:
    arguments = ["dbus-daemon", "--session", "--nofork", "--print-address=1"]
    arguments.append(f"--address=unix:path={directory / 'bus'}")
    with _running(arguments, dict(os.environ), subprocess.PIPE) as process:
        assert process.stdout
        # It says where it is when it is there.
        yield process.stdout.readline().decode().strip()


@contextlib.contextmanager
def _running(
    arguments: list[str], environment: dict[str, str], out: int
) -> Iterator[subprocess.Popen[bytes]]:
    # Not left behind even where the tests are killed.
    with subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=subprocess.DEVNULL if out == subprocess.PIPE else subprocess.STDOUT,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _answers(environment: dict[str, str]) -> bool:
    asked = subprocess.run(
        ["tpm2_getrandom", "--tcti", TCTI, "--hex", "8"],
        env=environment,
        capture_output=True,
        check=False,
    )
    return asked.returncode == 0


def provider_version(tcti: str) -> tuple[int, ...]:
    """The version of the tpm2-openssl provider, which loads only with a TPM; () without it."""
    openssl = shutil.which("openssl")
    assert openssl, "openssl is not installed: run scripts/setup"
    listed = subprocess.run(
        [openssl, "list", "-providers", "-provider", "tpm2", "-verbose"],
        env={**os.environ, "TPM2OPENSSL_TCTI": tcti},
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"version: (\d+)\.(\d+)", listed.stdout.partition("tpm2")[2])
    return tuple(map(int, found.groups())) if found else ()


def documented_configuration() -> str:
    """OpenSSL's configuration, as the documentation shows it."""
    blocks = re.findall(r"```ini\n(.*?)```", _DOCUMENT.read_text(), re.DOTALL)
    (shown,) = (str(block) for block in blocks if "openssl_init" in block)
    return shown


def require_provider(
    tcti: str, *, manager: bool = True, command: str = "scripts/platform-test --quick trixie"
) -> None:
    """Skip a test where no provider can use a key of the TPM; `command` runs it where one can.

    On CI it fails instead where the distribution has one. With `manager` the test
    needs the programs of ResourceManager too.
    """
    programs = ("tpm2-abrmd", "dbus-daemon") if manager else ()
    if provider_version(tcti) >= OLDEST and all(map(shutil.which, programs)):
        return
    wanted = ", ".join(("needs tpm2-openssl 1.2 or newer", *programs))
    if os.environ.get("CI") and _debian() >= _FIRST_DEBIAN:
        pytest.fail(f"{wanted}: apt-get install {' '.join(('tpm2-openssl', *programs))}")
    pytest.skip(f"{wanted}; Debian has them since 13: {command}")


def _debian() -> int:
    """Which Debian this is; 0 on another system."""
    release = platform.freedesktop_os_release()
    version = release.get("VERSION_ID", "")
    return int(version) if release.get("ID") == "debian" and version.isdecimal() else 0
