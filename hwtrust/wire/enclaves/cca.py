"""What an Arm CCA platform and a realm on it sign: the CCA attestation token.

    399( { 44234: platform token, 44241: realm token } )   each a tagged COSE_Sign1

Decoding believes nothing: only `hwtrust.verify.enclaves.cca` does. Rules:

1. The tag, and exactly the two tokens.
2. Both profiles of platform tokens are read, and both forms of realm tokens: the first
   releases' without a profile, whose key is a bare point, and those of 2023, whose
   key is a COSE_Key. Which platforms go with which realms is the RMM's affair.
3. Every claim has the type and size of the specification. Claims that hwtrust does
   not know are named, and appraised.
4. The realm's measurements are of one length. It need not be that of the hash that
   the token names: RMMs pad them.

Realm Management Monitor specification §A7.2.3; draft-ffm-rats-cca-token.
"""

from __future__ import annotations

from typing import Final, Self

import msgspec

from hwtrust.errors import MalformedError, UnsupportedError
from hwtrust.wire.enclaves import cbor
from hwtrust.wire.enclaves.cose import MAX_SIZE, CoseSign1

PLATFORM_2023: Final = "tag:arm.com,2023:cca_platform#1.0.0"
PLATFORM_LEGACY: Final = "http://arm.com/CCA-SSD/1.0.0"
REALM_2023: Final = "tag:arm.com,2023:realm#1.0.0"
PLATFORM_PROFILES: Final = frozenset({PLATFORM_2023, PLATFORM_LEGACY})
HASHES: Final = {"sha-256": "sha256", "sha-384": "sha384", "sha-512": "sha512"}
"""Names of the IANA registry of named information, and those of hashlib."""

CHALLENGE_SIZE: Final = 64
REMS: Final = 4
MAX_COMPONENTS: Final = 64

_TAG_399: Final = bytes.fromhex("d9018f")
_PLATFORM_TOKEN: Final = 44234
_REALM_TOKEN: Final = 44241
_COLLECTION_DEPTH: Final = 1
_CLAIMS_DEPTH: Final = 3
_MAX_TOKEN: Final = 2 * MAX_SIZE + 32
_MAX_UNKNOWN: Final = 64

_DIGEST_SIZES: Final = frozenset({32, 48, 64})
_LONGEST_PROFILE: Final = 128
_LONGEST_TEXT: Final = 256
_UEID_SIZE: Final = 33
_UEID_RANDOM: Final = 0x01
_UNCOMPRESSED: Final = 0x04
_KEY_SIZES: Final = range(1, 256)

_CURVES: Final = {1: ("P-256", 32), 2: ("P-384", 48), 3: ("P-521", 66)}
"""By the number of COSE, RFC 9053 §7.1: the name, and the size of a coordinate."""
_EC2: Final = 2

_LIFECYCLES: Final = {
    0x00: "unknown",
    0x10: "assembly_and_test",
    0x20: "rot_provisioning",
    0x30: "secured",
    0x40: "non_cca_platform_rot_debug",
    0x50: "recoverable_cca_platform_rot_debug",
    0x60: "decommissioned",
}
LIFECYCLES: Final = frozenset(_LIFECYCLES.values())
SECURED: Final = _LIFECYCLES[0x30]

Facts = dict[str, str | int | bool | list[str]]


class SwComponent(msgspec.Struct, frozen=True, gc=False):
    """A piece of firmware: its measurement, and who has signed it."""

    type: str
    """Such as `RMM`; empty where the token does not say."""
    measurement: bytes
    version: str
    signer_id: bytes
    hash_algorithm: str
    """Empty where it is the platform's."""

    def __str__(self) -> str:
        version = f" {self.version}" if self.version else ""
        return f"{self.type}{version}: {self.measurement.hex()} by {self.signer_id.hex()}"


