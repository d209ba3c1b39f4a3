"""Whatever kills a change of the repository, a client accepts what is there (97)."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from hwtrust.updates import metadata
from hwtrust_backend.app.setup import install
from hwtrust_backend.config import Settings
from hwtrust_backend.repository.exporting import Published, published_state
from hwtrust_backend.repository.roots import RootChange
from hwtrust_backend.testing import CHEAP, HOUR, ManualClock
from simulators.release_bundle import Holder
from simulators.repository_crash import PASSPHRASE, Change, change_and_kill, opened
from simulators.tuf_repository import MemorySource
from simulators.vendor import BOTH, KERNEL, Vendor, signed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hwtrust.updates.source import Source

BEFORE: Final = frozenset({"layers/kernel/6.1", "layers/www/2", "releases/1.0.json"})
RELEASE: Final = frozenset({"layers/kernel/6.1", "releases/1.1.json"})


@dataclass
class Site:
    """A backend with two releases, of which copies are changed and killed."""

    directory: Path
    now: int
    vendor: Vendor
    anchor: bytes

    def change(self, name: str, number: int, root: bytes = b"") -> Change:
        """A change of a fresh copy of everything."""
        copy = self.directory / f"{name} {number}"
        shutil.copytree(self.directory / "source", copy)
        key = self.vendor.targets.key.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )
        return Change(name, copy / "data", self.now, key, root)

    def seen(self, change: Change, files: dict[str, bytes]) -> frozenset[str]:
        """What a device that has seen the repository before the change finds listed."""
        source = cast("Source", MemorySource(files))
        now = datetime.fromtimestamp(self.now / 1000, UTC)
        state = change.data.parent / "device"
        return frozenset(metadata.refresh(self.anchor, state=state, source=source, now=now).targets)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A backend on SQLite, served to a device and exported, with 12 hours gone since."""
    (tmp_path / "source").mkdir(mode=0o700)
    data, clock = tmp_path / "source" / "data", ManualClock()
    settings = Settings(data_dir=str(data))
    install(settings, passphrase=PASSPHRASE, clock=clock, cost=CHEAP)
    backend = opened(data, clock())
    vendor = Vendor(backend, tmp_path / "source")
    vendor.begin()
    vendor.publish("1.0", BOTH)
    vendor.publish("1.1", KERNEL)
    anchor = published(data, clock()).metadata["1.root.json"]
    made = Site(tmp_path, clock(), vendor, anchor)
    known = made.seen(Change("", data, made.now, b""), dict(published(data, made.now).metadata))
    assert known == BEFORE | RELEASE
    made.now += 13 * HOUR
    yield made
    backend.database.close()


def published(data: Path, now: int) -> Published:
    """What the backend in a directory serves."""
    backend = opened(data, now)
    try:
        with backend.database.reading() as session:
            return published_state(session, grace_ms=0, now=now)
    finally:
        backend.database.close()


def require_files(data: Path, state: Published) -> None:
    """Go on if every file that is listed is in its place, as it is listed."""
    for target in state.targets.values():
        content = (data / "targets" / target.sha256).read_bytes()
        assert hashlib.sha256(content).hexdigest() == target.sha256


def killed_everywhere(
    site: Site, name: str, root: bytes = b""
) -> list[tuple[bool, frozenset[str]]]:
    """Kill a change at each of its steps; what a device finds, each time, and when it is repeated.

    The device takes what is there, and every file of it is whole.
    """
    found = []
    number, killed = 0, True
    while killed:
        number += 1
        change = site.change(name, number, root)
        killed = change_and_kill(change, number)
        state = published(change.data, site.now)
        require_files(change.data, state)
        found.append((killed, site.seen(change, dict(state.metadata))))
        shutil.rmtree(change.data.parent)
    return found


