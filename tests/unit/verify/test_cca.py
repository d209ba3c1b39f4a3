"""CCA tokens: authentic means by this platform, for its realm's key, for this challenge.

Tokens are signed by keys of the tests, so that each check can be reached.
"""

from __future__ import annotations

import json
from hashlib import sha256, sha384, sha512
from typing import Any

import cbor2
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from hwtrust.errors import EmptyNonceError, MalformedError, StaleQuoteError
from hwtrust.errors.cca import (
    CcaBindingError,
    CcaEndorsementError,
    CcaPlatformError,
    CcaPlatformUnknownError,
    CcaRealmError,
)
from hwtrust.verify.enclaves.cca import CcaClaims, Unsafe, verify_cca
from hwtrust.verify.enclaves.cca_keys import MAX_SIZE, CcaTrust, read_jwk
from simulators.cca_signer import (
    CHALLENGE,
    IMPLEMENTATION_ID,
    INSTANCE_ID,
    RIM,
    CcaSigner,
    collection,
    jwk_of,
)
from simulators.cose_signer import key_named, sign1

SIGNER = CcaSigner()
GOOD = SIGNER.token()
CURVES = {
    "P-256": ec.SECP256R1(),
    "P-384": ec.SECP384R1(),
    "P-521": ec.SECP521R1(),
}


def verify(token: bytes = GOOD, **changes: Any) -> CcaClaims:  # noqa: ANN401
    """Verify, asking for what the good token answers."""
    asked: dict[str, Any] = {"challenge": CHALLENGE, "trust": SIGNER.trust}
    return verify_cca(token, **(asked | changes))


@pytest.mark.parametrize("legacy", [True, False])
def test_a_good_token_gives_what_it_vouches_for(legacy: bool) -> None:
    """Of both profiles, platform and realm."""
    claims = verify(CcaSigner(legacy=legacy).token())
    assert claims.platform.instance_id == INSTANCE_ID
    assert (claims.realm.rim, claims.realm.challenge) == (RIM, CHALLENGE)
    assert claims.facts()["rim"] == RIM.hex()


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("realm", CURVES)
@pytest.mark.parametrize("platform", CURVES)
def test_keys_may_be_on_different_curves(platform: str, realm: str, legacy: bool) -> None:
    """Each signs with the algorithm of its own."""
    signer = CcaSigner(
        cpak=key_named("CPAK", CURVES[platform]),
        rak=key_named("RAK", CURVES[realm]),
        legacy=legacy,
    )
    assert verify(signer.token(), trust=signer.trust).realm.rim == RIM


def test_claims_are_made_by_verifying_alone() -> None:
    """Neither by hand, nor from others."""
    claims = verify()
    with pytest.raises(TypeError):
        CcaClaims(platform=claims.platform, realm=claims.realm, verified=None)
    with pytest.raises(TypeError):
        msgspec.structs.replace(claims, realm=claims.realm)


def test_a_platform_that_is_not_known_is_refused() -> None:
    """Neither its instance nor its implementation, and no trust trusts nobody."""
    for changes in ({256: b"\x01" + bytes(32)}, {2396: bytes(32)}):
        with pytest.raises(CcaPlatformUnknownError) as refused:
            verify(SIGNER.token(platform=changes))
        assert refused.value.code == "evidence:cca:platform"
    with pytest.raises(CcaPlatformUnknownError):
        verify(trust=CcaTrust.of([]))


def test_a_platform_token_by_another_key_is_refused() -> None:
    """Of the same curve, of another one, the realm's."""
    for key in (key_named("x"), key_named("x", ec.SECP256R1()), SIGNER.rak):
        with pytest.raises(CcaPlatformError) as refused:
            verify(CcaSigner(cpak=key).token())
        assert refused.value.code == "evidence:cca:platform-signature"


