"""A database restored from a backup gives no epoch away twice and takes no challenge twice (68)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hwtrust.errors import ChallengeExpiredError
from hwtrust.wire.challenge import Purpose
from hwtrust.wire.envelope import unseal
from hwtrust.wire.messages import ChallengeRequest, Standing
from hwtrust.wire.root import RootMetadata
from hwtrust_backend.admin import ask_rotation, local_administrator
from hwtrust_backend.app.setup import open_backend
from hwtrust_backend.audit import AuditRecord, Event
from hwtrust_backend.keys import KeyRole, Secret
from hwtrust_backend.publishing import RootState, note_recovery, roots_of
from simulators.backend_clients import BackendDevice, DirectApi, enrolled_device

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hwtrust.wire.messages import AttestReply
    from hwtrust_backend.app.backend import Backend
    from hwtrust_backend.config import Settings

PASSPHRASE = Secret(b"protects nothing")


@pytest.fixture
def device(backend: Backend) -> BackendDevice:
    """A device that has enrolled at epoch 7."""
    return enrolled_device(backend)


def rotate(backend: Backend, device: BackendDevice) -> None:
    """Give the device its next root, and have it confirm that."""
    offer(backend, device)
    device.rotate()
    assert attest(backend, device).standing is Standing.TRUSTED


def offer(backend: Backend, device: BackendDevice) -> RootMetadata:
    """Have the device be offered its next root; gives what the backend says of it."""
    with backend.database.transaction() as session:
        ask_rotation(session, device.name.hex(), by=local_administrator(), now=backend.clock())
    root = attest(backend, device).root
    assert root is not None
    key = backend.vault.signer(KeyRole.METADATA).public_key
    metadata = unseal(root.metadata, RootMetadata, key=key)
    assert [item.epoch for item in root.increments] == list(range(device.counter, metadata.epoch))
    return metadata


def attest(backend: Backend, device: BackendDevice) -> AttestReply:
    """Attest with a fresh challenge."""
    asked = ChallengeRequest(device=device.name, purpose=Purpose.ATTEST)
    with backend.database.reading() as session:
        given = backend.attestations.challenge(session, asked, now=backend.clock())
    device.next_nonce = given.nonce
    return device.attest(DirectApi(backend, device))


@pytest.fixture
def restored(
    backend: Backend,
    settings: Settings,
    device: BackendDevice,
    save_database: Callable[[], Callable[[], None]],
) -> Iterator[Callable[[Callable[[], object]], Backend]]:
    """Lets something happen, then gives the backend as it was before that, recovery noted."""
    opened: list[Backend] = []

    def restore(happens: Callable[[], object], *, noted: bool = True) -> Backend:
        put_back = save_database()
        happens()
        backend.database.close()
        put_back()
        again = open_backend(settings, passphrase=PASSPHRASE, clock=backend.clock)
        opened.append(again)
        if noted:
            with again.database.transaction() as session:
                note_recovery(session, by="test", note="a test", now=again.clock())
        return again

    yield restore
    for one in opened:
        one.database.close()


def epochs(backend: Backend, device: BackendDevice) -> dict[int, RootState]:
    """The roots that the database knows, and what they are."""
    with backend.database.reading() as session:
        return {root.epoch: root.state for root in roots_of(session, device.name.hex())}


def test_an_epoch_that_was_offered_and_forgotten_is_left_out(
    backend: Backend, device: BackendDevice, restored: Callable[..., Backend]
) -> None:
    """The device may hold root 8 already: the next one that it is given is root 9."""
    before: list[RootMetadata] = []
    again = restored(lambda: before.append(offer(backend, device)))
    assert before[0].epoch == 8
    given = offer(again, device)
    assert given.epoch == 9
    assert epochs(again, device) == {7: RootState.ACTIVE, 9: RootState.OFFERED}


def test_the_device_counts_over_the_epoch_that_is_left_out(
    backend: Backend, device: BackendDevice, restored: Callable[..., Backend]
) -> None:
    """Between the two counts it is trusted, and offered the same root again; then it is done."""
    again = restored(lambda: offer(backend, device))
    given = offer(again, device)
    device.rotate()
    between = attest(again, device)
    assert between.standing is Standing.TRUSTED
    assert between.root is not None
    assert [item.epoch for item in between.root.increments] == [8]
    assert between.approval is not None
    assert between.approval.epoch == given.epoch
    device.rotate()
    after = attest(again, device)
    assert (after.standing, after.root) == (Standing.TRUSTED, None)
    assert epochs(again, device) == {7: RootState.RETIRED, 9: RootState.ACTIVE}


def test_once_the_device_has_moved_on_no_more_epochs_are_left_out(
    backend: Backend, device: BackendDevice, restored: Callable[..., Backend]
) -> None:
    """A root that was made after the recovery is the newest that there can be."""
    again = restored(lambda: offer(backend, device))
    offer(again, device)
    device.counter += 2
    attest(again, device)
    assert offer(again, device).epoch == 10


def test_an_epoch_that_was_confirmed_and_forgotten_is_taken_over(
    backend: Backend, device: BackendDevice, restored: Callable[..., Backend]
) -> None:
    """The TPM's counter is believed, the device gets leave, and a new root at once."""

    def twice() -> None:
        rotate(backend, device)
        rotate(backend, device)

    again = restored(twice)
    assert device.counter == 9
    reply = attest(again, device)
    assert reply.standing is Standing.TRUSTED
    assert reply.approval is not None
    assert reply.approval.epoch == 9
    assert reply.root is not None
    key = again.vault.signer(KeyRole.METADATA).public_key
    assert unseal(reply.root.metadata, RootMetadata, key=key).epoch == 11
    assert epochs(again, device) == {
        7: RootState.RETIRED,
        9: RootState.ACTIVE,
        11: RootState.OFFERED,
    }
    with again.database.reading() as session:
        assert session.query(AuditRecord).filter_by(event=Event.EPOCH_RECOVERED).count() == 1


