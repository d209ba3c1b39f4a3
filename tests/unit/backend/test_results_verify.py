"""Which tokens are believed: one genuine result, and everything that is nearly one."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import TYPE_CHECKING, Any

import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from hwtrust.errors import (
    HwTrustError,
    JwksError,
    ResultAudienceError,
    ResultError,
    ResultExpiredError,
    ResultFutureError,
    ResultNonceError,
    ResultProfileError,
    ResultSignatureError,
    ResultStatusError,
)
from hwtrust.wire.messages import Finding, Mode, Severity, Standing
from hwtrust_backend.config.clock import DAY, HOUR, MINUTE, SECOND
from hwtrust_backend.enrolment import DeviceKind
from hwtrust_backend.results.claims import PROFILE, Request, Subject, make_claims, nonce_text
from hwtrust_backend.results.jwks import Jwks, coordinates, jwk, read_jwks, thumbprint
from hwtrust_backend.results.verify import SKEW_MS, TOKEN_LIMIT, verify_result

if TYPE_CHECKING:
    from collections.abc import Callable

    from hwtrust_backend.results.claims import ResultClaims

NOW = 1_800_000_000_000
KEY = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())
NONCE = b"sixteen octets.."
DEVICE = "000b" + "5e" * 32

SUBJECT = Subject(
    device=DEVICE,
    kind=DeviceKind.TPM,
    debug=False,
    gpu=False,
    group="default",
    standing=Standing.TRUSTED,
    mode=Mode.NORMAL,
    findings=(),
    epoch=8,
    release="1.0",
    attested_at=NOW - HOUR,
    grace_end=NOW + DAY,
    missed=False,
    withdrawn=False,
    policy="hwtrust:policy:default:1",
)


def name_of(key: ec.EllipticCurvePrivateKey) -> str:
    """A key's name."""
    return thumbprint(*coordinates(key.public_key()))


def set_of(*keys: ec.EllipticCurvePrivateKey) -> bytes:
    """The set of these keys, as it is published."""
    found = tuple(jwk(*coordinates(key.public_key())) for key in keys)
    return msgspec.json.encode(Jwks(keys=found))


KEYS = read_jwks(set_of(KEY))


def claims_of(subject: Subject = SUBJECT, *, audience: str = "") -> dict[str, Any]:
    """The claims about a subject, with the nonce."""
    request = Request(nonce=NONCE, audience=audience)
    return make_claims(
        subject,
        request,
        issuer="https://trust.example.org",
        build="test",
        lifetime_ms=5 * MINUTE,
        now=NOW,
    )


def changed(**values: object) -> Subject:
    """The subject with other attributes."""
    fields = {name: getattr(SUBJECT, name) for name in Subject.__slots__}
    return Subject(**{**fields, **values})


def token_of(
    claims: dict[str, Any],
    *,
    key: ec.EllipticCurvePrivateKey = KEY,
    header: dict[str, Any] | None = None,
) -> str:
    """A token of these claims, signed as results are."""
    headers = {"kid": name_of(key), "typ": "eat+jwt", **(header or {})}
    return jwt.encode(claims, key, algorithm="ES256", headers=headers)


def verify(
    token: str,
    *,
    nonce: bytes | None = None,
    audience: str | None = None,
    any_status: bool = False,
    now: int = NOW,
) -> ResultClaims:
    """Verify with the one known key."""
    return verify_result(
        token, keys=KEYS, nonce=nonce, audience=audience, any_status=any_status, now=now
    )


def part(content: object) -> str:
    """One part of a compact token."""
    return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=").decode()


def test_a_genuine_result_is_believed_and_says_all_there_is() -> None:
    """Profile, status, vector and our own claims come through."""
    claims = verify(token_of(claims_of()), nonce=NONCE)
    appraisal, ours = claims.submods["hwtrust"], claims.device
    assert claims.eat_profile == PROFILE == "tag:ietf.org,2026:rats/ear#04"
    assert (claims.sub, claims.ear_status.value) == (DEVICE, "affirming")
    assert claims.exp - claims.iat == 5 * MINUTE // SECOND
    assert appraisal.ear_appraisal_policy_ids == ("hwtrust:policy:default:1",)
    assert (ours.hwtrust_kind, ours.hwtrust_epoch) == ("tpm", 8)
    assert ours.hwtrust_attested_at == (NOW - HOUR) // SECOND


# --- what is signed, and by whom -----------------------------------------------------


def unsigned(claims: dict[str, Any]) -> str:
    """A token of the algorithm `none`."""
    header = {"alg": "none", "typ": "eat+jwt", "kid": name_of(KEY)}
    return f"{part(header)}.{part(claims)}."


