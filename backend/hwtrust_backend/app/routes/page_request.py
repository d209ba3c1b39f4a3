"""What every page is answered with: who asks, the headers, errors as pages.

Rules:
1. `shown` answers a GET: it reads, and nothing that it does is kept but the time
   of the session's last use.
2. `done` answers a form: origin and token are checked before the work begins,
   and the answer is a redirection, so that nothing is sent twice.
3. Whoever is not signed in gets the sign-in page, and nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any, Final
from urllib.parse import quote

from litestar import Request, Response
from litestar.datastructures import Cookie
from litestar.enums import RequestEncodingType
from litestar.exceptions import HTTPException
from litestar.params import Body
from sqlalchemy.orm import Session

from hwtrust import errors
from hwtrust_backend.admin.principals import Principal, Role
from hwtrust_backend.app.backend import Backend
from hwtrust_backend.app.problems import problem_of, status_of
from hwtrust_backend.app.routes.request import HttpRequest, backend_of, note_refusal
from hwtrust_backend.app.serving import SERVING, ReadOnly, Serving
from hwtrust_backend.pages import sessions
from hwtrust_backend.pages.protection import HEADERS, check_form, check_origin, local_path
from hwtrust_backend.pages.rendering import render
from hwtrust_backend.pages.sessions import SignedIn
from hwtrust_backend.pages.site import Site

SITE: Final = "site"
"""Under which name the application keeps its `Site`."""

QUIET: Final = "x-hwtrust-quiet"
"""The header of a refresh that nobody asked for; it keeps no session alive."""

TOKEN_FIELD: Final = "form_token"  # noqa: S105 - a field's name
LOGIN_PAGE: Final = "/ui/login"

Form = Annotated[dict[str, str], Body(media_type=RequestEncodingType.URL_ENCODED)]
Context = Mapping[str, Any]

_log = logging.getLogger("hwtrust_backend")


@dataclass(frozen=True, slots=True)
class Visit:
    """One request of somebody who is signed in."""

    backend: Backend
    site: Site
    signed: SignedIn
    now: int

    @property
    def by(self) -> Principal:
        """Who asks."""
        return self.signed.principal


def site_of(request: Request[Any, Any, Any]) -> Site:
    """What the pages share."""
    site = request.app.state[SITE]
    if not isinstance(site, Site):
        raise TypeError("the application was not made by create_app")
    return site


def read_only_of(request: Request[Any, Any, Any]) -> ReadOnly:
    """Whether anything may be changed now."""
    serving = request.app.state[SERVING]
    if not isinstance(serving, Serving):
        raise TypeError("the application was not made by create_app")
    return serving.read_only


def shown(
    request: HttpRequest,
    template: str,
    work: Callable[[Session, Visit], Context],
    *,
    section: str,
) -> Response[str]:
    """Answer with a page of what `work` reads.

    Raises:
        SessionMissingError: nobody is signed in.
        HwTrustError: what `work` raised.
    """
    backend = backend_of(request)
    now = backend.clock()
    cookie = request.cookies.get(sessions.COOKIE)
    with backend.database.reading() as session:
        signed = sessions.signed_in(session, cookie, now=now)
        visit = Visit(backend, site_of(request), signed, now)
        body = render(template, **frame(visit, section), **work(session, visit))
    noted = signed.stale and QUIET not in request.headers
    if cookie is not None and noted and not read_only_of(request).is_on():
        with backend.database.transaction() as session:
            sessions.touch(session, cookie, now=now)
    return page(body)


def done(
    request: HttpRequest, form: Mapping[str, str], work: Callable[[Session, Visit], str]
) -> Response[str]:
    """Take a form: do `work` in one transaction and go on to the page that it names.

    Raises:
        FormForgedError: it does not come from a page of this session.
        SessionMissingError: nobody is signed in.
        HwTrustError: what `work` raised.
    """
    return redirect(acted(request, form, work))


def acted(
    request: HttpRequest, form: Mapping[str, str], work: Callable[[Session, Visit], str]
) -> str:
    """As `done`, and gives what `work` gave."""
    backend = backend_of(request)
    now = backend.clock()
    cookie = request.cookies.get(sessions.COOKIE)
    begun_here(request, backend)
    signed: SignedIn | None = None

    def attempt(session: Session) -> str:
        nonlocal signed
        signed = sessions.signed_in(session, cookie, now=now)
        check_form(cookie=cookie or "", token=form.get(TOKEN_FIELD, ""))
        return work(session, Visit(backend, site_of(request), signed, now))

    try:
        answer = backend.database.run(attempt)
    except errors.ForbiddenError as error:
        if signed is not None:
            note_refusal(request, signed.principal, error)
        raise
    site_of(request).fleet.forget()
    return answer


def begun_here(request: HttpRequest, backend: Backend) -> None:
    """Refuse a form that was sent by another site's page.

    Raises:
        FormForgedError: it was, or nothing says that it was not.
    """
    check_origin(
        site=request.headers.get("sec-fetch-site"),
        origin=request.headers.get("origin"),
        url=backend.settings.url,
    )


def frame(visit: Visit, section: str) -> Context:
    """What the frame around every page shows."""
    return {
        "now": visit.now,
        "section": section,
        "who": visit.by,
        "may_operate": visit.by.role.includes(Role.OPERATOR),
        "may_administer": visit.by.role.includes(Role.ADMINISTRATOR),
        "whole_fleet": visit.by.groups is None,
        "form_token": visit.signed.form_token,
        "session_ends": visit.signed.ends_at,
    }


def page(body: str, *, status: HTTPStatus = HTTPStatus.OK) -> Response[str]:
    """An HTML page with all that protects it."""
    return Response(body, status_code=status, media_type="text/html", headers=dict(HEADERS))


def redirect(path: str, *, cookies: tuple[Cookie, ...] = ()) -> Response[str]:
    """Go on to another page with a GET."""
    return Response(
        "",
        status_code=HTTPStatus.SEE_OTHER,
        media_type="text/plain",
        headers={**HEADERS, "location": path},
        cookies=cookies,
    )


# --- errors ---------------------------------------------------------------------------


def on_error(request: Request[Any, Any, Any], error: errors.HwTrustError) -> Response[str]:
    """Answer an error of the tree with a page."""
    if isinstance(error, errors.SessionMissingError) and request.method == "GET":
        return _to_login(request)
    status = status_of(error)
    problem = problem_of(error)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        _log.error("%s: %s", error.code, error.message)
    return _error_page(status, problem.code, problem.detail, problem.hint)


def on_http_error(_: Request[Any, Any, Any], error: HTTPException) -> Response[str]:
    """Answer what the framework refuses with a page."""
    status = HTTPStatus(error.status_code)
    return _error_page(status, "request:invalid", "", "")


def on_anything(_: Request[Any, Any, Any], error: Exception) -> Response[str]:
    """Answer a defect of ours."""
    _log.error("unexpected error", exc_info=error)
    return _error_page(HTTPStatus.INTERNAL_SERVER_ERROR, "", "", "")


Handler = Callable[[Request[Any, Any, Any], Any], Response[Any]]

ON_ERROR: Final[dict[int | type[Exception], Handler]] = {
    errors.HwTrustError: on_error,
    HTTPException: on_http_error,
    Exception: on_anything,
}


def _error_page(status: HTTPStatus, code: str, detail: str, hint: str) -> Response[str]:
    body = render(
        "error.html", title=status.phrase, status=status.value, code=code, detail=detail, hint=hint
    )
    return page(body, status=status)


def _to_login(request: Request[Any, Any, Any]) -> Response[str]:
    """To the sign-in page; or once more to the same page, where a link led here from elsewhere.

    A request that another site caused carries no cookie. The next one does.
    """
    query = request.scope["query_string"].decode("latin-1")
    wanted = local_path(request.url.path + (f"?{query}" if query else ""))
    if request.headers.get("sec-fetch-site") == "cross-site":
        return page(render("onward.html", path=wanted))
    return redirect(f"{LOGIN_PAGE}?next={quote(wanted, safe='')}")
