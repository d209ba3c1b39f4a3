"""One of two slots is in use, whole, and only a switch says which."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hwtrust.errors import (
    HwTrustError,
    LayerUnreadableError,
    SlotDamagedError,
    SlotError,
    SlotExistsError,
    SlotLayerError,
    SlotMissingError,
    SlotUnsealedError,
    StateDamagedError,
    StateDiskError,
    StateError,
    StateMissingError,
    StatePermissionError,
)
from hwtrust.layers import measure
from hwtrust.updates.slots import Slots

if TYPE_CHECKING:
    from collections.abc import Callable

OLD, NEW = b'{"release": "old"}', b'{"release": "new"}'


def layers(home: Path, text: str) -> dict[str, Path]:
    """A kernel, and a frontend of several files, as a vendor lays them out."""
    kernel, frontend = home / "kernel", home / "frontend"
    kernel.write_bytes(text.encode() * 1000)
    kernel.chmod(0o640)
    (frontend / "lib" / "deep").mkdir(parents=True)
    (frontend / "index").write_text(text)
    (frontend / "lib" / "code").write_bytes(os.urandom(3000))
    (frontend / "lib" / "code").chmod(0o755)
    (frontend / "lib" / "link").symlink_to("code")
    (frontend / "lib" / "away").symlink_to("/nowhere")
    (frontend / "lib" / "deep").chmod(0o555)
    return {"kernel": kernel, "frontend": frontend}


@pytest.fixture
def vendor(tmp_path: Path) -> dict[str, Path]:
    """Where the layers lie before there are slots."""
    (tmp_path / "vendor").mkdir()
    return layers(tmp_path / "vendor", "old")


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """Where the release file lies before there are slots."""
    path = tmp_path / "vendor.json"
    path.write_bytes(OLD)
    return path


@pytest.fixture
def slots(tmp_path: Path, vendor: dict[str, Path], release: Path) -> Slots:
    """Slots with the old release in use."""
    made = Slots(tmp_path / "slots")
    made.create(vendor, release)
    return made


def content(path: Path) -> dict[str, tuple[int, bytes]]:
    """All that is below `path`: modes, bytes and targets."""
    found = {}
    for place in sorted(path.rglob("*")):
        name = str(place.relative_to(path))
        if place.is_symlink():
            found[name] = (0, os.fsencode(place.readlink()))
        else:
            data = b"" if place.is_dir() else place.read_bytes()
            found[name] = (place.stat().st_mode & 0o7777, data)
    return found


def swap(path: Path, make: Callable[[Path], object]) -> None:
    """Something else in the place of `path`."""
    path.rename(path.with_name("gone"))
    make(path)


def stage(slots: Slots) -> None:
    """Fill the inactive slot with another kernel and the same frontend."""
    place = slots.begin()
    (place / "kernel").write_bytes(b"new kernel")
    slots.copy_unchanged("frontend")
    slots.seal(NEW)


def stage_and_switch(slots: Slots) -> None:
    """A whole update."""
    stage(slots)
    slots.switch()


# --- setting up ---------------------------------------------------------------------


def test_the_slots_are_set_up_from_where_the_layers_lie(
    slots: Slots, tmp_path: Path, vendor: dict[str, Path]
) -> None:
    """Every layer measures the same through `current`, and the vendor's copy stays."""
    home = tmp_path / "slots"
    assert (slots.current, slots.inactive) == ("a", "b")
    assert (home / "current").readlink() == Path("a")
    for name, place in vendor.items():
        assert measure(home / "current" / name) == measure(place)
        assert slots.path("a", name) == home / "a" / name
    assert (home / "current" / "release.json").read_bytes() == OLD
    assert slots.release("a") == OLD
    assert {path.name for path in home.iterdir()} == {"a", "current"}


def test_slots_are_not_set_up_over_slots(
    slots: Slots, vendor: dict[str, Path], release: Path, tmp_path: Path
) -> None:
    """The release in use stays, and so does a `current` that leads nowhere."""
    before = content(tmp_path / "slots")
    with pytest.raises(SlotExistsError) as caught:
        slots.create(vendor, release)
    assert caught.value.code == "update:slot:exists"
    assert content(tmp_path / "slots") == before
    (tmp_path / "slots" / "current").unlink()
    (tmp_path / "slots" / "current").symlink_to("b")
    with pytest.raises(SlotExistsError):
        slots.create(vendor, release)


