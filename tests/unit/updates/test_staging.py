"""A release comes into the inactive slot whole and measured, or the slot is not sealed."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import msgspec
import pytest

from hwtrust.errors import (
    SlotUnsealedError,
    StagedLayerError,
    TargetDigestError,
    UpdateUnreachableError,
)
from hwtrust.layers import measure, reference
from hwtrust.updates.archive import pack
from hwtrust.updates.slots import Slots
from hwtrust.updates.staging import Progress, stage
from hwtrust.wire.messages import Release
from hwtrust.wire.release import LayerEntry, LayerKind, ReleaseManifest, layer_target
from simulators.tuf_repository import UpdateSite

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOW: Final = datetime(2041, 5, 1, tzinfo=UTC)
KERNEL, APP = b"kernel of the first release", b"app of the first release"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[UpdateSite]:
    """A repository, served."""
    with UpdateSite(tmp_path, NOW) as made:
        yield made


@pytest.fixture
def slots(tmp_path: Path) -> Slots:
    """The slots of a device that runs the first release."""
    home = tmp_path / "before"
    home.mkdir()
    places = {}
    for name, content in {"kernel": KERNEL, "app": APP}.items():
        places[name] = home / name
        places[name].write_bytes(content)
        places[name].chmod(0o755)
    references = tuple(reference(name, "1", place) for name, place in places.items())
    (home / "release.json").write_bytes(msgspec.json.encode(Release(name="1", layers=references)))
    made = Slots(tmp_path / "slots")
    made.create(places, home / "release.json")
    return made


def publish(site: UpdateSite, name: str, *entries: LayerEntry) -> ReleaseManifest:
    """List a release; its targets are added by the test."""
    manifest = ReleaseManifest(name=name, created_at=0, layers=entries)
    site.repository.publish()
    return manifest


def add_file(site: UpdateSite, name: str, version: str, content: bytes) -> LayerEntry:
    """A layer that is a file."""
    target = layer_target(name, version, LayerKind.FILE)
    site.repository.add_target(target, content)
    return LayerEntry(
        name=name,
        version=version,
        digest=hashlib.sha256(content).digest(),
        kind=LayerKind.FILE,
        target=target,
        frequency="monthly",
    )


def add_tree(site: UpdateSite, scratch: Path, name: str, version: str) -> LayerEntry:
    """A layer that is a tree of two files."""
    tree = scratch / f"{name}-{version}"
    (tree / "inner").mkdir(parents=True)
    (tree / "inner" / "page").write_text(f"page of {version}")
    (tree / "start").write_text("#!/bin/sh\n")
    (tree / "start").chmod(0o755)
    packed = scratch / f"{name}-{version}.tar"
    with packed.open("wb") as file:
        pack(tree, file)
    target = layer_target(name, version, LayerKind.TREE)
    site.repository.add_target(target, packed.read_bytes())
    return LayerEntry(
        name=name,
        version=version,
        digest=measure(tree),
        kind=LayerKind.TREE,
        target=target,
        frequency="daily",
    )


def test_only_what_changed_is_fetched_and_all_of_it_is_measured(
    site: UpdateSite, slots: Slots, tmp_path: Path
) -> None:
    """One layer is copied, one fetched, a new one unpacked; the slot is sealed with all three."""
    kernel = add_file(site, "kernel", "1", KERNEL)
    app = add_file(site, "app", "2", b"app of the second release")
    pages = add_tree(site, tmp_path, "pages", "2")
    manifest = publish(site, "2", kernel, app, pages)
    seen: list[Progress] = []
    stage(site.device(), slots, manifest, on_progress=seen.append)
    new = slots.inactive
    assert slots.path(new, "kernel").read_bytes() == KERNEL
    assert slots.path(new, "app").read_bytes() == b"app of the second release"
    assert measure(slots.path(new, "pages")) == pages.digest
    sealed = slots.release(new)
    assert sealed is not None
    assert msgspec.json.decode(sealed, type=Release) == manifest.release()
    fetched = [path for path in site.repository.asked if "layers/" in path]
    assert not any("kernel" in path for path in fetched)
    names = {path.name for path in slots.path(new, "kernel").parent.iterdir()}
    assert names == {"kernel", "app", "pages", "release.json"}
    assert {progress.layer for progress in seen} == {"kernel", "app", "pages"}
    assert all(progress.done <= progress.total for progress in seen)


def test_a_file_keeps_the_mode_that_it_had(site: UpdateSite, slots: Slots) -> None:
    """The digest of a file says nothing of its mode, and a program must stay one."""
    manifest = publish(
        site, "2", add_file(site, "kernel", "1", KERNEL), add_file(site, "app", "2", b"new")
    )
    stage(site.device(), slots, manifest)
    assert slots.path(slots.inactive, "app").stat().st_mode & 0o777 == 0o755


def test_a_wrong_tree_that_is_ordered_again_and_again_is_fetched_once(
    site: UpdateSite, slots: Slots, tmp_path: Path
) -> None:
    """A careless vendor costs no bandwidth at each try."""
    pages = add_tree(site, tmp_path, "pages", "2")
    manifest = publish(site, "2", msgspec.structs.replace(pages, digest=bytes(32)))
    for _ in range(3):
        with pytest.raises(StagedLayerError):
            stage(site.device(), slots, manifest)
    assert len([path for path in site.repository.asked if "pages" in path]) == 1
    assert not slots.path(slots.inactive, "pages").exists()


def test_a_layer_that_is_not_what_its_manifest_says_seals_no_slot(
    site: UpdateSite, slots: Slots, tmp_path: Path
) -> None:
    """A tree came as it was signed, but is another than the manifest's digest."""
    pages = add_tree(site, tmp_path, "pages", "2")
    wrong = msgspec.structs.replace(pages, digest=bytes(32))
    manifest = publish(site, "2", wrong)
    with pytest.raises(StagedLayerError) as caught:
        stage(site.device(), slots, manifest)
    assert caught.value.code == "update:stage:layer"
    with pytest.raises(SlotUnsealedError):
        slots.switch()


