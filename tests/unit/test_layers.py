"""A layer's digest is its content, its names and its modes, and nothing else."""

from __future__ import annotations

import errno
import hashlib
import os
import resource
import shutil
import socket
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hwtrust.errors import LayerUnreadableError
from hwtrust.layers import measure, reference

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A layer of files, folders and links."""
    return made(tmp_path / "layer")


def made(top: Path) -> Path:
    """The layer that all cases start from."""
    (top / "bin").mkdir(parents=True)
    (top / "bin" / "tool").write_bytes(b"\x7fELF tool")
    (top / "bin" / "tool").chmod(0o755)
    (top / "etc").mkdir()
    (top / "etc" / "conf").write_bytes(b"key = value\n")
    (top / "etc" / "empty").mkdir()
    (top / "link").symlink_to("bin/tool")
    (top / "nothing").write_bytes(b"")
    return top


def refused(path: Path) -> None:
    """Measuring `path` ends in the layer's own error."""
    with pytest.raises(LayerUnreadableError) as caught:
        measure(path)
    assert caught.value.code == "layer:unreadable"
    assert caught.value.data["path"] == str(path)


# --- files -----------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"x", b"\0" * 5_000_000])
def test_a_files_digest_is_what_sha256sum_prints(tmp_path: Path, content: bytes) -> None:
    """Anybody can check it with a tool of their own."""
    path = tmp_path / "kernel"
    path.write_bytes(content)
    printed = subprocess.run(["sha256sum", path], capture_output=True, check=True, text=True)
    assert measure(path).hex() == printed.stdout.split()[0]


def test_a_files_mode_and_name_do_not_count(tmp_path: Path) -> None:
    """A file is its bytes."""
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(b"same")
    second.write_bytes(b"same")
    second.chmod(0o777)
    assert measure(first) == measure(second)


def test_a_reference_is_the_layers_digest_under_its_name(tree: Path) -> None:
    """What a release says of a layer is what a device measures."""
    layer = reference("frontend", "2.1", tree)
    assert (layer.name, layer.version, layer.digest) == ("frontend", "2.1", measure(tree))


# --- trees: the canonical form ---------------------------------------------------


def test_a_trees_digest_is_the_documented_one(tmp_path: Path) -> None:
    """Label, then path, type, mode, size and content of each entry, sorted by path."""
    top = tmp_path / "layer"
    (top / "b").mkdir(parents=True, mode=0o750)
    (top / "b").chmod(0o750)
    (top / "b" / "c").write_bytes(b"content")
    (top / "b" / "c").chmod(0o4640)
    (top / "a").symlink_to("b/c")

    def entry(path: bytes, kind: int, mode: int, size: int, content: bytes) -> bytes:
        head = len(path).to_bytes(2, "big") + path + bytes([kind])
        return head + mode.to_bytes(4, "big") + size.to_bytes(8, "big") + content

    link_mode = (top / "a").lstat().st_mode & 0o7777
    expected = (
        b"hwtrust tree v1\0"
        + entry(b"a", 3, link_mode, 3, hashlib.sha256(b"b/c").digest())
        + entry(b"b", 2, 0o750, 0, bytes(32))
        + entry(b"b/c", 1, 0o4640, 7, hashlib.sha256(b"content").digest())
    )
    assert measure(top) == hashlib.sha256(expected).digest()


def test_no_file_stands_for_a_tree(tree: Path, tmp_path: Path) -> None:
    """An empty file is not an empty tree, nor is any file the tree whose entries it holds."""
    empty = tmp_path / "empty"
    empty.mkdir()
    nothing = tmp_path / "nothing"
    nothing.write_bytes(b"")
    assert measure(empty) != measure(nothing)
    entries = (
        b"\x00\x04link\x03" + (0o777).to_bytes(4, "big") + (8).to_bytes(8, "big")
    ) + hashlib.sha256(b"bin/tool").digest()
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "link").symlink_to("bin/tool")
    pretender = tmp_path / "pretender"
    pretender.write_bytes(entries)
    assert measure(pretender) != measure(tmp_path / "one")
    assert tree.is_dir()


def rewrite(path: Path) -> None:
    """The same content in a new file."""
    content, mode = path.read_bytes(), path.stat().st_mode
    path.unlink()
    path.write_bytes(content)
    path.chmod(mode)


def remake(top: Path) -> None:
    """The same tree, its entries made backwards."""
    old = top.with_name("old")
    top.rename(old)
    top.mkdir()
    for path in sorted(old.rglob("*"), reverse=True):
        place = top / path.relative_to(old)
        if path.is_dir() and not path.is_symlink():
            place.mkdir(parents=True, exist_ok=True)
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, place, follow_symlinks=False)
    for path in old.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            (top / path.relative_to(old)).chmod(path.stat().st_mode)


