"""The newest tree head is kept beside the database too: an older database is noticed.

    audit trail ──(signed, every minute)──▶ DATA/audit-head.json ──(each start)──▶ is it all there?

Rules:
1. A backend does not start on a database that lacks what it has signed for: roots
   that were given away would be forgotten, and their epochs given away again.
2. An administrator's word (`hwtrust-backend recovered`) lets it start: from then on
   `publishing.recovery` sees to it that nothing forgotten is done twice.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from hwtrust.errors import AuditError, ConfigError, DatabaseOlderError
from hwtrust.wire.envelope import Envelope
from hwtrust_backend.audit import (
    check_continues,
    decode_head,
    open_head,
    sign_head,
    tree_of,
)
from hwtrust_backend.config import Clock, Settings, write_file
from hwtrust_backend.db import Database
from hwtrust_backend.keys import KeyRole, KeyVault
from hwtrust_backend.publishing import recovered_at

HEAD_NAME: Final = "audit-head.json"
_FILE_LIMIT: Final = 64 * 1024


def keep_head(database: Database, settings: Settings, vault: KeyVault, *, clock: Clock) -> None:
    """Sign the audit trail as it stands, and keep the signed head beside the database.

    Raises:
        DatabaseOlderError: the trail lacks what was signed before.
        AuditError: it does not continue what was signed before.
    """
    # In line with the other workers here: a head never makes place for an older one.
    with _alone_in(settings.directory):
        require_newest(database, settings, vault)
        now, signer = clock(), vault.signer(KeyRole.AUDIT)
        head = database.run(
            lambda session: sign_head(session, signer, origin=settings.url, now=now)
        )
        if head is not None:
            write_file(settings.directory / HEAD_NAME, head.envelope, mode=0o600, replace=True)


@contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def require_newest(database: Database, settings: Settings, vault: KeyVault) -> None:
    """Refuse a database that lacks what the kept tree head says (rule 1).

    Raises:
        DatabaseOlderError: it is older, or another one.
        ConfigError: the kept head cannot be read.
        AuditHeadForgedError: it is not this backend's.
    """
    envelope = kept_head(settings.directory)
    if envelope is None:
        return
    head = open_head(envelope, key=vault.signer(KeyRole.AUDIT).public_key)
    with database.reading() as session:
        if recovered_at(session) > head.utc_ms:
            return
        try:
            check_continues(session, head, tree_of(session))
        except AuditError as error:
            message = f"the database lacks audit records that were there at {head.size} records"
            raise DatabaseOlderError(message, records=head.size) from error


def kept_head(directory: Path) -> Envelope | None:
    """The tree head that is kept beside the database, not yet verified.

    Raises:
        ConfigError: it cannot be read.
        AuditHeadForgedError: it is none.
    """
    path = directory / HEAD_NAME
    try:
        with path.open("rb") as file:
            content = file.read(_FILE_LIMIT)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", path=str(path)) from error
    return decode_head(content)
