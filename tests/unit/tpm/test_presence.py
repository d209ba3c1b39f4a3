"""A TPM that is unplugged or plugged in is told once: by udev, or by looking where udev is not."""

from __future__ import annotations

import errno
import os
import select
import subprocess
import sys
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hwtrust import errors
from hwtrust.testing.swtpm import Swtpm
from hwtrust.tpm import presence
from hwtrust.tpm.presence import TpmChange, TpmEvent, TpmPresence, is_away, udev_monitor

if TYPE_CHECKING:
    from collections.abc import Iterator

NODE = "/dev/tpmrm7"


@dataclass(frozen=True)
class Told:
    """What udev tells of a device."""

    action: str | None
    device_node: str | None


class Udev:
    """A monitor, and the udev behind it: a pipe is as readable as there are events."""

    def __init__(self) -> None:
        self._queue: deque[Told | OSError] = deque()
        self._reader, self._writer = os.pipe()

    def tell(self, told: Told | OSError) -> None:
        """Have something happen."""
        self._queue.append(told)
        os.write(self._writer, b"1")

    def fileno(self) -> int:
        """As pyudev.Monitor."""
        return self._reader

    def poll(self, timeout: float | None = None) -> Told | None:
        """As pyudev.Monitor."""
        assert timeout == 0
        if not self._queue:
            return None
        os.read(self._reader, 1)
        told = self._queue.popleft()
        if isinstance(told, OSError):
            raise told
        return told

    def close(self) -> None:
        """Give the pipe back."""
        os.close(self._reader)
        os.close(self._writer)


@pytest.fixture
def udev() -> Iterator[Udev]:
    """Nothing has happened yet."""
    made = Udev()
    yield made
    made.close()


def no_udev() -> presence.Monitor:
    """A container."""
    raise errors.WatchUnavailableError("no udev here")


def appeared(node: str | Path) -> TpmEvent:
    """What is told of a TPM that was plugged in."""
    return TpmEvent(TpmChange.APPEARED, str(node))


def gone(node: str | Path) -> TpmEvent:
    """What is told of a TPM that was unplugged."""
    return TpmEvent(TpmChange.GONE, str(node))


# --- udev ---------------------------------------------------------------------------------------


def test_udev_tells_of_the_configured_tpm_in_order(udev: Udev) -> None:
    """Gone and back before anybody looked are two events; the descriptor wakes a loop."""
    with TpmPresence(f"device:{NODE}", monitor=lambda: udev) as watched:
        assert watched.fileno() == udev.fileno()
        assert watched.problem is None
        assert watched.events() == ()
        udev.tell(Told("add", NODE))
        assert select.select([udev], [], [], 0)[0]
        udev.tell(Told("remove", NODE))
        udev.tell(Told("add", NODE))
        assert watched.events() == (appeared(NODE), gone(NODE), appeared(NODE))
        assert watched.present == {NODE}
        assert watched.events() == ()
        assert not select.select([udev], [], [], 0)[0]


@pytest.mark.parametrize(
    "told",
    [
        Told("add", "/dev/tpmrm0"),
        Told("add", "/dev/tpm7"),
        Told("add", None),
        Told("change", NODE),
        Told("bind", NODE),
        Told(None, NODE),
        Told("remove", NODE),
    ],
    ids=repr,
)
def test_what_does_not_concern_the_configured_tpm_is_not_told(udev: Udev, told: Told) -> None:
    """Other TPMs, its raw device, other actions, and the going of what was not there."""
    with TpmPresence(f"device:{NODE}", monitor=lambda: udev) as watched:
        udev.tell(told)
        assert watched.events() == ()


def test_where_no_tpm_is_configured_every_tpm_counts(udev: Udev, tmp_path: Path) -> None:
    """As discovery takes any."""
    with TpmPresence(monitor=lambda: udev, devices=tmp_path) as watched:
        for node in ("/dev/tpmrm1", "/dev/tpm1"):
            udev.tell(Told("add", node))
        assert watched.events() == (appeared("/dev/tpmrm1"), appeared("/dev/tpm1"))


def test_a_socket_that_overflowed_leaves_the_device_files_to_tell(
    udev: Udev, tmp_path: Path
) -> None:
    """ENOBUFS loses events, not the TPM."""
    node = tmp_path / "tpmrm0"
    with TpmPresence(f"device:{node}", monitor=lambda: udev) as watched:
        node.touch()
        udev.tell(OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS)))
        assert watched.events() == (appeared(node),)


def test_looking_beside_udev_tells_nothing_twice(udev: Udev, tmp_path: Path) -> None:
    """Whoever notices first."""
    node = tmp_path / "tpmrm0"
    with TpmPresence(f"device:{node}", monitor=lambda: udev) as watched:
        node.touch()
        assert watched.poll() == (appeared(node),)
        udev.tell(Told("add", str(node)))
        assert watched.events() == ()
        node.unlink()
        udev.tell(Told("remove", str(node)))
        assert watched.events() == (gone(node),)
        assert watched.poll() == ()


