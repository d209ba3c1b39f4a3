"""64: killed at every point of a rotation, the next start goes on and nothing is lost."""

from __future__ import annotations

from itertools import count, product
from typing import TYPE_CHECKING

import pytest

from hwtrust.tpm.leftovers import loaded
from hwtrust.wire.messages import Standing
from simulators.crash import AfterStep, AtCommand, run_and_kill

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from simulators.site import Site

SECRET = b"what must not be lost"


def every_command() -> Iterator[AtCommand]:
    """Before and after each TPM command."""
    for nth, moment in product(count(1), ("before", "after")):
        yield AtCommand(nth, moment)  # type: ignore[arg-type]


def every_step() -> Iterator[AfterStep]:
    """After each step that the library reports."""
    return (AfterStep(nth) for nth in count(1))


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
    "after_the_kill",
    [
        pytest.param(lambda _: None, id="the process is killed"),
        pytest.param(lambda site: site.tpm.power_cut(), id="the power is cut"),
    ],
)
@pytest.mark.parametrize(
    ("points", "least"),
    [
        pytest.param(every_command, 60, id="at every TPM command"),
        pytest.param(every_step, 14, id="after every step"),
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
    assert tried >= least
