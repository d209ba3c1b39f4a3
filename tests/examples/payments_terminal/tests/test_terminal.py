"""A terminal through what happens to terminals: on a real TPM's commands, with a real backend."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from payments_terminal import OutOfServiceError, Terminal

from hwtrust.device import State
from hwtrust.errors import RootRevokedError, TpmGoneError, TpmLockoutError
from hwtrust.testing.faults import RC_FAILURE, At, Respond
from hwtrust.tpm.connection import Tpm
from hwtrust.tpm.provision import active_banks, has_p256
from hwtrust.wire.algorithms import Alg

if TYPE_CHECKING:
    from hwtrust.testing.device import EnrolledDevice
    from hwtrust.testing.fixtures import EnrolledDeviceFactory
    from hwtrust.testing.plugin import HardwareTpm, TpmFactory
    from hwtrust.testing.swtpm import Swtpm


@pytest.fixture
def terminal(enrolled_device: EnrolledDevice) -> Terminal:
    """A terminal in service."""
    terminal = Terminal(enrolled_device.device)
    terminal.keep(b"the bank's key")
    return terminal


@pytest.mark.hardware
def test_the_tpm_has_what_a_terminal_needs(tpm: Swtpm | HardwareTpm) -> None:
    """SHA-256 and P-256: on the TPM that HWTRUST_TEST_TCTI names, where it names one."""
    with Tpm(tpm.tcti) as opened:
        assert Alg.SHA256 in active_banks(opened)
        assert has_p256(opened)


def test_the_key_opens_after_a_restart(enrolled_device: EnrolledDevice, terminal: Terminal) -> None:
    """A terminal that is switched off at night signs the same in the morning."""
    signed = terminal.sign("1042", cents=995)
    again = Terminal(enrolled_device.reboot(boot=False))
    assert again.start()
    assert again.sign("1042", cents=995) == signed


def test_a_changed_kernel_puts_the_terminal_out_of_service(
    enrolled_device: EnrolledDevice, terminal: Terminal
) -> None:
    """One byte in a layer, and the key stays closed."""
    enrolled_device.change("kernel")
    changed = Terminal(enrolled_device.reboot(boot=False))
    assert not changed.start()
    with pytest.raises(OutOfServiceError, match="keystore:locked"):
        changed.sign("1042", cents=995)
    assert enrolled_device.device.condition.code == "layer:mismatch"


def test_payments_go_on_through_a_rotation(
    enrolled_device: EnrolledDevice, terminal: Terminal
) -> None:
    """The root is replaced under a running terminal, which signs the same before and after."""
    signed = terminal.sign("1042", cents=995)
    assert enrolled_device.rotate().rotated_to == 2
    assert terminal.sign("1042", cents=995) == signed


def test_an_old_copy_of_the_disk_opens_nothing(
    enrolled_device: EnrolledDevice, terminal: Terminal
) -> None:
    """What was copied before a rotation is worth nothing after it: the TPM has revoked it."""
    stolen = enrolled_device.steal_disk()
    enrolled_device.rotate()
    enrolled_device.return_disk(stolen)
    with pytest.raises(RootRevokedError):
        enrolled_device.reboot()
    with pytest.raises(OutOfServiceError):
        Terminal(enrolled_device.device).sign("1042", cents=995)


def test_a_tpm_that_fails_once_costs_one_start(
    enrolled_device: EnrolledDevice, terminal: Terminal
) -> None:
    """The terminal is out of service, says why, and comes up with the next start."""
    plan = enrolled_device.tpm.inject(At(Respond(RC_FAILURE), command="TPM2_Unseal"))
    faulty = Terminal(enrolled_device.reboot(boot=False))
    assert not faulty.start()
    assert enrolled_device.device.condition.code == "tpm:failure-mode"
    assert plan.done
    assert Terminal(enrolled_device.reboot(boot=False)).start()


def test_a_tpm_that_goes_away_takes_the_key_with_it(
    enrolled_device: EnrolledDevice, terminal: Terminal
) -> None:
    """A loose contact closes the key store at once; when the TPM is back all is there."""
    signed = terminal.sign("1042", cents=995)
    enrolled_device.tpm.go_away()
    with pytest.raises(TpmGoneError):
        enrolled_device.attest()
    with pytest.raises(OutOfServiceError):
        terminal.sign("1042", cents=995)
    assert enrolled_device.conditions[-1].state is State.TPM_AWAY
    enrolled_device.tpm.come_back()
    again = Terminal(enrolled_device.open())
    assert again.start()
    assert again.sign("1042", cents=995) == signed


def test_a_tpm_in_lockout_is_not_enrolled_but_goes_on_where_it_was(
    enrolled_device: EnrolledDevice,
    terminal: Terminal,
    enrolled_device_factory: EnrolledDeviceFactory,
    tpm_factory: TpmFactory,
) -> None:
    """Somebody who guesses passwords keeps no terminal from its work, only new ones from theirs."""
    enrolled_device.tpm.lock_out()
    assert Terminal(enrolled_device.reboot(boot=False)).start()
    with pytest.raises(TpmLockoutError):
        enrolled_device_factory(tpm=tpm_factory(locked_out=True))
