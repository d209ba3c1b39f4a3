"""A TPM of somebody's, set up as enrolment leaves it, in the tests' own range and only there.

    with OwnRange(tpm) as own:
        root = own.seal(b"R" * 32)

What it makes is gone at its end. Its PCR can be reset, which stands for a reboot.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final, Self

from hwtrust.testing.hardware import HANDLES, PCR, reset_pcr
from hwtrust.tpm import commands, provision
from hwtrust.tpm.sessions import hmac_session
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.cel import Event
from hwtrust.wire.policy import pcr_digest
from hwtrust.wire.root import Approval, Branch, root_ref, sign_approval
from hwtrust.wire.structures import PcrSelection
from simulators.anchored_tpm import AN_HOUR_MS, ELSEWHERE, AnchoredTpm, PolicyKey

if TYPE_CHECKING:
    from hwtrust.tpm.connection import Pinned, Tpm

SELECTION: Final = PcrSelection.parse(f"sha256:{PCR}")


class OwnRange(AnchoredTpm):
    """Storage key, attestation key and epoch counter at handles of the tests' own.

    A TPM without P-256 has no epoch counter: the key that approves counting is on it.
    """

    def __init__(self, tpm: Tpm) -> None:
        self.tpm = tpm
        self.key = PolicyKey()
        self.handles = HANDLES
        self.has_p256 = provision.has_p256(tpm)
        self.banks = provision.active_banks(tpm)
        self.endorsement = provision.find_endorsement_key(tpm)
        with provision.endorsement_key(tpm, self.endorsement.template) as (_, ek):
            self.ek, self.device = ek, ek.name

    def __enter__(self) -> Self:
        try:
            made = provision.make_storage_key(self.tpm, self.handles.storage_key)
            self.storage, self.storage_public = made
            made = provision.make_attestation_key(self.tpm, self.handles.ak, unique=bytes(32))
            self.ak, self.ak_public = made
            if self.has_p256:
                self.counter = self.new_counter()
                self.epoch = provision.read_counter(self.tpm, self.counter)
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()

    def _remove(self) -> None:
        with contextlib.ExitStack() as done:
            done.callback(reset_pcr, self.tpm)
            done.callback(provision.remove, self.tpm, self.handles)

    def pcr(self) -> bytes:
        """The application PCR."""
        return commands.pcr_read(self.tpm, SELECTION)[Alg.SHA256][PCR]

    def extend(self, event: Event) -> None:
        """Extend an event in every bank, as a device does."""
        with hmac_session(self.tpm, self.storage) as session:
            commands.pcr_extend(self.tpm, PCR, event.digests(self.banks), session, last=True)

    def reset(self) -> None:
        """As a reboot does to the PCR."""
        reset_pcr(self.tpm)

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
        recipe = Approval(
            epoch=number,
            selection=str(SELECTION),
            branches=(
                Branch(label="cold", pcr_digest=state or pcr_digest([self.pcr()])),
                Branch(label="live", pcr_digest=other),
            ),
            counter_name=(counter or self.counter).name,
            not_after=self.clock() + AN_HOUR_MS if not_after is None else not_after,
        )
        ref = root_ref(self.device if device is None else device, number)
        return sign_approval(recipe, ref, sign_digest=self.key.sign)
