"""Waking devices that wait: nobody is forgotten, nobody is woken for nothing."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from hwtrust.errors import TokenError, WaitersFullError
from hwtrust_backend import push
from hwtrust_backend.db import Database
from hwtrust_backend.enrolment import lock_device
from hwtrust_backend.push import Waiters, pending, wake
from simulators.backend_clients import BackendDevice, DirectApi, enrolled_device
from simulators.fleet_rows import add_rows

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from hwtrust_backend.app.backend import Backend

LONG = 50.0
"""Seconds that no test waits: whoever waits so long has been forgotten."""


@pytest.fixture
def device(backend: Backend) -> BackendDevice:
    """An enrolled device."""
    return enrolled_device(backend)


@pytest.fixture
def name(device: BackendDevice) -> str:
    """The device's name."""
    return device.name.hex()


@pytest.fixture
def replicas(backend: Backend) -> Iterator[tuple[Waiters, Waiters]]:
    """Those who wait at two replicas, each with a connection pool of its own."""
    databases = [Database(backend.settings.database_url) for _ in range(2)]
    waiters = [Waiters(database, limit=5000) for database in databases]
    yield waiters[0], waiters[1]
    for waiting in waiters:
        waiting.close()
    for database in databases:
        database.close()


def wake_now(backend: Backend, name: str, reason: str = "rotation") -> None:
    """Wake a device, in a transaction that is committed."""
    with backend.database.transaction() as session:
        wake(session, name, reason=reason)


def reasons(backend: Backend, name: str) -> dict[str, str]:
    """What is pending for a device."""
    with backend.database.reading() as session:
        return pending(session, [name])


def waits_for_a_lock(backend: Backend) -> bool:
    """Whether a transaction of PostgreSQL waits for another."""
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    with backend.database.reading() as session:
        return bool(session.execute(waiting).scalar_one())


async def until(condition: Callable[[], bool]) -> None:
    """Let others run until something is so."""
    while not condition():  # noqa: ASYNC110 - nothing tells of it
        await asyncio.sleep(0)


def run(work: Awaitable[object]) -> None:
    """Run a test in an event loop of its own, which ends what hangs."""

    async def limited() -> None:
        async with asyncio.timeout(LONG / 2):
            await work

    asyncio.run(limited())


# --- wakes ----------------------------------------------------------------------------------


def test_a_wake_is_pending_until_the_device_has_attested(
    backend: Backend, device: BackendDevice, name: str
) -> None:
    """An accepted attestation answers it; no other write is needed."""
    assert reasons(backend, name) == {}
    wake_now(backend, name)
    assert reasons(backend, name) == {name: "rotation"}
    device.attest(DirectApi(backend, device))
    assert reasons(backend, name) == {}
    wake_now(backend, name, "lock")
    assert reasons(backend, name) == {name: "lock"}


def test_a_wake_that_is_rolled_back_never_was(backend: Backend, name: str) -> None:
    """Nobody is told of what did not happen."""
    with pytest.raises(TokenError), backend.database.transaction() as session:  # noqa: PT012
        wake(session, name)
        raise TokenError("refused")
    assert reasons(backend, name) == {}


def test_an_unknown_device_is_nobody_to_wake(backend: Backend) -> None:
    """Waking it is no error, and leaves nothing."""
    wake_now(backend, "000b")
    assert reasons(backend, "000b") == {}


def test_an_attestation_under_way_does_not_answer_a_wake_that_it_knew_nothing_of(
    backend: Backend, name: str
) -> None:
    """It may have been decided before: the wake stays pending for the next one."""
    with backend.database.transaction() as session:
        row = lock_device(session, name)
        row.nonce_issued += 1
        session.flush()
        woken = threading.Thread(target=wake_now, args=(backend, name))
        woken.start()
        while backend.database.is_postgresql and woken.is_alive() and not waits_for_a_lock(backend):
            continue
    woken.join()
    assert reasons(backend, name) == {name: "rotation"}


# --- waiting ---------------------------------------------------------------------------------


def test_a_waiting_device_is_told_on_every_replica(
    backend: Backend, name: str, replicas: tuple[Waiters, Waiters]
) -> None:
    """Whoever wakes it, and wherever it waits."""

    async def work() -> None:
        for waiters in replicas:
            waiting = asyncio.create_task(waiters.wait(name, seconds=LONG))
            await until(lambda waiters=waiters: len(waiters) == 1)  # type: ignore[misc]
            await asyncio.to_thread(wake_now, backend, name)
            assert await waiting == "rotation"
            with backend.database.transaction() as session:
                lock_device(session, name).nonce_issued += 1

    run(work())


def test_a_device_that_begins_to_wait_is_told_of_what_was_before(
    backend: Backend, device: BackendDevice, name: str, replicas: tuple[Waiters, Waiters]
) -> None:
    """A wake between two waits, that nobody was there to hear, is not lost."""
    (other,) = add_rows(
        backend.database,
        template=name,
        count=1,
        due_at=lambda _: None,
        missed_at=lambda _: None,
    )

    async def work() -> None:
        hears = asyncio.create_task(replicas[0].wait(other, seconds=LONG))
        await until(lambda: len(replicas[0]) == 1)
        await asyncio.to_thread(wake_now, backend, name)
        await asyncio.to_thread(wake_now, backend, other)
        # Both were heard once the later one is told.
        assert await hears == "rotation"
        assert await replicas[0].wait(name, seconds=LONG) == "rotation"

    run(work())


