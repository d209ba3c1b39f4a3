"""64, 69, 101 and 102 on a device: killed and powerless at every step, held twice, spoilt."""

from __future__ import annotations

import os
import shutil
import subprocess
from itertools import count
from typing import TYPE_CHECKING

import pytest

from hwtrust import errors
from hwtrust.device import Device, DeviceConfig
from hwtrust.device.state import DeviceState
from hwtrust.tpm.leftovers import loaded
from hwtrust.wire.messages import Standing
from hwtrust_backend.enrolment import Device as KnownDevice
from simulators.crash import AfterStep, AtCommand, Work, run_and_kill
from simulators.field import counter_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from hwtrust.device import Step
    from hwtrust.device.state import Identity
    from simulators.site import Site

SECRET = b"what must not be lost"


def after_every_command() -> Iterator[AtCommand]:
    """After each TPM command, before the software has seen that it was done."""
    return (AtCommand(nth, "after") for nth in count(1))


def after_every_step() -> Iterator[AfterStep]:
    """After each step that the library reports."""
    return (AfterStep(nth) for nth in count(1))


@pytest.fixture
def keeping(site: Site) -> Site:
    """A device that keeps something."""
    site.enrol()
    with site.open() as device:
        device.boot()
        device.keystore.put("name", SECRET)
        device.attest()
    return site


def store_of(site: Site) -> Path:
    """The device's key store."""
    return site.home / "state" / "keystore.db"


def still_whole(site: Site) -> None:
    """The next start opens the key store and attests; nothing is left in the TPM."""
    with site.open() as device:
        assert loaded(device._context.tpm) == ()
        device.boot()
        assert device.keystore["name"] == SECRET
        assert device.attest().standing is Standing.TRUSTED
        assert loaded(device._context.tpm) == ()


# --- 64: killed at every step -------------------------------------------------------------

POINTS: dict[str, tuple[Callable[[], Iterator[AtCommand | AfterStep]], int]] = {
    "after every TPM command": (after_every_command, 10),
    "after every step": (after_every_step, 8),
}


@pytest.mark.parametrize("case", POINTS)
def test_64_a_boot_that_is_cut_short_costs_nothing(keeping: Site, case: str) -> None:
    """Killed, and every other time the TPM loses its power too: the next start comes through."""
    points, least = POINTS[case]
    tried = 0
    for point in points():
        # Each point begins with a cold boot: what was killed before has extended the PCR.
        keeping.tpm.reboot()
        if not run_and_kill(str(keeping.config_path), point, Work("boot")):
            break
        tried += 1
        if tried % 2:
            keeping.tpm.power_cut()
        still_whole(keeping)
    assert tried >= least


def test_64_an_attestation_that_is_cut_short_costs_nothing(keeping: Site) -> None:
    """The answer that nobody took is answered anew."""
    tried = 0
    for point in after_every_command():
        if not run_and_kill(str(keeping.config_path), point):
            break
        tried += 1
        if tried % 2:
            keeping.tpm.power_cut()
        still_whole(keeping)
        keeping.tpm.reboot()
    assert tried >= 4


@pytest.mark.parametrize("case", POINTS)
def test_64_an_enrolment_that_is_cut_short_is_done_again(site: Site, case: str) -> None:
    """Whatever was left in the TPM and on disk, another enrolment makes the one device of it."""
    points, _ = POINTS[case]
    least = {"after every TPM command": 25, "after every step": 5}[case]
    tried, names = 0, set()
    for point in points():
        if not run_and_kill(str(site.config_path), point, Work("enrol", site.token())):
            break
        tried += 1
        if tried % 2:
            site.tpm.power_cut()
        # The device of the last round is cut short in giving up what it was, and begins anew.
        with site.open() as device:
            assert loaded(device._context.tpm) == ()
            names.add(device.enrol(token=site.token()).device)
            device.boot()
            assert device.attest().standing is Standing.TRUSTED
            assert list(device._context.state.roots()) == [counter_of(device)]
            assert loaded(device._context.tpm) == ()
    assert tried >= least
    assert len(names) == 1
    with site.backend.session() as session:
        assert session.query(KnownDevice).count() == 1


class PowerCutError(Exception):
    """The boot ends here."""


