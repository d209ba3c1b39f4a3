"""What holds for every test.

1. No test reaches another machine: sockets connect to loopback or to UNIX
   sockets, and host names other than localhost are not looked up.
2. No test leaves a software TPM behind.
3. Hypothesis draws the same examples in every run on CI, and never fails for
   being slow.
4. What touches a database runs on SQLite and on PostgreSQL: a test that asks for
   `database_url` or `database_setting` runs once on each. Where PostgreSQL is not
   installed its half is skipped, but never on CI.
5. What a command does to the process, to its loggers and its umask, ends with its test.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import select
import signal
import socket
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from simulators.postgres import Postgres, program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parent.parent

collect_ignore = ["examples"]
"""Projects of their own, which tests run as such."""

settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.fixture(autouse=True)
def process_as_before() -> Iterator[None]:
    """Rule 5: a handler that is left behind writes to a stream that is closed by then."""
    umask = os.umask(0o022)
    os.umask(umask)
    loggers = [logging.getLogger(name) for name in ("hwtrust", "hwtrust_backend", "uvicorn")]
    kept = [(list(logger.handlers), logger.level, logger.propagate) for logger in loggers]
    yield
    os.umask(umask)
    for logger, (handlers, level, propagate) in zip(loggers, kept, strict=True):
        logger.handlers[:] = handlers
        logger.setLevel(level)
        logger.propagate = propagate


@pytest.fixture(scope="session")
def vectors() -> Path:
    """The directory of test vectors: HWTRUST_VECTORS, or shared/vectors beside the checkout."""
    directory = Path(os.environ.get("HWTRUST_VECTORS", ROOT.parent / "shared" / "vectors"))
    if not directory.is_dir():
        pytest.skip(f"the test vectors are not at {directory}: say where by HWTRUST_VECTORS")
    return directory


# --- 1. no other machine ----------------------------------------------------------


class ForeignHostError(RuntimeError):
    """A test tried to reach another machine.

    No OSError: code that takes an unreachable host calmly would hide it.
    """


def refuse_foreign(host: object) -> None:
    """Let pass what means this machine only."""
    if host in {None, "", b"", "localhost", b"localhost"}:
        return
    text = host.decode() if isinstance(host, bytes) else str(host)
    try:
        local = ipaddress.ip_address(text.partition("%")[0]).is_loopback
    except ValueError:
        local = False
    if not local:
        message = f"tests reach no other machine, and this one wants {text}"
        raise ForeignHostError(message)


def guarded(method: Callable[..., Any]) -> Callable[..., Any]:
    """`method` of a socket, whose last argument is an address, for local addresses only."""

    def call(sock: socket.socket, *args: Any) -> Any:  # noqa: ANN401 - as the socket's own
        if sock.family in {socket.AF_INET, socket.AF_INET6}:
            refuse_foreign(args[-1][0])
        return method(sock, *args)

    return call


@pytest.fixture(scope="session", autouse=True)
def _no_other_machine() -> Iterator[None]:
    """Block every way from a Python program to another host."""
    look_up = socket.getaddrinfo

    def local_getaddrinfo(host: object, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        refuse_foreign(host)
        return look_up(host, *args, **kwargs)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", local_getaddrinfo)
        for name in ("connect", "connect_ex", "sendto"):
            patch.setattr(socket.socket, name, guarded(getattr(socket.socket, name)))
        yield


# --- 2. no TPM left behind ---------------------------------------------------------

MARK = "HWTRUST_TEST_PROCESS"
GRACE_SECONDS = 2.0


def running_tpms(mark: str) -> dict[int, str]:
    """The software TPMs that this test process started, by process number.

    A daemon has no parent that tells where it comes from. What tells is the
    environment, which every child inherits.
    """
    entry = f"{MARK}={mark}".encode()
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "comm").read_text() != "swtpm\n":
                continue
            if entry in (process / "environ").read_bytes().split(b"\0"):
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ")
                found[int(process.name)] = command.decode(errors="replace")
        except (FileNotFoundError, PermissionError, ProcessLookupError):
            continue  # it has just ended, or is not ours
    return found


def outlives(pid: int) -> bool:
    """Whether a process runs on for longer than the grace time; if so, it is ended."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if select.select([handle], [], [], GRACE_SECONDS)[0]:
            return False
        signal.pidfd_send_signal(handle, signal.SIGKILL)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    return True


@pytest.fixture(scope="session", autouse=True)
def _no_tpm_left_behind() -> Iterator[None]:
    """Fail when a software TPM outlives the last test; set up first, so torn down last."""
    mark = uuid.uuid4().hex
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(MARK, mark)
        yield
    left = [command for pid, command in running_tpms(mark).items() if outlives(pid)]
    assert not left, "software TPMs were still running after the last test (ended now)"


# --- 4. both databases -------------------------------------------------------------


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server, for all tests of this process."""
    if program("postgres") is None:
        missing = "PostgreSQL is not installed: scripts/setup --test"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    with Postgres.start() as started:
        yield started


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def database_kind(request: pytest.FixtureRequest) -> str:
    """Each kind of database in turn."""
    kind: str = request.param
    return kind


@pytest.fixture
def database_url(
    database_kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[str]:
    """The URL of a database of the test's own, which has its schema already."""
    if database_kind == "sqlite":
        # Not at the top: most tests need no backend.
        from hwtrust_backend.testing import empty_sqlite  # noqa: PLC0415

        file = tmp_path / "backend.sqlite"
        file.write_bytes(empty_sqlite())
        yield f"sqlite:///{file}"
        return
    server: Postgres = request.getfixturevalue("postgres")
    url = server.create()
    yield url
    server.drop(url)


@pytest.fixture(scope="module")
def database_setting(database_kind: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """The setting `database` for one backend of the module; empty: SQLite in its directory."""
    if database_kind == "sqlite":
        yield ""
        return
    server: Postgres = request.getfixturevalue("postgres")
    url = server.create()
    yield url
    server.drop(url)
