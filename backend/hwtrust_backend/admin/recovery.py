"""Saying that the database was restored from a backup, and closing what that may have reopened."""

from __future__ import annotations

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from hwtrust_backend.admin.principals import Principal, Role
from hwtrust_backend.enrolment import EnrolmentToken
from hwtrust_backend.enrolment.tokens import revoke_token, token_id
from hwtrust_backend.publishing import note_recovery


class Recovered(msgspec.Struct, frozen=True, kw_only=True):
    """What was closed: enrolment tokens that may have been used since the backup."""

    at: int
    tokens_revoked: tuple[str, ...]


def recovered(session: Session, *, by: Principal, note: str, now: int) -> Recovered:
    """Note a recovery; devices then move on by themselves, see `publishing.recovery`.

    Raises:
        ForbiddenError: `by` is no administrator of all groups.
    """
    by.require_all_groups(Role.ADMINISTRATOR)
    note_recovery(session, by=by.name, note=note, now=now)
    still_open = session.scalars(
        select(EnrolmentToken).where(
            EnrolmentToken.revoked.is_(False),
            EnrolmentToken.uses < EnrolmentToken.uses_allowed,
            EnrolmentToken.expires_at > now,
        )
    ).all()
    revoked = []
    for row in still_open:
        revoke_token(session, row.digest.hex(), now=now, by=by.name)
        revoked.append(token_id(row))
    return Recovered(at=now, tokens_revoked=tuple(revoked))
