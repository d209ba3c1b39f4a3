"""A policy that runs on a TPM is the one that folds offline, and each refusal has its cause."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from tpm2_pytss.constants import TPM2_SE

from hwtrust.errors import (
    HwTrustError,
    RootApprovalError,
    RootExpiredError,
    RootRevokedError,
    RootStateError,
    TpmError,
    TpmObjectConflictError,
)
from hwtrust.testing.faults import RC_LOCKOUT, At, CountingTcti, Cut, Fault, Respond
from hwtrust.tpm import commands, provision
from hwtrust.tpm.connection import Pinned, Tpm
from hwtrust.tpm.policy import TpmPolicySession
from hwtrust.tpm.sessions import Session, hmac_session, policy_session
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.codec import u64
from hwtrust.wire.policy import (
    CLOCK_OFFSET,
    NV_INCREMENT,
    AnyOf,
    Authorize,
    CommandCode,
    Comparison,
    CounterTimer,
    Nv,
    NvWritten,
    Pcr,
    Policy,
    apply,
    approval_digest,
    fold,
    pcr_digest,
)
from hwtrust.wire.root import (
    Approval,
    Increment,
    counter_policy,
    increment_ref,
    root_ref,
    sign_approval,
)
from hwtrust.wire.structures import NvAttributes, NvPublic, PcrSelection, Signature
from simulators.anchored_tpm import ELSEWHERE, SELECTION, PolicyKey, loaded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tpm2_pytss.TCTI import TCTI

    from simulators.anchored_tpm import AnchoredTpm

FAR = 2**62
REF = b"\x33" * 32


@contextmanager
def running(
    anchored: AnchoredTpm, *, trial: bool = False, ticket: bytes = b""
) -> Iterator[tuple[TpmPolicySession, Callable[[], bytes]]]:
    """A runner over a new session, and what gives the digest that the TPM holds for it."""
    tpm = anchored.tpm
    if trial:
        session = Session(tpm, anchored.storage, TPM2_SE.TRIAL)
        try:
            yield runner_of(anchored, session, ticket)
        finally:
            session.end()
    else:
        with policy_session(tpm, anchored.storage) as session:
            yield runner_of(anchored, session, ticket)


def runner_of(
    anchored: AnchoredTpm, session: Session, ticket: bytes
) -> tuple[TpmPolicySession, Callable[[], bytes]]:
    """A runner, and what reads its digest."""
    runner = TpmPolicySession(
        session, policy_key=anchored.key.public, index=anchored.counter, ticket=ticket
    )

    def digest() -> bytes:
        esapi = session.tpm.esapi
        return bytes(session.tpm.call("Get", esapi.policy_get_digest, session.handle))

    return runner, digest


def signed_over(anchored: AnchoredTpm, policy: Policy, ref: bytes = REF) -> Authorize:
    """The policy key's approval of `policy`."""
    approved = fold(policy)
    der = anchored.key.sign(approval_digest(approved, ref))
    signature = Signature.from_der_ecdsa(der, Alg.SHA256).encode()
    return Authorize(anchored.key.public.name, ref, approved, signature)


def held(anchored: AnchoredTpm) -> Pcr:
    """A statement that holds now."""
    return Pcr(SELECTION, pcr_digest([anchored.pcr()]))


def at_most(anchored: AnchoredTpm, epoch: int) -> Nv:
    """The epoch counter is `epoch` at most."""
    return Nv(anchored.counter.name, u64(epoch), Comparison.UNSIGNED_LE)


def before(when: int) -> CounterTimer:
    """The TPM's clock is less than `when`."""
    return CounterTimer(u64(when), CLOCK_OFFSET, Comparison.UNSIGNED_LT)


