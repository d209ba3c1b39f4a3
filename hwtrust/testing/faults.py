"""Faults on the way to the TPM: broken connections, interposers, crashes.

    FaultyTcti(tpm.tcti, FaultPlan(At(Alter("response", -1), command="TPM2_Unseal")))

A `FaultPlan` says which command is hit, a fault says what happens to it. All of
it happens to real commands of a real (software) TPM.

Rules:
1. A fault that is planned and does not happen makes a test worthless: assert
   `plan.done` at the end.
2. Commands are counted as they come down to the TCTI, from 1, over all
   connections that share the plan; ESAPI's own resubmissions count.
3. A cut connection stays cut: open a new `FaultyTcti` on the same plan.
4. What breaks by a fault breaks as on real parts: ESAPI sees
   `TCTI_RC_IO_ERROR`, in the call that sends the command or in the one that
   waits for the response. `hwtrust.tpm.tcti` says what ESAPI makes of it.
"""

from __future__ import annotations

import os
import secrets
import signal
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, Literal, Protocol

from tpm2_pytss.constants import TSS2_RC
from tpm2_pytss.TSS2_Exception import TSS2_Exception

from hwtrust.errors import FaultPlanError
from hwtrust.testing.bus import NO_SESSIONS, PASSWORD_SESSION, SESSIONS
from hwtrust.tpm.tcti import (
    COMMAND_NAMES,
    HEADER_SIZE,
    Exchange,
    ObservedTcti,
    RelayTcti,
    command_code,
    command_name,
)
from hwtrust.wire.codec import Reader, tpm2b, u8, u16, u32

if TYPE_CHECKING:
    from collections.abc import Callable

    from tpm2_pytss.TCTI import TCTI

    Forward = Callable[[bytes], bytes]

Moment = Literal["before", "after"]

RC_RETRY: Final = 0x922
RC_LOCKOUT: Final = 0x921
RC_FAILURE: Final = 0x101
RC_NV_RATE: Final = 0x920

# Handles of the commands whose response holds nothing but a response code, so
# that somebody on the bus can make it up (Part 3).
_SWALLOWED: Final = {
    "TPM2_ClockSet": 1,
    "TPM2_DictionaryAttackLockReset": 1,
    "TPM2_EvictControl": 2,
    "TPM2_NV_Extend": 2,
    "TPM2_NV_Increment": 2,
    "TPM2_NV_SetBits": 2,
    "TPM2_NV_Write": 2,
    "TPM2_PCR_Extend": 1,
    "TPM2_PCR_Reset": 1,
}


class Fault(Protocol):
    """What happens to one command."""

    def apply(self, request: bytes, forward: Forward) -> bytes:
        """Answer `request`; `forward` has the TPM execute a command."""


class _CutError(TSS2_Exception):  # type: ignore[misc]  # tpm2-pytss has no type hints
    """The connection is cut for good; to C it is `TCTI_RC_IO_ERROR`."""

    def __init__(self) -> None:
        super().__init__(TSS2_RC.TCTI_RC_IO_ERROR)


def _require(condition: bool, problem: str) -> None:  # noqa: FBT001
    if not condition:
        raise FaultPlanError(problem)


@dataclass(frozen=True, slots=True)
class Cut:
    """The connection breaks before the TPM gets the command, or after it executed it.

    The program cannot tell which: either way it gets no response.
    """

    moment: Moment

    def apply(self, request: bytes, forward: Forward) -> bytes:
        """Break the connection."""
        if self.moment == "after":
            forward(request)
        raise _CutError


@dataclass(frozen=True, slots=True)
class Kill:
    """This process dies (SIGKILL) before the TPM gets the command, or after it executed it.

    For child processes of a test.
    """

    moment: Moment

    def apply(self, request: bytes, forward: Forward) -> bytes:
        """Die."""
        if self.moment == "after":
            forward(request)
        os.kill(os.getpid(), signal.SIGKILL)
        message = "the process has outlived SIGKILL"
        raise FaultPlanError(message)


