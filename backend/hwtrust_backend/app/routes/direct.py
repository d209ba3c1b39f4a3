"""The body and the answer of a route that the whole fleet calls all the time, without detours.

Rules:
1. A body is decoded into its type at once. One that does not decode goes the way of
   every other route's, which says what is wrong with it.
2. An answer is encoded once, and sent with the headers that any other answer has.
"""

from __future__ import annotations

from typing import Any, Final, Generic, TypeVar

import msgspec
from litestar import Request, Response
from litestar.types import ASGIApp, Receive, Scope, Send

from hwtrust.wire.messages import AttestRequest
from hwtrust_backend.app.routes.request import HttpRequest

_CONTENT_TYPE: Final = b"content-type"
_JSON: Final = b"application/json"
_ENCODE: Final = msgspec.json.Encoder().encode
_DECODE: Final = msgspec.json.Decoder(AttestRequest).decode

Message = TypeVar("Message", bound=msgspec.Struct)


class AttestHttpRequest(HttpRequest):
    """A request whose body is an `AttestRequest`."""

    async def json(self) -> Any:  # noqa: ANN401 - whatever the body says
        """The message that the body holds; what holds none is decoded as anywhere.

        Raises:
            RequestError: as `HttpRequest.json`.
        """
        kinds = [value for name, value in self.scope["headers"] if name == _CONTENT_TYPE]
        if kinds == [_JSON]:
            try:
                return _DECODE(await self.body())
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                # Rule 1: not said here.
                pass
        return await super().json()


class DirectResponse(Response[Message], Generic[Message]):
    """A message as JSON."""

    def to_asgi_response(  # type: ignore[override] # it is the answer itself
        self,
        app: object,  # noqa: ARG002 - the base class says so
        request: Request[Any, Any, Any],  # noqa: ARG002
        **_: object,
    ) -> ASGIApp:
        """What sends it."""
        body = _ENCODE(self.content)
        headers = [
            (_CONTENT_TYPE, _JSON),
            (b"content-length", str(len(body)).encode()),
        ]
        start: Any = {
            "type": "http.response.start",
            "status": self.status_code,
            "headers": headers,
        }

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            del scope, receive
            await send(start)
            rest: Any = {"type": "http.response.body", "body": body, "more_body": False}
            await send(rest)

        return answer
