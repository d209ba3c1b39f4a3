"""Each reason for which a TPM cannot be used has its own error, and looking changes nothing."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tpm2_pytss.constants import TPM2_RH

from hwtrust.errors import (
    TpmBusyError,
    TpmError,
    TpmFailureModeError,
    TpmGoneError,
    TpmLockoutError,
    TpmNotFoundError,
    TpmPermissionError,
    TpmTransportError,
    TpmVersionError,
)
from hwtrust.testing.faults import RC_FAILURE, At, CountingTcti, FaultPlan, FaultyTcti, Respond
from hwtrust.tpm import commands, discover, provision
from hwtrust.tpm.connection import Tpm
from hwtrust.tpm.discover import (
    Candidate,
    identify,
    open_tpm,
    preferred,
    require_no_lockout,
)
from hwtrust.tpm.handles import Handles
from hwtrust.tpm.templates import STORAGE_KEY
from hwtrust.wire.codec import u16, u32
from simulators.anchored_tpm import loaded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tpm2_pytss.TCTI import TCTI

    from hwtrust.testing.swtpm import Swtpm

TPM_12_ANSWER = bytes.fromhex("00c4 0000000a 0000001e")
"""What a TPM 1.2 says to a command of TPM 2.0: TPM_TAG_RSP_COMMAND, TPM_BADTAG."""


@dataclass(frozen=True)
class Device:
    """What udev says of a device."""

    device_node: str | None
    subsystem: str | None
    sys_path: str = "/nonexistent"


class Machine:
    """Device files and sysfs in a temporary directory."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.devices: list[Device] = []

    def add(self, name: str, *, subsystem: str = "tpm", major: str | None = "2") -> Path:
        """A TPM device file, which is an ordinary file."""
        node, sysfs = self.home / name, self.home / f"sys-{name}"
        node.touch()
        sysfs.mkdir()
        if major is not None:
            (sysfs / "tpm_version_major").write_text(f"{major}\n")
        self.devices.append(Device(str(node), subsystem, str(sysfs)))
        return node

    def found(self) -> list[Candidate]:
        """What is discovered."""
        return discover.discover(lambda: self.devices)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine without a TPM."""
    return Machine(tmp_path)


def refuse(monkeypatch: pytest.MonkeyPatch, path: Path, number: int) -> None:
    """Have opening `path` fail with `number`, as for another user or another opener."""
    real = os.open

    def fail(at: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if str(at) == str(path):
            raise OSError(number, os.strerror(number), str(at))
        return real(at, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr("hwtrust.tpm.discover.os.open", fail)


# --- which -----------------------------------------------------------------------


def test_no_device_is_no_tpm(machine: Machine) -> None:
    """A machine without a TPM says so, with a hint what to do."""
    with pytest.raises(TpmNotFoundError) as caught:
        preferred(machine.found())
    assert caught.value.code == "tpm:none"
    assert caught.value.hint


def test_the_resource_managed_device_is_preferred(machine: Machine) -> None:
    """Whatever the order of udev and of names, /dev/tpmrm0 comes before /dev/tpm0."""
    raw = machine.add("a-tpm0")
    managed = machine.add("z-tpmrm0", subsystem="tpmrm")
    found = machine.found()
    assert [item.path for item in found] == [str(managed), str(raw)]
    assert preferred(found).path == str(managed)
    assert preferred(found).tcti == f"device:{managed}"
    assert preferred(reversed(found)).path == str(managed)


def test_the_first_of_several_tpms_is_preferred(machine: Machine) -> None:
    """Two TPMs: the choice does not change from run to run."""
    second = machine.add("tpmrm1", subsystem="tpmrm")
    first = machine.add("tpmrm0", subsystem="tpmrm")
    assert preferred(machine.found()).path == str(first)
    assert second.exists()


def test_a_raw_device_is_used_where_there_is_no_other(machine: Machine) -> None:
    """A kernel without resource manager still has a TPM."""
    raw = machine.add("tpm0")
    assert preferred(machine.found()).path == str(raw)


def test_the_raw_device_does_not_stand_in_for_one_that_may_not_be_opened(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing permission is said, not worked around: the raw device is asked for by name only."""
    machine.add("tpm0")
    managed = machine.add("tpmrm0", subsystem="tpmrm")
    refuse(monkeypatch, managed, errno.EACCES)
    with pytest.raises(TpmPermissionError) as caught:
        preferred(machine.found())
    assert caught.value.data["path"] == str(managed)


