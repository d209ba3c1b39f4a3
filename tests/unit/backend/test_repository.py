"""The repository of releases: the ceremony, publishing and revoking, and who signs what."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    Signature,
    TargetFile,
    Targets,
)

from hwtrust.errors import (
    ForbiddenError,
    ReleaseConflictError,
    ReleaseMissingError,
    RepositoryBundleError,
    RepositoryConflictError,
    RepositoryExpiredError,
    RepositoryMetadataError,
    RepositoryMissingError,
    RepositoryResignError,
    RepositorySignatureError,
    RepositoryTargetUnknownError,
    RepositoryVersionError,
)
from hwtrust_backend.admin import Principal, Role, local_administrator
from hwtrust_backend.admin import repository as admin
from hwtrust_backend.admin.releases import releases
from hwtrust_backend.audit import Event
from hwtrust_backend.config.clock import SECOND
from hwtrust_backend.repository import (
    Blob,
    Blobs,
    TufMetadata,
    TufRole,
    due_roles,
    metadata_named,
    newest,
    published_releases,
    role_reports,
    target_named,
)
from hwtrust_backend.repository.bundle import take_bundle
from hwtrust_backend.repository.offline import sign_proposal
from hwtrust_backend.repository.publishing import (
    Signing,
    propose_publication,
    propose_revocation,
)
from hwtrust_backend.repository.roots import RootChange
from hwtrust_backend.repository.signers import online_signer
from hwtrust_backend.testing import DAY, HOUR
from simulators.release_bundle import Holder, make_bundle
from simulators.vendor import BOTH, KERNEL, YEAR, Vendor, signed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from hwtrust_backend.app.backend import Backend


def edited(content: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    """Metadata whose signed part somebody has changed."""
    document = json.loads(content)
    change(document["signed"])
    return json.dumps(document).encode()


# --- the ceremony ------------------------------------------------------------------


def test_the_first_root_is_in_force_when_enough_holders_have_signed_it(vendor: Vendor) -> None:
    """Version 1, its keys and thresholds as proposed, and a record with the actor's name."""
    assert vendor.publish_root(signed(vendor.first(), vendor.root[:2])) == 1
    root = vendor.root_in_force()
    assert root.roles["root"].threshold == 2
    assert set(root.roles["root"].keyids) == {holder.public.keyid for holder in vendor.root}
    assert root.roles["targets"].keyids == [vendor.targets.public.keyid]
    assert root.consistent_snapshot
    [(actor, _)] = vendor.records(Event.REPOSITORY_ROOT_PUBLISHED)
    assert actor == local_administrator().name


def test_a_root_is_refused_below_its_threshold(vendor: Vendor) -> None:
    """One of two is not enough; nothing is published and nothing recorded."""
    with pytest.raises(RepositorySignatureError) as caught:
        vendor.publish_root(signed(vendor.first(), vendor.root[:1]))
    assert caught.value.code == "repository:signature"
    assert vendor.version(TufRole.ROOT) == 0
    assert not vendor.records(Event.REPOSITORY_ROOT_PUBLISHED)


def test_a_key_does_not_count_for_a_role_that_it_does_not_have(vendor: Vendor) -> None:
    """The targets key and a stranger's sign no root."""
    with pytest.raises(RepositorySignatureError):
        vendor.publish_root(signed(vendor.first(), [vendor.root[0], vendor.targets, Holder.new()]))


def test_one_key_under_two_ids_does_not_count_twice(vendor: Vendor) -> None:
    """A root whose key stands there again under another id is refused."""
    holder = vendor.root[0]

    def double(root: dict[str, Any]) -> None:
        root["keys"]["ab" * 32] = root["keys"][holder.public.keyid]
        root["roles"]["root"]["keyids"].append("ab" * 32)

    content = json.loads(signed(edited(vendor.first(), double), [holder]))
    content["signatures"].append({**content["signatures"][0], "keyid": "ab" * 32})
    with pytest.raises(RepositoryMetadataError) as caught:
        vendor.publish_root(json.dumps(content).encode())
    assert caught.value.code == "repository:metadata"


def _other_online_key(root: dict[str, Any]) -> None:
    other = Holder.with_p256().public
    root["keys"][other.keyid] = other.to_dict()
    for role in ("snapshot", "timestamp"):
        root["roles"][role]["keyids"] = [other.keyid]


