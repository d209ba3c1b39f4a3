"""Routes for those who keep the backend running.

GET /healthz    Health      this process answers
GET /readyz     Readiness   it can work; 503 and the names of the checks that fail
GET /metrics    text        in the Prometheus format, for an API token (viewer)
"""

from __future__ import annotations

import msgspec
from litestar import MediaType, Response, get
from litestar.openapi.datastructures import ResponseSpec

from hwtrust.errors import CredentialsError
from hwtrust_backend.admin.principals import Role, authenticate
from hwtrust_backend.app.backend import Backend
from hwtrust_backend.app.measuring import MEASURING, Measuring
from hwtrust_backend.app.routes.request import HttpRequest, backend_of
from hwtrust_backend.app.serving import SERVING, Serving
from hwtrust_backend.observe.metrics import CONTENT_TYPE

_BEARER = "bearer "


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """That this process answers; whether it can work is for /readyz."""

    status: str


class ReadinessReport(msgspec.Struct, frozen=True, kw_only=True):
    """Whether this process can work, and if not, which checks fail."""

    status: str
    failed: tuple[str, ...] = ()


_UNREADY = {503: ResponseSpec(ReadinessReport, description="Some checks fail")}


@get("/healthz")
async def health() -> Health:
    """Answer, and touch nothing else."""
    return Health(status="ok")


@get("/readyz", sync_to_thread=True, responses=_UNREADY)
def ready(request: HttpRequest) -> Response[ReadinessReport]:
    """Say whether requests may be sent here; why not in detail is in the log."""
    failed = tuple(sorted(serving_of(request).readiness.failures()))
    report = ReadinessReport(status="not ready" if failed else "ready", failed=failed)
    headers = {"cache-control": "no-store"}
    return Response(report, status_code=503 if failed else 200, headers=headers)


@get("/metrics", media_type=MediaType.TEXT, sync_to_thread=True)
def show_metrics(request: HttpRequest) -> Response[bytes]:
    """Show the metrics of all workers of this machine, and of the fleet."""
    backend = backend_of(request)
    _require_viewer(request, backend)
    text = measuring_of(request).exposition()
    return Response(text, media_type=CONTENT_TYPE, headers={"cache-control": "no-store"})


def serving_of(request: HttpRequest) -> Serving:
    """The state of the process that answers this request."""
    serving = request.app.state[SERVING]
    if not isinstance(serving, Serving):
        raise TypeError("the application was not made by create_app")
    return serving


def measuring_of(request: HttpRequest) -> Measuring:
    """What makes the metrics of this process."""
    measuring = request.app.state[MEASURING]
    if not isinstance(measuring, Measuring):
        raise TypeError("the application was not made by create_app")
    return measuring


def _require_viewer(request: HttpRequest, backend: Backend) -> None:
    given = request.headers.get("authorization", "")
    if given[: len(_BEARER)].lower() != _BEARER:
        raise CredentialsError("metrics are for an API token")
    with backend.database.reading() as session:
        token = given[len(_BEARER) :].strip()
        authenticate(session, token, now=backend.clock()).require_all_groups(Role.VIEWER)


HANDLERS = (health, ready, show_metrics)
