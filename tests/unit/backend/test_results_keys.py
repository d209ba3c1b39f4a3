"""The keys that sign results: published before they sign, and after."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select

from hwtrust.errors import ResultKeyEarlyError, SealedError
from hwtrust_backend.audit import AuditRecord, Event
from hwtrust_backend.keys import Secret
from hwtrust_backend.keys.sealing import seal_value, unseal_value
from hwtrust_backend.results import KeyState, ResultKey
from hwtrust_backend.results.jwks import coordinates, thumbprint
from hwtrust_backend.results.keys import LEAD_MS, MAX_AGE_SECONDS, TAIL_MS
from hwtrust_backend.testing import DAY, HOUR

if TYPE_CHECKING:
    from hwtrust_backend.app.backend import Backend
    from hwtrust_backend.testing import ManualClock


def keep(backend: Backend) -> None:
    """Do what is due with the keys."""
    with backend.database.transaction() as session:
        backend.results.keys.keep(session, now=backend.clock())


def states(backend: Backend) -> dict[str, str]:
    """Every key's state, by its name."""
    with backend.database.reading() as session:
        return {key.kid: key.state for key in backend.results.keys.report(session)}


def in_state(backend: Backend, state: KeyState) -> list[str]:
    """The names of the keys in that state."""
    return [kid for kid, found in states(backend).items() if found == state.value]


def published(backend: Backend) -> list[str]:
    """The names in the set of keys, in its order."""
    with backend.database.reading() as session:
        return [key.kid for key in backend.results.keys.published(session).keys]


def signing(backend: Backend) -> str:
    """The name of the key that signs now."""
    with backend.database.transaction() as session:
        return backend.results.keys.signing(session, now=backend.clock())[0]


def reasons(backend: Backend, event: Event) -> list[tuple[str, str]]:
    """Actor and reason of each record of an event."""
    with backend.database.reading() as session:
        query = select(AuditRecord).where(AuditRecord.event == event.value)
        return [(row.actor, row.reason) for row in session.scalars(query)]


def test_the_first_key_is_there_when_it_is_needed_with_the_next_beside_it(
    backend: Backend,
) -> None:
    """A new backend signs at once, and has published what comes next."""
    kid = signing(backend)
    assert in_state(backend, KeyState.CURRENT) == [kid]
    assert published(backend) == [kid, *in_state(backend, KeyState.NEXT)]
    assert len(published(backend)) == 2


def test_a_key_is_named_by_its_thumbprint_and_signs_what_it_publishes(backend: Backend) -> None:
    """Private and public half belong together."""
    with backend.database.transaction() as session:
        kid, key = backend.results.keys.signing(session, now=backend.clock())
    assert kid == thumbprint(*coordinates(key.public_key()))


def test_a_private_key_lies_in_the_database_sealed(backend: Backend) -> None:
    """A database that leaks signs nothing."""
    kid = signing(backend)
    with backend.database.reading() as session:
        row = session.get_one(ResultKey, kid)
        assert row.private is not None
        sealed = row.private
    key = backend.vault.derive("result keys")
    assert unseal_value(key, sealed, context=f"result key {kid}").reveal()[:1] == b"\x30"
    for other, context in (
        (key, "result key of another"),
        (Secret(bytes(32)), f"result key {kid}"),
        (backend.vault.derive("webhooks"), f"result key {kid}"),
    ):
        with pytest.raises(SealedError):
            unseal_value(other, sealed, context=context)


def test_what_was_changed_or_cut_short_does_not_unseal() -> None:
    """A sealed value is authentic as a whole."""
    key = Secret(bytes(range(32)))
    sealed = seal_value(key, b"plain", context="row 1")
    assert unseal_value(key, sealed, context="row 1").reveal() == b"plain"
    for damaged in (b"", sealed[:11], sealed[:-1], sealed[:-1] + bytes([sealed[-1] ^ 1])):
        with pytest.raises(SealedError) as caught:
            unseal_value(key, damaged, context="row 1")
        assert caught.value.code == "vault:sealed"


