"""The audit trail: every decision, in the transaction that makes it, in a Merkle log."""

from __future__ import annotations

from hwtrust_backend.audit.entries import Entry, entry_of, evidence_digest
from hwtrust_backend.audit.events import Event
from hwtrust_backend.audit.export import LINE_LIMIT, check_export, export_log
from hwtrust_backend.audit.heads import (
    TreeHead,
    check_continues,
    decode_head,
    envelope_of,
    newest_head,
    open_head,
    sign_head,
)
from hwtrust_backend.audit.log import record, record_refusal
from hwtrust_backend.audit.models import AuditHead, AuditRecord, AuditSignedHead, AuditTile
from hwtrust_backend.audit.reading import (
    Consistency,
    Proof,
    consistency,
    decode_proof,
    page_of_records,
    proof_of,
    trail,
)
from hwtrust_backend.audit.tiles import tree_of
from hwtrust_backend.audit.verify import Report, check_proof, verify_log

__all__ = [
    "LINE_LIMIT",
    "AuditHead",
    "AuditRecord",
    "AuditSignedHead",
    "AuditTile",
    "Consistency",
    "Entry",
    "Event",
    "Proof",
    "Report",
    "TreeHead",
    "check_continues",
    "check_export",
    "check_proof",
    "consistency",
    "decode_head",
    "decode_proof",
    "entry_of",
    "envelope_of",
    "evidence_digest",
    "export_log",
    "newest_head",
    "open_head",
    "page_of_records",
    "proof_of",
    "record",
    "record_refusal",
    "sign_head",
    "trail",
    "tree_of",
    "verify_log",
]
