"""Dynamic roots: made, approved, offered, confirmed, retired."""

from __future__ import annotations

from hwtrust_backend.publishing.models import RootState, StoredRoot
from hwtrust_backend.publishing.service import Publisher, roots_of

__all__ = ["Publisher", "RootState", "StoredRoot", "roots_of"]
