"""Policies fold offline to what a TPM makes of them.

Every statement and every combination in use runs in a trial session of a
software TPM; the recipes that the policy key signs also run in real ones.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from tpm2_pytss import ESAPI
from tpm2_pytss.constants import ESYS_TR, TPM2_ALG, TPM2_CC, TPM2_EO, TPM2_RH, TPM2_SE, TPM2_ST
from tpm2_pytss.TSS2_Exception import TSS2_Exception
from tpm2_pytss.types import (
    TPM2B_DIGEST,
    TPM2B_ECC_PARAMETER,
    TPM2B_NV_PUBLIC,
    TPM2B_PUBLIC,
    TPML_DIGEST,
    TPML_PCR_SELECTION,
    TPMS_NV_PUBLIC,
    TPMT_PUBLIC,
    TPMT_SIGNATURE,
    TPMT_SYM_DEF,
    TPMT_TK_VERIFIED,
)

from hwtrust.errors import MalformedError
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
    Branch,
    Increment,
    authorization,
    counter_policy,
    increment_ref,
    policy_key_public,
    root_policy,
    root_ref,
    sign_approval,
)
from hwtrust.wire.structures import NvAttributes, NvPublic, PcrSelection, Public

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DEVICE: Final = b"\x00\x0b" + bytes(range(32))
INDEX: Final = 0x0180_0001
SELECTION: Final = PcrSelection.parse("sha256:0,7,12")
FAR: Final = 2**62
COUNTER_ATTRIBUTES: Final = (
    NvAttributes.COUNTER | NvAttributes.POLICYWRITE | NvAttributes.AUTHREAD | NvAttributes.NO_DA
)


class SoftwareTpm(Protocol):
    """What is needed of the fixture `tpm`."""

    tcti: str


class Session:
    """A policy session of a TPM, driven through tpm2-pytss alone.

    A trial session verifies no signature, and so takes any ticket.
    """

    def __init__(self, esapi: ESAPI, kind: TPM2_SE, key: Public, index: ESYS_TR) -> None:
        self._esapi = esapi
        self._trial = kind == TPM2_SE.TRIAL
        self._key = key
        self._index = index
        self.handle = esapi.start_auth_session(
            ESYS_TR.NONE,
            ESYS_TR.NONE,
            kind,
            TPMT_SYM_DEF(algorithm=TPM2_ALG.NULL),
            TPM2_ALG.SHA256,
        )

    @property
    def digest(self) -> bytes:
        """The session's policyDigest."""
        return bytes(self._esapi.policy_get_digest(self.handle))

    def pcr(self, statement: Pcr) -> None:
        """TPM2_PolicyPCR."""
        selection, _ = TPML_PCR_SELECTION.unmarshal(statement.selection.encode())
        self._esapi.policy_pcr(self.handle, statement.digest, selection)

    def any_of(self, statement: AnyOf) -> None:
        """The first or the chosen branch, then TPM2_PolicyOR."""
        apply(statement.branches[statement.taken or 0], self)
        digests = TPML_DIGEST([TPM2B_DIGEST(digest) for digest in statement.digests()])
        self._esapi.policy_or(self.handle, digests)

    def nv(self, statement: Nv) -> None:
        """TPM2_PolicyNV, authorised by the index itself."""
        operation = TPM2_EO(statement.operation)
        self._esapi.policy_nv(
            self._index,
            self._index,
            self.handle,
            statement.operand,
            operation,
            offset=statement.offset,
        )

    def counter_timer(self, statement: CounterTimer) -> None:
        """TPM2_PolicyCounterTimer."""
        operation = TPM2_EO(statement.operation)
        self._esapi.policy_counter_timer(
            self.handle, statement.operand, operation, offset=statement.offset
        )

    def command_code(self, statement: CommandCode) -> None:
        """TPM2_PolicyCommandCode."""
        self._esapi.policy_command_code(self.handle, TPM2_CC(statement.code))

    def nv_written(self, statement: NvWritten) -> None:
        """TPM2_PolicyNvWritten."""
        self._esapi.policy_nv_written(self.handle, statement.written)

    def authorize(self, statement: Authorize) -> None:
        """TPM2_PolicyAuthorize, with a ticket in a real session."""
        self._esapi.policy_authorize(
            self.handle,
            statement.approved,
            statement.key_name,
            self._ticket(statement),
            policy_ref=statement.ref,
        )

    def _ticket(self, statement: Authorize) -> TPMT_TK_VERIFIED:
        if self._trial:
            return TPMT_TK_VERIFIED(tag=TPM2_ST.VERIFIED, hierarchy=TPM2_RH.NULL)
        public, _ = TPMT_PUBLIC.unmarshal(self._key.encode())
        signature, _ = TPMT_SIGNATURE.unmarshal(statement.signature)
        loaded = self._esapi.load_external(
            TPM2B_PUBLIC(publicArea=public), hierarchy=ESYS_TR.RH_OWNER
        )
        try:
            aimed = approval_digest(statement.approved, statement.ref)
            return self._esapi.verify_signature(loaded, aimed, signature)
        finally:
            self._esapi.flush_context(loaded)


