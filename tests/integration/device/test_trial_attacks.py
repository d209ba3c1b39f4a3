"""Somebody interferes with a release on trial, or bad luck comes between any two of its steps."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from hwtrust.device.results import Outcome, State
from hwtrust.errors import (
    ChannelError,
    HwTrustError,
    LayerError,
    RootStateError,
    SlotUnsealedError,
    StateDiskError,
    UpdateError,
    UpdateLeaveError,
)
from hwtrust.tpm import commands
from hwtrust.tpm.leftovers import loaded
from hwtrust.updates.slots import Slots
from hwtrust.wire.messages import Mode, Standing
from hwtrust.wire.statement import StepFailure
from hwtrust_backend.admin import local_administrator
from hwtrust_backend.admin.devices import lock
from hwtrust_backend.references import retire_release
from simulators.updating import UpdatingSite

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from hwtrust.device import Step
    from hwtrust.wire.messages import LayerReference

SECRET = UpdatingSite.SECRET


class KilledError(BaseException):
    """What ends a process in the midst of its work."""


def retire(site: UpdatingSite, release: str) -> None:
    """An administrator calls a release back."""
    with site.backend.session() as session:
        retire_release(session, release, now=site.backend.clock(), by="test")


def lock_it(site: UpdatingSite) -> None:
    """An administrator locks the device."""
    with site.backend.session() as session:
        lock(
            session,
            site.enrolled.hex()[:16],
            reason="stolen",
            by=local_administrator(),
            now=site.backend.clock(),
        )


def at(name: str, act: Callable[[], None]) -> Callable[[Step], None]:
    """Do something right after a step."""

    def on_step(step: Step) -> None:
        if step.name == name:
            act()

    return on_step


def kill() -> None:
    """End the process, nearly."""
    raise KilledError


def leave_waiting(site: UpdatingSite) -> None:
    """Bring in a release that takes a restart."""
    site.publish("2.0", system=b"the next system")
    with site.open() as device:
        device.boot()
        assert device.update("2.0").outcome is Outcome.RESTART


def check_runs(site: UpdatingSite, release: str) -> None:
    """The device comes up with a release, is trusted, and has lost nothing."""
    with site.open() as device:
        condition = device.load()
        assert (condition.state, condition.release) == (State.NORMAL, release)
        assert device.keystore["name"] == SECRET
        assert device.attest().standing is Standing.TRUSTED
        assert loaded(device._context.tpm) == ()


# --- while a release waits for its restart ------------------------------------------


def test_a_release_that_waits_is_not_given_up_for_what_the_running_one_does(
    updating: UpdatingSite,
) -> None:
    """A changed layer of the last release speaks for the next one, not against it."""
    leave_waiting(updating)
    updating.slots.path("a", "kernel").write_bytes(b"a changed kernel")
    with updating.open() as device, pytest.raises(LayerError):
        device.boot()
    assert updating.slots.current == "b"
    updating.tpm.reboot()
    check_runs(updating, "2.0")


def test_a_repair_is_not_undone_by_a_try_before_the_restart(updating: UpdatingSite) -> None:
    """Starting the agent again does not put the changed layer back."""
    updating.slots.path("a", "kernel").write_bytes(b"a changed kernel")
    updating.tpm.reboot()
    with updating.open() as device:
        device.load()
        assert device.update().outcome is Outcome.RESTART
    for _ in range(4):
        with updating.open() as device:
            assert device.load().state is State.LOCKED
    updating.tpm.reboot()
    check_runs(updating, "1.0")


def test_a_verdict_on_the_running_release_does_not_meet_the_one_that_waits(
    updating: UpdatingSite,
) -> None:
    """It is the way out for a device whose release is called back."""
    leave_waiting(updating)
    with updating.open() as device:
        device.boot()
        retire(updating, "1.0")
        assert device.attest().mode is Mode.LOCKED
        assert device.updates.refused is None
    assert updating.slots.current == "b"
    updating.tpm.reboot()
    check_runs(updating, "2.0")


def test_a_release_has_its_time_and_its_leave_from_when_it_comes_up(
    updating: UpdatingSite,
) -> None:
    """A heartbeat before the restart, and a backend that is away after it, do not matter."""
    leave_waiting(updating)
    with updating.open() as device:
        device.boot()
        device.attest()
        tpm = device._context.tpm
        commands.clock_set(tpm, commands.read_clock(tpm).clock + 20 * 60 * 1000)
    updating.tpm.reboot()
    updating.backend.go_away()
    with updating.open() as device:
        device.boot()
        with pytest.raises(ChannelError):
            device.attest()
        assert device.status().release == "2.0"
        assert device.updates.refused is None
    assert updating.slots.current == "b"


# --- confirmed, and by what ---------------------------------------------------------


def test_a_release_that_takes_its_process_down_is_not_confirmed_by_the_next(
    updating: UpdatingSite,
) -> None:
    """Its layers are in the log, and trusted; it has not come as far as to open the key store."""
    updating.publish("2.0", frontend=b"the next frontend")

    def start(layer: LayerReference, _: Path) -> None:
        if layer.name == "frontend" and layer.version == "2.0":
            raise KilledError

    with updating.open() as device:
        device.boot(activate=start)
        with pytest.raises(KilledError):
            device.update("2.0")
    for _ in range(2):
        with updating.open() as device:
            device.attest()
            assert device.updates.trial is not None
            with pytest.raises(KilledError):
                device.boot(activate=start)
    with updating.open() as device:
        device.boot(activate=start)
        assert device.status().release == "1.0"
        assert device.keystore["name"] == SECRET
        assert device.attest().standing is Standing.TRUSTED


def test_a_release_that_came_up_in_another_process_is_confirmed(updating: UpdatingSite) -> None:
    """As by one command for the boot, and one for the attestation."""
    leave_waiting(updating)
    updating.tpm.reboot()
    with updating.open() as device:
        device.boot()
    with updating.open() as device:
        assert device.attest().standing is Standing.TRUSTED
        assert device.updates.trial is None


# --- the way back -------------------------------------------------------------------


def test_asking_before_the_load_keeps_the_way_back_open(updating: UpdatingSite) -> None:
    """The backend is heard once, then away: the last one comes up, at the latest by a restart."""
    leave_waiting(updating)
    updating.tpm.reboot()

    def start(layer: LayerReference, _: Path) -> None:
        if layer.name == "frontend" and updating.slots.current == "b":
            raise OSError

    with updating.open() as device:
        device.attest()
        updating.backend.go_away()
        with pytest.raises(ChannelError):
            device.boot(activate=start)
    updating.tpm.reboot()
    with updating.open() as device:
        device.boot(activate=start)
        assert device.status().release == "1.0"
        assert device.keystore["name"] == SECRET


def test_a_release_that_is_called_back_before_it_comes_up_is_given_up(
    updating: UpdatingSite,
) -> None:
    """It could never come up to be judged: its backend has locked the device for its name."""
    leave_waiting(updating)
    retire(updating, "2.0")
    updating.tpm.reboot()
    with updating.open() as device:
        condition = device.load()
        assert (condition.state, condition.release) == (State.NORMAL, "1.0")
        assert device.keystore["name"] == SECRET
        refused = device.updates.refused
        assert refused is not None
        assert refused.release == "2.0"
    assert updating.slots.current == "a"


def test_a_switch_that_failed_is_not_returned_from(
    updating: UpdatingSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way back leads to the last release, not to the one that was never switched to."""
    updating.publish("2.0", kernel=b"the next kernel")

    def fail(_: Slots, __: str) -> None:
        raise StateDiskError("the disk is full", reason="full")

    with updating.open() as device:
        device.boot()
        with monkeypatch.context() as patch:
            patch.setattr(Slots, "_point_to", fail)
            with pytest.raises(StateDiskError):
                device.update("2.0")
        retire(updating, "1.0")
        assert device.attest().standing is Standing.FAILED
        assert updating.slots.current == "a"
        assert device.status().release == "1.0"


