"""The backend as an administrator runs it: two commands, one process, a signal to stop."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from hwtrust.wire.messages import TrustAnchor
from simulators.backend_clients import HttpApi
from simulators.served import Served, await_that, free_port

START_SECONDS = 120


def command(data: Path, *arguments: str) -> list[str]:
    """A command line of hwtrust-backend."""
    program = "from hwtrust_backend.cli import main; main()"
    return [sys.executable, "-c", program, "--data", str(data), *arguments]


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
        assert process.wait(timeout=60) == 0


def test_a_renewed_certificate_is_taken_over_without_a_stop(tmp_path: Path) -> None:
    """SIGHUP: new connections see the new certificate; one that is no good changes nothing."""
    served = Served(
        tmp_path / "data",
        server_certificate=str(tmp_path / "cert.pem"),
        server_key=str(tmp_path / "key.pem"),
    )
    first = write_certificate(tmp_path)
    with served:
        assert certificate_of(served) == first
        second = write_certificate(tmp_path)
        served.process.send_signal(signal.SIGHUP)
        await_that(lambda: certificate_of(served) == second, served.log)
        (tmp_path / "cert.pem").write_text("no certificate")
        served.process.send_signal(signal.SIGHUP)
        await_that(lambda: "stays as it was" in served.log.read_text())
        assert certificate_of(served) == second
    assert served.exit_code == 0


def write_certificate(directory: Path) -> bytes:
    """Write a new self-signed certificate and its key; gives the certificate in DER."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (directory / "cert.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (directory / "key.pem").write_bytes(pem)
    return certificate.public_bytes(Encoding.DER)


def certificate_of(served: Served) -> bytes | None:
    """The certificate that a new connection is shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", served.port), timeout=30) as plain,
        context.wrap_socket(plain) as connection,
    ):
        return connection.getpeercert(binary_form=True)


def test_metrics_on_a_port_of_their_own_need_no_token(tmp_path: Path) -> None:
    """Metrics, health and readiness in plain HTTP, and nothing else of the API."""
    port = free_port()
    with Served(tmp_path / "data", metrics_listen=f"127.0.0.1:{port}") as served:
        answers = {}
        for path in ("/metrics", "/healthz", "/readyz", "/schema/openapi.json", "/v1/attest"):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            connection.request("GET", path)
            response = connection.getresponse()
            answers[path] = response.status
            assert (b"hwtrust_devices{" in response.read()) == (path == "/metrics")
            connection.close()
        assert list(answers.values()) == [200, 200, 200, 404, 404]
    assert served.exit_code == 0


def test_a_device_that_waits_for_a_push_is_told_at_once_when_the_server_stops(
    tmp_path: Path,
) -> None:
    """A long poll does not hold up the end: it is answered, and the exit code is 0."""
    with Served(tmp_path / "data", shutdown_timeout="50s") as served:
        api = HttpApi(served, served.device())
        answered: list[int] = []
        waiting = threading.Thread(
            target=lambda: answered.append(api.request("GET", "/v1/wait?seconds=50")[0])
        )
        began = time.monotonic()
        waiting.start()
        await_that(lambda: served.process.poll() is None and established(served.port), served.log)
        select_nothing(1)
        served.process.send_signal(signal.SIGTERM)
        waiting.join()
        assert served.process.wait(60) == 0
        assert time.monotonic() - began < 40
    assert answered == [204]


def established(port: int) -> bool:
    """Whether a client is connected to the port."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return any(
        line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "01" for line in lines
    )
