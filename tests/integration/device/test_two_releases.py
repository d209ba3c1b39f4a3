"""A device with a release in each of its slots switches and returns, as far as its TPM lets it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
import pytest

from hwtrust import errors
from hwtrust.device.boot import load_layers
from hwtrust.keys.unseal import SealedRoot, unseal_root
from hwtrust.layers import reference
from hwtrust.roots import reopen_root
from hwtrust.tpm.leftovers import loaded
from hwtrust.tpm.sessions import hmac_session
from hwtrust.wire.cel import CAP
from hwtrust.wire.messages import Release, Standing
from simulators.site import LAYERS

if TYPE_CHECKING:
    from hwtrust.device import Device
    from hwtrust.device.state import StoredRoot
    from simulators.site import Site

RUNNING, OTHER, THIRD = "1.0", "2.0", "3.0"
SECRET: Final = b"the application's own"


def put(site: Site, name: str) -> Release:
    """Have the device's paths lead to a release, as a switch of the slots does."""
    for layer in LAYERS:
        said = f"layer {layer}\n" if name == RUNNING else f"layer {layer} of {name}\n"
        (site.home / layer).write_bytes(said.encode() * 64)
    release = Release(
        name=name, layers=tuple(reference(layer, name, site.home / layer) for layer in LAYERS)
    )
    (site.home / "release.json").write_bytes(msgspec.json.encode(release))
    return release


def hold(site: Site, *names: str) -> None:
    """Run release 1.0 with a secret in the key store, and attest while 2.0 is in the other slot.

    The releases named are accepted, in this order.
    """
    site.enrol()
    for name in names:
        site.backend.accept(put(site, name))
    assert put(site, RUNNING) == site.release
    with site.open() as device:
        device.boot()
        device.keystore.put("name", SECRET)
        device._context.other = OTHER
        assert device.attest().standing is Standing.TRUSTED


def leave_alone(site: Site) -> None:
    """The backend is away from now on: what opens opens by leave that is there already."""
    site.backend.__exit__(None, None, None)


def opens(site: Site, name: str) -> bool:
    """Whether the key store opens with a release, on top of whatever ran before."""
    put(site, name)
    with site.open() as device:
        device.boot()
        assert device._context.release.name == name
        return device.keystore["name"] == SECRET


def load(device: Device, *, reload: bool) -> None:
    """Load what is in place, and neither unseal nor cap."""
    context = device._context
    device.event_log()
    with hmac_session(context.tpm, context.known().storage_key) as session:
        load_layers(context, session, reload=reload)


def cap(device: Device) -> None:
    """Close the state, as whoever has opened the root does."""
    context = device._context
    with hmac_session(context.tpm, context.known().storage_key) as session:
        context.measured.extend(context.tpm, CAP, session, last=True)


def open_past_the_library(device: Device, root: StoredRoot, *, branch: int) -> None:
    """Ask the TPM for a root in the present state by one branch of its approval."""
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
    unseal_root(context.tpm, context.anchorage(), sealed, branch=branch)


def require_refused(device: Device, root: StoredRoot) -> None:
    """The TPM refuses the root in the present state, whatever branch is tried."""
    for branch in range(len(root.approval.branches)):
        with pytest.raises(errors.RootStateError) as refused:
            open_past_the_library(device, root, branch=branch)
        assert refused.value.code == "root:state:unapproved"
    assert loaded(device._context.tpm) == ()


def newest_root(site: Site) -> StoredRoot:
    """The root that the device holds, with its approval."""
    with site.open() as device:
        return device._context.newest_root()


def labels(root: StoredRoot) -> list[str]:
    """What a root is approved for."""
    return [branch.label for branch in root.approval.branches]


def test_a_device_switches_live_and_returns_without_asking(site: Site) -> None:
    """One answer is leave for the next release, and for the way back from it."""
    hold(site, OTHER)
    leave_alone(site)
    assert opens(site, OTHER)
    assert opens(site, RUNNING)


def test_a_device_switches_with_a_reboot_and_returns_live(site: Site) -> None:
    """The other release starts cold; if it is no good the last one is loaded on top of it."""
    hold(site, OTHER)
    leave_alone(site)
    site.tpm.reboot()
    assert opens(site, OTHER)
    assert opens(site, RUNNING)


