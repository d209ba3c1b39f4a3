"""Sessions of people, and the numbers of the fleet, on both databases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import select

from hwtrust.errors import CredentialsError, SessionMissingError
from hwtrust.wire.messages import Mode, Standing
from hwtrust_backend.admin.api_tokens import create_api_token, revoke_api_token
from hwtrust_backend.admin.principals import Principal, Role, local_administrator
from hwtrust_backend.audit import AuditRecord, Event
from hwtrust_backend.config.clock import DAY, HOUR, MINUTE, SECOND
from hwtrust_backend.enrolment import Device
from hwtrust_backend.enrolment.models import AllowedEk
from hwtrust_backend.monitor.activity import Activity, attestations_by_minute
from hwtrust_backend.monitor.fleet import FRESH_MS, SLOW_MS, FleetView, count_fleet
from hwtrust_backend.pages.models import PageSession
from hwtrust_backend.pages.protection import form_token
from hwtrust_backend.pages.sessions import (
    end_sessions,
    sign_in,
    sign_in_by_token,
    sign_out,
    signed_in,
    sweep,
    touch,
)
from hwtrust_backend.policies import add_group
from hwtrust_backend.publishing import RootState, StoredRoot
from hwtrust_backend.testing import ManualClock
from simulators.attester import make_release
from simulators.backend_clients import BackendDevice, DirectApi

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from hwtrust_backend.app.backend import Backend

ALICE = Principal("oidc:alice@example.org", Role.OPERATOR, frozenset({"lab"}))
NOW = 1_900_000_000_000


def api_token(session: Session, *, role: Role = Role.ADMINISTRATOR, now: int = NOW) -> str:
    """A token that is good for two hours."""
    by = local_administrator()
    _, token = create_api_token(
        session, name="ci", role=role, groups=None, lifetime_ms=2 * HOUR, by=by, now=now
    )
    session.flush()
    return token


def events(session: Session) -> list[str]:
    """The events of the trail."""
    return list(session.scalars(select(AuditRecord.event).order_by(AuditRecord.sequence)))


# --- sessions ---------------------------------------------------------------------------


def test_whoever_signed_in_is_who_they_were(backend: Backend) -> None:
    """A session knows its person, role, groups and form token."""
    with backend.database.transaction() as session:
        cookie = sign_in(session, ALICE, now=NOW)
        found = signed_in(session, cookie, now=NOW + MINUTE - 1)
        assert found.principal == ALICE
        assert found.form_token == form_token(cookie)
        assert not found.stale


def test_the_database_does_not_hold_the_cookie(backend: Backend) -> None:
    """Whoever reads the database can sign in as nobody."""
    with backend.database.transaction() as session:
        cookie = sign_in(session, ALICE, now=NOW)
        (row,) = session.scalars(select(PageSession))
        held = [str(getattr(row, column.key)) for column in PageSession.__mapper__.column_attrs]
        assert not any(cookie in text for text in held)
        for guess in (row.digest.hex(), row.digest.decode("latin-1"), "", None, "x" * 10_000):
            with pytest.raises(SessionMissingError) as caught:
                signed_in(session, guess, now=NOW)
            assert caught.value.code == "page:session:missing"


def test_no_two_sign_ins_have_one_session(backend: Backend) -> None:
    """Each sign-in makes a new random id."""
    with backend.database.transaction() as session:
        assert sign_in(session, ALICE, now=NOW) != sign_in(session, ALICE, now=NOW)


def test_a_session_ends_after_an_hour_without_use(backend: Backend) -> None:
    """Use keeps it alive, and nothing else."""
    with backend.database.transaction() as session:
        cookie = sign_in(session, ALICE, now=NOW)
        assert signed_in(session, cookie, now=NOW + MINUTE).stale
        touch(session, cookie, now=NOW + HOUR - 1)
        session.expire_all()
        signed_in(session, cookie, now=NOW + 2 * HOUR - 2)
        with pytest.raises(SessionMissingError):
            signed_in(session, cookie, now=NOW + 2 * HOUR - 1)


def test_a_session_ends_after_eight_hours_however_it_is_used(backend: Backend) -> None:
    """Nobody stays signed in for ever."""
    with backend.database.transaction() as session:
        cookie = sign_in(session, ALICE, now=NOW)
        touch(session, cookie, now=NOW + 8 * HOUR - 1)
        session.expire_all()
        signed_in(session, cookie, now=NOW + 8 * HOUR - 1)
        with pytest.raises(SessionMissingError):
            signed_in(session, cookie, now=NOW + 8 * HOUR)


def test_signing_out_ends_the_session_and_is_recorded(backend: Backend) -> None:
    """A cookie that was copied opens nothing any more."""
    with backend.database.transaction() as session:
        cookie, other = sign_in(session, ALICE, now=NOW), sign_in(session, ALICE, now=NOW)
        sign_out(session, cookie, now=NOW)
        sign_out(session, cookie, now=NOW)
        with pytest.raises(SessionMissingError):
            signed_in(session, cookie, now=NOW)
        signed_in(session, other, now=NOW)
    with backend.database.reading() as session:
        assert events(session)[-3:] == [
            Event.SESSION_OPENED,
            Event.SESSION_OPENED,
            Event.SESSION_CLOSED,
        ]


def test_all_sessions_of_a_person_end_together(backend: Backend) -> None:
    """Signing out everywhere leaves other people alone."""
    bob = Principal("oidc:bob", Role.VIEWER, None)
    with backend.database.transaction() as session:
        mine = [sign_in(session, ALICE, now=NOW) for _ in range(3)]
        his = sign_in(session, bob, now=NOW)
        assert end_sessions(session, ALICE.name, now=NOW) == 3
        for cookie in mine:
            with pytest.raises(SessionMissingError):
                signed_in(session, cookie, now=NOW)
        signed_in(session, his, now=NOW)


def test_sessions_that_are_over_are_forgotten(backend: Backend) -> None:
    """The table does not grow for ever."""
    with backend.database.transaction() as session:
        sign_in(session, ALICE, now=NOW)
        sign_in(session, ALICE, now=NOW + 50 * MINUTE)
        sweep(session, now=NOW + HOUR)
        assert len(list(session.scalars(select(PageSession)))) == 1


def test_a_bad_token_opens_no_session(backend: Backend) -> None:
    """What the API refuses, the page refuses."""
    with backend.database.transaction() as session:
        token = api_token(session)
        for bad in ("", "hwt_" + "A" * 43, token[:-1], token + "x"):
            with pytest.raises(CredentialsError):
                sign_in_by_token(session, bad, now=NOW)
        with pytest.raises(CredentialsError):
            sign_in_by_token(session, token, now=NOW + 2 * HOUR)


def test_a_tokens_session_ends_with_the_token(backend: Backend) -> None:
    """Revoked or expired, a token leaves no session behind."""
    with backend.database.transaction() as session:
        cookie = sign_in_by_token(session, api_token(session), now=NOW)
        assert signed_in(session, cookie, now=NOW).principal.name == "token:ci"
        touch(session, cookie, now=NOW + 2 * HOUR - 1)
        session.expire_all()
        with pytest.raises(SessionMissingError):
            signed_in(session, cookie, now=NOW + 2 * HOUR)
        revoke_api_token(session, "ci", by=local_administrator(), now=NOW)
        with pytest.raises(SessionMissingError):
            signed_in(session, cookie, now=NOW + 1)


# --- the fleet in numbers -----------------------------------------------------------------


def add_devices(backend: Backend, clock: ManualClock) -> list[str]:
    """Five devices: trusted, failed, silent, locked in the group lab, retired."""
    device = BackendDevice(backend)
    device.load(make_release())
    with backend.database.transaction() as session:
        session.add(AllowedEk(name=device.name.hex(), label="", added_at=clock(), group="default"))
    device.enrol(DirectApi(backend, device))
    device.attest(DirectApi(backend, device))
    names = [device.name.hex(), *(f"000b{number:064x}" for number in range(4))]
    changes: list[dict[str, Any]] = [
        {"standing": Standing.FAILED, "standing_since": clock() - HOUR, "mode": Mode.LOCKED},
        {"silent_since": clock() - MINUTE, "counter": 9},
        {"group": "lab", "mode": Mode.LOCKED, "locked_at": clock()},
        {"standing": Standing.FAILED, "retired_at": clock()},
    ]
    with backend.database.transaction() as session:
        add_group(session, "lab", policy="default", label="", by="test", now=clock())
        row = session.get_one(Device, names[0])
        for name, change in zip(names[1:], changes, strict=True):
            session.add(copied(row, id=name, **change))
    return names


def copied(row: Device, **changes: object) -> Device:
    """A device like another one."""
    values = {column.key: getattr(row, column.key) for column in Device.__mapper__.column_attrs}
    return Device(**{**values, **changes})


def test_devices_are_counted_by_how_they_are(backend: Backend, clock: ManualClock) -> None:
    """Each device counts once; a retired one counts as nothing else."""
    add_devices(backend, clock)
    with backend.database.reading() as session:
        fleet = count_fleet(session, groups=None, now=clock())
    counts = fleet.counts
    assert counts.standing == {Standing.TRUSTED: 3, Standing.INCOMPLETE: 0, Standing.FAILED: 1}
    assert counts.mode == {Mode.NORMAL: 2, Mode.LIMITED: 0, Mode.LOCKED: 2}
    assert (counts.total, counts.silent, counts.retired) == (4, 1, 1)
    assert fleet.slow.epochs == {7: 3, 9: 1}


def test_who_needs_somebody_is_named_with_the_reason(backend: Backend, clock: ManualClock) -> None:
    """Failed and missed devices, and none that is retired."""
    names = add_devices(backend, clock)
    with backend.database.reading() as session:
        fleet = count_fleet(session, groups=None, now=clock())
    assert [row.device for row in fleet.failed] == [names[1]]
    assert [row.device for row in fleet.silent] == [names[2]]
    assert fleet.failed[0].next_step
    assert fleet.silent[0].silent_since is not None


def test_a_reader_of_some_groups_gets_their_numbers_alone(
    backend: Backend, clock: ManualClock
) -> None:
    """What belongs to others is in no count, no list and no picture."""
    names = add_devices(backend, clock)
    with backend.database.reading() as session:
        lab = count_fleet(session, groups=frozenset({"lab"}), now=clock())
        none = count_fleet(session, groups=frozenset(), now=clock())
        rest = count_fleet(session, groups=frozenset({"default"}), now=clock())
    assert lab.counts.total == 1
    assert (lab.failed, lab.silent, lab.slow.root_ages, lab.slow.epochs) == ((), (), {}, {7: 1})
    assert none.counts.total == 0
    assert [row.device for row in rest.failed] == [names[1]]
    assert rest.slow.root_ages == {0: 1}


def test_ages_of_roots_are_of_those_in_use(backend: Backend, clock: ManualClock) -> None:
    """A retired root has no age; the one in use grows old by days."""
    names = add_devices(backend, clock)
    with backend.database.transaction() as session:
        (root,) = session.scalars(select(StoredRoot).where(StoredRoot.device == names[0]))
        values = {
            column.key: getattr(root, column.key) for column in StoredRoot.__mapper__.column_attrs
        }
        old = {"epoch": 3, "state": RootState.RETIRED, "made_at": root.made_at - 90 * DAY}
        session.add(StoredRoot(**{**values, **old}))
    clock.advance(3 * DAY)
    with backend.database.reading() as session:
        assert count_fleet(session, groups=None, now=clock()).slow.root_ages == {3: 1}


def test_rotations_are_found_by_when_they_are_due(backend: Backend, clock: ManualClock) -> None:
    """Overdue ones are due now; what is due after a week is not in the picture."""
    names = add_devices(backend, clock)
    now = clock()
    due = [now - HOUR, now + 90 * MINUTE, now + 6 * DAY, now + 8 * DAY, now + HOUR]
    with backend.database.transaction() as session:
        for name, at in zip(names, due, strict=True):
            session.get_one(Device, name).rotate_at = at
    with backend.database.reading() as session:
        found = count_fleet(session, groups=None, now=now).slow.rotations
    # The last one is retired.
    assert found == {0: 1, 1: 1, 144: 1}


def test_a_fleet_is_counted_once_in_ten_seconds(backend: Backend, clock: ManualClock) -> None:
    """However many look, the numbers are made once; who sees others gets others."""
    names, view = add_devices(backend, clock), FleetView()
    now = clock()
    with backend.database.reading() as session:
        first = view.look(session, groups=None, now=now)
    with backend.database.transaction() as session:
        session.get_one(Device, names[0]).silent_since = now
    with backend.database.reading() as session:
        assert view.look(session, groups=None, now=now + FRESH_MS - 1) is first
        lab = view.look(session, groups=frozenset({"lab"}), now=now)
        assert lab.counts.total == 1
        assert view.look(session, groups=None, now=now + FRESH_MS).counts.silent == 2
        assert view.look(session, groups=None, now=now + FRESH_MS).slow is first.slow
        assert view.look(session, groups=None, now=now + SLOW_MS).slow is not first.slow
        # A clock that was set back does not make an old picture last.
        assert view.look(session, groups=None, now=now - DAY).at == now - DAY
        view.forget()
        assert view.look(session, groups=None, now=now).at == now


def test_the_counts_use_no_row_of_a_device(backend: Backend) -> None:
    """An overview's cost is that of an index: SQLite says so itself."""
    if backend.database.is_postgresql:
        pytest.skip("PostgreSQL chooses by how many rows there are")
    queries = {
        "SELECT standing, mode, count(retired_at), count(silent_since) FROM devices "
        'GROUP BY "group", standing, mode': "COVERING INDEX ix_devices_fleet",
        "SELECT counter, count(*) FROM devices WHERE retired_at IS NULL GROUP BY counter": (
            "COVERING INDEX ix_devices_fleet"
        ),
        "SELECT (1 - made_at) / 86400000, count(*) FROM roots WHERE state = 'active' GROUP BY 1": (
            "COVERING INDEX ix_roots_active_made"
        ),
        "SELECT * FROM devices WHERE standing = 'failed' AND retired_at IS NULL "
        "ORDER BY standing_since DESC LIMIT 12": "INDEX ix_devices_standing_since",
    }
    with backend.database.reading() as session:
        for query, index in queries.items():
            plan = session.connection().exec_driver_sql(f"EXPLAIN QUERY PLAN {query}").all()
            assert any(index in str(step) for step in plan), plan


