"""Several processes that serve on one socket, and the one that looks after them.

    supervisor ── binds the sockets, opens the keys ── fork ──▶ worker 0, 1, …
        ▲                                                          │
        └──────────── a byte now and then, on a pipe ──────────────┘

Rules:
1. The passphrase is asked for once. A worker is forked from a process without
   threads, connections and event loop, and makes its own of each.
2. A worker that dies is replaced: at once, and later and later where new ones die
   as well. Where none ever began to serve, the supervisor gives up.
3. A worker whose event loop does not turn any more is killed and replaced.
4. SIGTERM and SIGINT stop all workers at once, each as its server stops; SIGHUP
   replaces them one after the other, with settings and certificate read anew.
5. A worker ends when its supervisor does, however that ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from hwtrust.errors import HwTrustError, WorkerError
from hwtrust_backend.app.backend import make_backend
from hwtrust_backend.app.background import Background
from hwtrust_backend.app.notify import READY, STOPPING, Watchdog, notify, reloading
from hwtrust_backend.app.server import Sockets, make_server, run, stop_listening
from hwtrust_backend.config import Settings, system_clock
from hwtrust_backend.db import Database
from hwtrust_backend.keys import KeyVault
from hwtrust_backend.observe import logs, metrics, traces

FIRST_PAUSE: Final = 0.1
LAST_PAUSE: Final = 10.0
"""Seconds before a worker is replaced: doubled with each that dies young."""
YOUNG_SECONDS: Final = 30.0
FAILED_STARTS: Final = 5
"""So many workers that die before they serve, one after the other, are too many."""
SILENT_SECONDS: Final = 60.0
"""A worker that says nothing for so long hangs; it says something every few seconds."""
STOP_MARGIN: Final = 10.0
"""What a worker gets beyond the time for its requests before it is killed."""

_SIGNALS: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD})
_STARTED: Final = b"s"
_BEAT: Final = b"."

_log = logging.getLogger("hwtrust_backend")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipes:
    """What a worker hears its supervisor's end by, and what it says that it lives by."""

    alive: int
    said: int


@dataclass(slots=True)
class _Worker:
    number: int
    process: int
    said: int
    born: float
    heard: float
    serves: bool = False


