"""Settings, the clock, and files that are written whole or not at all."""

from __future__ import annotations

from hwtrust_backend.config.clock import Clock, clock_text, spell_span, system_clock, utc_text
from hwtrust_backend.config.files import make_private_directory, write_file, written_file
from hwtrust_backend.config.reading import parse_span
from hwtrust_backend.config.serving import (
    MOST_WORKERS,
    ForwardedHeader,
    LogFormat,
    RateSettings,
)
from hwtrust_backend.config.settings import (
    CONFIG_NAME,
    Settings,
    load_settings,
    settings_text,
)

__all__ = [
    "CONFIG_NAME",
    "MOST_WORKERS",
    "Clock",
    "ForwardedHeader",
    "LogFormat",
    "RateSettings",
    "Settings",
    "clock_text",
    "load_settings",
    "make_private_directory",
    "parse_span",
    "settings_text",
    "spell_span",
    "system_clock",
    "utc_text",
    "write_file",
    "written_file",
]
