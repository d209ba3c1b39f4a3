"""Traces in the OpenTelemetry way, where the administrator has asked for them.

Rules:
1. Without OTEL_EXPORTER_OTLP_ENDPOINT (or its form for traces) nothing of
   OpenTelemetry is imported and a span costs one comparison.
2. Everything else is the specification's own environment: OTEL_SERVICE_NAME,
   OTEL_TRACES_SAMPLER, OTEL_EXPORTER_OTLP_HEADERS and so on are read by its SDK.
3. A span has no secret, body or evidence among its attributes; a device is named.
4. A trace begins with the caller where its `traceparent` (W3C Trace Context) says
   so; a header that is none is ignored.
5. Spans are sent by a thread: set up after a fork, and `stop` before the end.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from hwtrust.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Tracer

SERVICE: Final = "hwtrust-backend"
ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_FLUSH_MS: Final = 5000
_TRACEPARENT: Final = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")


@dataclass(slots=True)
class _State:
    tracer: Tracer | None = None
    provider: TracerProvider | None = None


_state = _State()
_NO_SPAN: Final[AbstractContextManager[None]] = nullcontext()


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a trace."""

    context: Any


def wanted(environ: Mapping[str, str]) -> bool:
    """Whether the environment says where traces go."""
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    if environ.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp":
        return False
    return any(environ.get(name) for name in ENDPOINTS)


def start(environ: Mapping[str, str] = os.environ, *, exporter: Any = None) -> bool:  # noqa: ANN401
    """Send spans from now on, if they are wanted; `exporter` takes them instead of OTLP.

    Raises:
        ConfigError: they are wanted, and the SDK is not installed.
    """
    if exporter is None and not wanted(environ):
        return False
    try:
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - rule 1
        from opentelemetry.sdk.trace import SpanProcessor, TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import (  # noqa: PLC0415
            BatchSpanProcessor,
            SimpleSpanProcessor,
        )

        processor: SpanProcessor
        if exporter is None:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
                OTLPSpanExporter,
            )

            processor = BatchSpanProcessor(OTLPSpanExporter())
        else:
            processor = SimpleSpanProcessor(exporter)
    except ImportError as error:
        message = "traces are asked for, and their library is not installed: hwtrust-backend[otel]"
        raise ConfigError(message) from error
    attributes = {} if environ.get("OTEL_SERVICE_NAME") else {"service.name": SERVICE}
    provider = TracerProvider(resource=Resource.create(attributes))
    provider.add_span_processor(processor)
    _state.provider, _state.tracer = provider, provider.get_tracer(SERVICE)
    return True


def stop() -> None:
    """Send what is left, and send nothing more."""
    provider, _state.provider, _state.tracer = _state.provider, None, None
    if provider is not None:
        provider.force_flush(_FLUSH_MS)
        provider.shutdown()


def current() -> Place | None:
    """Where the spans of what runs now belong, for work that goes on in another thread."""
    if _state.tracer is None:
        return None
    from opentelemetry.context import get_current  # noqa: PLC0415 - rule 1

    return Place(get_current())


def span(
    name: str, *, within: Place | None = None, **attributes: str | int
) -> AbstractContextManager[None]:
    """A span around the block, below the one that is open; an error marks it and goes on.

    `within`: below the one that was open there.
    """
    tracer = _state.tracer
    return _NO_SPAN if tracer is None else _span(tracer, name, within, attributes)


@contextmanager
def _span(
    tracer: Tracer, name: str, within: Place | None, attributes: Mapping[str, str | int]
) -> Iterator[None]:
    context = None if within is None else within.context
    with tracer.start_as_current_span(name, context=context, attributes=_named(attributes)):
        yield


@contextmanager
def joint_span(
    name: str, places: Sequence[Place | None], **attributes: str | int
) -> Iterator[None]:
    """A span around what is done for several requests at once, with a link to each of them."""
    tracer = _state.tracer
    if tracer is None:
        yield
        return
    from opentelemetry.context import Context  # noqa: PLC0415 - rule 1
    from opentelemetry.trace import Link, get_current_span  # noqa: PLC0415

    known = [place.context for place in places if place is not None]
    links = [Link(get_current_span(context).get_span_context()) for context in known]
    # The first request has it in its own trace; without links to follow there is one at least.
    context = known[0] if known else Context()
    named = _named(attributes)
    with tracer.start_as_current_span(name, context=context, links=links, attributes=named):
        yield


@contextmanager
def request_span(name: str, *, traceparent: str, **attributes: str | int) -> Iterator[RequestSpan]:
    """The span of a request, below its caller's (rule 4)."""
    tracer = _state.tracer
    if tracer is None:
        yield RequestSpan(None)
        return
    from opentelemetry.trace import SpanKind  # noqa: PLC0415 - rule 1
    from opentelemetry.trace.propagation.tracecontext import (  # noqa: PLC0415
        TraceContextTextMapPropagator,
    )

    carrier = {"traceparent": traceparent} if trace_of(traceparent) else {}
    context = TraceContextTextMapPropagator().extract(carrier)
    with tracer.start_as_current_span(
        name, context=context, kind=SpanKind.SERVER, attributes=_named(attributes)
    ) as opened:
        yield RequestSpan(opened)


class RequestSpan:
    """The span of a request, or nothing where there are no traces."""

    __slots__ = ("_span",)

    def __init__(self, opened: Any) -> None:  # noqa: ANN401 - the library's, or None
        self._span = opened

    @property
    def trace(self) -> str:
        """The trace's id, 32 hexadecimal digits."""
        return "" if self._span is None else f"{self._span.get_span_context().trace_id:032x}"

    def done(self, *, name: str, route: str, status: int) -> None:
        """What became of it."""
        if self._span is None:
            return
        from opentelemetry.trace import StatusCode  # noqa: PLC0415 - rule 1

        self._span.update_name(name)
        self._span.set_attribute("http.route", route)
        self._span.set_attribute("http.response.status_code", status)
        if status >= 500:  # noqa: PLR2004 - a server's error
            self._span.set_status(StatusCode.ERROR)


def trace_of(traceparent: str) -> str:
    """The trace's id in a `traceparent`; empty where it is none."""
    match = _TRACEPARENT.fullmatch(traceparent)
    if match is None or not int(match[1], 16) or not int(match[2], 16):
        return ""
    return match[1]


def _named(attributes: Mapping[str, str | int]) -> dict[str, str | int]:
    """`http_route` as `http.route`."""
    return {name.replace("_", ".", 1): value for name, value in attributes.items()}
