"""Routes for attestation results.

POST /v1/results              ResultRequest  IssuedResult   a device, about itself
GET  /v1/results/{device}                    IssuedResult   a relying party, with an API token
POST /v1/results/{device}     ResultRequest  IssuedResult   the same, with the nonce in the body
GET  /.well-known/jwks.json                  Jwks           anybody

A device proves itself by its client certificate, and hands its result on. A relying
party sees the devices that its token sees; any other does not exist for it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Annotated, Final

import msgspec
from litestar import Response, get, post
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import Parameter
from msgspec import Meta
from sqlalchemy.orm import Session

from hwtrust.errors import CredentialsError, DeviceUnknownError, IdentityError, RequestError
from hwtrust_backend.admin.principals import Role, authenticate, note_use
from hwtrust_backend.app.routes.operations import serving_of
from hwtrust_backend.app.routes.request import JSON_BODY, HttpRequest, backend_of, identity_of
from hwtrust_backend.enrolment import NAME_DIGITS, Device
from hwtrust_backend.results import MAX_AGE_SECONDS, IssuedResult, Jwks

JWKS_TYPE: Final = "application/jwk-set+json"
_BEARER: Final = "bearer "
_NONCE_TEXT: Final = 88
"""64 bytes in base64."""


class ResultRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What the relying party wants in the result: its nonce, and its own name."""

    nonce: Annotated[bytes, Meta(max_length=64)] = b""
    audience: Annotated[str, Meta(max_length=200)] = ""


_KEYS: Final = {
    200: ResponseSpec(Jwks, description="The keys", media_type=JWKS_TYPE),
    304: ResponseSpec(None, description="The keys that the caller has are the newest"),
}

DeviceName = Annotated[str, Parameter(max_length=NAME_DIGITS)]
NonceText = Annotated[
    str, Parameter(max_length=_NONCE_TEXT, description="8 to 64 bytes in base64 or base64url.")
]
Audience = Annotated[str, Parameter(max_length=200, description="Whom the result is for.")]


@post("/v1/results", status_code=200, sync_to_thread=True)
def own_result(
    request: HttpRequest, data: Annotated[ResultRequest, JSON_BODY]
) -> Response[IssuedResult]:
    """Give a device the result about itself, for it to show to a relying party."""
    backend = backend_of(request)
    backend.clock_watch.require_right()
    now = backend.clock()
    identity = identity_of(request, backend, now)
    if identity is None:
        raise IdentityError("a device shows its client certificate")
    with backend.database.transaction() as session:
        issued = backend.results.issue(
            session, identity.device, nonce=data.nonce, audience=data.audience, by="", now=now
        )
    return _private(issued)


@get("/v1/results/{device:str}", sync_to_thread=True)
def get_result(
    request: HttpRequest, device: DeviceName, nonce: NonceText = "", audience: Audience = ""
) -> Response[IssuedResult]:
    """Give a relying party the result about a device."""
    return _private(_for_principal(request, device, _nonce(nonce), audience))


@post("/v1/results/{device:str}", status_code=200, sync_to_thread=True)
def post_result(
    request: HttpRequest, device: DeviceName, data: Annotated[ResultRequest, JSON_BODY]
) -> Response[IssuedResult]:
    """Give a relying party the result about a device."""
    return _private(_for_principal(request, device, data.nonce, data.audience))


@get("/.well-known/jwks.json", sync_to_thread=True, responses=_KEYS)
def keys(request: HttpRequest) -> Response[bytes]:
    """The public keys that results are signed with, and those that come next."""
    content = msgspec.json.encode(_published(request))
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {"cache-control": f"public, max-age={MAX_AGE_SECONDS}", "etag": tag}
    known = request.headers.get("if-none-match", "")
    if known == "*" or tag in {one.strip().removeprefix("W/") for one in known.split(",")}:
        return Response(b"", status_code=304, headers=headers, media_type=JWKS_TYPE)
    return Response(content, headers=headers, media_type=JWKS_TYPE)


def _published(request: HttpRequest) -> Jwks:
    """The set of keys; the first ones are made when somebody asks for them."""
    backend = backend_of(request)
    with backend.database.reading() as session:
        found = backend.results.keys.published(session)
    if found.keys or serving_of(request).read_only.is_on():
        return found
    with backend.database.transaction() as session:
        backend.results.keys.keep(session, now=backend.clock())
        return backend.results.keys.published(session)


def _for_principal(request: HttpRequest, device: str, nonce: bytes, audience: str) -> IssuedResult:
    backend = backend_of(request)
    backend.clock_watch.require_right()
    # A GET that leaves a record changes something too.
    serving_of(request).read_only.require_off()
    now = backend.clock()
    token = _bearer_token(request)
    with backend.database.transaction() as session:
        by = _seen_by(session, device, token, now)
        return backend.results.issue(
            session, device, nonce=nonce, audience=audience, by=by, now=now
        )


def _seen_by(session: Session, device: str, token: str, now: int) -> str:
    principal = authenticate(session, token, now=now)
    principal.require(Role.VIEWER)
    row = session.get(Device, device)
    if row is None or not principal.sees(row.group):
        raise DeviceUnknownError("this device is not enrolled here")
    note_use(session, token, now=now)
    return principal.name


def _bearer_token(request: HttpRequest) -> str:
    header: str = request.headers.get("authorization", "")
    if not header.lower().startswith(_BEARER):
        raise CredentialsError("a relying party shows its API token")
    return header[len(_BEARER) :].strip()


def _nonce(text: str) -> bytes:
    padded = text + "=" * (-len(text) % 4)
    try:
        return base64.b64decode(padded.translate(_URL_SAFE), validate=True)
    except (ValueError, binascii.Error) as error:
        raise RequestError("the nonce is no base64") from error


def _private(issued: IssuedResult) -> Response[IssuedResult]:
    return Response(issued, headers={"cache-control": "no-store"})


_URL_SAFE: Final = str.maketrans("-_", "+/")

HANDLERS = (own_result, get_result, post_result, keys)