# What a device finds before and after, and at how many steps it is killed at least.
ENDS: dict[str, tuple[frozenset[str], frozenset[str], int]] = {
    "publish": (
        BEFORE | RELEASE,
        BEFORE | RELEASE | {"layers/kernel/6.2", "releases/1.2.json"},
        12,
    ),
    "revoke": (BEFORE | RELEASE, BEFORE, 6),
    "sign anew": (BEFORE | RELEASE, BEFORE | RELEASE, 3),
}


@pytest.mark.parametrize("name", ENDS)
def test_97_a_change_that_is_killed_anywhere_is_done_or_not_done(site: Site, name: str) -> None:
    """A device that knew the repository before takes it as it is after the kill."""
    before, after, least = ENDS[name]
    found = killed_everywhere(site, name)
    assert len(found) > least
    assert {listed for killed, listed in found if killed} <= {before, after}
    assert found[0] == (True, before)
    assert found[-1] == (False, after)


@pytest.mark.parametrize("case", ["another online key", "another targets key"])
def test_97_a_root_that_is_killed_anywhere_is_in_force_or_not(site: Site, case: str) -> None:
    """Never a root under which the list, the snapshot or the timestamp do not count."""
    change = RootChange(new_online_key=True)
    if case == "another targets key":
        site.vendor.targets = Holder.new()
        change = RootChange(targets_keys=[site.vendor.targets.public])
    root = signed(site.vendor.propose(change), site.vendor.root)
    found = killed_everywhere(site, "root", root)
    assert len(found) > 5
    assert {listed for _, listed in found} == {BEFORE | RELEASE}


def test_97_pruning_that_is_killed_anywhere_removes_nothing_that_is_listed(site: Site) -> None:
    """Files go one by one, and only those that nothing names."""
    site.vendor.revoke("1.1")
    spare = site.vendor.blobs.directory / hashlib.sha256(b"nobody's").hexdigest()
    spare.write_bytes(b"nobody's")
    found = killed_everywhere(site, "prune")
    assert len(found) > 3
    assert {listed for _, listed in found} == {BEFORE}


def test_97_an_export_that_is_killed_anywhere_is_the_old_or_the_new_one(site: Site) -> None:
    """A static host serves a whole state at every moment; the next export goes on from there."""
    old = site.change("export", 0)
    assert not change_and_kill(old, -1)
    source = site.directory / "source"
    shutil.copytree(old.data.parent / "www", source / "www")
    site.vendor.publish("1.2", {"kernel": ("6.2", b"another kernel")})
    site.vendor.revoke("1.1")
    new = BEFORE | {"layers/kernel/6.2", "releases/1.2.json"}
    listed = []
    number, killed = 0, True
    while killed:
        number += 1
        change = site.change("export", number)
        killed = change_and_kill(change, number)
        listed.append(site.seen(change, exported(change, site)))
        assert not change_and_kill(change, -1)
        assert site.seen(change, exported(change, site)) == new
        names = {path.name for path in (change.data.parent / "www").rglob("*")}
        assert not [name for name in names if name.startswith(".")]
        shutil.rmtree(change.data.parent)
    assert len(listed) > 10
    assert listed[0] == BEFORE | RELEASE
    assert listed[-1] == new
    assert set(listed) == {BEFORE | RELEASE, new}


def exported(change: Change, site: Site) -> dict[str, bytes]:
    """What the static host serves as metadata, after a look at what that names."""
    www = change.data.parent / "www"
    files = {path.name: path.read_bytes() for path in (www / "metadata").iterdir()}
    source = cast("Source", MemorySource(files))
    now = datetime.fromtimestamp(site.now / 1000, UTC)
    state = www.with_name("looks")
    listing = metadata.refresh(site.anchor, state=state, source=source, now=now)
    shutil.rmtree(state)
    for target in listing.targets.values():
        content = (www / "targets" / target.url).read_bytes()
        assert hashlib.sha256(content).hexdigest() == target.hashes["sha256"]
    return files
