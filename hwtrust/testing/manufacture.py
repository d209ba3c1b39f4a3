"""A TPM vendor for tests: a CA, and a line on which TPMs get their EK certificates.

    root CA -> intermediate CA -> EK certificate -> NV index of the TPM

The evidence is real, only the root is ours: the EK is a primary key of the TPM
from the TCG's template, the certificate says of the TPM what the TPM says of
itself, the NV index belongs to the platform. What distinguishes these TPMs from
bought ones is whether a backend trusts `Vendor.ca_pem`.

Templates (low range, L-1 and L-2), NV indices and certificate fields are those
of the TCG EK Credential Profile for TPM Family 2.0. Left out are the fields by
which a verifier would go to the network: CRL distribution points, authority
information access, policies.

The steps are functions of their own, so that a test can leave one out or do it
wrongly: `create_ek`, `identify`, `Vendor.issue`, `write_certificate`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, Literal, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtensionOID, NameOID

from hwtrust.errors import SoftwareTpmError
from hwtrust.testing import bus
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.codec import Reader, tpm2b, u8, u16, u32

if TYPE_CHECKING:
    from hwtrust.testing.swtpm import Swtpm

KeyAlgorithm = Literal["ecc256", "rsa2048"]
Algorithm = KeyAlgorithm | Literal["none"]
EkPublic = ec.EllipticCurvePublicKey | rsa.RSAPublicKey

EK_CERTIFICATE_INDEX: Final = {"rsa2048": 0x01C0_0002, "ecc256": 0x01C0_000A}

OID_MANUFACTURER: Final = x509.ObjectIdentifier("2.23.133.2.1")
OID_MODEL: Final = x509.ObjectIdentifier("2.23.133.2.2")
OID_VERSION: Final = x509.ObjectIdentifier("2.23.133.2.3")
OID_EK_CERTIFICATE: Final = x509.ObjectIdentifier("2.23.133.8.1")

# fixedTPM, fixedParent, sensitiveDataOrigin, adminWithPolicy, restricted, decrypt
_EK_ATTRIBUTES: Final = 0x0003_00B2
# PolicySecret(endorsement hierarchy)
_EK_POLICY: Final = bytes.fromhex(
    "837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa"
)
_AES128_CFB: Final = u16(Alg.AES) + u16(128) + u16(Alg.CFB)
_P256: Final = 0x0003
_DEFAULT_EXPONENT: Final = 65537

_TEMPLATE_HEAD: Final = u16(Alg.SHA256) + u32(_EK_ATTRIBUTES) + tpm2b(_EK_POLICY) + _AES128_CFB
# All of a template but its `unique`, which the TPM replaces.
_TEMPLATES: Final = {
    "ecc256": u16(Alg.ECC) + _TEMPLATE_HEAD + u16(Alg.NULL) + u16(_P256) + u16(Alg.NULL),
    "rsa2048": u16(Alg.RSA) + _TEMPLATE_HEAD + u16(Alg.NULL) + u16(2048) + u32(0),
}
_UNIQUES: Final = {"ecc256": tpm2b(bytes(32)) * 2, "rsa2048": tpm2b(bytes(256))}

_NV_CHUNK: Final = 512
_NV_ATTRIBUTES: Final = (
    bus.NV_PPWRITE
    | bus.NV_PPREAD
    | bus.NV_OWNERREAD
    | bus.NV_AUTHREAD
    | bus.NV_NO_DA
    | bus.NV_PLATFORMCREATE
)

_CAP_TPM_PROPERTIES: Final = 6
_PT_FIXED: Final = 0x100
_PT_COUNT: Final = 0x0D

_CA_LIFE: Final = timedelta(days=20 * 365)
_EK_LIFE: Final = timedelta(days=10 * 365)


@dataclass(frozen=True, slots=True)
class TpmIdentity:
    """What a TPM says of itself, in the words of EK certificates (TPM_PT, Part 2 §6.13)."""

    manufacturer: str
    model: str
    version: str
    family: str
    level: int
    revision: int


def identify(tpm: bus.Bus) -> TpmIdentity:
    """Ask the TPM who made it and which specification it follows."""
    answer = tpm.run(bus.GET_CAPABILITY, u32(_CAP_TPM_PROPERTIES) + u32(_PT_FIXED) + u32(_PT_COUNT))
    answer.take(5)
    properties = {}
    for _ in range(answer.u32()):
        tag = answer.u32()
        properties[tag - _PT_FIXED] = answer.u32()

    def text(*tags: int) -> str:
        joined = b"".join(properties[tag].to_bytes(4, "big") for tag in tags)
        return joined.replace(b"\x00", b"").decode("ascii").strip()

    return TpmIdentity(
        manufacturer=f"id:{properties[5]:08X}",
        model=text(6, 7, 8, 9),
        version=f"id:{properties[11]:08X}",
        family=text(0),
        level=properties[1],
        revision=properties[2],
    )


def create_ek(tpm: bus.Bus, algorithm: KeyAlgorithm) -> EkPublic:
    """The public part of the EK, which the TPM derives and does not keep.

    TPM2_CreatePrimary, Part 3 §24.1, with the TCG's low-range template.

    Raises:
        SoftwareTpmError: the TPM cannot make such a key.
    """
    template = _TEMPLATES[algorithm]
    empty_sensitive = tpm2b(tpm2b(b"") + tpm2b(b""))
    answer = tpm.run(
        bus.CREATE_PRIMARY,
        empty_sensitive + tpm2b(template + _UNIQUES[algorithm]) + tpm2b(b"") + u32(0),
        handles=(bus.ENDORSEMENT,),
        passwords=(b"",),
        answers_handle=True,
    )
    handle = answer.u32()
    tpm.run(bus.FLUSH_CONTEXT, u32(handle))
    public = Reader(answer.sized(), "EK public area")
    if public.take(len(template)) != template:
        message = "the software TPM made an EK that does not follow the template"
        raise SoftwareTpmError(message)
    if algorithm == "ecc256":
        x, y = (int.from_bytes(public.sized(), "big") for _ in range(2))
        return ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
    modulus = int.from_bytes(public.sized(), "big")
    return rsa.RSAPublicNumbers(_DEFAULT_EXPONENT, modulus).public_key()


def write_certificate(tpm: bus.Bus, index: int, content: bytes) -> None:
    """Put `content` into the NV index `index`, as a vendor does: readable, the platform's.

    Raises:
        SoftwareTpmError: the index is already there, or NV is full.
    """
    public = u32(index) + u16(Alg.SHA256) + u32(_NV_ATTRIBUTES) + tpm2b(b"") + u16(len(content))
    tpm.run(
        bus.NV_DEFINE_SPACE,
        tpm2b(b"") + tpm2b(public),
        handles=(bus.PLATFORM,),
        passwords=(b"",),
    )
    for at in range(0, len(content), _NV_CHUNK):
        tpm.run(
            bus.NV_WRITE,
            tpm2b(content[at : at + _NV_CHUNK]) + u16(at),
            handles=(bus.PLATFORM, index),
            passwords=(b"",),
        )


class Vendor:
    """A TPM vendor with a CA of its own. Made by `create`.

    `root` and `intermediate` are its CA certificates.
    """

    def __init__(
        self,
        *,
        root: x509.Certificate,
        intermediate: x509.Certificate,
        key: ec.EllipticCurvePrivateKey,
        now: datetime,
    ) -> None:
        self.root = root
        self.intermediate = intermediate
        self._key = key
        self._now = now

    @classmethod
    def create(cls, *, now: datetime, name: str = "hwtrust test vendor") -> Self:
        """A vendor whose certificates are valid from `now` (an aware datetime) on."""
        root_key = ec.generate_private_key(ec.SECP256R1())
        key = ec.generate_private_key(ec.SECP256R1())
        root_name = _common_name(f"{name} root CA")
        root = _ca(root_name, root_key, issuer=root_name, issuer_key=root_key, now=now, depth=1)
        intermediate = _ca(
            _common_name(f"{name} EK CA"),
            key,
            issuer=root_name,
            issuer_key=root_key,
            now=now,
            depth=0,
        )
        return cls(root=root, intermediate=intermediate, key=key, now=now)

    @property
    def ca_pem(self) -> bytes:
        """Root and intermediate certificate, for a backend's directory of vendor CAs."""
        return self.root.public_bytes(Encoding.PEM) + self.intermediate.public_bytes(Encoding.PEM)

    def manufacture(self, tpm: Swtpm, *, algorithm: Algorithm) -> x509.Certificate | None:
        """Give `tpm` an EK certificate in NV and return it; "none" gives it none.

        Raises:
            SoftwareTpmError: it already has one of that algorithm.
        """
        if algorithm == "none":
            return None
        certificate = self.issue(create_ek(tpm.bus, algorithm), identify(tpm.bus))
        content = certificate.public_bytes(Encoding.DER)
        write_certificate(tpm.bus, EK_CERTIFICATE_INDEX[algorithm], content)
        return certificate

    def issue(self, ek: EkPublic, identity: TpmIdentity) -> x509.Certificate:
        """Sign an EK certificate for the key `ek` of the TPM `identity`."""
        name = x509.Name(
            [
                x509.NameAttribute(OID_MANUFACTURER, identity.manufacturer),
                x509.NameAttribute(OID_MODEL, identity.model),
                x509.NameAttribute(OID_VERSION, identity.version),
            ]
        )
        agrees = isinstance(ek, ec.EllipticCurvePublicKey)
        return (
            _builder(ek, issuer=self.intermediate.subject, issuer_key=self._key)
            .not_valid_before(self._now)
            .not_valid_after(self._now + _EK_LIFE)
            # The subject is the TPM, which has no name but the one below.
            .subject_name(x509.Name([]))
            .add_extension(x509.SubjectAlternativeName([x509.DirectoryName(name)]), critical=True)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(
                _key_usage(key_agreement=agrees, key_encipherment=not agrees), critical=True
            )
            .add_extension(x509.ExtendedKeyUsage([OID_EK_CERTIFICATE]), critical=False)
            .add_extension(_specification(identity), critical=False)
            .sign(self._key, hashes.SHA256())
        )


