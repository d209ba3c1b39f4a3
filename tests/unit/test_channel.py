"""The device believes one CA, speaks TLS 1.3, bounds what it reads, and shows no key."""

from __future__ import annotations

import os
import ssl
from datetime import timedelta
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from hwtrust.channel import REPLY_LIMIT, AttestedKey, Channel
from hwtrust.errors import (
    ChannelError,
    ChannelResponseError,
    ChannelTlsError,
    ChannelUnreachableError,
    ConfigError,
    RefusedError,
    TlsKeyError,
)
from hwtrust.tls import load_client_key
from hwtrust.wire.challenge import Purpose
from hwtrust.wire.messages import ChallengeReply, ChallengeRequest, Problem, WaitReply
from simulators.tls_server import DAY, Pki, TlsServer, respond

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

ASKED = ChallengeRequest(device=b"device", purpose=Purpose.ATTEST)
GOOD = msgspec.json.encode(ChallengeReply(nonce=b"nonce"))


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    """The backend's CA."""
    return Pki(tmp_path)


def ask(
    server: TlsServer, pki: Pki, *, timeout: float = 10.0, path: str = "/v1/challenges"
) -> ChallengeReply:
    """Ask for a challenge, believing `pki`."""
    return Channel(server.url, tls_ca=pki.ca_pem, timeout=timeout).post(path, ASKED, ChallengeReply)


# --- it works --------------------------------------------------------------------


def test_a_request_is_answered_over_tls_1_3(pki: Pki) -> None:
    """JSON out, JSON in, under the CA of the trust file."""
    with TlsServer(pki.server(), respond(GOOD)) as server:
        assert ask(server, pki).nonce == b"nonce"
    assert server.versions == ["TLSv1.3"]
    (request,) = server.requests
    head, _, body = request.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/challenges HTTP/1.1\r\n")
    assert msgspec.json.decode(body, type=ChallengeRequest) == ASKED


def test_unknown_fields_of_an_answer_are_ignored(pki: Pki) -> None:
    """A newer backend can serve an older device."""
    with TlsServer(pki.server(), respond(GOOD[:-1] + b',"later":[1]}')) as server:
        assert ask(server, pki).nonce == b"nonce"


def test_no_proxy_is_asked(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment does not send the device elsewhere."""
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with TlsServer(pki.server(), respond(GOOD)) as server:
        assert ask(server, pki).nonce == b"nonce"


def test_no_session_keys_are_logged(
    pki: Pki, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """SSLKEYLOGFILE, meant for debugging browsers, writes nothing here (104)."""
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    with TlsServer(pki.server(), respond(GOOD)) as server:
        ask(server, pki)
    assert not (tmp_path / "keys").exists()


# --- who is believed -------------------------------------------------------------

SERVERS: dict[str, Callable[[Pki, Path], ssl.SSLContext | None]] = {
    "of another CA": lambda _, tmp: Pki(tmp, "other CA").server(),
    "of another CA of the same name": lambda _, tmp: Pki(tmp).server(),
    "for another host name": lambda pki, _: pki.server(name="backend.example"),
    "for another address": lambda pki, _: pki.server(name="127.0.0.2"),
    "expired": lambda pki, _: pki.server(ago=2 * DAY, life=DAY),
    "not valid yet": lambda pki, _: pki.server(ago=-DAY),
    "by TLS 1.2 only": lambda pki, _: limited(pki.server(), ssl.TLSVersion.TLSv1_2),
    "by plain HTTP": lambda _, __: None,
}


def limited(context: ssl.SSLContext, version: ssl.TLSVersion) -> ssl.SSLContext:
    """A server that speaks no later version."""
    context.maximum_version = version
    return context


@pytest.mark.parametrize("case", SERVERS)
def test_a_server_that_is_not_the_backend_is_refused(pki: Pki, tmp_path: Path, case: str) -> None:
    """No request leaves the device before the server has shown who it is (83)."""
    with TlsServer(SERVERS[case](pki, tmp_path), respond(GOOD)) as server:
        with pytest.raises(ChannelTlsError) as caught:
            ask(server, pki)
        assert caught.value.code == "channel:tls"
    assert server.requests == []


def test_the_name_must_fit_even_where_the_address_does(pki: Pki) -> None:
    """`localhost` is not 127.0.0.1: the certificate is held against what was asked for (83)."""
    with TlsServer(pki.server(), respond(GOOD)) as server:
        by_name = Channel(f"https://localhost:{server.port}", tls_ca=pki.ca_pem)
        with pytest.raises(ChannelTlsError):
            by_name.post("/", ASKED, ChallengeReply)
    assert server.requests == []


def test_the_systems_cas_are_not_believed(
    pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CA that the whole machine trusts is no CA of the backend (83)."""
    system = Pki(tmp_path, "system CA")
    (tmp_path / "system.pem").write_text(system.ca_pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "system.pem"))
    with TlsServer(system.server(), respond(GOOD)) as server, pytest.raises(ChannelTlsError):
        ask(server, pki)


