"""Devices that speak with a backend: over real TLS, or to its services directly.

    device = BackendDevice(server.backend)       # an Attester that trusts this backend
    device.enrol(HttpApi(server, device), token)

    device = enrolled_device(server)             # all at once, also with a backend alone

The device is an `Attester`: real signatures by software keys. An `Api` carries
its messages; both kinds raise what the backend refuses with, `HttpApi` as a
`RefusedByHttpError` that holds the problem.
"""

from __future__ import annotations

import http.client
import ssl
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from sqlalchemy.orm import Session

from hwtrust.wire.challenge import Purpose
from hwtrust.wire.codec import tpm2b
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
    Evidence,
    Problem,
    TlsKeyKind,
    TrustAnchor,
)
from hwtrust.wire.policy import fold
from hwtrust.wire.protect import Credential
from hwtrust.wire.root import counter_policy, policy_key_public
from hwtrust_backend.app.backend import Backend
from hwtrust_backend.audit import Event
from hwtrust_backend.enrolment.trust import allow_ek
from hwtrust_backend.keys import KeyRole, device_of_certificate
from simulators.attester import Attester, make_csr, make_release
from simulators.software_tpm import SoftwareTpm, counter_public

Message = TypeVar("Message")


class RefusedByHttpError(Exception):
    """The backend answered with a problem."""

    def __init__(self, status: int, problem: Problem, media_type: str | None) -> None:
        super().__init__(f"{status} {problem.code}: {problem.detail}")
        self.status = status
        self.problem = problem
        self.code = problem.code
        self.media_type = media_type


class Reachable(Protocol):
    """A backend that answers over TLS."""

    @property
    def url(self) -> str:
        """Where: https://localhost:PORT."""
        ...

    @property
    def trust(self) -> TrustAnchor:
        """What devices are given of it."""
        ...


class Server(Reachable, Protocol):
    """One whose services can be called as well."""

    @property
    def backend(self) -> Backend:
        """The services."""
        ...


class Api(Protocol):
    """The backend's API as a device uses it."""

    def begin(self, message: EnrolBegin) -> EnrolChallenge:
        """Step one of an enrolment."""
        ...

    def add_key(self, enrolment: str, message: EnrolKey) -> EnrolCredential:
        """Step two of an enrolment."""
        ...

    def finish(self, enrolment: str, message: EnrolFinish) -> Enrolled:
        """Step three of an enrolment."""
        ...

    def challenge(self, message: ChallengeRequest) -> ChallengeReply:
        """A nonce."""
        ...

    def attest(self, message: AttestRequest) -> AttestReply:
        """Evidence."""
        ...


class BackendDevice(Attester):
    """A device whose epoch counter obeys one backend."""

    def __init__(
        self,
        backend: Backend,
        *,
        tpm: SoftwareTpm | None = None,
        kind: TlsKeyKind = TlsKeyKind.TPM,
        counter: int = 7,
        release: str = "1.0",
    ) -> None:
        super().__init__(tpm, counter=counter, release=release)
        self.kind = kind
        self.certificate = ""
        self.next_nonce = b""
        self.policy_public = policy_key_public(backend.vault.signer(KeyRole.POLICY).public_key)
        self.index = counter_public(fold(counter_policy(self.policy_public, self.name)))
        self.tpm.advance(backend.clock() - self.tpm.clock.clock)

    @property
    def name(self) -> bytes:
        """The EK's Name."""
        return self.tpm.ek.name

    def enrolment(
        self, api: Api, token: str = "", certificate: bytes = b""
    ) -> tuple[str, EnrolFinish]:
        """Everything up to the last message of an enrolment, and that message."""
        ek_public = self.tpm.ek.encode_sized()
        answer = api.begin(EnrolBegin(ek_public=ek_public, token=token, ek_certificate=certificate))
        key = EnrolKey(ak_public=self.tpm.ak.encode_sized())
        sealed = api.add_key(answer.enrolment, key)
        secret = self.tpm.activate_credential(Credential(sealed.id_object, sealed.encrypted_secret))
        return answer.enrolment, self.finish(answer.nonce, kind=self.kind, secret=secret)

    def enrol(self, api: Api, token: str = "", certificate: bytes = b"") -> Enrolled:
        """Enrol, and keep what came of it."""
        enrolled = api.finish(*self.enrolment(api, token, certificate))
        self.certificate, self.next_nonce = enrolled.certificate, enrolled.challenge
        return enrolled

    def attest(
        self, api: Api, evidence: Evidence | None = None, *, csr: bool = False
    ) -> AttestReply:
        """Attest with the nonce that the last reply gave."""
        message = AttestRequest(
            device=self.name,
            evidence=evidence or self.evidence(self.next_nonce),
            csr=make_csr(self.tpm.tls_key) if csr else b"",
        )
        reply = api.attest(message)
        self.next_nonce = reply.challenge
        self.certificate = reply.certificate or self.certificate
        return reply

    def session(self, api: Api) -> AttestReply:
        """Attest without a certificate, to get one for the TLS key."""
        asked = ChallengeRequest(device=self.name, purpose=Purpose.SESSION)
        nonce = api.challenge(asked).nonce
        return self.attest(api, self.evidence(nonce, purpose=Purpose.SESSION), csr=True)

    def rotate(self) -> None:
        """Count the epoch counter up."""
        self.counter += 1