def _common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(
    public: EkPublic, *, issuer: x509.Name, issuer_key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .public_key(public)
        .issuer_name(issuer)
        .serial_number(x509.random_serial_number())
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
    )


def _ca(
    subject: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    *,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    now: datetime,
    depth: int,
) -> x509.Certificate:
    public = key.public_key()
    return (
        _builder(public, issuer=issuer, issuer_key=issuer_key)
        .not_valid_before(now)
        .not_valid_after(now + _CA_LIFE)
        .subject_name(subject)
        .add_extension(x509.BasicConstraints(ca=True, path_length=depth), critical=True)
        .add_extension(_key_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )


def _key_usage(**uses: bool) -> x509.KeyUsage:
    every = (
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
    return x509.KeyUsage(**{use: uses.get(use, False) for use in every})


def _der(tag: int, *content: bytes) -> bytes:
    body = b"".join(content)
    # Short form: the one structure that is written here has less than 128 bytes.
    return u8(tag) + u8(len(body)) + body


def _specification(identity: TpmIdentity) -> x509.UnrecognizedExtension:
    """The extension that holds tPMSpecification (2.23.133.2.16): subjectDirectoryAttributes."""

    def integer(value: int) -> bytes:
        return _der(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))

    family = _der(0x0C, identity.family.encode())
    specification = _der(0x30, family, integer(identity.level), integer(identity.revision))
    oid = _der(0x06, bytes.fromhex("6781050210"))
    attribute = _der(0x30, oid, _der(0x31, specification))
    return x509.UnrecognizedExtension(
        ExtensionOID.SUBJECT_DIRECTORY_ATTRIBUTES, _der(0x30, attribute)
    )
