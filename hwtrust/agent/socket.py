"""The server at the agent's socket.

    application ──line──▶ one thread, which reads, checks and writes
                             │ what may be done               ▲ the answer
                             ▼                                │
                          quick workers · slow workers ───────┘

Boundary: it takes `Operations` and `Permissions`, and knows neither TPM nor
backend. `listening` makes the socket, `methods` says what there is to call.

Rules:
1. No peer costs more than its limit, whatever it sends or leaves unread:
   connections, bytes, and time for the rest of a message are bounded. Root and
   the agent's own user have connections that nobody else can take.
2. A connection has one request under way. What is sent ahead waits, and is
   answered in order; what waits is not read further than the limit of a message.
3. Whoever watches gets every change, in order, or loses the connection.
4. What may take seconds (attest, event) has workers of its own.
5. The log says who did what by which rule, and no entry's value. Buffers that
   held a message are overwritten.
6. A fault in one request ends that request, not the agent.
"""

from __future__ import annotations

import logging
import os
import selectors
import socket
import threading
import time
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from hwtrust.agent import protocol
from hwtrust.agent.inbox import Inbox
from hwtrust.agent.listening import Listener, peer_of
from hwtrust.agent.methods import METHODS, Method
from hwtrust.agent.protocol import Condition, erase, plain, wipe
from hwtrust.errors import (
    AgentFaultError,
    AgentForbiddenError,
    AgentFullError,
    AgentLimitError,
    AgentRequestError,
    HwTrustError,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

    from hwtrust.agent.permissions import Grants, Peer, Permissions
    from hwtrust.agent.protocol import Operations, Request
    from hwtrust.device.results import Condition as DeviceCondition

_LOG = logging.getLogger(__name__)
_CHUNK = 64 * 1024
_ACCEPTED_AT_ONCE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What peers may cost. Times are in seconds."""

    connections: int = 64
    """Of all users but root and the agent's own; these have as many again, together."""
    per_user: int = 16
    receive: float = 10.0
    """For a message, from its first byte to its last."""
    send: float = 30.0
    """Without a byte taken by the peer."""
    unread: int = 64 * 1024
    """Bytes of notifications that a peer may leave unread."""
    pause: float = 1.0
    """Before connections are accepted again, once the process has no more descriptors."""
    turn: float = 60.0
    """For one turn of the loop; one that takes longer hangs."""
    quick_workers: int = 2
    slow_workers: int = 2
    refusals: float = 60.0
    """In which one user's refusals by one method are logged once."""


@dataclass(slots=True, eq=False)
class _Connection:
    """One peer, and what is on its way to and from it."""

    sock: socket.socket
    peer: Peer
    grants: Grants
    longest: int
    incoming: bytearray = field(default_factory=bytearray, repr=False)
    searched: int = 0
    """How much of `incoming` is known to hold no end of a line."""
    outgoing: bytearray = field(default_factory=bytearray, repr=False)
    unread: int = 0
    """Bytes of notifications in `outgoing`, at most."""
    busy: bool = False
    watches: bool = False
    ended: bool = False
    """The peer sends no more."""
    closing: bool = False
    """Nothing more is read, and the end comes once all is sent."""
    gone: bool = False
    deadline: float | None = None
    interest: int = 0

    def line(self) -> bytearray | None:
        """The next whole line without its end, or none yet."""
        end = self.incoming.find(b"\n", self.searched)
        if end < 0:
            self.searched = len(self.incoming)
            return None
        line = self.incoming[:end]
        erase(self.incoming, end + 1)
        self.searched = 0
        return line


class AgentSocket:
    """The agent's socket while it is served; a context manager.

    Everything of it happens in threads of its own, but for `Operations.state`,
    which is asked once, by the thread that enters.
    """

    def __init__(
        self,
        path: str | Path,
        operations: Operations,
        permissions: Permissions,
        *,
        mode: int = 0o660,
        group: str | int | None = None,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Serve at `path`, whose file gets `mode` and `group`, or at a socket passed on by systemd.

        `mode` and `group` say who can connect, `permissions` what they may do then.
        """
        self._path = path
        self._mode = mode
        self._group = group
        self._operations = operations
        self._permissions = permissions
        self._limits = limits or Limits()
        self._clock = clock
        self._inbox = Inbox()
        self._chunk = memoryview(bytearray(_CHUNK))
        self._selector = selectors.DefaultSelector()
        self._connections: set[_Connection] = set()
        self._counts: Counter[int] = Counter()
        self._refused: dict[tuple[int, str], float] = {}
        self._accepts_at: float | None = None
        self._signed = threading.Event()
        self._signed.set()
        self._asked_at = 0.0
        self._stopping = False
        self._listener: Listener | None = None
        self._condition = Condition(state="starting")
        self._news: deque[Condition] = deque()
        self._quick = ThreadPoolExecutor(self._limits.quick_workers, "agent-quick")
        self._slow = ThreadPoolExecutor(self._limits.slow_workers, "agent-slow")
        self._thread = threading.Thread(target=self._serve, name="agent-socket", daemon=True)

    def __repr__(self) -> str:
        return f"<AgentSocket {self._path}>"

    def __enter__(self) -> Self:
        """Begin to serve.

        Raises:
            AgentSocketError: the socket cannot be made; AgentRunningError: another agent serves.
            ConfigError: there is no such group.
            StateError: others can write the socket's directory.
        """
        try:
            self._condition = plain(self._operations.state(), Condition)
            listener = Listener.passed(os.environ)
            if listener is None:
                listener = Listener.open(self._path, mode=self._mode, group=self._group)
        except BaseException:
            self._inbox.close()
            self._selector.close()
            raise
        self._listener = listener
        listener.socket.settimeout(0)
        self._selector.register(self._inbox, selectors.EVENT_READ, self._inbox.take)
        self._selector.register(listener.socket, selectors.EVENT_READ, self._accept)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._inbox.post(self._stop)
        self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether it serves; when it has entered and this is false, the agent had better end.

        Its thread is asked for a sign each time, and has some time to give it.
        """
        now = self._clock()
        if self._signed.is_set():
            self._signed.clear()
            self._asked_at = now
            self._inbox.post(self._signed.set)
        return self._thread.is_alive() and now - self._asked_at < self._limits.turn

    def publish(self, condition: DeviceCondition) -> None:
        """Tell whoever watches, and whoever asks from now on, what the device may do.

        From any thread; conditions are told in the order in which this is called.
        """
        self._news.append(plain(condition, Condition))
        self._inbox.post(self._tell)

    # --- the loop ----------------------------------------------------------------------

    def _serve(self) -> None:
        try:
            while not self._stopping:
                for key, events in self._selector.select(self._patience()):
                    if isinstance(key.data, _Connection):
                        self._attend(key.data, events)
                    else:
                        key.data()
                self._expire()
        except Exception as error:  # noqa: BLE001 - the log is all that is left
            _LOG.critical("the agent's socket has failed: %s", _place(error))
        finally:
            self._inbox.close()
            for connection in tuple(self._connections):
                self._drop(connection)
            if self._listener is not None:
                self._listener.close()
            self._selector.close()
            for workers in (self._quick, self._slow):
                workers.shutdown(wait=False, cancel_futures=True)

    def _stop(self) -> None:
        self._stopping = True

    def _patience(self) -> float | None:
        """Seconds until something is due; None: nothing is."""
        due = [one.deadline for one in self._connections if one.deadline is not None]
        if self._accepts_at is not None:
            due.append(self._accepts_at)
        return max(0.0, min(due) - self._clock()) if due else None

    def _expire(self) -> None:
        now = self._clock()
        if self._accepts_at is not None and now >= self._accepts_at and self._listener is not None:
            self._accepts_at = None
            self._selector.register(self._listener.socket, selectors.EVENT_READ, self._accept)
        for connection in tuple(self._connections):
            if connection.deadline is None or now < connection.deadline:
                continue
            if connection.outgoing:
                self._drop(connection)
            else:
                what = f"the rest of a message did not come within {self._limits.receive:g} s"
                self._end(connection, AgentLimitError(what, reason="time"))
                self._settle(connection)

    def _accept(self) -> None:
        assert self._listener is not None  # noqa: S101 - it is what was ready
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                sock, _ = self._listener.socket.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                # No descriptors: trying again at once would fail as fast as it can.
                _LOG.warning("no connection can be accepted: %s", error.strerror)
                self._selector.unregister(self._listener.socket)
                self._accepts_at = self._clock() + self._limits.pause
                return
            sock.settimeout(0)
            try:
                self._admit(sock)
            except OSError:
                sock.close()  # the peer has gone

    def _admit(self, sock: socket.socket) -> None:
        peer = peer_of(sock)
        owner = self._permissions.owns(peer)
        alike = sum(one.grants.everything == owner for one in self._connections)
        if alike >= self._limits.connections or (
            not owner and self._counts[peer.uid] >= self._limits.per_user
        ):
            with sock:
                full = AgentFullError("there are too many connections")
                sock.send(protocol.encode_error(None, full))
            return
        grants = self._permissions.of(peer)
        longest = protocol.VALUE_LINE if grants.sends_values() else protocol.PLAIN_LINE
        connection = _Connection(sock, peer, grants, longest)
        self._connections.add(connection)
        self._counts[peer.uid] += 1
        self._settle(connection)

    # --- one connection ----------------------------------------------------------------

    def _attend(self, connection: _Connection, events: int) -> None:
        if connection.gone:
            return
        if events & selectors.EVENT_WRITE:
            self._send(connection)
        if events & selectors.EVENT_READ:
            self._receive(connection)
        self._settle(connection)

    def _receive(self, connection: _Connection) -> None:
        try:
            size = connection.sock.recv_into(self._chunk)
        except BlockingIOError:
            return
        except OSError:
            self._drop(connection)
            return
        connection.ended = not size
        connection.incoming += self._chunk[:size]
        self._chunk[:size] = bytes(size)

    def _send(self, connection: _Connection) -> None:
        try:
            while connection.outgoing:
                erase(connection.outgoing, connection.sock.send(connection.outgoing))
                connection.deadline = None
        except BlockingIOError:
            return
        except OSError:
            self._drop(connection)
            return
        connection.unread = 0

    def _settle(self, connection: _Connection) -> None:
        """Do what can be done now, and wait for the rest."""
        try:
            self._proceed(connection)
        except Exception as error:  # noqa: BLE001 - a fault at one peer's message ends that peer
            _LOG.error("uid %d is dropped: %s", connection.peer.uid, _place(error))
            self._drop(connection)
        if not connection.gone:
            self._await(connection)

    def _proceed(self, connection: _Connection) -> None:
        while not (connection.gone or connection.busy or connection.closing or connection.outgoing):
            line = connection.line()
            if line is not None and len(line) < connection.longest:
                self._answer(connection, line)
            elif line is not None or len(connection.incoming) >= connection.longest:
                what = f"a message has at most {connection.longest} bytes"
                self._end(connection, AgentLimitError(what, reason="size"))
            else:
                connection.closing = connection.ended
                break
        if connection.closing and not connection.outgoing and not connection.busy:
            self._drop(connection)

    def _await(self, connection: _Connection) -> None:
        """Set the deadline, and what the selector is to look for."""
        waits = not (connection.busy or connection.closing or connection.outgoing)
        limit = None
        if connection.outgoing:
            limit = self._limits.send
        elif waits and connection.incoming:
            limit = self._limits.receive
        if limit is None:
            connection.deadline = None
        elif connection.deadline is None:
            connection.deadline = self._clock() + limit
        interest = selectors.EVENT_WRITE if connection.outgoing else 0
        if waits and not connection.ended:
            interest |= selectors.EVENT_READ
        if interest == connection.interest:
            return
        if not connection.interest:
            self._selector.register(connection.sock, interest, connection)
        elif interest:
            self._selector.modify(connection.sock, interest, connection)
        else:
            self._selector.unregister(connection.sock)
        connection.interest = interest

    def _end(self, connection: _Connection, error: AgentRequestError) -> None:
        """Say what is wrong, and hear no more."""
        erase(connection.incoming)
        connection.closing = True
        self._say(connection, protocol.encode_error(None, error))

    def _say(self, connection: _Connection, line: bytearray) -> None:
        connection.outgoing += line
        erase(line)
        self._send(connection)

    def _drop(self, connection: _Connection) -> None:
        if connection.gone:
            return
        connection.gone = True
        if connection.interest:
            self._selector.unregister(connection.sock)
        connection.sock.close()
        erase(connection.incoming)
        erase(connection.outgoing)
        self._connections.discard(connection)
        self._counts[connection.peer.uid] -= 1
        if not self._counts[connection.peer.uid]:
            del self._counts[connection.peer.uid]

    # --- requests ----------------------------------------------------------------------

    def _answer(self, connection: _Connection, line: bytearray) -> None:
        request_id: int | str | None = None
        connection.deadline = None
        try:
            request = protocol.decode_request(line)
            request_id = request.id
            if request.method in {"state", "watch"}:
                protocol.decode_params(request, protocol.NoParams)
                self._tell()  # what was published before the question is in the answer
                connection.watches |= request.method == "watch"
                self._say(connection, protocol.encode_answer(request_id, self._condition))
            else:
                self._call(connection, request)
        except HwTrustError as error:
            self._say(connection, protocol.encode_error(request_id, error))
        finally:
            wipe(line)  # the request looks into it

    def _call(self, connection: _Connection, request: Request) -> None:
        method = METHODS.get(request.method)
        if method is None:
            message = "there is no such method"
            raise AgentRequestError(message, reason="method", number=protocol.METHOD)
        asked = protocol.decode_params(request, method.params)
        name = getattr(asked, "name", None)
        peer, what = connection.peer, request.method
        try:
            rule = connection.grants.require(method.permission, name=name)
        except AgentForbiddenError:
            self._log_refusal(peer, what)
            raise
        _LOG.debug("uid %d, pid %d: %s by %s", peer.uid, peer.pid, what, rule)
        connection.busy = True
        workers = self._slow if method.slow else self._quick
        workers.submit(self._work, connection, request.id, what, method, asked)

    def _work(
        self,
        connection: _Connection,
        request_id: int | str,
        what: str,
        method: Method,
        asked: object,
    ) -> None:
        """Do what was asked; in a worker's thread."""
        try:
            result = method.run(self._operations, connection.grants, asked)
            line = protocol.encode_answer(request_id, result)
        except HwTrustError as error:
            line = protocol.encode_error(request_id, error)
        except Exception as error:  # noqa: BLE001 - a fault of ours is the peer's answer, no more
            # Its message may hold anything.
            _LOG.error("%s has failed: %s", what, _place(error))
            line = protocol.encode_error(request_id, AgentFaultError("the agent has failed"))
        self._inbox.post(lambda: self._finish(connection, line))

    def _finish(self, connection: _Connection, line: bytearray) -> None:
        connection.busy = False
        if connection.gone:
            erase(line)
            return
        self._say(connection, line)
        self._settle(connection)

    def _tell(self) -> None:
        """Tell what has been published and not been told yet."""
        while self._news:
            condition = self._news.popleft()
            if condition != self._condition:
                self._condition = condition
                self._tell_one(condition)

    def _tell_one(self, condition: Condition) -> None:
        size = len(protocol.encode_condition(condition))
        for connection in [one for one in self._connections if one.watches]:
            if connection.unread + size > self._limits.unread:
                _LOG.warning("uid %d does not read what it watches", connection.peer.uid)
                self._drop(connection)
                continue
            connection.unread += size
            self._say(connection, protocol.encode_condition(condition))
            if not connection.gone:
                self._await(connection)

    def _log_refusal(self, peer: Peer, what: str) -> None:
        now = self._clock()
        self._refused = {key: until for key, until in self._refused.items() if until > now}
        if (peer.uid, what) not in self._refused:
            self._refused[peer.uid, what] = now + self._limits.refusals
            _LOG.warning("uid %d, pid %d: %s refused, no rule", peer.uid, peer.pid, what)


def _place(error: BaseException) -> str:
    """The kind of an error and where it was raised, without what it says."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = "nowhere"
    if trace is not None:
        where = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
    return f"{type(error).__name__} at {where}"
