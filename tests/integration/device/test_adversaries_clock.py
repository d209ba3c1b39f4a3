"""54 to 59 further: rolled back, suspended, cut off, cleared, and with clocks that jump."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
from tpm2_pytss import ESYS_TR
from tpm2_pytss.TSS2_Exception import TSS2_Exception

from hwtrust import errors
from hwtrust.tpm import commands
from hwtrust.tpm.leftovers import loaded
from hwtrust.wire.messages import Standing
from hwtrust.wire.structures import Public
from hwtrust_backend.audit import trail
from hwtrust_backend.enrolment import Device as KnownDevice
from hwtrust_backend.publishing.models import RootState
from hwtrust_backend.publishing.service import roots_of
from hwtrust_backend.testing import DAY, HOUR, MINUTE
from simulators.field import codes_of, counter_of, newest

if TYPE_CHECKING:
    from hwtrust.device import Device
    from hwtrust.testing.swtpm import Swtpm
    from simulators.site import Site

SECRET = b"what must not be lost"


def power_off(tpm: Swtpm) -> bytes:
    """Take the power away without a warning; gives the chip's memory."""
    tpm._belongings.end_process(signal.SIGKILL)
    tpm._remove_sockets()
    return (tpm.state_dir / "tpm2-00.permall").read_bytes()


def power_on(tpm: Swtpm, memory: bytes) -> None:
    """Give the power back to a chip that is off, with this in its memory."""
    (tpm.state_dir / "tpm2-00.permall").write_bytes(memory)
    tpm._power_on("startup-clear")


def clear(device: Device) -> None:
    """TPM2_Clear, as any local program may where the lockout hierarchy has no password."""
    tpm = device._context.tpm
    tpm.call("TPM2_Clear", tpm.esapi.clear, ESYS_TR.LOCKOUT)


def kept_under(site: Site, name: str) -> None:
    """Put a secret into the booted device's key store, and attest."""
    with site.open() as device:
        device.boot()
        device.keystore.put(name, SECRET)
        assert device.attest().standing is Standing.TRUSTED


# --- 54: the reset count falls ----------------------------------------------------------


def test_54_a_chip_put_back_past_a_rotation_is_failed_however_often_it_reboots(site: Site) -> None:
    """Its reset count can be driven up again; the epoch counter that came back tells on it."""
    name = site.enrol()
    memory = power_off(site.tpm)
    power_on(site.tpm, memory)
    with site.open() as device:
        device.boot()
        site.backend.rotate(name)
        epoch = device.attest().rotated_to
    assert epoch is not None
    power_off(site.tpm)
    power_on(site.tpm, memory)
    for _ in range(4):
        site.tpm.reboot()
    with site.open() as device:
        assert counter_of(device) < epoch
        standing, codes = codes_of(device)
    assert standing is Standing.FAILED
    assert "clock:reset-fell" not in codes
    assert "epoch:revoked" in codes
    assert site.backend_epoch(name) == epoch


def test_54_a_chip_that_was_put_back_gets_nothing_until_it_enrols_again(site: Site) -> None:
    """No approval and no root for it; an enrolment makes it a device again."""
    name = site.enrol()
    memory = power_off(site.tpm)
    power_on(site.tpm, memory)
    for _ in range(3):
        site.tpm.reboot()
    with site.open() as device:
        device.boot()
        device.attest()
        kept = device._context.newest_root().approval
    power_off(site.tpm)
    power_on(site.tpm, memory)
    with site.open() as device:
        site.backend.rotate(name)
        result = device.attest()
        assert result.standing is Standing.FAILED
        assert "clock:reset-fell" in {finding.code for finding in result.findings}
        assert not result.root_waits
        assert device._context.newest_root().approval == kept
        assert device.enrol(token=site.token()).device == name
        device.boot()
        standing, codes = codes_of(device)
        assert standing is Standing.TRUSTED
        assert codes <= {"clock:unsafe"}


# --- 55: suspended, then rebooted -------------------------------------------------------


def test_55_suspended_many_times_between_reboots_the_device_passes_each_time(site: Site) -> None:
    """Resumed: the PCRs stayed, a restart opens again; rebooted: the restart count is at zero."""
    site.enrol()
    restarts = []
    for suspends in (2, 1, 0):
        for _ in range(suspends):
            site.tpm.suspend()
        with site.open() as device:
            device.boot()
            assert codes_of(device) == (Standing.TRUSTED, set())
            restarts.append(device.status().clock.restart_count)
        site.tpm.reboot()
    assert restarts == [2, 1, 0]


