"""A device takes the next release: confirmed by a good attestation, else given up by itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hwtrust.device import Step
from hwtrust.device.results import Outcome, State
from hwtrust.errors import (
    ConfigError,
    LayerMismatchError,
    RootStateError,
    TargetDigestError,
    UpdateLeaveError,
    UpdatePlacesError,
    UpdateUnreachableError,
)
from hwtrust.tpm.leftovers import loaded
from hwtrust.wire.messages import Mode, Standing, UpdateOrder
from hwtrust_backend.references import retire_release
from simulators.updating import UpdatingSite

if TYPE_CHECKING:
    from collections.abc import Callable

    from hwtrust.updates.staging import Progress
    from hwtrust.wire.messages import LayerReference
    from simulators.site import Site

SECRET = UpdatingSite.SECRET


def retire(site: UpdatingSite, release: str) -> None:
    """An administrator calls a release back."""
    with site.backend.session() as session:
        retire_release(session, release, now=site.backend.clock(), by="test")


def at(name: str, act: Callable[[], None]) -> Callable[[Step], None]:
    """Do something right after a step, once."""
    done = False

    def on_step(step: Step) -> None:
        nonlocal done
        if step.name == name and not done:
            done = True
            act()

    return on_step


def test_a_device_brings_in_the_release_that_its_backend_orders(updating: UpdatingSite) -> None:
    """One question for all layers; what runs then is measured, attested and confirmed."""
    updating.publish("2.0", kernel=b"the next kernel")
    with updating.open() as device:
        device.boot()
        result = device.attest()
        assert result.update is not None
        assert (result.update.release, result.update.forced) == ("2.0", False)
        seen: list[Progress] = []
        done = device.update(on_progress=seen.append)
        assert (done.release, done.outcome) == ("2.0", Outcome.CONFIRMED)
        assert device.keystore["name"] == SECRET
        assert updating.content("kernel") == b"the next kernel"
        assert updating.content("frontend") == updating.layers["frontend"][1]
        again = device.attest()
        assert (again.standing, again.update) == (Standing.TRUSTED, None)
        assert device.update().outcome is Outcome.CURRENT
        assert loaded(device._context.tpm) == ()
    assert {progress.layer for progress in seen} == set(updating.layers)


def test_the_release_stays_after_a_restart_without_a_backend(updating: UpdatingSite) -> None:
    """The last approval is for the new release, cold too."""
    updating.publish("2.0", kernel=b"the next kernel")
    with updating.open() as device:
        device.boot()
        device.update("2.0")
    updating.tpm.reboot()
    updating.backend.go_away()
    with updating.open() as device:
        assert device.boot()["name"] == SECRET
        assert device.status().release == "2.0"


def test_once_confirmed_the_last_release_does_not_open_any_more(updating: UpdatingSite) -> None:
    """Whoever flips the slots back meets the TPM's refusal: its leave is for the new release."""
    updating.publish("2.0", kernel=b"the next kernel")
    with updating.open() as device:
        device.boot()
        device.update("2.0")
        device.attest()
    updating.slots.switch_back()
    updating.tpm.reboot()
    updating.backend.go_away()
    with updating.open() as device, pytest.raises(Exception) as caught:  # noqa: PT011
        device.boot()
    assert getattr(caught.value, "code", "") in {"root:state", "channel:unreachable"}


def test_a_release_that_the_backend_does_not_trust_is_given_up(updating: UpdatingSite) -> None:
    """76: called back while it comes up, it fails to attest; the last one runs again, live."""
    updating.publish("2.0", kernel=b"the next kernel")
    before = updating.content("kernel")
    with updating.open() as device:
        device.boot()
        done = device.update("2.0", on_step=at("switch", lambda: retire(updating, "2.0")))
        assert (done.outcome, done.code) == (Outcome.FELL_BACK, "update:trial:failed")
        assert updating.content("kernel") == before
        assert device.keystore["name"] == SECRET
        assert device.attest().standing is Standing.TRUSTED
        assert device.status().release == "1.0"
        assert loaded(device._context.tpm) == ()


