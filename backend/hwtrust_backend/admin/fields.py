"""What may stand in a field that an administrator fills in: one definition for API, page and CLI.

No control characters anywhere: one database refuses a NUL, and a terminal obeys
the others.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from hwtrust.errors import RequestError

END: Final = r"(?![\s\S])"
"""The end of a text. In Python `$` would let a line break follow, in JSON Schema `\\Z` is none."""
PRINTABLE: Final = rf"^[^\x00-\x1f\x7f-\x9f]*{END}"
LAST_NUMBER: Final = 2**53 - 1
"""The largest number that every JSON reader keeps exactly; a BIGINT holds it."""

Name = Annotated[str, Meta(pattern=rf"^[A-Za-z0-9][A-Za-z0-9._-]{{0,99}}{END}", max_length=100)]
"""Of a group, a policy, an API token."""
ReleaseName = Annotated[str, Meta(pattern=PRINTABLE, min_length=1, max_length=200)]
Label = Annotated[str, Meta(pattern=PRINTABLE, max_length=200)]
Reason = Annotated[str, Meta(pattern=PRINTABLE, min_length=1, max_length=200)]
"""Why somebody does something; for the audit trail and for the device."""
DeviceName = Annotated[str, Meta(pattern=rf"^[0-9a-f]{{68,132}}{END}", max_length=132)]
"""The Name of an EK in hexadecimal digits."""
Uses = Annotated[int, Meta(ge=1, le=1_000_000)]
Limit = Annotated[int, Meta(ge=1, le=500)]
"""How long a page is at most."""
Number = Annotated[int, Meta(ge=0, le=LAST_NUMBER)]
"""A record's number, or UTC milliseconds."""
Span = Annotated[int, Meta(ge=1, le=LAST_NUMBER)]
"""Milliseconds."""


def name_of(text: str, what: str) -> str:
    """`text`, if it can name a group, a policy or a token.

    Raises:
        RequestError: it cannot.
    """
    return _checked(
        text,
        Name,
        what,
        "100 of A-Z, a-z, 0-9, `.`, `_` and `-`, a letter or digit first",
    )


def label_of(text: str) -> str:
    """`text`, if it can be a label.

    Raises:
        RequestError: it is too long, or holds control characters.
    """
    return _checked(text, Label, "label", "one line of 200 characters")


def reason_of(text: str) -> str:
    """`text`, if it can be a reason.

    Raises:
        RequestError: it is empty, too long, or holds control characters.
    """
    return _checked(text, Reason, "reason", "one line of 200 characters, and not empty")


def _checked(text: str, kind: object, what: str, most: str) -> str:
    try:
        found: str = msgspec.convert(text, kind)
    except msgspec.ValidationError as error:
        raise RequestError(
            f"the {what} cannot be used: it is at most {most}", field=what
        ) from error
    return found