def test_64_a_kill_between_making_the_key_store_and_noting_it_is_made_good(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next boot notes it: a key store that goes later is missed, not silently made anew."""

    def cut(_state: DeviceState, identity: Identity) -> None:
        assert identity.keystore_made
        raise PowerCutError

    with site.open() as device:
        device.enrol(token=site.token())
        with monkeypatch.context() as patch:
            patch.setattr(DeviceState, "save_identity", cut)
            with pytest.raises(PowerCutError):
                device.boot()
        assert not device._context.state.identity().keystore_made
    assert store_of(site).exists()
    with site.open() as device:
        device.boot()
        device.attest()
    store_of(site).unlink()
    with site.open() as device:
        with pytest.raises(errors.KeyStoreMissingError) as refused:
            device.boot()
        assert refused.value.code == "keystore:missing"
    assert not store_of(site).exists()


# --- 69: two on one device ----------------------------------------------------------------


def configured(site: Site, state: Path, name: str) -> DeviceConfig:
    """The site's configuration with another path to a state directory."""
    path = site.home / name
    path.write_text(site.config_path.read_text().replace('"state"', f'"{state}"', 1))
    return DeviceConfig.load(path)


def test_69_a_linked_path_to_the_state_is_the_same_device(keeping: Site) -> None:
    """The lock is in the directory, whatever path leads there."""
    link = keeping.home / "link"
    link.symlink_to(keeping.home / "state")
    config = configured(keeping, link, "linked.toml")
    with (
        keeping.open() as device,
        pytest.raises(errors.StateBusyError) as refused,
        Device.open(config),
    ):
        pytest.fail(f"opened beside {device}")
    assert refused.value.code == "state:busy"
    with Device.open(config) as device:
        device.boot()
        assert device.keystore["name"] == SECRET


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_69_a_bind_mount_of_the_state_is_the_same_device(keeping: Site) -> None:
    """Another mount of the directory is the same lock file."""
    mounted = keeping.home / "mounted"
    mounted.mkdir()
    made = subprocess.run(
        ["mount", "--bind", keeping.home / "state", mounted], check=False, capture_output=True
    )
    if made.returncode != 0:
        pytest.skip("this machine lets nobody mount")
    try:
        config = configured(keeping, mounted, "mounted.toml")
        with keeping.open(), pytest.raises(errors.StateBusyError) as refused, Device.open(config):
            pytest.fail("opened twice")
        assert refused.value.code == "state:busy"
    finally:
        subprocess.run(["umount", mounted], check=True)


def test_69_a_copy_of_the_state_directory_is_noticed_by_the_pcr(keeping: Site) -> None:
    """Two agents with one identity: the log of the one does not explain what the other extended."""
    copy = keeping.home / "copy"
    shutil.copytree(keeping.home / "state", copy)
    copy.chmod(0o700)
    config = configured(keeping, copy, "copy.toml")
    keeping.tpm.reboot()
    with keeping.open() as device:
        device.boot()
        device.keystore.put("newer", b"value")
    with Device.open(config) as other:
        with pytest.raises(errors.TpmPcrConflictError) as refused:
            other.boot()
        assert refused.value.code == "tpm:pcr:conflict"
        with pytest.raises(errors.KeyStoreLockedError):
            _ = other.keystore
    with keeping.open() as device:
        device.boot()
        assert device.keystore["newer"] == b"value"


def test_69_a_second_enrolment_does_not_take_what_is_the_firsts(keeping: Site) -> None:
    """Another state directory on the same TPM: its handles are in use; nobody is even asked."""
    config = configured(keeping, keeping.home / "other", "other.toml")
    steps: list[Step] = []
    with Device.open(config) as other:
        with pytest.raises(errors.TpmObjectConflictError) as refused:
            other.enrol(token=keeping.token(), on_step=steps.append)
        assert refused.value.code == "tpm:object:conflict"
        assert steps == []
        assert not other.enrolled
        assert loaded(other._context.tpm) == ()
    still_whole(keeping)


def test_69_a_second_enrolment_with_handles_of_its_own_ends_the_first(keeping: Site) -> None:
    """One TPM is one device: an epoch that has been is refused, a newer one is the device's."""
    path = keeping.home / "other.toml"
    text = keeping.config_path.read_text().replace('"state"', '"other"', 1)
    handles = "[tpm.handles]\nak = 0x81018077\nstorage_key = 0x81018078\ncounter = 0x01804877\n"
    path.write_text(text.replace("[layers]", f"{handles}[layers]", 1))
    keeping.tpm.reboot()
    with Device.open(DeviceConfig.load(path)) as other:
        with pytest.raises(errors.RefusedError) as refused:
            other.enrol(token=keeping.token())
        assert refused.value.data["problem"] == "enrolment:epoch:reused"
        assert not other.enrolled
        assert loaded(other._context.tpm) == ()
    still_whole(keeping)
    with keeping.open() as device:
        name = device.status().device
    keeping.tpm.reboot()
    with Device.open(DeviceConfig.load(path)) as other:
        assert other.enrol(token=keeping.token()).device == name
        other.boot()
        assert other.attest().standing is Standing.TRUSTED
    keeping.tpm.reboot()
    with keeping.open() as device, pytest.raises(errors.RefusedError) as refused:
        device.attest()
    assert refused.value.code == "channel:refused"
    assert refused.value.data["problem"] == "evidence:signature:invalid"
    assert store_of(keeping).exists()
    with keeping.backend.session() as session:
        assert session.query(KnownDevice).count() == 1


# --- 101, 102: the device's key store -----------------------------------------------------


def halved(path: Path) -> None:
    """Half of the file is gone."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path: Path) -> None:
    """All of it is gone, but for its name."""
    path.write_bytes(b"")


def spoilt(path: Path) -> None:
    """One bit in the seal's row has flipped, which is in the first page after the schema."""
    content = bytearray(path.read_bytes())
    for offset in range(len(content) - 1, 0, -1):
        if content[offset]:
            content[offset] ^= 1
            break
    path.write_bytes(content)


def opened_to_others(path: Path) -> None:
    """Others may read it."""
    path.chmod(0o644)


def linked(path: Path) -> None:
    """It is elsewhere, and a link leads there."""
    path.rename(path.with_name("elsewhere.db"))
    path.symlink_to("elsewhere.db")


def doubled(path: Path) -> None:
    """It has a second name."""
    os.link(path, path.with_name("second.db"))


def gone(path: Path) -> None:
    """It is not there."""
    path.unlink()


SPOILT: dict[str, tuple[Callable[[Path], None], str]] = {
    "101: cut in half": (halved, "keystore:damaged"),
    "101: emptied": (emptied, "keystore:damaged"),
    "101: a flipped bit": (spoilt, "keystore:damaged"),
    "101: deleted": (gone, "keystore:missing"),
    "101: with a second name": (doubled, "keystore:permission"),
    "102: open to others": (opened_to_others, "keystore:permission"),
    "102: a link": (linked, "keystore:permission"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_a_device_boots_to_a_typed_error_from_a_key_store_that_is(keeping: Site, case: str) -> None:
    """No new key store takes its place; put right, it opens; meanwhile the device attests."""
    spoil, code = SPOILT[case]
    path = store_of(keeping)
    good, names = path.read_bytes(), {file.name for file in path.parent.iterdir()}
    spoil(path)
    with keeping.open() as device:
        with pytest.raises(errors.KeyStoreError) as refused:
            device.boot()
        assert refused.value.code == code
        with pytest.raises(errors.KeyStoreLockedError):
            _ = device.keystore
        assert loaded(device._context.tpm) == ()
        assert device.attest().standing is Standing.TRUSTED
    for file in path.parent.iterdir():
        if file.name not in names:
            file.unlink()
    path.unlink(missing_ok=True)
    path.write_bytes(good)
    path.chmod(0o600)
    still_whole(keeping)


def test_101_an_older_copy_after_a_rotation_boots_to_a_typed_error(keeping: Site) -> None:
    """The root that opened that copy is dead, and so is the copy."""
    path = store_of(keeping)
    old = path.read_bytes()
    with keeping.open() as device:
        device.boot()
        keeping.backend.rotate(device.status().device)
        assert device.attest().rotated_to is not None
    path.write_bytes(old)
    with keeping.open() as device:
        with pytest.raises(errors.KeyStoreEpochError) as refused:
            device.boot()
        assert refused.value.code == "keystore:epoch:mismatch"


def test_102_a_state_directory_of_another_kind_is_refused(keeping: Site) -> None:
    """Writable by others, of another owner, or no directory at all: typed, before the TPM."""
    state = keeping.home / "state"
    commands: list[object] = []

    def refusal() -> errors.StateError:
        with (
            pytest.raises(errors.StateError) as refused,
            keeping.open(on_command=commands.append),
        ):
            pytest.fail("opened")
        return refused.value

    state.chmod(0o777)
    assert refusal().code == "state:permission"
    state.chmod(0o700)
    if os.geteuid() == 0:
        os.chown(state, 65534, 65534)
        assert refusal().code == "state:permission"
        os.chown(state, 0, 0)
    lock = state / "lock"
    lock.unlink()
    lock.symlink_to(keeping.home / "elsewhere")
    assert refusal().code == "state:permission"
    assert not (keeping.home / "elsewhere").exists()
    lock.unlink()
    assert commands == []
    still_whole(keeping)
