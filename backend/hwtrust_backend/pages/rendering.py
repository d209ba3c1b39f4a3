"""Templates, and how times, spans and names are spelled in them.

Rules:
1. Every value is escaped unless it was made by a template; a name that a template
   does not know is an error, not an empty place.
2. No template makes markup from a value: what devices and administrators have
   typed stays text, wherever it stands.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from hwtrust_backend.config.clock import SECOND, clock_text, spell_span, utc_datetime
from hwtrust_backend.pages.assets import asset_path
from hwtrust_backend.pages.explanations import explain
from hwtrust_backend.pages.hardware import kind_name

_TEMPLATES: Final = Path(__file__).parent / "templates"
_SHORT_NAME: Final = 16
_DIGEST: Final = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{20,}\b")


def render(template: str, **values: Any) -> str:  # noqa: ANN401 - whatever a template shows
    """A page as HTML."""
    return _environment().get_template(template).render(**values)


def utc_minute(utc_ms: int) -> str:
    """`2031-04-05 06:07`, for people."""
    return utc_datetime(utc_ms).strftime("%Y-%m-%d %H:%M")


def utc_second(utc_ms: int) -> str:
    """`2031-04-05 06:07:08 UTC`, for people."""
    return utc_datetime(utc_ms).strftime("%Y-%m-%d %H:%M:%S UTC")


def machine_time(utc_ms: int) -> str:
    """The same for programs, as the attribute of a `time` element has it."""
    return utc_datetime(utc_ms).strftime("%Y-%m-%dT%H:%M:%SZ")


def relative(utc_ms: int, now: int) -> str:
    """`3d 4h ago`, `in 12m 5s`, `just now`."""
    passed = now - utc_ms
    if abs(passed) < SECOND:
        return "just now"
    return f"{spell_span(passed)} ago" if passed > 0 else f"in {spell_span(-passed)}"


def grouped(number: int) -> str:
    """`1 234 567`, with thin spaces that do not break."""
    return f"{number:,}".replace(",", "\u202f")


def short_name(device: str) -> str:
    """The beginning of a device's name, which tells it from the others."""
    return device[:_SHORT_NAME]


def brief(message: str) -> str:
    """A message for a list: of every digest in it only the beginning."""
    return _DIGEST.sub(r"\1…", message)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters.update(
        minute=utc_minute,
        second=utc_second,
        machine=machine_time,
        relative=relative,
        span=spell_span,
        clock=clock_text,
        grouped=grouped,
        short=short_name,
        brief=brief,
    )
    environment.globals.update(asset=asset_path, explain=explain, kind_name=kind_name)
    return environment