NO_CAS = {
    "empty": "",
    "blank": " \n",
    "no PEM": "the CA",
    "not ASCII": "zertifikat: ü",
    "a key": "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
}
BROKEN_CA = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


@pytest.mark.parametrize("case", NO_CAS)
def test_without_a_ca_there_is_no_channel(case: str) -> None:
    """An empty tls_ca does not mean the system's CAs."""
    with pytest.raises(ConfigError) as caught:
        Channel("https://127.0.0.1", tls_ca=NO_CAS[case])
    assert caught.value.code == "config"


def test_with_a_broken_ca_nobody_is_called() -> None:
    """A certificate that cannot be read does not mean the system's CAs."""
    channel = Channel("https://127.0.0.1", tls_ca=BROKEN_CA)
    with pytest.raises(ConfigError) as caught:
        channel.get("/", Problem)
    assert caught.value.code == "config"


BAD_URLS = [
    "http://127.0.0.1",
    "HTTP://127.0.0.1",
    "ftp://127.0.0.1",
    "127.0.0.1",
    "",
    "https://",
    "https:///v1",
    "https://host/v1",
    "https://host?x=1",
    "https://host#x",
    "https://user@host",
    "https://user:secret@host",
    "https://host:port",
    "https://host:99999",
    "https://[::1",
    "https://[zz]",
]


@pytest.mark.parametrize("url", BAD_URLS)
def test_an_address_that_is_not_https_and_a_host_is_refused(pki: Pki, url: str) -> None:
    """Nothing is dropped from it in silence, and plain HTTP is not spoken (83)."""
    with pytest.raises(ConfigError) as caught:
        Channel(url, tls_ca=pki.ca_pem)
    assert caught.value.code == "config"


@pytest.mark.parametrize(
    "url", ["https://host", "https://host/", "https://host:8443", "https://[::1]:1"]
)
def test_a_host_with_or_without_a_port_is_an_address(pki: Pki, url: str) -> None:
    """The usual forms."""
    made = Channel(url, tls_ca=pki.ca_pem)
    assert made.url == url
    assert not made.authenticated


# --- what is read ----------------------------------------------------------------

