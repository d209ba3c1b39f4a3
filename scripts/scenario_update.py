"""Three releases for one device: a good one, a tampered one, one that fails to attest.

ceremony → release 1.0 in the slots → 2.0 is brought in and confirmed → 3.0 is
refused → 4.0 comes up, is not trusted, and the device returns to 2.0 by itself

After each of them the device and the backend are asked, by the commands that their
keepers would give; each must say what has happened.

Everything is as in scripts/stage.py. Releases are made, signed and published by the
commands of docs/releases.md, with two of three root keys; the keys are made for this run.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

from hwtrust.device import DeviceConfig
from hwtrust.device.results import Outcome
from hwtrust.errors import TargetDigestError
from hwtrust.wire.messages import Standing
from stage import LAYERS, Stage, expect, expect_refusal, expect_trusted, perform

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from hwtrust.device import Device, Step
    from hwtrust.updates.staging import Progress

SECRET_NAME = "payments/transport"  # noqa: S105 - the name of an entry, not a secret
SECRET = b"what no update may lose"
HOLDERS = ("a", "b", "c")
FIRST, GOOD, TAMPERED, FAILING = "1.0", "2.0", "3.0", "4.0"


def live(stage: Stage) -> None:
    """From the first ceremony to the release that the device gives up."""
    hold_ceremony(stage)
    prepare_device(stage)
    rows = [take_good_release(stage), refuse_tampered_release(stage), fall_back(stage)]
    stage.story.conclude(
        "What became of the releases", ("release", "on the device", "in the backend"), rows
    )


def hold_ceremony(stage: Stage) -> None:
    """Make the keys of the repository, and have its first root signed by two of three."""
    with stage.story.chapter(
        "Keys of the repository",
        "Two of three holders sign who may publish; their keys and the release engineer's never "
        "come to the backend. The backend's own key says only which list is the newest.",
    ) as chapter:
        for name in (*HOLDERS, "targets"):
            make_key(stage.home / f"{name}.pem")
        proposal = str(stage.home / "root-1.json")
        roots = [
            word for name in HOLDERS for word in ("--root-key", str(stage.home / f"{name}.pub"))
        ]
        stage.with_keys(
            *("repository", "init", *roots, "--threshold", "2"),
            *("--targets-key", str(stage.home / "targets.pub"), "--output", proposal),
        )
        for name in HOLDERS[:2]:
            stage.backend("repository", "sign", proposal, "--key", str(stage.home / f"{name}.pem"))
        stage.with_keys("repository", "root", "publish", proposal)
        chapter.outcome = "the first root is in trust.json, which goes to the devices"


def prepare_device(stage: Stage) -> None:
    """Publish release 1.0, put it into the slots of a device, enrol and boot it."""
    story = stage.story
    with story.chapter(
        "A device with slots",
        "Release 1.0 is published, and copied into the first of two slots; the device enrols, "
        "boots it and attests.",
    ) as chapter:
        publish(stage, FIRST)
        release = stage.home / "release.json"
        versioned = [f"{name}@{FIRST}={place}" for name, place in stage.layers().items()]
        release.write_text(stage.hwtrust("measure", "--release", FIRST, *versioned))
        layers = [
            word
            for name, place in stage.layers().items()
            for word in ("--layer", f"{name}={place}")
        ]
        stage.hwtrust(
            *("init", "--trust", str(stage.home / "backend" / "trust.json")),
            *("--release", str(release), "--tcti", stage.tpm.tcti),
            *("--slots", str(stage.home / "slots"), "--state", str(stage.home / "device")),
            *("--output", str(stage.config), *layers),
        )
        with stage.device() as device:
            device.enrol(token=stage.token())
            device.boot()
            device.keystore.put(SECRET_NAME, SECRET)
            result = device.attest()
        expect_trusted(result.standing, result.findings)
        chapter.outcome = f"runs {FIRST}, standing: {result.standing}"


def take_good_release(stage: Stage) -> tuple[str, str, str]:
    """Publish 2.0, with a new kernel and frontend: brought in, and confirmed."""
    story = stage.story
    with story.chapter(
        "A good release",
        "Kernel and frontend are new. The next answer of the backend names the release; what "
        "differs is fetched, the rest copied; one rename switches; the attestation confirms it.",
    ) as chapter:
        change_layers(stage, GOOD)
        publish(stage, GOOD)
        with stage.device() as device:
            device.boot()
            order = device.attest().update
            expect(order is not None and order.release == GOOD, f"ordered is {order}")
            done = device.update(on_step=story.on_step, on_progress=fetched(stage))
            expect(done.outcome is Outcome.CONFIRMED, f"the update has ended {done.outcome}")
            expect_whole(stage, device, GOOD)
        ask_device(stage, failed="")
        ask_backend(stage, "device:evidence:accepted", "trusted", failed="")
        chapter.outcome = f"runs {GOOD}, confirmed; the key store is what it was"
    return f"{GOOD}: good", f"{done.outcome}: it runs {GOOD}", f"{GOOD}, trusted"


def refuse_tampered_release(stage: Stage) -> tuple[str, str, str]:
    """Publish 3.0, then change its kernel on the backend's disk: refused."""
    story = stage.story
    with story.chapter(
        "A tampered release",
        "Somebody with the backend's disk changes the new kernel after it was signed. Its hash is "
        "in the signed list: the device takes nothing of it, and runs on.",
    ) as chapter:
        change_layers(stage, TAMPERED)
        publish(stage, TAMPERED)
        tamper(stage, (stage.home / "layers" / "kernel").read_bytes())
        with stage.device() as device:
            device.boot()
            refusal = expect_refusal(
                TargetDigestError, lambda: device.update(TAMPERED, on_step=story.on_step)
            )
            story.refused("device", f"{refusal} [{refusal.code}]")
        ask_device(stage, failed=refusal.code)
        with stage.device() as device:
            device.boot()
            story.note("the next attestation tells the backend")
            expect_whole(stage, device, GOOD)
        failed = f"stage of {TAMPERED} failed: {refusal.code}"
        ask_backend(stage, "device:failure:reported", failed, failed=failed)
        chapter.outcome = f"refused; the device goes on with {GOOD}"
    return f"{TAMPERED}: tampered with", f"refused: {refusal.code}; it runs {GOOD}", failed