def _second_online_key(root: dict[str, Any]) -> None:
    other = Holder.with_p256().public
    root["keys"][other.keyid] = other.to_dict()
    for role in ("snapshot", "timestamp"):
        root["roles"][role]["keyids"].append(other.keyid)


BAD_ROOTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "no consistent snapshots": lambda root: root.update(consistent_snapshot=False),
    "more signatures wanted than there are keys": lambda root: root["roles"]["targets"].update(
        threshold=2
    ),
    "a root key that signs targets too": lambda root: root["roles"]["targets"]["keyids"].append(
        root["roles"]["root"]["keyids"][0]
    ),
    "an online key that signs targets too": lambda root: root["roles"]["targets"]["keyids"].append(
        root["roles"]["timestamp"]["keyids"][0]
    ),
    "two keys for the timestamp": lambda root: root["roles"]["timestamp"]["keyids"].append(
        root["roles"]["root"]["keyids"][0]
    ),
    "a key that is named and not there": lambda root: root["roles"]["root"]["keyids"].append(
        "cd" * 32
    ),
    "an online key that is not this backend's": _other_online_key,
    "two online keys": _second_online_key,
    "a key that signs in another way": lambda root: root["keys"][
        root["roles"]["timestamp"]["keyids"][0]
    ].update(scheme="ecdsa-sha2-nistp384"),
}


@pytest.mark.parametrize("case", BAD_ROOTS)
def test_a_root_of_another_form_is_refused_however_well_it_is_signed(
    vendor: Vendor, case: str
) -> None:
    """The form of a root is checked, and not only who signed it."""
    with pytest.raises(RepositoryMetadataError) as caught:
        vendor.publish_root(signed(edited(vendor.first(), BAD_ROOTS[case]), vendor.root))
    assert caught.value.code == "repository:metadata"
    assert vendor.version(TufRole.ROOT) == 0


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[" * 60_000, b"\xff", b'{"signed": {}, "signatures": []}']
)
def test_what_is_no_root_is_a_typed_error(vendor: Vendor, content: bytes) -> None:
    """No low-level exception comes out of the parser."""
    with pytest.raises(RepositoryMetadataError):
        vendor.publish_root(content)


def test_a_root_that_devices_would_not_read_is_not_proposed(ready: Vendor) -> None:
    """They go from one root to the next: one that is too long for them would be their last."""
    many = [Holder.with_p256().public for _ in range(200)]
    with pytest.raises(RepositoryMetadataError):
        ready.propose(RootChange(targets_keys=many))


def test_an_expired_root_is_not_published(vendor: Vendor) -> None:
    """A proposal that lay about for too long is refused."""
    content = signed(vendor.first(), vendor.root)
    vendor.backend.clock.advance(YEAR + DAY)  # type: ignore[attr-defined]
    with pytest.raises(RepositoryExpiredError) as caught:
        vendor.publish_root(content)
    assert caught.value.code == "repository:expired"


def test_a_new_root_needs_the_old_roots_holders(ready: Vendor) -> None:
    """New holders alone cannot take the repository over."""
    usurpers = [Holder.new(), Holder.new()]
    change = RootChange(root_keys=[holder.public for holder in usurpers])
    proposal = ready.propose(change)
    with pytest.raises(RepositorySignatureError):
        ready.publish_root(signed(proposal, usurpers))
    assert ready.version(TufRole.ROOT) == 1
    ready.publish_root(signed(proposal, [*usurpers, *ready.root[1:]]))
    assert ready.version(TufRole.ROOT) == 2


def test_a_new_root_needs_its_own_holders(ready: Vendor) -> None:
    """Keys that nobody holds are not put into force."""
    change = RootChange(root_keys=[Holder.new().public, Holder.new().public])
    with pytest.raises(RepositorySignatureError):
        ready.publish_root(signed(ready.propose(change), ready.root))


@pytest.mark.parametrize("version", [1, 3])
def test_roots_follow_each_other_without_a_gap(ready: Vendor, version: int) -> None:
    """Devices go from one root to the next: none is repeated or left out."""
    proposal = edited(ready.propose(RootChange()), lambda root: root.update(version=version))
    with pytest.raises(RepositoryVersionError) as caught:
        ready.publish_root(signed(proposal, ready.root))
    assert caught.value.code == "repository:version"