ANSWERS: dict[str, Callable[[socket.socket, bytes], None]] = {
    "empty": respond(b""),
    "broken JSON": respond(GOOD[:-1]),
    "no object": respond(b"[]"),
    "another message": respond(b'{"other": 1}'),
    "a field of another type": respond(b'{"nonce": 7}'),
    "no base64": respond(b'{"nonce": "***"}'),
    "no UTF-8": respond(b'{"nonce": "\xff"}'),
    "deep JSON": respond(b'{"later": ' + b"[" * 400_000 + b"]" * 400_000 + b"}"),
    "deep JSON without end": respond(b"[" * 900_000),
    "a redirect": respond(GOOD, status="302 Found", extra="location: https://127.0.0.1:1/\r\n"),
    "a permanent redirect": respond(GOOD, status="308 Permanent Redirect"),
    "not modified": respond(b"", status="304 Not Modified"),
    "more than the limit": respond(GOOD + b" " * REPLY_LIMIT),
    "no HTTP": lambda connection, _: connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"),
    "a header without end": lambda connection, _: connection.sendall(
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000
    ),
    "headers without end": lambda connection, _: connection.sendall(
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 1000
    ),
    "a chunk of no size": lambda connection, _: connection.sendall(
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"
    ),
    "less than it says": respond(GOOD[:-1], length=len(GOOD)),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_an_answer_that_is_none_is_refused(pki: Pki, case: str) -> None:
    """Whatever comes back ends in the channel's error, not in another (72, 95)."""
    with TlsServer(pki.server(), ANSWERS[case]) as server:
        with pytest.raises(ChannelResponseError) as caught:
            ask(server, pki)
        assert caught.value.code == "channel:response"


def test_an_answer_of_exactly_the_limit_is_read(pki: Pki) -> None:
    """The limit is where it says."""
    padded = GOOD + b" " * (REPLY_LIMIT - len(GOOD))
    with TlsServer(pki.server(), respond(padded)) as server:
        assert ask(server, pki).nonce == b"nonce"


def test_an_answer_without_end_is_not_read_to_its_end(pki: Pki) -> None:
    """What a server sends beyond the limit is neither kept nor waited for (72)."""
    sent: list[int] = []

    def endless(connection: socket.socket, request: bytes) -> None:
        del request
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n")
        while True:
            connection.sendall(b" " * 65536)
            sent.append(65536)

    with TlsServer(pki.server(), endless) as server, pytest.raises(ChannelResponseError):
        ask(server, pki)
    assert server.failures, "the server was cut off"
    assert sum(sent) < 16 * REPLY_LIMIT


def test_an_answer_that_does_not_come_is_given_up(pki: Pki) -> None:
    """A server that accepts and is silent costs the time limit, not more (72)."""
    with TlsServer(pki.server(), lambda *_: server.wait()) as server:
        with pytest.raises(ChannelUnreachableError) as caught:
            ask(server, pki, timeout=0.05)
        assert caught.value.code == "channel:unreachable"


def test_a_trickle_of_bytes_does_not_stretch_the_time_limit(
    pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each byte comes in time, the whole does not: given up at the limit (72)."""
    now = count()
    monkeypatch.setattr("hwtrust.tls.time", SimpleNamespace(monotonic=lambda: float(next(now))))
    padded = GOOD + b" " * (REPLY_LIMIT - len(GOOD))
    with TlsServer(pki.server(), respond(padded)) as server:
        with pytest.raises(ChannelUnreachableError) as caught:
            ask(server, pki, timeout=8.0)
        assert caught.value.code == "channel:unreachable"
    assert next(now) < 20


def test_continuations_without_end_are_given_up(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    """`100 Continue` for ever is no answer (72)."""
    now = count()
    monkeypatch.setattr("hwtrust.tls.time", SimpleNamespace(monotonic=lambda: float(next(now))))

    def for_ever(connection: socket.socket, request: bytes) -> None:
        del request
        while True:
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)

    with TlsServer(pki.server(), for_ever) as server, pytest.raises(ChannelUnreachableError):
        ask(server, pki, timeout=8.0)


def test_a_server_that_hangs_up_is_unreachable(pki: Pki) -> None:
    """Before any answer."""
    with TlsServer(pki.server(), lambda *_: None) as server:
        with pytest.raises(ChannelUnreachableError) as caught:
            ask(server, pki)
        assert caught.value.code == "channel:unreachable"


def test_nobody_there_is_unreachable(pki: Pki) -> None:
    """A port where nobody listens."""
    with TlsServer(pki.server(), respond(GOOD)) as server:
        url = server.url
    with pytest.raises(ChannelUnreachableError) as caught:
        Channel(url, tls_ca=pki.ca_pem).post("/", ASKED, ChallengeReply)
    assert caught.value.code == "channel:unreachable"


@pytest.mark.parametrize("path", ["/v1/ü", "/v1/a b", "/v1/a\r\nx: y", "/v1/\0"])
def test_a_path_that_the_backend_made_up_is_an_error_of_the_tree(pki: Pki, path: str) -> None:
    """Parts of paths come from answers: they smuggle no header, and raise nothing else."""
    with TlsServer(pki.server(), respond(GOOD)) as server, pytest.raises(ChannelError):
        ask(server, pki, path=path)
    assert server.requests == []


# --- refusals --------------------------------------------------------------------


def problem(**fields: str) -> bytes:
    """A problem as the backend answers it."""
    return msgspec.json.encode(Problem(title="Forbidden", status=403, **fields))


def test_a_refusal_keeps_the_backends_code(pki: Pki) -> None:
    """Code and hint of the error that the backend raised."""
    body = problem(code="enrolment:token:refused", detail="the token is used up", hint="make one")
    answer = respond(body, status="403 Forbidden", kind="application/problem+json")
    with TlsServer(pki.server(), answer) as server, pytest.raises(RefusedError) as caught:
        ask(server, pki)
    assert caught.value.code == "channel:refused"
    assert caught.value.data == {
        "problem": "enrolment:token:refused",
        "status": 403,
        "hint": "make one",
    }


REFUSALS: dict[str, tuple[bytes, str]] = {
    "a page of HTML": (b"<html>", "text/html"),
    "broken JSON": (b"{", "application/problem+json"),
    "deep JSON": (b"[" * 500_000, "application/problem+json"),
    "no UTF-8": (b'{"title":"\xff","status":1}', "application/json"),
    "a problem that is called text": (problem(code="x"), "text/plain"),
    "nothing": (b"", "application/problem+json"),
}


@pytest.mark.parametrize("status", ["400 Bad Request", "403 Forbidden", "500 Oops", "503 Busy"])
@pytest.mark.parametrize("case", REFUSALS)
def test_a_refusal_that_says_nothing_is_one_all_the_same(pki: Pki, case: str, status: str) -> None:
    """A proxy's error page, or garbage: refused, without a code."""
    body, kind = REFUSALS[case]
    answer = respond(body, status=status, kind=kind)
    with TlsServer(pki.server(), answer) as server, pytest.raises(RefusedError) as caught:
        ask(server, pki)
    assert caught.value.data["problem"] == ""
    assert caught.value.data["status"] == int(status[:3])


def test_where_there_is_nothing_there_is_no_answer(pki: Pki) -> None:
    """What is asked for and not there is None; what is there is decoded as anywhere."""
    told = WaitReply(attest=True, reason="rotation")
    for answer, expected in (
        (respond(b"", status="204 No Content"), None),
        (respond(msgspec.json.encode(told)), told),
    ):
        with TlsServer(pki.server(), answer) as server:
            channel = Channel(server.url, tls_ca=pki.ca_pem, timeout=10.0)
            assert channel.get("/v1/wait?seconds=0", WaitReply) == expected
    with TlsServer(pki.server(), respond(b"[]")) as server:
        channel = Channel(server.url, tls_ca=pki.ca_pem, timeout=10.0)
        with pytest.raises(ChannelResponseError):
            channel.get("/v1/wait?seconds=0", WaitReply)


# --- the client's key ------------------------------------------------------------


def certified(pki: Pki, key: AttestedKey) -> str:
    """A certificate for `key`."""
    public = serialization.load_der_public_key(key.spki)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    return pki.issue(public, name="device")


def demanding(pki: Pki) -> ssl.SSLContext:
    """A server that asks for a client certificate of the same CA."""
    context = pki.server()
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=pki.ca_pem)
    return context


def test_the_client_certificate_is_presented(pki: Pki) -> None:
    """The server sees it, and the handshake has proved the key."""
    key = AttestedKey()
    certificate = certified(pki, key)
    with TlsServer(demanding(pki), respond(GOOD)) as server:
        made = Channel(server.url, tls_ca=pki.ca_pem)
        made.authenticate(key, certificate)
        assert made.authenticated
        made.post("/", ASKED, ChallengeReply)
    expected = x509.load_pem_x509_certificate(certificate.encode())
    assert server.clients == [expected.public_bytes(serialization.Encoding.DER)]


def test_an_anonymous_channel_presents_nothing_any_more(pki: Pki) -> None:
    """As before an enrolment."""
    key = AttestedKey()
    with TlsServer(pki.server(), respond(GOOD)) as server:
        made = Channel(server.url, tls_ca=pki.ca_pem)
        made.authenticate(key, certified(pki, key))
        made.anonymous()
        assert not made.authenticated
        made.post("/", ASKED, ChallengeReply)
    assert server.clients == [None]


CLIENTS: dict[str, Callable[[Pki, Path, AttestedKey], str | None]] = {
    "none": lambda *_: None,
    "of another CA (82)": lambda _, tmp, key: certified(Pki(tmp, "other CA"), key),
    "expired (82)": lambda pki, _, key: pki.issue(
        public_of(key), name="device", ago=2 * DAY, life=timedelta(hours=1)
    ),
}


def public_of(key: AttestedKey) -> ec.EllipticCurvePublicKey:
    """The public key."""
    public = serialization.load_der_public_key(key.spki)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    return public


@pytest.mark.parametrize("case", CLIENTS)
def test_a_client_certificate_that_the_server_refuses_is_a_tls_error(
    pki: Pki, tmp_path: Path, case: str
) -> None:
    """With TLS 1.3 the refusal comes after the handshake; it is the handshake's error."""
    key = AttestedKey()
    certificate = CLIENTS[case](pki, tmp_path, key)
    with TlsServer(demanding(pki), respond(GOOD)) as server:
        made = Channel(server.url, tls_ca=pki.ca_pem)
        if certificate is not None:
            made.authenticate(key, certificate)
        with pytest.raises(ChannelError) as caught:
            made.post("/", ASKED, ChallengeReply)
        assert caught.value.code in {"channel:tls", "channel:unreachable"}
    assert server.requests == []


def bad_pairs(pki: Pki) -> dict[str, tuple[bytes, str]]:
    """Keys and certificates that do not go together."""
    key = AttestedKey()
    encrypted = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"password"),
    )
    return {
        "a certificate of another key": (key.key_pem(), certified(pki, AttestedKey())),
        "no certificate": (key.key_pem(), ""),
        "no key": (b"", certified(pki, key)),
        "an encrypted key": (encrypted, certified(pki, key)),
        "a TSS2 key without its provider": (
            b"-----BEGIN TSS2 PRIVATE KEY-----\nAAAA\n-----END TSS2 PRIVATE KEY-----\n",
            certified(pki, key),
        ),
        "a certificate with a lone surrogate": (key.key_pem(), "\ud800"),
    }


