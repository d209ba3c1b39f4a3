"""The whole life of a dynamic root, on a software TPM and a backend made for it.

enrol → measure → unseal → open the key store → attest → rotate → old root refused
→ expired root refused → changed layer noticed on both sides → recover

What is simulated: the TPM (swtpm, a complete TPM 2.0 in software) and its vendor
(a CA made for this run, which certifies the TPM's own EK). Everything else is
what a device and a backend run: TLS 1.3, SQLite, and the TPM's own refusals.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from hwtrust.cli import run as hwtrust_command
from hwtrust.device import Device, DeviceConfig
from hwtrust.device.boot import load_layers
from hwtrust.errors import (
    HwTrustError,
    LayerMismatchError,
    RootExpiredError,
    RootRevokedError,
    RootStateError,
)
from hwtrust.keys.unseal import SealedRoot, unseal_root
from hwtrust.roots import reopen_root
from hwtrust.testing.manufacture import Vendor
from hwtrust.testing.swtpm import Swtpm
from hwtrust.tpm import commands
from hwtrust.tpm.sessions import hmac_session
from hwtrust.wire.messages import Standing
from hwtrust_backend.cli import main as hwtrust_backend_command
from story import Story

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hwtrust.device.state import StoredRoot

BIN = Path(sys.executable).parent
LAYERS = ("root-of-trust", "system", "kernel", "frontend")
SECRET_NAME = "payments/transport"  # noqa: S105 - the name of an entry, not a secret
START_LIMIT_S = 20
PAST_EXPIRY_MS = 60_000


class UnexpectedError(Exception):
    """Something was not as the story says: the demonstration has failed."""


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


def main() -> int:
    """Tell the story; gives the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], prog="scripts/demo")
    parser.add_argument("--plain", action="store_true", help="no colours and boxes, for logs")
    parser.add_argument("--keep", action="store_true", help="leave TPM and backend running")
    arguments = parser.parse_args()
    os.environ.setdefault("TSS2_LOG", "all+none")  # the story tells refusals itself
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    story = Story(plain=arguments.plain)
    started = time.perf_counter()
    try:
        with ExitStack() as stack:
            stage = set_up(story, stack)
            live(stage)
            story.summary()
            story.note(
                f"everything happened as it should, in {time.perf_counter() - started:.1f} s"
            )
            if arguments.keep:
                keep(stage)
    except (HwTrustError, UnexpectedError, OSError, subprocess.SubprocessError) as error:
        code = f" [{error.code}]" if isinstance(error, HwTrustError) else ""
        story.wrong(f"{error}{code}")
        return 1
    except KeyboardInterrupt:
        story.note("stopped")
        return 130
    return 0


def set_up(story: Story, stack: ExitStack) -> Stage:
    """A TPM with an EK certificate, a backend, and a device that knows of both."""
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
    with story.chapter(
        "A device is prepared",
        "Four layers become release 1.0; the device learns its backend's CA and public keys.",
    ) as chapter:
        prepare_device(stage)
        chapter.outcome = f"PCR {DeviceConfig.load(stage.config).tpm.pcr} is free and ours"
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


def prepare_device(stage: Stage) -> None:
    """Make four layers, a release of them, and the device's configuration."""
    home = stage.home
    places = []
    for number, name in enumerate(LAYERS[:-1]):
        path = home / "layers" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(f"layer {name}\n".encode() * 4096 * (number + 1))
        places.append(f"{name}={path}")
    tree = home / "layers" / LAYERS[-1]
    (tree / "static").mkdir(parents=True)
    (tree / "index.html").write_text("<h1>payments</h1>\n")
    (tree / "static" / "app.js").write_text("export const pay = () => {};\n")
    places.append(f"{LAYERS[-1]}={tree}")
    release = home / "release.json"
    versioned = [place.replace("=", "@1.0=", 1) for place in places]
    with redirect_stdout(io.StringIO()) as printed:
        code = hwtrust_command(["measure", "--release", "1.0", *versioned])
    expect(code == 0, "hwtrust measure failed")
    release.write_text(printed.getvalue())
    stage.backend("release", "add", str(release), "--accept")
    layers = [word for place in places for word in ("--layer", place)]
    with redirect_stdout(io.StringIO()):
        code = hwtrust_command(
            [
                *("init", "--trust", str(home / "backend" / "trust.json")),
                *("--release", str(release), "--tcti", stage.tpm.tcti),
                *("--state", str(home / "device"), "--output", str(stage.config), *layers),
            ]
        )
    expect(code == 0, "hwtrust init failed")