def hard_link(top: Path) -> None:
    """One inode with two names, one of them outside the layer."""
    top.with_name("other").hardlink_to(top / "etc" / "conf")


UNCHANGED: dict[str, Callable[[Path], None]] = {
    "nothing done": lambda _: None,
    "other times": lambda top: os.utime(top / "etc" / "conf", (1, 1)),
    "other times of a folder": lambda top: os.utime(top / "etc", (1, 1)),
    "a file written anew": lambda top: rewrite(top / "etc" / "conf"),
    "made in another order": remake,
    "a hard link in place of a copy": hard_link,
    "another mode of the top": lambda top: top.chmod(0o700),
}


@pytest.mark.parametrize("case", UNCHANGED)
def test_what_differs_between_machines_does_not_count(tree: Path, case: str) -> None:
    """Owner, times, inodes and the order of making leave the digest as it is."""
    before = measure(tree)
    UNCHANGED[case](tree)
    assert measure(tree) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_the_owner_does_not_count(tree: Path) -> None:
    """The same layer on a machine with other user numbers."""
    before = measure(tree)
    for path in (tree, *tree.rglob("*")):
        os.lchown(path, 12345, 54321)
    (tree / "bin" / "tool").chmod(0o755)
    assert measure(tree) == before


def test_the_place_does_not_count(tree: Path, tmp_path: Path) -> None:
    """The same layer elsewhere is the same layer."""
    elsewhere = made(tmp_path / "elsewhere" / "deeper")
    assert measure(elsewhere) == measure(tree)


def swap(path: Path, make: Callable[[Path], object]) -> None:
    """Something else in the place of `path`."""
    path.unlink()
    make(path)


def move_content(source: Path, target: Path) -> None:
    """The same bytes under another name."""
    target.write_bytes(source.read_bytes())
    source.write_bytes(b"")


CHANGES: dict[str, Callable[[Path], object]] = {
    "one bit of content": lambda top: (top / "bin" / "tool").write_bytes(b"\x7fELF toom"),
    "content moved to another file": lambda top: move_content(
        top / "etc" / "conf", top / "nothing"
    ),
    "a file longer by a zero": lambda top: (top / "etc" / "conf").write_bytes(b"key = value\n\0"),
    "an executable bit": lambda top: (top / "etc" / "conf").chmod(0o755),
    "a setuid bit": lambda top: (top / "bin" / "tool").chmod(0o4755),
    "a sticky folder": lambda top: (top / "etc").chmod(0o1755),
    "a mode of a folder": lambda top: (top / "etc").chmod(0o700),
    "another name": lambda top: (top / "nothing").rename(top / "nothinG"),
    "a file in another folder": lambda top: (top / "nothing").rename(top / "etc" / "nothing"),
    "a name that only moves the slash": lambda top: (top / "etc" / "conf").rename(top / "etcconf"),
    "another link target": lambda top: swap(top / "link", lambda at: at.symlink_to("x")),
    "a link in place of a file": lambda top: swap(
        top / "nothing", lambda at: at.symlink_to("etc/conf")
    ),
    "a file in place of a link": lambda top: swap(
        top / "link", lambda at: at.write_bytes(b"bin/tool")
    ),
    "a folder in place of a file": lambda top: swap(top / "nothing", Path.mkdir),
    "an empty folder less": lambda top: (top / "etc" / "empty").rmdir(),
    "an empty folder more": lambda top: (top / "more").mkdir(),
    "a file more": lambda top: (top / "etc" / "extra").write_bytes(b""),
    "a hidden file more": lambda top: (top / "etc" / ".hidden").write_bytes(b""),
    "a file less": lambda top: (top / "nothing").unlink(),
}


@pytest.mark.parametrize("case", CHANGES)
def test_every_change_of_a_layer_changes_its_digest(tree: Path, case: str) -> None:
    """Content, names, modes, kinds and link targets all count."""
    before = measure(tree)
    CHANGES[case](tree)
    assert measure(tree) != before


# --- links -----------------------------------------------------------------------


def test_the_layer_itself_may_be_a_link(tree: Path, tmp_path: Path) -> None:
    """Such as the one to the active slot, to a tree or to a file."""
    slot = tmp_path / "current"
    slot.symlink_to(tree)
    again = tmp_path / "again"
    again.symlink_to("current")
    assert measure(slot) == measure(again) == measure(tree)
    file = tmp_path / "kernel"
    file.symlink_to(tree / "bin" / "tool")
    assert measure(file) == hashlib.sha256(b"\x7fELF tool").digest()


