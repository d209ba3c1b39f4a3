"""A software TPM set up as enrolment leaves it, with its backend's policy key at hand.

    anchored = AnchoredTpm(swtpm)
    root = anchored.seal(b"R" * 32)
    unseal_root(anchored.tpm, anchored.anchorage, root, branch=0)

What it makes, a device and a backend make in the same way. Besides, it can say
what is loaded in the TPM at any moment, past every connection.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from hwtrust.keys.unseal import Anchorage, SealedRoot
from hwtrust.testing import bus
from hwtrust.testing.faults import At, CountingTcti, FaultPlan, FaultyTcti
from hwtrust.tpm import commands, provision
from hwtrust.tpm.connection import Pinned, Tpm
from hwtrust.tpm.handles import Handles
from hwtrust.tpm.templates import EK_P256
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.codec import u32
from hwtrust.wire.policy import Authorize, fold, pcr_digest
from hwtrust.wire.protect import seal_for
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
from hwtrust.wire.structures import PcrSelection, Public

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tpm2_pytss.TCTI import TCTI

    from hwtrust.testing.swtpm import Swtpm

SELECTION = PcrSelection.parse("sha256:8")
PCR = 8
AN_HOUR_MS = 3_600_000
ELSEWHERE = b"\xee" * 32
"""The digest of a state that no test reaches."""

_CAP_HANDLES = 1
_RANGES = {"objects": 0x80000000, "loaded sessions": 0x02000000, "saved sessions": 0x03000000}


def loaded(swtpm: Swtpm) -> dict[str, list[int]]:
    """What takes up slots of the TPM now: TPM2_GetCapability(HANDLES), over a socket of its own."""
    found = {}
    for what, start in _RANGES.items():
        answer = swtpm.bus.run(bus.GET_CAPABILITY, u32(_CAP_HANDLES) + u32(start) + u32(64))
        answer.take(5)
        handles = [answer.u32() for _ in range(answer.u32())]
        if handles:
            found[what] = handles
    return found


class PolicyKey:
    """A backend's policy key."""

    def __init__(self) -> None:
        self._private = ec.generate_private_key(ec.SECP256R1())
        self.public = policy_key_public(self._private.public_key())

    def sign(self, digest: bytes) -> bytes:
        """A DER signature over a SHA-256 digest."""
        return self._private.sign(digest, ec.ECDSA(utils.Prehashed(hashes.SHA256())))