def test_55_a_device_that_is_open_while_the_machine_sleeps_goes_on(site: Site) -> None:
    """What was loaded is gone from the TPM, and none of it is missed, by a rotation neither."""
    name = site.enrol()
    kept_under(site, "name")
    with site.open() as device:
        device.boot()
        device.attest()
        restarts = device.status().clock.restart_count
        site.tpm.suspend()
        assert codes_of(device) == (Standing.TRUSTED, set())
        assert device.status().clock.restart_count == restarts + 1
        site.backend.rotate(name)
        before = device.keystore.epoch
        site.tpm.suspend()
        assert device.attest().rotated_to == before + 1
        assert device.keystore["name"] == SECRET
        assert loaded(device._context.tpm) == ()


# --- 56: the clock is not safe ----------------------------------------------------------


def test_56_an_unsafe_clock_is_an_alert_that_passes(site: Site) -> None:
    """The device keeps its root and its approval; a while later the TPM is sure again."""
    name = site.enrol()
    kept_under(site, "name")
    seen: set[str] = set()
    for _ in range(8):
        site.backend.clock.advance(1100)
        site.tpm.power_cut()
        with site.open() as device:
            device.boot()
            assert device.keystore["name"] == SECRET
            safe = device.status().clock.safe
            result = device.attest()
            assert result.standing is Standing.TRUSTED
            assert ("clock:unsafe" in {finding.code for finding in result.findings}) is not safe
            seen |= {finding.code for finding in result.findings}
        if "clock:unsafe" in seen:
            break
    assert "clock:unsafe" in seen
    assert "clock:unsafe" in newest(site, name)[1]
    site.backend.clock.advance(10 * MINUTE)
    with site.open() as device:
        device.boot()
        device.attest()
        assert device.status().clock.safe
        assert "clock:unsafe" not in codes_of(device)[1]


# --- 57: backward, too slow, too fast ---------------------------------------------------


def test_57_a_clock_that_goes_backward_within_one_boot_is_failed(site: Site) -> None:
    """An older memory with the same count of resets: the clock itself tells."""
    name = site.enrol()
    memory = power_off(site.tpm)
    power_on(site.tpm, memory)
    with site.open() as device:
        device.boot()
        site.backend.clock.advance(2 * HOUR)
        assert device.attest().standing is Standing.TRUSTED
        resets = device.status().clock.reset_count
    power_off(site.tpm)
    power_on(site.tpm, memory)
    with site.open() as device:
        assert device.status().clock.reset_count == resets
        result = device.attest()
        assert result.standing is not Standing.TRUSTED
        with site.backend.session() as session:
            reasons = [record.reason for record in trail(session, name.hex(), limit=8)]
        # The device then set its clock right, and had not loaded its layers yet.
        assert any(
            reason.startswith("failed: ") and "clock:backward" in reason for reason in reasons
        )
        device.boot()
        assert device.attest().standing is Standing.TRUSTED


def test_57_a_clock_that_gains_an_hour_alerts_and_the_device_goes_on(site: Site) -> None:
    """Too fast is as suspicious as far ahead, and costs as little."""
    name = site.enrol()
    with site.open() as device:
        device.boot()
        commands.clock_set(device._context.tpm, site.backend.clock() + HOUR)
        standing, codes = codes_of(device)
        assert standing is Standing.TRUSTED
        assert codes == {"clock:ahead"}
        with site.backend.session() as session:
            reasons = [record.reason for record in trail(session, name.hex(), limit=4)]
        assert any("clock:ahead" in reason and "clock:drift" in reason for reason in reasons)
        device.boot()
        assert device.attest().standing is Standing.TRUSTED


# --- 58: cleared, then enrolled again ---------------------------------------------------


def test_58_a_cleared_tpm_opens_nothing_and_says_so(site: Site) -> None:
    """Before it is enrolled again: typed errors, the key store untouched, nothing left loaded."""
    site.enrol()
    kept_under(site, "name")
    store = site.home / "state" / "keystore.db"
    before = store.read_bytes()
    with site.open() as device:
        clear(device)
    for reboots in (False, True):
        if reboots:
            site.tpm.reboot()
        with site.open() as device:
            for attempt in (device.boot, device.attest):
                with pytest.raises(errors.TpmObjectConflictError) as refused:
                    attempt()
                assert refused.value.code == "tpm:object:conflict"
                assert "enrol again" in str(refused.value.data["hint"])
            assert loaded(device._context.tpm) == ()
    assert store.read_bytes() == before


