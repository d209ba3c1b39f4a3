"""An archive is its tree, byte for byte, and nothing in it reaches beyond the tree."""

from __future__ import annotations

import errno
import io
import os
import resource
import shutil
import socket
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwtrust.errors import (
    ArchiveError,
    ArchiveFormError,
    ArchiveKindError,
    ArchiveLimitError,
    ArchiveLinkError,
    ArchiveModeError,
    ArchiveNameError,
    ArchiveOrderError,
    ArchiveTruncatedError,
    HwTrustError,
    LayerUnreadableError,
    StateDiskError,
    StateError,
    StateMissingError,
    StatePermissionError,
)
from hwtrust.layers import measure
from hwtrust.updates.archive import pack, unpack
from hwtrust.updates.trees import Tree, sync

if TYPE_CHECKING:
    from collections.abc import Callable

LIMIT = 1 << 30


def made(top: Path) -> Path:
    """A layer of files, folders and links, with names of every kind."""
    (top / "bin").mkdir(parents=True)
    (top / "bin" / "tool").write_bytes(b"\x7fELF tool")
    (top / "bin" / "tool").chmod(0o755)
    (top / "bin.d").mkdir()
    (top / "etc" / "empty").mkdir(parents=True)
    (top / "etc" / "conf").write_bytes(b"key = value\n" * 100)
    (top / "etc" / "secret").write_bytes(b"")
    (top / "etc" / "secret").chmod(0o000)
    (top / "etc").chmod(0o551)
    (top / "link").symlink_to("bin/tool")
    (top / "bin" / "up").symlink_to("../etc/conf")
    (top / "Grüße").write_bytes(bytes(512))
    (top / ("long" * 30)).mkdir()
    (top / ("long" * 30) / ("name" * 40)).write_bytes(bytes(513))
    (top / "far").symlink_to("x" * 300)
    return top


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The layer that all cases start from."""
    return made(tmp_path / "layer")


def packed(tree: Path) -> bytes:
    """The archive of `tree`."""
    target = io.BytesIO()
    pack(tree, target)
    return target.getvalue()


def unpacked(data: bytes, into: Path, *, limit: int = LIMIT) -> Path:
    """The tree that `data` holds."""
    unpack(io.BytesIO(data), into, limit=limit)
    return into


def refused(data: bytes, into: Path, expected: type[HwTrustError], code: str) -> None:
    """Unpacking `data` ends in that error."""
    with pytest.raises(ArchiveError) as caught:
        unpacked(data, into)
    assert (type(caught.value), caught.value.code) == (expected, code)


# --- there and back --------------------------------------------------------------

names = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=60
).filter(lambda name: name not in {".", ".."})
permissions = st.integers(0, 0o777)
files = st.tuples(permissions, st.binary(max_size=1500))
links = st.lists(names, min_size=1, max_size=6).map("/".join)
trees = st.recursive(
    files | links,
    lambda below: st.tuples(permissions, st.dictionaries(names, below, max_size=4)),
    max_leaves=12,
)


def grow(path: Path, what: object) -> None:
    """Make what a strategy drew."""
    match what:
        case str():
            path.symlink_to(what)
        case (int(mode), bytes(content)):
            path.write_bytes(content)
            path.chmod(mode)
        case (int(mode), dict(below)):
            path.mkdir()
            for name, deeper in below.items():
                grow(path / name, deeper)
            path.chmod(mode)


@settings(max_examples=120, deadline=None)
@given(st.dictionaries(names, trees, max_size=5))
def test_a_layer_comes_back_as_it_was(drawn: dict[str, object]) -> None:
    """Its digest, and the bytes of its archive, are the same again."""
    with tempfile.TemporaryDirectory() as scratch:
        top = Path(scratch) / "layer"
        grow(top, (0o755, drawn))
        data = packed(top)
        again = unpacked(data, Path(scratch) / "again", limit=len(data))
        assert measure(again) == measure(top)
        assert packed(again) == data


def test_a_layer_with_names_of_every_kind_comes_back(tree: Path, tmp_path: Path) -> None:
    """Long names and others than ASCII, modes that deny everything, empty folders."""
    assert measure(unpacked(packed(tree), tmp_path / "again")) == measure(tree)


def test_an_empty_layer_comes_back(tmp_path: Path) -> None:
    """It is the end of an archive and nothing else."""
    (tmp_path / "layer").mkdir()
    assert packed(tmp_path / "layer") == bytes(1024)
    again = unpacked(bytes(1024), tmp_path / "again")
    assert measure(again) == measure(tmp_path / "layer")


def test_the_same_tree_gives_the_same_bytes(tree: Path, tmp_path: Path) -> None:
    """Order of making, times, owners and inodes do not enter."""
    again = unpacked(packed(tree), tmp_path / "again")
    for number, path in enumerate(again.rglob("*")):
        os.utime(path, (number, number), follow_symlinks=False)
        if os.geteuid() == 0:
            os.lchown(path, 1000 + number, 2000)
    assert packed(again) == packed(tree)


def test_a_layer_may_be_packed_through_a_link(tree: Path, tmp_path: Path) -> None:
    """As it may be measured through one."""
    (tmp_path / "current").symlink_to(tree)
    assert packed(tmp_path / "current") == packed(tree)


def test_the_archive_is_the_one_that_pythons_tarfile_writes(tree: Path) -> None:
    """Its headers are the pax format's, by another implementation of it."""
    theirs = io.BytesIO()
    with tarfile.open(fileobj=theirs, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(tree.rglob("*"), key=lambda at: os.fsencode(at.relative_to(tree))):
            info = tar.gettarinfo(path, str(path.relative_to(tree)))
            info.mtime = info.uid = info.gid = 0
            info.uname = info.gname = ""
            tar.addfile(info, io.BytesIO(path.read_bytes()) if info.isreg() else None)
    ours = packed(tree)
    assert theirs.getvalue().startswith(ours)
    assert not theirs.getvalue()[len(ours) :].strip(b"\0")


def test_any_tar_unpacks_the_archive(tree: Path, tmp_path: Path) -> None:
    """The vendor can look into it with a tool of their own."""
    (tmp_path / "there").mkdir()
    command = ["tar", "-xp", "-C", str(tmp_path / "there")]
    subprocess.run(command, input=packed(tree), check=True)
    assert measure(tmp_path / "there") == measure(tree)


def test_the_umask_does_not_count(tree: Path, tmp_path: Path) -> None:
    """Modes are the archive's, whoever unpacks."""
    before = os.umask(0o077)
    try:
        again = unpacked(packed(tree), tmp_path / "again")
    finally:
        os.umask(before)
    assert measure(again) == measure(tree)
    assert again.stat().st_mode & 0o7777 == 0o755


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_an_ordinary_user_unpacks_what_it_may_not_change_afterwards(tree: Path) -> None:
    """Folders without write permission get it last."""
    data, digest = packed(tree), measure(tree)
    home = Path(tempfile.mkdtemp())
    os.chown(home, 65534, 65534)
    os.setegid(65534)
    os.seteuid(65534)
    try:
        unpacked(data, home / "again")
    finally:
        os.seteuid(0)
        os.setegid(0)
    assert measure(home / "again") == digest
    assert (home / "again").stat().st_uid == 65534
    shutil.rmtree(home)


def test_a_deep_layer_comes_back(tmp_path: Path) -> None:
    """Neither recursion nor open files limit the depth."""
    place = tmp_path / "layer"
    place.mkdir()
    for _ in range(700):
        place = place / "d"
        place.mkdir()
    (place / "file").write_bytes(b"deep")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, before[1]))
    try:
        again = unpacked(packed(tmp_path / "layer"), tmp_path / "again")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert measure(again) == measure(tmp_path / "layer")


