"""`hwtrust.device.failures`: whatever failed, what is said of it fits on the wire."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwtrust import errors
from hwtrust.device.failures import cut, failure_of, stated
from hwtrust.errors import all_errors
from hwtrust.wire.messages import Label
from hwtrust.wire.statement import STATEMENT_LIMIT, Statement, StepFailure, decode_statement

NOW = 1_700_000_000_000

labels = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200)
messages = st.text(max_size=3000)


def test_a_failure_says_step_layer_release_code_and_message() -> None:
    """Enough to act on, with the time at which it was noted."""
    error = errors.LayerMismatchError("layer kernel is not what release 2 says")
    failure = cut(failure_of(error, step="verify", layer="kernel", release="2"), at_ms=NOW)
    assert failure == StepFailure(
        step="verify",
        code="layer:mismatch",
        layer="kernel",
        release="2",
        detail="layer kernel is not what release 2 says",
        at_ms=NOW,
    )
    assert decode_statement(stated(other="", failure=failure)).failure == failure


def test_a_time_of_its_own_is_kept() -> None:
    """Who noted it knows when it was."""
    assert cut(StepFailure(step="stage", code="update", at_ms=7), at_ms=NOW).at_ms == 7


@given(other=st.just("") | labels, layer=labels, release=labels, message=messages)
def test_whatever_a_message_holds_the_statement_can_be_read(
    other: str, layer: str, release: str, message: str
) -> None:
    """Control characters, halves of surrogates and length never keep a device from attesting."""
    error = errors.LayerUnreadableError(message)
    failure = cut(failure_of(error, step="measure", layer=layer, release=release), at_ms=NOW)
    statement = stated(other=other, failure=failure)
    assert len(statement) <= STATEMENT_LIMIT
    said = decode_statement(statement)
    assert said.other == other
    assert said.failure is not None
    assert (said.failure.step, said.failure.code) == ("measure", "layer:unreadable")
    assert failure.detail.startswith(said.failure.detail)


def test_what_does_not_fit_loses_its_detail_first_then_the_release_then_the_layer() -> None:
    """Step and code are what counts; the binding names the release too."""
    wide = "\x01" * 200
    failure = StepFailure(step="measure", code="layer", layer=wide, release="1", detail="d" * 400)
    said = decode_statement(stated(other="", failure=failure)).failure
    assert said is not None
    assert (said.layer, said.release) == (wide, "1")
    assert said.detail == "d" * 400
    said = decode_statement(stated(other=wide, failure=failure)).failure
    assert said is not None
    assert (said.step, said.code, said.layer, said.detail) == ("measure", "layer", "", "")


def test_nothing_to_say_leaves_the_statement_out() -> None:
    """The binding is then as if there were no statements."""
    assert stated(other="", failure=None) == b""
    assert decode_statement(stated(other="2", failure=None)) == Statement(other="2")


@pytest.mark.parametrize("code", all_errors())
def test_every_code_fits_on_the_wire(code: str) -> None:
    """None is cut, so that a backend can look it up."""
    failure = cut(StepFailure(step="open", code=code), at_ms=NOW)
    decoded = msgspec.json.decode(msgspec.json.encode(failure), type=StepFailure)
    assert decoded.code == code


def test_names_are_as_long_as_a_release_may_have_them() -> None:
    """The longest label is told whole."""
    longest = msgspec.convert("n" * 200, Label)
    failure = cut(StepFailure(step="open", code="x", layer=longest, release=longest), at_ms=NOW)
    assert (failure.layer, failure.release) == (longest, longest)