@dataclass(frozen=True, slots=True)
class Delay:
    """The command waits for `sleep(seconds)`, a function that the test chooses."""

    seconds: float
    sleep: Callable[[float], None]

    def apply(self, request: bytes, forward: Forward) -> bytes:
        """Wait, then have the command executed."""
        self.sleep(self.seconds)
        return forward(request)


@dataclass(frozen=True, slots=True)
class Alter:
    """The bits of `mask` flip in one byte of the request or the response.

    `offset` counts from the first byte, from the end when negative.

    Raises:
        FaultPlanError: when it happens, if there is no such byte.
    """

    where: Literal["request", "response"]
    offset: int
    mask: int = 0x01

    def __post_init__(self) -> None:
        """Refuse a mask that changes nothing."""
        _require(0 < self.mask <= 0xFF, "an alteration needs a mask of 1 to 255")  # noqa: PLR2004

    def apply(self, request: bytes, forward: Forward) -> bytes:
        """Have the command executed, one of its buffers altered."""
        if self.where == "request":
            return forward(self._altered(request))
        return self._altered(forward(request))

    def _altered(self, buffer: bytes) -> bytes:
        size = len(buffer)
        _require(-size <= self.offset < size, f"the {self.where} has {size} bytes only")
        changed = bytearray(buffer)
        changed[self.offset] ^= self.mask
        return bytes(changed)


@dataclass(frozen=True, slots=True)
class Respond:
    """The command is answered with the response code `rc` and never executed."""

    rc: int

    def __post_init__(self) -> None:
        """Refuse success: that is `Swallow`."""
        _require(0 < self.rc <= 0xFFFF_FFFF, "a refusal needs a response code above 0")  # noqa: PLR2004

    def apply(self, request: bytes, forward: Forward) -> bytes:  # noqa: ARG002
        """Refuse."""
        return u16(NO_SESSIONS) + u32(HEADER_SIZE) + u32(self.rc)


@dataclass(frozen=True, slots=True)
class Swallow:
    """The command is answered with success and never executed, as an interposer can.

    For commands whose response has no parameters, such as TPM2_PCR_Extend and
    TPM2_NV_Increment. A password session is answered as the TPM would; for an
    HMAC session the interposer, which does not know the session's key, makes up
    a nonce and an HMAC of the right sizes.
    """

    def apply(self, request: bytes, forward: Forward) -> bytes:  # noqa: ARG002
        """Pretend success."""
        command = command_name(command_code(request))
        _require(command in _SWALLOWED, f"{command} cannot be swallowed: its response is not empty")
        reader = Reader(request, command)
        tag = reader.u16()
        reader.take(HEADER_SIZE - 2 + 4 * _SWALLOWED[command])
        body = b""
        if tag == SESSIONS:
            sessions = Reader(reader.take(reader.u32()), f"sessions of {command}")
            body = u32(0)
            while sessions.remaining:
                body += _pretended_session(sessions)
        return u16(tag) + u32(HEADER_SIZE + len(body)) + u32(0) + body


def _pretended_session(sessions: Reader) -> bytes:
    """What answers the next session of a command (TPMS_AUTH_RESPONSE, Part 2 §10.13.3)."""
    handle = sessions.u32()
    nonce, attributes, hmac = sessions.sized(), sessions.u8(), sessions.sized()
    if handle == PASSWORD_SESSION:
        nonce, hmac = b"", b""
    return (
        tpm2b(secrets.token_bytes(len(nonce)))
        + u8(attributes)
        + tpm2b(secrets.token_bytes(len(hmac)))
    )


@dataclass(frozen=True, slots=True)
class At:
    """`fault` hits the `nth` command, or the `nth` that is called `command`, from 1.

    `times` commands of that kind in a row are hit; None is all that follow.
    """

    fault: Fault
    command: str | None = None
    nth: int = 1
    times: int | None = 1

    def __post_init__(self) -> None:
        """Refuse a plan that can never come true."""
        known = self.command is None or self.command in COMMAND_NAMES.values()
        _require(known, f"there is no command {self.command}")
        _require(self.nth >= 1, "commands are counted from 1")
        _require(self.times is None or self.times >= 1, "a fault happens once at least")

    def hits(self, count: int) -> bool:
        """Whether the command that is number `count` of its kind is hit."""
        return count >= self.nth and (self.times is None or count < self.nth + self.times)


