"""When a root is due, and when it is granted."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select

from hwtrust.wire.cel import Event as LogEvent
from hwtrust.wire.cel import EventKind
from hwtrust.wire.messages import Standing
from hwtrust_backend import references
from hwtrust_backend.admin import local_administrator, rules
from hwtrust_backend.audit import AuditRecord, Event
from hwtrust_backend.config.clock import MINUTE
from hwtrust_backend.enrolment import Device, lock_device
from hwtrust_backend.monitor.due import grant_due, note_missing, retire_gone
from hwtrust_backend.policies import Group, policy_of, read_policy
from hwtrust_backend.publishing import RootState, StoredRoot, release_accepted, roots_of, schedule
from hwtrust_backend.publishing.campaigns import Campaign, expand
from hwtrust_backend.publishing.schedule import MISSING_MS, Reason, RotationBudget
from hwtrust_backend.testing import DAY, HOUR, SECOND, policy_document
from simulators.attester import make_release
from simulators.backend_clients import BackendDevice, DirectApi, enrolled_device
from simulators.device_rows import add_device, add_groups
from simulators.fleet_rows import add_rows, name_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from hwtrust.wire.messages import AttestReply
    from hwtrust_backend.app.backend import Backend
    from hwtrust_backend.testing import ManualClock

MIDNIGHT = 20_000 * DAY
NIGHTLY = {"windows": ["01:00-05:00"], "jitter": "1h"}


@pytest.fixture
def device(backend: Backend) -> BackendDevice:
    """An enrolled device."""
    return enrolled_device(backend)


def attest(backend: Backend, device: BackendDevice) -> AttestReply:
    """An attestation with a fresh challenge and a certificate that is in force."""
    device.tpm.advance(max(backend.clock() - device.tpm.clock.clock, 0))
    device.session(DirectApi(backend))
    return device.attest(DirectApi(backend, device))


def row_of(backend: Backend, name: str) -> Device:
    """The device as it is stored."""
    with backend.database.reading() as session:
        return session.get_one(Device, name)


def change(backend: Backend, name: str, **values: object) -> None:
    """Set columns of a device's row."""
    with backend.database.transaction() as session:
        row = lock_device(session, name)
        for column, value in values.items():
            setattr(row, column, value)


def root(name: str, *, made_at: int, lifetime: int = 30 * DAY) -> StoredRoot:
    """An active root that was never stored."""
    return StoredRoot(
        device=name,
        epoch=1,
        state=RootState.ACTIVE,
        made_at=made_at,
        confirmed_at=made_at,
        not_after=made_at + lifetime,
    )


def events_of(backend: Backend, name: str) -> Counter[str]:
    """How often each event is in the trail of a device."""
    with backend.database.reading() as session:
        rows = session.query(AuditRecord.event).filter(AuditRecord.device == name)
        return Counter(event for (event,) in rows)


def copies(backend: Backend, device: BackendDevice, count: int, *, due_at: int | None) -> list[str]:
    """More devices, all due at one time and never missed."""
    return add_rows(
        backend.database,
        template=device.name.hex(),
        count=count,
        due_at=lambda _: due_at,
        missed_at=lambda _: None,
    )


# --- windows and jitter -------------------------------------------------------------------


