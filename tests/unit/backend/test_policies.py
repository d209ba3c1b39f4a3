"""Policies are in versions, signed where that is asked for, tried before they count."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from sqlalchemy import select, update

from hwtrust.errors import (
    ConfigError,
    PolicyDocumentError,
    PolicySignatureError,
    PolicyUnknownError,
    TlsKeyRefusedError,
)
from hwtrust.wire.cel import Event as LogEvent
from hwtrust.wire.cel import EventKind
from hwtrust.wire.messages import Mode, Standing
from hwtrust_backend import policies
from hwtrust_backend.admin import local_administrator, rules
from hwtrust_backend.appraisal.dry_run import EXAMPLES, DryRun, dry_run
from hwtrust_backend.audit import AuditRecord, Event
from hwtrust_backend.db import count_up
from hwtrust_backend.enclaves import enclave_trust
from hwtrust_backend.enrolment import Device
from hwtrust_backend.policies import (
    DEFAULT_DOCUMENT,
    NOTHING,
    StoredEvidence,
    activate_policy,
    add_group,
    add_policy,
    add_signature,
    list_policies,
    load_signers,
    policy_of,
    policy_version,
    read_policy,
    service,
    sign_policy,
    versions_in_force,
)
from hwtrust_backend.publishing.campaigns import unfinished
from hwtrust_backend.references import accept_release, add_release, retire_release
from hwtrust_backend.testing import DAY, HOUR, policy_document
from simulators.attester import make_release
from simulators.backend_clients import BackendDevice, DirectApi, enrolled_device

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sqlalchemy.orm import Session

    from hwtrust_backend.app.backend import Backend

STRICT: Final = policy_document(root_lifetime="10d")


def attested(backend: Backend) -> BackendDevice:
    """A device that has enrolled and attested once."""
    device = enrolled_device(backend)
    assert device.attest(DirectApi(backend, device)).standing is Standing.TRUSTED
    return device


# --- versions ----------------------------------------------------------------------------


def test_a_version_never_changes_and_the_one_activated_last_counts(backend: Backend) -> None:
    """Adding changes nothing; activating does, for the groups that have the policy; and back."""
    with backend.database.transaction() as session:
        before = policy_of(session, "default")
        stored = add_policy(session, "default", STRICT, by="test", now=1)
        assert stored.version == 2
        assert policy_of(session, "default") == before
        activate_policy(session, "default", 2, signers={}, by="test", now=2)
        assert policy_of(session, "default").root_lifetime_ms == 10 * DAY
        activate_policy(session, "default", 1, signers={}, by="test", now=3)
        assert policy_of(session, "default") == before
        assert [row.version for row in list_policies(session, "default")] == [2, 1]


def test_the_same_document_is_the_same_version(backend: Backend) -> None:
    """Adding it again makes nothing new."""
    with backend.database.transaction() as session:
        versions = {add_policy(session, "p", STRICT, by="test", now=1).version for _ in range(3)}
        assert versions == {1}


def test_versions_that_are_added_at_once_get_numbers_of_their_own(backend: Backend) -> None:
    """Whoever is second waits for the first, and is not refused; so with what comes into force."""

    def add(minutes: int) -> int:
        document = policy_document(heartbeat=f"{minutes}m")
        with backend.database.transaction() as session:
            version = add_policy(session, "new", document, by="test", now=minutes).version
            activate_policy(session, "new", version, signers={}, by="test", now=minutes)
            return version

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(add, range(1, 5))) == [1, 2, 3, 4]


def test_of_two_who_set_a_group_at_once_the_second_counts(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is stored is what the trail says last, whoever waited for whom."""
    if not backend.database.is_postgresql:
        pytest.skip("SQLite has one writer at a time")
    by, now = local_administrator(), backend.clock()
    with backend.database.transaction() as session:
        for name, beat in (("a", "2m"), ("b", "3m")):
            add_policy(session, name, policy_document(heartbeat=beat), by="test", now=now)

    def set_to(policy: str) -> None:
        backend.database.run(lambda s: rules.set_group(s, "g", policy=policy, by=by, now=now))

    set_to("a")
    first = paused_before_counting(monkeypatch, lambda: set_to("a"))
    set_to("b")
    first()
    with backend.database.reading() as session:
        stored = policies.group_of(session, "g").policy
        said = session.scalars(
            select(AuditRecord.reason)
            .where(AuditRecord.event == Event.GROUP_SET)
            .order_by(AuditRecord.sequence)
        ).all()
    assert said[-1] == f"g: policy {stored}"


