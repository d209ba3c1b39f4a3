"""Enrolment tokens: shown once, stored as a digest, used once, in time.

A token is 32 random bytes in base64url. Its SHA-256 needs no salt and no
stretching: there is nothing to guess.
"""

from __future__ import annotations

import hashlib
import secrets

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from hwtrust.errors import TokenError, TokenUnknownError
from hwtrust_backend.audit import Event, record
from hwtrust_backend.enrolment.models import EnrolmentToken

ID_DIGITS = 12
"""Hexadecimal digits of the digest by which an administrator names a token."""


def digest_of(token: str) -> bytes:
    """What is stored of a token."""
    return hashlib.sha256(token.encode()).digest()


def token_id(row: EnrolmentToken) -> str:
    """How an administrator names a token; it does not help to guess one."""
    return row.digest.hex()[:ID_DIGITS]


def create_token(session: Session, *, label: str, lifetime_ms: int, now: int) -> str:
    """Make a token and give it away; it cannot be shown again."""
    token = secrets.token_urlsafe(32)
    row = EnrolmentToken(
        digest=digest_of(token),
        label=label,
        created_at=now,
        expires_at=now + lifetime_ms,
        used_at=None,
        used_by="",
        revoked=False,
    )
    session.add(row)
    record(session, Event.TOKEN_CREATED, now=now, reason=f"{token_id(row)} {label}".strip())
    return token


def find_token(session: Session, token: str, *, now: int) -> bytes:
    """The digest of a token that may still be used; it is not used up by this.

    Raises:
        TokenError: unknown, used, revoked or expired; which of them is not said.
    """
    row = session.get(EnrolmentToken, digest_of(token))
    if row is None or row.used_at is not None or row.revoked or row.expires_at <= now:
        raise _refused()
    return row.digest


def use_token(session: Session, digest: bytes, *, device: str, now: int) -> None:
    """Use a token up, if nobody else has: one statement decides.

    Raises:
        TokenError: used, revoked or expired in the meantime.
    """
    used = session.execute(
        update(EnrolmentToken)
        .where(
            EnrolmentToken.digest == digest,
            EnrolmentToken.used_at.is_(None),
            EnrolmentToken.revoked.is_(False),
            EnrolmentToken.expires_at > now,
        )
        .values(used_at=now, used_by=device)
    )
    if used.rowcount != 1:  # type: ignore[attr-defined]
        raise _refused()


def revoke_token(session: Session, prefix: str, *, now: int) -> str:
    """Revoke the token whose id begins with `prefix`; gives the whole id.

    Raises:
        TokenUnknownError: none, or more than one.
    """
    found = [row for row in list_tokens(session) if prefix and row.digest.hex().startswith(prefix)]
    if len(found) != 1:
        raise TokenUnknownError(f"no one token has an id that begins with {prefix!r}")
    (row,) = found
    row.revoked = True
    record(session, Event.TOKEN_REVOKED, now=now, reason=token_id(row))
    return token_id(row)


def list_tokens(session: Session) -> list[EnrolmentToken]:
    """Every token, oldest first."""
    query = select(EnrolmentToken).order_by(EnrolmentToken.created_at, EnrolmentToken.digest)
    return list(session.scalars(query))


def _refused() -> TokenError:
    return TokenError("the enrolment token is unknown, used up, revoked or expired")
