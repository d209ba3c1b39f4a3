"""The base of the error tree.

Rules:
1. Nothing outside this tree leaves the library: parsers and I/O convert
   low-level exceptions at their boundary.
2. A class is one cause. `code` names it for programs (`subject:part:problem`),
   the message says what happened, `hint` says what the reader can do.
3. `data` holds what a program may want to know. It never holds a secret.
"""

from __future__ import annotations

from typing import ClassVar


class HwTrustError(Exception):
    """The base of the tree; catch it to catch whatever hwtrust raises."""

    code: ClassVar[str] = "hwtrust"
    hint: ClassVar[str] = ""

    def __init__(self, message: str, /, **data: str | int | None) -> None:
        super().__init__(message)
        self.message = message
        self.data = data


def all_errors() -> dict[str, type[HwTrustError]]:
    """Every error class by its code, in alphabetical order of the codes."""
    found: dict[str, type[HwTrustError]] = {}
    pending: list[type[HwTrustError]] = [HwTrustError]
    while pending:
        cls = pending.pop()
        found[cls.code] = cls
        pending.extend(cls.__subclasses__())
    return dict(sorted(found.items()))
