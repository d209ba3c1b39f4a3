"""Enhanced-authorisation policies, written once and used twice.

A policy is a tuple of small frozen statements. `apply` walks it over a
`PolicySession`: over `Fold`, which calculates the digest offline, or over the
session of a real TPM (`hwtrust.tpm.policy`), which runs the commands. What the
backend signs and what the device executes is therefore the same object, and
tests compare the two digests.

        statements ──apply──▶ Fold            ─▶ policyDigest (no TPM)
                         └──▶ TpmPolicySession ─▶ TPM2_Policy… (TPM)

Rules:
1. SHA-256 throughout: sessions, objects and indices of hwtrust use no other.
2. Comparisons are unsigned. A TPM compares signed operands as two's
   complement, and a clock or counter is not one.
3. Nothing here is secret, and nothing here trusts its input: a changed
   statement yields another digest, which the TPM then refuses.
4. A choice comes first in its policy. TPM2_PolicyOR replaces what the session
   holds, so a condition before it would be dropped without a trace.
"""

from __future__ import annotations

import hashlib
from enum import IntEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

import msgspec

from hwtrust.errors import MalformedError
from hwtrust.wire.codec import u8, u16, u32

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hwtrust.wire.structures import PcrSelection

EMPTY = bytes(32)

POLICY_NV = 0x149
POLICY_AUTHORIZE = 0x16A
POLICY_COMMAND_CODE = 0x16C
POLICY_COUNTER_TIMER = 0x16D
POLICY_OR = 0x171
POLICY_PCR = 0x17F
POLICY_NV_WRITTEN = 0x18F

NV_INCREMENT = 0x134

MIN_BRANCHES, MAX_BRANCHES = 2, 8

CLOCK_OFFSET = 8
"""Where TPMS_TIME_INFO holds the clock, after the 8 bytes of `time`."""


class Comparison(IntEnum):
    """TPM_EO, the unsigned and equality operators (Part 2 §6.8)."""

    EQ = 0x0000
    UNSIGNED_GT = 0x0003
    UNSIGNED_LT = 0x0005
    UNSIGNED_GE = 0x0007
    UNSIGNED_LE = 0x0009


class PolicySession(Protocol):
    """What a statement needs of the session that it is applied to."""

    def pcr(self, statement: Pcr) -> None:
        """TPM2_PolicyPCR."""

    def any_of(self, statement: AnyOf) -> None:
        """TPM2_PolicyOR, over the digest of the branch that is taken."""

    def nv(self, statement: Nv) -> None:
        """TPM2_PolicyNV."""

    def counter_timer(self, statement: CounterTimer) -> None:
        """TPM2_PolicyCounterTimer."""

    def command_code(self, statement: CommandCode) -> None:
        """TPM2_PolicyCommandCode."""

    def nv_written(self, statement: NvWritten) -> None:
        """TPM2_PolicyNvWritten."""

    def authorize(self, statement: Authorize) -> None:
        """TPM2_PolicyAuthorize."""


class Pcr(msgspec.Struct, frozen=True):
    """The selected PCRs hash to `digest`. TPM2_PolicyPCR, Part 3 §23.7."""

    selection: PcrSelection
    digest: bytes

    def apply(self, session: PolicySession) -> None:
        """Run or fold TPM2_PolicyPCR."""
        session.pcr(self)


class AnyOf(msgspec.Struct, frozen=True):
    """One of two to eight branches holds. TPM2_PolicyOR, Part 3 §23.6.

    Folding needs no choice; running does: `taking(n)` says which branch.
    Nothing may precede it in a policy.
    """

    branches: tuple[Policy, ...]
    taken: int | None = None

    def taking(self, branch: int) -> AnyOf:
        """The same statement, to be satisfied by branch number `branch`."""
        return AnyOf(self.branches, branch)

    def digests(self) -> tuple[bytes, ...]:
        """What each branch folds to, starting from an empty session."""
        return _folded(self.branches)

    def apply(self, session: PolicySession) -> None:
        """Run or fold TPM2_PolicyOR."""
        session.any_of(self)


class Nv(msgspec.Struct, frozen=True):
    """An NV index's contents compare as stated with `operand`. TPM2_PolicyNV, Part 3 §23.9."""

    index_name: bytes
    operand: bytes
    operation: Comparison
    offset: int = 0

    def apply(self, session: PolicySession) -> None:
        """Run or fold TPM2_PolicyNV."""
        session.nv(self)


class CounterTimer(msgspec.Struct, frozen=True):
    """TPMS_TIME_INFO at `offset` compares as stated. TPM2_PolicyCounterTimer, Part 3 §23.10."""

    operand: bytes
    offset: int
    operation: Comparison

    def apply(self, session: PolicySession) -> None:
        """Run or fold TPM2_PolicyCounterTimer."""
        session.counter_timer(self)


