"""Policies: their versions, what differs between two, and what one would do.

GET       /ui/policies                  groups, and every version of every policy
GET       /ui/policies/{name}           a version, or what differs from another one
GET, POST /ui/policies/{name}/try       a dry run on the evidence that is kept
GET, POST /ui/policies/{name}/activate  put a version into force
"""

from __future__ import annotations

from typing import Final

from litestar import Response, get, post
from litestar.params import FromPath
from sqlalchemy.orm import Session

from hwtrust.errors import FormIncompleteError, PolicyDocumentError
from hwtrust_backend.admin import rules
from hwtrust_backend.admin.principals import Role
from hwtrust_backend.app.routes.page_request import (
    TOKEN_FIELD,
    Context,
    Form,
    Visit,
    begun_here,
    done,
    shown,
)
from hwtrust_backend.app.routes.request import HttpRequest, backend_of
from hwtrust_backend.pages.changes import difference, numbered
from hwtrust_backend.pages.protection import check_form
from hwtrust_backend.pages.sessions import COOKIE

DRY_RUN_LIMIT: Final = 20_000
"""Devices that a page tries a policy on; the command line takes all."""

_DIGITS: Final = 9


@get("/ui/policies", sync_to_thread=True)
def policies(request: HttpRequest) -> Response[str]:
    """Groups and policies."""

    def work(session: Session, visit: Visit) -> Context:
        return {
            "groups": rules.groups(session, by=visit.by),
            "versions": rules.policy_versions(session, by=visit.by),
        }

    return shown(request, "policies.html", work, section="policies")


@get("/ui/policies/{name:str}", sync_to_thread=True)
def policy(request: HttpRequest, name: FromPath[str]) -> Response[str]:
    """One version; with `against`, what differs from that one."""
    query = request.query_params

    def work(session: Session, visit: Visit) -> Context:
        versions = rules.policy_versions(session, name, by=visit.by)
        in_force = next((row.version for row in versions if row.active), None)
        wanted = _number(query.get("version", "")) or in_force or versions[0].version
        shown_version = rules.policy(session, name, wanted, by=visit.by)
        against = _number(query.get("against", ""))
        if against is None:
            lines = numbered(shown_version.document)
        else:
            older = rules.policy(session, name, against, by=visit.by)
            lines = difference(older.document, shown_version.document)
        return {
            "policy": shown_version.report,
            "versions": versions,
            "in_force": in_force,
            "against": against,
            "lines": lines,
            "said": "The version is in force." if query.get("done") == "activate" else "",
        }

    return shown(request, "policy.html", work, section="policies")


@get("/ui/policies/{name:str}/try", sync_to_thread=True)
def trial_form(request: HttpRequest, name: FromPath[str]) -> Response[str]:
    """A form for a dry run, with a version's document in it."""

    def work(session: Session, visit: Visit) -> Context:
        wanted = _number(request.query_params.get("version", ""))
        found = rules.policy(session, name, wanted, by=visit.by)
        groups = rules.groups(session, by=visit.by)
        held = [row.name for row in groups if row.policy == name] or [row.name for row in groups]
        return {
            "name": name,
            "document": found.document,
            "groups": groups,
            "group": held[0] if held else "",
            "result": None,
            "failure": "",
            "limit": DRY_RUN_LIMIT,
        }

    return shown(request, "trial.html", work, section="policies")


@post("/ui/policies/{name:str}/try", status_code=200, sync_to_thread=True)
def trial(request: HttpRequest, name: FromPath[str], data: Form) -> Response[str]:
    """The dry run. It changes nothing, and is a form only because a document is long."""
    begun_here(request, backend_of(request))
    document, group = data.get("document", ""), data.get("group", "")
    document = document.replace("\r\n", "\n")

    def work(session: Session, visit: Visit) -> Context:
        check_form(cookie=request.cookies.get(COOKIE, ""), token=data.get(TOKEN_FIELD, ""))
        result, failure = None, ""
        try:
            result = rules.try_policy(
                session, document, group=group, limit=DRY_RUN_LIMIT, by=visit.by
            )
        except PolicyDocumentError as error:
            failure = error.message
        return {
            "name": name,
            "document": document,
            "groups": rules.groups(session, by=visit.by),
            "group": group,
            "result": result,
            "failure": failure,
            "limit": DRY_RUN_LIMIT,
        }

    return shown(request, "trial.html", work, section="policies")


@get("/ui/policies/{name:str}/activate", sync_to_thread=True)
def ask_activation(request: HttpRequest, name: FromPath[str]) -> Response[str]:
    """What would come into force, and over whom."""

    def work(session: Session, visit: Visit) -> Context:
        visit.by.require_all_groups(Role.ADMINISTRATOR)
        version = _number(request.query_params.get("version", ""))
        found = rules.policy(session, name, version, by=visit.by)
        versions = rules.policy_versions(session, name, by=visit.by)
        in_force = next((row.version for row in versions if row.active), None)
        before = (
            "" if in_force is None else rules.policy(session, name, in_force, by=visit.by).document
        )
        return {
            "policy": found.report,
            "in_force": in_force,
            "groups": [
                row.name for row in rules.groups(session, by=visit.by) if row.policy == name
            ],
            "lines": difference(before, found.document),
        }

    return shown(request, "activate.html", work, section="policies")


@post("/ui/policies/{name:str}/activate", sync_to_thread=True)
def activate(request: HttpRequest, name: FromPath[str], data: Form) -> Response[str]:
    """Put a version into force."""

    def work(session: Session, visit: Visit) -> str:
        version = _number(data.get("version", ""))
        if version is None or data.get("sure") != "yes":
            raise FormIncompleteError("say that you mean it: the box is not ticked")
        active = rules.activate_policy(
            session, name, version, settings=visit.backend.settings, by=visit.by, now=visit.now
        )
        return f"/ui/policies/{active.name}?version={active.version}&done=activate"

    return done(request, data, work)


def _number(text: str) -> int | None:
    """A version's number; None where there is none."""
    good = text.isascii() and text.isdigit() and len(text) <= _DIGITS
    return int(text) if good else None


HANDLERS = (policies, policy, trial_form, trial, ask_activation, activate)
