"""The HTTP API.

    POST /v1/enrolments               EnrolBegin        EnrolChallenge
    POST /v1/enrolments/{id}/key      EnrolKey          EnrolCredential
    POST /v1/enrolments/{id}/finish   EnrolFinish       Enrolled
    POST /v1/challenges               ChallengeRequest  ChallengeReply
    POST /v1/attest                   AttestRequest     AttestReply
    GET  /healthz                                       Health

Every error is a problem (RFC 9457) with the error's code. The OpenAPI document
is at /schema/openapi.json.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from litestar import Litestar, Request, get, post
from litestar.enums import RequestEncodingType
from litestar.exceptions import HTTPException
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.params import Body, Parameter
from sqlalchemy import text
from sqlalchemy.orm import Session

from hwtrust.errors import HwTrustError, RequestError
from hwtrust.wire.messages import (
    AttestReply,
    AttestRequest,
    ChallengeReply,
    ChallengeRequest,
    EnrolBegin,
    EnrolChallenge,
    EnrolCredential,
    EnrolFinish,
    EnrolKey,
    Enrolled,
)
from hwtrust.wire.structures import Public
from hwtrust_backend.app.backend import Backend
from hwtrust_backend.app.caller import caller, trusted_peers
from hwtrust_backend.app.problems import on_anything, on_error, on_http_error, on_timeout
from hwtrust_backend.appraisal.service import evidence_digest
from hwtrust_backend.audit import Event
from hwtrust_backend.enrolment import Enrolment
from hwtrust_backend.keys import DeviceIdentity, KeyRole, device_of_certificate

EnrolmentId = Annotated[str, Parameter(max_length=64)]

JSON_BODY: Final = Body(media_type=RequestEncodingType.JSON)

_STATE: Final = "backend"


class HttpRequest(Request[Any, Any, Any]):
    """A request whose body ends in a typed error where it is no JSON."""

    async def json(self) -> Any:  # noqa: ANN401 - whatever the body says
        """The body, decoded.

        Raises:
            RequestError: not UTF-8, or nested deeper than anything that is meant.
        """
        try:
            return await super().json()
        except (UnicodeDecodeError, RecursionError) as error:
            raise RequestError("the request's body is no JSON that this API takes") from error


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the backend can work: it answers, and so does its database."""

    status: str


def create_app(backend: Backend) -> Litestar:
    """The ASGI application."""
    app = Litestar(
        route_handlers=[begin_enrolment, add_key, finish_enrolment, give_challenge, attest, health],
        exception_handlers={
            HwTrustError: on_error,
            HTTPException: on_http_error,
            TimeoutError: on_timeout,
            Exception: on_anything,
        },
        request_class=HttpRequest,
        request_max_body_size=backend.settings.body_limit,
        openapi_config=OpenAPIConfig(
            title="hwtrust-backend",
            version="1",
            path="/schema",
            render_plugins=[JsonRenderPlugin()],
        ),
        logging_config=None,
        debug=False,
    )
    app.state[_STATE] = backend
    return app


@post("/v1/enrolments", status_code=200, sync_to_thread=True)
def begin_enrolment(request: HttpRequest, data: Annotated[EnrolBegin, JSON_BODY]) -> EnrolChallenge:
    """Begin to enrol a device: is its endorsement key believed?"""
    backend = _backend(request)

    def work(session: Session, now: int) -> EnrolChallenge:
        return backend.enrolments.begin(session, data, now=now)

    device = _name_of(data.ek_public)
    return backend.decide(work, refused=Event.ENROLMENT_REFUSED, device=device)


@post("/v1/enrolments/{enrolment:str}/key", status_code=200, sync_to_thread=True)
def add_key(
    request: HttpRequest, enrolment: EnrolmentId, data: Annotated[EnrolKey, JSON_BODY]
) -> EnrolCredential:
    """Give the attestation key, and get a credential that only its TPM can open."""
    backend = _backend(request)

    def work(session: Session, now: int) -> EnrolCredential:
        return backend.enrolments.add_key(session, enrolment, data, now=now)

    device = _device_of(backend, enrolment)
    return backend.decide(work, refused=Event.ENROLMENT_REFUSED, device=device)


@post("/v1/enrolments/{enrolment:str}/finish", status_code=200, sync_to_thread=True)
def finish_enrolment(
    request: HttpRequest, enrolment: EnrolmentId, data: Annotated[EnrolFinish, JSON_BODY]
) -> Enrolled:
    """Finish an enrolment: the device gets its certificate and its first root."""
    backend = _backend(request)

    def work(session: Session, now: int) -> Enrolled:
        return backend.enrolments.finish(session, enrolment, data, now=now)

    return backend.decide(
        work,
        refused=Event.ENROLMENT_REFUSED,
        device=_device_of(backend, enrolment),
        evidence=evidence_digest(data.evidence),
    )


@post("/v1/challenges", status_code=200, sync_to_thread=True)
def give_challenge(
    request: HttpRequest, data: Annotated[ChallengeRequest, JSON_BODY]
) -> ChallengeReply:
    """Get a nonce to attest with; needed only where no reply has given one."""
    backend = _backend(request)
    with backend.database.reading() as session:
        return backend.attestations.challenge(session, data, now=backend.clock())


@post("/v1/attest", status_code=200, sync_to_thread=True)
def attest(request: HttpRequest, data: Annotated[AttestRequest, JSON_BODY]) -> AttestReply:
    """Attest: with a client certificate for leave and roots, without one for a certificate."""
    backend = _backend(request)

    def work(session: Session, now: int) -> AttestReply:
        identity = _identity(request, backend, now)
        return backend.attestations.attest(session, data, identity=identity, now=now)

    return backend.decide(
        work,
        refused=Event.EVIDENCE_REFUSED,
        device=data.device.hex(),
        evidence=evidence_digest(data.evidence),
    )


@get("/healthz", sync_to_thread=True)
def health(request: HttpRequest) -> Health:
    """Answer if the database does."""
    with _backend(request).database.reading() as session:
        session.execute(text("SELECT 1"))
    return Health(status="ok")


def _backend(request: HttpRequest) -> Backend:
    backend = request.app.state[_STATE]
    if not isinstance(backend, Backend):
        raise TypeError("the application was not made by create_app")
    return backend


def _identity(request: HttpRequest, backend: Backend, now: int) -> DeviceIdentity | None:
    def recognise(der: bytes) -> DeviceIdentity:
        authority = backend.vault.authority(KeyRole.DEVICE_CA)
        return device_of_certificate(der, authority=authority, now=now)

    return caller(request, trusted_proxies=trusted_peers(backend.settings), recognise=recognise)


def _name_of(ek_public: bytes) -> str:
    """Who begins to enrol, for the audit trail; nothing where that cannot be said."""
    try:
        return Public.decode_sized(ek_public).name.hex()
    except HwTrustError:
        return ""


def _device_of(backend: Backend, enrolment: str) -> str:
    with backend.database.reading() as session:
        row = session.get(Enrolment, enrolment)
        return "" if row is None else row.device
