"""A layer's file on its way: whole and as signed, however the way is cut, stretched or bent."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import os
import resource
import socket
from datetime import UTC, datetime
from itertools import count
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import msgspec
import pytest
from tuf.api.metadata import TargetFile

from hwtrust.errors import (
    ConfigError,
    HwTrustError,
    StateBusyError,
    StateDamagedError,
    StateDiskError,
    StatePermissionError,
    TargetDigestError,
    TargetMissingError,
    UpdateRedirectError,
    UpdateResponseError,
    UpdateSlowError,
    UpdateTlsError,
    UpdateUnreachableError,
)
from hwtrust.updates.source import Answer, Limits, PinnedCa, Source, SystemCas
from hwtrust.wire.release import release_target
from simulators.tls_server import Pki, TlsServer, respond
from simulators.tuf_repository import (
    UpdateSite,
    asked_for,
    asked_range,
    header,
    send,
    sender,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from hwtrust.wire.release import LayerEntry

NOW: Final = datetime(2041, 5, 1, tzinfo=UTC)
KERNEL: Final = bytes(range(256)) * 8
BIG: Final = bytes(range(256)) * 8192
VERSION: Final = "6.1"
"""What the server's answers are told by: the last part of the kernel's target path."""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[UpdateSite]:
    """A repository with one release, served."""
    with UpdateSite(tmp_path, NOW) as made:
        made.repository.add_release("2041.1", {"kernel": (VERSION, KERNEL), "app": ("1", BIG)})
        made.repository.publish()
        yield made


@pytest.fixture
def slot(tmp_path: Path) -> Path:
    """Where layers are put."""
    made = tmp_path / "slot"
    made.mkdir(mode=0o700)
    return made


def layer(site: UpdateSite, name: str = "kernel") -> LayerEntry:
    """A layer of the release."""
    found = {entry.name: entry for entry in site.repository.releases["2041.1"].layers}
    return found[name]


def ignore(done: int, total: int) -> None:
    """Nobody watches."""


def fetch(
    site: UpdateSite,
    slot: Path,
    name: str = "kernel",
    *,
    on_progress: Callable[[int, int], None] = ignore,
    limits: Limits | None = None,
) -> Path:
    """Have a freshly started device fetch a layer."""
    place = slot / name
    site.device(limits=limits).fetch(layer(site, name), place, on_progress)
    return place


def downloads(site: UpdateSite) -> list[bytes]:
    """The requests for the kernel."""
    return [one for one in site.server.requests if asked_for(one).endswith(f".{VERSION}")]


def parts(slot: Path) -> list[Path]:
    """What is in the slot and not in its place."""
    return sorted(path for path in slot.iterdir() if path.name.startswith("."))


# --- it works ----------------------------------------------------------------------


def test_a_layer_is_put_in_its_place_whole(site: UpdateSite, slot: Path) -> None:
    """Content and mode are as they should be, and nothing else is left."""
    place = fetch(site, slot)
    assert place.read_bytes() == KERNEL
    assert place.stat().st_mode & 0o7777 == 0o644
    assert list(slot.iterdir()) == [place]


def test_progress_grows_up_to_the_whole(site: UpdateSite, slot: Path) -> None:
    """A bar can be drawn of it."""
    seen: list[tuple[int, int]] = []
    fetch(site, slot, "app", on_progress=lambda done, total: seen.append((done, total)))
    assert seen[0] == (0, len(BIG))
    assert seen[-1] == (len(BIG), len(BIG))
    assert seen == sorted(seen)
    assert len(seen) > 4


def test_an_empty_layer_is_a_layer(site: UpdateSite, slot: Path) -> None:
    """Nothing is to be fetched, and there is a file."""
    site.repository.add_release("2041.1", {"kernel": (VERSION, b"")})
    site.repository.publish()
    assert fetch(site, slot).read_bytes() == b""


def test_what_is_there_already_is_not_fetched_again(site: UpdateSite, slot: Path) -> None:
    """An update that starts anew asks for what is missing only."""
    fetch(site, slot)
    seen: list[tuple[int, int]] = []
    fetch(site, slot, on_progress=lambda done, total: seen.append((done, total)))
    assert len(downloads(site)) == 1
    assert seen == [(len(KERNEL), len(KERNEL))]


@pytest.mark.parametrize("old", [b"older", bytes(len(KERNEL))], ids=["shorter", "as long"])
def test_another_version_in_the_place_is_replaced(site: UpdateSite, slot: Path, old: bytes) -> None:
    """It stays until the new one is whole."""
    (slot / "kernel").write_bytes(old)
    seen = []
    fetch(site, slot, on_progress=lambda *_: seen.append((slot / "kernel").read_bytes()))
    assert set(seen) == {old}
    assert (slot / "kernel").read_bytes() == KERNEL


# --- interrupted -------------------------------------------------------------------


@pytest.mark.parametrize("stop", [40, 100, 255, 256, 1000, 2047])
def test_a_download_that_is_cut_again_and_again_arrives(
    site: UpdateSite, slot: Path, stop: int
) -> None:
    """At whatever byte each connection breaks: every byte is sent once (102)."""
    site.repository.answers[VERSION] = sender(KERNEL, stop=stop)
    for _ in range(1 + len(KERNEL) // stop):
        with contextlib.suppress(UpdateUnreachableError):
            fetch(site, slot)
            break
    assert (slot / "kernel").read_bytes() == KERNEL
    begins = [asked_range(request) or 0 for request in downloads(site)]
    assert begins == list(range(0, len(KERNEL), stop))


@pytest.mark.parametrize("kept", [1, 255, 1024, 2047, 2048])
def test_what_a_killed_run_has_left_is_taken_up(site: UpdateSite, slot: Path, kept: int) -> None:
    """The rest is asked for from there on; a whole one is only checked and named."""
    _interrupted(site, slot, kept)
    seen: list[int] = []
    fetch(site, slot, on_progress=lambda done, _: seen.append(done))
    assert (slot / "kernel").read_bytes() == KERNEL
    assert seen[0] == kept
    asked = [asked_range(request) for request in downloads(site)[1:]]
    assert asked == ([kept] if kept < len(KERNEL) else [])
    assert parts(slot) == []


class KilledError(Exception):
    """The run ends here."""


def _interrupted(site: UpdateSite, slot: Path, kept: int) -> Path:
    def kill(done: int, total: int) -> None:
        if done:
            raise KilledError

    site.repository.answers[VERSION] = sender(KERNEL)
    with pytest.raises(KilledError):
        fetch(site, slot, on_progress=kill)
    part = next(path for path in parts(slot) if path.suffix == ".part")
    os.truncate(part, kept)
    return part


def test_nobody_else_writes_to_a_part(site: UpdateSite, slot: Path) -> None:
    """Not even where the device's program lets everybody write to its files."""
    umask = os.umask(0)
    try:
        part = _interrupted(site, slot, 1000)
    finally:
        os.umask(umask)
    assert part.stat().st_mode & 0o777 == 0o600


