"""A root opens on its own conditions and on no others, on whatever TPM there is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hwtrust.errors import (
    HwTrustError,
    RootApprovalError,
    RootExpiredError,
    RootRevokedError,
    RootStateError,
    TpmError,
)
from hwtrust.keys.unseal import SealedRoot, unseal_root
from hwtrust.testing import hardware
from hwtrust.tpm import commands
from hwtrust.tpm.discover import identify
from hwtrust.tpm.sessions import policy_session
from hwtrust.wire.cel import CAP, RELOAD
from hwtrust.wire.policy import pcr_digest
from simulators.anchored_tpm import ELSEWHERE, PolicyKey

if TYPE_CHECKING:
    from collections.abc import Callable

    from simulators.anchored_hardware import OwnRange

pytestmark = pytest.mark.hardware

SECRET = bytes(range(32))


def opened(own: OwnRange, root: SealedRoot, *, branch: int = 0) -> bytes:
    """The root's bytes."""
    return unseal_root(own.tpm, own.anchorage, root, branch=branch).secret


def test_a_root_opens_in_either_approved_state(rooted: OwnRange) -> None:
    """Sealed remotely, imported, approved: it opens cold, and after what is foreseen."""
    cold = rooted.pcr()
    rooted.extend(RELOAD)
    live = rooted.pcr()
    rooted.reset()
    approval = rooted.approval(state=pcr_digest([cold]), other=pcr_digest([live]))
    root = rooted.seal(SECRET, approval=approval)
    assert opened(rooted, root) == SECRET
    rooted.extend(RELOAD)
    assert opened(rooted, root, branch=1) == SECRET
    with pytest.raises(RootStateError) as caught:
        opened(rooted, root)
    assert caught.value.code == "root:state:unapproved"


def test_a_root_does_not_open_in_another_state(rooted: OwnRange) -> None:
    """One more event, and the TPM refuses; after a reset it opens again."""
    root = rooted.seal(SECRET)
    rooted.extend(RELOAD)
    with pytest.raises(RootStateError) as caught:
        opened(rooted, root)
    assert caught.value.code == "root:state:unapproved"
    rooted.reset()
    assert opened(rooted, root) == SECRET


def test_the_cap_shuts_the_state_that_has_opened(rooted: OwnRange) -> None:
    """Once the key is out, nobody opens the root again in this state."""
    root = rooted.seal(SECRET)
    assert opened(rooted, root) == SECRET
    rooted.extend(CAP)
    for branch in (0, 1):
        with pytest.raises(RootStateError) as caught:
            opened(rooted, root, branch=branch)
        assert caught.value.code == "root:state:unapproved"


def test_a_root_expires_by_the_tpm_s_own_clock(rooted: OwnRange) -> None:
    """What opened before not_after does not open once the TPM's clock is there."""
    began = rooted.clock()
    assert opened(rooted, rooted.seal(SECRET)) == SECRET
    took = rooted.clock() - began
    until = rooted.clock() + 3 * took + 500
    root = rooted.seal(SECRET, approval=rooted.approval(not_after=until))
    assert opened(rooted, root) == SECRET
    while rooted.clock() < until:
        pass
    with pytest.raises(RootExpiredError) as caught:
        opened(rooted, root)
    assert caught.value.code == "root:expired"
    assert caught.value.data["command"] == "TPM2_PolicyCounterTimer"


def test_counting_revokes_a_root(rooted: OwnRange) -> None:
    """The root of an epoch opens until the counter has left it; the next one's opens on."""
    old, new = rooted.seal(SECRET), rooted.seal(SECRET[::-1], epoch=rooted.epoch + 1)
    assert opened(rooted, old) == SECRET
    rooted.count(rooted.leave(rooted.epoch))
    with pytest.raises(RootRevokedError) as caught:
        opened(rooted, old)
    assert caught.value.code == "root:revoked"
    assert opened(rooted, new) == SECRET[::-1]


def _by_another_key(own: OwnRange) -> SealedRoot:
    good = own.seal(SECRET)
    kept, own.key = own.key, PolicyKey()
    try:
        approval = own.approval()
        return SealedRoot(good.public, good.private, approval, own.authorized(approval))
    finally:
        own.key = kept