def fall_back(stage: Stage) -> tuple[str, str, str]:
    """Publish 4.0, and call it back while the device brings it up: given up by the device."""
    story = stage.story
    with story.chapter(
        "A release that fails to attest",
        f"{FAILING} is what its signatures say, and the device switches to it; meanwhile an "
        "administrator retires it. The backend does not trust the device with it: the attestation "
        "fails, and the device returns to the other slot by itself, without a restart.",
    ) as chapter:
        stage.with_keys("release", "revoke", TAMPERED, "--key", str(stage.home / "targets.pem"))
        change_layers(stage, FAILING)
        publish(stage, FAILING)

        def call_back() -> None:
            stage.backend("release", "retire", FAILING)
            story.note(f"the administrator retires {FAILING}")

        with stage.device() as device:
            device.boot()
            done = device.update(FAILING, on_step=after(story.on_step, "switch", call_back))
            expect(done.outcome is Outcome.FELL_BACK, f"the update has ended {done.outcome}")
            story.refused("backend", f"{done.message} [{done.code}]")
            given_up = device.updates.refused
            expect(given_up is not None and given_up.release == FAILING, f"given up is {given_up}")
            story.note(f"device: {FAILING} is given up, and not tried again unless it is forced")
            expect_whole(stage, device, GOOD)
        ask_device(stage, failed="")
        failed = f"confirm of {FAILING} failed: {done.code}"
        ask_backend(stage, "device:failure:reported", failed, failed=failed)
        chapter.outcome = f"given up; {GOOD} runs again, standing: trusted"
    return f"{FAILING}: fails to attest", f"{done.outcome}: it runs {GOOD} again", failed


def make_key(path: Path) -> None:
    """A key as docs/releases.md makes it, but for the passphrase."""
    made, public = str(path), str(path.with_suffix(".pub"))
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", made], check=True)
    path.chmod(0o600)
    subprocess.run(["openssl", "pkey", "-in", made, "-pubout", "-out", public], check=True)


def change_layers(stage: Stage, version: str) -> None:
    """The vendor has built another kernel and frontend."""
    (stage.home / "layers" / "kernel").write_bytes(f"kernel of {version}\n".encode() * 65536)
    (stage.home / "layers" / "frontend" / "index.html").write_text(f"<h1>{version}</h1>\n")


def publish(stage: Stage, name: str) -> None:
    """Make a bundle and publish it, accepted for all devices."""
    changed = {"kernel", "frontend"}
    plan = [f'name = "{name}"']
    for layer in LAYERS:
        version = name if layer in changed else FIRST
        plan += [
            "[[layer]]",
            f'name = "{layer}"',
            f'path = "layers/{layer}"',
            f'version = "{version}"',
            f'frequency = "{"weekly" if layer in changed else "yearly"}"',
        ]
    manifest, bundle = stage.home / "release.toml", stage.home / f"bundle-{name}"
    manifest.write_text("\n".join(plan))
    stage.hwtrust("release", "create", str(bundle), "--manifest", str(manifest))
    key = str(stage.home / "targets.pem")
    stage.with_keys("release", "publish", str(bundle), "--key", key, "--accept")


