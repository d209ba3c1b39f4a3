"""Where a device gets files from: HTTP GET under TLS, from one server, a piece at a time.

    Source.get(path) ──▶ Answer ── read() … read() ──▶ pieces

Rules:
1. A server is believed only under the CA that it was given, or under the
   system's where that was asked for by name. What comes is believed for
   neither: metadata and targets are checked by signature and digest.
2. No proxy, no redirect, no plain HTTP, no coding of the content.
3. Every answer ends in time: silence has a limit, and so has a trickle.
4. Disks are not touched here, so that a full one is never taken for a broken
   connection.
5. Within a `with` a connection is kept for the next file. One that the server has
   ended meanwhile is replaced once.
"""

from __future__ import annotations

import contextlib
import copy
import http.client
import re
import ssl
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import urlsplit

from hwtrust.errors import (
    ConfigError,
    UpdateRedirectError,
    UpdateResponseError,
    UpdateSlowError,
    UpdateTlsError,
    UpdateUnreachableError,
)
from hwtrust.tls import TimedSocket, pinned_context

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

PIECE: Final = 256 * 1024

_RECORDS: Final = 8
_GATHERING: Final = 1.0
"""How many records of TLS make a piece."""
_SMALL: Final = 64 * 1024
"""How much of an answer that is not wanted is read, for its connection's sake."""
_RANGE: Final = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)")
_STRONG_TAG: Final = re.compile(r'"[\x21\x23-\x7e]{0,200}"')


@dataclass(frozen=True, slots=True)
class PinnedCa:
    """The server's certificate is under this CA (PEM), as the backend's is; TLS 1.3."""

    pem: str


@dataclass(frozen=True, slots=True)
class SystemCas:
    """The server's certificate is under any CA that the system believes; TLS 1.2 or 1.3.

    For a static host. What it serves is checked all the same.
    """


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a server may take: `silence` in seconds, `rate` in bytes a second.

    A whole answer may take `grace` seconds and the time of its bytes at `rate`.
    """

    silence: float = 30.0
    grace: float = 60.0
    rate: int = 8 * 1024


class Source:
    """A server, and the path below which its files are."""

    def __init__(
        self, url: str, *, tls: PinnedCa | SystemCas, limits: Limits | None = None
    ) -> None:
        """`url` is https://host[:port]/path/.

        Raises:
            ConfigError: not such a URL, or no CA.
        """
        self.url = url if url.endswith("/") else f"{url}/"
        self._host, self._port, self._base = _place(self.url)
        self._context = pinned_context(tls.pem) if isinstance(tls, PinnedCa) else _system_context()
        self._limits = limits or Limits()
        self._resting = _Resting()

    def __enter__(self) -> Self:
        """Keep connections from now on."""
        self._resting.begin()
        return self

    def __exit__(self, *_exception: object) -> None:
        """Close what was kept."""
        self._resting.end()

    def beside(self, path: str) -> Source:
        """The files of the same server below `path`; both share the connections that are kept."""
        other = copy.copy(self)
        other.url = f"https://{urlsplit(self.url).netloc}{path}"
        other._base = path  # noqa: SLF001 - a copy of ourselves
        return other

    def __repr__(self) -> str:
        return f"<Source {self.url}>"

    def get(self, path: str, *, most: int, offset: int = 0, tag: str = "") -> Answer:
        """Ask for the file at `path`, from byte `offset` on; close the answer.

        The answer may take the time of `most` bytes. It may begin at byte 0 all
        the same; `tag` (its ETag) makes it do so when the file is another now.

        Raises:
            UpdateChannelError: the server is not reached, is not believed, or
                answers something else; `data["status"]` is its HTTP status.
        """
        headers = {"accept": "*/*", "accept-encoding": "identity"}
        if offset:
            headers["range"] = f"bytes={offset}-"
            if _STRONG_TAG.fullmatch(tag):
                headers["if-range"] = tag
        rested = self._resting.take()
        if rested is not None:
            with contextlib.suppress(UpdateUnreachableError, UpdateTlsError):
                return self._ask(rested, path, headers, most=most, offset=offset)
        return self._ask(self._connection(), path, headers, most=most, offset=offset)

    def _ask(
        self,
        connection: http.client.HTTPConnection,
        path: str,
        headers: dict[str, str],
        *,
        most: int,
        offset: int,
    ) -> Answer:
        try:
            with _converted(self.url):
                if connection.sock is None:
                    connection.connect()
                self._limit(connection, most)
                connection.request("GET", self._base + path, headers=headers)
                response = connection.getresponse()
        except BaseException:
            connection.close()
            raise
        return Answer(self.url, path, connection, response, offset, self._resting)

    def _connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPSConnection(
            self._host, self._port, timeout=self._limits.silence, context=self._context
        )

    def _limit(self, connection: http.client.HTTPConnection, most: int) -> None:
        assert isinstance(connection.sock, TimedSocket)  # noqa: S101 - the context makes them
        limits = self._limits
        connection.sock.within(limits.grace + most / limits.rate, each=limits.silence)


class _Resting:
    """Connections that wait for the next file; none outside of a `with`."""

    def __init__(self) -> None:
        self._users = 0
        self._connections: list[http.client.HTTPConnection] = []

    def begin(self) -> None:
        self._users += 1

    def end(self) -> None:
        self._users -= 1
        while not self._users and self._connections:
            self._connections.pop().close()

    def take(self) -> http.client.HTTPConnection | None:
        return self._connections.pop() if self._connections else None

    def give(self, connection: http.client.HTTPConnection) -> None:
        if self._users and connection.sock is not None:
            self._connections.append(connection)
        else:
            connection.close()


class Answer:
    """A file on its way: `offset` is where in it the first piece begins.

    `length` is what the server says that the whole file has, or None. `tag` is
    its ETag, or empty.
    """

    def __init__(  # noqa: PLR0917 - made in one place
        self,
        url: str,
        path: str,
        connection: http.client.HTTPConnection,
        response: http.client.HTTPResponse,
        offset: int,
        resting: _Resting,
    ) -> None:
        self._url = url
        self._connection = connection
        self._resting = resting
        self._response = response
        self._late: Exception | None = None
        try:
            self.offset, self.length = _extent(f"{url}{path}", response, offset)
        except BaseException:
            self.close()
            raise
        tag = response.headers.get("etag", "")
        self.tag = tag if _STRONG_TAG.fullmatch(tag) else ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection, unless it is kept; what has not come yet never comes."""
        length = self._response.length
        if self._response.status >= http.client.BAD_REQUEST and length and length < _SMALL:
            with contextlib.suppress(OSError, http.client.HTTPException):
                self._response.read()
        whole = self._response.isclosed() or self._response.length == 0
        # Where the server closes after an answer, the connection has forgotten it.
        self._response.close()
        if whole:
            self._resting.give(self._connection)
        else:
            self._connection.close()

    def read(self) -> bytes:
        """The next piece; empty when no more comes, be that the end or a broken connection.

        Raises:
            UpdateChannelError: as `Source.get`.
        """
        pieces: list[bytes] = []
        with _converted(self._url):
            if self._late is not None:
                raise self._late
            # TLS brings 16 KiB at a time: what is done with a piece is done less often so.
            # From a server that is slow they are not gathered: who reads may have to go on.
            until = time.monotonic() + _GATHERING
            for _ in range(_RECORDS):
                try:
                    piece = self._response.read1(PIECE)
                except (OSError, http.client.HTTPException) as error:
                    if not pieces:
                        raise
                    self._late = error  # what has come is of use; the next reading fails
                    break
                if not piece:
                    break
                pieces.append(piece)
                if time.monotonic() >= until:
                    break
        return b"".join(pieces)


