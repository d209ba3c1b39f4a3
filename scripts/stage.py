"""Where the demonstrations play: a TPM with its vendor, a backend, and a device with four layers.

What is simulated: the TPM (swtpm, a complete TPM 2.0 in software) and its vendor
(a CA made for this run, which certifies the TPM's own EK). Everything else is
what a device and a backend run: TLS 1.3, SQLite, and the TPM's own refusals.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from hwtrust.cli import run as hwtrust_command
from hwtrust.device import Device, DeviceConfig
from hwtrust.errors import HwTrustError
from hwtrust.testing.manufacture import Vendor
from hwtrust.testing.swtpm import Swtpm
from hwtrust.wire.messages import Standing
from hwtrust_backend.cli import main as hwtrust_backend_command
from story import Story

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BIN = Path(sys.executable).parent
LAYERS = ("root-of-trust", "system", "kernel", "frontend")
START_LIMIT_S = 20
PORTS = range(20000, 32768)
"""Below those that Linux gives to whoever asks for any (net.ipv4.ip_local_port_range)."""


class UnexpectedError(Exception):
    """Something was not as the story says: the demonstration has failed."""


class StoppedError(BaseException):
    """A signal ends the demonstration. Commands that run within it let this pass."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.status = 128 + number


@dataclass
class Stage:
    """Where the story plays."""

    story: Story
    home: Path
    tpm: Swtpm
    config: Path

    @contextmanager
    def device(self) -> Iterator[Device]:
        """The device, open, with every TPM command noted."""
        with Device.open(
            DeviceConfig.load(self.config), on_command=self.story.on_command
        ) as device:
            yield device

    def backend(self, *arguments: str) -> str:
        """Run `hwtrust-backend` as an administrator would; gives what it prints."""
        printed, complaints = io.StringIO(), io.StringIO()
        with redirect_stdout(printed), redirect_stderr(complaints):
            try:
                hwtrust_backend_command(["--data", str(self.home / "backend"), *arguments])
            except SystemExit as end:
                if end.code:
                    what = " ".join(arguments[:2])
                    message = f"hwtrust-backend {what}: {complaints.getvalue().strip()}"
                    raise UnexpectedError(message) from end
        return printed.getvalue()

    def with_keys(self, *arguments: str) -> str:
        """Run a command of `hwtrust-backend` that needs the backend's keys."""
        return self.backend(*arguments, "--passphrase-file", str(self.home / "passphrase"))

    def hwtrust(self, *arguments: str) -> str:
        """Run `hwtrust` as a vendor would; gives what it prints."""
        printed, complaints = io.StringIO(), io.StringIO()
        with redirect_stdout(printed), redirect_stderr(complaints):
            code = hwtrust_command(list(arguments))
        expect(code == 0, f"hwtrust {arguments[0]}: {complaints.getvalue().strip()}")
        return printed.getvalue()

    def token(self) -> str:
        """A fresh enrolment token."""
        token: str = json.loads(self.backend("token", "create", "--json"))["token"]
        return token

    def name(self) -> str:
        """The device's name, as the backend has it."""
        (known,) = json.loads(self.backend("devices", "--json"))
        name: str = known["device"]
        return name

    def layers(self) -> dict[str, Path]:
        """Where each layer lies before anything else is done with it."""
        return {name: self.home / "layers" / name for name in LAYERS}


def perform(
    live: Callable[[Stage], None],
    *,
    prog: str,
    about: str,
    title: str,
    keep: Callable[[Stage], None] | None = None,
) -> int:
    """Tell a story on a stage made for it; gives the exit status."""
    parser = argparse.ArgumentParser(description=about, prog=prog)
    parser.add_argument("--plain", action="store_true", help="no colours and boxes, for logs")
    if keep is not None:
        parser.add_argument("--keep", action="store_true", help="leave TPM and backend running")
    arguments = parser.parse_args()
    os.environ.setdefault("TSS2_LOG", "all+none")  # the story tells refusals itself
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop_story)
    story = Story(title, plain=arguments.plain)
    started = time.perf_counter()
    try:
        with ExitStack() as stack:
            stage = set_up(story, stack)
            live(stage)
            story.summary()
            story.note(
                f"everything happened as it should, in {time.perf_counter() - started:.1f} s"
            )
            if keep is not None and arguments.keep:
                keep(stage)
    except (HwTrustError, UnexpectedError, OSError, subprocess.SubprocessError) as error:
        code = f" [{error.code}]" if isinstance(error, HwTrustError) else ""
        story.wrong(f"{error}{code}")
        return 1
    except StoppedError as stopped:
        story.note("stopped; nothing is left")
        return stopped.status
    return 0


