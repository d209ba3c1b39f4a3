"""The engine: both kinds of database, what is secret, what is repeated, what is durable."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import traceback
from typing import TYPE_CHECKING

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import select, text

from hwtrust.errors import DatabaseError, HwTrustError, TokenError
from hwtrust_backend.config import Settings
from hwtrust_backend.db import Database, migrate
from hwtrust_backend.db import schema as schema_module
from hwtrust_backend.db.engine import ATTEMPTS
from hwtrust_backend.enrolment import AllowedEk
from simulators.postgres import NEEDS_PASSWORD

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sqlalchemy.orm import Session

    from simulators.postgres import Postgres

PASSWORD = "correct-horse"


@pytest.fixture
def postgres_database(postgres: Postgres) -> Iterator[Database]:
    """A database of PostgreSQL, for what only it can do."""
    url = postgres.create()
    made = Database(url)
    yield made
    made.close()
    postgres.drop(url)


@pytest.fixture
def connect() -> Iterator[Callable[[str], Database]]:
    """Opens databases, and closes them after the test."""
    with contextlib.ExitStack() as stack:

        def opened(url: str) -> Database:
            database = Database(url)
            stack.callback(database.close)
            return database

        yield opened


def count(database: Database) -> int:
    """How many EKs are allowed: any table serves."""
    with database.reading() as session:
        return len(session.scalars(select(AllowedEk)).all())


def add(session: Session, name: str) -> None:
    """Write one row."""
    session.add(AllowedEk(name=name, label="", added_at=1))
    session.flush()


# --- the password ------------------------------------------------------------------------


@pytest.fixture
def locked_url(postgres: Postgres) -> Iterator[str]:
    """The URL of a database whose user needs a password, without it."""
    postgres.execute(f"CREATE ROLE {NEEDS_PASSWORD} LOGIN PASSWORD '{PASSWORD}'")
    yield postgres.url("postgres", user=NEEDS_PASSWORD)
    postgres.execute(f"DROP ROLE {NEEDS_PASSWORD}")


def everything_said(error: HwTrustError, caplog: pytest.LogCaptureFixture) -> str:
    """What an administrator could find in a terminal or a log."""
    return "".join([*traceback.format_exception(error), repr(error), caplog.text])


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://hwtrust:{}@/nothing?host=/nonexistent",
        "postgresql://hwtrust:{}@localhost:notaport/x",
        "postgresql+asyncpg://hwtrust:{}@localhost/x",
        "postgresql://hwtrust:{}@localhost:1/x",
        "postgresql://hwtrust:{}@/x?host=/nonexistent&nonsense=1",
    ],
)
def test_the_password_is_in_no_error(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever is wrong with the URL, what is said of it does not hold the password."""
    caplog.set_level(logging.DEBUG)
    with pytest.raises(DatabaseError) as caught:
        migrate(Database(url.format(PASSWORD)))
    assert caught.value.code == "database"
    assert PASSWORD not in everything_said(caught.value, caplog)


def test_the_password_is_in_no_repr(tmp_path: Path) -> None:
    """Neither the settings nor the database show it."""
    url = f"postgresql://hwtrust:{PASSWORD}@localhost/hwtrust"
    settings = Settings(data_dir=str(tmp_path), database=url)
    database = Database(url)
    for shown in (repr(settings), str(settings), repr(database), database.shown_url):
        assert PASSWORD not in shown
    assert settings.database == url