def test_slots_are_not_set_up_from_themselves(
    slots: Slots, release: Path, tmp_path: Path, vendor: dict[str, Path]
) -> None:
    """Nothing is emptied that is still to be copied, be it named through a link."""
    (tmp_path / "slots" / "current").unlink()
    (tmp_path / "link").symlink_to(tmp_path / "slots" / "a" / "kernel")
    sources: list[tuple[dict[str, Path], Path]] = [
        ({"kernel": tmp_path / "slots" / "a" / "kernel"}, release),
        ({"kernel": tmp_path / "link"}, release),
        (vendor, tmp_path / "slots" / "a" / "release.json"),
    ]
    for source, file in sources:
        with pytest.raises(SlotLayerError) as caught:
            slots.create(source, file)
        assert caught.value.code == "update:slot:layer"
    assert (tmp_path / "slots" / "a" / "kernel").exists()


def test_102_slots_that_others_can_write_are_refused(
    tmp_path: Path, vendor: dict[str, Path], release: Path
) -> None:
    """Who can write the directory says what is current."""
    (tmp_path / "slots").mkdir()
    (tmp_path / "slots").chmod(0o777)
    with pytest.raises(StatePermissionError) as caught:
        Slots(tmp_path / "slots").create(vendor, release)
    assert caught.value.code == "state:permission"


MISSING: dict[str, tuple[Callable[[Path], object], type[HwTrustError]]] = {
    "a layer that is missing": (lambda at: (at / "kernel").unlink(), LayerUnreadableError),
    "a loop of links as a layer": (
        lambda at: swap(at / "kernel", lambda loop: loop.symlink_to("kernel")),
        LayerUnreadableError,
    ),
    "a FIFO as a layer": (
        lambda at: swap(at / "kernel", os.mkfifo),
        LayerUnreadableError,
    ),
    "a FIFO in a layer": (lambda at: os.mkfifo(at / "frontend" / "x"), LayerUnreadableError),
    "a setuid file as a layer": (lambda at: (at / "kernel").chmod(0o4755), SlotLayerError),
    "a setgid file in a layer": (
        lambda at: (at / "frontend" / "index").chmod(0o2755),
        SlotLayerError,
    ),
    "a sticky folder in a layer": (
        lambda at: (at / "frontend" / "lib").chmod(0o1777),
        SlotLayerError,
    ),
    "a release that is missing": (
        lambda at: (at.parent / "vendor.json").unlink(),
        StateMissingError,
    ),
    "an empty release": (lambda at: (at.parent / "vendor.json").write_bytes(b""), SlotError),
    "an endless release": (
        lambda at: os.truncate(at.parent / "vendor.json", 1 << 30),
        StateDamagedError,
    ),
}


@pytest.mark.parametrize("case", MISSING)
def test_what_cannot_be_kept_makes_no_slots(
    case: str, tmp_path: Path, vendor: dict[str, Path], release: Path
) -> None:
    """It is refused, nothing is current, and the next attempt begins anew."""
    spoil, expected = MISSING[case]
    spoil(tmp_path / "vendor")
    slots = Slots(tmp_path / "slots")
    with pytest.raises(expected):
        slots.create(vendor, release)
    with pytest.raises(SlotMissingError) as caught:
        _ = slots.current
    assert caught.value.code == "update:slot:missing"
    (tmp_path / "again").mkdir()
    release.unlink(missing_ok=True)
    release.write_bytes(OLD)
    slots.create(layers(tmp_path / "again", "again"), release)
    assert slots.current == "a"


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".hidden", "a/b", "/a", "release.json", "a\0b", "a\n", "\ud800", "x" * 201],
)
def test_what_cannot_be_the_name_of_a_layer_is_refused(name: str, slots: Slots) -> None:
    """A name leads to no other place, and not to the seal."""
    attempts: list[Callable[[], object]] = [
        lambda: slots.path("a", name),
        lambda: slots.copy_unchanged(name),
        lambda: slots.discard(name),
    ]
    for attempt in attempts:
        with pytest.raises(SlotLayerError) as caught:
            attempt()
        assert caught.value.code == "update:slot:layer"
    assert slots.release("a") == OLD


@pytest.mark.parametrize("slot", ["", "c", "current", "..", "a/../b"])
def test_there_are_two_slots(slot: str, slots: Slots) -> None:
    """Nothing else is one."""
    with pytest.raises(SlotMissingError) as caught:
        slots.path(slot, "kernel")
    assert caught.value.code == "update:slot:missing"


# --- staging --------------------------------------------------------------------------


