"""Replicas of a backend as processes of their own, which all begin at the same moment.

    told = race(settings, [Errand(kind="attest", now=now, request=…, certificate=…), …])

Each process opens the backend, waits until all have, does its one errand, and says
what came of it.
"""

from __future__ import annotations

import multiprocessing
from typing import TYPE_CHECKING, Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from hwtrust.wire.messages import AttestReply, AttestRequest
from hwtrust_backend.app.setup import open_backend
from hwtrust_backend.appraisal import Asked, Groups
from hwtrust_backend.config import Settings
from hwtrust_backend.keys import KeyRole, Secret, device_of_certificate
from hwtrust_backend.monitor.due import grant_due, note_missing
from hwtrust_backend.testing import ManualClock

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.synchronize import Barrier

    from hwtrust_backend.app.backend import Backend

PASSPHRASE: Final = Secret(b"protects nothing")
START_SECONDS: Final = 60


class Errand(msgspec.Struct, frozen=True, kw_only=True):
    """What one replica does: `attest`, `grant` or `miss`, by a clock that says `now`."""

    kind: str
    now: int
    request: AttestRequest | None = None
    certificate: str = ""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of an errand."""

    code: str = ""
    """Of the error, where it was refused."""
    metadata: bytes = b""
    """Of the root that was delivered: the signed payload."""
    count: int = 0
    """How many rows were looked at."""


def race(settings: Settings, errands: list[Errand]) -> list[Outcome]:
    """Do all errands at once, each in a process of its own."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(len(errands))
    started = []
    for errand in errands:
        ours, theirs = context.Pipe(duplex=False)
        arguments = (msgspec.json.encode(settings), msgspec.json.encode(errand), barrier, theirs)
        process = context.Process(target=_replica, args=arguments, daemon=True)
        process.start()
        theirs.close()
        started.append((process, ours))
    outcomes = []
    for process, ours in started:
        outcomes.append(msgspec.json.decode(ours.recv_bytes(), type=Outcome))
        process.join(START_SECONDS)
    return outcomes


def run_errand(backend: Backend, errand: Errand) -> Outcome:
    """Do an errand in this process."""
    if errand.request is not None:
        return _attest(backend, errand.request, errand)
    work = {"grant": grant_due, "miss": note_missing}[errand.kind]
    count = backend.database.run(lambda session: work(session, now=errand.now))
    return Outcome(count=count)


def _replica(settings: bytes, errand: bytes, barrier: Barrier, told: Connection) -> None:
    asked = msgspec.json.decode(errand, type=Errand)
    backend = open_backend(
        msgspec.json.decode(settings, type=Settings),
        passphrase=PASSPHRASE,
        clock=ManualClock(asked.now),
    )
    try:
        barrier.wait(START_SECONDS)
        told.send_bytes(msgspec.json.encode(run_errand(backend, asked)))
    finally:
        backend.database.close()


def _attest(backend: Backend, request: AttestRequest, errand: Errand) -> Outcome:
    (leaf, *_) = x509.load_pem_x509_certificates(errand.certificate.encode())
    identity = device_of_certificate(
        leaf.public_bytes(Encoding.DER),
        authority=backend.vault.authority(KeyRole.DEVICE_CA),
        now=errand.now,
    )
    groups = Groups(backend.attestations, backend.database, backend.clock)
    (outcome,) = groups.answer([Asked(request, identity)])
    if isinstance(outcome, AttestReply):
        return Outcome(metadata=b"" if outcome.root is None else outcome.root.metadata.payload)
    return Outcome(code=getattr(outcome, "code", type(outcome).__name__))
