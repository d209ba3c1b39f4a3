"""Chips with SEV-SNP under test roots: real keys, real chains, real signatures.

    Authority.of(product)   ARK, ASK and ASVK of a product, with fixed RSA-4096 keys
    Chip(product)           a chip: its VCEK and VLEK certificates, its reports

Everything is deterministic, signatures included, so that vectors can be made again:
ECDSA by RFC 6979, RSASSA-PSS with a salt that follows from the message. What is odd
about a certificate or a report is a keyword, so that a test names its one defect.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from hwtrust.verify import der
from hwtrust.verify.enclaves.snp_chain import SnpTrust
from hwtrust.wire.enclaves.snp import (
    ARK,
    ASK,
    SIGNED_SIZE,
    SIZE,
    VCEK,
    VLEK,
    CertificateTable,
    Firmware,
    Product,
    SigningKey,
    SnpReport,
    Tcb,
)
from simulators.ek_authority import tlv

KEYS: Final = Path(__file__).parents[1] / "vectors" / "snp" / "keys"

START: Final = datetime(2024, 1, 1, tzinfo=UTC)
NOW: Final = datetime(2026, 6, 1, tzinfo=UTC)
END: Final = datetime(2030, 1, 1, tzinfo=UTC)

OID: Final = "1.3.6.1.4.1.3704.1."
LEVELS: Final = {"bootloader": "3.1", "tee": "3.2", "snp": "3.3", "microcode": "3.8"}
PSS: Final = padding.PSS(padding.MGF1(hashes.SHA384()), hashes.SHA384().digest_size)

REPORT_DATA: Final = hashlib.sha512(b"what was asked for").digest()
MEASUREMENT: Final = hashlib.sha384(b"launch").digest()
HOST_DATA: Final = hashlib.sha256(b"host data").digest()
ID_KEY: Final = hashlib.sha384(b"id key").digest()
AUTHOR_KEY: Final = hashlib.sha384(b"author key").digest()
CSP: Final = "cloud.example"

CPUIDS: Final = {
    Product.MILAN: (0x19, 0x01, 0x01),
    Product.GENOA: (0x19, 0x11, 0x01),
    Product.TURIN: (0x1A, 0x02, 0x01),
}
TCBS: Final = {
    Product.MILAN: Tcb(bootloader=4, tee=0, snp=24, microcode=219),
    Product.GENOA: Tcb(bootloader=10, tee=0, snp=23, microcode=84),
    Product.TURIN: Tcb(fmc=1, bootloader=2, tee=3, snp=4, microcode=72),
}
STEPPINGS: Final = {Product.MILAN: "B1", Product.GENOA: "B2", Product.TURIN: "C1"}
POLICY: Final = 0x3_0000 | 1 << 8 | 55
"""ABI 1.55, SMT, and the bit that is always set."""


def integer(value: int) -> bytes:
    """A DER INTEGER of one byte."""
    return tlv(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def ia5(text: str) -> bytes:
    """A DER IA5String."""
    return tlv(0x16, text.encode())


def name_of(common_name: str) -> x509.Name:
    """A name as AMD's are, shorter."""
    return x509.Name(
        [
            x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "Simulated Micro Devices"),
            x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name),
        ]
    )