def test_publishing_a_root_twice_is_publishing_it_once(ready: Vendor) -> None:
    """Who was interrupted gives the same command again."""
    content = signed(ready.propose(RootChange()), ready.root)
    assert ready.publish_root(content) == ready.publish_root(content) == 2
    assert len(ready.records(Event.REPOSITORY_ROOT_PUBLISHED)) == 2


def test_a_new_online_key_signs_from_the_root_that_names_it(ready: Vendor) -> None:
    """What the old key has signed is replaced in the same transaction."""
    ready.publish("1.1", KERNEL)
    before = ready.version(TufRole.TIMESTAMP)
    proposal = ready.propose(RootChange(new_online_key=True))
    old = ready.root_in_force().roles["timestamp"].keyids
    ready.publish_root(signed(proposal, ready.root))
    new = ready.root_in_force().roles["timestamp"].keyids
    assert new == [online_signer(ready.backend.vault, 2).public_key.keyid] != old
    assert ready.version(TufRole.TIMESTAMP) > before
    content = ready.read(lambda session: metadata_named(session, "timestamp.json"))
    assert list(Metadata.from_bytes(content).signatures) == new
    # The next root goes on from there.
    ready.publish_root(signed(ready.propose(RootChange()), ready.root))
    assert ready.root_in_force().roles["snapshot"].keyids == new


def test_the_last_online_key_does_not_come_back(ready: Vendor) -> None:
    """Whoever had it was locked out by the root that left it."""
    last = online_signer(ready.backend.vault, 0).public_key
    ready.publish_root(signed(ready.propose(RootChange(new_online_key=True)), ready.root[:2]))

    def back(root: dict[str, Any]) -> None:
        root["keys"][last.keyid] = last.to_dict()
        for role in ("snapshot", "timestamp"):
            root["roles"][role]["keyids"] = [last.keyid]

    with pytest.raises(RepositoryMetadataError):
        ready.publish_root(signed(edited(ready.propose(RootChange()), back), ready.root[:2]))


def test_a_new_targets_key_signs_what_is_published_before_the_root_counts(ready: Vendor) -> None:
    """No moment in which devices find targets that nobody vouches for."""
    ready.publish("1.1", KERNEL)
    before, new = ready.version(TufRole.TARGETS), Holder.new()
    content = signed(ready.propose(RootChange(targets_keys=[new.public])), ready.root)
    with pytest.raises(RepositoryResignError) as caught:
        ready.publish_root(content)
    assert caught.value.code == "repository:targets:unsigned"
    assert ready.version(TufRole.ROOT) == 1
    with pytest.raises(RepositorySignatureError):
        ready.publish_root(content, ready.targets)
    ready.publish_root(content, new)
    assert ready.version(TufRole.TARGETS) > before
    row = ready.read(lambda session: newest(session, TufRole.TARGETS))
    assert list(Metadata.from_bytes(row.content).signatures) == [new.public.keyid]
    version = ready.version(TufRole.TARGETS)
    assert (local_administrator().name, f"version {version}, for root 2") in ready.records(
        Event.TARGETS_SIGNED
    )
    with pytest.raises(RepositorySignatureError):
        ready.publish("1.2", {"kernel": ("6.2", b"another kernel")})
    ready.targets = new
    ready.publish("1.2", {"kernel": ("6.2", b"another kernel")})


def test_online_keys_are_the_same_again_and_differ_by_number(backend: Backend) -> None:
    """Replicas with one vault sign with one key."""
    first, again, second = (online_signer(backend.vault, number) for number in (1, 1, 2))
    assert first.public_key == again.public_key != second.public_key


# --- publishing --------------------------------------------------------------------


def test_a_published_release_is_listed_served_and_known_as_a_reference(ready: Vendor) -> None:
    """Manifest and layers are targets; devices may run it once it is accepted."""
    ready.publish("1.1", BOTH)
    assert ready.listed() == {"releases/1.1.json", "layers/kernel/6.1", "layers/www/2"}
    [report] = [
        row
        for row in ready.read(lambda session: releases(session, by=local_administrator()))
        if row.name == "1.1"
    ]
    assert (report.state, report.published) == ("added", True)
    assert ready.records(Event.RELEASE_PUBLISHED) == [(local_administrator().name, "1.1")]
    assert (local_administrator().name, "1.1") in ready.records(Event.RELEASE_ADDED)


