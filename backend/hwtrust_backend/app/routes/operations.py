"""Routes for those who keep the backend running.

GET /healthz    Health    this process answers
"""

from __future__ import annotations

import msgspec
from litestar import get


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """That this process answers; whether it can work is for /readyz."""

    status: str


@get("/healthz")
async def health() -> Health:
    """Answer, and touch nothing else."""
    return Health(status="ok")


HANDLERS = (health,)
