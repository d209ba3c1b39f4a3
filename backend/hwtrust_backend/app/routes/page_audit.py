"""The audit trail: pages of it, one record with its proof, and the check of all of it.

GET  /ui/audit             records, newest first, and what is known of their being whole
GET  /ui/audit/{sequence}  one record, and the proof that it is in the log
POST /ui/audit/check       recalculate the whole trail
"""

from __future__ import annotations

from typing import Final
from urllib.parse import urlencode

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from litestar import Response, get, post
from litestar.params import FromPath
from sqlalchemy.orm import Session

from hwtrust.errors import AuditError
from hwtrust_backend.admin.principals import Role
from hwtrust_backend.admin.trail import AuditFilter, audit_page, audit_record
from hwtrust_backend.app.backend import Backend
from hwtrust_backend.app.routes.page_request import Context, Form, Visit, done, shown
from hwtrust_backend.app.routes.request import HttpRequest
from hwtrust_backend.audit import Event, TreeHead, check_proof
from hwtrust_backend.keys import KeyRole
from hwtrust_backend.pages.site import head_state

PAGE_LENGTH: Final = 100


@get("/ui/audit", sync_to_thread=True)
def audit(request: HttpRequest) -> Response[str]:
    """A page of the trail."""
    query = request.query_params

    def work(session: Session, visit: Visit) -> Context:
        asked = {name: query.get(name, "").strip() for name in ("event", "device", "actor")}
        wanted = AuditFilter(
            event=asked["event"] or None,
            device=asked["device"] or None,
            actor=asked["actor"] or None,
        )
        found = audit_page(
            session,
            wanted,
            by=visit.by,
            cursor=query.get("after") or None,
            limit=PAGE_LENGTH,
        )
        kept = {name: text for name, text in asked.items() if text}
        return {
            "page": found,
            "asked": asked,
            "events": sorted(event.value for event in Event),
            "filtered": bool(kept),
            "first": "after" not in query,
            "next": None if found.next is None else urlencode({**kept, "after": found.next}),
            "head": head_state(session, key=_audit_key(visit.backend)),
            "check": visit.site.audit.newest,
        }

    return shown(request, "audit.html", work, section="audit")


@get("/ui/audit/{sequence:int}", sync_to_thread=True)
def record(request: HttpRequest, sequence: FromPath[int]) -> Response[str]:
    """One record with its proof, verified here and now."""

    def work(session: Session, visit: Visit) -> Context:
        proof = audit_record(session, sequence, by=visit.by)
        head: TreeHead | None = None
        failure = ""
        if proof.head is not None:
            try:
                head = check_proof(proof, key=_audit_key(visit.backend))
            except AuditError as error:
                failure = error.message
        return {"proof": proof, "record": proof.record, "head": head, "failure": failure}

    return shown(request, "record.html", work, section="audit")


@post("/ui/audit/check", sync_to_thread=True)
def check(request: HttpRequest, data: Form) -> Response[str]:
    """Recalculate the whole trail; it takes as long as the trail is, and changes nothing."""

    def work(_: Session, visit: Visit) -> str:
        visit.by.require_all_groups(Role.OPERATOR)
        # In a session of its own: nobody else has to wait for the end of it.
        with visit.backend.database.reading() as session:
            key = _audit_key(visit.backend)
            visit.site.audit.run(session, key=key, now=visit.now)
        return "/ui/audit"

    return done(request, data, work)


def _audit_key(backend: Backend) -> EllipticCurvePublicKey:
    return backend.vault.signer(KeyRole.AUDIT).public_key


HANDLERS = (audit, record, check)
