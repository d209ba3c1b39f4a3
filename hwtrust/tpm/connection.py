"""One connection to a TPM, and what it must never leave behind.

    Tpm ── call() ──▶ ESAPI ──▶ TCTI ──▶ /dev/tpmrm0 | swtpm | …

Rules:
1. Every transient object and session is opened in a `with` and flushed at its
   end, also on error: a bare TPM has three slots of each.
2. Objects that stay (persistent keys, NV indices) are pinned by Name: a handle
   that turns out to hold another object is an error, and sessions are salted to
   the pinned key, so that nothing on the bus can stand in for it.
3. After a response that was tampered with, or a broken connection, the ESAPI
   context is dropped and a new one made. All that was loaded is gone then: a
   resource manager flushes it with the connection, a bare TPM is swept, for what
   an unanswered command has loaded has a handle that nobody was told.
4. TPM_RC_RETRY, YIELDED and TESTING are resubmitted by ESAPI, five times at
   once; then, and for TPM_RC_NV_RATE, the command waits here and is sent again.
   Every other refusal is an error of the tree.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any, Self, TypeVar

import msgspec

from hwtrust.errors import TpmError, TpmObjectConflictError, TpmTransportError, WireError
from hwtrust.tpm.leftovers import sweep
from hwtrust.tpm.response import (
    FMT1_HANDLE,
    RC_NV_RATE,
    RC_RETRY,
    RC_TESTING,
    RC_YIELDED,
    base_code,
    breaks_context,
    translate,
)
from hwtrust.tpm.stack import ESAPI, ESYS_TR, TSS2_Exception
from hwtrust.tpm.tcti import RelayTcti, exchange, open_tcti
from hwtrust.wire.codec import Reader, u16, u32
from hwtrust.wire.structures import NvPublic, Public

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hwtrust.tpm.stack import TCTI

T = TypeVar("T")

_ST_NO_SESSIONS = 0x8001
_CC_FLUSH_CONTEXT = 0x165
_KEY, _NV_INDEX = 1, 2  # IESYSC_KEY_RSRC, IESYSC_NV_RSRC
_ASK_AGAIN = frozenset({RC_NV_RATE, RC_RETRY, RC_TESTING, RC_YIELDED})
_TRIES = 5
_FIRST_PAUSE_S = 0.2


class Pinned(msgspec.Struct, frozen=True):
    """A persistent object or NV index: its TPM handle, and the Name that it must have.

    `blob` is ESAPI's serialisation (Esys_TR_Serialize), which spares the
    command that would read the public area. It is a convenience: the Name counts.
    """

    handle: int
    name: bytes
    blob: bytes = b""

    def __repr__(self) -> str:
        return f"Pinned({self.handle:#x}, {self.name.hex()})"


class Tpm:
    """An open TPM. Not shared between threads."""

    def __init__(
        self, tcti: str, *, wrap: Callable[[TCTI], TCTI] | None = None, owner_auth: bytes = b""
    ) -> None:
        """Open the TCTI named `tcti`, such as `device:/dev/tpmrm0` or `swtpm:path=/run/x`.

        `wrap` may put another TCTI around it, which sees every exchange.
        `owner_auth` is the owner hierarchy's password.

        Raises:
            TpmGoneError: nothing answers there.
            TpmTransportError: the TCTI cannot be opened.
        """
        self.name = tcti
        self._wrap = wrap
        self._owner_auth = owner_auth
        self._live: set[int] = set()
        self._pinned: dict[int, ESYS_TR] = {}
        self._tcti: TCTI | None = None
        self._context: ESAPI | None = None
        self._generation = 0
        self._renewing = False
        self._unswept = False
        self._closed = False
        self._open()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Tpm({self.name!r})"

    @property
    def esapi(self) -> ESAPI:
        """The ESAPI context; a new one after the last had to be dropped.

        Raises:
            TpmTransportError: closed, or the TPM cannot be opened again.
        """
        if self._closed:
            raise TpmTransportError(f"the connection to {self.name} is closed", tcti=self.name)
        if self._renewing:
            if self._context is None:
                self._open()
        elif self._context is None or self._unswept:
            self._renew()
        return self._context

    @property
    def generation(self) -> int:
        """How many contexts were dropped; what an earlier one had loaded is gone."""
        return self._generation

    def close(self) -> None:
        """Flush what is still loaded and close the connection; harmless when repeated."""
        if self._closed:
            return
        with contextlib.suppress(TpmError):
            # Once more for a TPM that could not be reached when it had to be swept.
            self.esapi  # noqa: B018
        for handle in list(self._live):
            with contextlib.suppress(TpmError):
                self.flush(ESYS_TR(handle))
        self._closed = True
        self._drop()

    def call(self, command: str, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run one ESAPI function for the TPM command named `command`.

        Raises:
            TpmError: or the subclass that fits; the context is replaced where
                the response cannot be believed.
            TpmGoneError: the connection broke, and there is none to be had.
        """
        pause = _FIRST_PAUSE_S
        for _ in range(_TRIES - 1):
            try:
                return self._call_once(command, function, *args, **kwargs)
            except TpmError as error:
                if error.data.get("rc") not in _ASK_AGAIN:
                    raise
            time.sleep(pause)
            pause *= 2
        return self._call_once(command, function, *args, **kwargs)

    def _call_once(self, command: str, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        try:
            return function(*args, **kwargs)
        except TSS2_Exception as error:
            rc, tcti = int(error.rc), self._tcti
            gone = breaks_context(rc) and not self._comes_back()
            if isinstance(tcti, RelayTcti):
                tcti.raise_failure()
            raise translate(error, command, gone=gone) from error

    def _comes_back(self) -> bool:
        """Whether the TPM answers on a new connection, which takes the broken one's place."""
        try:
            self._renew()
        except TpmTransportError:
            return False
        except TpmError:
            pass  # it does answer
        return True

    def track(self, handle: ESYS_TR) -> ESYS_TR:
        """Remember a transient object or session until it is flushed."""
        self._live.add(int(handle))
        return handle

    def forget(self, handle: ESYS_TR) -> None:
        """A session that the TPM has flushed itself, with the last command that used it."""
        self._live.discard(int(handle))

    def flush(self, handle: ESYS_TR) -> None:
        """TPM2_FlushContext, Part 3 §28.4; nothing if it is gone already."""
        if int(handle) in self._live:
            self._live.discard(int(handle))
            try:
                self.call("TPM2_FlushContext", self.esapi.flush_context, handle)
            except TpmError:
                # The handle was altered on its way here: what it stood for is still loaded.
                with contextlib.suppress(TpmError):
                    self._renew()
                raise

    def flush_handle(self, handle: int) -> None:
        """Flush what has no ESAPI object, by its TPM handle; one that has gone is as good."""
        self.esapi  # noqa: B018 - connects, where the last connection was dropped
        assert self._tcti is not None  # noqa: S101 - as it is connected
        command = u16(_ST_NO_SESSIONS) + u32(14) + u32(_CC_FLUSH_CONTEXT) + u32(handle)
        exchange(self._tcti, command)

    @contextlib.contextmanager
    def flushing(self, handle: ESYS_TR) -> Iterator[ESYS_TR]:
        """Keep a transient object or session for the length of a `with`."""
        self.track(handle)
        generation = self._generation
        try:
            yield handle
        except BaseException:
            with contextlib.suppress(TpmError):
                self._flush_of(generation, handle)
            raise
        else:
            self._flush_of(generation, handle)

    def at(self, pinned: Pinned) -> ESYS_TR:
        """The ESAPI handle of a pinned object, at no command where its blob is known.

        Raises:
            TpmObjectConflictError: the handle holds another object, or none.
        """
        esapi = self.esapi  # a new one knows nothing of what was pinned
        known = self._pinned.get(pinned.handle)
        if known is None:
            known = self._deserialized(pinned)
            if known is None:
                known = self._read_public(pinned.handle)
        if bytes(esapi.tr_get_name(known)) != pinned.name:
            self._pinned[pinned.handle] = known
            self.unpin(pinned.handle)
            message = f"handle {pinned.handle:#010x} does not hold the object that it should"
            raise TpmObjectConflictError(message, handle=pinned.handle)
        self._pinned[pinned.handle] = known
        return known

    def require(self, pinned: Pinned) -> None:
        """Ask the TPM whether a pinned object is still there, and still the same.

        Raises:
            TpmObjectConflictError: the handle holds another object, or none.
        """
        self.unpin(pinned.handle)
        self.at(Pinned(pinned.handle, pinned.name))

    def pin(self, handle: int, known: ESYS_TR | None = None) -> Pinned:
        """Pin what is at a TPM handle now. The Name is the TPM's word, or the caller's object."""
        if known is None:
            known = self._read_public(handle)
        self._pinned[handle] = known
        esapi = self.esapi
        return Pinned(handle, bytes(esapi.tr_get_name(known)), esapi.tr_serialize(known))

    def unpin(self, handle: int) -> None:
        """Forget a handle, whose object has gone or is in doubt."""
        known = self._pinned.pop(handle, None)
        if known is not None:
            # ESAPI would hold on to what it knew of the handle, unless the object has gone.
            with contextlib.suppress(TSS2_Exception):
                self.esapi.tr_close(known)

    def owner(self) -> ESYS_TR:
        """The owner hierarchy, with its password set."""
        self.esapi.tr_set_auth(ESYS_TR.OWNER, self._owner_auth or None)
        return ESYS_TR.OWNER

    def _read_public(self, handle: int) -> ESYS_TR:
        try:
            return self.call("TPM2_ReadPublic", self.esapi.tr_from_tpmpublic, handle)
        except TpmError as error:
            rc = error.data.get("rc")
            if not isinstance(rc, int) or base_code(rc) != FMT1_HANDLE:
                raise
            message = f"handle {handle:#010x} holds nothing"
            hint = "was the TPM cleared? then enrol again"
            raise TpmObjectConflictError(message, handle=handle, hint=hint) from error

    def _deserialized(self, pinned: Pinned) -> ESYS_TR | None:
        # Where another version of the TSS has written the blob, the TPM is asked.
        if not _describes(pinned):
            return None
        try:
            return self.esapi.tr_deserialize(pinned.blob)
        except TSS2_Exception:
            return None

    def _open(self) -> None:
        try:
            inner = open_tcti(self.name)
            self._tcti = self._wrap(inner) if self._wrap else inner
            self._context = ESAPI(self._tcti)
        except TSS2_Exception as error:
            self._drop()
            raise TpmTransportError(
                f"the TPM at {self.name} cannot be opened: {error}", tcti=self.name
            ) from error

    def _renew(self) -> None:
        """Put a new context in the place of a broken one, and sweep what that one left.

        Raises:
            TpmError: the TPM is away; it is tried again when it is next used.
        """
        self._drop()
        self._unswept = True
        if self._renewing:
            return
        self._renewing = True
        try:
            self._open()
            sweep(self)
            self._unswept = False
        finally:
            self._renewing = False

    def _flush_of(self, generation: int, handle: ESYS_TR) -> None:
        # A new context may have given the number to something else.
        if generation == self._generation:
            self.flush(handle)

    def _drop(self) -> None:
        context, tcti = self._context, self._tcti
        self._context = self._tcti = None
        self._pinned.clear()
        self._live.clear()
        self._generation += 1
        for part in (context.close if context else None, tcti.close if tcti else None):
            if part is not None:
                with contextlib.suppress(Exception):
                    part()


def _describes(pinned: Pinned) -> bool:
    """Whether a pin's blob is of the pinned object in all its parts.

    ESAPI checks nothing of it, salts to whatever key it holds, and is of no more
    use for the handle once it has tried to read a damaged one.
    """
    try:
        reader = Reader(pinned.blob, "serialised handle")
        handle, name, kind = reader.u32(), reader.sized(), reader.u32()
        public = reader.rest()
        if kind == _KEY:
            described = Public.decode_sized(public).name
        else:
            described = NvPublic.decode_sized(public).name if kind == _NV_INDEX else b""
    except WireError:
        return False
    return handle == pinned.handle and pinned.name == name == described