def live(stage: Stage) -> None:
    """The life of a root, from enrolment to recovery."""
    enrol_and_boot(stage)
    old = rotate(stage)
    refuse_old_root(stage, old)
    expire(stage)
    change_a_layer(stage)
    recover(stage)


def enrol_and_boot(stage: Stage) -> None:
    """Enrol, open the key store for the first time, attest."""
    story = stage.story
    token = json.loads(stage.backend("token", "create", "--json"))["token"]
    with (
        story.chapter(
            "Enrol",
            "The EK says which TPM this is; MakeCredential proves the AK is in it; the AK "
            "certifies storage key and epoch counter. The backend answers with root number one.",
        ) as chapter,
        stage.device() as device,
    ):
        identity = device.enrol(token=token, on_step=story.on_step)
        chapter.outcome = f"device {identity.device.hex()[:20]}…, TLS key: {identity.tls_kind}"
    with (
        story.chapter(
            "Measure, unseal, open the key store",
            "Each layer is measured, compared and extended; the TPM releases the root only for "
            "this state, this epoch, and until it expires; then the state is capped.",
        ) as chapter,
        stage.device() as device,
    ):
        store = device.boot(on_step=story.on_step)
        value = secrets.token_bytes(32)
        store.put(SECRET_NAME, value)
        expect(store[SECRET_NAME] == value, "the key store does not give back what was put")
        (stage.home / "expected").write_bytes(value)
        chapter.outcome = f"epoch {store.epoch}, {SECRET_NAME} stored"
    with (
        story.chapter(
            "Attest",
            "One quote and one certified counter, bound to nonce, TLS key, epoch, release and log.",
        ) as chapter,
        stage.device() as device,
    ):
        result = device.attest(on_step=story.on_step)
        expect_trusted(result.standing, result.findings)
        chapter.outcome = f"standing: {result.standing}"


def rotate(stage: Stage) -> StoredRoot:
    """Rotate the root; gives the old one, as a thief would have kept it."""
    story = stage.story
    (known,) = json.loads(stage.backend("devices", "--json"))
    stage.backend("rotate", known["device"])
    with (
        story.chapter(
            "Rotate the root",
            "The next answer carries root E+1, wrapped for this TPM alone. The key store is "
            "wrapped under both; counting the epoch counter is the one commit point.",
        ) as chapter,
        stage.device() as device,
    ):
        device.boot(on_step=story.on_step)
        old = device._context.newest_root()  # noqa: SLF001 - the thief looks at the disk
        result = device.attest(on_step=story.on_step)
        expect_trusted(result.standing, result.findings)
        expect(result.rotated_to == old.epoch + 1, "the root was not rotated")
        expect_secret(stage, device)
        chapter.outcome = f"epoch {old.epoch} -> {result.rotated_to}"
    return old


def refuse_old_root(stage: Stage, old: StoredRoot) -> None:
    """Show that the TPM refuses the old root in the very state that it was approved for."""
    story = stage.story
    with story.chapter(
        "The old root is refused",
        "A thief kept root E with its approval, and reboots into the approved state. "
        "PolicyNV compares the epoch counter: the TPM says no.",
    ) as chapter:
        stage.tpm.reboot()
        with stage.device() as device:
            refusal = try_root(device, old)
        expect(isinstance(refusal, RootRevokedError), f"not refused as revoked: {refusal!r}")
        story.refused("TPM2_PolicyNV", f"{refusal}")
        stage.tpm.reboot()
        with stage.device() as device:
            device.boot(on_step=story.on_step)
            expect_secret(stage, device)
            result = device.attest(on_step=story.on_step)
            expect_trusted(result.standing, result.findings)
        chapter.outcome = "root E is dead; root E+1 opens the same key store"


def expire(stage: Stage) -> None:
    """Move the TPM's clock past the root's time, see it refused, recover."""
    story = stage.story
    with story.chapter(
        "A root expires",
        "The TPM's clock is moved past not_after. It moves only forward: no turned-back OS clock "
        "revives the root. PolicyCounterTimer fails.",
    ) as chapter:
        with stage.device() as device:
            until = device.status().not_after
            commands.clock_set(device._context.tpm, until + PAST_EXPIRY_MS)  # noqa: SLF001
        stage.tpm.reboot()
        with stage.device() as device:
            refusal = expect_refusal(RootExpiredError, device.boot)
        story.refused("TPM2_PolicyCounterTimer", f"{refusal}")
        chapter.outcome = "the TPM does not release an expired root"
    with (
        story.chapter(
            "Recover from the expiry",
            "The backend sees a clock far ahead (an alert, not the end of the device) and approves "
            "the root anew, reckoned in the device's own clock.",
        ) as chapter,
        stage.device() as device,
    ):
        result = device.attest(on_step=story.on_step)
        for finding in result.findings:
            story.note(f"{finding.severity}: {finding.message} [{finding.code}]")
        expect(
            any(finding.code == "clock:ahead" for finding in result.findings),
            "the backend did not notice the clock",
        )
        expect(result.standing is not Standing.FAILED, "the backend refuses the device")
        device.boot(on_step=story.on_step)
        expect_secret(stage, device)
        chapter.outcome = "opened again, without a reboot"