def stop_story(number: int, _frame: object) -> None:
    """End the demonstration from wherever it is; what it has made is removed."""
    raise StoppedError(number)


def set_up(story: Story, stack: ExitStack) -> Stage:
    """A TPM with an EK certificate, a backend that listens, and the files of four layers."""
    home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hwtrust-demo-")))
    with story.chapter(
        "A TPM is made", "A software TPM gets an EK, and a certificate for it from its vendor."
    ) as chapter:
        vendor = Vendor.create(now=datetime.now(UTC))
        tpm = stack.enter_context(Swtpm.start())
        certificate = vendor.manufacture(tpm, algorithm="ecc256")
        (home / "vendor-ca.pem").write_bytes(vendor.ca_pem)
        issuer = certificate.issuer.rfc4514_string() if certificate else "nobody"
        chapter.outcome = f"EK certificate by {issuer}"
    stage = Stage(story, home, tpm, home / "hwtrust.toml")
    with story.chapter(
        "A backend is made",
        "SQLite inside, TLS 1.3 outside; its own CA, a policy key and a metadata key.",
    ) as chapter:
        url = start_backend(stage, stack)
        chapter.outcome = f"listens at {url}"
    make_layers(stage)
    return stage


def start_backend(stage: Stage, stack: ExitStack) -> str:
    """Initialise a backend and run it as a process of its own; gives its URL."""
    home, port = stage.home, free_port()
    url = f"https://127.0.0.1:{port}"
    passphrase = str(home / "passphrase")
    stage.backend(
        "init", "--url", url, "--listen", f"127.0.0.1:{port}", "--generate-passphrase", passphrase
    )
    stage.backend("ek-ca", "add", str(home / "vendor-ca.pem"))
    log = stack.enter_context((home / "backend.log").open("wb"))
    server = subprocess.Popen(
        [
            *(str(BIN / "hwtrust-backend"), "--data", str(home / "backend")),
            *("serve", "--passphrase-file", passphrase),
        ],
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    stack.callback(stop, server)
    deadline = time.monotonic() + START_LIMIT_S
    while not answers(port):
        if server.poll() is not None or time.monotonic() > deadline:
            raise UnexpectedError(f"the backend did not start: {tail(home / 'backend.log')}")
        time.sleep(0.05)
    return url


def make_layers(stage: Stage) -> None:
    """Three files and a tree, as a vendor's build leaves them."""
    *files, tree = stage.layers().values()
    for number, path in enumerate(files, 1):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(f"layer {path.name}\n".encode() * 4096 * number)
    (tree / "static").mkdir(parents=True)
    (tree / "index.html").write_text("<h1>payments</h1>\n")
    (tree / "static" / "app.js").write_text("export const pay = () => {};\n")


def expect(condition: bool, otherwise: str) -> None:  # noqa: FBT001 - reads as a sentence
    """Fail the demonstration unless `condition` holds."""
    if not condition:
        raise UnexpectedError(otherwise)


def expect_trusted(standing: Standing, findings: tuple[object, ...]) -> None:
    """The backend must trust the device."""
    expect(standing is Standing.TRUSTED, f"standing: {standing}, {findings}")


def expect_refusal(kind: type[HwTrustError], action: object) -> HwTrustError:
    """`action` must be refused with an error of `kind`."""
    try:
        action()  # type: ignore[operator]
    except kind as error:
        return error
    raise UnexpectedError(f"{kind.__name__} was expected, and everything went well")


def free_port() -> int:
    """A TCP port that nobody listens on, nor is given meanwhile by asking for any."""
    for port in random.sample(PORTS, 100):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise UnexpectedError(f"no port of {PORTS.start} to {PORTS.stop - 1} is free")


def answers(port: int) -> bool:
    """Whether somebody listens on `port`."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process, with force if it takes too long."""
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def tail(path: Path) -> str:
    """The end of a log."""
    return path.read_text(errors="replace")[-800:]
