"""Signing in by OpenID Connect, against a provider that signs for real and lies when told to."""

from __future__ import annotations

import base64
import copy
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from hwtrust.errors import (
    ConfigError,
    LoginError,
    OidcOffError,
    OidcProviderError,
    OidcRoleError,
    OidcStateError,
    OidcTokenError,
)
from hwtrust_backend.admin.principals import Principal, Role
from hwtrust_backend.config import Settings, load_settings
from hwtrust_backend.config.oidc import OidcSettings
from hwtrust_backend.pages.oidc import OidcLogin
from simulators.oidc_provider import CLIENT, OidcProvider
from simulators.tls_server import Pki

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

NOW = 1_900_000_000_000
SECONDS = NOW // 1000


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OidcProvider]:
    """One provider for all tests."""
    home = tmp_path_factory.mktemp("provider")
    with OidcProvider(Pki(home), home) as provider:
        provider.now = lambda: SECONDS
        yield provider


@pytest.fixture
def provider(running: OidcProvider) -> Iterator[OidcProvider]:
    """The provider, honest again after each test."""
    names = ("claims", "header", "sign", "answer", "discovery", "asked", "rsa_key", "ec_key")
    kept = {name: copy.copy(getattr(running, name)) for name in names}
    yield running
    for name, value in kept.items():
        setattr(running, name, value)


def login_at(provider: OidcProvider, tmp_path: Path, **changes: object) -> OidcLogin:
    """Logins at the provider, by settings that a test may change."""
    oidc = msgspec.convert(provider.settings(**changes), OidcSettings)
    return OidcLogin(
        Settings(data_dir=str(tmp_path), url="https://backend.example:8443", oidc=oidc)
    )


def go(
    login: OidcLogin, provider: OidcProvider, *, cookie: str | None = None, **answer: str
) -> Principal:
    """Sign in, as a browser does; `cookie` and `answer` replace what it would bring back."""
    begun = login.start(now=NOW)
    query = dict(parse_qsl(urlsplit(begun.url).query))
    _, headers, _ = provider.get("/login", query)
    brought = dict(parse_qsl(urlsplit(headers["location"]).query))
    return login.finish(begun.cookie if cookie is None else cookie, brought | answer, now=NOW)


# --- who gets in ---------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["RS256", "ES256"])
def test_a_person_with_a_role_gets_in(
    provider: OidcProvider, tmp_path: Path, algorithm: str
) -> None:
    """Discovery, code, PKCE, client secret, both kinds of signatures."""
    provider.header = {"alg": algorithm, "kid": {"RS256": "rsa", "ES256": "ec"}[algorithm]}
    found = go(login_at(provider, tmp_path), provider)
    assert found == Principal("oidc:alice@example.org", Role.ADMINISTRATOR, None)


def test_what_a_browser_is_sent_with_binds_the_login(
    provider: OidcProvider, tmp_path: Path
) -> None:
    """Code flow, PKCE by S256, state and nonce; none of them tells the cookie."""
    login = login_at(provider, tmp_path)
    begun, other = login.start(now=NOW), login.start(now=NOW)
    query = dict(parse_qsl(urlsplit(begun.url).query))
    assert query["response_type"] == "code"
    assert query["code_challenge_method"] == "S256"
    assert query["redirect_uri"] == "https://backend.example:8443/ui/login/return"
    secrets = {query["state"], query["nonce"], query["code_challenge"], begun.cookie}
    assert len(secrets) == 4
    assert begun.cookie != other.cookie
    assert "verifier" not in begun.url


@pytest.mark.parametrize(
    ("claims", "role"),
    [
        ({"groups": ["fleet-viewers", "fleet-operators"]}, Role.OPERATOR),
        ({"groups": "fleet-viewers"}, Role.VIEWER),
        ({"groups": ["fleet-viewers", 7, None]}, Role.VIEWER),
    ],
    ids=["the highest of two", "a text instead of a list", "a list with other things in it"],
)
def test_the_claim_gives_the_role(
    provider: OidcProvider, tmp_path: Path, claims: dict[str, Any], role: Role
) -> None:
    """The highest role that a value of the claim gives counts."""
    provider.claims |= claims
    assert go(login_at(provider, tmp_path), provider).role is role