def test_a_wrong_password_is_refused_and_not_shown(
    postgres: Postgres, locked_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The role of these tests really needs its password."""
    assert locked_url
    wrong = postgres.url("postgres", user=NEEDS_PASSWORD, password="wrong-horse")
    with pytest.raises(DatabaseError) as caught, Database(wrong).reading():
        pass
    assert "wrong-horse" not in everything_said(caught.value, caplog)


def test_the_password_may_be_in_the_url_or_in_a_file(
    postgres: Postgres,
    locked_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    connect: Callable[[str], Database],
) -> None:
    """The file is one of libpq's, named by the URL or by PGPASSFILE: a credential of systemd."""
    file = tmp_path / "pgpass"
    file.write_text(f"*:*:*:{NEEDS_PASSWORD}:{PASSWORD}\n")
    file.chmod(0o400)
    reached = [
        postgres.url("postgres", user=NEEDS_PASSWORD, password=PASSWORD),
        f"{locked_url}&passfile={file}",
    ]
    for url in reached:
        with connect(url).reading() as session:
            assert session.scalar(text("SELECT current_user")) == NEEDS_PASSWORD
    monkeypatch.setenv("PGPASSFILE", str(file))
    with connect(locked_url).reading() as session:
        assert session.scalar(text("SELECT current_user")) == NEEDS_PASSWORD


@pytest.mark.parametrize("url", ["mysql://x/y", "oracle://x", "sqlite+aiosqlite://", "", "x:y"])
def test_another_kind_of_database_is_refused(url: str) -> None:
    """What was never tested is not tried."""
    with pytest.raises(DatabaseError):
        Database(url)


# --- the schema --------------------------------------------------------------------------


def test_the_modules_of_migrations_are_the_revisions_that_alembic_knows() -> None:
    """The short way to a schema's version says what the long way says."""
    config = Config()
    config.set_main_option("script_location", str(schema_module._MIGRATIONS))
    scripts = ScriptDirectory.from_config(config)
    known = tuple(script.revision for script in scripts.walk_revisions())
    assert schema_module.revisions() == tuple(reversed(known))
    assert scripts.get_current_head() == schema_module.revisions()[-1]


def test_a_schema_that_is_up_to_date_needs_neither_alembic_nor_a_lock(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every start of a command or a replica passes here, also while another one writes."""
    monkeypatch.setitem(sys.modules, "alembic", None)
    with database.transaction() as session:
        add(session, "held")
        migrate(database)
    assert count(database) == 1


def test_replicas_that_start_at_once_migrate_once(
    database_kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """All come up on one empty database, and its schema is there."""
    url = f"sqlite:///{tmp_path / 'empty.sqlite'}"
    if database_kind == "postgresql":
        server: Postgres = request.getfixturevalue("postgres")
        url = server.create(migrated=False)
    ready = threading.Barrier(3)
    failed: list[HwTrustError] = []

    def start() -> None:
        replica = Database(url)
        ready.wait()
        try:
            migrate(replica)
        except HwTrustError as error:
            failed.append(error)
        finally:
            replica.close()

    threads = [threading.Thread(target=start) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    database = Database(url)
    assert count(database) == 0
    database.close()


# --- the unit of work ---------------------------------------------------------------------


def test_a_deadlock_is_done_again(postgres_database: Database) -> None:
    """Two that lock the same rows in opposite order both get done."""
    database = postgres_database
    with database.transaction() as session:
        add(session, "a")
        add(session, "b")
    both = threading.Barrier(2)
    tries: list[str] = []

    def lock(first: str, second: str) -> None:
        def work(session: Session) -> None:
            tries.append(first)
            session.get_one(AllowedEk, first, with_for_update=True).label += first
            session.flush()
            if len(tries) <= 2:
                both.wait()
            session.get_one(AllowedEk, second, with_for_update=True).label += first

        database.run(work)

    threads = [threading.Thread(target=lock, args=pair) for pair in (("a", "b"), ("b", "a"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(tries) == 3
    with database.reading() as session:
        assert {"".join(sorted(row.label)) for row in session.scalars(select(AllowedEk))} == {"ab"}


def test_what_was_refused_is_not_done_again(database: Database) -> None:
    """Only what the database gave up is repeated; a refusal leaves nothing."""
    tries = 0

    def work(session: Session) -> None:
        nonlocal tries
        tries += 1
        add(session, "x")
        raise TokenError("refused")

    with pytest.raises(TokenError):
        database.run(work)
    assert (tries, count(database)) == (1, 0)


def test_a_key_that_is_taken_is_refused(database: Database) -> None:
    """A conflict stays a conflict however often it is tried, and it is not tried for ever."""
    tries = 0

    def work(session: Session) -> None:
        nonlocal tries
        tries += 1
        add(session, "x")

    database.run(work)
    with pytest.raises(DatabaseError):
        database.run(work)
    assert tries == 1 + (ATTEMPTS if database.is_postgresql else 1)
    assert count(database) == 1


def test_who_was_slower_to_add_a_row_sees_the_others(database: Database) -> None:
    """Two that find nothing and add the same key both get done: the later one finds it."""
    both = threading.Barrier(2)
    found: list[bool] = []
    tries: list[str] = []

    def work(session: Session) -> None:
        there = session.get(AllowedEk, "x") is not None
        tries.append("x")
        if len(tries) <= 2 and database.is_postgresql:
            both.wait()
        if not there:
            add(session, "x")
        found.append(there)

    threads = [threading.Thread(target=database.run, args=(work,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [False, True]
    assert count(database) == 1


def test_connections_that_broke_are_replaced(
    postgres: Postgres, postgres_database: Database
) -> None:
    """After the server went away the next unit of work has a new connection."""
    assert count(postgres_database) == 0
    name = postgres_database.engine.url.database
    postgres.execute(
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"  # noqa: S608
    )
    assert count(postgres_database) == 0


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("transaction_isolation", "read committed"),
        ("synchronous_commit", "on"),
        ("statement_timeout", "30s"),
        ("lock_timeout", "15s"),
        ("idle_in_transaction_session_timeout", "1min"),
    ],
)
def test_postgresql_works_by_our_settings(
    postgres_database: Database, setting: str, expected: str
) -> None:
    """Durable, and nothing waits for ever, whatever the server's own configuration says."""
    with postgres_database.reading() as session:
        assert session.scalar(text(f"SHOW {setting}")) == expected


def test_an_administrator_may_set_options_of_a_session(
    postgres: Postgres, connect: Callable[[str], Database]
) -> None:
    """What the URL says decides over what we say."""
    url = postgres.url("postgres") + "&options=-c%20lock_timeout%3D7s"
    with connect(url).reading() as session:
        assert session.scalar(text("SHOW lock_timeout")) == "7s"
        assert session.scalar(text("SHOW statement_timeout")) == "30s"


def test_sqlite_commits_durably(tmp_path: Path, connect: Callable[[str], Database]) -> None:
    """The write-ahead log is flushed at every commit."""
    with connect(f"sqlite:///{tmp_path / 'x.sqlite'}").reading() as session:
        assert session.scalar(text("PRAGMA synchronous")) == 2
        assert session.scalar(text("PRAGMA journal_mode")) == "wal"


def test_a_cursor_left_open_is_closed_with_its_transaction(database: Database) -> None:
    """Reading a long table may stop anywhere."""
    with database.transaction() as session:
        for name in ("a", "b", "c"):
            add(session, name)
    with database.reading() as session:
        rows = session.scalars(select(AllowedEk).execution_options(yield_per=1))
        assert next(iter(rows)).name == "a"
        del rows
    assert count(database) == 3