def pss_signature(key: rsa.RSAPrivateKey, message: bytes) -> bytes:
    """RSASSA-PSS over SHA-384 with a salt that is the digest (RFC 8017 §9.1.1)."""
    digest = hashlib.sha384(message).digest()
    salt, size = digest, key.key_size // 8
    inner = hashlib.sha384(bytes(8) + digest + salt).digest()
    block = bytes(size - len(inner) - len(salt) - 2) + b"\x01" + salt
    mask = b"".join(
        hashlib.sha384(inner + counter.to_bytes(4, "big")).digest()
        for counter in range(len(block) // len(inner) + 1)
    )
    masked = bytearray(one ^ other for one, other in zip(block, mask, strict=False))
    masked[0] &= 0x7F
    number = int.from_bytes(bytes(masked) + inner + b"\xbc", "big")
    numbers = key.private_numbers()
    low = pow(number, numbers.dmq1, numbers.q)
    high = pow(number, numbers.dmp1, numbers.p)
    result = low + (high - low) * numbers.iqmp % numbers.p * numbers.q
    return result.to_bytes(size, "big")


def signed_again(
    certificate: bytes,
    key: rsa.RSAPrivateKey,
    change: Callable[[bytes], bytes] = lambda signed: signed,
) -> bytes:
    """`certificate` with its signed part changed, and signed by `key`, deterministically."""
    before, algorithm, _ = der.children(certificate)
    signed = change(before)
    return tlv(0x30, signed, algorithm, tlv(0x03, b"\0", pss_signature(key, signed)))


def zero_serial(signed: bytes) -> bytes:
    """The serial number 1 turned to 0, as every VCEK has it; builders refuse to."""
    assert signed.count(b"\xa0\x03\x02\x01\x02\x02\x01\x01") == 1
    return signed.replace(b"\xa0\x03\x02\x01\x02\x02\x01\x01", b"\xa0\x03\x02\x01\x02\x02\x01\x00")


def issue(
    issuer: Ca | None,
    common_name: str,
    key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey,
    signer: rsa.RSAPrivateKey,
    *,
    serial: int,
    ca: bool | None = None,
    path_length: int | None = None,
    usage: str | None = None,
    private: Mapping[str, bytes] | None = None,
    start: datetime = START,
    end: datetime = END,
    critical: str | None = None,
    algorithm: hashes.HashAlgorithm | None = None,
    pkcs1: bool = False,
) -> bytes:
    """A certificate in DER, with the defects that the keywords name."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(name_of(common_name))
        .issuer_name(name_of(common_name) if issuer is None else issuer.name)
        .public_key(key)
        .serial_number(serial or 1)
        .not_valid_before(start)
        .not_valid_after(end)
    )
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca, path_length), critical=True)
    if usage is not None:
        names = ("digital_signature", "key_cert_sign", "crl_sign", "content_commitment")
        bits = {one: one in usage.split() for one in names}
        others = ("key_encipherment", "data_encipherment", "key_agreement")
        bits |= dict.fromkeys((*others, "encipher_only", "decipher_only"), False)
        builder = builder.add_extension(x509.KeyUsage(**bits), critical=True)
    for oid, value in (private or {}).items():
        extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value)
        builder = builder.add_extension(extension, critical=oid == critical)
    if pkcs1 or algorithm is not None:
        rsa_padding: Any = padding.PKCS1v15() if pkcs1 else PSS
        made = builder.sign(signer, algorithm or hashes.SHA384(), rsa_padding=rsa_padding)  # type: ignore[arg-type]
        return made.public_bytes(serialization.Encoding.DER)
    made = builder.sign(signer, hashes.SHA384(), rsa_padding=PSS)
    whole = made.public_bytes(serialization.Encoding.DER)
    return signed_again(whole, signer, (lambda signed: signed) if serial else zero_serial)


@dataclass(frozen=True)
class Ca:
    """A certification authority: its key, and its certificate in DER."""

    common_name: str
    key: rsa.RSAPrivateKey
    der: bytes

    @property
    def name(self) -> x509.Name:
        """What those that it issues call it."""
        return name_of(self.common_name)

    @property
    def sha256(self) -> str:
        """The fingerprint of its certificate."""
        return hashlib.sha256(self.der).hexdigest()

    def revoke(self, *serials: int, by: Ca | None = None) -> bytes:
        """A revocation list in this CA's name, signed with its key (or that of `by`)."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.name)
            .last_update(START)
            .next_update(datetime(2024, 2, 1, tzinfo=UTC))
        )
        for serial in serials:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(START)
            builder = builder.add_revoked_certificate(entry.build())
        signed = builder.sign((by or self).key, hashes.SHA384(), rsa_padding=PSS)
        return signed.public_bytes(serialization.Encoding.DER)


@cache
def rsa_key(name: str) -> rsa.RSAPrivateKey:
    """One of the fixed keys, such as `milan-ark`."""
    pem = (KEYS / f"{name}.pem").read_bytes()
    key = serialization.load_pem_private_key(pem, None, unsafe_skip_rsa_key_validation=True)
    assert isinstance(key, rsa.RSAPrivateKey)
    return key