class CommandCode(msgspec.Struct, frozen=True):
    """Only this command is authorised. TPM2_PolicyCommandCode, Part 3 §23.11."""

    code: int

    def apply(self, session: PolicySession) -> None:
        """Run or fold TPM2_PolicyCommandCode."""
        session.command_code(self)


class NvWritten(msgspec.Struct, frozen=True):
    """The authorised NV index has (not) been written. TPM2_PolicyNvWritten, Part 3 §23.19."""

    written: bool

    def apply(self, session: PolicySession) -> None:
        """Run or fold TPM2_PolicyNvWritten."""
        session.nv_written(self)


class Authorize(msgspec.Struct, frozen=True):
    """Whatever `key_name` signs together with `ref`. TPM2_PolicyAuthorize, Part 3 §23.16.

    `approved` is the signed digest and `signature` its TPMT_SIGNATURE; folding
    needs neither, running needs both.
    """

    key_name: bytes
    ref: bytes
    approved: bytes = b""
    signature: bytes = b""

    def apply(self, session: PolicySession) -> None:
        """Run or fold TPM2_PolicyAuthorize."""
        session.authorize(self)


Statement = Pcr | AnyOf | Nv | CounterTimer | CommandCode | NvWritten | Authorize
Policy = tuple[Statement, ...]


class Fold:
    """A policy session that only calculates (Part 1 §19.7.6); `begun` is what it stands at."""

    def __init__(self, begun: bytes = EMPTY) -> None:
        self.digest = begun

    def _update(self, code: int, *parts: bytes) -> None:
        self.digest = _sha256(self.digest, u32(code), *parts)

    def pcr(self, statement: Pcr) -> None:
        """Update with the selection as signed and the digest."""
        self._update(POLICY_PCR, statement.selection.encode(), statement.digest)

    def any_of(self, statement: AnyOf) -> None:
        """Start over from the branches alone."""
        if self.digest != EMPTY:
            raise MalformedError("a choice drops the conditions before it; put them after it")
        if not MIN_BRANCHES <= len(statement.branches) <= MAX_BRANCHES:
            message = "a choice has two to eight branches"
            raise MalformedError(message, branches=len(statement.branches))
        self._update(POLICY_OR, *statement.digests())

    def nv(self, statement: Nv) -> None:
        """Update with the comparison and the index's Name."""
        arguments = _sha256(statement.operand, u16(statement.offset), u16(statement.operation))
        self._update(POLICY_NV, arguments, statement.index_name)

    def counter_timer(self, statement: CounterTimer) -> None:
        """Update with the comparison."""
        arguments = _sha256(statement.operand, u16(statement.offset), u16(statement.operation))
        self._update(POLICY_COUNTER_TIMER, arguments)

    def command_code(self, statement: CommandCode) -> None:
        """Update with the command's code."""
        self._update(POLICY_COMMAND_CODE, u32(statement.code))

    def nv_written(self, statement: NvWritten) -> None:
        """Update with YES or NO."""
        self._update(POLICY_NV_WRITTEN, u8(int(statement.written)))

    def authorize(self, statement: Authorize) -> None:
        """Start over from the key's Name and the reference alone."""
        self.digest = EMPTY
        self._update(POLICY_AUTHORIZE, statement.key_name)
        self.digest = _sha256(self.digest, statement.ref)


def apply(policy: Policy, session: PolicySession) -> None:
    """Apply every statement of `policy` to `session`, in order."""
    for statement in policy:
        statement.apply(session)


def fold(policy: Policy, *, begun: bytes = EMPTY) -> bytes:
    """The policyDigest of `policy`, 32 bytes; of one that goes on where `begun` was folded to.

    Raises:
        MalformedError: a choice of fewer than two or more than eight branches,
            or one that is not at the start.
    """
    session = Fold(begun)
    apply(policy, session)
    return session.digest


@lru_cache(maxsize=4096)
def _folded(branches: tuple[Policy, ...]) -> tuple[bytes, ...]:
    # A device's states are approved again at every heartbeat.
    return tuple(fold(branch) for branch in branches)


def pcr_digest(values: Iterable[bytes]) -> bytes:
    """The digest that TPM2_PolicyPCR and TPM2_Quote form over PCR values, in selection order."""
    return _sha256(*values)


def approval_digest(approved: bytes, ref: bytes) -> bytes:
    """The aHash that a policy key signs for TPM2_PolicyAuthorize: H(approved || ref)."""
    return _sha256(approved, ref)


def _sha256(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()
