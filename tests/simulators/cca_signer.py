"""An Arm CCA platform with a realm on it, and keys of their own.

`CcaSigner.token` is what the RMM gives a realm; each claim of both tokens can be
changed before they are signed.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

import cbor2
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hwtrust.verify.enclaves.cca_keys import CcaEndorsement, CcaTrust, Jwk
from simulators.cose_signer import key_named, sign1

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

CHALLENGE: Final = sha256(b"first half").digest() + sha256(b"second half").digest()
IMPLEMENTATION_ID: Final = sha256(b"implementation").digest()
INSTANCE_ID: Final = b"\x01" + sha256(b"instance").digest()
CONFIG: Final = bytes.fromhex("cfcfcfcf")
RPV: Final = sha256(b"tenant").digest() + bytes(32)
RIM: Final = sha256(b"rim").digest()
SIGNER_ID: Final = sha256(b"signer").digest()
COMPONENTS: Final = {name: sha256(name.encode()).digest() for name in ("RSE_BL2", "AP_BL31", "RMM")}

LEGACY: Final = "http://arm.com/CCA-SSD/1.0.0"
PLATFORM_2023: Final = "tag:arm.com,2023:cca_platform#1.0.0"
REALM_2023: Final = "tag:arm.com,2023:realm#1.0.0"


def _platform_key() -> ec.EllipticCurvePrivateKey:
    return key_named("CPAK")


def _realm_key() -> ec.EllipticCurvePrivateKey:
    return key_named("RAK")


@dataclass(frozen=True, kw_only=True)
class CcaSigner:
    """A platform and a realm; `legacy` gives both the form of the first releases."""

    cpak: ec.EllipticCurvePrivateKey = field(default_factory=_platform_key)
    rak: ec.EllipticCurvePrivateKey = field(default_factory=_realm_key)
    legacy: bool = False

    @property
    def endorsement(self) -> CcaEndorsement:
        """That the platform has its key."""
        return CcaEndorsement(
            pkey=jwk_of(self.cpak),
            implementation_id=IMPLEMENTATION_ID.hex(),
            instance_id=INSTANCE_ID.hex(),
        )

    @property
    def trust(self) -> CcaTrust:
        """Trust in the platform."""
        return CcaTrust.of([self.endorsement])

    @property
    def point(self) -> bytes:
        """The realm attestation key, as a bare point."""
        return self.rak.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)

    @property
    def public_key(self) -> bytes:
        """The realm attestation key as the realm token has it."""
        return self.point if self.legacy else cose_key(self.rak)

    def platform_claims(self, changes: dict[Any, Any] | None = None) -> dict[Any, Any]:
        """What the platform would sign; a claim that is changed to `...` is left out."""
        claims = {
            265: LEGACY if self.legacy else PLATFORM_2023,
            10: sha256(self.public_key).digest(),
            2396: IMPLEMENTATION_ID,
            256: INSTANCE_ID,
            2401: CONFIG,
            2395: 0x3003,
            2402: "sha-256",
            2400: "https://verifier.example",
            2399: [
                {1: name, 5: SIGNER_ID, 2: measurement, 4: "1.0", 6: "sha-256"}
                for name, measurement in COMPONENTS.items()
            ],
        }
        return _changed(claims, changes)

    def realm_claims(self, changes: dict[Any, Any] | None = None) -> dict[Any, Any]:
        """What the RMM would sign for the realm."""
        claims = {
            265: ... if self.legacy else REALM_2023,
            10: CHALLENGE,
            44236: "sha-256",
            44240: "sha-256",
            44235: RPV,
            44237: self.public_key,
            44238: RIM,
            44239: [bytes(32)] * 4,
        }
        return _changed(claims, changes)

    def token(
        self, *, platform: dict[Any, Any] | None = None, realm: dict[Any, Any] | None = None
    ) -> bytes:
        """The token; `platform` and `realm` are changes to the claims."""
        return collection(
            self.signed_platform(cbor2.dumps(self.platform_claims(platform))),
            self.signed_realm(cbor2.dumps(self.realm_claims(realm))),
        )

    def signed_platform(self, payload: bytes) -> bytes:
        """Any payload, signed as a platform token is."""
        return sign1(payload, key=self.cpak, tagged=True)

    def signed_realm(self, payload: bytes) -> bytes:
        """Any payload, signed as a realm token is."""
        return sign1(payload, key=self.rak, tagged=True)


def collection(platform: bytes, realm: bytes) -> bytes:
    """Both tokens in one."""
    return cbor2.dumps(cbor2.CBORTag(399, {44234: platform, 44241: realm}))


def cose_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The public half as a COSE_Key."""
    curve = {"secp256r1": 1, "secp384r1": 2, "secp521r1": 3}[key.curve.name]
    x, y = _coordinates(key)
    return cbor2.dumps({1: 2, -1: curve, -2: x, -3: y})


def jwk_of(key: ec.EllipticCurvePrivateKey) -> Jwk:
    """The public half as a JWK."""
    x, y = (base64.urlsafe_b64encode(value).rstrip(b"=").decode() for value in _coordinates(key))
    curve: Any = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}[key.curve.name]
    return Jwk(kty="EC", crv=curve, x=x, y=y)


def _coordinates(key: ec.EllipticCurvePrivateKey) -> tuple[bytes, bytes]:
    numbers = key.public_key().public_numbers()
    size = (key.key_size + 7) // 8
    return numbers.x.to_bytes(size, "big"), numbers.y.to_bytes(size, "big")


def _changed(claims: dict[Any, Any], changes: dict[Any, Any] | None) -> dict[Any, Any]:
    claims = claims | (changes or {})
    return {label: value for label, value in claims.items() if value is not ...}
