"""64: killed at every point of a rotation, the next start goes on and nothing is lost."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import pytest

from hwtrust.tpm.leftovers import loaded
from hwtrust.wire.messages import Standing
from simulators.crash import AfterStep, AtCommand, run_and_kill

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from simulators.site import Site

SECRET = b"what must not be lost"


def before_every_command() -> Iterator[AtCommand]:
    """Before each TPM command."""
    return (AtCommand(nth, "before") for nth in count(1))


def after_every_command() -> Iterator[AtCommand]:
    """After each TPM command, before the software has seen that it was done."""
    return (AtCommand(nth, "after") for nth in count(1))


def after_every_step() -> Iterator[AfterStep]:
    """After each step that the library reports."""
    return (AfterStep(nth) for nth in count(1))


def kill(_: Site) -> None:
    """Nothing more than the process dies."""


def cut_the_power(site: Site) -> None:
    """The TPM loses its power with the process."""
    site.tpm.power_cut()


def check_recovery(site: Site, name: bytes) -> None:
    """The next start opens the key store, finishes the rotation, and leaves nothing behind."""
    with site.open() as device:
        assert loaded(device._context.tpm) == ()
        device.boot()
        assert device.keystore["name"] == SECRET
        result = device.attest()
        assert result.standing is Standing.TRUSTED
        status = device.status()
        assert status.epoch == status.counter == device.keystore.epoch
        assert list(device._context.state.roots()) == [status.epoch]
        assert site.backend_epoch(name) == status.epoch
        assert device.keystore["name"] == SECRET
        assert loaded(device._context.tpm) == ()


@pytest.mark.parametrize(
    ("points", "least", "after_the_kill"),
    [
        pytest.param(before_every_command, 30, kill, id="killed before every TPM command"),
        pytest.param(after_every_command, 30, kill, id="killed after every TPM command"),
        pytest.param(after_every_command, 30, cut_the_power, id="powerless after every command"),
        pytest.param(after_every_step, 14, kill, id="killed after every step"),
    ],
)
def test_a_rotation_that_is_cut_short_loses_nothing(
    site: Site,
    points: Callable[[], Iterator[AtCommand | AfterStep]],
    least: int,
    after_the_kill: Callable[[Site], None],
) -> None:
    """Each point in turn: kill, start again, check; until a run comes through whole."""
    name = site.enrol()
    with site.open() as device:
        device.boot()
        device.keystore.put("name", SECRET)
        device.attest()
    tried = 0
    for point in points():
        site.backend.rotate(name)
        killed = run_and_kill(str(site.config_path), point)
        if not killed:
            break
        tried += 1
        after_the_kill(site)
        check_recovery(site, name)
        # The event log grows with every start; each point begins with that of a fresh boot.
        site.tpm.reboot()
    assert tried >= least
