"""Evidence in, verdict stored, and what follows from it out."""

from __future__ import annotations

from hwtrust_backend.appraisal.groups import GROUP_LIMIT, Asked, Groups, Outcome
from hwtrust_backend.appraisal.service import Attestations, Rotation

__all__ = ["GROUP_LIMIT", "Asked", "Attestations", "Groups", "Outcome", "Rotation"]
