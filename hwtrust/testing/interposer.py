"""Somebody on the wire between a software TPM and all its users, of any process.

    users ── tpm.sock ── Interposer ── tpm.sock.chip ── swtpm

Nothing that talks to the TPM has to be told of it: the interposer takes the
place of swtpm's socket, under programs too that have the TPM open. That works
because each command comes in a connection of its own (`hwtrust.testing.bus`,
rule 1; the swtpm TCTI does the same). Rules:

1. Without faults, and with no latency, every byte passes as it is.
2. One client at a time, as with swtpm.
3. A fault that answers nothing breaks the connection: what the client then sees
   is what it sees when a chip falls silent.
4. A fault that cannot happen as it was planned is kept as `failure`: a thread
   has nobody to raise it to. Whoever planned it asks.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from hwtrust.errors import FaultPlanError, SoftwareTpmError
from hwtrust.testing.bus import Bus

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    Forward = Callable[[bytes], bytes]

_HEADER: Final = 10
_LARGEST: Final = 64 * 1024
"""Bytes; no TPM takes a command of that size."""
_BACKLOG: Final = 16


class Fault(Protocol):
    """What happens to one command; those of `hwtrust.testing.faults` are such."""

    def apply(self, request: bytes, forward: Forward) -> bytes:
        """Answer `request`; `forward` has the TPM execute a command."""


class Plan(Protocol):
    """What happens to which command, as `hwtrust.testing.faults.FaultPlan` says it."""

    def faults_of(self, request: bytes) -> Sequence[Fault]:
        """Count `request` and return what happens to it."""


class Interposer:
    """Listens at `public` and hands commands on to `chip`, where swtpm listens.

    `latency` is how long every command takes besides, in seconds; `always` are faults
    that happen to every command, `plan` those of a test.
    """

    def __init__(self, public: Path, chip: Path) -> None:
        self._public = public
        self._bus = Bus(chip)
        self._listener: socket.socket | None = None
        self._client: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._hurry = threading.Event()
        self.latency = 0.0
        self.always: list[Fault] = []
        self.plan: Plan | None = None
        self.failure: FaultPlanError | None = None

    def listen(self) -> None:
        """Take the place of what listens at `public`, at once for whoever connects next."""
        listener = socket.socket(socket.AF_UNIX)
        place = self._public.with_name(f"{self._public.name}.new")
        listener.bind(str(place))
        listener.listen(_BACKLOG)
        place.rename(self._public)
        self._hurry.clear()
        self._listener = listener
        self._thread = threading.Thread(
            target=self._accept, args=(listener,), name="hwtrust-interposer", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Listen no more and break what is under way; harmless when repeated."""
        listener, self._listener = self._listener, None
        self._hurry.set()
        for one in (listener, self._client):
            if one is not None:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
        # A fault may take the TPM away, in this very thread.
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        if listener is not None:
            listener.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client:
                self._client = client
                # A client that goes away in the midst of a command is no concern of others.
                with contextlib.suppress(OSError):
                    self._serve(client)
                self._client = None

    def _serve(self, client: socket.socket) -> None:
        while request := _command(client):
            response = self._answer(request)
            if not response:
                return
            client.sendall(response)

    def _answer(self, request: bytes) -> bytes:
        """The response, or nothing where the connection is to break."""
        # Interrupted when the TPM is taken away.
        if self.latency and self._hurry.wait(self.latency):
            return b""
        forward: Forward = self._bus.transact
        planned = self.plan.faults_of(request) if self.plan else ()
        for fault in reversed([*planned, *self.always]):
            forward = partial(fault.apply, forward=forward)
        try:
            return forward(request)
        except FaultPlanError as error:
            self.failure = error
        except SoftwareTpmError:
            pass  # it is gone, as far as the client can see
        except Exception as error:
            # A cut: an error of the TPM stack, which this module does not need.
            if not hasattr(error, "rc"):
                raise
        return b""


def _command(client: socket.socket) -> bytes:
    """The next command buffer; nothing where the client has no more."""
    buffer = b""
    while len(buffer) < max(_HEADER, int.from_bytes(buffer[2:6], "big")):
        piece = client.recv(4096)
        if not piece or len(buffer) > _LARGEST:
            return b""
        buffer += piece
    return buffer
