"""Attest: evidence to the backend, and its answer.

    challenge ─▶ binding ─▶ report data ─▶ evidence ─▶ verdict · time · next root

Rules:
1. All that the backend is to believe is in the binding, whose digest is the report data.
2. The first evidence after a start, or after the certificate has run out, proves the TLS
   key (purpose `session`); only then is there a channel that both sides trust.
3. An answer counts once its signed time answers this challenge.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from hwtrust.anchors.protocols import Kind
from hwtrust.device.failures import stated
from hwtrust.device.results import AttestResult, State
from hwtrust.errors import ChannelTlsError, NotEnrolledError, RefusedError, StateError
from hwtrust.roots import accept_time
from hwtrust.wire.challenge import Purpose
from hwtrust.wire.enclave import (
    EnclaveAttest,
    EnclaveChallengeRequest,
    EnclaveEvidence,
    EnclaveReply,
)
from hwtrust.wire.enclave_parts import EnclaveParts, pem_of_table, wrap
from hwtrust.wire.messages import Binding, ChallengeReply, Mode, Severity, Standing

if TYPE_CHECKING:
    from hwtrust.anchors.protocols import RawEvidence
    from hwtrust.enclave.context import EnclaveContext
    from hwtrust.enclave.kept import Identity
    from hwtrust.wire.messages import Finding

CHALLENGES: Final = "/v1/enclaves/challenges"
ATTEST: Final = "/v1/enclaves/attest"

_UNAUTHORIZED: Final = 401
_CHALLENGE_OVER: Final = frozenset({"challenge:expired", "challenge:forged", "challenge:used"})


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer of the backend, and the time that it signed."""

    reply: EnclaveReply
    utc_ms: int


def known(enclave: EnclaveContext) -> Identity:
    """Who the enclave is.

    Raises:
        NotEnrolledError: it has not been started.
    """
    if enclave.identity is None:
        raise NotEnrolledError("the enclave has not been started: it is nobody yet")
    return enclave.identity


def ask(enclave: EnclaveContext) -> Answered:
    """Attest over a channel that both sides trust; make it first where it is missing.

    An enclave that has failed gets no certificate; then the answer to its session is the
    answer.

    Raises:
        ChannelError: the backend is away, or refuses.
        RootClockError, EnvelopeError: the time is not the backend's, or not for this.
        AnchorError: there is no evidence.
        MalformedError: what the host gives along with it is no table of certificates.
    """
    identity = known(enclave)
    if not enclave.channel.authenticated and identity.certificate:
        enclave.channel.authenticate(identity.tls_key, identity.certificate)
    if not enclave.channel.authenticated:
        return _session_first(enclave)
    try:
        return _exchange(enclave, Purpose.ATTEST)
    except (ChannelTlsError, RefusedError) as error:
        if isinstance(error, RefusedError) and error.data.get("status") != _UNAUTHORIZED:
            raise
        # The certificate has expired, or the CA is a new one: prove the key again.
        return _session_first(enclave)


def evidence(enclave: EnclaveContext, *, purpose: Purpose, nonce: bytes) -> EnclaveEvidence:
    """Evidence over a binding of everything that the backend is to believe."""
    identity = known(enclave)
    log = enclave.measured.log
    binding = Binding(
        purpose=purpose,
        nonce=nonce,
        tls_key=identity.tls_key.spki,
        epoch=enclave.epoch,
        release=enclave.release.name,
        log_digest=log.digest(),
        statement=stated(other="", failure=enclave.failure),
        release_key=identity.release_public,
    )
    raw = enclave.attester.attest(binding.report_data())
    return EnclaveEvidence(
        kind=enclave.kind,
        binding=binding,
        log=log.encode(),
        evidence=wrap(_parts(raw), kind=enclave.kind),
    )


def challenge(enclave: EnclaveContext, purpose: Purpose) -> bytes:
    """A nonce from the backend."""
    tls_key = known(enclave).tls_key.spki
    asked = EnclaveChallengeRequest(kind=enclave.kind, tls_key=tls_key, purpose=purpose)
    return enclave.channel.post(CHALLENGES, asked, ChallengeReply).nonce


def follow(enclave: EnclaveContext, answered: Answered) -> None:
    """Be what the backend's answer says."""
    reply = answered.reply
    reason = first_reason(reply)
    code, message = (reason.code, reason.message) if reason else ("", "")
    if reply.mode is Mode.LOCKED:
        enclave.lock()
        enclave.become(State.LOCKED, code=code, message=message or "the backend says so")
        return
    # Who is not trusted, or limited, keeps what he has until that ends.
    good = reply.mode is Mode.NORMAL and reply.standing is Standing.TRUSTED
    if good or enclave.grace_until is None:
        grace = reply.offline_grace_ms
        enclave.grace_until = answered.utc_ms + grace if grace else None
    if enclave.keystore is not None:
        if reply.mode is Mode.LIMITED:
            enclave.become(State.LIMITED, code=code, message=message)
        else:
            enclave.become(State.NORMAL)


def first_reason(reply: EnclaveReply) -> Finding | None:
    """The finding that weighs most, if there is any."""
    weighty = [finding for finding in reply.findings if finding.severity is Severity.FAIL]
    return next(iter(weighty or reply.findings), None)


def result_of(
    reply: EnclaveReply, *, rotated_to: int | None = None, root_waits: bool = False
) -> AttestResult:
    """What there is to tell the host application of an answer."""
    return AttestResult(
        reply.standing,
        reply.findings,
        reply.mode,
        reply.heartbeat_ms,
        rotated_to,
        root_waits,
        reply.offline_grace_ms,
        reply.update,
    )


def _session_first(enclave: EnclaveContext) -> Answered:
    enclave.channel.anonymous()
    enclave.challenge = b""
    answered = _exchange(enclave, Purpose.SESSION)
    certificate = answered.reply.certificate
    if not certificate:
        return answered
    identity = known(enclave)
    enclave.channel.authenticate(identity.tls_key, certificate)
    identity.certificate = certificate
    if not identity.wiped:
        # The backend gives another where this one is not kept.
        with contextlib.suppress(StateError):
            enclave.state.save(identity)
    return _exchange(enclave, Purpose.ATTEST)


def _exchange(enclave: EnclaveContext, purpose: Purpose) -> Answered:
    nonce, enclave.challenge = enclave.challenge, b""
    if nonce:
        try:
            return _answer(enclave, purpose, nonce)
        except RefusedError as error:
            if error.data.get("problem") not in _CHALLENGE_OVER:
                raise
    return _answer(enclave, purpose, challenge(enclave, purpose))


def _answer(enclave: EnclaveContext, purpose: Purpose, nonce: bytes) -> Answered:
    identity, failure = known(enclave), enclave.failure
    request = EnclaveAttest(
        device=identity.name,
        evidence=evidence(enclave, purpose=purpose, nonce=nonce),
        csr=identity.tls_key.csr() if purpose is Purpose.SESSION else b"",
    )
    asked = enclave.clock.elapsed()
    reply = enclave.channel.post(ATTEST, request, EnclaveReply)
    utc_ms = accept_time(
        reply.time, metadata_key=enclave.metadata_key, device=identity.name, nonce=nonce
    )
    enclave.clock.follow(utc_ms, asked=asked)
    enclave.challenge = reply.challenge
    if enclave.failure is failure:
        enclave.failure = None
    return Answered(reply, utc_ms)


def _parts(raw: RawEvidence) -> EnclaveParts:
    table = raw.certificates if raw.kind is Kind.SNP else b""
    return EnclaveParts(tee=raw.evidence, certificates=pem_of_table(table) if table else b"")
