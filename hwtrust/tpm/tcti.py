"""TCTIs in Python that stand between a program and another TCTI.

A TCTI carries command and response buffers; it knows nothing of their meaning.
What stands here sees every exchange, for `hwtrust --trace`, for budgets counted
in commands, and for faults injected by tests:

    ESAPI -> ObservedTcti -> TCTILdr("swtpm", ...) -> TPM

Rules:
1. An exchange is described by names, sizes, times and response codes. Its
   bytes, which may be secret, are handed on and not kept.
2. Watching changes nothing: an observer's error does not reach the TPM's user
   before `close()`.
3. No exception is lost between Python and C (below).
4. The wrapper owns what it wraps: closing it closes the inner TCTI, closing
   twice is harmless, and a command after closing is refused with
   `TCTI_RC_BAD_CONTEXT`, where the C library would read freed memory.
5. The wrapper must outlive the ESAPI context. `ESAPI` keeps a reference and
   does not close what it was given: close the context first, the TCTI next.

How an exception in a callback comes out of ESAPI (tpm2-pytss 3.0, tss2 3.2):

- A `TSS2_Exception` is turned into its `rc`; ESAPI raises a new
  `TSS2_Exception` with that `rc`.
- Any other `Exception` becomes `TCTI_RC_GENERAL_FAILURE`; ESAPI raises a
  `TSS2_Exception` with that, and the original is forgotten.
- A `BaseException` that is no `Exception`, such as `KeyboardInterrupt`, is
  printed by cffi and then reported to C as success, on buffers that hold no
  response. `RelayTcti` therefore lets none pass: it keeps it as `failure`,
  reports `TCTI_RC_GENERAL_FAILURE`, and `raise_failure()` gives it back.
- After any of these, and after a response whose HMAC is wrong, the ESAPI
  context answers every call with `ESYS_RC_BAD_SEQUENCE`: drop it and make a new
  one. The TPM may hold sessions and objects of the old one; `exchange` sends
  the commands that flush them.
- `TCTI_RC_TRY_AGAIN` makes a blocking ESAPI call ask again without end, so a
  TCTI must return it only where the caller's timeout has passed.
- RC_RETRY, RC_TESTING and RC_YIELDED are resubmitted by ESAPI, which sends the
  command five times at most: each submission is an exchange of its own.
"""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING, Final, NamedTuple, Self, TypeVar

import msgspec

from hwtrust.errors import TpmGoneError, TpmTransportError
from hwtrust.tpm.response import nothing_answers
from hwtrust.tpm.stack import TCTI, TPM2_CC, TSS2_RC, PyTCTI, TCTILdr, TSS2_Exception
from hwtrust.wire.codec import Reader

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from hwtrust.tpm.stack import PollData

__all__ = [
    "COMMAND_NAMES",
    "TCTI",
    "Exchange",
    "ObservedTcti",
    "RelayTcti",
    "command_code",
    "command_name",
    "exchange",
    "open_tcti",
    "response_code",
]

_T = TypeVar("_T")

HEADER_SIZE: Final = 10
"""Bytes of a command's or response's header: tag, size, code (Part 1 §18)."""

# FIRST and LAST are bounds. TPM2_MAC and TPM2_MAC_Start are later names of the
# command codes of TPM2_HMAC and TPM2_HMAC_Start, which programs know.
_NOT_NAMES: Final = frozenset({"FIRST", "LAST", "MAC", "MAC_Start"})

COMMAND_NAMES: Final[dict[int, str]] = {
    int(code): f"TPM2_{name}"
    for name, code in vars(TPM2_CC).items()
    if isinstance(code, int) and not name.startswith("_") and name not in _NOT_NAMES
}
"""TPM_CC to the command's name (Part 2 §6.5.2)."""


def command_name(code: int) -> str:
    """The name of command `code`, such as `TPM2_Quote`; hexadecimal for vendors' own."""
    return COMMAND_NAMES.get(code, f"TPM2_CC_0x{code:08X}")


def command_code(request: bytes) -> int:
    """The command code in the header of a command buffer.

    Raises:
        MalformedError: the buffer is shorter than a header.
    """
    reader = Reader(request, "TPM command")
    reader.take(6)
    return reader.u32()