def test_a_fleet_that_enrolled_at_once_does_not_age_at_once() -> None:
    """Roots of one moment become due over the whole jitter before two thirds of their life."""
    policy = read_policy(policy_document(rotation={"jitter": "1h"}))
    due = [schedule.age_due_at(root(name_of(n), made_at=0), policy=policy) for n in range(2000)]
    assert min(due) >= 20 * DAY - HOUR
    assert max(due) <= 20 * DAY
    by_minute = Counter(at // MINUTE for at in due)
    assert len(by_minute) > 55
    assert max(by_minute.values()) < 80


def test_a_device_s_jitter_is_the_same_every_time() -> None:
    """Nothing is to be won by asking again."""
    assert schedule.jitter("a", HOUR) == schedule.jitter("a", HOUR)
    assert {schedule.jitter(name_of(n), 1000) for n in range(50)} <= set(range(1000))
    assert schedule.jitter("a", 0) == 0


@pytest.mark.parametrize(
    ("at", "earliest", "latest"),
    [
        pytest.param(0, 1, 2, id="before the window it waits for the window"),
        pytest.param(2, 2, 3, id="in the window it begins at once"),
        pytest.param(12, 25, 26, id="after the window it waits for the next day's"),
    ],
)
def test_what_is_due_begins_in_a_window(at: int, earliest: int, latest: int) -> None:
    """A trigger's roots spread from the window's beginning on, by the jitter (hours)."""
    policy = read_policy(policy_document(rotation=NIGHTLY))
    now = MIDNIGHT + at * HOUR
    due = [schedule.due_at(name_of(n), Reason.RELEASE, policy=policy, now=now) for n in range(300)]
    assert min(due) >= MIDNIGHT + earliest * HOUR
    assert max(due) < MIDNIGHT + latest * HOUR
    assert max(due) - min(due) > HOUR // 2


def test_a_jitter_longer_than_the_window_stays_in_it() -> None:
    """Otherwise most devices would meet at the next window's first moment."""
    rotation = {"windows": ["01:00-01:30"], "jitter": "6h"}
    policy = read_policy(policy_document(rotation=rotation))
    due = [
        schedule.due_at(name_of(n), Reason.RELEASE, policy=policy, now=MIDNIGHT) for n in range(300)
    ]
    assert all(MIDNIGHT + HOUR <= at < MIDNIGHT + HOUR + 30 * MINUTE for at in due)


def test_an_application_s_event_is_not_put_off_by_the_jitter() -> None:
    """What one device does by itself is no stampede."""
    policy = read_policy(policy_document(rotation={"jitter": "6h"}))
    assert schedule.due_at("a", Reason.EVENT, policy=policy, now=5) == 5


def test_a_window_never_holds_a_root_until_its_last_sixth() -> None:
    """A root that no window meets in time is due all the same (rule 3)."""
    rotation = {"windows": ["Mon 01:00-01:30"], "jitter": "0s"}
    spans = {"root_lifetime": "3d", "offline_grace": "1d"}
    policy = read_policy(policy_document(rotation=rotation, **spans))
    tuesday = 20_004 * DAY
    aging = root("a", made_at=tuesday, lifetime=3 * DAY)
    assert schedule.urgent_at(aging) == tuesday + 60 * HOUR
    assert schedule.age_due_at(aging, policy=policy) == tuesday + 60 * HOUR


def test_a_shortened_lifetime_counts_for_roots_that_are_there() -> None:
    """A policy that gets stricter does not wait for old roots to end."""
    rotation = {"jitter": "0s"}
    policy = read_policy(policy_document(root_lifetime="9d", rotation=rotation))
    assert schedule.age_due_at(root("a", made_at=0), policy=policy) == 6 * DAY


# --- triggers -----------------------------------------------------------------------------


def fails_and_recovers(backend: Backend, device: BackendDevice) -> AttestReply:
    """A layer changes while the device runs, and a reboot mends it."""
    device.append(LogEvent(EventKind.VIOLATION, "kernel", "1.0", bytes(32)))
    assert attest(backend, device).standing is Standing.FAILED
    device.reset()
    device.load(make_release())
    return attest(backend, device)


def is_missed_and_comes_back(backend: Backend, device: BackendDevice) -> AttestReply:
    """The device is silent for an hour, and the watchdog sees it."""
    change(backend, device.name.hex(), watchdog_at=backend.clock())
    with backend.database.transaction() as session:
        assert note_missing(session, now=backend.clock()) == 1
    return attest(backend, device)


def sees_a_release(backend: Backend, device: BackendDevice) -> AttestReply:
    """Another release is accepted."""
    with backend.database.transaction() as session:
        release_accepted(session, "1.0", by="cli:root", now=backend.clock())
    with backend.database.transaction() as session:
        expand(session, now=backend.clock())
    return attest(backend, device)


TRIGGERS: dict[str, Callable[[Backend, BackendDevice], AttestReply]] = {
    "mismatch": fails_and_recovers,
    "watchdog": is_missed_and_comes_back,
    "release": sees_a_release,
}


@pytest.mark.parametrize("trigger", TRIGGERS)
def test_a_trigger_that_the_policy_names_brings_a_new_root(
    backend: Backend, device: BackendDevice, hold_to: Callable[..., None], trigger: str
) -> None:
    """The attestation that follows is answered with the next root, for that reason."""
    hold_to(rotation={"triggers": [trigger], "jitter": "0s"})
    reply = TRIGGERS[trigger](backend, device)
    assert reply.standing is Standing.TRUSTED
    assert reply.root is not None
    with backend.database.reading() as session:
        assert [row.reason for row in roots_of(session, device.name.hex())][1:] == [trigger]


@pytest.mark.parametrize("trigger", TRIGGERS)
def test_a_trigger_that_the_policy_does_not_name_brings_nothing(
    backend: Backend, device: BackendDevice, hold_to: Callable[..., None], trigger: str
) -> None:
    """The administrator decides which occasions count."""
    others = [other for other in TRIGGERS if other != trigger]
    hold_to(rotation={"triggers": others, "jitter": "0s"})
    reply = TRIGGERS[trigger](backend, device)
    assert reply.standing is Standing.TRUSTED
    assert reply.root is None


def test_a_trigger_never_puts_off_what_is_due_earlier(
    backend: Backend, device: BackendDevice
) -> None:
    """The earliest moment counts, with its reason."""
    policy = read_policy(policy_document(rotation={"jitter": "0s"}))
    row = row_of(backend, device.name.hex())
    now = backend.clock()
    assert schedule.make_due(row, Reason.RELEASE, policy=policy, now=now)
    assert schedule.make_due(row, Reason.MISMATCH, policy=policy, now=now + HOUR)
    assert (row.rotate_at, row.rotation_reason) == (now, "release")


def test_a_retired_device_is_never_due(backend: Backend, device: BackendDevice) -> None:
    """Nobody rotates what is out of service, and its row does not come up again."""
    name = device.name.hex()
    now = backend.clock()
    change(backend, name, retired_at=now, rotate_at=now, watchdog_at=now)
    assert not schedule.make_due(
        row_of(backend, name), Reason.ASKED, policy=read_policy(policy_document()), now=now
    )
    with backend.database.transaction() as session:
        assert grant_due(session, now=now) == 1
        assert note_missing(session, now=now) == 1
    row = row_of(backend, name)
    assert (row.rotate_at, row.watchdog_at, row.silent_since) == (None, None, None)


LIFE = 37 * DAY
"""Of a root, and the grace, by the default policy."""
GONE: dict[str, tuple[str, dict[str, object], bool]] = {
    "a TD that is silent for longer than its root lives": ("tdx", {}, True),
    "a Nitro enclave": ("nitro", {}, True),
    "a realm": ("cca", {}, True),
    "one that may still have its root": ("tdx", {"attested_at": DAY + 1}, False),
    "one that is not missed": ("tdx", {"silent_since": None}, False),
    "one that an administrator has locked": ("tdx", {"locked_at": 1}, False),
    "one that may have sealed its root": ("snp", {}, False),
    "a TPM": ("tpm", {}, False),
    "one whose group has no policy in force": ("tdx", {"group": "lawless"}, False),
}


@pytest.mark.parametrize("case", GONE)
def test_enclaves_that_keep_nothing_are_retired_when_they_are_gone(
    backend: Backend, case: str
) -> None:
    """Each start makes another row: those that can never come back leave by themselves."""
    kind, changes, retired = GONE[case]
    now = DAY + LIFE + 1
    fields = {"kind": kind, "attested_at": DAY, "silent_since": DAY + HOUR, "rotate_at": now}
    with backend.database.transaction() as session:
        session.add(Group(name="lawless", label="", policy="none", created_at=1))
        name = add_device(session, 1, **(fields | changes))
    with backend.database.transaction() as session:
        assert retire_gone(session, now=now) == retired
        assert retire_gone(session, now=now) == 0
    row = row_of(backend, name)
    assert row.retired_at == (now if retired else None)
    assert (row.rotate_at is None) is retired
    with backend.database.reading() as session:
        query = select(AuditRecord.device).where(AuditRecord.event == Event.ENCLAVE_GONE)
        assert list(session.scalars(query)) == ([name] if retired else [])


def test_enclaves_that_are_gone_are_retired_some_at_a_time(backend: Backend) -> None:
    """However many there are, and of however many groups."""
    with backend.database.transaction() as session:
        add_groups(session, "eu")
        for number in range(5):
            group = ("default", "eu")[number % 2]
            add_device(session, number, kind="nitro", group=group, silent_since=2)
    found = []
    for _ in range(3):
        with backend.database.transaction() as session:
            found.append(retire_gone(session, now=LIFE + 2, limit=4))
    assert found == [4, 1, 0]


def test_a_confirmed_root_begins_a_new_age(backend: Backend, device: BackendDevice) -> None:
    """After a rotation the next one is due by the new root's age."""
    with backend.database.transaction() as session:
        schedule.ask(session, lock_device(session, device.name.hex()), now=backend.clock())
    assert attest(backend, device).root is not None
    assert row_of(backend, device.name.hex()).rotate_at is None
    device.rotate()
    assert attest(backend, device).root is None
    row = row_of(backend, device.name.hex())
    assert row.rotation_reason == "age"
    assert row.rotate_at is not None
    assert 20 * DAY - 2 * HOUR < row.rotate_at - backend.clock() <= 20 * DAY


# --- the rate of a group --------------------------------------------------------------------


def granted_by(backend: Backend, now: int) -> int:
    """How many devices' roots are granted by then."""
    with backend.database.reading() as session:
        return session.query(Device).filter(Device.rotation_asked_at <= now).count()


def test_a_group_s_roots_are_granted_at_its_rate(
    backend: Backend, device: BackendDevice, hold_to: Callable[..., None]
) -> None:
    """A minute's worth at once, then the rate, and each device once."""
    hold_to(rotation={"per_minute": 10, "jitter": "0s"})
    begin = backend.clock()
    copies(backend, device, 45, due_at=begin - 1)
    for minute, expected in enumerate((10, 20, 30, 40, 45, 45)):
        now = begin + minute * MINUTE
        for offset in range(0, MINUTE, 6 * SECOND):
            with backend.database.transaction() as session:
                grant_due(session, now=now + offset)
            if offset == 0:
                assert granted_by(backend, now) == min(expected, 10 + 10 * minute)
    with backend.database.reading() as session:
        budget = session.get(RotationBudget, "default")
        assert budget is not None
        # 45 moments were reserved, one for each device: none twice.
        assert budget.free_at == begin - MINUTE + 6 * SECOND + 45 * 6 * SECOND


def test_what_waits_for_the_rate_is_not_looked_at_again_before_its_time(
    backend: Backend, device: BackendDevice, hold_to: Callable[..., None]
) -> None:
    """A stampede costs two looks for each device, however long it lasts."""
    hold_to(rotation={"per_minute": 1, "jitter": "0s"})
    now = backend.clock()
    copies(backend, device, 30, due_at=now - 1)
    with backend.database.transaction() as session:
        assert grant_due(session, now=now) == 30
    with backend.database.transaction() as session:
        assert grant_due(session, now=now + 1) == 0
    with backend.database.transaction() as session:
        assert grant_due(session, now=now + MINUTE) == 1


def test_one_group_s_rate_does_not_hold_up_another(
    backend: Backend, device: BackendDevice, hold_to: Callable[..., None]
) -> None:
    """Groups have a rate each."""
    hold_to(rotation={"per_minute": 1, "jitter": "0s"})
    now = backend.clock()
    for first, group in ((0, "default"), (100, "other")):
        add_rows(
            backend.database,
            template=device.name.hex(),
            count=5,
            first=first,
            due_at=lambda _: now - 1,
            missed_at=lambda _: None,
            group=group,
        )
    with backend.database.transaction() as session:
        grant_due(session, now=now)
    with backend.database.reading() as session:
        granted = session.query(Device.group).filter(Device.rotation_asked_at <= now)
        assert sorted(group for (group,) in granted) == ["default", "other"]


def test_what_is_reserved_beyond_a_window_goes_to_the_next_one(
    backend: Backend, hold_to: Callable[..., None]
) -> None:
    """The rate's moments lie in windows only."""
    hold_to(rotation={"per_minute": 1, "windows": ["01:00-01:10"], "jitter": "0s"})
    now = MIDNIGHT + HOUR
    with backend.database.transaction() as session:
        policy = policy_of(session, "default")
        slots = schedule.reserve(session, "default", 25, policy=policy, now=now)
    days = Counter(at // DAY - now // DAY for at in slots)
    assert days == {0: 10, 1: 10, 2: 5}
    assert all(HOUR <= at % DAY < HOUR + 10 * MINUTE for at in slots)


@pytest.mark.parametrize("limit", ["window", "rate"])
def test_a_limit_never_lets_a_root_expire(
    backend: Backend,
    device: BackendDevice,
    clock: ManualClock,
    hold_to: Callable[..., None],
    limit: str,
) -> None:
    """In the last sixth of its life a root is replaced whatever the limits say (rule 3)."""
    name = device.name.hex()
    hold_to(rotation={"per_minute": 1, "jitter": "0s"})
    clock.advance(21 * DAY)
    far = clock() + 9 * DAY
    if limit == "rate":
        with backend.database.transaction() as session:
            session.add(RotationBudget(group="default", free_at=far))
    else:
        change(backend, name, rotate_at=far, rotation_asked_at=far)
    assert attest(backend, device).root is None
    clock.advance(4 * DAY + HOUR)
    assert attest(backend, device).root is not None


def test_a_due_root_in_its_last_sixth_is_granted_while_the_rate_is_used_up(
    backend: Backend, device: BackendDevice, clock: ManualClock, hold_to: Callable[..., None]
) -> None:
    """The scan looks at the root's end too, not only attestations."""
    hold_to(rotation={"per_minute": 1, "jitter": "0s"})
    clock.advance(26 * DAY)
    now = clock()
    with backend.database.transaction() as session:
        session.add(RotationBudget(group="default", free_at=now + 3 * DAY))
    with backend.database.transaction() as session:
        assert grant_due(session, now=now) == 1
    assert row_of(backend, device.name.hex()).rotation_asked_at == now


def test_an_administrator_s_word_counts_at_once(
    backend: Backend, device: BackendDevice, hold_to: Callable[..., None]
) -> None:
    """Neither window nor rate holds for it."""
    hold_to(rotation={"per_minute": 1, "triggers": []})
    with backend.database.transaction() as session:
        session.add(RotationBudget(group="default", free_at=backend.clock() + DAY))
        schedule.ask(session, lock_device(session, device.name.hex()), now=backend.clock())
    assert attest(backend, device).root is not None
    with backend.database.reading() as session:
        assert roots_of(session, device.name.hex())[1].reason == "asked"


# --- campaigns --------------------------------------------------------------------------------


def due_devices(backend: Backend) -> int:
    """How many devices are due for a release."""
    with backend.database.reading() as session:
        return session.query(Device).filter(Device.rotation_reason == "release").count()


def test_a_release_makes_a_group_due_little_by_little(
    backend: Backend, device: BackendDevice, hold_to: Callable[..., None]
) -> None:
    """Accepting costs a row; the devices follow at the group's rate, by name."""
    hold_to(rotation={"per_minute": 20})
    copies(backend, device, 50, due_at=None)
    begin = backend.clock()
    with backend.database.transaction() as session:
        assert len(release_accepted(session, "1.0", by="cli:root", now=begin)) == 1
    assert due_devices(backend) == 0
    seen = []
    for minute in range(4):
        with backend.database.transaction() as session:
            expand(session, now=begin + minute * MINUTE)
        with backend.database.transaction() as session:
            assert expand(session, now=begin + minute * MINUTE) == 0
        seen.append(due_devices(backend))
    assert seen == [20, 40, 51, 51]
    with backend.database.reading() as session:
        (campaign,) = session.query(Campaign)
        assert (campaign.taken, campaign.actor, campaign.detail) == (51, "cli:root", "1.0")
        assert campaign.finished_at == begin + 2 * MINUTE


def test_a_device_that_enrolled_after_the_release_is_not_due_for_it(
    backend: Backend, device: BackendDevice
) -> None:
    """Its root is newer than the reason."""
    begin = row_of(backend, device.name.hex()).enrolled_at
    with backend.database.transaction() as session:
        release_accepted(session, "1.0", by="cli:root", now=begin - 1)
    with backend.database.transaction() as session:
        assert expand(session, now=backend.clock()) == 1
    assert due_devices(backend) == 0


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"releases": ["1.0"]}, id="the policy accepts other releases"),
        pytest.param({"rotation": {"triggers": []}}, id="releases are no trigger"),
    ],
)
def test_a_release_that_does_not_concern_a_group_starts_nothing(
    backend: Backend, hold_to: Callable[..., None], changes: dict[str, object]
) -> None:
    """A campaign is for groups that accept the release, and replace roots for it."""
    hold_to(**changes)
    with backend.database.transaction() as session:
        assert release_accepted(session, "2.0", by="cli:root", now=1) == []


