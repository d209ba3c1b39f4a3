"""One software TPM: a process of its own, with a state directory of its own.

    Swtpm.start(directory)  ->  swtpm socket --tpm2  <-  "swtpm:path=…/tpm.sock"

Rules:
1. A TPM that is started is ready: it has answered a command.
2. Nothing outlives its user: the process ends with the program that started it,
   however that ends; sockets and temporary directories go at `stop()` or when
   the interpreter exits.
3. What happens to the TPM's state is what happens to a chip's: `reboot` warns
   the TPM before the reset, `power_cut` does not.
   `go_away` and `come_back` are what becomes of a chip with a loose contact.
4. Faults, latency and what else stands on the wire reach every user of the TPM,
   also one that has it open: `inject`, `slow_down`, `forget_curves`.
5. Waits are bounded, and end at once when swtpm dies; the error quotes its log.

The platform hierarchy has no password, as on a machine whose firmware forgets
to set one. Do not build on that.
"""

from __future__ import annotations

import fcntl
import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from hwtrust.errors import SoftwareTpmError
from hwtrust.testing import firmware
from hwtrust.testing.bus import Bus
from hwtrust.testing.interposer import Interposer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hwtrust.testing.faults import At, FaultPlan

PROGRAM: Final = "swtpm"

_PREFIX: Final = "hwtrust-tpm-"
_SOCKET: Final = "tpm.sock"
_CHIP: Final = f"{_SOCKET}.chip"
"""Where swtpm listens once somebody else is at its socket."""
_STATE: Final = "tpm2-00.permall"
_LOG: Final = "swtpm.log"
_LONGEST_SOCKET_PATH: Final = 107 - len(".ctrl")
_UNUSABLE: Final = frozenset(",= \t\n")
"""Characters that separate options for swtpm or for the TCTI."""

_START_SECONDS: Final = 10.0
_STOP_SECONDS: Final = 5.0
_QUOTED_LOG_LINES: Final = 10
_F_SETSIG: Final = 10
"""fcntl(2); absent from Python's fcntl module before 3.13."""


def installed() -> bool:
    """Whether this machine has swtpm."""
    return shutil.which(PROGRAM) is not None


@dataclass(slots=True)
class _Belongings:
    """What must not be left behind: a process, a thread and temporary directories."""

    process: subprocess.Popen[bytes] | None = None
    lifeline: int = -1
    interposer: Interposer | None = None
    temporary: list[Path] = field(default_factory=list)
    owner: int = field(default_factory=os.getpid)

    def end_process(self, how: int) -> None:
        """Send the signal `how` and wait; kill what does not react."""
        process, self.process = self.process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        finally:
            os.close(self.lifeline)

    def clear(self) -> None:
        """End the process and remove the directories."""
        # A forked child inherits this object, but not what it stands for.
        if os.getpid() != self.owner:
            return
        if self.interposer is not None:
            self.interposer.close()
        self.end_process(signal.SIGKILL)
        while self.temporary:
            shutil.rmtree(self.temporary.pop(), ignore_errors=True)