def response_code(response: bytes) -> int:
    """The response code in the header of a response buffer; 0 is success.

    Raises:
        MalformedError: the buffer is shorter than a header.
    """
    reader = Reader(response, "TPM response")
    reader.take(6)
    return reader.u32()


class Exchange(msgspec.Struct, frozen=True):
    """One command and its response, without their bytes.

    `rc` is the TPM's response code, or the TCTI's (0x000Axxxx) when no response
    came. `response_size` is 0 then. Sizes are in bytes.
    """

    command: str
    code: int
    rc: int
    milliseconds: float
    request_size: int
    response_size: int

    @property
    def succeeded(self) -> bool:
        """Whether the TPM did what the command says."""
        return self.rc == 0


def _carried(error: BaseException) -> int:
    """The code by which C learns of `error`."""
    rc = error.rc if isinstance(error, TSS2_Exception) else TSS2_RC.TCTI_RC_GENERAL_FAILURE
    return int(rc)


def open_tcti(conf: str) -> TCTI:
    """The native TCTI that `conf` names, such as `device:/dev/tpmrm0`.

    Raises:
        TpmGoneError: nothing answers there.
        TpmTransportError: there is no such TCTI, or it is not installed.
    """
    try:
        return TCTILdr.parse(conf)
    except TSS2_Exception as error:
        rc = int(error.rc)
        message = f"the TPM connection {conf!r} cannot be opened: {error}"
        kind = TpmGoneError if nothing_answers(rc) else TpmTransportError
        raise kind(message, rc=rc) from error


class RelayTcti(PyTCTI):  # type: ignore[misc]  # tpm2-pytss has no type hints
    """Hands every command on to `inner`, a TCTI or a string that names one.

    Subclasses replace `send` and `fetch`, in which any exception may be raised.
    A context manager; leaving it closes `inner` too.

    Raises:
        TpmTransportError: `inner` is a string and cannot be opened.
    """

    def __init__(self, inner: TCTI | str) -> None:
        self._inner: TCTI | None = None
        self._failure: BaseException | None = None
        super().__init__(magic=b"HWTRUST\x00")
        self._inner = open_tcti(inner) if isinstance(inner, str) else inner

    @property
    def inner(self) -> TCTI:
        """The wrapped TCTI.

        Raises:
            TSS2_Exception: `TCTI_RC_BAD_CONTEXT`, this TCTI is closed.
        """
        if self._inner is None:
            raise TSS2_Exception(TSS2_RC.TCTI_RC_BAD_CONTEXT)
        return self._inner

    @property
    def failure(self) -> BaseException | None:
        """What ended the last command and has no TSS2 response code, if anything."""
        return self._failure

    def raise_failure(self) -> None:
        """Raise `failure`, once, if there is one.

        Whoever catches a `TSS2_Exception` from ESAPI calls this first: an
        interrupt or an error of a callback comes out as itself.
        """
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def send(self, request: bytes) -> None:
        """Hand one command buffer on."""
        self.inner.transmit(request)

    def fetch(self, timeout: int) -> bytes:
        """Get the response; `timeout` in milliseconds, negative to wait without end."""
        return bytes(self.inner.receive(timeout=timeout))

    def _guarded(self, step: Callable[..., _T], *arguments: Any) -> _T:
        """Run `step` so that whatever it raises can cross C."""
        try:
            return step(*arguments)
        except TSS2_Exception as error:
            # An inner relay has wrapped what its own callback raised.
            if error.__cause__ is not None:
                self._failure = error.__cause__
            raise
        except BaseException as error:
            self._failure = error
            raise TSS2_Exception(TSS2_RC.TCTI_RC_GENERAL_FAILURE) from error

    def do_transmit(self, command: bytes) -> None:
        """Called by C to send `command`."""
        self._failure = None
        self._guarded(self.send, command)

    def do_receive(self, timeout: int) -> bytes:
        """Called by C for the response."""
        return self._guarded(self.fetch, timeout)

    def do_cancel(self) -> None:
        """Called by C to cancel the command under way."""
        self._guarded(self.inner.cancel)

    def do_get_poll_handles(self) -> tuple[PollData, ...]:
        """Called by C for what can be polled for a response."""
        return self._guarded(lambda: tuple(self.inner.get_poll_handles()))

    def do_set_locality(self, locality: int) -> None:
        """Called by C to choose the locality of the commands that follow."""
        self._guarded(lambda: self.inner.set_locality(locality))

    def do_make_sticky(self, handle: Any, is_sticky: bool) -> None:  # noqa: FBT001
        """Called by C to keep a resource manager from flushing a handle.

        `handle` is a C pointer, through which the new handle goes back.
        """

        def step() -> None:
            handle[0] = self.inner.make_sticky(handle[0], is_sticky)

        self._guarded(step)

    def do_finalize(self) -> None:
        """Called by C when this TCTI is closed."""
        inner, self._inner = self._inner, None
        if isinstance(inner, TCTILdr):
            # finalize() alone would leave the loader's library open.
            inner.close()
        elif inner is not None:
            inner.finalize()

    def close(self) -> None:
        """Close this TCTI and the one that it wraps; harmless when repeated."""
        self.finalize()

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_exception: object) -> None:
        """Close it."""
        self.close()

    def __del__(self) -> None:
        """Give the device back if nobody closed it: /dev/tpm0 admits one user."""
        if getattr(self, "_inner", None) is not None and not sys.is_finalizing():
            with contextlib.suppress(Exception):
                self.do_finalize()