def test_links_inside_are_measured_and_not_followed(tree: Path, tmp_path: Path) -> None:
    """What a link points to is not part of the layer, be it a folder, outside, or a loop (73)."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"one")
    (tree / "out").symlink_to(outside)
    (tree / "loop").symlink_to("loop")
    (tree / "up").symlink_to("..")
    (tree / "dangling").symlink_to("/nonexistent")
    before = measure(tree)
    (outside / "file").write_bytes(b"two")
    assert measure(tree) == before


def test_a_layer_that_is_a_loop_of_links_is_refused(tmp_path: Path) -> None:
    """It ends in an error, not in a hang."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.symlink_to(second)
    second.symlink_to(first)
    refused(first)


# --- names -----------------------------------------------------------------------


def test_names_are_bytes(tmp_path: Path) -> None:
    """A name that is no UTF-8 is measured as it is, and tells two trees apart."""
    digests = set()
    for number, name in enumerate([b"\xff\xfe", b"\xff\xfd", "ü".encode(), "ü".encode("latin-1")]):
        top = tmp_path / str(number)
        top.mkdir()
        (Path(os.fsdecode(os.fsencode(top) + b"/" + name))).write_bytes(b"")
        digests.add(measure(top))
    assert len(digests) == 4


def test_entries_are_sorted_by_path_as_bytes(tmp_path: Path) -> None:
    """`a/b` and `a.b` have one order everywhere, whatever the locale."""
    top = tmp_path / "layer"
    (top / "a").mkdir(parents=True)
    (top / "a" / "b").write_bytes(b"")
    for name in ("a.b", "a b", "a0", "B", "ä", "\n"):
        (top / name).write_bytes(b"")

    def entry(path: Path) -> bytes:
        relative = os.fsencode(path.relative_to(top))
        status = path.lstat()
        folder = path.is_dir()
        content = bytes(32) if folder else hashlib.sha256(b"").digest()
        head = len(relative).to_bytes(2, "big") + relative + bytes([2 if folder else 1])
        return head + (status.st_mode & 0o7777).to_bytes(4, "big") + bytes(8) + content

    listed = sorted(top.rglob("*"), key=lambda path: os.fsencode(path.relative_to(top)))
    assert len(listed) == 8
    whole = b"hwtrust tree v1\0" + b"".join(entry(path) for path in listed)
    assert measure(top) == hashlib.sha256(whole).digest()


def test_a_deep_tree_is_measured(tmp_path: Path) -> None:
    """Neither recursion nor open files limit the depth."""
    top = place = tmp_path / "layer"
    top.mkdir()
    for _ in range(400):
        place = place / "d"
        place.mkdir()
    before = measure(top)
    (place / "file").write_bytes(b"")
    assert measure(top) != before


def test_a_wide_tree_is_measured(tmp_path: Path) -> None:
    """Two thousand entries of one folder."""
    top = tmp_path / "layer"
    top.mkdir()
    for number in range(2000):
        (top / str(number)).write_bytes(b"")
    before = measure(top)
    (top / "1999").write_bytes(b"x")
    assert measure(top) != before


# --- many threads ----------------------------------------------------------------


@pytest.mark.parametrize("cores", [1, 2, 64])
def test_the_number_of_cores_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int
) -> None:
    """Files of all sizes, around every bound at which they are read otherwise."""
    monkeypatch.setattr("hwtrust.layers.os.sched_getaffinity", lambda _: set(range(cores)))
    top = tmp_path / "layer"
    contents = {
        b"%d/%d" % (copy, size): b"%d" % (copy % 10) * size
        for copy in range(40)
        for size in (0, 1, 8192, 8193, 200_000, *([262_144, 5_000_000] if copy < 3 else []))
    }
    entries = []
    for name, content in contents.items():
        path = top / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o640)
        path.parent.chmod(0o750)
        head = len(name).to_bytes(2, "big") + name + b"\1" + (0o640).to_bytes(4, "big")
        digest = hashlib.sha256(content).digest()
        entries.append((name, head + len(content).to_bytes(8, "big") + digest))
    for copy in range(40):
        name = b"%d" % copy
        head = len(name).to_bytes(2, "big") + name + b"\2" + (0o750).to_bytes(4, "big")
        entries.append((name, head + bytes(8) + bytes(32)))
    whole = b"hwtrust tree v1\0" + b"".join(entry for _, entry in sorted(entries))
    assert measure(top) == hashlib.sha256(whole).digest()


def medium_files(top: Path, count: int) -> Path:
    """A tree of files that are read by other threads."""
    top.mkdir()
    for number in range(count):
        (top / str(number)).write_bytes(b"%d" % (number % 10) * 10_000)
    return top