@pytest.mark.parametrize(
    "groups",
    [None, [], ["others"], {"fleet-admins": True}, True, "fleet-admins2", ["FLEET-ADMINS"]],
    ids=["absent", "empty", "of others", "an object", "a boolean", "longer", "in capitals"],
)
def test_who_has_no_role_is_refused(provider: OidcProvider, tmp_path: Path, groups: object) -> None:
    """However well the provider knows somebody, a role is needed."""
    provider.claims["groups"] = groups
    with pytest.raises(OidcRoleError) as caught:
        go(login_at(provider, tmp_path), provider)
    assert caught.value.code == "login:oidc:role"


def test_a_claim_may_lie_in_an_object(provider: OidcProvider, tmp_path: Path) -> None:
    """Providers that put roles deeper are understood; a claim with dots in its name, too."""
    provider.claims["realm_access"] = {"roles": ["fleet-viewers"]}
    login = login_at(provider, tmp_path, role_claim="realm_access.roles")
    assert go(login, provider).role is Role.VIEWER
    provider.claims["https://example.org/roles"] = ["fleet-operators"]
    login = login_at(provider, tmp_path, role_claim="https://example.org/roles")
    assert go(login, provider).role is Role.OPERATOR


def test_device_groups_come_from_their_claim(provider: OidcProvider, tmp_path: Path) -> None:
    """With the claim somebody is limited to what it names; without it, to nothing at all."""
    login = login_at(provider, tmp_path, groups_claim="device_groups")
    provider.claims["device_groups"] = ["lab", "shop"]
    assert go(login, provider).groups == frozenset({"lab", "shop"})
    del provider.claims["device_groups"]
    assert go(login, provider).groups == frozenset()


@pytest.mark.parametrize("verified", [False, None, "true"])
def test_an_address_that_nobody_verified_names_nobody(
    provider: OidcProvider, tmp_path: Path, verified: object
) -> None:
    """The audit trail has the provider's own name for the person then."""
    provider.claims["email_verified"] = verified
    assert go(login_at(provider, tmp_path), provider).name == "oidc:u-1"


# --- the answer ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        {"state": "another"},
        {"state": ""},
        {"iss": "https://other.example"},
        {"state": "é"},
    ],
    ids=["another state", "no state", "another provider", "no state that can be"],
)
def test_an_answer_to_another_login_is_refused(
    provider: OidcProvider, tmp_path: Path, answer: dict[str, str]
) -> None:
    """An answer counts in the browser that asked, for that question, from whom was asked."""
    with pytest.raises(OidcStateError) as caught:
        go(login_at(provider, tmp_path), provider, **answer)
    assert caught.value.code == "login:oidc:state"
    assert "/token" not in provider.asked


@pytest.mark.parametrize("cookie", ["", "another"])
def test_an_answer_without_its_cookie_is_refused(
    provider: OidcProvider, tmp_path: Path, cookie: str
) -> None:
    """Nobody can be signed in by a link that somebody else prepared."""
    with pytest.raises(OidcStateError):
        go(login_at(provider, tmp_path), provider, cookie=cookie)


def test_a_code_of_another_login_is_refused(provider: OidcProvider, tmp_path: Path) -> None:
    """PKCE: a code that was stolen or injected fits no other verifier."""
    login = login_at(provider, tmp_path)
    stolen = dict(parse_qsl(urlsplit(login.start(now=NOW).url).query))
    _, headers, _ = provider.get("/login", stolen)
    code = dict(parse_qsl(urlsplit(headers["location"]).query))["code"]
    with pytest.raises(OidcProviderError) as caught:
        go(login, provider, code=code)
    assert caught.value.code == "login:oidc:provider"


def test_an_error_of_the_provider_is_told(provider: OidcProvider, tmp_path: Path) -> None:
    """Whoever pressed cancel gets a page, and no code is looked at."""
    with pytest.raises(OidcProviderError):
        go(login_at(provider, tmp_path), provider, error="access_denied")
    assert "/token" not in provider.asked


# --- the ID token --------------------------------------------------------------------------


def signed_by(
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, algorithm: str, kid: str = "rsa"
) -> Callable[[dict[str, Any]], str]:
    """A signature by another key than the provider's."""
    return lambda claims: jwt.encode(claims, key, algorithm=algorithm, headers={"kid": kid})


