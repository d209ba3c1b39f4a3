"""What a device says of itself: short, strict, and nothing where there is nothing."""

from __future__ import annotations

import pytest

from hwtrust.errors import MalformedError
from hwtrust.wire.statement import (
    NOTHING_SAID,
    STATEMENT_LIMIT,
    Statement,
    StepFailure,
    decode_statement,
    encode_statement,
)

FAILURE = StepFailure(
    step="measure", code="layer:content:mismatch", layer="kernel", release="2.0", at_ms=1
)


@pytest.mark.parametrize(
    "statement",
    [NOTHING_SAID, Statement(other="2.0"), Statement(other="2.0", failure=FAILURE)],
    ids=["nothing", "another release", "a failure"],
)
def test_a_statement_is_read_as_it_was_written(statement: Statement) -> None:
    """Both sides mean the same by the same bytes."""
    assert decode_statement(encode_statement(statement)) == statement


def test_nothing_said_takes_no_bytes() -> None:
    """A binding without a statement hashes as it did before there were any."""
    assert encode_statement(NOTHING_SAID) == b""


NO_STATEMENTS = {
    "no JSON": b"{",
    "not UTF-8": b'{"other":"\xff"}',
    "nested without end": b"[" * STATEMENT_LIMIT,
    "a step without a code": b'{"failure":{"step":"measure"}}',
    "a name that is too long": b'{"other":"' + b"x" * 201 + b'"}',
    "longer than the limit": b'{"other":""' + b" " * STATEMENT_LIMIT + b"}",
}


@pytest.mark.parametrize("case", NO_STATEMENTS)
def test_a_backend_refuses(case: str) -> None:
    """Malformed words are an error of the tree."""
    with pytest.raises(MalformedError) as caught:
        decode_statement(NO_STATEMENTS[case])
    assert caught.value.code == "wire:malformed"


def test_a_device_does_not_say_more_than_a_backend_reads() -> None:
    """The limit holds where a statement is made."""
    failure = StepFailure(step="measure", code="layer", detail="\x01" * 400)
    with pytest.raises(MalformedError):
        encode_statement(Statement(other="\x01" * 200, failure=failure))


def test_a_statement_may_be_as_long_as_the_limit() -> None:
    """What a device may write, a backend reads; one byte more is refused by both."""
    spare = STATEMENT_LIMIT - len(encode_statement(Statement(other="x")))
    longest = Statement(other="x" * (spare + 1))
    data = encode_statement(longest)
    assert len(data) == STATEMENT_LIMIT
    padded = b'{"other":"x"' + b" " * (STATEMENT_LIMIT - 13) + b"}"
    assert decode_statement(padded) == Statement(other="x")
    for refused in (
        lambda: encode_statement(Statement(other=longest.other + "x")),
        lambda: decode_statement(padded + b" "),
    ):
        with pytest.raises(MalformedError) as caught:
            refused()
        assert caught.value.code == "wire:malformed"