class AnchoredTpm:
    """A TPM with storage key, attestation key and epoch counter, and what belongs to them."""

    def __init__(
        self,
        swtpm: Swtpm,
        *,
        wrap: Callable[[TCTI], TCTI] | None = None,
        owner_auth: bytes = b"",
        key: PolicyKey | None = None,
    ) -> None:
        self.swtpm = swtpm
        self.key = key or PolicyKey()
        self.handles = Handles()
        self.tpm = Tpm(swtpm.tcti, wrap=wrap, owner_auth=owner_auth)
        with provision.endorsement_key(self.tpm, EK_P256) as (_, ek):
            self.device = ek.name
        made = provision.make_storage_key(self.tpm, self.handles.storage_key)
        self.storage, self.storage_public = made
        made = provision.make_attestation_key(self.tpm, self.handles.ak, unique=bytes(32))
        self.ak, self.ak_public = made
        self.counter = self.new_counter()
        self.epoch = provision.read_counter(self.tpm, self.counter)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.tpm.close()

    @property
    def anchorage(self) -> Anchorage:
        """Where this TPM's roots hang."""
        return Anchorage(self.storage, self.counter, self.key.public)

    def new_counter(self) -> Pinned:
        """Define the epoch counter and count it for the first time."""
        counter = provision.define_counter(
            self.tpm,
            self.handles.counter,
            policy=counter_policy(self.key.public, self.device),
        )
        return self.count(self.leave(None, counter=counter), counter=counter)

    def leave(self, epoch: int | None, *, counter: Pinned | None = None) -> Increment:
        """Signed leave to count from `epoch`."""
        name = (counter or self.counter).name
        recipe = Increment(epoch=epoch, counter_name=name)
        return sign_approval(recipe, increment_ref(self.device), sign_digest=self.key.sign)

    def count(
        self, leave: Increment, *, counter: Pinned | None = None, tpm: Tpm | None = None
    ) -> Pinned:
        """Count the epoch counter as `leave` allows."""
        ref = increment_ref(self.device)
        return provision.increment_counter(
            tpm or self.tpm,
            counter or self.counter,
            self.storage,
            recipe=leave.policy(),
            authorization=authorization(leave, ref, policy_key=self.key.public),
            policy_key=self.key.public,
        )

    def pcr(self) -> bytes:
        """The application PCR."""
        return commands.pcr_read(self.tpm, SELECTION)[Alg.SHA256][PCR]

    def clock(self) -> int:
        """The TPM's clock, in milliseconds."""
        return commands.read_clock(self.tpm).clock

    def approval(
        self,
        *,
        epoch: int | None = None,
        state: bytes | None = None,
        other: bytes = ELSEWHERE,
        not_after: int | None = None,
        device: bytes | None = None,
        counter: Pinned | None = None,
    ) -> Approval:
        """A signed approval of the state now (branch 0) and of `other` (branch 1), for an hour."""
        number = self.epoch if epoch is None else epoch
        branches = (
            Branch(label="cold", pcr_digest=state or pcr_digest([self.pcr()])),
            Branch(label="live", pcr_digest=other),
        )
        recipe = Approval(
            epoch=number,
            selection=str(SELECTION),
            branches=branches,
            counter_name=(counter or self.counter).name,
            not_after=self.clock() + AN_HOUR_MS if not_after is None else not_after,
        )
        ref = root_ref(self.device if device is None else device, number)
        return sign_approval(recipe, ref, sign_digest=self.key.sign)

    def authorized(self, approval: Approval, *, device: bytes | None = None) -> Authorize:
        """The statement that runs after the approval's recipe."""
        ref = root_ref(self.device if device is None else device, approval.epoch)
        return authorization(approval, ref, policy_key=self.key.public)

    def seal(
        self,
        secret: bytes,
        *,
        epoch: int | None = None,
        approval: Approval | None = None,
        ticket: bytes = b"",
    ) -> SealedRoot:
        """Seal a root for this TPM as a backend does, and import it as a device does."""
        number = self.epoch if epoch is None else epoch
        policy = fold(root_policy(self.key.public, self.device, number))
        delivered = seal_for(self.storage_public, secret, auth_policy=policy)
        public = Public.decode(delivered.public)
        private = commands.import_object(
            self.tpm,
            self.storage,
            public=public,
            duplicate=delivered.private,
            seed=delivered.seed,
        )
        opened_by = approval or self.approval(epoch=number)
        return SealedRoot(public, private, opened_by, self.authorized(opened_by), ticket)

    @contextmanager
    def counted(self) -> Iterator[tuple[Tpm, CountingTcti]]:
        """A connection whose commands are counted."""
        counting: list[CountingTcti] = []

        def wrap(inner: TCTI) -> TCTI:
            counting.append(CountingTcti(inner))
            return counting[0]

        with Tpm(self.swtpm.tcti, wrap=wrap) as tpm:
            yield tpm, counting[0]

    @contextmanager
    def through(self, *steps: At) -> Iterator[Tpm]:
        """A connection on which `steps` happen; they must have, and nothing may stay loaded."""
        plan = FaultPlan(*steps)
        with Tpm(self.swtpm.tcti, wrap=lambda inner: FaultyTcti(inner, plan)) as tpm:
            yield tpm
            assert plan.done
            assert loaded(self.swtpm) == {}
        assert loaded(self.swtpm) == {}
