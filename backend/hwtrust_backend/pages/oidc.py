"""People whom an identity provider knows: OpenID Connect, authorization code flow with PKCE.

    start ──▶ (provider) ──▶ finish ──▶ Person

Rules:
1. One random cookie begins a login. State, nonce and PKCE verifier follow from
   it, so that nothing has to be kept here, and an answer that belongs to no login
   of this browser is refused (OpenID Connect Core §3.1.2.1, RFC 7636, RFC 9700).
2. The provider's addresses come from its discovery document, whose issuer must be
   the one that is configured (OpenID Connect Discovery §4.3); https only.
3. An ID token counts only under the provider's key, with an algorithm of ours
   (`ALGORITHMS`), for us, from that issuer, for this login, and in time
   (OpenID Connect Core §3.1.3.7).
4. Who has no role by the settings is refused, however well the provider knows them.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import httpx
import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from hwtrust.errors import (
    OidcOffError,
    OidcProviderError,
    OidcRoleError,
    OidcStateError,
    OidcTokenError,
)
from hwtrust_backend.admin.principals import Principal
from hwtrust_backend.admin.roles import Role
from hwtrust_backend.config import Settings
from hwtrust_backend.config.clock import MINUTE, SECOND
from hwtrust_backend.config.oidc import OidcSettings

LOGIN_COOKIE: Final = "__Host-hwtrust-login"
RETURN_PATH: Final = "/ui/login/return"
ALGORITHMS: Final = {"RS256": rsa.RSAPublicKey, "ES256": ec.EllipticCurvePublicKey}
"""What an ID token may be signed with, and by which kind of key."""

LEEWAY_MS: Final = MINUTE
TIMEOUT_SECONDS: Final = 10.0
_DISCOVERY_MS: Final = 10 * MINUTE
_ANSWER_LIMIT: Final = 1024 * 1024
_RSA_BITS: Final = 2048
_NAME_LIMIT: Final = 190
_END_OF_TIME: Final = 2**53
"""Seconds: greater numbers are no time."""
_NO_CHECKS: Final = {
    "verify_exp": False,
    "verify_iat": False,
    "verify_nbf": False,
    "require": ["exp", "iat", "iss", "aud", "sub", "nonce"],
}
"""The times are checked here, by the backend's own clock."""

_Answer = TypeVar("_Answer", bound=msgspec.Struct)