def test_a_release_changed_between_staging_and_loading_is_given_up(
    updating: UpdatingSite,
) -> None:
    """74: it is a violation, which lasts until the restart; then the last release opens."""
    updating.publish("2.0", kernel=b"the next kernel")

    def change() -> None:
        updating.slots.path(updating.slots.current, "kernel").write_bytes(b"another kernel")

    with updating.open() as device:
        device.boot()
        with pytest.raises(RootStateError):
            device.update("2.0", on_step=at("switch", change))
        assert device.status().release == "1.0"
    updating.tpm.reboot()
    with updating.open() as device:
        assert device.boot()["name"] == SECRET
        assert device.attest().standing is Standing.TRUSTED
        assert device.status().release == "1.0"


def test_a_release_that_was_tampered_with_is_refused(updating: UpdatingSite) -> None:
    """What is served is not what was signed: nothing is switched, and the device goes on."""
    updating.publish("2.0", kernel=b"the next kernel")
    for blob in updating.publisher.blobs.directory.iterdir():
        if blob.is_file() and blob.read_bytes() == b"the next kernel":
            blob.write_bytes(b"the last kernel")
    with updating.open() as device:
        device.boot()
        with pytest.raises(TargetDigestError) as caught:
            device.update("2.0")
        assert caught.value.code == "update:target:digest"
        assert device.keystore["name"] == SECRET
        assert device.attest().standing is Standing.TRUSTED
        assert device.status().release == "1.0"


def test_a_release_without_leave_is_not_switched_to(updating: UpdatingSite) -> None:
    """Published is not accepted."""
    updating.publish("2.0", accept=False, kernel=b"the next kernel")
    with updating.open() as device:
        device.boot()
        with pytest.raises(UpdateLeaveError):
            device.update("2.0")
        assert updating.slots.current == "a"
        assert device.attest().standing is Standing.TRUSTED


def test_a_layer_that_takes_a_restart_comes_up_with_it(updating: UpdatingSite) -> None:
    """Until the restart the last release runs on, from its own slot, and attests well."""
    updating.publish("2.0", system=b"the next system")
    with updating.open() as device:
        device.boot()
        assert device.update("2.0").outcome is Outcome.RESTART
        device.check()
        assert device.keystore["name"] == SECRET
        assert device.attest().standing is Standing.TRUSTED
        assert device.status().release == "1.0"
    with updating.open() as device:
        device.boot()
        assert device.attest().standing is Standing.TRUSTED
        assert device.status().release == "1.0"
        assert device.update().outcome is Outcome.RESTART
    updating.tpm.reboot()
    with updating.open() as device:
        device.boot()
        assert device.attest().standing is Standing.TRUSTED
        assert device.status().release == "2.0"
        assert updating.content("system") == b"the next system"
        assert device.keystore["name"] == SECRET


def test_a_backend_that_goes_away_leaves_the_release_on_trial(updating: UpdatingSite) -> None:
    """It is confirmed when the backend is back, and given up when that takes too long."""
    updating.publish("2.0", kernel=b"the next kernel")
    with updating.open() as device:
        device.boot()
        done = device.update("2.0", on_step=at("switch", updating.backend.go_away))
        assert done.outcome is Outcome.ON_TRIAL
        assert device.keystore["name"] == SECRET
        assert device.status().release == "2.0"


def test_a_backend_that_goes_away_before_the_switch_changes_nothing(
    updating: UpdatingSite,
) -> None:
    """The download is kept, and taken up the next time."""
    updating.publish("2.0", kernel=b"the next kernel")
    with updating.open() as device:
        device.boot()
        device.attest()
        updating.backend.go_away()
        with pytest.raises(UpdateUnreachableError):
            device.update("2.0")
        assert updating.slots.current == "a"
        assert device.keystore["name"] == SECRET


def test_a_release_that_is_never_confirmed_is_given_up_after_some_starts(
    updating: UpdatingSite,
) -> None:
    """A release that takes the device down each time does not do so for ever."""
    updating.publish("2.0", kernel=b"the next kernel")
    with updating.open() as device:
        device.boot()
        device.update("2.0", on_step=at("switch", updating.backend.go_away))
    for _ in range(2):
        updating.tpm.reboot()
        with updating.open() as device:
            device.boot()
            assert device.status().release == "2.0"
    updating.tpm.reboot()
    with updating.open() as device:
        assert device.boot()["name"] == SECRET
        assert device.status().release == "1.0"


def test_paths_outside_the_slots_are_refused(updating: UpdatingSite) -> None:
    """A release would be switched, and the device would go on with other files."""
    text = updating.config_path.read_text()
    inside = str(updating.slots.path("a", "kernel").parent.parent / "current" / "kernel")
    assert inside in text
    updating.config_path.write_text(text.replace(inside, str(updating.home / "kernel")))
    with updating.open() as device:
        device.boot()
        with pytest.raises(UpdatePlacesError):
            device.update("2.0")


