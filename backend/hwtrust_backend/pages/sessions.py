"""Who is signed in.

    cookie (256 random bits) ── SHA-256 ──▶ PageSession ──▶ SignedIn

Rules:
1. A session has a new random id at every sign-in; what a browser brought is never
   taken over. The database holds its SHA-256: there is nothing to guess.
2. It ends eight hours after the sign-in, after an hour without use, at sign-out,
   and with the API token that it was opened by.
3. The cookie is `__Host-`, Secure, HttpOnly and SameSite=Strict: no other site's
   request carries it, not even a link. A page that was reached by a link from
   elsewhere loads itself once more.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from typing import Final

import msgspec
from sqlalchemy import delete, update
from sqlalchemy.orm import Session

from hwtrust.errors import SessionMissingError
from hwtrust_backend.admin.models import ApiToken
from hwtrust_backend.admin.principals import Principal, authenticate, digest_of
from hwtrust_backend.admin.roles import Role
from hwtrust_backend.audit import Event, record
from hwtrust_backend.config.clock import HOUR, MINUTE
from hwtrust_backend.pages.models import PageSession
from hwtrust_backend.pages.protection import form_token

COOKIE: Final = "__Host-hwtrust"
LIFETIME_MS: Final = 8 * HOUR
IDLE_MS: Final = HOUR
TOUCH_MS: Final = MINUTE
"""How exactly the last use is noted: not every page costs a write."""

_COOKIE_LIMIT: Final = 100


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A person at a page."""

    principal: Principal
    form_token: str
    ends_at: int
    stale: bool
    """Whether `touch` has something to note."""


def sign_in_by_token(session: Session, token: str, *, now: int) -> str:
    """Open a session for the owner of an API token; gives the cookie.

    Raises:
        CredentialsError: the token is unknown, expired or revoked.
    """
    principal = authenticate(session, token, now=now)
    return _open(session, principal, api_token=digest_of(token), now=now)


def sign_in(session: Session, principal: Principal, *, now: int) -> str:
    """Open a session for somebody whom an identity provider has vouched for; gives the cookie."""
    return _open(session, principal, api_token=None, now=now)


def signed_in(session: Session, cookie: str | None, *, now: int) -> SignedIn:
    """Whose session this is.

    Raises:
        SessionMissingError: nobody's, or it is over.
    """
    row = _find(session, cookie)
    if cookie is None or row is None:
        raise SessionMissingError("nobody is signed in here")
    if now >= row.ends_at or now - row.seen_at >= IDLE_MS:
        raise SessionMissingError("the session is over")
    return SignedIn(
        principal=_principal(session, row, now=now),
        form_token=form_token(cookie),
        ends_at=row.ends_at,
        stale=now - row.seen_at >= TOUCH_MS,
    )


def touch(session: Session, cookie: str, *, now: int) -> None:
    """Note that a session is used; it never lives longer by that than its end."""
    session.execute(
        update(PageSession)
        .where(PageSession.digest == _digest(cookie), PageSession.seen_at < now)
        .values(seen_at=now),
        execution_options={"synchronize_session": False},
    )


def sign_out(session: Session, cookie: str | None, *, now: int) -> None:
    """End a session, if it is there."""
    row = _find(session, cookie)
    if row is not None:
        session.delete(row)
        session.flush()
        record(session, Event.SESSION_CLOSED, now=now, actor=row.principal)


def end_sessions(session: Session, principal: str, *, now: int) -> int:
    """End every session of a person; gives how many there were."""
    ended = session.execute(delete(PageSession).where(PageSession.principal == principal))
    count: int = ended.rowcount  # type: ignore[attr-defined]
    if count:
        reason = f"every session of {principal}: {count}"
        record(session, Event.SESSION_CLOSED, now=now, reason=reason, actor=principal)
    return count


def sweep(session: Session, *, now: int) -> None:
    """Forget the sessions that are over."""
    session.execute(
        delete(PageSession).where(
            (PageSession.ends_at <= now) | (PageSession.seen_at <= now - IDLE_MS)
        )
    )


def _open(session: Session, principal: Principal, *, api_token: bytes | None, now: int) -> str:
    sweep(session, now=now)
    cookie = secrets.token_urlsafe(32)
    groups = None
    if principal.groups is not None:
        groups = msgspec.json.encode(sorted(principal.groups)).decode()
    session.add(
        PageSession(
            digest=_digest(cookie),
            principal=principal.name,
            role=principal.role.value,
            groups=groups,
            api_token=api_token,
            created_at=now,
            seen_at=now,
            ends_at=now + LIFETIME_MS,
        )
    )
    reason = f"as {principal.role.value}"
    record(session, Event.SESSION_OPENED, now=now, reason=reason, actor=principal.name)
    return cookie


def _principal(session: Session, row: PageSession, *, now: int) -> Principal:
    if row.api_token is None:
        groups = row.groups
        return Principal(row.principal, Role(row.role), _groups(groups))
    # What the token may do now counts, not what it might when the session began.
    token = session.get(ApiToken, row.api_token)
    if token is None or token.revoked_at is not None or token.expires_at <= now:
        raise SessionMissingError("the API token of this session is revoked or expired")
    return Principal(row.principal, token.role, _groups(token.groups))


def _groups(text: str | None) -> frozenset[str] | None:
    return None if text is None else msgspec.json.decode(text, type=frozenset[str])


def _find(session: Session, cookie: str | None) -> PageSession | None:
    if not cookie or len(cookie) > _COOKIE_LIMIT:
        return None
    return session.get(PageSession, _digest(cookie))


def _digest(cookie: str) -> bytes:
    return hashlib.sha256(cookie.encode(errors="replace")).digest()


__all__ = [
    "COOKIE",
    "SignedIn",
    "end_sessions",
    "sign_in",
    "sign_in_by_token",
    "sign_out",
    "signed_in",
    "sweep",
    "touch",
]
