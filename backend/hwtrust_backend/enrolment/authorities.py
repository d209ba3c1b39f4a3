"""The TPM vendors' CAs: in the database, and in a directory that a package may have filled.

Rules:
1. What an administrator imports is in the database: every replica has it. The
   directory is read besides, and never written.
2. The directory holds certificates (`.pem`, `.crt`, `.cer`, `.der`) and
   revocation lists (`.crl`). It is read again when it has changed.
3. A CA that has not signed itself counts below a root only; it is an anchor
   where an administrator says so, never by where it lies.
4. What is added has to fit all the rest: a revocation list that no longer
   verifies would stop every enrolment.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from threading import Lock
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from hwtrust.errors import (
    ConfigError,
    EkAuthorityConflictError,
    EkAuthorityUnknownError,
    EkTrustError,
)
from hwtrust.verify.ek import EkTrust
from hwtrust_backend.audit import Event, record
from hwtrust_backend.db import EK_AUTHORITIES, Kept, count_up
from hwtrust_backend.enrolment.models import EkAuthority

CERTIFICATES: Final = frozenset({".pem", ".crt", ".cer", ".der"})
REVOCATIONS: Final = frozenset({".crl"})
_ID_DIGITS: Final = 32


class AuthorityKind(StrEnum):
    """What a file holds."""

    CERTIFICATES = "certificates"
    """CAs: those that have signed themselves are roots, the others count below them."""
    ANCHORS = "anchors"
    """CAs that are trusted though they have not signed themselves."""
    REVOCATIONS = "revocations"
    """Revocation lists."""


_Files = tuple[tuple[AuthorityKind, bytes], ...]
_States = tuple[tuple[str, int, int], ...]
"""Name, size and time of change of each file in the directory."""


@dataclass(slots=True)
class EkAuthorities:
    """Who vouches for EKs, loaded once for each state of database and directory."""

    directory: Path
    _loaded: tuple[_Files, _States, EkTrust] | None = None
    _lock: Lock = field(default_factory=Lock, repr=False)

    def load(self, session: Session) -> EkTrust:
        """The anchors and revocation lists as they are now.

        Raises:
            ConfigError: the directory cannot be read.
            EkTrustError: a file in it is not what its name says.
        """
        with self._lock:
            files = self._files()
            states = tuple((path.name, size, changed) for path, size, changed in files)
            stored = _STORED.get(session)
            # Kept files are the same object while nothing has changed.
            if self._loaded is None or self._loaded[0] is not stored or self._loaded[1] != states:
                trust = _trust((*self._contents(files), *stored))
                self._loaded = stored, states, trust
            return self._loaded[2]

    def add(
        self,
        session: Session,
        content: bytes,
        *,
        kind: AuthorityKind,
        label: str = "",
        by: str = "",
        now: int,
    ) -> tuple[EkAuthority, EkTrust]:
        """Trust a vendor's CAs, or take its revocation list: PEM or DER, one or a bundle.

        Gives what was stored, and what was found in it; `refused` names the
        certificates that are not used, and why.

        Raises:
            EkTrustError: nothing of that kind is in it, or it does not fit the rest.
            EkAuthorityConflictError: this very file is there already.
        """
        found = _trust([(kind, content)])
        if kind is not AuthorityKind.REVOCATIONS and not found.roots and not found.intermediates:
            raise EkTrustError("the file holds no certificate of a CA")
        identifier = hashlib.sha256(content).hexdigest()[:_ID_DIGITS]
        # The lock on the stamp puts those who add in line: each sees what the other added.
        count_up(session, EK_AUTHORITIES)
        if session.get(EkAuthority, identifier) is not None:
            message = f"this file is there already: {identifier}"
            raise EkAuthorityConflictError(message, authority=identifier)
        _trust((*self._contents(self._files()), *_stored_files(session), (kind, content)))
        row = EkAuthority(
            id=identifier,
            label=label,
            content=content,
            kind=kind.value,
            added_at=now,
            added_by=by,
        )
        session.add(row)
        session.flush()
        reason = (
            f"{identifier}: {kind.value}, {len(found.roots)} roots, "
            f"{len(found.intermediates)} intermediates, {len(found.crls)} revocation lists"
        )
        record(session, Event.EK_AUTHORITY_ADDED, now=now, reason=reason, actor=by)
        return row, found

    def _files(self) -> list[tuple[Path, int, int]]:
        if not self.directory.is_dir():
            return []
        try:
            found = sorted(self.directory.iterdir())
            states = [(path, path.stat()) for path in found]
        except OSError as error:
            raise ConfigError(f"{self.directory} cannot be read: {error.strerror}") from error
        wanted = CERTIFICATES | REVOCATIONS
        return [
            (path, state.st_size, state.st_mtime_ns)
            for path, state in states
            if path.suffix in wanted and not path.name.startswith(".")
        ]

    def _contents(self, files: Iterable[tuple[Path, int, int]]) -> _Files:
        return tuple((_kind_of(path), _read(path)) for path, _, _ in files)


def list_authorities(session: Session) -> list[EkAuthority]:
    """What was imported, oldest first; not what lies in the directory."""
    return list(session.scalars(select(EkAuthority).order_by(EkAuthority.added_at, EkAuthority.id)))


def remove_authority(session: Session, identifier: str, *, by: str = "", now: int) -> None:
    """Trust a vendor no longer; devices that are enrolled stay so.

    Raises:
        EkAuthorityUnknownError: nothing of that identifier was imported.
    """
    row = session.get(EkAuthority, identifier)
    if row is None:
        message = f"no CA file {identifier[:_ID_DIGITS]!r} was imported"
        raise EkAuthorityUnknownError(message)
    session.delete(row)
    count_up(session, EK_AUTHORITIES)
    reason = f"{row.id}: {row.kind} {row.label}".rstrip()
    record(session, Event.EK_AUTHORITY_REMOVED, now=now, reason=reason, actor=by)


def _stored_files(session: Session) -> _Files:
    query = select(EkAuthority.kind, EkAuthority.content).order_by(EkAuthority.id)
    return tuple((AuthorityKind(kind), content) for kind, content in session.execute(query))


_STORED: Final = Kept(EK_AUTHORITIES, _stored_files)


def _trust(files: Iterable[tuple[AuthorityKind, bytes]]) -> EkTrust:
    sorted_out: dict[AuthorityKind, list[bytes]] = {kind: [] for kind in AuthorityKind}
    for kind, content in files:
        sorted_out[kind].append(content)
    return EkTrust.load(
        sorted_out[AuthorityKind.CERTIFICATES],
        sorted_out[AuthorityKind.REVOCATIONS],
        anchors=sorted_out[AuthorityKind.ANCHORS],
    )


def _kind_of(path: Path) -> AuthorityKind:
    if path.suffix in REVOCATIONS:
        return AuthorityKind.REVOCATIONS
    return AuthorityKind.CERTIFICATES


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
