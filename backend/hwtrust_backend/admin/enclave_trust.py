"""What enclaves are verified by, as an administrator of all devices manages it."""

from __future__ import annotations

from typing import Final

import msgspec
from sqlalchemy.orm import Session

from hwtrust.errors import EnclaveAuthorityRefusedError
from hwtrust_backend import enclaves
from hwtrust_backend.admin.fields import label_of
from hwtrust_backend.admin.principals import Principal, Role
from hwtrust_backend.enclaves import TrustKind
from hwtrust_backend.enrolment import EnclaveAuthority

FILE_LIMIT: Final = 4 * 1024 * 1024


class EnclaveTrustReport(msgspec.Struct, frozen=True, kw_only=True):
    """A file that was added. Times are UTC milliseconds."""

    id: str
    label: str
    kind: TrustKind
    added_at: int
    added_by: str


def add_enclave_trust(
    session: Session, content: bytes, *, kind: TrustKind, label: str, by: Principal, now: int
) -> EnclaveTrustReport:
    """Verify enclaves by this file too.

    Raises:
        EnclaveAuthorityRefusedError: it is too large, not of that kind, or does not fit.
        EnclaveAuthorityConflictError: this very file is there already.
    """
    by.require_all_groups(Role.ADMINISTRATOR)
    if len(content) > FILE_LIMIT:
        raise EnclaveAuthorityRefusedError(f"the file is larger than {FILE_LIMIT} bytes")
    added = enclaves.add_authority(
        session, content, kind=kind, label=label_of(label), by=by.name, now=now
    )
    return _report(added)


def list_enclave_trust(session: Session, *, by: Principal) -> tuple[EnclaveTrustReport, ...]:
    """Every file that was added, oldest first."""
    by.require(Role.VIEWER)
    return tuple(_report(row) for row in enclaves.list_authorities(session))


def drop_enclave_trust(session: Session, identifier: str, *, by: Principal, now: int) -> None:
    """Verify enclaves by a file no longer.

    Raises:
        EnclaveAuthorityUnknownError: nothing of that identifier was added.
    """
    by.require_all_groups(Role.ADMINISTRATOR)
    enclaves.remove_authority(session, identifier, by=by.name, now=now)


def _report(row: EnclaveAuthority) -> EnclaveTrustReport:
    return EnclaveTrustReport(
        id=row.id,
        label=row.label,
        kind=TrustKind(row.kind),
        added_at=row.added_at,
        added_by=row.added_by,
    )