def test_a_real_monitor_listens() -> None:
    """With udev, and as pyudev wants to be called."""
    try:
        monitor = udev_monitor()
    except errors.WatchUnavailableError as unavailable:
        pytest.skip(unavailable.message)
    assert monitor.fileno() >= 0
    assert monitor.poll(0) is None


def test_a_real_monitor_is_made_where_netlink_is_to_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where udev does not run, which the test pretends: then it never tells anything."""
    control = tmp_path / "control"
    control.touch()
    monkeypatch.setattr(presence, "_UDEV_RUNS", control)
    with TpmPresence(f"device:{NODE}") as watched:
        if watched.problem is not None:
            pytest.skip(watched.problem.message)
        descriptor = watched.fileno()
        assert descriptor is not None
        assert not os.get_inheritable(descriptor)
        assert watched.events() == ()
    assert watched.fileno() is None


def test_importing_the_module_loads_no_udev() -> None:
    """A program that watches nothing pays nothing for it."""
    program = "import sys, hwtrust.tpm.presence; sys.exit('pyudev' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


# --- no udev ------------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [PermissionError(errno.EPERM, "no"), None], ids=["no", "none"])
def test_without_udev_the_reason_is_kept_and_nothing_raised(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, failure: OSError | None
) -> None:
    """No netlink, no pyudev, no udev daemon: one typed reason, and looking goes on."""
    control = tmp_path / "control"
    control.touch()
    if failure is not None:
        monkeypatch.setattr(presence, "_UDEV_RUNS", control)
        monkeypatch.setitem(sys.modules, "pyudev", None)
    else:
        monkeypatch.setattr(presence, "_UDEV_RUNS", tmp_path / "none")
    node = tmp_path / "tpmrm0"
    with TpmPresence(f"device:{node}") as watched:
        assert watched.fileno() is None
        assert watched.problem is not None
        assert watched.problem.code == "watch:unavailable"
        node.touch()
        assert watched.events() == ()
        assert watched.poll() == (appeared(node),)


def test_looking_tells_of_each_change_once(tmp_path: Path) -> None:
    """Gone, back; a file that is another one of the same name was both."""
    node = tmp_path / "tpmrm0"
    node.touch()
    with TpmPresence(f"device:{node}", monitor=no_udev) as watched:
        assert watched.present == {str(node)}
        assert watched.poll() == ()
        node.chmod(0o660)
        assert watched.poll() == ()
        node.unlink()
        assert watched.poll() == (gone(node),)
        assert watched.poll() == ()
        node.touch()
        assert watched.poll() == (appeared(node),)
        other = tmp_path / "other"
        other.touch()
        other.replace(node)
        assert watched.poll() == (gone(node), appeared(node))


def test_looking_for_any_tpm_finds_device_files_only(tmp_path: Path) -> None:
    """By the names that the kernel gives."""
    with TpmPresence(monitor=no_udev, devices=tmp_path) as watched:
        for name in ("tpm0", "tpmrm0", "tpm", "tpmrm", "tpm0.sock", "xtpm0", "null"):
            (tmp_path / name).touch()
        assert watched.poll() == (appeared(tmp_path / "tpm0"), appeared(tmp_path / "tpmrm0"))
    with TpmPresence(monitor=no_udev, devices=tmp_path / "nowhere") as watched:
        assert watched.poll() == ()


def test_a_software_tpm_is_its_socket(tmp_path: Path) -> None:
    """For tests and virtual machines: there is no device file to look at."""
    with Swtpm.start(tmp_path) as tpm:
        watched = TpmPresence(tpm.tcti, monitor=no_udev)
        assert len(watched.present) == 1
        node = watched.node
    assert watched.poll() == (gone(node),)


def test_a_tcti_that_is_no_file_has_no_events() -> None:
    """And nothing listens for it."""

    def asked() -> presence.Monitor:
        raise AssertionError

    for tcti in ("tabrmd:bus_name=com.intel.tss2.Tabrmd", "mssim:host=localhost"):
        watched = TpmPresence(tcti, monitor=asked)
        assert (watched.node, watched.fileno(), watched.poll()) == ("", None, ())


def test_the_device_tctis_own_default_is_known(tmp_path: Path) -> None:
    """`device` alone means the resource-managed device."""
    assert TpmPresence("device", monitor=no_udev).node == "/dev/tpmrm0"
    assert TpmPresence("device:", monitor=no_udev).node == "/dev/tpmrm0"


# --- gone, or refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "away"),
    [
        (errors.TpmNotFoundError, True),
        (errors.TpmGoneError, True),
        (errors.TpmTransportError, True),
        (errors.TpmError, False),
        (errors.TpmPermissionError, False),
        (errors.TpmBusyError, False),
        (errors.TpmLockoutError, False),
        (errors.TpmFailureModeError, False),
        (errors.TpmTamperedError, False),
        (errors.TpmObjectConflictError, False),
        (errors.RootRevokedError, False),
        (errors.StateMissingError, False),
    ],
    ids=lambda value: getattr(value, "code", str(value)),
)
def test_gone_is_told_from_refused(error: type[errors.HwTrustError], away: bool) -> None:
    """What may come back by itself, and what a person has to look at."""
    assert is_away(error("x")) is away
