"""70 to 76, on a whole device: whatever goes wrong in an update, one whole release runs.

What fails ends in a typed error. Afterwards the key store opens and holds what it
held, nothing is left in the TPM, the device attests well, and the update succeeds.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from hwtrust.device import Device, Step
from hwtrust.device.results import Outcome, State
from hwtrust.errors import (
    ChannelError,
    KeyStoreError,
    StateDiskError,
    UpdateChannelError,
)
from hwtrust.testing.swtpm import Swtpm
from hwtrust.tpm.leftovers import loaded
from hwtrust.wire.messages import Standing
from hwtrust_backend.testing import BackendServer
from simulators.crash import AfterStep, AtDiskCall, Work, run_and_kill
from simulators.failing_disk import FailingDisk, Fault
from simulators.failing_network import FailingNetwork
from simulators.updating import UpdatingSite

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hwtrust.testing.manufacture import Vendor

SECRET = UpdatingSite.SECRET
MOST_CALLS = 400
"""More changes than any update makes."""


class Releases:
    """A device that takes one release after the other, each of another frontend."""

    def __init__(self, site: UpdatingSite) -> None:
        self.site = site
        self.running = "1.0"
        self._count = 0

    def publish(self) -> str:
        """The next release."""
        self._count += 1
        name = f"r{self._count:04}"
        self.site.publish(name, frontend=f"the frontend of {name}".encode())
        return name

    def check(self, newest: str) -> None:
        """Start again: one whole release runs, and the newest can be had."""
        with self.site.open() as device:
            device.boot()
            assert device.keystore["name"] == SECRET
            assert device.status().release in {self.running, newest}
            assert device.attest().standing is Standing.TRUSTED
            assert device.update(newest).outcome in {Outcome.CURRENT, Outcome.CONFIRMED}
            check_running(device, newest)
        self.running = newest
        # The event log grows with every load; what comes next begins with that of a fresh boot.
        self.site.tpm.reboot()


def check_running(device: Device, release: str) -> None:
    """The release runs: whole, open, trusted, and nothing is left in the TPM."""
    assert device.status().release == release
    device.check()
    assert device.attest().standing is Standing.TRUSTED
    assert device.condition.state is State.NORMAL
    assert device.keystore["name"] == SECRET
    assert loaded(device._context.tpm) == ()


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory, tpm_vendor: Vendor) -> Iterator[Releases]:
    """One device for many faults: each of them leaves it whole."""
    with Swtpm.start() as tpm, BackendServer() as backend:
        tpm_vendor.manufacture(tpm, algorithm="ecc256")
        home = tmp_path_factory.mktemp("faults")
        site = UpdatingSite(home, tpm, backend, tpm_vendor, restart=("system",))
        site.enrol()
        with site.open() as device:
            device.boot()
            device.keystore.put(site.ENTRY, SECRET)
            device.attest()
        yield Releases(site)


@pytest.fixture
def _no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not cut off the power loses nothing: syncing would only take time."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def at(name: str, act: Callable[[], object], *, nth: int = 1) -> Callable[[Step], None]:
    """Do something right after the nth step of a name."""
    seen = 0

    def on_step(step: Step) -> None:
        nonlocal seen
        seen += step.name == name
        if step.name == name and seen == nth:
            act()

    return on_step


# --- 75: disks ----------------------------------------------------------------------------


@pytest.mark.usefixtures("_no_sync")
@pytest.mark.parametrize(
    ("fault", "first"),
    [(Fault.FULL, 2), (Fault.READ_ONLY, 6), (Fault.FAILING, 10), (Fault.TORN, 14)],
)
def test_75_a_disk_that_fails_at_any_call_leaves_a_whole_release(
    fault: Fault, first: int, releases: Releases
) -> None:
    """The error is typed, what was open stays open and whole, and the next start is good."""
    through = False
    for nth in range(first, MOST_CALLS, 31):
        name = releases.publish()
        disk = FailingDisk(releases.site.home, nth=nth, fault=fault)
        with releases.site.open() as device:
            device.boot()
            try:
                with disk:
                    device.update(name)
            except (StateDiskError, KeyStoreError) as error:
                assert error.code in {"state:disk", "keystore:disk"}  # noqa: PT017 - it may pass
            assert loaded(device._context.tpm) == ()
            if device.condition.state is State.NORMAL:
                running = device.status().release
                assert running in {releases.running, name}
                check_running(device, running)
            else:
                # Its load was under way: it says what stopped it, and loads when it is told to.
                assert device.condition.code in {"state:disk", "keystore:disk"}
                device.boot()
                check_running(device, name)
        releases.check(name)
        if not disk.failed:
            through = True
            break
    assert through


@pytest.mark.usefixtures("_no_sync")
@pytest.mark.parametrize("power_cut", [False, True], ids=["killed", "killed, and the power cut"])
@pytest.mark.parametrize(("fault", "first"), [(Fault.KILL, 3), (Fault.TORN_KILL, 11)])
def test_75_killed_at_any_call_of_the_file_system_a_whole_release_runs(
    fault: Fault, first: int, power_cut: bool, releases: Releases
) -> None:
    """Before the call or in the middle of it; the TPM goes on, or loses its power too."""
    through = False
    for nth in range(first + 5 * power_cut, MOST_CALLS, 61):
        name = releases.publish()
        point = AtDiskCall(nth, str(releases.site.home), fault)
        config = str(releases.site.config_path)
        through = not run_and_kill(config, point, Work("update", release=name))
        if power_cut:
            releases.site.tpm.power_cut()
        releases.check(name)
        if through:
            break
    assert through


@pytest.mark.parametrize("call", [1, 6], ids=["it is written", "it is synced"])
def test_75_a_start_that_cannot_be_counted_is_no_deviation(call: int, releases: Releases) -> None:
    """Switched and not loaded yet: the device claims what runs, and says why it is locked."""
    name = releases.publish()
    disk = FailingDisk(releases.site.home, nth=call, fault=Fault.FAILING)
    with releases.site.open() as device:
        device.boot()
        with pytest.raises(StateDiskError):
            device.update(name, on_step=at("switch", disk.__enter__))
        disk.__exit__()
        assert (device.condition.state, device.condition.code) == (State.LOCKED, "state:disk")
        result = device.attest()
        assert result.standing is Standing.TRUSTED
        assert device.boot()["name"] == SECRET
        check_running(device, name)
    releases.check(name)


def test_75_a_switch_that_was_not_synced_leaves_what_runs_in_its_place(releases: Releases) -> None:
    """The link leads to the next release already; the running one is watched where it lies."""
    name = releases.publish()
    with releases.site.open() as device:
        device.boot()
        with pytest.MonkeyPatch.context() as patch:

            def fail(path: object) -> None:
                raise StateDiskError(f"{path}: no", path=str(path), reason="io")

            def arm() -> None:
                patch.setattr("hwtrust.updates.slots.sync_directory", fail)

            with pytest.raises(StateDiskError):
                device.update(name, on_step=at("stage", arm))
        assert releases.site.slots.release(releases.site.slots.current) is not None
        check_running(device, releases.running)
        assert device.update(name).outcome is Outcome.RESTART
        check_running(device, releases.running)
    releases.check(name)


def test_75_a_trial_that_was_noted_and_not_begun_is_no_trial(releases: Releases) -> None:
    """Whatever is wrong with the device then, nobody returns to a release that never ran."""
    name = releases.publish()
    with releases.site.open() as device:
        device.boot()
        with pytest.MonkeyPatch.context() as patch:

            def fail(_: object) -> None:
                raise StateDiskError("no", path="", reason="io")

            patch.setattr("hwtrust.updates.slots.Slots.switch", fail)
            with pytest.raises(StateDiskError):
                device.update(name)
        current = releases.site.slots.current
        for _ in range(5):
            device.boot()
        assert releases.site.slots.current == current
        check_running(device, releases.running)
        assert device.update(name).outcome is Outcome.CONFIRMED
        check_running(device, name)
    releases.check(name)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")
def test_75_a_slot_that_is_too_small_is_said_to_be_full(updating: UpdatingSite) -> None:
    """On a file system of its own: nothing but the inactive slot is touched, until it is larger."""
    home, aside = updating.home / "slots", updating.home / "aside"
    shutil.copytree(home, aside, symlinks=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(home)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this machine mounts nothing here")
    try:
        shutil.copytree(aside, home, symlinks=True, dirs_exist_ok=True)
        updating.publish("2.0", frontend=os.urandom(256 * 1024))
        with updating.open() as device:
            device.boot()
            for _ in range(2):
                with pytest.raises(StateDiskError) as caught:
                    device.update("2.0")
                assert caught.value.data["reason"] == "full"
                check_running(device, "1.0")
            subprocess.run(
                ["mount", "-o", "remount,size=1m", str(home)], capture_output=True, check=True
            )
            assert device.update("2.0").outcome is Outcome.CONFIRMED
            check_running(device, "2.0")
    finally:
        subprocess.run(["umount", "-l", str(home)], capture_output=True, check=True)


def test_75_killed_after_the_switch_a_load_that_asks_first_is_trusted(releases: Releases) -> None:
    """The log tells of the release before: that is what the device claims until it has loaded."""
    config = str(releases.site.config_path)
    for nth in (7, 8, 9):
        name = releases.publish()
        assert run_and_kill(config, AfterStep(nth), Work("update", release=name))
        with releases.site.open() as device:
            assert device.load().state is State.NORMAL
            assert device.status().release in {releases.running, name}
            assert device.keystore["name"] == SECRET
        releases.check(name)


# --- the backend is gone ------------------------------------------------------------------


@pytest.mark.usefixtures("_no_sync")
@pytest.mark.parametrize(
    ("lost", "lasting"),
    [("request", True), ("answer", True), ("answer", False)],
    ids=["gone from a request on", "gone from an answer on", "one answer is lost"],
)
def test_a_backend_that_is_gone_at_any_request_is_found_again(
    lost: str, lasting: bool, releases: Releases
) -> None:
    """What was under way is taken up when it is back, in the same process."""
    nth, through = 0, False
    while not through:
        nth += 3
        name = releases.publish()
        network = FailingNetwork(nth, lost, lasting=lasting)  # type: ignore[arg-type]
        with releases.site.open() as device:
            device.boot()
            done = None
            with network:
                try:
                    done = device.update(name)
                except (ChannelError, UpdateChannelError):
                    assert device.status().release == releases.running
            through = not network.failed
            assert done is None or done.outcome in {Outcome.ON_TRIAL, Outcome.CONFIRMED}
            assert device.keystore["name"] == SECRET
            assert device.attest().standing is Standing.TRUSTED
            assert device.update(name).outcome in {Outcome.CURRENT, Outcome.CONFIRMED}
            check_running(device, name)
        releases.running = name
        releases.site.tpm.reboot()
        assert nth < MOST_CALLS
    assert nth > 5
