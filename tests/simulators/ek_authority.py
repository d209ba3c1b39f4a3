"""A TPM vendor under a test root: real signatures, and every defect that can be asked for.

    Ca (root) ── issue_ca ──▶ Ca (intermediate) ── issue ──▶ EK certificate (DER)

`EkAuthority` is such a vendor with a root and one intermediate. What is odd about
a certificate is a keyword, so that a test names its one defect and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from hwtrust.tpm.templates import EK_P256, EK_P384_HIGH, EK_RSA2048
from hwtrust.verify.ek import EkCertificate, EkTrust, verify_ek_certificate
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.structures import AES_128_CFB, EccPoint, Public, RsaParams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey
Digest = hashes.SHA224 | hashes.SHA256 | hashes.SHA384 | hashes.SHA512

START = datetime(2024, 1, 1, tzinfo=UTC)
NOW = datetime(2026, 6, 1, tzinfo=UTC)
END = datetime(2030, 1, 1, tzinfo=UTC)
"""A certificate is valid from START to END, unless it is asked to differ."""

EK = x509.ObjectIdentifier("2.23.133.8.1")
AK = x509.ObjectIdentifier("2.23.133.8.3")
TLS_SERVER = x509.ObjectIdentifier("1.3.6.1.5.5.7.3.1")
UNKNOWN = x509.ObjectIdentifier("1.3.6.1.4.1.99999.1")

TPM_NAME = (
    ("2.23.133.2.1", "id:54455354"),
    ("2.23.133.2.2", "simulated"),
    ("2.23.133.2.3", "id:00010002"),
)
CA_USAGE = ("key_cert_sign", "crl_sign")

ECDSA_WITH_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")
RSA_WITH_SHA256 = bytes.fromhex("300d06092a864886f70d01010b0500")
RSA_WITH_SHA1 = bytes.fromhex("300d06092a864886f70d0101050500")

_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


def ek_public(key: PublicKey) -> Public:
    """The TPMT_PUBLIC of an EK with that key, by the template of its kind."""
    if isinstance(key, rsa.RSAPublicKey):
        params = RsaParams(AES_128_CFB, Alg.NULL, None, bits=key.key_size)
        modulus = key.public_numbers().n.to_bytes(key.key_size // 8, "big")
        return replace(EK_RSA2048.public, params=params, unique=modulus)
    point, size = key.public_numbers(), (key.curve.key_size + 7) // 8
    template = EK_P256 if isinstance(key.curve, ec.SECP256R1) else EK_P384_HIGH
    unique = EccPoint(point.x.to_bytes(size, "big"), point.y.to_bytes(size, "big"))
    return replace(template.public, unique=unique)


def new_ek() -> Public:
    """An EK in software, P-256."""
    return ek_public(ec.generate_private_key(ec.SECP256R1()).public_key())


def common_name(text: str) -> x509.Name:
    """A name of one attribute."""
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def tlv(tag: int, *parts: bytes) -> bytes:
    """A DER element."""
    content = b"".join(parts)
    if len(content) < 0x80:
        return bytes([tag, len(content)]) + content
    length = len(content).to_bytes((len(content).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 + len(length)]) + length + content


@dataclass
class Ca:
    """A certification authority: its key, and its certificate."""

    key: PrivateKey
    certificate: x509.Certificate

    @classmethod
    def root(cls, name: str = "Test TPM Root CA", **options: Any) -> Self:  # noqa: ANN401
        """A CA that signs itself; `options` as in `issue_ca`."""
        key = options.pop("key", None) or ec.generate_private_key(ec.SECP256R1())
        certificate = _ca_certificate(
            key.public_key(), common_name(name), common_name(name), key, **options
        )
        return cls(key, certificate)

    def issue_ca(self, name: str = "Test TPM Intermediate CA", **options: Any) -> Ca:  # noqa: ANN401
        """A CA below this one; `options` are those of `_ca_certificate`."""
        key = options.pop("key", None) or ec.generate_private_key(ec.SECP256R1())
        subject, issuer = common_name(name), self.certificate.subject
        return Ca(key, _ca_certificate(key.public_key(), subject, issuer, self.key, **options))

    def issue(
        self,
        ek: Public | PublicKey,
        *,
        usage: Iterable[str] | None = ("key_agreement",),
        extended: Iterable[x509.ObjectIdentifier] | None = (EK,),
        ca: bool | None = False,
        start: datetime = START,
        end: datetime = END,
        serial: int | None = None,
        tpm_name: Iterable[tuple[str, str]] | None = TPM_NAME,
        one_rdn: bool = False,
        subject: x509.Name | None = None,
        unknown_critical: bool = False,
        algorithm: Digest | None = None,
    ) -> bytes:
        """An EK certificate for `ek` in DER, with the defects that the keywords name.

        The default is what real TPMs have: an empty subject, and the TPM's name
        in a critical subjectAltName.
        """
        key = ek.key() if isinstance(ek, Public) else ek
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject or x509.Name([]))
            .issuer_name(self.certificate.subject)
            .public_key(key)
            .serial_number(serial or x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(end)
        )
        if tpm_name is not None:
            attributes = [
                x509.NameAttribute(x509.ObjectIdentifier(oid), text) for oid, text in tpm_name
            ]
            rdns = [attributes] if one_rdn else [[attribute] for attribute in attributes]
            name = x509.Name([x509.RelativeDistinguishedName(rdn) for rdn in rdns])
            alternative = x509.SubjectAlternativeName([x509.DirectoryName(name)])
            builder = builder.add_extension(alternative, critical=True)
        if ca is not None:
            builder = builder.add_extension(x509.BasicConstraints(ca, None), critical=True)
        builder = _with_usages(builder, usage, extended, unknown_critical=unknown_critical)
        signed = builder.sign(self.key, algorithm or hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.DER)

    def revoke(self, *serials: int, by: Ca | None = None) -> bytes:
        """A revocation list in this CA's name, signed with its key (or that of `by`)."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(START)
            .next_update(datetime(2024, 2, 1, tzinfo=UTC))
        )
        for serial in serials:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(START)
            builder = builder.add_revoked_certificate(entry.build())
        signed = builder.sign((by or self).key, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.DER)

    def sign_again(
        self, certificate: bytes, change: Callable[[bytes], bytes], *, outer: bytes | None = None
    ) -> bytes:
        """`certificate` with its signed part changed, and signed again by this CA.

        What comes out need not be DER: vendors have signed such things. `outer`
        is the algorithm identifier beside the signature, if not the usual one.
        """
        signed = change(x509.load_der_x509_certificate(certificate).tbs_certificate_bytes)
        if isinstance(self.key, ec.EllipticCurvePrivateKey):
            algorithm = ECDSA_WITH_SHA256
            signature = self.key.sign(signed, ec.ECDSA(hashes.SHA256()))
        else:
            algorithm = RSA_WITH_SHA256
            signature = self.key.sign(signed, padding.PKCS1v15(), hashes.SHA256())
        return tlv(0x30, signed, outer or algorithm, tlv(0x03, b"\0", signature))

    def sign_with_sha1(self, certificate: bytes) -> bytes:
        """`certificate` as this RSA CA would have signed it long ago."""
        assert isinstance(self.key, rsa.RSAPrivateKey)
        signed = x509.load_der_x509_certificate(certificate).tbs_certificate_bytes
        assert signed.count(RSA_WITH_SHA256) == 1
        signed = signed.replace(RSA_WITH_SHA256, RSA_WITH_SHA1)
        signature = self.key.sign(signed, padding.PKCS1v15(), hashes.SHA1())  # noqa: S303
        return tlv(0x30, signed, RSA_WITH_SHA1, tlv(0x03, b"\0", signature))

    @property
    def der(self) -> bytes:
        """Its certificate in DER."""
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def pem(self) -> bytes:
        """Its certificate in PEM."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)


def _ca_certificate(
    key: PublicKey,
    subject: x509.Name,
    issuer: x509.Name,
    signer: PrivateKey,
    *,
    ca: bool | None = True,
    path_length: int | None = None,
    usage: Iterable[str] | None = CA_USAGE,
    extended: Iterable[x509.ObjectIdentifier] | None = None,
    start: datetime = START,
    end: datetime = END,
    serial: int | None = None,
    unknown_critical: bool = False,
    algorithm: Digest | None = None,
) -> x509.Certificate:
    """The certificate of a CA, with the defects that the keywords name."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
    )
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca, path_length), critical=True)
    builder = _with_usages(builder, usage, extended, unknown_critical=unknown_critical)
    return builder.sign(signer, algorithm or hashes.SHA256())


