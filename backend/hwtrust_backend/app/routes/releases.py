"""Routes for whoever updates: the repository of releases, as TUF clients read it.

GET, HEAD /v1/releases/metadata/{file}    timestamp.json, 3.root.json, …
GET, HEAD /v1/releases/targets/{path}     releases/HASH.1.0.json, layers/kernel/HASH.6.1

Rules:
1. Nobody shows who it is: what is here is signed, and no secret.
2. A target is read from the disk bit by bit, from where the caller says (RFC 9110 §14):
   a device goes on where it was cut off.
3. Bytes are served as the disk has them. A device believes what the metadata says of
   their hash and length, and refuses anything else.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any, Final

from litestar import HttpMethod, Response, route
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import Parameter
from litestar.response import Stream

from hwtrust.errors import RangeError, RepositoryTargetUnknownError
from hwtrust.wire.messages import Problem
from hwtrust_backend.app.problems import PROBLEM_TYPE
from hwtrust_backend.app.routes.request import HttpRequest, backend_of
from hwtrust_backend.repository import Blob, Blobs, metadata_named, target_named
from hwtrust_backend.repository.blobs import CHUNK

_BINARY: Final = "application/octet-stream"
_JSON: Final = "application/json"
_RANGE: Final = re.compile(r"bytes=(?:([0-9]{1,18})-([0-9]{0,18})|-([0-9]{1,18}))", re.ASCII)
_FOR_EVER: Final = "public, max-age=31536000, immutable"
_METHODS: Final = [HttpMethod.GET, HttpMethod.HEAD]
_UNCHANGED: Final = ResponseSpec(None, description="What the caller has is what there is")
_OF_METADATA: Final = {
    200: ResponseSpec(dict[str, Any], description="The metadata, as signed", media_type=_JSON),
    304: _UNCHANGED,
}
_OF_TARGETS: Final = {
    200: ResponseSpec(bytes, description="The file", media_type=_BINARY),
    206: ResponseSpec(bytes, description="The part that was asked for", media_type=_BINARY),
    304: _UNCHANGED,
    416: ResponseSpec(Problem, description="The file has no such part", media_type=PROBLEM_TYPE),
}

MetadataName = Annotated[str, Parameter(max_length=60, description="`timestamp.json`.")]
TargetPath = Annotated[
    str, Parameter(max_length=700, description="`layers/kernel/HASH.6.1`, with slashes.")
]


@route(
    "/v1/releases/metadata/{file:str}",
    http_method=_METHODS,
    status_code=200,
    sync_to_thread=True,
    responses=_OF_METADATA,
)
def release_metadata(request: HttpRequest, file: MetadataName) -> Response[bytes]:
    """Give signed metadata of the repository."""
    with backend_of(request).database.reading() as session:
        content = metadata_named(session, file)
    tag = f'"{hashlib.sha256(content).hexdigest()}"'
    # Versions never change; which is the newest does.
    lasting = "no-cache" if file == "timestamp.json" else _FOR_EVER
    headers = {"etag": tag, "cache-control": lasting}
    if _is_known(request, tag):
        return Response(b"", status_code=304, headers=headers, media_type=_JSON)
    return Response(content, headers=headers, media_type=_JSON)


@route(
    "/v1/releases/targets/{path:path}",
    http_method=_METHODS,
    status_code=200,
    sync_to_thread=True,
    responses=_OF_TARGETS,
)
def release_target(request: HttpRequest, path: TargetPath) -> Response[bytes] | Stream:
    """Give a file of a release, or a part of it."""
    backend = backend_of(request)
    with backend.database.reading() as session:
        target = target_named(session, str(path).removeprefix("/"))
    tag = f'"{target.sha256}"'
    headers = {"etag": tag, "cache-control": _FOR_EVER, "accept-ranges": "bytes"}
    if _is_known(request, tag):
        return Response(b"", status_code=304, headers=headers, media_type=_BINARY)
    blobs = Blobs(backend.settings.targets)
    if not blobs.has(Blob(target.sha256, target.length)):
        raise RepositoryTargetUnknownError("the target's file is not here, or not whole")
    wanted = _range(request, tag, target.length)
    begin, end = wanted or (0, target.length)
    headers["content-length"] = str(end - begin)
    if wanted is not None:
        headers["content-range"] = f"bytes {begin}-{end - 1}/{target.length}"
    # Who asks for the head alone has nothing read.
    is_head = request.method == HttpMethod.HEAD
    return Stream(
        iter(()) if is_head else _part(blobs.path(target.sha256), begin, end),
        status_code=HTTPStatus.OK if wanted is None else HTTPStatus.PARTIAL_CONTENT,
        headers=headers,
        media_type=_BINARY,
    )


def _part(path: Path, begin: int, end: int) -> Iterator[bytes]:
    """The bytes of a file from `begin` to `end`.

    It is opened for each piece: who goes away in the middle leaves nothing open. If it
    ends too soon, so does the answer, and the caller sees that it is not all.
    """
    while begin < end:
        with path.open("rb") as file:
            file.seek(begin)
            piece = file.read(min(CHUNK, end - begin))
        if not piece:
            return
        begin += len(piece)
        yield piece


def _is_known(request: HttpRequest, tag: str) -> bool:
    known = request.headers.get("if-none-match", "")
    return known == "*" or tag in {one.strip().removeprefix("W/") for one in known.split(",")}


def _range(request: HttpRequest, tag: str, length: int) -> tuple[int, int] | None:
    """From where to where; None: all of it. Several parts, or other units, are all of it.

    Raises:
        RangeError: the file ends before.
    """
    found = _RANGE.fullmatch(request.headers.get("range", "").strip())
    if found is None or request.headers.get("if-range", tag).strip() != tag:
        return None
    first, last, suffix = found.groups()
    if suffix is not None:
        begin, end = max(length - int(suffix), 0), length
    else:
        begin, end = int(first), min(int(last) + 1, length) if last else length
        if last and int(last) < int(first):
            # RFC 9110 §14.1.1: such a one is invalid, and ignored.
            return None
    if begin >= end:
        raise RangeError(f"the file has {length} bytes", length=length)
    return begin, end


HANDLERS = (release_metadata, release_target)