def test_58_enrolled_again_a_cleared_device_is_the_same_one_with_a_new_life(site: Site) -> None:
    """Same EK and one row in the backend; old roots are over, the old key store is set aside."""
    name = site.enrol()
    kept_under(site, "name")
    store = site.home / "state" / "keystore.db"
    with site.open() as device:
        old = device._context.newest_root()
        ak, first = device._context.known().ak, counter_of(device)
        clear(device)
    kept = store.read_bytes()
    with site.open() as device:
        assert device.enrol(token=site.token()).device == name
        context = device._context
        with pytest.raises((errors.TpmError, TSS2_Exception)):
            commands.load(
                context.tpm,
                context.known().storage_key,
                private=old.private,
                public=Public.decode_sized(old.public),
            )
        assert context.known().ak != ak
        device.boot()
        assert device.keystore.list() == ()
        assert device.keystore.epoch > first
        assert codes_of(device) == (Standing.TRUSTED, set())
        epoch = device.keystore.epoch
        assert list(context.state.roots()) == [epoch]
    (aside,) = store.parent.glob("keystore.before-*")
    assert aside.read_bytes() == kept
    assert aside.stat().st_mode & 0o777 == 0o600
    with site.backend.session() as session:
        assert session.query(KnownDevice).count() == 1
        states = {root.epoch: root.state for root in roots_of(session, name.hex())}
    assert states.pop(epoch) is RootState.ACTIVE
    assert states
    assert RootState.ACTIVE not in states.values()


# --- 59: clocks that are turned ---------------------------------------------------------


def test_59_a_backend_whose_clock_was_ahead_for_a_while_loses_no_device(site: Site) -> None:
    """Turned back again it takes no challenge until time has passed; meanwhile the device opens."""
    name = site.enrol()
    kept_under(site, "name")
    site.backend.clock.advance(DAY)
    kept_under(site, "name")
    site.backend.clock.advance(-DAY)
    with site.open() as device:
        device.boot()
        assert device.keystore["name"] == SECRET
        with pytest.raises(errors.RefusedError) as refused:
            device.attest()
        assert refused.value.code == "channel:refused"
        assert refused.value.data["problem"] == "challenge:used"
        assert device.keystore["name"] == SECRET
    site.tpm.reboot()
    site.backend.clock.advance(DAY + MINUTE)
    site.backend.rotate(name)
    with site.open() as device:
        device.boot()
        assert device.attest().rotated_to is not None
        assert device.keystore["name"] == SECRET


def test_59_a_backend_whose_clock_fell_back_for_a_while_loses_no_device(site: Site) -> None:
    """A day back nothing is taken and nothing lost; right again, all is as it was."""
    name = site.enrol()
    kept_under(site, "name")
    site.backend.clock.advance(-DAY)
    with site.open() as device:
        device.boot()
        with pytest.raises(errors.RefusedError) as refused:
            device.attest()
        assert refused.value.data["problem"] == "challenge:used"
        assert device.keystore["name"] == SECRET
    site.backend.clock.advance(DAY)
    site.backend.rotate(name)
    with site.open() as device:
        device.boot()
        assert device.attest().rotated_to is not None
        assert device.keystore["name"] == SECRET


def test_59_after_a_new_approval_a_clock_years_ahead_opens_without_the_backend(site: Site) -> None:
    """The approval is reckoned in the device's own clock, so it lasts as long as ever."""
    site.enrol()
    kept_under(site, "name")
    with site.open() as device:
        commands.clock_set(device._context.tpm, site.backend.clock() + 5 * 365 * DAY)
    site.tpm.reboot()
    with site.open() as device:
        with pytest.raises(errors.RootExpiredError) as refused:
            device.boot()
        assert refused.value.code == "root:expired"
        standing, codes = codes_of(device)
        assert standing is Standing.TRUSTED
        assert "clock:ahead" in codes
    site.backend.__exit__(None, None, None)
    site.tpm.reboot()
    with site.open() as device:
        device.boot()
        assert device.keystore["name"] == SECRET


def test_59_a_clock_years_ahead_does_not_outlive_a_rotation(site: Site) -> None:
    """Pushed ahead, the device takes its next root, and the old one is dead all the same."""
    name = site.enrol()
    kept_under(site, "name")
    with site.open() as device:
        device.boot()
        commands.clock_set(device._context.tpm, site.backend.clock() + 5 * 365 * DAY)
        site.backend.rotate(name)
        before = device.keystore.epoch
        assert device.attest().rotated_to == before + 1
        assert counter_of(device) == before + 1
        assert device.keystore["name"] == SECRET
    site.tpm.reboot()
    with site.open() as device:
        device.boot()
        assert device.keystore["name"] == SECRET
