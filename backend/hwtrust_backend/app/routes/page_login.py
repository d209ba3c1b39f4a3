"""Signing in and out.

GET  /ui/login         the sign-in page
POST /ui/login         with an API token
GET  /ui/login/oidc    to the identity provider
GET  /ui/login/return  back from it
POST /ui/logout        sign out, here or everywhere

The session's cookie is SameSite=Strict, so a redirection from the provider's host
would arrive without it. The return is therefore answered with a page of our own
that goes on by itself. The cookie of a login under way is SameSite=Lax: it must
come back from there; it opens nothing, and is gone with the return.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Final, Literal, TypeVar

from litestar import Response, get, post
from litestar.datastructures import Cookie
from sqlalchemy.orm import Session

from hwtrust.errors import AccessError, FormForgedError, LoginError, SessionMissingError
from hwtrust_backend.admin.principals import Principal
from hwtrust_backend.app.backend import Backend
from hwtrust_backend.app.limits import RateLimits
from hwtrust_backend.app.problems import status_of
from hwtrust_backend.app.routes.page_request import (
    LOGIN_PAGE,
    Form,
    Visit,
    acted,
    begun_here,
    page,
    read_only_of,
    redirect,
    site_of,
)
from hwtrust_backend.app.routes.request import HttpRequest, backend_of
from hwtrust_backend.audit import Event, record
from hwtrust_backend.config.clock import SECOND
from hwtrust_backend.pages import sessions
from hwtrust_backend.pages.oidc import LOGIN_COOKIE
from hwtrust_backend.pages.protection import local_path
from hwtrust_backend.pages.rendering import render

Answer = TypeVar("Answer")

LOGIN_SECONDS: Final = 600
"""How long somebody may take at the identity provider."""


@get("/ui/login", sync_to_thread=True)
def login_page(request: HttpRequest) -> Response[str]:
    """Show how one can sign in."""
    return _page(request, wanted=local_path(request.query_params.get("next", "")))


@post("/ui/login", sync_to_thread=True)
def login(request: HttpRequest, data: Form) -> Response[str]:
    """Sign in with an API token."""
    backend = backend_of(request)
    wanted = local_path(data.get("next", ""))

    def work(session: Session, now: int) -> str:
        # What a browser brought is not taken over, and not left open beside the new one.
        sessions.sign_out(session, request.cookies.get(sessions.COOKIE), now=now)
        token = data.get("token", "").strip()
        return sessions.sign_in_by_token(session, token, now=now)

    try:
        begun_here(request, backend)
        cookie = _attempt(request, backend, work)
    except (AccessError, LoginError, FormForgedError) as error:
        return _page(request, wanted=wanted, error=error)
    return redirect(wanted, cookies=(_session_cookie(cookie),))


@get("/ui/login/oidc", sync_to_thread=True)
def to_provider(request: HttpRequest) -> Response[str]:
    """Go to the identity provider."""
    wanted = local_path(request.query_params.get("next", ""))
    try:
        begun = site_of(request).oidc.start(now=backend_of(request).clock())
    except LoginError as error:
        return _page(request, wanted=wanted, error=error)
    cookie = Cookie(
        key=LOGIN_COOKIE,
        value=f"{begun.cookie}.{wanted.encode().hex()}",
        max_age=LOGIN_SECONDS,
        path="/",
        secure=True,
        httponly=True,
        samesite="lax",
    )
    return redirect(begun.url, cookies=(cookie,))


@get("/ui/login/return", sync_to_thread=True)
def from_provider(request: HttpRequest) -> Response[str]:
    """Come back from the identity provider."""
    backend, site = backend_of(request), site_of(request)
    cookie, _, path = request.cookies.get(LOGIN_COOKIE, "").partition(".")
    wanted = local_path(_from_hex(path))
    answer: Mapping[str, str] = dict(request.query_params)
    forgotten = _gone(LOGIN_COOKIE, "lax")

    def known(now: int) -> Principal:
        return site.oidc.finish(cookie or None, answer, now=now)

    # A return is a GET, and opens a session all the same.
    read_only_of(request).require_off()
    try:
        # The provider is asked before the transaction begins, not while it is open.
        principal = _checked(request, backend, known)
        with backend.database.transaction() as session:
            opened = sessions.sign_in(session, principal, now=backend.clock())
    except LoginError as error:
        response = _page(request, wanted=wanted, error=error)
        response.cookies = [forgotten]
        return response
    response = page(render("onward.html", path=wanted))
    response.cookies = [forgotten, _session_cookie(opened)]
    return response


@post("/ui/logout", sync_to_thread=True)
def logout(request: HttpRequest, data: Form) -> Response[str]:
    """Sign out: this session, or with `everywhere` all of this person's."""

    def work(session: Session, visit: Visit) -> str:
        if data.get("everywhere"):
            sessions.end_sessions(session, visit.by.name, now=visit.now)
        sessions.sign_out(session, request.cookies.get(sessions.COOKIE), now=visit.now)
        return LOGIN_PAGE

    try:
        path = acted(request, data, work)
    except SessionMissingError:
        path = LOGIN_PAGE
    return redirect(path, cookies=(_gone(sessions.COOKIE, "strict"),))


def _attempt(request: HttpRequest, backend: Backend, work: Callable[[Session, int], str]) -> str:
    """Do `work` in a transaction, as an attempt to sign in."""

    def known(now: int) -> str:
        with backend.database.transaction() as session:
            return work(session, now)

    return _checked(request, backend, known)


def _checked(request: HttpRequest, backend: Backend, attempt: Callable[[int], Answer]) -> Answer:
    """Do what may fail for whoever is not known; a failure is noted, and slows the next one."""
    site, now = site_of(request), backend.clock()
    peer = RateLimits(backend.settings).address_of(request.scope)
    site.attempts.check(peer, now=now)
    try:
        return attempt(now)
    except (AccessError, LoginError) as error:
        site.attempts.failed(peer, now=now)
        reason = f"{error.code}: {error.message}" + (f" from {peer}" if peer else "")
        with backend.database.transaction() as session:
            record(session, Event.SESSION_REFUSED, now=now, reason=reason)
        raise


def _page(
    request: HttpRequest,
    *,
    wanted: str,
    error: AccessError | LoginError | FormForgedError | None = None,
) -> Response[str]:
    site = site_of(request)
    body = render(
        "login.html",
        wanted=wanted,
        provider=site.oidc.provider if site.oidc.is_on else "",
        error=error,
        status=0 if error is None else status_of(error).value,
    )
    return page(body, status=HTTPStatus.OK if error is None else status_of(error))


def _session_cookie(value: str) -> Cookie:
    return Cookie(
        key=sessions.COOKIE,
        value=value,
        max_age=sessions.LIFETIME_MS // SECOND,
        path="/",
        secure=True,
        httponly=True,
        samesite="strict",
    )


def _gone(name: str, samesite: Literal["lax", "strict"]) -> Cookie:
    return Cookie(
        key=name, value="", max_age=0, path="/", secure=True, httponly=True, samesite=samesite
    )


def _from_hex(text: str) -> str:
    try:
        return bytes.fromhex(text).decode("ascii")
    except ValueError:
        return ""


HANDLERS = (login_page, login, to_provider, from_provider, logout)
