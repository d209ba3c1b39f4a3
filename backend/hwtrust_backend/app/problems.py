"""Errors as the API answers them: RFC 9457 problems with the error's stable code.

Rules:
1. Everything of the error tree keeps its code, message and hint; the most
   fitting class in `_STATUSES` gives the status.
2. Anything else is a 500 that says nothing of the inside; it goes to the log.
"""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any, Final

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException

from hwtrust import errors
from hwtrust.wire.messages import Problem
from hwtrust_backend.observe import logs, metrics

PROBLEM_TYPE: Final = "application/problem+json"
_DETAIL_LIMIT: Final = 500

_log = logging.getLogger("hwtrust_backend")

_STATUSES: Final[dict[type[errors.HwTrustError], HTTPStatus]] = {
    errors.WireError: HTTPStatus.BAD_REQUEST,
    errors.RequestError: HTTPStatus.BAD_REQUEST,
    errors.RequestTooLargeError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.RequestTypeError: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    errors.EvidenceError: HTTPStatus.FORBIDDEN,
    errors.EnrolmentError: HTTPStatus.FORBIDDEN,
    errors.EnrolmentUnknownError: HTTPStatus.NOT_FOUND,
    errors.EnrolmentOrderError: HTTPStatus.CONFLICT,
    errors.EnrolmentEpochError: HTTPStatus.CONFLICT,
    errors.ChallengeError: HTTPStatus.FORBIDDEN,
    errors.DeviceUnknownError: HTTPStatus.NOT_FOUND,
    errors.DeviceKindError: HTTPStatus.CONFLICT,
    errors.IdentityError: HTTPStatus.UNAUTHORIZED,
    errors.IdentityKeyError: HTTPStatus.FORBIDDEN,
    errors.TlsKeyRefusedError: HTTPStatus.FORBIDDEN,
    errors.ReleaseUnknownError: HTTPStatus.CONFLICT,
    errors.AuditRecordUnknownError: HTTPStatus.NOT_FOUND,
    errors.AuditHeadMissingError: HTTPStatus.NOT_FOUND,
    errors.CredentialsError: HTTPStatus.UNAUTHORIZED,
    errors.ForbiddenError: HTTPStatus.FORBIDDEN,
    errors.DeviceRetiredError: HTTPStatus.FORBIDDEN,
    errors.DeviceAmbiguousError: HTTPStatus.CONFLICT,
    errors.DeviceStateError: HTTPStatus.CONFLICT,
    errors.DeviceAnswerMissingError: HTTPStatus.NOT_FOUND,
    errors.TokenUnknownError: HTTPStatus.NOT_FOUND,
    errors.ApiTokenUnknownError: HTTPStatus.NOT_FOUND,
    errors.ApiTokenConflictError: HTTPStatus.CONFLICT,
    errors.EkUnlistedError: HTTPStatus.NOT_FOUND,
    errors.EkAuthorityUnknownError: HTTPStatus.NOT_FOUND,
    errors.EkAuthorityConflictError: HTTPStatus.CONFLICT,
    errors.EnclaveAuthorityUnknownError: HTTPStatus.NOT_FOUND,
    errors.EnclaveAuthorityConflictError: HTTPStatus.CONFLICT,
    errors.PolicyDocumentError: HTTPStatus.BAD_REQUEST,
    errors.PolicySignatureError: HTTPStatus.FORBIDDEN,
    errors.PolicyUnknownError: HTTPStatus.NOT_FOUND,
    errors.ReleaseConflictError: HTTPStatus.CONFLICT,
    errors.ReleaseMissingError: HTTPStatus.NOT_FOUND,
    errors.RepositoryTargetUnknownError: HTTPStatus.NOT_FOUND,
    errors.RangeError: HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
    errors.DatabaseError: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.PageError: HTTPStatus.CONFLICT,
    errors.PageUnknownError: HTTPStatus.NOT_FOUND,
    errors.SessionMissingError: HTTPStatus.UNAUTHORIZED,
    errors.FormForgedError: HTTPStatus.FORBIDDEN,
    errors.FormIncompleteError: HTTPStatus.BAD_REQUEST,
    errors.LoginError: HTTPStatus.FORBIDDEN,
    errors.LoginThrottledError: HTTPStatus.TOO_MANY_REQUESTS,
    errors.OidcOffError: HTTPStatus.NOT_FOUND,
    errors.OidcProviderError: HTTPStatus.BAD_GATEWAY,
    errors.RateError: HTTPStatus.TOO_MANY_REQUESTS,
    errors.ReadOnlyError: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.NotReadyError: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.BackendBusyError: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.ClockSkewError: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.WaitersFullError: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.EventLimitError: HTTPStatus.TOO_MANY_REQUESTS,
    errors.ResultKeyEarlyError: HTTPStatus.CONFLICT,
    errors.WebhookError: HTTPStatus.BAD_REQUEST,
    errors.WebhookUnknownError: HTTPStatus.NOT_FOUND,
}

