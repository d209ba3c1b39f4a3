"""Devices that enrol, keep their heartbeats over TLS, and remember what they were told.

    Share ──▶ a process of its own: enrol ──▶ "enrolled" ──▶ heartbeats ──▶ Account

Every device is a `BackendDevice`: keys in software, real signatures, an EK certificate
under a test root. It enrols by the backend's services, many devices in one transaction,
and from then on speaks TLS 1.3 with its own client certificate, on a new connection for
every heartbeat.

Rules:
1. A heartbeat is due at its time, whatever became of the last one; how long it took is
   counted from then on. No more than `AT_A_TIME` are under way in one process: what is
   more than the backend carries comes late, and is left out in the end.
2. Every answer is checked as a device would: whose signature, for which challenge.
3. A root that is offered is taken: the next heartbeat shows the epoch counter at it.
   Some answers that bring one are forgotten, as if the power had failed; the next
   heartbeat goes to any replica, and has to be offered the same root.
4. Some heartbeats are sent to all replicas at the same moment. One of them answers.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import random
import ssl
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_public_key,
)

from hwtrust.errors import ChallengeUsedError, HwTrustError
from hwtrust.wire.challenge import Purpose
from hwtrust.wire.envelope import unseal
from hwtrust.wire.messages import (
    AttestReply,
    AttestRequest,
    ChallengeReply,
    ChallengeRequest,
    EnrolBegin,
    EnrolKey,
    Problem,
    SignedTime,
    Standing,
    TrustAnchor,
)
from hwtrust.wire.protect import Credential
from hwtrust.wire.root import RootDelivery, RootMetadata
from hwtrust_backend.app.setup import open_backend
from hwtrust_backend.audit import evidence_digest
from hwtrust_backend.config import system_clock
from hwtrust_backend.config.clock import DAY, MINUTE
from hwtrust_backend.enrolment.authorities import AuthorityKind
from hwtrust_backend.enrolment.tokens import create_token
from hwtrust_backend.keys import Secret
from simulators.attester import make_release
from simulators.backend_clients import BackendDevice
from simulators.ek_authority import Ca, EkAuthority

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from sqlalchemy.orm import Session

    from hwtrust_backend.app.backend import Backend
    from hwtrust_backend.config import Settings

AT_ONCE: Final = 32
"""Devices that enrol in one transaction."""
AT_A_TIME: Final = 100
"""Heartbeats of one process that are under way at the same moment."""
FORGET: Final = 1 / 8
"""Part of the answers with a root that is forgotten (rule 3)."""
TWICE: Final = 1 / 50
"""Part of the heartbeats that go to all replicas at once (rule 4)."""
FRESH_MS: Final = 10 * MINUTE
"""How old a challenge may be when a device answers it."""
PATIENCE_S: Final = 60.0
"""How long a device waits for one answer."""
FOREVER: Final = datetime(9999, 12, 31, tzinfo=UTC)

_context = multiprocessing.get_context("spawn")


class Beat(NamedTuple):
    """How long one heartbeat took, in seconds."""

    late: float
    """From when it was due until it began: what the client itself is behind."""
    handshake: float
    request: float
    whole: float
    """From when it was due until it was answered."""


@dataclass
class Account:
    """What devices were told, and what went wrong."""

    beats: list[Beat] = field(default_factory=list)
    acknowledged: dict[str, list[bytes]] = field(default_factory=dict)
    """Digests of the evidence that was answered, by device."""
    roots: dict[str, dict[int, bytes]] = field(default_factory=dict)
    """Names of the root objects that devices were given, by device and epoch."""
    epochs: dict[str, int] = field(default_factory=dict)
    """What each device's counter showed in its last answered evidence."""
    counts: Counter[str] = field(default_factory=Counter)
    """What happened, by the names in `Load`."""
    double_roots: list[str] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    core_seconds: float = 0.0
    """What the clients' own processes used while they ran."""

    def add(self, other: Account) -> None:
        """Take over another share's account."""
        self.beats += other.beats
        self.acknowledged |= other.acknowledged
        self.roots |= other.roots
        self.epochs |= other.epochs
        self.counts += other.counts
        self.double_roots += other.double_roots
        self.errors += other.errors
        self.core_seconds += other.core_seconds