class Supervisor:
    """Keeps `count` workers running; `work` is what one of them does, in its own process."""

    def __init__(
        self,
        work: Callable[[int, Pipes], None],
        *,
        count: int,
        sockets: Sequence[socket.socket],
        stop_seconds: float,
        reload: Callable[[], None],
    ) -> None:
        self._work = work
        self._sockets = sockets
        self._count = count
        self._stop_seconds = stop_seconds + STOP_MARGIN
        self._reload = reload
        self._workers: dict[int, _Worker] = {}
        self._due: dict[int, float] = {}
        self._pauses: dict[int, float] = {}
        self._failed_starts = 0
        self._served = False
        self._is_ready = False
        self._watchdog = Watchdog()
        self._alive = os.pipe2(os.O_CLOEXEC)

    def run(self) -> None:
        """Run until a signal says to stop.

        Raises:
            WorkerError: no worker begins to serve.
        """
        former = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            for number in range(self._count):
                self._start(number)
            while self._turn():
                pass
        finally:
            notify(STOPPING)
            self._stop_all()
            for descriptor in self._alive:
                os.close(descriptor)
            signal.pthread_sigmask(signal.SIG_SETMASK, former)

    def _turn(self) -> bool:
        """Wait for a moment, and do what is due; False: stop."""
        heard = signal.sigtimedwait(_SIGNALS, 0.5)
        number = None if heard is None else heard.si_signo
        if number in {signal.SIGTERM, signal.SIGINT}:
            return False
        if number == signal.SIGHUP:
            self._roll()
        self._look_after()
        return True

    def _look_after(self) -> None:
        now = time.monotonic()
        self._listen(now)
        for worker in list(self._workers.values()):
            if now - worker.heard > SILENT_SECONDS:
                _say(logging.ERROR, "a worker hangs and is killed", worker.number)
                _signal(worker, signal.SIGKILL)
        for worker in self._dead():
            self._bury(worker, now)
        for number, when in list(self._due.items()):
            if when <= now:
                del self._due[number]
                self._start(number)
        if not self._is_ready and self._all_serve():
            self._is_ready = True
            notify(READY, f"STATUS=serving with {self._count} workers")
        if self._is_ready:
            self._watchdog.beat()

    def _listen(self, now: float) -> None:
        for worker in self._workers.values():
            with contextlib.suppress(BlockingIOError):
                said = os.read(worker.said, 4096)
                if said:
                    worker.heard = now
                if _STARTED in said:
                    worker.serves = self._served = True
                    self._failed_starts = 0

    def _all_serve(self) -> bool:
        serving = [worker for worker in self._workers.values() if worker.serves]
        return len(serving) == self._count

    def _dead(self) -> list[_Worker]:
        found = []
        for worker in self._workers.values():
            process, status = os.waitpid(worker.process, os.WNOHANG)
            if process:
                code = os.waitstatus_to_exitcode(status)
                message = f"a worker ended with {code}, process {worker.process}"
                _say(logging.ERROR, message, worker.number)
                found.append(worker)
        return found

    def _bury(self, worker: _Worker, now: float) -> None:
        """Forget a worker that died, and say when it is replaced (rule 2)."""
        self._forget(worker)
        metrics.RESTARTS.inc()
        if not worker.serves:
            self._failed_starts += 1
        if self._failed_starts >= FAILED_STARTS and not self._served:
            raise WorkerError(f"{self._failed_starts} workers ended before they served")
        pause = self._pauses.get(worker.number, 0.0)
        young = now - worker.born < YOUNG_SECONDS
        self._due[worker.number] = now + (pause if young else 0.0)
        longer = min(max(2 * pause, FIRST_PAUSE), LAST_PAUSE)
        self._pauses[worker.number] = longer if young else FIRST_PAUSE

    def _start(self, number: int) -> None:
        said, says = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        # What is buffered would be written by both.
        sys.stdout.flush()
        sys.stderr.flush()
        process = os.fork()
        if not process:
            self._become_worker(number, says, said)
        os.close(says)
        now = time.monotonic()
        self._workers[number] = _Worker(number, process, said, now, now)
        _say(logging.INFO, f"a worker was started, process {process}", number)

    def _become_worker(self, number: int, says: int, said: int) -> NoReturn:
        """The forked process: nothing of the supervisor goes on in it."""
        code = 1
        try:
            for descriptor in (self._alive[1], said, *(w.said for w in self._workers.values())):
                os.close(descriptor)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            metrics.become_worker(number)
            self._work(number, Pipes(alive=self._alive[0], said=says))
            code = 0
        except HwTrustError as error:
            _say(logging.CRITICAL, f"{error.code}: {error.message}", number)
        except BaseException:  # noqa: BLE001 - whatever it is ends here, not in the supervisor's frames
            traceback.print_exc()
        finally:
            logging.shutdown()
            os._exit(code)

    def _roll(self) -> None:
        """Replace the workers one after the other (rule 4)."""
        reloading()
        try:
            self._reload()
        except HwTrustError as error:
            _log.error("the settings stay as they were: %s", error.message)
        for worker in list(self._workers.values()):
            _signal(worker, signal.SIGTERM)
            self._await([worker])
            self._start(worker.number)
            self._await_service(worker.number)
        notify(READY)

    def _await_service(self, number: int) -> None:
        """Return once a new worker serves, or has died, which is seen to later."""
        deadline = time.monotonic() + self._stop_seconds
        worker = self._workers[number]
        while not worker.serves and time.monotonic() < deadline:
            self._listen(time.monotonic())
            if _has_ended(worker):
                return
            time.sleep(0.05)

    def _stop_all(self) -> None:
        for listener in self._sockets:
            stop_listening(listener)
            # What this process kept open would be neither answered nor refused.
            listener.close()
        for worker in self._workers.values():
            _signal(worker, signal.SIGTERM)
        self._await(list(self._workers.values()))

    def _await(self, workers: list[_Worker]) -> None:
        """Wait for workers that were told to end; kill what does not."""
        deadline = time.monotonic() + self._stop_seconds
        left = list(workers)
        while left:
            for worker in list(left):
                if _was_reaped(worker):
                    left.remove(worker)
                    self._forget(worker)
            if left and time.monotonic() > deadline:
                for worker in left:
                    _say(logging.ERROR, "a worker does not stop and is killed", worker.number)
                    _signal(worker, signal.SIGKILL)
                deadline += self._stop_seconds
            self._watchdog.beat()
            time.sleep(0.02)

    def _forget(self, worker: _Worker) -> None:
        os.close(worker.said)
        del self._workers[worker.number]
        metrics.forget_worker(worker.number)


