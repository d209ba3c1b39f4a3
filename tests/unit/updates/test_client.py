"""What a device believes of a repository: signed, current, complete, and never older."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import DelegatedRole, Delegations, Metadata, Root, Targets

from hwtrust.errors import (
    ConfigError,
    HwTrustError,
    ManifestError,
    StateBusyError,
    StateDiskError,
    StatePermissionError,
    TargetMissingError,
    UpdateAnchorError,
    UpdateError,
    UpdateExpiredError,
    UpdateRollbackError,
    UpdateThresholdError,
)
from hwtrust.files import FileLock
from hwtrust.updates import metadata
from hwtrust.updates.client import ReleaseClient
from hwtrust.wire.release import MANIFEST_LIMIT, release_target
from simulators.tls_server import respond
from simulators.tuf_repository import (
    MemorySource,
    TufRepository,
    UpdateSite,
    asked_for,
    meta,
    signed,
)

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from hwtrust.updates.source import Source

# Far from the clock of any machine that runs this: only the clock that is given can be used.
NOW: Final = datetime(2041, 5, 1, tzinfo=UTC)
DAY: Final = timedelta(days=1)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[UpdateSite]:
    """A repository with one release, served."""
    with UpdateSite(tmp_path, NOW) as made:
        made.repository.add_release("2041.1", {"kernel": ("6.1", b"kernel"), "app": ("1", b"app")})
        made.repository.publish()
        yield made


# --- it works ----------------------------------------------------------------------


def test_a_device_sees_the_releases_and_what_is_in_them(site: UpdateSite) -> None:
    """Names in order, and the manifest as it was published."""
    second = site.repository.add_release("2041.2", {"kernel": ("6.2", b"kernel 2")})
    site.repository.publish()
    device = site.device()
    device.refresh()
    assert device.releases() == ("2041.1", "2041.2")
    assert device.manifest("2041.2") == second


def test_a_device_that_was_not_asked_to_refresh_does_so_itself(site: UpdateSite) -> None:
    """There is no way to see releases that are not checked."""
    assert site.device().releases() == ("2041.1",)


def test_the_client_of_a_backend_knows_where_its_repository_is(site: UpdateSite) -> None:
    """The address and the CA of the trust file are enough."""
    device = ReleaseClient.of_backend(
        site.server.url,
        tls_ca=site.pki.ca_pem,
        root=site.repository.trusted_root,
        state=site.directory / "device",
        now=lambda: NOW,
    )
    assert device.releases() == ("2041.1",)
    with pytest.raises(ConfigError):
        ReleaseClient.of_backend(
            "http://example.org",
            tls_ca=site.pki.ca_pem,
            root=b"",
            state=site.directory,
            now=device._now,
        )


def test_one_refresh_asks_only_for_what_is_new(site: UpdateSite) -> None:
    """What is remembered and still announced is not fetched again."""
    site.device().refresh()
    before = len(site.server.requests)
    site.device().refresh()
    asked = [asked_for(request).rpartition("/")[2] for request in site.server.requests[before:]]
    assert asked == ["2.root.json", "timestamp.json"]


def test_a_revoked_release_is_not_offered_any_more(site: UpdateSite) -> None:
    """It is gone from the list, and its manifest with it."""
    device = site.device()
    device.refresh()
    del site.repository.targets.targets[release_target("2041.1")]
    site.repository.publish()
    device.refresh()
    assert device.releases() == ()
    with pytest.raises(TargetMissingError) as caught:
        device.manifest("2041.1")
    assert caught.value.code == "update:target:missing"


def test_nothing_loads_the_tuf_stack_before_it_is_needed() -> None:
    """Whoever imports the client does not wait for python-tuf."""
    program = "import sys, hwtrust.updates.client as c; sys.exit('tuf' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# --- attacks -----------------------------------------------------------------------


def _older_timestamp(repository: TufRepository) -> None:
    repository.timestamp.version = 0
    repository.publish_timestamp()


def _older_snapshot(repository: TufRepository) -> None:
    repository.snapshot.version = 1
    repository.publish_timestamp()


def _older_targets(repository: TufRepository) -> None:
    repository.targets.version = 1
    repository.publish_snapshot()
    repository.publish_timestamp()


def _without_targets(repository: TufRepository) -> None:
    repository.snapshot.version += 1
    del repository.snapshot.meta["targets.json"]
    repository.files["3.snapshot.json"] = repository.sign("snapshot", repository.snapshot)
    repository.publish_timestamp()


def _expired(repository: TufRepository, role: str) -> None:
    repository.life = -DAY
    if role == "root":
        repository.publish_root()
    if role == "targets":
        repository.publish_targets()
    if role in {"targets", "snapshot"}:
        repository.life = -DAY if role == "snapshot" else DAY
        repository.publish_snapshot()
    repository.life = -DAY if role == "timestamp" else DAY
    repository.publish_timestamp()


def _mixed(repository: TufRepository, role: str) -> None:
    other = TufRepository(NOW)
    other.signers, other.root = repository.signers, repository.root
    other.add_target("layers/kernel/6.1", b"another kernel")
    for _ in range(3):
        other.publish()
    repository.publish()
    repository.files[f"3.{role}.json"] = other.files[f"3.{role}.json"]


def _by_a_stranger(repository: TufRepository, role: str) -> None:
    repository.signers[role] = [CryptoSigner.generate_ecdsa()]
    repository.publish()


def _unsigned(repository: TufRepository) -> None:
    repository.timestamp.version += 1
    repository.files["timestamp.json"] = signed(repository.timestamp, [])


def _root_by(repository: TufRepository, count: int) -> None:
    repository.publish_root(repository.signers["root"][:count])


def _root_by_one_key_twice(repository: TufRepository) -> None:
    _root_by(repository, 1)
    _double_signature(repository, "2.root.json", same_id=False)


def _root_with_one_signature_twice(repository: TufRepository) -> None:
    _root_by(repository, 1)
    _double_signature(repository, "2.root.json", same_id=True)


def _double_signature(repository: TufRepository, name: str, *, same_id: bool) -> None:
    content = json.loads(repository.files[name])
    first = content["signatures"][0]
    other = repository.signers["root"][1].public_key.keyid
    content["signatures"].append(first if same_id else first | {"keyid": other})
    repository.files[name] = json.dumps(content).encode()


def _root_by_new_keys_only(repository: TufRepository) -> None:
    fresh = [CryptoSigner.generate_ecdsa() for _ in range(3)]
    for old, new in zip(repository.signers["root"], fresh, strict=True):
        repository.root.revoke_key(old.public_key.keyid, "root")
        repository.root.add_key(new.public_key, "root")
    repository.publish_root(fresh)


def _root_by_old_keys_only(repository: TufRepository) -> None:
    for old in repository.signers["root"]:
        repository.root.revoke_key(old.public_key.keyid, "root")
        repository.root.add_key(CryptoSigner.generate_ecdsa().public_key, "root")
    repository.publish_root()


def _root_that_skips(repository: TufRepository) -> None:
    repository.root.version += 1
    repository.publish_root()
    repository.files["2.root.json"] = repository.files.pop("3.root.json")


def _root_again(repository: TufRepository) -> None:
    repository.files["2.root.json"] = repository.files["1.root.json"]


def _answer(repository: TufRepository, name: str, **options: Any) -> None:  # noqa: ANN401
    repository.answers[name] = respond(options.pop("body", b""), **options)


def _endless(repository: TufRepository, name: str) -> None:
    def answer(connection: socket.socket, request: bytes) -> None:
        del request
        connection.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        while True:
            connection.sendall(b"10000\r\n" + b" " * 0x10000 + b"\r\n")

    repository.publish()
    repository.answers[name] = answer


def _padded(repository: TufRepository, name: str, length: int) -> None:
    repository.publish()
    content = repository.files.get(name) or repository.files["1.root.json"]
    repository.files[name] = content.ljust(length)


def _replaced(repository: TufRepository, content: bytes) -> None:
    repository.files["timestamp.json"] = content


ATTACKS: Final[dict[str, tuple[Callable[[TufRepository], None], str]]] = {
    "a timestamp from before comes back": (_older_timestamp, "update:metadata:rollback"),
    "a new timestamp announces an old snapshot": (_older_snapshot, "update:metadata:rollback"),
    "a new snapshot announces old targets": (_older_targets, "update:metadata:rollback"),
    "a new snapshot announces no targets": (_without_targets, "update:metadata:malformed"),
    "the timestamp has expired": (partial(_expired, role="timestamp"), "update:metadata:expired"),
    "the snapshot has expired": (partial(_expired, role="snapshot"), "update:metadata:expired"),
    "the targets have expired": (partial(_expired, role="targets"), "update:metadata:expired"),
    "the root has expired": (partial(_expired, role="root"), "update:metadata:expired"),
    "a snapshot of another state": (partial(_mixed, role="snapshot"), "update:metadata:mismatch"),
    "targets of another state": (partial(_mixed, role="targets"), "update:metadata:mismatch"),
    "a timestamp by a stranger": (
        partial(_by_a_stranger, role="timestamp"),
        "update:metadata:threshold",
    ),
    "a snapshot by a stranger": (
        partial(_by_a_stranger, role="snapshot"),
        "update:metadata:threshold",
    ),
    "targets by a stranger": (partial(_by_a_stranger, role="targets"), "update:metadata:threshold"),
    "a timestamp by nobody": (_unsigned, "update:metadata:threshold"),
    "a root by one key of two": (partial(_root_by, count=1), "update:metadata:threshold"),
    "a root by one key in two names": (_root_by_one_key_twice, "update:metadata:threshold"),
    "a root with one signature twice": (
        _root_with_one_signature_twice,
        "update:metadata:malformed",
    ),
    "a root that only its own keys sign": (_root_by_new_keys_only, "update:metadata:threshold"),
    "a root that only the old keys sign": (_root_by_old_keys_only, "update:metadata:threshold"),
    "a root that skips a version": (_root_that_skips, "update:metadata:rollback"),
    "the same root again": (_root_again, "update:metadata:rollback"),
    "a timestamp without end": (partial(_endless, name="timestamp.json"), "update:metadata:length"),
    "a snapshot without end": (partial(_endless, name="3.snapshot.json"), "update:metadata:length"),
    "targets without end": (partial(_endless, name="3.targets.json"), "update:metadata:length"),
    "a root without end": (partial(_endless, name="2.root.json"), "update:metadata:length"),
    "a timestamp one byte too long": (
        partial(_padded, name="timestamp.json", length=16 * 1024 + 1),
        "update:metadata:length",
    ),
    "a snapshot one byte too long": (
        partial(_padded, name="3.snapshot.json", length=256 * 1024 + 1),
        "update:metadata:length",
    ),
    "targets one byte too long": (
        partial(_padded, name="3.targets.json", length=4 * 1024 * 1024 + 1),
        "update:metadata:length",
    ),
    "a root one byte too long": (
        partial(_padded, name="2.root.json", length=64 * 1024 + 1),
        "update:metadata:length",
    ),
    "a page instead of a timestamp": (
        partial(_replaced, content=b"<html>"),
        "update:metadata:malformed",
    ),
    "an empty timestamp": (partial(_replaced, content=b""), "update:metadata:malformed"),
    "a timestamp nested too deep": (
        partial(_replaced, content=b"[" * 16000),
        "update:metadata:malformed",
    ),
    "no timestamp": (
        partial(_answer, name="timestamp.json", status="404 Not Found"),
        "update:metadata:missing",
    ),
    "a server in trouble": (
        partial(_answer, name="timestamp.json", status="500 Internal Server Error"),
        "update:channel:response",
    ),
    "a server in trouble where a newer root may be": (
        partial(_answer, name="2.root.json", status="503 Service Unavailable"),
        "update:channel:response",
    ),
    "a timestamp cut short": (
        partial(_answer, name="timestamp.json", body=b"{", length=100),
        "update:channel:unreachable",
    ),
    "a timestamp elsewhere": (
        partial(
            _answer,
            name="timestamp.json",
            status="302 Found",
            extra="location: https://127.0.0.1:1/\r\n",
        ),
        "update:channel:redirect",
    ),
    "a timestamp that is packed": (
        partial(_answer, name="timestamp.json", extra="content-encoding: gzip\r\n"),
        "update:channel:response",
    ),
}


@pytest.mark.parametrize(("attack", "code"), ATTACKS.values(), ids=ATTACKS.keys())
def test_an_attack_is_refused_by_its_name(
    site: UpdateSite, attack: Callable[[TufRepository], None], code: str
) -> None:
    """The device knows why, and offers nothing until the repository is honest (70-76)."""
    site.device().refresh()
    site.repository.publish()
    site.device().refresh()
    attack(site.repository)
    device = site.device()
    with pytest.raises(UpdateError) as caught:
        device.refresh()
    assert caught.value.code == code
    with pytest.raises(UpdateError):
        device.releases()


PASSING: Final = ("a timestamp by nobody", "an empty timestamp", "a server in trouble")


@pytest.mark.parametrize("name", PASSING)
def test_an_attack_that_ends_leaves_nothing_behind(site: UpdateSite, name: str) -> None:
    """The device takes what is honest again, with what it remembers."""
    site.repository.publish()
    site.device().refresh()
    honest = dict(site.repository.files)
    attack, _ = ATTACKS[name]
    attack(site.repository)
    with pytest.raises(UpdateError):
        site.device().refresh()
    site.repository.files, site.repository.answers = honest, {}
    assert site.device().releases() == ("2041.1",)


def test_the_clock_that_is_given_decides_what_has_expired(site: UpdateSite) -> None:
    """A day before the end all is well, and at the end nothing is."""
    site.now = NOW + site.repository.life - DAY
    site.device().refresh()
    site.now = NOW + site.repository.life
    with pytest.raises(UpdateExpiredError) as caught:
        site.device().refresh()
    assert caught.value.code == "update:metadata:expired"


@pytest.mark.parametrize("role", ["root", "targets", "snapshot", "timestamp"])
def test_what_expires_while_it_is_held_is_not_used(site: UpdateSite, role: str) -> None:
    """A device that stays on without a refresh is not frozen; the first that ends, ends all."""
    repository = site.repository
    for one in ("root", "targets", "snapshot", "timestamp"):
        repository.life = DAY if one == role else 30 * DAY
        getattr(repository, f"publish_{one}")()
    device = site.device()
    device.refresh()
    site.now = NOW + DAY
    with pytest.raises(UpdateExpiredError):
        device.releases()
    with pytest.raises(UpdateExpiredError):
        device.manifest("2041.1")


def test_a_failed_refresh_leaves_no_old_list_in_use(site: UpdateSite) -> None:
    """Who asks again after a failure gets the failure, not yesterday's releases."""
    device = site.device()
    device.refresh()
    _unsigned(site.repository)
    for _ in range(2):
        with pytest.raises(UpdateThresholdError):
            device.refresh()
        with pytest.raises(UpdateThresholdError):
            device.releases()


