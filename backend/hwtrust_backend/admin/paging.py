"""Cursors: where a page ended, so that the next one begins there and costs no more than it.

A cursor is the key of the last row, in base64url. It grants nothing: every page
asks anew what its reader may see.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any, Final, TypeVar

import msgspec

from hwtrust.errors import CursorError

LONGEST_CURSOR: Final = 400
LONGEST_PAGE: Final = 500

Key = TypeVar("Key")


def cursor_of(key: object) -> str:
    """The cursor behind the row with this key."""
    return base64.urlsafe_b64encode(msgspec.json.encode(key)).rstrip(b"=").decode()


def key_of(cursor: str, kind: type[Key] | Any) -> Key:  # noqa: ANN401 - an annotated type is no class
    """The key that a cursor holds.

    Raises:
        CursorError: it is no cursor of this list.
    """
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        content = base64.b64decode(padded, altchars=b"-_", validate=True)
        found: Key = msgspec.json.decode(content, type=kind)
    except (msgspec.MsgspecError, ValueError, binascii.Error, RecursionError) as error:
        raise CursorError("this is no cursor of this list") from error
    return found