def serve_alone(settings: Settings, vault: KeyVault, sockets: Sockets, *, log_level: str) -> None:
    """Serve in this process until a signal says to stop."""

    def started() -> None:
        notify(READY, "STATUS=serving")

    beat = Watchdog().beat
    _serve(settings, vault, sockets, log_level=log_level, started=started, beat=beat)
    notify(STOPPING)


def serve_with_workers(
    settings: Settings,
    vault: KeyVault,
    sockets: Sockets,
    *,
    count: int,
    log_level: str,
    reload: Callable[[], Settings],
) -> None:
    """Serve with `count` processes until a signal says to stop.

    The caller has no thread and no connection to the database (rule 1).

    Raises:
        WorkerError: no worker begins to serve.
    """
    current = settings

    def read_anew() -> None:
        nonlocal current
        found = reload()
        if (found.listen, found.metrics_listen) != (settings.listen, settings.metrics_listen):
            _log.warning("another address to listen on takes effect with the next start")
        current = found

    def work(number: int, pipes: Pipes) -> None:
        def say(what: bytes) -> None:
            with contextlib.suppress(OSError):
                os.write(pipes.said, what)

        # Whoever asks for metrics gets those of all workers: one of them answers.
        metrics_socket = sockets.metrics if number == 0 else None
        logs.configure(level=log_level, form=current.log_format, access=current.access_log)
        _serve(
            current,
            vault,
            Sockets(main=sockets.main, metrics=metrics_socket),
            log_level=log_level,
            started=lambda: say(_STARTED),
            beat=lambda: say(_BEAT),
            ends=pipes.alive,
        )

    base = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0] or None
    directory = Path(tempfile.mkdtemp(prefix="hwtrust-backend-", dir=base))
    try:
        metrics.count_in_files(directory)
        metrics.become_worker(None)
        stop_seconds = settings.shutdown_timeout_ms / 1000
        listeners = [sockets.main, *([sockets.metrics] if sockets.metrics else [])]
        Supervisor(
            work, count=count, sockets=listeners, stop_seconds=stop_seconds, reload=read_anew
        ).run()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _serve(
    settings: Settings,
    vault: KeyVault,
    sockets: Sockets,
    *,
    log_level: str,
    started: Callable[[], None],
    beat: Callable[[], None],
    ends: int | None = None,
) -> None:
    database = Database(settings.database_url)
    backend = make_backend(settings, database=database, vault=vault, clock=system_clock)
    background = Background(backend)
    try:
        traces.start()
        server = make_server(backend, log_level=log_level)
        background.start()
        asyncio.run(run(server, sockets, started=started, beat=beat, ends=ends))
    finally:
        background.stop()
        backend.courier.close()
        backend.committer.close()
        backend.waiters.close()
        database.close()


def _signal(worker: _Worker, number: signal.Signals) -> None:
    # Until it is waited for, a process keeps its number: no other can have it.
    with contextlib.suppress(ProcessLookupError):
        os.kill(worker.process, number)


def _was_reaped(worker: _Worker) -> bool:
    """Whether a worker has ended and was waited for, now or when it was found dead."""
    try:
        return bool(os.waitpid(worker.process, os.WNOHANG)[0])
    except ChildProcessError:
        return True


def _has_ended(worker: _Worker) -> bool:
    """Whether a worker has ended; it stays to be waited for."""
    flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
    return os.waitid(os.P_PID, worker.process, flags) is not None


def _say(level: int, message: str, number: int) -> None:
    logs.event(_log, level, message, worker=number)