def test_without_a_noted_recovery_a_forgotten_epoch_fails(
    backend: Backend, device: BackendDevice, restored: Callable[..., Backend]
) -> None:
    """A counter that nobody can explain is believed only after an administrator's word."""
    again = restored(lambda: rotate(backend, device), noted=False)
    reply = attest(again, device)
    assert reply.standing is Standing.FAILED
    assert "epoch:unknown" in {finding.code for finding in reply.findings}


def test_a_recovery_does_not_cover_what_comes_after_it(
    backend: Backend, device: BackendDevice, restored: Callable[..., Backend]
) -> None:
    """Once a root was made after the recovery, a counter above it fails again."""
    again = restored(lambda: offer(backend, device))
    offer(again, device)
    device.counter += 2
    assert attest(again, device).standing is Standing.TRUSTED
    device.counter += 1
    reply = attest(again, device)
    assert reply.standing is Standing.FAILED
    assert "epoch:unknown" in {finding.code for finding in reply.findings}


def test_a_counter_that_went_back_fails_after_a_recovery_too(
    backend: Backend, device: BackendDevice, restored: Callable[..., Backend]
) -> None:
    """What was revoked before the backup stays revoked."""
    rotate(backend, device)
    again = restored(lambda: None)
    device.counter -= 1
    assert attest(again, device).standing is Standing.FAILED


def test_a_challenge_from_before_the_recovery_is_refused(
    backend: Backend, device: BackendDevice, restored: Callable[..., Backend]
) -> None:
    """It may have been answered already, which the backup does not know."""
    again = restored(lambda: None)
    with pytest.raises(ChallengeExpiredError) as caught:
        device.attest(DirectApi(again, device))
    assert caught.value.code == "challenge:expired"
    assert attest(again, device).standing is Standing.TRUSTED
