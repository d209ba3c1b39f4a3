"""A Nitro security module with keys and a root of its own, and AWS's forms.

`NitroSigner.document` is what the module answers to an Attestation request; each of
its fields, and each certificate, can be changed before it is signed.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from hashlib import sha256, sha384
from typing import TYPE_CHECKING, Any, Final

import cbor2
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from hwtrust.verify.enclaves.nitro import NitroTrust
from simulators.cose_signer import key_named, sign1

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

NOW: Final = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
NOW_MS: Final = int(NOW.timestamp()) * 1000
AGE_MS: Final = 1500
NONCE: Final = sha256(b"nonce").digest()
USER_DATA: Final = sha256(b"user data").digest()
MODULE_ID: Final = "i-0123456789abcdef0-enc0123456789abcdef"
PCRS: Final = {
    number: sha384(b"pcr %d" % number).digest() if number in {0, 1, 2, 4} else bytes(48)
    for number in range(16)
}


@dataclass(frozen=True, kw_only=True)
class Issued:
    """A certificate before it is signed."""

    name: str
    issuer: str
    issuer_name: str | None = None
    """What the certificate says of its issuer, if that is not so."""
    ca: bool = True
    path_length: int | None = None
    usages: frozenset[str] | None = frozenset({"key_cert_sign"})
    not_before: datetime = NOW - timedelta(days=1)
    not_after: datetime = NOW + timedelta(days=1)
    hash: hashes.SHA384 | hashes.SHA224 = field(default_factory=hashes.SHA384)
    curve: ec.EllipticCurve | None = None
    serial: int | None = None
    """From the name, if it is not given."""
    critical: str | None = None
    """The dotted identifier of a critical extension that nobody knows."""

    @property
    def key(self) -> ec.EllipticCurvePrivateKey:
        """The key that the certificate is for."""
        return key_named(self.name, self.curve)

    def der(self, issuer: ec.EllipticCurvePrivateKey) -> bytes:
        """The certificate, signed by `issuer`."""
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(self.name))
            .issuer_name(_name(self.issuer_name or self.issuer))
            .public_key(self.key.public_key())
            .serial_number(self.serial or int.from_bytes(sha256(self.name.encode()).digest()[:8]))
            .not_valid_before(self.not_before)
            .not_valid_after(self.not_after)
            .add_extension(x509.BasicConstraints(self.ca, self.path_length), critical=True)
        )
        if self.usages is not None:
            builder = builder.add_extension(_usage(self.usages), critical=True)
        if self.critical is not None:
            unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier(self.critical), b"\x05\x00")
            builder = builder.add_extension(unknown, critical=True)
        made = builder.sign(issuer, self.hash, ecdsa_deterministic=True)
        return made.public_bytes(Encoding.DER)


CHAIN: Final = (
    Issued(
        name="root",
        issuer="root",
        not_before=NOW - timedelta(days=365),
        not_after=NOW + timedelta(days=3650),
    ),
    Issued(name="region", issuer="root", path_length=2),
    Issued(name="zone", issuer="region", path_length=1),
    Issued(name="instance", issuer="zone", path_length=0),
    Issued(
        name="enclave",
        issuer="instance",
        ca=False,
        usages=frozenset({"digital_signature", "content_commitment"}),
        not_before=NOW - timedelta(minutes=1),
        not_after=NOW + timedelta(hours=3),
    ),
)
"""As AWS has it: the root, three CAs below it, and the certificate of an enclave."""


@dataclass(frozen=True, kw_only=True)
class NitroSigner:
    """A security module whose certificate is the last of `chain`."""

    chain: tuple[Issued, ...] = CHAIN

    def with_changed(self, name: str, **changes: Any) -> NitroSigner:  # noqa: ANN401
        """The same with another certificate for `name`."""
        return NitroSigner(
            chain=tuple(
                replace(issued, **changes) if issued.name == name else issued
                for issued in self.chain
            )
        )

    @cached_property
    def certificates(self) -> tuple[bytes, ...]:
        """All of the chain, the root first, each signed by the one that it says."""
        keys = {issued.name: issued.key for issued in self.chain}
        return tuple(issued.der(keys[issued.issuer]) for issued in self.chain)

    @property
    def trust(self) -> NitroTrust:
        """Trust in the root."""
        return NitroTrust(roots=frozenset({sha256(self.certificates[0]).hexdigest()}))

    def fields(self, **changes: Any) -> dict[str, Any]:  # noqa: ANN401
        """What the module would sign; a field that is changed to `...` is left out."""
        fields = {
            "module_id": MODULE_ID,
            "digest": "SHA384",
            "timestamp": NOW_MS - AGE_MS,
            "pcrs": PCRS,
            "certificate": self.certificates[-1],
            "cabundle": list(self.certificates[:-1]),
            "public_key": None,
            "user_data": USER_DATA,
            "nonce": NONCE,
        } | changes
        return {name: value for name, value in fields.items() if value is not ...}

    def document(self, **changes: Any) -> bytes:  # noqa: ANN401
        """The attestation document."""
        return self.signed(cbor2.dumps(self.fields(**changes)))

    def signed(self, payload: bytes) -> bytes:
        """Any payload, signed as a document is."""
        return sign1(payload, key=self.chain[-1].key, tagged=False)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{common}.nitro-enclaves.test")])


def _usage(names: frozenset[str]) -> x509.KeyUsage:
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
    return x509.KeyUsage(**{name: name in names for name in every})
