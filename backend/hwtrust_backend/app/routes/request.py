"""What every route works with: the request, the backend behind it, and who is calling."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from litestar import Request
from litestar.connection import ASGIConnection
from litestar.enums import MediaType, RequestEncodingType
from litestar.params import Body

from hwtrust.errors import ForbiddenError, RequestError, RequestTypeError
from hwtrust_backend.admin.principals import Principal
from hwtrust_backend.app.backend import Backend
from hwtrust_backend.app.caller import caller, trusted_peers
from hwtrust_backend.app.serving import SERVING, Serving
from hwtrust_backend.audit import Event, record
from hwtrust_backend.keys import DeviceIdentity, KeyRole, device_of_certificate

JSON_BODY: Final = Body(media_type=RequestEncodingType.JSON)

STATE: Final = "backend"
"""Under which name the application keeps its `Backend`."""


class HttpRequest(Request[Any, Any, Any]):
    """A request whose body ends in a typed error where it is no JSON."""

    async def json(self) -> Any:  # noqa: ANN401 - whatever the body says
        """The body, decoded.

        Raises:
            RequestTypeError: it does not say that it is JSON. What a form on any web
                page can send, with whatever its browser shows, does not.
            RequestError: not UTF-8, or nested deeper than anything that is meant.
        """
        given = self.headers.getall("content-type", [])
        if [kind.partition(";")[0].strip().lower() for kind in given] != [MediaType.JSON]:
            raise RequestTypeError("the request's body has to be application/json")
        try:
            return await super().json()
        except (UnicodeDecodeError, RecursionError) as error:
            raise RequestError("the request's body is no JSON that this API takes") from error


def backend_of(request: ASGIConnection[Any, Any, Any, Any]) -> Backend:
    """The backend that answers this request."""
    backend = request.app.state[STATE]
    if not isinstance(backend, Backend):
        raise TypeError("the application was not made by create_app")
    return backend


def identity_of(request: HttpRequest, backend: Backend, now: int) -> DeviceIdentity | None:
    """The device that is calling, by its client certificate; None where none was shown.

    Raises:
        IdentityCertificateError: there is one, and it is not in force or no device's.
    """

    def recognise(der: bytes) -> DeviceIdentity:
        authority = backend.vault.authority(KeyRole.DEVICE_CA)
        return device_of_certificate(der, authority=authority, now=now)

    return caller(request, trusted_proxies=trusted_peers(backend.settings), recognise=recognise)


@contextmanager
def noting_refusals(request: HttpRequest, by: Principal) -> Iterator[None]:
    """Leave a record where the block asks for what `by` may not do."""
    try:
        yield
    except ForbiddenError as error:
        note_refusal(request, by, error)
        raise


def note_refusal(
    request: ASGIConnection[Any, Any, Any, Any], by: Principal, error: ForbiddenError
) -> None:
    """Leave a record of what somebody who is known has asked for and may not do."""
    serving: Serving = request.app.state[SERVING]
    if serving.read_only.is_on():
        return
    backend = backend_of(request)
    scope: Mapping[str, object] = request.scope
    reason = f"{scope['method']} {request.url.path}: {error.message}"
    with backend.database.transaction() as session:
        record(session, Event.REQUEST_REFUSED, now=backend.clock(), reason=reason, actor=by.name)
