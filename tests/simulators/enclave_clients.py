"""Enclaves that speak with a backend, over TLS or to its services directly.

    trust_signers(backend)                        # the test roots, as an administrator would
    enclave = BackendEnclave()
    enclave.enrol(DirectWay(backend), token)

Real keys and real evidence by the signers of each kind; `evidence` takes whatever a
test wants to be otherwise.
"""

from __future__ import annotations

import hashlib
import http.client
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import msgspec
import tomlkit
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from hwtrust.wire.algorithms import Alg
from hwtrust.wire.cel import CAP, EventLog
from hwtrust.wire.challenge import Purpose
from hwtrust.wire.enclave import (
    EnclaveAttest,
    EnclaveChallengeRequest,
    EnclaveEnrol,
    EnclaveEnrolled,
    EnclaveEvidence,
    EnclaveKind,
    EnclaveReply,
    EnclaveRoot,
    EnclaveRootMetadata,
    enclave_name,
    open_root,
)
from hwtrust.wire.enclave_parts import EnclaveParts, pem, wrap
from hwtrust.wire.enclaves.snp import Product, SigningKey
from hwtrust.wire.envelope import unseal
from hwtrust.wire.messages import Binding, ChallengeReply, Problem
from hwtrust.wire.states import layer_events
from hwtrust_backend.admin import ask_rotation, local_administrator
from hwtrust_backend.audit import Event
from hwtrust_backend.enclaves import TrustKind, UnsafeRoots, add_authority
from hwtrust_backend.enrolment import Device
from hwtrust_backend.enrolment.tokens import create_token
from hwtrust_backend.keys import KeyRole, device_of_certificate
from hwtrust_backend.policies import DEFAULT_DOCUMENT
from hwtrust_backend.testing import HOUR
from simulators.attester import make_csr, make_release, spki
from simulators.backend_clients import (
    HttpApi,
    Reachable,
    RefusedByHttpError,
    client_context,
    leaf_der,
)
from simulators.dcap_signer import DcapSigner, td_report
from simulators.snp_signer import (
    AUTHOR_KEY,
    HOST_DATA,
    ID_KEY,
    MEASUREMENT,
    TCBS,
    Chip,
)
from simulators.snp_signer import trust as snp_trust

if TYPE_CHECKING:
    from hwtrust.wire.envelope import Envelope
    from hwtrust.wire.messages import Release
    from hwtrust_backend.app.backend import Backend

Message = TypeVar("Message", bound=msgspec.Struct)

CHIP: Final = Chip(Product.GENOA)
INTEL: Final = DcapSigner()
PCR: Final = 12
DEBUG_POLICY: Final = 1 << 19

SNP_TABLE: Final[dict[str, Any]] = {
    "products": ["Genoa"],
    "signing_keys": ["vcek"],
    "measurements": [MEASUREMENT.hex()],
    "vmpl_maximum": 1,
    "policy_allowed": ["smt"],
    "policy_required": [],
    "abi_minimum": "1.55",
    "host_data": [HOST_DATA.hex()],
    "id_key_digests": [ID_KEY.hex()],
    "author_key_digests": [AUTHOR_KEY.hex()],
    "guest_svn_minimum": 3,
    "firmware_minimum": "1.55.40",
    "platform_required": ["ecc_en"],
    "platform_forbidden": ["tsme_en"],
    "tcb": {
        "Genoa": {
            name: getattr(TCBS[Product.GENOA], name)
            for name in ("bootloader", "tee", "snp", "microcode")
        }
    },
}
"""What is accepted of a guest as `CHIP` reports it."""


def enclave_policy(**changes: object) -> str:
    """A policy that accepts such guests: the default one, with these fields and whole tables.

    None takes a field or a table out.
    """
    document = tomlkit.parse(DEFAULT_DOCUMENT)
    for name, value in ({"evidence": ["snp", "tdx"], "snp": SNP_TABLE} | changes).items():
        document.pop(name, None)
        if value is not None:
            document[name] = value
    # Fields come before tables.
    fields = [name for name, value in document.items() if not isinstance(value, dict)]
    tables = [name for name in document if name not in fields]
    ordered = tomlkit.document()
    for name in (*fields, *tables):
        ordered[name] = document[name].unwrap()
    return tomlkit.dumps(ordered)


def trust_signers(backend: Backend) -> None:
    """Trust the roots of the signers here, by a file that says what it is."""
    roots = UnsafeRoots(
        snp={product: tuple(sha) for product, sha in snp_trust(*Product).roots.items()},
        dcap=hashlib.sha256(INTEL.root.der).hexdigest(),
    )
    with backend.database.transaction() as session:
        now = backend.clock()
        content = msgspec.json.encode(roots)
        add_authority(session, content, kind=TrustKind.UNSAFE_ROOTS, now=now)
        add_authority(session, INTEL.collateral("tdx"), kind=TrustKind.COLLATERAL, now=now)


class Way(Protocol):
    """How an enclave's messages get to a backend."""

    def post(
        self,
        path: str,
        message: msgspec.Struct,
        expected: type[Message],
        *,
        certificate: str = "",
        key: ec.EllipticCurvePrivateKey | None = None,
    ) -> Message:
        """Send a message, over a connection with that certificate."""
        ...


