"""A backend without HTTP: real keys, a real database, a clock that the test turns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from hwtrust.wire.messages import TlsKeyKind
from hwtrust_backend.app.setup import install, open_backend
from hwtrust_backend.config import Settings
from hwtrust_backend.enrolment.tokens import create_token
from hwtrust_backend.keys import Secret
from hwtrust_backend.references import accept_release, add_release
from hwtrust_backend.testing import CHEAP, HOUR, ManualClock
from simulators.attester import make_release

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from hwtrust_backend.app.backend import Backend

PASSPHRASE = Secret(b"protects nothing")


@pytest.fixture
def clock() -> ManualClock:
    """The backend's clock."""
    return ManualClock()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """The settings; both kinds of TLS keys are accepted."""
    return Settings(data_dir=str(tmp_path / "data"), tls_keys=frozenset(TlsKeyKind))


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
def token(backend: Backend) -> str:
    """An enrolment token, good for an hour."""
    with backend.database.transaction() as session:
        return create_token(session, label="", lifetime_ms=HOUR, now=backend.clock())


@pytest.fixture
def other_settings(settings: Settings) -> Settings:
    """The same settings, that accept no TLS key at all."""
    return msgspec.structs.replace(settings, tls_keys=frozenset())
