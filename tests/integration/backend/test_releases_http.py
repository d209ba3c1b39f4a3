"""The repository over real TLS, as a TUF client reads it and as it is cut off and goes on."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import ssl
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from tuf.api.exceptions import DownloadError, DownloadHTTPError, RepositoryError
from tuf.api.metadata import Metadata
from tuf.ngclient import Updater, UpdaterConfig
from tuf.ngclient.fetcher import FetcherInterface

from hwtrust.wire.messages import Problem
from hwtrust.wire.release import decode_manifest, release_target
from hwtrust_backend.app.measuring import repository_facts
from hwtrust_backend.app.routes import releases as routes
from hwtrust_backend.app.routes.releases import _part
from hwtrust_backend.app.setup import write_trust
from hwtrust_backend.repository import TufRole, newest
from hwtrust_backend.repository.roots import RootChange
from hwtrust_backend.testing import DAY, BackendServer
from simulators.backend_clients import client_context
from simulators.vendor import Vendor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tuf.api.metadata import TargetFile

BIG = bytes(range(256)) * 4096
"""1 MiB: several pieces of the file."""
LAYERS = {"kernel": ("6.1", BIG), "www": ("2", b"pages"), "empty": ("1", b"")}


class Repository:
    """A served repository with those who hold its keys."""

    def __init__(self, server: BackendServer, directory: Path) -> None:
        self.server = server
        self.vendor = Vendor(server.backend, directory)
        self.blobs = self.vendor.blobs
        self.first = self.vendor.begin()


class Fetcher(FetcherInterface):
    """Fetches from the test's server."""

    def __init__(self, server: BackendServer) -> None:
        self._server = server

    def _fetch(self, url: str) -> Iterator[bytes]:
        status, _, answer = ask(self._server, "GET", url.removeprefix(self._server.url))
        if status != http.HTTPStatus.OK:
            raise DownloadHTTPError("refused", status)
        yield answer


def ask(
    server: BackendServer, method: str, path: str, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """One request that shows nothing."""
    context: ssl.SSLContext = client_context(server)
    port = int(server.url.rpartition(":")[2])
    with closing(
        http.client.HTTPSConnection("localhost", port, context=context, timeout=30)
    ) as connection:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, headers={"connection": "close", **named})
        response = connection.getresponse()
        answer = response.read()
        return response.status, {k.lower(): v for k, v in response.getheaders()}, answer


