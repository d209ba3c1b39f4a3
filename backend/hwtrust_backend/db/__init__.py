"""The database: typed models, one unit of work, migrations."""

from __future__ import annotations

from hwtrust_backend.db.base import Base, EpochNumber, Millis
from hwtrust_backend.db.engine import Database
from hwtrust_backend.db.schema import migrate

__all__ = ["Base", "Database", "EpochNumber", "Millis", "migrate"]
