"""A GPU under a test root: a chain as long as NVIDIA's, and reports that it really signs.

    gpu = GpuSigner()
    report = gpu.report(nonce)
    verify_nvidia(report, certificates=gpu.chain, nonce=nonce, now=NOW, trust=gpu.trust)

Every report and certificate comes out the same each time: keys are fixed, and
signatures deterministic.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from struct import pack
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding

from hwtrust.verify.certificates import Crl, read_crl
from hwtrust.verify.enclaves.nvidia import NvidiaTrust

START: Final = datetime(2024, 1, 1, tzinfo=UTC)
NOW: Final = datetime(2026, 6, 1, tzinfo=UTC)
END: Final = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
FWID: Final = hashlib.sha384(b"firmware").digest()

Digest = hashes.SHA224 | hashes.SHA256 | hashes.SHA384

P384: Final = ec.SECP384R1()
SHA384: Final = hashes.SHA384()

DRIVER_VERSION: Final = 3
VBIOS_VERSION: Final = 6
FIRMWARE_ID: Final = 20

_TCB_INFO: Final = x509.ObjectIdentifier("2.23.133.5.4.1")
_OID: Final = bytes.fromhex("0609608648016503040202")
_USAGES: Final = ("key_cert_sign", "crl_sign", "digital_signature")
NAMES: Final = ("Test GPU", "TEST100 BROM", "Test Provisioner", "Test Identity", "Test Root")


def key_of(name: str, curve: ec.EllipticCurve | None = None) -> ec.EllipticCurvePrivateKey:
    """The fixed private key of that name."""
    scalar = int.from_bytes(hashlib.sha256(b"gpu " + name.encode()).digest(), "big") >> 1
    return ec.derive_private_key(scalar, curve or P384)


def fwid_extension(digest: bytes) -> bytes:
    """SEQUENCE { version, SEQUENCE { sha384, digest } }, as the first chips have it."""
    inner = _OID + bytes([4, len(digest)]) + digest
    inner = bytes([0x30, len(inner)]) + inner
    return bytes([0x30, len(inner) + 3]) + b"\x02\x01\x01" + inner


@dataclass(frozen=True)
class Link:
    """A certificate of the chain, and what may be odd about it."""

    name: str
    ca: bool = True
    path_length: int | None = None
    usage: str | None = "key_cert_sign"
    start: datetime = START
    end: datetime = END
    hash_: Digest = field(default_factory=lambda: SHA384)
    curve: ec.EllipticCurve = field(default_factory=lambda: P384)
    fwid: bytes = b""
    tcb_info: bytes | None = None
    critical: bool = False
    issuer: str = ""
    signer: str = ""

    @property
    def serial(self) -> int:
        """Another one for each name."""
        return int.from_bytes(hashlib.sha256(self.name.encode()).digest()[:8], "big") >> 1

    def certificate(self, issuer: Link) -> bytes:
        """DER, signed by `issuer` unless another signer or issuer is asked for."""
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(self.name))
            .issuer_name(_name(self.issuer or issuer.name))
            .public_key(key_of(self.name, self.curve).public_key())
            .serial_number(self.serial)
            .not_valid_before(self.start)
            .not_valid_after(self.end)
        )
        if self.ca:
            constraints = x509.BasicConstraints(ca=True, path_length=self.path_length)
            builder = builder.add_extension(constraints, critical=True)
        if self.usage:
            builder = builder.add_extension(_usage(self.usage), critical=True)
        value = self.tcb_info
        if value is None and self.fwid:
            value = fwid_extension(self.fwid)
        if value is not None:
            unknown = x509.UnrecognizedExtension(_TCB_INFO, value)
            builder = builder.add_extension(unknown, critical=self.critical)
        key = key_of(self.signer or issuer.name, issuer.curve)
        made = builder.sign(key, self.hash_, ecdsa_deterministic=True)
        return made.public_bytes(Encoding.DER)


LEAF: Final = Link(NAMES[0], ca=False, usage="digital_signature", fwid=FWID)
LINKS: Final = (LEAF, *(Link(name) for name in NAMES[1:]))


def chain_of(links: tuple[Link, ...]) -> tuple[bytes, ...]:
    """The certificates of a chain, the leaf first; the last one signs itself."""
    issuers = (*links[1:], links[-1])
    return tuple(link.certificate(issuer) for link, issuer in zip(links, issuers, strict=True))


def changed(at: int, **changes: object) -> tuple[Link, ...]:
    """The usual chain with one certificate changed."""
    links = list(LINKS)
    links[at] = replace(links[at], **changes)  # type: ignore[arg-type]
    return tuple(links)


def crl_of(issuer: Link, *serials: int, signer: str = "") -> Crl:
    """A list of `issuer` that revokes those."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(_name(issuer.name))
        .last_update(START)
        .next_update(END)
    )
    for serial in serials:
        revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(START)
        builder = builder.add_revoked_certificate(revoked.build())
    made = builder.sign(key_of(signer or issuer.name), hashes.SHA384())
    return read_crl(made.public_bytes(Encoding.DER))


