"""A vendor's machine: an environment with nothing but the wheels of this checkout, and a project.

    wheels = build_wheels(tmp_path / "wheels")
    with_project = fresh_environment(tmp_path / "env", wheels, EXAMPLE)
    run_tests(with_project, EXAMPLE)

What is not in this checkout comes from uv's cache; where that does not have it, from the
package index. Versions are those of uv.lock.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from simulators.distributions import DISTRIBUTIONS, ROOT, uv

EXAMPLE: Final = ROOT / "tests" / "examples" / "payments_terminal"

PIP: Final = "pip"
"""The name of the program that `installer` writes."""

_MINUTES: Final = 60.0
_INSTALLER: Final = """\
#!/bin/sh
# pip install ARGUMENTS, of this environment, by uv.
shift
set -- --quiet --python {python} --find-links {wheels} --constraint {constraints} "$@"
{uv} pip install --offline "$@" 2>/dev/null || exec {uv} pip install "$@"
"""


def vendors_environ() -> dict[str, str]:
    """The environment of somebody who has not set anything of Python's or of ours."""
    ours = ("HWTRUST_", "PYTEST_", "PYTHON", "VIRTUAL_ENV", "UV_PROJECT")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def run(*command: str | Path, cwd: Path, seconds: float, path: Path | None = None) -> str:
    """What a program prints; its failure is shown with all that it has said.

    `path` is looked for programs first.
    """
    environ = vendors_environ()
    if path is not None:
        environ["PATH"] = f"{path}:{environ['PATH']}"
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, f"{command}: {done.stdout}"
    return done.stdout


def build_wheels(directory: Path) -> Path:
    """Build every distribution, without the network; gives `directory`."""
    for source in DISTRIBUTIONS.values():
        build = (sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir")
        run(*build, directory, source, cwd=ROOT, seconds=2 * _MINUTES)
    return directory


def make_environment(directory: Path, wheels: Path) -> Path:
    """A virtual environment with nothing in it but the program pip; gives `directory`."""
    constraints = directory.with_name(f"{directory.name}.constraints")
    export = (uv(), "export", "--frozen", "--quiet", "--all-packages", "--all-extras")
    options = ("--no-hashes", "--no-header", "--no-emit-workspace", "--output-file")
    run(*export, *options, constraints, cwd=ROOT, seconds=_MINUTES)
    make = (uv(), "venv", "--quiet", "--python", sys.executable, str(directory))
    run(*make, cwd=ROOT, seconds=_MINUTES)
    pip = directory / "bin" / PIP
    python = directory / "bin" / "python"
    text = _INSTALLER.format(uv=uv(), python=python, wheels=wheels, constraints=constraints)
    pip.write_text(text)
    pip.chmod(0o755)
    return directory


def fresh_environment(directory: Path, wheels: Path, project: Path) -> Path:
    """An environment into which `project` and what its tests need is installed."""
    make_environment(directory, wheels)
    pip = str(directory / "bin" / PIP)
    install = (pip, "install", str(project), "hwtrust-backend", "pytest")
    run(*install, cwd=directory, seconds=10 * _MINUTES)
    return directory


def run_tests(environment: Path, project: Path, *arguments: str, seconds: float = 300) -> str:
    """What pytest prints in `project`."""
    pytest = (str(environment / "bin" / "pytest"), "-p", "no:cacheprovider", *arguments)
    return run(*pytest, cwd=project, seconds=seconds)
