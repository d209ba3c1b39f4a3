"""Roots of enclaves: what is said of each, when the next one is another, and which epoch it has."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hwtrust.errors import (
    ChallengeExpiredError,
    EnrolmentEpochError,
    ReleaseKeyMissingError,
    UntrustedError,
)
from hwtrust.wire.challenge import Purpose
from hwtrust.wire.messages import Standing
from hwtrust_backend.audit import Event
from hwtrust_backend.audit.models import AuditRecord
from hwtrust_backend.enrolment.devices import LAST_EPOCH
from hwtrust_backend.publishing import RootState, StoredRoot, note_recovery, roots_of
from hwtrust_backend.publishing.service import BACKDATED_MS
from hwtrust_backend.references import accept_release, add_release
from hwtrust_backend.testing import DAY, MINUTE
from simulators.attester import make_release
from simulators.enclave_clients import (
    BackendEnclave,
    DirectWay,
    another_token,
    enclave_policy,
    rotate,
    row,
    signed_metadata,
)

if TYPE_CHECKING:
    from collections.abc import Callable


LIFE = 30 * DAY
"""Of a root, by the default policy."""


def roots(way: DirectWay, enclave: BackendEnclave) -> list[StoredRoot]:
    """Its roots, oldest first."""
    with way.backend.database.reading() as session:
        return list(roots_of(session, enclave.name.hex()))


def test_a_root_is_of_bytes_that_nobody_can_guess(way: DirectWay, enclave: BackendEnclave) -> None:
    """No two are alike, and none is empty."""
    rotate(way, enclave)
    root = enclave.attest(way).root
    assert root is not None
    enclave.take(root)
    other = BackendEnclave()
    other.enrol(way, another_token(way))
    secrets = {*enclave.roots.values(), *other.roots.values()}
    assert len(secrets) == 3
    assert all(any(secret) for secret in secrets)


def test_what_is_said_of_a_root_is_signed_and_ends(way: DirectWay, token: str) -> None:
    """It holds for the policy's time, and a little before now, for clocks that are behind."""
    enclave = BackendEnclave()
    enrolled = enclave.enrol(way, token)
    metadata = signed_metadata(enrolled.root.metadata, way.backend)
    (root,) = roots(way, enclave)
    assert metadata.not_after == root.not_after == root.made_at + LIFE
    assert metadata.not_before == root.made_at - BACKDATED_MS
    assert root.confirmed_at == root.made_at
    device = row(way, enclave)
    assert (device.base_epoch, device.counter, device.enrolled_at) == (1, 1, root.made_at)
    assert device.rotate_at is not None
    assert root.made_at < device.rotate_at <= root.made_at + LIFE * 2 // 3


def test_what_was_offered_for_another_release_is_left_out(
    way: DirectWay, enclave: BackendEnclave
) -> None:
    """What is said of a root names the release that it was made for."""
    rotate(way, enclave)
    assert enclave.attest(way).root is not None
    with way.backend.database.transaction() as session:
        add_release(session, make_release("2.0"), now=way.backend.clock())
        accept_release(session, "2.0", now=way.backend.clock())
    enclave.load(make_release("2.0"))
    root = enclave.attest(way).root
    assert root is not None
    metadata = signed_metadata(root.metadata, way.backend)
    assert (metadata.epoch, metadata.release) == (3, "2.0")
    assert [one.state for one in roots(way, enclave)] == [
        RootState.ACTIVE,
        RootState.RETIRED,
        RootState.OFFERED,
    ]


@pytest.mark.parametrize(("late", "epoch"), [(0, 2), (1, 3)])
def test_what_was_offered_long_ago_is_left_out(
    way: DirectWay, enclave: BackendEnclave, late: int, epoch: int
) -> None:
    """A root has a third of its life before it when it is opened, at the least."""
    rotate(way, enclave)
    assert enclave.attest(way).root is not None
    end = roots(way, enclave)[-1].not_after - LIFE // 3
    clock = way.backend.clock
    clock.advance(end - MINUTE - clock())  # type: ignore[attr-defined]
    enclave.session(way)
    # Each asking takes a millisecond.
    clock.advance(end + late - 1 - clock())  # type: ignore[attr-defined]
    root = enclave.attest(way).root
    assert root is not None
    assert signed_metadata(root.metadata, way.backend).epoch == epoch