def test_what_a_power_cut_has_spoilt_is_fetched_anew(site: UpdateSite, slot: Path) -> None:
    """Bytes that never reached the disk are not taken for the layer, nor for an attack."""
    part = _interrupted(site, slot, 1000)
    part.write_bytes(KERNEL[:900] + bytes(100))
    assert fetch(site, slot).read_bytes() == KERNEL
    assert [asked_range(request) for request in downloads(site)[1:]] == [1000, None]


def test_a_part_that_is_too_long_is_begun_anew(site: UpdateSite, slot: Path) -> None:
    """It is not a part of this file, and there would be no time for what is left of it."""
    part = _interrupted(site, slot, 1000)
    part.write_bytes(KERNEL * 400)
    assert fetch(site, slot).read_bytes() == KERNEL


def test_the_part_of_another_version_is_not_added_to(site: UpdateSite, slot: Path) -> None:
    """Each version has a part of its own."""
    _interrupted(site, slot, 1000)
    other = KERNEL[::-1]
    site.repository.add_release("2041.1", {"kernel": (VERSION, other)})
    site.repository.publish()
    site.repository.answers.clear()
    assert fetch(site, slot).read_bytes() == other
    assert asked_range(downloads(site)[-1]) is None


def test_a_range_is_asked_for_on_condition_that_the_file_is_the_same(
    site: UpdateSite, slot: Path
) -> None:
    """With the server's strong tag where it gave one."""
    _interrupted(site, slot, 1000)
    fetch(site, slot)
    assert header(downloads(site)[-1], "if-range").startswith('"')


