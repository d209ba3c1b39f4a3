"""Routes for asking devices what they run.

POST /v1/admin/devices/{device}/query      QueryReport   ask, and wait for the answer
GET  /v1/admin/devices/{device}/answer     QueryReport   what it was asked and answered last
GET  /v1/admin/devices/{device}/evidence   Evidence      what the answer was made of
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from litestar import get, post
from litestar.concurrency import sync_to_thread
from msgspec import Meta
from sqlalchemy.orm import Session

from hwtrust.wire.enclave import EnclaveEvidence
from hwtrust.wire.messages import Evidence
from hwtrust_backend.admin import queries
from hwtrust_backend.admin.fields import Label
from hwtrust_backend.admin.principals import Principal, Role
from hwtrust_backend.app.asking import Asking
from hwtrust_backend.app.routes.admin_devices import TAG, DeviceId
from hwtrust_backend.app.routes.admin_guard import change, read, route
from hwtrust_backend.app.routes.request import JSON_BODY, HttpRequest, backend_of

ASKING: Final = "asking"
"""Under which name the application keeps its `Asking`."""

WAIT_SECONDS: Final = 30


class Question(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long to wait for the answer, in seconds, and why it is asked, for the audit trail."""

    wait: Annotated[int, Meta(ge=0, le=queries.LONGEST_WAIT)] = WAIT_SECONDS
    reason: Label = ""


def _waiting(options: dict[str, Any]) -> dict[str, Any]:
    """The options of a route whose handler waits in the event loop, not in a thread."""
    return {name: value for name, value in options.items() if name != "sync_to_thread"}


@post(
    "/devices/{device:str}/query",
    status_code=200,
    **_waiting(route(Role.OPERATOR, tag=TAG)),
)
async def query_device(
    request: HttpRequest, device: DeviceId, data: Annotated[Question, JSON_BODY]
) -> queries.QueryReport:
    """Ask a device what it runs, and give its answer; or what is known, where it is silent."""

    def ask(session: Session, by: Principal, now: int) -> int:
        return queries.query(session, device, by=by, now=now, reason=data.reason)

    asked_at = await sync_to_thread(change, request, ask)
    asking: Asking = request.app.state[ASKING]
    answered = data.wait > 0 and await asking.wait(device, asked_at, seconds=data.wait)
    return await sync_to_thread(report_signed if answered else report, request, device)


@get("/devices/{device:str}/answer", **route(Role.VIEWER, tag=TAG))
def show_answer(request: HttpRequest, device: DeviceId) -> queries.QueryReport:
    """Show what a device was asked last, and what it last answered."""
    return report(request, device)


@get("/devices/{device:str}/evidence", **route(Role.VIEWER, tag=TAG))
def show_evidence(request: HttpRequest, device: DeviceId) -> Evidence | EnclaveEvidence:
    """Give the evidence of a device's last answer, for whoever verifies it anew."""

    def work(session: Session, by: Principal, now: int) -> Evidence | EnclaveEvidence:
        del now
        return queries.answer_evidence(session, device, by=by)

    return read(request, work)


def report(request: HttpRequest, device: str) -> queries.QueryReport:
    """What the device was asked and answered, for who calls."""

    def work(session: Session, by: Principal, now: int) -> queries.QueryReport:
        return queries.query_report(session, device, by=by, now=now)

    return read(request, work)


def report_signed(request: HttpRequest, device: str) -> queries.QueryReport:
    """The same, with an attestation result of the answer."""
    results = backend_of(request).results

    def work(session: Session, by: Principal, now: int) -> queries.QueryReport:
        queries.have_signed(session, device, results=results, by=by, now=now)
        return queries.query_report(session, device, by=by, now=now)

    return change(request, work)


HANDLERS = (query_device, show_answer, show_evidence)