def confused(claims: dict[str, Any]) -> str:
    """A token whose HMAC key is the public key, which everybody has."""
    public = KEY.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    header = {"alg": "HS256", "typ": "eat+jwt", "kid": name_of(KEY)}
    signed = f"{part(header)}.{part(claims)}"
    mac = hmac.new(public, signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


def edited(claims: dict[str, Any]) -> str:
    """A genuine token whose claims were changed afterwards."""
    header, _, signature = token_of(claims).split(".")
    return f"{header}.{part({**claims, 'sub': 'another'})}.{signature}"


def unnamed(claims: dict[str, Any]) -> str:
    """A genuine signature under a header that names no key."""
    return jwt.encode(claims, KEY, algorithm="ES256", headers={"typ": "eat+jwt"})


def with_header(**values: object) -> Callable[[dict[str, Any]], str]:
    """Makes a genuine signature over a header that holds more, or something else."""
    return lambda claims: token_of(claims, header=values)


def longer(claims: dict[str, Any]) -> str:
    """A genuine token beyond every size."""
    return token_of({**claims, "filler": "x" * TOKEN_LIMIT})


OWN_JWK = msgspec.to_builtins(jwk(*coordinates(OTHER.public_key())))

FORGERIES: dict[str, Callable[[dict[str, Any]], str]] = {
    "no signature at all": unsigned,
    "an HMAC with the public key": confused,
    "claims that were changed": edited,
    "a key that is not in the set": lambda claims: token_of(claims, key=OTHER),
    "another key under a known name": lambda claims: token_of(
        claims, key=OTHER, header={"kid": name_of(KEY)}
    ),
    "a header without a key's name": unnamed,
    "a header whose key's name is no text": lambda claims: token_of(claims).replace(
        token_of(claims).split(".")[0], part({"alg": "ES256", "typ": "eat+jwt", "kid": 1})
    ),
    "a header that brings its key": lambda claims: token_of(
        claims, key=OTHER, header={"jwk": OWN_JWK}
    ),
    "a known key beside one that is brought": with_header(jwk=OWN_JWK),
    "a header that points to a set of keys": with_header(jku="https://evil.example/jwks"),
    "a header that points to a certificate": with_header(x5u="https://evil.example/pem"),
    "a header that brings certificates": with_header(x5c=["MIIB"]),
    "a header that demands an extension": with_header(crit=["exp"]),
    "a token of another type": with_header(typ="JWT"),
    "a token that is too long": longer,
    "something else": lambda _: "not.a.token",
    "nothing": lambda _: "",
    "a header that is nested without end": lambda claims: (
        base64.urlsafe_b64encode(b"[" * 9000).decode() + "." + token_of(claims).partition(".")[2]
    ),
    "characters that no encoding has": lambda claims: token_of(claims) + "\udc80",
    "characters beyond ASCII": lambda claims: token_of(claims) + "ä",
    "a part too many": lambda claims: token_of(claims) + ".e30",
}


@pytest.mark.parametrize("case", FORGERIES)
def test_what_is_not_signed_as_results_are_is_refused(case: str) -> None:
    """Key and algorithm are the verifier's choice, never the token's."""
    with pytest.raises(ResultSignatureError) as caught:
        verify(FORGERIES[case](claims_of()), any_status=True)
    assert caught.value.code == "result:signature"


# --- what it says ----------------------------------------------------------------------


def submodule(**values: object) -> dict[str, Any]:
    """The claims with other values in the submodule."""
    claims = claims_of()
    claims["submods"]["hwtrust"].update(values)
    return claims


def without(name: str) -> dict[str, Any]:
    """The claims without one."""
    claims = claims_of()
    del claims[name]
    return claims


STRANGERS: dict[str, dict[str, Any]] = {
    "another profile": {**claims_of(), "eat_profile": "tag:github.com,2023:veraison/ear"},
    "no profile": without("eat_profile"),
    "no time of issue": without("iat"),
    "no end": without("exp"),
    "an end with a fraction": {**claims_of(), "exp": NOW / SECOND + 60.5},
    "no submodules": without("submods"),
    "no submodule of ours": {**claims_of(), "submods": {}},
    "no status": without("ear_status"),
    "a status that does not exist": {**claims_of(), "ear_status": "splendid"},
    "a status better than its vector": submodule(
        ear_trustworthiness_vector={"hardware": 2, "executables": 96}
    ),
    "a status that affirms what no claim does": submodule(
        ear_trustworthiness_vector={"hardware": 0}
    ),
    "a whole that is better than its part": submodule(ear_status="warning"),
    "many audiences": {**claims_of(), "aud": ["one", "two"]},
}


@pytest.mark.parametrize("case", STRANGERS)
def test_what_is_signed_well_and_is_no_result_is_refused(case: str) -> None:
    """A key of the backend's on another statement makes no result of it."""
    with pytest.raises(ResultProfileError) as caught:
        verify(token_of(STRANGERS[case]), any_status=True)
    assert caught.value.code == "result:profile"


def test_claims_that_are_no_object_are_refused() -> None:
    """A signature over anything else ends in the same error."""
    headers = {"kid": name_of(KEY), "typ": "eat+jwt"}
    token = jwt.PyJWS().encode(b"[1]", KEY, algorithm="ES256", headers=headers)
    with pytest.raises(ResultProfileError):
        verify(token)


def test_a_claim_that_is_not_known_is_ignored() -> None:
    """An extension does not keep a relying party from reading a result (draft, section 5)."""
    assert verify(token_of({**claims_of(), "later": {"a": 1}})).sub == DEVICE


# --- when, for whom, in answer to what --------------------------------------------------

EXPECTATIONS: dict[str, tuple[dict[str, Any], dict[str, Any], type[ResultError]]] = {
    "it is over": ({}, {"now": NOW + 5 * MINUTE}, ResultExpiredError),
    "it is issued in the future": ({}, {"now": NOW - SKEW_MS - SECOND}, ResultFutureError),
    "it begins later": ({"nbf": NOW // SECOND + 120}, {}, ResultFutureError),
    "it begins beyond all calendars": ({"iat": 2**60}, {}, ResultFutureError),
    "it answers another nonce": ({}, {"nonce": b"another nonce..."}, ResultNonceError),
    "it answers with characters beyond ASCII": (
        {"eat_nonce": "ä" * 20},
        {"nonce": NONCE},
        ResultNonceError,
    ),
    "it answers none": ({"eat_nonce": ""}, {"nonce": NONCE}, ResultNonceError),
    "it is for another": ({"aud": "b"}, {"audience": "a"}, ResultAudienceError),
    "it is for nobody in particular": ({}, {"audience": "a"}, ResultAudienceError),
    "it is for somebody, and nobody says who asks": ({"aud": "b"}, {}, ResultAudienceError),
}


@pytest.mark.parametrize("case", EXPECTATIONS)
def test_a_genuine_result_is_refused_out_of_its_place(case: str) -> None:
    """Times, audience and nonce are those that the relying party expects."""
    extra, expected, error = EXPECTATIONS[case]
    token = token_of({**claims_of(), **extra})
    with pytest.raises(error) as caught:
        verify(token, any_status=True, **expected)
    assert caught.value.code == error.code


def test_a_result_for_an_audience_is_believed_by_that_audience() -> None:
    """The audience that was asked for is the one that may use it."""
    assert verify(token_of(claims_of(audience="shop")), audience="shop").aud == "shop"


def test_a_device_that_is_not_affirmed_is_refused_unless_any_status_will_do() -> None:
    """A genuine result of a bad device gives leave to nothing."""
    bad = Finding(code="layer:mismatch", severity=Severity.FAIL, message="")
    token = token_of(claims_of(changed(standing=Standing.FAILED, findings=(bad,))))
    with pytest.raises(ResultStatusError) as caught:
        verify(token)
    assert caught.value.code == "result:status"
    assert verify(token, any_status=True).ear_status.value == "contraindicated"


# --- what is put into it ----------------------------------------------------------------


def test_a_result_ends_when_the_device_may_be_away_no_longer() -> None:
    """A result does not outlive the grace that the device has been given."""
    claims = claims_of(changed(grace_end=NOW + MINUTE))
    assert claims["exp"] == (NOW + MINUTE) // SECOND


@pytest.mark.parametrize(
    "silent", [{"grace_end": NOW}, {"missed": True}], ids=["grace over", "missed"]
)
def test_a_silent_device_gets_a_result_that_affirms_nothing(silent: dict[str, Any]) -> None:
    """Such a result is in force, so that a relying party learns of the silence."""
    claims = verify(token_of(claims_of(changed(**silent))), any_status=True)
    assert claims.ear_status.value == "none"
    assert claims.device.hwtrust_silent


def test_a_policy_that_is_not_known_any_more_is_not_named() -> None:
    """A list of policies is absent rather than empty (draft, section 3.1)."""
    claims = claims_of(changed(policy=""))
    assert "ear_appraisal_policy_ids" not in claims["submods"]["hwtrust"]


def test_a_result_of_an_enclave_speaks_of_its_parts_too() -> None:
    """TEE and GPU stand for themselves; the whole is no better than either."""
    bad = Finding(code="nvidia:driver", severity=Severity.FAIL, message="")
    subject = changed(
        kind=DeviceKind.SNP, gpu=True, standing=Standing.FAILED, findings=(bad,), group="lab"
    )
    claims = verify(token_of(claims_of(subject)), any_status=True)
    assert {name: part.ear_status.value for name, part in claims.submods.items()} == {
        "hwtrust": "contraindicated",
        "tee": "affirming",
        "gpu": "contraindicated",
    }
    assert claims.device.hwtrust_kind == "snp"
    assert claims.submods["tee"].ear_trustworthiness_vector["runtime-opaque"] == 2


@pytest.mark.parametrize(
    ("kind", "gpu", "parts"),
    [
        (DeviceKind.TPM, False, {"hwtrust"}),
        (DeviceKind.TDX, False, {"hwtrust", "tee"}),
        (DeviceKind.TDX, True, {"hwtrust", "tee", "gpu"}),
    ],
)
def test_a_result_names_the_parts_that_there_are(
    kind: DeviceKind, gpu: bool, parts: set[str]
) -> None:
    """Nothing is said of a TEE or GPU that gave no evidence."""
    assert set(claims_of(changed(kind=kind, gpu=gpu))["submods"]) == parts


def test_a_part_alone_is_no_result() -> None:
    """What is not about the whole device is not believed of it."""
    claims = claims_of(changed(kind=DeviceKind.SNP))
    del claims["submods"]["hwtrust"]["ear_verifier_claims"]
    with pytest.raises(ResultProfileError) as caught:
        verify(token_of(claims))
    assert caught.value.code == "result:profile"


@pytest.mark.parametrize(("size", "length"), [(8, 12), (64, 88)])
def test_a_nonce_is_as_long_as_the_draft_says(size: int, length: int) -> None:
    """8 to 64 bytes are 12 to 88 characters."""
    assert len(nonce_text(bytes(size))) == length


def test_no_message_of_a_finding_gets_into_a_result() -> None:
    """Messages may name files and releases; a relying party gets the codes."""
    told = Finding(code="layer:mismatch", severity=Severity.FAIL, message="/opt/secret/path")
    claims = claims_of(changed(findings=(told,), standing=Standing.FAILED))
    assert "/opt/secret" not in json.dumps(claims)


# --- sets of keys -----------------------------------------------------------------------


def test_a_thumbprint_is_that_of_rfc_7638() -> None:
    """The members in their order, without white space."""
    x, y = coordinates(KEY.public_key())
    members = {"kty": "EC", "crv": "P-256", "x": jwk(x, y).x, "y": jwk(x, y).y}
    text = json.dumps(members, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).digest()
    assert thumbprint(x, y) == base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def test_keys_of_other_kinds_are_left_out() -> None:
    """A secret key or one for another use in the set is never tried."""
    own = msgspec.to_builtins(jwk(*coordinates(KEY.public_key())))
    others = [
        {"kty": "oct", "k": "AAAA", "kid": "oct"},
        {"kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "rsa"},
        {**OWN_JWK, "use": "enc"},
        {**OWN_JWK, "alg": "ECDH-ES"},
    ]
    found = read_jwks(json.dumps({"keys": [*others, own]}).encode())
    assert list(found) == [own["kid"]]


BAD_SETS = {
    "no JSON": b"\xff",
    "no set": b"[]",
    "no list": b'{"keys": 1}',
    "too large": b'{"keys": []}' + b" " * 256 * 1024,
    "nested without end": b"[" * 100_000,
    "a name that is not the thumbprint": json.dumps({"keys": [{**OWN_JWK, "kid": "x"}]}).encode(),
    "no point of the curve": json.dumps({"keys": [{**OWN_JWK, "x": OWN_JWK["y"]}]}).encode(),
    "a coordinate too short": json.dumps({"keys": [{**OWN_JWK, "x": "AAAA"}]}).encode(),
    "a coordinate that is no text": json.dumps({"keys": [{**OWN_JWK, "x": 7}]}).encode(),
    "no coordinate": b'{"keys": [{"kty": "EC", "crv": "P-256"}]}',
}


@pytest.mark.parametrize("case", BAD_SETS)
def test_a_set_that_is_none_is_refused(case: str) -> None:
    """Nothing in a set of keys ends in another error than ours."""
    with pytest.raises(HwTrustError) as caught:
        read_jwks(BAD_SETS[case])
    assert isinstance(caught.value, JwksError)
    assert caught.value.code == "result:jwks"