def test_no_wake_is_lost_however_it_meets_the_wait(
    backend: Backend, name: str, replicas: tuple[Waiters, Waiters]
) -> None:
    """Waits and wakes at the same time, many times: every wait ends with its reason."""

    async def work() -> None:
        for _ in range(10):
            told = await asyncio.gather(
                replicas[0].wait(name, seconds=LONG), asyncio.to_thread(wake_now, backend, name)
            )
            assert told[0] == "rotation"
            with backend.database.transaction() as session:
                lock_device(session, name).nonce_issued += 1

    run(work())


def test_another_device_is_not_told(
    backend: Backend, name: str, replicas: tuple[Waiters, Waiters]
) -> None:
    """A wake is for one device."""

    async def work() -> None:
        other = asyncio.create_task(replicas[0].wait("000b", seconds=LONG))
        meant = asyncio.create_task(replicas[0].wait(name, seconds=LONG))
        await until(lambda: len(replicas[0]) == 2)
        await asyncio.to_thread(wake_now, backend, name)
        assert await meant == "rotation"
        assert not other.done()
        other.cancel()

    run(work())


def test_a_wait_that_meets_nothing_ends_in_time(
    name: str, replicas: tuple[Waiters, Waiters]
) -> None:
    """It says so, and leaves nothing behind."""

    async def work() -> None:
        assert not await replicas[0].wait(name, seconds=0)
        assert len(replicas[0]) == 0

    run(work())


def test_the_newer_wait_of_a_device_ends_the_older_one(
    backend: Backend, name: str, replicas: tuple[Waiters, Waiters]
) -> None:
    """A device whose connection broke takes one place only."""

    async def work() -> None:
        older = asyncio.create_task(replicas[0].wait(name, seconds=LONG))
        await until(lambda: len(replicas[0]) == 1)
        newer = asyncio.create_task(replicas[0].wait(name, seconds=LONG))
        assert not await older
        assert len(replicas[0]) == 1
        await asyncio.to_thread(wake_now, backend, name)
        assert await newer == "rotation"

    run(work())


def test_so_many_may_wait_and_no_more(backend: Backend) -> None:
    """Those who wait leave room for those who attest; one that has a place keeps it."""
    waiters = Waiters(backend.database, limit=1)

    async def work() -> None:
        first = asyncio.create_task(waiters.wait("a", seconds=LONG))
        await until(lambda: len(waiters) == 1)
        with pytest.raises(WaitersFullError) as caught:
            await waiters.wait("b", seconds=LONG)
        assert caught.value.code == "wait:full"
        again = asyncio.create_task(waiters.wait("a", seconds=LONG))
        assert not await first
        waiters.end()
        assert not await again

    run(work())
    waiters.close()


def test_the_end_of_the_process_ends_every_wait_at_once(
    name: str, replicas: tuple[Waiters, Waiters]
) -> None:
    """Nobody holds up a shutdown, and nobody waits any more."""

    async def work() -> None:
        waiting = [
            asyncio.create_task(replicas[0].wait(each, seconds=LONG)) for each in (name, "a", "b")
        ]
        await until(lambda: len(replicas[0]) == 3)
        replicas[0].end()
        assert await asyncio.gather(*waiting) == ["", "", ""]
        assert not await replicas[0].wait(name, seconds=LONG)

    run(work())


def test_thousands_wait_with_one_thread_and_one_connection(
    backend: Backend, device: BackendDevice, replicas: tuple[Waiters, Waiters]
) -> None:
    """A waiter costs a future; the one that is woken is told among all of them."""
    names = add_rows(
        backend.database,
        template=device.name.hex(),
        count=2000,
        due_at=lambda _: None,
        missed_at=lambda _: None,
    )

    async def work() -> None:
        before = threading.active_count()
        waiting = [asyncio.create_task(replicas[0].wait(each, seconds=LONG)) for each in names]
        await until(lambda: len(replicas[0]) == 2000)
        # The one that hears, and those of the loop's executor, which look at the beginning.
        assert threading.active_count() - before <= 1 + 32
        await asyncio.to_thread(wake_now, backend, names[1234])
        assert await waiting[1234] == "rotation"
        replicas[0].end()
        told = await asyncio.gather(*waiting)
        assert [reason for reason in told if reason] == ["rotation"]

    run(work())


def test_a_wake_while_the_connection_is_away_is_told_when_it_is_back(
    backend: Backend,
    name: str,
    replicas: tuple[Waiters, Waiters],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever hears again looks for everybody who waits."""
    if not backend.database.is_postgresql:
        pytest.skip("SQLite has no connection that could go away")
    monkeypatch.setattr(push.waiters, "RETRY_SECONDS", 0.3)
    listening = text(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        " WHERE query LIKE 'LISTEN %' AND datname = current_database()"
    )

    def cut() -> int:
        with backend.database.transaction() as session:
            return int(session.execute(listening).scalar_one())

    async def work() -> None:
        waiting = asyncio.create_task(replicas[0].wait(name, seconds=LONG))
        while not await asyncio.to_thread(cut):  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0)
        await asyncio.to_thread(wake_now, backend, name)
        assert await waiting == "rotation"

    run(work())