ROOT_OPTIONS: Final[Mapping[str, Any]] = {"ca": True, "usage": "key_cert_sign crl_sign"}
CA_OPTIONS: Final[Mapping[str, Any]] = {"ca": True, "path_length": 0, "usage": "key_cert_sign"}


def root(product: Product, **options: Any) -> Ca:  # noqa: ANN401
    """An ARK of that product; `options` are those of `issue`."""
    key, name = rsa_key(f"{product.lower()}-ark"), options.pop("name", f"ARK-{product}")
    options = {"serial": 0x10000, **ROOT_OPTIONS} | options
    return Ca(name, key, issue(None, name, key.public_key(), key, **options))


def intermediate(ark: Ca, product: Product, kind: SigningKey, **options: Any) -> Ca:  # noqa: ANN401
    """The ASK or ASVK below `ark`; `options` are those of `issue`."""
    vcek = kind is SigningKey.VCEK
    key = options.pop("key", None) or rsa_key(f"{product.lower()}-{'ask' if vcek else 'asvk'}")
    name = options.pop("name", f"SEV-{product}" if vcek else f"SEV-VLEK-{product}")
    options = {"serial": 0x10001 if vcek else 0x10101, **CA_OPTIONS} | options
    return Ca(name, key, issue(ark, name, key.public_key(), ark.key, **options))


@dataclass(frozen=True)
class Authority:
    """AMD, for one product."""

    product: Product
    ark: Ca
    ask: Ca
    asvk: Ca

    @staticmethod
    @cache
    def of(product: Product) -> Authority:
        """The one with the fixed keys."""
        ark = root(product)
        ask = intermediate(ark, product, SigningKey.VCEK)
        return Authority(product, ark, ask, intermediate(ark, product, SigningKey.VLEK))

    def issuer(self, kind: SigningKey) -> Ca:
        """ASK or ASVK."""
        return self.ask if kind is SigningKey.VCEK else self.asvk


def trust(*products: Product, crls: tuple[bytes, ...] = ()) -> SnpTrust:
    """Trust in the test roots of `products`; of all if there are none."""
    chosen = products or tuple(Product)
    roots = {product: frozenset({Authority.of(product).ark.sha256}) for product in chosen}
    return SnpTrust(roots=roots, crls=crls)


