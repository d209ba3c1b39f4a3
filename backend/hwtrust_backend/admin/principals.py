"""Who acts, and what they may do.

    Authorization: Bearer hwt_…  ──▶ authenticate ──▶ Principal ──▶ every service

Rules:
1. A token is stored as its SHA-256. It is 32 random bytes: there is nothing to
   guess, so that it needs no salt and no stretching.
2. A token that is unknown, expired or revoked is refused in the same words.
3. Every service takes the principal and asks it, whoever has asked before.
4. What a principal does not see does not exist for it: "not found", never
   "forbidden", which would say that it is there.
5. A principal that is limited to groups manages devices. What holds for all of
   them (policies, groups, releases, authorities, API tokens) is not its to change.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import re
from dataclasses import dataclass
from typing import Final

import msgspec
from sqlalchemy import or_, update
from sqlalchemy.orm import Session

from hwtrust.errors import CredentialsError, ForbiddenError
from hwtrust_backend.admin.models import ApiToken
from hwtrust_backend.admin.roles import Role
from hwtrust_backend.config.clock import MINUTE

__all__ = ["Principal", "Role", "authenticate", "local_administrator", "note_use"]

PREFIX: Final = "hwt_"
"""How an API token begins, so that one that leaked is recognised where it lies."""

_FORM: Final = re.compile(r"hwt_[A-Za-z0-9_-]{43}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Principal:
    """Who acts.

    Attributes:
        name: as the audit trail has it: `cli:root`, `token:ci`, `oidc:alice@example.org`.
        groups: the device groups that it is limited to; None: all devices.
    """

    name: str
    role: Role
    groups: frozenset[str] | None

    def require(self, role: Role) -> None:
        """Go on if this principal has `role`, or one that includes it.

        Raises:
            ForbiddenError: it has a lesser one.
        """
        if not self.role.includes(role):
            message = f"this takes the role {role.value}; {self.name} is {self.role.value}"
            raise ForbiddenError(message, role=role.value)

    def require_all_groups(self, role: Role) -> None:
        """Go on if this principal has `role` for all devices, not for some groups only.

        Raises:
            ForbiddenError: it has a lesser role, or is limited to groups.
        """
        self.require(role)
        if self.groups is not None:
            message = f"this concerns all devices; {self.name} is limited to some groups"
            raise ForbiddenError(message, role=role.value)

    def sees(self, group: str) -> bool:
        """Whether the devices of `group` exist for this principal."""
        return self.groups is None or group in self.groups


def authenticate(session: Session, token: str, *, now: int) -> Principal:
    """Whose token this is.

    Raises:
        CredentialsError: nobody's, expired or revoked; which of them is not said.
    """
    row = session.get(ApiToken, digest_of(token)) if _FORM.fullmatch(token) else None
    if row is None or row.revoked_at is not None or row.expires_at <= now:
        raise CredentialsError("the API token is unknown, expired or revoked")
    groups = None if row.groups is None else msgspec.json.decode(row.groups, type=frozenset[str])
    return Principal(name=f"token:{row.name}", role=row.role, groups=groups)


def was_used_lately(session: Session, token: str, *, now: int) -> bool:
    """Whether `note_use` would change nothing; asking costs no write."""
    row = session.get(ApiToken, digest_of(token))
    return row is None or (row.last_used_at is not None and row.last_used_at > now - MINUTE)


def note_use(session: Session, token: str, *, now: int) -> None:
    """Note that a token was used, once a minute at most."""
    session.execute(
        update(ApiToken)
        .where(
            ApiToken.digest == digest_of(token),
            or_(ApiToken.last_used_at.is_(None), ApiToken.last_used_at <= now - MINUTE),
        )
        .values(last_used_at=now),
        execution_options={"synchronize_session": False},
    )


def local_administrator() -> Principal:
    """Who calls the command line on the backend's own machine.

    Whoever can write the database needs no leave from it.
    """
    user = os.getuid()
    try:
        name = pwd.getpwuid(user).pw_name
    except KeyError:
        name = str(user)
    return Principal(name=f"cli:{name}", role=Role.ADMINISTRATOR, groups=None)


def digest_of(token: str) -> bytes:
    """What is stored of a token."""
    return hashlib.sha256(token.encode(errors="replace")).digest()
