"""What a device says of itself in a binding: its TPM vouches only that it is unchanged.

    Statement ─▶ JSON ─▶ Binding.statement ─▶ qualifyingData of quote and counter

Rules:
1. Nothing is believed because it is said here: what is measured, appraisal takes
   from the log. A statement asks for leave, and tells people what went wrong.
2. A device that has nothing to say leaves it out, and its binding is as if there
   were no statements.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from hwtrust.errors import MalformedError

STATEMENT_LIMIT: Final = 2048
"""How many bytes a statement may have."""


class StepFailure(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The step of a load or an update that failed, with the code of its error.

    `step` is one of `verify`, `measure`, `extend`, `activate`, `unseal`, `open`,
    `stage`, `confirm`, `watch` or `tpm`; `layer` and `release` are empty where it is
    about none. `at_ms` is the device's own clock, UTC milliseconds.
    """

    step: Annotated[str, Meta(min_length=1, max_length=60)]
    code: Annotated[str, Meta(min_length=1, max_length=60)]
    layer: Annotated[str, Meta(max_length=200)] = ""
    release: Annotated[str, Meta(max_length=200)] = ""
    detail: Annotated[str, Meta(max_length=400)] = ""
    at_ms: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0


class Statement(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`other` is the release in the device's second slot, for which it asks leave too.

    That is the next one, before it is switched to, and the last one, until the new
    one is confirmed. `failure` is told once, to whoever answers.
    """

    other: Annotated[str, Meta(max_length=200)] = ""
    failure: StepFailure | None = None


NOTHING_SAID: Final = Statement()


def encode_statement(statement: Statement) -> bytes:
    """`statement` as it stands in a binding; nothing where it says nothing.

    Raises:
        MalformedError: it is longer than a backend reads.
    """
    if statement == NOTHING_SAID:
        return b""
    data = msgspec.json.encode(statement)
    if len(data) > STATEMENT_LIMIT:
        raise MalformedError("a statement is too long", structure="Statement", size=len(data))
    return data


def decode_statement(data: bytes) -> Statement:
    """What a binding says.

    Raises:
        MalformedError: not a statement.
    """
    if not data:
        return NOTHING_SAID
    if len(data) > STATEMENT_LIMIT:
        raise MalformedError("a statement is too long", structure="Statement", size=len(data))
    try:
        return msgspec.json.decode(data, type=Statement)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedError(f"no statement: {error}", structure="Statement") from error