def test_a_file_that_is_listed_as_another_one_is_not_fetched(
    site: UpdateSite, slots: Slots
) -> None:
    """Manifest and list of targets must agree on a file's digest."""
    app = add_file(site, "app", "2", b"app of the second release")
    manifest = publish(site, "2", msgspec.structs.replace(app, digest=bytes(32)))
    with pytest.raises(TargetDigestError):
        stage(site.device(), slots, manifest)


def test_a_changed_current_layer_is_fetched_instead_of_copied(
    site: UpdateSite, slots: Slots
) -> None:
    """What the device runs is no source for a release once it is damaged."""
    slots.path(slots.current, "kernel").write_bytes(b"damaged")
    manifest = publish(site, "2", add_file(site, "kernel", "1", KERNEL))
    stage(site.device(), slots, manifest)
    assert slots.path(slots.inactive, "kernel").read_bytes() == KERNEL


def test_a_changed_current_tree_is_fetched_instead_of_copied(
    site: UpdateSite, slots: Slots, tmp_path: Path
) -> None:
    """Nothing of the copy stays below what is unpacked."""
    pages = add_tree(site, tmp_path, "pages", "2")
    stage(site.device(), slots, publish(site, "2", pages))
    slots.switch()
    (slots.path(slots.current, "pages") / "more").write_text("more")
    extra = add_file(site, "extra", "3", b"extra")
    stage(site.device(), slots, publish(site, "3", pages, extra))
    assert measure(slots.path(slots.inactive, "pages")) == pages.digest


@pytest.mark.parametrize("content", [None, b"no release"], ids=["missing", "not one"])
def test_without_a_release_to_read_no_current_layer_is_copied(
    site: UpdateSite, slots: Slots, content: bytes | None
) -> None:
    """All of it is fetched: a damaged slot does not keep a device from its repair."""
    release = slots.path(slots.current, "kernel").with_name("release.json")
    release.unlink()
    if content is not None:
        release.write_bytes(content)
    manifest = publish(site, "2", add_file(site, "kernel", "1", KERNEL))
    stage(site.device(), slots, manifest)
    assert slots.path(slots.inactive, "kernel").read_bytes() == KERNEL
    assert any("kernel" in path for path in site.repository.asked if "layers/" in path)


