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
