"""The codes of the audit trail: `source:subject:action`."""

from __future__ import annotations

from enum import StrEnum


class Event(StrEnum):
    """What was decided, and by whom: a device's doing, the backend's, or an administrator's."""

    ENROLMENT_BEGUN = "device:enrolment:begun"
    ENROLMENT_ACCEPTED = "device:enrolment:accepted"
    ENROLMENT_REFUSED = "device:enrolment:refused"
    EVIDENCE_ACCEPTED = "device:evidence:accepted"
    EVIDENCE_REFUSED = "device:evidence:refused"
    EPOCH_UNKNOWN = "device:epoch:unknown"
    CERTIFICATE_ISSUED = "backend:certificate:issued"
    ROOT_MADE = "backend:root:made"
    ROOT_REDATED = "backend:root:redated"
    ROOT_CONFIRMED = "backend:root:confirmed"
    ROOT_RETIRED = "backend:root:retired"
    APPROVAL_EXTENDED = "backend:approval:extended"
    ROTATION_ASKED = "admin:rotation:asked"
    TOKEN_CREATED = "admin:token:created"  # noqa: S105 - the name of an event
    TOKEN_REVOKED = "admin:token:revoked"  # noqa: S105 - the name of an event
    RELEASE_ADDED = "admin:release:added"
    RELEASE_ACCEPTED = "admin:release:accepted"
    RELEASE_RETIRED = "admin:release:retired"
    EK_ALLOWED = "admin:ek:allowed"
    EK_REMOVED = "admin:ek:removed"
    EK_AUTHORITY_ADDED = "admin:ek-authority:added"