def test_a_policy_that_accepts_another_release_starts_a_campaign(backend: Backend) -> None:
    """Where a policy names its releases, it is the policy by which a new one comes; once."""
    by = local_administrator()

    def hold(*releases: str) -> None:
        with backend.database.transaction() as session:
            added = rules.add_policy(
                session,
                "default",
                policy_document(releases=list(releases)),
                settings=backend.settings,
                by=by,
                now=1,
            )
            rules.activate_policy(
                session, "default", added.version, settings=backend.settings, by=by, now=1
            )

    def campaigns() -> list[str]:
        with backend.database.reading() as session:
            return list(session.scalars(select(Campaign.detail).order_by(Campaign.id)))

    hold("1.0")
    with backend.database.transaction() as session:
        references.add_release(session, make_release("2.0"), now=1)
        references.accept_release(session, "2.0", now=1)
        assert release_accepted(session, "2.0", by=by.name, now=1) == []
    hold("1.0")
    assert campaigns() == []
    hold("1.0", "2.0")
    assert campaigns() == ["2.0"]
    hold("1.0")
    hold("2.0", "1.0", "3.0")
    assert campaigns() == ["2.0"]


def test_a_group_that_gets_another_policy_starts_a_campaign_as_well(backend: Backend) -> None:
    """For the release that its devices may run by it; not where releases are no trigger."""
    by = local_administrator()
    documents = {
        "none": policy_document(releases=[]),
        "silent": policy_document(rotation={"triggers": []}),
        "all": policy_document(),
    }
    with backend.database.transaction() as session:
        for name, document in documents.items():
            rules.add_policy(session, name, document, settings=backend.settings, by=by, now=1)
            rules.activate_policy(session, name, 1, settings=backend.settings, by=by, now=1)
        for name in ("none", "silent", "none"):
            rules.set_group(session, "line", policy=name, by=by, now=1)
        rules.set_group(session, "new", policy="all", by=by, now=1)
    with backend.database.transaction() as session:
        assert session.query(Campaign).count() == 0
        rules.set_group(session, "line", policy="all", by=by, now=1)
    with backend.database.reading() as session:
        assert [(row.group, row.detail) for row in session.query(Campaign)] == [("line", "1.0")]