STATEMENTS: dict[str, Callable[[AnchoredTpm], Policy]] = {
    "nothing": lambda _: (),
    "one PCR": lambda it: (held(it),),
    "two banks": lambda _: (
        Pcr(PcrSelection.parse("sha1:8+sha256:8,9"), pcr_digest([bytes(20), bytes(32), bytes(32)])),
    ),
    "the first of two branches": lambda it: (
        AnyOf(((held(it),), (Pcr(SELECTION, ELSEWHERE),)), 0),
    ),
    "the second of two branches": lambda it: (
        AnyOf(((Pcr(SELECTION, ELSEWHERE),), (held(it),)), 1),
    ),
    "the last of eight branches": lambda it: (
        AnyOf((*((before(FAR + number),) for number in range(7)), (held(it),)), 7),
    ),
    "a branch of two statements": lambda it: (
        AnyOf(((Pcr(SELECTION, ELSEWHERE),), (held(it), before(FAR))), 1),
    ),
    "the counter equal": lambda it: (Nv(it.counter.name, u64(it.epoch), Comparison.EQ),),
    "the counter at most": lambda it: (at_most(it, it.epoch),),
    "the counter less than": lambda it: (
        Nv(it.counter.name, u64(it.epoch + 1), Comparison.UNSIGNED_LT),
    ),
    "the counter at least": lambda it: (Nv(it.counter.name, u64(0), Comparison.UNSIGNED_GE),),
    "a part of the counter": lambda it: (
        Nv(it.counter.name, u64(it.epoch)[-2:], Comparison.EQ, offset=6),
    ),
    "the clock": lambda _: (before(FAR),),
    "a command": lambda _: (CommandCode(NV_INCREMENT),),
    "written": lambda _: (NvWritten(written=True),),
    "not written": lambda _: (NvWritten(written=False),),
    "an authorised nothing": lambda it: (signed_over(it, ()),),
    "an authorised state": lambda it: (held(it), signed_over(it, (held(it),))),
    "an authorisation without a reference": lambda it: (signed_over(it, (), b""),),
    "the leave to count": lambda it: (
        *it.leave(it.epoch).policy(),
        signed_over(it, it.leave(it.epoch).policy(), increment_ref(it.device)),
    ),
    "the first leave to count": lambda it: (
        *it.leave(None).policy(),
        signed_over(it, it.leave(None).policy(), increment_ref(it.device)),
    ),
}


@pytest.mark.parametrize("case", STATEMENTS)
def test_what_a_policy_session_holds_is_what_the_policy_folds_to(
    anchored: AnchoredTpm, case: str
) -> None:
    """The backend signs what the device runs: one object, two digests, and they are equal."""
    policy = STATEMENTS[case](anchored)
    with running(anchored) as (runner, digest):
        apply(policy, runner)
        assert digest() == fold(policy)


UNMET: dict[str, Callable[[AnchoredTpm], Policy]] = {
    "another state": lambda _: (Pcr(SELECTION, ELSEWHERE),),
    "the counter has passed": lambda it: (at_most(it, 0),),
    "the clock has passed": lambda _: (before(0),),
}


@pytest.mark.parametrize("case", UNMET)
def test_a_policy_that_does_not_hold_folds_as_in_a_trial_session(
    anchored: AnchoredTpm, case: str
) -> None:
    """What a policy means does not hang on whether it holds now."""
    policy = UNMET[case](anchored)
    with running(anchored, trial=True) as (runner, digest):
        apply(policy, runner)
        assert digest() == fold(policy)


@pytest.mark.parametrize("branch", [0, 1])
def test_a_whole_approval_ends_in_the_policy_of_the_sealed_object(
    anchored: AnchoredTpm, branch: int
) -> None:
    """Recipe and authorisation lead, by either branch, to the authPolicy of the root's object."""
    now = pcr_digest([anchored.pcr()])
    states = {0: {"state": now, "other": ELSEWHERE}, 1: {"state": ELSEWHERE, "other": now}}
    approval = anchored.approval(**states[branch])  # type: ignore[arg-type]
    authorized = anchored.authorized(approval)
    with running(anchored) as (runner, digest):
        apply(approval.policy(branch=branch), runner)
        assert digest() == fold(approval.policy())
        apply((authorized,), runner)
        assert digest() == fold((Authorize(anchored.key.public.name, authorized.ref),))


# --- refusals --------------------------------------------------------------------

