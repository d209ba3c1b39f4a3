"""TPM vendors' CAs, as an administrator of all devices manages them."""

from __future__ import annotations

import msgspec
from sqlalchemy.orm import Session

from hwtrust.errors import EkAuthorityRefusedError, EkTrustError
from hwtrust.verify.ek import EkTrust
from hwtrust_backend.admin.fields import label_of
from hwtrust_backend.admin.principals import Principal, Role
from hwtrust_backend.enrolment import EkAuthorities, EkAuthority
from hwtrust_backend.enrolment.authorities import (
    AuthorityKind,
    list_authorities,
    remove_authority,
)

FILE_LIMIT = 4 * 1024 * 1024


class RefusedCertificate(msgspec.Struct, frozen=True, kw_only=True):
    """A certificate of an imported file that is not used."""

    sha256: str
    reason: str


class AuthorityReport(msgspec.Struct, frozen=True, kw_only=True):
    """An imported file. Times are UTC milliseconds."""

    id: str
    label: str
    kind: AuthorityKind
    added_at: int
    added_by: str


class AuthorityList(msgspec.Struct, frozen=True, kw_only=True):
    """Every imported file, oldest first, and what all of them come to."""

    authorities: tuple[AuthorityReport, ...]
    roots: tuple[str, ...]
    """The subjects of the trust anchors in force, those of the directory included."""
    intermediates: int
    revocation_lists: int


class AuthorityImport(msgspec.Struct, frozen=True, kw_only=True):
    """What an import came to."""

    authority: AuthorityReport
    roots: int
    intermediates: int
    revocation_lists: int
    refused: tuple[RefusedCertificate, ...]


def import_authority(
    session: Session,
    content: bytes,
    *,
    authorities: EkAuthorities,
    kind: AuthorityKind,
    label: str = "",
    by: Principal,
    now: int,
) -> AuthorityImport:
    """Trust a vendor's CAs, or take its revocation list: PEM or DER, one or a bundle.

    Raises:
        EkAuthorityRefusedError: nothing of that kind is in it, it is too large, or
            does not fit what is there.
        EkAuthorityConflictError: this very file is there already.
    """
    by.require_all_groups(Role.ADMINISTRATOR)
    if len(content) > FILE_LIMIT:
        raise EkAuthorityRefusedError(f"the file is larger than {FILE_LIMIT} bytes")
    try:
        row, found = authorities.add(
            session, content, kind=kind, label=label_of(label), by=by.name, now=now
        )
    except EkTrustError as error:
        raise EkAuthorityRefusedError(error.message) from error
    return AuthorityImport(
        authority=_report(row),
        roots=len(found.roots),
        intermediates=len(found.intermediates),
        revocation_lists=len(found.crls),
        refused=_refused(found),
    )


def authority_list(session: Session, *, authorities: EkAuthorities, by: Principal) -> AuthorityList:
    """Every imported file, and what is in force."""
    by.require(Role.VIEWER)
    trust = authorities.load(session)
    return AuthorityList(
        authorities=tuple(_report(row) for row in list_authorities(session)),
        roots=tuple(sorted(ca.subject_text for ca in trust.roots)),
        intermediates=len(trust.intermediates),
        revocation_lists=len(trust.crls),
    )


def drop_authority(session: Session, identifier: str, *, by: Principal, now: int) -> None:
    """Trust a vendor no longer; devices that are enrolled stay so.

    Raises:
        EkAuthorityUnknownError: nothing of that identifier was imported.
    """
    by.require_all_groups(Role.ADMINISTRATOR)
    remove_authority(session, identifier, by=by.name, now=now)


def _refused(found: EkTrust) -> tuple[RefusedCertificate, ...]:
    return tuple(
        RefusedCertificate(sha256=item.sha256, reason=item.reason) for item in found.refused
    )


def _report(row: EkAuthority) -> AuthorityReport:
    return AuthorityReport(
        id=row.id,
        label=row.label,
        kind=AuthorityKind(row.kind),
        added_at=row.added_at,
        added_by=row.added_by,
    )