class _Sent(NamedTuple):
    """A command that waits for its response."""

    code: int
    size: int
    began: float


class ObservedTcti(RelayTcti):
    """Tells `on_command` of every exchange, in order, once its outcome is known.

    `clock` returns seconds. An exception from `on_command` ends the observing,
    not the command; `close()` raises it.
    """

    def __init__(
        self,
        inner: TCTI | str,
        on_command: Callable[[Exchange], None],
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        super().__init__(inner)
        self._on_command = on_command
        self._clock = clock
        self._observer_error: Exception | None = None
        self._sent: _Sent | None = None

    def send(self, request: bytes) -> None:
        """Hand one command buffer on and start its clock."""
        sent = _Sent(command_code(request), len(request), self._clock())
        try:
            super().send(request)
        except BaseException as error:
            self._report(sent, _carried(error), 0)
            raise
        # Not before: a command refused because another is under way is not sent.
        self._sent = sent

    def fetch(self, timeout: int) -> bytes:
        """Get the response and report the exchange."""
        try:
            response = super().fetch(timeout)
        except BaseException as error:
            # TRY_AGAIN is no outcome: the response is still to come.
            if _carried(error) != TSS2_RC.TCTI_RC_TRY_AGAIN:
                self._report(self._sent, _carried(error), 0)
                self._sent = None
            raise
        whole = len(response) >= HEADER_SIZE
        rc = response_code(response) if whole else int(TSS2_RC.TCTI_RC_MALFORMED_RESPONSE)
        self._report(self._sent, rc, len(response))
        self._sent = None
        return response

    def _report(self, sent: _Sent | None, rc: int, response_size: int) -> None:
        if sent is None or self._observer_error is not None:
            return
        made = Exchange(
            command=command_name(sent.code),
            code=sent.code,
            rc=rc,
            milliseconds=(self._clock() - sent.began) * 1000,
            request_size=sent.size,
            response_size=response_size,
        )
        try:
            self._on_command(made)
        except Exception as error:  # noqa: BLE001  # rule 2
            self._observer_error = error

    def close(self) -> None:
        """Close this TCTI and the one that it wraps.

        Raises:
            Exception: what `on_command` raised, once.
        """
        super().close()
        error, self._observer_error = self._observer_error, None
        if error is not None:
            raise error


def exchange(tcti: TCTI, request: bytes) -> bytes:
    """Send one command buffer past ESAPI and return the response buffer.

    For what a dropped ESAPI context left behind, such as handles to flush. A
    response that the context did not fetch any more is fetched and discarded
    first. The response code is the caller's to check (`response_code`).

    Raises:
        TpmTransportError: the connection broke; whether the TPM executed the
            command is not known.
    """
    try:
        try:
            tcti.transmit(request)
        except TSS2_Exception as error:
            if error.rc != TSS2_RC.TCTI_RC_BAD_SEQUENCE:
                raise
            tcti.receive()
            tcti.transmit(request)
        return bytes(tcti.receive())
    except TSS2_Exception as error:
        if isinstance(tcti, RelayTcti):
            tcti.raise_failure()
        message = f"the connection to the TPM broke: {error}"
        raise TpmTransportError(message, rc=int(error.rc)) from error
