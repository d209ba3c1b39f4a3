"""Who may call a route of the administration, and what all of these routes share.

    @get("/devices", **route(Role.VIEWER, tag="devices"))

Rules:
1. A route names the role that it takes. One that names none is refused to
   everybody: what was forgotten is closed.
2. The guard runs before anything of the body is read, and the service that does
   the work asks the principal once more.
3. What somebody who is known may not do leaves a record. Who is not known leaves
   none: anybody could fill the trail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any, Final, TypeVar

from litestar.concurrency import sync_to_thread
from litestar.connection import ASGIConnection
from litestar.handlers.base import BaseRouteHandler
from litestar.params import QueryParameter
from sqlalchemy.orm import Session

from hwtrust.errors import CredentialsError, DatabaseError, ForbiddenError, RequestError
from hwtrust_backend.admin.paging import LONGEST_CURSOR, LONGEST_PAGE
from hwtrust_backend.admin.principals import (
    Principal,
    Role,
    authenticate,
    note_use,
    was_used_lately,
)
from hwtrust_backend.app.backend import Backend
from hwtrust_backend.app.routes.request import (
    HttpRequest,
    backend_of,
    note_refusal,
    noting_refusals,
)
from hwtrust_backend.app.serving import SERVING, Serving

BODY_LIMIT: Final = 1024 * 1024
_BEARER: Final = "bearer "
_PRINCIPAL: Final = "principal"
_ROLE: Final = "hwtrust_role"
_ALL_GROUPS: Final = "hwtrust_all_groups"

Cursor = Annotated[
    str | None,
    QueryParameter(max_length=LONGEST_CURSOR, description="The `next` of the page before."),
]
PageLimit = Annotated[
    int, QueryParameter(ge=1, le=LONGEST_PAGE, description="How long the page is.")
]

Answer = TypeVar("Answer")


def route(
    role: Role, *, tag: str, all_groups: bool = False, limit: int = BODY_LIMIT
) -> dict[str, Any]:
    """What a handler of the administration is made with; `limit` is its body's, in bytes.

    `all_groups`: it is not for tokens that are limited to groups.
    """
    return {
        "opt": {_ROLE: role, _ALL_GROUPS: all_groups},
        "tags": [tag],
        "sync_to_thread": True,
        "request_max_body_size": limit,
    }


async def guard(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """Let a request pass whose token has the role that the route names.

    Raises:
        CredentialsError: no token, or none that counts.
        ForbiddenError: a lesser role, or a limit to groups.
        RequestError: the query names what the route does not know. A filter that is
            misspelt would otherwise let through every device.
    """
    principal = await sync_to_thread(_identify, connection)
    try:
        _require(principal, handler)
    except ForbiddenError as error:
        await sync_to_thread(note_refusal, connection, principal, error)
        raise
    _require_known(connection.query_params.keys(), handler)
    connection.scope["state"][_PRINCIPAL] = principal


def by_of(request: HttpRequest) -> Principal:
    """Who calls, as the guard has found out."""
    principal = request.scope["state"].get(_PRINCIPAL)
    if not isinstance(principal, Principal):
        raise CredentialsError("the request has passed no guard")
    return principal


def read(request: HttpRequest, work: Callable[[Session, Principal, int], Answer]) -> Answer:
    """What `work` reads, for who calls."""
    backend, by = backend_of(request), by_of(request)
    with noting_refusals(request, by), backend.database.reading() as session:
        return work(session, by, backend.clock())


def change(request: HttpRequest, work: Callable[[Session, Principal, int], Answer]) -> Answer:
    """What `work` changes, for who calls, in one transaction."""
    backend, by = backend_of(request), by_of(request)
    with noting_refusals(request, by):
        return backend.database.run(lambda session: work(session, by, backend.clock()))


def _require(principal: Principal, handler: BaseRouteHandler) -> None:
    role = handler.opt.get(_ROLE)
    if not isinstance(role, Role):
        raise ForbiddenError("this route names no role")
    if handler.opt[_ALL_GROUPS]:
        principal.require_all_groups(role)
    else:
        principal.require(role)


def _require_known(given: Iterable[str], handler: BaseRouteHandler) -> None:
    known = {
        field.kwarg_definition.name or name
        for name, field in handler.parsed_fn_signature.parameters.items()
        if isinstance(field.kwarg_definition, QueryParameter)
    }
    for name in given:
        if name not in known:
            raise RequestError(f"there is no query parameter {name[:40]!r} here", field=name[:40])


def _identify(connection: ASGIConnection[Any, Any, Any, Any]) -> Principal:
    backend = backend_of(connection)
    token, now = _bearer_token(connection), backend.clock()
    with backend.database.reading() as session:
        principal = authenticate(session, token, now=now)
        used_lately = was_used_lately(session, token, now=now)
    if not used_lately:
        _note_use(connection, backend, token, now)
    return principal


def _note_use(
    connection: ASGIConnection[Any, Any, Any, Any], backend: Backend, token: str, now: int
) -> None:
    serving: Serving = connection.app.state[SERVING]
    if serving.read_only.is_on():
        return
    try:
        with backend.database.transaction() as session:
            note_use(session, token, now=now)
    except DatabaseError:
        # When it was used is worth less than what it is used for.
        return


def _bearer_token(connection: ASGIConnection[Any, Any, Any, Any]) -> str:
    headers = connection.headers.getall("authorization", [])
    if len(headers) != 1 or not headers[0].lower().startswith(_BEARER):
        raise CredentialsError("there is no API token: Authorization: Bearer TOKEN")
    return headers[0][len(_BEARER) :].strip()
