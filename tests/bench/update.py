"""How long a device takes to bring in one layer of 10 MiB, over loopback.

The bare work beside it, in the same run and turn by turn: the same file from the same
backend over TLS, written to the same disk and synced, then read again and hashed.

    update   the list of releases, the manifest, the layer, three unchanged layers copied,
             everything measured where it lies and synced, the slots switched
    rest     what `Device.update` takes beside: leave for both releases, the reload, the
             unseal and the attestation that confirms it; over swtpm
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

sys.path.insert(0, str(Path(__file__).parents[1]))

from hwtrust.device import trial
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

if TYPE_CHECKING:
    from hwtrust.device import Device

SIZE: Final = 10 * 1024 * 1024
ROUNDS: Final = 7
GOAL: Final = 1.3


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
        bare, updates, whole = [], [], []
        with site.open() as device:
            device.boot()
            device.attest()
            for number in range(ROUNDS):
                name = f"2.{number}"
                site.publish(name, kernel=os.urandom(SIZE))
                bare.append(timed(lambda name=name: download(site, name)))
                updates.append(timed(lambda name=name: bring(device, name)))
                whole.append(timed(lambda name=name: confirm(device, name)))
        ratio = statistics.median(
            update / floor for update, floor in zip(updates, bare, strict=True)
        )
        say("update_bare_download", 1000 * statistics.median(bare), "ms")
        say("update_without_tpm", 1000 * statistics.median(updates), "ms")
        say("update_over_download", ratio, "ratio", goal=f"<= {GOAL}", ok=ratio <= GOAL)
        say("update_rest", 1000 * statistics.median(whole), "ms")


def timed(work: object) -> float:
    """How many seconds `work` takes."""
    start = time.perf_counter()
    work()  # type: ignore[operator]
    return time.perf_counter() - start


def download(site: UpdatingSite, name: str) -> None:
    """The bare work: one file over TLS to the disk, and its hash."""
    place = site.home / "bare"
    tls = PinnedCa(site.backend.trust.tls_ca)
    source = Source(site.backend.url + TARGETS_PATH, tls=tls)
    target = layer_target("kernel", name, LayerKind.FILE)
    folder, _, file = target.rpartition("/")
    digest = site.digests[target]
    with place.open("wb") as disk:
        with source.get(f"{folder}/{digest}.{file}", most=SIZE) as answer:
            while piece := answer.read():
                disk.write(piece)
        disk.flush()
        os.fsync(disk.fileno())
    with place.open("rb") as disk:
        if hashlib.file_digest(disk, "sha256").hexdigest() != digest:
            raise SystemExit("the bare download is not what was published")


def bring(device: Device, name: str) -> None:
    """All of an update that needs no TPM."""
    context = device._context
    slots = trial.slots_of(context)
    with client_of(context) as client:
        stage(client, slots, client.manifest(name))
    slots.switch()


def confirm(device: Device, name: str) -> None:
    """The whole update, of what is staged already."""
    trial.slots_of(device._context).switch_back()
    done = device.update(name)
    if done.outcome is not Outcome.CONFIRMED:
        raise SystemExit(f"the update has ended {done.outcome}")


def say(name: str, value: float, unit: str, *, goal: str = "", ok: bool = True) -> None:
    """Print one figure."""
    line = {"name": name, "value": round(value, 3), "unit": unit, "goal": goal, "ok": ok}
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