def with_header(token: str, header: dict[str, Any]) -> str:
    """The token with another header, which its signature does not cover."""
    return ".".join([base64url(msgspec.json.encode(header)), *token.split(".")[1:]])


def damaged(token: str) -> str:
    """The token with another signature."""
    head, body, signature = token.split(".")
    return f"{head}.{body}.{'A' * len(signature)}"


CLAIMS: dict[str, dict[str, Any]] = {
    "of another issuer": {"iss": "https://other.example"},
    "for another client": {"aud": "another"},
    "for nobody": {"aud": None},
    "for several, given to another": {"aud": [CLIENT, "another"], "azp": "another"},
    "for several, given to nobody": {"aud": [CLIENT, "another"]},
    "given to another": {"azp": "another"},
    "of another login": {"nonce": "another"},
    "without nonce": {"nonce": None},
    "expired": {"exp": SECONDS - 61},
    "that never expires": {"exp": None},
    "whose end is no time": {"exp": "tomorrow"},
    "whose end is a boolean": {"exp": True},
    "whose end is infinite": {"exp": float("inf")},
    "whose begin is no number": {"nbf": float("nan")},
    "of the future": {"iat": SECONDS + 61},
    "not in force yet": {"nbf": SECONDS + 61},
    "of nobody": {"sub": None},
}


@pytest.mark.parametrize("defect", CLAIMS)
def test_an_id_token_is_refused(provider: OidcProvider, tmp_path: Path, defect: str) -> None:
    """Whatever in an ID token is not for this login, here and now, refuses it."""
    provider.claims |= CLAIMS[defect]
    with pytest.raises(OidcTokenError) as caught:
        go(login_at(provider, tmp_path), provider)
    assert caught.value.code == "login:oidc:token"


SIGNATURES: dict[str, Callable[[OidcProvider], None]] = {
    "nobody": lambda p: p.header.update(alg="none"),
    "a shared secret made of the public key": lambda p: p.header.update(alg="HS256"),
    "an algorithm that is none of ours": lambda p: setattr(
        p, "sign", signed_by(p.rsa_key, "PS256")
    ),
    "an algorithm that is no text": lambda p: setattr(
        p, "sign", lambda claims: with_header(p.signed(claims), {"alg": ["RS256"]})
    ),
    "another key under the same name": lambda p: setattr(
        p, "sign", signed_by(rsa.generate_private_key(65537, 2048), "RS256")
    ),
    "a key that the provider does not publish": lambda p: setattr(
        p, "sign", signed_by(p.rsa_key, "RS256", kid="new")
    ),
    "a key of another kind than the algorithm's": lambda p: setattr(
        p, "sign", signed_by(p.ec_key, "ES256", kid="rsa")
    ),
    "a damaged signature": lambda p: setattr(p, "sign", lambda claims: damaged(p.signed(claims))),
    "what is no token": lambda p: setattr(p, "sign", lambda _: "eyJ.x"),
}


@pytest.mark.parametrize("signer", SIGNATURES)
def test_an_id_token_is_refused_that_is_signed_by(
    provider: OidcProvider, tmp_path: Path, signer: str
) -> None:
    """Only the provider's published key counts, with an algorithm from our list."""
    SIGNATURES[signer](provider)
    with pytest.raises(OidcTokenError) as caught:
        go(login_at(provider, tmp_path), provider)
    assert caught.value.code == "login:oidc:token"


def test_a_weak_key_of_a_provider_counts_for_nothing(
    provider: OidcProvider, tmp_path: Path
) -> None:
    """A good signature by an RSA key of 1024 bits is none, though the provider publishes it."""
    weak = provider.rsa_key = rsa.generate_private_key(65537, 1024)  # noqa: S505 - meant

    def sign(claims: dict[str, Any]) -> str:
        parts = [base64url(msgspec.json.encode(part)) for part in (provider.header, claims)]
        signature = weak.sign(".".join(parts).encode(), padding.PKCS1v15(), hashes.SHA256())
        return ".".join([*parts, base64url(signature)])

    provider.sign = sign
    with pytest.raises(OidcTokenError) as caught:
        go(login_at(provider, tmp_path), provider)
    assert caught.value.code == "login:oidc:token"