def descriptors() -> int:
    """How many are open in this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


def test_open_files_have_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that may have few files open measures a layer of many."""
    monkeypatch.setattr("hwtrust.layers.os.sched_getaffinity", lambda _: set(range(64)))
    top = medium_files(tmp_path / "layer", 1000)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors() + 500, hard))
    try:
        assert len(measure(top)) == 32
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("broken", ["0", "500", "999"])
def test_a_file_that_cannot_be_read_is_refused_and_nothing_stays_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """The disk fails in one of the threads."""
    top = medium_files(tmp_path / "layer", 1000)
    number = (top / broken).stat().st_ino
    real = os.readv

    def failing(descriptor: int, buffers: list[memoryview]) -> int:
        if os.fstat(descriptor).st_ino == number:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(descriptor, buffers)

    before = descriptors()
    monkeypatch.setattr("hwtrust.digests.os.readv", failing)
    refused(top)
    assert descriptors() == before


def test_a_tree_that_is_refused_leaves_nothing_open(tmp_path: Path) -> None:
    """Something in it is no file; others have been opened by then."""
    top = medium_files(tmp_path / "layer", 100)
    (top / "below").mkdir()
    os.mkfifo(top / "below" / "fifo")
    before = descriptors()
    refused(top)
    assert descriptors() == before


def test_a_process_that_may_start_no_thread_refuses_and_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit on tasks is an error of the tree."""

    def refusing(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    top = medium_files(tmp_path / "layer", 100)
    before = descriptors()
    monkeypatch.setattr("hwtrust.layers.os.sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(threading.Thread, "start", refusing)
    refused(top)
    assert descriptors() == before


# --- what is no layer ------------------------------------------------------------


def listening(path: Path) -> None:
    """A socket at `path`."""
    with socket.socket(socket.AF_UNIX) as made_there:
        here = Path.cwd()
        os.chdir(path.parent)
        try:
            made_there.bind(path.name)
        finally:
            os.chdir(here)


SPECIAL: dict[str, Callable[[Path], None]] = {
    "a FIFO": os.mkfifo,
    "a socket": listening,
    "a character device": lambda path: os.mknod(path, 0o020600, os.makedev(1, 3)),
    "a block device": lambda path: os.mknod(path, 0o060600, os.makedev(7, 99)),
}


@pytest.mark.parametrize("where", ["as the layer", "in the layer", "deep in the layer"])
@pytest.mark.parametrize("case", SPECIAL)
def test_what_is_neither_file_folder_nor_link_is_refused(tree: Path, case: str, where: str) -> None:
    """It is an error, not passed over, and opening a FIFO does not wait (73)."""
    places = {
        "as the layer": tree.with_name("special"),
        "in the layer": tree / "special",
        "deep in the layer": tree / "etc" / "empty" / "special",
    }
    try:
        SPECIAL[case](places[where])
    except PermissionError:
        pytest.skip("this user, or this container, may not make device nodes")
    refused(places[where] if where == "as the layer" else tree)


def test_a_layer_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """Missing, and dangling."""
    refused(tmp_path / "missing")
    (tmp_path / "dangling").symlink_to("missing")
    refused(tmp_path / "dangling")
    (tmp_path / "file").write_bytes(b"")
    refused(tmp_path / "file" / "below")


@pytest.mark.parametrize("path", ["a\0b", "\ud800", "x" * 5000, "x/" * 3000])
def test_a_path_that_cannot_be_is_refused(path: str) -> None:
    """What a configuration may hold and no file system does."""
    refused(Path(path))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("part", ["bin/tool", "etc", "."])
def test_what_may_not_be_read_is_refused(tree: Path, part: str) -> None:
    """A file or folder that this user may not read is an error, not passed over."""
    for parent in tree.parents:
        if parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o001)
    (tree / part).chmod(0)
    os.setegid(65534)
    os.seteuid(65534)
    try:
        refused(tree)
    finally:
        os.seteuid(0)
        os.setegid(0)


def test_a_folder_that_becomes_a_link_meanwhile_is_not_followed(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever swaps a folder for a link while it is measured gets an error (74)."""
    outside = made(tmp_path / "outside")
    real = os.open
    swapped: list[bytes] = []

    def swapping(path: bytes, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if os.fsencode(path).rstrip(b"/").endswith(b"layer/etc") and not swapped:
            swapped.append(path)
            (tree / "etc").rename(tmp_path / "gone")
            (tree / "etc").symlink_to(outside / "etc")
        return real(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr("hwtrust.layers.os.open", swapping)
    refused(tree)
    assert swapped


def test_a_file_that_becomes_a_link_meanwhile_is_not_followed(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same for a file (74)."""
    real = os.open

    def swapping(path: bytes, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if os.fsencode(path) == b"conf":
            (tree / "etc" / "conf").unlink()
            (tree / "etc" / "conf").symlink_to("/etc/hostname")
        return real(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr("hwtrust.layers.os.open", swapping)
    refused(tree)
