"""A virtual machine with UEFI firmware, Debian's kernel and a TPM, driven from outside.

    with Machine.make(tmp_path / "vm", vendor=vendor, reach=(port_of_backend,)) as machine:
        machine.start()
        done = machine.run("hwtrust", "tpm", "list", user="tss")
        machine.write("/var/lib/hwtrust/trust.json", content)
        machine.reboot()

Its root is the host's root, read-only, under an overlay in memory: programs, the
virtual environment and this checkout are there under their usual names. Rules:
1. What lasts across `reboot` and `cut_power`: the TPM, the firmware's variables and
   /var/lib/hwtrust, a disk of its own. Whatever else the VM writes is gone.
2. `reboot` is a kernel's orderly end, which warns the TPM; `cut_power` ends machine
   and TPM at once, and what no program has flushed to the disk is lost.
3. It reaches nothing but the ports of the host's loopback that `reach` names, under
   the same numbers of its own loopback; nothing reaches it but `run`.
4. Nothing outlives it: QEMU and swtpm end with the thread that started them, however
   that ends. All files lie in the directory given.
5. KVM is used where a firmware really runs on it; elsewhere QEMU interprets.
6. IMA measures programs that root starts, and what anybody reads below
   /var/lib/hwtrust: all that root reads would make the VM several times slower.

Its root cannot be suspended: the kernel's 9p has no way to resume. With `suspend` in
its plan the machine sleeps and wakes while it starts, before there is a root.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Literal, Self

from hwtrust.testing import firmware
from hwtrust.testing.swtpm import Swtpm
from vm import image

if TYPE_CHECKING:
    from hwtrust.testing.manufacture import Algorithm, Vendor

TpmInterface = Literal["tpm-tis", "tpm-crb"]

ROOT: Final = Path(__file__).resolve().parents[2]
STATE: Final = "/var/lib/hwtrust"

_QEMU: Final = "qemu-system-x86_64"
_OVMF: Final = Path("/usr/share/OVMF")
_CODE: Final = {False: "OVMF_CODE_4M.fd", True: "OVMF_CODE_4M.secboot.fd"}
_VARIABLES: Final = {False: "OVMF_VARS_4M.fd", True: "OVMF_VARS_4M.snakeoil.fd"}
_COMMAND_LINE: Final = "console=ttyS0 quiet panic=-1"
_STATE_BYTES: Final = 256 << 20
_MEMORY_MIB: Final = 1536
_START_SECONDS: Final = 900.0
_STOP_SECONDS: Final = 180.0
_PROBE_SECONDS: Final = 10.0
_QUOTED: Final = 2000
_RUNNING: Final = -1
_UNIX_SOCKETS: Final = Path("/proc/net/unix")
_ACCEPTS: Final = 0x10000
"""__SO_ACCEPTCON of the kernel."""


class MachineError(AssertionError):
    """The VM did not do what every VM does; quotes its console."""


@dataclass(frozen=True, slots=True)
class Done:
    """How a command in the VM went."""

    status: int
    output: str
    complaint: str

    def good(self) -> str:
        """What it printed, of a command that must succeed.

        Raises:
            MachineError: it failed; quotes it.
        """
        if self.status:
            message = f"exit status {self.status}: {(self.output + self.complaint)[-_QUOTED:]}"
            raise MachineError(message)
        return self.output


@dataclass(frozen=True, slots=True)
class Plan:
    """What a machine is made of; a later start may have another.

    `command_line` is added to the kernel's, and so to what the firmware measures.
    `kernel_tail` is added to the kernel's file, which makes it another one for the
    firmware (PCR 4) that does the same. With `suspend` the machine sleeps (S3) in its
    start, and leaves in `image.SUSPENDED` what the TPM said before and after.
    `secure_boot` has the firmware start a signed unified kernel image, and nothing
    that is unsigned.
    """

    interface: TpmInterface = "tpm-tis"
    secure_boot: bool = False
    command_line: str = ""
    kernel_tail: bytes = b""
    suspend: bool = False
    reach: tuple[int, ...] = ()


@dataclass(slots=True)
class _Running:
    """A VM that is on: its processes, and the way to the one inside."""

    qemu: subprocess.Popen[bytes]
    swtpm: subprocess.Popen[bytes]
    commands: socket.socket
    received: bytearray = field(default_factory=bytearray)


class Machine:
    """A VM and what lasts of it. Made by `make`, off at first; a context manager."""

    def __init__(self, directory: Path, plan: Plan) -> None:
        self.directory = directory
        self.plan = plan
        self._running: _Running | None = None

    @classmethod
    def make(
        cls,
        directory: Path,
        *,
        vendor: Vendor,
        plan: Plan | None = None,
        algorithm: Algorithm = "ecc256",
    ) -> Self:
        """Make a machine in `directory`, whose TPM has an EK certificate by `vendor`."""
        plan = plan or Plan()
        (directory / "tpm").mkdir(parents=True)
        with Swtpm.start(directory / "tpm") as tpm:
            vendor.manufacture(tpm, algorithm=algorithm)
            firmware.shutdown(tpm.bus, firmware.STARTUP_CLEAR)
        with (directory / "state.img").open("wb") as disk:
            disk.truncate(_STATE_BYTES)
        _quietly("mkfs.ext4", "-q", str(directory / "state.img"))
        shutil.copyfile(_OVMF / _VARIABLES[plan.secure_boot], directory / "variables.fd")
        return cls(directory, plan)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._running is not None:
            self.cut_power()

    @property
    def console(self) -> str:
        """What firmware and kernel have said since the last start."""
        log = self.directory / "console.log"
        return log.read_text(errors="replace") if log.exists() else ""

    def start(self, **changes: Any) -> float:  # noqa: ANN401 - as the fields of Plan
        """Turn it on and wait until it takes commands; gives the seconds that took.

        `changes` are to the plan, such as another `command_line`, and stay.

        Raises:
            MachineError: it does not come up.
        """
        self.plan = replace(self.plan, **changes)
        began = time.monotonic()
        self._running = self._power_on()
        try:
            self._await("ready", seconds=_START_SECONDS)
        except BaseException:
            self.cut_power()
            raise
        return time.monotonic() - began

    def stop(self) -> None:
        """Have its kernel end it in good order.

        Raises:
            MachineError: it does not; its power is cut then.
        """
        running = self._on()
        try:
            self._send(end=True)
            running.qemu.wait(_STOP_SECONDS)
        except (OSError, subprocess.TimeoutExpired) as error:
            message = f"the VM does not end: {self._last_words()}"
            raise MachineError(message) from error
        finally:
            self.cut_power()

    def reboot(self, **changes: Any) -> float:  # noqa: ANN401 - as the fields of Plan
        """End it in good order and start it again, as `start` does."""
        self.stop()
        return self.start(**changes)

    def cut_power(self) -> None:
        """Take the power away, from machine and TPM, in the middle of whatever they do."""
        running, self._running = self._running, None
        if running is None:
            return
        for process in (running.qemu, running.swtpm):
            process.kill()
            process.wait()
        running.commands.close()

    def run(
        self,
        *command: str,
        user: str = "root",
        cwd: Path | str = ROOT,
        environment: dict[str, str] | None = None,
        given: bytes = b"",
        seconds: float = 1200,
        show: IO[str] | None = None,
        background: bool = False,
        until: str = "",
    ) -> Done:
        """Run a program in the VM and wait for its end.

        The scripts of the virtual environment are on PATH. `given` is its standard
        input; what it prints goes to `show` too, as it comes. With `background` it
        is started only, and prints on the console. `until` is for `cut_power_when`.

        Raises:
            MachineError: the VM has ended, or the command takes too long; the VM is
                of no use afterwards, but for `cut_power`.
        """
        path = f"{ROOT / '.venv/bin'}:{os.environ['PATH']}:/usr/sbin:/sbin"
        self._send(
            argv=command,
            user=user,
            cwd=str(cwd),
            environment={"PATH": path, "LANG": "C.UTF-8"} | (environment or {}),
            input=base64.b64encode(given).decode(),
            background=background,
        )
        streams = {"stdout": bytearray(), "stderr": bytearray()}
        end = time.monotonic() + seconds
        try:
            while "status" not in (message := self._receive(end)):
                data = base64.b64decode(message["data"])
                streams[message["stream"]] += data
                if show is not None:
                    show.write(data.decode(errors="replace"))
                    show.flush()
                if until and until.encode() in streams["stdout"]:
                    message = {"status": _RUNNING}
                    break
        except MachineError as error:
            printed = (streams["stdout"] + streams["stderr"])[-_QUOTED:].decode(errors="replace")
            text = f"{error}; the command has printed {printed!r}"
            raise MachineError(text) from error
        output, complaint = (stream.decode(errors="replace") for stream in streams.values())
        return Done(message["status"], output, complaint)

    def cut_power_when(self, said: str, *command: str, **options: Any) -> str:  # noqa: ANN401
        """Run a program, and cut the power as soon as it prints `said`; gives what it printed.

        `options` are as for `run`.

        Raises:
            MachineError: it ended before.
        """
        done = self.run(*command, until=said, **options)
        self.cut_power()
        if done.status != _RUNNING:
            message = (
                f"ended with {done.status} before: {(done.output + done.complaint)[-_QUOTED:]}"
            )
            raise MachineError(message)
        return done.output

    def write(self, path: str, content: bytes, *, user: str = "root") -> None:
        """Write a file in the VM."""
        self.run("sh", "-c", 'cat >"$1"', "write", path, user=user, given=content).good()

    def read(self, path: str) -> bytes:
        """A file of the VM, such as one of securityfs."""
        return base64.b64decode(self.run("base64", path).good())

    # --- power -------------------------------------------------------------------

    def _power_on(self) -> _Running:
        if self._running is not None:
            message = "the VM is on already"
            raise MachineError(message)
        boot = self._boot_medium()
        with (
            # Sockets need short paths; once connected, they need none.
            tempfile.TemporaryDirectory(prefix="hwtrust-vm-") as name,
            (self.directory / "qemu.log").open("wb") as log,
            ExitStack() as failed,
        ):
            sockets = Path(name)
            state = f"dir={self.directory / 'tpm'}"
            control = f"type=unixio,path={sockets / 'tpm'}"
            swtpm = _spawn(
                [
                    "swtpm",
                    "socket",
                    "--tpm2",
                    "--tpmstate",
                    state,
                    "--ctrl",
                    control,
                    "--terminate",
                ],
                log,
            )
            failed.callback(_end, swtpm)
            self._await_listener(sockets / "tpm", swtpm)
            qemu = _spawn([_QEMU, *self._hardware(sockets), *boot], log)
            failed.callback(_end, qemu)
            self._await_listener(sockets / "commands", qemu)
            commands = failed.enter_context(socket.socket(socket.AF_UNIX))
            commands.connect(str(sockets / "commands"))
            failed.pop_all()
        return _Running(qemu, swtpm, commands)

    def _hardware(self, sockets: Path) -> list[str]:
        plan = self.plan
        machine = "q35,smm=on" if plan.secure_boot else "q35"
        reach = "".join(
            f",guestfwd=tcp:10.0.2.100:{port}-cmd:busybox nc 127.0.0.1 {port}"
            for port in plan.reach
        )
        arguments = [
            *("-machine", machine, "-accel", accelerator(), "-cpu", "max", "-smp", "1"),
            *("-m", str(_MEMORY_MIB), "-nodefaults", "-no-user-config", "-display", "none"),
            *("-no-reboot", "-serial", f"file:{self.directory / 'console.log'}"),
            *_pflash(0, _OVMF / _CODE[plan.secure_boot], readonly=True),
            *_pflash(1, self.directory / "variables.fd", readonly=False),
            *("-chardev", f"socket,id=tpm,path={sockets / 'tpm'}"),
            *("-tpmdev", "emulator,id=tpm,chardev=tpm", "-device", f"{plan.interface},tpmdev=tpm"),
            *("-chardev", f"socket,id=commands,path={sockets / 'commands'},server=on,wait=off"),
            *(
                "-device",
                "virtio-serial",
                "-device",
                "virtserialport,chardev=commands,name=hwtrust",
            ),
            *("-drive", f"file={self.directory / 'state.img'},format=raw,if=virtio"),
            *("-netdev", f"user,id=net,restrict=on{reach}"),
            *("-device", "virtio-net-pci,netdev=net,romfile="),
            "-virtfs",
            "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap",
        ]
        if plan.suspend:
            arguments += ["-global", "ICH9-LPC.disable_s3=0"]
        if plan.secure_boot:
            arguments += ["-global", "driver=cfi.pflash01,property=secure,value=on"]
        return arguments

    def _boot_medium(self) -> list[str]:
        """Make what the firmware starts; gives QEMU's arguments for it."""
        plan, kernel = self.plan, image.kernel()
        initrd = self.directory / "initrd"
        python = Path(sys.executable).resolve()
        image.initramfs(initrd, modules=kernel.modules, python=python, ports=plan.reach)
        words = (_COMMAND_LINE, plan.command_line, image.SUSPEND if plan.suspend else "")
        command_line = " ".join(filter(None, words))
        kernel_file = self.directory / "kernel"
        kernel_file.write_bytes(kernel.image.read_bytes() + plan.kernel_tail)
        kernel = replace(kernel, image=kernel_file)
        if not plan.secure_boot:
            return [
                *("-kernel", str(kernel.image), "-initrd", str(initrd)),
                *("-append", command_line),
            ]
        system_partition = self.directory / "esp"
        shutil.rmtree(system_partition, ignore_errors=True)
        image.signed_image(
            system_partition, kernel=kernel, initrd=initrd, command_line=command_line
        )
        return ["-drive", f"file=fat:{system_partition},format=raw,if=virtio,readonly=on"]

    # --- commands and events -------------------------------------------------------

    def _on(self) -> _Running:
        if self._running is None:
            message = "the VM is off"
            raise MachineError(message)
        return self._running

    def _send(self, **message: object) -> None:
        try:
            self._on().commands.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            text = f"the VM has ended: {self._last_words()}"
            raise MachineError(text) from error

    def _await(self, key: str, *, seconds: float) -> None:
        end = time.monotonic() + seconds
        while key not in self._receive(end):
            pass

    def _receive(self, end: float) -> dict[str, Any]:
        """The next message of the VM."""
        running = self._on()
        while b"\n" not in running.received:
            ready, _, _ = select.select(
                [running.commands], [], [], max(0.0, end - time.monotonic())
            )
            data = running.commands.recv(1 << 16) if ready else b""
            if not data:
                what = "has ended" if ready else "takes too long"
                message = f"the VM {what}: {self._last_words()}"
                raise MachineError(message)
            running.received += data
        line, _, rest = bytes(running.received).partition(b"\n")
        running.received[:] = rest
        message_in: dict[str, Any] = json.loads(line)
        return message_in

    def _await_listener(self, path: Path, process: subprocess.Popen[bytes]) -> None:
        """Return once a program takes connections at its socket, whose file is there before."""
        end = time.monotonic() + _STOP_SECONDS
        while not _listening(path):
            if process.poll() is not None or time.monotonic() > end:
                message = f"no {path.name}: {self._last_words()}"
                raise MachineError(message)
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.02)

    def _last_words(self) -> str:
        log = self.directory / "qemu.log"
        said = log.read_text(errors="replace") if log.exists() else ""
        return f"QEMU: {said[-_QUOTED:]!r}; console: {self.console[-_QUOTED:]!r}"