def test_a_release_is_accepted_only_when_that_is_said(ready: Vendor) -> None:
    """Publishing alone changes nothing for devices that run something else."""
    ready.publish("1.1", KERNEL, accept=True)
    [report] = [
        row
        for row in ready.read(lambda session: releases(session, by=local_administrator()))
        if row.name == "1.1"
    ]
    assert (report.state, report.current) == ("accepted", True)


def test_publishing_the_same_again_changes_nothing(ready: Vendor) -> None:
    """Who was interrupted gives the same command again."""
    ready.publish("1.1", KERNEL)
    before = ready.version(TufRole.TARGETS), ready.version(TufRole.TIMESTAMP)
    ready.publish("1.1", KERNEL)
    assert (ready.version(TufRole.TARGETS), ready.version(TufRole.TIMESTAMP)) == before
    assert len(ready.records(Event.RELEASE_PUBLISHED)) == 1


def test_nothing_is_published_before_the_ceremony(vendor: Vendor) -> None:
    """Without a root nobody may sign targets."""
    with pytest.raises(RepositoryMissingError) as caught:
        vendor.publish("1.1", KERNEL)
    assert caught.value.code == "repository:missing"
    bundle = take_bundle(vendor.bundle("1.2", BOTH), vendor.blobs)
    with pytest.raises(RepositoryMissingError):
        vendor.read(
            lambda session: propose_publication(session, bundle, online=vendor.online, now=0)
        )


@pytest.mark.parametrize("who", ["nobody", "a stranger", "a root key"])
def test_a_release_is_refused_without_the_targets_key(ready: Vendor, who: str) -> None:
    """Nothing of a refused release stays but its files, which nobody is served."""
    signers = {"nobody": [], "a stranger": [Holder.new()], "a root key": ready.root[:1]}[who]
    with pytest.raises(RepositorySignatureError):
        ready.publish("1.1", KERNEL, signers=[holder.signer for holder in signers])
    assert ready.version(TufRole.TARGETS) == 0
    assert not ready.read(published_releases)
    assert not ready.records(Event.RELEASE_PUBLISHED)
    assert not [row for row in ready.records(Event.RELEASE_ADDED) if row[1] == "1.1"]


def test_a_published_path_never_gets_other_content(ready: Vendor) -> None:
    """A layer of one name and version is one file; so is a release."""
    ready.publish("1.1", KERNEL)
    with pytest.raises(RepositoryConflictError) as caught:
        ready.publish("1.2", {"kernel": ("6.1", b"a worse kernel")})
    assert caught.value.code == "repository:target:conflict"
    with pytest.raises(RepositoryConflictError):
        ready.publish("1.1", BOTH)
    assert ready.listed() == {"releases/1.1.json", "layers/kernel/6.1"}


def test_a_release_that_contradicts_the_references_is_not_published(ready: Vendor) -> None:
    """Targets, records and references are one transaction."""
    ready.publish("1.1", KERNEL)
    ready.revoke("1.1")
    with pytest.raises(ReleaseConflictError):
        ready.publish("1.1", BOTH)
    assert ready.listed() == set()


def test_a_viewer_publishes_nothing(ready: Vendor) -> None:
    """The key alone is not enough on this side."""
    viewer = Principal(name="token:look", role=Role.VIEWER, groups=None)
    with pytest.raises(ForbiddenError):
        ready.publish("1.1", KERNEL, by=viewer)


def _link(bundle: Path) -> None:
    layer = bundle / "layers/kernel/6.1"
    layer.rename(bundle / "elsewhere")
    layer.symlink_to(bundle / "elsewhere")


def _folder_link(bundle: Path) -> None:
    (bundle / "layers/kernel").rename(bundle / "elsewhere")
    (bundle / "layers/kernel").symlink_to(bundle / "elsewhere")


def _manifest_link(bundle: Path) -> None:
    manifest = bundle / "releases/1.1.json"
    manifest.rename(bundle / "elsewhere")
    manifest.symlink_to(bundle / "elsewhere")


def _pipe(bundle: Path) -> None:
    (bundle / "releases/1.1.json").unlink()
    os.mkfifo(bundle / "releases/1.1.json")


def _endless(bundle: Path) -> None:
    os.truncate(bundle / "releases/1.1.json", 1 << 40)


def _directory(bundle: Path) -> None:
    layer = bundle / "layers/kernel/6.1"
    layer.unlink()
    layer.mkdir()