def test_a_device_returns_by_a_reboot(site: Site) -> None:
    """Whatever the other release has done, a reboot leads back."""
    hold(site, OTHER)
    leave_alone(site)
    assert opens(site, OTHER)
    site.tpm.reboot()
    assert opens(site, RUNNING)


def test_a_device_that_was_confirmed_can_still_return(site: Site) -> None:
    """Until the slot is used again the last release is the second one."""
    hold(site, OTHER)
    assert opens(site, OTHER)
    with site.open() as device:
        device.boot()
        device._context.other = RUNNING
        assert device.attest().standing is Standing.TRUSTED
    leave_alone(site)
    assert opens(site, RUNNING)


def test_a_root_that_came_with_a_second_release_opens_in_both(site: Site) -> None:
    """A rotation while two releases are there does not bind the device to one."""
    hold(site, OTHER)
    with site.open() as device:
        device.boot()
        device._context.other = OTHER
        site.backend.rotate(device.status().device)
        assert device.attest().rotated_to is not None
    leave_alone(site)
    assert opens(site, OTHER)
    assert opens(site, RUNNING)


@pytest.mark.parametrize("reboot", [True, False], ids=["cold", "live"])
def test_the_tpm_refuses_a_third_release(site: Site, reboot: bool) -> None:
    """Accepted or not: leave was for two, and these are measured."""
    hold(site, THIRD, OTHER)
    leave_alone(site)
    root = newest_root(site)
    assert len(labels(root)) == 6
    if reboot:
        site.tpm.reboot()
    put(site, THIRD)
    with site.open() as device:
        with pytest.raises(errors.ChannelError):
            device.boot()
        load(device, reload=not reboot)
        require_refused(device, root)


def test_the_tpm_refuses_to_return_from_a_third_release(site: Site) -> None:
    """What ran before the last release counts: a way back leads from the second one alone."""
    hold(site, THIRD, OTHER)
    root = newest_root(site)
    put(site, THIRD)
    with site.open() as device:
        load(device, reload=True)
        cap(device)
    put(site, RUNNING)
    with site.open() as device:
        load(device, reload=True)
        require_refused(device, root)


def test_the_tpm_refuses_to_return_from_a_load_that_was_not_capped(site: Site) -> None:
    """The state in which the second release could still open the root is no place to go on from."""
    hold(site, OTHER)
    root = newest_root(site)
    put(site, OTHER)
    with site.open() as device:
        load(device, reload=True)
    put(site, RUNNING)
    with site.open() as device:
        load(device, reload=True)
        require_refused(device, root)


def test_the_tpm_opens_the_second_release_s_state_once(site: Site) -> None:
    """After the cap neither release's state opens again in this boot, but by the way back."""
    hold(site, OTHER)
    leave_alone(site)
    root = newest_root(site)
    assert opens(site, OTHER)
    with site.open() as device:
        require_refused(device, root)
    assert opens(site, RUNNING)
    with site.open() as device:
        require_refused(device, root)


def test_a_second_release_that_was_retired_is_refused_by_the_tpm(site: Site) -> None:
    """Its branches are gone from the next approval, and nobody can put them back."""
    hold(site, OTHER)
    granted = newest_root(site)
    assert labels(granted)[2:] == ["other-cold", "other-live", "return-live", "return-cold"]
    site.backend.retire(OTHER)
    with site.open() as device:
        device.boot()
        device._context.other = OTHER
        assert device.attest().standing is Standing.TRUSTED
    leave_alone(site)
    root = newest_root(site)
    assert labels(root) == ["cold", "live"]
    put(site, OTHER)
    with site.open() as device:
        with pytest.raises(errors.ChannelError):
            device.boot()
        load(device, reload=True)
        require_refused(device, root)
        forged = msgspec.structs.replace(root.approval, branches=granted.approval.branches)
        with pytest.raises(errors.RootApprovalError):
            open_past_the_library(device, msgspec.structs.replace(root, approval=forged), branch=3)
    site.tpm.reboot()
    assert opens(site, RUNNING)
