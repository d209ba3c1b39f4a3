"""That the guards in conftest.py guard: tests reach no other machine and leave no TPM behind."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

TESTS = Path(__file__).resolve().parents[1]

# Addresses that no machine has (RFC 5737, RFC 3849), and a closed socket: should a guard be
# missing, the attempt ends in an OSError here and not on the network.
FOREIGN = {
    "connect over IPv4": (socket.AF_INET, lambda sock: sock.connect(("192.0.2.1", 9))),
    "connect over IPv6": (socket.AF_INET6, lambda sock: sock.connect(("2001:db8::1", 9, 0, 0))),
    "connect_ex": (socket.AF_INET, lambda sock: sock.connect_ex(("192.0.2.1", 9))),
    "connect by name": (socket.AF_INET, lambda sock: sock.connect(("tpm.invalid", 9))),
    "a datagram": (socket.AF_INET, lambda sock: sock.sendto(b"", ("192.0.2.1", 9))),
    "a datagram with flags": (socket.AF_INET, lambda sock: sock.sendto(b"", 0, ("192.0.2.1", 9))),
}


@pytest.mark.parametrize(("family", "attempt"), FOREIGN.values(), ids=FOREIGN)
def test_a_socket_refuses_another_machine(
    family: socket.AddressFamily, attempt: Callable[[socket.socket], object]
) -> None:
    """The attempt fails as no network failure does, so no code can take it for one."""
    sock = socket.socket(family)
    sock.close()
    with pytest.raises(RuntimeError) as refused:
        attempt(sock)
    assert type(refused.value).__name__ == "ForeignHostError"


def test_a_name_of_another_machine_is_not_looked_up() -> None:
    """A look-up is traffic too."""
    with pytest.raises(RuntimeError) as refused:
        socket.getaddrinfo("tpm.invalid", 9)
    assert type(refused.value).__name__ == "ForeignHostError"


def test_loopback_works_by_number_and_by_name() -> None:
    """Simulators and servers of this machine can be reached."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        for name in ("127.0.0.1", "localhost"):
            socket.create_connection((name, port)).close()


def test_a_unix_socket_works(tmp_path: Path) -> None:
    """Simulators that listen on a path can be reached."""
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(path)
        server.listen()
        client.connect(path)


@pytest.fixture
def swtpm(tmp_path: Path) -> Path:
    """A program that the guard takes for a software TPM, by its name; it only sleeps."""
    sleep = shutil.which("sleep")
    assert sleep
    return Path(shutil.copy(sleep, tmp_path / "swtpm"))


def run_pytest(directory: Path, body: str) -> subprocess.CompletedProcess[str]:
    """Run one test under the guards of conftest.py, in a session of its own."""
    (directory / "test_inner.py").write_text(body)
    options = ["-p", "conftest", "-p", "no:cacheprovider", "--rootdir", str(directory)]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, "--confcutdir", str(directory), str(directory)],
        cwd=TESTS,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_tpm_that_outlives_the_tests_fails_them_and_is_ended(swtpm: Path, tmp_path: Path) -> None:
    """Neither its parent's end nor a session of its own hides it."""
    result = run_pytest(
        tmp_path,
        "import subprocess\n"
        "def test_leaves_a_daemon():\n"
        f"    line = '{swtpm} 60 </dev/null >/dev/null 2>&1 & echo $!'\n"
        "    said = subprocess.check_output(['setsid', 'sh', '-c', line])\n"
        f"    open('{tmp_path}/pid', 'wb').write(said)\n",
    )
    assert result.returncode == 1, result.stdout
    assert "1 passed, 1 error" in result.stdout
    assert f"{swtpm} 60" in result.stdout
    status = Path("/proc") / (tmp_path / "pid").read_text().strip() / "status"
    assert not status.exists() or "\nState:\tZ" in status.read_text()


def test_only_what_the_tests_left_behind_counts(swtpm: Path, tmp_path: Path) -> None:
    """A TPM that its test ended is fine, and somebody else's is left alone."""
    with subprocess.Popen([swtpm, "60"]) as foreign:
        result = run_pytest(
            tmp_path,
            "import subprocess\n"
            "def test_cleans_up():\n"
            f"    with subprocess.Popen(['{swtpm}', '60']) as process:\n"
            "        process.terminate()\n",
        )
        untouched = foreign.poll() is None
        foreign.terminate()
    assert result.returncode == 0, result.stdout
    assert untouched