class Given:
    """A key that gives a PEM."""

    def __init__(self, pem: bytes) -> None:
        self._pem = pem

    spki = b""

    def csr(self) -> bytes:
        """None."""
        return b""

    def key_pem(self) -> bytes:
        """The PEM."""
        return self._pem


@pytest.mark.parametrize(
    "case",
    [
        "a certificate of another key",
        "no certificate",
        "no key",
        "an encrypted key",
        "a TSS2 key without its provider",
        "a certificate with a lone surrogate",
    ],
)
def test_a_key_that_openssl_cannot_use_is_an_error_and_no_prompt(pki: Pki, case: str) -> None:
    """The channel stays as it was, and nothing is asked on a terminal."""
    pem, certificate = bad_pairs(pki)[case]
    made = Channel("https://127.0.0.1", tls_ca=pki.ca_pem)
    with pytest.raises(TlsKeyError) as caught:
        made.authenticate(Given(pem), certificate)
    assert caught.value.code == "channel:tls-key:unusable"
    assert not made.authenticated


def open_files() -> set[str]:
    """What this process has open."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found.add(f"{entry.name} {entry.readlink()}")
        except FileNotFoundError:
            continue
    return found


def test_the_key_is_never_a_file(pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenSSL reads it from memory, which is closed again, also on error (104)."""
    monkeypatch.chdir(tmp_path)
    before, listed = open_files(), sorted(tmp_path.rglob("*"))
    seen: list[str] = []
    key = AttestedKey()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    load = ssl.SSLContext.load_cert_chain

    def watched(self: ssl.SSLContext, path: str, **options: object) -> None:
        seen.append(str(Path(path).readlink()))
        assert options == {"password": ""}, "without one, OpenSSL asks on the terminal"
        mode = os.stat(path).st_mode  # noqa: PTH116 - of what the link stands for
        assert mode & 0o077 == 0 or seen[-1].startswith("/memfd:")
        load(self, path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", watched)
    load_client_key(context, key, certified(pki, key))
    with pytest.raises(TlsKeyError):
        load_client_key(context, key, certified(pki, AttestedKey()))
    assert len(seen) == 2
    assert all(path.startswith("/memfd:") for path in seen)
    assert open_files() == before
    assert sorted(tmp_path.rglob("*")) == listed


def test_a_key_shows_nothing_of_itself() -> None:
    """Neither its repr nor its str holds a byte of the key (104)."""
    key = AttestedKey()
    assert repr(key) == str(key) == "AttestedKey()"


def test_a_key_proves_itself_in_its_request() -> None:
    """The request is signed by the key that it names, which is new each time."""
    key = AttestedKey()
    request = x509.load_der_x509_csr(key.csr())
    assert request.is_signature_valid
    assert key.spki != AttestedKey().spki
    named = request.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert named == key.spki
