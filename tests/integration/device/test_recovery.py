"""68: with a backend that was restored and has said so, a device moves on and repeats no epoch."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec
import pytest

from hwtrust.wire.messages import Standing
from hwtrust_backend.publishing import note_recovery
from hwtrust_backend.testing import BackendServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from hwtrust.device import Step
    from simulators.site import Site

SECRET = b"what must not be lost"


class PowerCutError(Exception):
    """The rotation ends here."""


def cut_after(step_name: str, nth: int = 1) -> Callable[[Step], None]:
    """Cut the power after the nth step of that name."""
    seen = 0

    def watch(step: Step) -> None:
        nonlocal seen
        seen += step.name == step_name
        if seen == nth:
            raise PowerCutError

    return watch


@pytest.fixture
def site_with_secret(site: Site) -> Site:
    """A device that keeps something."""
    site.enrol()
    with site.open() as device:
        device.boot()
        device.keystore.put("name", SECRET)
        device.attest()
    return site


@contextmanager
def recovered(site: Site, backup: Path) -> Iterator[BackendServer]:
    """The backend as it was backed up, in the place of the one that ran, recovery noted."""
    site.backend.__exit__(None, None, None)
    with BackendServer(backup, clock=site.backend.clock) as backend:
        trust = msgspec.structs.replace(backend.trust, url=backend.url)
        (site.home / "trust.json").write_bytes(msgspec.json.encode(trust))
        with backend.session() as session:
            note_recovery(session, by="test", note="", now=backend.clock())
        site.backend = backend
        yield backend


def backed_up(site: Site) -> Path:
    """A copy of the backend's data, taken while it does nothing."""
    return site.home / shutil.copytree(site.backend.directory, site.home / "backup").name


def check(site: Site, name: bytes, epoch: int) -> None:
    """After a reboot the device is at `epoch`, with everything that it kept."""
    site.tpm.reboot()
    with site.open() as device:
        device.boot()
        assert device.keystore["name"] == SECRET
        assert device.attest().standing is Standing.TRUSTED
        status = device.status()
        assert status.epoch == status.counter == device.keystore.epoch == epoch
        assert list(device._context.state.roots()) == [epoch]
    assert site.backend_epoch(name) == epoch


def name_of(site: Site) -> bytes:
    """The device's name."""
    with site.open() as device:
        return device.status().device


@pytest.mark.parametrize("last_step", ["import", "wrap key store"])
def test_68_a_root_that_the_database_lost_is_not_followed_by_another_of_its_epoch(
    site_with_secret: Site, last_step: str
) -> None:
    """The device holds an E + 1 that nobody remembers; the next root that it takes is E + 2."""
    site = site_with_secret
    backup, name = backed_up(site), name_of(site)
    with site.open() as device:
        device.boot()
        before = device.keystore.epoch
        site.backend.rotate(name)
        with pytest.raises(PowerCutError):
            device.attest(on_step=cut_after(last_step))
    with recovered(site, backup) as backend:
        with site.open() as device:
            device.boot()
            backend.rotate(name)
            result = device.attest()
            assert result.standing is Standing.TRUSTED
            assert result.rotated_to == before + 2
            assert device.keystore["name"] == SECRET
        check(site, name, before + 2)


def test_68_epochs_that_the_database_lost_are_taken_over(site_with_secret: Site) -> None:
    """A device that has gone on is believed by its counter, and gets a new root at once."""
    site = site_with_secret
    backup, name = backed_up(site), name_of(site)
    with site.open() as device:
        device.boot()
        gone_on = device.keystore.epoch + 2
        for _ in range(2):
            site.backend.rotate(name)
            device.attest()
        assert device.keystore.epoch == gone_on
    with recovered(site, backup):
        with site.open() as device:
            device.boot()
            result = device.attest()
            assert result.standing is Standing.TRUSTED
            assert result.rotated_to == gone_on + 2
        check(site, name, gone_on + 2)


POINTS: dict[str, Callable[[], Callable[[Step], None]]] = {
    "before the first count": lambda: cut_after("wrap key store"),
    "between the two counts": lambda: cut_after("count", 1),
    "after the second count": lambda: cut_after("count", 2),
}


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("reboots", [False, True], ids=["restarted", "rebooted"])
def test_68_a_power_cut_while_an_epoch_is_left_out_loses_nothing(
    site_with_secret: Site, point: str, *, reboots: bool
) -> None:
    """Wherever it stops, the next start opens the key store and counts to the end."""
    site = site_with_secret
    backup, name = backed_up(site), name_of(site)
    with site.open() as device:
        before = device.status().epoch
    with recovered(site, backup) as backend:
        with site.open() as device:
            device.boot()
            backend.rotate(name)
            with pytest.raises(PowerCutError):
                device.attest(on_step=POINTS[point]())
        if reboots:
            site.tpm.reboot()
        with site.open() as device:
            device.boot()
            assert device.keystore["name"] == SECRET
            assert device.attest().standing is Standing.TRUSTED
        check(site, name, before + 2)
