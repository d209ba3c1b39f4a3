"""The whole life of a dynamic root, over a real TPM, real TLS and a real database."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from tpm2_pytss import ESYS_TR

from hwtrust import errors
from hwtrust.device.boot import load_layers
from hwtrust.keys.unseal import SealedRoot, unseal_root
from hwtrust.roots import reopen_root
from hwtrust.tpm import commands
from hwtrust.tpm.leftovers import loaded
from hwtrust.tpm.sessions import hmac_session
from hwtrust.wire.messages import Severity, Standing
from hwtrust_backend.testing import DAY

if TYPE_CHECKING:
    from hwtrust.device import Device
    from hwtrust.device.state import StoredRoot
    from simulators.site import Site


def open_past_the_library(device: Device, root: StoredRoot) -> None:
    """Ask the TPM for a root in the state after a cold load, as a thief would."""
    context = device._context
    held = reopen_root(
        root.metadata,
        root.public,
        root.approval,
        metadata_key=context.metadata_key,
        policy_key=context.policy_key,
        device=context.known().device,
    )
    sealed = SealedRoot(held.public, root.private, root.approval, held.authorization)
    unseal_root(context.tpm, context.anchorage(), sealed, branch=0)


def load_cold(device: Device) -> None:
    """Extend the layers after a reboot, and neither unseal nor cap."""
    context = device._context
    device.event_log()
    with hmac_session(context.tpm, context.known().storage_key) as session:
        load_layers(context, session, reload=False)


def test_a_secret_survives_boot_rotation_and_reboot(site: Site) -> None:
    """What is stored under one root is there under the next, and after a reboot."""
    with site.open() as device:
        name = device.enrol(token=site.token()).device
        device.boot()
        device.keystore.put("payments/transport", b"secret")
        assert device.attest().standing is Standing.TRUSTED
        site.backend.rotate(name)
        first = device.keystore.epoch
        assert device.attest().rotated_to == first + 1
        assert device.keystore["payments/transport"] == b"secret"
    site.tpm.reboot()
    with site.open() as device:
        device.boot()
        assert device.keystore.epoch == first + 1
        assert device.keystore["payments/transport"] == b"secret"


def test_the_tpm_refuses_the_old_root_in_its_own_approved_state(site: Site) -> None:
    """60: root E with its approval is refused once the counter shows E + 1."""
    name = site.enrol()
    with site.open() as device:
        device.boot()
        old = device._context.newest_root()
        site.backend.rotate(name)
        device.attest()
    site.tpm.reboot()
    with site.open() as device:
        load_cold(device)
        with pytest.raises(errors.RootRevokedError) as refused:
            open_past_the_library(device, old)
        assert loaded(device._context.tpm) == ()
    assert refused.value.code == "root:revoked"
    assert refused.value.data["command"] == "TPM2_PolicyNV"


def test_the_tpm_refuses_an_expired_root_and_a_new_approval_recovers_it(site: Site) -> None:
    """66, 59: past not_after the TPM says no; the backend alerts and approves anew."""
    site.enrol()
    with site.open() as device:
        until = device.status().not_after
        commands.clock_set(device._context.tpm, until)
    site.tpm.reboot()
    with site.open() as device:
        with pytest.raises(errors.RootExpiredError) as refused:
            device.boot()
        assert refused.value.code == "root:expired"
        result = device.attest()
        assert "clock:ahead" in {finding.code for finding in result.findings}
        assert result.standing is Standing.TRUSTED
        device.boot()
        assert device.keystore.list() == ()


def test_a_capped_state_does_not_open_twice_in_one_boot(site: Site) -> None:
    """The approval that has just opened the root opens it no more after the cap."""
    site.enrol()
    site.tpm.reboot()
    with site.open() as device:
        device.boot()
        root = device._context.newest_root()
        with pytest.raises(errors.RootStateError) as refused:
            open_past_the_library(device, root)
    assert refused.value.code == "root:state:unapproved"


def test_a_changed_layer_is_noticed_by_device_tpm_and_backend(site: Site) -> None:
    """One changed byte: the chain stops, nothing opens, the verdict says which layer."""
    site.enrol()
    shutil.copy2(site.home / "kernel", site.home / "kernel.good")
    site.change("kernel")
    site.tpm.reboot()
    with site.open() as device:
        with pytest.raises(errors.LayerMismatchError) as mismatch:
            device.boot()
        assert mismatch.value.data["layer"] == "kernel"
        with pytest.raises(errors.KeyStoreLockedError):
            _ = device.keystore
        with pytest.raises(errors.RootStateError):
            open_past_the_library(device, device._context.newest_root())
        result = device.attest()
        assert result.standing is Standing.FAILED
        assert {finding.code: finding.severity for finding in result.findings} == {
            "log:violation": Severity.FAIL,
            "log:incomplete": Severity.INCOMPLETE,
        }
    shutil.copy2(site.home / "kernel.good", site.home / "kernel")
    site.tpm.reboot()
    with site.open() as device:
        device.boot()
        assert device.attest().standing is Standing.TRUSTED


def test_a_layer_that_changes_at_run_time_locks_the_key_store(site: Site) -> None:
    """A violation is extended, the keys are forgotten, and the backend grants nothing."""
    site.enrol()
    with site.open() as device:
        device.boot()
        site.change("frontend")
        with pytest.raises(errors.LayerMismatchError):
            device.check()
        with pytest.raises(errors.KeyStoreLockedError):
            _ = device.keystore
        assert device.attest().standing is Standing.FAILED


def test_a_device_that_was_away_for_longer_than_its_root_lives_comes_back(site: Site) -> None:
    """The clock follows signed time, the dead root gets a last approval and is replaced."""
    site.enrol()
    with site.open() as device:
        device.boot()
        device.keystore.put("name", b"value")
        first = device.keystore.epoch
    site.backend.clock.advance(60 * DAY)
    site.tpm.reboot()
    with site.open() as device:
        result = device.attest()
        assert result.root_waits
        device.boot()
        assert device.keystore["name"] == b"value"
        assert device.attest().rotated_to == first + 1
        assert device.keystore["name"] == b"value"
    with site.open() as device:
        device.boot()
        assert device.keystore["name"] == b"value"


def test_a_restart_without_a_reboot_opens_again_without_the_backend(site: Site) -> None:
    """Each answer carries the approval for the next live reload."""
    site.enrol()
    site.backend.__exit__(None, None, None)
    with site.open() as device:
        device.boot()
        assert device.keystore.list() == ()


def test_a_reboot_opens_again_without_the_backend(site: Site) -> None:
    """A cold boot needs nobody, as long as the approval lasts."""
    site.enrol()
    site.backend.__exit__(None, None, None)
    site.tpm.reboot()
    with site.open() as device:
        device.boot()
        assert device.keystore.list() == ()


def test_a_pcr_that_another_program_extended_is_a_named_conflict(site: Site) -> None:
    """Nothing is measured on top of what nobody can explain."""
    site.enrol()
    with site.open() as device:
        tpm, key = device._context.tpm, device._context.known().storage_key
        with hmac_session(tpm, key) as session:
            digests = {bank: bytes(32)[: 20 if bank == 4 else 32] for bank in (4, 11)}
            commands.pcr_extend(tpm, 8, digests, session)  # type: ignore[arg-type]
    with site.open() as device, pytest.raises(errors.TpmPcrConflictError) as conflict:
        device.boot()
    assert conflict.value.code == "tpm:pcr:conflict"


def test_two_processes_do_not_share_a_device(site: Site) -> None:
    """69: the second one is told so."""
    site.enrol()
    with site.open(), pytest.raises(errors.StateBusyError) as busy, site.open():
        pass
    assert busy.value.code == "state:busy"


def test_a_device_enrols_again_after_its_tpm_was_cleared(site: Site) -> None:
    """58: the same EK, so the same device; new keys, a higher epoch, the old key store aside."""
    name = site.enrol()
    with site.open() as device:
        first = device.status().counter
        tpm = device._context.tpm
        tpm.call("TPM2_Clear", tpm.esapi.clear, ESYS_TR.LOCKOUT)
    with site.open() as device:
        assert device.enrol(token=site.token()).device == name
        device.boot()
        assert device.keystore.epoch > first
        assert device.attest().standing is Standing.TRUSTED
    assert [path.name for path in (site.home / "state").glob("keystore.before-*")]