@cache
def accelerator() -> Literal["kvm", "tcg"]:
    """`kvm` where OVMF really runs on it, else `tcg`.

    /dev/kvm alone says little: within another VM it may be there, take a virtual
    processor, and fail at the first instructions.
    """
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    process = subprocess.Popen(
        [
            *(_QEMU, "-machine", "q35", "-accel", "kvm", "-cpu", "max", "-m", "256"),
            *("-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot"),
            *_pflash(0, _OVMF / _CODE[False], readonly=True),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], _PROBE_SECONDS)
        return "kvm" if ready and os.read(process.stdout.fileno(), 1) else "tcg"
    finally:
        _end(process)
        if process.stdout is not None:
            process.stdout.close()


def _listening(path: Path) -> bool:
    """Whether a UNIX socket takes connections, without making one; see proc_net(5)."""
    for line in _UNIX_SOCKETS.read_text().splitlines()[1:]:
        _, _, _, flags, _, _, _, *name = line.split(maxsplit=7)
        if name == [str(path)] and int(flags, 16) & _ACCEPTS:
            return True
    return False


def _pflash(unit: int, path: Path, *, readonly: bool) -> list[str]:
    mode = "on" if readonly else "off"
    return ["-drive", f"if=pflash,format=raw,unit={unit},readonly={mode},file={path}"]


def _spawn(arguments: list[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start a program that ends with this thread, even when that is killed."""
    return subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def _quietly(*arguments: str) -> None:
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    program = shutil.which(arguments[0], path=path)
    if program is None:
        message = f"{arguments[0]} is not installed: scripts/setup --test"
        raise MachineError(message)
    subprocess.run([program, *arguments[1:]], check=True, capture_output=True)