class DirectApi:
    """Calls the services, in the transactions in which the HTTP routes call them."""

    def __init__(self, backend: Backend, device: BackendDevice | None = None) -> None:
        self.backend = backend
        self.device = device
        """Whose certificate the connection shows; None shows none."""

    def begin(self, message: EnrolBegin) -> EnrolChallenge:
        """Step one of an enrolment."""
        enrolments = self.backend.enrolments
        return self._decide(lambda session, now: enrolments.begin(session, message, now=now))

    def add_key(self, enrolment: str, message: EnrolKey) -> EnrolCredential:
        """Step two of an enrolment."""
        add = self.backend.enrolments.add_key
        return self._decide(lambda session, now: add(session, enrolment, message, now=now))

    def finish(self, enrolment: str, message: EnrolFinish) -> Enrolled:
        """Step three of an enrolment."""
        finish = self.backend.enrolments.finish
        return self._decide(lambda session, now: finish(session, enrolment, message, now=now))

    def challenge(self, message: ChallengeRequest) -> ChallengeReply:
        """A nonce."""
        give = self.backend.attestations.challenge
        return self._decide(lambda session, now: give(session, message, now=now))

    def attest(self, message: AttestRequest) -> AttestReply:
        """Evidence."""
        attest = self.backend.attestations.attest

        def work(session: Session, now: int) -> AttestReply:
            identity = None
            if self.device is not None and self.device.certificate:
                authority = self.backend.vault.authority(KeyRole.DEVICE_CA)
                der = leaf_der(self.device.certificate)
                identity = device_of_certificate(der, authority=authority, now=now)
            return attest(session, message, identity=identity, now=now)

        device = message.device.hex()
        return self.backend.decide(work, refused=Event.EVIDENCE_REFUSED, device=device)

    def _decide(self, work: Callable[[Session, int], Message]) -> Message:
        return self.backend.decide(work, refused=Event.ENROLMENT_REFUSED, device="")


class HttpApi:
    """Speaks HTTP over TLS 1.3 with a `BackendServer`, with the device's certificate if any."""

    def __init__(
        self,
        server: Reachable,
        device: BackendDevice | None = None,
        *,
        headers: dict[str, str] | None = None,
    ) -> None:
        self.server = server
        self.device = device
        self.headers = headers or {}

    def begin(self, message: EnrolBegin) -> EnrolChallenge:
        """Step one of an enrolment."""
        return self.post("/v1/enrolments", message, EnrolChallenge)

    def add_key(self, enrolment: str, message: EnrolKey) -> EnrolCredential:
        """Step two of an enrolment."""
        return self.post(f"/v1/enrolments/{enrolment}/key", message, EnrolCredential)

    def finish(self, enrolment: str, message: EnrolFinish) -> Enrolled:
        """Step three of an enrolment."""
        return self.post(f"/v1/enrolments/{enrolment}/finish", message, Enrolled)

    def challenge(self, message: ChallengeRequest) -> ChallengeReply:
        """A nonce."""
        return self.post("/v1/challenges", message, ChallengeReply)

    def attest(self, message: AttestRequest) -> AttestReply:
        """Evidence."""
        return self.post("/v1/attest", message, AttestReply)

    def post(self, path: str, message: msgspec.Struct | bytes, expected: type[Message]) -> Message:
        """Send a message; a problem is raised."""
        body = message if isinstance(message, bytes) else msgspec.json.encode(message)
        status, media_type, answer = self.request("POST", path, body)
        if status != http.client.OK:
            problem = msgspec.json.decode(answer, type=Problem)
            raise RefusedByHttpError(status, problem, media_type)
        return msgspec.json.decode(answer, type=expected)

    def request(
        self, method: str, path: str, body: bytes | None = None
    ) -> tuple[int, str | None, bytes]:
        """One request on a connection of its own: status, media type, body."""
        certificate = ""
        key: ec.EllipticCurvePrivateKey | None = None
        if self.device is not None and self.device.certificate:
            certificate, key = self.device.certificate, self.device.tpm.tls_key
        context = client_context(self.server, certificate=certificate, key=key)
        port = int(self.server.url.rpartition(":")[2])
        connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=30)
        try:
            headers = {"content-type": "application/json", "connection": "close", **self.headers}
            connection.request(method, path, body=body, headers=headers)
            response = connection.getresponse()
            return response.status, response.getheader("content-type"), response.read()
        finally:
            connection.close()


def enrolled_device(at: Backend | Server, *, kind: TlsKeyKind = TlsKeyKind.TPM) -> BackendDevice:
    """A device that runs release 1.0 and has enrolled: over HTTP at a server, else directly.

    Its EK is on the allow-list.
    """
    backend = at if isinstance(at, Backend) else at.backend
    device = BackendDevice(backend, kind=kind)
    device.load(make_release())
    with backend.database.transaction() as session:
        allow_ek(session, device.name.hex(), label="test", now=backend.clock())
    device.enrol(DirectApi(at) if isinstance(at, Backend) else HttpApi(at))
    return device


def client_context(
    server: Reachable,
    *,
    certificate: str = "",
    key: ec.EllipticCurvePrivateKey | None = None,
) -> ssl.SSLContext:
    """A client's TLS context that trusts this backend alone."""
    context = ssl.create_default_context(cadata=server.trust.tls_ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if certificate and key is not None:
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "client.pem"
            path.write_text(pem + certificate)
            context.load_cert_chain(path)
    return context


def malformed(certificate: bytes) -> tuple[bytes, bytes]:
    """A device's certificate, DER, with one extension twice, and of a version that is none."""
    usage, name = bytes.fromhex("0603551d25"), bytes.fromhex("0603551d11")
    third, fifth = bytes.fromhex("a003020102"), bytes.fromhex("a003020104")
    return certificate.replace(usage, name, 1), certificate.replace(third, fifth, 1)


def leaf_der(chain: str) -> bytes:
    """The first certificate of a PEM chain."""
    return x509.load_pem_x509_certificates(chain.encode())[0].public_bytes(Encoding.DER)


def ek_of(device: BackendDevice) -> bytes:
    """The EK's TPM2B_PUBLIC."""
    return tpm2b(device.tpm.ek.encode())