# --- archives that somebody else made ----------------------------------------------


def entry(
    name: str, kind: bytes = b"0", *, mode: int = 0o644, gnu: bool = False, **more: object
) -> bytes:
    """One entry as `pack` would write it (2, the pax format), but for what is asked."""
    info = tarfile.TarInfo(name)
    info.type, info.mode = kind, mode
    body = more.pop("body", b"")
    assert isinstance(body, bytes)
    info.size = len(body)
    for key, value in more.items():
        setattr(info, key, value)
    return info.tobuf(1 if gnu else 2, "utf-8", "surrogateescape") + body + bytes(-len(body) % 512)


def folder(name: str, mode: int = 0o755) -> bytes:
    """A folder's entry."""
    return entry(name, b"5", mode=mode)


def link(name: str, target: str, mode: int = 0o777) -> bytes:
    """A link's entry."""
    return entry(name, b"2", mode=mode, linkname=target)


def resummed(header: bytes) -> bytes:
    """A header with the sum that it ought to have."""
    blank = header[:148] + b" " * 8 + header[156:512]
    return blank[:148] + b"%06o\0 " % sum(blank) + blank[156:] + header[512:]


def altered(data: bytes, at: int, value: bytes) -> bytes:
    """A header with other bytes at a place, and the right sum."""
    return resummed(data[:at] + value + data[at + len(value) :])