def test_delegations_are_not_followed(site: UpdateSite) -> None:
    """Only the targets role says what a release is, whomever it may trust besides."""
    other = CryptoSigner.generate_ecdsa()
    role = DelegatedRole("other", [other.public_key.keyid], 1, terminating=True, paths=["*/*"])
    delegated = Targets(expires=NOW + DAY)
    delegated.targets = dict(site.repository.targets.targets)
    site.repository.targets.delegations = Delegations(
        {other.public_key.keyid: other.public_key}, {"other": role}
    )
    site.repository.targets.targets = {}
    site.repository.files["1.other.json"] = signed(delegated, [other])
    site.repository.snapshot.meta["other.json"] = meta(1, site.repository.files["1.other.json"])
    site.repository.publish()
    assert site.device().releases() == ()
    with pytest.raises(TargetMissingError):
        site.device().manifest("2041.1")


# --- rotation ----------------------------------------------------------------------


def _rotate(repository: TufRepository, *roles: str) -> None:
    for role in roles:
        repository.replace_key(role)
    repository.publish_root()
    repository.publish()


def _rotate_root(repository: TufRepository) -> None:
    old = repository.signers["root"]
    new = [CryptoSigner.generate_ecdsa(), CryptoSigner.generate_ecdsa(), old[2]]
    for before, after in zip(old[:2], new[:2], strict=True):
        repository.root.revoke_key(before.public_key.keyid, "root")
        repository.root.add_key(after.public_key, "root")
    repository.publish_root([*old, *new[:2]])
    repository.signers["root"] = new


