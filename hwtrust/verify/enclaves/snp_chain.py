"""From the key that signs SEV-SNP reports to AMD's root: the chain, and what its leaf vouches for.

    certificates (DER, PEM) ── endorsed ──▶ Endorsement (key, product, TCB, chip or CSP)

    VCEK (SEV-VCEK) ── ASK  (SEV-Milan)      ── ARK (ARK-Milan)     by chip
    VLEK (SEV-VLEK) ── ASVK (SEV-VLEK-Milan) ── ARK (ARK-Milan)     by cloud provider

VCEK certificate and KDS interface specification (57230). Rules:

1. The ARK is pinned by the SHA-256 of its certificate, for one product. It comes
   with the evidence and is trusted for its fingerprint, whoever has sent it.
2. The chain has exactly these three certificates, under exactly these names; which
   of the two chains it is the report says, not the host. There is one leaf of it.
3. ARK and intermediate are 4096-bit RSA keys, and sign by RSASSA-PSS over SHA-384.
   The signatures are checked each time, over the bytes as received.
4. Both are CAs: the CA bit, the path length, keyCertSign. The leaf is none, and has
   a P-384 key. A critical extension that is not understood refuses the chain.
5. Every certificate is valid now. None is on a revocation list of its issuer; an
   old list is used all the same, since it can only take trust away, and a list
   that bears an issuer's name but not its signature is an error.
6. What the leaf says of product, TCB, chip and provider is complete, and in the one
   form that AMD gives it. A VCEK names a chip and a VLEK a provider, never both.

Certificates and lists that were read are kept, by the rules of `hwtrust.verify.kept`:
under all of their bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from hwtrust.errors import MalformedError
from hwtrust.errors.snp import (
    SnpChainError,
    SnpCrlError,
    SnpExpiredError,
    SnpProductError,
    SnpRevokedError,
    SnpRootError,
    SnpTcbError,
)
from hwtrust.verify import der
from hwtrust.verify.certificates import Certificate, Crl, pem_blocks, read_certificate, read_crl
from hwtrust.wire.enclaves.snp import CHIP_ID_SIZE, Product, SigningKey, SnpReport, Tcb

MOST_CERTIFICATES: Final = 16
LARGEST: Final = 16 * 1024
"""Bytes of a file of certificates; AMD's of ASK and ARK has less than 5,000."""
FILES_KEPT: Final = 1024
CRLS_KEPT: Final = 16

TURIN_HWID_SIZE: Final = 8

_AMD: Final = "1.3.6.1.4.1.3704.1."
_STRUCT_VERSION: Final = _AMD + "1"
_PRODUCT_NAME: Final = _AMD + "2"
_LEVELS: Final = MappingProxyType(
    {
        "bootloader": _AMD + "3.1",
        "tee": _AMD + "3.2",
        "snp": _AMD + "3.3",
        "microcode": _AMD + "3.8",
    }
)
_FMC: Final = _AMD + "3.9"
_RESERVED_LEVELS: Final = tuple(_AMD + f"3.{number}" for number in (4, 5, 6, 7))
_HWID: Final = _AMD + "4"
_CSP_ID: Final = _AMD + "5"
_INTEGER: Final = 0x02
_OCTET_STRING: Final = 0x04
_IA5_STRING: Final = 0x16
_SHORT: Final = 0x80

_LEAVES: Final = {SigningKey.VCEK: "SEV-VCEK", SigningKey.VLEK: "SEV-VLEK"}
_INTERMEDIATES: Final = {SigningKey.VCEK: "SEV-", SigningKey.VLEK: "SEV-VLEK-"}
_ISSUERS: Final = frozenset(
    f"{prefix}{product}" for prefix in ("ARK-", *_INTERMEDIATES.values()) for product in Product
)
_NAMES: Final = MappingProxyType(
    {
        Product.MILAN: frozenset({"Milan"}),
        Product.GENOA: frozenset({"Genoa", "Bergamo", "Siena"}),
        Product.TURIN: frozenset({"Turin"}),
    }
)
"""What the certificates of a product call it, before its stepping."""
_MASKED: Final = bytes(CHIP_ID_SIZE)
_RSA_BITS: Final = 4096
_HASH: Final = "sha384"