def test_a_group_that_is_moved_during_an_activation_gets_its_campaign(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither of the two overlooks what the other does."""
    if not backend.database.is_postgresql:
        pytest.skip("SQLite has one writer at a time")
    by, now = local_administrator(), backend.clock()
    with backend.database.transaction() as session:
        add_release(session, make_release("2.0", "x"), now=now)
        accept_release(session, "2.0", now=now)
        for name, beat, releases in (
            ("a", "2m", ["1.0"]),
            ("b", "3m", ["1.0"]),
            ("a", "2m", ["1.0", "2.0"]),
        ):
            document = policy_document(heartbeat=beat, releases=releases)
            add_policy(session, name, document, by="test", now=now)

    def activate(name: str, version: int) -> None:
        backend.database.run(
            lambda s: rules.activate_policy(
                s, name, version, settings=backend.settings, by=by, now=now
            )
        )

    def move(policy: str) -> None:
        backend.database.run(lambda s: rules.set_group(s, "g", policy=policy, by=by, now=now))

    activate("a", 1)
    activate("b", 1)
    move("b")
    activation = paused_before_counting(monkeypatch, lambda: activate("a", 2))
    move("a")
    activation()
    with backend.database.reading() as session:
        assert ("g", "2.0") in {(found.group, found.detail) for found in unfinished(session)}


def paused_before_counting(
    monkeypatch: pytest.MonkeyPatch, work: Callable[[], None]
) -> Callable[[], None]:
    """Begin `work`, as far as the service's own lock; gives what lets it go on, and waits."""
    reached, go = threading.Event(), threading.Event()
    thread = threading.Thread(target=work)

    def pause(session: Session, name: str) -> None:
        if threading.current_thread() is thread:
            reached.set()
            go.wait(10)
        count_up(session, name)

    def finish() -> None:
        go.set()
        thread.join()

    monkeypatch.setattr(service, "count_up", pause)
    thread.start()
    # Where it waits at a lock before that, it is far enough too.
    reached.wait(1)
    return finish


def test_what_is_no_policy_is_not_stored(backend: Backend) -> None:
    """A version that nobody could hold a device to does not come into being."""
    with backend.database.transaction() as session:
        with pytest.raises(PolicyDocumentError):
            add_policy(session, "p", "rot_lifetime = 1", by="test", now=1)
        assert list_policies(session, "p") == []


@pytest.mark.parametrize(("name", "version"), [("default", 9), ("other", 1), ("other", None)])
def test_an_unknown_version_is_unknown(backend: Backend, name: str, version: int | None) -> None:
    """What does not exist comes into force nowhere."""
    with (
        backend.database.transaction() as session,
        pytest.raises(PolicyUnknownError) as caught,
    ):
        policy_version(session, name, version)
    assert caught.value.code == "policy:unknown"


def test_who_changed_what_devices_are_held_to_is_in_the_trail(backend: Backend) -> None:
    """Adding and activating leave their author, the version and the document's digest."""
    with backend.database.transaction() as session:
        stored = add_policy(session, "default", STRICT, by="cli:alice", now=1)
        activate_policy(session, "default", 2, signers={}, by="oidc:bob", now=2)
        digest = stored.digest.hex()
    with backend.database.reading() as session:
        rows = session.query(AuditRecord).order_by(AuditRecord.sequence.desc()).limit(2).all()
    assert [row.event for row in rows] == ["admin:policy:activated", "admin:policy:added"]
    assert [row.actor for row in rows] == ["oidc:bob", "cli:alice"]
    assert all(digest in row.reason for row in rows)


def test_a_group_without_a_policy_in_force_is_held_to_nothing_that_passes(
    backend: Backend,
) -> None:
    """A group that nobody has set up refuses every device, and says why."""
    device = attested(backend)
    with backend.database.transaction() as session:
        session.execute(update(Device).values(group="forgotten"))
        assert policy_of(session, "forgotten") is NOTHING
    with backend.database.transaction() as session:
        session.execute(update(Device).values(group="forgotten"))
        add_group(session, "forgotten", policy="missing", label="", by="test", now=1)
        assert policy_of(session, "forgotten") is NOTHING
        session.execute(update(Device).values(group="partly"))
        add_policy(session, "partly", 'tls_keys = ["tpm"]', by="test", now=1)
        activate_policy(session, "partly", 1, signers={}, by="test", now=1)
        add_group(session, "partly", policy="partly", label="", by="test", now=1)
    reply = device.attest(DirectApi(backend, device))
    assert reply.standing is Standing.FAILED
    assert reply.mode is Mode.LOCKED
    assert "policy:absent" in {finding.code for finding in reply.findings}
    assert (reply.approval, reply.root) == (None, None)


def test_another_process_s_change_counts_at_once(backend: Backend) -> None:
    """What is kept in memory is never older than the database, rolled back work included."""

    def change(document: str) -> None:
        with backend.database.transaction() as session:
            add_policy(session, "default", document, by="test", now=1)
            activate_policy(session, "default", 2, signers={}, by="test", now=1)
            assert policy_of(session, "default") == read_policy(document)
            if document == STRICT:
                raise _RolledBackError

    with pytest.raises(_RolledBackError):
        change(STRICT)
    change(policy_document(root_lifetime="11d"))
    with backend.database.reading() as session:
        assert policy_of(session, "default").root_lifetime_ms == 11 * DAY


class _RolledBackError(Exception):
    """What ends a unit of work."""


# --- signatures --------------------------------------------------------------------------


def signer(directory: Path, name: str) -> tuple[ec.EllipticCurvePrivateKey, str]:
    """A signer's key, and the file of its public half."""
    key = ec.generate_private_key(ec.SECP256R1())
    path = directory / f"{name}.pem"
    path.write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return key, str(path)


def test_where_there_are_signers_an_unsigned_policy_does_not_come_into_force(
    backend: Backend, tmp_path: Path
) -> None:
    """Neither an administrator nor whoever writes the database changes what devices are held to."""
    alice, file = signer(tmp_path, "alice")
    signers = load_signers({"alice": file})
    with backend.database.transaction() as session:
        stored = add_policy(session, "default", STRICT, by="test", now=1)
        with pytest.raises(PolicySignatureError) as caught:
            activate_policy(session, "default", 2, signers=signers, by="test", now=1)
        assert caught.value.code == "policy:signature"
        assert versions_in_force(session)["default"].version == 1
        envelope = sign_policy("default", stored.digest, key=alice)
        assert (
            add_signature(session, "default", 2, envelope, signers=signers, by="test", now=1)
            == "alice"
        )
        activate_policy(session, "default", 2, signers=signers, by="test", now=1)
        assert versions_in_force(session)["default"].version == 2
        stored.signature = msgspec.json.encode(sign_policy("default", bytes(32), key=alice))
        with pytest.raises(PolicySignatureError):
            activate_policy(session, "default", 2, signers=signers, by="test", now=1)


SIGNED_WRONG: Final[dict[str, Callable[[ec.EllipticCurvePrivateKey, bytes], object]]] = {
    "by somebody else": lambda _, digest: sign_policy(
        "default", digest, key=ec.generate_private_key(ec.SECP256R1())
    ),
    "over another document": lambda key, _: sign_policy("default", bytes(32), key=key),
    "for another policy": lambda key, digest: sign_policy("other", digest, key=key),
}


@pytest.mark.parametrize("case", SIGNED_WRONG)
def test_a_signature_that_is_not_over_this_version_is_refused(
    backend: Backend, tmp_path: Path, case: str
) -> None:
    """It is neither kept nor counted."""
    alice, file = signer(tmp_path, "alice")
    signers = load_signers({"alice": file})
    with backend.database.transaction() as session:
        stored = add_policy(session, "default", STRICT, by="test", now=1)
        envelope = SIGNED_WRONG[case](alice, stored.digest)
        with pytest.raises(PolicySignatureError):
            add_signature(
                session,
                "default",
                2,
                envelope,  # type: ignore[arg-type]
                signers=signers,
                by="test",
                now=1,
            )
        assert stored.signature is None


@pytest.mark.parametrize("content", [None, b"", b"no key", "rsa", "p384"])
def test_a_signer_s_file_holds_a_p256_key(tmp_path: Path, content: bytes | str | None) -> None:
    """A signer whose key cannot be used stops the backend, rather than being left out."""
    path = tmp_path / "key.pem"
    if content == "rsa":
        content = pem_of(rsa.generate_private_key(65537, 2048).public_key())
    elif content == "p384":
        content = pem_of(ec.generate_private_key(ec.SECP384R1()).public_key())
    if isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(ConfigError):
        load_signers({"alice": str(path)})


def pem_of(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> bytes:
    """A public key in PEM."""
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


# --- what a device is held to --------------------------------------------------------------


def test_a_failure_limits_a_device_where_the_policy_says_so(
    backend: Backend, hold_to: Callable[..., None]
) -> None:
    """The reply tells the mode and the database keeps it; neither approval nor root is given."""
    device = attested(backend)
    hold_to(on_failure={"default": "locked", "log:violation": "limited"})
    device.append(LogEvent(EventKind.VIOLATION, "kernel", "1.0", bytes(32)))
    reply = device.attest(DirectApi(backend, device))
    assert (reply.standing, reply.mode) == (Standing.FAILED, Mode.LIMITED)
    assert (reply.approval, reply.root) == (None, None)
    with backend.database.reading() as session:
        assert session.get_one(Device, device.name.hex()).mode is Mode.LIMITED


def test_an_administrator_s_lock_holds_whatever_the_evidence_says(backend: Backend) -> None:
    """A good device that is locked gets no leave; unlocked, it is as it was."""
    device = attested(backend)
    api = DirectApi(backend, device)
    with backend.database.transaction() as session:
        session.execute(update(Device).values(locked_at=1, lock_reason="stolen"))
    reply = device.attest(api)
    assert (reply.standing, reply.mode, reply.approval) == (Standing.FAILED, Mode.LOCKED, None)
    with backend.database.transaction() as session:
        session.execute(update(Device).values(locked_at=None, lock_reason=""))
    reply = device.attest(api)
    assert (reply.standing, reply.mode) == (Standing.TRUSTED, Mode.NORMAL)
    assert reply.approval is not None


def test_a_reply_says_when_to_come_again(backend: Backend, hold_to: Callable[..., None]) -> None:
    """The heartbeat is the policy's."""
    device = attested(backend)
    hold_to(heartbeat="90s", watchdog="10m")
    assert device.attest(DirectApi(backend, device)).heartbeat_ms == 90_000


def test_a_policy_narrows_the_releases_that_are_accepted(
    backend: Backend, hold_to: Callable[..., None]
) -> None:
    """A release that the registry accepts may still be none for this group; never the reverse."""
    device = attested(backend)
    hold_to(releases=["2.0"])
    reply = device.attest(DirectApi(backend, device))
    assert {finding.code for finding in reply.findings} == {"release:refused"}
    hold_to(releases=["1.0"])
    assert device.attest(DirectApi(backend, device)).standing is Standing.TRUSTED
    with backend.database.transaction() as session:
        retire_release(session, "1.0", now=backend.clock())
    reply = device.attest(DirectApi(backend, device))
    assert {finding.code for finding in reply.findings} == {"release:refused"}


# --- dry run -------------------------------------------------------------------------------


def tried(session: Session, document: str, *, limit: int | None = None) -> DryRun:
    """What a document would come to for the default group."""
    policy, trust = read_policy(document), enclave_trust(session)
    return dry_run(session, policy, group="default", trust=trust, limit=limit)


def test_a_dry_run_tells_who_would_fail_and_why(backend: Backend) -> None:
    """Devices are counted by the findings' codes, and nothing is changed."""
    fleet = [attested(backend) for _ in range(3)]
    release = make_release("2.0")
    with backend.database.transaction() as session:
        add_release(session, release, now=backend.clock())
        accept_release(session, "2.0", now=backend.clock())
    fleet[0].load(release)
    fleet[0].attest(DirectApi(backend, fleet[0]))
    with backend.database.transaction() as session:
        result = tried(session, policy_document(releases=["2.0"]))
        assert (result.examined, result.failing, result.newly_failing) == (3, 2, 2)
        assert (result.recovering, result.without_evidence, result.unreadable) == (0, 0, 0)
        assert [(item.code, item.devices) for item in result.reasons] == [("release:refused", 2)]
        assert result.modes == {"normal": 1, "locked": 2}
        assert {item.device for item in result.examples} == {
            device.name.hex() for device in fleet[1:]
        }
        assert all(item.standing == "trusted" for item in result.examples)
        assert all(item.would_be == "failed" for item in result.examples)
    assert fleet[1].attest(DirectApi(backend, fleet[1])).standing is Standing.TRUSTED


def test_a_dry_run_of_the_policy_in_force_changes_nobody(backend: Backend) -> None:
    """However long ago the evidence came: clocks are judged as of then."""
    attested(backend)
    with backend.database.transaction() as session:
        result = tried(session, DEFAULT_DOCUMENT)
    assert (result.failing, result.examples, result.reasons) == (0, (), ())


def test_a_dry_run_tells_who_would_recover(backend: Backend, hold_to: Callable[..., None]) -> None:
    """A policy that asks less brings devices back."""
    device = attested(backend)
    hold_to(releases=[])
    device.attest(DirectApi(backend, device))
    with backend.database.transaction() as session:
        result = tried(session, DEFAULT_DOCUMENT)
    assert (result.failing, result.recovering) == (0, 1)
    assert result.examples[0].standing == "failed"


def test_a_dry_run_of_an_incomplete_policy_fails_everybody(backend: Backend) -> None:
    """What is absent refuses, and is named before it is in force."""
    attested(backend)
    with backend.database.transaction() as session:
        result = tried(session, policy_document(watchdog=None))
    assert result.absent == ("watchdog",)
    assert [(item.code, item.devices) for item in result.reasons] == [("policy:absent", 1)]


def test_a_dry_run_counts_a_key_that_would_be_refused(
    backend: Backend, hold_to: Callable[..., None]
) -> None:
    """A device that would be turned away before it is judged fails as well; and was so before."""
    device = attested(backend)
    strict = policy_document(tls_keys=["attested"])
    with backend.database.transaction() as session:
        result = tried(session, strict)
    assert (result.failing, result.newly_failing) == (1, 1)
    assert [(item.code, item.devices) for item in result.reasons] == [(TlsKeyRefusedError.code, 1)]
    hold_to(tls_keys=["attested"])
    with pytest.raises(TlsKeyRefusedError):
        device.attest(DirectApi(backend, device))
    with backend.database.transaction() as session:
        again = tried(session, strict)
        better = tried(session, DEFAULT_DOCUMENT)
    assert (again.failing, again.newly_failing, better.recovering) == (1, 0, 1)


SUMMARIES: Final[dict[str, tuple[str, str]]] = {
    "a release that nobody runs": (
        policy_document(releases=["2.0"]),
        "the device runs a release that is not accepted (2)",
    ),
    "a field that is absent": (
        policy_document(watchdog=None, heartbeat=None),
        "it says nothing of heartbeat, watchdog (2)",
    ),
}


@pytest.mark.parametrize("case", SUMMARIES)
def test_a_dry_run_says_it_in_one_sentence(backend: Backend, case: str) -> None:
    """How many devices a policy would fail, and because of what."""
    document, because = SUMMARIES[case]
    for _ in range(2):
        attested(backend)
    with backend.database.transaction() as session:
        result = tried(session, document)
        harmless = tried(session, DEFAULT_DOCUMENT)
    said = "this policy would fail 2 devices of 2 (2 of them do not fail now), because "
    assert result.summary == said + because
    assert harmless.summary == "this policy would fail none of 2 devices"


def test_a_dry_run_says_who_would_have_to_send_logs_first(backend: Backend) -> None:
    """They are not kept: who is asked for them gets no root until they have come."""
    attested(backend)
    asks_for_logs = policy_document() + "\n[ima]\npcr = 12\n"
    with backend.database.transaction() as session:
        result = tried(session, asks_for_logs)
    assert (result.failing, result.incomplete) == (0, 1)
    assert result.summary.endswith("; 1 device would be incomplete, without layers or logs")


def test_a_dry_run_without_evidence_says_so(backend: Backend) -> None:
    """Nothing was tried; that is not the same as nobody failing."""
    enrolled_device(backend)
    with backend.database.transaction() as session:
        result = tried(session, "")
    assert result.summary.startswith("there is no evidence")


def test_a_dry_run_counts_what_it_cannot_judge(backend: Backend) -> None:
    """Devices without evidence, of other groups, retired, and evidence that was changed."""
    attested(backend)
    changed, elsewhere, retired = attested(backend), attested(backend), attested(backend)
    enrolled_device(backend)
    with backend.database.transaction() as session:
        stored = session.get_one(StoredEvidence, changed.name.hex())
        stored.content = stored.content.replace(b'"epoch":7', b'"epoch":8')
        session.get_one(Device, elsewhere.name.hex()).group = "elsewhere"
        session.get_one(Device, retired.name.hex()).retired_at = 1
    with backend.database.transaction() as session:
        result = tried(session, DEFAULT_DOCUMENT)
    assert (result.examined, result.unreadable, result.without_evidence) == (1, 1, 1)


def test_a_dry_run_names_a_few_and_counts_all(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fleet is gone through page by page."""
    monkeypatch.setattr("hwtrust_backend.appraisal.dry_run._PAGE", 2)
    monkeypatch.setattr("hwtrust_backend.appraisal.dry_run.EXAMPLES", 3)
    for _ in range(5):
        attested(backend)
    with backend.database.transaction() as session:
        result = tried(session, "")
        limited = tried(session, "", limit=4)
    assert (result.failing, len(result.examples), EXAMPLES) == (5, 3, 20)
    assert limited.examined == 4


def test_evidence_that_says_nothing_new_is_not_written_again(backend: Backend) -> None:
    """A heartbeat costs no second copy; a new load does."""
    device = attested(backend)
    api = DirectApi(backend, device)

    def kept() -> bytes:
        with backend.database.reading() as session:
            return session.get_one(StoredEvidence, device.name.hex()).nonce

    first = kept()
    backend.clock.advance(HOUR)  # type: ignore[attr-defined]
    device.tpm.advance(HOUR)
    with backend.database.reading() as session:
        assert session.get_one(Device, device.name.hex()).standing is Standing.TRUSTED
    device.session(api_without(backend))
    assert kept() == first
    device.load(make_release())
    device.attest(api)
    assert kept() != first


def api_without(backend: Backend) -> DirectApi:
    """A connection without a client certificate."""
    return DirectApi(backend)