def _rotate_often(repository: TufRepository) -> None:
    for _ in range(4):
        _rotate_root(repository)
        _rotate(repository, "timestamp", "snapshot")


def _rotate_timestamp(repository: TufRepository) -> None:
    _rotate(repository, "timestamp")


def _rotate_all_but_root(repository: TufRepository) -> None:
    _rotate(repository, "timestamp", "snapshot", "targets")


ROTATIONS: Final = {
    "the timestamp's key": _rotate_timestamp,
    "the online key, and the targets' key": _rotate_all_but_root,
    "two of three root keys": _rotate_root,
    "everything, many times over": _rotate_often,
}


@pytest.mark.parametrize("rotate", ROTATIONS.values(), ids=ROTATIONS.keys())
@pytest.mark.parametrize("acquainted", [True, False])
def test_a_device_follows_a_change_of_keys(
    site: UpdateSite, rotate: Callable[[TufRepository], None], acquainted: bool
) -> None:
    """One that was there before, and one that starts with the first root."""
    if acquainted:
        site.device().refresh()
    rotate(site.repository)
    site.repository.publish()
    assert site.device().releases() == ("2041.1",)


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_a_key_that_was_replaced_signs_nothing_any_more(site: UpdateSite, role: str) -> None:
    """After a compromise and a new root the thief is a stranger."""
    stolen = site.repository.signers[role]
    site.repository.replace_key(role)
    site.repository.publish_root()
    site.repository.publish()
    site.device().refresh()
    site.repository.signers[role] = stolen
    site.repository.publish()
    with pytest.raises(UpdateThresholdError) as caught:
        site.device().refresh()
    assert caught.value.code == "update:metadata:threshold"