def test_a_newer_release_ends_the_campaign_for_the_older_one(backend: Backend) -> None:
    """A group is gone through for one release at a time."""
    with backend.database.transaction() as session:
        release_accepted(session, "1.0", by="cli:root", now=1)
        release_accepted(session, "2.0", by="cli:root", now=2)
    with backend.database.reading() as session:
        running = session.query(Campaign).filter(Campaign.finished_at.is_(None))
        assert [campaign.detail for campaign in running] == ["2.0"]


# --- the watchdog --------------------------------------------------------------------------------


def test_a_device_that_misses_its_time_is_noted_once(
    backend: Backend, device: BackendDevice, clock: ManualClock
) -> None:
    """Silence is an event when it begins, and another one when it ends."""
    name = device.name.hex()
    attest(backend, device)
    due = row_of(backend, name).watchdog_at
    assert due is not None
    assert due - row_of(backend, name).attested_at == 20 * MINUTE
    for now, silent in ((due - 1, None), (due, due), (due + HOUR, due)):
        with backend.database.transaction() as session:
            note_missing(session, now=now)
        assert row_of(backend, name).silent_since == silent
    assert events_of(backend, name)[Event.WATCHDOG_MISSED] == 1
    clock.advance(HOUR)
    attest(backend, device)
    assert row_of(backend, name).silent_since is None
    assert events_of(backend, name)[Event.WATCHDOG_HEARD] == 1


def test_a_missing_device_takes_nothing_of_the_rate_until_it_is_back(
    backend: Backend, device: BackendDevice, clock: ManualClock, hold_to: Callable[..., None]
) -> None:
    """Its root is looked at now and then, and due again as soon as it is heard of."""
    hold_to(rotation={"triggers": [], "jitter": "0s"})
    name = device.name.hex()
    now = clock()
    change(backend, name, silent_since=now, rotate_at=now, rotation_reason="release")
    with backend.database.transaction() as session:
        assert grant_due(session, now=now) == 1
        assert session.get(RotationBudget, "default") is None
    assert row_of(backend, name).rotate_at == now + MISSING_MS
    assert attest(backend, device).root is not None
