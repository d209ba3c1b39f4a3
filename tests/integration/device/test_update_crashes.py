"""64, 75: killed at every point of an update, one whole release or the other runs next."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import pytest

from hwtrust.device.results import Outcome
from hwtrust.tpm.leftovers import loaded
from hwtrust.wire.messages import Standing
from simulators.crash import AfterStep, AtCommand, Work, run_and_kill
from simulators.updating import UpdatingSite

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


SECRET = UpdatingSite.SECRET


def after_every_third_command() -> Iterator[AtCommand]:
    """After every third TPM command, before the software has seen that it was done."""
    return (AtCommand(nth, "after") for nth in count(1, 3))


def after_every_step() -> Iterator[AfterStep]:
    """After each step that the library reports."""
    return (AfterStep(nth) for nth in count(1))


def kill(_: UpdatingSite) -> None:
    """Nothing more than the process dies."""


def cut_the_power(site: UpdatingSite) -> None:
    """The TPM loses its power with the process."""
    site.tpm.power_cut()


def check_recovery(site: UpdatingSite, releases: set[str]) -> None:
    """The next start opens the key store with a whole release, and the update can be finished."""
    with site.open() as device:
        assert loaded(device._context.tpm) == ()
        device.boot()
        assert device.keystore["name"] == SECRET
        assert device.status().release in releases
        assert device.attest().standing is Standing.TRUSTED
        newest = max(releases)
        assert device.update(newest).outcome in {Outcome.CURRENT, Outcome.CONFIRMED}
        assert device.status().release == newest
        assert device.attest().standing is Standing.TRUSTED
        assert device.keystore["name"] == SECRET
        assert loaded(device._context.tpm) == ()


@pytest.mark.parametrize(
    ("points", "least", "after_the_kill"),
    [
        pytest.param(after_every_third_command, 8, kill, id="killed after TPM commands"),
        pytest.param(after_every_third_command, 8, cut_the_power, id="powerless after commands"),
        pytest.param(after_every_step, 14, kill, id="killed after every step"),
        pytest.param(after_every_step, 14, cut_the_power, id="powerless after every step"),
    ],
)
def test_an_update_that_is_cut_short_leaves_a_whole_release(
    updating: UpdatingSite,
    points: Callable[[], Iterator[AtCommand | AfterStep]],
    least: int,
    after_the_kill: Callable[[UpdatingSite], None],
) -> None:
    """Each point in turn: kill, start again, check; until a run comes through whole."""
    site = updating
    tried, before = 0, "r0000"
    site.publish(before, frontend=b"the first of many")
    with site.open() as device:
        device.boot()
        device.update(before)
        device.attest()
    for point in points():
        name = f"r{tried + 1:04}"
        site.publish(name, frontend=f"the frontend of {name}".encode())
        killed = run_and_kill(str(site.config_path), point, Work("update", release=name))
        if not killed:
            break
        tried += 1
        after_the_kill(site)
        check_recovery(site, {before, name})
        before = name
        # The event log grows with every start; each point begins with that of a fresh boot.
        site.tpm.reboot()
    assert tried >= least