def _for_another_device(own: OwnRange) -> SealedRoot:
    good, other = own.seal(SECRET), b"\x00\x0b" + bytes(32)
    approval = own.approval(device=other)
    authorized = own.authorized(approval, device=other)
    return SealedRoot(good.public, good.private, approval, authorized)


def _for_the_next_epoch(own: OwnRange) -> SealedRoot:
    good = own.seal(SECRET)
    approval = own.approval(epoch=own.epoch + 1)
    return SealedRoot(good.public, good.private, approval, own.authorized(approval))


def _of_another_state(own: OwnRange) -> SealedRoot:
    good = own.seal(SECRET)
    elsewhere = own.approval(state=ELSEWHERE, other=pcr_digest([own.pcr()]))
    return SealedRoot(good.public, good.private, good.approval, own.authorized(elsewhere))


UNAPPROVED: dict[str, Callable[[OwnRange], SealedRoot]] = {
    "by another policy key": _by_another_key,
    "for another device": _for_another_device,
    "for another epoch": _for_the_next_epoch,
    "of another recipe than the one that is run": _of_another_state,
}


@pytest.mark.parametrize("case", UNAPPROVED)
def test_an_approval_that_is_not_for_this_root_does_not_open_it(
    rooted: OwnRange, case: str
) -> None:
    """TPM2_PolicyAuthorize takes the policy key's word for this device, epoch and recipe alone."""
    root = UNAPPROVED[case](rooted)
    with pytest.raises(RootApprovalError) as caught:
        opened(rooted, root)
    assert caught.value.code == "root:approval:invalid"


def test_an_object_without_its_policy_does_not_open(rooted: OwnRange) -> None:
    """A sealed root has no password: a policy session that has run nothing is refused."""
    root = rooted.seal(SECRET)
    loaded = commands.load(rooted.tpm, rooted.storage, private=root.private, public=root.public)
    with rooted.tpm.flushing(loaded), policy_session(rooted.tpm, rooted.storage) as session:
        with pytest.raises(TpmError) as caught:
            commands.unseal(rooted.tpm, loaded, session)
        assert caught.value.code == "tpm:command:failed"


def test_a_changed_object_is_not_loaded(rooted: OwnRange) -> None:
    """One bit of the wrapped root, and the TPM does not take it."""
    root = rooted.seal(SECRET)
    changed = bytearray(root.private)
    changed[-1] ^= 1
    with pytest.raises(TpmError) as caught:
        commands.load(rooted.tpm, rooted.storage, private=bytes(changed), public=root.public)
    assert caught.value.code == "tpm:command:failed"


def test_a_kept_ticket_opens_the_root_again(rooted: OwnRange) -> None:
    """The TPM's own word on an approval is good another time; one that is not is replaced."""
    root = rooted.seal(SECRET)
    ticket = unseal_root(rooted.tpm, rooted.anchorage, root, branch=0).ticket
    for kept in (ticket, ticket[:-1] + bytes([ticket[-1] ^ 1])):
        again = SealedRoot(root.public, root.private, root.approval, root.authorization, kept)
        opening = unseal_root(rooted.tpm, rooted.anchorage, again, branch=0)
        assert opening.secret == SECRET
        assert opening.ticket == ticket


REFUSALS: dict[str, Callable[[OwnRange], SealedRoot]] = {
    "state": lambda own: own.seal(SECRET, approval=own.approval(state=ELSEWHERE)),
    "clock": lambda own: own.seal(SECRET, approval=own.approval(not_after=1)),
    "counter": lambda own: own.seal(SECRET, epoch=own.epoch - 1),
    "approval": _by_another_key,
}


def test_refusals_leave_nothing_loaded_and_count_for_no_lockout(rooted: OwnRange) -> None:
    """However often a root is refused, the TPM has its slots free and is no nearer to a lockout."""
    before = identify(rooted.tpm)
    for make in (*REFUSALS.values(), *REFUSALS.values()):
        root = make(rooted)
        with pytest.raises(HwTrustError) as caught:
            opened(rooted, root)
        assert caught.value.code.startswith("root:")
        assert hardware.transient(rooted.tpm) == frozenset()
    after = identify(rooted.tpm)
    assert after.lockout_counter <= before.lockout_counter
    assert not after.in_lockout