@dataclass(frozen=True, slots=True)
class SnpTrust:
    """Which roots are trusted, and what is revoked.

    Attributes:
        roots: of each product, the SHA-256 (hex) of the DER of its ARK's certificate.
        crls: revocation lists in DER.
    """

    roots: Mapping[Product, frozenset[str]]
    crls: tuple[bytes, ...]


AMD: Final = SnpTrust(
    roots=MappingProxyType(
        {
            Product.MILAN: frozenset(
                {"69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd"}
            ),
            Product.GENOA: frozenset(
                {"4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1"}
            ),
            Product.TURIN: frozenset(
                {"1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a"}
            ),
        }
    ),
    crls=(),
)
"""AMD's roots; lists are the caller's to add, with `dataclasses.replace`."""


@dataclass(frozen=True, slots=True)
class Endorsement:
    """What AMD vouches for, of one key.

    Attributes:
        tcb: the TCB version that the key belongs to.
        hwid: the chip that the key belongs to, of 64 bytes, or 8 on Turin; empty for a VLEK.
        csp_id: the cloud provider that the key was given to; empty for a VCEK.
        fingerprints: the SHA-256 of leaf, intermediate and root.
    """

    key: ec.EllipticCurvePublicKey
    product: Product
    tcb: Tcb
    hwid: bytes
    csp_id: str
    fingerprints: tuple[str, str, str]


def endorsed(
    certificates: Sequence[bytes], *, kind: SigningKey, now: datetime, trust: SnpTrust
) -> Endorsement:
    """What the one leaf of that kind among `certificates` vouches for.

    `certificates` are files of PEM or DER, in any order; others than those of the
    chain may be among them.

    Raises:
        SnpError: there is no such chain, or it is not acceptable; see the rules.
        MalformedError: a certificate cannot be read.
    """
    found = _read(certificates)
    # (1): the root, and with it the product.
    fingerprints = [certificate.sha256 for certificate in found]
    roots = [
        (product, certificate)
        for certificate, fingerprint in zip(found, fingerprints, strict=True)
        for product, pins in trust.roots.items()
        if fingerprint in pins
    ]
    if not roots:
        raise SnpRootError("none of the certificates is a root of AMD's that is trusted")
    # (2): names.
    leaves = [certificate for certificate in found if _name(certificate) == _LEAVES[kind]]
    if len(leaves) != 1:
        raise SnpChainError(
            f"there are {len(leaves)} certificates of a {kind.name}, and there must be one"
        )
    (leaf,) = leaves
    for product, root in roots:
        for intermediate in found:
            if _issued(leaf, intermediate, root, f"{_INTERMEDIATES[kind]}{product}", product):
                chain = (leaf, intermediate, root)
                _check(chain, now)
                _require_not_revoked(chain, trust.crls)
                return _endorsement(chain, product, kind)
    raise SnpChainError(f"no trusted root has issued the {kind.name}", sha256=leaf.sha256)


def suiting(
    files: Sequence[bytes], added: Sequence[bytes], *, report: SnpReport
) -> tuple[bytes, ...]:
    """`files` that came with a report, with what of `added` belongs beside them.

    `added` may be the certificates of all products and of many chips; those of keys
    are taken only where `files` have none, and of the report's chip and TCB version.
    Others than AMD's are passed over: they would fill the places of those.

    Raises:
        MalformedError: a certificate cannot be read.
    """
    if not added:
        return tuple(files)
    found = {certificate.der: certificate for certificate in _read(files)}
    leaf = _LEAVES.get(report.signing_key, "")
    needs_leaf = all(_name(certificate) != leaf for certificate in found.values())
    for file in added:
        for certificate in _certificates(bytes(file)):
            name = _name(certificate)
            if name in _ISSUERS or (needs_leaf and name == leaf and _is_of(certificate, report)):
                found[certificate.der] = certificate
    return tuple(found)


def _is_of(leaf: Certificate, report: SnpReport) -> bool:
    """Whether a leaf speaks of the chip, and of the TCB version, that a report does."""
    try:
        return _speaks_of(leaf, report)
    except MalformedError:
        # It is of nobody's report, and keeps no other from being verified.
        return False


