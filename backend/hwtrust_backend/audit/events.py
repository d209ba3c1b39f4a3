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
    EPOCH_RECOVERED = "device:epoch:recovered"
    CERTIFICATE_ISSUED = "backend:certificate:issued"
    ROOT_MADE = "backend:root:made"
    ROOT_REDATED = "backend:root:redated"
    ROOT_CONFIRMED = "backend:root:confirmed"
    ROOT_RETIRED = "backend:root:retired"
    APPROVAL_EXTENDED = "backend:approval:extended"
    WATCHDOG_MISSED = "backend:watchdog:missed"
    WATCHDOG_HEARD = "backend:watchdog:heard"
    EVENT_REPORTED = "device:event:reported"
    CAMPAIGN_STARTED = "backend:campaign:started"
    CAMPAIGN_FINISHED = "backend:campaign:finished"
    ROTATION_ASKED = "admin:rotation:asked"
    TOKEN_CREATED = "admin:token:created"  # noqa: S105 - the name of an event
    TOKEN_REVOKED = "admin:token:revoked"  # noqa: S105 - the name of an event
    RELEASE_ADDED = "admin:release:added"
    RELEASE_ACCEPTED = "admin:release:accepted"
    RELEASE_RETIRED = "admin:release:retired"
    DATABASE_RECOVERED = "admin:database:recovered"
    POLICY_ADDED = "admin:policy:added"
    POLICY_SIGNED = "admin:policy:signed"
    POLICY_ACTIVATED = "admin:policy:activated"
    GROUP_SET = "admin:group:set"
    EK_ALLOWED = "admin:ek:allowed"
    EK_REMOVED = "admin:ek:removed"
    EK_IMPORTED = "admin:ek:imported"
    EK_AUTHORITY_ADDED = "admin:ek-authority:added"
    EK_AUTHORITY_REMOVED = "admin:ek-authority:removed"
    DEVICE_CHANGED = "admin:device:changed"
    DEVICE_LOCKED = "admin:device:locked"
    DEVICE_UNLOCKED = "admin:device:unlocked"
    DEVICE_RETIRED = "admin:device:retired"
    DEVICE_READMITTED = "admin:device:readmitted"
    API_TOKEN_CREATED = "admin:api-token:created"  # noqa: S105 - the name of an event
    API_TOKEN_REVOKED = "admin:api-token:revoked"  # noqa: S105 - the name of an event
    RESULT_ISSUED = "backend:result:issued"
    RESULT_KEY_TURNED = "backend:result-key:turned"
    RESULT_KEY_WITHDRAWN = "admin:result-key:withdrawn"
    WEBHOOK_ADDED = "admin:webhook:added"
    WEBHOOK_REMOVED = "admin:webhook:removed"
    WEBHOOK_ENABLED = "admin:webhook:enabled"
    WEBHOOK_TESTED = "admin:webhook:tested"
    WEBHOOK_SECRET_ROTATED = "admin:webhook:secret-rotated"  # noqa: S105 - the name of an event
    WEBHOOK_DISABLED = "backend:webhook:disabled"
    SESSION_OPENED = "admin:session:opened"
    SESSION_CLOSED = "admin:session:closed"
    SESSION_REFUSED = "admin:session:refused"
    REQUEST_REFUSED = "admin:request:refused"
    READ_ONLY_ON = "admin:read-only:on"
    READ_ONLY_OFF = "admin:read-only:off"
