"""The settings of a server under load: how fast callers may come, and how it logs."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

import msgspec
from msgspec import Meta

Rate = Annotated[int, Meta(ge=0)]
"""So many a minute, all of them at once if need be; 0 is no limit."""


MOST_WORKERS: Final = 256


class LogFormat(StrEnum):
    """How lines of the log are written."""

    TEXT = "text"
    JSON = "json"


class ForwardedHeader(StrEnum):
    """The header in which a trusted proxy names its client's address."""

    NONE = ""
    FORWARDED = "forwarded"
    X_FORWARDED_FOR = "x-forwarded-for"


class RateSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often, per minute and worker process, before a caller is asked to wait."""

    address: Rate = 600
    """Requests without client certificate and credentials, from one address (IPv6: one /64)."""
    credentials: Rate = 20
    """Credentials that were refused, from one address."""
    device: Rate = 240
    """Requests with the client certificate of one device."""
    total: Rate = 0
    """All requests."""
