"""Approvals: what is kept of them between heartbeats is never that of another state."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from hwtrust.verify.evidence import verify_evidence
from hwtrust.wire.challenge import Purpose
from hwtrust.wire.codec import U64_MAX
from hwtrust.wire.root import authorization, root_ref
from hwtrust_backend.keys.signing import SoftwareSigner
from hwtrust_backend.publishing.recipes import approve
from simulators.attester import Attester, make_release

if TYPE_CHECKING:
    from collections.abc import Callable

    from hwtrust.verify.evidence import Claims, KnownDevice
    from hwtrust.wire.messages import Release
    from hwtrust.wire.root import Approval

NONCE = bytes(40)
MINUTE = 60_000


class Approver:
    """One device as the backend knows it, and what it is allowed."""

    def __init__(self) -> None:
        self.device = Attester()
        self.release = make_release()
        self.device.load(self.release)
        self.other: Release | None = None
        self.known: KnownDevice = self.device.known
        self.epoch = self.device.counter

    def claims(self) -> Claims:
        """What its evidence says now."""
        return verify_evidence(
            self.device.evidence(NONCE),
            device=self.known,
            nonce=NONCE,
            purpose=Purpose.ATTEST,
            tls_key=self.device.tls_key,
        )

    def approval(self, *, left_ms: int = MINUTE) -> Approval:
        """Leave, which the policy key has signed for this device and this epoch."""
        made = approve(
            self.claims(),
            self.release,
            other=self.other,
            epoch=self.epoch,
            left_ms=left_ms,
            policy_key=SoftwareSigner(self.device.policy_key),
        )
        ref = root_ref(self.device.tpm.ek.name, self.epoch)
        authorization(made, ref, policy_key=self.device.policy_public)
        return made


def run_another_release(approver: Approver) -> None:
    """Another release is approved for the same PCRs."""
    approver.release = other_release()


def quote_other_values(approver: Approver) -> None:
    """The platform's firmware is another."""
    approver.device.platform[0] = bytes(32)


def open_the_next_epoch(approver: Approver) -> None:
    """It is leave for the next root."""
    approver.epoch += 1


def enrol_again(approver: Approver) -> None:
    """The device has a new counter under a new policy key."""
    again = Attester(approver.device.tpm, policy_key=ec.generate_private_key(ec.SECP256R1()))
    again.load(approver.release)
    approver.device, approver.known = again, again.known


def hold_a_second_release(approver: Approver) -> None:
    """The device may switch to another release."""
    approver.other = other_release()


def other_release() -> Release:
    """A release with other layers."""
    return make_release("2.0")


CHANGES: dict[str, Callable[[Approver], None]] = {
    "another release": run_another_release,
    "a second release": hold_a_second_release,
    "other values of the PCRs": quote_other_values,
    "the next epoch": open_the_next_epoch,
    "another counter": enrol_again,
}


def test_a_heartbeat_s_approval_differs_in_its_time_alone() -> None:
    """What stays is kept, and the signature covers all of it and the new time."""
    approver = Approver()
    first, second = approver.approval(), approver.approval(left_ms=2 * MINUTE)
    assert (first.branches, first.epoch) == (second.branches, second.epoch)
    assert second.not_after - first.not_after >= MINUTE
    assert first.signature != second.signature


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_changes_an_approval_is_not_taken_from_the_last_one(change: str) -> None:
    """A kept state opens no root that is approved for another one."""
    approver = Approver()
    before = approver.approval()
    CHANGES[change](approver)
    after = approver.approval()

    def opens(made: Approval) -> tuple[object, ...]:
        return made.branches, made.counter_name, made.epoch

    assert opens(before) != opens(after)


def test_leave_for_a_second_release_ends_when_it_is_not_given_any_more() -> None:
    """What was approved for the last heartbeat is not approved again by being kept."""
    approver = Approver()
    alone = approver.approval()
    hold_a_second_release(approver)
    both, again = approver.approval(), approver.approval()
    assert both.branches == again.branches
    assert both.branches[: len(alone.branches)] == alone.branches
    assert len(both.branches) == len({branch.pcr_digest for branch in both.branches}) == 6
    approver.other = make_release("3.0")
    third = approver.approval()
    shared = {branch.pcr_digest for branch in both.branches} & {
        branch.pcr_digest for branch in third.branches
    }
    assert shared == {branch.pcr_digest for branch in alone.branches}
    approver.other = None
    assert approver.approval().branches == alone.branches


def test_leave_without_end_ends_with_the_clock() -> None:
    """However long a policy gives, a device can read what it is given."""
    assert Approver().approval(left_ms=U64_MAX).not_after == U64_MAX