def test_a_realm_token_by_another_key_is_refused() -> None:
    """Of the same curve, of another one, the platform's."""
    good = SIGNER.signed_platform(cbor2.dumps(SIGNER.platform_claims()))
    for key in (key_named("x"), key_named("x", ec.SECP256R1()), SIGNER.cpak):
        realm = sign1(cbor2.dumps(SIGNER.realm_claims()), key=key, tagged=True)
        with pytest.raises(CcaRealmError) as refused:
            verify(collection(good, realm))
        assert refused.value.code == "evidence:cca:realm-signature"


def test_a_realm_with_a_key_that_the_platform_does_not_vouch_for_is_refused() -> None:
    """A realm token of an attacker, beside the platform token of an honest machine."""
    platform = SIGNER.signed_platform(cbor2.dumps(SIGNER.platform_claims()))
    mallory = CcaSigner(rak=key_named("mallory"))
    realm = mallory.signed_realm(cbor2.dumps(mallory.realm_claims()))
    with pytest.raises(CcaBindingError) as refused:
        verify(collection(platform, realm))
    assert refused.value.code == "evidence:cca:binding"


NONCES = {
    "zeros": bytes(32),
    "the hash by another algorithm": sha512(SIGNER.public_key).digest(),
    "the hash of the bare point": sha256(SIGNER.point).digest(),
    "the beginning of a longer hash": sha384(SIGNER.public_key).digest()[:32],
    "the realm's challenge": CHALLENGE,
}


@pytest.mark.parametrize("case", NONCES)
def test_a_platform_challenge_that_is_not_the_hash_of_the_realm_key_is_refused(case: str) -> None:
    """The hash of the key as it stands there, by the algorithm that the realm names."""
    with pytest.raises(CcaBindingError):
        verify(SIGNER.token(platform={10: NONCES[case]}))


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("sha-256", sha256(SIGNER.public_key).digest()),
        ("sha-384", sha384(SIGNER.public_key).digest()),
        ("sha-512", sha512(SIGNER.public_key).digest()),
    ],
)
def test_the_hash_of_the_realm_key_is_by_the_named_algorithm(name: str, digest: bytes) -> None:
    """Each of those that are taken; the realm's own hash does not matter."""
    token = SIGNER.token(platform={10: digest}, realm={44240: name, 44236: "sha-512"})
    assert verify(token).realm.public_key_hash_algorithm == name


@pytest.mark.parametrize("legacy", [True, False])
def test_a_realm_key_that_is_no_point_is_refused(legacy: bool) -> None:
    """Though the platform vouches for it."""
    key = bytearray(CcaSigner(legacy=legacy).public_key)
    key[-1] ^= 1
    token = CcaSigner(legacy=legacy).token(
        platform={10: sha256(key).digest()}, realm={44237: bytes(key)}
    )
    with pytest.raises(CcaRealmError):
        verify(token)


def test_a_realm_key_of_another_form_is_refused() -> None:
    """A key that could be read in two ways is read in one."""
    key = SIGNER.point
    with pytest.raises(MalformedError):
        verify(SIGNER.token(platform={10: sha256(key).digest()}, realm={44237: key}))


def test_an_answer_to_another_challenge_is_refused() -> None:
    """Old, of another device, or the beginning of it."""
    for challenge in (bytes(64), CHALLENGE[:32], CHALLENGE + b"\x00", b"x"):
        with pytest.raises(StaleQuoteError) as refused:
            verify(challenge=challenge)
        assert refused.value.code == "evidence:nonce:mismatch"


def test_an_empty_challenge_is_refused() -> None:
    """Going without one is spelled out."""
    with pytest.raises(EmptyNonceError) as refused:
        verify(challenge=b"")
    assert refused.value.code == "evidence:nonce:empty"
    other = SIGNER.token(realm={10: bytes(64)})
    assert verify(other, challenge=Unsafe.NO_CHALLENGE).realm.challenge == bytes(64)


# --- endorsements --------------------------------------------------------------------

ENTRY = json.loads(msgspec.json.encode(SIGNER.endorsement))


