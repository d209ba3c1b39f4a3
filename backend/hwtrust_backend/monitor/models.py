"""What is counted for the pages."""

from __future__ import annotations

from sqlalchemy import BigInteger, String
from sqlalchemy.orm import Mapped, mapped_column

from hwtrust_backend.db import Base


class AttestationMinute(Base):
    """How many attestations one process appraised in one minute.

    Each process writes rows of its own: nobody waits for another's.
    """

    __tablename__ = "attestation_minutes"

    minute: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    """Minutes since 1970."""
    writer: Mapped[str] = mapped_column(String(40), primary_key=True)
    count: Mapped[int] = mapped_column(BigInteger)
