"""The application's side of the agent's socket.

    from hwtrust import AgentClient

    with AgentClient() as agent:
        key = agent.keystore["payments/transport"]
        agent.event("transaction", detail="order 1042")

    for condition in AgentClient().watch():
        pay_button.enabled = condition.state == "normal"

It needs no TPM stack, and is loaded fast. What the agent refuses is raised as the
error that the library itself would raise.

Rules:
1. Before anything is said, the kernel is asked who serves: root, this user, or
   the owner of the socket's directory. Somebody else gets nothing.
2. A client makes its connection at the first call, and anew after one that
   failed. A call is never repeated by itself: it may have been done.
3. A client may be used from several threads, one call at a time. `watch` has a
   connection of its own.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self, TypeVar

from hwtrust.agent import protocol
from hwtrust.agent.protocol import Attested, Condition, Entry, Value, erase
from hwtrust.errors import (
    AgentError,
    AgentImpostorError,
    AgentReplyError,
    AgentTimeoutError,
    AgentUnreachableError,
    EntryNotFoundError,
    HwTrustError,
    all_errors,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from hwtrust.agent.protocol import Failure, Reply

TIMEOUT: Final = 10.0
SLOW_TIMEOUT: Final = 120.0

_CHUNK: Final = 64 * 1024
_CREDENTIALS: Final = struct.Struct("=iII")
_TIMEVAL: Final = struct.Struct("@ll")

T = TypeVar("T")


class AgentClient:
    """A connection to the agent; a context manager that closes it."""

    def __init__(
        self,
        path: str | os.PathLike[str] = protocol.DEFAULT_PATH,
        *,
        timeout: float = TIMEOUT,
        slow_timeout: float = SLOW_TIMEOUT,
    ) -> None:
        """`timeout` is in seconds, for one call; `slow_timeout` for `attest` and `event`."""
        self._path = Path(path)
        self._timeout = timeout
        self._slow_timeout = slow_timeout
        self._mutex = threading.Lock()
        self._line: _Line | None = None
        self._calls = 0
        self.keystore = AgentKeyStore(self)

    def __repr__(self) -> str:
        return f"AgentClient({str(self._path)!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the next call makes another."""
        with self._mutex:
            self._hang_up()

    def state(self) -> Condition:
        """What the device may do.

        Raises:
            AgentUnreachableError: no agent answers; so of every method.
            AgentTimeoutError: it has not answered in time; so of every method.
            AgentForbiddenError: the agent's rules do not allow it; of every other method.
            AgentImpostorError: somebody else serves at the socket; so of every method.
        """
        return self.call("state", protocol.NoParams(), Condition)

    def watch(self) -> Iterator[Condition]:
        """What the device may do, now and after every change; waits for the next.

        Raises:
            AgentUnreachableError: the agent has ended, or has dropped a client that
                did not keep up: nothing is known of the device any more.
        """
        with _Line(self._path, self._timeout) as line:
            line.send(protocol.encode_call(0, "watch", protocol.NoParams()))
            yield _result(line.receive(time.monotonic() + self._timeout), Condition)
            while True:
                told = line.receive(None)
                if told.method == protocol.CONDITION:
                    yield protocol.decode_result(told.params, Condition)

    def event(self, kind: str, *, detail: str = "") -> bool:
        """Report an event of the application, such as `transaction`; gives whether to attest now.

        The agent attests by itself. `kind` is at most 60 of a-z, 0-9, `.`, `_` and
        `-`, `detail` at most 200 characters.

        Raises:
            ChannelError: the backend is away, or refuses.
        """
        asked = protocol.EventParams(kind=kind, detail=detail)
        return self.call("event", asked, protocol.Reported, slow=True).attest

    def attest(self) -> Attested:
        """Have the device attest now.

        Raises:
            ChannelError: the backend is away, or refuses.
            TpmError: the TPM does not work.
        """
        return self.call("attest", protocol.NoParams(), Attested, slow=True)

    def call(self, method: str, params: object, kind: type[T], *, slow: bool = False) -> T:
        """Call `method`; what the other methods do.

        Raises:
            HwTrustError: what the agent answers, by its code.
        """
        with self._mutex:
            self._calls += 1
            request = protocol.encode_call(self._calls, method, params)
            del params
            deadline = time.monotonic() + (self._slow_timeout if slow else self._timeout)
            try:
                if self._line is None:
                    self._line = _Line(self._path, self._timeout)
                self._line.send(request)
                reply = self._line.receive(deadline)
            except BaseException:
                # An answer that comes later would be taken for that of the next call.
                self._hang_up()
                raise
            finally:
                erase(request)
            if reply.id != self._calls:
                # Only what ends a connection is said without the id of a request.
                self._hang_up()
                if reply.id is not None or reply.error is None:
                    raise AgentReplyError("the agent answers something else")
        return _result(reply, kind)

    def _hang_up(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            line.close()


class AgentKeyStore:
    """The entries of the agent's key store that this user may have; `AgentClient.keystore`.

    What it shares with `hwtrust.keys.KeyStore` has the same names and errors. The
    rest computes with an entry inside the agent, so that its value stays there.
    """

    def __init__(self, client: AgentClient) -> None:
        self._client = client

    def __repr__(self) -> str:
        return f"<AgentKeyStore of {self._client!r}>"

    def __getitem__(self, name: str) -> bytes:
        """The value of entry `name`.

        Raises:
            EntryNotFoundError: there is none.
            KeyStoreLockedError: the device is locked; so of every method.
        """
        return self._value("get", protocol.NameParams(name=name))

    def get(self, name: str, default: bytes | None = None) -> bytes | None:
        """The value of entry `name`, or `default` when there is none."""
        try:
            return self[name]
        except EntryNotFoundError:
            return default

    def list(self, prefix: str = "") -> tuple[Entry, ...]:
        """What is known of each entry that begins with `prefix` and is this user's to see."""
        asked = protocol.ListParams(prefix=prefix)
        return self._client.call("keystore.list", asked, protocol.Listed).entries

    def __iter__(self) -> Iterator[str]:
        return iter(entry.name for entry in self.list())

    def __contains__(self, name: object) -> bool:
        return any(entry.name == name for entry in self.list())

    def __len__(self) -> int:
        return len(self.list())

    def put(self, name: str, value: bytes) -> Entry:
        """Store `value` under `name`, replacing what was there.

        Raises:
            EntryNameError: the name is none, or the value exceeds 1 MiB.
        """
        asked = protocol.PutParams(name=name, value=value)
        del value  # an error's traceback may show variables, and must not show this one
        return self._client.call("keystore.put", asked, Entry)

    def delete(self, name: str) -> None:
        """Delete entry `name`.

        Raises:
            EntryNotFoundError: there is none.
        """
        self._client.call("keystore.delete", protocol.NameParams(name=name), protocol.Done)

    def hmac(self, name: str, data: bytes) -> bytes:
        """HMAC-SHA256 of `data` under entry `name`, 32 bytes.

        Raises:
            EntryNameError: the entry is shorter than 16 bytes; so of the methods below.
        """
        return self._value("hmac", protocol.HmacParams(name=name, data=data))

    def derive(self, name: str, label: str, *, size: int = 32) -> bytes:
        """A key of `size` bytes (16 to 64) from entry `name`: HKDF-SHA256 with info `label`."""
        return self._value("derive", protocol.DeriveParams(name=name, label=label, size=size))

    def seal(self, name: str, data: bytes, *, context: bytes = b"") -> bytes:
        """`data`, encrypted under entry `name` and bound to `context`."""
        asked = protocol.SealParams(name=name, data=data, context=context)
        del data
        return self._value("seal", asked)

    def open(self, name: str, sealed: bytes, *, context: bytes = b"") -> bytes:
        """What was given to `seal`.

        Raises:
            AgentSealedError: it was changed, or sealed with another entry or context.
        """
        return self._value("open", protocol.OpenParams(name=name, sealed=sealed, context=context))

    def _value(self, method: str, asked: protocol.NameParams) -> bytes:
        return self._client.call(f"keystore.{method}", asked, Value).value


class _Line:
    """One connection, line by line."""

    def __init__(self, path: Path, timeout: float) -> None:
        """Connect to the agent, within `timeout` seconds."""
        self._path = path
        self._incoming = bytearray()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # A time-out of Python's own would not wait for a place in the agent's queue.
            waiting = _TIMEVAL.pack(int(timeout), int(timeout % 1 * 1e6))
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, waiting)
            self._socket.connect(os.fspath(path))
            self._socket.settimeout(timeout)
            self._require_agent()
        except BlockingIOError as error:
            self.close()
            raise AgentTimeoutError(f"{path}: the agent takes no connection") from error
        except OSError as error:
            self.close()
            message = f"{path}: {error.strerror or error}"
            raise AgentUnreachableError(message, path=str(path)) from error
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        erase(self._incoming)
        self._socket.close()

    def send(self, line: bytearray) -> None:
        """Say a line."""
        try:
            self._socket.sendall(line)
        except TimeoutError as error:
            raise AgentTimeoutError("the agent does not listen") from error
        except OSError as error:
            # It may have said why it hangs up, and that is worth more.
            if not self._readable():
                raise self._ended() from error

    def receive(self, deadline: float | None) -> Reply:
        """The next line; `deadline` is on the monotonic clock, None: wait for ever."""
        searched = 0
        while (end := self._incoming.find(b"\n", searched)) < 0:
            searched = len(self._incoming)
            if searched > 2 * protocol.VALUE_LINE:
                raise AgentReplyError("the agent's answer has no end")
            self._socket.settimeout(None if deadline is None else _left(deadline))
            try:
                chunk = self._socket.recv(_CHUNK)
            except TimeoutError as error:
                raise AgentTimeoutError("the agent has not answered in time") from error
            except OSError as error:
                raise self._ended() from error
            if not chunk:
                raise self._ended()
            self._incoming += chunk
        try:
            return protocol.decode_reply(bytes(self._incoming[:end]))
        finally:
            erase(self._incoming, end + 1)

    def _readable(self) -> bool:
        self._socket.settimeout(0)
        try:
            return bool(self._socket.recv(1, socket.MSG_PEEK))
        except OSError:
            return False

    def _ended(self) -> AgentUnreachableError:
        return AgentUnreachableError(f"{self._path}: the agent has hung up", path=str(self._path))

    def _require_agent(self) -> None:
        raw = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        _, uid, _ = _CREDENTIALS.unpack(raw)
        if uid not in {0, os.geteuid(), self._path.parent.stat().st_uid}:
            message = f"{self._path} is served by uid {uid}"
            raise AgentImpostorError(message, path=str(self._path), uid=uid)


def _left(deadline: float) -> float:
    # Zero would mean: do not wait at all, and is another error.
    return max(0.001, deadline - time.monotonic())


def _result(reply: Reply, kind: type[T]) -> T:
    if reply.error is not None:
        raise _raised(reply.error)
    return protocol.decode_result(reply.result, kind)


def _raised(failure: Failure) -> HwTrustError:
    """The error of the tree that the agent's answer names."""
    said = failure.data
    data = {
        key: value
        for key, value in (("hint", said.hint), ("reason", said.reason), ("problem", said.problem))
        if value
    }
    kind = all_errors().get(said.code)
    if kind is None:
        # A later agent knows errors that this client does not.
        return AgentError(failure.message, **{**data, "problem": said.code})
    return kind(failure.message, **data)
