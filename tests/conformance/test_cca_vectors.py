"""CCA tokens that other implementations made, and the repository's own.

All of a token is signed but its tags and the heads of its parts, of which each has
one form: no bit of a token can be changed.
"""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Final

import pytest

from hwtrust.errors import HwTrustError
from hwtrust.errors.cca import CcaPlatformError, CcaPlatformUnknownError
from hwtrust.verify.enclaves.cca import verify_cca
from hwtrust.verify.enclaves.cca_keys import CcaEndorsement, CcaTrust, read_jwk
from hwtrust.wire.enclaves.cca import CcaToken
from simulators.cca_signer import CHALLENGE
from vectors.make_cca import make

ROOT: Final = Path(__file__).resolve().parents[2]
PUBLIC: Final = Path(os.environ.get("HWTRUST_VECTORS", ROOT.parent / "shared" / "vectors")) / "cca"
OWN: Final = ROOT / "tests" / "vectors" / "cca"
SAMPLE: Final = 600

public = pytest.mark.skipif(
    not PUBLIC.exists(), reason="the test vectors are not there: set HWTRUST_VECTORS"
)

GOOD: Final[Mapping[str, tuple[str, int, str]]] = {
    "rust-cca-token-01.cbor": ("rust-cpak.json", 0x3003, "sha-256"),
    "rust-cca-token-draft-ffm-00.cbor": ("rust-cpak.json", 0x3003, "sha-256"),
    "trustee-cca-example-token.cbor": ("trustee-cpak-pub.json", 0x3003, "sha-512"),
    "veraison-cca-good.cbor": ("veraison-ec.p256.pub.jwk", 0x3000, "sha-256"),
}
"""Each token's key, its lifecycle and its realm's hash."""
KEYS: Final = {key for key, _, _ in GOOD.values()} | {"rust-pkey.json", "veraison-ec.p384.pub.jwk"}
STORES: Final = {"rust-ta.json", "rust-ta-tfa.json"}


def trust_in(token: CcaToken, key: str) -> CcaTrust:
    """Trust in the platform of the token, by the key in a public file."""
    return CcaTrust.of(
        [
            CcaEndorsement(
                pkey=read_jwk((PUBLIC / key).read_bytes()),
                implementation_id=token.platform.implementation_id.hex(),
                instance_id=token.platform.instance_id.hex(),
            )
        ]
    )


@public
def test_every_public_file_has_a_test() -> None:
    """None is passed over."""
    assert {file.name for file in PUBLIC.iterdir()} == {*GOOD, *KEYS, *STORES, "README.md"}


@public
@pytest.mark.parametrize("name", GOOD)
def test_a_public_token_is_authentic(name: str) -> None:
    """By its key, for its challenge."""
    key, lifecycle, hash_ = GOOD[name]
    raw = (PUBLIC / name).read_bytes()
    token = CcaToken.decode(raw)
    claims = verify_cca(raw, challenge=token.realm.challenge, trust=trust_in(token, key))
    assert claims.platform.lifecycle == lifecycle
    assert claims.platform.lifecycle_state == "secured"
    assert claims.realm.hash_algorithm == hash_
    assert claims.facts() == token.facts()
    assert claims.facts()["unknown_claims"] == []


@public
@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("key", sorted(KEYS))
def test_a_public_token_is_refused_by_any_other_key(name: str, key: str) -> None:
    """Of the same curve or another."""
    raw = (PUBLIC / name).read_bytes()
    token = CcaToken.decode(raw)
    trust = trust_in(token, key)
    if (PUBLIC / key).read_bytes() == (PUBLIC / GOOD[name][0]).read_bytes():
        claims = verify_cca(raw, challenge=token.realm.challenge, trust=trust)
        assert claims.realm == token.realm
    else:
        with pytest.raises(CcaPlatformError):
            verify_cca(raw, challenge=token.realm.challenge, trust=trust)


@public
def test_public_stores_of_keys_are_read() -> None:
    """One has the key of the tokens, the other that of another platform."""
    raw = (PUBLIC / "rust-cca-token-01.cbor").read_bytes()
    challenge = CcaToken.decode(raw).realm.challenge
    known = CcaTrust.read((PUBLIC / "rust-ta-tfa.json").read_bytes())
    other = CcaTrust.read((PUBLIC / "rust-ta.json").read_bytes())
    by_name = {len(verified_by(raw, challenge, trust)) for trust in (known, other)}
    assert by_name == {0, 1}


def verified_by(raw: bytes, challenge: bytes, trust: CcaTrust) -> list[bytes]:
    """The measurement of the realm, if the platform is known."""
    try:
        return [verify_cca(raw, challenge=challenge, trust=trust).realm.rim]
    except CcaPlatformUnknownError:
        return []


def refuse_each_changed_bit(raw: bytes, challenge: bytes, trust: CcaTrust) -> None:
    """All bits of the first bytes, where the unsigned heads are, and a sample of the others."""
    heads = 24 * 8
    some = random.Random(0).sample(range(heads, len(raw) * 8), SAMPLE)  # noqa: S311
    for bit in (*range(heads), *some):
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(HwTrustError) as refused:
            verify_cca(bytes(changed), challenge=challenge, trust=trust)
        assert refused.value.code


@public
@pytest.mark.parametrize("name", GOOD)
def test_a_public_token_with_a_changed_bit_is_refused(name: str) -> None:
    """With an error of the tree."""
    raw = (PUBLIC / name).read_bytes()
    token = CcaToken.decode(raw)
    refuse_each_changed_bit(raw, token.realm.challenge, trust_in(token, GOOD[name][0]))


# --- the repository's own ------------------------------------------------------------


def own() -> dict[str, bytes]:
    """What is stored."""
    return {file.name: file.read_bytes() for file in sorted(OWN.iterdir())}


def test_what_is_stored_is_what_the_generator_makes() -> None:
    """The same bytes, and something."""
    assert own() == make()
    assert len(own()) == 4


@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("token.cbor", "secured"),
        ("token-legacy.cbor", "secured"),
        ("token-debug.cbor", "recoverable_cca_platform_rot_debug"),
    ],
)
def test_what_is_stored_verifies(name: str, state: str) -> None:
    """By the endorsements beside it."""
    trust = CcaTrust.read(own()["endorsements.json"])
    claims = verify_cca(own()[name], challenge=CHALLENGE, trust=trust)
    assert claims.platform.lifecycle_state == state
    assert claims.platform.challenge == sha256(claims.realm.public_key).digest()


@pytest.mark.parametrize("name", ["token.cbor", "token-legacy.cbor"])
def test_what_is_stored_is_refused_with_a_changed_bit(name: str) -> None:
    """As the public tokens are, where these are not at hand."""
    refuse_each_changed_bit(own()[name], CHALLENGE, CcaTrust.read(own()["endorsements.json"]))