def _spawn(arguments: list[str], *, directory: Path) -> tuple[subprocess.Popen[bytes], int]:
    """Start swtpm so that it ends with this process; also returns the lifeline.

    The lifeline is a pipe whose only writer is here. When this process ends,
    the kernel closes it and sends SIGKILL to swtpm, which holds the other end.
    PR_SET_PDEATHSIG would fire when the starting thread ends, too soon.
    """
    reader, writer = os.pipe()
    process = None
    try:
        with (directory / _LOG).open("ab") as log:
            process = subprocess.Popen(
                arguments,
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(reader,),
                start_new_session=True,
            )
        fcntl.fcntl(reader, fcntl.F_SETOWN, process.pid)
        fcntl.fcntl(reader, _F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(reader, fcntl.F_SETFL, os.O_ASYNC)
    except OSError as error:
        os.close(writer)
        if process is not None:
            process.kill()
            process.wait()
        message = f"swtpm cannot be started: {error}"
        raise SoftwareTpmError(message) from error
    finally:
        os.close(reader)
    return process, writer


def _takes_sockets(directory: Path) -> bool:
    """Whether a socket's path there is short enough, and one that can be an option."""
    path = str(directory / _SOCKET)
    fits = len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH
    return fits and not _UNUSABLE.intersection(path)


def _socket_directory() -> Path:
    """A new directory for sockets; in /tmp where the usual place is named too long."""
    usual = Path(tempfile.mkdtemp(prefix=_PREFIX))
    if _takes_sockets(usual):
        return usual
    usual.rmdir()
    return Path(tempfile.mkdtemp(prefix=_PREFIX, dir="/tmp"))


class Swtpm:
    """A running software TPM. Made by `start`; a context manager."""

    def __init__(self, state_dir: Path, socket_dir: Path, belongings: _Belongings) -> None:
        self._state_dir = state_dir
        self._socket = self._chip = socket_dir / _SOCKET
        self._belongings = belongings
        self._finalizer = weakref.finalize(self, belongings.clear)

    @classmethod
    def start(
        cls,
        state_dir: Path | None = None,
        *,
        banks: Iterable[str] = ("sha1", "sha256"),
        owner_auth: bytes = b"",
    ) -> Self:
        """Power a TPM on: the one in `state_dir`, or a new one if that is empty.

        `banks` ("sha1", "sha256", "sha384", "sha512") and `owner_auth`, the owner
        hierarchy's password, are for new TPMs; an older one keeps what it has.
        Without `state_dir` the TPM is gone after `stop()`.

        Raises:
            SoftwareTpmError: swtpm is not installed, does not start, or has no
                such banks.
        """
        belongings = _Belongings()
        if state_dir is None:
            state_dir = Path(tempfile.mkdtemp(prefix=_PREFIX))
            belongings.temporary.append(state_dir)
        state_dir = state_dir.resolve()
        socket_dir = state_dir
        if not _takes_sockets(state_dir):
            socket_dir = _socket_directory()
            belongings.temporary.append(socket_dir)
        new = not (state_dir / _STATE).exists()
        tpm = cls(state_dir, socket_dir, belongings)
        try:
            tpm._power_on("startup-clear")
            if new and firmware.allocate_banks(tpm.bus, tuple(banks)):
                tpm.reboot()
            if new and owner_auth:
                firmware.set_owner_password(tpm.bus, owner_auth)
        except BaseException:
            tpm.stop()
            raise
        return tpm

    @property
    def tcti(self) -> str:
        """What programs connect to, as `swtpm:path=…`."""
        return f"swtpm:path={self._socket}"

    @property
    def state_dir(self) -> Path:
        """Where the TPM keeps its state, its sockets if their path is short enough, its log."""
        return self._state_dir

    @property
    def bus(self) -> Bus:
        """The way to send this TPM commands as bytes, past all faults."""
        return Bus(self._chip)

    @property
    def pid(self) -> int | None:
        """The process that is the TPM; None when it is stopped."""
        process = self._belongings.process
        return None if process is None else process.pid

    def reboot(self) -> None:
        """Reset the TPM as an orderly reboot does (TPM Reset, Part 1 §12.2.3.2).

        PCRs return to their reset values, sessions and loaded objects are gone,
        the reset count goes up. NV, persistent objects and hierarchies stay.

        Raises:
            SoftwareTpmError: swtpm has died.
        """
        firmware.shutdown(self.bus, firmware.STARTUP_CLEAR)
        self._cycle(signal.SIGTERM, "startup-clear")

    def suspend(self) -> None:
        """Suspend the machine to memory and wake it (TPM Resume, Part 1 §12.2.3.4).

        PCRs and saved contexts stay, loaded objects are gone, the restart count
        goes up.

        Raises:
            SoftwareTpmError: swtpm has died.
        """
        firmware.shutdown(self.bus, firmware.STARTUP_STATE)
        self._cycle(signal.SIGTERM, "startup-state")

    def power_cut(self) -> None:
        """Take the power away and give it back: no TPM2_Shutdown warns the TPM.

        As after `reboot`; besides, the clock is not `safe` until it has caught up,
        and orderly NV indices may have lost writes.
        """
        self._cycle(signal.SIGKILL, "startup-clear")

    def lock_out(self) -> None:
        """Bring the TPM into dictionary-attack lockout, by wrong passwords.

        Raises:
            SoftwareTpmError: the TPM does not lock.
        """
        firmware.lock_out(self.bus)

    def go_away(self) -> None:
        """The TPM is gone, without a word: whoever asks it finds nothing; harmless repeated."""
        if self._belongings.interposer is not None:
            self._belongings.interposer.close()
        self._belongings.end_process(signal.SIGKILL)

    def come_back(self) -> None:
        """Be there again, as after `power_cut`."""
        self._cycle(signal.SIGKILL, "startup-clear")

    def inject(self, *steps: At) -> FaultPlan:
        """Have faults happen to this TPM's commands, in place of those that were planned.

            plan = tpm.inject(At(Respond(RC_LOCKOUT), command="TPM2_Unseal", nth=2))

        Counting begins now and sees the commands of all programs, not those of `bus`.
        Assert `plan.done` at the end of the test. No step: no faults any more. Needs
        tpm2-pytss; see `hwtrust.testing.faults`.

        Raises:
            FaultPlanError: a fault that was planned before could not happen.
        """
        from hwtrust.testing.faults import FaultPlan  # noqa: PLC0415  # it needs the TPM stack

        self.check()
        plan = FaultPlan(*steps)
        self._interposer.plan = plan
        return plan

    def slow_down(self, seconds: float) -> None:
        """Have each command take `seconds` longer, from now on; 0 ends it."""
        if seconds or self._belongings.interposer is not None:
            self._interposer.latency = seconds

    def forget_curves(self) -> None:
        """Offer no elliptic curves any more, as a TPM that has RSA alone."""
        from hwtrust.testing.rsa_only import RsaOnly  # noqa: PLC0415  # few tests need it

        self._interposer.always = [RsaOnly()]

    def check(self) -> None:
        """Raise what kept a planned fault from happening.

        Raises:
            FaultPlanError: as the fault said.
        """
        interposer = self._belongings.interposer
        if interposer is not None and interposer.failure is not None:
            raise interposer.failure

    @property
    def _interposer(self) -> Interposer:
        """Who stands on the wire; there from the first time that it is asked for."""
        interposer = self._belongings.interposer
        if interposer is None:
            self._chip = self._socket.with_name(_CHIP)
            # swtpm goes on listening at the inode, whatever its names are.
            self._chip.hardlink_to(self._socket)
            interposer = self._belongings.interposer = Interposer(self._socket, self._chip)
            interposer.listen()
        return interposer

    def stop(self) -> None:
        """Power the TPM off, without a warning; harmless when repeated."""
        if self._belongings.interposer is not None:
            self._belongings.interposer.close()
        self._belongings.end_process(signal.SIGKILL)
        self._remove_sockets()
        self._finalizer()

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_exception: object) -> None:
        """Stop it."""
        self.stop()

    def _cycle(self, how: int, startup: str) -> None:
        interposer = self._belongings.interposer
        if interposer is not None:
            interposer.close()
        self._belongings.end_process(how)
        self._remove_sockets()
        self._power_on(startup)
        if interposer is not None:
            interposer.listen()

    def _remove_sockets(self) -> None:
        for name in (_SOCKET, _CHIP, f"{_SOCKET}.ctrl"):
            self._socket.with_name(name).unlink(missing_ok=True)

    def _power_on(self, startup: str) -> None:
        if not installed():
            message = "swtpm is not installed on this machine"
            raise SoftwareTpmError(message)
        arguments = [
            PROGRAM,
            "socket",
            "--tpm2",
            # The directory's name may hold commas, so it is not an argument.
            "--tpmstate",
            "dir=.",
            "--server",
            f"type=unixio,path={self._chip}",
            "--ctrl",
            f"type=unixio,path={self._socket}.ctrl",
            "--flags",
            f"not-need-init,{startup}",
        ]
        process, lifeline = _spawn(arguments, directory=self._state_dir)
        self._belongings.process, self._belongings.lifeline = process, lifeline
        try:
            self._await_socket(process.pid)
            # swtpm listens before TPM2_Startup has succeeded.
            firmware.banks(self.bus)
        except SoftwareTpmError as error:
            self._belongings.end_process(signal.SIGKILL)
            message = f"{error.message}; swtpm says: {self._last_log_lines()}"
            raise SoftwareTpmError(message, **error.data) from error

    def _await_socket(self, pid: int) -> None:
        """Return once swtpm accepts connections."""
        end = time.monotonic() + _START_SECONDS
        poll = select.poll()
        pidfd = os.pidfd_open(pid)
        try:
            poll.register(pidfd, select.POLLIN)
            while time.monotonic() < end:
                with socket.socket(socket.AF_UNIX) as connection:
                    if connection.connect_ex(str(self._chip)) == 0:
                        return
                if poll.poll(1):
                    message = "swtpm ended as soon as it was started"
                    raise SoftwareTpmError(message)
        finally:
            os.close(pidfd)
        message = f"swtpm does not listen after {_START_SECONDS:.0f} seconds"
        raise SoftwareTpmError(message)

    def _last_log_lines(self) -> str:
        lines = (self._state_dir / _LOG).read_text(errors="replace").splitlines()
        return " | ".join(lines[-_QUOTED_LOG_LINES:]) or "nothing"
