"""Whatever happens to a layer is told with the layer's name; what happens beside it is not.

On a real directory, with the kernel's inotify. One layer of each form:

    root.bin                  a file
    system/                   a tree
    slots/current -> a        a link on the way to `kernel`, a tree
    nowhere                   missing
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import select
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import inotify_simple
import pytest

from hwtrust.agent.watch import LayerWatch
from hwtrust.errors import WatchLimitError, WatchPathError, WatchUnavailableError
from hwtrust.layers import measure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FILE, TREE, SLOT, MISSING = "root-of-trust", "system", "kernel", "frontend"


class Machine:
    """The layers of a device, and what is beside them."""

    def __init__(self, home: Path) -> None:
        self.home = home
        for path in (
            "opt/root.bin",
            "opt/beside.bin",
            "opt/system/bin/init",
            "opt/system/lib/one/two/deep.so",
            "opt/other/file",
            "slots/a/kernel/image",
            "slots/b/kernel/image",
        ):
            self.write(path, b"content of " + path.encode())
        (home / "slots/current").symlink_to("a")
        (home / "opt/system/link").symlink_to("bin/init")
        (home / "linked").symlink_to(home / "opt")

    def write(self, path: str, content: bytes) -> Path:
        """A file, with the directories that it needs."""
        place = self.home / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
        return place

    @property
    def layers(self) -> dict[str, Path]:
        """What is watched."""
        return {
            FILE: self.home / "linked/root.bin",
            TREE: self.home / "opt/system",
            SLOT: self.home / "slots/current/kernel",
            MISSING: self.home / "opt/not/yet/there",
        }


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine with its layers."""
    return Machine(tmp_path)


@pytest.fixture
def watch(machine: Machine) -> Iterator[LayerWatch]:
    """The layers, watched."""
    with LayerWatch(machine.layers) as made:
        assert made.complete
        yield made


def truncate(path: Path) -> None:
    """Cut a file short, by name."""
    os.truncate(path, 1)


def write_in_place(path: Path) -> None:
    """Change the bytes of a file that stays the same one."""
    with path.open("r+b") as file:
        file.write(b"X")


def rename_over(path: Path) -> None:
    """Put another file in its place."""
    other = path.parents[2] / "prepared"
    other.write_bytes(b"other")
    other.rename(path)


def swap(path: Path) -> None:
    """Move it away, and another one in."""
    path.rename(path.parents[2] / "away")
    path.write_bytes(b"other")


def write_mapped(path: Path) -> None:
    """Change a file through a mapping only, whose descriptor is closed before the write."""
    with path.open("r+b") as file:
        mapped = mmap.mmap(file.fileno(), 0)
    mapped[0] = 0x58
    mapped.close()


def punch(path: Path) -> None:
    """Write by a system call that is not write(2)."""
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, 4096)


def touch_mode(path: Path) -> None:
    """Change its permissions."""
    path.chmod(0o755)


def replace_by_link(path: Path) -> None:
    """Put a link in the place of a file."""
    path.unlink()
    path.symlink_to("/etc/hostname")


def unlink(path: Path) -> None:
    """Remove it."""
    path.unlink()


