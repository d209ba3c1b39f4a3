"""Enrolment tokens: letting new devices in. An operator may, for the groups that he sees."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta
from sqlalchemy.orm import Session

from hwtrust.errors import RequestError, TokenUnknownError
from hwtrust_backend.admin.devices import see_group
from hwtrust_backend.admin.fields import Number, label_of
from hwtrust_backend.admin.paging import cursor_of, key_of
from hwtrust_backend.admin.principals import Principal, Role
from hwtrust_backend.config.clock import DAY, spell_span
from hwtrust_backend.enrolment import EnrolmentToken
from hwtrust_backend.enrolment import tokens as enrolment_tokens
from hwtrust_backend.policies import DEFAULT_GROUP

LONGEST_LIFETIME_MS: Final = 30 * DAY
MOST_USES: Final = 1_000_000

_Key = tuple[Number, Annotated[bytes, Meta(min_length=32, max_length=32)]]


class TokenReport(msgspec.Struct, frozen=True, kw_only=True):
    """An enrolment token as lists show it. Times are UTC milliseconds."""

    id: str
    label: str
    group: str
    state: str
    """`open`, `used`, `revoked` or `expired`."""
    uses: int
    uses_allowed: int
    created_at: int
    expires_at: int
    used_at: int | None
    used_by: str
    """The device that used it last."""


class TokenPage(msgspec.Struct, frozen=True, kw_only=True):
    """Some enrolment tokens, oldest first."""

    tokens: tuple[TokenReport, ...]
    next: str | None


def create_token(
    session: Session,
    *,
    label: str = "",
    group: str = DEFAULT_GROUP,
    uses: int = 1,
    lifetime_ms: int,
    by: Principal,
    now: int,
) -> tuple[TokenReport, str]:
    """Make a token, and give it away: it cannot be shown again.

    Raises:
        PolicyUnknownError: there is no such group.
        RequestError: it would be good for too long, or for too many.
    """
    by.require(Role.OPERATOR)
    if not 0 < lifetime_ms <= LONGEST_LIFETIME_MS:
        longest = spell_span(LONGEST_LIFETIME_MS)
        raise RequestError(f"an enrolment token is good for {longest} at most")
    if not 0 < uses <= MOST_USES:
        raise RequestError(f"an enrolment token is good for {MOST_USES} devices at most")
    token = enrolment_tokens.create_token(
        session,
        label=label_of(label),
        lifetime_ms=lifetime_ms,
        group=see_group(session, group, by=by),
        uses=uses,
        by=by.name,
        now=now,
    )
    session.flush()
    row = enrolment_tokens.token_named(session, enrolment_tokens.digest_of(token).hex())
    return _report(row, now), token


def revoke_token(session: Session, prefix: str, *, by: Principal, now: int) -> TokenReport:
    """Revoke the token whose id begins with `prefix`.

    Raises:
        TokenUnknownError: none, or more than one.
    """
    by.require(Role.OPERATOR)
    row = _seen(session, prefix, by)
    enrolment_tokens.revoke_token(session, row.digest.hex(), by=by.name, now=now)
    return _report(row, now)


def token(session: Session, prefix: str, *, by: Principal, now: int) -> TokenReport:
    """What is known of a token.

    Raises:
        TokenUnknownError: none, or more than one.
    """
    by.require(Role.VIEWER)
    return _report(_seen(session, prefix, by), now)


def token_page(
    session: Session, *, by: Principal, now: int, cursor: str | None = None, limit: int = 50
) -> TokenPage:
    """A page of tokens, oldest first, from `cursor` on.

    Raises:
        CursorError: the cursor is none.
    """
    by.require(Role.VIEWER)
    after: tuple[int, bytes] | None = None if cursor is None else key_of(cursor, _Key)
    rows = enrolment_tokens.list_tokens(session, groups=by.groups, after=after, limit=limit + 1)
    follows = None
    if len(rows) > limit:
        last = rows[limit - 1]
        follows = cursor_of((last.created_at, last.digest))
    return TokenPage(tokens=tuple(_report(row, now) for row in rows[:limit]), next=follows)


def _seen(session: Session, prefix: str, by: Principal) -> EnrolmentToken:
    row = enrolment_tokens.token_named(session, prefix)
    if not by.sees(row.group):
        raise TokenUnknownError(f"no one token has an id that begins with {prefix[:20]!r}")
    return row


def _report(row: EnrolmentToken, now: int) -> TokenReport:
    return TokenReport(
        id=enrolment_tokens.token_id(row),
        label=row.label,
        group=row.group,
        state=enrolment_tokens.token_state(row, now=now),
        uses=row.uses,
        uses_allowed=row.uses_allowed,
        created_at=row.created_at,
        expires_at=row.expires_at,
        used_at=row.used_at,
        used_by=row.used_by,
    )
