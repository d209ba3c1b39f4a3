"""The administration API, /v1/admin/…: for programs with an API token.

    devices                       admin_devices, admin_queries
    enrolment-tokens, eks, ek-authorities     admin_enrolment
    groups, policies, releases    admin_rules
    audit, export                 admin_audit
    whoami, api-tokens, webhooks  admin_access

Times are UTC milliseconds. A list is a page with the cursor `next` of the one behind
it; absent on the last. The command line does the same on the backend's own machine.
"""

from __future__ import annotations

from litestar import Router
from litestar.datastructures import ResponseHeader

from hwtrust_backend.app.routes import (
    admin_access,
    admin_audit,
    admin_devices,
    admin_enrolment,
    admin_queries,
    admin_rules,
)
from hwtrust_backend.app.routes.admin_guard import guard

PREFIX = "/v1/admin"

HANDLERS = (
    Router(
        path=PREFIX,
        guards=[guard],
        # What an administrator sees is nobody else's to keep.
        response_headers=[ResponseHeader(name="cache-control", value="no-store")],
        route_handlers=[
            *admin_access.HANDLERS,
            *admin_audit.HANDLERS,
            *admin_devices.HANDLERS,
            *admin_queries.HANDLERS,
            *admin_enrolment.HANDLERS,
            *admin_rules.HANDLERS,
        ],
    ),
)