def test_a_key_signs_only_after_the_set_that_names_it_has_gone_round(
    backend: Backend, clock: ManualClock
) -> None:
    """By command, too, the next key waits until whoever keeps the set has it."""
    assert LEAD_MS >= 2 * MAX_AGE_SECONDS * 1000
    first = signing(backend)
    (following,) = in_state(backend, KeyState.NEXT)
    with (
        pytest.raises(ResultKeyEarlyError) as caught,
        backend.database.transaction() as session,
    ):
        backend.results.keys.rotate(session, by="cli:root", now=clock())
    assert caught.value.code == "result:key:early"
    assert signing(backend) == first
    clock.advance(LEAD_MS)
    with backend.database.transaction() as session:
        assert backend.results.keys.rotate(session, by="cli:root", now=clock()) == following
    assert signing(backend) == following
    assert ("cli:root", f"key {following}, asked") in reasons(backend, Event.RESULT_KEY_TURNED)


def test_a_previous_key_is_published_until_nothing_that_it_signed_is_good(
    backend: Backend, clock: ManualClock
) -> None:
    """A result that is in force can always be verified; then the key goes."""
    assert TAIL_MS > DAY
    first = signing(backend)
    clock.advance(LEAD_MS)
    with backend.database.transaction() as session:
        backend.results.keys.rotate(session, by="", now=clock())
    clock.advance(TAIL_MS - HOUR)
    keep(backend)
    assert first in published(backend)
    clock.advance(HOUR)
    keep(backend)
    assert first not in published(backend)
    assert states(backend)[first] == "gone"


def test_a_key_that_signs_no_more_has_lost_its_private_half(
    backend: Backend, clock: ManualClock
) -> None:
    """What is not there any more cannot be stolen."""
    first = signing(backend)
    clock.advance(LEAD_MS)
    with backend.database.transaction() as session:
        backend.results.keys.rotate(session, by="", now=clock())
    with backend.database.reading() as session:
        assert session.get_one(ResultKey, first).private is None


def test_keys_turn_at_their_age_and_not_before(backend: Backend, clock: ManualClock) -> None:
    """The background task turns what has lived its time, once."""
    first = signing(backend)
    lifetime = backend.settings.result_key_lifetime_ms
    clock.advance(lifetime - HOUR)
    with backend.database.reading() as session:
        assert not backend.results.keys.is_due(session, now=clock())
    keep(backend)
    assert signing(backend) == first
    clock.advance(2 * HOUR)
    with backend.database.reading() as session:
        assert backend.results.keys.is_due(session, now=clock())
    keep(backend)
    second = signing(backend)
    keep(backend)
    assert signing(backend) == second != first


def test_replicas_that_keep_the_keys_at_once_make_one_set(
    backend: Backend, clock: ManualClock
) -> None:
    """Of several that see the same thing due one acts, at the start and at every turn."""
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: keep(backend), range(4)))
    assert sorted(states(backend).values()) == ["current", "next"]
    clock.advance(backend.settings.result_key_lifetime_ms + HOUR)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: keep(backend), range(4)))
    assert sorted(states(backend).values()) == ["current", "next", "previous"]


def test_a_compromised_key_is_withdrawn_at_once(backend: Backend) -> None:
    """Nothing that was there is published any more; a new key signs, and one comes next."""
    old = {signing(backend), *in_state(backend, KeyState.NEXT)}
    with backend.database.transaction() as session:
        kid = backend.results.keys.withdraw(session, by="cli:root", now=backend.clock())
    assert signing(backend) == kid
    assert not old & set(published(backend))
    assert len(published(backend)) == 2
    assert {actor for actor, _ in reasons(backend, Event.RESULT_KEY_WITHDRAWN)} == {"cli:root"}
    with backend.database.reading() as session:
        assert all(session.get_one(ResultKey, one).private is None for one in old)
