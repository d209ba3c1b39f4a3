"""The log: one line an event, whatever a device has sent, and no secrets."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator

import pytest

from hwtrust_backend.config import LogFormat
from hwtrust_backend.observe import logs

Lines = Callable[[], list[str]]


@pytest.fixture
def restore() -> Iterator[None]:
    """The loggers as they were, after the test."""
    names = ("hwtrust_backend", "hwtrust_backend.access", "uvicorn", "uvicorn.error")
    kept = {
        name: (list((found := logging.getLogger(name)).handlers), found.level, found.propagate)
        for name in names
    }
    yield
    for name, (handlers, level, propagate) in kept.items():
        logger = logging.getLogger(name)
        logger.handlers[:] = handlers
        logger.setLevel(level)
        logger.propagate = propagate


@pytest.fixture(params=list(LogFormat))
def form(request: pytest.FixtureRequest) -> LogFormat:
    """Both forms of lines."""
    found: LogFormat = request.param
    return found


def lines_of(form: LogFormat, *, access: bool = True, level: str = "info") -> Lines:
    """Log into memory; gives what reads the lines."""
    stream = io.StringIO()
    logs.configure(level=level, form=form, access=access, stream=stream)
    return lambda: stream.getvalue().splitlines(keepends=True)


HARMFUL = {
    "a line feed": "a\nINFO hwtrust_backend: all is well",
    "a carriage return": "a\rb",
    "an escape sequence": "\x1b[2J\x1b[1;1H",
    "a C1 control": "a\x9b2Jb",
    "a line separator": "a\u2028b",
    "a next line": "a\x85b",
    "text from right to left": "a\u202eb",
    "an invisible character": "a\u200bb",
    "half of a pair": "a\ud800b",
    "a zero byte": "a\0b",
}


@pytest.mark.usefixtures("restore")
@pytest.mark.parametrize("case", HARMFUL)
def test_nothing_that_was_sent_makes_or_hides_a_line(form: LogFormat, case: str) -> None:
    """In the message, in a field, and in the text of an exception."""
    read = lines_of(form)
    logger = logging.getLogger("hwtrust_backend")
    logger.info("refused %s", HARMFUL[case])
    logs.event(logger, logging.INFO, "refused", code=HARMFUL[case])
    lines = read()
    assert len(lines) == 2
    logger.error("unexpected", exc_info=RuntimeError(HARMFUL[case]))
    lines = read()
    text = "".join(lines)
    assert not logs._HARMFUL.search(text.replace("\n", ""))
    if form is LogFormat.JSON:
        assert len(lines) == 3
        assert all(json.loads(line)["level"] for line in lines)
    else:
        # What belongs to the third event is indented: nothing in it begins a line.
        assert all(line.startswith("  ") for line in lines[3:])


@pytest.mark.usefixtures("restore")
def test_a_line_of_json_has_the_fields_that_programs_read() -> None:
    """Time, level, logger, message, and those of the request and the event."""
    read = lines_of(LogFormat.JSON)
    logger = logging.getLogger("hwtrust_backend.somewhere")
    with logs.request_fields(request="r1", trace="", route=lambda: "/v1/attest"):
        logs.note(device="00ab")
        logs.event(logger, logging.WARNING, "refused", code="challenge:used", status=403)
    logger.warning("outside")
    inside, outside = (json.loads(line) for line in read())
    assert inside.pop("time").endswith("Z")
    assert inside == {
        "level": "warning",
        "logger": "hwtrust_backend.somewhere",
        "message": "refused",
        "request": "r1",
        "route": "/v1/attest",
        "device": "00ab",
        "code": "challenge:used",
        "status": 403,
    }
    assert "request" not in outside


@pytest.mark.usefixtures("restore")
def test_a_field_that_nobody_knows_is_an_error(form: LogFormat) -> None:
    """What programs read has one name everywhere, and no token slips in as a field."""
    lines_of(form)
    with pytest.raises(ValueError, match="no fields"):
        logs.event(logging.getLogger("hwtrust_backend"), logging.INFO, "x", token="secret")
    with pytest.raises(ValueError, match="no fields"), logs.request_fields(body="x"):
        pass


@pytest.mark.usefixtures("restore")
def test_requests_are_logged_where_that_is_set(form: LogFormat) -> None:
    """The access log is off, on, or on with everything else at level debug."""
    cases = [(False, "info", 0), (True, "info", 1), (False, "debug", 1)]
    for access, level, expected in cases:
        read = lines_of(form, access=access, level=level)
        logs.event(logging.getLogger(logs.ACCESS), logging.INFO, "request", status=200)
        assert len(read()) == expected


@pytest.mark.usefixtures("restore")
def test_a_message_has_a_limit(form: LogFormat) -> None:
    """No caller fills the disk with one line."""
    read = lines_of(form)
    logging.getLogger("hwtrust_backend").info("%s", "x" * 1_000_000)
    assert len(read()[0]) < 5000


@pytest.mark.usefixtures("restore")
def test_a_message_with_wrong_arguments_is_still_a_line(form: LogFormat) -> None:
    """A defect in a log statement loses no line."""
    read = lines_of(form)
    message = "%s %s"
    logging.getLogger("hwtrust_backend").error(message, "one")
    assert len(read()) == 1


@pytest.mark.usefixtures("restore")
def test_noting_outside_of_a_request_is_harmless(form: LogFormat) -> None:
    """Background work uses the same functions."""
    read = lines_of(form)
    logs.note(code="x")
    logging.getLogger("hwtrust_backend").warning("after")
    assert "code" not in read()[0]