def change_a_layer(stage: Stage) -> None:
    """Change the kernel layer; device, TPM and backend notice."""
    story = stage.story
    kernel = stage.home / "layers" / "kernel"
    shutil.copy2(kernel, stage.home / "kernel.good")
    with story.chapter(
        "A layer is changed",
        "One byte of the kernel layer. The device stops at it and extends a violation; the TPM "
        "releases nothing in this state; the backend reads it in the quote.",
    ) as chapter:
        content = bytearray(kernel.read_bytes())
        content[100] ^= 1
        kernel.write_bytes(content)
        stage.tpm.reboot()
        with stage.device() as device:
            mismatch = expect_refusal(LayerMismatchError, device.boot)
            story.refused("device", f"{mismatch}")
            refusal = try_root(device, device._context.newest_root(), load=False)  # noqa: SLF001
            expect(isinstance(refusal, RootStateError), f"not refused for its state: {refusal!r}")
            story.refused("TPM2_PolicyPCR", f"{refusal}")
            result = device.attest(on_step=story.on_step)
        expect(result.standing is Standing.FAILED, f"the backend says {result.standing}")
        for finding in result.findings:
            story.refused("backend", f"{finding.message} [{finding.code}]")
        chapter.outcome = "noticed by the device, the TPM and the backend"


def recover(stage: Stage) -> None:
    """Put the layer back and reboot: trusted again, with nothing lost."""
    story = stage.story
    with story.chapter(
        "Recover", "The layer is restored and the device reboots: nothing has been lost."
    ) as chapter:
        shutil.copy2(stage.home / "kernel.good", stage.home / "layers" / "kernel")
        stage.tpm.reboot()
        with stage.device() as device:
            device.boot(on_step=story.on_step)
            expect_secret(stage, device)
            result = device.attest(on_step=story.on_step)
        expect(result.standing is Standing.TRUSTED, f"standing: {result.standing}")
        chapter.outcome = f"standing: {result.standing}; {SECRET_NAME} is what it was"


def try_root(device: Device, root: StoredRoot, *, load: bool = True) -> HwTrustError | None:
    """Ask the TPM for `root` in the state after a good load, past all checks of the library."""
    context = device._context  # noqa: SLF001 - a thief does not use the API
    identity = context.known()
    held = reopen_root(
        root.metadata,
        root.public,
        root.approval,
        metadata_key=context.metadata_key,
        policy_key=context.policy_key,
        device=identity.device,
    )
    sealed = SealedRoot(held.public, root.private, root.approval, held.authorization)
    if load:
        device.event_log()
        with hmac_session(context.tpm, identity.storage_key) as session:
            load_layers(context, session, reload=False)
    try:
        unseal_root(context.tpm, context.anchorage(), sealed, branch=0)
    except HwTrustError as error:
        return error
    return None


def keep(stage: Stage) -> None:
    """Leave everything running until somebody presses Ctrl-C."""
    lines = [
        "TPM and backend keep running. In another terminal, from this directory:",
        f"  export HWTRUST_CONFIG={stage.config}",
        f"  export HWTRUST_BACKEND_DATA_DIR={stage.home / 'backend'}",
        "  .venv/bin/hwtrust status",
        "  .venv/bin/hwtrust eventlog",
        f"  .venv/bin/hwtrust keystore get {SECRET_NAME} | xxd",
        "  .venv/bin/hwtrust-backend devices",
        f"  tpm2_pcrread sha256:8,9 -T {stage.tpm.tcti}",
        "Ctrl-C ends both and removes everything.",
    ]
    for line in lines:
        stage.story.note(line)
    signal.pause()


def expect(condition: bool, otherwise: str) -> None:  # noqa: FBT001 - reads as a sentence
    """Fail the demonstration unless `condition` holds."""
    if not condition:
        raise UnexpectedError(otherwise)


def expect_secret(stage: Stage, device: Device) -> None:
    """The key store must still hold what was put there."""
    stored = (stage.home / "expected").read_bytes()
    expect(device.keystore[SECRET_NAME] == stored, f"{SECRET_NAME} has changed")


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
    """A TCP port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


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


if __name__ == "__main__":
    sys.exit(main())