def _speaks_of(leaf: Certificate, report: SnpReport) -> bool:
    private = leaf.private
    name = _text(private, _PRODUCT_NAME).partition("-")[0]
    product = next((product for product, names in _NAMES.items() if name in names), None)
    if product is None:
        return False
    kind = SigningKey.VCEK if _HWID in private else SigningKey.VLEK
    if kind is SigningKey.VCEK and report.chip_id != _MASKED:
        hwid = _hwid(private, product)
        if report.chip_id != hwid.ljust(CHIP_ID_SIZE, b"\0"):
            return False
    return _tcb(private, product) == Tcb.decode(report.reported_tcb, product)


def _read(files: Sequence[bytes]) -> list[Certificate]:
    """Every certificate of the files once."""
    if len(files) > MOST_CERTIFICATES:
        raise MalformedError(f"there are more than {MOST_CERTIFICATES} files of certificates")
    found: dict[bytes, Certificate] = {}
    for file in files:
        if len(file) > LARGEST:
            raise MalformedError(f"a file of certificates has more than {LARGEST} bytes")
        found.update((certificate.der, certificate) for certificate in _certificates(bytes(file)))
    if len(found) > MOST_CERTIFICATES:
        raise MalformedError(f"there are more than {MOST_CERTIFICATES} certificates")
    return list(found.values())


@lru_cache(maxsize=FILES_KEPT)
def _certificates(file: bytes) -> tuple[Certificate, ...]:
    """The certificates in a file of PEM or DER, with padding behind them or not."""
    blocks = pem_blocks(file, b"CERTIFICATE") if b"-----BEGIN " in file else [file]
    elements = [element for block in blocks for element in der.split(block)]
    if not elements:
        raise MalformedError("a file holds no certificate")
    if len(elements) > MOST_CERTIFICATES:
        raise MalformedError(f"there are more than {MOST_CERTIFICATES} certificates")
    return tuple(read_certificate(element) for element in elements)


_crl = lru_cache(maxsize=CRLS_KEPT)(read_crl)


def _name(certificate: Certificate) -> str:
    """The one common name of the subject; empty if there is none, or several."""
    names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    value = names[0].value if len(names) == 1 else ""
    return value if isinstance(value, str) else ""


def _issued(
    leaf: Certificate, intermediate: Certificate, root: Certificate, name: str, product: Product
) -> bool:
    """Whether `root` has issued `intermediate`, and that `leaf`, by rules 2 and 3."""
    return (
        _name(intermediate) == name
        and _name(root) == f"ARK-{product}"
        and _signs(intermediate, leaf)
        and _signs(root, intermediate)
    )


def _signs(issuer: Certificate, certificate: Certificate) -> bool:
    # (3): strength first, so that no enormous key of a stranger's is used.
    key, algorithm = issuer.key, certificate.signature_hash
    return (
        isinstance(key, rsa.RSAPublicKey)
        and key.key_size == _RSA_BITS
        and isinstance(certificate.signature_parameters, padding.PSS)
        and algorithm is not None
        and algorithm.name == _HASH
        and certificate.signed_by(issuer)
    )


def _check(chain: tuple[Certificate, Certificate, Certificate], now: datetime) -> None:
    """Rules 4 and 5 for certificates whose signatures are good."""
    for below, certificate in enumerate(chain):
        # (5): validity.
        if not certificate.not_before <= now <= certificate.not_after:
            raise SnpExpiredError(
                f"the certificate {_name(certificate)} is valid from {certificate.not_before} "
                f"to {certificate.not_after}, and now it is {now}",
                sha256=certificate.sha256,
            )
        # (4): what it may be used for.
        fault = _leaf_fault(certificate) if not below else _ca_fault(certificate, below - 1)
        if certificate.unknown_critical:
            fault = (
                f"has critical extensions that are not understood: {certificate.unknown_critical}"
            )
        if fault:
            raise SnpChainError(
                f"the certificate {_name(certificate)} {fault}", sha256=certificate.sha256
            )


def _leaf_fault(certificate: Certificate) -> str | None:
    usage = certificate.key_usage
    if certificate.ca:
        return "is that of a CA, and should be that of a key for reports"
    if usage is not None and "digital_signature" not in usage:
        return "has a key that is not for signatures"
    return None


def _ca_fault(certificate: Certificate, cas_below: int) -> str | None:
    if not certificate.ca:
        return "has issued a certificate, but is no CA"
    if certificate.key_usage is None or "key_cert_sign" not in certificate.key_usage:
        return "has issued a certificate, but its key is not for that"
    if certificate.path_length is not None and certificate.path_length < cas_below:
        return f"allows {certificate.path_length} CAs below it, and there are {cas_below}"
    return None