class Bench:
    """A TPM with an epoch counter under a policy key."""

    def __init__(self, esapi: ESAPI) -> None:
        self.esapi = esapi
        self.private = ec.generate_private_key(ec.SECP256R1())
        self.key = policy_key_public(self.private.public_key())
        policy = fold(counter_policy(self.key, DEVICE))
        self.unwritten = NvPublic(INDEX, Alg.SHA256, COUNTER_ATTRIBUTES, policy, 8)
        public, _ = TPMS_NV_PUBLIC.unmarshal(self.unwritten.encode())
        self.index = esapi.nv_define_space(b"", TPM2B_NV_PUBLIC(nvPublic=public))

    def sign(self, digest: bytes) -> bytes:
        """A DER signature by the policy key."""
        return self.private.sign(digest, ec.ECDSA(utils.Prehashed(hashes.SHA256())))

    @property
    def counter_name(self) -> bytes:
        """The counter's Name, by the TPM."""
        return bytes(self.esapi.nv_read_public(self.index)[1])

    @property
    def counter(self) -> int:
        """The counter's value."""
        return int.from_bytes(bytes(self.esapi.nv_read(self.index, 8)), "big")

    @contextmanager
    def session(self, kind: TPM2_SE) -> Iterator[Session]:
        """A session that is flushed whatever happens."""
        session = Session(self.esapi, kind, self.key, self.index)
        try:
            yield session
        finally:
            self.esapi.flush_context(session.handle)

    def increment(self, epoch: int | None) -> None:
        """Count up with a fresh signed approval."""
        self.run_increment(self.signed_increment(epoch))

    def signed_increment(self, epoch: int | None) -> Increment:
        """An approval for counting up from `epoch`."""
        recipe = Increment(epoch=epoch, counter_name=self.counter_name)
        return sign_approval(recipe, increment_ref(DEVICE), sign_digest=self.sign)

    def run_increment(self, recipe: Increment) -> None:
        """Count up as a device does."""
        statement = authorization(recipe, increment_ref(DEVICE), policy_key=self.key)
        with self.session(TPM2_SE.POLICY) as session:
            apply((*recipe.policy(), statement), session)
            self.esapi.nv_increment(self.index, self.index, session1=session.handle)
            # The TPM flushed nothing: the session's attribute continueSession is set.

    def approval(self, *, label_digests: tuple[bytes, ...], epoch: int, not_after: int) -> Approval:
        """A signed approval for the given states."""
        recipe = Approval(
            epoch=epoch,
            selection=str(SELECTION),
            branches=tuple(
                Branch(label=str(number), pcr_digest=digest)
                for number, digest in enumerate(label_digests)
            ),
            counter_name=self.counter_name,
            not_after=not_after,
        )
        return sign_approval(recipe, root_ref(DEVICE, epoch), sign_digest=self.sign)

    def state(self) -> bytes:
        """The PCR digest that holds now."""
        selection, _ = TPML_PCR_SELECTION.unmarshal(SELECTION.encode())
        _, _, values = self.esapi.pcr_read(selection)
        return pcr_digest(bytes(value) for value in values)


@pytest.fixture
def bench(tpm: SoftwareTpm) -> Iterator[Bench]:
    """A TPM whose epoch counter has been written once."""
    with ESAPI(tpm.tcti) as esapi:
        bench = Bench(esapi)
        bench.increment(None)
        yield bench