@pytest.fixture(scope="module")
def repository(server: BackendServer, tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A repository with one release."""
    made = Repository(server, tmp_path_factory.mktemp("bundles"))
    made.vendor.publish("1.1", LAYERS, accept=True)
    return made


@pytest.fixture
def client(repository: Repository, tmp_path: Path) -> Updater:
    """A client that trusts the first root and knows nothing else."""
    return new_client(repository, tmp_path)


def new_client(repository: Repository, directory: Path) -> Updater:
    """A client of python-tuf."""
    (directory / "metadata").mkdir()
    (directory / "targets").mkdir()
    base = f"{repository.server.url}/v1/releases"
    return Updater(
        str(directory / "metadata"),
        f"{base}/metadata/",
        str(directory / "targets"),
        f"{base}/targets/",
        fetcher=Fetcher(repository.server),
        config=UpdaterConfig(),
        bootstrap=repository.first,
    )


def target_of(client: Updater, path: str) -> TargetFile:
    """What the metadata says of a target."""
    found = client.get_targetinfo(path)
    assert found is not None
    return found


def kernel_path(repository: Repository) -> str:
    """Where the big layer is served."""
    del repository
    return f"/v1/releases/targets/layers/kernel/{hashlib.sha256(BIG).hexdigest()}.6.1"


def test_a_tuf_client_finds_the_release_and_all_of_its_layers(client: Updater) -> None:
    """From the first root alone, with python-tuf's own client."""
    client.refresh()
    path = client.download_target(target_of(client, release_target("1.1")))
    with open(path, "rb") as file:  # noqa: PTH123 - as the library names it
        manifest = decode_manifest(file.read())
    assert manifest.name == "1.1"
    for layer in manifest.layers:
        place = client.download_target(target_of(client, layer.target))
        with open(place, "rb") as file:  # noqa: PTH123 - as the library names it
            assert hashlib.sha256(file.read()).digest() == layer.digest


def test_a_tuf_client_goes_from_the_first_root_to_the_newest(
    repository: Repository, tmp_path: Path
) -> None:
    """Root after root, with the online key replaced on the way."""
    for _ in range(2):
        repository.vendor.turn(repository.vendor.propose(RootChange(new_online_key=True)))
    client = new_client(repository, tmp_path)
    client.refresh()
    assert client._trusted_set.root.version >= 3


def test_a_spoilt_file_is_served_as_it_is_and_refused_by_its_hash(
    repository: Repository, client: Updater
) -> None:
    """The disk decides nothing."""
    blob = repository.blobs.path(hashlib.sha256(b"pages").hexdigest())
    blob.write_bytes(b"PAGES")
    try:
        with pytest.raises(RepositoryError):
            client.download_target(target_of(client, "layers/www/2"))
        blob.write_bytes(b"shorter")
        with pytest.raises(DownloadError):
            client.download_target(target_of(client, "layers/www/2"))
    finally:
        blob.write_bytes(b"pages")


PARTS = {
    "from the middle": ("bytes=600000-", 600_000, len(BIG)),
    "the first byte": ("bytes=0-0", 0, 1),
    "the end": ("bytes=-10", len(BIG) - 10, len(BIG)),
    "beyond the end": (f"bytes=5-{10**17}", 5, len(BIG)),
    "more than all, from the end": (f"bytes=-{10**17}", 0, len(BIG)),
}


@pytest.mark.parametrize("case", PARTS)
def test_a_part_of_a_file_is_served(repository: Repository, case: str) -> None:
    """A device goes on where it was cut off."""
    wanted, begin, end = PARTS[case]
    status, headers, answer = ask(repository.server, "GET", kernel_path(repository), range=wanted)
    assert status == 206
    assert answer == BIG[begin:end]
    assert headers["content-range"] == f"bytes {begin}-{end - 1}/{len(BIG)}"


@pytest.mark.parametrize(
    "wanted", ["bytes=5-2", "bytes=0-1,4-5", "lines=1-2", "bytes=-", "bytes=x-", "bytes"]
)
def test_what_is_no_single_part_is_the_whole_file(repository: Repository, wanted: str) -> None:
    """RFC 9110 §14.2: a server may ignore a range."""
    status, headers, answer = ask(repository.server, "GET", kernel_path(repository), range=wanted)
    assert (status, answer) == (200, BIG)
    assert headers["accept-ranges"] == "bytes"


@pytest.mark.parametrize("wanted", [f"bytes={len(BIG)}-", "bytes=-0", f"bytes={10**17}-"])
def test_a_part_that_is_not_there_is_refused(repository: Repository, wanted: str) -> None:
    """416, as a problem."""
    status, _, answer = ask(repository.server, "GET", kernel_path(repository), range=wanted)
    assert status == 416
    assert msgspec.json.decode(answer, type=Problem).code == "request:range"


def test_a_part_of_another_file_is_not_mixed_in(repository: Repository) -> None:
    """If-Range with another tag gets the whole file."""
    path = kernel_path(repository)
    _, headers, _ = ask(repository.server, "HEAD", path)
    part = {"range": "bytes=9-"}
    assert ask(repository.server, "GET", path, if_range=headers["etag"], **part)[0] == 206
    assert ask(repository.server, "GET", path, if_range='"other"', **part)[0] == 200


@pytest.mark.parametrize("kind", ["target", "metadata", "empty"])
def test_head_says_what_get_would_and_sends_nothing(repository: Repository, kind: str) -> None:
    """Length and tag, without a body; who knows the tag gets 304."""
    path = {
        "target": kernel_path(repository),
        "metadata": "/v1/releases/metadata/1.root.json",
        "empty": f"/v1/releases/targets/layers/empty/{hashlib.sha256(b'').hexdigest()}.1",
    }[kind]
    status, headers, answer = ask(repository.server, "HEAD", path)
    assert (status, answer) == (200, b"")
    whole = ask(repository.server, "GET", path)
    assert int(headers["content-length"]) == len(whole[2])
    assert headers["etag"] == whole[1]["etag"]
    known = ask(repository.server, "GET", path, if_none_match=headers["etag"])
    assert (known[0], known[2]) == (304, b"")


def test_head_reads_nothing_of_the_file(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A question of some bytes does not cost a file of gigabytes."""
    read: list[tuple[Path, int, int]] = []

    def part(*asked: Any) -> Iterator[bytes]:  # noqa: ANN401 - as the original
        read.append(asked)
        return _part(*asked)

    monkeypatch.setattr(routes, "_part", part)
    assert ask(repository.server, "HEAD", kernel_path(repository))[0] == 200
    assert read == []
    assert ask(repository.server, "GET", kernel_path(repository))[0] == 200
    assert len(read) == 1


@pytest.mark.parametrize(
    "path",
    [
        "metadata/root.json",
        "metadata/99.root.json",
        "metadata/..%2f..%2fkeys.vault",
        "targets/releases/1.1.json",
        "targets/../../keys.vault",
        "targets/layers/kernel/6.1",
        "targets/" + hashlib.sha256(b"pages").hexdigest(),
        "targets/",
        "targets",
        "metadata",
    ],
)
def test_nothing_else_is_served(repository: Repository, path: str) -> None:
    """No name leads out of what is published."""
    status, _, _ = ask(repository.server, "GET", f"/v1/releases/{path}")
    assert status in {400, 404}


def test_a_repository_without_releases_has_a_root_and_no_timestamp(tmp_path: Path) -> None:
    """A new backend publishes nothing, and says so."""
    with BackendServer(tmp_path / "data") as server:
        status, _, answer = ask(server, "GET", "/v1/releases/metadata/timestamp.json")
        assert status == 404
        assert msgspec.json.decode(answer, type=Problem).code == "repository:target:unknown"
        Repository(server, tmp_path)
        assert ask(server, "GET", "/v1/releases/metadata/1.root.json")[0] == 200
        assert ask(server, "GET", "/v1/releases/metadata/timestamp.json")[0] == 404


def test_files_are_closed_when_a_client_goes_away(repository: Repository) -> None:
    """Who asks for a file and leaves costs no descriptor."""

    def held() -> int:
        count = 0
        for name in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):
                count += name.readlink().is_relative_to(repository.blobs.directory)
        return count

    context = client_context(repository.server)
    port = int(repository.server.url.rpartition(":")[2])
    for _ in range(5):
        connection: Any = http.client.HTTPSConnection("localhost", port, context=context)
        connection.request("GET", kernel_path(repository))
        connection.getresponse().read(10)
        connection.sock.close() if connection.sock else None
        connection.close()
        ask(repository.server, "HEAD", kernel_path(repository))
    for _ in range(200):
        if not held():
            break
        ask(repository.server, "GET", "/healthz")
    assert held() == 0


def test_the_backend_signs_the_timestamp_anew_by_itself(repository: Repository) -> None:
    """In the background; and the metrics say how long each role is good."""
    server = repository.server
    path = "/v1/releases/metadata/timestamp.json"
    before = ask(server, "GET", path)[2]
    server.run_due()
    assert ask(server, "GET", path)[2] == before
    server.clock.advance(DAY // 2)
    server.run_due()
    after = ask(server, "GET", path)[2]
    versions = [Metadata.from_bytes(content).signed.version for content in (before, after)]
    assert versions[0] < versions[1]
    with server.backend.database.reading() as session:
        facts = repository_facts(session, now=server.clock())
    left = {fact.labels["role"]: fact.value for fact in facts}
    assert left.keys() == {"root", "targets", "snapshot", "timestamp"}
    assert 86_000 < left["timestamp"] <= 86_400


def test_a_trust_file_that_is_made_later_has_the_root_too(repository: Repository) -> None:
    """A second replica on the same database gives devices the same root."""
    server = repository.server
    backend = server.backend
    write_trust(backend.settings, backend.vault, backend.database, replace=True)
    with backend.database.reading() as session:
        root = newest(session, TufRole.ROOT)
    assert root is not None
    assert server.trust.releases == root.content
