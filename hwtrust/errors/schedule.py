"""Errors of what is due, of events, and of those who wait."""

from __future__ import annotations

from hwtrust.errors.backend import ServiceError


class ClockSkewError(ServiceError):
    """The clock of this replica is off: it grants nothing until it is right."""

    code = "backend:clock"
    hint = "set the clock of the backend's machine by NTP; other replicas go on"


class EventLimitError(ServiceError):
    """A device reports more events than it may."""

    code = "event:limit"
    hint = "report it again later, or fewer of them"


class WaitersFullError(ServiceError):
    """As many devices wait at this process as may."""

    code = "wait:full"
    hint = "try again later; what is due also comes with the next attestation"
