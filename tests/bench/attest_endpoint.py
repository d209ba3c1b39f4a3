"""What an attestation that is committed durably costs beside a request that touches nothing.

    attest rate / no-op rate      POST /v1/attest, GET /healthz of the same server

One server process on one core; its clients are in another process, on other cores,
and wait for every answer. TLS 1.3, connections that stay open, a client certificate
on each. Every attestation is a real one: two signatures of a TPM's keys over a
nonce of its own, appraised, stored, with its audit record, on the disk before it
is answered (SQLite: synchronous = FULL; PostgreSQL: fsync and synchronous_commit
on). The evidence is signed before the clock starts.

Rounds of both kinds alternate, so that whatever else the machine does meets them
alike. There are two figures, each a median over the rounds: of the rates' ratios, and
of the ratios of what a request costs the server's core. Where the core is not busy
all the time, with a slow client or with other work on the machine, the second alone
says what the server can do; standard error has how busy it was, and the rates.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import os
import ssl
import statistics
import sys
import tempfile
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

sys.path.insert(0, str(Path(__file__).parents[1]))

from hwtrust.wire import challenge
from hwtrust.wire.challenge import Purpose
from hwtrust.wire.messages import AttestReply, AttestRequest, Standing
from hwtrust_backend.app.server import settle_memory
from hwtrust_backend.testing import BackendServer
from simulators.attester import make_release
from simulators.backend_clients import BackendDevice, enrolled_device
from simulators.postgres import Postgres, program

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection

CONNECTIONS: Final = 64
ROUNDS: Final = 5
ATTESTATIONS: Final = 512
NO_OPS: Final = 1024
"""Requests of a round, of all connections together."""
GOALS: Final = {"sqlite": 0.35, "postgresql": 0.25}

UNLIMITED: Final = {"address": 0, "credentials": 0, "device": 0, "total": 0}
"""A few callers stand for a fleet."""

NO_OP: Final = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"
ATTEST: Final = (
    b"POST /v1/attest HTTP/1.1\r\nhost: localhost\r\n"
    b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
)


@dataclass(frozen=True)
class Round:
    """One round of one kind."""

    rate: float
    """Answers a second."""
    core: float
    """Microseconds of the server's core for one."""


class Client(asyncio.Protocol):
    """A connection that sends a request whenever the last one was answered."""

    def __init__(self) -> None:
        self.todo: deque[bytes] = deque()
        self.done: asyncio.Future[None] | None = None
        self.last = b""
        self._answer = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the connection."""
        if isinstance(transport, asyncio.Transport):
            self._transport = transport

    def run(self, requests: deque[bytes]) -> asyncio.Future[None]:
        """Send these, one after the other."""
        self.todo = requests
        self.done = asyncio.get_running_loop().create_future()
        self._send()
        return self.done

    def data_received(self, data: bytes) -> None:
        """Take a part of an answer."""
        self._answer += data
        head, blank, body = self._answer.partition(b"\r\n\r\n")
        if not blank:
            return
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(body) < length:
            return
        if not head.startswith(b"HTTP/1.1 200 "):
            self._fail(bytes(self._answer))
            return
        self.last = bytes(body)
        self._answer.clear()
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail where answers are still awaited."""
        self._fail(repr(exc).encode())

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()

    def _send(self) -> None:
        if self._transport is not None and self.todo:
            self._transport.write(self.todo.popleft())
        elif self.done is not None and not self.done.done():
            self.done.set_result(None)

    def _fail(self, why: bytes) -> None:
        if self.done is not None and not self.done.done():
            self.done.set_exception(ConnectionError(why.decode(errors="replace")))