def _require_not_revoked(
    chain: tuple[Certificate, Certificate, Certificate], lists: Sequence[bytes]
) -> None:
    """Rule 5 for revocation."""
    for data in lists:
        crl: Crl = _crl(data)
        for certificate, issuer in zip(chain, (*chain[1:], chain[-1]), strict=True):
            if crl.issuer != issuer.subject:
                continue
            if not crl.signed_by(issuer):
                raise SnpCrlError(
                    f"a revocation list was not signed by {_name(issuer)}, which it names",
                    sha256=hashlib.sha256(data).hexdigest(),
                )
            if certificate.serial in crl.serials:
                raise SnpRevokedError(
                    f"the certificate {_name(certificate)} is revoked", sha256=certificate.sha256
                )


# --- what the leaf says -----------------------------------------------------------


def _endorsement(
    chain: tuple[Certificate, Certificate, Certificate], product: Product, kind: SigningKey
) -> Endorsement:
    """Rule 6, and the leaf's key."""
    leaf = chain[0]
    key, private = leaf.key, leaf.private
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise SnpChainError(f"the key of the {kind.name} is not of P-384", sha256=leaf.sha256)
    _integer(private, _STRUCT_VERSION)
    name = _text(private, _PRODUCT_NAME)
    if name.partition("-")[0] not in _NAMES[product]:
        raise SnpProductError(
            f"a certificate for {name[:80]!r} was issued under the root of {product}",
            sha256=leaf.sha256,
        )
    if any(_integer(private, oid) for oid in _RESERVED_LEVELS if oid in private):
        raise SnpTcbError("the certificate states levels of components that are not known")
    if (_HWID in private, _CSP_ID in private) != (kind is SigningKey.VCEK, kind is SigningKey.VLEK):
        raise SnpChainError(
            f"the certificate of a {kind.name} must name a chip or a provider, as its kind is",
            sha256=leaf.sha256,
        )
    return Endorsement(
        key=key,
        product=product,
        tcb=_tcb(private, product),
        hwid=_hwid(private, product) if kind is SigningKey.VCEK else b"",
        csp_id=_text(private, _CSP_ID) if kind is SigningKey.VLEK else "",
        fingerprints=(leaf.sha256, chain[1].sha256, chain[2].sha256),
    )


def _tcb(private: Mapping[str, bytes], product: Product) -> Tcb:
    levels = {component: _integer(private, oid) for component, oid in _LEVELS.items()}
    if product is Product.TURIN:
        levels["fmc"] = _integer(private, _FMC)
    return Tcb(**levels)


def _hwid(private: Mapping[str, bytes], product: Product) -> bytes:
    """The chip, as the bytes themselves; an OCTET STRING around them does no harm."""
    value = _value(private, _HWID)
    size = TURIN_HWID_SIZE if product is Product.TURIN else CHIP_ID_SIZE
    if value[:2] == bytes([_OCTET_STRING, size]):
        value = value[2:]
    if len(value) != size:
        raise MalformedError(f"the certificate's hardware id does not have {size} bytes")
    return value


def _integer(private: Mapping[str, bytes], oid: str) -> int:
    """A DER INTEGER from 0 to 255."""
    match list(_value(private, oid)):
        case [tag, 1, level] if tag == _INTEGER and level < _SHORT:
            return level
        case [tag, 2, 0, level] if tag == _INTEGER and level >= _SHORT:
            return level
    raise MalformedError(f"the certificate's extension {oid} is no number of one byte")


def _text(private: Mapping[str, bytes], oid: str) -> str:
    """A short DER IA5String."""
    value = _value(private, oid)
    text = value[2:]
    if value[:2] != bytes([_IA5_STRING, len(text) & 0xFF]) or not 0 < len(text) < _SHORT:
        raise MalformedError(f"the certificate's extension {oid} is no short text")
    try:
        return text.decode("ascii")
    except UnicodeDecodeError:
        raise MalformedError(f"the certificate's extension {oid} is not ASCII") from None


def _value(private: Mapping[str, bytes], oid: str) -> bytes:
    if oid not in private:
        raise MalformedError(f"the certificate of a key for reports lacks the extension {oid}")
    return private[oid]