@pytest.mark.parametrize("tag", ["", 'W/"weak"', "unquoted", '"' + "x" * 300 + '"'])
def test_a_tag_that_conditions_cannot_use_is_left_out(
    site: UpdateSite, slot: Path, tag: str
) -> None:
    """The range is asked for all the same: the digest decides."""
    site.repository.answers[VERSION] = sender(KERNEL, tag=tag, stop=1000)
    assert fetch(site, slot).read_bytes() == KERNEL
    assert {header(request, "if-range") for request in downloads(site)} == {""}
    assert asked_range(downloads(site)[1]) == 1000


def test_a_server_without_ranges_starts_anew(site: UpdateSite, slot: Path) -> None:
    """The whole comes again, and nothing is there twice."""
    _interrupted(site, slot, 1000)
    site.repository.answers[VERSION] = sender(KERNEL, ranges=False)
    assert fetch(site, slot).read_bytes() == KERNEL


def test_a_file_with_another_tag_starts_anew(site: UpdateSite, slot: Path) -> None:
    """The server does not give the rest of something else."""
    _interrupted(site, slot, 1000)
    site.repository.answers[VERSION] = sender(KERNEL, tag='"moved"')
    assert fetch(site, slot).read_bytes() == KERNEL


def _partial(content_range: str, body: bytes) -> Callable[[socket.socket, bytes], None]:
    def answer(connection: socket.socket, request: bytes) -> None:
        if asked_range(request) is None:
            send(connection, request, KERNEL)
        else:
            extra = f"content-range: {content_range}\r\n"
            respond(body, status="206 Partial Content", extra=extra)(connection, request)

    return answer


WRONG_RANGES: Final = {
    "from the start": _partial("bytes 0-2047/2048", KERNEL),
    "from a later byte": _partial("bytes 1500-2047/2048", KERNEL[1500:]),
    "in other units": _partial("lines 1000-2047/2048", KERNEL[1000:]),
    "without saying which": _partial("", KERNEL[1000:]),
    "as not to be had": respond(b"", status="416 Range Not Satisfiable"),
}


@pytest.mark.parametrize("name", WRONG_RANGES)
def test_a_wrong_range_is_not_used(site: UpdateSite, slot: Path, name: str) -> None:
    """The file is asked for as a whole instead."""
    _interrupted(site, slot, 1000)
    wrong = WRONG_RANGES[name]

    def answer(connection: socket.socket, request: bytes) -> None:
        (sender(KERNEL) if asked_range(request) is None else wrong)(connection, request)

    site.repository.answers[VERSION] = answer
    assert fetch(site, slot).read_bytes() == KERNEL
    assert [asked_range(request) for request in downloads(site)[1:]] == [1000, None]


def test_a_server_that_sends_nothing_more_is_given_up(site: UpdateSite, slot: Path) -> None:
    """A device does not ask for ever; what is there stays for the next time."""
    _interrupted(site, slot, 1000)
    site.repository.answers[VERSION] = sender(KERNEL, stop=0)
    with pytest.raises(UpdateUnreachableError) as caught:
        fetch(site, slot)
    assert caught.value.code == "update:channel:unreachable"
    assert len(downloads(site)) == 2
    assert [path.stat().st_size for path in parts(slot) if path.suffix == ".part"] == [1000]


def test_a_server_in_trouble_costs_nothing_of_what_is_there(site: UpdateSite, slot: Path) -> None:
    """Only a range that cannot be had is a reason to begin anew."""
    _interrupted(site, slot, 1000)
    site.repository.answers[VERSION] = respond(b"", status="502 Bad Gateway")
    with pytest.raises(UpdateResponseError):
        fetch(site, slot)
    assert [path.stat().st_size for path in parts(slot) if path.suffix == ".part"] == [1000]


# --- attacks -----------------------------------------------------------------------


def _endless(connection: socket.socket, request: bytes) -> None:
    del request
    connection.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    while True:
        connection.sendall(b"10000\r\n" + KERNEL * 32 + b"\r\n")


