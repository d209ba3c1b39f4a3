"""Everything that is checked, as sessions: `nox -s lint types`, `nox -l` lists them.

Thin on purpose: each session calls what a developer calls without nox, in the
environment that scripts/setup makes from uv.lock. nox makes no environment of its own.
What follows `--` is passed on: `nox -s tests -- tests/unit`.
"""

from __future__ import annotations

from pathlib import Path

import nox

BIN = Path(__file__).resolve().parent / ".venv" / "bin"

nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "types", "tests"]
nox.options.stop_on_first_error = False


def tool(session: nox.Session, name: str, *arguments: str) -> None:
    """Run a program of the repository's environment."""
    session.run(str(BIN / name), *arguments, external=True)


def script(session: nox.Session, name: str, *arguments: str) -> None:
    """Run a program of scripts/, with what follows `--`."""
    session.run(f"scripts/{name}", *arguments, *session.posargs, external=True)


@nox.session
def lint(session: nox.Session) -> None:
    """Style, format and the architecture's import rules."""
    tool(session, "ruff", "check")
    tool(session, "ruff", "format", "--check")
    tool(session, "lint-imports", "--no-logo")


@nox.session
def types(session: nox.Session) -> None:
    """Strict types of product, scripts and tests."""
    tool(session, "mypy")


@nox.session
def tests(session: nox.Session) -> None:
    """The tests; all of them on two workers unless told otherwise."""
    script(session, "test", *([] if session.posargs else ["-n", "2", "--dist", "worksteal"]))


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation site, with warnings as errors."""
    script(session, "docs")


@nox.session
def packages(session: nox.Session) -> None:
    """Wheels and source archives: built, looked into, installed where nothing else is."""
    script(session, "test", "-m", "", "tests/packages")


@nox.session
def vm(session: nox.Session) -> None:
    """The hardware tests in a virtual machine, on a kernel's own TPM driver."""
    script(session, "vm-test")


@nox.session
def containers(session: nox.Session) -> None:
    """The images: built, and run together."""
    script(session, "test", "-m", "containers", "tests/containers")


@nox.session
def fuzz(session: nox.Session) -> None:
    """Every decoder under coverage guidance."""
    script(session, "fuzz")


@nox.session
def sbom(session: nox.Session) -> None:
    """The bills of materials, into dist/."""
    script(session, "sbom")


@nox.session
def bench(session: nox.Session) -> None:
    """What there are goals for."""
    script(session, "bench")
