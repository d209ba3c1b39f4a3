"""A software TPM starts ready, behaves like a chip, and leaves nothing behind."""

from __future__ import annotations

import hashlib
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from tpm2_pytss import (
    ESAPI,
    ESYS_TR,
    TPM2_ALG,
    TPM2_CAP,
    TPM2_NT,
    TPM2B_NV_PUBLIC,
    TPM2B_SENSITIVE_CREATE,
    TPMA_NV,
)
from tpm2_pytss.TSS2_Exception import TSS2_Exception
from tpm2_pytss.types import TPMS_NV_PUBLIC

from hwtrust.errors import SoftwareTpmError
from hwtrust.testing import firmware
from hwtrust.testing.manufacture import create_ek
from hwtrust.testing.swtpm import Swtpm

if TYPE_CHECKING:
    from collections.abc import Iterator

RC_BAD_AUTH = 0x9A2
RC_LOCKOUT = 0x921
NV_INDEX = 0x0180_0001


class Clock(NamedTuple):
    """What a reset leaves and changes."""

    resets: int
    restarts: int
    safe: bool


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Swtpm]:
    """A TPM without anything of a vendor."""
    with Swtpm.start(tmp_path) as tpm:
        yield tpm


def pcr(tpm: Swtpm, number: int) -> bytes:
    """The SHA-256 value of one PCR."""
    with ESAPI(tpm.tcti) as esapi:
        return bytes(esapi.pcr_read(f"sha256:{number}")[2][0])


def extend(tpm: Swtpm, number: int, event: bytes) -> None:
    """Measure `event` into all banks."""
    with ESAPI(tpm.tcti) as esapi:
        esapi.pcr_event(ESYS_TR(number), event)


def clock(tpm: Swtpm) -> Clock:
    """The counts and the safe flag of TPMS_CLOCK_INFO."""
    with ESAPI(tpm.tcti) as esapi:
        info = esapi.read_clock().clockInfo
        return Clock(info.resetCount, info.restartCount, bool(info.safe))


def define_nv(tpm: Swtpm, attributes: TPMA_NV, *, password: bytes = b"", size: int = 8) -> None:
    """Make an NV index of the owner's."""
    public = TPM2B_NV_PUBLIC(
        nvPublic=TPMS_NV_PUBLIC(
            nvIndex=NV_INDEX, nameAlg=TPM2_ALG.SHA256, attributes=attributes, dataSize=size
        )
    )
    with ESAPI(tpm.tcti) as esapi:
        esapi.nv_define_space(password, public)


def counter(tpm: Swtpm, *, increments: int = 0) -> int:
    """The value of the NV counter after `increments`."""
    with ESAPI(tpm.tcti) as esapi:
        index = esapi.tr_from_tpmpublic(NV_INDEX)
        for _ in range(increments):
            esapi.nv_increment(index, auth_handle=ESYS_TR.OWNER)
        return int.from_bytes(bytes(esapi.nv_read(index, 8, auth_handle=ESYS_TR.OWNER)), "big")