@dataclass(frozen=True)
class Chip:
    """A chip of a product; another `seed` makes another one."""

    product: Product
    seed: bytes = b"chip"
    tcb: Tcb | None = None
    stepping: str | None = None
    authority: Authority = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "authority", Authority.of(self.product))

    @property
    def level(self) -> Tcb:
        """Its TCB version."""
        return self.tcb or TCBS[self.product]

    @property
    def hwid(self) -> bytes:
        """Its hardware id, as long as the product has it."""
        digest = hashlib.sha512(self.seed + self.product.encode()).digest()
        return digest[:8] if self.product is Product.TURIN else digest

    def key(self, kind: SigningKey) -> ec.EllipticCurvePrivateKey:
        """Its VCEK or VLEK; of a new TCB version a new one."""
        text = b"|".join(
            [self.seed, self.product.encode(), kind.name.encode(), repr(self.level).encode()]
        )
        scalar = int.from_bytes(hashlib.sha384(text).digest(), "big") >> 1
        return ec.derive_private_key(scalar, ec.SECP384R1())

    def extensions(self, kind: SigningKey) -> dict[str, bytes]:
        """What its certificate says, by the last part of AMD's object identifiers."""
        stepping = self.stepping or f"{self.product}-{STEPPINGS[self.product]}"
        found = {"1": integer(0), "2": ia5(stepping)}
        found |= {oid: integer(getattr(self.level, name)) for name, oid in LEVELS.items()}
        if self.product is Product.TURIN:
            found["3.9"] = integer(self.level.fmc)
        else:
            found |= {f"3.{number}": integer(0) for number in (4, 5, 6, 7)}
        found |= {"4": self.hwid} if kind is SigningKey.VCEK else {"5": ia5(CSP)}
        return found

    def certificate(
        self,
        kind: SigningKey = SigningKey.VCEK,
        *,
        change: Mapping[str, bytes | None] | None = None,
        issuer: Ca | None = None,
        name: str | None = None,
        key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey | None = None,
        critical: str | None = None,
        **options: Any,  # noqa: ANN401
    ) -> bytes:
        """Its VCEK's or VLEK's certificate in DER; None in `change` leaves an extension out."""
        extensions: dict[str, bytes | None] = {**self.extensions(kind), **(change or {})}
        ca = issuer or self.authority.issuer(kind)
        return issue(
            ca,
            name or f"SEV-{kind.name}",
            key or self.key(kind).public_key(),
            ca.key,
            private={OID + oid: value for oid, value in extensions.items() if value is not None},
            critical=None if critical is None else OID + critical,
            **{"serial": 0 if kind is SigningKey.VCEK else 77, **options},
        )

    def certificates(self, kind: SigningKey = SigningKey.VCEK) -> tuple[bytes, ...]:
        """Leaf, intermediate and root."""
        return (_leaf(self, kind), self.authority.issuer(kind).der, self.authority.ark.der)

    def table(self, kind: SigningKey = SigningKey.VCEK) -> CertificateTable:
        """What the host puts beside a report."""
        guids = (VCEK if kind is SigningKey.VCEK else VLEK, ASK, ARK)
        return CertificateTable(tuple(zip(guids, self.certificates(kind), strict=True)))

    def fields(self, kind: SigningKey = SigningKey.VCEK, *, version: int = 5) -> SnpReport:
        """An unsigned report of a guest in a good state."""
        tcb = self.level.encode(self.product)
        return SnpReport(
            raw=b"",
            version=version,
            guest_svn=3,
            policy=POLICY,
            family_id=b"family".ljust(16, b"\0"),
            image_id=b"image".ljust(16, b"\0"),
            vmpl=1,
            current_tcb=tcb,
            platform_info=0b10_0101,
            author_key_en=True,
            mask_chip_key=False,
            signing_key=kind,
            report_data=REPORT_DATA,
            measurement=MEASUREMENT,
            host_data=HOST_DATA,
            id_key_digest=ID_KEY,
            author_key_digest=AUTHOR_KEY,
            report_id=hashlib.sha256(b"report id").digest(),
            report_id_ma=b"\xff" * 32,
            reported_tcb=tcb,
            cpuid=CPUIDS[self.product] if version >= 3 else (0, 0, 0),
            chip_id=self.hwid.ljust(64, b"\0"),
            committed_tcb=tcb,
            current_firmware=Firmware(1, 55, 40),
            committed_firmware=Firmware(1, 55, 40),
            launch_tcb=tcb,
            launch_mit_vector=7 if version >= 5 else 0,
            current_mit_vector=7 if version >= 5 else 0,
            signature_r=bytes(72),
            signature_s=bytes(72),
        )

    def report(
        self,
        kind: SigningKey = SigningKey.VCEK,
        *,
        version: int = 5,
        signer: ec.EllipticCurvePrivateKey | None = None,
        **changes: Any,  # noqa: ANN401
    ) -> bytes:
        """A signed report; `changes` are fields of `SnpReport`, made before signing."""
        fields = msgspec.structs.replace(self.fields(kind, version=version), **changes)
        return signed_report(fields.encode(), signer or self.key(kind))

    def patched(self, at: int, value: bytes, *, version: int = 5) -> bytes:
        """A signed report with `value` at that place, which no firmware may have written."""
        raw = bytearray(self.fields(version=version).encode())
        raw[at : at + len(value)] = value
        return signed_report(bytes(raw), self.key(SigningKey.VCEK))


@cache
def _leaf(chip: Chip, kind: SigningKey) -> bytes:
    return chip.certificate(kind)


def signed_report(raw: bytes, key: ec.EllipticCurvePrivateKey) -> bytes:
    """`raw` with the key's signature over its first part."""
    signature = key.sign(raw[:SIGNED_SIZE], ec.ECDSA(hashes.SHA384(), deterministic_signing=True))
    numbers = (number.to_bytes(72, "little") for number in decode_dss_signature(signature))
    rest = raw[SIGNED_SIZE + 144 : SIZE]
    return raw[:SIGNED_SIZE] + b"".join(numbers) + rest