def test_a_list_of_endorsements_is_read() -> None:
    """In JSON, with whatever else vendors put into a JWK."""
    entry = ENTRY | {"pkey": ENTRY["pkey"] | {"kid": "1", "use": "sig"}}
    trust = CcaTrust.read(json.dumps([entry]).encode())
    assert list(trust.keys) == [(IMPLEMENTATION_ID, INSTANCE_ID)]
    assert verify(trust=trust).realm.rim == RIM
    assert not CcaTrust.read(b"[%s]" % (b" " * (MAX_SIZE - 2))).keys


def shifted(key: dict[str, str]) -> dict[str, str]:
    """The coordinates of a JWK with the last three bytes of the one before the other."""
    return {"x": key["x"][:-4], "y": key["x"][-4:] + key["y"]}


ENDORSEMENTS = {
    "nothing": b"",
    "no list": json.dumps(ENTRY).encode(),
    "a name that is not UTF-8": b'[{"\xc0": 1}]',
    "deep lists": b"[" * 100_000,
    "too much": b"[%s]" % (b" " * (MAX_SIZE - 1)),
    "no key": json.dumps([{**ENTRY, "pkey": None}]).encode(),
    "no instance": json.dumps([{k: v for k, v in ENTRY.items() if k != "instance-id"}]).encode(),
    "an instance of another type": json.dumps([{**ENTRY, "instance-id": "02" * 33}]).encode(),
    "a short implementation": json.dumps([{**ENTRY, "implementation-id": "02"}]).encode(),
    "an instance twice": json.dumps([ENTRY, ENTRY]).encode(),
    "an instance twice in other letters": json.dumps(
        [ENTRY, {**ENTRY, "instance-id": ENTRY["instance-id"].upper()}]
    ).encode(),
    "an RSA key": json.dumps([{**ENTRY, "pkey": {"kty": "RSA", "n": "", "e": ""}}]).encode(),
    "another curve": json.dumps([{**ENTRY, "pkey": ENTRY["pkey"] | {"crv": "secp256k1"}}]).encode(),
    "a curve of another length": json.dumps(
        [{**ENTRY, "pkey": ENTRY["pkey"] | {"crv": "P-256"}}]
    ).encode(),
    "no base64": json.dumps([{**ENTRY, "pkey": ENTRY["pkey"] | {"x": "*" * 64}}]).encode(),
    "no ASCII": json.dumps([{**ENTRY, "pkey": ENTRY["pkey"] | {"x": "é" * 64}}]).encode(),
    "a coordinate that is too short": json.dumps(
        [{**ENTRY, "pkey": ENTRY["pkey"] | {"x": ENTRY["pkey"]["x"][4:]}}]
    ).encode(),
    "a boundary between the coordinates that is moved": json.dumps(
        [{**ENTRY, "pkey": ENTRY["pkey"] | shifted(ENTRY["pkey"])}]
    ).encode(),
    "a key of another type": json.dumps(
        [{**ENTRY, "pkey": ENTRY["pkey"] | {"kty": "OKP"}}]
    ).encode(),
    "base64 with a line end": json.dumps(
        [{**ENTRY, "pkey": ENTRY["pkey"] | {"x": ENTRY["pkey"]["x"] + "\n" * 4}}]
    ).encode(),
    "a point beside the curve": json.dumps(
        [{**ENTRY, "pkey": ENTRY["pkey"] | {"y": ENTRY["pkey"]["x"]}}]
    ).encode(),
}


@pytest.mark.parametrize("case", ENDORSEMENTS)
def test_endorsements_with_a_fault_are_refused(case: str) -> None:
    """All of them: a list is trusted as a whole."""
    with pytest.raises(CcaEndorsementError) as refused:
        CcaTrust.read(ENDORSEMENTS[case])
    assert refused.value.code == "evidence:cca:endorsement"


def test_a_key_alone_is_read() -> None:
    """From a JWK; what is none is refused."""
    jwk = jwk_of(SIGNER.cpak)
    assert read_jwk(msgspec.json.encode(jwk)) == jwk
    for data in (b"", b"[]", b"{}", b'{"\xc0": 1}', b"[" * 100_000):
        with pytest.raises(CcaEndorsementError):
            read_jwk(data)
