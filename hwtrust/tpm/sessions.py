"""Authorisation sessions: salted, with parameter encryption, and never left behind.

Rules:
1. A session is salted with a key whose Name is pinned, so that only the TPM that
   holds this key can compute the session's HMACs (Part 1 §19.6.8).
2. What the TPM sends through an `ENCRYPT` session and what is sent to it
   through a `DECRYPT` session is encrypted with AES-128-CFB.
3. A session ends with its `with`. `ends_with_next` lets the TPM end it with the
   last command that uses it, which saves the flush.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tpm2_pytss import ESYS_TR
from tpm2_pytss.constants import TPM2_ALG, TPM2_SE, TPMA_SESSION

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hwtrust.tpm.connection import Pinned, Tpm


@dataclass(frozen=True, slots=True)
class Session:
    """An open session."""

    tpm: Tpm
    handle: ESYS_TR

    def use(
        self, *, encrypt: bool = False, decrypt: bool = False, ends_with_next: bool = False
    ) -> ESYS_TR:
        """The handle, prepared for the next command.

        `encrypt`: the TPM encrypts the first parameter of its response.
        `decrypt`: the first parameter that is sent is encrypted.
        `ends_with_next`: the TPM flushes the session once that command succeeds.
        """
        attributes = TPMA_SESSION(0)
        for wanted, flag in (
            (encrypt, TPMA_SESSION.ENCRYPT),
            (decrypt, TPMA_SESSION.DECRYPT),
            (not ends_with_next, TPMA_SESSION.CONTINUESESSION),
        ):
            if wanted:
                attributes |= flag
        self.tpm.esapi.trsess_set_attributes(self.handle, attributes)
        return self.handle

    def ended(self) -> None:
        """The TPM has flushed the session with the command that has just succeeded."""
        self.tpm.forget(self.handle)


@contextlib.contextmanager
def hmac_session(tpm: Tpm, salt: Pinned) -> Iterator[Session]:
    """An HMAC session salted to `salt`. TPM2_StartAuthSession, Part 3 §11.1."""
    with _session(tpm, salt, TPM2_SE.HMAC) as session:
        yield session


@contextlib.contextmanager
def policy_session(tpm: Tpm, salt: Pinned) -> Iterator[Session]:
    """A policy session salted to `salt`. TPM2_StartAuthSession, Part 3 §11.1."""
    with _session(tpm, salt, TPM2_SE.POLICY) as session:
        yield session


@contextlib.contextmanager
def _session(tpm: Tpm, salt: Pinned, kind: TPM2_SE) -> Iterator[Session]:
    handle = tpm.call(
        "TPM2_StartAuthSession",
        tpm.esapi.start_auth_session,
        tpm_key=tpm.at(salt),
        bind=ESYS_TR.NONE,
        session_type=kind,
        symmetric="aes128cfb",
        auth_hash=TPM2_ALG.SHA256,
    )
    with tpm.flushing(handle):
        yield Session(tpm, handle)