def test_a_staged_release_changes_nothing_until_the_switch(slots: Slots, tmp_path: Path) -> None:
    """Then all of it is current at once, and the old release stays to return to."""
    home = tmp_path / "slots"
    before = content(home / "a")
    frontend = measure(home / "a" / "frontend")
    stage(slots)
    assert slots.current == "a"
    assert content(home / "a") == before
    slots.switch()
    assert (slots.current, slots.inactive) == ("b", "a")
    assert (home / "current" / "kernel").read_bytes() == b"new kernel"
    assert measure(home / "current" / "frontend") == frontend
    assert slots.release("b") == NEW
    assert content(home / "a") == before
    slots.switch_back()
    assert slots.current == "a"
    assert slots.release("b") == NEW


def test_a_copy_shares_no_file_with_its_original(slots: Slots, tmp_path: Path) -> None:
    """What is written to the one is not in the other, and modes are the same."""
    place = slots.begin()
    for layer in ("kernel", "frontend"):
        slots.copy_unchanged(layer)
    home = tmp_path / "slots"
    assert {
        name: entry for name, entry in content(home / "a").items() if name != "release.json"
    } == content(place)
    for path in place.rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert path.stat().st_nlink == 1
    (place / "kernel").write_bytes(b"changed")
    assert (home / "a" / "kernel").read_bytes() != b"changed"


COPIERS: dict[str, tuple[int | None, int | None]] = {
    "the file system clones": (None, None),
    "no clone": (errno.EOPNOTSUPP, None),
    "no clone on this kind of file": (errno.ENOTTY, None),
    "neither clone nor range": (errno.EINVAL, errno.ENOSYS),
    "another file system": (errno.EXDEV, errno.EXDEV),
    "ranges that are said to be empty": (errno.EOPNOTSUPP, 0),
}


