"""What every model builds on.

Times are UTC milliseconds in a BIGINT: no database has another opinion of what
a time zone is, and the protocol speaks milliseconds too.
"""

from __future__ import annotations

from typing import Annotated

from sqlalchemy import BigInteger, MetaData
from sqlalchemy.orm import DeclarativeBase, mapped_column

Millis = Annotated[int, mapped_column(BigInteger)]
"""UTC milliseconds."""

EpochNumber = Annotated[int, mapped_column(BigInteger)]
"""The number of a dynamic root: what a TPM's counter holds, below 2^63."""


class Base(DeclarativeBase):
    """The base of all models; constraints are named, so that migrations can name them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
