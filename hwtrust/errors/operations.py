"""Errors of a backend in operation: too much at once, switched off, or not able to start."""

from __future__ import annotations

from hwtrust.errors.backend import RequestError, ServiceError


class RateError(RequestError):
    """A caller asks more often than it may."""

    code = "request:rate"
    hint = "wait for as long as Retry-After says"


class ReadOnlyError(ServiceError):
    """The backend is switched to read-only: it changes nothing until it is switched back."""

    code = "backend:read-only"
    hint = "try again later; on the backend: hwtrust-backend read-only off"


class NotReadyError(ServiceError):
    """The backend answers, but cannot work; the message names the checks that failed."""

    code = "backend:not-ready"
    hint = "/readyz and the log say what is missing"


class BackendBusyError(ServiceError):
    """More is waiting for an answer than the backend takes at once."""

    code = "backend:busy"
    hint = "try again after as long as Retry-After says"


class WorkerError(ServiceError):
    """The worker processes end as soon as they are started."""

    code = "backend:workers"
    hint = "the log says why; hwtrust-backend serve --workers 1 runs without them"
