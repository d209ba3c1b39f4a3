"""Routes for devices.

POST /v1/enrolments               EnrolBegin        EnrolChallenge
POST /v1/enrolments/{id}/key      EnrolKey          EnrolCredential
POST /v1/enrolments/{id}/finish   EnrolFinish       Enrolled
POST /v1/challenges               ChallengeRequest  ChallengeReply
POST /v1/attest                   AttestRequest     AttestReply
"""

from __future__ import annotations

from typing import Annotated

from litestar import post
from litestar.params import Parameter
from sqlalchemy.orm import Session

from hwtrust.errors import HwTrustError, IdentityError
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
from hwtrust_backend.app.routes.direct import AttestHttpRequest, DirectResponse
from hwtrust_backend.app.routes.request import JSON_BODY, HttpRequest, backend_of, identity_of
from hwtrust_backend.appraisal import Asked
from hwtrust_backend.audit import Event, evidence_digest
from hwtrust_backend.enrolment import Enrolment
from hwtrust_backend.observe import traces

EnrolmentId = Annotated[str, Parameter(max_length=64)]


@post("/v1/enrolments", status_code=200, sync_to_thread=True)
def begin_enrolment(request: HttpRequest, data: Annotated[EnrolBegin, JSON_BODY]) -> EnrolChallenge:
    """Begin to enrol a device: is its endorsement key believed?"""
    backend = backend_of(request)

    def work(session: Session, now: int) -> EnrolChallenge:
        return backend.enrolments.begin(session, data, now=now)

    device = _name_of(data.ek_public)
    return backend.decide(work, refused=Event.ENROLMENT_REFUSED, device=device)


@post("/v1/enrolments/{enrolment:str}/key", status_code=200, sync_to_thread=True)
def add_key(
    request: HttpRequest, enrolment: EnrolmentId, data: Annotated[EnrolKey, JSON_BODY]
) -> EnrolCredential:
    """Give the attestation key, and get a credential that only its TPM can open."""
    backend = backend_of(request)

    def work(session: Session, now: int) -> EnrolCredential:
        return backend.enrolments.add_key(session, enrolment, data, now=now)

    device = _device_of(backend, enrolment)
    return backend.decide(work, refused=Event.ENROLMENT_REFUSED, device=device)


@post("/v1/enrolments/{enrolment:str}/finish", status_code=200, sync_to_thread=True)
def finish_enrolment(
    request: HttpRequest, enrolment: EnrolmentId, data: Annotated[EnrolFinish, JSON_BODY]
) -> Enrolled:
    """Finish an enrolment: the device gets its certificate and its first root."""
    backend = backend_of(request)

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
    backend = backend_of(request)
    with backend.database.reading() as session:
        return backend.attestations.challenge(session, data, now=backend.clock())


@post(
    "/v1/attest",
    status_code=200,
    request_class=AttestHttpRequest,
    response_class=DirectResponse,
)
async def attest(request: HttpRequest, data: Annotated[AttestRequest, JSON_BODY]) -> AttestReply:
    """Attest: with a client certificate for leave and roots, without one for a certificate."""
    backend = backend_of(request)
    backend.clock_watch.require_right()
    now = backend.clock()
    try:
        identity = identity_of(request, backend, now)
        asked = Asked(data, identity, trace=traces.current())
    except IdentityError as error:
        asked = Asked(data, None, refusal=error, trace=traces.current())
    reply = await backend.committer.submit(asked)
    backend.activity.count(now=now)
    return reply


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


HANDLERS = (begin_enrolment, add_key, finish_enrolment, give_challenge, attest)
