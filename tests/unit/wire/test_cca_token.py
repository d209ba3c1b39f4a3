"""CCA tokens: both tokens decoded whole, in bounds, or not at all."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from hwtrust.errors import MalformedError, UnsupportedError
from hwtrust.wire.enclaves.cca import LIFECYCLES, MAX_COMPONENTS, CcaToken
from simulators.cca_signer import (
    CHALLENGE,
    COMPONENTS,
    CONFIG,
    IMPLEMENTATION_ID,
    INSTANCE_ID,
    LEGACY,
    PLATFORM_2023,
    REALM_2023,
    RIM,
    RPV,
    SIGNER_ID,
    CcaSigner,
    collection,
)
from simulators.cose_signer import key_named

SIGNER = CcaSigner()
COMPONENT = {2: RIM, 5: SIGNER_ID}


@pytest.mark.parametrize("legacy", [True, False])
def test_a_token_is_decoded(legacy: bool) -> None:
    """Every claim of both profiles."""
    signer = CcaSigner(legacy=legacy)
    token = CcaToken.decode(signer.token())
    platform, realm = token.platform, token.realm
    assert platform.profile == (LEGACY if legacy else PLATFORM_2023)
    assert platform.challenge == sha256(signer.public_key).digest()
    assert (platform.implementation_id, platform.instance_id) == (IMPLEMENTATION_ID, INSTANCE_ID)
    assert (platform.config, platform.lifecycle) == (CONFIG, 0x3003)
    assert {part.type: part.measurement for part in platform.sw_components} == COMPONENTS
    assert platform.verification_service == "https://verifier.example"
    assert realm.profile == (None if legacy else REALM_2023)
    assert (realm.challenge, realm.rpv, realm.rim) == (CHALLENGE, RPV, RIM)
    assert realm.rems == (bytes(32),) * 4
    assert realm.point == ("P-384", signer.point)
    assert platform.unknown == realm.unknown == ()


def test_its_facts_are_in_the_fields_terms() -> None:
    """Byte strings in hex, the lifecycle also by its name."""
    facts = CcaToken.decode(SIGNER.token()).facts()
    assert facts["lifecycle_state"] == "secured"
    assert facts["rim"] == RIM.hex()
    assert facts["rem3"] == bytes(32).hex()
    assert facts["realm_profile"] == REALM_2023
    assert facts["sw_components"][0].startswith("RSE_BL2 1.0: ")  # type: ignore[index]


def test_each_lifecycle_state_has_its_name() -> None:
    """The low byte is the implementation's own."""
    names = set()
    for high in range(0, 0x70, 0x10):
        for low in (0, 0xFF):
            token = CcaToken.decode(SIGNER.token(platform={2395: high << 8 | low}))
            names.add(token.platform.lifecycle_state)
    assert names == LIFECYCLES


def test_components_may_say_little() -> None:
    """Measurement and signer alone, as early firmware has it; and no service."""
    token = CcaToken.decode(SIGNER.token(platform={2399: [COMPONENT], 2400: ...}))
    (component,) = token.platform.sw_components
    assert (component.type, component.version, component.hash_algorithm) == ("", "", "")
    assert token.platform.verification_service is None


def test_claims_that_are_not_known_are_named() -> None:
    """They are appraised, not passed over."""
    token = CcaToken.decode(SIGNER.token(platform={2500: 1}, realm={44299: b"", "x": None}))
    assert token.platform.unknown == ("2500",)
    assert token.realm.unknown == ("44299", "x")
    assert token.facts()["unknown_claims"] == ["2500", "44299", "x"]


