"""A TPM that dies under an open device, and comes back as it was, emptied, or as another one.

Whatever the device does then ends in an error of the tree, at once, and with
the key store locked: the keys are worth no more than the TPM that opened it.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from hwtrust import errors
from hwtrust.device.results import State
from hwtrust.testing.faults import At, FaultPlan, FaultyTcti, Moment
from hwtrust.tpm.presence import is_away
from hwtrust.wire.messages import Standing

if TYPE_CHECKING:
    from collections.abc import Callable

    from tpm2_pytss.TCTI import TCTI

    from hwtrust.device import Device
    from hwtrust.testing.faults import Forward
    from hwtrust.testing.plugin import TpmFactory
    from hwtrust.testing.swtpm import Swtpm
    from simulators.site import Site

OPERATIONS: dict[str, Callable[[Device], object]] = {
    "attest": lambda device: device.attest(),
    "boot": lambda device: device.boot(),
    "status": lambda device: device.status(),
    "event log": lambda device: device.event_log(),
    "lease": lambda device: device.lease(),
}


def pull_out(tpm: Swtpm) -> None:
    """The TPM is gone, without a word."""
    assert tpm.pid is not None
    os.kill(tpm.pid, signal.SIGKILL)


@dataclass(frozen=True)
class PullOut:
    """A fault: the TPM goes before it gets a command, or after it executed it."""

    tpm: Swtpm
    moment: Moment

    def apply(self, request: bytes, forward: Forward) -> bytes:
        """As `Fault`."""
        if self.moment == "before":
            pull_out(self.tpm)
            return forward(request)
        forward(request)
        pull_out(self.tpm)
        # The response is lost with the connection: the next command finds that out.
        return forward(request)


def require_locked(device: Device, state: State) -> None:
    """Nothing is open, and the host application can know why."""
    with pytest.raises(errors.KeyStoreLockedError):
        _ = device.keystore
    assert device.condition.state is state


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_tpm_that_is_gone_is_told_from_one_that_refuses(
    site: Site, tpm: Swtpm, operation: str
) -> None:
    """Once and again; when it is back, the device loads and has what it had."""
    site.enrol()
    with site.open() as device:
        device.boot()
        device.keystore.put("name", b"value")
        pull_out(tpm)
        for _ in range(2):
            with pytest.raises(errors.TpmGoneError) as gone:
                OPERATIONS[operation](device)
            assert gone.value.code == "tpm:gone"
            assert is_away(gone.value)
            require_locked(device, State.TPM_AWAY)
    with pytest.raises(errors.TpmGoneError), site.open():
        pass
    tpm.power_cut()
    with site.open() as device:
        device.boot()
        assert device.keystore["name"] == b"value"
        assert device.attest().standing is Standing.TRUSTED


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("operation", ["attest", "boot", "rotate"])
def test_a_tpm_that_goes_in_the_midst_of_commands_costs_nothing(
    site: Site, tpm: Swtpm, operation: str, moment: Moment
) -> None:
    """At any command: a typed error, a locked key store, and afterwards everything is there."""
    name = site.enrol()
    with site.open() as device:
        device.boot()
        device.keystore.put("name", b"value")
    step = {"attest": 1, "boot": 4, "rotate": 9}[operation]
    nth, hit = 1, True
    while hit:
        if operation == "rotate":
            site.backend.rotate(name)
        hit = cut_at(site, operation, At(PullOut(tpm, moment), nth=nth))
        nth += step
        tpm.power_cut()
        with site.open() as device:
            device.boot()
            assert device.keystore["name"] == b"value"
            assert device.attest().standing is Standing.TRUSTED
    assert nth > 1 + 2 * step, "hardly a command was ever hit"


def cut_at(site: Site, operation: str, fault: At) -> bool:
    """Do it with a TPM that goes at one command; gives whether there was such a command."""
    plan = FaultPlan(fault)
    unharmed = FaultPlan()
    current = unharmed

    def wrap(inner: TCTI) -> TCTI:
        class Armed(FaultyTcti):
            def send(self, request: bytes) -> None:
                """Count only what the operation sends."""
                self._plan = current
                super().send(request)

        return Armed(inner, unharmed)

    with site.open(wrap_tcti=wrap) as device:
        if operation != "boot":
            device.boot()
        current = plan
        work = OPERATIONS["boot" if operation == "boot" else "attest"]
        lost: errors.HwTrustError | None = None
        try:
            work(device)
        except errors.HwTrustError as error:
            lost = error
        if lost is None:
            return False
        assert is_away(lost), lost
        assert plan.done
        require_locked(device, State.TPM_AWAY)
        current = unharmed
    return True


@pytest.mark.parametrize("operation", ["attest", "status", "event log"])
def test_a_tpm_that_was_reset_under_an_open_device_locks_it(
    site: Site, tpm: Swtpm, operation: str
) -> None:
    """No command had failed: what it quotes does not know the layers that run."""
    site.enrol()
    with site.open() as device:
        device.boot()
        device.attest()
        tpm.power_cut()
        with pytest.raises(errors.TpmResetError) as reset:
            OPERATIONS[operation](device)
        assert reset.value.code == "tpm:reset"
        assert is_away(reset.value)
        require_locked(device, State.TPM_AWAY)
        assert device.attest().standing is Standing.INCOMPLETE
        device.boot()
        assert device.attest().standing is Standing.TRUSTED


def test_a_reset_that_only_a_violation_finds_opens_nothing(site: Site, tpm: Swtpm) -> None:
    """A layer that changed meanwhile is found without a TPM, and locks with one or without."""
    site.enrol()
    with site.open() as device:
        device.boot()
        tpm.power_cut()
        device.check()
        site.change("kernel")
        with pytest.raises(errors.LayerMismatchError):
            device.check()
        require_locked(device, State.LOCKED)
        with pytest.raises(errors.HwTrustError):
            device.boot()
        require_locked(device, State.LOCKED)
    site.change("kernel")
    pull_out(tpm)
    tpm.power_cut()
    with site.open() as device:
        device.boot()
        site.change("kernel")
        pull_out(tpm)
        with pytest.raises(errors.TpmGoneError):
            device.check()
        with pytest.raises(errors.KeyStoreLockedError):
            _ = device.keystore


def empty(tpm: Swtpm) -> None:
    """Give the TPM back as it left its factory, and not as it was."""
    pull_out(tpm)
    for state in tpm.state_dir.glob("tpm2-*"):
        state.unlink()
    tpm.power_cut()


def become(tpm: Swtpm, other: Swtpm) -> None:
    """Plug another TPM of the same vendor in."""
    pull_out(tpm)
    other.stop()
    for state in tpm.state_dir.glob("tpm2-*"):
        state.unlink()
    for state in other.state_dir.glob("tpm2-*"):
        (tpm.state_dir / state.name).write_bytes(state.read_bytes())
    tpm.power_cut()


@pytest.mark.parametrize("instead", ["emptied", "another"])
@pytest.mark.parametrize("operation", ["attest", "boot"])
def test_another_tpm_in_the_place_of_ours_opens_nothing(
    site: Site, tpm: Swtpm, tpm_factory: TpmFactory, operation: str, instead: str
) -> None:
    """Neither for the open device nor for one that is opened with it; nobody waits for it."""
    site.enrol()
    with site.open() as device:
        device.boot()
        if instead == "emptied":
            empty(tpm)
        else:
            become(tpm, tpm_factory())
        with pytest.raises(errors.TpmObjectConflictError) as conflict:
            OPERATIONS[operation](device)
        assert conflict.value.code == "tpm:object:conflict"
        assert not is_away(conflict.value)
        require_locked(device, State.LOCKED)
    with site.open() as device:
        with pytest.raises(errors.TpmObjectConflictError):
            OPERATIONS[operation](device)
        require_locked(device, State.LOCKED)