def test_another_tpm_stands_in_for_one_that_cannot_be_opened(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two managed TPMs the one that works is taken."""
    busy = machine.add("tpmrm0", subsystem="tpmrm")
    free = machine.add("tpmrm1", subsystem="tpmrm")
    refuse(monkeypatch, busy, errno.EBUSY)
    assert preferred(machine.found()).path == str(free)


def test_a_device_without_a_file_is_passed_over(machine: Machine) -> None:
    """What udev knows and has no node for cannot be opened."""
    machine.devices.append(Device(None, "tpm"))
    assert machine.found() == []


# --- why not ---------------------------------------------------------------------

REASONS: dict[str, tuple[int, type[TpmError], str]] = {
    "not allowed": (errno.EACCES, TpmPermissionError, "tpm:permission"),
    "not permitted": (errno.EPERM, TpmPermissionError, "tpm:permission"),
    "in use": (errno.EBUSY, TpmBusyError, "tpm:busy"),
    "pulled out": (errno.ENODEV, TpmGoneError, "tpm:gone"),
    "no driver": (errno.ENXIO, TpmGoneError, "tpm:gone"),
    "a bus error": (errno.EIO, TpmTransportError, "tpm:transport"),
    "gone since": (errno.ENOENT, TpmNotFoundError, "tpm:none"),
}


@pytest.mark.parametrize("case", REASONS)
def test_a_device_that_cannot_be_opened_says_why(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    """By discovery and by name alike."""
    number, expected, code = REASONS[case]
    node = machine.add("tpmrm0", subsystem="tpmrm")
    refuse(monkeypatch, node, number)
    (candidate,) = machine.found()
    assert type(candidate.problem) is expected
    with pytest.raises(expected) as caught:
        preferred([candidate])
    assert caught.value.code == code
    with pytest.raises(expected) as named:
        open_tpm(f"device:{node}")
    assert named.value.code == code


def test_a_permission_error_names_the_group_that_may(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reads it knows which group to join."""
    node = machine.add("tpmrm0", subsystem="tpmrm")
    refuse(monkeypatch, node, errno.EACCES)
    (candidate,) = machine.found()
    assert candidate.problem is not None
    assert candidate.problem.data["group"] == node.group()
    assert node.group() in candidate.problem.message


def test_a_group_without_a_name_is_called_as_distributions_call_it(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A group id that nobody knows does not end in an exception."""
    node = machine.add("tpmrm0", subsystem="tpmrm")
    refuse(monkeypatch, node, errno.EACCES)

    def nameless(path: Path) -> str:
        raise KeyError(str(path))

    monkeypatch.setattr(Path, "group", nameless)
    (candidate,) = machine.found()
    assert candidate.problem is not None
    assert candidate.problem.data["group"] == "tss"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_is_refused_by_the_kernel_itself(tmp_path: Path) -> None:
    """A real file, a real user without rights to it."""
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:
        if parent.stat().st_uid == os.geteuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | stat.S_IXOTH)
    node = tmp_path / "tpmrm0"
    node.touch(mode=0o660)
    node.chmod(0o660)
    program = f"""
        import grp, os  # what is imported later is not readable any more
        from hwtrust.errors import HwTrustError
        from hwtrust.tpm.discover import open_tpm
        os.setgroups([])
        os.setegid(65534)
        os.seteuid(65534)
        try:
            open_tpm("device:{node}")
        except HwTrustError as error:
            print(error.code, error.data["group"])
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout.split() == ["tpm:permission", node.group()]


def test_a_tpm_1_2_is_not_taken(machine: Machine) -> None:
    """Sysfs says which version a device is."""
    machine.add("tpm0", major="1")
    with pytest.raises(TpmVersionError) as caught:
        preferred(machine.found())
    assert caught.value.code == "tpm:version"


def test_a_tpm_2_0_is_found_beside_a_tpm_1_2(machine: Machine) -> None:
    """The one does not hide the other."""
    machine.add("tpm0", major="1")
    wanted = machine.add("tpm1")
    assert preferred(machine.found()).path == str(wanted)


@pytest.mark.parametrize("major", [None, "", "x", "2.0"])
def test_a_version_that_cannot_be_read_is_left_to_the_tpm(
    machine: Machine, major: str | None
) -> None:
    """Older kernels do not say; then the TPM's first answer does."""
    machine.add("tpm0", major=major)
    (candidate,) = machine.found()
    assert candidate.major_version is None
    assert preferred([candidate]) is candidate


# --- opening ---------------------------------------------------------------------


class Answers:
    """Answers a command with given bytes."""

    def __init__(self, response: bytes) -> None:
        self.response = response

    def apply(self, request: bytes, forward: Callable[[bytes], bytes]) -> bytes:
        """Answer."""
        del request, forward
        return self.response


def with_faults(plan: FaultPlan) -> Callable[[TCTI], TCTI]:
    """What wraps a connection so that `plan` happens."""
    return lambda inner: FaultyTcti(inner, plan)


def test_a_device_that_answers_as_a_tpm_1_2_is_none_of_ours(tpm: Swtpm) -> None:
    """The tag of its answer tells, whatever the kernel said."""
    plan = FaultPlan(At(Answers(TPM_12_ANSWER), times=None))
    with pytest.raises(TpmVersionError) as caught:
        open_tpm(tpm.tcti, wrap=with_faults(plan))
    assert caught.value.code == "tpm:version"
    assert plan.done


@pytest.fixture
def tpm_12(tmp_path: Path) -> Iterator[str]:
    """A software TPM 1.2."""
    socket = tmp_path / "tpm12"
    arguments = [
        *("swtpm", "socket", "--tpmstate", f"dir={tmp_path}"),
        *("--server", f"type=unixio,path={socket}"),
        *("--ctrl", f"type=unixio,path={socket}.ctrl"),
        *("--flags", "not-need-init,startup-clear"),
    ]
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(1000):
            if socket.exists() or process.poll() is not None:
                break
            try:
                process.wait(0.01)
            except subprocess.TimeoutExpired:
                continue
        if process.poll() is not None:
            pytest.skip("this swtpm has no TPM 1.2")
        yield f"swtpm:path={socket}"
    finally:
        process.kill()
        process.wait()


def test_a_real_tpm_1_2_is_none_of_ours(tpm_12: str) -> None:
    """Swtpm in its TPM 1.2 mode is told apart."""
    with pytest.raises(TpmVersionError) as caught:
        open_tpm(tpm_12)
    assert caught.value.code == "tpm:version"


def test_a_tpm_that_failed_its_self_test_is_not_opened(tpm: Swtpm) -> None:
    """A failed test result is failure mode; so is a refusal in that name."""
    body = u16(0) + u32(RC_FAILURE)
    result = u16(0x8001) + u32(10 + len(body)) + u32(0) + body
    for fault in (Answers(result), Respond(RC_FAILURE)):
        plan = FaultPlan(At(fault, command="TPM2_GetTestResult"))
        with pytest.raises(TpmFailureModeError) as caught:
            open_tpm(tpm.tcti, wrap=with_faults(plan))
        assert caught.value.code == "tpm:failure-mode"
        assert plan.done
    assert loaded(tpm) == {}


def test_a_tpm_in_lockout_is_opened_and_not_set_up(tpm_factory: Callable[..., Swtpm]) -> None:
    """Setting up is refused with the time to wait; what runs already goes on."""
    swtpm = tpm_factory(locked_out=True)
    with open_tpm(swtpm.tcti) as tpm:
        identity = identify(tpm)
        assert identity.in_lockout
        assert identity.lockout_counter > 0
        with pytest.raises(TpmLockoutError) as caught:
            require_no_lockout(identity)
        assert caught.value.code == "tpm:lockout"
        assert caught.value.data["recovery"] == identity.lockout_recovery
        # No object of hwtrust is subject to the lockout.
        provision.make_storage_key(tpm, Handles().storage_key)


def test_opening_sweeps_what_a_killed_process_left(tpm: Swtpm) -> None:
    """A bare TPM keeps what its last user did not flush; the next one finds free slots."""
    abandoned = Tpm(tpm.tcti)
    commands.create_primary(abandoned, TPM2_RH.OWNER, STORAGE_KEY)
    assert loaded(tpm) != {}
    with open_tpm(tpm.tcti):
        assert loaded(tpm) == {}


def test_looking_changes_nothing(tpm: Swtpm) -> None:
    """Opening and identifying asks for properties, and no more."""
    heard: list[CountingTcti] = []

    def wrap(inner: TCTI) -> TCTI:
        heard.append(CountingTcti(inner))
        return heard[-1]

    with open_tpm(tpm.tcti, wrap=wrap) as opened:
        identify(opened)
    assert set(heard[0].sequence) == {"TPM2_GetTestResult", "TPM2_GetCapability"}


def test_a_tpm_says_who_it_is(tpm: Swtpm) -> None:
    """Manufacturer, vendor and versions as text; no password set, no lockout."""
    with open_tpm(tpm.tcti) as opened:
        identity = identify(opened)
    assert identity.manufacturer == "IBM"
    assert identity.vendor.startswith("SW")
    assert identity.revision.startswith("1.")
    assert identity.firmware_version > 0
    assert not identity.owner_auth_set
    assert not identity.lockout_auth_set
    assert not identity.in_lockout
    require_no_lockout(identity)


def test_a_tpm_says_whether_its_owner_has_a_password(tpm_factory: Callable[..., Swtpm]) -> None:
    """Whoever sets it up learns that it is needed."""
    with open_tpm(tpm_factory(owner_auth=b"set").tcti) as opened:
        assert identify(opened).owner_auth_set


def test_a_failed_opening_leaves_no_connection(tpm: Swtpm) -> None:
    """Whatever opening ends in, the connection is closed again."""
    closed: list[bool] = []

    class Watched(CountingTcti):
        def close(self) -> None:
            closed.append(True)
            super().close()

    plan = FaultPlan(At(Respond(RC_FAILURE), command="TPM2_GetTestResult"))
    with pytest.raises(TpmFailureModeError):
        open_tpm(tpm.tcti, wrap=lambda inner: Watched(FaultyTcti(inner, plan)))
    assert closed == [True]


def test_without_a_name_the_preferred_device_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """No TCTI given, and no TPM here: the error of discovery."""
    monkeypatch.setattr(discover, "_udev_devices", list)
    with pytest.raises(TpmNotFoundError) as caught:
        open_tpm()
    assert caught.value.code == "tpm:none"