class BackendEnclave:
    """An enclave; it keeps its keys for as long as the test keeps it."""

    def __init__(self, kind: EnclaveKind = EnclaveKind.SNP) -> None:
        self.kind = kind
        self.tls_key = ec.generate_private_key(ec.SECP256R1())
        self.release_key = X25519PrivateKey.generate()
        self.release = "1.0"
        self.epoch = 0
        self.log = EventLog()
        self.firmware_log = b""
        """Of a TD."""
        self.certificate = ""
        self.next_nonce = b""
        self.roots: dict[int, bytes] = {}
        """What was opened, by epoch."""
        self.load(make_release())

    @property
    def name(self) -> bytes:
        """By what it is known."""
        return enclave_name(self.kind, self.spki)

    @property
    def spki(self) -> bytes:
        """Its TLS key."""
        return spki(self.tls_key)

    def load(self, release: Release, *, layers: int | None = None) -> None:
        """Start with the layers of a release, or with the first of them."""
        self.release, self.log = release.name, EventLog()
        events = layer_events(release)
        for event in (*events[:layers], *((CAP,) if layers is None else ())):
            self.log = self.log.appended(event, pcr=PCR, banks=(Alg.SHA256,))

    def binding(self, nonce: bytes, **changes: Any) -> Binding:  # noqa: ANN401
        """What its evidence binds."""
        fields: dict[str, Any] = {
            "purpose": Purpose.ATTEST,
            "nonce": nonce,
            "tls_key": self.spki,
            "epoch": self.epoch,
            "release": self.release,
            "log_digest": self.log.digest(),
            "release_key": self.release_key.public_key().public_bytes_raw(),
        }
        return Binding(**(fields | changes))

    def evidence(
        self,
        nonce: bytes,
        *,
        report: dict[str, Any] | None = None,
        **changes: Any,  # noqa: ANN401
    ) -> EnclaveEvidence:
        """Evidence; `changes` are of the binding, `report` of what the hardware says."""
        binding = self.binding(nonce, **changes)
        return self.over(binding, **(report or {}))

    def over(self, binding: Binding, **report: Any) -> EnclaveEvidence:  # noqa: ANN401
        """Evidence over a binding."""
        fields = {"report_data": binding.report_data()} | report
        if self.kind is EnclaveKind.TDX:
            quote = INTEL.tdx(td_report(**fields))
            parts = EnclaveParts(tee=quote, firmware_log=self.firmware_log)
        else:
            parts = EnclaveParts(
                tee=CHIP.report(**fields), certificates=pem(CHIP.certificates(SigningKey.VCEK))
            )
        return EnclaveEvidence(
            kind=self.kind,
            binding=binding,
            log=self.log.encode(),
            evidence=wrap(parts, kind=self.kind),
        )

    def ask(self, way: Way, purpose: Purpose) -> bytes:
        """A nonce."""
        asked = EnclaveChallengeRequest(kind=self.kind, tls_key=self.spki, purpose=purpose)
        return way.post("/v1/enclaves/challenges", asked, ChallengeReply).nonce

    def enrolment(
        self,
        way: Way,
        token: str,
        evidence: EnclaveEvidence | None = None,
        **changes: Any,  # noqa: ANN401
    ) -> EnclaveEnrol:
        """The message that enrols it; `changes` are of its evidence."""
        if evidence is None:
            nonce = self.ask(way, Purpose.ENROL)
            evidence = self.evidence(nonce, **({"purpose": Purpose.ENROL} | changes))
        return EnclaveEnrol(evidence=evidence, csr=make_csr(self.tls_key), token=token)

    def enrol(self, way: Way, token: str, **changes: Any) -> EnclaveEnrolled:  # noqa: ANN401
        """Enrol, and open the root."""
        message = self.enrolment(way, token, **changes)
        enrolled = way.post("/v1/enclaves/enrol", message, EnclaveEnrolled)
        self.certificate, self.next_nonce = enrolled.certificate, enrolled.challenge
        self.take(enrolled.root)
        return enrolled

    def attest(
        self,
        way: Way,
        evidence: EnclaveEvidence | None = None,
        *,
        certificate: str | None = None,
        csr: bool = False,
        **changes: Any,  # noqa: ANN401
    ) -> EnclaveReply:
        """Attest with the nonce of the last reply; a root that comes is not opened."""
        message = EnclaveAttest(
            device=self.name,
            evidence=evidence or self.evidence(self.next_nonce, **changes),
            csr=make_csr(self.tls_key) if csr else b"",
        )
        reply = way.post(
            "/v1/enclaves/attest",
            message,
            EnclaveReply,
            certificate=self.certificate if certificate is None else certificate,
            key=self.tls_key,
        )
        self.next_nonce = reply.challenge
        self.certificate = reply.certificate or self.certificate
        return reply

    def session(self, way: Way, **changes: Any) -> EnclaveReply:  # noqa: ANN401
        """Attest without a certificate, to get one."""
        nonce = self.ask(way, Purpose.SESSION)
        evidence = self.evidence(nonce, **({"purpose": Purpose.SESSION} | changes))
        return self.attest(way, evidence, certificate="", csr=True)

    def take(self, root: EnclaveRoot) -> int:
        """Open a root, and run on it; gives its epoch."""
        metadata = metadata_of(root.metadata)
        secret = open_root(root.sealed, key=self.release_key, metadata=root.metadata)
        self.epoch = metadata.epoch
        self.roots[metadata.epoch] = secret
        return metadata.epoch

    def restart(self) -> None:
        """Forget everything but the TLS key, as one that seals nothing else."""
        self.release_key, self.epoch = X25519PrivateKey.generate(), 0


