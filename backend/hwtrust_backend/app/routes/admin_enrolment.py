"""Routes for what lets devices in.

GET    /v1/admin/enrolment-tokens          TokenPage
POST   /v1/admin/enrolment-tokens          NewToken        the token itself, this once
GET    /v1/admin/enrolment-tokens/{id}     TokenReport
DELETE /v1/admin/enrolment-tokens/{id}     TokenReport     revoked
GET    /v1/admin/eks                       EkPage
POST   /v1/admin/eks/import                EkImport        CSV, all or nothing
GET    /v1/admin/eks/export                CSV
GET    /v1/admin/eks/{name}                EkReport
PUT    /v1/admin/eks/{name}                EkReport
DELETE /v1/admin/eks/{name}
GET    /v1/admin/ek-authorities            AuthorityList
POST   /v1/admin/ek-authorities            AuthorityImport  PEM or DER
DELETE /v1/admin/ek-authorities/{id}
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import msgspec
from litestar import delete, get, post, put
from litestar.openapi.spec import OpenAPIMediaType, Operation, RequestBody, Schema
from litestar.openapi.spec.enums import OpenAPIType
from litestar.params import PathParameter, QueryParameter, RawBody
from litestar.response import Stream
from sqlalchemy.orm import Session

from hwtrust_backend.admin import authorities, eks, tokens
from hwtrust_backend.admin.fields import END, PRINTABLE, Label, Name, Span, Uses
from hwtrust_backend.admin.principals import Principal, Role
from hwtrust_backend.app.routes.admin_guard import Cursor, PageLimit, by_of, change, read, route
from hwtrust_backend.app.routes.admin_stream import streamed
from hwtrust_backend.app.routes.request import JSON_BODY, HttpRequest, backend_of
from hwtrust_backend.config.clock import HOUR
from hwtrust_backend.enrolment.authorities import AuthorityKind
from hwtrust_backend.policies import DEFAULT_GROUP

TOKENS, EKS, AUTHORITIES = "enrolment tokens", "endorsement keys", "vendor CAs"
CSV_TYPE = "text/csv"

TokenId = Annotated[
    str,
    PathParameter(pattern=rf"^[0-9a-f]{{6,64}}{END}", description="Its id, or a beginning of it."),
]
EkName = Annotated[
    str,
    PathParameter(
        pattern=rf"^[0-9a-f]{{68,132}}{END}", description="The EK's Name, in hexadecimal."
    ),
]
AuthorityId = Annotated[str, PathParameter(pattern=rf"^[0-9a-f]{{32}}{END}")]


class TokenRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The token to make."""

    label: Label = ""
    group: Name = DEFAULT_GROUP
    """Where the devices go that enrol with it."""
    uses: Uses = 1
    lifetime_ms: Span = HOUR


class NewToken(msgspec.Struct, frozen=True, kw_only=True):
    """A token that was made; it cannot be shown again."""

    token: str
    report: tokens.TokenReport


class EkRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the list is to say of an EK."""

    label: Label = ""
    group: Name = DEFAULT_GROUP


@dataclass
class CsvOperation(Operation):
    """A route that takes a CSV file."""

    def __post_init__(self) -> None:
        """Describe the body, which the framework does not see."""
        text = OpenAPIMediaType(schema=Schema(type=OpenAPIType.STRING))
        self.request_body = RequestBody(content={CSV_TYPE: text}, required=True)


@dataclass
class CertificatesOperation(Operation):
    """A route that takes certificates."""

    def __post_init__(self) -> None:
        """Describe the body, which the framework does not see."""
        binary = OpenAPIMediaType(schema=Schema(type=OpenAPIType.STRING, format="binary"))  # type: ignore[arg-type]
        kinds = ("application/pem-certificate-chain", "application/octet-stream")
        self.request_body = RequestBody(content=dict.fromkeys(kinds, binary), required=True)


@get("/enrolment-tokens", **route(Role.VIEWER, tag=TOKENS))
def list_tokens(
    request: HttpRequest, cursor: Cursor = None, limit: PageLimit = 50
) -> tokens.TokenPage:
    """List enrolment tokens, oldest first; the tokens themselves are not stored."""

    def work(session: Session, by: Principal, now: int) -> tokens.TokenPage:
        return tokens.token_page(session, by=by, now=now, cursor=cursor, limit=limit)

    return read(request, work)


@post("/enrolment-tokens", **route(Role.OPERATOR, tag=TOKENS))
def create_token(request: HttpRequest, data: Annotated[TokenRequest, JSON_BODY]) -> NewToken:
    """Make an enrolment token. It is in this answer, and nowhere again."""

    def work(session: Session, by: Principal, now: int) -> NewToken:
        report, made = tokens.create_token(
            session,
            label=data.label,
            group=data.group,
            uses=data.uses,
            lifetime_ms=data.lifetime_ms,
            by=by,
            now=now,
        )
        return NewToken(token=made, report=report)

    return change(request, work)


@get("/enrolment-tokens/{token:str}", **route(Role.VIEWER, tag=TOKENS))
def show_token(request: HttpRequest, token: TokenId) -> tokens.TokenReport:
    """Show what is known of an enrolment token."""

    def work(session: Session, by: Principal, now: int) -> tokens.TokenReport:
        return tokens.token(session, token, by=by, now=now)

    return read(request, work)


@delete("/enrolment-tokens/{token:str}", status_code=200, **route(Role.OPERATOR, tag=TOKENS))
def revoke_token(request: HttpRequest, token: TokenId) -> tokens.TokenReport:
    """Revoke an enrolment token; devices that have used it stay enrolled."""

    def work(session: Session, by: Principal, now: int) -> tokens.TokenReport:
        return tokens.revoke_token(session, token, by=by, now=now)

    return change(request, work)


@get("/eks", **route(Role.VIEWER, tag=EKS))
def list_eks(request: HttpRequest, cursor: Cursor = None, limit: PageLimit = 50) -> eks.EkPage:
    """List the EKs that are trusted by name."""

    def work(session: Session, by: Principal, _: int) -> eks.EkPage:
        return eks.ek_page(session, by=by, cursor=cursor, limit=limit)

    return read(request, work)


@post(
    "/eks/import",
    status_code=200,
    operation_class=CsvOperation,
    **route(Role.OPERATOR, tag=EKS, limit=eks.FILE_LIMIT),
)
def import_eks(request: HttpRequest, body: RawBody) -> eks.EkImport:
    """Put every EK of a CSV file (UTF-8; name, label, group) on the list, or none of them."""

    def work(session: Session, by: Principal, now: int) -> eks.EkImport:
        return eks.import_eks(session, body, by=by, now=now)

    return change(request, work)


@get("/eks/export", media_type=CSV_TYPE, **route(Role.VIEWER, tag=EKS))
def export_eks(request: HttpRequest) -> Stream:
    """Export the list as CSV; it can be imported again as it is."""
    by = by_of(request)

    return streamed(
        backend_of(request), lambda session: eks.export_eks(session, by=by), media_type=CSV_TYPE
    )


@get("/eks/{name:str}", **route(Role.VIEWER, tag=EKS))
def show_ek(request: HttpRequest, name: EkName) -> eks.EkReport:
    """Show what the list says of an EK."""
    return read(request, lambda session, by, _: eks.ek(session, name, by=by))


@put("/eks/{name:str}", **route(Role.OPERATOR, tag=EKS))
def allow_ek(
    request: HttpRequest, name: EkName, data: Annotated[EkRequest, JSON_BODY]
) -> eks.EkReport:
    """Let the TPM with this EK enrol, with no certificate and no token."""

    def work(session: Session, by: Principal, now: int) -> eks.EkReport:
        return eks.allow_ek(session, name, label=data.label, group=data.group, by=by, now=now)

    return change(request, work)


@delete("/eks/{name:str}", **route(Role.OPERATOR, tag=EKS))
def remove_ek(request: HttpRequest, name: EkName) -> None:
    """Take an EK off the list; a device that is enrolled stays so."""
    change(request, lambda session, by, now: eks.remove_ek(session, name, by=by, now=now))


@get("/ek-authorities", **route(Role.VIEWER, tag=AUTHORITIES))
def list_authorities(request: HttpRequest) -> authorities.AuthorityList:
    """List the imported files of TPM vendors' CAs, and what is in force."""
    known = backend_of(request).enrolments.authorities

    def work(session: Session, by: Principal, _: int) -> authorities.AuthorityList:
        return authorities.authority_list(session, authorities=known, by=by)

    return read(request, work)


@post(
    "/ek-authorities",
    operation_class=CertificatesOperation,
    **route(Role.ADMINISTRATOR, tag=AUTHORITIES, all_groups=True, limit=authorities.FILE_LIMIT),
)
def import_authority(
    request: HttpRequest,
    body: RawBody,
    kind: Annotated[AuthorityKind, QueryParameter(description="What the file holds.")],
    label: Annotated[str, QueryParameter(max_length=200, pattern=PRINTABLE)] = "",
) -> authorities.AuthorityImport:
    """Trust a vendor's CAs, or take its revocation list: PEM or DER, one or a bundle."""
    known = backend_of(request).enrolments.authorities

    def work(session: Session, by: Principal, now: int) -> authorities.AuthorityImport:
        return authorities.import_authority(
            session, body, authorities=known, kind=kind, label=label, by=by, now=now
        )

    return change(request, work)


@delete(
    "/ek-authorities/{authority:str}",
    **route(Role.ADMINISTRATOR, tag=AUTHORITIES, all_groups=True),
)
def drop_authority(request: HttpRequest, authority: AuthorityId) -> None:
    """Trust a vendor no longer; devices that are enrolled stay so."""

    def work(session: Session, by: Principal, now: int) -> None:
        authorities.drop_authority(session, authority, by=by, now=now)

    change(request, work)


HANDLERS = (
    list_tokens,
    create_token,
    show_token,
    revoke_token,
    list_eks,
    import_eks,
    export_eks,
    show_ek,
    allow_ek,
    remove_ek,
    list_authorities,
    import_authority,
    drop_authority,
)
