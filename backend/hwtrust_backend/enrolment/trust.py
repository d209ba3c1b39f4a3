"""Which EKs are believed: by a vendor's certificate, or by name.

Rules:
1. An allow-listed EK needs neither certificate nor token: an administrator has
   named this very TPM.
2. Any other EK needs a certificate that chains to a CA of
   `hwtrust_backend.enrolment.authorities`, and a token.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from hwtrust.errors import EkUnknownError, RequestError
from hwtrust.verify.ek import verify_ek_certificate
from hwtrust.wire.messages import EnrolBegin
from hwtrust.wire.structures import Public
from hwtrust_backend.audit import Event, record
from hwtrust_backend.config.clock import utc_datetime
from hwtrust_backend.enrolment.authorities import EkAuthorities
from hwtrust_backend.enrolment.models import AllowedEk
from hwtrust_backend.policies import DEFAULT_GROUP

_NAME_SIZES: Final = {b"\x00\x0b": 34, b"\x00\x0c": 50, b"\x00\x0d": 66}
"""SHA-256, SHA-384, SHA-512: two bytes of algorithm and the digest."""
_AT_ONCE: Final = 500


@dataclass(frozen=True, slots=True)
class TrustedEk:
    """Why an EK is believed, in words, and whether that makes a token unnecessary."""

    source: str
    allow_listed: bool
    group: str = DEFAULT_GROUP


def trust_ek(
    session: Session, request: EnrolBegin, ek: Public, *, authorities: EkAuthorities, now: int
) -> TrustedEk:
    """Say why this EK is believed.

    Raises:
        EkUnknownError: no certificate, and not on the allow-list.
        EkCertificateError: the certificate does not hold.
    """
    allowed = session.get(AllowedEk, ek.name.hex())
    if allowed is not None:
        source = f"allow-list: {allowed.label}".rstrip(": ")
        return TrustedEk(source, allow_listed=True, group=allowed.group)
    if not request.ek_certificate:
        message = f"the EK {ek.name.hex()} has no certificate and is not on the allow-list"
        raise EkUnknownError(message, ek=ek.name.hex())
    certificate = verify_ek_certificate(
        request.ek_certificate,
        ek,
        trust=authorities.load(session),
        now=utc_datetime(now),
        intermediates=request.ek_intermediates,
    )
    vendor = certificate.manufacturer or "unnamed"
    issuer = certificate.issuers[0] if certificate.issuers else "itself"
    return TrustedEk(f"certificate: vendor {vendor}, issued by {issuer}", allow_listed=False)


def ek_name(text: str) -> str:
    """An EK's Name as it is stored: hexadecimal, in lower case.

    Raises:
        RequestError: it is no Name.
    """
    try:
        raw = bytes.fromhex(text)
    except ValueError as error:
        raise RequestError("an EK's name is hexadecimal digits", field="name") from error
    if raw[:2] not in _NAME_SIZES or len(raw) != _NAME_SIZES[raw[:2]]:
        message = "an EK's name is 000b and 64 digits, 000c and 96, or 000d and 128"
        raise RequestError(message, field="name")
    return raw.hex()


def allow_ek(
    session: Session,
    name: str,
    *,
    label: str,
    now: int,
    group: str = DEFAULT_GROUP,
    by: str = "",
) -> AllowedEk:
    """Put an EK's Name (hexadecimal) on the allow-list; its device goes to `group`.

    Raises:
        RequestError: it is no Name.
    """
    known = ek_name(name)
    row = session.get(AllowedEk, known)
    if row is None:
        row = AllowedEk(name=known, added_at=now)
        session.add(row)
    row.label, row.group = label, group
    record(session, Event.EK_ALLOWED, now=now, device=known, reason=label, actor=by)
    return row


def remove_ek(session: Session, name: str, *, now: int, by: str = "") -> None:
    """Take an EK's Name off the allow-list; devices that are enrolled stay so.

    Raises:
        EkUnknownError: it is not on the list.
    """
    row = session.get(AllowedEk, name.lower())
    if row is None:
        raise EkUnknownError("this EK is not on the allow-list")
    session.delete(row)
    record(session, Event.EK_REMOVED, now=now, device=row.name, actor=by)


def list_eks(
    session: Session,
    *,
    groups: frozenset[str] | None = None,
    after: str = "",
    limit: int | None = None,
) -> list[AllowedEk]:
    """The allow-list, by name: of some groups, and from the name `after` on."""
    query = select(AllowedEk).where(AllowedEk.name > after).order_by(AllowedEk.name).limit(limit)
    if groups is not None:
        query = query.where(AllowedEk.group.in_(sorted(groups)))
    return list(session.scalars(query))


def every_ek(session: Session, *, groups: frozenset[str] | None) -> Iterator[AllowedEk]:
    """The allow-list, page by page, for a file that may be long."""
    after = ""
    while page := list_eks(session, groups=groups, after=after, limit=_AT_ONCE):
        yield from page
        after = page[-1].name
