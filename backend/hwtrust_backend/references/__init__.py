"""Reference values: the releases that devices may run."""

from __future__ import annotations

from hwtrust_backend.references.models import StoredRelease
from hwtrust_backend.references.service import (
    accept_release,
    acceptances,
    add_release,
    current_release,
    decode_release,
    list_releases,
    references,
    retire_release,
)

__all__ = [
    "StoredRelease",
    "accept_release",
    "acceptances",
    "add_release",
    "current_release",
    "decode_release",
    "list_releases",
    "references",
    "retire_release",
]
