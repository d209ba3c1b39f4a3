"""Routes for auditors.

GET /v1/admin/audit                    AuditPage      newest first
GET /v1/admin/audit/head               SignedHead     to be kept elsewhere
GET /v1/admin/audit/consistency        Consistency    RFC 9162 §2.1.4
GET /v1/admin/audit/{sequence}         Proof          a record, RFC 9162 §2.1.3
GET /v1/admin/export/{kind}            CSV or JSON lines
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from litestar import get
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import (
    OpenAPIMediaType,
    OpenAPIResponse,
    Operation,
    Schema,
)
from litestar.openapi.spec.enums import OpenAPIType
from litestar.params import PathParameter, QueryParameter
from litestar.response import Stream
from sqlalchemy.orm import Session

from hwtrust.wire.messages import Problem
from hwtrust_backend.admin import export, trail
from hwtrust_backend.admin.fields import LAST_NUMBER, PRINTABLE
from hwtrust_backend.admin.principals import Principal, Role
from hwtrust_backend.app.problems import PROBLEM_TYPE
from hwtrust_backend.app.routes.admin_guard import Cursor, PageLimit, by_of, read, route
from hwtrust_backend.app.routes.admin_stream import streamed
from hwtrust_backend.app.routes.request import HttpRequest, backend_of
from hwtrust_backend.audit import Consistency, Proof

TAG = "audit"

_TYPES = {
    export.ExportFormat.CSV: "text/csv",
    export.ExportFormat.JSON_LINES: "application/jsonl",
}

_MISSING = {
    404: ResponseSpec(
        data_container=Problem,
        description="There is none yet, or the log never had as many records.",
        media_type=PROBLEM_TYPE,
        generate_examples=False,
    )
}

Text = Annotated[str | None, QueryParameter(max_length=200, pattern=PRINTABLE)]
Number = Annotated[int, QueryParameter(ge=0, le=LAST_NUMBER)]


@dataclass
class ExportOperation(Operation):
    """A route that answers in either form."""

    def __post_init__(self) -> None:
        """Describe the forms, of which the framework sees one."""
        text = OpenAPIMediaType(schema=Schema(type=OpenAPIType.STRING))
        answer = (self.responses or {}).get("200")
        if isinstance(answer, OpenAPIResponse):
            answer.content = dict.fromkeys(_TYPES.values(), text)


@get("/audit", **route(Role.VIEWER, tag=TAG))
def list_records(
    request: HttpRequest,
    *,
    device: Text = None,
    event: Annotated[
        str | None,
        QueryParameter(
            max_length=60,
            pattern=PRINTABLE,
            description="A code, in which * stands for anything: `admin:*`.",
        ),
    ] = None,
    actor: Text = None,
    since: Annotated[
        int | None, QueryParameter(ge=0, le=LAST_NUMBER, description="UTC milliseconds.")
    ] = None,
    cursor: Cursor = None,
    limit: PageLimit = 50,
) -> trail.AuditPage:
    """List audit records, newest first. A page may be short, and still have a next one."""
    wanted = trail.AuditFilter(device=device, event=event, actor=actor, since=since)

    def work(session: Session, by: Principal, _: int) -> trail.AuditPage:
        return trail.audit_page(session, wanted, by=by, cursor=cursor, limit=limit)

    return read(request, work)


@get("/audit/head", responses=_MISSING, **route(Role.VIEWER, tag=TAG))
def show_head(request: HttpRequest) -> trail.SignedHead:
    """Show the newest signed tree head."""
    return read(request, lambda session, by, _: trail.audit_head(session, by=by))


@get("/audit/consistency", responses=_MISSING, **route(Role.VIEWER, tag=TAG))
def show_consistency(
    request: HttpRequest,
    old: Number,
    size: Annotated[
        int | None, QueryParameter(ge=0, le=LAST_NUMBER, description="Absent: the whole log.")
    ] = None,
) -> Consistency:
    """Prove that the log still begins as it did with `old` records."""

    def work(session: Session, by: Principal, _: int) -> Consistency:
        return trail.audit_consistency(session, old, size, by=by)

    return read(request, work)


@get("/audit/{sequence:int}", **route(Role.VIEWER, tag=TAG))
def show_record(
    request: HttpRequest, sequence: Annotated[int, PathParameter(ge=0, le=LAST_NUMBER)]
) -> Proof:
    """Show a record, with the proof that it is in the log."""
    return read(request, lambda session, by, _: trail.audit_record(session, sequence, by=by))


@get(
    "/export/{kind:str}",
    media_type="text/csv",
    operation_class=ExportOperation,
    **route(Role.VIEWER, tag=TAG),
)
def export_file(
    request: HttpRequest,
    kind: Annotated[export.ExportKind, PathParameter()],
    form: Annotated[export.ExportFormat, QueryParameter(name="format")] = export.ExportFormat.CSV,
) -> Stream:
    """Export devices, roots, releases or policies, in all groups that the token sees."""
    backend, by = backend_of(request), by_of(request)
    now = backend.clock()
    return streamed(
        backend,
        lambda session: export.export(session, kind, form, by=by, now=now),
        media_type=_TYPES[form],
    )


HANDLERS = (list_records, show_head, show_consistency, show_record, export_file)