def test_a_root_key_that_was_replaced_counts_no_more(site: UpdateSite) -> None:
    """Two of the old keys, of which one remains, are below the threshold."""
    stolen = site.repository.signers["root"]
    _rotate_root(site.repository)
    site.device().refresh()
    site.repository.publish_root(stolen)
    with pytest.raises(UpdateThresholdError):
        site.device().refresh()


def test_a_new_root_is_kept_from_rolling_back(site: UpdateSite) -> None:
    """A server that hides a root that the device has seen does not bring the old keys back."""
    before = {"timestamp": site.repository.signers["timestamp"]}
    _rotate(site.repository, "timestamp")
    site.device().refresh()
    del site.repository.files["2.root.json"]
    site.repository.signers |= before
    site.repository.publish()
    with pytest.raises(UpdateThresholdError):
        site.device().refresh()


def test_versions_that_a_thief_drove_up_are_forgotten_with_his_key(site: UpdateSite) -> None:
    """A fast-forward attack ends with a new online key: no device is lost."""
    site.repository.timestamp.version = site.repository.snapshot.version = 2**31
    site.repository.publish()
    site.device().refresh()
    site.repository.timestamp.version = site.repository.snapshot.version = 5
    site.repository.publish()
    with pytest.raises(UpdateRollbackError):
        site.device().refresh()
    _rotate(site.repository, "timestamp", "snapshot")
    assert site.device().releases() == ("2041.1",)