def _extent(url: str, response: http.client.HTTPResponse, offset: int) -> tuple[int, int | None]:
    """Where the answer begins, and how long the whole file is said to be."""
    status = response.status
    if status in {301, 302, 303, 307, 308}:
        raise UpdateRedirectError(f"{url} sends the device elsewhere", status=status)
    if response.headers.get("content-encoding", "identity") != "identity":
        raise UpdateResponseError(f"{url} came in a coding that was not asked for", status=status)
    if status == http.client.OK:
        return 0, response.length
    if status == http.client.PARTIAL_CONTENT and offset:
        found = _RANGE.fullmatch(response.headers.get("content-range", ""))
        if found and int(found[1]) == offset:
            return offset, None if found[2] == "*" else int(found[2])
    raise UpdateResponseError(f"{url} answered with HTTP status {status}", status=status)


@contextlib.contextmanager
def _converted(url: str) -> Iterator[None]:
    try:
        yield
    except ssl.SSLError as error:
        raise UpdateTlsError(f"TLS with {url} failed: {error.reason or error}") from error
    except TimeoutError as error:
        raise UpdateSlowError(f"{url} answers too slowly") from error
    except (OSError, http.client.IncompleteRead) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UpdateUnreachableError(f"{url} cannot be reached: {reason}") from error
    except (http.client.HTTPException, ValueError) as error:
        message = f"{url} does not speak HTTP as it should: {type(error).__name__}"
        raise UpdateResponseError(message) from error


def _system_context() -> ssl.SSLContext:
    # Not ssl.create_default_context: an environment variable makes that one log its keys.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.sslsocket_class = TimedSocket
    context.load_default_certs()
    return context


def _place(url: str) -> tuple[str, int, str]:
    refused = ConfigError(f"a repository's URL must be https://host[:port]/path/, not {url!r}")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise refused from None
    if parts.scheme != "https" or not host or parts.query or parts.fragment or parts.username:
        raise refused
    return host, port or http.client.HTTPS_PORT, parts.path
