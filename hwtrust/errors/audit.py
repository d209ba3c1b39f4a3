"""Errors of the audit trail: what was changed in it, and what of it cannot be shown."""

from __future__ import annotations

from hwtrust.errors.backend import ServiceError


class AuditError(ServiceError):
    """The audit trail is not what it was when its records were written."""

    code = "audit"
    hint = "keep a copy of the database as it is, and compare it with a backup and an export"


class AuditRecordChangedError(AuditError):
    """A record, or its place in the trail, was changed after it was written."""

    code = "audit:record:changed"


class AuditRecordMissingError(AuditError):
    """A record was dropped, in the middle or at the end."""

    code = "audit:record:missing"


class AuditRecordSurplusError(AuditError):
    """There is a record that the trail never appended."""

    code = "audit:record:surplus"


class AuditTileError(AuditError):
    """A stored tile of the tree's hashes is missing, surplus, or not what the records give."""

    code = "audit:tile:changed"


class AuditStateError(AuditError):
    """The stored size and frontier of the tree are missing, or not what the records give."""

    code = "audit:state:changed"


class AuditHeadForgedError(AuditError):
    """A tree head is not signed by the audit key, or its row says something else."""

    code = "audit:head:forged"


class AuditHeadInconsistentError(AuditError):
    """The trail does not continue what a signed tree head promised."""

    code = "audit:head:inconsistent"


class AuditProofError(AuditError):
    """A proof does not lead from the record or the old tree head to the root."""

    code = "audit:proof:invalid"
    hint = ""


class AuditExportError(AuditError):
    """A file is no export of the audit trail, or is not complete."""

    code = "audit:export:malformed"
    hint = "export it again: hwtrust-backend audit export FILE"


class AuditRecordUnknownError(ServiceError):
    """There is no record of that number, or no tree head of that size."""

    code = "audit:record:unknown"
    hint = "hwtrust-backend audit list shows the newest numbers"


class AuditHeadMissingError(ServiceError):
    """No tree head has been signed yet that covers what was asked for."""

    code = "audit:head:missing"
    hint = "hwtrust-backend audit head"