REFUSED: dict[str, tuple[Callable[[AnchoredTpm], Policy], type[HwTrustError], str]] = {
    "a PCR of another state": (
        lambda _: (Pcr(SELECTION, ELSEWHERE),),
        RootStateError,
        "root:state:unapproved",
    ),
    "no branch taken": (
        lambda it: (AnyOf(((held(it),), (held(it),))),),
        RootStateError,
        "root:state:unapproved",
    ),
    "a branch that is not there": (
        lambda it: (AnyOf(((held(it),), (held(it),)), 2),),
        RootStateError,
        "root:state:unapproved",
    ),
    "a branch counted from the end": (
        lambda it: (AnyOf(((held(it),), (held(it),)), -1),),
        RootStateError,
        "root:state:unapproved",
    ),
    "a branch that does not hold": (
        lambda it: (AnyOf(((held(it),), (Pcr(SELECTION, ELSEWHERE),)), 1),),
        RootStateError,
        "root:state:unapproved",
    ),
    "the counter beyond the epoch": (
        lambda it: (at_most(it, it.epoch - 1),),
        RootRevokedError,
        "root:revoked",
    ),
    "the counter beyond the epoch by far": (
        lambda it: (at_most(it, 0),),
        RootRevokedError,
        "root:revoked",
    ),
    "the clock at not_after": (lambda _: (before(1),), RootExpiredError, "root:expired"),
    "another counter": (
        lambda _: (Nv(b"\x00\x0b" + bytes(32), u64(FAR), Comparison.UNSIGNED_LE),),
        RootApprovalError,
        "root:approval:invalid",
    ),
    "an approval of another policy than the one that was run": (
        lambda it: (held(it), signed_over(it, ())),
        RootApprovalError,
        "root:approval:invalid",
    ),
    "an approval by another policy key (60)": (
        lambda it: (
            Authorize(
                it.key.public.name,
                REF,
                bytes(32),
                Signature.from_der_ecdsa(
                    PolicyKey().sign(approval_digest(bytes(32), REF)), Alg.SHA256
                ).encode(),
            ),
        ),
        RootApprovalError,
        "root:approval:invalid",
    ),
    "an approval for another reference (60)": (
        lambda it: (
            Authorize(
                it.key.public.name,
                root_ref(it.device, it.epoch + 1),
                bytes(32),
                signed_over(it, (), root_ref(it.device, it.epoch)).signature,
            ),
        ),
        RootApprovalError,
        "root:approval:invalid",
    ),
    "an approval in the name of another key": (
        lambda it: (
            Authorize(PolicyKey().public.name, REF, bytes(32), signed_over(it, ()).signature),
        ),
        RootApprovalError,
        "root:approval:invalid",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_condition_that_does_not_hold_names_itself(anchored: AnchoredTpm, case: str) -> None:
    """Expired, revoked, changed and unapproved are four errors, and nothing stays loaded."""
    policy, expected, code = REFUSED[case]
    statements = policy(anchored)
    with pytest.raises(HwTrustError) as caught, running(anchored) as (runner, _):
        apply(statements, runner)
    assert type(caught.value) is expected
    assert caught.value.code == code
    assert loaded(anchored.swtpm) == {}


def test_the_clock_that_was_set_beyond_not_after_expires_the_approval(
    anchored: AnchoredTpm,
) -> None:
    """Expiry is the TPM's own: it holds once the clock is there, and nothing turns it back (66)."""
    when = anchored.clock() + 3_600_000
    with running(anchored) as (runner, _):
        apply((before(when),), runner)
    commands.clock_set(anchored.tpm, when)
    with pytest.raises(RootExpiredError) as caught, running(anchored) as (runner, _):
        apply((before(when),), runner)
    assert caught.value.code == "root:expired"
    with pytest.raises(TpmError):
        commands.clock_set(anchored.tpm, when - 1000)


def test_the_counter_revokes_at_its_next_value(anchored: AnchoredTpm) -> None:
    """The root of epoch E opens while the counter shows E, and never once it shows E + 1."""
    epoch = anchored.epoch
    with running(anchored) as (runner, _):
        apply((at_most(anchored, epoch),), runner)
    anchored.count(anchored.leave(epoch))
    with pytest.raises(RootRevokedError) as caught, running(anchored) as (runner, _):
        apply((at_most(anchored, epoch),), runner)
    assert caught.value.code == "root:revoked"


def test_comparisons_are_unsigned(anchored: AnchoredTpm) -> None:
    """A not_after with its highest bit set is far away, not long past."""
    with running(anchored) as (runner, _):
        apply((before(2**64 - 1), at_most(anchored, 2**64 - 1)), runner)


def test_a_tpm_in_trouble_is_not_taken_for_a_refused_condition(anchored: AnchoredTpm) -> None:
    """A lockout or a broken connection is not said to be a revoked or unapproved root."""
    faults: list[tuple[Fault, str]] = [
        (Respond(RC_LOCKOUT), "tpm:lockout"),
        (Cut("before"), "tpm:transport"),
    ]
    approval = anchored.approval()
    for command in ("TPM2_PolicyPCR", "TPM2_PolicyNV", "TPM2_PolicyAuthorize"):
        for fault, code in faults:
            with anchored.through(At(fault, command=command)) as tpm:
                with pytest.raises(TpmError) as caught:
                    run_with(tpm, anchored, anchored.counter, approval)
                assert caught.value.code == code
                assert loaded(anchored.swtpm) == {}


# --- tickets ---------------------------------------------------------------------


def test_a_kept_ticket_spares_three_commands(anchored: AnchoredTpm) -> None:
    """The TPM's word on the signature is good until the next clear."""
    policy = (held(anchored), signed_over(anchored, (held(anchored),)))
    with running(anchored) as (runner, _):
        apply(policy, runner)
        ticket = runner.ticket
    heard: list[CountingTcti] = []

    def wrap(inner: TCTI) -> TCTI:
        heard.append(CountingTcti(inner))
        return heard[-1]

    spared = []
    for kept in (b"", ticket):
        with Tpm(anchored.swtpm.tcti, wrap=wrap) as tpm:
            with policy_session(tpm, anchored.storage) as session:
                runner = TpmPolicySession(session, policy_key=anchored.key.public, ticket=kept)
                apply(policy, runner)
                assert runner.ticket
            spared.append(heard[-1].sequence)
    longer, shorter = spared
    assert len(longer) - len(shorter) == 3
    assert {*longer} - {*shorter} == {"TPM2_LoadExternal", "TPM2_VerifySignature"}


def useless_tickets(anchored: AnchoredTpm) -> dict[str, bytes]:
    """Tickets that the TPM does not take."""
    with running(anchored) as (runner, _):
        apply((signed_over(anchored, (), b"other"),), runner)
        other = runner.ticket
    flipped = bytearray(other)
    flipped[-1] ^= 1
    return {
        "of another approval": other,
        "flipped": bytes(flipped),
        "cut short": other[:-1],
        "too long": other + b"\0",
        "of another kind": b"\x80\x24" + other[2:],
        "noise": b"\xff" * 40,
        "one byte": b"\0",
    }


@pytest.mark.parametrize(
    "case",
    [
        "of another approval",
        "flipped",
        "cut short",
        "too long",
        "of another kind",
        "noise",
        "one byte",
    ],
)
def test_a_ticket_that_is_no_good_is_replaced(anchored: AnchoredTpm, case: str) -> None:
    """Whatever stands in the ticket's file, the approval itself decides."""
    ticket = useless_tickets(anchored)[case]
    policy = (held(anchored), signed_over(anchored, (held(anchored),)))
    with running(anchored, ticket=ticket) as (runner, digest):
        apply(policy, runner)
        assert digest() == fold(policy)
        assert runner.ticket not in {b"", ticket}


def test_a_refused_approval_leaves_no_ticket(anchored: AnchoredTpm) -> None:
    """A ticket that did not lead anywhere is not kept for the next time."""
    good = signed_over(anchored, ())
    with running(anchored) as (runner, _):
        with pytest.raises(RootApprovalError):
            apply((held(anchored), good), runner)
        assert runner.ticket == b""


# --- counting --------------------------------------------------------------------


def test_the_leave_to_count_counts_once(anchored: AnchoredTpm) -> None:
    """Compare and swap: a replay is refused, and the counter does not move (61)."""
    leave = anchored.leave(anchored.epoch)
    anchored.count(leave)
    assert provision.read_counter(anchored.tpm, anchored.counter) == anchored.epoch + 1
    for _ in range(2):
        with pytest.raises(RootRevokedError) as caught:
            anchored.count(leave)
        assert caught.value.code == "root:revoked"
        assert loaded(anchored.swtpm) == {}
    assert provision.read_counter(anchored.tpm, anchored.counter) == anchored.epoch + 1


def test_the_first_leave_to_count_is_for_a_counter_that_never_counted(
    anchored: AnchoredTpm,
) -> None:
    """The leave of enrolment, replayed later, does not revoke a root (61)."""
    with pytest.raises(RootApprovalError) as caught:
        anchored.count(anchored.leave(None))
    assert caught.value.code == "root:approval:invalid"
    assert provision.read_counter(anchored.tpm, anchored.counter) == anchored.epoch
    assert loaded(anchored.swtpm) == {}


def test_a_leave_for_a_later_epoch_does_not_count_yet(anchored: AnchoredTpm) -> None:
    """Leaves are taken in order."""
    with pytest.raises(RootRevokedError):
        anchored.count(anchored.leave(anchored.epoch + 1))
    assert provision.read_counter(anchored.tpm, anchored.counter) == anchored.epoch


LEAVES_OF_OTHERS: dict[str, Callable[[AnchoredTpm], tuple[Increment, bytes, PolicyKey]]] = {
    "another device's (60)": lambda it: (
        it.leave(it.epoch),
        increment_ref(b"\x00\x0b" + bytes(32)),
        it.key,
    ),
    "another policy key's (60)": lambda it: (
        it.leave(it.epoch),
        increment_ref(it.device),
        PolicyKey(),
    ),
}


@pytest.mark.parametrize("case", LEAVES_OF_OTHERS)
def test_a_leave_of_others_does_not_count(anchored: AnchoredTpm, case: str) -> None:
    """Signed rightly by somebody, for something: the TPM itself does not count by it."""
    recipe, ref, key = LEAVES_OF_OTHERS[case](anchored)
    recipe = sign_approval(recipe, ref, sign_digest=key.sign)
    signature = Signature.from_der_ecdsa(recipe.signature, Alg.SHA256).encode()
    statement = Authorize(key.public.name, ref, fold(recipe.policy()), signature)
    with pytest.raises(RootApprovalError) as caught:
        provision.increment_counter(
            anchored.tpm,
            anchored.counter,
            anchored.storage,
            recipe=recipe.policy(),
            authorization=statement,
            policy_key=key.public,
        )
    assert caught.value.code == "root:approval:invalid"
    assert provision.read_counter(anchored.tpm, anchored.counter) == anchored.epoch


def test_no_local_program_counts_without_leave(anchored: AnchoredTpm) -> None:
    """Neither the index's empty password nor the owner's moves the counter."""
    tpm = anchored.tpm
    index = tpm.at(anchored.counter)
    with pytest.raises(TpmError):
        tpm.call("TPM2_NV_Increment", tpm.esapi.nv_increment, index, auth_handle=index)
    with pytest.raises(TpmError):
        tpm.call("TPM2_NV_Increment", tpm.esapi.nv_increment, index, auth_handle=tpm.owner())
    with hmac_session(tpm, anchored.storage) as session, pytest.raises(TpmError):
        commands.nv_increment(tpm, index, session)
    assert provision.read_counter(tpm, anchored.counter) == anchored.epoch


def test_a_counter_that_was_made_anew_is_refused_by_its_value(anchored: AnchoredTpm) -> None:
    """Undefined and defined again, it starts above: every earlier root stays revoked (62)."""
    anchored.count(anchored.leave(anchored.epoch))
    old, approval = anchored.counter, anchored.approval(epoch=anchored.epoch + 1)
    commands.nv_undefine(anchored.tpm, old.handle)
    new = anchored.new_counter()
    assert provision.read_counter(anchored.tpm, new) > anchored.epoch + 1
    assert new.name == old.name, "the same public area: only its value tells"
    with pytest.raises(RootRevokedError) as caught, running(anchored) as (runner, _):
        apply(approval.policy(branch=0), runner)
    assert caught.value.code == "root:revoked"


def run_with(tpm: Tpm, anchored: AnchoredTpm, index: Pinned, approval: Approval) -> None:
    """Run an approval against the counter that `index` pins."""
    with policy_session(tpm, anchored.storage) as session:
        runner = TpmPolicySession(session, policy_key=anchored.key.public, index=index)
        apply((*approval.policy(branch=0), anchored.authorized(approval)), runner)


def test_a_counter_of_another_making_is_refused_by_its_name(anchored: AnchoredTpm) -> None:
    """A counter under another policy key stands for the counter nowhere (62)."""
    old, approval = anchored.counter, anchored.approval()
    commands.nv_undefine(anchored.tpm, old.handle)
    policy = counter_policy(PolicyKey().public, anchored.device)
    index = provision.define_counter(anchored.tpm, old.handle, policy=policy)
    assert index.name != old.name
    for pinned in (old, Pinned(old.handle, old.name)):
        with Tpm(anchored.swtpm.tcti) as tpm:
            with pytest.raises(TpmObjectConflictError) as caught:
                run_with(tpm, anchored, pinned, approval)
            assert caught.value.code == "tpm:object:conflict"
            assert loaded(anchored.swtpm) == {}


def test_an_index_that_a_local_program_fills_revives_no_root(anchored: AnchoredTpm) -> None:
    """Whatever it says, the TPM folds its Name into the policy, and that is not approved (62)."""
    old, revived = anchored.counter, anchored.approval()
    anchored.count(anchored.leave(anchored.epoch))
    with pytest.raises(RootRevokedError):
        run_with(anchored.tpm, anchored, old, revived)
    tpm = anchored.tpm
    commands.nv_undefine(tpm, old.handle)
    attributes = NvAttributes.AUTHWRITE | NvAttributes.AUTHREAD | NvAttributes.NO_DA
    index = commands.nv_define(tpm, NvPublic(old.handle, Alg.SHA256, attributes, b"", 8))
    tpm.call("TPM2_NV_Write", tpm.esapi.nv_write, index, u64(0), auth_handle=index)
    with Tpm(anchored.swtpm.tcti) as fresh:
        with pytest.raises(RootApprovalError) as caught:
            run_with(fresh, anchored, old, revived)
        assert caught.value.code == "root:approval:invalid"
        assert loaded(anchored.swtpm) == {}
    bare = Pinned(old.handle, old.name)
    with Tpm(anchored.swtpm.tcti) as fresh, pytest.raises(TpmObjectConflictError):
        run_with(fresh, anchored, bare, revived)


def test_a_counter_that_is_gone_is_a_conflict(anchored: AnchoredTpm) -> None:
    """Without its counter no root opens, and the error says that the counter is missing (62)."""
    old, approval = anchored.counter, anchored.approval()
    commands.nv_undefine(anchored.tpm, old.handle)
    with Tpm(anchored.swtpm.tcti) as tpm:
        with pytest.raises(TpmObjectConflictError) as caught:
            run_with(tpm, anchored, old, approval)
        assert caught.value.code == "tpm:object:conflict"
        assert loaded(anchored.swtpm) == {}


def test_a_recipe_without_a_counter_at_hand_is_refused(anchored: AnchoredTpm) -> None:
    """A policy that speaks of a counter does not run where there is none."""
    with policy_session(anchored.tpm, anchored.storage) as session:
        runner = TpmPolicySession(session, policy_key=anchored.key.public)
        with pytest.raises(RootApprovalError) as caught:
            apply((at_most(anchored, anchored.epoch),), runner)
    assert caught.value.code == "root:approval:invalid"