def test_a_device_without_slots_takes_no_updates(site: Site) -> None:
    """It says how to get some."""
    site.enrol()
    with site.open() as device:
        device.boot()
        with pytest.raises(ConfigError):
            device.update("2.0")


def test_a_device_whose_release_is_refused_is_forced_to_the_next(updating: UpdatingSite) -> None:
    """It is locked, and told the way out; the update needs no key that is locked away."""
    updating.publish("2.0", kernel=b"the next kernel")
    retire(updating, "1.0")
    with updating.open() as device:
        device.boot()
        result = device.attest()
        assert (result.standing, result.mode) == (Standing.FAILED, Mode.LOCKED)
        assert result.update is not None
        assert (result.update.release, result.update.forced) == ("2.0", True)
        assert device.update().outcome is Outcome.RESTART
    updating.tpm.reboot()
    with updating.open() as device:
        device.boot()
        assert device.attest().standing is Standing.TRUSTED
        assert device.status().release == "2.0"
        assert device.keystore["name"] == SECRET


def test_a_changed_layer_is_repaired_by_the_release_that_it_was(updating: UpdatingSite) -> None:
    """A device that deviates is ordered what it claims to run: fetched anew, after a restart."""
    kernel = Path(updating.config.layers["kernel"])
    good = kernel.read_bytes()
    kernel.write_bytes(b"a changed kernel")
    updating.tpm.reboot()
    with updating.open() as device:
        with pytest.raises(LayerMismatchError):
            device.boot()
        result = device.attest()
        assert result.update is not None
        assert (result.update.release, result.update.forced) == ("1.0", True)
        assert device.update().outcome is Outcome.RESTART
    updating.tpm.reboot()
    with updating.open() as device:
        device.boot()
        assert device.attest().standing is Standing.TRUSTED
        assert updating.content("kernel") == good
        assert device.keystore["name"] == SECRET


def test_loading_brings_in_what_is_ordered(updating: UpdatingSite) -> None:
    """One call for a host application: asked first, so that nothing is loaded twice."""
    updating.publish("2.0", kernel=b"the next kernel")
    updating.tpm.reboot()
    started: list[tuple[str, str]] = []

    def start(layer: LayerReference, _: Path) -> None:
        started.append((layer.name, layer.version))

    with updating.open() as device:
        condition = device.load(activate=start)
        assert (condition.state, condition.release) == (State.NORMAL, "2.0")
        assert device.keystore["name"] == SECRET
    assert started == [(name, "2.0" if name == "kernel" else "1.0") for name in updating.layers]


def test_only_what_changed_and_what_is_above_is_started_again(updating: UpdatingSite) -> None:
    """A live update: every layer is measured, those below the first changed one run on."""
    updating.publish("2.0", kernel=b"the next kernel")
    started: list[str] = []
    with updating.open() as device:
        device.boot(activate=lambda layer, _: started.append(layer.name))
        assert started == list(updating.layers)
        started.clear()
        device.update("2.0")
        assert started == ["kernel", "frontend"]


def test_a_release_that_was_given_up_is_not_taken_again_by_itself(updating: UpdatingSite) -> None:
    """Only when the backend leaves no choice."""
    updating.publish("2.0", kernel=b"the next kernel")
    with updating.open() as device:
        device.boot()
        device.update("2.0", on_step=at("switch", lambda: retire(updating, "2.0")))
        assert not device.takes(UpdateOrder(release="2.0"))
        assert device.takes(UpdateOrder(release="2.0", forced=True))
        assert device.takes(UpdateOrder(release="2.1"))


def test_a_root_that_is_replaced_on_the_way_does_not_disturb_an_update(
    updating: UpdatingSite,
) -> None:
    """The leave for both releases comes with the next root too."""
    name = updating.enrolled
    updating.publish("2.0", kernel=b"the next kernel")
    with updating.open() as device:
        device.boot()
        updating.backend.rotate(name)
        epoch = device.keystore.epoch
        assert device.update("2.0").outcome is Outcome.CONFIRMED
        assert device.keystore.epoch == epoch + 1
        assert device.keystore["name"] == SECRET
        assert device.attest().standing is Standing.TRUSTED