def _unannounced(connection: socket.socket, request: bytes) -> None:
    del request
    connection.sendall(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n" + KERNEL + b"!")


ATTACKS: Final = {
    "a byte too many is announced": (respond(KERNEL + b"!"), "update:target:length"),
    "a byte too few is announced": (respond(KERNEL[:-1]), "update:target:length"),
    "far too much is announced": (respond(b"", length=2**62), "update:target:length"),
    "a byte too many, unannounced": (_unannounced, "update:target:length"),
    "there is no end": (_endless, "update:target:length"),
    "another content": (respond(KERNEL[:-1] + b"!"), "update:target:digest"),
    "nothing there": (respond(b"", status="404 Not Found"), "update:target:missing"),
    "nothing to be seen": (respond(b"", status="403 Forbidden"), "update:target:missing"),
    "gone": (respond(b"", status="410 Gone"), "update:target:missing"),
    "a server in trouble": (respond(b"", status="502 Bad Gateway"), "update:channel:response"),
    "a part that nobody asked for": (
        respond(KERNEL, status="206 Partial Content", extra="content-range: bytes 0-2047/2048\r\n"),
        "update:channel:response",
    ),
    "a packed one": (
        respond(KERNEL, extra="content-encoding: gzip\r\n"),
        "update:channel:response",
    ),
    "no HTTP": (
        lambda connection, _: connection.sendall(b"hello\r\n\r\n"),
        "update:channel:response",
    ),
    "nobody": (lambda *_: None, "update:channel:unreachable"),
}


@pytest.mark.parametrize("resumed", [False, True])
@pytest.mark.parametrize(("answer", "code"), ATTACKS.values(), ids=ATTACKS.keys())
def test_what_is_not_the_layer_never_gets_its_place(
    site: UpdateSite,
    slot: Path,
    answer: Callable[[socket.socket, bytes], None],
    code: str,
    resumed: bool,
) -> None:
    """The old file stays, and no more than the signed length is ever written (72)."""
    if resumed:
        _interrupted(site, slot, 1000)
    (slot / "kernel").write_bytes(b"old")
    site.repository.answers[VERSION] = answer
    seen: list[int] = []
    with pytest.raises(HwTrustError) as caught:
        fetch(site, slot, on_progress=lambda done, _: seen.append(done))
    assert caught.value.code == code
    assert (slot / "kernel").read_bytes() == b"old"
    assert max(seen) <= len(KERNEL)
    assert all(path.stat().st_size <= len(KERNEL) for path in parts(slot))
    site.repository.answers.clear()
    assert fetch(site, slot).read_bytes() == KERNEL


def test_a_resumed_file_whose_rest_is_wrong_is_refused(site: UpdateSite, slot: Path) -> None:
    """After the second try from the start it is the server's fault, and said so."""
    _interrupted(site, slot, 1000)
    site.repository.answers[VERSION] = sender(KERNEL[:-1] + b"!", tag="")
    with pytest.raises(TargetDigestError) as caught:
        fetch(site, slot)
    assert caught.value.code == "update:target:digest"
    assert not (slot / "kernel").exists()
    assert [asked_range(request) for request in downloads(site)[1:]] == [1000, None]
    assert parts(slot) == []


def test_a_target_that_is_not_listed_is_not_asked_for(site: UpdateSite, slot: Path) -> None:
    """A manifest alone does not make a file trusted."""
    wanted = layer(site)
    del site.repository.targets.targets[wanted.target]
    site.repository.publish()
    with pytest.raises(TargetMissingError):
        site.device().fetch(wanted, slot / "kernel", ignore)
    assert downloads(site) == []


def test_a_file_that_is_listed_as_another_is_not_asked_for(site: UpdateSite, slot: Path) -> None:
    """The manifest's digest and the target's are those of the same bytes."""
    wanted = msgspec.structs.replace(layer(site), digest=hashlib.sha256(b"other").digest())
    with pytest.raises(TargetDigestError):
        site.device().fetch(wanted, slot / "kernel", ignore)
    assert downloads(site) == []


@pytest.mark.parametrize("digest", ["sha1", "md5"])
def test_a_file_that_is_signed_by_weak_digests_only_is_refused(
    site: UpdateSite, slot: Path, digest: str
) -> None:
    """Somebody else can make another file of them."""
    wanted = layer(site)
    weak = TargetFile.from_data(wanted.target, KERNEL, [digest])
    site.repository.targets.targets[wanted.target] = weak
    site.repository.blobs[weak.get_prefixed_paths()[0]] = KERNEL
    site.repository.publish()
    with pytest.raises(TargetDigestError):
        site.device().fetch(wanted, slot / "kernel", ignore)


@pytest.mark.parametrize("digest", ["sha1", "md5"])
def test_a_manifest_that_is_signed_by_weak_digests_only_is_refused(
    site: UpdateSite, digest: str
) -> None:
    """Nothing else says what is in it."""
    path = release_target("2041.1")
    listed = site.repository.targets.targets[path]
    content = site.repository.blobs[listed.get_prefixed_paths()[0]]
    weak = site.repository.targets.targets[path] = TargetFile.from_data(path, content, [digest])
    site.repository.blobs[weak.get_prefixed_paths()[0]] = content
    site.repository.publish()
    with pytest.raises(TargetDigestError) as caught:
        site.device().manifest("2041.1")
    assert caught.value.code == "update:target:digest"


def test_a_file_that_is_listed_without_its_digest_is_not_asked_for(
    site: UpdateSite, slot: Path
) -> None:
    """Signed by another hash alone, nobody would hold it against the manifest."""
    wanted = layer(site)
    listed = TargetFile.from_data(wanted.target, b"other", ["sha512"])
    site.repository.targets.targets[wanted.target] = listed
    site.repository.blobs[listed.get_prefixed_paths()[0]] = b"other"
    site.repository.publish()
    with pytest.raises(TargetDigestError):
        site.device().fetch(wanted, slot / "kernel", ignore)
    assert not (slot / "kernel").exists()


def test_every_digest_that_is_signed_must_fit(site: UpdateSite, slot: Path) -> None:
    """One good digest does not excuse another."""
    wanted = layer(site)
    target = TargetFile.from_data(wanted.target, KERNEL, ["sha256", "sha512"])
    target.hashes["sha512"] = hashlib.sha512(b"other").hexdigest()
    site.repository.targets.targets[wanted.target] = target
    site.repository.publish()
    with pytest.raises(TargetDigestError):
        site.device().fetch(wanted, slot / "kernel", ignore)


# --- the way to the server -----------------------------------------------------------


def test_a_redirect_is_not_followed(site: UpdateSite, slot: Path) -> None:
    """Whoever the server points at hears nothing of the device."""
    with TlsServer(site.pki.server(), respond(KERNEL)) as elsewhere:
        for status in ("301 Moved", "302 Found", "303 See Other", "307 Moved", "308 Moved"):
            extra = f"location: {elsewhere.url}/kernel\r\n"
            site.repository.answers[VERSION] = respond(b"", status=status, extra=extra)
            with pytest.raises(UpdateRedirectError) as caught:
                fetch(site, slot)
            assert caught.value.code == "update:channel:redirect"
        assert elsewhere.requests == []


def test_no_proxy_of_the_environment_is_used(
    site: UpdateSite, slot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable does not send the device's traffic elsewhere."""
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert fetch(site, slot).read_bytes() == KERNEL


def test_a_server_under_another_ca_is_not_believed(
    site: UpdateSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither with a pinned CA nor with the system's, which is another trust."""
    (tmp_path / "ca.pem").write_text(Pki(tmp_path, "other CA").ca_pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    for tls in (PinnedCa(Pki(tmp_path, "third CA").ca_pem), SystemCas()):
        with pytest.raises(UpdateTlsError) as caught:
            Source(site.server.url, tls=tls).get("timestamp.json", most=1)
        assert caught.value.code == "update:channel:tls"
    assert site.server.requests == []


def test_the_systems_cas_do_not_help_where_one_is_pinned(
    site: UpdateSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And they serve where they were asked for."""
    (tmp_path / "ca.pem").write_text(site.pki.ca_pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with pytest.raises(UpdateTlsError):
        Source(site.server.url, tls=PinnedCa(Pki(tmp_path, "other").ca_pem)).get("a", most=1)
    url = f"{site.server.url}/v1/releases/metadata"
    with Source(url, tls=SystemCas()).get("timestamp.json", most=1) as answer:
        assert answer.read() == site.repository.files["timestamp.json"]


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/",
        "https:///path/",
        "example.org",
        "https://user@example.org/",
        "https://example.org/?a",
        "https://example.org/#a",
        "https://example.org:port/",
        "file:///etc/",
    ],
)
def test_a_url_that_is_not_https_and_a_place_is_refused(site: UpdateSite, url: str) -> None:
    """Nothing is sent in the clear, and no credentials at all."""
    with pytest.raises(ConfigError):
        Source(url, tls=PinnedCa(site.pki.ca_pem))


@pytest.mark.parametrize("trust", ["the system's CAs", "one CA"])
def test_a_certificate_of_another_host_is_refused(
    site: UpdateSite, tmp_path: Path, trust: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever CA has issued it: who holds one for another name is not this server."""
    (tmp_path / "ca.pem").write_text(site.pki.ca_pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    tls = PinnedCa(site.pki.ca_pem) if trust == "one CA" else SystemCas()
    with TlsServer(site.pki.server(), respond(KERNEL)) as server:
        Source(server.url, tls=tls).get("a", most=len(KERNEL)).close()
    other = site.pki.server(name="elsewhere.example")
    with TlsServer(other, respond(KERNEL)) as server, pytest.raises(UpdateTlsError):
        Source(server.url, tls=tls).get("a", most=len(KERNEL))


def test_a_server_that_never_begins_is_given_up(site: UpdateSite) -> None:
    """It takes the connection and says nothing, not even of TLS (72)."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        source = Source(url, tls=PinnedCa(site.pki.ca_pem), limits=Limits(silence=0.05))
        with pytest.raises(UpdateSlowError):
            source.get("a", most=1)


def test_a_kept_connection_never_goes_on_with_what_was_left_unread(site: UpdateSite) -> None:
    """An answer that was closed half read ends its connection."""
    with TlsServer(site.pki.server(), respond(KERNEL * 64)) as server:
        source = Source(server.url, tls=PinnedCa(site.pki.ca_pem))
        with source:
            source.get("a", most=len(KERNEL) * 64).close()
            assert source._resting.take() is None


def test_a_kept_connection_that_the_server_has_closed_is_replaced(site: UpdateSite) -> None:
    """A server may close a connection that rests, and need not say so."""
    with TlsServer(site.pki.server(), respond(KERNEL)) as server:
        source = Source(server.url, tls=PinnedCa(site.pki.ca_pem))
        with source:
            for _ in range(2):
                with source.get("a", most=len(KERNEL)) as answer:
                    assert answer.read() == KERNEL
                    assert answer.read() == b""
        assert len(server.requests) == 2


def test_no_ca_is_no_trust() -> None:
    """An empty CA is not the system's."""
    with pytest.raises(ConfigError):
        Source("https://example.org/", tls=PinnedCa(""))


def test_a_server_that_falls_silent_is_given_up(site: UpdateSite, slot: Path) -> None:
    """What it has sent before is kept for the next time (72)."""

    def silent(connection: socket.socket, request: bytes) -> None:
        send(connection, request, KERNEL, stop=1000)
        site.server.wait()

    site.repository.answers[VERSION] = silent
    with pytest.raises(UpdateSlowError) as caught:
        fetch(site, slot, limits=Limits(silence=0.3))
    assert caught.value.code == "update:channel:slow"
    assert [path.stat().st_size for path in parts(slot) if path.suffix == ".part"] == [1000]


def test_a_trickle_does_not_stretch_the_time(
    site: UpdateSite, slot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each byte comes in time, the whole does not: given up at the limit (72)."""
    wanted, device = layer(site, "app"), site.device(limits=Limits(grace=8.0, rate=2**40))
    device.refresh()
    now = count()
    monkeypatch.setattr("hwtrust.tls.time", SimpleNamespace(monotonic=lambda: float(next(now))))
    with pytest.raises(UpdateSlowError) as caught:
        device.fetch(wanted, slot / "app", ignore)
    assert caught.value.code == "update:channel:slow"
    assert next(now) < 20


def test_a_large_file_has_the_time_that_its_bytes_take(
    site: UpdateSite, slot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is a rate, not a time for all sizes."""
    wanted, device = layer(site, "app"), site.device(limits=Limits(grace=8.0, rate=1024))
    device.refresh()
    now = count()
    monkeypatch.setattr("hwtrust.tls.time", SimpleNamespace(monotonic=lambda: float(next(now))))
    device.fetch(wanted, slot / "app", ignore)
    assert next(now) > 20


# --- the disk ------------------------------------------------------------------------


def test_a_full_disk_is_said_to_be_full(site: UpdateSite, slot: Path) -> None:
    """It is no fault of the server's, and what is there is kept (101)."""
    wanted, device = layer(site, "app"), site.device()
    device.refresh()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, before[1]))
    try:
        with pytest.raises(StateDiskError) as caught:
            device.fetch(wanted, slot / "app", ignore)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (caught.value.code, caught.value.data["reason"]) == (StateDiskError.code, "full")
    assert not (slot / "app").exists()
    assert fetch(site, slot, "app").read_bytes() == BIG


def test_a_disk_that_takes_less_than_it_is_given_loses_nothing(
    site: UpdateSite, slot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is hashed is what was written."""

    class ShortFile(io.FileIO):
        def write(self, data: Any) -> int:  # noqa: ANN401 - as FileIO
            return super().write(memoryview(data)[:1000])

    monkeypatch.setattr("hwtrust.updates.download.io", SimpleNamespace(FileIO=ShortFile))
    assert fetch(site, slot).read_bytes() == KERNEL


def test_a_slot_that_is_not_there_is_missing(site: UpdateSite, slot: Path) -> None:
    """The caller makes it."""
    with pytest.raises(HwTrustError) as caught:
        fetch(site, slot / "none")
    assert caught.value.code == "state:missing"


def test_a_link_in_the_way_is_not_followed(site: UpdateSite, slot: Path, tmp_path: Path) -> None:
    """Neither a symbolic one nor a hard one makes the device write elsewhere."""
    part = _interrupted(site, slot, 1000)
    outside = tmp_path / "outside"
    outside.write_bytes(b"mine")
    part.unlink()
    part.symlink_to(outside)
    with pytest.raises(StatePermissionError):
        fetch(site, slot)
    part.unlink()
    part.hardlink_to(outside)
    with pytest.raises(StateDamagedError):
        fetch(site, slot)
    part.unlink()
    os.mkfifo(part)
    with pytest.raises(StateDamagedError):
        fetch(site, slot)
    assert outside.read_bytes() == b"mine"


def test_what_is_in_the_place_is_looked_at_itself(
    site: UpdateSite, slot: Path, tmp_path: Path
) -> None:
    """A link is not taken for the layer, and a FIFO is not waited for."""
    outside = tmp_path / "outside"
    outside.write_bytes(KERNEL)
    (slot / "kernel").symlink_to(outside)
    with pytest.raises(StatePermissionError) as caught:
        fetch(site, slot)
    assert caught.value.code == "state:permission"
    (slot / "kernel").unlink()
    os.mkfifo(slot / "kernel")
    assert fetch(site, slot).read_bytes() == KERNEL


def test_a_part_that_has_got_its_name_meanwhile_is_not_written_to(
    site: UpdateSite, slot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run was done with it between the opening and the lock."""
    part, lock = _interrupted(site, slot, 1000), fcntl.flock

    def late(file: Any, how: int) -> None:  # noqa: ANN401 - as flock
        lock(file, how)
        if part.exists():
            part.rename(slot / "kernel")

    locks = SimpleNamespace(flock=late, LOCK_EX=fcntl.LOCK_EX, LOCK_NB=fcntl.LOCK_NB)
    monkeypatch.setattr("hwtrust.updates.download.fcntl", locks)
    with pytest.raises(StateBusyError) as caught:
        fetch(site, slot)
    assert caught.value.code == "state:busy"
    assert (slot / "kernel").read_bytes() == KERNEL[:1000]


def test_two_runs_do_not_write_one_part(site: UpdateSite, slot: Path) -> None:
    """The second is told, and the first ends well."""
    codes: list[str] = []

    def again(done: int, total: int) -> None:
        if not done:
            with pytest.raises(StateBusyError) as caught:
                site.device("second").fetch(wanted, slot / "kernel", ignore)
            codes.append(caught.value.code)

    wanted = layer(site)
    site.device().fetch(wanted, slot / "kernel", again)
    assert codes == ["state:busy"]
    assert (slot / "kernel").read_bytes() == KERNEL


def test_a_server_that_is_slow_is_not_waited_for_piece_after_piece(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who reads gets what has come, and may look at what else is to be done."""
    now = [0.0]

    def read1(_: int) -> bytes:
        now[0] += 29
        return b"x"

    clock = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr("hwtrust.updates.source.time", clock)
    slow: Any = SimpleNamespace(status=200, length=None, headers={}, read1=read1)
    answer = Answer("https://localhost/", "kernel", slow, slow, 0, slow)
    assert answer.read() == b"x"
    assert now == [29]