def _with_usages(
    builder: x509.CertificateBuilder,
    usage: Iterable[str] | None,
    extended: Iterable[x509.ObjectIdentifier] | None,
    *,
    unknown_critical: bool,
) -> x509.CertificateBuilder:
    if usage is not None:
        named = frozenset(usage)
        bits = {one: one in named for one in _USAGES}
        builder = builder.add_extension(x509.KeyUsage(**bits), critical=True)
    if extended is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage(extended), critical=False)
    if unknown_critical:
        unknown = x509.UnrecognizedExtension(UNKNOWN, b"\x05\x00")
        builder = builder.add_extension(unknown, critical=True)
    return builder


@dataclass
class EkAuthority:
    """A vendor: a root, and the intermediate that issues its EK certificates."""

    root: Ca
    intermediate: Ca

    @classmethod
    def new(cls, **intermediate: Any) -> Self:  # noqa: ANN401 - passed on
        """A new vendor; the keywords are defects of its intermediate CA."""
        root = Ca.root()
        return cls(root, root.issue_ca(**intermediate))

    def issue(self, ek: Public | PublicKey, **defects: Any) -> bytes:  # noqa: ANN401 - passed on
        """An EK certificate by the intermediate."""
        return self.intermediate.issue(ek, **defects)

    @property
    def files(self) -> list[bytes]:
        """What an operator who trusts this vendor has."""
        return [self.root.pem, self.intermediate.der]


