"""The backend's certificate authorities: what they issue, and what they recognise.

    device CA ── client certificates of devices, short-lived, clientAuth only
    server CA ── the backend's own TLS certificate, serverAuth only

Rules:
1. Two CAs: a device's certificate can never pass for the server's.
2. A device is named by its EK's Name, in a SAN URI `urn:hwtrust:device:HEX`;
   the subject is for people.
3. A certificate is issued for the key of a CSR that the key has signed, and
   only where that key is the one in the evidence.
4. Validity is judged by the caller's clock, here, for every connection.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hwtrust.errors import (
    CsrError,
    IdentityCertificateError,
    IdentityKeyError,
    WeakKeyError,
)
from hwtrust.verify.certificates import PARSER_ERRORS
from hwtrust.wire.structures import require_strong
from hwtrust_backend.config.clock import DAY, MINUTE, utc_datetime
from hwtrust_backend.keys.signing import IssuingKey, Signer

URN: Final = "urn:hwtrust:device:"
SERVER_LIFETIME: Final = 397 * DAY
BACKDATED: Final = 5 * MINUTE
"""Devices' clocks may be behind ours."""
_FOR_EVER: Final = datetime.fromisoformat("9999-12-31T23:59:59+00:00")
_COMMON_NAME_LIMIT: Final = 32


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate that was just issued: PEM with its CA behind it."""

    pem: str
    serial: int
    not_after: int


@dataclass(frozen=True, slots=True)
class DeviceIdentity:
    """What a client certificate proves: the device, and the key that it speaks with."""

    device: str
    """The EK's Name in hexadecimal digits."""
    tls_key: bytes
    """SubjectPublicKeyInfo, DER."""


def make_authority(signer: Signer, *, name: str, now: int) -> x509.Certificate:
    """A self-signed CA certificate that may issue leaves and nothing else."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    key = signer.public_key
    identifier = x509.SubjectKeyIdentifier.from_public_key(key)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(utc_datetime(now - DAY))
        .not_valid_after(_FOR_EVER)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(authority=True), critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier),
            critical=False,
        )
        .sign(IssuingKey(signer), hashes.SHA256())
    )


def issue_device_certificate(
    csr: bytes,
    *,
    tls_key: bytes,
    device: bytes,
    signer: Signer,
    authority: x509.Certificate,
    now: int,
    lifetime_ms: int,
) -> Issued:
    """Issue a client certificate for `tls_key` (SPKI DER), which a device's evidence names.

    `csr` is PKCS#10 in DER. Nothing of it is used but its key.

    Raises:
        CsrError: no CSR, or not signed by its own key.
        IdentityKeyError: the CSR is for another key.
        WeakKeyError: a kind or size of key that is not accepted.
    """
    key = _key_of_csr(csr)
    spki = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    if spki != tls_key:
        raise IdentityKeyError("the certificate request is for another key than the evidence")
    common_name = device.hex()[:_COMMON_NAME_LIMIT]
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]))
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(URN + device.hex())]),
            critical=False,
        )
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=True)
    )
    return _issue(builder, key, signer=signer, authority=authority, now=now, lifetime=lifetime_ms)


def issue_server_certificate(
    key: ec.EllipticCurvePublicKey,
    *,
    hosts: tuple[str, ...],
    signer: Signer,
    authority: x509.Certificate,
    now: int,
) -> Issued:
    """Issue the backend's TLS certificate for its host names and addresses."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hwtrust-backend")]))
        .add_extension(
            x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=False
        )
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    )
    return _issue(
        builder, key, signer=signer, authority=authority, now=now, lifetime=SERVER_LIFETIME
    )


def device_of_certificate(der: bytes, *, authority: x509.Certificate, now: int) -> DeviceIdentity:
    """Recognise a client certificate that `authority` issued to a device and that is in force.

    That the connection holds its key is for TLS, or for the trusted proxy. What a
    certificate says is remembered; whether it is in force is judged every time.

    Raises:
        IdentityCertificateError: of another CA, expired, not yet valid, no device's.
    """
    recognised = _recognised(der, authority)
    if not recognised.not_before <= utc_datetime(now) <= recognised.not_after:
        message = "the client certificate is expired, or not valid yet"
        raise IdentityCertificateError(message)
    return recognised.identity


@dataclass(frozen=True, slots=True)
class _Recognised:
    """What a certificate says that an authority has issued to a device."""

    identity: DeviceIdentity
    not_before: datetime
    not_after: datetime


@lru_cache(maxsize=4096)
def _recognised(der: bytes, authority: x509.Certificate) -> _Recognised:
    try:
        certificate = x509.load_der_x509_certificate(der)
        certificate.verify_directly_issued_by(authority)
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        spki = certificate.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    except InvalidSignature as error:
        message = "the client certificate was not issued by this backend"
        raise IdentityCertificateError(message) from error
    except (*PARSER_ERRORS, x509.ExtensionNotFound) as error:
        message = "the client certificate is not one that this backend issues to devices"
        raise IdentityCertificateError(message) from error
    named = len(uris) == 1 and uris[0].startswith(URN)
    if list(usage) != [ExtendedKeyUsageOID.CLIENT_AUTH] or not named:
        raise IdentityCertificateError("the client certificate names no device")
    return _Recognised(
        DeviceIdentity(uris[0].removeprefix(URN), spki),
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
    )


def _issue(
    builder: x509.CertificateBuilder,
    key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey,
    *,
    signer: Signer,
    authority: x509.Certificate,
    now: int,
    lifetime: int,
) -> Issued:
    issuer_id = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    certificate = (
        builder.issuer_name(authority.subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(utc_datetime(now - BACKDATED))
        .not_valid_after(utc_datetime(now + lifetime))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(authority=False), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_id),
            critical=False,
        )
        .sign(IssuingKey(signer), hashes.SHA256())
    )
    chain = [certificate, authority]
    pem = b"".join(item.public_bytes(serialization.Encoding.PEM) for item in chain)
    return Issued(pem.decode(), certificate.serial_number, now + lifetime)


def _key_of_csr(csr: bytes) -> ec.EllipticCurvePublicKey | rsa.RSAPublicKey:
    try:
        request = x509.load_der_x509_csr(csr)
        signed, key = request.is_signature_valid, request.public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        message = "the certificate request is no PKCS#10 request in DER"
        raise CsrError(message) from error
    if not signed:
        message = "the certificate request is not signed by its own key"
        raise CsrError(message)
    if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        raise WeakKeyError("TLS keys are ECDSA or RSA keys")
    require_strong(key)
    return key


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
