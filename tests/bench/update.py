"""How long a device takes to bring in one layer of 10 MiB, over loopback.

The bare work beside it, in the same run and turn by turn: the same file from the same
backend over TLS, written to the same disk and synced, then read again and hashed.

    question  is there an update, and what is in it: the signed list of releases and the
              manifest, once for all layers; five requests, one after the other
    layer     the other slot emptied, the layer fetched and checked, three unchanged layers
              copied and measured, all of it synced, the slots switched
    rest      what `Device.update` takes beside: leave for both releases, the reload, the
              unseal and the attestation that confirms it; over swtpm
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[1]))

from hwtrust.device import Device, DeviceConfig, trial
from hwtrust.device.results import Outcome
from hwtrust.device.update import client_of
from hwtrust.testing.manufacture import Vendor
from hwtrust.testing.swtpm import Swtpm
from hwtrust.updates.client import TARGETS_PATH
from hwtrust.updates.source import PinnedCa, Source
from hwtrust.updates.staging import stage
from hwtrust.wire.release import LayerKind, layer_target
from hwtrust_backend.testing import BackendServer
from simulators.updating import UpdatingSite

SIZE: Final = 10 * 1024 * 1024
ROUNDS: Final = 7
GOAL: Final = 1.3
PARTS: Final = ("bare_download", "question", "layer", "rest")


def main() -> None:
    """Measure, and print the figures."""
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hwtrust-bench-")))
        tpm = stack.enter_context(Swtpm.start())
        vendor = Vendor.create(now=datetime.now(UTC))
        vendor.manufacture(tpm, algorithm="ecc256")
        backend = stack.enter_context(BackendServer())
        site = UpdatingSite(home, tpm, backend, vendor)
        site.enrol()
        # The device is a process of its own, as everywhere: it shares no interpreter with the
        # backend.
        device = stack.enter_context(
            subprocess.Popen(
                [sys.executable, __file__, str(site.config_path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        rounds = [measured(site, device, f"2.{number}") for number in range(ROUNDS + 1)][1:]
        assert device.stdin is not None
        device.stdin.close()
    ratio = statistics.median(layer / bare for bare, _, layer, _ in rounds)
    both = statistics.median((question + layer) / bare for bare, question, layer, _ in rounds)
    say("update_layer_over_download", ratio, "ratio", goal=GOAL, ok=ratio <= GOAL)
    say("update_question_and_layer_over_download", both, "ratio")
    for name, values in zip(PARTS, zip(*rounds, strict=True), strict=True):
        say(f"update_{name}", 1000 * statistics.median(values), "ms")


def measured(site: UpdatingSite, device: subprocess.Popen[str], name: str) -> list[float]:
    """Publish a release, and have the device take it; the times of all parts, in seconds."""
    site.publish(name, kernel=os.urandom(SIZE))
    target = layer_target("kernel", name, LayerKind.FILE)
    assert device.stdin is not None
    assert device.stdout is not None
    print(name, target, site.digests[target], file=device.stdin, flush=True)
    found: list[float] = json.loads(device.stdout.readline())
    return found


def be_the_device(config: Path) -> None:
    """Take the releases that standard input names, each in three ways, and print the times."""
    loaded = DeviceConfig.load(config)
    with Device.open(loaded) as device:
        device.boot()
        device.attest()
        for line in sys.stdin:
            name, target, digest = line.split()
            times = [time.perf_counter()]
            download(loaded, target, digest)
            times.append(time.perf_counter())
            times += bring(device, name)
            confirm(device, name)
            times.append(time.perf_counter())
            print(json.dumps([after - before for before, after in pairwise(times)]), flush=True)


def download(config: DeviceConfig, target: str, digest: str) -> None:
    """The bare work: one file over TLS to the disk, and its hash."""
    place = Path(config.state_dir) / "bare"
    trust = config.read_trust()
    source = Source(trust.url + TARGETS_PATH, tls=PinnedCa(trust.tls_ca))
    folder, _, file = target.rpartition("/")
    with place.open("wb") as disk:
        with source.get(f"{folder}/{digest}.{file}", most=SIZE) as answer:
            while piece := answer.read():
                disk.write(piece)
        disk.flush()
        os.fsync(disk.fileno())
    with place.open("rb") as disk:
        if hashlib.file_digest(disk, "sha256").hexdigest() != digest:
            raise SystemExit("the bare download is not what was published")


def bring(device: Device, name: str) -> tuple[float, float]:
    """All of an update that needs no TPM; when the question was answered, and when all was done."""
    context = device._context
    slots = trial.slots_of(context)
    with client_of(context) as client:
        manifest = client.manifest(name)
        answered = time.perf_counter()
        stage(client, slots, manifest)
    slots.switch()
    return answered, time.perf_counter()


def confirm(device: Device, name: str) -> None:
    """The whole update, of what is staged already."""
    trial.slots_of(device._context).switch_back()
    done = device.update(name)
    if done.outcome is not Outcome.CONFIRMED:
        raise SystemExit(f"the update has ended {done.outcome}")


def say(name: str, value: float, unit: str, *, goal: float | None = None, ok: bool = True) -> None:
    """Print one figure."""
    line = {"name": name, "value": round(value, 3), "unit": unit, "goal": goal, "ok": ok}
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        be_the_device(Path(sys.argv[1]))
    else:
        main()