def alive(pid: int) -> bool:
    """Whether the process `pid` runs, and is no zombie."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def run_script(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_started_tpm_answers(running: Swtpm) -> None:
    """`start` returns when commands are answered, not earlier."""
    with ESAPI(running.tcti) as esapi:
        assert len(bytes(esapi.get_random(16))) == 16


def test_stop_leaves_the_state_and_no_process_and_no_socket(tmp_path: Path) -> None:
    """A stopped TPM is its state directory and nothing else."""
    tpm = Swtpm.start(tmp_path)
    pid = tpm.pid
    assert pid is not None
    tpm.stop()
    assert tpm.pid is None
    assert not alive(pid)
    left = {path.name for path in tmp_path.iterdir()}
    assert "tpm2-00.permall" in left
    assert not any(path.is_socket() for path in tmp_path.iterdir())


def test_stop_twice_is_harmless(tmp_path: Path) -> None:
    """Stopping is idempotent, so that a test and a fixture may both do it."""
    tpm = Swtpm.start(tmp_path)
    tpm.stop()
    tpm.stop()
    assert tpm.pid is None


def test_a_tpm_without_a_directory_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Temporary state directories are removed."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with Swtpm.start() as tpm:
        assert tpm.state_dir.parent == tmp_path
    assert list(tmp_path.iterdir()) == []


def test_a_tpm_starts_where_the_names_of_temporary_files_are_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No socket's path is longer than the kernel takes, and none is left anywhere."""
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with Swtpm.start() as tpm:
        assert tpm.state_dir.parent == deep
        socket = Path(tpm.tcti.removeprefix("swtpm:path="))
        assert socket.is_socket()
    assert list(deep.iterdir()) == []
    assert not socket.parent.exists()


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    """Start, reboot and stop give back every descriptor that they open."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        with Swtpm.start(tmp_path) as tpm:
            tpm.reboot()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


START_AND_WAIT = """
import sys
from pathlib import Path
from hwtrust.testing.swtpm import Swtpm
tpm = Swtpm.start(Path(sys.argv[1]))
print(tpm.pid, flush=True)
sys.stdin.read()
"""


def test_swtpm_ends_when_its_user_is_killed(tmp_path: Path) -> None:
    """A kill -9 of the test run leaves no swtpm behind."""
    with subprocess.Popen(
        [sys.executable, "-c", START_AND_WAIT, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as user:
        assert user.stdout is not None
        pid = int(user.stdout.readline())
        pidfd = os.pidfd_open(pid)
        try:
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            assert not poll.poll(0)
            user.kill()
            user.wait()
            assert poll.poll(10_000)
        finally:
            os.close(pidfd)


EXIT_WITHOUT_STOP = """
import sys, tempfile
from hwtrust.testing.swtpm import Swtpm
tempfile.tempdir = sys.argv[1]
tpm = Swtpm.start()
print(tpm.pid, flush=True)
"""


def test_an_interpreter_that_exits_clears_up(tmp_path: Path) -> None:
    """A forgotten `stop` costs nothing but the time until the program ends."""
    done = run_script(EXIT_WITHOUT_STOP, str(tmp_path))
    assert done.returncode == 0
    assert not alive(int(done.stdout))
    assert list(tmp_path.iterdir()) == []


FORK_AND_EXIT = """
import os, sys, tempfile
from hwtrust.testing.swtpm import Swtpm
tempfile.tempdir = sys.argv[1]
with Swtpm.start() as tpm:
    child = os.fork()
    if child == 0:
        import atexit
        atexit._run_exitfuncs()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert tpm.state_dir.is_dir()
    tpm.reboot()
"""


def test_a_forked_child_does_not_take_the_tpm_along(tmp_path: Path) -> None:
    """The exit handlers of a child process leave its parent's TPM alone."""
    done = run_script(FORK_AND_EXIT, str(tmp_path))
    assert done.returncode == 0, done.stderr


def test_a_tpm_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    """The TPM belongs to the process, whichever thread made it."""
    made: list[Swtpm] = []
    thread = threading.Thread(target=lambda: made.append(Swtpm.start(tmp_path)))
    thread.start()
    thread.join()
    with made[0] as tpm:
        assert firmware.banks(tpm.bus)


def test_reboot_resets_pcrs_and_keeps_nv(running: Swtpm) -> None:
    """An orderly reboot is a TPM Reset."""
    define_nv(running, TPMA_NV.OWNERWRITE | TPMA_NV.OWNERREAD | (TPM2_NT.COUNTER << 4))
    value = counter(running, increments=2)
    extend(running, 16, b"measured")
    before = clock(running)
    running.reboot()
    assert pcr(running, 16) == bytes(32)
    assert counter(running) == value
    assert clock(running) == Clock(before.resets + 1, 0, safe=True)


def test_a_power_cut_resets_pcrs_keeps_nv_and_makes_the_clock_unsafe(running: Swtpm) -> None:
    """Power that goes without TPM2_Shutdown is a TPM Reset that the TPM notices."""
    define_nv(running, TPMA_NV.OWNERWRITE | TPMA_NV.OWNERREAD | (TPM2_NT.COUNTER << 4))
    value = counter(running, increments=2)
    extend(running, 16, b"measured")
    before = clock(running)
    running.power_cut()
    assert pcr(running, 16) == bytes(32)
    assert counter(running) == value
    assert clock(running) == Clock(before.resets + 1, 0, safe=False)