_LATER_SECONDS: Final = 5
"""When to come again where nothing better is known."""

_INSIDE: Final = (errors.DatabaseError, errors.VaultError, errors.AuditError)
"""Errors whose message is for the administrator alone."""


def status_of(error: errors.HwTrustError) -> HTTPStatus:
    """The HTTP status of an error: that of the nearest class that has one."""
    for cls in type(error).__mro__:
        if cls in _STATUSES:
            return _STATUSES[cls]
    return HTTPStatus.INTERNAL_SERVER_ERROR


def problem_of(error: errors.HwTrustError) -> Problem:
    """The answer to an error of the tree."""
    status = status_of(error)
    if isinstance(error, _INSIDE):
        return Problem(title=status.phrase, status=status.value, code=error.code)
    return Problem(
        title=status.phrase,
        status=status.value,
        code=error.code,
        detail=error.message[:_DETAIL_LIMIT],
        hint=error.hint,
    )


def answer(problem: Problem, *, seconds: object = None) -> Response[bytes]:
    """A response that holds a problem; `seconds` says when to come again."""
    count_refusal(problem)
    headers = {"cache-control": "no-store"}
    if seconds is not None:
        headers["retry-after"] = str(seconds)
    return Response(
        msgspec.json.encode(problem),
        status_code=problem.status,
        media_type=PROBLEM_TYPE,
        headers=headers,
    )


def count_refusal(problem: Problem) -> None:
    """Let the metrics and the log's line of this request have the problem's code."""
    metrics.REFUSALS.inc(code=problem.code or "none")
    logs.note(code=problem.code)


def on_error(_: Request[Any, Any, Any], error: errors.HwTrustError) -> Response[bytes]:
    """Answer an error of the tree."""
    problem = problem_of(error)
    if problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        _log.error("%s: %s", error.code, error.message)
    later = _LATER_SECONDS if problem.status == HTTPStatus.SERVICE_UNAVAILABLE else None
    answered = answer(problem, seconds=error.data.get("seconds", later))
    if isinstance(error, errors.CredentialsError):
        answered.headers["www-authenticate"] = "Bearer"
    return answered


def on_http_error(_: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """Answer what the framework refuses: no such path or method, a body that is no request."""
    status = HTTPStatus(error.status_code)
    code = "request:invalid"
    if status is HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        code = errors.RequestTooLargeError.code
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return answer(Problem(title=status.phrase, status=status.value))
    detail = "; ".join([str(error.detail), *_particulars(error)])[:_DETAIL_LIMIT]
    answered = answer(Problem(title=status.phrase, status=status.value, code=code, detail=detail))
    allowed = (error.headers or {}).get("allow")
    if allowed is not None:
        answered.headers["allow"] = allowed
    return answered


def _particulars(error: HTTPException) -> list[str]:
    """Which field of a body is wrong, as the validation of the framework says it."""
    extra = error.extra
    if not isinstance(extra, list):
        return []
    return [
        f"{item['key']}: {item['message']}" if item.get("key") else str(item["message"])
        for item in extra
        if isinstance(item, dict) and "message" in item
    ]


def on_timeout(_: Request[Any, Any, Any], __: TimeoutError) -> Response[bytes]:
    """Answer a request whose body did not arrive in time."""
    status = HTTPStatus.REQUEST_TIMEOUT
    detail = "the request's body did not arrive in time"
    return answer(
        Problem(title=status.phrase, status=status.value, code="request:timeout", detail=detail)
    )


def on_anything(_: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Answer a defect of ours."""
    _log.error("unexpected error", exc_info=error)
    status = HTTPStatus.INTERNAL_SERVER_ERROR
    return answer(Problem(title=status.phrase, status=status.value))
