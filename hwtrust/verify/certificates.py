"""Read certificates and revocation lists into frozen values, and check who signed them.

    bytes ──▶ read_certificate ──▶ Certificate ──▶ signed_by(issuer)?
    bytes ──▶ read_crl ──────────▶ Crl ──────────▶ revokes(certificate)?

Nothing is judged here but form and signatures; `hwtrust.verify.ek_chain` says
which chains are acceptable.

Rules:
1. All that a decision needs is read once, at this boundary: whatever goes wrong
   while reading is a `MalformedError`, and no warning is left to the caller.
2. A signature counts over the bytes as received, also where only the canonical
   form of the certificate can be read (`hwtrust.verify.der`).
3. The signature algorithm inside the signed part must be the one outside.
4. A serial number that is not positive is no reason to refuse: AMD gives every
   VCEK the number 0. Where the parser refuses it, another one is put in its place
   for the parser alone; what is told, and what is signed, is what was received.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from hwtrust.errors import MalformedError
from hwtrust.verify import der

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

Key = ec.EllipticCurvePublicKey | rsa.RSAPublicKey
SignatureParameters = padding.PSS | padding.PKCS1v15 | ec.ECDSA
E_ = TypeVar("E_", bound=x509.ExtensionType)

PARSER_ERRORS: Final = (
    ValueError,
    TypeError,
    OverflowError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""What `cryptography` raises while it reads a certificate that is none."""
