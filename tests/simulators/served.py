"""`hwtrust-backend serve` as an administrator runs it: a process, or several, and signals.

with Served(tmp_path / "data", "--workers", "2", database=url) as served:
    device = served.device()
    served.process.send_signal(signal.SIGHUP)
assert served.exit_code == 0
"""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import msgspec

from hwtrust.wire.messages import TrustAnchor
from hwtrust_backend.app.setup import TRUST_NAME, install, open_backend
from hwtrust_backend.config import CONFIG_NAME, load_settings, system_clock
from hwtrust_backend.keys import Secret
from hwtrust_backend.references import accept_release, add_release
from hwtrust_backend.testing import CHEAP
from simulators.attester import make_release
from simulators.backend_clients import BackendDevice, client_context, enrolled_device

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from hwtrust_backend.app.backend import Backend

START_SECONDS: Final = 120
PASSPHRASE: Final = Secret(b"protects nothing")

PROGRAM: Final = "from hwtrust_backend.cli import main; main()"
NO_LIMITS: Final = {
    "RATES_ADDRESS": "0",
    "RATES_DEVICE": "0",
    "RATES_CREDENTIALS": "0",
    "ADDRESS_CONNECTION_LIMIT": "0",
}


class Served:
    """A backend in processes of its own; enter it to install and start it.

    `settings` are set by the environment, `listen` and `url` by its file. `program`
    is Python that runs the command line.
    """

    def __init__(
        self, directory: Path, *arguments: str, program: str = PROGRAM, **settings: str
    ) -> None:
        self.directory = directory
        self.arguments = arguments
        self.port = free_port()
        self.exit_code: int | None = None
        self.log = directory.parent / f"{directory.name}.log"
        self._program = program
        self._settings = {**NO_LIMITS, **{name.upper(): text for name, text in settings.items()}}
        self._process: subprocess.Popen[bytes] | None = None
        self._backend: Backend | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"https://localhost:{self.port}"

    @property
    def trust(self) -> TrustAnchor:
        """What devices are given."""
        return msgspec.json.decode((self.directory / TRUST_NAME).read_bytes(), type=TrustAnchor)

    @property
    def backend(self) -> Backend:
        """The same keys and database, opened in the test's own process."""
        if self._backend is None:
            settings = load_settings(self.directory, file=None, environ=self._environ)
            self._backend = open_backend(settings, passphrase=PASSPHRASE, clock=system_clock)
        return self._backend

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process that was started; with several workers, their supervisor."""
        if self._process is None:
            raise AssertionError("it was never started")
        return self._process

    def __enter__(self) -> Self:
        """Install, start, and return once it answers."""
        self.install()
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop it as systemd would."""
        try:
            self.stop()
        finally:
            if self._backend is not None:
                self._backend.waiters.close()
                self._backend.database.close()

    def install(self) -> None:
        """Make keys, settings and database, and accept release 1.0."""
        self.directory.mkdir(mode=0o700, parents=True)
        (self.directory / CONFIG_NAME).write_text(
            f'url = "{self.url}"\nlisten = "127.0.0.1:{self.port}"\n'
        )
        passphrase = self.directory / "passphrase"
        passphrase.write_bytes(PASSPHRASE.reveal())
        passphrase.chmod(0o600)
        settings = load_settings(self.directory, file=None, environ=self._environ)
        install(settings, passphrase=PASSPHRASE, clock=system_clock, cost=CHEAP)
        release = make_release()
        with self.backend.database.transaction() as session:
            add_release(session, release, now=system_clock())
            accept_release(session, release.name, now=system_clock())

    def start(self, *, wait: bool = True) -> None:
        """Start it."""
        command = [sys.executable, "-c", self._program, "--data", str(self.directory), "serve"]
        command += ["--passphrase-file", str(self.directory / "passphrase"), *self.arguments]
        environ = {
            name: text
            for name, text in os.environ.items()
            if not name.startswith(("HWTRUST_BACKEND_", "OTEL_", "PROMETHEUS_"))
        }
        environ |= self._environ
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, env=environ, stdout=log, stderr=log)
        if wait:
            self.await_answer()

    def stop(self) -> None:
        """Send SIGTERM, and wait for the end."""
        process = self.process
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            self.exit_code = process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise

    def await_answer(self) -> None:
        """Return once it answers."""
        await_that(lambda: self.process.poll() is not None or self.answers(), self.log)
        assert self.process.poll() is None, self.log.read_text()

    def answers(self) -> bool:
        """Whether it answers now."""
        try:
            return self.get("/healthz") == http.client.OK
        except (OSError, http.client.HTTPException):
            return False

    def get(self, path: str) -> int:
        """The status of a GET without credentials."""
        context = client_context(self)
        with closing(
            http.client.HTTPSConnection("localhost", self.port, context=context, timeout=30)
        ) as connection:
            connection.request("GET", path, headers={"connection": "close"})
            response = connection.getresponse()
            response.read()
            return response.status

    def workers(self) -> list[int]:
        """The processes of its workers."""
        process = self.process.pid
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
        return [int(child) for child in children]

    def device(self) -> BackendDevice:
        """A device that runs release 1.0 and has enrolled."""
        return enrolled_device(self)

    @property
    def _environ(self) -> dict[str, str]:
        return {f"HWTRUST_BACKEND_{name}": text for name, text in self._settings.items()}


def await_that(
    condition: Callable[[], bool], log: Path | None = None, *, seconds: int = START_SECONDS
) -> None:
    """Return once `condition()` is true; fail with the log where it does not come to it."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(log.read_text() if log else "it did not come to that")
        signal.sigtimedwait([], 0.05)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
