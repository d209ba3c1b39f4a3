"""The HTTP API, one module for each kind of caller.

    devices      devices: enrolment, challenges, attestation
    enclaves     enclaves: the same
    events       devices: application events, and waiting for a push
    releases     anybody: what devices update from
    results      relying parties: attestation results, and the keys that sign them
    admin        administrators' programs, with API tokens
    operations   those who keep the backend running: health, readiness, metrics
    pages        people, in a browser

Every error is a problem (RFC 9457) with the error's code. The OpenAPI document
is at /schema/openapi.json.
"""

from __future__ import annotations

from litestar import Litestar, Router
from litestar.exceptions import HTTPException
from litestar.openapi import OpenAPIConfig
from litestar.openapi.spec import Components

from hwtrust.errors import HwTrustError
from hwtrust_backend.app.asking import Asking
from hwtrust_backend.app.backend import Backend
from hwtrust_backend.app.measuring import MEASURING, Measuring
from hwtrust_backend.app.openapi import SCHEMES, Document
from hwtrust_backend.app.problems import on_anything, on_error, on_http_error, on_timeout
from hwtrust_backend.app.routes import (
    admin,
    devices,
    enclaves,
    events,
    operations,
    pages,
    releases,
    results,
)
from hwtrust_backend.app.routes.admin_queries import ASKING
from hwtrust_backend.app.routes.page_request import SITE
from hwtrust_backend.app.routes.request import STATE, HttpRequest
from hwtrust_backend.app.serving import SERVING, Serving
from hwtrust_backend.pages.site import make_site


def create_app(backend: Backend) -> Litestar:
    """The ASGI application."""
    app = Litestar(
        # One router: handlers of one path that are registered apart are wrapped twice.
        route_handlers=[
            Router(
                "/",
                route_handlers=[
                    *devices.HANDLERS,
                    *enclaves.HANDLERS,
                    *events.HANDLERS,
                    *releases.HANDLERS,
                    *results.HANDLERS,
                    *admin.HANDLERS,
                    *operations.HANDLERS,
                    *pages.HANDLERS,
                ],
            )
        ],
        exception_handlers={
            HwTrustError: on_error,
            HTTPException: on_http_error,
            TimeoutError: on_timeout,
            Exception: on_anything,
        },
        request_class=HttpRequest,
        # Each route's own limit is held before (`limits.body_limit`).
        request_max_body_size=max(backend.settings.body_limit, backend.settings.import_limit),
        openapi_config=OpenAPIConfig(
            title="hwtrust-backend",
            version="1",
            path="/schema",
            use_handler_docstrings=True,
            render_plugins=[Document()],
            components=Components(security_schemes=dict(SCHEMES)),
        ),
        logging_config=None,
        debug=False,
    )
    app.state[STATE] = backend
    serving = Serving.of(backend)
    app.state[SERVING], app.state[MEASURING] = serving, Measuring(backend, serving)
    app.state[ASKING] = Asking(backend)
    app.state[SITE] = make_site(backend.settings)
    return app
