"""What a person or a program may do: see, operate, or administer."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Role(StrEnum):
    """Each role may do all that the ones before it may."""

    VIEWER = "viewer"
    """Sees."""
    OPERATOR = "operator"
    """Also locks, rotates and labels devices, and lets new ones in."""
    ADMINISTRATOR = "administrator"
    """Also retires devices, and says what they are held to and who may do what."""

    def includes(self, other: Role) -> bool:
        """Whether this role may do what `other` may."""
        return _ORDER.index(self) >= _ORDER.index(other)


_ORDER: Final = tuple(Role)
