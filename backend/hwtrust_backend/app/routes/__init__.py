"""The HTTP API, one module for each kind of caller.

    devices      devices: enrolment, challenges, attestation
    operations   those who keep the backend running: health

Every error is a problem (RFC 9457) with the error's code. The OpenAPI document
is at /schema/openapi.json.
"""

from __future__ import annotations

from litestar import Litestar
from litestar.exceptions import HTTPException
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin

from hwtrust.errors import HwTrustError
from hwtrust_backend.app.backend import Backend
from hwtrust_backend.app.problems import on_anything, on_error, on_http_error, on_timeout
from hwtrust_backend.app.routes import devices, operations
from hwtrust_backend.app.routes.request import STATE, HttpRequest


def create_app(backend: Backend) -> Litestar:
    """The ASGI application."""
    app = Litestar(
        route_handlers=[
            *devices.HANDLERS,
            *operations.HANDLERS,
        ],
        exception_handlers={
            HwTrustError: on_error,
            HTTPException: on_http_error,
            TimeoutError: on_timeout,
            Exception: on_anything,
        },
        request_class=HttpRequest,
        request_max_body_size=backend.settings.body_limit,
        openapi_config=OpenAPIConfig(
            title="hwtrust-backend",
            version="1",
            path="/schema",
            render_plugins=[JsonRenderPlugin()],
        ),
        logging_config=None,
        debug=False,
    )
    app.state[STATE] = backend
    return app