def test_the_next_root_is_recorded_once(way: DirectWay, enclave: BackendEnclave) -> None:
    """That it is offered again is no news; nothing is due any more."""
    rotate(way, enclave)
    enclave.attest(way)
    enclave.attest(way)
    with way.backend.database.reading() as session:
        events = [record.event for record in session.query(AuditRecord)]
    assert events.count(Event.ROOT_MADE) == 2
    device = row(way, enclave)
    assert (device.rotate_at, device.rotation_asked_at, device.rotation_reason) == (None, None, "")


def test_an_enclave_has_no_epoch_after_the_last(way: DirectWay, enclave: BackendEnclave) -> None:
    """The last one is given, and none is given twice."""
    with way.backend.database.transaction() as session:
        (root,) = roots_of(session, enclave.name.hex())
        root.epoch = LAST_EPOCH - 1
    enclave.restart()
    enclave.enrol(way, another_token(way))
    assert enclave.epoch == LAST_EPOCH
    enclave.restart()
    with pytest.raises(EnrolmentEpochError):
        enclave.enrol(way, another_token(way))


@pytest.mark.parametrize("size", [0, 1, 31])
def test_a_root_is_sealed_to_a_key_alone(
    way: DirectWay, enclave: BackendEnclave, size: int
) -> None:
    """What has not a key's size is none, at every attestation."""
    with pytest.raises(ReleaseKeyMissingError):
        enclave.attest(way, release_key=bytes(range(size)))
    enclave.next_nonce = enclave.ask(way, Purpose.ATTEST)
    assert enclave.attest(way).standing is Standing.TRUSTED


def test_a_release_that_nobody_knows_gets_no_root_even_where_that_only_alerts(
    way: DirectWay, enclave: BackendEnclave, hold_to_document: Callable[[str], None]
) -> None:
    """Nothing could be said of what it is for."""
    effects = {"default": "locked", "release:unknown": "alert"}
    hold_to_document(enclave_policy(on_failure=effects))
    rotate(way, enclave)
    enclave.load(make_release("9.9"))
    reply = enclave.attest(way)
    assert (reply.standing, reply.root) == (Standing.TRUSTED, None)
    assert [finding.code for finding in reply.findings] == ["release:unknown"]
    stranger = BackendEnclave()
    stranger.load(make_release("9.9"))
    with pytest.raises(UntrustedError):
        stranger.enrol(way, another_token(way))


def test_after_a_restore_an_enrolment_leaves_out_the_epoch_that_may_be_forgotten(
    way: DirectWay, enclave: BackendEnclave
) -> None:
    """No epoch is given to two roots, and one that was made in the same moment counts."""
    newest = roots(way, enclave)[-1].made_at
    with way.backend.database.transaction() as session:
        note_recovery(session, by="test", note="", now=newest)
    enclave.restart()
    enclave.enrol(way, another_token(way))
    assert enclave.epoch == 3
    enclave.restart()
    enclave.enrol(way, another_token(way))
    assert enclave.epoch == 4


def test_a_challenge_of_the_moment_of_the_restore_is_not_accepted(
    way: DirectWay, enclave: BackendEnclave
) -> None:
    """It may have been answered; one of a millisecond later cannot."""
    for ago, refused in ((0, True), (1, False)):
        issued = int.from_bytes(enclave.next_nonce[:8], "big")
        with way.backend.database.transaction() as session:
            note_recovery(session, by="test", note="", now=issued - ago)
        if refused:
            with pytest.raises(ChallengeExpiredError):
                enclave.attest(way)
            enclave.next_nonce = enclave.ask(way, Purpose.ATTEST)
        else:
            assert enclave.attest(way).standing is Standing.TRUSTED


@pytest.mark.parametrize(("above", "found"), [(1 << 20, []), ((1 << 20) + 1, ["epoch:unknown"])])
def test_after_a_restore_only_an_epoch_near_the_known_ones_is_taken_over(
    way: DirectWay, enclave: BackendEnclave, above: int, found: list[str]
) -> None:
    """Accepted code that names any number cannot use all epochs up."""
    with way.backend.database.transaction() as session:
        note_recovery(session, by="test", note="", now=way.backend.clock())
    enclave.next_nonce = enclave.ask(way, Purpose.ATTEST)
    reply = enclave.attest(way, epoch=1 + above)
    assert [finding.code for finding in reply.findings] == found
    active = next(one for one in roots(way, enclave) if one.state is RootState.ACTIVE)
    assert active.epoch == (1 if found else 1 + above)
