"""How many TPM commands each part of a device's life costs; the README's table is held to it.

And what a boot loads: a device starts often, and each module costs it time.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hwtrust.testing.faults import CountingTcti
from simulators.site import LAYERS, Site

if TYPE_CHECKING:
    from collections.abc import Callable

    from tpm2_pytss.TCTI import TCTI

    from hwtrust.testing.manufacture import Vendor
    from hwtrust.testing.swtpm import Swtpm
    from hwtrust_backend.testing import BackendServer

N = len(LAYERS)
README = Path(__file__).resolve().parents[3] / "README.md"

BUDGETS = {
    "open": 8,
    "boot, cold": N + 16,
    "boot, cold, ticket kept": N + 12,
    "boot, live reload": N + 17,
    "heartbeat": 2,
    "rotation": N + 36,
}

BOOT = """
import sys
from hwtrust import Device, DeviceConfig
with Device.open(DeviceConfig.load(sys.argv[1])) as device:
    device.boot()
print(*sys.modules)
"""

NOT_FOR_A_BOOT = {
    "ssl",
    "http.client",
    "tuf",
    "tpm2_pytss.tsskey",
    "hwtrust.device.attest",
    "hwtrust.tls",
    "hwtrust.tpm.provision",
    "hwtrust.updates",
}
"""What asks a backend, and what makes keys."""


class Counter:
    """Counts the commands of an open device, part by part."""

    def __init__(self) -> None:
        self._tcti: CountingTcti | None = None
        self.counts: dict[str, int] = {}

    def wrap(self, inner: TCTI) -> TCTI:
        """Count what goes through this TCTI."""
        self._tcti = CountingTcti(inner)
        return self._tcti

    def count(self, part: str, action: Callable[[], object]) -> None:
        """Count what `action` sends."""
        assert self._tcti is not None
        self._tcti.reset()
        action()
        self.counts[part] = self._tcti.total

    def opened(self) -> None:
        """Keep what opening the device sent."""
        assert self._tcti is not None
        self.counts["open"] = self._tcti.total


@pytest.fixture
def counted(site: Site) -> dict[str, int]:
    """A life, counted."""
    counter = Counter()
    with site.open() as device:
        name = device.enrol(token=site.token()).device
    with site.open(wrap_tcti=counter.wrap) as device:
        counter.opened()
        counter.count("boot, cold", device.boot)
        device.attest()
        counter.count("heartbeat", device.attest)
        counter.count("boot, live reload", device.boot)
        device.attest()
        site.backend.rotate(name)
        counter.count("rotation", device.attest)
    site.tpm.reboot()
    with site.open() as device:
        device.boot()
    site.tpm.reboot()
    with site.open(wrap_tcti=counter.wrap) as device:
        counter.count("boot, cold, ticket kept", device.boot)
    return counter.counts


def test_every_part_stays_within_its_budget(counted: dict[str, int]) -> None:
    """Boot of N layers <= N + 16 (kept ticket: N + 12), heartbeat <= 2, rotation <= N + 36."""
    over = {part: counted[part] for part, budget in BUDGETS.items() if counted[part] > budget}
    assert over == {}


def test_the_table_in_the_readme_says_what_is_counted(counted: dict[str, int]) -> None:
    """Whoever reads the README reads today's numbers."""
    rows = re.findall(r"^\| ([\w, ]+?) \| (?:N \+ )?(\d+) \|", README.read_text(), re.MULTILINE)
    table = {part: int(number) for part, number in rows if part in BUDGETS}
    per_layer = {"boot, cold", "boot, cold, ticket kept", "boot, live reload", "rotation"}
    measured = {part: n - N if part in per_layer else n for part, n in counted.items()}
    assert table == measured


def test_platform_pcrs_cost_one_read_for_every_eight(
    tmp_path: Path, tpm: Swtpm, backend: BackendServer, tpm_vendor: Vendor
) -> None:
    """A heartbeat over seven platform PCRs is three commands."""
    site = Site(tmp_path, tpm, backend, tpm_vendor, platform_pcrs=(0, 1, 2, 3, 4, 5, 7))
    counter = Counter()
    with site.open(wrap_tcti=counter.wrap) as device:
        device.enrol(token=site.token())
        device.boot()
        device.attest()
        counter.count("heartbeat", device.attest)
    assert counter.counts["heartbeat"] == 3


def test_pcr_11_joins_the_selection_as_a_platform_pcr(
    tmp_path: Path, tpm: Swtpm, backend: BackendServer, tpm_vendor: Vendor
) -> None:
    """The boot loader's PCR is covered beside the application PCR, at one read."""
    site = Site(tmp_path, tpm, backend, tpm_vendor, platform_pcrs=(0, 11))
    counter = Counter()
    with site.open(wrap_tcti=counter.wrap) as device:
        device.enrol(token=site.token())
        device.boot()
        device.attest()
        counter.count("heartbeat", device.attest)
    assert counter.counts["heartbeat"] == 3


def test_a_boot_loads_nothing_that_asks_a_backend(site: Site) -> None:
    """With an approval at hand there is nobody to ask: neither TLS nor evidence is loaded."""
    site.enrol()
    site.tpm.reboot()
    done = subprocess.run(
        [sys.executable, "-c", BOOT, str(site.config_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(done.stdout.split())
    assert "hwtrust.device.boot" in loaded
    assert loaded & NOT_FOR_A_BOOT == set()