A, B, C = (bytes([number]) * 32 for number in (1, 2, 3))
ONE = PcrSelection.parse("sha256:12")
TWO_BANKS = PcrSelection.parse("sha256:0,23+sha1:10")
UNTIL = CounterTimer(u64(FAR), CLOCK_OFFSET, Comparison.UNSIGNED_LT)


def counter_compares(operation: Comparison) -> Callable[[Bench], Policy]:
    """The counter against 7."""
    return lambda bench: (Nv(bench.counter_name, u64(7), operation),)


def clock_compares(operation: Comparison) -> Callable[[Bench], Policy]:
    """The clock against a time that is far away."""
    return lambda _: (CounterTimer(u64(FAR), CLOCK_OFFSET, operation),)


POLICIES: dict[str, Callable[[Bench], Policy]] = {
    "nothing at all": lambda _: (),
    "one PCR": lambda _: (Pcr(ONE, A),),
    "PCRs of two banks": lambda _: (Pcr(TWO_BANKS, A),),
    "two PCR statements": lambda _: (Pcr(ONE, A), Pcr(SELECTION, B)),
    "a choice of two": lambda _: (AnyOf(((Pcr(ONE, A),), (Pcr(ONE, B),))),),
    "a choice of eight": lambda _: (
        AnyOf(tuple((Pcr(ONE, bytes([number]) * 32),) for number in range(8))),
    ),
    "a choice with longer branches": lambda _: (
        AnyOf(((Pcr(ONE, A), UNTIL), (CommandCode(NV_INCREMENT),))),
    ),
    "a choice in a choice": lambda _: (
        AnyOf(((AnyOf(((Pcr(ONE, A),), (Pcr(ONE, B),))), UNTIL), (Pcr(ONE, C),))),
    ),
    **{
        f"the counter {operation.name} a value": counter_compares(operation)
        for operation in Comparison
    },
    "a part of the counter": lambda bench: (
        Nv(bench.counter_name, b"\x01", Comparison.EQ, offset=7),
    ),
    **{f"the clock {operation.name} a time": clock_compares(operation) for operation in Comparison},
    "the time since the reset": lambda _: (CounterTimer(u64(FAR), 0, Comparison.UNSIGNED_LT),),
    "one command only": lambda _: (CommandCode(NV_INCREMENT),),
    "an index that was written": lambda _: (NvWritten(written=True),),
    "an index that was never written": lambda _: (NvWritten(written=False),),
    "what a key signs": lambda bench: (Authorize(bench.key.name, A),),
    "what a key signs with no reference": lambda bench: (Authorize(bench.key.name, b""),),
    "what a key signs, then a condition of its own": lambda bench: (
        Authorize(bench.key.name, A),
        UNTIL,
    ),
    "a root's authPolicy": lambda bench: root_policy(bench.key, DEVICE, 5),
    "a counter's authPolicy": lambda bench: counter_policy(bench.key, DEVICE),
    "an approval": lambda bench: bench.approval(
        label_digests=(A, B), epoch=5, not_after=FAR
    ).policy(),
    "an approval whose second branch is taken": lambda bench: bench.approval(
        label_digests=(A, B), epoch=5, not_after=FAR
    ).policy(branch=1),
    "an increment": lambda bench: Increment(epoch=5, counter_name=bench.counter_name).policy(),
    "the first increment": lambda bench: Increment(
        epoch=None, counter_name=bench.counter_name
    ).policy(),
}


@pytest.mark.parametrize("case", POLICIES)
def test_a_policy_folds_to_the_digest_of_a_trial_session(bench: Bench, case: str) -> None:
    """What a backend signs is what a device's TPM calculates."""
    policy = POLICIES[case](bench)
    with bench.session(TPM2_SE.TRIAL) as session:
        apply(policy, session)
        assert session.digest == fold(policy)


def test_every_policy_of_the_table_is_another(bench: Bench) -> None:
    """No statement or operand is left out of the digest: no two policies fold alike."""
    unlike = set(POLICIES) - {"an approval whose second branch is taken"}
    assert len({fold(POLICIES[case](bench)) for case in unlike}) == len(unlike)