def base64url(data: bytes) -> str:
    """As JSON Web Signature writes bytes."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def test_a_minute_of_difference_between_clocks_passes(
    provider: OidcProvider, tmp_path: Path
) -> None:
    """Provider and backend need not agree to the second."""
    provider.claims |= {"exp": SECONDS - 59, "iat": SECONDS + 60}
    assert go(login_at(provider, tmp_path), provider).role is Role.ADMINISTRATOR


# --- the provider ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "discovery",
    [
        {"issuer": "https://other.example"},
        {"token_endpoint": "http://localhost/token"},
        {"authorization_endpoint": "javascript:alert(1)"},
        {"jwks_uri": 7},
    ],
    ids=["of another issuer", "a token without TLS", "an address that is a script", "no address"],
)
def test_a_discovery_document_is_refused(
    provider: OidcProvider, tmp_path: Path, discovery: dict[str, Any]
) -> None:
    """Nobody is sent anywhere by a document that is not the configured issuer's."""
    provider.discovery = discovery
    with pytest.raises(OidcProviderError) as caught:
        login_at(provider, tmp_path).start(now=NOW)
    assert caught.value.code == "login:oidc:provider"


def test_a_provider_under_another_ca_is_not_spoken_with(
    provider: OidcProvider, tmp_path: Path
) -> None:
    """The provider's certificate is checked."""
    other = tmp_path / "other.pem"
    other.write_text(Pki(tmp_path, "other CA").ca_pem)
    with pytest.raises(OidcProviderError):
        login_at(provider, tmp_path, ca_file=str(other)).start(now=NOW)
    assert provider.asked == []


def test_discovery_is_asked_for_once_in_ten_minutes(provider: OidcProvider, tmp_path: Path) -> None:
    """Whoever opens the sign-in page all day costs the provider nothing."""
    provider.asked = []
    login = login_at(provider, tmp_path)
    for minute in (0, 1, 9, 10, 11):
        login.start(now=NOW + minute * 60_000)
    assert len(provider.asked) == 2


def test_a_missing_secret_is_an_error_of_the_login(provider: OidcProvider, tmp_path: Path) -> None:
    """A file that is not there ends in a typed error that does not quote it."""
    login = login_at(provider, tmp_path, client_secret_file=str(tmp_path / "none"))
    with pytest.raises(OidcProviderError) as caught:
        go(login, provider)
    assert str(tmp_path) not in caught.value.message


def test_without_a_provider_nobody_signs_in_by_one(tmp_path: Path) -> None:
    """Where nothing is configured, both ends of the login are closed."""
    login = OidcLogin(Settings(data_dir=str(tmp_path)))
    assert not login.is_on
    with pytest.raises(OidcOffError):
        login.start(now=NOW)
    with pytest.raises(LoginError):
        login.finish("cookie", {"state": "x"}, now=NOW)


# --- settings -------------------------------------------------------------------------------


def test_the_section_is_read_from_file_and_environment(tmp_path: Path) -> None:
    """A table of the file, and variables over it."""
    (tmp_path / "config.toml").write_text(
        '[oidc]\nissuer = "https://id.example"\nclient_id = "a"\nadministrators = ["admins"]\n'
    )
    environ = {"HWTRUST_BACKEND_OIDC_VIEWERS": "staff, guests"}
    oidc = load_settings(tmp_path, file=None, environ=environ).oidc
    assert (oidc.issuer, oidc.administrators, oidc.viewers) == (
        "https://id.example",
        ("admins",),
        ("staff", "guests"),
    )


@pytest.mark.parametrize(
    "section",
    [
        {"issuer": "http://id.example", "client_id": "a", "viewers": ["x"]},
        {"issuer": "https://id.example?x=1", "client_id": "a", "viewers": ["x"]},
        {"issuer": "https://id.example", "viewers": ["x"]},
        {"issuer": "https://id.example", "client_id": "a"},
        {"issuer": "https://id.example", "client_id": "a", "viewers": ["x"], "scopes": ["email"]},
    ],
    ids=["without TLS", "with a query", "without a client", "without any role", "without openid"],
)
def test_a_section_that_cannot_be_meant_is_refused(section: dict[str, Any]) -> None:
    """A configuration under which nobody, or anybody, could sign in is an error at the start."""
    with pytest.raises((ConfigError, msgspec.ValidationError)):
        msgspec.convert(section, OidcSettings)
