"""An agent that runs: as a process, with a service manager that listens, or in a thread.

    with AgentProcess(site) as agent:
        agent.await_word("READY=1")
        agent.end()

Nothing sleeps: whoever waits waits for a word, a state or an end, with a limit.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from hwtrust.agent.config import AgentConfig
from hwtrust.agent.notify import Notifier
from hwtrust.agent.operations import AgentOperations
from hwtrust.agent.ports import Ports
from hwtrust.agent.service import Agent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hwtrust.agent.ports import Publisher
    from hwtrust.agent.protocol import Operations
    from hwtrust.device.results import Condition, State
    from simulators.site import Site

PATIENCE_S = 30.0
PROGRAM = Path(sys.executable).with_name("hwtrust")


class AgentProcess:
    """`hwtrust agent` in a process of its own."""

    def __init__(self, site: Site, *, under: tuple[str, ...] = (), **environment: str) -> None:
        """`under` is a program that runs it in its place, such as a tracer."""
        self.site = site
        self._under = under
        self.words: list[str] = []
        self._environment = environment
        self._manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._name = f"\0hwtrust-{os.getpid()}-{id(self)}"
        self.process: subprocess.Popen[str] | None = None

    @property
    def socket_path(self) -> Path:
        """Where host applications connect."""
        return self.site.home / "run" / "agent.sock"

    def __enter__(self) -> Self:
        (self.site.home / "run").mkdir(exist_ok=True, mode=0o700)
        config = self.site.config_path
        if "[agent]" not in config.read_text():
            text = f'\n[agent]\nsocket = "{self.socket_path}"\nretry = 0.05\nsettle = 0.05\n'
            config.write_text(config.read_text() + text)
        self._manager.bind(self._name)
        self._manager.settimeout(PATIENCE_S)
        address = "@" + self._name[1:]
        self.process = subprocess.Popen(
            [*self._under, PROGRAM, "agent", "--config", str(config)],
            env={**os.environ, "NOTIFY_SOCKET": address, **self._environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.communicate()
        self._manager.close()

    def await_word(self, beginning: str) -> str:
        """Listen until the agent says what begins so."""
        while True:
            word = self._manager.recv(4096).decode()
            self.words.append(word)
            if word.startswith(beginning):
                return word

    def hear_rest(self) -> list[str]:
        """Everything that was said, once the agent has ended."""
        self._manager.settimeout(0)
        while True:
            try:
                self.words.append(self._manager.recv(4096).decode())
            except BlockingIOError:
                return self.words

    def send(self, number: int) -> None:
        """Send a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Send a signal, and wait for the end; gives exit code and log."""
        self.send(number)
        return self.ended()

    def ended(self) -> tuple[int, str]:
        """Wait for the end; gives exit code and log."""
        assert self.process is not None
        _, log = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, log


class RunningAgent:
    """An agent in a thread of this process, whose conditions can be waited for.

    It serves a socket where `settings` name one.
    """

    def __init__(self, site: Site, settings: AgentConfig, *, ports: Ports) -> None:
        self.told: list[Condition] = []
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self.operations: AgentOperations | None = None
        self._open_socket = ports.serve if settings.socket else _nothing
        self._socket: Publisher | None = None
        self.agent = Agent(site.config, settings, ports=replace(ports, serve=self._serve))
        self._thread = threading.Thread(target=self._run, name="owner", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the agent; raises what it ended by."""
        self.agent.stop()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        if self._error is not None:
            raise self._error

    alive = True
    """As a socket that serves."""

    def publish(self, condition: Condition) -> None:
        """Be told of a condition."""
        with self._changed:
            self.told.append(condition)
            self._changed.notify_all()
        if self._socket is not None:
            self._socket.publish(condition)

    def await_condition(self, state: State, code: str = "", *, after: int = 0) -> Condition:
        """Wait until the device is in a state, and for that reason if one is given.

        Only what was told after the first `after` conditions counts.
        """

        def found() -> Condition | None:
            fits = [told for told in self.told[after:] if told.state is state]
            return next((told for told in fits if not code or told.code == code), None)

        with self._changed:
            self._changed.wait_for(lambda: self._error or found(), PATIENCE_S)
        if self._error is not None:
            raise self._error
        condition = found()
        assert condition is not None, self.told
        return condition

    @contextmanager
    def _serve(self, settings: AgentConfig, operations: Operations) -> Iterator[Self]:
        assert isinstance(operations, AgentOperations)
        self.operations = operations
        with self._open_socket(settings, operations) as self._socket:
            yield self

    def _run(self) -> None:
        try:
            self.agent.run()
        except BaseException as error:  # noqa: BLE001 - for the thread that waits
            with self._changed:
                self._error = error
                self._changed.notify_all()


@contextmanager
def _nothing(*_: object) -> Iterator[None]:
    yield None


def quiet_ports(*, fraction: Callable[[], float] = lambda: 0.5) -> Ports:
    """The real world, but for chance and the service manager."""
    return Ports(fraction=fraction, notifier=Notifier({}))
