"""Have the TPM release a dynamic root, on its own conditions.

    load ─▶ policy session ─▶ PCR · counter · clock ─▶ PolicyAuthorize ─▶ unseal

Rules:
1. Everything that can be checked without the TPM has been checked before the
   session is opened: metadata, Name and approval (`hwtrust.roots`).
2. The root leaves the TPM only through a salted session, encrypted.
3. Nothing stays loaded, whether it opens or not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from hwtrust.errors import RootApprovalError, RootStateError, TpmError
from hwtrust.tpm import commands
from hwtrust.tpm.policy import TpmPolicySession
from hwtrust.tpm.response import FMT1_POLICY_FAIL, RC_PCR_CHANGED, base_code
from hwtrust.tpm.sessions import policy_session
from hwtrust.wire.policy import apply, fold

if TYPE_CHECKING:
    from hwtrust.tpm.connection import Pinned, Tpm
    from hwtrust.wire.policy import Authorize
    from hwtrust.wire.root import Approval
    from hwtrust.wire.structures import Public


class Anchorage(msgspec.Struct, frozen=True):
    """Where in the TPM a device's roots hang: their parent and their epoch counter."""

    storage_key: Pinned
    counter: Pinned
    policy_key: Public


@dataclass(frozen=True, slots=True)
class SealedRoot:
    """A root as this TPM holds it: a sealed object, and what opens it.

    `ticket` is the TPM's word on the approval's signature from an earlier time,
    or empty.
    """

    public: Public
    private: bytes
    approval: Approval
    authorization: Authorize
    ticket: bytes = field(default=b"", repr=False)


class Unsealed(msgspec.Struct, frozen=True):
    """The root's 32 bytes, and the ticket to keep for the next time."""

    secret: bytes
    ticket: bytes

    def __repr__(self) -> str:
        return "Unsealed()"


def unseal_root(tpm: Tpm, anchorage: Anchorage, root: SealedRoot, *, branch: int) -> Unsealed:
    """Open a root in the measured state number `branch` of its approval.

    TPM2_Unseal, Part 3 §12.7.

    Raises:
        RootStateError: the PCRs hold another state.
        RootRevokedError: the epoch counter has passed the root's epoch.
        RootExpiredError: the TPM's clock has reached not_after.
        RootApprovalError: the approval is not for this root.
        TpmError: anything else that the TPM refuses.
    """
    if fold((root.authorization,)) != root.public.auth_policy:
        raise RootApprovalError("the approval is for another root: epoch, device or policy key")
    loaded = commands.load(tpm, anchorage.storage_key, private=root.private, public=root.public)
    with tpm.flushing(loaded), policy_session(tpm, anchorage.storage_key) as session:
        runner = TpmPolicySession(
            session,
            policy_key=anchorage.policy_key,
            index=anchorage.counter,
            ticket=root.ticket,
        )
        apply((*root.approval.policy(branch=branch), root.authorization), runner)
        try:
            secret = commands.unseal(tpm, loaded, session)
        except TpmError as error:
            rc = error.data.get("rc")
            if rc == RC_PCR_CHANGED:
                message = "the TPM refused: its state changed meanwhile"
                raise RootStateError(message, rc=rc) from error
            if isinstance(rc, int) and base_code(rc) == FMT1_POLICY_FAIL:
                message = "the TPM refused: the policy session is not what the root requires"
                raise RootApprovalError(message, rc=rc) from error
            raise
    return Unsealed(secret, runner.ticket)