_USAGES: Final = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
)
_UNDERSTOOD: Final = (
    x509.BasicConstraints,
    x509.KeyUsage,
    x509.ExtendedKeyUsage,
    x509.SubjectAlternativeName,
    x509.CertificatePolicies,  # no policy is asked for, hence any will do
)
_PEM: Final = re.compile(
    rb"-----BEGIN (?P<label>[A-Z0-9 ]+)-----\s(?P<body>.*?)-----END (?P=label)-----", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Certificate:
    """What hwtrust looks at in an X.509 certificate, RFC 5280 §4.

    Attributes:
        der: the certificate as received, without padding.
        signed: its signed part, as received.
        subject_text: the subject as RFC 4514 text.
        serial: as it stands there: zero and negative numbers occur in the field.
        key_usage: names such as `key_cert_sign`; None where the extension is absent.
        extended_key_usage: dotted object identifiers; None where it is absent.
        directory: the attributes of the subjectAltName's directory names, by
            dotted object identifier; where there are none, those of the subject.
        private: the values of extensions that are not RFC 5280's or otherwise known
            to the parser, as received, by dotted object identifier.
        unknown_critical: critical extensions that hwtrust does not understand.
    """

    der: bytes = field(repr=False)
    signed: bytes = field(repr=False)
    signature: bytes = field(repr=False)
    signature_hash: hashes.HashAlgorithm | None
    signature_parameters: SignatureParameters
    subject: x509.Name
    subject_text: str
    issuer: x509.Name
    issuer_text: str
    serial: int
    not_before: datetime
    not_after: datetime
    key: Key
    ca: bool
    path_length: int | None
    key_usage: frozenset[str] | None
    extended_key_usage: frozenset[str] | None
    directory: Mapping[str, str]
    private: Mapping[str, bytes]
    unknown_critical: tuple[str, ...]

    @property
    def sha256(self) -> str:
        """The fingerprint of the certificate as received."""
        return hashlib.sha256(self.der).hexdigest()

    @property
    def self_issued(self) -> bool:
        """Whether it names itself as its issuer."""
        return self.subject == self.issuer

    def signed_by(self, issuer: Certificate) -> bool:
        """Whether `issuer` bears the issuer's name and its key made the signature."""
        if self.issuer != issuer.subject:
            return False
        return _verifies(issuer.key, self)


@dataclass(frozen=True, slots=True)
class Crl:
    """A certificate revocation list, RFC 5280 §5: its issuer's name, and who is revoked."""

    issuer: x509.Name
    serials: frozenset[int]
    source: x509.CertificateRevocationList = field(repr=False)

    def signed_by(self, issuer: Certificate) -> bool:
        """Whether `issuer` bears the list's issuer name and its key made the signature."""
        if self.issuer != issuer.subject:
            return False
        try:
            with _quiet():
                return self.source.is_signature_valid(issuer.key)
        except PARSER_ERRORS:
            return False


def pem_blocks(data: bytes, label: bytes) -> list[bytes]:
    """The DER in the PEM blocks of that label, in their order.

    Raises:
        MalformedError: a block is not base64.
    """
    found = []
    for block in _PEM.finditer(data):
        if block["label"] != label:
            continue
        try:
            found.append(base64.b64decode(b"".join(block["body"].split()), validate=True))
        except binascii.Error:
            raise MalformedError("a PEM block is not base64") from None
    return found


def read_certificate(data: bytes) -> Certificate:
    """Read one certificate in DER or nearly so, without padding.

    Raises:
        MalformedError: it cannot be read, or has a key that is neither RSA nor ECDSA.
    """
    try:
        signed, outer, signature = der.children(data)
        inner = next(part for part in der.children(signed)[1:] if part[:1] == b"\x30")
        mixed = inner != outer and der.canonical(inner) != der.canonical(outer)
    except (ValueError, StopIteration):
        raise MalformedError("a certificate is not made of its three parts") from None
    if mixed:
        raise MalformedError("a certificate names two different signature algorithms")
    reason: Exception | None = None
    with _quiet():
        for form in _forms(data):
            try:
                return _read(form, received=data, signed=signed, signature=signature)
            except PARSER_ERRORS as error:
                reason = error
    raise MalformedError(f"a certificate cannot be read: {reason}") from reason


def read_crl(data: bytes) -> Crl:
    """Read one certificate revocation list in DER, without padding.

    Raises:
        MalformedError: it cannot be read.
    """
    with _quiet():
        try:
            source = x509.load_der_x509_crl(data)
            serials = frozenset(entry.serial_number for entry in source)
            return Crl(source.issuer, serials, source)
        except PARSER_ERRORS as error:
            raise MalformedError(f"a revocation list cannot be read: {error}") from error


def _forms(data: bytes) -> Iterator[bytes]:
    """What the parser is given: each form in its turn, if it has refused those before."""
    yield data
    canonical = der.canonical(data)
    if canonical != data:
        yield canonical
    if der.serial(data) <= 0:
        yield der.with_serial(canonical, 1)


def _read(data: bytes, *, received: bytes, signed: bytes, signature: bytes) -> Certificate:
    """Everything from `data`, but the bytes that count as they were received."""
    parsed = x509.load_der_x509_certificate(data)
    if not signature.endswith(b"\0" + parsed.signature):
        raise ValueError("the signature is not a whole number of bytes")
    key = parsed.public_key()
    if not isinstance(key, Key):
        raise UnsupportedAlgorithm("neither an RSA nor an elliptic-curve key")
    parameters = parsed.signature_algorithm_parameters
    if not isinstance(parameters, SignatureParameters):
        raise UnsupportedAlgorithm("signed with neither RSA nor ECDSA")
    constraints = _extension(parsed, x509.BasicConstraints)
    usage = _extension(parsed, x509.KeyUsage)
    extended = _extension(parsed, x509.ExtendedKeyUsage)
    return Certificate(
        der=received,
        signed=signed,
        signature=parsed.signature,
        signature_hash=parsed.signature_hash_algorithm,
        signature_parameters=parameters,
        subject=parsed.subject,
        subject_text=parsed.subject.rfc4514_string(),
        issuer=parsed.issuer,
        issuer_text=parsed.issuer.rfc4514_string(),
        serial=der.serial(received),
        not_before=parsed.not_valid_before_utc,
        not_after=parsed.not_valid_after_utc,
        key=key,
        ca=constraints is not None and constraints.ca,
        path_length=None if constraints is None else constraints.path_length,
        key_usage=None if usage is None else frozenset(u for u in _USAGES if getattr(usage, u)),
        extended_key_usage=None
        if extended is None
        else frozenset(oid.dotted_string for oid in extended),
        directory=_directory(parsed),
        private={
            extension.oid.dotted_string: extension.value.value
            for extension in parsed.extensions
            if isinstance(extension.value, x509.UnrecognizedExtension)
        },
        unknown_critical=tuple(
            extension.oid.dotted_string
            for extension in parsed.extensions
            if extension.critical and not isinstance(extension.value, _UNDERSTOOD)
        ),
    )


def _extension(parsed: x509.Certificate, kind: type[E_]) -> E_ | None:
    try:
        return parsed.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _directory(parsed: x509.Certificate) -> dict[str, str]:
    """The attributes of the alternative names, or of the subject if there are none."""
    alternative = _extension(parsed, x509.SubjectAlternativeName)
    names = [] if alternative is None else alternative.get_values_for_type(x509.DirectoryName)
    return {
        attribute.oid.dotted_string: attribute.value
        for name in names or [parsed.subject]
        for attribute in name
        if isinstance(attribute.value, str)
    }


def _verifies(key: Key, certificate: Certificate) -> bool:
    signature, signed = certificate.signature, certificate.signed
    parameters, algorithm = certificate.signature_parameters, certificate.signature_hash
    try:
        if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(parameters, ec.ECDSA):
            key.verify(signature, signed, parameters)
        elif (
            isinstance(key, rsa.RSAPublicKey)
            and not isinstance(parameters, ec.ECDSA)
            and algorithm is not None
        ):
            key.verify(signature, signed, parameters, algorithm)
        else:
            return False
    except (InvalidSignature, *PARSER_ERRORS):
        return False
    return True


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the parser's warnings in: what they warn of is taken here, or refused later.

    Serial numbers that are not positive, and names longer than X.520 allows.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