def test_a_missing_current_layer_is_fetched(site: UpdateSite, slots: Slots) -> None:
    """So is one that is not there any more."""
    slots.path(slots.current, "kernel").unlink()
    manifest = publish(site, "2", add_file(site, "kernel", "1", KERNEL))
    stage(site.device(), slots, manifest)
    assert slots.path(slots.inactive, "kernel").read_bytes() == KERNEL


class SwitchedOffError(Exception):
    """The device was switched off."""


def test_an_interrupted_staging_goes_on_where_it_was(site: UpdateSite, slots: Slots) -> None:
    """What has come is kept; the rest is asked for by range."""
    big = bytes(range(256)) * 8192
    manifest = publish(
        site, "2", add_file(site, "app", "2", b"new app"), add_file(site, "kernel", "2", big)
    )

    def interrupt(progress: Progress) -> None:
        if progress.layer == "kernel" and progress.done > len(big) // 2:
            raise SwitchedOffError

    with pytest.raises(SwitchedOffError):
        stage(site.device(), slots, manifest, on_progress=interrupt)
    with pytest.raises(SlotUnsealedError):
        slots.switch()
    site.repository.asked.clear()
    first: list[Progress] = []
    stage(site.device(), slots, manifest, on_progress=first.append)
    begun = [progress.done for progress in first if progress.layer == "kernel"]
    assert begun[0] > len(big) // 2
    assert not any("app" in path for path in site.repository.asked if "layers/" in path)
    assert slots.path(slots.inactive, "kernel").read_bytes() == big


def test_what_is_left_of_another_release_is_not_taken(site: UpdateSite, slots: Slots) -> None:
    """Another manifest begins with an empty slot."""
    second = publish(
        site, "2", add_file(site, "app", "2", b"two"), add_file(site, "extra", "2", b"more")
    )

    def interrupt(progress: Progress) -> None:
        if progress.layer == "extra":
            raise SwitchedOffError

    with pytest.raises(SwitchedOffError):
        stage(site.device(), slots, second, on_progress=interrupt)
    third = publish(site, "3", add_file(site, "app", "3", b"three"))
    stage(site.device(), slots, third)
    place = slots.path(slots.inactive, "app").parent
    assert {path.name for path in place.iterdir()} == {"app", "release.json"}


def test_a_release_that_is_staged_already_takes_no_download(site: UpdateSite, slots: Slots) -> None:
    """It is measured, and that is all."""
    manifest = publish(site, "2", add_file(site, "app", "2", b"new"))
    stage(site.device(), slots, manifest)
    site.repository.asked.clear()
    stage(site.device(), slots, manifest)
    assert site.repository.asked == []


def test_a_staged_release_of_the_same_layers_is_not_taken_for_another(
    site: UpdateSite, slots: Slots
) -> None:
    """The slot is sealed by what is to come up from it, whose name the device claims."""
    app = add_file(site, "app", "2", b"new")
    stage(site.device(), slots, publish(site, "2", app))
    manifest = publish(site, "3", app)
    stage(site.device(), slots, manifest)
    sealed = slots.release(slots.inactive)
    assert sealed is not None
    assert msgspec.json.decode(sealed, type=Release) == manifest.release()


def test_a_staged_release_that_was_changed_is_made_anew(site: UpdateSite, slots: Slots) -> None:
    """A sealed slot is not believed for its seal."""
    manifest = publish(site, "2", add_file(site, "app", "2", b"new"))
    stage(site.device(), slots, manifest)
    slots.path(slots.inactive, "app").write_bytes(b"old")
    stage(site.device(), slots, manifest)
    assert slots.path(slots.inactive, "app").read_bytes() == b"new"


def test_a_repository_that_goes_away_leaves_the_device_as_it_was(
    site: UpdateSite, slots: Slots
) -> None:
    """Backend gone in the midst of an update: a typed error, and the slot in use untouched."""
    manifest = publish(site, "2", add_file(site, "app", "2", b"new"))
    client = site.device()
    client.refresh()
    site.server.__exit__()
    before = slots.current
    with pytest.raises(UpdateUnreachableError) as caught:
        stage(client, slots, manifest)
    assert caught.value.code == "update:channel:unreachable"
    assert slots.current == before
    assert slots.path(before, "app").read_bytes() == APP
