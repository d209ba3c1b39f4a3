"""Policies run on a TPM: the same statements that `hwtrust.wire.policy` folds.

A statement that the TPM refuses is an error that says which condition did not
hold, so that a caller can tell an expired root from a revoked one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hwtrust.errors import (
    MalformedError,
    RootApprovalError,
    RootExpiredError,
    RootRevokedError,
    RootStateError,
    TpmError,
)
from hwtrust.tpm import commands
from hwtrust.tpm.response import (
    FMT1_HANDLE,
    FMT1_SIGNATURE,
    FMT1_TICKET,
    FMT1_VALUE,
    RC_NV_UNINITIALIZED,
    RC_PCR_CHANGED,
    RC_POLICY,
    base_code,
    is_parameter_refusal,
)
from hwtrust.tpm.stack import TPM2_CC, TPM2_EO, TPM2B_DIGEST, TPML_DIGEST
from hwtrust.wire.policy import apply, approval_digest

if TYPE_CHECKING:
    from collections.abc import Callable

    from hwtrust.errors import RootError
    from hwtrust.tpm.connection import Pinned, Tpm
    from hwtrust.tpm.sessions import Session
    from hwtrust.wire.policy import (
        AnyOf,
        Authorize,
        CommandCode,
        CounterTimer,
        Nv,
        NvWritten,
        Pcr,
    )
    from hwtrust.wire.structures import Public

_UNMET = frozenset({RC_POLICY, RC_PCR_CHANGED, FMT1_VALUE})
_NO_COUNTER = frozenset({FMT1_HANDLE, RC_NV_UNINITIALIZED})
_UNAPPROVED = frozenset({FMT1_SIGNATURE, FMT1_TICKET, FMT1_VALUE})


class TpmPolicySession:
    """A `hwtrust.wire.policy.PolicySession` whose statements are TPM commands.

    `ticket` is the TPMT_TK_VERIFIED of an earlier run with the same approval;
    with it three commands are spared. Afterwards it holds the one that was used.
    """

    def __init__(
        self,
        session: Session,
        *,
        policy_key: Public,
        index: Pinned | None = None,
        ticket: bytes = b"",
    ) -> None:
        self.ticket = ticket
        self._session = session
        self._tpm: Tpm = session.tpm
        self._policy_key = policy_key
        self._index = index

    def pcr(self, statement: Pcr) -> None:
        """TPM2_PolicyPCR, Part 3 §23.7."""
        self._call(
            "TPM2_PolicyPCR",
            self._tpm.esapi.policy_pcr,
            self._session.handle,
            statement.digest,
            commands.tpm_selection(statement.selection),
            refused=RootStateError("the PCRs do not hold the state that is approved"),
        )

    def any_of(self, statement: AnyOf) -> None:
        """The branch that is taken, then TPM2_PolicyOR, Part 3 §23.6."""
        taken = statement.taken
        if taken is None or taken not in range(len(statement.branches)):
            raise RootStateError("no branch of the approval is for this state")
        apply(statement.branches[taken], self)
        digests = TPML_DIGEST([TPM2B_DIGEST(digest) for digest in statement.digests()])
        self._call(
            "TPM2_PolicyOR",
            self._tpm.esapi.policy_or,
            self._session.handle,
            digests,
            refused=RootStateError("the approval has no branch for this state"),
        )

    def nv(self, statement: Nv) -> None:
        """TPM2_PolicyNV, Part 3 §23.9."""
        pinned = self._index
        if pinned is None or pinned.name != statement.index_name:
            raise RootApprovalError("the approval speaks of another epoch counter")
        index = self._tpm.at(pinned)
        try:
            self._call(
                "TPM2_PolicyNV",
                self._tpm.esapi.policy_nv,
                index,
                index,
                self._session.handle,
                statement.operand,
                TPM2_EO(statement.operation),
                offset=statement.offset,
                refused=RootRevokedError("the epoch counter has moved on"),
            )
        except TpmError as error:
            if _is(error, _NO_COUNTER):
                self._tpm.require(pinned)
            raise

    def counter_timer(self, statement: CounterTimer) -> None:
        """TPM2_PolicyCounterTimer, Part 3 §23.10."""
        self._call(
            "TPM2_PolicyCounterTimer",
            self._tpm.esapi.policy_counter_timer,
            self._session.handle,
            statement.operand,
            TPM2_EO(statement.operation),
            offset=statement.offset,
            refused=RootExpiredError("the TPM's clock has passed not_after"),
        )

    def command_code(self, statement: CommandCode) -> None:
        """TPM2_PolicyCommandCode, Part 3 §23.11."""
        self._call(
            "TPM2_PolicyCommandCode",
            self._tpm.esapi.policy_command_code,
            self._session.handle,
            TPM2_CC(statement.code),
        )

    def nv_written(self, statement: NvWritten) -> None:
        """TPM2_PolicyNvWritten, Part 3 §23.19."""
        self._call(
            "TPM2_PolicyNvWritten",
            self._tpm.esapi.policy_nv_written,
            self._session.handle,
            statement.written,
        )

    def authorize(self, statement: Authorize) -> None:
        """TPM2_PolicyAuthorize, Part 3 §23.16, with the kept ticket or a new one.

        A ticket dies with its hierarchy's proof (TPM2_Clear), and its file is
        nobody's to trust: one that the TPM does not take is replaced.
        """
        kept, self.ticket = self.ticket, b""
        if kept:
            try:
                self._authorize(statement, kept)
            except MalformedError:
                pass
            except TpmError as error:
                if not is_parameter_refusal(error.data.get("rc")):
                    raise
            else:
                self.ticket = kept
                return
        try:
            ticket = self._verified(statement)
            self._authorize(statement, ticket)
        except TpmError as error:
            if not _is(error, _UNAPPROVED):
                raise
            message = "what the policy session holds is not what the policy key has approved"
            raise RootApprovalError(message, rc=error.data["rc"]) from error
        self.ticket = ticket

    def _authorize(self, statement: Authorize, ticket: bytes) -> None:
        self._call(
            "TPM2_PolicyAuthorize",
            self._tpm.esapi.policy_authorize,
            self._session.handle,
            statement.approved,
            statement.key_name,
            commands.ticket_from(ticket),
            statement.ref,
        )

    def _verified(self, statement: Authorize) -> bytes:
        digest = approval_digest(statement.approved, statement.ref)
        with self._tpm.flushing(commands.load_external(self._tpm, self._policy_key)) as key:
            return commands.verify_signature(
                self._tpm, key, digest=digest, signature=statement.signature
            )

    def _call(
        self,
        command: str,
        function: Callable[..., None],
        *args: object,
        refused: RootError | None = None,
        **kwargs: object,
    ) -> None:
        try:
            self._tpm.call(command, function, *args, **kwargs)
        except TpmError as error:
            if refused is None or not _is(error, _UNMET):
                raise
            refused.data["rc"] = error.data["rc"]
            refused.data["command"] = command
            raise refused from error


def _is(error: TpmError, codes: frozenset[int]) -> bool:
    rc = error.data.get("rc")
    return isinstance(rc, int) and base_code(rc) in codes
