"""Killed at any call of the file system, what is current is a whole release.

The work runs in a forked process that is killed by SIGKILL before its n-th call,
or in the middle of it (a call that has no middle: after it), for every n until it
finishes. What only a power cut
would lose, what was written and not synced, is followed by hand: the calls are
noted, and what is not on the disk yet when it should be is an error.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

from hwtrust.errors import SlotMissingError, SlotUnsealedError
from hwtrust.updates.slots import Slots

if TYPE_CHECKING:
    from collections.abc import Callable

Moment = Literal["before", "midway"]

OLD, NEW = b'{"release": "old"}', b'{"release": "new"}'
CALLS = (
    "open",
    "mkdir",
    "unlink",
    "rmdir",
    "symlink",
    "replace",
    "rename",
    "chmod",
    "fchmod",
    "fsync",
    "write",
    "copy_file_range",
    "fdopen",
)


def content(path: Path) -> dict[str, bytes | None]:
    """All that is below `path`."""
    return {
        str(place.relative_to(path)): place.read_bytes() if place.is_file() else None
        for place in path.rglob("*")
    }


@pytest.fixture
def vendor(tmp_path: Path) -> dict[str, Path]:
    """A file and a tree."""
    home = tmp_path / "vendor"
    (home / "frontend" / "lib").mkdir(parents=True)
    (home / "frontend" / "lib" / "code").write_bytes(b"code" * 100)
    (home / "frontend" / "link").symlink_to("lib/code")
    (home / "kernel").write_bytes(b"old kernel")
    (tmp_path / "vendor.json").write_bytes(OLD)
    return {"kernel": home / "kernel", "frontend": home / "frontend"}


@pytest.fixture
def slots(tmp_path: Path, vendor: dict[str, Path]) -> Slots:
    """Slots with the old release in use, and half an older one beside it."""
    made = Slots(tmp_path / "slots")
    made.create(vendor, tmp_path / "vendor.json")
    place = made.begin()
    (place / "kernel").write_bytes(b"older kernel")
    (place / "frontend" / "lib").mkdir(parents=True)
    (place / ".kernel.part").write_bytes(b"half")
    return made


def stage(slots: Slots) -> None:
    """Fill the inactive slot, as a download does: what it writes is not synced."""
    place = slots.begin()
    descriptor = os.open(place / "kernel", os.O_WRONLY | os.O_CREAT, 0o644)
    os.write(descriptor, b"new kernel")
    os.close(descriptor)
    slots.copy_unchanged("frontend")
    slots.seal(NEW)


def update(slots: Slots) -> None:
    """Stage and switch."""
    stage(slots)
    slots.switch()


def killed(work: Callable[[], None], nth: int, moment: Moment) -> bool:
    """Whether `work`, in a process of its own, was killed at its `nth` call or finished before."""
    child = os.fork()
    if child == 0:
        try:
            _arm(nth, moment)
            work()
        except BaseException:  # noqa: BLE001 - nothing of pytest may run in the child
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status in {0, signal.SIGKILL}
    return status != 0


def _arm(nth: int, moment: Moment) -> None:
    count = 0

    def wrap(module: Any, name: str) -> None:  # noqa: ANN401 - os or fcntl
        real = getattr(module, name)

        def call(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as the call
            nonlocal count
            count += 1
            if count == nth and moment == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            if count == nth and moment == "midway" and name == "write":
                real(args[0], args[1][: len(args[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            if count == nth and moment == "midway" and name == "copy_file_range":
                real(args[0], args[1], 3)
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                return real(*args, **kwargs)
            finally:
                if count == nth:
                    os.kill(os.getpid(), signal.SIGKILL)

        setattr(module, name, call)

    for name in CALLS:
        wrap(os, name)
    wrap(fcntl, "ioctl")


def whole(place: Path) -> bool:
    """Whether a slot holds all of the release that its seal names."""
    found = content(place)
    kernel = {OLD: b"old kernel", NEW: b"new kernel"}[found.pop("release.json") or b""]
    return found == {
        "kernel": kernel,
        "frontend": None,
        "frontend/lib": None,
        "frontend/lib/code": b"code" * 100,
        "frontend/link": b"code" * 100,
    }


def update_and_return(slots: Slots) -> None:
    """To the new release, and back to the old one."""
    update(slots)
    slots.switch_back()


def resume(slots: Slots) -> None:
    """What was staged is kept, and sealed again."""
    slots.begin(keep=True)
    slots.copy_unchanged("frontend")
    slots.seal(NEW)


WORK: dict[str, tuple[bool, Callable[[Slots], None], set[str]]] = {
    "an update, and back": (False, update_and_return, {"a", "b"}),
    "an update over a sealed slot": (True, stage, {"a"}),
    "an update that is resumed": (True, resume, {"a"}),
}


@pytest.fixture
def _no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill leaves the kernel's memory whole: syncing would only take time."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.mark.usefixtures("_no_sync")
@pytest.mark.parametrize("moment", ["before", "midway"])
@pytest.mark.parametrize("case", WORK)
def test_75_killed_at_any_call_a_whole_release_is_current(
    case: str, moment: Moment, slots: Slots, tmp_path: Path
) -> None:
    """What is current is whole, whatever is sealed is whole, and the next update succeeds."""
    staged, work, reached = WORK[case]
    home, template = tmp_path / "slots", tmp_path / "template"
    if staged:
        stage(slots)
    shutil.copytree(home, template, symlinks=True)
    seen = set()
    nth = 1
    while killed(lambda: work(slots), nth, moment):
        seen.add(slots.current)
        assert whole(home / "current")
        sealed = slots.release(slots.inactive) is not None
        assert not sealed or whole(home / slots.inactive)
        if nth % 7 == 0:
            wanted = slots.inactive
            update(slots)
            assert slots.current == wanted
            assert whole(home / "current")
            assert {path.name for path in home.iterdir()} == {"a", "b", "current"}
        shutil.rmtree(home)
        shutil.copytree(template, home, symlinks=True)
        nth += 1
    assert nth > 20
    assert seen == reached


@pytest.mark.usefixtures("_no_sync")
@pytest.mark.parametrize("moment", ["before", "midway"])
def test_75_killed_while_the_slots_are_set_up_there_are_none_or_whole_ones(
    moment: Moment, vendor: dict[str, Path], tmp_path: Path
) -> None:
    """Where there are none, the next attempt sets them up."""
    slots = Slots(tmp_path / "slots")
    nth = 1
    while killed(lambda: slots.create(vendor, tmp_path / "vendor.json"), nth, moment):
        if not os.path.lexists(tmp_path / "slots" / "current"):
            with pytest.raises(SlotMissingError):
                _ = slots.current
            slots.create(vendor, tmp_path / "vendor.json")
        assert whole(tmp_path / "slots" / "current")
        with pytest.raises(SlotUnsealedError):
            slots.switch()
        shutil.rmtree(tmp_path / "slots")
        nth += 1
    assert nth > 20


def _opened(descriptor: int) -> str:
    """What a descriptor was opened by."""
    return str(Path(f"/proc/self/fd/{descriptor}").readlink())


class Disk:
    """What is not on the disk yet, as far as the calls of this process say."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.dirty: set[str] = set()
        self.calls: list[tuple[str, str, frozenset[str]]] = []
        for name in CALLS:
            patch.setattr(os, name, self._noting(name, getattr(os, name)))

    def _noting(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as the call
            place = self._place(name, args, kwargs)
            self.calls.append((name, place, frozenset(self.dirty)))
            result = real(*args, **kwargs)
            self._note(name, place, args)
            return result

        return call

    @staticmethod
    def _place(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        if name == "copy_file_range":
            return _opened(args[1])
        if isinstance(args[0], int):
            return _opened(args[0])
        path = os.fsdecode(args[1] if name in {"symlink", "replace", "rename"} else args[0])
        above = kwargs.get("dir_fd")
        return path if above is None else f"{_opened(above)}/{path}"

    def _note(self, name: str, place: str, args: tuple[Any, ...]) -> None:
        folder = str(Path(place).parent)
        if name == "fsync":
            self.dirty.discard(place)
        elif name in {"write", "copy_file_range", "fchmod", "chmod"}:
            self.dirty.add(place)
        elif name == "mkdir" or (name == "open" and args[1] & os.O_CREAT):
            self.dirty |= {place, folder}
        elif name in {"symlink", "replace", "rename"}:
            self.dirty.add(folder)
        elif name in {"unlink", "rmdir"}:
            self.dirty.discard(place)
            self.dirty.add(folder)


def test_75_everything_is_on_the_disk_before_the_switch_and_the_switch_before_its_return(
    slots: Slots, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut right behind the rename finds the whole release, and one behind it, it."""
    home = str(tmp_path / "slots")
    with monkeypatch.context() as patch:
        disk = Disk(patch)
        update(slots)
    assert disk.dirty == set()
    [(at, dirty)] = [
        (number, dirty)
        for number, (name, place, dirty) in enumerate(disk.calls)
        if (name, place) == ("symlink", f"{home}/.current.tmp")
    ]
    assert dirty == frozenset()
    assert [(name, place) for name, place, _ in disk.calls[at + 1 :]] == [
        ("replace", f"{home}/current"),
        ("open", home),
        ("fsync", home),
    ]


def test_75_a_seal_is_broken_on_the_disk_before_anything_else_changes(
    slots: Slots, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut never brings a seal back over half a release."""
    stage(slots)
    place = str(tmp_path / "slots" / "b")
    changes: list[Callable[[], object]] = [
        slots.begin,
        lambda: slots.begin(keep=True),
        lambda: slots.copy_unchanged("kernel"),
        lambda: slots.discard("kernel"),
        lambda: slots.seal(NEW),
    ]
    for change in changes:
        stage(slots)
        with monkeypatch.context() as patch:
            disk = Disk(patch)
            change()
        noted = [(name, where) for name, where, _ in disk.calls]
        assert noted[:3] == [("unlink", f"{place}/release.json"), ("open", place), ("fsync", place)]


def test_75_the_seal_comes_when_all_else_is_on_the_disk(
    slots: Slots, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut never leaves a seal over files that were not written."""
    place = str(tmp_path / "slots" / "b")
    with monkeypatch.context() as patch:
        disk = Disk(patch)
        slots.begin()
        # As somebody unpacks who syncs nothing.
        os.mkdir(f"{place}/tree")  # noqa: PTH102 - the call that is noted
        os.mkdir(f"{place}/tree/sub")  # noqa: PTH102 - the call that is noted
        file = os.open(f"{place}/tree/sub/file", os.O_WRONLY | os.O_CREAT, 0o644)
        os.write(file, b"content")
        os.close(file)
        slots.seal(NEW)
    [dirty] = [
        dirty
        for name, where, dirty in disk.calls
        if (name, where) == ("replace", f"{place}/release.json")
    ]
    assert {Path(path).name[:13] for path in dirty} <= {"b", ".release.json"}
    assert disk.dirty == set()


def test_slots_are_on_the_disk_when_they_are_set_up(
    vendor: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The vendor's copy may be deleted then."""
    with monkeypatch.context() as patch:
        disk = Disk(patch)
        Slots(tmp_path / "slots").create(vendor, tmp_path / "vendor.json")
    assert disk.dirty == set()
    assert whole(tmp_path / "slots" / "current")