def test_a_power_cut_moves_an_orderly_counter(running: Swtpm) -> None:
    """Orderly NV counters jump at a power cut and do not at a reboot."""
    attributes = TPMA_NV.OWNERWRITE | TPMA_NV.OWNERREAD | TPMA_NV.ORDERLY
    define_nv(running, attributes | (TPM2_NT.COUNTER << 4))
    value = counter(running, increments=2)
    running.reboot()
    assert counter(running) == value
    running.power_cut()
    assert counter(running) > value


def test_suspend_keeps_pcrs_and_counts_a_restart(running: Swtpm) -> None:
    """Suspend and wake is a TPM Resume."""
    extend(running, 10, b"measured")
    value = pcr(running, 10)
    before = clock(running)
    running.suspend()
    assert value != bytes(32)
    assert pcr(running, 10) == value
    assert clock(running) == Clock(before.resets, before.restarts + 1, safe=True)


def test_a_reboot_does_not_need_contexts_to_be_closed(running: Swtpm) -> None:
    """A program under test may hold its connection over a reboot."""
    with ESAPI(running.tcti) as esapi:
        esapi.pcr_event(ESYS_TR.PCR16, b"measured")
        running.reboot()
        assert bytes(esapi.pcr_read("sha256:16")[2][0]) == bytes(32)


@pytest.mark.parametrize(
    "banks",
    [
        pytest.param(("sha256",), id="one bank"),
        pytest.param(("sha1", "sha256"), id="two banks"),
        pytest.param(("sha1", "sha256", "sha384", "sha512"), id="all banks"),
        pytest.param(("sha1",), id="a TPM without SHA-256"),
    ],
)
def test_the_banks_are_those_that_were_asked_for(tmp_path: Path, banks: tuple[str, ...]) -> None:
    """`banks` are allocated, all of their PCRs, and no other bank is."""
    with Swtpm.start(tmp_path, banks=banks) as tpm, ESAPI(tpm.tcti) as esapi:
        capability = esapi.get_capability(TPM2_CAP.PCRS, 0, 8)[1]
        bitmaps = {
            int(selection.hash): bytes(selection.pcrSelect)[:3]
            for selection in capability.data.assignedPCR
        }
    assert bitmaps == {
        int(number): b"\xff\xff\xff" if name in banks else bytes(3)
        for name, number in firmware.BANKS.items()
    }


@pytest.mark.parametrize(
    "banks",
    [
        pytest.param(("md5",), id="an unknown algorithm"),
        pytest.param(("sha256", "sm3"), id="one of two unknown"),
    ],
)
def test_a_bank_that_the_tpm_cannot_have_is_refused(tmp_path: Path, banks: tuple[str, ...]) -> None:
    """A wrong `banks` is an error, not a TPM with other banks, and leaves no process."""
    with pytest.raises(SoftwareTpmError) as caught:
        Swtpm.start(tmp_path, banks=banks)
    assert caught.value.code == "testing:swtpm"
    assert not any(path.is_socket() for path in tmp_path.iterdir())


def test_the_owner_password_is_required(tmp_path: Path) -> None:
    """With `owner_auth` the owner hierarchy takes that password and no other."""
    with Swtpm.start(tmp_path, owner_auth=b"owner") as tpm, ESAPI(tpm.tcti) as esapi:
        with pytest.raises(TSS2_Exception) as caught:
            esapi.create_primary(TPM2B_SENSITIVE_CREATE())
        assert caught.value.rc == RC_BAD_AUTH
        esapi.tr_set_auth(ESYS_TR.OWNER, b"owner")
        esapi.create_primary(TPM2B_SENSITIVE_CREATE())


