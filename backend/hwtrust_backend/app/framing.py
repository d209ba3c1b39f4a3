"""What a request has to be before anybody looks at what it asks for.

A proxy before the backend may read a request in another way than the backend does.
What can be read in two ways is refused, however harmless one of them is:

1. HTTP/1.1 with one Host header (RFC 9112 §3.2), or HTTP/1.0 with one at most.
2. No Transfer-Encoding in HTTP/1.0 (RFC 9112 §6.1); the parser refuses one beside
   a Content-Length, and what is no HTTP at all.
3. No Content-Encoding: bodies are taken as they come.
4. Below /v1/, no query parameter twice: one reader would take the first, another
   one the last.
5. No empty part of a path, and no slash in disguise: a proxy that keeps /v1/admin
   to itself means //v1/admin, too.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qsl

from litestar.types import HTTPScope

from hwtrust.errors import RequestError, RequestTypeError
from hwtrust_backend.app.caller import header_values

_API: Final = "/v1/"
_OLD: Final = "1.0"
_VERSIONS: Final = frozenset({_OLD, "1.1"})


def check_framing(scope: HTTPScope) -> None:
    """Refuse a request that could be read in two ways.

    Raises:
        RequestError: by its version, its headers or its query.
        RequestTypeError: its body is encoded.
    """
    version = scope["http_version"]
    if version not in _VERSIONS:
        raise RequestError(f"HTTP/{version} is not spoken here")
    hosts = len(header_values(scope, b"host"))
    if hosts > 1 or (hosts == 0 and version != _OLD):
        raise RequestError("a request has one Host header")
    if version == _OLD and header_values(scope, b"transfer-encoding"):
        raise RequestError("HTTP/1.0 has no Transfer-Encoding")
    codings = header_values(scope, b"content-encoding")
    if any(coding.strip().lower() != b"identity" for coding in codings):
        raise RequestTypeError("a body is sent without a Content-Encoding")
    if "//" in scope["path"] or b"%2f" in scope["raw_path"].lower():
        raise RequestError("a path has no empty part, and no encoded slash")
    if scope["path"].startswith(_API):
        _check_query(scope["query_string"])


def _check_query(query: bytes) -> None:
    names = [name for name, _ in parse_qsl(query.decode("latin-1"), keep_blank_values=True)]
    if len(set(names)) != len(names):
        raise RequestError("a query parameter stands twice")