def serve(pipe: Connection, database: str, directory: str, count: int) -> None:
    """The server's process: one core; its devices are enrolled and their evidence is signed."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with BackendServer(Path(directory), database=database, rates=UNLIMITED) as server:
        server.accept(make_release())
        callers = [enrolled_device(server) for _ in range(CONNECTIONS)]
        pipe.send((server.url, server.trust.tls_ca))
        for device in callers:
            key = device.tpm.tls_key
            pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            pipe.send((pem.decode() + device.certificate, signed(server, device, count)))
        settle_memory()
        # The connections are made, and the requests are sent, until the client says so.
        pipe.recv()


def signed(server: BackendServer, device: BackendDevice, count: int) -> deque[bytes]:
    """So many attestations, each for a challenge that the backend might have given."""
    key = server.backend.vault.challenge_key.reveal()
    requests: deque[bytes] = deque()
    for _ in range(count):
        nonce = challenge.issue(
            key=key, device=device.name, purpose=Purpose.ATTEST, now_ms=server.clock()
        )
        body = AttestRequest(device=device.name, evidence=device.evidence(nonce))
        encoded = msgspec.json.encode(body)
        requests.append(ATTEST % (len(encoded), encoded))
    return requests


class Load:
    """The clients of one server."""

    def __init__(self, pid: int, clients: list[Client], evidence: list[deque[bytes]]) -> None:
        self._pid = pid
        self._clients = clients
        self._evidence = evidence

    async def no_op(self, count: int) -> Round:
        """Requests that touch nothing."""
        return await self._measured([deque([NO_OP] * (count // CONNECTIONS))] * CONNECTIONS)

    async def attest(self, count: int) -> Round:
        """Attestations."""
        each = count // CONNECTIONS
        return await self._measured(
            [deque(mine.popleft() for _ in range(each)) for mine in self._evidence]
        )

    def check(self) -> None:
        """Every device has been told last that it is trusted."""
        for client in self._clients:
            reply = msgspec.json.decode(client.last, type=AttestReply)
            if reply.standing is not Standing.TRUSTED or reply.approval is None:
                raise AssertionError(client.last.decode())

    async def _measured(self, requests: list[deque[bytes]]) -> Round:
        count = sum(map(len, requests))
        used, begun = self._core_seconds(), time.perf_counter()
        pairs = zip(self._clients, requests, strict=True)
        await asyncio.gather(*(client.run(deque(mine)) for client, mine in pairs))
        wall, core = time.perf_counter() - begun, self._core_seconds() - used
        return Round(rate=count / wall, core=core / count * 1e6)

    def _core_seconds(self) -> float:
        after_name = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
        return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")


async def measure(pid: int, pipe: Connection) -> list[tuple[Round, Round]]:
    """Connect every device, and let no-ops and attestations take turns."""
    url, authority = pipe.recv()
    port = int(url.rpartition(":")[2])
    loop = asyncio.get_running_loop()
    clients, evidence = [], []
    for _ in range(CONNECTIONS):
        pem, requests = pipe.recv()
        context = ssl.create_default_context(cadata=authority)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
            file.write(pem)
            file.flush()
            context.load_cert_chain(file.name)
        _, client = await loop.create_connection(
            Client, "127.0.0.1", port, ssl=context, server_hostname="localhost"
        )
        clients.append(client)
        evidence.append(requests)
    load = Load(pid, clients, evidence)
    await load.no_op(NO_OPS // 4)
    await load.attest(ATTESTATIONS // 4)
    rounds = []
    for _ in range(ROUNDS):
        no_op, attested = await load.no_op(NO_OPS), await load.attest(ATTESTATIONS)
        load.check()
        rounds.append((no_op, attested))
    for client in clients:
        client.close()
    return rounds


def run(database: str) -> list[tuple[Round, Round]]:
    """Start a server on a database, and measure it."""
    count = (ATTESTATIONS * ROUNDS + ATTESTATIONS // 4) // CONNECTIONS
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    with tempfile.TemporaryDirectory(prefix="hwtrust-bench-") as directory:
        server = context.Process(target=serve, args=(theirs, database, directory, count))
        server.start()
        cores = os.sched_getaffinity(0)
        try:
            # The server takes the first core, and has it to itself where there is another.
            os.sched_setaffinity(0, cores - {min(cores)} or cores)
            return asyncio.run(measure(server.pid or 0, ours))
        finally:
            os.sched_setaffinity(0, cores)
            with contextlib.suppress(OSError):
                ours.send(None)
            server.join(60)
            server.kill()


def report(kind: str, rounds: list[tuple[Round, Round]]) -> None:
    """Print the result, and to standard error what it is made of."""
    by_rate = statistics.median(attested.rate / no_op.rate for no_op, attested in rounds)
    by_core = statistics.median(no_op.core / attested.core for no_op, attested in rounds)
    for name, index in (("no-op", 0), ("attestation", 1)):
        rate = statistics.median(pair[index].rate for pair in rounds)
        core = statistics.median(pair[index].core for pair in rounds)
        busy = statistics.median(pair[index].rate * pair[index].core for pair in rounds) / 1e4
        told = f"{rate:.0f}/s, {core:.0f} us of the server's core, which was {busy:.0f} % busy"
        sys.stderr.write(f"{kind}: {name}: {told}\n")
    goal = GOALS[kind]
    for way, ratio in (("rate", by_rate), ("core", by_core)):
        result = {
            "name": f"attest_endpoint_{kind}_by_{way}",
            "value": round(ratio, 3),
            "unit": "of the no-op",
            "goal": goal,
            "ok": ratio >= goal,
        }
        print(json.dumps(result))


def databases() -> Iterator[tuple[str, str]]:
    """Each kind of database, and the setting for it."""
    yield "sqlite", ""
    if program("postgres") is None:
        sys.stderr.write("PostgreSQL is not installed: scripts/setup --test\n")
        sys.exit(1)
    with Postgres.start(durable=True) as postgres:
        yield "postgresql", postgres.create()


def main() -> None:
    """Measure on each database."""
    for kind, database in databases():
        report(kind, run(database))


if __name__ == "__main__":
    main()