class DirectWay:
    """Calls the services, in the transactions in which the HTTP routes call them."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    def post(
        self,
        path: str,
        message: msgspec.Struct,
        expected: type[Message],
        *,
        certificate: str = "",
        key: ec.EllipticCurvePrivateKey | None = None,
    ) -> Message:
        """Do what the route does."""
        del path, key
        sent = msgspec.json.decode(msgspec.json.encode(message), type=type(message))
        enclaves = self.backend.enclaves
        refused = Event.EVIDENCE_REFUSED
        work: Any
        if isinstance(sent, EnclaveChallengeRequest):
            asked = sent
            with self.backend.database.reading() as session:
                said: Any = enclaves.challenge(session, asked, now=self.backend.clock())
            return msgspec.convert(said, expected, from_attributes=True)
        if isinstance(sent, EnclaveEnrol):
            enrol, refused = sent, Event.ENROLMENT_REFUSED

            def work(session: Any, now: int) -> Any:  # noqa: ANN401
                return enclaves.enrol(session, enrol, now=now)

            device = enclave_name(sent.evidence.kind, sent.evidence.binding.tls_key)
        else:
            assert isinstance(sent, EnclaveAttest)
            attest, device = sent, sent.device

            def work(session: Any, now: int) -> Any:  # noqa: ANN401
                identity = None
                if certificate:
                    authority = self.backend.vault.authority(KeyRole.DEVICE_CA)
                    der = leaf_der(certificate)
                    identity = device_of_certificate(der, authority=authority, now=now)
                return enclaves.attest(session, attest, identity=identity, now=now)

        said = self.backend.decide(work, refused=refused, device=device.hex())
        return msgspec.json.decode(msgspec.json.encode(said), type=expected)


class DocumentedWay:
    """Speaks through an `HttpApi`, which shows what certificate it will."""

    def __init__(self, api: HttpApi) -> None:
        self.api = api

    def post(
        self,
        path: str,
        message: msgspec.Struct,
        expected: type[Message],
        *,
        certificate: str = "",
        key: ec.EllipticCurvePrivateKey | None = None,
    ) -> Message:
        """Send a message; a problem is raised."""
        del certificate, key
        return self.api.post(path, message, expected)


class HttpWay:
    """Speaks HTTP over TLS 1.3 with a `BackendServer`."""

    def __init__(self, server: Reachable) -> None:
        self.server = server

    def post(
        self,
        path: str,
        message: msgspec.Struct,
        expected: type[Message],
        *,
        certificate: str = "",
        key: ec.EllipticCurvePrivateKey | None = None,
    ) -> Message:
        """Send a message; a problem is raised."""
        context = client_context(self.server, certificate=certificate, key=key)
        port = int(self.server.url.rpartition(":")[2])
        connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=30)
        try:
            headers = {"content-type": "application/json", "connection": "close"}
            connection.request("POST", path, body=msgspec.json.encode(message), headers=headers)
            response = connection.getresponse()
            answer, status = response.read(), response.status
            if status != http.client.OK:
                problem = msgspec.json.decode(answer, type=Problem)
                media_type = response.getheader("content-type")
                raise RefusedByHttpError(status, problem, media_type)
            return msgspec.json.decode(answer, type=expected)
        finally:
            connection.close()


def metadata_of(envelope: Envelope) -> EnclaveRootMetadata:
    """What is said of a root; the signature is not looked at."""
    return msgspec.json.decode(envelope.payload, type=EnclaveRootMetadata)


def signed_metadata(envelope: Envelope, backend: Backend) -> EnclaveRootMetadata:
    """The same, under the backend's key."""
    key = backend.vault.signer(KeyRole.METADATA).public_key
    return unseal(envelope, EnclaveRootMetadata, key=key)


def another_token(way: DirectWay, **options: Any) -> str:  # noqa: ANN401 - as it takes them
    """One more token, for an hour."""
    with way.backend.database.transaction() as session:
        now = way.backend.clock()
        return create_token(session, label="", lifetime_ms=HOUR, now=now, **options)


def row(way: DirectWay, enclave: BackendEnclave) -> Device:
    """What is stored of an enclave."""
    with way.backend.database.reading() as session:
        return session.get_one(Device, enclave.name.hex())


def rotate(way: DirectWay, enclave: BackendEnclave) -> None:
    """Ask for an enclave's next root."""
    with way.backend.database.transaction() as session:
        now = way.backend.clock()
        ask_rotation(session, enclave.name.hex(), by=local_administrator(), now=now)