PLATFORM: dict[str, dict[Any, Any]] = {
    "no profile": {265: ...},
    "no challenge": {10: ...},
    "a challenge of 31 bytes": {10: bytes(31)},
    "a challenge that is a list": {10: [bytes(32)]},
    "no implementation id": {2396: ...},
    "an implementation id of 33 bytes": {2396: bytes(33)},
    "no instance id": {256: ...},
    "an instance id of 32 bytes": {256: bytes(32)},
    "an instance id of 34 bytes": {256: b"\x01" + bytes(33)},
    "an instance id of another type": {256: b"\x02" + bytes(32)},
    "no configuration": {2401: ...},
    "a configuration of 1025 bytes": {2401: bytes(1025)},
    "no lifecycle": {2395: ...},
    "a lifecycle in no range": {2395: 0x3100},
    "a lifecycle beyond the last": {2395: 0x7000},
    "a lifecycle of more than 16 bits": {2395: 0x13003},
    "a lifecycle that is a text": {2395: "secured"},
    "no hash": {2402: ...},
    "no components": {2399: ...},
    "an empty list of components": {2399: []},
    "too many components": {2399: [COMPONENT] * (MAX_COMPONENTS + 1)},
    "a component that is no map": {2399: [RIM]},
    "a component without a measurement": {2399: [{5: SIGNER_ID}]},
    "a component without a signer": {2399: [{2: RIM}]},
    "a component with a short measurement": {2399: [{2: bytes(20), 5: SIGNER_ID}]},
    "a component with a measurement of 63 bytes": {2399: [{2: bytes(63), 5: SIGNER_ID}]},
    "a component with a short signer": {2399: [{2: RIM, 5: bytes(20)}]},
    "a component with another field": {2399: [COMPONENT | {7: 1}]},
    "a service that is null": {2400: None},
    "too many unknown claims": dict.fromkeys(range(70000, 70065), 0),
    "a claim under a byte string": {b"x": 0},
}
REALM: dict[str, dict[Any, Any]] = {
    "no challenge": {10: ...},
    "a challenge of 32 bytes": {10: bytes(32)},
    "no personalization value": {44235: ...},
    "a personalization value of 63 bytes": {44235: bytes(63)},
    "a personalization value of 65 bytes": {44235: bytes(65)},
    "no initial measurement": {44238: ...},
    "an initial measurement of 20 bytes": {44238: bytes(20)},
    "measurements that are all of 20 bytes": {44238: bytes(20), 44239: [bytes(20)] * 4},
    "no extensible measurements": {44239: ...},
    "three extensible measurements": {44239: [bytes(32)] * 3},
    "five extensible measurements": {44239: [bytes(32)] * 5},
    "an extensible measurement that is a text": {44239: [bytes(32)] * 3 + ["x"]},
    "measurements of two lengths": {44239: [bytes(32)] * 3 + [bytes(64)]},
    "no hash": {44236: ...},
    "no key": {44237: ...},
    "no hash of the key": {44240: ...},
    "a profile that is null": {265: None},
}


@pytest.mark.parametrize("case", PLATFORM)
def test_a_platform_token_of_another_form_is_refused(case: str) -> None:
    """Whoever signed it."""
    with pytest.raises(MalformedError) as refused:
        CcaToken.decode(SIGNER.token(platform=PLATFORM[case]))
    assert refused.value.code == "wire:malformed"


@pytest.mark.parametrize("case", REALM)
def test_a_realm_token_of_another_form_is_refused(case: str) -> None:
    """Whoever signed it."""
    with pytest.raises(MalformedError) as refused:
        CcaToken.decode(SIGNER.token(realm=REALM[case]))
    assert refused.value.code == "wire:malformed"


@pytest.mark.parametrize(
    "changes",
    [
        {"platform": {265: "http://psacertified.org/PSA/1.0.0"}},
        {"platform": {2402: "md5"}},
        {"platform": {2399: [COMPONENT | {6: "sha-1"}]}},
        {"realm": {265: PLATFORM_2023}},
        {"realm": {44236: "sha-1"}},
        {"realm": {44240: "sha1"}},
    ],
    ids=str,
)
def test_another_profile_or_hash_is_not_taken(changes: dict[str, Any]) -> None:
    """Neither PSA tokens nor SHA-1."""
    with pytest.raises(UnsupportedError):
        CcaToken.decode(SIGNER.token(**changes))


