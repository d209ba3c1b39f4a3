"""What failed, in words that the wire takes: cut to size, printable, without secrets.

    error ─▶ StepFailure ─▶ Statement ─▶ Binding.statement

Rules:
1. Messages of this library's errors hold no secret; an exception of the host
   application does not come here, only the name of its class.
2. An attestation never fails for want of room: what is too long loses its detail
   first, then the release, which the binding names too, then the layer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from hwtrust.errors import MalformedError
from hwtrust.wire.statement import Statement, StepFailure, encode_statement

if TYPE_CHECKING:
    from hwtrust.errors import HwTrustError

_DETAIL: Final = 400
_NAME: Final = 200
_CODE: Final = 60


def failure_of(
    error: HwTrustError, *, step: str, release: str, layer: str | None = None
) -> StepFailure:
    """What `error` says of a step; of the layer that it names itself, where none is given."""
    if layer is None:
        layer = str(error.data.get("layer", ""))
    return StepFailure(
        step=step, code=error.code, layer=layer, release=release, detail=error.message
    )


def cut(failure: StepFailure, *, at_ms: int) -> StepFailure:
    """`failure` as the wire takes it; `at_ms` where it says no time of its own."""
    return StepFailure(
        step=_printable(failure.step, _CODE),
        code=_printable(failure.code, _CODE),
        layer=_printable(failure.layer, _NAME),
        release=_printable(failure.release, _NAME),
        detail=_printable(failure.detail, _DETAIL),
        at_ms=failure.at_ms or at_ms,
    )


def stated(*, other: str, failure: StepFailure | None) -> bytes:
    """The statement of a binding, as much of it as a backend reads."""
    left: StepFailure | None = failure
    while True:
        try:
            return encode_statement(Statement(other=other, failure=left))
        except MalformedError:
            if left is None:
                raise
            left = _shorter(left)


def _shorter(failure: StepFailure) -> StepFailure | None:
    if failure.detail:
        return msgspec.structs.replace(failure, detail=failure.detail[: len(failure.detail) // 2])
    if failure.release:
        return msgspec.structs.replace(failure, release="")
    if failure.layer:
        return msgspec.structs.replace(failure, layer="")
    return None


def _printable(text: str, most: int) -> str:
    return "".join(char if char.isprintable() else " " for char in text[:most])
