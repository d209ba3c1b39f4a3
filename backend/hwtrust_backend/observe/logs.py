"""Log lines for people or for programs, one line an event.

    text   INFO hwtrust_backend: refused [code=challenge:used route=/v1/attest request=…]
    json   {"time": "…", "level": "info", "logger": "…", "message": "…", "code": …}

Rules:
1. What a device or a caller has sent cannot make a line, end one, or move the
   cursor of a terminal: control characters and line ends are escaped.
2. No body, token, passphrase or header is ever a field. A route is its template,
   not the path that was asked for.
3. A field is one of `FIELDS`: what a program reads has one name everywhere.
4. The request that is being answered is known wherever its work is done; its
   fields come along by themselves.
"""

from __future__ import annotations

import logging
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Final, TextIO

import msgspec

from hwtrust_backend.config import LogFormat

FIELDS: Final = (
    "request",
    "trace",
    "route",
    "method",
    "status",
    "duration_ms",
    "device",
    "code",
    "peer",
    "worker",
)
_FIELDS: Final = frozenset(FIELDS)
LOGGER: Final = "hwtrust_backend"
ACCESS: Final = "hwtrust_backend.access"
_LOGGERS: Final = (LOGGER, "uvicorn", "uvicorn.error")
_ATTRIBUTE: Final = "hwtrust_fields"
_LINE_LIMIT: Final = 4000
"""Characters of a message; a log is no place for what is longer."""
_TRACE_LIMIT: Final = 20_000
_BEYOND_BYTES: Final = 0x100

# C0, DEL, C1, line and paragraph separators, directions, zero width, surrogates.
_HARMFUL: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)

Field = str | int | float | Callable[[], str]
"""A value of a field; a function is asked when the line is written."""

_request: ContextVar[dict[str, Field]] = ContextVar("hwtrust_request")


def safe(text: str) -> str:
    r"""`text` with whatever could forge or hide a line written as `\x0a`, `\u202e` (rule 1)."""
    return _HARMFUL.sub(_escaped, text)


def event(logger: logging.Logger, level: int, message: str, **fields: Field) -> None:
    """Log `message` with fields.

    Raises:
        ValueError: a field that is none of `FIELDS` (rule 3).
    """
    known = _known(fields)
    if logger.isEnabledFor(level):
        logger.log(level, "%s", message, extra={_ATTRIBUTE: known})


@contextmanager
def request_fields(**fields: Field) -> Iterator[None]:
    """Within the block every line carries these fields (rule 4)."""
    token = _request.set(_known(fields))
    try:
        yield
    finally:
        _request.reset(token)


def note(**fields: Field) -> None:
    """Add fields to the request that is being answered, if there is one."""
    current = _request.get(None)
    if current is not None:
        current.update(_known(fields))


def _known(fields: dict[str, Field]) -> dict[str, Field]:
    if not fields.keys() <= _FIELDS:
        unknown = sorted(fields.keys() - _FIELDS)
        raise ValueError(f"these are no fields of the log: {unknown}")
    return fields


def configure(
    *, level: str, form: LogFormat, access: bool, stream: TextIO | None = None
) -> logging.Handler:
    """Write lines to `stream` (standard error); repeated, the newest call counts.

    `access`: each request is a line at level `info`; else at `debug`.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines() if form is LogFormat.JSON else TextLines())
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        for old in list(logger.handlers):
            logger.removeHandler(old)
        logger.propagate = name == "uvicorn.error"
        logger.setLevel(level.upper())
    for name in (LOGGER, "uvicorn"):
        logging.getLogger(name).addHandler(handler)
    # What a server logs while it starts and stops is news to nobody but its programmers.
    logging.getLogger("uvicorn").setLevel(max(logging.WARNING, logging.getLevelName(level.upper())))
    threshold = logging.INFO if access else logging.CRITICAL
    shown = logging.DEBUG if level == "debug" else threshold
    logging.getLogger(ACCESS).setLevel(shown)
    return handler


class JsonLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line; JSON escapes line ends, and the rest that is harmful is escaped before."""
        line: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": safe(_message(record)),
        }
        line |= {name: _plain(value) for name, value in _fields(record).items()}
        if record.exc_info:
            line["traceback"] = [safe(part) for part in _trace(record)]
        return msgspec.json.encode(line).decode()


class TextLines(logging.Formatter):
    """A line for people; a traceback follows in lines that are indented."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        fields = " ".join(f"{name}={_quoted(value)}" for name, value in _fields(record).items())
        line = f"{record.levelname} {record.name}: {safe(_message(record))}"
        if fields:
            line = f"{line} [{fields}]"
        if record.exc_info:
            line = "\n  ".join([line, *(safe(part) for part in _trace(record))])
        return line


def _message(record: logging.LogRecord) -> str:
    try:
        text = record.getMessage()
    except (TypeError, ValueError):
        # A wrong number of arguments is a defect, but no reason to lose the line.
        text = str(record.msg)
    return text if len(text) <= _LINE_LIMIT else f"{text[:_LINE_LIMIT]}…"


def _fields(record: logging.LogRecord) -> dict[str, str | int | float]:
    own: Mapping[str, Field] = getattr(record, _ATTRIBUTE, {})
    merged = {**_request.get({}), **own}
    found = {name: merged[name] for name in FIELDS if name in merged}
    asked = {name: value() if callable(value) else value for name, value in found.items()}
    return {name: value for name, value in asked.items() if value != ""}


def _plain(value: str | float) -> str | int | float:
    return safe(value) if isinstance(value, str) else value


def _quoted(value: str | float) -> str:
    text = safe(str(value))
    return text if re.fullmatch(r"[^\s\"=\[\]]+", text) else msgspec.json.encode(text).decode()


def _trace(record: logging.LogRecord) -> list[str]:
    if record.exc_info is None or record.exc_info[0] is None:
        return []
    text = "".join(traceback.format_exception(*record.exc_info))
    return text[-_TRACE_LIMIT:].rstrip("\n").split("\n")


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < _BEYOND_BYTES else f"\\u{code:04x}"