PARTS = (SIGNER.signed_platform(b"\xa0"), SIGNER.signed_realm(b"\xa0"))
COLLECTIONS = {
    "nothing": b"",
    "no tag": SIGNER.token()[3:],
    "another tag": cbor2.dumps(cbor2.CBORTag(400, {44234: PARTS[0], 44241: PARTS[1]})),
    "a list": cbor2.dumps(cbor2.CBORTag(399, list(PARTS))),
    "the platform alone": cbor2.dumps(cbor2.CBORTag(399, {44234: PARTS[0]})),
    "the realm alone": cbor2.dumps(cbor2.CBORTag(399, {44241: PARTS[1]})),
    "a third token": cbor2.dumps(
        cbor2.CBORTag(399, {44234: PARTS[0], 44241: PARTS[1], 44242: PARTS[1]})
    ),
    "an empty token": collection(b"", PARTS[1]),
    "tokens without their tags": collection(PARTS[0][1:], PARTS[1][1:]),
    "something behind it": SIGNER.token() + b"\x00",
    "empty claims": collection(*PARTS),
    "claims that are a list": collection(SIGNER.signed_platform(b"\x80"), PARTS[1]),
}


@pytest.mark.parametrize("case", COLLECTIONS)
def test_a_collection_of_another_form_is_refused(case: str) -> None:
    """Exactly the two tokens, each with its tag."""
    with pytest.raises(MalformedError):
        CcaToken.decode(COLLECTIONS[case])


def test_every_cut_is_refused() -> None:
    """At each byte."""
    whole = SIGNER.token()
    for end in range(len(whole)):
        with pytest.raises(MalformedError):
            CcaToken.decode(whole[:end])


@pytest.mark.parametrize(
    "curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name
)
@pytest.mark.parametrize("legacy", [True, False])
def test_a_realm_key_may_be_on_any_of_the_curves(legacy: bool, curve: ec.EllipticCurve) -> None:
    """As a point or as a COSE_Key."""
    signer = CcaSigner(rak=key_named("RAK", curve), legacy=legacy)
    assert CcaToken.decode(signer.token()).realm.point[1] == signer.point


X, Y = SIGNER.point[1:49], SIGNER.point[49:]
KEYS: dict[str, tuple[bool, bytes]] = {
    "a COSE_Key in a token of the first releases": (True, SIGNER.public_key),
    "a bare point in a token of 2023": (False, SIGNER.point),
    "a compressed point": (True, b"\x02" + X),
    "a point with another start": (True, b"\x06" + X + Y),
    "a COSE_Key of another type": (False, cbor2.dumps({1: 1, -1: 2, -2: X, -3: Y})),
    "a COSE_Key of an unknown curve": (False, cbor2.dumps({1: 2, -1: 8, -2: X, -3: Y})),
    "a COSE_Key of a curve `true`": (False, cbor2.dumps({1: 2, -1: True, -2: X, -3: Y})),
    "a COSE_Key with half a point": (False, cbor2.dumps({1: 2, -1: 2, -2: X, -3: True})),
    "a COSE_Key with a short coordinate": (False, cbor2.dumps({1: 2, -1: 2, -2: X, -3: Y[1:]})),
    "a COSE_Key with a long x": (False, cbor2.dumps({1: 2, -1: 2, -2: X + b"x", -3: Y})),
    "a COSE_Key with a long y": (False, cbor2.dumps({1: 2, -1: 2, -2: X, -3: Y + b"x"})),
    "a COSE_Key with another boundary": (
        False,
        cbor2.dumps({1: 2, -1: 2, -2: X + Y[:1], -3: Y[1:]}),
    ),
    "a point that goes on": (True, SIGNER.point + b"x"),
    "a COSE_Key with its private half": (False, cbor2.dumps({1: 2, -1: 2, -2: X, -3: Y, -4: X})),
    "a COSE_Key that is a list": (False, cbor2.dumps([2, X, Y])),
}


@pytest.mark.parametrize("case", KEYS)
def test_a_realm_key_of_another_form_is_refused(case: str) -> None:
    """The form goes with the realm's profile."""
    legacy, key = KEYS[case]
    token = CcaToken.decode(CcaSigner(legacy=legacy).token(realm={44237: key}))
    with pytest.raises(MalformedError):
        _ = token.realm.point