# --- attestations a minute ---------------------------------------------------------------


def test_attestations_of_all_processes_are_added_up(backend: Backend) -> None:
    """Each process writes rows of its own; what is counted twice in a minute is added."""
    one, other = Activity(), Activity()
    for activity in (one, one, other):
        activity.count(now=NOW)
        with backend.database.transaction() as session:
            activity.write(session, activity.take(), now=NOW)
    one.count(now=NOW + MINUTE, amount=5)
    with backend.database.transaction() as session:
        one.write(session, one.take(), now=NOW + MINUTE)
    with backend.database.reading() as session:
        found = attestations_by_minute(session, since=NOW - HOUR, until=NOW + HOUR)
    assert found == {NOW // MINUTE: 3, NOW // MINUTE + 1: 5}


def test_what_could_not_be_written_is_not_lost() -> None:
    """Counts that were given back are in the next ones."""
    activity = Activity()
    activity.count(now=NOW)
    taken = activity.take()
    assert activity.take() == {}
    activity.count(now=NOW + SECOND)
    activity.give_back(taken)
    assert activity.take() == {NOW // MINUTE: 2}


def test_old_minutes_are_forgotten(backend: Backend) -> None:
    """Two days are kept."""
    activity = Activity()
    with backend.database.transaction() as session:
        activity.write(session, {NOW // MINUTE: 1}, now=NOW)
        activity.write(session, {}, now=NOW + 2 * DAY)
        assert attestations_by_minute(session, since=NOW, until=NOW + DAY)
        activity.write(session, {}, now=NOW + 2 * DAY + MINUTE)
        assert attestations_by_minute(session, since=NOW, until=NOW + DAY) == {}