def test_a_tpm_in_lockout_refuses_the_right_password(running: Swtpm) -> None:
    """`lock_out` is a real lockout: the right password is refused, after a reboot too."""
    define_nv(running, TPMA_NV.AUTHREAD | TPMA_NV.AUTHWRITE, password=b"right")
    with ESAPI(running.tcti) as esapi:
        index = esapi.tr_from_tpmpublic(NV_INDEX)
        esapi.tr_set_auth(index, b"right")
        esapi.nv_write(index, bytes(8))
        for event in (running.lock_out, running.reboot):
            event()
            with pytest.raises(TSS2_Exception) as caught:
                esapi.nv_read(index, 8)
            assert caught.value.rc == RC_LOCKOUT


def test_lock_out_leaves_no_nv_index(running: Swtpm) -> None:
    """What the guesses were aimed at is gone."""
    running.lock_out()
    with ESAPI(running.tcti) as esapi:
        # The list reads memory of the whole answer, which must be kept.
        capability = esapi.get_capability(TPM2_CAP.HANDLES, 0x0100_0000, 16)[1]
        assert len(capability.data.handles) == 0


def test_the_same_directory_is_the_same_tpm(tmp_path: Path) -> None:
    """A TPM that is started again has its seeds; another directory has others."""
    with Swtpm.start(tmp_path / "..", owner_auth=b"") as elsewhere:
        other = create_ek(elsewhere.bus, "ecc256")
    with Swtpm.start(tmp_path, owner_auth=b"owner") as tpm:
        first = create_ek(tpm.bus, "ecc256")
    with Swtpm.start(tmp_path, banks=("sha512",), owner_auth=b"changed") as tpm:
        assert create_ek(tpm.bus, "ecc256") == first
        assert not firmware.banks(tpm.bus)[int(firmware.BANKS["sha512"])]
    assert first != other


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("d" * 100, id="longer than a socket path"),
        pytest.param("a,b=c d", id="characters that separate options"),
    ],
)
def test_any_directory_name_will_do(tmp_path: Path, name: str) -> None:
    """The state directory's name does not limit it; the socket moves instead."""
    directory = tmp_path / name
    directory.mkdir()
    with Swtpm.start(directory) as tpm, ESAPI(tpm.tcti) as esapi:
        esapi.get_random(4)
        assert len(tpm.tcti.removeprefix("swtpm:path=")) <= 107 - len(".ctrl")
        socket_directory = Path(tpm.tcti.removeprefix("swtpm:path=")).parent
        assert (directory / "tpm2-00.permall").exists()
    assert not socket_directory.exists()


def test_a_tpm_that_dies_at_its_start_says_what_its_log_says(tmp_path: Path) -> None:
    """Damaged state is an error at once, with swtpm's own words."""
    (tmp_path / "tpm2-00.permall").write_bytes(b"not the state of a TPM")
    with pytest.raises(SoftwareTpmError) as caught:
        Swtpm.start(tmp_path)
    assert caught.value.code == "testing:swtpm"
    last_line = (tmp_path / "swtpm.log").read_text().splitlines()[-1]
    assert last_line in caught.value.message


def test_a_machine_without_swtpm_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the program there is no TPM, and no pretence of one."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SoftwareTpmError) as caught:
        Swtpm.start(tmp_path)
    assert caught.value.code == "testing:swtpm"


def test_a_reboot_of_a_dead_tpm_is_an_error(running: Swtpm) -> None:
    """A crash of swtpm is not mistaken for a reboot."""
    assert running.pid is not None
    os.kill(running.pid, signal.SIGKILL)
    with pytest.raises(SoftwareTpmError) as caught:
        running.reboot()
    assert caught.value.code == "testing:swtpm"


def test_a_refused_command_says_why(running: Swtpm) -> None:
    """Commands as bytes fail with the TPM's response code as data."""
    with pytest.raises(SoftwareTpmError) as caught:
        firmware.set_owner_password(running.bus, b"x" * 65)
    assert caught.value.data["rc"] == 0x1D5  # TPM_RC_SIZE, first parameter


def test_pcrs_are_extended_by_the_event_s_digest(running: Swtpm) -> None:
    """The PCR that these tests look at holds what was measured."""
    extend(running, 16, b"measured")
    digest = hashlib.sha256(b"measured").digest()
    assert pcr(running, 16) == hashlib.sha256(bytes(32) + digest).digest()