@dataclass(frozen=True)
class Share:
    """The devices of one process: those whose numbers leave `number` when divided by `shares`."""

    settings: Settings
    passphrase: bytes = field(repr=False)
    trust: TrustAnchor
    ports: tuple[int, ...]
    number: int
    shares: int
    devices: int
    """Of all shares."""
    heartbeat_s: float
    seconds: float

    @property
    def numbers(self) -> range:
        """The numbers of its devices."""
        return range(self.number, self.devices, self.shares)


class Fleet:
    """The processes of all shares; they begin to enrol at once."""

    def __init__(self, shares: list[Share]) -> None:
        self._pipes: list[Connection] = []
        self._processes = []
        for share in shares:
            ours, theirs = _context.Pipe()
            process = _context.Process(target=run_share, args=(share, theirs), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def enrolled(self) -> float:
        """Wait until all devices have enrolled; gives the seconds that the slowest share took."""
        return max(float(pipe.recv()) for pipe in self._pipes)

    def begin(self, *, in_seconds: float = 2.0) -> None:
        """Let all begin at one moment."""
        at = time.time() + in_seconds
        for pipe in self._pipes:
            pipe.send(at)

    def account(self) -> Account:
        """Wait for the end; gives what all devices were told."""
        account = Account()
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            account.add(pipe.recv())
            process.join()
        return account

    def stop(self) -> None:
        """End the processes, whatever they are at."""
        for process in self._processes:
            process.kill()
            process.join()


def run_share(share: Share, pipe: Connection) -> None:
    """Enrol the devices of a share, and let them live: the process of one share."""
    begun = time.monotonic()
    account = Account()
    with tempfile.TemporaryDirectory(prefix="fleet-") as directory:
        members = _enrolled(share, account, Path(directory) / "client.pem")
    gc.collect()
    gc.freeze()
    pipe.send(time.monotonic() - begun)
    at: float = pipe.recv()
    asyncio.run(Load(share, members, account).run(at))
    pipe.send(account)


# --- enrolling --------------------------------------------------------------------------


@dataclass(frozen=True)
class Member:
    """A device of the fleet, and how it connects."""

    number: int
    device: BackendDevice
    context: ssl.SSLContext
    id: str


def _enrolled(share: Share, account: Account, pem: Path) -> list[Member]:
    backend = open_backend(share.settings, passphrase=Secret(share.passphrase), clock=system_clock)
    members = []
    try:
        vendor = _vendor(backend, share.number)
        with backend.database.transaction() as session:
            # A token of its own: shares do not wait for each other's.
            token = create_token(
                session,
                label=f"share {share.number}",
                lifetime_ms=DAY,
                uses=len(share.numbers),
                now=system_clock(),
            )
        for begin in range(0, len(share.numbers), AT_ONCE):
            with backend.database.transaction() as session:
                for number in share.numbers[begin : begin + AT_ONCE]:
                    device = _enrol(backend, session, vendor, token, account)
                    context = _client_context(share, device, pem)
                    members.append(Member(number, device, context, device.name.hex()))
    finally:
        backend.waiters.close()
        backend.database.close()
    return members


def _vendor(backend: Backend, number: int) -> EkAuthority:
    root = Ca.root(f"Test TPM Root CA {number}", end=FOREVER)
    vendor = EkAuthority(root, root.issue_ca(f"Test TPM Intermediate CA {number}", end=FOREVER))
    for file in vendor.files:
        with backend.database.transaction() as session:
            backend.enrolments.authorities.add(
                session, file, kind=AuthorityKind.CERTIFICATES, now=system_clock()
            )
    return vendor


def _enrol(
    backend: Backend, session: Session, vendor: EkAuthority, token: str, account: Account
) -> BackendDevice:
    device, enrolments, now = BackendDevice(backend), backend.enrolments, backend.clock()
    device.load(make_release())
    asked = EnrolBegin(
        ek_public=device.tpm.ek.encode_sized(),
        token=token,
        ek_certificate=vendor.issue(device.tpm.ek, end=FOREVER),
    )
    begun = enrolments.begin(session, asked, now=now)
    key = EnrolKey(ak_public=device.tpm.ak.encode_sized())
    sealed = enrolments.add_key(session, begun.enrolment, key, now=now)
    secret = device.tpm.activate_credential(Credential(sealed.id_object, sealed.encrypted_secret))
    finish = device.finish(begun.nonce, kind=device.kind, secret=secret)
    enrolled = enrolments.finish(session, begun.enrolment, finish, now=now)
    device.certificate, device.next_nonce = enrolled.certificate, enrolled.challenge
    metadata = msgspec.json.decode(enrolled.root.metadata.payload, type=RootMetadata)
    name = device.name.hex()
    account.roots[name] = {metadata.epoch: metadata.object_name}
    account.epochs[name] = device.counter
    account.acknowledged[name] = []
    return device


def _client_context(share: Share, device: BackendDevice, pem: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=share.trust.tls_ca)
    key = device.tpm.tls_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    pem.write_bytes(key + device.certificate.encode())
    context.load_cert_chain(pem)
    return context


# --- heartbeats --------------------------------------------------------------------------


class Answer(NamedTuple):
    """What a replica answered, and how long the two parts took, in seconds."""

    status: int
    body: bytes
    handshake: float
    request: float


class Load:
    """The devices of one process, on one event loop.

    What it counts in the account:

    offered, taken, forgotten, confirmed     roots, by answers and by devices
    twice, copies                            heartbeats for all replicas, and copies refused
    both                                     heartbeats that more than one replica accepted
    skipped                                  heartbeats that could not begin before the end
    """

    def __init__(self, share: Share, members: list[Member], account: Account) -> None:
        self._share = share
        self._members = members
        self._account = account
        self._count = account.counts
        self._random = random.Random(share.number)  # noqa: S311 - which heartbeat does what
        key = load_pem_public_key(share.trust.metadata_key.encode())
        assert isinstance(key, ec.EllipticCurvePublicKey)
        self._metadata_key = key
        self._free = asyncio.Semaphore(AT_A_TIME)
        self._end = 0.0

    async def run(self, at: float) -> None:
        """Live from that moment (UTC seconds) until the share's time is over."""
        used = time.process_time()
        begin = asyncio.get_running_loop().time() + at - time.time()
        self._end = begin + self._share.seconds
        apart = self._share.heartbeat_s / self._share.devices
        async with asyncio.TaskGroup() as group:
            for member in self._members:
                group.create_task(self._live(member, begin + member.number * apart))
        self._account.core_seconds = time.process_time() - used

    async def _live(self, member: Member, due: float) -> None:
        loop = asyncio.get_running_loop()
        while due < self._end:
            await asyncio.sleep(due - loop.time())
            async with self._free:
                if loop.time() < self._end:
                    await self._attempt(member, due)
                else:
                    self._count["skipped"] += 1
            due += self._share.heartbeat_s

    async def _attempt(self, member: Member, due: float) -> None:
        try:
            await self._heartbeat(member, due)
        except (OSError, EOFError, ValueError, HwTrustError, msgspec.MsgspecError) as error:
            self._account.errors[f"{type(error).__name__}: {error}"[:200]] += 1
            member.device.next_nonce = b""

    async def _heartbeat(self, member: Member, due: float) -> None:
        """Attest once.

        Raises:
            OSError, EOFError: nothing was acknowledged.
            ValueError, HwTrustError, MsgspecError: the answer is not to be believed.
        """
        loop, device = asyncio.get_running_loop(), member.device
        begun, now = loop.time(), system_clock()
        device.tpm.advance(now - device.tpm.clock.clock)
        nonce = device.next_nonce
        if not nonce or now - int.from_bytes(nonce[:8], "big") > FRESH_MS:
            nonce = await self._challenge(member)
        # Whatever happens: a challenge is answered once.
        device.next_nonce = b""
        evidence = device.evidence(nonce)
        body = msgspec.json.encode(AttestRequest(device=device.name, evidence=evidence))
        ports = [self._random.choice(self._share.ports)]
        if self._random.random() < TWICE:
            ports = list(self._share.ports)
            self._count["twice"] += 1
        answers = await asyncio.gather(
            *(self._post(member, port, "/v1/attest", body) for port in ports)
        )
        whole = loop.time() - due
        good = [answer for answer in answers if answer.status == HTTPStatus.OK]
        for answer in answers:
            if answer.status != HTTPStatus.OK:
                self._refused(answer, is_copy=bool(good))
        self._count["both"] += len(good) > 1
        for answer in good:
            beat = Beat(begun - due, answer.handshake, answer.request, whole)
            self._account.beats.append(beat)
            self._account.acknowledged[member.id].append(evidence_digest(evidence))
            self._heard(member, nonce, msgspec.json.decode(answer.body, type=AttestReply))

    async def _challenge(self, member: Member) -> bytes:
        request = ChallengeRequest(device=member.device.name, purpose=Purpose.ATTEST)
        port = self._random.choice(self._share.ports)
        answer = await self._post(member, port, "/v1/challenges", msgspec.json.encode(request))
        if answer.status != HTTPStatus.OK:
            raise ValueError(_problem(answer))
        return msgspec.json.decode(answer.body, type=ChallengeReply).nonce

    async def _post(self, member: Member, port: int, path: str, body: bytes) -> Answer:
        """One request on a connection of its own."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        async with asyncio.timeout(PATIENCE_S):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", port, ssl=member.context, server_hostname="localhost"
            )
            try:
                connected = loop.time()
                writer.write(
                    b"POST %b HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
                    b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
                    % (path.encode(), len(body), body)
                )
                head = await reader.readuntil(b"\r\n\r\n")
                length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
                answer = await reader.readexactly(int(length))
                passed = loop.time() - connected
            finally:
                writer.close()
        return Answer(int(head.split(b" ", 2)[1]), answer, connected - begun, passed)

    # --- what was answered ----------------------------------------------------------

    def _refused(self, answer: Answer, *, is_copy: bool) -> None:
        code = _problem(answer)
        if is_copy and code.startswith(f"403 {ChallengeUsedError.code}"):
            self._count["copies"] += 1
        else:
            self._account.errors[code] += 1

    def _heard(self, member: Member, nonce: bytes, reply: AttestReply) -> None:
        """Take an answer, as a device would.

        Raises:
            ValueError, HwTrustError: it is not what a device may believe.
        """
        device, account = member.device, self._account
        self._count["confirmed"] += device.counter - account.epochs[member.id]
        account.epochs[member.id] = device.counter
        told = unseal(reply.time, SignedTime, key=self._metadata_key)
        if (told.device, told.nonce) != (device.name, nonce):
            raise ValueError("the signed time is for another device or another challenge")
        if reply.standing is not Standing.TRUSTED or reply.approval is None:
            codes = ", ".join(finding.code for finding in reply.findings)
            raise ValueError(f"not approved: {reply.standing} {codes}")
        device.next_nonce = reply.challenge
        if reply.root is not None:
            self._offered(member, reply.root)

    def _offered(self, member: Member, delivery: RootDelivery) -> None:
        device, account = member.device, self._account
        metadata = unseal(delivery.metadata, RootMetadata, key=self._metadata_key)
        self._count["offered"] += 1
        known = account.roots[member.id]
        if known.setdefault(metadata.epoch, metadata.object_name) != metadata.object_name:
            account.double_roots.append(f"{member.id}: epoch {metadata.epoch}, to the device")
        if (metadata.device, metadata.epoch) != (device.name, device.counter + 1):
            raise ValueError("the root is for another device or another epoch")
        if self._random.random() < FORGET:
            self._count["forgotten"] += 1
            device.next_nonce = b""
        else:
            self._count["taken"] += 1
            device.rotate()


def _problem(answer: Answer) -> str:
    problem = msgspec.json.decode(answer.body, type=Problem)
    return f"{answer.status} {problem.code}"