@pytest.mark.parametrize("case", COPIERS)
def test_a_layer_is_copied_as_the_file_system_can(
    case: str, slots: Slots, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shared, copied inside the file system, or read and written: the same layer."""
    clone, ranges = COPIERS[case]
    called: list[str] = []

    def ioctl(target: int, _request: int, source: int) -> int:
        called.append("clone")
        if clone is not None:
            raise OSError(clone, os.strerror(clone))
        size = os.fstat(source).st_size
        os.write(target, os.pread(source, size, 0))
        return 0

    real = os.copy_file_range

    def copy_file_range(source: int, target: int, count: int) -> int:
        called.append("range")
        if ranges:
            raise OSError(ranges, os.strerror(ranges))
        return 0 if ranges == 0 else real(source, target, count)

    monkeypatch.setattr("hwtrust.updates.trees.fcntl.ioctl", ioctl)
    monkeypatch.setattr("hwtrust.updates.trees.os.copy_file_range", copy_file_range)
    slots.begin()
    for layer in ("kernel", "frontend"):
        slots.copy_unchanged(layer)
        assert measure(slots.path("b", layer)) == measure(slots.path("a", layer))
    assert "clone" in called
    assert ("range" in called) == (clone is not None)


def test_a_copy_that_stops_midway_goes_on_by_reading(
    slots: Slots, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was copied already is neither lost nor doubled."""
    real = os.copy_file_range

    def half(source: int, target: int, count: int) -> int:
        if os.lseek(source, 0, os.SEEK_CUR):
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(source, target, min(count, 100))

    monkeypatch.setattr("hwtrust.updates.trees.os.copy_file_range", half)
    slots.begin()
    slots.copy_unchanged("kernel")
    assert measure(slots.path("b", "kernel")) == measure(slots.path("a", "kernel"))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("call", ["ioctl", "copy_file_range"])
def test_75_a_failing_disk_is_no_reason_to_copy_otherwise(
    call: str, number: int, slots: Slots, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what the file system cannot do is done in another way."""

    def fail(*_args: object) -> int:
        raise OSError(number, os.strerror(number))

    where = fcntl if call == "ioctl" else os
    slots.begin()
    monkeypatch.setattr(where, call, fail)
    with pytest.raises(StateDiskError) as caught:
        slots.copy_unchanged("kernel")
    assert caught.value.code == "state:disk"


def test_a_copy_takes_the_place_of_half_a_copy(slots: Slots) -> None:
    """A file, a tree, or one in place of the other."""
    place = slots.begin()
    (place / "frontend").write_bytes(b"a file")
    (place / "kernel" / "x").mkdir(parents=True)
    for layer in ("kernel", "frontend"):
        slots.copy_unchanged(layer)
        slots.copy_unchanged(layer)
        assert measure(slots.path("b", layer)) == measure(slots.path("a", layer))


def test_a_layer_that_is_not_there_is_not_copied(slots: Slots) -> None:
    """The layer's own error says so."""
    slots.begin()
    with pytest.raises(LayerUnreadableError) as caught:
        slots.copy_unchanged("firmware")
    assert caught.value.code == "layer:unreadable"


def test_begin_empties_the_inactive_slot(slots: Slots, tmp_path: Path) -> None:
    """Whatever lies there: trees that deny writing, links that lead out, scratch."""
    stage(slots)
    place = tmp_path / "slots" / "b"
    (place / ".kernel.part").write_bytes(b"half")
    (place / "out").symlink_to(tmp_path / "vendor")
    (place / "deep").mkdir()
    deep = place / "deep"
    for _ in range(600):
        deep = deep / "d"
        deep.mkdir()
    outside = content(tmp_path / "vendor")
    assert slots.begin() == place
    assert list(place.iterdir()) == []
    assert place.stat().st_mode & 0o7777 == 0o755
    assert content(tmp_path / "vendor") == outside
    assert slots.release("a") == OLD


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_an_ordinary_user_can_empty_a_slot_that_denies_writing() -> None:
    """A layer's folders may have modes that keep their owner out."""
    home = Path(tempfile.mkdtemp())
    os.chown(home, 65534, 65534)
    os.setegid(65534)
    os.seteuid(65534)
    try:
        (home / "v" / "shut" / "in").mkdir(parents=True)
        (home / "v" / "shut" / "in" / "file").write_bytes(b"")
        (home / "v" / "shut" / "in").chmod(0o555)
        (home / "v" / "shut").chmod(0o555)
        (home / "release").write_bytes(OLD)
        slots = Slots(home / "slots")
        slots.create({"layer": home / "v"}, home / "release")
        slots.begin()
        slots.copy_unchanged("layer")
        (home / "slots" / "b" / "layer" / "shut").chmod(0)
        assert list(slots.begin().iterdir()) == []
    finally:
        os.seteuid(0)
        os.setegid(0)


def test_what_was_staged_is_kept_where_the_caller_says_so(slots: Slots) -> None:
    """Downloads can be resumed, but the slot is not sealed any more."""
    stage(slots)
    place = slots.path("b", "kernel").parent
    (place / ".kernel.part").write_bytes(b"half")
    before = content(place)
    slots.begin(keep=True)
    assert content(place) == {
        name: entry for name, entry in before.items() if name != "release.json"
    }
    with pytest.raises(SlotUnsealedError):
        slots.switch()
    place.rename(place.with_name("gone"))
    assert slots.begin(keep=True) == place
    assert list(place.iterdir()) == []


def test_sealing_clears_scratch_away(slots: Slots) -> None:
    """A release in use holds no halves of downloads."""
    place = slots.begin()
    (place / ".kernel.part").write_bytes(b"half")
    (place / ".tree").mkdir()
    (place / ".tree" / "file").write_bytes(b"")
    (place / "kernel").write_bytes(b"new")
    slots.seal(NEW)
    assert {path.name for path in place.iterdir()} == {"kernel", "release.json"}


@pytest.mark.parametrize("size", [0, (1 << 20) + 1])
def test_no_release_file_that_could_not_be_read_seals_a_slot(size: int, slots: Slots) -> None:
    """What is sealed can be switched to."""
    slots.begin()
    with pytest.raises(SlotUnsealedError) as caught:
        slots.seal(bytes(size))
    assert caught.value.code == "update:slot:unsealed"
    assert slots.release("b") is None


CHANGES: dict[str, Callable[[Slots], object]] = {
    "begun anew": lambda slots: slots.begin(),
    "begun anew and kept": lambda slots: slots.begin(keep=True),
    "a layer copied": lambda slots: slots.copy_unchanged("kernel"),
    "a layer discarded": lambda slots: slots.discard("kernel"),
    "the slot is gone": lambda slots: slots.begin().rmdir(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_only_a_sealed_slot_is_switched_to(change: Callable[[Slots], object], slots: Slots) -> None:
    """Whatever changes a slot breaks its seal, also for the way back."""
    stage(slots)
    change(slots)
    for switch in (slots.switch, slots.switch_back):
        with pytest.raises(SlotUnsealedError) as caught:
            switch()
        assert caught.value.code == "update:slot:unsealed"
    assert slots.current == "a"


def test_a_slot_that_was_never_filled_is_not_switched_to(slots: Slots) -> None:
    """After setting up there is one release."""
    for switch in (slots.switch, slots.switch_back):
        with pytest.raises(SlotUnsealedError):
            switch()
    assert slots.current == "a"


# --- slots that somebody changed --------------------------------------------------------


def linked(home: Path, target: str) -> None:
    """`current` leads to `target`."""
    (home / "current").unlink()
    (home / "current").symlink_to(target)


DAMAGED: dict[str, Callable[[Path], object]] = {
    "current leads nowhere": lambda home: linked(home, "b"),
    "current leads out": lambda home: linked(home, "../vendor"),
    "current is absolute": lambda home: linked(home, str(home / "a")),
    "current leads to itself": lambda home: linked(home, "current"),
    "current is a directory": lambda home: swap(home / "current", Path.mkdir),
    "current is a file": lambda home: swap(home / "current", lambda at: at.write_text("a")),
    "the slot is a link": lambda home: swap(home / "a", lambda at: at.symlink_to("gone")),
    "the slot is a file": lambda home: swap(home / "a", Path.touch),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_slots_that_were_changed_are_not_guessed_at(
    case: str, slots: Slots, tmp_path: Path
) -> None:
    """Nothing is read, staged or switched, and nothing is removed."""
    stage(slots)
    DAMAGED[case](tmp_path / "slots")
    if case == "current leads nowhere":
        (tmp_path / "slots" / "b").rename(tmp_path / "slots" / "c")
    before = content(tmp_path)
    attempts: list[Callable[[], object]] = [
        lambda: slots.current,
        lambda: slots.inactive,
        slots.begin,
        slots.switch,
        slots.switch_back,
        lambda: slots.seal(NEW),
        lambda: slots.copy_unchanged("kernel"),
        lambda: slots.discard("kernel"),
    ]
    for attempt in attempts:
        with pytest.raises(SlotDamagedError) as caught:
            attempt()
        assert caught.value.code == "update:slot:damaged"
    assert content(tmp_path) == before


@pytest.mark.parametrize("target", ["a", "../vendor"])
def test_begin_never_empties_the_current_slot_by_another_name(
    target: str, slots: Slots, tmp_path: Path
) -> None:
    """An inactive slot that is a link is damage, whatever it leads to."""
    (tmp_path / "slots" / "b").symlink_to(target)
    before = content(tmp_path)
    for attempt in (slots.begin, slots.switch, lambda: slots.seal(NEW)):
        with pytest.raises(SlotDamagedError) as caught:
            attempt()
        assert caught.value.code == "update:slot:damaged"
    assert content(tmp_path) == before


def test_one_directory_under_two_names_is_not_two_slots(
    slots: Slots, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a bind mount of the one slot over the other would be."""
    (tmp_path / "slots" / "b").mkdir()
    monkeypatch.setattr("hwtrust.updates.slots.os.path.samestat", lambda *_: True)
    with pytest.raises(SlotDamagedError):
        slots.begin()
    assert slots.release("a") == OLD


def test_no_slots_is_its_own_error(tmp_path: Path) -> None:
    """Not set up is not damaged."""
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(SlotMissingError) as caught:
            _ = Slots(path).current
        assert caught.value.code == "update:slot:missing"


# --- disks ------------------------------------------------------------------------------


def test_75_a_full_disk_leaves_the_release_in_use(slots: Slots, tmp_path: Path) -> None:
    """A copy that does not fit is a typed error, and what is current stays."""
    before = content(tmp_path / "slots" / "a")
    slots.begin()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        with pytest.raises(StateDiskError) as caught:
            slots.copy_unchanged("kernel")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert (caught.value.code, caught.value.data["reason"]) == ("state:disk", "full")
    assert slots.current == "a"
    assert content(tmp_path / "slots" / "a") == before
    with pytest.raises(SlotUnsealedError):
        slots.switch()


CALLS = ("open", "mkdir", "unlink", "rmdir", "symlink", "replace", "fsync", "fchmod", "listdir")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("call", CALLS)
def test_75_a_disk_that_fails_at_any_step_is_a_typed_error(
    call: str, number: int, slots: Slots, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever call fails first, no OSError leaves, and `current` stays what it was."""
    stage(slots)  # so that there is something to remove
    failed: list[str] = []

    def fail(*_args: object, **_kwargs: object) -> int:
        failed.append(call)
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises((StateError, LayerUnreadableError)) as caught:
            stage_and_switch(slots)
    assert failed
    assert caught.value.code in {"state:disk", "layer:unreadable"}
    assert slots.current == "a"
    assert slots.release("a") == OLD
    stage(slots)
    slots.switch()
    assert slots.current == "b"
