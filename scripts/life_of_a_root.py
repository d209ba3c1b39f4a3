"""The whole life of a dynamic root, on a software TPM and a backend made for it.

enrol → measure → unseal → open the key store → attest → rotate → old root refused
→ expired root refused → changed layer noticed on both sides → recover

What is simulated: the TPM (swtpm, a complete TPM 2.0 in software) and its vendor
(a CA made for this run, which certifies the TPM's own EK). Everything else is
what a device and a backend run: TLS 1.3, SQLite, and the TPM's own refusals.
"""

from __future__ import annotations

import secrets
import shutil
import signal
import sys
from typing import TYPE_CHECKING

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
from hwtrust.tpm import commands
from hwtrust.tpm.sessions import hmac_session
from hwtrust.wire.messages import Standing
from stage import Stage, expect, expect_refusal, expect_trusted, perform

if TYPE_CHECKING:
    from hwtrust.device.state import StoredRoot

SECRET_NAME = "payments/transport"  # noqa: S105 - the name of an entry, not a secret
PAST_EXPIRY_MS = 60_000


def prepare_device(stage: Stage) -> None:
    """Make a release of four layers, and the device's configuration."""
    with stage.story.chapter(
        "A device is prepared",
        "Four layers become release 1.0; the device learns its backend's CA and public keys.",
    ) as chapter:
        home, places = stage.home, stage.layers()
        release = home / "release.json"
        versioned = [f"{name}@1.0={place}" for name, place in places.items()]
        release.write_text(stage.hwtrust("measure", "--release", "1.0", *versioned))
        stage.backend("release", "add", str(release), "--accept")
        layers = [word for name, place in places.items() for word in ("--layer", f"{name}={place}")]
        stage.hwtrust(
            *("init", "--trust", str(home / "backend" / "trust.json")),
            *("--release", str(release), "--tcti", stage.tpm.tcti),
            *("--state", str(home / "device"), "--output", str(stage.config), *layers),
        )
        chapter.outcome = f"PCR {DeviceConfig.load(stage.config).tpm.pcr} is free and ours"


def live(stage: Stage) -> None:
    """The life of a root, from enrolment to recovery."""
    prepare_device(stage)
    enrol_and_boot(stage)
    old = rotate(stage)
    refuse_old_root(stage, old)
    expire(stage)
    change_a_layer(stage)
    recover(stage)


def enrol_and_boot(stage: Stage) -> None:
    """Enrol, open the key store for the first time, attest."""
    story = stage.story
    token = stage.token()
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
    stage.backend("rotate", stage.name())
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


def expect_secret(stage: Stage, device: Device) -> None:
    """The key store must still hold what was put there."""
    stored = (stage.home / "expected").read_bytes()
    expect(device.keystore[SECRET_NAME] == stored, f"{SECRET_NAME} has changed")


if __name__ == "__main__":
    sys.exit(
        perform(
            live,
            prog="scripts/demo",
            about=__doc__.splitlines()[0],
            title="The life of a root",
            keep=keep,
        )
    )
