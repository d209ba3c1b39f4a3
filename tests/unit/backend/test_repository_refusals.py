"""What the repository neither serves nor signs: other names, doubled keys, a damaged database."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from securesystemslib.exceptions import Error as SigningLibraryError
from securesystemslib.signer import CryptoSigner, Signature
from sqlalchemy import delete
from tuf.api.metadata import Root

from hwtrust.errors import (
    DatabaseError,
    RepositoryKeyError,
    RepositoryMetadataError,
    RepositoryTargetUnknownError,
)
from hwtrust_backend.repository import TufRepository, TufRole, metadata, newest
from hwtrust_backend.repository.reading import lock, metadata_named, target_named
from hwtrust_backend.repository.roots import RootChange
from simulators.release_bundle import Holder
from simulators.vendor import KERNEL

if TYPE_CHECKING:
    from simulators.vendor import Vendor


@pytest.mark.parametrize(
    "name",
    [
        "root.json",
        "0.root.json",
        "01.root.json",
        "2.root.json",
        "1.root.json~",
        "1.root.json/../x",
        "../x",
        "{}.timestamp.json",
    ],
)
def test_no_other_metadata_is_there(ready: Vendor, name: str) -> None:
    """Only the names of consistent snapshots: the timestamp has no version in its own."""
    ready.publish("1.1", KERNEL)
    asked = name.format(ready.version(TufRole.TIMESTAMP))
    with pytest.raises(RepositoryTargetUnknownError):
        ready.read(lambda session: metadata_named(session, asked))


def test_a_key_that_is_given_twice_is_one_key(vendor: Vendor) -> None:
    """A threshold of two is not met by whoever holds one key."""
    twice = (vendor.root[0].public,) * 2
    with pytest.raises(RepositoryMetadataError) as caught:
        vendor.propose(RootChange(root_keys=twice, threshold=2))
    assert caught.value.code == "repository:metadata"


def test_a_proposal_that_could_not_be_published_is_not_made(ready: Vendor) -> None:
    """Nobody signs, and travels with, what is refused in the end."""
    with pytest.raises(RepositoryMetadataError) as caught:
        ready.propose(RootChange(threshold=4))
    assert caught.value.code == "repository:metadata"


def test_a_key_without_a_role_is_not_in_the_next_root(ready: Vendor) -> None:
    """Who has lost a key for good does not see it vouched for again."""
    other = Holder.with_p256().public
    keys = json.loads(ready.propose(RootChange(targets_keys=(other,))))["signed"]["keys"]
    assert other.keyid in keys
    assert ready.targets.public.keyid not in keys


def test_metadata_that_no_client_would_read_is_not_read_here(vendor: Vendor) -> None:
    """However well it is formed: blanks behind it are not worth the memory."""
    first = vendor.first()
    assert metadata.decode(first, Root).signed.version == 1
    with pytest.raises(RepositoryMetadataError):
        metadata.decode(first.ljust(metadata.LIMITS[TufRole.ROOT] + 1), Root)


def test_several_who_sign_have_all_signed(vendor: Vendor) -> None:
    """A threshold of two is met in one go."""
    first = metadata.decode(vendor.first(), Root)
    metadata.sign(first, [holder.signer for holder in vendor.root[:2]])
    assert set(first.signatures) == {holder.public.keyid for holder in vendor.root[:2]}


def test_a_key_that_does_not_sign_is_said(vendor: Vendor) -> None:
    """A token that was pulled out ends in no traceback."""

    class PulledOut(CryptoSigner):
        def sign(self, payload: bytes) -> Signature:
            raise SigningLibraryError(f"{len(payload)} bytes are not signed")

    first = metadata.decode(vendor.first(), Root)
    with pytest.raises(RepositoryKeyError) as caught:
        metadata.sign(first, [PulledOut(vendor.root[0].key)])
    assert caught.value.code == "repository:key"
    assert not first.signatures


def test_a_list_of_targets_that_is_damaged_is_said(ready: Vendor) -> None:
    """A fault of the database's is not told as a release that is missing."""
    ready.publish("1.1", KERNEL)
    with ready.backend.database.transaction() as session:
        targets = newest(session, TufRole.TARGETS)
        assert targets is not None
        targets.content = b'{"signed": {}}'
    with pytest.raises(DatabaseError):
        ready.read(lambda session: target_named(session, "releases/1.1.json"))


def test_a_repository_whose_row_is_gone_signs_nothing(ready: Vendor) -> None:
    """Without it, two who sign at once would not wait for each other."""
    with ready.backend.database.transaction() as session:
        session.execute(delete(TufRepository))
        with pytest.raises(DatabaseError):
            lock(session)
