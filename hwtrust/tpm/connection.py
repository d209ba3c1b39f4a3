"""One connection to a TPM, and what it must never leave behind.

    Tpm ── call() ──▶ ESAPI ──▶ TCTI ──▶ /dev/tpmrm0 | swtpm | …

Rules:
1. Every transient object and session is opened in a `with` and flushed at its
   end, also on error: a bare TPM has three slots of each.
2. Objects that stay (persistent keys, NV indices) are pinned by Name: a handle
   that turns out to hold another object is an error, and sessions are salted to
   the pinned key, so that nothing on the bus can stand in for it.
3. After a response that was tampered with, or a broken connection, the ESAPI
   context is dropped and a new one made; what it had loaded is flushed through
   the new one.
4. TPM_RC_RETRY, YIELDED and TESTING are retried by ESAPI, TPM_RC_NV_RATE here;
   every other refusal is an error of the tree.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self, TypeVar

from tpm2_pytss import ESAPI, ESYS_TR, TSS2_Exception

from hwtrust.errors import TpmError, TpmObjectConflictError, TpmTamperedError, TpmTransportError
from hwtrust.tpm.response import RC_NV_RATE, base_code, translate
from hwtrust.tpm.tcti import RelayTcti, exchange, open_tcti
from hwtrust.wire.codec import u16, u32

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tpm2_pytss.TCTI import TCTI

T = TypeVar("T")

_ST_NO_SESSIONS = 0x8001
_CC_FLUSH_CONTEXT = 0x165
_NV_RATE_TRIES = 5
_NV_RATE_PAUSE_S = 0.2


@dataclass(frozen=True, slots=True)
class Pinned:
    """A persistent object or NV index: its TPM handle, and the Name that it must have.

    `blob` is ESAPI's serialisation (Esys_TR_Serialize), which spares the
    command that would read the public area. It is a convenience: the Name counts.
    """

    handle: int
    name: bytes
    blob: bytes = field(default=b"", repr=False)


class Tpm:
    """An open TPM. Not shared between threads."""

    def __init__(
        self, tcti: str, *, wrap: Callable[[TCTI], TCTI] | None = None, owner_auth: bytes = b""
    ) -> None:
        """Open the TCTI named `tcti`, such as `device:/dev/tpmrm0` or `swtpm:path=/run/x`.

        `wrap` may put another TCTI around it, which sees every exchange.
        `owner_auth` is the owner hierarchy's password.

        Raises:
            TpmTransportError: the TCTI cannot be opened.
        """
        self.name = tcti
        self._wrap = wrap
        self._owner_auth = owner_auth
        self._live: dict[int, int] = {}
        self._pinned: dict[int, ESYS_TR] = {}
        self._tcti: TCTI | None = None
        self._context: ESAPI | None = None
        self._open()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Tpm({self.name!r})"

    @property
    def esapi(self) -> ESAPI:
        """The ESAPI context; a new one after the last had to be dropped."""
        if self._context is None:
            self._open()
        return self._context

    def close(self) -> None:
        """Flush what is still loaded and close the connection."""
        if self._context is not None:
            for handle in list(self._live):
                with contextlib.suppress(TpmError):
                    self.flush(ESYS_TR(handle))
        self._drop()

    def call(self, command: str, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run one ESAPI function for the TPM command named `command`.

        Raises:
            TpmError: or the subclass that fits; the context is dropped where
                the response cannot be believed.
        """
        for attempt in range(_NV_RATE_TRIES):
            try:
                return function(*args, **kwargs)
            except TSS2_Exception as error:
                if isinstance(self._tcti, RelayTcti):
                    self._tcti.raise_failure()
                last = attempt == _NV_RATE_TRIES - 1
                if base_code(int(error.rc)) == RC_NV_RATE and not last:
                    time.sleep(_NV_RATE_PAUSE_S * 2**attempt)
                    continue
                failure = translate(error, command)
                if isinstance(failure, TpmTamperedError | TpmTransportError):
                    self._drop()
                raise failure from error
        raise AssertionError("unreachable")  # pragma: no cover

    def track(self, handle: ESYS_TR) -> ESYS_TR:
        """Remember a transient object or session until it is flushed."""
        self._live[int(handle)] = int(self.esapi.tr_get_tpm_handle(handle))
        return handle

    def forget(self, handle: ESYS_TR) -> None:
        """A session that the TPM has flushed itself, with the last command that used it."""
        self._live.pop(int(handle), None)

    def flush(self, handle: ESYS_TR) -> None:
        """TPM2_FlushContext, Part 3 §28.4; nothing if it is gone already."""
        if self._live.pop(int(handle), None) is not None and self._context is not None:
            self.call("TPM2_FlushContext", self._context.flush_context, handle)

    @contextlib.contextmanager
    def flushing(self, handle: ESYS_TR) -> Iterator[ESYS_TR]:
        """Keep a transient object or session for the length of a `with`."""
        self.track(handle)
        try:
            yield handle
        except BaseException:
            with contextlib.suppress(TpmError):
                self.flush(handle)
            raise
        else:
            self.flush(handle)

    def at(self, pinned: Pinned) -> ESYS_TR:
        """The ESAPI handle of a pinned object, at no command where its blob is known.

        Raises:
            TpmObjectConflictError: the handle holds another object, or none.
        """
        esapi = self.esapi
        known = self._pinned.get(pinned.handle)
        if known is None:
            known = self._deserialized(pinned)
            if known is None:
                known = self._read_public(pinned.handle)
        if bytes(esapi.tr_get_name(known)) != pinned.name:
            self._pinned.pop(pinned.handle, None)
            message = f"handle {pinned.handle:#010x} does not hold the object that it should"
            raise TpmObjectConflictError(message, handle=pinned.handle)
        self._pinned[pinned.handle] = known
        return known

    def pin(self, handle: int, known: ESYS_TR | None = None) -> Pinned:
        """Pin what is at a TPM handle now. The Name is the TPM's word, or the caller's object."""
        if known is None:
            known = self._read_public(handle)
        self._pinned[handle] = known
        esapi = self.esapi
        return Pinned(handle, bytes(esapi.tr_get_name(known)), esapi.tr_serialize(known))

    def unpin(self, handle: int) -> None:
        """Forget a handle, whose object has gone."""
        self._pinned.pop(handle, None)

    def owner(self) -> ESYS_TR:
        """The owner hierarchy, with its password set."""
        self.esapi.tr_set_auth(ESYS_TR.OWNER, self._owner_auth or None)
        return ESYS_TR.OWNER

    def _read_public(self, handle: int) -> ESYS_TR:
        try:
            return self.call("TPM2_ReadPublic", self.esapi.tr_from_tpmpublic, handle)
        except (TpmTamperedError, TpmTransportError):
            raise
        except TpmError as error:
            message = f"handle {handle:#010x} holds nothing"
            raise TpmObjectConflictError(message, handle=handle) from error

    def _deserialized(self, pinned: Pinned) -> ESYS_TR | None:
        # Another version of the TSS may have written the blob; then the TPM is asked.
        if not pinned.blob:
            return None
        try:
            handle = self.esapi.tr_deserialize(pinned.blob)
            if bytes(self.esapi.tr_get_name(handle)) == pinned.name:
                return handle
        except TSS2_Exception:
            pass
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
        orphans, self._live = list(self._live.values()), {}
        for handle in orphans:
            # A handle that went with the connection answers with an error, which is as good.
            exchange(self._tcti, u16(_ST_NO_SESSIONS) + u32(14) + u32(_CC_FLUSH_CONTEXT) + u32(handle))

    def _drop(self) -> None:
        context, tcti = self._context, self._tcti
        self._context = self._tcti = None
        self._pinned.clear()
        for part in (context.close if context else None, tcti.finalize if tcti else None):
            if part is not None:
                with contextlib.suppress(Exception):
                    part()
