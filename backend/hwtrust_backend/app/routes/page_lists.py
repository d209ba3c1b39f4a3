"""Releases, and the tokens that let new devices in.

GET  /ui/releases                releases with their layers
POST /ui/releases/{act}          accept or retire one
GET  /ui/enrolment               enrolment tokens
POST /ui/enrolment               make a token; it is shown once, in the answer
POST /ui/enrolment/{id}/revoke   revoke one
"""

from __future__ import annotations

from typing import Final
from urllib.parse import urlencode

from litestar import Response, get, post
from litestar.params import FromPath
from sqlalchemy.orm import Session

from hwtrust.errors import ConfigError, FormIncompleteError, PageUnknownError
from hwtrust_backend.admin import releases as administration
from hwtrust_backend.admin import rules, tokens
from hwtrust_backend.admin.principals import Principal, Role
from hwtrust_backend.app.routes.page_request import (
    Context,
    Form,
    Visit,
    acted,
    done,
    frame,
    page,
    shown,
)
from hwtrust_backend.app.routes.request import HttpRequest
from hwtrust_backend.config import parse_span
from hwtrust_backend.pages.rendering import render

PAGE_LENGTH: Final = 100
_RELEASE_ACTS: Final = {
    "accept": administration.accept_release,
    "retire": administration.retire_release,
}


@get("/ui/releases", sync_to_thread=True)
def releases(request: HttpRequest) -> Response[str]:
    """Every release, newest first."""

    def work(session: Session, visit: Visit) -> Context:
        rows = administration.releases(session, by=visit.by)
        found = [
            (row, administration.release(session, row.name, by=visit.by).layers)
            for row in reversed(rows)
        ]
        return {"releases": found}

    return shown(request, "releases.html", work, section="releases")


@post("/ui/releases/{act:str}", sync_to_thread=True)
def change_release(request: HttpRequest, act: FromPath[str], data: Form) -> Response[str]:
    """Accept or retire a release."""

    def work(session: Session, visit: Visit) -> str:
        if act not in _RELEASE_ACTS:
            raise PageUnknownError("there is no such page")
        if data.get("sure") != "yes":
            raise FormIncompleteError("say that you mean it: the box is not ticked")
        _RELEASE_ACTS[act](session, data.get("name", ""), by=visit.by, now=visit.now)
        return "/ui/releases"

    return done(request, data, work)


@get("/ui/enrolment", sync_to_thread=True)
def enrolment(request: HttpRequest) -> Response[str]:
    """Enrolment tokens."""
    cursor = request.query_params.get("after") or None

    def work(session: Session, visit: Visit) -> Context:
        return _tokens(session, by=visit.by, now=visit.now, cursor=cursor)

    return shown(request, "enrolment.html", work, section="enrolment")


@post("/ui/enrolment", status_code=200, sync_to_thread=True)
def create_token(request: HttpRequest, data: Form) -> Response[str]:
    """Make a token. The answer is the only page that ever shows it."""

    def work(session: Session, visit: Visit) -> str:
        visit.by.require(Role.OPERATOR)
        try:
            lifetime = parse_span(data.get("lifetime", ""))
            uses = int(data.get("uses", "1"))
        except (ConfigError, ValueError) as error:
            message = "a lifetime is written like 24h, and uses are a number"
            raise FormIncompleteError(message) from error
        report, token = tokens.create_token(
            session,
            label=data.get("label", "").strip(),
            group=data.get("group", ""),
            uses=uses,
            lifetime_ms=lifetime,
            by=visit.by,
            now=visit.now,
        )
        found = _tokens(session, by=visit.by, now=visit.now, cursor=None)
        context = {**found, "token": token, "made": report}
        return render("enrolment.html", **frame(visit, "enrolment"), **context)

    return page(acted(request, data, work))


@post("/ui/enrolment/{token:str}/revoke", sync_to_thread=True)
def revoke_token(request: HttpRequest, token: FromPath[str], data: Form) -> Response[str]:
    """Revoke a token."""

    def work(session: Session, visit: Visit) -> str:
        tokens.revoke_token(session, token, by=visit.by, now=visit.now)
        return "/ui/enrolment"

    return done(request, data, work)


def _tokens(session: Session, *, by: Principal, now: int, cursor: str | None) -> Context:
    found = tokens.token_page(session, by=by, now=now, cursor=cursor, limit=PAGE_LENGTH)
    return {
        "page": found,
        "next": None if found.next is None else urlencode({"after": found.next}),
        "groups": [row.name for row in rules.groups(session, by=by)],
        "token": "",
        "made": None,
    }


HANDLERS = (releases, change_release, enrolment, create_token, revoke_token)
