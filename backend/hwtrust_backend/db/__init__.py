"""The database: typed models, one unit of work, migrations."""

from __future__ import annotations

from hwtrust_backend.db.base import Base, EpochNumber, Millis
from hwtrust_backend.db.engine import Database
from hwtrust_backend.db.schema import migrate
from hwtrust_backend.db.stamps import (
    EK_AUTHORITIES,
    ENCLAVE_AUTHORITIES,
    REPOSITORY,
    RULES,
    WEBHOOKS,
    Kept,
    Stamp,
    count_up,
    serial_of,
)

__all__ = [
    "EK_AUTHORITIES",
    "ENCLAVE_AUTHORITIES",
    "REPOSITORY",
    "RULES",
    "WEBHOOKS",
    "Base",
    "Database",
    "EpochNumber",
    "Kept",
    "Millis",
    "Stamp",
    "count_up",
    "migrate",
    "serial_of",
]
