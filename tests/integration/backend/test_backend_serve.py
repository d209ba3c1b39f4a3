"""The backend as an administrator runs it: two commands, one process, a signal to stop."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import msgspec

from hwtrust.wire.messages import TrustAnchor

if TYPE_CHECKING:
    from pathlib import Path

START_SECONDS = 120


def command(data: Path, *arguments: str) -> list[str]:
    """A command line of hwtrust-backend."""
    program = "from hwtrust_backend.cli import main; main()"
    return [sys.executable, "-c", program, "--data", str(data), *arguments]


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def await_port(process: subprocess.Popen[bytes], port: int) -> None:
    """Return once the process listens."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            select_nothing(0.05)
        else:
            return
    raise AssertionError("the backend did not listen")


def select_nothing(seconds: float) -> None:
    """Let another process run for a moment."""
    signal.sigtimedwait([], seconds)


def test_init_and_serve_make_a_backend_that_stops_on_a_signal(tmp_path: Path) -> None:
    """Two commands to a TLS server that its trust file vouches for; SIGTERM ends it with 0."""
    data, passphrase, port = tmp_path / "data", tmp_path / "passphrase", free_port()
    environ = {
        name: value for name, value in os.environ.items() if not name.startswith("HWTRUST_BACKEND_")
    }
    init = command(
        data,
        "init",
        "--url",
        f"https://localhost:{port}",
        "--listen",
        f"127.0.0.1:{port}",
        "--generate-passphrase",
        str(passphrase),
    )
    subprocess.run(init, check=True, env=environ, capture_output=True)
    serve = command(data, "serve", "--passphrase-file", str(passphrase), "--log-level", "warning")
    with subprocess.Popen(serve, env=environ) as process:
        try:
            await_port(process, port)
            anchor = msgspec.json.decode((data / "trust.json").read_bytes(), type=TrustAnchor)
            context = ssl.create_default_context(cadata=anchor.tls_ca)
            connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=30)
            connection.request("GET", "/healthz", headers={"connection": "close"})
            assert connection.getresponse().status == 200
            connection.close()
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) in {0, -signal.SIGTERM}
