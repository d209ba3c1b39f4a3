"""Read CBOR strictly: the one way in which each value can be written, and nothing large.

    bytes ── decode ──▶ int, bytes, str, None, list, dict ── Fields ──▶ typed fields

Rules:
1. Whatever is wrong is a `MalformedError`; no error of the parser leaves.
2. Size and depth are bounded before anything is decoded.
3. No tags: they can ask the parser for dates, numbers of any length, regular
   expressions, references to what is around them. The tag in front of a message is
   looked at, and taken off, by whoever reads that message.
4. Deterministic but for the order of a map's keys, which signers in the field do not
   keep: definite and shortest lengths, no key twice, nothing behind it. What was
   decoded must give the same bytes when it is encoded.
5. A field is of its type exactly, of a size that is allowed, and there; so is its key.

RFC 8949 §4.2.1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NoReturn

import cbor2

from hwtrust.errors import MalformedError

if TYPE_CHECKING:
    from collections.abc import Container

Key = int | str
_KEY_TYPES: Final = frozenset({int, str})

_BUILT_IN_TAGS: Final = (
    *range(6),
    *(25, 28, 29, 30, 35, 36, 37, 52, 54, 100),
    *(256, 258, 260, 261, 1004, 43000, 55799),
)
"""Tags that the parser knows; all others go to its hook."""

PARSER_ERRORS: Final = (cbor2.CBORError, ValueError, TypeError, OverflowError, RecursionError)
"""What `cbor2` raises for bytes that it does not take, and for values that it cannot write."""


def _refuse(*_: object) -> NoReturn:
    raise ValueError("a tag was met")


_SEMANTIC_DECODERS: Final = dict.fromkeys(_BUILT_IN_TAGS, _refuse)


def decode(raw: bytes, what: str, *, most: int, depth: int) -> Any:  # noqa: ANN401
    """The value in `raw`, all of it; `what` is its name in errors.

    `most` is in bytes; `depth` is how deep lists and maps may be in each other.

    Raises:
        MalformedError: too large, not CBOR, tagged, or not written as it has to be.
    """
    # (2): bounds.
    if len(raw) > most:
        raise MalformedError(f"{what} has {len(raw)} bytes, {most} at most", size=len(raw))
    raw = bytes(raw)
    try:
        value = cbor2.loads(
            raw,
            tag_hook=_refuse,  # (3): tags.
            semantic_decoders=_SEMANTIC_DECODERS,
            max_depth=depth,
            allow_indefinite=False,
            allow_duplicate_keys=False,
        )
        # (4): deterministic.
        same = cbor2.dumps(value) == raw
    except PARSER_ERRORS:
        raise MalformedError(f"{what} is not CBOR of the form that it has to have") from None
    if not same:
        raise MalformedError(f"{what} is not deterministic CBOR, or is followed by something")
    return value


class Fields:
    """The fields of a map; each is read once, and `rest` tells which were not."""

    __slots__ = ("_fields", "_what")

    def __init__(self, value: object, what: str) -> None:
        if type(value) is not dict:
            raise MalformedError(f"{what} is no map")
        # In Python, true and 1.0 are found where 1 is looked for.
        if not {type(key) for key in value} <= _KEY_TYPES:
            raise MalformedError(f"{what} has a field whose key is neither a number nor a text")
        self._fields: dict[Key, object] = dict(value)
        self._what = what

    def octets(self, key: Key, sizes: Container[int]) -> bytes:
        """A byte string of one of `sizes`."""
        value = self._fields.pop(key, None)
        if type(value) is not bytes or len(value) not in sizes:
            raise self._wrong(key)
        return value

    def octets_or_none(self, key: Key, sizes: Container[int]) -> bytes | None:
        """The same; None where it is null or missing."""
        return None if self._absent(key) else self.octets(key, sizes)

    def text(self, key: Key, most: int) -> str:
        """A text that is not empty, of `most` printable characters at most."""
        value = self._fields.pop(key, None)
        if type(value) is not str or not 0 < len(value) <= most or not value.isprintable():
            raise self._wrong(key)
        return value

    def text_or_none(self, key: Key, most: int) -> str | None:
        """The same; None where it is missing."""
        return self.text(key, most) if key in self._fields else None

    def number(self, key: Key, within: range) -> int:
        """A whole number."""
        value = self._fields.pop(key, None)
        if type(value) is not int or value not in within:
            raise self._wrong(key)
        return value

    def items(self, key: Key, counts: range) -> list[object]:
        """A list with one of `counts` items."""
        value = self._fields.pop(key, None)
        if type(value) is not list or len(value) not in counts:
            raise self._wrong(key)
        return value

    def mapping(self, key: Key, counts: range) -> dict[object, object]:
        """A map with one of `counts` fields."""
        value = self._fields.pop(key, None)
        if type(value) is not dict or len(value) not in counts:
            raise self._wrong(key)
        return value

    def rest(self) -> tuple[Key, ...]:
        """The keys that were not read."""
        return tuple(self._fields)

    def end(self) -> None:
        """Require that every field was read.

        Raises:
            MalformedError: there are others.
        """
        if self._fields:
            raise MalformedError(
                f"{self._what} has {len(self._fields)} fields that do not belong to it"
            )

    def _absent(self, key: Key) -> bool:
        if self._fields.get(key) is not None:
            return False
        self._fields.pop(key, None)
        return True

    def _wrong(self, key: Key) -> MalformedError:
        return MalformedError(
            f"{self._what} lacks the field {key!r}, or it has another type or size"
        )
