"""What enclaves' evidence is verified by, beside the roots that hwtrust knows.

    a file of an administrator ── add_authority ──▶ the database ── enclave_trust ──▶ EnclaveTrust

    certificates   of SEV-SNP: VCEK or VLEK, ASK or ASVK, ARK; PEM or DER
    revocations    of AMD and NVIDIA; PEM or DER
    collateral     of TDX and SGX platforms: the JSON of dcap-qvl
    endorsements   of Arm CCA platforms: the JSON list of their keys
    unsafe-roots   roots that are none of the makers': whoever has such a root's key
                   makes evidence of any enclave at will. For tests alone.

Rules:
1. Certificates and collateral are trusted no more than those that come with evidence:
   they lead to a root that is pinned.
2. What is added has to fit all the rest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from enum import StrEnum
from types import MappingProxyType
from typing import Annotated, Final

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import select
from sqlalchemy.orm import Session

from hwtrust.errors import (
    EnclaveAuthorityConflictError,
    EnclaveAuthorityRefusedError,
    EnclaveAuthorityUnknownError,
    HwTrustError,
)
from hwtrust.verify.enclaves.cca_keys import CcaTrust
from hwtrust.verify.enclaves.dcap_chain import DcapTrust
from hwtrust.verify.enclaves.kinds_trust import EnclaveTrust, certificates_in
from hwtrust.wire.enclaves.dcap import Collateral
from hwtrust.wire.enclaves.snp import Product
from hwtrust_backend.audit import Event, record
from hwtrust_backend.db import ENCLAVE_AUTHORITIES, Kept, count_up
from hwtrust_backend.enrolment import EnclaveAuthority

_ID_DIGITS: Final = 32

Fingerprint = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
"""SHA-256 of a certificate's DER."""


class TrustKind(StrEnum):
    """What a file holds."""

    CERTIFICATES = "certificates"
    REVOCATIONS = "revocations"
    COLLATERAL = "collateral"
    ENDORSEMENTS = "endorsements"
    UNSAFE_ROOTS = "unsafe-roots"


class UnsafeRoots(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Roots of nobody's hardware, beside the makers'; `dcap` takes the place of Intel's."""

    snp: dict[Product, tuple[Fingerprint, ...]] = {}
    dcap: Fingerprint | None = None
    nitro: tuple[Fingerprint, ...] = ()
    nvidia: tuple[Fingerprint, ...] = ()


_Files = tuple[tuple[TrustKind, bytes], ...]


def add_authority(
    session: Session,
    content: bytes,
    *,
    kind: TrustKind,
    label: str = "",
    by: str = "",
    now: int,
) -> EnclaveAuthority:
    """Verify enclaves by this file too.

    Raises:
        EnclaveAuthorityRefusedError: it is not of that kind, or does not fit the rest.
        EnclaveAuthorityConflictError: this very file is there already.
    """
    identifier = hashlib.sha256(content).hexdigest()[:_ID_DIGITS]
    # The lock on the stamp puts those who add in line: each sees what the other added.
    count_up(session, ENCLAVE_AUTHORITIES)
    if session.get(EnclaveAuthority, identifier) is not None:
        message = f"this file is there already: {identifier}"
        raise EnclaveAuthorityConflictError(message, authority=identifier)
    try:
        _trust((*_stored_files(session), (kind, content)))
    except (HwTrustError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        said = error.message if isinstance(error, HwTrustError) else str(error)
        raise EnclaveAuthorityRefusedError(f"these are no {kind} of use: {said}") from error
    row = EnclaveAuthority(
        id=identifier, label=label, content=content, kind=kind.value, added_at=now, added_by=by
    )
    session.add(row)
    session.flush()
    reason = f"{identifier}: {kind.value} {label}".rstrip()
    record(session, Event.ENCLAVE_AUTHORITY_ADDED, now=now, reason=reason, actor=by)
    return row


def list_authorities(session: Session) -> list[EnclaveAuthority]:
    """What was added, oldest first."""
    order = EnclaveAuthority.added_at, EnclaveAuthority.id
    return list(session.scalars(select(EnclaveAuthority).order_by(*order)))


def remove_authority(session: Session, identifier: str, *, by: str = "", now: int) -> None:
    """Verify enclaves by a file no longer; those that need it fail from their next evidence on.

    Raises:
        EnclaveAuthorityUnknownError: nothing of that identifier was added.
    """
    row = session.get(EnclaveAuthority, identifier)
    if row is None:
        message = f"no file {identifier[:_ID_DIGITS]!r} was added"
        raise EnclaveAuthorityUnknownError(message)
    session.delete(row)
    count_up(session, ENCLAVE_AUTHORITIES)
    reason = f"{row.id}: {row.kind} {row.label}".rstrip()
    record(session, Event.ENCLAVE_AUTHORITY_REMOVED, now=now, reason=reason, actor=by)


def enclave_trust(session: Session) -> EnclaveTrust:
    """What is trusted now."""
    return _TRUST.get(session)


def _stored_files(session: Session) -> _Files:
    order = EnclaveAuthority.added_at, EnclaveAuthority.id
    query = select(EnclaveAuthority.kind, EnclaveAuthority.content).order_by(*order)
    return tuple((TrustKind(kind), content) for kind, content in session.execute(query))


def _read(session: Session) -> EnclaveTrust:
    return _trust(_stored_files(session))


_TRUST: Final = Kept(ENCLAVE_AUTHORITIES, _read)


def _trust(files: _Files) -> EnclaveTrust:
    by_kind: dict[TrustKind, list[bytes]] = {kind: [] for kind in TrustKind}
    for kind, content in files:
        by_kind[kind].append(content)
    trust = EnclaveTrust(
        certificates=certificates_in(by_kind[TrustKind.CERTIFICATES]),
        collateral=tuple(Collateral.decode(file) for file in by_kind[TrustKind.COLLATERAL]),
        cca=_platforms(by_kind[TrustKind.ENDORSEMENTS]),
    ).with_crls(by_kind[TrustKind.REVOCATIONS])
    for file in by_kind[TrustKind.UNSAFE_ROOTS]:
        trust = _with_roots(trust, msgspec.json.decode(file, type=UnsafeRoots))
    return trust


def _platforms(files: Iterable[bytes]) -> CcaTrust:
    keys: dict[tuple[bytes, bytes], ec.EllipticCurvePublicKey] = {}
    for file in files:
        found = CcaTrust.read(file).keys
        if not keys.keys().isdisjoint(found):
            raise EnclaveAuthorityRefusedError("an instance of a CCA platform is there already")
        keys.update(found)
    return CcaTrust(keys=MappingProxyType(keys))


def _with_roots(trust: EnclaveTrust, more: UnsafeRoots) -> EnclaveTrust:
    of_snp = {
        product: trust.snp.roots.get(product, frozenset()) | frozenset(more.snp.get(product, ()))
        for product in Product
    }
    return replace(
        trust,
        snp=replace(trust.snp, roots=MappingProxyType(of_snp)),
        dcap=trust.dcap if more.dcap is None else DcapTrust(bytes.fromhex(more.dcap)),
        nitro=msgspec.structs.replace(trust.nitro, roots=trust.nitro.roots | frozenset(more.nitro)),
        nvidia=replace(trust.nvidia, roots=trust.nvidia.roots | frozenset(more.nvidia)),
    )
