"""A backend without HTTP: real keys, a real database, a clock that the test turns."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from hwtrust_backend.app.setup import install, open_backend
from hwtrust_backend.config import Settings
from hwtrust_backend.db import Database
from hwtrust_backend.enrolment.tokens import create_token
from hwtrust_backend.keys import Secret
from hwtrust_backend.policies import activate_policy, add_policy
from hwtrust_backend.references import accept_release, add_release
from hwtrust_backend.testing import CHEAP, HOUR, ManualClock, policy_document
from simulators.attester import make_release

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from hwtrust_backend.app.backend import Backend
    from simulators.postgres import Postgres
    from simulators.vendor import Vendor

PASSPHRASE = Secret(b"protects nothing")


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A database at this version's schema."""
    made = Database(database_url)
    yield made
    made.close()


@pytest.fixture
def clock() -> ManualClock:
    """The backend's clock."""
    return ManualClock()


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    """The settings."""
    return Settings(data_dir=str(tmp_path / "data"), database=database_url)


@pytest.fixture
def backend(settings: Settings, clock: ManualClock) -> Iterator[Backend]:
    """A backend that accepts release 1.0."""
    install(settings, passphrase=PASSPHRASE, clock=clock, cost=CHEAP)
    opened = open_backend(settings, passphrase=PASSPHRASE, clock=clock)
    release = make_release()
    with opened.database.transaction() as session:
        add_release(session, release, now=clock())
        accept_release(session, release.name, now=clock())
    yield opened
    opened.database.close()


@pytest.fixture
def vendor(backend: Backend, tmp_path: Path) -> Vendor:
    """A vendor before the first ceremony."""
    from simulators.vendor import Vendor  # noqa: PLC0415 - loads the TUF library

    return Vendor(backend, tmp_path)


@pytest.fixture
def ready(vendor: Vendor) -> Vendor:
    """A vendor after the first ceremony."""
    vendor.begin()
    return vendor


@pytest.fixture
def token(backend: Backend) -> str:
    """An enrolment token, good for an hour."""
    with backend.database.transaction() as session:
        return create_token(session, label="", lifetime_ms=HOUR, now=backend.clock())


@pytest.fixture
def hold_to_document(backend: Backend) -> Callable[[str], None]:
    """Holds all devices to a policy from now on."""

    def hold(document: str) -> None:
        now = backend.clock()
        with backend.database.transaction() as session:
            stored = add_policy(session, "default", document, by="test", now=now)
            activate_policy(session, "default", stored.version, signers={}, by="test", now=now)

    return hold


@pytest.fixture
def hold_to(backend: Backend) -> Callable[..., None]:
    """Holds all devices to the default policy with other fields from now on."""

    def hold(**changes: object) -> None:
        with backend.database.transaction() as session:
            document = policy_document(**changes)
            stored = add_policy(session, "default", document, by="test", now=backend.clock())
            activate_policy(
                session, "default", stored.version, signers={}, by="test", now=backend.clock()
            )

    return hold


@pytest.fixture
def save_database(
    backend: Backend, database_url: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Callable[[], Callable[[], None]]:
    """Saves the backend's database as it is now; what it gives puts that back."""

    def save() -> Callable[[], None]:
        backend.database.close()
        if backend.database.is_postgresql:
            server: Postgres = request.getfixturevalue("postgres")
            saved = server.save(database_url)
            return lambda: server.restore(database_url, saved)
        file, copy = tmp_path / "backend.sqlite", tmp_path / "saved.sqlite"
        with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)

        def restore() -> None:
            for suffix in ("-wal", "-shm"):
                file.with_name(file.name + suffix).unlink(missing_ok=True)
            shutil.copy(copy, file)

        return restore

    return save
