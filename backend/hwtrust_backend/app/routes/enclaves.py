"""Routes for enclaves and confidential VMs.

POST /v1/enclaves/challenges   EnclaveChallengeRequest   ChallengeReply
POST /v1/enclaves/enrol        EnclaveEnrol              EnclaveEnrolled
POST /v1/enclaves/attest       EnclaveAttest             EnclaveReply
"""

from __future__ import annotations

from typing import Annotated

from litestar import post
from sqlalchemy.orm import Session

from hwtrust.wire.enclave import (
    EnclaveAttest,
    EnclaveChallengeRequest,
    EnclaveEnrol,
    EnclaveEnrolled,
    EnclaveReply,
    enclave_name,
)
from hwtrust.wire.messages import ChallengeReply
from hwtrust_backend.app.routes.request import JSON_BODY, HttpRequest, backend_of, identity_of
from hwtrust_backend.audit import Event, evidence_digest
from hwtrust_backend.observe import metrics


@post("/v1/enclaves/challenges", status_code=200, sync_to_thread=True)
def give_enclave_challenge(
    request: HttpRequest, data: Annotated[EnclaveChallengeRequest, JSON_BODY]
) -> ChallengeReply:
    """Get a nonce to enrol or attest an enclave with."""
    backend = backend_of(request)
    with backend.database.reading() as session:
        return backend.enclaves.challenge(session, data, now=backend.clock())


@post("/v1/enclaves/enrol", status_code=200, sync_to_thread=True)
def enrol_enclave(
    request: HttpRequest, data: Annotated[EnclaveEnrol, JSON_BODY]
) -> EnclaveEnrolled:
    """Enrol an enclave: it gets its certificate and its first root."""
    backend = backend_of(request)

    def work(session: Session, now: int) -> EnclaveEnrolled:
        return backend.enclaves.enrol(session, data, now=now)

    return backend.decide(
        work,
        refused=Event.ENROLMENT_REFUSED,
        device=enclave_name(data.evidence.kind, data.evidence.binding.tls_key).hex(),
        evidence=evidence_digest(data.evidence),
    )


@post("/v1/enclaves/attest", status_code=200, sync_to_thread=True)
def attest_enclave(request: HttpRequest, data: Annotated[EnclaveAttest, JSON_BODY]) -> EnclaveReply:
    """Attest an enclave: with a client certificate for roots, without one for a certificate."""
    backend = backend_of(request)

    def work(session: Session, now: int) -> EnclaveReply:
        identity = identity_of(request, backend, now)
        return backend.enclaves.attest(session, data, identity=identity, now=now)

    reply = backend.decide(
        work,
        refused=Event.EVIDENCE_REFUSED,
        device=data.device.hex(),
        evidence=evidence_digest(data.evidence),
    )
    backend.activity.count(now=backend.clock())
    metrics.ATTESTATIONS.inc(standing=reply.standing.value)
    metrics.ATTESTATIONS_OF_KIND.inc(kind=data.evidence.kind.value)
    return reply


HANDLERS = (give_enclave_challenge, enrol_enclave, attest_enclave)
