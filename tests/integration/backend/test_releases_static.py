"""The repository as a static host serves it: any web server over HTTPS, and two clients."""

from __future__ import annotations

import hashlib
import http.server
import ssl
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

import pytest
from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import Updater
from tuf.ngclient.fetcher import FetcherInterface

from hwtrust.errors import UpdateError
from hwtrust.updates.client import ReleaseClient
from hwtrust.updates.source import PinnedCa, Source
from hwtrust.wire.release import release_target
from hwtrust_backend.app.setup import install, open_backend
from hwtrust_backend.config import Settings
from hwtrust_backend.keys import Secret
from hwtrust_backend.repository.exporting import export, published_state
from hwtrust_backend.repository.roots import RootChange
from hwtrust_backend.testing import CHEAP, DAY, HOUR, ManualClock
from simulators.tls_server import Pki
from simulators.vendor import BOTH, KERNEL, Vendor, signed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PASSPHRASE = Secret(b"protects nothing")


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """What Python brings as a web server: no ranges, no tags, plain files."""

    def log_message(self, *_: object) -> None:
        """Nothing is said."""


@contextmanager
def served(directory: Path, context: ssl.SSLContext) -> Iterator[str]:
    """Serve a directory; gives the URL of its top."""
    handler = partial(QuietHandler, directory=str(directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"https://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


class Host:
    """A backend that exports, and the host that serves what it has exported."""

    def __init__(self, directory: Path, url: str, pki: Pki, vendor: Vendor) -> None:
        self.directory, self.url, self.pki, self.vendor = directory, url, pki, vendor
        self.clock = vendor.backend.clock

    def export(self) -> None:
        """Bring what is published to the host."""
        state = self.vendor.read(
            lambda session: published_state(session, grace_ms=DAY, now=self.clock())
        )
        export(state, self.vendor.blobs, self.directory / "www")

    @property
    def anchor(self) -> bytes:
        """The first root."""
        return (self.directory / "www" / "metadata" / "1.root.json").read_bytes()

    def device(self) -> ReleaseClient:
        """Our client, which remembers."""
        tls = PinnedCa(self.pki.ca_pem)
        return ReleaseClient(
            self.anchor,
            state=self.directory / "device",
            metadata=Source(f"{self.url}metadata/", tls=tls),
            targets=Source(f"{self.url}targets/", tls=tls),
            now=lambda: datetime.fromtimestamp(self.clock() / 1000, UTC),
        )


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """A repository with one release, exported and served."""
    settings, clock = Settings(data_dir=str(tmp_path / "data")), ManualClock()
    install(settings, passphrase=PASSPHRASE, clock=clock, cost=CHEAP)
    backend = open_backend(settings, passphrase=PASSPHRASE, clock=clock)
    vendor = Vendor(backend, tmp_path)
    vendor.begin()
    vendor.publish("1.1", KERNEL)
    pki = Pki(tmp_path)
    (tmp_path / "www").mkdir()
    with served(tmp_path / "www", pki.server()) as url:
        made = Host(tmp_path, url, pki, vendor)
        made.export()
        yield made
    backend.database.close()


class Fetcher(FetcherInterface):
    """python-tuf's way to the host, under its CA."""

    def __init__(self, pki: Pki) -> None:
        self._context = ssl.create_default_context(cadata=pki.ca_pem)

    def _fetch(self, url: str) -> Iterator[bytes]:
        try:
            with urllib.request.urlopen(url, context=self._context) as answer:  # noqa: S310 - https
                yield answer.read()
        except urllib.error.HTTPError as error:
            error.close()
            raise DownloadHTTPError("refused", error.code) from error


def test_python_tufs_client_reads_a_static_host(host: Host, tmp_path: Path) -> None:
    """Names, hashes and lengths are as the specification has them."""
    for name in ("library", "files"):
        (tmp_path / name).mkdir()
    client = Updater(
        str(tmp_path / "library"),
        f"{host.url}metadata/",
        str(tmp_path / "files"),
        f"{host.url}targets/",
        fetcher=Fetcher(host.pki),
        bootstrap=host.anchor,
    )
    client.refresh()
    for path in (release_target("1.1"), "layers/kernel/6.1"):
        target = client.get_targetinfo(path)
        assert target is not None
        place = client.download_target(target)
        with open(place, "rb") as file:  # noqa: PTH123 - as the library names it
            assert hashlib.sha256(file.read()).hexdigest() == target.hashes["sha256"]


def test_a_device_follows_a_static_host(host: Host, tmp_path: Path) -> None:
    """A release, the next one, a revocation and another online key, each after an export."""
    device = host.device()
    assert device.releases() == ("1.1",)
    host.vendor.publish("1.2", BOTH)
    host.export()
    device.refresh()
    assert device.releases() == ("1.1", "1.2")
    [www] = [layer for layer in device.manifest("1.2").layers if layer.name == "www"]
    device.fetch(www, tmp_path / "pages", lambda *_: None)
    assert (tmp_path / "pages").read_bytes() == b"pages"
    host.vendor.revoke("1.1")
    proposal = host.vendor.propose(RootChange(new_online_key=True))
    host.vendor.publish_root(signed(proposal, host.vendor.root))
    host.export()
    again = host.device()
    assert again.releases() == ("1.2",)


def test_a_host_that_is_not_brought_up_to_date_is_frozen_and_noticed(host: Host) -> None:
    """The timestamp is good for a day; an export after the backend has signed anew mends it."""
    host.device().refresh()
    host.clock.advance(13 * HOUR)  # type: ignore[attr-defined]
    assert host.vendor.keep()
    host.clock.advance(12 * HOUR)  # type: ignore[attr-defined]
    with pytest.raises(UpdateError) as caught:
        host.device().refresh()
    assert caught.value.code == "update:metadata:expired"
    host.export()
    assert host.device().releases() == ("1.1",)


def test_a_host_that_goes_back_to_an_older_export_is_refused(host: Host, tmp_path: Path) -> None:
    """A backup of the host, put back, is a rollback."""
    stamp = tmp_path / "www" / "metadata" / "timestamp.json"
    old = stamp.read_bytes()
    host.vendor.publish("1.2", BOTH)
    host.export()
    host.device().refresh()
    stamp.write_bytes(old)
    with pytest.raises(UpdateError) as caught:
        host.device().refresh()
    assert caught.value.code == "update:metadata:rollback"