def kill_at(nth: int, moment: Moment = "before") -> At:
    """This process dies at the `nth` command of all."""
    return At(Kill(moment), nth=nth)


class FaultPlan:
    """Faults and where they happen. Several may hit one command; the first is outermost.

    One plan counts over all the connections that are made with it.
    """

    def __init__(self, *steps: At) -> None:
        self._steps = steps
        self._count: Counter[str | None] = Counter()

    def faults_of(self, request: bytes) -> list[Fault]:
        """Count `request` and return what happens to it."""
        name = command_name(command_code(request))
        self._count.update((None, name))
        return [
            step.fault
            for step in self._steps
            if step.command in (None, name) and step.hits(self._count[step.command])
        ]

    @property
    def done(self) -> bool:
        """Whether each fault has happened as often as planned, once if it has no end."""
        return all(
            self._count[step.command] >= step.nth + (step.times or 1) - 1 for step in self._steps
        )


class FaultyTcti(RelayTcti):
    """Hands commands to `inner`, or does what `plan` says instead.

    A response is fetched when its command is sent, whatever timeout the caller
    will give.
    """

    def __init__(self, inner: TCTI | str, plan: FaultPlan) -> None:
        super().__init__(inner)
        self._plan = plan
        self._cut = False
        self._answer: bytes | TSS2_Exception | None = None

    def send(self, request: bytes) -> None:
        """Answer one command buffer; the answer waits for `fetch`."""
        if self._cut:
            raise _CutError
        self._answer = None
        executed = False

        def forward(command: bytes) -> bytes:
            nonlocal executed
            self.inner.transmit(command)
            executed = True
            return bytes(self.inner.receive())

        for fault in reversed(self._plan.faults_of(request)):
            forward = partial(fault.apply, forward=forward)
        try:
            self._answer = forward(request)
        except TSS2_Exception as error:
            if isinstance(error, _CutError):
                self._cut = True
                self.do_finalize()
            # The sender of a command that arrived learns of the break only
            # when it waits for the response.
            if not executed:
                raise
            self._answer = error

    def fetch(self, timeout: int) -> bytes:  # noqa: ARG002
        """The answer to the last command."""
        answer, self._answer = self._answer, None
        if answer is None:
            raise TSS2_Exception(TSS2_RC.TCTI_RC_BAD_SEQUENCE)
        if isinstance(answer, TSS2_Exception):
            raise answer
        return answer


class CountingTcti(ObservedTcti):
    """Counts the commands that `inner` gets, for budgets.

    `sequence` holds their names in order, refused and resubmitted ones included.
    """

    def __init__(self, inner: TCTI | str) -> None:
        super().__init__(inner, self._count)
        self.sequence: list[str] = []

    def _count(self, made: Exchange) -> None:
        self.sequence.append(made.command)

    @property
    def total(self) -> int:
        """How many commands there were."""
        return len(self.sequence)

    @property
    def by_name(self) -> Counter[str]:
        """How many there were of each name."""
        return Counter(self.sequence)

    def reset(self) -> None:
        """Count from 0 again."""
        self.sequence.clear()


class WiretapTcti(RelayTcti):
    """Keeps every byte that passes, as somebody on the bus can. For tests only."""

    def __init__(self, inner: TCTI | str) -> None:
        super().__init__(inner)
        self._heard: list[bytes] = []

    def send(self, request: bytes) -> None:
        """Hand one command buffer on and keep a copy."""
        self._heard.append(request)
        super().send(request)

    def fetch(self, timeout: int) -> bytes:
        """Get the response and keep a copy."""
        response = super().fetch(timeout)
        self._heard.append(response)
        return response

    @property
    def buffers(self) -> int:
        """How many requests and responses were heard."""
        return len(self._heard)

    def heard(self, secret: bytes) -> bool:
        """Whether `secret` was in any request or response as it is."""
        return any(secret in buffer for buffer in self._heard)