def tamper(stage: Stage, content: bytes) -> None:
    """Change the published file that holds `content`, keeping its length."""
    for path in (stage.home / "backend" / "targets").rglob("*"):
        if path.is_file() and path.read_bytes() == content:
            path.chmod(0o600)
            path.write_bytes(content[:-1] + b"!")
            return
    expect(False, "the file to tamper with is not on the backend's disk")  # noqa: FBT003


def fetched(stage: Stage) -> Callable[[Progress], None]:
    """Tell of each layer when all of it is there."""

    def on_progress(progress: Progress) -> None:
        if progress.done == progress.total:
            how = "copied" if progress.total == 1 else f"{progress.total} bytes fetched"
            stage.story.note(f"{progress.layer}: {how}")

    return on_progress


def after(
    tell: Callable[[Step], None], name: str, act: Callable[[], None]
) -> Callable[[Step], None]:
    """Tell steps, and do something after the first of that name."""
    done: list[str] = []

    def on_step(step: Step) -> None:
        tell(step)
        if step.name == name and not done:
            done.append(name)
            act()

    return on_step


def expect_whole(stage: Stage, device: Device, release: str) -> None:
    """The device must run `release`, be trusted with it, and have lost nothing."""
    result = device.attest()
    expect_trusted(result.standing, result.findings)
    expect(device.status().release == release, f"the device runs {device.status().release}")
    expect(device.keystore[SECRET_NAME] == SECRET, f"{SECRET_NAME} has changed")
    config = DeviceConfig.load(stage.config)
    expect(config.read_release().name == release, "the slot in use holds another release")
    stage.story.note(f"device: runs {release}, epoch {device.status().epoch}")


def ask_device(stage: Stage, *, failed: str) -> None:
    """What the device says of itself: the release, and what failed and is not told yet."""
    lines = stage.hwtrust("status", "--config", str(stage.config)).splitlines()
    shown = [line for line in lines if line.startswith(("release ", "failed "))]
    stage.story.quote("hwtrust status", shown)
    expect(shown[0].endswith(f" {GOOD}"), f"the device says: {shown[0]}")
    expect(failed in "".join(shown[1:]), f"the device does not tell of {failed}")
    expect(bool(failed) == (len(shown) > 1), f"the device tells of a failure: {shown[1:]}")


def ask_backend(stage: Stage, event: str, reason: str, *, failed: str) -> None:
    """What the backend says of the device, and the newest of its audit trail.

    The device must be trusted with the good release, and its report shown; among
    what the trail has of this chapter must be `event`, for `reason`.
    """
    name = stage.name()
    lines = stage.backend("device", "show", name).splitlines()
    shown = [line for line in lines if line.startswith(("standing ", "release ", "reported "))]
    stage.story.quote("hwtrust-backend device show DEVICE", shown)
    (known,) = json.loads(stage.backend("devices", "--json"))
    expect(known["standing"] == Standing.TRUSTED, f"the backend says {known['standing']}")
    expect(known["release"] == GOOD, f"the backend believes that {known['release']} runs")
    expect(not failed or any(failed in line for line in shown), f"it does not show {failed}")
    records = trail_since(stage, event)
    stage.story.quote("hwtrust-backend audit list --device DEVICE", records)
    expect(any(event in line and reason in line for line in records), f"{event} is not in it")


def trail_since(stage: Stage, event: str) -> list[str]:
    """The newest of `event` in the audit trail, with what came about it, oldest first."""
    kinds = ("device:evidence:accepted", "device:failure:reported")
    records = json.loads(stage.backend("audit", "list", "--device", stage.name(), "--json"))
    told = [one for one in records if one["event"] in kinds]
    newest = next((at for at, one in enumerate(told) if one["event"] == event), 0)
    near = told[max(newest - 1, 0) : newest + 3]
    return [f"{one['event']}  {one['reason']}" for one in reversed(near)]


def main() -> int:
    """Play it; gives the exit status."""
    about = __doc__.splitlines()[0]
    return perform(live, prog="scripts/scenario update", about=about, title="Three releases")


if __name__ == "__main__":
    sys.exit(main())