class PlatformClaims(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What the platform token says: the hardware, its firmware, and the realm key."""

    profile: str
    challenge: bytes
    """The hash of the realm attestation key."""
    implementation_id: bytes
    instance_id: bytes
    config: bytes
    lifecycle: int
    hash_algorithm: str
    sw_components: tuple[SwComponent, ...]
    verification_service: str | None
    unknown: tuple[str, ...]

    @property
    def lifecycle_state(self) -> str:
        """The state that `lifecycle` stands for; its low byte is the implementation's own."""
        return _LIFECYCLES[self.lifecycle >> 8]

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Read the payload of a platform token.

        Raises:
            MalformedError: a claim is missing, or has another type or size.
            UnsupportedError: another profile or hash.
        """
        what = "the CCA platform token"
        claims = cbor.Fields(cbor.decode(raw, what, most=MAX_SIZE, depth=_CLAIMS_DEPTH), what)
        profile = claims.text(265, _LONGEST_PROFILE)
        # (2): profiles.
        if profile not in PLATFORM_PROFILES:
            raise UnsupportedError(f"{what} has the unknown profile {profile!r}")
        found = cls(
            profile=profile,
            challenge=claims.octets(10, _DIGEST_SIZES),
            implementation_id=claims.octets(2396, (32,)),
            instance_id=claims.octets(256, (_UEID_SIZE,)),
            config=claims.octets(2401, range(1025)),
            lifecycle=claims.number(2395, range(0x10000)),
            hash_algorithm=_hash(claims.text(2402, _LONGEST_TEXT)),
            sw_components=tuple(
                _component(item) for item in claims.items(2399, range(1, MAX_COMPONENTS + 1))
            ),
            verification_service=claims.text_or_none(2400, _LONGEST_TEXT),
            unknown=_unknown(claims, what),
        )
        if found.instance_id[0] != _UEID_RANDOM:
            raise MalformedError("the instance id of a CCA platform is no UEID of type RAND")
        if found.lifecycle >> 8 not in _LIFECYCLES:
            raise MalformedError(f"{what} has the unknown lifecycle {found.lifecycle:#06x}")
        return found


class RealmClaims(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What the realm token says: the challenge, and what was measured into the realm."""

    profile: str | None
    challenge: bytes
    rpv: bytes
    """The realm personalization value, chosen by whoever had the realm made."""
    rim: bytes
    """The realm initial measurement."""
    rems: tuple[bytes, ...]
    """The four realm extensible measurements."""
    hash_algorithm: str
    public_key: bytes
    """The realm attestation key as it is in the token; the platform vouches for its hash."""
    public_key_hash_algorithm: str
    unknown: tuple[str, ...]

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Read the payload of a realm token.

        Raises:
            MalformedError: a claim is missing, or has another type or size.
            UnsupportedError: another profile or hash.
        """
        what = "the CCA realm token"
        claims = cbor.Fields(cbor.decode(raw, what, most=MAX_SIZE, depth=_CLAIMS_DEPTH), what)
        profile = claims.text_or_none(265, _LONGEST_PROFILE)
        if profile not in {None, REALM_2023}:
            raise UnsupportedError(f"{what} has the unknown profile {profile!r}")
        found = cls(
            profile=profile,
            challenge=claims.octets(10, (CHALLENGE_SIZE,)),
            rpv=claims.octets(44235, (64,)),
            rim=claims.octets(44238, _DIGEST_SIZES),
            rems=_rems(claims.items(44239, range(REMS, REMS + 1))),
            hash_algorithm=_hash(claims.text(44236, _LONGEST_TEXT)),
            public_key=claims.octets(44237, _KEY_SIZES),
            public_key_hash_algorithm=_hash(claims.text(44240, _LONGEST_TEXT)),
            unknown=_unknown(claims, what),
        )
        # (4): measurements.
        if any(len(rem) != len(found.rim) for rem in found.rems):
            raise MalformedError(f"{what} has measurements of several lengths")
        return found

    @property
    def point(self) -> tuple[str, bytes]:
        """The realm attestation key: the name of its curve, and an uncompressed point on it.

        Whether it is on the curve is not looked at.

        Raises:
            MalformedError: it has not the form that goes with the token's profile.
        """
        # (2): forms.
        if self.profile is None:
            return _bare_point(self.public_key)
        what = "the realm attestation key"
        key = cbor.Fields(cbor.decode(self.public_key, what, most=len(_KEY_SIZES), depth=1), what)
        key.number(1, range(_EC2, _EC2 + 1))
        curve, size = _CURVES[key.number(-1, range(min(_CURVES), max(_CURVES) + 1))]
        x, y = key.octets(-2, (size,)), key.octets(-3, (size,))
        key.end()
        return curve, bytes([_UNCOMPRESSED]) + x + y


class CcaToken(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Both tokens as they were received."""

    platform_message: CoseSign1
    realm_message: CoseSign1
    platform: PlatformClaims
    realm: RealmClaims

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Read a whole token.

        Raises:
            MalformedError: it is none, cut short, too large, or followed by something.
            UnsupportedError: another profile, hash or signature algorithm.
        """
        # (1): tag and tokens.
        if raw[: len(_TAG_399)] != _TAG_399:
            raise MalformedError("a CCA token lacks its tag")
        what = "a CCA token"
        value = cbor.decode(raw[len(_TAG_399) :], what, most=_MAX_TOKEN, depth=_COLLECTION_DEPTH)
        tokens = cbor.Fields(value, what)
        sizes = range(1, MAX_SIZE + 1)
        platform = CoseSign1.decode(tokens.octets(_PLATFORM_TOKEN, sizes), tagged=True)
        realm = CoseSign1.decode(tokens.octets(_REALM_TOKEN, sizes), tagged=True)
        tokens.end()
        return cls(
            platform_message=platform,
            realm_message=realm,
            platform=PlatformClaims.decode(platform.payload),
            realm=RealmClaims.decode(realm.payload),
        )

    def facts(self) -> Facts:
        """What both tokens say, for people and programs."""
        return facts_of(self.platform, self.realm)


def facts_of(platform: PlatformClaims, realm: RealmClaims) -> Facts:
    """The same of tokens that were read, and of those that were verified."""
    facts: Facts = {
        "platform_profile": platform.profile,
        "implementation_id": platform.implementation_id.hex(),
        "instance_id": platform.instance_id.hex(),
        "platform_config": platform.config.hex(),
        "lifecycle": platform.lifecycle,
        "lifecycle_state": platform.lifecycle_state,
        "platform_hash_algorithm": platform.hash_algorithm,
        "sw_components": [str(component) for component in platform.sw_components],
        "platform_challenge": platform.challenge.hex(),
        "realm_challenge": realm.challenge.hex(),
        "rpv": realm.rpv.hex(),
        "rim": realm.rim.hex(),
        **{f"rem{number}": rem.hex() for number, rem in enumerate(realm.rems)},
        "realm_hash_algorithm": realm.hash_algorithm,
        "realm_public_key": realm.public_key.hex(),
        "realm_public_key_hash_algorithm": realm.public_key_hash_algorithm,
        "unknown_claims": [*platform.unknown, *realm.unknown],
    }
    if realm.profile is not None:
        facts["realm_profile"] = realm.profile
    if platform.verification_service is not None:
        facts["verification_service"] = platform.verification_service
    return facts


def _component(value: object) -> SwComponent:
    what = "a software component of a CCA platform"
    fields = cbor.Fields(value, what)
    component = SwComponent(
        type=fields.text_or_none(1, _LONGEST_TEXT) or "",
        measurement=fields.octets(2, _DIGEST_SIZES),
        version=fields.text_or_none(4, _LONGEST_TEXT) or "",
        signer_id=fields.octets(5, _DIGEST_SIZES),
        hash_algorithm=fields.text_or_none(6, _LONGEST_TEXT) or "",
    )
    fields.end()
    if component.hash_algorithm:
        _hash(component.hash_algorithm)
    return component


def _hash(name: str) -> str:
    if name not in HASHES:
        raise UnsupportedError(f"a CCA token names the hash {name[:32]!r}, which is not known")
    return name


def _rems(items: list[object]) -> tuple[bytes, ...]:
    rems = tuple(item for item in items if type(item) is bytes)
    if len(rems) != REMS:
        raise MalformedError("a realm extensible measurement is no byte string")
    return rems


def _bare_point(key: bytes) -> tuple[str, bytes]:
    for curve, size in _CURVES.values():
        if len(key) == 1 + 2 * size and key[0] == _UNCOMPRESSED:
            return curve, key
    raise MalformedError("the realm attestation key is no uncompressed point of a known curve")


def _unknown(claims: cbor.Fields, what: str) -> tuple[str, ...]:
    """The labels of claims that are not known (rule 3)."""
    labels = claims.rest()
    if len(labels) > _MAX_UNKNOWN:
        raise MalformedError(f"{what} has {len(labels)} claims that are not known")
    return tuple(str(label)[:32] for label in labels)
