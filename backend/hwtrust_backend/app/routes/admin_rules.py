"""Routes for what devices are held to.

GET  /v1/admin/groups                                   tuple[GroupReport, …]
GET  /v1/admin/groups/{group}                           GroupReport
PUT  /v1/admin/groups/{group}                           GroupReport
POST /v1/admin/groups/{group}/dry-run                   DryRun          a document, tried
GET  /v1/admin/policies                                 tuple[PolicyReport, …]
GET  /v1/admin/policies/{policy}                        PolicyDocument  the one in force
POST /v1/admin/policies/{policy}/versions               PolicyReport
GET  /v1/admin/policies/{policy}/versions/{version}     PolicyDocument
POST /v1/admin/policies/{policy}/versions/{version}/activate   PolicyReport
GET  /v1/admin/releases                                 tuple[ReleaseReport, …]
POST /v1/admin/releases                                 ReleaseReport
GET  /v1/admin/releases/{release}                       Release
POST /v1/admin/releases/{release}/accept                ReleaseReport
POST /v1/admin/releases/{release}/retire                ReleaseReport
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from litestar import get, post, put
from litestar.params import PathParameter
from msgspec import Meta
from sqlalchemy.orm import Session

from hwtrust.wire.envelope import Envelope
from hwtrust.wire.messages import Release
from hwtrust_backend.admin import releases, rules
from hwtrust_backend.admin.fields import END, PRINTABLE, Label, Name
from hwtrust_backend.admin.principals import Principal, Role
from hwtrust_backend.app.routes.admin_guard import change, read, route
from hwtrust_backend.app.routes.request import JSON_BODY, HttpRequest, backend_of
from hwtrust_backend.appraisal.dry_run import DryRun

GROUPS, POLICIES, RELEASES = "groups", "policies", "releases"
LONGEST_DOCUMENT: Final = 256 * 1024
MOST_TRIED: Final = 10_000
"""Devices that one dry run looks at by HTTP; the command line has no limit."""

GroupName = Annotated[str, PathParameter(max_length=100, pattern=PRINTABLE)]
PolicyName = Annotated[str, PathParameter(max_length=100, pattern=PRINTABLE)]
Version = Annotated[int, PathParameter(ge=1, le=2**31 - 1)]
ReleaseId = Annotated[str, PathParameter(max_length=200, pattern=PRINTABLE)]
Document = Annotated[str, Meta(max_length=LONGEST_DOCUMENT, pattern=rf"^[^\x00]*{END}")]


class GroupRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a group is to be."""

    policy: Name
    label: Label = ""


class PolicyRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The next version of a policy."""

    document: Document
    """TOML."""
    note: Label = ""
    signature: Envelope | None = None
    """A signer's envelope, as `policy sign` writes it."""


class DryRunRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A document to be tried."""

    document: Document
    limit: Annotated[int, Meta(ge=1, le=MOST_TRIED)] = 1000


@get("/groups", **route(Role.VIEWER, tag=GROUPS))
def list_groups(request: HttpRequest) -> tuple[rules.GroupReport, ...]:
    """List the groups."""
    return read(request, lambda session, by, _: rules.groups(session, by=by))


@get("/groups/{group:str}", **route(Role.VIEWER, tag=GROUPS))
def show_group(request: HttpRequest, group: GroupName) -> rules.GroupReport:
    """Show a group."""
    return read(request, lambda session, by, _: rules.group(session, group, by=by))


@put("/groups/{group:str}", **route(Role.ADMINISTRATOR, tag=GROUPS, all_groups=True))
def set_group(
    request: HttpRequest, group: GroupName, data: Annotated[GroupRequest, JSON_BODY]
) -> rules.GroupReport:
    """Make a group, or change its policy and label."""

    def work(session: Session, by: Principal, now: int) -> rules.GroupReport:
        return rules.set_group(session, group, policy=data.policy, label=data.label, by=by, now=now)

    return change(request, work)


@post("/groups/{group:str}/dry-run", status_code=200, **route(Role.OPERATOR, tag=GROUPS))
def try_policy(
    request: HttpRequest, group: GroupName, data: Annotated[DryRunRequest, JSON_BODY]
) -> DryRun:
    """Say what a policy would do to the group's devices, by the evidence that is kept."""

    def work(session: Session, by: Principal, _: int) -> DryRun:
        return rules.try_policy(session, data.document, group=group, limit=data.limit, by=by)

    return read(request, work)


