"""Enrolment tokens: shown once, stored as a digest, used so often as they allow, in time.

A token is 32 random bytes in base64url. Its SHA-256 needs no salt and no
stretching: there is nothing to guess.

Rules:
1. One statement decides whether a use is left, and takes it: of two enrolments
   that race for the last one, one wins, on every database.
2. A token that is unknown, used up, revoked or expired is refused in the same
   words.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from typing import Final

from sqlalchemy import select, tuple_, update
from sqlalchemy.orm import Session

from hwtrust.errors import TokenError, TokenUnknownError
from hwtrust_backend.audit import Event, record
from hwtrust_backend.config.clock import utc_text
from hwtrust_backend.enrolment.models import EnrolmentToken
from hwtrust_backend.policies import DEFAULT_GROUP

ID_DIGITS: Final = 12
"""Hexadecimal digits of the digest by which an administrator names a token."""
_DIGEST_DIGITS: Final = 64
_PREFIX: Final = re.compile(r"[0-9a-f]{1,64}", re.ASCII)


def digest_of(token: str) -> bytes:
    """What is stored of a token."""
    return hashlib.sha256(token.encode(errors="replace")).digest()


def token_id(row: EnrolmentToken) -> str:
    """How an administrator names a token; it does not help to guess one."""
    return row.digest.hex()[:ID_DIGITS]


def create_token(
    session: Session,
    *,
    label: str,
    lifetime_ms: int,
    now: int,
    group: str = DEFAULT_GROUP,
    uses: int = 1,
    by: str = "",
) -> str:
    """Make a token and give it away; it cannot be shown again.

    `uses` devices may enrol with it, and go to `group`.
    """
    token = secrets.token_urlsafe(32)
    row = EnrolmentToken(
        digest=digest_of(token),
        label=label,
        created_at=now,
        expires_at=now + lifetime_ms,
        used_at=None,
        used_by="",
        revoked=False,
        group=group,
        uses=0,
        uses_allowed=uses,
    )
    session.add(row)
    reason = f"{token_id(row)}: group {group}, uses {uses}, until {utc_text(row.expires_at)}"
    reason = f"{reason}, {label}" if label else reason
    record(session, Event.TOKEN_CREATED, now=now, reason=reason, actor=by)
    return token


def find_token(session: Session, token: str, *, now: int) -> bytes:
    """The digest of a token that may still be used; it is not used up by this.

    Raises:
        TokenError: unknown, used up, revoked or expired; which of them is not said.
    """
    row = session.get(EnrolmentToken, digest_of(token))
    if row is None or token_state(row, now=now) != "open":
        raise _refused()
    return row.digest


def token_state(row: EnrolmentToken, *, now: int) -> str:
    """`open`, `used`, `revoked` or `expired`."""
    if row.uses >= row.uses_allowed:
        return "used"
    if row.revoked:
        return "revoked"
    return "expired" if row.expires_at <= now else "open"


def token_group(session: Session, digest: bytes) -> str:
    """The group that a token's devices go to."""
    row = session.get(EnrolmentToken, digest)
    if row is None:
        raise _refused()
    return row.group


def use_token(session: Session, digest: bytes, *, device: str, now: int) -> None:
    """Take one use of a token, if there is one left: one statement decides.

    Raises:
        TokenError: used up, revoked or expired in the meantime.
    """
    used = session.execute(
        update(EnrolmentToken)
        .where(
            EnrolmentToken.digest == digest,
            EnrolmentToken.uses < EnrolmentToken.uses_allowed,
            EnrolmentToken.revoked.is_(False),
            EnrolmentToken.expires_at > now,
        )
        .values(uses=EnrolmentToken.uses + 1, used_at=now, used_by=device),
        execution_options={"synchronize_session": False},
    )
    if used.rowcount != 1:  # type: ignore[attr-defined]
        raise _refused()


def token_named(session: Session, prefix: str) -> EnrolmentToken:
    """The one token whose id begins with `prefix`.

    Raises:
        TokenUnknownError: none, or more than one.
    """
    found: list[EnrolmentToken] = []
    if _PREFIX.fullmatch(prefix):
        least = bytes.fromhex(prefix.ljust(_DIGEST_DIGITS, "0"))
        most = bytes.fromhex(prefix.ljust(_DIGEST_DIGITS, "f"))
        query = select(EnrolmentToken).where(EnrolmentToken.digest.between(least, most))
        found = list(session.scalars(query.limit(2)))
    if len(found) != 1:
        raise TokenUnknownError(f"no one token has an id that begins with {prefix[:20]!r}")
    return found[0]


def revoke_token(session: Session, prefix: str, *, now: int, by: str = "") -> str:
    """Revoke the token whose id begins with `prefix`; gives the whole id.

    Raises:
        TokenUnknownError: none, or more than one.
    """
    row = token_named(session, prefix)
    row.revoked = True
    record(session, Event.TOKEN_REVOKED, now=now, reason=token_id(row), actor=by)
    return token_id(row)


def list_tokens(
    session: Session,
    *,
    groups: frozenset[str] | None = None,
    after: tuple[int, bytes] | None = None,
    limit: int | None = None,
) -> list[EnrolmentToken]:
    """Tokens, oldest first: of some groups, and from the one made at `after` on."""
    order = (EnrolmentToken.created_at, EnrolmentToken.digest)
    query = select(EnrolmentToken).order_by(*order).limit(limit)
    if groups is not None:
        query = query.where(EnrolmentToken.group.in_(sorted(groups)))
    if after is not None:
        query = query.where(tuple_(*order) > after)
    return list(session.scalars(query))


def _refused() -> TokenError:
    return TokenError("the enrolment token is unknown, used up, revoked or expired")
