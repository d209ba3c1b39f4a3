"""Routes for devices that report an event, or wait until there is something for them.

POST /v1/events            EventReport    EventReply
GET  /v1/wait?seconds=55                  WaitReply, or 204 where there was nothing

Both need the device's client certificate. Whoever waits attests when told to, and
then waits again: what happened meanwhile is told at once.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Final

from litestar import Response, get, post
from litestar.datastructures import ResponseHeader
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import Parameter
from sqlalchemy.orm import Session

from hwtrust.errors import IdentityError
from hwtrust.wire.messages import EventReply, EventReport, WaitReply
from hwtrust_backend.app.backend import Backend
from hwtrust_backend.app.routes.request import JSON_BODY, HttpRequest, backend_of, identity_of
from hwtrust_backend.enrolment import lock_device
from hwtrust_backend.publishing import report_event

LONGEST_WAIT: Final = 55
"""Seconds: below what proxies and firewalls let a silent connection live."""

_NOTHING: Final = {204: ResponseSpec(None, description="There was nothing for the device")}

Seconds = Annotated[int, Parameter(ge=0, le=LONGEST_WAIT)]


@post("/v1/events", status_code=200, sync_to_thread=True)
def report(request: HttpRequest, data: Annotated[EventReport, JSON_BODY]) -> EventReply:
    """Report an event of the device's application."""
    backend = backend_of(request)
    backend.clock_watch.require_right()
    now = backend.clock()
    name = _caller(request, backend, now)

    def work(session: Session) -> bool:
        device = lock_device(session, name)
        return report_event(session, device, data.kind, detail=data.detail, now=now)

    return EventReply(attest=backend.database.run(work))


@get(
    "/v1/wait",
    responses=_NOTHING,
    response_headers=[ResponseHeader(name="cache-control", value="no-store")],
)
async def wait(request: HttpRequest, seconds: Seconds = LONGEST_WAIT) -> Response[WaitReply | None]:
    """Wait until there is something for the device: a new root, or a changed lock."""
    backend = backend_of(request)
    name = await asyncio.to_thread(_caller, request, backend, backend.clock())
    reason = await backend.waiters.wait(name, seconds=seconds)
    if not reason:
        return Response(None, status_code=204)
    return Response(WaitReply(attest=True, reason=reason))


def _caller(request: HttpRequest, backend: Backend, now: int) -> str:
    identity = identity_of(request, backend, now)
    if identity is None:
        raise IdentityError("this is for devices that show their client certificate")
    return identity.device


HANDLERS = (report, wait)
