"""The distributions as they are built, and environments that they are installed into.

Environments are made from what uv.lock names and uv has kept: nothing is fetched
where `scripts/setup` has run. The distributions themselves are installed from their
wheels, far from the checkout.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

ROOT = Path(__file__).resolve().parents[2]
DISTRIBUTIONS = {
    "hwtrust": ROOT,
    "hwtrust-backend": ROOT / "backend",
    "hwtrust-device": ROOT / "packaging" / "device",
}
PACKAGES = {
    "hwtrust": "hwtrust",
    "hwtrust-backend": "hwtrust_backend",
    "hwtrust-device": "hwtrust",
}
"""What each distribution is imported as."""
_OURS = {
    "hwtrust": ("hwtrust-device", "hwtrust"),
    "hwtrust-backend": ("hwtrust-device", "hwtrust", "hwtrust-backend"),
    "hwtrust-device": ("hwtrust-device",),
}
"""What of this checkout each distribution needs, itself last."""


def build(into: Path, source: Path) -> None:
    """Build a distribution's wheel and sdist as the build system of its pyproject.toml does."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", into],
        cwd=source,
        check=True,
        capture_output=True,
    )


def wheel_of(directory: Path, name: str) -> Path:
    """The one wheel of a distribution."""
    (wheel,) = directory.glob(f"{name.replace('-', '_')}-[0-9]*.whl")
    return wheel


def sdist_of(directory: Path, name: str) -> Path:
    """The one source archive of a distribution."""
    (sdist,) = directory.glob(f"{name.replace('-', '_')}-[0-9]*.tar.gz")
    return sdist


def clean_environ() -> dict[str, str]:
    """The environment without what leads Python into the checkout."""
    return {
        name: value
        for name, value in os.environ.items()
        if name not in {"PYTHONPATH", "VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT"}
        and not name.startswith("HWTRUST_")
    }


def uv() -> str:
    """The program uv, which scripts/setup puts into .tools where it is not on PATH."""
    found = shutil.which("uv", path=f"{ROOT}/.tools/bin:{os.environ['PATH']}")
    assert found, "uv is not installed: scripts/setup"
    return found


@dataclass(frozen=True, slots=True)
class Environment:
    """A virtual environment, and a directory of its own to run programs in."""

    bin: Path
    home: Path

    def run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment; whatever it gives."""
        return subprocess.run(
            [self.bin / program, *arguments],
            cwd=self.home,
            env=clean_environ(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )


class Install(Protocol):
    """Installs a distribution where nothing else is."""

    def __call__(self, name: str, extras: tuple[str, ...] = ()) -> Environment:
        """A new environment with the distribution, and with what its extras bring."""


def installed(
    built: Path, home: Path, name: str, extras: tuple[str, ...], *, python: str = sys.executable
) -> Environment:
    """Make an environment in `home` with a distribution's wheel and all that it needs."""

    def call(*command: str) -> None:
        subprocess.run(
            [uv(), *command], cwd=ROOT, env=clean_environ(), check=True, capture_output=True
        )

    bin_, locked = home / "env" / "bin", str(home / "pylock.toml")
    call(
        *("export", "--frozen", "--package", name, "--no-dev", "--no-emit-workspace"),
        *(word for extra in extras for word in ("--extra", extra)),
        *("--format", "pylock.toml", "--output-file", locked),
    )
    call("venv", "--python", python, str(bin_.parent))
    into = ("--python", str(bin_ / "python"))
    call("pip", "install", *into, "--requirements", locked)
    wheels = [str(wheel_of(built, one)) for one in _OURS[name]]
    call("pip", "install", *into, "--no-deps", *wheels)
    call("pip", "check", *into)
    return Environment(bin_, home)