@dataclass(frozen=True)
class GpuSigner:
    """A GPU: what it measures, what it tells, its chain."""

    links: tuple[Link, ...] = LINKS
    measurements: tuple[tuple[int, bytes], ...] = tuple(
        (index, hashlib.sha384(bytes([index])).digest()) for index in range(1, 9)
    )
    fields: tuple[tuple[int, bytes], ...] = (
        (VBIOS_VERSION, bytes.fromhex("009f009601000000")),
        (DRIVER_VERSION, b"550.90.07\0"),
        (FIRMWARE_ID, FWID),
    )

    @cached_property
    def chain(self) -> tuple[bytes, ...]:
        """Its certificates, DER, the root last."""
        return chain_of(self.links)

    @cached_property
    def trust(self) -> NvidiaTrust:
        """Its root."""
        return NvidiaTrust(roots=frozenset({hashlib.sha256(self.chain[-1]).hexdigest()}))

    def sign(self, signed: bytes) -> bytes:
        """`signed` with the GPU's signature behind it."""
        leaf = self.links[0]
        algorithm = ec.ECDSA(hashes.SHA384(), deterministic_signing=True)
        numbers = decode_dss_signature(key_of(leaf.name, leaf.curve).sign(signed, algorithm))
        return signed + b"".join(number.to_bytes(48, "big") for number in numbers)

    def report(self, nonce: bytes, **changes: int) -> bytes:
        """A report for `nonce`; `changes` are those of `body`."""
        return self.sign(self.body(nonce, **changes))

    def body(
        self,
        nonce: bytes,
        *,
        version: int = 0x11,
        response_version: int = 0x11,
        code: int = 0xE0,
        response_code: int = 0x60,
        wanted: int = 1,
        slot: int = 0,
        response_slot: int = 0,
        form: int = 1,
        size_off: int = 0,
        count_off: int = 0,
        opaque_off: int = 0,
    ) -> bytes:
        """What is signed: request and response."""
        blocks = b"".join(
            pack("<BBHBH", index, form, len(value) + 3 + size_off, 1, len(value)) + value
            for index, value in self.measurements
        )
        fields = b"".join(pack("<HH", type_, len(value)) + value for type_, value in self.fields)
        return (
            pack("<BBBB32sB", version, code, wanted, 0xFF, nonce, slot)
            + pack("<BBBB", response_version, response_code, 0, response_slot)
            + pack("<B", len(self.measurements) + count_off)
            + len(blocks).to_bytes(3, "little")
            + blocks
            + hashlib.sha256(b"gpu nonce").digest()
            + pack("<H", len(fields) + opaque_off)
            + fields
        )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def _usage(name: str) -> x509.KeyUsage:
    flags = {usage: usage == name for usage in _USAGES}
    return x509.KeyUsage(
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
        **flags,
    )
