"""A backend for enclaves in the test's own process: it verifies and signs for real.

    backend = EnclaveBackend(machine)
    Enclave.open(backend.config(directory), anchor=machine.anchor, channel=backend.way())

It decides nothing by policy: what it says of an enclave is what the test sets. An answer
can be lost: `lose` names the path, and the backend has done what it was asked for.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from hwtrust.enclave import EnclaveConfig
from hwtrust.errors import (
    ChallengeExpiredError,
    ChannelUnreachableError,
    EvidenceError,
    RefusedError,
)
from hwtrust.layers import reference
from hwtrust.verify.enclaves.kinds import verify_enclave
from hwtrust.wire import challenge
from hwtrust.wire.cel import EventLog
from hwtrust.wire.challenge import Purpose
from hwtrust.wire.enclave import (
    EnclaveAttest,
    EnclaveChallengeRequest,
    EnclaveEnrol,
    EnclaveEnrolled,
    EnclaveEvidence,
    EnclaveReply,
    EnclaveRoot,
    EnclaveRootMetadata,
    enclave_name,
    seal_root,
)
from hwtrust.wire.envelope import Envelope, seal
from hwtrust.wire.messages import (
    ChallengeReply,
    Finding,
    Mode,
    Release,
    SignedTime,
    Standing,
    TrustAnchor,
)

if TYPE_CHECKING:
    from pathlib import Path

    from hwtrust.tls import ClientKey
    from hwtrust.wire.messages import Binding, Request
    from simulators.enclave_machines import EnclaveMachine

R = TypeVar("R", bound=msgspec.Struct)

DAY_MS: Final = 24 * 3600 * 1000
TOKEN: Final = "a token"
_CERTIFICATE: Final = "-----BEGIN CERTIFICATE-----"


@dataclass
class Known:
    """What the backend knows of an enclave."""

    active: int
    offered: EnclaveRoot | None = None
    epochs: list[int] = field(default_factory=list)
    """What it has named, in order."""


class EnclaveBackend:
    """A backend for one machine; the fields say what it answers next."""

    def __init__(self, machine: EnclaveMachine) -> None:
        self.machine = machine
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.now_ms = machine.now_ms
        self.known: dict[bytes, Known] = {}
        self.tokens = {TOKEN}
        self.asked: list[tuple[str, Any]] = []
        self.lifetime_ms = 30 * DAY_MS
        self.offline_grace_ms = 0
        self.due = False
        self.standing = Standing.TRUSTED
        self.mode = Mode.NORMAL
        self.findings: tuple[Finding, ...] = ()
        self.lose = ""
        self.spare = 0
        """How many answers are not lost before."""
        self.away = False
        self.expired = False
        """Whether the certificate that it presents is of no use any more."""
        self.change: dict[str, Any] = {}
        """Of the next root's metadata."""
        self.signing_key = self.key
        self.bad_time: dict[str, Any] = {}
        self._challenges = os.urandom(32)

    def way(self) -> Way:
        """A channel to it."""
        return Way(self)

    def config(self, directory: Path, **options: Any) -> EnclaveConfig:  # noqa: ANN401
        """A configuration in `directory`, with two layers."""
        directory.mkdir(exist_ok=True)
        layers = {}
        for name in ("system", "app"):
            layers[name] = str(directory / name)
            (directory / name).write_bytes(b"the layer " + name.encode())
        release = Release(
            name="1.0",
            layers=tuple(reference(name, "1", directory / name) for name in layers),
        )
        (directory / "release.json").write_bytes(msgspec.json.encode(release))
        (directory / "trust.json").write_bytes(msgspec.json.encode(self.trust()))
        return EnclaveConfig(
            state_dir=str(directory / "state"),
            trust=str(directory / "trust.json"),
            release=str(directory / "release.json"),
            layers=layers,
            **options,
        )

    def trust(self) -> TrustAnchor:
        """What ships with the enclave."""
        pem = self.key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return TrustAnchor(
            url="https://localhost",
            tls_ca=_CERTIFICATE,
            policy_key=pem.decode(),
            metadata_key=pem.decode(),
        )

    def bindings(self) -> list[Binding]:
        """What all evidence was bound to, in order."""
        return [asked.evidence.binding for _, asked in self.asked if hasattr(asked, "evidence")]

    def sign(self, message: bytes) -> bytes:
        """By the metadata key, or by another one where the test says so."""
        return self.signing_key.sign(message, ec.ECDSA(hashes.SHA256()))

    def root(self, binding: Binding, *, device: bytes, epoch: int) -> EnclaveRoot:
        """A root for the key in `binding`."""
        metadata = EnclaveRootMetadata(
            device=device,
            epoch=epoch,
            release=binding.release,
            not_before=self.now_ms - 60_000,
            not_after=self.now_ms + self.lifetime_ms,
            release_key=binding.release_key,
        )
        metadata = msgspec.structs.replace(metadata, **self.change)
        envelope = seal(metadata, sign=self.sign)
        secret = os.urandom(32)
        return EnclaveRoot(
            metadata=envelope,
            sealed=seal_root(secret, release_key=binding.release_key, metadata=envelope),
        )

    def answer(self, path: str, request: Request, *, authenticated: bool) -> msgspec.Struct:
        """What a backend answers."""
        self.asked.append((path, request))
        if self.away:
            raise ChannelUnreachableError("the backend is away")
        try:
            said = self._said(request, authenticated=authenticated)
        except (ChallengeExpiredError, EvidenceError) as error:
            raise RefusedError(error.message, problem=error.code, status=400) from error
        if self.lose and path.endswith(self.lose):
            self.spare -= 1
        if self.spare < 0:
            self.lose, self.spare = "", 0
            raise ChannelUnreachableError("the answer was lost")
        return said

    def _said(self, request: Request, *, authenticated: bool) -> msgspec.Struct:
        if isinstance(request, EnclaveChallengeRequest):
            device = enclave_name(request.kind, request.tls_key)
            if request.purpose is not Purpose.ENROL:
                self._require_known(device)
            return ChallengeReply(nonce=self._nonce(device, request.purpose))
        if isinstance(request, EnclaveEnrol):
            return self._enrol(request)
        assert isinstance(request, EnclaveAttest)
        return self._attest(request, authenticated=authenticated)

    def _enrol(self, request: EnclaveEnrol) -> EnclaveEnrolled:
        binding = request.evidence.binding
        device = self._verified(request.evidence)
        if request.token not in self.tokens:
            raise RefusedError("no such token", problem="enrolment:token:refused", status=403)
        self.tokens.remove(request.token)
        self.known[device] = Known(1)
        return EnclaveEnrolled(
            device=device,
            certificate=_CERTIFICATE,
            root=self.root(binding, device=device, epoch=1),
            challenge=self._nonce(device, Purpose.ATTEST),
            time=self._time(device, binding.nonce),
            offline_grace_ms=self.offline_grace_ms,
        )

    def _attest(self, request: EnclaveAttest, *, authenticated: bool) -> EnclaveReply:
        binding = request.evidence.binding
        self.expired &= binding.purpose is Purpose.ATTEST
        if binding.purpose is Purpose.ATTEST and (self.expired or not authenticated):
            raise RefusedError("no certificate", problem="identity:missing", status=401)
        device = self._verified(request.evidence)
        self._require_known(device)
        known, root = self.known[device], None
        known.epochs.append(binding.epoch)
        good = self.standing is Standing.TRUSTED and self.mode is Mode.NORMAL
        if binding.purpose is Purpose.ATTEST and good:
            root = self._follow(known, binding, device)
        session = binding.purpose is Purpose.SESSION and good
        return EnclaveReply(
            standing=self.standing,
            findings=self.findings,
            time=self._time(device, binding.nonce),
            challenge=self._nonce(device, Purpose.ATTEST),
            mode=self.mode,
            offline_grace_ms=self.offline_grace_ms,
            root=root,
            certificate=_CERTIFICATE if session else "",
        )

    def _follow(self, known: Known, binding: Binding, device: bytes) -> EnclaveRoot | None:
        accepted = {0, known.active, known.active + 1 if known.offered else known.active}
        assert binding.epoch in accepted, f"{binding.epoch} is not in {accepted}"
        if known.offered is not None and binding.epoch == known.active + 1:
            known.active, known.offered = binding.epoch, None
        if known.offered is None and (self.due or binding.epoch == 0):
            self.due = False
            known.offered = self.root(binding, device=device, epoch=known.active + 1)
        return known.offered

    def _verified(self, evidence: EnclaveEvidence) -> bytes:
        binding = evidence.binding
        device = enclave_name(evidence.kind, binding.tls_key)
        challenge.check(
            binding.nonce,
            key=self._challenges,
            device=device,
            purpose=binding.purpose,
            now_ms=self.now_ms,
        )
        verify_enclave(
            evidence.evidence,
            kind=evidence.kind,
            report_data=binding.report_data(),
            now_ms=self.machine.now_ms,
            trust=self.machine.trust,
        )
        assert EventLog.decode(evidence.log).digest() == binding.log_digest
        return device

    def _require_known(self, device: bytes) -> None:
        if device not in self.known:
            raise RefusedError("never heard of it", problem="device:unknown", status=404)

    def _nonce(self, device: bytes, purpose: Purpose) -> bytes:
        return challenge.issue(
            key=self._challenges, device=device, purpose=purpose, now_ms=self.now_ms
        )

    def _time(self, device: bytes, nonce: bytes) -> Envelope:
        time = SignedTime(device=device, nonce=nonce, utc_ms=self.now_ms)
        return seal(msgspec.structs.replace(time, **self.bad_time), sign=self.sign)


class Way:
    """A channel to the backend, which everything passes through as JSON."""

    def __init__(self, backend: EnclaveBackend) -> None:
        self.backend = backend
        self.authenticated = False

    def authenticate(self, key: ClientKey, certificate: str) -> None:
        """Present a certificate."""
        assert key.key_pem()
        assert certificate
        self.authenticated = True

    def anonymous(self) -> None:
        """Present none."""
        self.authenticated = False

    def post(self, path: str, request: Request, reply: type[R]) -> R:
        """Ask."""
        sent = msgspec.json.decode(msgspec.json.encode(request), type=type(request))
        said = self.backend.answer(path, sent, authenticated=self.authenticated)
        return msgspec.json.decode(msgspec.json.encode(said), type=reply)
