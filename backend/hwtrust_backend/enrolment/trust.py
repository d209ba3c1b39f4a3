"""Which EKs are believed: by a vendor's certificate, or by name.

Rules:
1. An allow-listed EK needs neither certificate nor token: an administrator has
   named this very TPM.
2. Any other EK needs a certificate that chains to a CA in the directory, and a
   token.
3. The directory holds certificates (`.pem`, `.crt`, `.cer`, `.der`) and
   revocation lists (`.crl`). It is read again when it has changed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from sqlalchemy import select
from sqlalchemy.orm import Session

from hwtrust.errors import ConfigError, EkTrustError, EkUnknownError, MalformedError
from hwtrust.verify.ek import EkTrust, verify_ek_certificate
from hwtrust.wire.messages import EnrolBegin
from hwtrust.wire.structures import Public
from hwtrust_backend.audit import Event, record
from hwtrust_backend.config import write_file
from hwtrust_backend.config.clock import utc_datetime
from hwtrust_backend.enrolment.models import AllowedEk

CERTIFICATES = frozenset({".pem", ".crt", ".cer", ".der"})
REVOCATIONS = frozenset({".crl"})
_FILE_DIGITS = 32
_NAME_SIZES = {b"\x00\x0b": 34, b"\x00\x0c": 50, b"\x00\x0d": 66}
"""SHA-256, SHA-384, SHA-512: two bytes of algorithm and the digest."""


@dataclass(frozen=True, slots=True)
class TrustedEk:
    """Why an EK is believed, in words, and whether that makes a token unnecessary."""

    source: str
    allow_listed: bool


@dataclass(slots=True)
class EkAuthorities:
    """The CA certificates in a directory, loaded once for each of its states."""

    directory: Path
    _stamp: tuple[tuple[str, int, int], ...] | None = None
    _trust: EkTrust | None = None
    _lock: Lock = field(default_factory=Lock, repr=False)

    def load(self) -> EkTrust:
        """The anchors and revocation lists as they are now.

        Raises:
            ConfigError: the directory cannot be read.
            EkTrustError: a file in it is not what its name says.
        """
        with self._lock:
            files = self._files()
            stamp = tuple((path.name, size, changed) for path, size, changed in files)
            if self._trust is None or stamp != self._stamp:
                contents = {path: self._read(path) for path, _, _ in files}
                self._trust = EkTrust.load(
                    [body for path, body in contents.items() if path.suffix in CERTIFICATES],
                    [body for path, body in contents.items() if path.suffix in REVOCATIONS],
                )
                self._stamp = stamp
            return self._trust

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

    def _read(self, path: Path) -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}") from error


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
        return TrustedEk(f"allow-list: {allowed.label}".rstrip(": "), allow_listed=True)
    if not request.ek_certificate:
        raise EkUnknownError("this EK has no certificate and is not on the allow-list")
    certificate = verify_ek_certificate(
        request.ek_certificate,
        ek,
        trust=authorities.load(),
        now=utc_datetime(now),
        intermediates=request.ek_intermediates,
    )
    vendor = certificate.manufacturer or "unnamed"
    issuer = certificate.issuers[0] if certificate.issuers else "itself"
    return TrustedEk(f"certificate: vendor {vendor}, issued by {issuer}", allow_listed=False)


def add_authority(directory: Path, content: bytes) -> tuple[str, EkTrust]:
    """Put a vendor's CA certificates (PEM or DER, one or a bundle) into the directory.

    Gives the file's name, and what was found in it.

    Raises:
        EkTrustError: no certificate of a CA is in it.
        ConfigError: it is there already, or cannot be written.
    """
    found = EkTrust.load([content])
    if not found.roots and not found.intermediates:
        raise EkTrustError("the file holds no certificate of a CA")
    suffix = ".pem" if b"-----BEGIN " in content else ".der"
    name = hashlib.sha256(content).hexdigest()[:_FILE_DIGITS] + suffix
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_file(directory / name, content, mode=0o600, replace=False)
    return name, found


def allow_ek(session: Session, name: str, *, label: str, now: int) -> None:
    """Put an EK's Name (hexadecimal) on the allow-list.

    Raises:
        MalformedError: it is no Name.
    """
    try:
        raw = bytes.fromhex(name)
    except ValueError as error:
        raise MalformedError("an EK's name is hexadecimal digits", structure="Name") from error
    if raw[:2] not in _NAME_SIZES or len(raw) != _NAME_SIZES[raw[:2]]:
        raise MalformedError("this is not the Name of a key", structure="Name")
    row = session.get(AllowedEk, raw.hex())
    if row is None:
        session.add(AllowedEk(name=raw.hex(), label=label, added_at=now))
    else:
        row.label = label
    record(session, Event.EK_ALLOWED, now=now, device=raw.hex(), reason=label)


def remove_ek(session: Session, name: str, *, now: int) -> None:
    """Take an EK's Name off the allow-list; devices that are enrolled stay so.

    Raises:
        EkUnknownError: it is not on the list.
    """
    row = session.get(AllowedEk, name.lower())
    if row is None:
        raise EkUnknownError("this EK is not on the allow-list")
    session.delete(row)
    record(session, Event.EK_REMOVED, now=now, device=name.lower())


def list_eks(session: Session) -> list[AllowedEk]:
    """The allow-list, by name."""
    return list(session.scalars(select(AllowedEk).order_by(AllowedEk.name)))