# --- the anchor and the memory -------------------------------------------------------

ANCHORS: Final = {
    "nothing": b"",
    "no JSON": b"\x00",
    "another role": b'{"signatures": [], "signed": {"_type": "timestamp"}}',
}


@pytest.mark.parametrize("root", ANCHORS.values(), ids=ANCHORS.keys())
def test_a_first_root_that_is_none_is_refused(site: UpdateSite, root: bytes) -> None:
    """The fault is in the trust file, and the error says so."""
    site.repository.trusted_root = root
    with pytest.raises(UpdateAnchorError) as caught:
        site.device().refresh()
    assert caught.value.code == "update:metadata:anchor"


def test_a_first_root_below_its_own_threshold_is_refused(site: UpdateSite) -> None:
    """Not even the file that the device came with is believed without its signatures."""
    made = Metadata[Root].from_bytes(site.repository.trusted_root)
    while len(made.signatures) > 1:
        made.signatures.popitem()
    site.repository.trusted_root = made.to_bytes()
    with pytest.raises(UpdateAnchorError):
        site.device().refresh()


def test_another_vendors_root_believes_nothing_of_this_repository(site: UpdateSite) -> None:
    """Even after the device has remembered this repository under the right one."""
    site.device().refresh()
    site.repository.trusted_root = TufRepository(NOW).trusted_root
    with pytest.raises(UpdateThresholdError):
        site.device().refresh()