@dataclass
class Offer:
    """What a device sends and an operator trusts; by default all of it is good."""

    certificate: bytes
    ek: Public
    files: list[bytes]
    crls: list[bytes] = field(default_factory=list)
    intermediates: list[bytes] = field(default_factory=list)
    now: datetime = NOW

    def verify(self) -> EkCertificate:
        """Load the trust and verify the certificate."""
        trust = EkTrust.load(self.files, self.crls)
        return verify_ek_certificate(
            self.certificate,
            self.ek,
            trust=trust,
            now=self.now,
            intermediates=self.intermediates,
        )


def offer(authority: EkAuthority | None = None, **defects: Any) -> Offer:  # noqa: ANN401 - passed on
    """An EK certificate of that vendor, with the defects that the keywords name."""
    authority = authority or EkAuthority.new()
    ek = new_ek()
    return Offer(authority.issue(ek, **defects), ek, authority.files)


def serial_of(certificate: bytes) -> int:
    """The serial number of a certificate."""
    return x509.load_der_x509_certificate(certificate).serial_number


def revoked(which: str) -> Offer:
    """A chain of which one certificate stands on a list, and the list is years old."""
    made = offer(authority := EkAuthority.new())
    root, intermediate = authority.root, authority.intermediate
    made.crls = [
        {
            "leaf": intermediate.revoke(1, serial_of(made.certificate)),
            "intermediate": root.revoke(serial_of(intermediate.der)),
            "root": root.revoke(serial_of(root.der)),
        }[which]
    ]
    return made