CHANGES: dict[str, Callable[[Path], None]] = {
    "its bytes are changed in place": write_in_place,
    "it is cut short": truncate,
    "it is written by fallocate": punch,
    "it is written through a mapping": write_mapped,
    "its mode changes": touch_mode,
    "another file is renamed over it": rename_over,
    "it is moved away and made anew": swap,
    "it is unlinked": unlink,
    "a link takes its place": replace_by_link,
}
FILES = {
    FILE: "opt/root.bin",
    TREE: "opt/system/bin/init",
    SLOT: "slots/a/kernel/image",
    "deep in a tree": "opt/system/lib/one/two/deep.so",
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize("which", FILES)
def test_a_change_of_a_file_is_told_by_the_name_of_its_layer(
    machine: Machine, watch: LayerWatch, which: str, change: Callable[[Path], None]
) -> None:
    """Whatever way the content changes, its layer is named, and no other; again when again."""
    layer = which if which in machine.layers else TREE
    path = machine.home / FILES[which]
    change(path)
    assert watch.changed() == {layer}
    assert watch.changed() == frozenset()
    # What has taken the file's place is watched as the file was.
    if path.is_file() and not path.is_symlink():
        write_in_place(path)
        assert watch.changed() == {layer}


def test_a_layer_is_watched_before_it_is_measured_so_that_nothing_falls_in_between(
    machine: Machine, watch: LayerWatch
) -> None:
    """A file that is replaced after an event was read is another event."""
    before = measure(machine.layers[SLOT])
    write_in_place(machine.home / FILES[SLOT])
    assert watch.changed() == {SLOT}
    rename_over(machine.home / FILES[SLOT])
    assert measure(machine.layers[SLOT]) != before
    assert watch.changed() == {SLOT}


# --- the shape of a tree ------------------------------------------------------------------------


def test_a_directory_and_what_is_put_into_it_at_once_are_watched(
    machine: Machine, watch: LayerWatch
) -> None:
    """A burst that is over before anybody looks leaves no directory unwatched."""
    deep = machine.write("opt/system/new/a/b/c/file", b"1")
    assert watch.changed() == {TREE}
    write_in_place(deep)
    assert watch.changed() == {TREE}
    machine.write("opt/system/new/a/b/another", b"2")
    assert watch.changed() == {TREE}


def test_a_directory_that_is_moved_in_is_watched(machine: Machine, watch: LayerWatch) -> None:
    """Its files too, which have no event of their own."""
    (machine.home / "opt/other").rename(machine.home / "opt/system/moved")
    assert watch.changed() == {TREE}
    write_in_place(machine.home / "opt/system/moved/file")
    assert watch.changed() == {TREE}


def test_what_has_left_a_tree_concerns_it_no_more(machine: Machine, watch: LayerWatch) -> None:
    """A directory that was moved out is another program's affair."""
    (machine.home / "opt/system/lib").rename(machine.home / "away")
    assert watch.changed() == {TREE}
    write_in_place(machine.home / "away/one/two/deep.so")
    machine.write("away/one/more", b"")
    assert watch.changed() == frozenset()


def test_a_link_inside_a_tree_is_told_and_not_followed(machine: Machine, watch: LayerWatch) -> None:
    """As it is measured: its target counts, what is there does not."""
    link = machine.home / "opt/system/link"
    link.unlink()
    link.symlink_to("../other/file")
    assert watch.changed() == {TREE}
    write_in_place(machine.home / "opt/other/file")
    assert watch.changed() == frozenset()


@pytest.mark.parametrize("which", [FILE, TREE, SLOT])
def test_a_write_by_way_of_a_hard_link_from_elsewhere_is_told(
    machine: Machine, watch: LayerWatch, which: str
) -> None:
    """The directory of the layer has no event then: the file itself has."""
    outside = machine.home / "outside"
    outside.hardlink_to(machine.home / FILES[which])
    assert watch.changed() == {which}
    write_in_place(outside)
    assert watch.changed() == {which}


def test_an_empty_directory_counts_as_much_as_a_file(machine: Machine, watch: LayerWatch) -> None:
    """It is measured, so it is told: made, given another mode, removed."""
    place = machine.home / "opt/system/empty"
    changes: list[Callable[[], None]] = [
        place.mkdir,
        lambda: place.chmod(0o700),
        place.rmdir,
    ]
    for change in changes:
        change()
        assert watch.changed() == {TREE}


# --- the way to a layer -------------------------------------------------------------------------


def flip(machine: Machine, slot: str) -> None:
    """Turn the link to the active slot, as an update does."""
    (machine.home / "slots/next").symlink_to(slot)
    (machine.home / "slots/next").rename(machine.home / "slots/current")


def test_a_link_that_is_turned_is_told_and_followed(machine: Machine, watch: LayerWatch) -> None:
    """The other slot is watched from then on, and the first no more."""
    flip(machine, "b")
    assert watch.changed() == {SLOT}
    write_in_place(machine.home / "slots/a/kernel/image")
    assert watch.changed() == frozenset()
    write_in_place(machine.home / "slots/b/kernel/image")
    assert watch.changed() == {SLOT}
    flip(machine, "a")
    assert watch.changed() == {SLOT}
    write_in_place(machine.home / "slots/a/kernel/image")
    assert watch.changed() == {SLOT}


def test_links_that_are_turned_many_times_leave_no_watches_behind(
    machine: Machine, watch: LayerWatch
) -> None:
    """Updates for years do not use up the user's watches."""
    for slot in ("b", "a"):
        flip(machine, slot)
        assert watch.changed() == {SLOT}
    held = watches_of(watch)
    for slot in ("b", "a") * 3:
        flip(machine, slot)
        assert watch.changed() == {SLOT}
    assert watches_of(watch) == held


@pytest.mark.parametrize(
    ("moved", "told"),
    [
        ("slots/a/kernel", {SLOT}),
        ("slots/a", {SLOT}),
        ("slots", {SLOT}),
        ("linked", {FILE}),
        ("opt", {FILE, TREE, MISSING}),
        (".", {FILE, TREE, SLOT, MISSING}),
    ],
)
def test_a_parent_that_is_moved_is_told(tmp_path: Path, moved: str, told: set[str]) -> None:
    """And the layers that are put there instead are watched."""
    machine = Machine(tmp_path / "machine")
    with LayerWatch(machine.layers) as watch:
        place = machine.home / moved
        place.rename(tmp_path / "away")
        assert watch.changed() == told
        (tmp_path / "away").rename(place)
        assert watch.changed() == told
        for layer in told - {MISSING}:
            write_in_place(machine.home / FILES[layer])
        assert watch.changed() == told - {MISSING}


def test_a_layer_that_is_missing_is_told_when_it_appears(
    machine: Machine, watch: LayerWatch
) -> None:
    """Directory by directory, or all at once."""
    (machine.home / "opt/not").mkdir()
    assert watch.changed() == {MISSING}
    file = machine.write("opt/not/yet/there", b"here")
    assert watch.changed() == {MISSING}
    write_in_place(file)
    assert watch.changed() == {MISSING}


def test_a_way_with_dots_and_links_is_walked_as_the_kernel_does(machine: Machine) -> None:
    """`..` behind a link is the parent of what the link names."""
    deep = machine.home / "deep"
    deep.symlink_to("opt/system/lib/one")
    with LayerWatch({"dotted": deep / ".." / "one" / "." / "two"}) as watch:
        write_in_place(machine.home / FILES["deep in a tree"])
        assert watch.changed() == {"dotted"}
        deep.unlink()
        assert watch.changed() == {"dotted"}


def test_links_in_a_circle_are_said_to_be_unwatched(machine: Machine) -> None:
    """And told when the circle is broken."""
    one, two = machine.home / "one", machine.home / "two"
    one.symlink_to("two")
    two.symlink_to("one")
    with LayerWatch({"circle": one}) as watch:
        assert watch.unwatched["circle"].code == "watch:path"
        two.unlink()
        two.write_bytes(b"a file")
        assert watch.changed() == {"circle"}
        assert watch.complete


def test_two_layers_may_share_a_part(machine: Machine) -> None:
    """Each is told; when one is let go, the other is still watched."""
    tree = machine.home / "opt/system"
    both = {"whole": tree, "part": tree / "bin/init"}
    with LayerWatch(both) as watch:
        write_in_place(tree / "bin/init")
        assert watch.changed() == {"whole", "part"}
        (tree / "lib/new").write_bytes(b"")
        assert watch.changed() == {"whole"}
        watch.rearm({"part": both["part"]})
        (tree / "lib/new").write_bytes(b"1")
        assert watch.changed() == frozenset()
        write_in_place(tree / "bin/init")
        assert watch.changed() == {"part"}


# --- what must not wake -------------------------------------------------------------------------


def test_reading_wakes_nobody(machine: Machine, watch: LayerWatch) -> None:
    """Measuring after an event would otherwise be an event."""
    for layer in (FILE, TREE, SLOT):
        measure(machine.layers[layer])
    assert list(machine.layers[TREE].iterdir())
    assert not readable(watch)
    assert watch.changed() == frozenset()


def test_what_happens_beside_a_layer_names_none(machine: Machine, watch: LayerWatch) -> None:
    """Neighbours on the way, the other slot, other directories."""
    machine.write("opt/beside.bin", b"changed")
    machine.write("opt/new.bin", b"new")
    machine.write("slots/b/kernel/image", b"changed")
    machine.write("slots/c/kernel/image", b"new")
    machine.write("elsewhere/file", b"new")
    (machine.home / "opt/beside.bin").unlink()
    assert watch.changed() == frozenset()


def test_a_busy_log_beside_a_layer_does_not_even_wake(machine: Machine, watch: LayerWatch) -> None:
    """Directories on the way are watched for their names, not for what is written in them."""
    machine.write("opt/beside.bin", b"changed")
    (machine.home / "opt/beside.bin").chmod(0o600)
    assert not readable(watch)


def test_waiting_ends_when_something_happens_and_when_the_time_is_over(
    machine: Machine, watch: LayerWatch
) -> None:
    """The descriptor is for a loop of many; `timeout` for one without."""
    assert watch.changed(timeout=0.01) == frozenset()
    write_in_place(machine.home / FILES[FILE])
    assert readable(watch)
    assert watch.changed(timeout=60) == {FILE}


# --- rearm, limits, losses ----------------------------------------------------------------------


def test_rearming_watches_the_new_layers_and_keeps_what_was_not_told(
    machine: Machine, watch: LayerWatch
) -> None:
    """After an update: another place for one, none for others, a new one."""
    write_in_place(machine.home / FILES[TREE])
    watch.rearm(
        {
            TREE: machine.home / "opt/system",
            SLOT: machine.home / "slots/b/kernel",
            "new": machine.home / "opt/other",
        }
    )
    assert watch.changed() == {TREE}
    write_in_place(machine.home / FILES[FILE])
    write_in_place(machine.home / FILES[SLOT])
    flip(machine, "b")
    assert watch.changed() == frozenset()
    write_in_place(machine.home / "slots/b/kernel/image")
    write_in_place(machine.home / "opt/other/file")
    assert watch.changed() == {SLOT, "new"}


def test_rearming_with_the_same_layers_makes_no_more_watches(
    machine: Machine, watch: LayerWatch
) -> None:
    """However often."""
    held = watches_of(watch)
    for _ in range(3):
        watch.rearm(machine.layers)
    assert watches_of(watch) == held


def test_a_queue_that_was_full_concerns_every_layer(machine: Machine, watch: LayerWatch) -> None:
    """What was lost may have been anybody's, and everything is watched anew."""
    one, two = machine.home / FILES[TREE], machine.home / "opt/system/lib/one"
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if limit > 100_000:
        pytest.skip(f"it takes {limit} events to fill the queue here")
    for turn in range(limit // 2 + 1):
        os.utime(one, (turn, turn))
        os.utime(two, (turn, turn))
    # Lost in the queue: a directory and what is put into it.
    late = machine.write("slots/a/kernel/late/file", b"")
    assert watch.changed() == set(machine.layers)
    write_in_place(late)
    assert watch.changed() == {SLOT}


class Scarce(inotify_simple.INotify):  # type: ignore[misc]  # it has no type hints
    """An instance of a user who may have so many watches only."""

    left = 0

    def add_watch(self, path: str, mask: int) -> int:
        """As the kernel's, until they are used up."""
        if Scarce.left <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        Scarce.left -= 1
        watch: int = super().add_watch(path, mask)
        return watch


def test_a_limit_that_is_reached_is_said_and_the_rest_is_watched(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first layers have their watches; of the others it is known that they have not."""
    monkeypatch.setattr(inotify_simple, "INotify", Scarce)
    layers = {FILE: machine.home / "opt/root.bin", TREE: machine.home / "opt/system"}
    Scarce.left = len(layers[FILE].parents) + 1
    with LayerWatch(layers) as watch:
        assert not watch.complete
        assert watch.unwatched.keys() == {TREE}
        error = watch.unwatched[TREE]
        assert isinstance(error, WatchLimitError)
        assert error.code == "watch:limit"
        assert error.data["layer"] == TREE
        write_in_place(machine.home / FILES[FILE])
        assert watch.changed() == {FILE}
        Scarce.left = 1000
        watch.rearm(layers)
        assert watch.unwatched == {}
        write_in_place(machine.home / FILES[TREE])
        assert watch.changed() == {TREE}


def test_directories_get_their_watches_before_the_files_in_them(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where watches are few, only writes by way of a hard link from elsewhere go unseen."""
    monkeypatch.setattr(inotify_simple, "INotify", Scarce)
    tree = machine.home / "opt/system"
    directories = 1 + sum(1 for path in tree.rglob("*") if path.is_dir())
    Scarce.left = len(tree.parents) + directories
    with LayerWatch({TREE: tree}) as watch:
        assert watch.unwatched[TREE].code == "watch:limit"
        for file in ("bin/init", "lib/one/two/deep.so"):
            write_in_place(tree / file)
            assert watch.changed() == {TREE}


def test_a_part_that_may_not_be_read_is_said_to_be_unwatched(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way goes on behind a directory that may only be passed."""
    passed = str(machine.home / "opt")

    class Strict(inotify_simple.INotify):  # type: ignore[misc]  # it has no type hints
        def add_watch(self, path: str, mask: int) -> int:
            """As the kernel's for a user who may not read one directory, whoever runs this."""
            if path == passed:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            watch: int = super().add_watch(path, mask)
            return watch

    monkeypatch.setattr(inotify_simple, "INotify", Strict)
    with LayerWatch({TREE: machine.home / "opt/system"}) as watch:
        error = watch.unwatched[TREE]
        assert isinstance(error, WatchPathError)
        assert error.data["path"] == passed
        write_in_place(machine.home / FILES[TREE])
        assert watch.changed() == {TREE}


def test_no_instance_is_a_typed_error(monkeypatch: pytest.MonkeyPatch, machine: Machine) -> None:
    """Too many instances of this user, or no package: whoever watches measures at intervals."""

    def refused(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(inotify_simple, "INotify", refused)
    with pytest.raises(WatchUnavailableError) as unavailable:
        LayerWatch(machine.layers)
    assert unavailable.value.code == "watch:unavailable"

    monkeypatch.setitem(sys.modules, "inotify_simple", None)
    with pytest.raises(WatchUnavailableError):
        LayerWatch(machine.layers)


def test_importing_the_module_loads_no_inotify() -> None:
    """A program that only measures pays nothing for it."""
    program = "import sys, hwtrust.agent.watch; sys.exit('inotify_simple' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_descriptor_is_not_handed_to_other_programs(machine: Machine) -> None:
    """And is closed at the end, also when closed twice."""
    with LayerWatch(machine.layers) as watch:
        descriptor = watch.fileno()
        assert fcntl.fcntl(descriptor, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        watch.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def readable(watch: LayerWatch) -> bool:
    """Whether a loop would wake."""
    return bool(select.select([watch], [], [], 0)[0])


def watches_of(watch: LayerWatch) -> int:
    """How many watches the kernel holds for it."""
    held = Path(f"/proc/self/fdinfo/{watch.fileno()}").read_text()
    return held.count("inotify wd:")
