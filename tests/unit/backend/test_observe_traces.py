"""Traces: off they cost nothing, on they follow a request through its threads to a collector."""

from __future__ import annotations

import http.server
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from hwtrust.errors import ConfigError
from hwtrust_backend.observe import traces

if TYPE_CHECKING:
    from collections.abc import Iterator

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


@pytest.fixture
def exporter() -> Iterator[InMemorySpanExporter]:
    """Spans into memory."""
    made = InMemorySpanExporter()
    assert traces.start(exporter=made)
    yield made
    traces.stop()


def test_traces_are_wanted_only_where_the_environment_says_where_they_go() -> None:
    """The variables of the specification, and its two ways to say no."""
    somewhere = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}
    assert traces.wanted(somewhere)
    assert traces.wanted({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://localhost:4318/v1/traces"})
    assert not traces.wanted({})
    assert not traces.wanted({**somewhere, "OTEL_SDK_DISABLED": "true"})
    assert not traces.wanted({**somewhere, "OTEL_TRACES_EXPORTER": "none"})
    assert not traces.start({})


def test_spans_without_a_collector_do_nothing() -> None:
    """Every kind of span is there and empty; nothing says where work belongs."""
    with (
        traces.span("a"),
        traces.joint_span("b", []),
        traces.request_span("c", traceparent=PARENT) as request,
    ):
        request.done(name="GET /", route="/", status=500)
        assert request.trace == ""
        assert traces.current() is None


def test_a_request_goes_on_in_its_callers_trace(exporter: InMemorySpanExporter) -> None:
    """W3C Trace Context: the caller's trace, with its span as the parent."""
    with traces.request_span("POST", traceparent=PARENT) as request:
        assert request.trace == TRACE
        with traces.span("verify"):
            pass
        request.done(name="POST /v1/attest", route="/v1/attest", status=503)
    inner, outer = exporter.get_finished_spans()
    assert outer.name == "POST /v1/attest"
    assert outer.parent is not None
    assert f"{outer.parent.span_id:016x}" == "b7ad6b7169203331"
    assert outer.attributes is not None
    assert outer.attributes["http.route"] == "/v1/attest"
    assert not outer.status.is_ok
    assert inner.parent is not None
    assert inner.parent.span_id == outer.context.span_id


@pytest.mark.parametrize(
    "header",
    [
        "",
        "nonsense",
        f"00-{'0' * 32}-b7ad6b7169203331-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-b7ad6b7169203331-01",
        f"{PARENT}\n",
        PARENT.upper(),
    ],
)
def test_a_header_that_is_no_trace_context_is_ignored(
    exporter: InMemorySpanExporter, header: str
) -> None:
    """The request gets a trace of its own."""
    assert traces.trace_of(header) == ""
    with traces.request_span("GET", traceparent=header) as request:
        assert request.trace not in {TRACE, ""}
    (span,) = exporter.get_finished_spans()
    assert span.parent is None


def test_work_in_another_thread_belongs_to_its_request(exporter: InMemorySpanExporter) -> None:
    """What is decided for several requests at once links to all of them."""
    places = []
    ids = []
    for _ in range(2):
        with traces.request_span("POST", traceparent="") as request:
            places.append(traces.current())
            ids.append(request.trace)

    def work() -> None:
        with traces.joint_span("commit", places):
            for place in places:
                with traces.span("appraise", within=place):
                    pass

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    spans = exporter.get_finished_spans()
    appraised = [span for span in spans if span.name == "appraise"]
    assert [f"{span.context.trace_id:032x}" for span in appraised] == ids
    (commit,) = (span for span in spans if span.name == "commit")
    assert [f"{link.context.trace_id:032x}" for link in commit.links] == ids


def test_an_error_marks_its_span_and_goes_on(exporter: InMemorySpanExporter) -> None:
    """A span swallows nothing."""
    with pytest.raises(ConfigError), traces.span("verify"):
        raise ConfigError("bad")
    (span,) = exporter.get_finished_spans()
    assert not span.status.is_ok


class Collector(http.server.BaseHTTPRequestHandler):
    """An OTLP/HTTP receiver."""

    received: list[ExportTraceServiceRequest]

    def do_POST(self) -> None:
        """Take spans."""
        body = self.rfile.read(int(self.headers["content-length"]))
        assert self.path == "/v1/traces"
        self.received.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Say nothing."""


PROGRAM = """
from hwtrust_backend.observe import traces
assert traces.start()
with traces.request_span("POST", traceparent=""):
    with traces.span("verify"):
        pass
traces.stop()
"""


def test_spans_reach_a_collector_by_the_time_the_process_ends() -> None:
    """Configured by the environment alone, flushed by `stop`."""
    Collector.received = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        environ = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
            "OTEL_SERVICE_NAME": "replica-7",
        }
        subprocess.run([sys.executable, "-c", PROGRAM], check=True, env=environ, timeout=60)
        server.shutdown()
    (export,) = Collector.received
    (resource,) = export.resource_spans
    named = {item.key: item.value.string_value for item in resource.resource.attributes}
    assert named["service.name"] == "replica-7"
    assert {span.name for span in resource.scope_spans[0].spans} == {"POST", "verify"}


def test_without_the_library_traces_that_are_asked_for_are_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An administrator who sets the endpoint learns what is missing."""
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ConfigError) as caught:
        traces.start({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"})
    assert caught.value.code == "config"
