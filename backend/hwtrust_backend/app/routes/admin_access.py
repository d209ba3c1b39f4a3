"""Routes for programs: those that call, and those that are told.

GET    /v1/admin/whoami                       WhoAmI
GET    /v1/admin/api-tokens                   ApiTokenPage
POST   /v1/admin/api-tokens                   NewApiToken    the token itself, this once
GET    /v1/admin/api-tokens/{name}            ApiTokenReport
DELETE /v1/admin/api-tokens/{name}            ApiTokenReport revoked
GET    /v1/admin/webhooks                     tuple[WebhookReport, …]
POST   /v1/admin/webhooks                     NewWebhook     its secret, this once
DELETE /v1/admin/webhooks/{webhook}
POST   /v1/admin/webhooks/{webhook}/secret    WebhookSecret  a new one
POST   /v1/admin/webhooks/{webhook}/enable    WebhookReport
POST   /v1/admin/webhooks/{webhook}/test      WebhookEvent
GET    /v1/admin/webhooks/{webhook}/deliveries    tuple[DeliveryReport, …]
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from litestar import delete, get, post
from litestar.params import PathParameter
from msgspec import Meta
from sqlalchemy.orm import Session

from hwtrust_backend.admin import api_tokens, hooks
from hwtrust_backend.admin.fields import PRINTABLE, Name, Span
from hwtrust_backend.admin.principals import Principal, Role
from hwtrust_backend.app.routes.admin_guard import Cursor, PageLimit, by_of, change, read, route
from hwtrust_backend.app.routes.request import JSON_BODY, HttpRequest, backend_of
from hwtrust_backend.webhooks import DeliveryReport, Topic, WebhookReport

ACCESS, WEBHOOKS = "access", "webhooks"

TokenName = Annotated[str, PathParameter(max_length=100, pattern=PRINTABLE)]
WebhookId = Annotated[str, PathParameter(max_length=40, pattern=PRINTABLE)]


class WhoAmI(msgspec.Struct, frozen=True, kw_only=True):
    """Whose token this is."""

    name: str
    """As the audit trail has it."""
    role: Role
    groups: tuple[str, ...] | None
    """The groups that it is limited to; absent: all devices."""


class ApiTokenRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The API token to make."""

    name: Name
    role: Role
    lifetime_ms: Span
    """A year at most."""
    groups: Annotated[tuple[Name, ...], Meta(min_length=1, max_length=100)] | None = None
    """Absent: all devices."""


class NewApiToken(msgspec.Struct, frozen=True, kw_only=True):
    """A token that was made; it cannot be shown again."""

    token: str
    report: api_tokens.ApiTokenReport


class WebhookRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The receiver to subscribe."""

    url: Annotated[str, Meta(max_length=2000, pattern=PRINTABLE)]
    topics: Annotated[tuple[Topic, ...], Meta(min_length=1, max_length=50)]
    group: Name | None = None
    """Of whose devices it hears; absent: of all."""


class NewWebhook(msgspec.Struct, frozen=True, kw_only=True):
    """A receiver that was subscribed, and what its events are signed with."""

    secret: str
    report: WebhookReport


class WebhookSecret(msgspec.Struct, frozen=True, kw_only=True):
    """A new secret; the one before signs too for another day."""

    secret: str


class WebhookEvent(msgspec.Struct, frozen=True, kw_only=True):
    """The event that was put into the outbox."""

    id: str


@get("/whoami", **route(Role.VIEWER, tag=ACCESS))
def whoami(request: HttpRequest) -> WhoAmI:
    """Say whose token this is, and what it may do."""
    by = by_of(request)
    groups = None if by.groups is None else tuple(sorted(by.groups))
    return WhoAmI(name=by.name, role=by.role, groups=groups)


@get("/api-tokens", **route(Role.ADMINISTRATOR, tag=ACCESS, all_groups=True))
def list_api_tokens(
    request: HttpRequest, cursor: Cursor = None, limit: PageLimit = 50
) -> api_tokens.ApiTokenPage:
    """List API tokens, by name; the tokens themselves are not stored."""

    def work(session: Session, by: Principal, now: int) -> api_tokens.ApiTokenPage:
        return api_tokens.api_token_page(session, by=by, now=now, cursor=cursor, limit=limit)

    return read(request, work)


@post("/api-tokens", **route(Role.ADMINISTRATOR, tag=ACCESS, all_groups=True))
def create_api_token(
    request: HttpRequest, data: Annotated[ApiTokenRequest, JSON_BODY]
) -> NewApiToken:
    """Make an API token. It is in this answer, and nowhere again."""

    def work(session: Session, by: Principal, now: int) -> NewApiToken:
        report, made = api_tokens.create_api_token(
            session,
            name=data.name,
            role=data.role,
            groups=data.groups,
            lifetime_ms=data.lifetime_ms,
            by=by,
            now=now,
        )
        return NewApiToken(token=made, report=report)

    return change(request, work)


@get("/api-tokens/{name:str}", **route(Role.ADMINISTRATOR, tag=ACCESS, all_groups=True))
def show_api_token(request: HttpRequest, name: TokenName) -> api_tokens.ApiTokenReport:
    """Show what is known of an API token."""

    def work(session: Session, by: Principal, now: int) -> api_tokens.ApiTokenReport:
        return api_tokens.api_token(session, name, by=by, now=now)

    return read(request, work)


@delete(
    "/api-tokens/{name:str}",
    status_code=200,
    **route(Role.ADMINISTRATOR, tag=ACCESS, all_groups=True),
)
def revoke_api_token(request: HttpRequest, name: TokenName) -> api_tokens.ApiTokenReport:
    """End an API token at once."""

    def work(session: Session, by: Principal, now: int) -> api_tokens.ApiTokenReport:
        return api_tokens.revoke_api_token(session, name, by=by, now=now)

    return change(request, work)


@get("/webhooks", **route(Role.VIEWER, tag=WEBHOOKS))
def list_webhooks(request: HttpRequest) -> tuple[WebhookReport, ...]:
    """List the receivers of events."""
    return read(request, lambda session, by, _: hooks.webhook_list(session, by=by))


@post("/webhooks", **route(Role.ADMINISTRATOR, tag=WEBHOOKS))
def add_webhook(request: HttpRequest, data: Annotated[WebhookRequest, JSON_BODY]) -> NewWebhook:
    """Subscribe a receiver; the secret that signs its events is in this answer alone."""
    webhooks = backend_of(request).webhooks

    def work(session: Session, by: Principal, now: int) -> NewWebhook:
        report, secret = hooks.add_webhook(
            session,
            webhooks,
            url=data.url,
            topics=data.topics,
            group=data.group or "",
            by=by,
            now=now,
        )
        return NewWebhook(secret=secret, report=report)

    return change(request, work)


@delete("/webhooks/{webhook:str}", **route(Role.ADMINISTRATOR, tag=WEBHOOKS))
def remove_webhook(request: HttpRequest, webhook: WebhookId) -> None:
    """End a subscription, and forget what was still to be delivered."""

    def work(session: Session, by: Principal, now: int) -> None:
        hooks.remove_webhook(session, webhook, by=by, now=now)

    change(request, work)


@post("/webhooks/{webhook:str}/secret", status_code=200, **route(Role.ADMINISTRATOR, tag=WEBHOOKS))
def rotate_webhook_secret(request: HttpRequest, webhook: WebhookId) -> WebhookSecret:
    """Give a receiver a new secret."""
    webhooks = backend_of(request).webhooks

    def work(session: Session, by: Principal, now: int) -> WebhookSecret:
        secret = hooks.rotate_webhook_secret(session, webhooks, webhook, by=by, now=now)
        return WebhookSecret(secret=secret)

    return change(request, work)


@post("/webhooks/{webhook:str}/enable", status_code=200, **route(Role.ADMINISTRATOR, tag=WEBHOOKS))
def enable_webhook(request: HttpRequest, webhook: WebhookId) -> WebhookReport:
    """Send to a receiver again, at once."""

    def work(session: Session, by: Principal, now: int) -> WebhookReport:
        return hooks.enable_webhook(session, webhook, by=by, now=now)

    return change(request, work)


@post("/webhooks/{webhook:str}/test", status_code=200, **route(Role.ADMINISTRATOR, tag=WEBHOOKS))
def try_webhook(request: HttpRequest, webhook: WebhookId) -> WebhookEvent:
    """Send a receiver a test event."""

    def work(session: Session, by: Principal, now: int) -> WebhookEvent:
        return WebhookEvent(id=hooks.try_webhook(session, webhook, by=by, now=now))

    return change(request, work)


@get("/webhooks/{webhook:str}/deliveries", **route(Role.VIEWER, tag=WEBHOOKS))
def list_deliveries(
    request: HttpRequest, webhook: WebhookId, limit: PageLimit = 50
) -> tuple[DeliveryReport, ...]:
    """List the newest deliveries to a receiver, newest first."""

    def work(session: Session, by: Principal, _: int) -> tuple[DeliveryReport, ...]:
        return hooks.webhook_deliveries(session, webhook, limit=limit, by=by)

    return read(request, work)


HANDLERS = (
    whoami,
    list_api_tokens,
    create_api_token,
    show_api_token,
    revoke_api_token,
    list_webhooks,
    add_webhook,
    remove_webhook,
    rotate_webhook_secret,
    enable_webhook,
    try_webhook,
    list_deliveries,
)
