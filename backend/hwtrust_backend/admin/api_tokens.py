"""API tokens: making, listing and revoking them. All of it takes an administrator of all devices.

Rules:
1. A token is shown once, as it is made; what is stored does not lead back to it.
2. It ends: a lifetime is required, and has a limit.
3. A name is never given twice: it says in the audit trail who acted.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import Final

import msgspec
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from hwtrust.errors import ApiTokenConflictError, ApiTokenUnknownError, RequestError
from hwtrust_backend.admin.fields import Name, name_of
from hwtrust_backend.admin.models import ApiToken
from hwtrust_backend.admin.paging import cursor_of, key_of
from hwtrust_backend.admin.principals import PREFIX, Principal, Role, digest_of
from hwtrust_backend.audit import Event, record
from hwtrust_backend.config import utc_text
from hwtrust_backend.config.clock import DAY, spell_span
from hwtrust_backend.policies import group_of

LONGEST_LIFETIME_MS: Final = 365 * DAY
_BYTES: Final = 32


class ApiTokenReport(msgspec.Struct, frozen=True, kw_only=True):
    """An API token as lists show it. Times are UTC milliseconds."""

    name: str
    role: Role
    groups: tuple[str, ...] | None
    """The groups that it is limited to; absent: all devices."""
    state: str
    """`open`, `revoked` or `expired`."""
    created_at: int
    created_by: str
    expires_at: int
    last_used_at: int | None
    """To the minute."""
    revoked_at: int | None


class ApiTokenPage(msgspec.Struct, frozen=True, kw_only=True):
    """Some API tokens, by name."""

    tokens: tuple[ApiTokenReport, ...]
    next: str | None


def create_api_token(
    session: Session,
    *,
    name: str,
    role: Role,
    groups: Iterable[str] | None,
    lifetime_ms: int,
    by: Principal,
    now: int,
) -> tuple[ApiTokenReport, str]:
    """Make a token, and give it away: it cannot be shown again.

    `groups` None: for all devices.

    Raises:
        RequestError: no group is named, or the lifetime is longer than a year.
        PolicyUnknownError: one of the groups does not exist.
        ApiTokenConflictError: the name was given before.
    """
    by.require_all_groups(Role.ADMINISTRATOR)
    limited = None if groups is None else sorted(set(groups))
    if limited is not None and not limited:
        raise RequestError("a token is limited to groups that are named, or not at all")
    for group in limited or ():
        group_of(session, group)
    if not 0 < lifetime_ms <= LONGEST_LIFETIME_MS:
        longest = spell_span(LONGEST_LIFETIME_MS)
        raise RequestError(f"an API token is good for {longest} at most")
    token = PREFIX + secrets.token_urlsafe(_BYTES)
    row = ApiToken(
        digest=digest_of(token),
        name=name_of(name, "name"),
        role=role,
        groups=None if limited is None else msgspec.json.encode(limited).decode(),
        created_at=now,
        created_by=by.name,
        expires_at=now + lifetime_ms,
        last_used_at=None,
        revoked_at=None,
    )
    _store(session, row)
    scope = "all groups" if limited is None else " ".join(limited)
    reason = f"{row.name}: {role.value} of {scope}, until {utc_text(row.expires_at)}"
    record(session, Event.API_TOKEN_CREATED, now=now, reason=reason, actor=by.name)
    return _report(row, now), token


def revoke_api_token(session: Session, name: str, *, by: Principal, now: int) -> ApiTokenReport:
    """End a token at once; once more changes nothing.

    Raises:
        ApiTokenUnknownError: there is none of that name.
    """
    by.require_all_groups(Role.ADMINISTRATOR)
    row = _named(session, name)
    if row.revoked_at is None:
        row.revoked_at = now
        record(session, Event.API_TOKEN_REVOKED, now=now, reason=row.name, actor=by.name)
    return _report(row, now)


def api_token(session: Session, name: str, *, by: Principal, now: int) -> ApiTokenReport:
    """What is known of a token.

    Raises:
        ApiTokenUnknownError: there is none of that name.
    """
    by.require_all_groups(Role.ADMINISTRATOR)
    return _report(_named(session, name), now)


def api_token_page(
    session: Session, *, by: Principal, now: int, cursor: str | None = None, limit: int = 50
) -> ApiTokenPage:
    """A page of tokens, by name, from `cursor` on.

    Raises:
        CursorError: the cursor is none.
    """
    by.require_all_groups(Role.ADMINISTRATOR)
    after = "" if cursor is None else key_of(cursor, Name)
    query = select(ApiToken).where(ApiToken.name > after).order_by(ApiToken.name)
    rows = list(session.scalars(query.limit(limit + 1)))
    follows = cursor_of(rows[limit - 1].name) if len(rows) > limit else None
    return ApiTokenPage(tokens=tuple(_report(row, now) for row in rows[:limit]), next=follows)


def _store(session: Session, row: ApiToken) -> None:
    if session.scalar(select(ApiToken.name).where(ApiToken.name == row.name)) is not None:
        raise _taken(row.name)
    session.add(row)
    try:
        session.flush()
    except IntegrityError as error:
        # Somebody else has given it at this very moment.
        raise _taken(row.name) from error


def _taken(name: str) -> ApiTokenConflictError:
    return ApiTokenConflictError(f"the name {name!r} was given before", token=name)


def _named(session: Session, name: str) -> ApiToken:
    row = session.scalars(select(ApiToken).where(ApiToken.name == name)).first()
    if row is None:
        raise ApiTokenUnknownError(f"there is no API token {name[:100]!r}")
    return row


def _report(row: ApiToken, now: int) -> ApiTokenReport:
    state = "open" if row.expires_at > now else "expired"
    groups = None if row.groups is None else msgspec.json.decode(row.groups, type=tuple[str, ...])
    return ApiTokenReport(
        name=row.name,
        role=row.role,
        groups=groups,
        state=state if row.revoked_at is None else "revoked",
        created_at=row.created_at,
        created_by=row.created_by,
        expires_at=row.expires_at,
        last_used_at=row.last_used_at,
        revoked_at=row.revoked_at,
    )