@get("/policies", **route(Role.VIEWER, tag=POLICIES))
def list_policies(request: HttpRequest) -> tuple[rules.PolicyReport, ...]:
    """List every version of every policy; newest first."""
    return read(request, lambda session, by, _: rules.policy_versions(session, by=by))


@get("/policies/{policy:str}", **route(Role.VIEWER, tag=POLICIES))
def show_policy(request: HttpRequest, policy: PolicyName) -> rules.PolicyDocument:
    """Show the version of a policy that is in force."""
    return read(request, lambda session, by, _: rules.policy(session, policy, None, by=by))


@post("/policies/{policy:str}/versions", **route(Role.ADMINISTRATOR, tag=POLICIES, all_groups=True))
def add_policy(
    request: HttpRequest, policy: PolicyName, data: Annotated[PolicyRequest, JSON_BODY]
) -> rules.PolicyReport:
    """Add the next version of a policy; it is not in force by that."""
    settings = backend_of(request).settings

    def work(session: Session, by: Principal, now: int) -> rules.PolicyReport:
        return rules.add_policy(
            session,
            policy,
            data.document,
            note=data.note,
            signature=data.signature,
            settings=settings,
            by=by,
            now=now,
        )

    return change(request, work)


@get("/policies/{policy:str}/versions/{version:int}", **route(Role.VIEWER, tag=POLICIES))
def show_policy_version(
    request: HttpRequest, policy: PolicyName, version: Version
) -> rules.PolicyDocument:
    """Show a version of a policy."""
    return read(request, lambda session, by, _: rules.policy(session, policy, version, by=by))


@post(
    "/policies/{policy:str}/versions/{version:int}/activate",
    status_code=200,
    **route(Role.ADMINISTRATOR, tag=POLICIES, all_groups=True),
)
def activate_policy(
    request: HttpRequest, policy: PolicyName, version: Version
) -> rules.PolicyReport:
    """Put a version of a policy into force, for every group that has the policy."""
    settings = backend_of(request).settings

    def work(session: Session, by: Principal, now: int) -> rules.PolicyReport:
        return rules.activate_policy(session, policy, version, settings=settings, by=by, now=now)

    return change(request, work)


@get("/releases", **route(Role.VIEWER, tag=RELEASES))
def list_releases(request: HttpRequest) -> tuple[releases.ReleaseReport, ...]:
    """List the releases, in the order in which they were added."""
    return read(request, lambda session, by, _: releases.releases(session, by=by))


@post("/releases", **route(Role.ADMINISTRATOR, tag=RELEASES, all_groups=True))
def add_release(
    request: HttpRequest, data: Annotated[Release, JSON_BODY]
) -> releases.ReleaseReport:
    """Add a release; it is not accepted by that."""

    def work(session: Session, by: Principal, now: int) -> releases.ReleaseReport:
        return releases.add_release(session, data, by=by, now=now)

    return change(request, work)


@get("/releases/{release:str}", **route(Role.VIEWER, tag=RELEASES))
def show_release(request: HttpRequest, release: ReleaseId) -> Release:
    """Show a release with its layers."""
    return read(request, lambda session, by, _: releases.release(session, release, by=by))


@post(
    "/releases/{release:str}/accept",
    status_code=200,
    **route(Role.ADMINISTRATOR, tag=RELEASES, all_groups=True),
)
def accept_release(request: HttpRequest, release: ReleaseId) -> releases.ReleaseReport:
    """Let devices run a release; the one accepted last is the current one."""

    def work(session: Session, by: Principal, now: int) -> releases.ReleaseReport:
        return releases.accept_release(session, release, by=by, now=now)

    return change(request, work)


@post(
    "/releases/{release:str}/retire",
    status_code=200,
    **route(Role.ADMINISTRATOR, tag=RELEASES, all_groups=True),
)
def retire_release(request: HttpRequest, release: ReleaseId) -> releases.ReleaseReport:
    """Refuse a release from now on: devices that run it fail."""

    def work(session: Session, by: Principal, now: int) -> releases.ReleaseReport:
        return releases.retire_release(session, release, by=by, now=now)

    return change(request, work)


HANDLERS = (
    list_groups,
    show_group,
    set_group,
    try_policy,
    list_policies,
    show_policy,
    add_policy,
    show_policy_version,
    activate_policy,
    list_releases,
    add_release,
    show_release,
    accept_release,
    retire_release,
)