def pax(*records: bytes, kind: bytes = b"x") -> bytes:
    """A pax header of these records."""
    body = b""
    for record in records:
        lengths = (n for n in range(2000) if n == len(b"%d %s\n" % (n, record)))
        body += b"%d %s\n" % (next(lengths), record)
    head = entry("././@PaxHeader", kind, mode=0, size=len(body))
    return head + body + bytes(-len(body) % 512)


END = bytes(1024)
FORM = (ArchiveFormError, "update:archive:form")
NAME = (ArchiveNameError, "update:archive:name")
ORDER = (ArchiveOrderError, "update:archive:order")
KIND = (ArchiveKindError, "update:archive:kind")
LINK = (ArchiveLinkError, "update:archive:link")
MODE = (ArchiveModeError, "update:archive:mode")
CUT = (ArchiveTruncatedError, "update:archive:truncated")

HOSTILE: dict[str, tuple[bytes, tuple[type[ArchiveError], str]]] = {
    # where a name leads
    "an absolute path": (entry("/etc/passwd"), NAME),
    "an absolute path of a folder": (folder("/etc"), NAME),
    "a path upwards": (entry("../passwd"), NAME),
    "a path down and up": (folder("a") + entry("a/../../passwd"), NAME),
    "a path that ends upwards": (folder("a") + folder("a/.."), NAME),
    "the top by a dot": (folder("."), NAME),
    "a dot in a path": (folder("a") + entry("a/./b"), NAME),
    "an empty name": (entry(""), NAME),
    "two slashes": (folder("a") + entry("a//b"), NAME),
    "a folder with two slashes": (altered(folder("a"), 0, b"a//"), NAME),
    "a name that is not UTF-8": (pax(b"path=\xff") + altered(entry("?"), 0, b"?"), NAME),
    "a name with a zero": (pax(b"path=a\0\xc3\xbc") + altered(entry("x"), 0, b"a\0?"), NAME),
    "a name that no file system takes": (entry("n" * 256), NAME),
    "a path that no slot takes": (entry("/".join(["n" * 99] * 21)), NAME),
    # what is where
    "a file twice": (entry("a") + entry("a"), ORDER),
    "a folder twice": (folder("a") + folder("a"), ORDER),
    "a link, then a file in its place": (link("a", "b") + entry("a"), ORDER),
    "a file, then a folder in its place": (entry("a") + folder("a"), ORDER),
    "out of order": (entry("b") + entry("a"), ORDER),
    "before its folder": (entry("a/b") + folder("a"), ORDER),
    "in no folder": (entry("a/b"), ORDER),
    "below a file": (entry("a") + entry("a/b"), ORDER),
    "through a link": (link("a", "b") + entry("a/b"), ORDER),
    "through a link that was a folder": (folder("a") + link("a", ".") + entry("a/b"), ORDER),
    # what it is
    "a hard link": (entry("a") + entry("b", b"1", linkname="a"), KIND),
    "a hard link out of the layer": (entry("b", b"1", linkname="../../etc/passwd"), KIND),
    "a character device": (entry("a", b"3", devmajor=1, devminor=3), KIND),
    "a block device": (entry("a", b"4", devmajor=8), KIND),
    "a FIFO": (entry("a", b"6"), KIND),
    "a contiguous file": (entry("a", b"7"), FORM),
    "an old file": (entry("a", b"\0"), FORM),
    "a GNU sparse file": (entry("a", b"S", gnu=True), FORM),
    "a GNU long name": (entry("n" * 150, gnu=True), FORM),
    "a GNU dump": (entry("a", b"D"), FORM),
    "a multi-volume rest": (entry("a", b"M"), FORM),
    # links
    "a link to an absolute path": (link("a", "/etc/passwd"), LINK),
    "a link to the root": (link("a", "/"), LINK),
    "a link upwards": (link("a", ".."), LINK),
    "a link above its folder's layer": (folder("a") + link("a/b", "../../x"), LINK),
    "a link down and up": (link("a", "b/../../x"), LINK),
    "a link up behind a link": (link("a", ".") + link("b", "a/../x"), LINK),
    "a link up behind a dot": (link("a", "./../x"), LINK),
    "a link to nothing": (link("a", ""), LINK),
    "a link to what is not UTF-8": (
        pax(b"linkpath=\xff") + altered(link("a", "x"), 157, b"?"),
        LINK,
    ),
    "a link that is too long": (link("a", "x" * 2049), LINK),
    # modes
    "a setuid file": (entry("a", mode=0o4755), MODE),
    "a setgid file": (entry("a", mode=0o2755), MODE),
    "a setgid folder": (folder("a", 0o2755), MODE),
    "a sticky folder": (folder("a", 0o1777), MODE),
    "a setuid link": (link("a", "b", 0o4777), MODE),
    "a link with a mode": (link("a", "b", 0o644), MODE),
    "a mode with a type": (altered(entry("a"), 100, b"0100644\0"), MODE),
    # the form
    "a wrong sum": (entry("a")[:148] + b"0000000\0" + entry("a")[156:], FORM),
    "a time": (entry("a", mtime=1), FORM),
    "a user": (entry("a", uid=1), FORM),
    "a group": (entry("a", gid=1), FORM),
    "a user's name": (entry("a", uname="root"), FORM),
    "a group's name": (entry("a", gname="root"), FORM),
    "a device number of a file": (altered(entry("a"), 329, b"0000001\0"), FORM),
    "a target of a file": (entry("a", linkname="b"), FORM),
    "a folder with content": (altered(folder("a"), 124, b"00000000001\0"), FORM),
    "a folder without a slash": (altered(folder("a"), 0, b"a\0"), FORM),
    "a file with a slash": (altered(entry("a"), 0, b"a/"), NAME),
    "a prefix": (altered(entry("a"), 345, b"b"), FORM),
    "something behind the name's end": (altered(entry("a"), 2, b"b"), NAME),
    "something behind the header's end": (altered(entry("a"), 511, b"b"), FORM),
    "another magic": (altered(entry("a"), 257, b"ustar  \0"), FORM),
    "a size in base 256": (altered(entry("a"), 124, b"\x80" + bytes(10) + b"\1"), FORM),
    "a negative size": (altered(entry("a"), 124, b"-0000000001\0"), FORM),
    "a size in spaces": (altered(entry("a"), 124, b"          0\0"), FORM),
    "a size in nines": (altered(entry("a"), 124, b"99999999999\0"), FORM),
    "padding that is not zero": (entry("a", body=b"x")[:-1] + b"y", FORM),
    "a global pax header": (pax(b"comment=x", kind=b"g") + entry("a"), FORM),
    "an idle pax header": (pax(b"path=a") + entry("a"), FORM),
    "a path by pax that the header denies": (pax(b"path=" + b"n" * 101) + entry("a"), FORM),
    "a foreign pax record": (pax(b"comment=x") + entry("a"), FORM),
    "a pax owner": (pax(b"uid=0") + entry("a"), FORM),
    "a sparse map in pax": (pax(b"GNU.sparse.map=0,1") + entry("a"), FORM),
    "a small size by pax": (pax(b"size=0") + entry("a"), FORM),
    "a size by pax that is none": (pax(b"size=1_0") + entry("a"), FORM),
    "an endless size by pax": (pax(b"size=" + b"9" * 60) + entry("a"), FORM),
    "two pax headers": (pax(b"path=a") + pax(b"path=b") + entry("a"), FORM),
    "a pax header for the end": (pax(b"path=a") + bytes(512), FORM),
    "an empty pax header": (pax() + entry("a"), FORM),
    "a huge pax header": (entry("././@PaxHeader", b"x", mode=0, size=1 << 30), FORM),
    "a pax record that goes beyond": (
        entry("././@PaxHeader", b"x", mode=0, body=b"99 path=a\n") + entry("a"),
        FORM,
    ),
    "a pax record of no length": (
        entry("././@PaxHeader", b"x", mode=0, body=b"0 path=a\n") + entry("a"),
        FORM,
    ),
    "a pax record without a number": (
        entry("././@PaxHeader", b"x", mode=0, body=b"path=a\n") + entry("a"),
        FORM,
    ),
    "one zero block, then more": (bytes(512) + entry("a"), FORM),
    "something behind the end": (END + b"\0", FORM),
    "a second archive behind the end": (END + entry("a"), FORM),
    "no archive": (b"PK\3\4" + bytes(1020), FORM),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_73_an_archive_that_pack_does_not_make_is_refused(case: str, tmp_path: Path) -> None:
    """With the reason as its code, and nothing of the bad entry on the disk."""
    data, (expected, code) = HOSTILE[case]
    refused(data + END, tmp_path / "there", expected, code)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    found = [path for path in (tmp_path / "there").rglob("*") if not path.is_dir()]
    assert all(path.name in {"a", "b"} for path in found)


def test_the_hostile_archives_are_refused_for_their_one_fault(tmp_path: Path) -> None:
    """Without a fault the same maker's entries pass."""
    good = folder("a") + entry("a/b", body=b"content") + link("a/c", "../a/b") + entry("ü" * 60)
    unpacked(good + END, tmp_path / "there")
    assert (tmp_path / "there" / "a" / "c").read_bytes() == b"content"


def test_the_whole_archive_is_needed(tree: Path, tmp_path: Path) -> None:
    """Cut anywhere it is refused, be it between two entries."""
    data = packed(tree)
    assert len(data) > 10_000
    for number, at in enumerate([*range(0, len(data), 256), len(data) - 1]):
        refused(data[:at], tmp_path / str(number), *CUT)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_archives_are_refused_or_harmless(data: st.DataObject) -> None:
    """Any bytes end in the family's errors, or in a tree that packs to those very bytes."""
    whole = entry("a", body=b"content") + folder("b") + link("b/c", "../a") + entry("ü") + END
    at = data.draw(st.integers(0, len(whole) - 1))
    piece = data.draw(st.binary(max_size=20))
    changed = whole[:at] + piece + whole[at + data.draw(st.sampled_from([0, len(piece)])) :]
    if data.draw(st.booleans()) and len(changed) >= 512:
        changed = resummed(changed)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            there = unpacked(changed, Path(scratch) / "there")
        except ArchiveError:
            return
        assert packed(there) == changed


# --- limits ------------------------------------------------------------------------


def test_an_archive_may_be_as_long_as_said_and_no_longer(tree: Path, tmp_path: Path) -> None:
    """Every byte of it counts, the end as well."""
    data = packed(tree)
    unpacked(data, tmp_path / "fits", limit=len(data))
    with pytest.raises(ArchiveLimitError) as caught:
        unpacked(data, tmp_path / "short", limit=len(data) - 1)
    assert caught.value.code == "update:archive:limit"


@pytest.mark.parametrize("size", [1 << 20, 8**11, 1 << 62])
def test_72_nothing_of_a_file_beyond_the_limit_is_written(size: int, tmp_path: Path) -> None:
    """What a header promises is compared with the limit first."""
    head = entry("a", size=size)
    with pytest.raises(ArchiveLimitError):
        unpacked(head + bytes(5000), tmp_path / "there", limit=1 << 19)
    assert list((tmp_path / "there").iterdir()) == []


def test_72_an_endless_archive_ends_at_the_limit(tmp_path: Path) -> None:
    """A stream without an end costs what was said at most."""

    class Endless(io.RawIOBase):
        given = 0

        def read(self, count: int = -1, /) -> bytes:
            self.given += count
            return b"x" * count

    stream = Endless()
    head = io.BytesIO(entry("a", size=1 << 20))
    with pytest.raises(ArchiveLimitError):
        unpack(io.BufferedReader(_Chain(head, stream)), tmp_path / "there", limit=1 << 19)
    assert stream.given < 1 << 20


class _Chain(io.RawIOBase):
    """One stream behind another, in pieces of seven bytes."""

    def __init__(self, *parts: io.IOBase) -> None:
        self._parts = list(parts)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object, /) -> int:
        view = memoryview(buffer)  # type: ignore[arg-type]
        while self._parts:
            piece: bytes = self._parts[0].read(min(7, len(view)))
            if piece:
                view[: len(piece)] = piece
                return len(piece)
            self._parts.pop(0)
        return 0


