"""Pages for people: the fleet, its devices, and what somebody does to one of them.

GET       /ui/                      the fleet at a glance
GET       /ui/devices               search, filter, page
GET       /ui/devices/{id}          one device
GET, POST /ui/devices/{id}/{act}    ask for a reason, and do it
GET       /ui/static/{name}         style sheet, script, icon

Every other page has a module beside this one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

from litestar import Response, Router, get, post
from litestar.params import FromPath
from sqlalchemy.orm import Session

from hwtrust.errors import DeviceUnknownError, FormIncompleteError, PageUnknownError, RequestError
from hwtrust.verify.policy import TPM
from hwtrust.wire.messages import Mode, Standing
from hwtrust_backend.admin import devices as administration
from hwtrust_backend.admin.fields import label_of
from hwtrust_backend.admin.principals import Role
from hwtrust_backend.admin.queries import query, query_report
from hwtrust_backend.admin.report import device_report
from hwtrust_backend.admin.search import DeviceFilter, device_page
from hwtrust_backend.app.routes import page_audit, page_lists, page_login, page_policies
from hwtrust_backend.app.routes.page_request import (
    ON_ERROR,
    Context,
    Form,
    Visit,
    done,
    redirect,
    shown,
)
from hwtrust_backend.app.routes.request import HttpRequest
from hwtrust_backend.enrolment import DeviceKind
from hwtrust_backend.monitor.service import advice_on_failure
from hwtrust_backend.pages.assets import find_asset
from hwtrust_backend.pages.hardware import KINDS, hardware_of
from hwtrust_backend.pages.measured import Measured, measured
from hwtrust_backend.pages.overview import (
    activity_plot,
    age_plot,
    day_plot,
    epoch_plot,
    week_plot,
)
from hwtrust_backend.pages.protection import FIRST_PAGE, FOREVER, HEADERS
from hwtrust_backend.policies import StoredEvidence, list_groups, policy_of
from hwtrust_backend.references import references

PAGE_LENGTH: Final = 50


@get("/", sync_to_thread=False, include_in_schema=False)
def front() -> Response[str]:
    """Whoever comes by the bare address wants the first page."""
    return redirect(FIRST_PAGE)


@get("/ui/", sync_to_thread=True)
def overview(request: HttpRequest) -> Response[str]:
    """The fleet at a glance."""

    def work(session: Session, visit: Visit) -> Context:
        fleet = visit.site.fleet.look(session, groups=visit.by.groups, now=visit.now)
        return {
            "fleet": fleet,
            "plots": (
                activity_plot(fleet),
                day_plot(fleet),
                week_plot(fleet),
                age_plot(fleet),
                epoch_plot(fleet),
            ),
        }

    return shown(request, "overview.html", work, section="fleet")


@get("/ui/devices", sync_to_thread=True)
def devices(request: HttpRequest) -> Response[str]:
    """A page of devices."""
    query = request.query_params

    def work(session: Session, visit: Visit) -> Context:
        wanted = filter_of(query)
        found = device_page(
            session,
            wanted,
            by=visit.by,
            now=visit.now,
            cursor=query.get("after") or None,
            limit=PAGE_LENGTH,
        )
        kept = {name: value for name, value in query.items() if name != "after" and value}
        return {
            "page": found,
            "wanted": wanted,
            "state": query.get("state", ""),
            "first": "after" not in query,
            "filtered": bool(kept),
            "address": "/ui/devices?" + urlencode(kept),
            "next": None if found.next is None else urlencode({**kept, "after": found.next}),
            "standings": tuple(Standing),
            "modes": tuple(Mode),
            "kinds": KINDS,
            "groups": [row.name for row in list_groups(session) if visit.by.sees(row.name)],
        }

    return shown(request, "devices.html", work, section="devices")


@get("/ui/devices/{device:str}", sync_to_thread=True)
def device(request: HttpRequest, device: FromPath[str]) -> Response[str]:
    """Everything about one device."""

    def work(session: Session, visit: Visit) -> Context:
        report = device_report(session, device, by=visit.by, now=visit.now)
        failure = report.summary.failure
        return {
            "report": report,
            "summary": report.summary,
            "failure": failure,
            "advice": "" if failure is None else advice_on_failure(failure),
            "asked": query_report(session, report.summary.device, by=visit.by, now=visit.now),
            "measured": _measured(
                session,
                report.summary.device,
                group=report.summary.group,
                pcr=report.application_pcr,
                enclave=report.summary.kind != TPM,
            ),
            "enclave": report.summary.kind != TPM,
            "hardware": hardware_of(report.summary.kind, report.facts),
            "said": _SAID.get(request.query_params.get("done", ""), ""),
            "acts": [
                (name, act)
                for name, act in ACTS.items()
                if visit.by.role.includes(act.role) and act.fits(report.summary)
            ],
        }

    return shown(request, "device.html", work, section="devices")


# --- what somebody does to a device -----------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """Something that can be done to a device, and how a page asks for it."""

    label: str
    title: str
    consequence: str
    said: str
    role: Role
    fits: Callable[[Any], bool]
    do: Callable[..., object]
    grave: bool = False
    needs_reason: bool = True


def _in_service(summary: Any) -> bool:  # noqa: ANN401 - a DeviceSummary
    return summary.retired_at is None


ACTS: Final[Mapping[str, Act]] = {
    "query": Act(
        label="Ask",
        title="Ask this device what it runs",
        consequence=(
            "It is woken and attests at once, by a new challenge. What it answers is shown on its "
            "page: versions, PCR values, clock and verdict."
        ),
        said="The device is asked; its answer comes with its next attestation.",
        role=Role.OPERATOR,
        fits=lambda summary: _in_service(summary) and summary.query_asked_at is None,
        do=query,
        needs_reason=False,
    ),
    "rotate": Act(
        label="Rotate root",
        title="Rotate this device's root",
        consequence=(
            "Its next good attestation is answered with a new root. The device moves its keys "
            "over by itself, and the old root opens nothing any more."
        ),
        said="A rotation is asked for: the next good attestation brings a new root.",
        role=Role.OPERATOR,
        fits=lambda summary: _in_service(summary) and summary.rotation_asked_at is None,
        do=administration.ask_rotation,
        needs_reason=False,
    ),
    "lock": Act(
        label="Lock",
        title="Lock this device",
        consequence=(
            "It fails from now on, whatever it measures: it gets no root and no approval, and is "
            "told to drop its keys. The reason is shown to it."
        ),
        said="The device is locked.",
        role=Role.OPERATOR,
        fits=lambda summary: _in_service(summary) and summary.locked_at is None,
        do=administration.lock,
        grave=True,
    ),
    "unlock": Act(
        label="Unlock",
        title="Unlock this device",
        consequence="Its next attestation decides what it may do.",
        said="The device is unlocked: its next attestation decides what it may do.",
        role=Role.OPERATOR,
        fits=lambda summary: _in_service(summary) and summary.locked_at is not None,
        do=administration.unlock,
        needs_reason=False,
    ),
    "retire": Act(
        label="Retire",
        title="Take this device out of service for good",
        consequence=(
            "Every request of it is refused from now on, whatever certificate it shows. Its "
            "history stays. To come back it has to be readmitted and to enrol again."
        ),
        said="The device is retired.",
        role=Role.ADMINISTRATOR,
        fits=_in_service,
        do=administration.retire,
        grave=True,
    ),
    "readmit": Act(
        label="Readmit",
        title="Let this device enrol again",
        consequence="It stays refused until it has enrolled anew.",
        said="The device may enrol again.",
        role=Role.ADMINISTRATOR,
        fits=lambda summary: not _in_service(summary) and summary.readmitted_at is None,
        do=administration.readmit,
    ),
}
"""By the last part of their address."""

_SAID: Final = {name: act.said for name, act in ACTS.items()} | {"label": "The label is changed."}


@get("/ui/devices/{device:str}/{act:str}", sync_to_thread=True)
def ask(request: HttpRequest, device: FromPath[str], act: FromPath[str]) -> Response[str]:
    """Say what an action does, and ask for a reason."""

    def work(session: Session, visit: Visit) -> Context:
        wanted = _act(act)
        visit.by.require(wanted.role)
        report = device_report(session, device, by=visit.by, now=visit.now)
        return {"act": wanted, "name": act, "summary": report.summary}

    return shown(request, "confirm.html", work, section="devices")


@post("/ui/devices/{device:str}/label", sync_to_thread=True)
def label(request: HttpRequest, device: FromPath[str], data: Form) -> Response[str]:
    """Change what a device is called."""

    def work(session: Session, visit: Visit) -> str:
        text = label_of(data.get("label", "").strip())
        changed = administration.change_device(
            session, device, label=text, by=visit.by, now=visit.now
        )
        return f"/ui/devices/{changed.id}?done=label"

    return done(request, data, work)


@post("/ui/devices/{device:str}/{act:str}", sync_to_thread=True)
def do(
    request: HttpRequest, device: FromPath[str], act: FromPath[str], data: Form
) -> Response[str]:
    """Do it."""

    def work(session: Session, visit: Visit) -> str:
        wanted = _act(act)
        reason = data.get("reason", "").strip()
        if wanted.needs_reason and not reason:
            raise FormIncompleteError("give a reason: it stands in the audit trail")
        if wanted.grave and data.get("sure") != "yes":
            raise FormIncompleteError("say that you mean it: the box is not ticked")
        found = administration.device_named(session, device, by=visit.by).id
        if found != device:
            raise DeviceUnknownError("the device's whole name is needed for that")
        wanted.do(session, found, reason=reason, by=visit.by, now=visit.now)
        return f"/ui/devices/{found}?done={act}"

    return done(request, data, work)


# --- files, and all else ---------------------------------------------------------------


@get("/ui/static/{name:str}", sync_to_thread=False)
def static(name: FromPath[str]) -> Response[bytes]:
    """A file that pages load."""
    asset = find_asset(name)
    if asset is None:
        raise PageUnknownError("there is no such file")
    headers = {**HEADERS, "cache-control": FOREVER}
    return Response(asset.content, media_type=asset.media_type, headers=headers)


@get("/ui/{path:path}", sync_to_thread=False)
def unknown(path: FromPath[str]) -> Response[str]:
    """Whatever else begins like a page."""
    raise PageUnknownError(f"there is no page {path[:100]!r}")


def filter_of(query: Mapping[str, str]) -> DeviceFilter:
    """The filter that the address of a list of devices says.

    Raises:
        RequestError: a word that no filter knows.
    """
    states: dict[str, dict[str, bool]] = {
        "": {},
        "silent": {"silent": True},
        "failing": {"failing": True},
        "locked": {"locked": True},
        "retired": {"retired": True},
        "due": {"due": True},
    }
    state = query.get("state", "")
    standing, mode = query.get("standing", ""), query.get("mode", "")
    kind = query.get("kind", "")
    try:
        return DeviceFilter(
            search=label_of(query.get("search", "").strip()),
            standing=Standing(standing) if standing else None,
            mode=Mode(mode) if mode else None,
            kind=DeviceKind(kind) if kind else None,
            group=query.get("group") or None,
            release=query.get("release") or None,
            silent=states[state].get("silent"),
            locked=states[state].get("locked"),
            retired=states[state].get("retired"),
            due=states[state].get("due"),
            failing=states[state].get("failing"),
        )
    except (ValueError, KeyError) as error:
        raise RequestError("the list cannot be filtered like that") from error


def _measured(
    session: Session, device: str, *, group: str, pcr: int, enclave: bool
) -> Measured | None:
    kept = session.get(StoredEvidence, device)
    if kept is None:
        return None
    return measured(
        kept.content,
        at=kept.at,
        releases=references(session).releases,
        pcr=pcr,
        rules=policy_of(session, group).pcrs,
        enclave=enclave,
    )


def _act(name: str) -> Act:
    if name not in ACTS:
        raise PageUnknownError("there is no such page")
    return ACTS[name]


HANDLERS = (
    front,
    Router(
        path="/",
        route_handlers=[
            overview,
            devices,
            device,
            ask,
            label,
            do,
            static,
            unknown,
            *page_login.HANDLERS,
            *page_audit.HANDLERS,
            *page_policies.HANDLERS,
            *page_lists.HANDLERS,
        ],
        exception_handlers=ON_ERROR,
        include_in_schema=False,
    ),
)
