"""API tokens, as they are stored."""

from __future__ import annotations

from sqlalchemy import BigInteger, Enum, LargeBinary, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from hwtrust_backend.admin.roles import Role
from hwtrust_backend.db import Base, Millis

NAME_LENGTH = 100
WHO_LENGTH = 200


class ApiToken(Base):
    """An API token, by its SHA-256 alone."""

    __tablename__ = "api_tokens"

    digest: Mapped[bytes] = mapped_column(LargeBinary(32), primary_key=True)
    name: Mapped[str] = mapped_column(String(NAME_LENGTH), unique=True)
    """Who acts with it, in the audit trail: no name is given twice."""
    role: Mapped[Role] = mapped_column(
        Enum(
            Role,
            native_enum=False,
            create_constraint=False,
            length=20,
            values_callable=lambda roles: [role.value for role in roles],
        )
    )
    groups: Mapped[str | None] = mapped_column(Text)
    """A JSON list of the groups that it is limited to; None: all devices."""
    created_at: Mapped[Millis]
    created_by: Mapped[str] = mapped_column(String(WHO_LENGTH))
    expires_at: Mapped[Millis]
    last_used_at: Mapped[int | None] = mapped_column(BigInteger)
    """To the minute."""
    revoked_at: Mapped[int | None] = mapped_column(BigInteger)