@pytest.mark.parametrize("error", [StateDiskError("it fails", reason="io"), KilledError()])
def test_a_switch_that_is_interrupted_mixes_no_layers(
    updating: UpdatingSite, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """Switched, then an error: the last release runs on, and the next start takes the other."""
    updating.publish("2.0", kernel=b"the next kernel")
    switch = Slots._point_to

    def fail(slots: Slots, slot: str) -> None:
        switch(slots, slot)
        raise error

    with updating.open() as device:
        device.boot()
        with monkeypatch.context() as patch:
            patch.setattr(Slots, "_point_to", fail)
            with pytest.raises(type(error)):
                device.update("2.0")
        for _ in range(4):
            device.boot()
            assert device.attest().standing is Standing.TRUSTED
            assert device.status().release == "1.0"
    check_runs(updating, "2.0")


def test_a_load_after_a_kill_at_the_switch_is_not_taken_for_a_deviation(
    updating: UpdatingSite,
) -> None:
    """What ran before is in the log, and is another release: it is loaded first, then asked."""
    updating.publish("2.0", kernel=b"the next kernel")
    with updating.open() as device:
        device.boot()
        with pytest.raises(KilledError):
            device.update("2.0", on_step=at("switch", kill))
    seen: list[State] = []
    with updating.open(on_condition=lambda condition: seen.append(condition.state)) as device:
        assert device.load().state is State.NORMAL
        assert device.status().release == "2.0"
    assert State.LOCKED not in seen


def test_a_load_after_a_kill_on_the_way_back_is_not_taken_for_a_deviation(
    updating: UpdatingSite,
) -> None:
    """No trial says what the log holds then."""
    updating.publish("2.0", kernel=b"the next kernel")

    def on_step(step: Step) -> None:
        at("switch", lambda: retire(updating, "2.0"))(step)
        at("fall back", kill)(step)

    with updating.open() as device:
        device.boot()
        with pytest.raises(KilledError):
            device.update("2.0", on_step=on_step)
    check_runs(updating, "1.0")


def test_a_device_whose_way_back_is_gone_goes_on(updating: UpdatingSite) -> None:
    """Somebody has emptied the slot of the last release."""
    updating.publish("2.0", kernel=b"the next kernel")
    with updating.open() as device:
        device.boot()
        device.update("2.0", on_step=at("switch", updating.backend.go_away))
    (updating.home / "slots" / "a" / "release.json").unlink()

    def start(layer: LayerReference, _: Path) -> None:
        raise OSError(layer.name)

    updating.backend.come_back()
    with updating.open() as device, pytest.raises(SlotUnsealedError):
        device.boot(activate=start)
    updating.tpm.reboot()
    check_runs(updating, "2.0")


def test_why_a_release_was_given_up_reaches_the_backend(updating: UpdatingSite) -> None:
    """Also where the last release does not come up either without a restart."""
    updating.publish("2.0", kernel=b"the next kernel")

    def start(layer: LayerReference, _: Path) -> None:
        if layer.name == "kernel" and layer.version == "2.0":
            updating.slots.path("b", "kernel").write_bytes(b"changes itself")

    with updating.open() as device:
        device.boot(activate=start)
        with pytest.raises(RootStateError):
            device.update("2.0")
        failure = device._context.failure
        assert failure is not None
        assert (failure.step, failure.layer, failure.release) == ("confirm", "kernel", "2.0")


def test_a_layer_that_was_stopped_by_a_release_that_failed_is_started_again(
    updating: UpdatingSite,
) -> None:
    """What runs is known only after a load that came to its end."""
    updating.publish("2.0", kernel=b"the next kernel")
    started: list[tuple[str, str]] = []
    broken = {("frontend", "1.0")}

    def start(layer: LayerReference, _: Path) -> None:
        started.append((layer.name, layer.version))
        if (layer.name, layer.version) in broken and len(started) > len(updating.layers):
            raise OSError

    with updating.open() as device:
        device.boot(activate=start)
        with pytest.raises(HwTrustError):
            device.update("2.0")
        broken.clear()
        started.clear()
        updating.layers = {**updating.layers, "kernel": ("1.0", updating.content("kernel"))}
        updating.publish("3.0", frontend=b"another frontend")
        assert device.update("3.0").outcome is Outcome.CONFIRMED
        assert ("kernel", "1.0") in started


# --- what is on the disk, and what the TPM says -------------------------------------


@pytest.mark.parametrize("content", [b"{", b"\xff", b'{"trial": 7}', b"[" * 100_000])
def test_a_lock_is_obeyed_whatever_update_json_holds(
    updating: UpdatingSite, content: bytes
) -> None:
    """The keys are gone before anything is remembered."""
    with updating.open() as device:
        device.boot()
        (updating.home / "state" / "update.json").write_bytes(content)
        lock_it(updating)
        assert device.attest().mode is Mode.LOCKED
        assert device.condition.state is State.LOCKED


def test_a_device_that_is_locked_switches_to_nothing(updating: UpdatingSite) -> None:
    """Its starts would be refused, and count against a release that is good."""
    updating.publish("2.0", kernel=b"the next kernel")
    with updating.open() as device:
        device.boot()
        device.attest()
        with pytest.raises(KilledError):
            device.update("2.0", on_step=at("attest", kill))
        # It has leave for both by now.
        lock_it(updating)
        with pytest.raises(UpdateLeaveError) as caught:
            device.update("2.0")
        assert caught.value.code == "update:leave"
        assert device.updates.trial is None
    assert updating.slots.current == "a"


def test_a_lock_is_obeyed_where_nothing_can_be_written(
    updating: UpdatingSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk keeps no key store open."""
    updating.publish("2.0", kernel=b"the next kernel")
    with updating.open() as device:
        device.boot()
        retire(updating, "1.0")

        def fail(*_: object) -> None:
            raise StateDiskError("the disk is full", reason="full")

        monkeypatch.setattr(type(device._context.state), "_write", fail)
        with pytest.raises(StateDiskError):
            device.attest()
        assert device.condition.state is State.LOCKED
        assert device._context.keystore is None


def test_a_damaged_update_json_does_not_keep_a_device_from_starting(
    updating: UpdatingSite,
) -> None:
    """Who can damage it can also delete it."""
    (updating.home / "state" / "update.json").write_bytes(b"\0" * 100)
    check_runs(updating, "1.0")


def test_a_clock_beyond_the_calendar_is_an_error_of_ours(updating: UpdatingSite) -> None:
    """Who may set the TPM's clock between two commands stops the update, and nothing more."""
    updating.publish("2.0", kernel=b"the next kernel")
    with updating.open() as device:
        device.boot()
        device.attest()
        commands.clock_set(device._context.tpm, 1 << 62)
        with pytest.raises(UpdateError):
            device.update("2.0")
        assert updating.slots.current == "a"


def test_a_failure_of_any_name_is_told(updating: UpdatingSite) -> None:
    """Names of files need not be UTF-8."""
    with updating.open() as device:
        device._context.note_failure(
            StepFailure(step="stage", code="x", layer="\udcff", release="\udcff", detail="\udcff")
        )
        device.attest()
        assert device._context.failure is None


def test_a_special_bit_in_the_running_release_does_not_stop_an_update(
    updating: UpdatingSite,
) -> None:
    """What cannot be copied is fetched."""
    updating.publish("2.0", frontend=b"the next frontend")
    updating.slots.path("a", "kernel").chmod(0o4755)
    with updating.open() as device:
        device.boot()
        assert device.update("2.0").outcome is Outcome.CONFIRMED


@pytest.mark.parametrize("kind", ["folder", "long", "fifo"])
def test_scratch_of_any_kind_is_cleared_away(updating: UpdatingSite, kind: str) -> None:
    """What is no mark of ours is another one."""
    updating.publish("2.0", frontend=b"the next frontend")
    place = updating.home / "slots" / "b"
    place.mkdir()
    mark = place / ".staging"
    if kind == "folder":
        mark.mkdir()
    elif kind == "fifo":
        os.mkfifo(mark)
    else:
        mark.write_bytes(bytes(64))
    with updating.open() as device:
        device.boot()
        assert device.update("2.0").outcome is Outcome.CONFIRMED
    assert not mark.exists()
