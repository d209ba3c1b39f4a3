"""Authorisation sessions: salted, with parameter encryption, and never left behind.

Rules:
1. A session is salted with a key whose Name is pinned, so that only the TPM that
   holds this key can compute the session's HMACs (Part 1 §19.6.8).
2. What the TPM sends through an `ENCRYPT` session and what is sent to it
   through a `DECRYPT` session is encrypted with AES-128-CFB.
3. A session ends with its `with`. `ends_with_next` lets the TPM end it with the
   last command that uses it, which saves the flush.
4. An HMAC session outlives a connection that had to be replaced: it holds no
   state but its key, so another one takes its place, and what must be extended
   after a tampered response is extended. A policy session's state is gone.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from hwtrust.errors import TpmError, TpmTransportError
from hwtrust.tpm.response import is_parameter_refusal
from hwtrust.tpm.stack import ESYS_TR, TPM2_ALG, TPM2_SE, TPMA_SESSION

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hwtrust.tpm.connection import Pinned, Tpm


class Session:
    """An open session, with an ESAPI `handle` of its own."""

    def __init__(self, tpm: Tpm, salt: Pinned, kind: TPM2_SE) -> None:
        """Start it. TPM2_StartAuthSession, Part 3 §11.1."""
        self.tpm = tpm
        self._salt = salt
        self._kind = kind
        self._open = True
        self._start()

    def use(
        self, *, encrypt: bool = False, decrypt: bool = False, ends_with_next: bool = False
    ) -> ESYS_TR:
        """The handle, prepared for the next command.

        `encrypt`: the TPM encrypts the first parameter of its response.
        `decrypt`: the first parameter that is sent is encrypted.
        `ends_with_next`: the TPM flushes the session once that command succeeds.

        Raises:
            TpmTransportError: the session has ended, or went with its connection.
        """
        if not self._open:
            raise TpmTransportError("the session has ended")
        esapi = self.tpm.esapi
        if self._generation != self.tpm.generation:
            if self._kind != TPM2_SE.HMAC:
                raise TpmTransportError("the session went with the connection that it was made on")
            self._start()
            esapi = self.tpm.esapi
        attributes = TPMA_SESSION(0)
        for wanted, flag in (
            (encrypt, TPMA_SESSION.ENCRYPT),
            (decrypt, TPMA_SESSION.DECRYPT),
            (not ends_with_next, TPMA_SESSION.CONTINUESESSION),
        ):
            if wanted:
                attributes |= flag
        esapi.trsess_set_attributes(self.handle, attributes)
        return self.handle

    def ended(self) -> None:
        """The TPM has flushed the session with the command that has just succeeded."""
        self._open = False
        self.tpm.forget(self.handle)

    def end(self) -> None:
        """Flush the session, if it is still there."""
        if self._open and self._generation == self.tpm.generation:
            self.tpm.flush(self.handle)
        self._open = False

    def _start(self) -> None:
        tpm, salt = self.tpm, self._salt
        known = tpm.at(salt)
        try:
            self.handle = tpm.call(
                "TPM2_StartAuthSession",
                tpm.esapi.start_auth_session,
                tpm_key=known,
                bind=ESYS_TR.NONE,
                session_type=self._kind,
                symmetric="aes128cfb",
                auth_hash=TPM2_ALG.SHA256,
            )
        except TpmError as error:
            if is_parameter_refusal(error.data.get("rc")):
                # As after TPM2_Clear: see whether the key is there at all.
                tpm.require(salt)
            raise
        self._generation = tpm.generation
        tpm.track(self.handle)


@contextlib.contextmanager
def hmac_session(tpm: Tpm, salt: Pinned) -> Iterator[Session]:
    """An HMAC session salted to `salt`, for the length of a `with`."""
    with _ending(Session(tpm, salt, TPM2_SE.HMAC)) as session:
        yield session


@contextlib.contextmanager
def policy_session(tpm: Tpm, salt: Pinned) -> Iterator[Session]:
    """A policy session salted to `salt`, for the length of a `with`."""
    with _ending(Session(tpm, salt, TPM2_SE.POLICY)) as session:
        yield session


@contextlib.contextmanager
def _ending(session: Session) -> Iterator[Session]:
    try:
        yield session
    except BaseException:
        with contextlib.suppress(TpmError):
            session.end()
        raise
    else:
        session.end()