BROKEN: dict[str, Callable[[Path], object]] = {
    "a layer is missing": lambda bundle: (bundle / "layers/kernel/6.1").unlink(),
    "a layer is another file": lambda bundle: (bundle / "layers/kernel/6.1").write_bytes(b"x"),
    "a layer is a link": _link,
    "a folder is a link": _folder_link,
    "the manifest is a link": _manifest_link,
    "the manifest is a pipe": _pipe,
    "the manifest is longer than the memory": _endless,
    "a layer is a directory": _directory,
    "there is no manifest": lambda bundle: (bundle / "releases/1.1.json").unlink(),
    "there are two manifests": lambda bundle: (bundle / "releases/1.2.json").write_bytes(b"{}"),
    "the manifest is none": lambda bundle: (bundle / "releases/1.1.json").write_bytes(b"{}"),
    "the manifest is another release's": lambda bundle: (bundle / "releases/1.1.json").rename(
        bundle / "releases/1.2.json"
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_bundle_is_refused(tmp_path: Path, case: str) -> None:
    """Before anything is signed."""
    bundle = make_bundle(tmp_path / "bundle", "1.1", KERNEL)
    BROKEN[case](bundle)
    with pytest.raises(RepositoryBundleError) as caught:
        take_bundle(bundle, Blobs(tmp_path / "targets"))
    assert caught.value.code == "repository:bundle"


def test_the_manifest_that_was_read_is_the_one_that_is_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What devices are appraised against is what they get."""
    bundle, add = make_bundle(tmp_path / "bundle", "1.1", KERNEL), Blobs.add
    manifest = bundle / "releases/1.1.json"

    def late(self: Blobs, folder: Path, name: str) -> Blob:
        manifest.write_bytes(manifest.read_bytes() + b" ")
        return add(self, folder, name)

    monkeypatch.setattr(Blobs, "add", late)
    with pytest.raises(RepositoryBundleError):
        take_bundle(bundle, Blobs(tmp_path / "targets"))


def test_a_file_that_is_gone_is_not_listed(ready: Vendor) -> None:
    """What devices would not find is not promised to them."""
    bundle = take_bundle(ready.bundle("1.1", KERNEL), ready.blobs)
    ready.blobs.path(bundle.targets["layers/kernel/6.1"].sha256).unlink()
    with (
        pytest.raises(RepositoryBundleError),
        ready.backend.database.transaction() as session,
    ):
        admin.publish_release(
            session,
            bundle,
            blobs=ready.blobs,
            online=ready.online,
            signing=Signing([ready.targets.signer]),
            accept=False,
            by=local_administrator(),
            now=ready.backend.clock(),
        )


def test_publishing_again_mends_a_file_that_was_spoilt(ready: Vendor) -> None:
    """A disk that has lost bytes is mended from the bundle."""
    ready.publish("1.1", KERNEL)
    sha256 = take_bundle(ready.bundle("1.1", KERNEL), ready.blobs).targets["layers/kernel/6.1"]
    ready.blobs.path(sha256.sha256).write_bytes(b"spoilt")
    ready.publish("1.1", KERNEL)
    assert ready.blobs.path(sha256.sha256).read_bytes() == b"a kernel"


def test_two_who_publish_at_once_both_succeed(ready: Vendor) -> None:
    """Each list has what the one before it had."""

    def publish(number: int) -> None:
        ready.publish(f"2.{number}", {"kernel": (f"7.{number}", bytes([number]))})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(publish, range(4)))
    assert ready.listed() == {
        path for n in range(4) for path in (f"releases/2.{n}.json", f"layers/kernel/7.{n}")
    }


@pytest.mark.parametrize("step", range(1, 8))
def test_publishing_that_ends_anywhere_has_published_all_or_nothing(
    ready: Vendor, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at any statement that changes something: devices see the old list, whole."""
    ready.publish("1.1", KERNEL)
    before = {role: ready.version(role) for role in TufRole}
    flushes, flush = iter(range(1, 100)), Session.flush

    def dying(self: Session, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - as the original
        if (self.dirty or self.new) and next(flushes) == step:
            raise KeyboardInterrupt
        flush(self, *args, **kwargs)

    monkeypatch.setattr(Session, "flush", dying)
    try:
        ready.publish("1.2", {"kernel": ("6.2", b"another kernel")}, accept=True)
    except KeyboardInterrupt:
        monkeypatch.setattr(Session, "flush", flush)
        assert {role: ready.version(role) for role in TufRole} == before
        assert "releases/1.2.json" not in ready.listed()
        assert len(ready.records(Event.RELEASE_PUBLISHED)) == 1
        ready.publish("1.2", {"kernel": ("6.2", b"another kernel")}, accept=True)
    assert "releases/1.2.json" in ready.listed()


# --- revoking ----------------------------------------------------------------------


def test_revoking_takes_away_what_no_other_release_needs(ready: Vendor) -> None:
    """A layer that two releases share stays; the revoked one is refused as a reference."""
    ready.publish("1.1", KERNEL, accept=True)
    ready.publish("1.2", BOTH)
    ready.revoke("1.2")
    assert ready.listed() == {"releases/1.1.json", "layers/kernel/6.1"}
    states = {
        row.name: (row.state, row.published)
        for row in ready.read(lambda session: releases(session, by=local_administrator()))
    }
    assert states["1.1"] == ("accepted", True)
    assert states["1.2"] == ("retired", False)
    assert ready.records(Event.RELEASE_REVOKED) == [(local_administrator().name, "1.2")]


def test_a_revoked_release_is_not_served_any_more(ready: Vendor) -> None:
    """Neither its manifest nor its layers."""
    ready.publish("1.1", KERNEL)
    sha256 = take_bundle(ready.bundle("1.1", KERNEL), ready.blobs).targets["layers/kernel/6.1"]
    path = f"layers/kernel/{sha256.sha256}.6.1"
    assert ready.read(lambda session: target_named(session, path)).length == len(b"a kernel")
    ready.revoke("1.1")
    with pytest.raises(RepositoryTargetUnknownError) as caught:
        ready.read(lambda session: target_named(session, path))
    assert caught.value.code == "repository:target:unknown"


def test_revoking_needs_the_targets_key_too(ready: Vendor) -> None:
    """Who has the backend alone cannot take a release away."""
    ready.publish("1.1", KERNEL)
    with pytest.raises(RepositorySignatureError):
        ready.revoke("1.1", signers=[Holder.new().signer])
    assert "releases/1.1.json" in ready.listed()


@pytest.mark.parametrize("name", ["never", "1.1"])
def test_what_is_not_published_is_not_revoked(ready: Vendor, name: str) -> None:
    """Neither what never was nor what is revoked already."""
    ready.publish("1.1", KERNEL)
    ready.revoke("1.1")
    with pytest.raises(ReleaseMissingError):
        ready.revoke(name)


def test_a_revoked_release_can_be_published_again(ready: Vendor) -> None:
    """A mistake can be taken back; the reference has to be accepted again."""
    ready.publish("1.1", KERNEL, accept=True)
    ready.revoke("1.1")
    ready.publish("1.1", KERNEL, accept=True)
    assert "releases/1.1.json" in ready.listed()


# --- signed elsewhere ----------------------------------------------------------------


def test_a_list_that_was_signed_elsewhere_is_published(ready: Vendor) -> None:
    """The targets key never comes to the backend's machine."""
    bundle = take_bundle(ready.bundle("1.1", KERNEL), ready.blobs)
    proposal = ready.read(
        lambda session: propose_publication(
            session, bundle, online=ready.online, now=ready.backend.clock()
        )
    )
    ready.publish("1.1", KERNEL, signed=signed(proposal, [ready.targets]))
    assert "releases/1.1.json" in ready.listed()
    withdrawal = ready.read(
        lambda session: propose_revocation(
            session, "1.1", online=ready.online, now=ready.backend.clock() + HOUR
        )
    )
    ready.revoke("1.1", signed=signed(withdrawal, [ready.targets]))
    assert ready.listed() == set()


def test_a_signed_list_counts_only_for_what_it_was_proposed_for(ready: Vendor) -> None:
    """A list that somebody else was faster than, or that lists more, is refused."""
    bundle = take_bundle(ready.bundle("1.1", KERNEL), ready.blobs)
    proposal = ready.read(
        lambda session: propose_publication(
            session, bundle, online=ready.online, now=ready.backend.clock()
        )
    )
    ready.publish("2.0", {"www": ("1", b"pages")})
    with pytest.raises(RepositoryVersionError):
        ready.publish("1.1", KERNEL, signed=signed(proposal, [ready.targets]))
    fresh = ready.read(
        lambda session: propose_publication(
            session, bundle, online=ready.online, now=ready.backend.clock() + HOUR
        )
    )
    more = edited(fresh, lambda targets: targets["targets"].pop("layers/www/1"))
    with pytest.raises(RepositoryVersionError):
        ready.publish("1.1", KERNEL, signed=signed(more, [ready.targets]))
    again = edited(fresh, lambda list_: list_.update(version=ready.version(TufRole.TARGETS)))
    with pytest.raises(RepositoryVersionError):
        ready.publish("1.1", KERNEL, signed=signed(again, [ready.targets]))
    leave = Metadata[Targets].from_bytes(fresh)
    _delegated(leave.signed)
    with pytest.raises(RepositoryVersionError):
        ready.publish("1.1", KERNEL, signed=signed(leave.to_bytes(), [ready.targets]))
    with pytest.raises(RepositorySignatureError):
        ready.publish("1.1", KERNEL, signed=fresh)
    lifetime = ready.backend.settings.targets_lifetime_ms
    ready.backend.clock.advance(lifetime + DAY)  # type: ignore[attr-defined]
    with pytest.raises(RepositoryExpiredError):
        ready.publish("1.1", KERNEL, signed=signed(fresh, [ready.targets]))


def _delegated(targets: Targets) -> None:
    other = Holder.new().public
    role = DelegatedRole("other", [other.keyid], 1, terminating=True, paths=["*"])
    targets.delegations = Delegations({other.keyid: other}, {"other": role})


def _listing(path: str, sha256: str) -> Callable[[Targets], None]:
    def change(targets: Targets) -> None:
        targets.targets[path] = TargetFile(1, {"sha256": sha256}, path)

    return change


UNTOLD: dict[str, Callable[[Targets], None]] = {
    "leave for other keys": _delegated,
    "a path that moves the cursor": _listing("layers/kernel/6.2\x1b[2K\r", "0" * 64),
    "a path that looks like two": _listing("layers/kernel/6.2 1 00", "0" * 64),
    "a path of no release": _listing("other/6.2", "0" * 64),
    "a digest that is none": _listing("layers/kernel/6.2", "\x1b[2K"),
}


@pytest.mark.parametrize("case", UNTOLD)
def test_what_is_not_shown_is_not_signed(ready: Vendor, case: str) -> None:
    """Who signs a list sees all that the signature says, whoever made the list."""
    bundle = take_bundle(ready.bundle("1.1", KERNEL), ready.blobs)
    proposal = Metadata[Targets].from_bytes(
        ready.read(
            lambda session: propose_publication(
                session, bundle, online=ready.online, now=ready.backend.clock()
            )
        )
    )
    assert sign_proposal(proposal.to_bytes(), [ready.targets.signer])[1].signed_by
    UNTOLD[case](proposal.signed)
    with pytest.raises(RepositoryMetadataError) as caught:
        sign_proposal(proposal.to_bytes(), [ready.targets.signer])
    assert caught.value.code == "repository:metadata"


def test_a_signature_is_shown_by_the_id_of_a_key_or_not_at_all(vendor: Vendor) -> None:
    """Nobody writes into the list of who has signed."""
    for proposal in (Metadata.from_bytes(vendor.first()), Metadata(Targets())):
        proposal.signatures["\x1b[2K"] = Signature("\x1b[2K", "00")
        with pytest.raises(RepositoryMetadataError):
            sign_proposal(proposal.to_bytes(), [vendor.root[0].signer])


def test_a_root_that_would_not_be_published_is_not_signed(vendor: Vendor) -> None:
    """What is shown of it would not be all that it says."""
    proposal = edited(vendor.first(), BAD_ROOTS["two online keys"])
    with pytest.raises(RepositoryMetadataError):
        sign_proposal(proposal, [vendor.root[0].signer])


def test_an_old_signed_list_is_not_published_again(ready: Vendor) -> None:
    """Replaying a list with the right content and an old version is refused."""
    ready.publish("1.1", KERNEL)
    old = ready.read(lambda session: newest(session, TufRole.TARGETS)).content
    ready.revoke("1.1")
    with pytest.raises(RepositoryVersionError) as caught:
        ready.publish("1.1", KERNEL, signed=old)
    assert caught.value.code == "repository:version"


# --- the online roles ----------------------------------------------------------------


def test_the_timestamp_is_signed_anew_at_half_of_its_life(ready: Vendor) -> None:
    """Not before, and the snapshot at half of its own."""
    ready.publish("1.1", KERNEL)
    stamp, snapshot = ready.version(TufRole.TIMESTAMP), ready.version(TufRole.SNAPSHOT)
    ready.backend.clock.advance(11 * HOUR)  # type: ignore[attr-defined]
    assert not ready.keep()
    ready.backend.clock.advance(HOUR)  # type: ignore[attr-defined]
    now = ready.backend.clock()
    assert ready.read(lambda session: due_roles(session, now=now)) == {TufRole.TIMESTAMP}
    assert ready.keep()
    assert ready.version(TufRole.TIMESTAMP) > stamp
    assert ready.version(TufRole.SNAPSHOT) == snapshot
    ready.backend.clock.advance(4 * DAY)  # type: ignore[attr-defined]
    assert ready.keep()
    assert ready.version(TufRole.SNAPSHOT) > snapshot


def test_what_a_clock_that_was_ahead_has_signed_is_signed_anew(ready: Vendor) -> None:
    """It would hold for longer than a timestamp may; its version goes on."""
    ready.publish("1.1", KERNEL)
    ready.backend.clock.advance(400 * DAY)  # type: ignore[attr-defined]
    assert ready.keep()
    ahead = ready.version(TufRole.TIMESTAMP)
    ready.backend.clock.advance(-400 * DAY)  # type: ignore[attr-defined]
    assert ready.keep()
    assert ready.version(TufRole.TIMESTAMP) == ahead + 1
    row = ready.read(lambda session: newest(session, TufRole.TIMESTAMP))
    lifetime = ready.backend.settings.timestamp_lifetime_ms
    assert row.expires_at <= ready.backend.clock() + lifetime
    assert not ready.keep()


def test_a_replica_whose_clock_is_a_little_behind_does_not_sign_again(ready: Vendor) -> None:
    """Clocks are never quite alike; only one that is far ahead is mended."""
    ready.publish("1.1", KERNEL)
    ready.backend.clock.advance(-2 * SECOND)  # type: ignore[attr-defined]
    assert not ready.keep()


def test_of_several_replicas_one_signs(ready: Vendor) -> None:
    """The others see that it is done."""
    ready.publish("1.1", KERNEL)
    ready.backend.clock.advance(13 * HOUR)  # type: ignore[attr-defined]
    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(lambda _: ready.keep(), range(4))) == [False, False, False, True]


def test_without_releases_there_is_nothing_to_sign(ready: Vendor) -> None:
    """A root alone has neither snapshot nor timestamp."""
    assert not ready.keep()
    assert [row.role for row in ready.read(role_reports)] == ["root"]


def test_old_metadata_goes_and_every_root_stays(ready: Vendor) -> None:
    """A device that slept for a year goes from root to root; the rest does not grow."""
    ready.publish("1.1", KERNEL)
    for _ in range(11):
        ready.publish_root(signed(ready.propose(RootChange()), ready.root))
    for _ in range(15):
        ready.backend.clock.advance(4 * DAY)  # type: ignore[attr-defined]
        ready.keep()

    def counts(session: Session) -> dict[str, int]:
        rows = session.scalars(select(TufMetadata)).all()
        return {role: sum(row.role is role for row in rows) for role in TufRole}

    assert ready.read(counts) == {"root": 12, "targets": 1, "snapshot": 10, "timestamp": 1}


def test_a_restored_database_signs_nothing_that_is_older(
    ready: Vendor, save_database: Callable[[], Callable[[], None]]
) -> None:
    """Versions follow the clock: devices do not take the next timestamp for a rollback."""
    ready.publish("1.1", KERNEL)
    restore = save_database()
    for _ in range(5):
        ready.backend.clock.advance(DAY)  # type: ignore[attr-defined]
        ready.keep()
    seen = ready.version(TufRole.TIMESTAMP), ready.version(TufRole.SNAPSHOT)
    ready.backend.database.close()
    restore()
    ready.backend.clock.advance(4 * DAY)  # type: ignore[attr-defined]
    ready.keep()
    assert ready.version(TufRole.TIMESTAMP) > seen[0]
    assert ready.version(TufRole.SNAPSHOT) > seen[1]