def _forged(files: dict[str, bytes]) -> bytes:
    return json.dumps({k: base64.b64encode(v).decode() for k, v in files.items()}).encode()


DAMAGE: Final = {
    "empty": b"",
    "torn": b'{"timestamp.json": "AAA',
    "no JSON": b"\x00\xff" * 100,
    "another form": b"[]",
    "a name that leads elsewhere": _forged({"../../stolen.json": b"{}"}),
    "content that is no metadata": _forged(
        {"timestamp.json": b"{", "snapshot.json": b"", "root_history/2.root.json": b"\xff"}
    ),
}


@pytest.mark.parametrize("content", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_memory_is_begun_anew_from_the_first_root(
    site: UpdateSite, content: bytes
) -> None:
    """A device whose disk has suffered can still update, and writes nothing elsewhere."""
    site.device().refresh()
    (site.directory / "device" / "metadata.json").write_bytes(content)
    assert site.device().releases() == ("2041.1",)
    assert not (site.directory / "stolen.json").exists()
    kept = site.directory / "device"
    assert sorted(path.name for path in kept.iterdir()) == ["lock", "metadata.json"]


def test_a_memory_that_is_longer_than_any_is_begun_anew(site: UpdateSite) -> None:
    """Nothing so long was ever written here."""
    site.device().refresh()
    os.truncate(site.directory / "device" / "metadata.json", 33 * 1024 * 1024)
    assert site.device().releases() == ("2041.1",)


def test_what_was_left_of_an_interrupted_run_does_no_harm(site: UpdateSite) -> None:
    """The working directory of a killed run is not taken for a memory."""
    site.device().refresh()
    work = site.directory / "device" / "work" / "root_history"
    work.mkdir(parents=True)
    (work / "2.root.json").write_bytes(TufRepository(NOW).trusted_root)
    (work.parent / "timestamp.json").mkdir()
    assert site.device().releases() == ("2041.1",)


def test_the_memory_is_private(site: UpdateSite) -> None:
    """Nobody else can roll a device back, or read what it runs."""
    site.device().refresh()
    state = site.directory / "device"
    assert state.stat().st_mode & 0o777 == 0o700
    assert (state / "metadata.json").stat().st_mode & 0o777 == 0o600
    state.chmod(0o777)
    with pytest.raises(StatePermissionError):
        site.device().refresh()


def test_what_was_accepted_before_a_failure_is_remembered(site: UpdateSite) -> None:
    """A server that stops half-way cannot offer the older timestamp next time."""
    site.device().refresh()
    old = dict(site.repository.files)
    site.repository.publish()
    del site.repository.files["2.snapshot.json"]
    with pytest.raises(UpdateError) as caught:
        site.device().refresh()
    assert caught.value.code == "update:metadata:missing"
    site.repository.files = old
    with pytest.raises(UpdateRollbackError):
        site.device().refresh()


def test_nothing_is_offered_that_cannot_be_remembered(
    site: UpdateSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk a device does not act on versions that it would forget."""

    def full(path: Path, data: bytes) -> None:
        raise StateDiskError(f"{path}: no space for {len(data)} bytes", reason="full")

    device = site.device()
    with monkeypatch.context() as patch:
        patch.setattr(metadata, "write_atomic", full)
        with pytest.raises(StateDiskError):
            device.refresh()
    assert device._listing is None


def test_two_processes_do_not_refresh_at_once(site: UpdateSite) -> None:
    """The second is told, and nothing of the first is lost."""
    device = site.device()
    device.refresh()
    with FileLock(site.directory / "device" / "lock"), pytest.raises(StateBusyError):
        site.device().refresh()
    device.refresh()


# --- manifests -----------------------------------------------------------------------


def test_a_manifest_under_another_releases_name_is_refused(site: UpdateSite) -> None:
    """Signed or not, a release is what it calls itself."""
    served = site.repository.targets.targets[release_target("2041.1")].get_prefixed_paths()[0]
    site.repository.add_target(release_target("2041.9"), site.repository.blobs[served])
    site.repository.publish()
    with pytest.raises(ManifestError) as caught:
        site.device().manifest("2041.9")
    assert caught.value.code == "update:manifest"


def test_a_signed_file_that_is_no_manifest_is_refused(site: UpdateSite) -> None:
    """What the vendor's tools would not have written is not read."""
    site.repository.add_target(release_target("2041.9"), b"\x7fELF")
    site.repository.publish()
    with pytest.raises(ManifestError):
        site.device().manifest("2041.9")


def test_a_manifest_that_is_too_long_is_not_asked_for(site: UpdateSite) -> None:
    """Its signed length says so; a device has no memory for what the vendor never meant."""
    served = site.repository.add_target(release_target("2041.9"), b" " * (MANIFEST_LIMIT + 1))
    site.repository.publish()
    with pytest.raises(ManifestError):
        site.device().manifest("2041.9")
    assert not any(path.endswith(served) for path in site.repository.asked)


SWAPS: Final = {
    "another of the same length": (lambda body: body[:-1] + b" ", "update:target:digest"),
    "a shorter one": (lambda body: body[:-1], "update:target:length"),
    "a longer one": (lambda body: body + b" ", "update:target:length"),
    "one that is longer by far": (lambda body: body + bytes(1 << 23), "update:target:length"),
}


@pytest.mark.parametrize(("swap", "code"), SWAPS.values(), ids=SWAPS.keys())
def test_a_manifest_that_was_swapped_on_the_server_is_refused(
    site: UpdateSite, swap: Callable[[bytes], bytes], code: str
) -> None:
    """The server keeps the files, but does not say what they are, nor how much is read of them."""
    served = site.repository.targets.targets[release_target("2041.1")].get_prefixed_paths()[0]
    site.repository.blobs[served] = swap(site.repository.blobs[served])
    with pytest.raises(UpdateError) as caught:
        site.device().manifest("2041.1")
    assert caught.value.code == code
    assert int(caught.value.data.get("found") or 0) < 1 << 20


@pytest.mark.parametrize("name", ["../2041.1", "", "a/b", "2041.1\n"])
def test_a_name_that_no_release_has_is_never_asked_for(site: UpdateSite, name: str) -> None:
    """It does not come near a URL."""
    with pytest.raises(ManifestError):
        site.device().manifest(name)
    assert site.server.requests == []


# --- any bytes -----------------------------------------------------------------------


PUBLISHED: Final = TufRepository(NOW)
PUBLISHED.add_release("2041.1", {"kernel": ("6.1", b"kernel")})
PUBLISHED.publish_root()
PUBLISHED.publish()


@given(
    name=st.sampled_from(sorted(PUBLISHED.files)),
    place=st.integers(0, 4000),
    cut=st.integers(0, 40),
    put=st.binary(max_size=20) | st.sampled_from([b"[" * 5000, b"1e999", b"9" * 5000, b"null"]),
)
def test_no_bytes_make_a_refresh_fail_otherwise_than_as_documented(
    tmp_path_factory: pytest.TempPathFactory, name: str, place: int, cut: int, put: bytes
) -> None:
    """Metadata that were changed anywhere are accepted as they were, or refused (64, 70)."""
    content = PUBLISHED.files[name]
    place %= len(content)
    files = PUBLISHED.files | {name: content[:place] + put + content[place + cut :]}
    source = cast("Source", MemorySource(files))
    state = tmp_path_factory.mktemp("device") / "state"
    found, refused = None, ""
    try:
        found = metadata.refresh(PUBLISHED.trusted_root, state=state, source=source, now=NOW)
    except HwTrustError as error:
        refused = error.code
    if found is None:
        assert refused.startswith("update:metadata:")
    else:
        assert found.targets.keys() == PUBLISHED.targets.targets.keys()


def test_who_refreshes_hears_of_each_piece_and_may_end_it(site: UpdateSite) -> None:
    """A server that is slow keeps nobody from anything."""
    pieces: list[int] = []

    def end() -> None:
        pieces.append(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        site.device().refresh(on_piece=end)
    assert pieces == [1]
    site.device().refresh(on_piece=lambda: pieces.append(1))
    assert len(pieces) > 1
