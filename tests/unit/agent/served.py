"""An agent's socket with simulated operations behind it, and peers that speak raw bytes."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest

from hwtrust.agent import socket as agent_socket
from hwtrust.agent.permissions import Allow, Peer, Permission, Permissions
from hwtrust.agent.socket import AgentSocket, _Connection
from hwtrust.device.results import AttestResult, Condition, State
from hwtrust.errors import EntryNotFoundError, KeyStoreLockedError
from hwtrust.keys import Entry
from hwtrust.wire.messages import Mode, Standing

if TYPE_CHECKING:
    from collections.abc import Iterator

NORMAL = Condition(state=State.NORMAL, since_ms=1, release="2026.11")
LOCKED = Condition(
    state=State.LOCKED, since_ms=2, step="measure", layer="kernel", code="layer:mismatch"
)
VALUE = b"the value that nobody sees, 0123"
APPLICATION = Peer(uid=4711, gid=4712, pid=1, groups=frozenset({4713}))
PATIENCE = 20.0


@dataclass
class Store:
    """Operations of an agent, in memory. `gate` holds up what is slow."""

    values: dict[str, bytes] = field(
        default_factory=lambda: {"payments/pin": VALUE, "payments/a/b": VALUE, "wallet": VALUE}
    )
    done: list[str] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)
    entered: threading.Event = field(default_factory=threading.Event)
    condition: Condition = NORMAL
    locked: bool = False

    def state(self) -> Condition:
        """The condition at the start."""
        return self.condition

    def event(self, kind: str, detail: str) -> bool:
        """Note the event."""
        self.done.append(f"event {kind} {detail}")
        return kind == "transaction"

    def attest(self) -> AttestResult:
        """Attest, once the gate is open."""
        self.entered.set()
        assert self.gate.wait(PATIENCE)
        self.done.append("attest")
        return AttestResult(
            standing=Standing.TRUSTED, findings=(), mode=Mode.NORMAL, heartbeat_ms=60_000
        )

    def keystore_list(self, prefix: str) -> tuple[Entry, ...]:
        """The entries."""
        return tuple(
            Entry(name, 1, 1, len(value))
            for name, value in sorted(self.values.items())
            if name.startswith(prefix)
        )

    def keystore_get(self, name: str) -> bytes:
        """A value."""
        self.done.append(f"get {name}")
        if self.locked:
            raise KeyStoreLockedError("the key store is closed")
        if name not in self.values:
            raise EntryNotFoundError("there is no such entry", name=name)
        return self.values[name]

    def keystore_put(self, name: str, value: bytes) -> Entry:
        """Store it."""
        self.done.append(f"put {name}")
        self.values[name] = value
        return Entry(name, 1, 1, len(value))

    def keystore_delete(self, name: str) -> None:
        """Delete it."""
        self.keystore_get(name)
        del self.values[name]


class ManualClock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Seconds."""
        return self.now


@dataclass
class Served:
    """A socket that is served, what stands behind it, and the peers that a test opens."""

    path: Path
    store: Store
    server: AgentSocket
    clock: ManualClock
    peers: contextlib.ExitStack
    poker: Raw
    """The first connection, from which the server is made to look at its clock."""
    poked: _Connection
    """Its other end."""

    def peer(self) -> Raw:
        """A new connection."""
        return self.peers.enter_context(Raw(self.path))

    def poke(self) -> None:
        """Have the server look at its clock; when this returns it has done so."""
        for _ in range(2):
            assert self.poker.ask("state")["result"]

    def connections(self) -> list[_Connection]:
        """The connections that the server has by now, but for the one that pokes it."""
        self.poke()
        return [one for one in self.server._connections if one is not self.poked]


class Raw:
    """A connection that says and hears bytes."""

    def __init__(self, path: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(str(path))  # waits while many others do; with a time-out it would not
        self.sock.settimeout(PATIENCE)
        self._file = self.sock.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self.sock.close()

    def say(self, line: bytes) -> None:
        """Send bytes as they are."""
        self.sock.sendall(line)

    def hear(self) -> bytes:
        """The next line with its end; empty when the agent has hung up."""
        try:
            return self._file.readline()
        except ConnectionResetError:
            return b""  # the agent has hung up, and has left something unread

    def answer(self) -> dict[str, Any]:
        """The next line, read as JSON."""
        line = self.hear()
        assert line.endswith(b"\n")
        read: dict[str, Any] = json.loads(line)
        assert read["jsonrpc"] == "2.0"
        return read

    def ask(self, method: str, **params: object) -> dict[str, Any]:
        """Call a method and hear the answer."""
        self.call(method, **params)
        return self.answer()

    def call(self, method: str, **params: object) -> None:
        """Call a method."""
        self.say(request(method, **params))

    def code(self, method: str, **params: object) -> str:
        """The code that a call is refused with."""
        code: str = self.ask(method, **params)["error"]["data"]["code"]
        return code


def request(method: str, **params: object) -> bytes:
    """The line of a request."""
    message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    return json.dumps(message).encode() + b"\n"


def allow(*may: str, entries: tuple[str, ...] = (), user: int = APPLICATION.uid) -> Allow:
    """A rule for the application's user."""
    return Allow(user=user, may=tuple(map(Permission, may)), entries=entries)


@contextlib.contextmanager
def served(directory: Path, *rules: Allow, **options: Any) -> Iterator[Served]:  # noqa: ANN401
    """Serve a socket in `directory`. Its peers, of this test process, are root's or the owner's."""
    store, clock = options.pop("store", None) or Store(), ManualClock()
    path = directory / "run" / "agent.sock"
    permissions = Permissions.resolved(rules)
    server = AgentSocket(path, store, permissions, clock=clock, **options)
    with server, contextlib.ExitStack() as peers:
        try:
            poker = peers.enter_context(Raw(path))
            poker.ask("state")
            (poked,) = server._connections
            yield Served(path, store, server, clock, peers, poker, poked)
        finally:
            store.gate.set()


@contextlib.contextmanager
def peers_are(peer: Peer) -> Iterator[None]:
    """Have the kernel say that whoever connects is `peer`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agent_socket, "peer_of", lambda _: peer)
        yield