class _Discovery(msgspec.Struct, frozen=True, kw_only=True):
    """What is used of a provider's metadata (OpenID Connect Discovery §3)."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("client_secret_basic",)
    authorization_response_iss_parameter_supported: bool = False


class _KeySet(msgspec.Struct, frozen=True, kw_only=True):
    keys: tuple[dict[str, Any], ...]


class _TokenAnswer(msgspec.Struct, frozen=True, kw_only=True):
    id_token: str


@dataclass(frozen=True, slots=True)
class Begun:
    """Where a browser goes to sign in, and the cookie that it brings back."""

    url: str
    cookie: str


class OidcLogin:
    """Logins at one provider."""

    def __init__(self, settings: Settings, *, unsafe_client: httpx.Client | None = None) -> None:
        """Prepare; the provider is asked when somebody signs in.

        `unsafe_client` replaces the client that checks the provider's certificate.
        """
        self._oidc = settings.oidc
        self._return_url = settings.url.rstrip("/") + RETURN_PATH
        self._client = unsafe_client
        self._lock = Lock()
        self._known: tuple[int, _Discovery] | None = None

    @property
    def is_on(self) -> bool:
        """Whether a provider is configured."""
        return bool(self._oidc.issuer)

    @property
    def provider(self) -> str:
        """The provider's host, for people."""
        return urlsplit(self._oidc.issuer).hostname or ""

    def start(self, *, now: int) -> Begun:
        """Begin a login.

        Raises:
            OidcOffError: no provider is configured.
            OidcProviderError: it does not answer as it should.
        """
        discovery = self._discover(now)
        cookie = secrets.token_urlsafe(32)
        challenge = hashlib.sha256(_derived(cookie, "verifier").encode()).digest()
        query = {
            "response_type": "code",
            "client_id": self._oidc.client_id,
            "redirect_uri": self._return_url,
            "scope": " ".join(self._oidc.scopes),
            "state": _derived(cookie, "state"),
            "nonce": _derived(cookie, "nonce"),
            "code_challenge": _base64(challenge),
            "code_challenge_method": "S256",
        }
        joint = "&" if urlsplit(discovery.authorization_endpoint).query else "?"
        return Begun(discovery.authorization_endpoint + joint + urlencode(query), cookie)

    def finish(self, cookie: str | None, answer: Mapping[str, str], *, now: int) -> Principal:
        """Take the provider's answer, as the query of the return URL has it.

        Raises:
            OidcStateError: it belongs to no login of this browser.
            OidcProviderError: the provider refused, or does not answer.
            OidcTokenError: its ID token is not accepted.
            OidcRoleError: the person has no role here.
        """
        state = answer.get("state", "")
        if not cookie or not _same(state, _derived(cookie, "state")):
            raise OidcStateError("the answer belongs to no login that this browser began")
        discovery = self._discover(now)
        issuer = answer.get("iss")
        # RFC 9207: who answers is whom we have asked.
        wanted = discovery.authorization_response_iss_parameter_supported
        if issuer != self._oidc.issuer and (wanted or issuer is not None):
            raise OidcStateError("the answer is of another provider")
        if "error" in answer or not answer.get("code"):
            told = answer.get("error", "no code")[:100]
            raise OidcProviderError(f"the provider refused: {told!r}")
        token = self._exchange(discovery, answer["code"], _derived(cookie, "verifier"))
        claims = self._verified(discovery, token, nonce=_derived(cookie, "nonce"), now=now)
        return principal_of(claims, self._oidc)

    # --- the provider ------------------------------------------------------------

    def _discover(self, now: int) -> _Discovery:
        if not self.is_on:
            raise OidcOffError("no identity provider is configured")
        with self._lock:
            known = self._known
        if known is not None and 0 <= now - known[0] < _DISCOVERY_MS:
            return known[1]
        url = self._oidc.issuer.rstrip("/") + "/.well-known/openid-configuration"
        discovery = self._asked("GET", url, _Discovery)
        if discovery.issuer != self._oidc.issuer:
            raise OidcProviderError(f"the provider calls itself {discovery.issuer[:200]!r}")
        addresses = (
            discovery.authorization_endpoint,
            discovery.token_endpoint,
            discovery.jwks_uri,
        )
        if any(urlsplit(address).scheme != "https" for address in addresses):
            raise OidcProviderError("an address of the provider is not https")
        with self._lock:
            self._known = now, discovery
        return discovery

    def _exchange(self, discovery: _Discovery, code: str, verifier: str) -> str:
        """The ID token for a code (RFC 6749 §4.1.3)."""
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._return_url,
            "code_verifier": verifier,
        }
        headers = {}
        secret = self._secret()
        if secret is None:
            form["client_id"] = self._oidc.client_id
        elif "client_secret_basic" in discovery.token_endpoint_auth_methods_supported:
            pair = f"{quote(self._oidc.client_id, safe='')}:{quote(secret, safe='')}"
            headers["authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
        else:
            form |= {"client_id": self._oidc.client_id, "client_secret": secret}
        url = discovery.token_endpoint
        return self._asked("POST", url, _TokenAnswer, form=form, headers=headers).id_token

    def _secret(self) -> str | None:
        if not self._oidc.client_secret_file:
            return None
        try:
            return Path(self._oidc.client_secret_file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise OidcProviderError("oidc.client_secret_file cannot be read") from error

    def _asked(
        self,
        method: str,
        url: str,
        kind: type[_Answer],
        *,
        form: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> _Answer:
        asked = {"accept": "application/json", **(headers or {})}
        try:
            answer = self._http().request(method, url, data=form, headers=asked)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            message = f"the provider does not answer: {type(error).__name__}"
            raise OidcProviderError(message) from error
        if answer.status_code != httpx.codes.OK or len(answer.content) > _ANSWER_LIMIT:
            raise OidcProviderError(f"the provider answers with {answer.status_code}")
        try:
            return msgspec.json.decode(answer.content, type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise OidcProviderError("the provider's answer is not what was asked for") from error

    def _http(self) -> httpx.Client:
        with self._lock:
            if self._client is None:
                self._client = httpx.Client(
                    verify=self._trust(),
                    timeout=TIMEOUT_SECONDS,
                    follow_redirects=False,
                    trust_env=False,
                )
            return self._client

    def _trust(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=self._oidc.ca_file or None)
        except (OSError, ssl.SSLError) as error:
            raise OidcProviderError("oidc.ca_file holds no CA certificates") from error

    # --- the ID token --------------------------------------------------------------

    def _verified(
        self, discovery: _Discovery, token: str, *, nonce: str, now: int
    ) -> dict[str, Any]:
        keys = self._asked("GET", discovery.jwks_uri, _KeySet).keys
        try:
            header = jwt.get_unverified_header(token)
            algorithm = header.get("alg")
            if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
                raise OidcTokenError("the ID token is signed with no accepted algorithm")
            key = _key_of(keys, header.get("kid"), algorithm)
            claims: dict[str, Any] = jwt.decode(
                token,
                key=key,
                algorithms=[algorithm],
                audience=self._oidc.client_id,
                issuer=self._oidc.issuer,
                options=_NO_CHECKS,  # type: ignore[arg-type] # a mapping, as documented
            )
        except jwt.PyJWTError as error:
            message = f"the ID token is not accepted: {type(error).__name__}"
            raise OidcTokenError(message) from error
        self._check_party(claims)
        _check_times(claims, now)
        if not _same(str(claims["nonce"]), nonce):
            raise OidcTokenError("the ID token is of another login")
        return claims

    def _check_party(self, claims: Mapping[str, Any]) -> None:
        """Whom the token was given to: `azp`, and needed where it has several audiences."""
        audience, party = claims["aud"], claims.get("azp")
        several = isinstance(audience, list) and len(audience) > 1
        if (party is not None or several) and party != self._oidc.client_id:
            raise OidcTokenError("the ID token was given to somebody else")


def principal_of(claims: Mapping[str, Any], oidc: OidcSettings) -> Principal:
    """Who a person is here, by what the provider says of them.

    Raises:
        OidcRoleError: nothing that it says gives a role.
    """
    held = frozenset(_texts(_claim(claims, oidc.role_claim)))
    roles = {
        Role.ADMINISTRATOR: oidc.administrators,
        Role.OPERATOR: oidc.operators,
        Role.VIEWER: oidc.viewers,
    }
    role = next((role for role, values in roles.items() if held.intersection(values)), None)
    if role is None:
        raise OidcRoleError("nothing that the provider says gives a role here")
    groups = None
    if oidc.groups_claim:
        groups = frozenset(_texts(_claim(claims, oidc.groups_claim)))
    # An address that nobody has verified is whatever its owner typed.
    verified = claims.get("email_verified") is True
    name = str(claims["email"] if verified and "email" in claims else claims["sub"])
    return Principal(name=f"oidc:{name[:_NAME_LIMIT]}", role=role, groups=groups)


def _claim(claims: Mapping[str, Any], name: str) -> object:
    if name in claims:
        return claims[name]
    found: object = claims
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _texts(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _key_of(keys: tuple[dict[str, Any], ...], kid: object, algorithm: str) -> jwt.PyJWK:
    """The one key that may have signed: named by `kid`, or the only one of its kind."""
    kind = ALGORITHMS[algorithm]
    fitting = []
    for entry in keys:
        if (kid is not None and entry.get("kid") != kid) or entry.get("use", "sig") != "sig":
            continue
        try:
            key = jwt.PyJWK(entry, algorithm=algorithm)
        except jwt.PyJWTError:
            continue  # of a kind that we do not know
        if isinstance(key.key, kind) and _is_strong(key.key):
            fitting.append(key)
    if len(fitting) != 1:
        raise OidcTokenError("the provider has no one key for the ID token")
    return fitting[0]


def _is_strong(key: object) -> bool:
    if isinstance(key, rsa.RSAPublicKey):
        return key.key_size >= _RSA_BITS
    return isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == "secp256r1"


def _check_times(claims: Mapping[str, Any], now: int) -> None:
    times = {name: claims.get(name, 0) for name in ("exp", "iat", "nbf")}
    if not all(_is_time(at) for at in times.values()):
        raise OidcTokenError("a time in the ID token is none")
    if times["exp"] * SECOND + LEEWAY_MS <= now:
        raise OidcTokenError("the ID token is expired")
    if max(times["iat"], times["nbf"]) * SECOND > now + LEEWAY_MS:
        raise OidcTokenError("the ID token is not in force yet")


def _is_time(value: object) -> bool:
    """Whether this is a number of seconds; `Infinity` and `NaN` are none."""
    return type(value) in {int, float} and 0 <= value < _END_OF_TIME  # type: ignore[operator]


def _derived(cookie: str, purpose: str) -> str:
    """What follows from a login's cookie, and does not tell it."""
    return _base64(hmac.digest(cookie.encode(errors="replace"), purpose.encode(), "sha256"))


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(errors="replace"), other.encode(errors="replace"))
