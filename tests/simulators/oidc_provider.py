"""An OpenID Connect provider for one test: real HTTPS, real signatures, PKCE checked.

    with OidcProvider(pki) as provider:
        settings = provider.settings(role_claim="groups", administrators=("admins",))
        provider.claims["groups"] = ["admins"]

Whoever comes to its login page is signed in at once as the person whom `claims`
describe. It is honest unless a test says otherwise: `claims` go over what the ID
token says, `header` and `sign` over how it is signed, `answer` over the query that
the browser brings back.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import socket
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qsl, urlencode, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from simulators.tls_server import Pki

CLIENT = "hwtrust-pages"


class _TlsServer(ThreadingHTTPServer):
    """Each connection's handshake is its own thread's business."""

    daemon_threads = True
    context: ssl.SSLContext

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection."""
        connection, address = super().get_request()
        secured = self.context.wrap_socket(
            connection, server_side=True, do_handshake_on_connect=False
        )
        return secured, address

    def handle_error(self, *_: object) -> None:
        """A browser may close a connection that it opened in advance."""


class OidcProvider:
    """One provider with one client."""

    def __init__(self, pki: Pki, directory: Path) -> None:
        self._pki = pki
        self._codes: dict[str, dict[str, str]] = {}
        self.rsa_key = rsa.generate_private_key(65537, 2048)
        self.ec_key = ec.generate_private_key(ec.SECP256R1())
        self.secret_file = directory / "client-secret"
        self.secret_file.write_text("not guessed\n")
        self.ca_file = directory / "provider-ca.pem"
        self.ca_file.write_text(pki.ca_pem)
        self.claims: dict[str, Any] = {
            "sub": "u-1",
            "email": "alice@example.org",
            "email_verified": True,
            "groups": ["fleet-admins"],
        }
        self.header: dict[str, Any] = {"alg": "RS256", "kid": "rsa"}
        self.sign: Callable[[dict[str, Any]], str] = self.signed
        self.answer: dict[str, str] = {}
        self.discovery: dict[str, Any] = {}
        self.asked: list[str] = []
        """The paths of all requests."""
        self.now: Callable[[], int] = lambda: int(time.time())

    @property
    def url(self) -> str:
        """The issuer."""
        return f"https://localhost:{self._server.server_port}"

    def settings(self, **changes: object) -> dict[str, Any]:
        """The section `oidc` of a backend's settings."""
        return {
            "issuer": self.url,
            "client_id": CLIENT,
            "client_secret_file": str(self.secret_file),
            "ca_file": str(self.ca_file),
            "administrators": ["fleet-admins"],
            "operators": ["fleet-operators"],
            "viewers": ["fleet-viewers"],
            **changes,
        }

    def signed(self, claims: dict[str, Any]) -> str:
        """An ID token, by the key that the header names."""
        algorithm = self.header["alg"]
        key: Any = {"RS256": self.rsa_key, "ES256": self.ec_key, "none": None}.get(algorithm)
        if algorithm == "HS256":
            return self._confused(claims)
        return jwt.encode(claims, key, algorithm=algorithm, headers=self.header)

    def _confused(self, claims: dict[str, Any]) -> str:
        """As an attacker signs who knows the public key only: as if it were a shared secret."""
        parts = [
            base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")
            for part in (self.header, claims)
        ]
        public = self.rsa_key.public_key().public_bytes(
            Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
        )
        mac = hmac.digest(public, ".".join(parts).encode(), "sha256")
        return ".".join([*parts, base64.urlsafe_b64encode(mac).decode().rstrip("=")])

    def __enter__(self) -> Self:
        """Listen."""
        self._server = _TlsServer(("127.0.0.1", 0), self._handler())
        self._server.context = self._pki.server(name="localhost")
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    # --- what it answers -----------------------------------------------------------

    def get(self, path: str, query: dict[str, str]) -> tuple[int, dict[str, str], Any]:
        """Discovery, keys, and the login page."""
        if path == "/.well-known/openid-configuration":
            return 200, {}, self._discovered()
        if path == "/keys":
            return 200, {}, {"keys": self._keys()}
        if path == "/login":
            code = secrets.token_urlsafe(16)
            self._codes[code] = query
            answer = {"code": code, "state": query["state"], "iss": self.url, **self.answer}
            return 302, {"location": f"{query['redirect_uri']}?{urlencode(answer)}"}, {}
        return 404, {}, {}

    def post(self, path: str, form: dict[str, str], authorization: str) -> tuple[int, Any]:
        """The token endpoint: client, code, verifier and redirect URI must be right."""
        asked = self._codes.pop(form.get("code", ""), None)
        basic = base64.b64encode(f"{CLIENT}:not%20guessed".encode()).decode()
        challenge = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        good = (
            path == "/token"
            and asked is not None
            and authorization == f"Basic {basic}"
            and form.get("redirect_uri") == asked["redirect_uri"]
            and asked["code_challenge_method"] == "S256"
            and base64.urlsafe_b64encode(challenge).decode().rstrip("=") == asked["code_challenge"]
        )
        if asked is None or not good:
            return 400, {"error": "invalid_grant"}
        now = self.now()
        claims = {
            "iss": self.url,
            "aud": CLIENT,
            "iat": now,
            "exp": now + 300,
            "nonce": asked["nonce"],
            **self.claims,
        }
        present = {name: value for name, value in claims.items() if value is not None}
        return 200, {"id_token": self.sign(present), "token_type": "Bearer", "access_token": "-"}

    def _discovered(self) -> dict[str, Any]:
        return {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/login",
            "token_endpoint": f"{self.url}/token",
            "jwks_uri": f"{self.url}/keys",
            "response_types_supported": ["code"],
            "authorization_response_iss_parameter_supported": True,
            **self.discovery,
        }

    def _keys(self) -> list[dict[str, Any]]:
        published = {"use": "sig"}
        return [
            {**RSAAlgorithm.to_jwk(self.rsa_key.public_key(), as_dict=True), "kid": "rsa"}
            | published,
            {**ECAlgorithm.to_jwk(self.ec_key.public_key(), as_dict=True), "kid": "ec"} | published,
        ]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                provider.asked.append(parts.path)
                self._send(*provider.get(parts.path, dict(parse_qsl(parts.query))))

            def do_POST(self) -> None:
                provider.asked.append(self.path)
                body = self.rfile.read(int(self.headers["content-length"])).decode()
                authorization = self.headers.get("authorization", "")
                status, answer = provider.post(self.path, dict(parse_qsl(body)), authorization)
                self._send(status, {}, answer)

            def _send(self, status: int, headers: dict[str, str], answer: object) -> None:
                content = json.dumps(answer).encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        return Handler