def test_an_archive_may_come_in_small_pieces(tree: Path, tmp_path: Path) -> None:
    """As from a socket."""
    stream = _Chain(io.BytesIO(packed(tree)))
    unpack(stream, tmp_path / "again", limit=LIMIT)  # type: ignore[arg-type]
    assert measure(tmp_path / "again") == measure(tree)


def test_72_a_layer_has_a_limit_of_entries(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A million empty files cost no bytes, but inodes; vendor and device both refuse them."""
    data = packed(tree)
    count = sum(1 for _ in tree.rglob("*"))
    for module in ("archive", "entries"):
        monkeypatch.setattr(f"hwtrust.updates.{module}.MAX_ENTRIES", count)
    assert measure(unpacked(packed(tree), tmp_path / "fits")) == measure(tree)
    for module in ("archive", "entries"):
        monkeypatch.setattr(f"hwtrust.updates.{module}.MAX_ENTRIES", count - 1)
    for attempt in (lambda: packed(tree), lambda: unpacked(data, tmp_path / "many")):
        with pytest.raises(ArchiveLimitError) as caught:
            attempt()
        assert caught.value.code == "update:archive:limit"


# --- what cannot be packed -----------------------------------------------------------


def listening(path: Path) -> None:
    """A socket at `path`."""
    with socket.socket(socket.AF_UNIX) as made_there:
        here = Path.cwd()
        os.chdir(path.parent)
        try:
            made_there.bind(path.name)
        finally:
            os.chdir(here)


SPECIAL: dict[str, Callable[[Path], object]] = {
    "a FIFO": lambda top: os.mkfifo(top / "special"),
    "a socket": lambda top: listening(top / "special"),
    "nothing at all": shutil.rmtree,
    "a file in place of the tree": lambda top: (
        top.rename(top.with_name("x")).with_name("layer").write_bytes(b"")
    ),
}


@pytest.mark.parametrize("case", SPECIAL)
def test_what_cannot_be_measured_cannot_be_packed(tree: Path, case: str) -> None:
    """The vendor gets the same error from both."""
    SPECIAL[case](tree)
    with pytest.raises(LayerUnreadableError) as caught:
        packed(tree)
    assert caught.value.code == "layer:unreadable"
    assert caught.value.data["path"] == str(tree)


def hard_linked(top: Path) -> None:
    """One inode with two names."""
    (top / "other").hardlink_to(top / "bin" / "tool")


def test_hard_links_are_packed_as_files_of_their_own(tree: Path, tmp_path: Path) -> None:
    """They count as such in the digest, too."""
    hard_linked(tree)
    again = unpacked(packed(tree), tmp_path / "again")
    assert measure(again) == measure(tree)
    assert (again / "other").stat().st_nlink == 1


UNFIT: dict[str, tuple[Callable[[Path], object], type[ArchiveError]]] = {
    "a setuid file": (lambda top: (top / "bin" / "tool").chmod(0o4755), ArchiveModeError),
    "a sticky folder": (lambda top: (top / "bin.d").chmod(0o1777), ArchiveModeError),
    "an absolute link": (lambda top: (top / "abs").symlink_to("/etc"), ArchiveLinkError),
    "a link out of it": (lambda top: (top / "out").symlink_to("../x"), ArchiveLinkError),
    "a name that is not UTF-8": (
        lambda top: Path(os.fsdecode(os.fsencode(top) + b"/\xff")).write_bytes(b""),
        ArchiveNameError,
    ),
    "a link to a name that is not UTF-8": (
        lambda top: (top / "odd").symlink_to(os.fsdecode(b"\xff")),
        ArchiveLinkError,
    ),
}


@pytest.mark.parametrize("case", UNFIT)
def test_what_no_device_unpacks_cannot_be_packed(tree: Path, case: str) -> None:
    """The vendor hears of it before the fleet does."""
    spoil, expected = UNFIT[case]
    spoil(tree)
    with pytest.raises(ArchiveError) as caught:
        packed(tree)
    assert type(caught.value) is expected


def test_74_a_file_that_grows_while_it_is_packed_is_refused(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No archive holds half of one content and half of another."""
    real = os.fstat

    def growing(descriptor: int) -> os.stat_result:
        status = real(descriptor)
        with (tree / "etc" / "conf").open("ab") as file:
            file.write(b"more")
        return status

    monkeypatch.setattr("hwtrust.updates.archive.os.fstat", growing)
    with pytest.raises(LayerUnreadableError) as caught:
        packed(tree)
    assert caught.value.code == "layer:unreadable"


def test_74_a_file_that_shrinks_while_it_is_packed_is_refused(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No archive says of a file that it is longer than what follows."""
    real = os.fstat
    path = tree / "etc" / "conf"

    looks = 0

    def shrinking(descriptor: int) -> os.stat_result:
        nonlocal looks
        status = real(descriptor)
        if os.path.samestat(status, path.stat()):
            looks += 1
            # First whether it is a file, then how long it is.
            if looks == 2:
                os.truncate(path, 0)
        return status

    path.write_bytes(b"some settings")
    monkeypatch.setattr("hwtrust.updates.archive.os.fstat", shrinking)
    with pytest.raises(LayerUnreadableError) as caught:
        packed(tree)
    assert caught.value.code == "layer:unreadable"


def test_74_a_file_that_becomes_setuid_while_it_is_packed_is_refused(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its mode is looked at when it is open, not only when it is found."""
    real = Tree.read

    def changing(source: Tree, path: bytes) -> int:
        (tree / "etc" / "conf").chmod(0o4755)
        return real(source, path)

    monkeypatch.setattr(Tree, "read", changing)
    with pytest.raises(ArchiveModeError) as caught:
        packed(tree)
    assert caught.value.code == "update:archive:mode"


def test_75_an_archive_that_does_not_fit_is_the_disks_error(tree: Path, tmp_path: Path) -> None:
    """Not the layer's."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with (tmp_path / "archive").open("wb", buffering=0) as target:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, before[1]))
        try:
            with pytest.raises(StateDiskError) as caught:
                pack(tree, target)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.data["reason"] == "full"


# --- where it is unpacked --------------------------------------------------------------


def test_nothing_is_unpacked_over_anything(tree: Path, tmp_path: Path) -> None:
    """Be it an empty directory, a file, or a link to a place elsewhere."""
    data = packed(tree)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    (tmp_path / "dangling").symlink_to(tmp_path / "new")
    for name in ("folder", "file", "link", "dangling"):
        with pytest.raises(StateError):
            unpacked(data, tmp_path / name)
    assert list((tmp_path / "folder").iterdir()) == []
    assert not (tmp_path / "new").exists()
    with pytest.raises(StateMissingError):
        unpacked(data, tmp_path / "missing" / "there")


def test_73_a_folder_that_becomes_a_link_meanwhile_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever swaps a folder while it is filled gets an error, and nothing elsewhere."""
    (tmp_path / "outside").mkdir()
    real = os.mkdir

    def swapping(path: bytes, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        real(path, mode, dir_fd=dir_fd)
        if os.fsencode(path) == b"a":
            (tmp_path / "there" / "a").rename(tmp_path / "gone")
            (tmp_path / "there" / "a").symlink_to(tmp_path / "outside")

    monkeypatch.setattr("hwtrust.updates.trees.os.mkdir", swapping)
    with pytest.raises(StateError) as caught:
        unpacked(folder("a") + entry("a/b", body=b"x") + END, tmp_path / "there")
    assert caught.value.code in {"state:missing", "state:permission"}
    assert list((tmp_path / "outside").iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("call", ["open", "mkdir", "symlink", "write", "fchmod"])
def test_75_a_failing_disk_is_a_typed_error(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    """At every kind of step."""
    data = packed(tree)

    def fail(*_args: object, **_kwargs: object) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(f"hwtrust.updates.trees.os.{call}", fail)
        with pytest.raises(StateDiskError) as caught:
            unpacked(data, tmp_path / "there")
    reasons = {errno.ENOSPC: "full", errno.EROFS: "read-only", errno.EIO: "io"}
    assert caught.value.data["reason"] == reasons[number]


def test_everything_is_on_the_disk_when_a_tree_is_synced(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file and each directory was, the directories after what they hold."""
    there = unpacked(packed(tree), tmp_path / "there")
    synced: list[str] = []
    real = os.fsync

    def noting(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        real(descriptor)

    monkeypatch.setattr("hwtrust.updates.trees.os.fsync", noting)
    with Tree.at(there) as made:
        sync(made)
    kept = [path for path in [there, *there.rglob("*")] if not path.is_symlink()]
    assert sorted(synced) == sorted(map(str, kept))
    for path in kept[1:]:
        assert synced.index(str(path)) < synced.index(str(path.parent))


def test_a_refused_name_reaches_no_terminal_as_it_is(tmp_path: Path) -> None:
    """A message shows control characters as text."""
    with pytest.raises(ArchiveNameError) as caught:
        unpacked(entry("../\x1b[2J") + END, tmp_path / "there")
    assert caught.value.message.isprintable()
    assert str(caught.value.data["path"]).isascii()


def test_a_place_that_may_not_be_written_is_a_typed_error(tree: Path, tmp_path: Path) -> None:
    """The permission is named, not an OSError."""
    data = packed(tree)
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    (tmp_path / "home").mkdir(mode=0o700)
    os.setegid(65534)
    os.seteuid(65534)
    try:
        with pytest.raises(StatePermissionError):
            unpacked(data, tmp_path / "home" / "there")
    finally:
        os.seteuid(0)
        os.setegid(0)
