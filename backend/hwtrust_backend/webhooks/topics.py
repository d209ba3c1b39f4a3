"""What webhooks tell of."""

from __future__ import annotations

from enum import StrEnum


class Topic(StrEnum):
    """The type of an event, as its payload names it."""

    STANDING_CHANGED = "device.standing.changed"
    ENROLLED = "device.enrolled"
    SILENT = "device.silent"
    """A device was found missing."""
    HEARD = "device.heard"
    """A device that was missing is there again."""
    FAILURE_REPORTED = "device.failure.reported"
    """A step of a load or of an update failed, says the device."""
    LOCKED = "device.locked"
    UNLOCKED = "device.unlocked"
    RETIRED = "device.retired"
    READMITTED = "device.readmitted"
    """It may enrol again, and is refused until it has."""
    ROOT_OFFERED = "root.offered"
    ROOT_CONFIRMED = "root.confirmed"
    TEST = "webhook.test"
    """Sent when an administrator asks; a subscription need not name it."""