def test_an_approval_opens_what_its_root_is_sealed_to(bench: Bench) -> None:
    """A real session ends in the root's authPolicy, whichever branch holds."""
    state, epoch = bench.state(), bench.counter
    for branch, digests in enumerate(((state, A), (A, state))):
        approval = bench.approval(label_digests=digests, epoch=epoch, not_after=FAR)
        assert approval.branch_for(state) == branch
        statement = authorization(approval, root_ref(DEVICE, epoch), policy_key=bench.key)
        with bench.session(TPM2_SE.POLICY) as session:
            apply((*approval.policy(branch=branch), statement), session)
            assert session.digest == fold(root_policy(bench.key, DEVICE, epoch))


@pytest.mark.parametrize("case", ["another state", "a revoked epoch", "an expired clock"])
def test_a_tpm_refuses_an_approval_for(bench: Bench, case: str) -> None:
    """State, revocation and expiry are conditions that the TPM itself checks."""
    epoch = bench.counter - 1 if case == "a revoked epoch" else bench.counter
    approval = bench.approval(
        label_digests=(A, B) if case == "another state" else (bench.state(), B),
        epoch=epoch,
        not_after=1 if case == "an expired clock" else FAR,
    )
    statement = authorization(approval, root_ref(DEVICE, epoch), policy_key=bench.key)
    with bench.session(TPM2_SE.POLICY) as session, pytest.raises(TSS2_Exception):
        apply((*approval.policy(branch=0), statement), session)


def test_an_approval_of_the_next_epoch_holds_before_the_counter_moves(bench: Bench) -> None:
    """A rotation can be opened before it is committed."""
    epoch = bench.counter + 1
    approval = bench.approval(label_digests=(bench.state(), A), epoch=epoch, not_after=FAR)
    with bench.session(TPM2_SE.POLICY) as session:
        apply(approval.policy(branch=0), session)
        assert session.digest == fold(approval.policy())


def test_an_increment_counts_once(bench: Bench) -> None:
    """ADVERSARIES 61: an increment that has been used is worth nothing."""
    before = bench.counter
    used = bench.signed_increment(before)
    bench.run_increment(used)
    with pytest.raises(TSS2_Exception):
        bench.run_increment(used)
    assert bench.counter == before + 1


def test_the_first_increment_counts_once(bench: Bench) -> None:
    """The leave to write the counter for the first time ends with that."""
    before = bench.counter
    first = bench.signed_increment(None)
    with pytest.raises(TSS2_Exception):
        bench.run_increment(first)
    assert bench.counter == before


def test_the_name_of_a_counter_is_known_before_it_is_written(bench: Bench) -> None:
    """A backend predicts the written counter's Name from the defined one."""
    unwritten = bench.unwritten
    written = NvPublic(
        unwritten.index,
        unwritten.name_alg,
        unwritten.attributes | NvAttributes.WRITTEN,
        unwritten.auth_policy,
        unwritten.size,
    )
    assert bench.counter_name == written.name


def test_a_policy_key_with_leading_zeros_keeps_its_name(bench: Bench) -> None:
    """A coordinate is padded, so that backend and TPM agree on the key's Name."""
    private = ec.generate_private_key(ec.SECP256R1())
    while private.public_key().public_numbers().x >> 248:
        private = ec.generate_private_key(ec.SECP256R1())
    key = policy_key_public(private.public_key())
    public, _ = TPMT_PUBLIC.unmarshal(key.encode())
    assert public.unique.ecc.x == TPM2B_ECC_PARAMETER(
        private.public_key().public_numbers().x.to_bytes(32, "big")
    )
    loaded = bench.esapi.load_external(TPM2B_PUBLIC(publicArea=public))
    assert bytes(bench.esapi.tr_get_name(loaded)) == key.name
    bench.esapi.flush_context(loaded)


WRONG_CHOICES: dict[str, Policy] = {
    "no branch": (AnyOf(()),),
    "one branch": (AnyOf(((Pcr(ONE, A),),)),),
    "nine branches": (AnyOf(tuple((Pcr(ONE, A),) for _ in range(9))),),
    "a condition before it, which it would drop": (
        UNTIL,
        AnyOf(((Pcr(ONE, A),), (Pcr(ONE, B),))),
    ),
}


@pytest.mark.parametrize("case", WRONG_CHOICES)
def test_a_choice_is_refused_that_has(case: str) -> None:
    """A choice that no TPM can run, or that loses a condition, does not fold."""
    with pytest.raises(MalformedError) as caught:
        fold(WRONG_CHOICES[case])
    assert caught.value.code == "wire:malformed"
