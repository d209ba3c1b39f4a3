"""Metrics in the Prometheus format: what exists, and how it is counted and shown.

Rules:
1. Every metric stands in `METRICS`, with its meaning; the documentation and the
   dashboard are held to that list.
2. No label holds what a device or a caller can choose freely: the number of
   time series is bounded by the code.
3. Counting never fails a request and needs no set-up. The client library is
   loaded by the first metric that is counted.
4. With several workers each counts into files of its own, named by the worker's
   number and not by its process: a worker that is replaced goes on where the dead
   one stopped, and their number does not grow. Any worker shows the sum of all.
"""

from __future__ import annotations

import os
import resource
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hwtrust.wire.messages import Standing

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric as Family

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
DIRECTORY_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
_PAGE: Final = resource.getpagesize()
_SECONDS: Final = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Kind(StrEnum):
    """The types of the Prometheus data model that are in use here."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: its name with its unit, its meaning, and the names of its labels."""

    name: str
    meaning: str
    labels: tuple[str, ...] = ()

    @property
    def kind(self) -> Kind:
        """Its type."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Counter(Metric):
    """Something that happens; its name ends in `_total`."""

    known: tuple[str, ...] = ()
    """All values of its one label, where the code knows them beforehand."""

    @property
    def kind(self) -> Kind:
        """Its type."""
        return Kind.COUNTER

    def inc(self, amount: float = 1, **labels: str) -> None:
        """Count it."""
        _child(self, labels).inc(amount)


@dataclass(frozen=True, slots=True)
class Histogram(Metric):
    """Something that takes time, or has a size."""

    buckets: tuple[float, ...] = _SECONDS

    @property
    def kind(self) -> Kind:
        """Its type."""
        return Kind.HISTOGRAM

    def observe(self, value: float, **labels: str) -> None:
        """Note one value, in the unit of the name."""
        _child(self, labels).observe(value)

    @contextmanager
    def time(self, **labels: str) -> Iterator[None]:
        """Note how many seconds the block takes, however it ends."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.observe(time.perf_counter() - began, **labels)


@dataclass(frozen=True, slots=True)
class WorkerGauge(Metric):
    """A state of one worker process; the label `worker` is added."""

    @property
    def kind(self) -> Kind:
        """Its type."""
        return Kind.GAUGE

    def set(self, value: float, **labels: str) -> None:
        """Say what it is now."""
        _child(self, {"worker": worker(), **labels}).set(value)

    def add(self, amount: float, **labels: str) -> None:
        """Change it by that much."""
        _child(self, {"worker": worker(), **labels}).inc(amount)


@dataclass(frozen=True, slots=True)
class FleetGauge(Metric):
    """A state of the whole fleet: found in the database when somebody looks, the same anywhere."""

    @property
    def kind(self) -> Kind:
        """Its type."""
        return Kind.GAUGE


@dataclass(frozen=True, slots=True)
class Fact:
    """One value of a `FleetGauge`."""

    gauge: FleetGauge
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)


# --- what there is ---------------------------------------------------------------

REQUESTS: Final = Counter(
    "hwtrust_http_requests_total",
    "Requests answered, by route, method and status.",
    ("route", "method", "status"),
)
REQUEST_SECONDS: Final = Histogram(
    "hwtrust_http_request_duration_seconds",
    "How long requests took, from their headers to the end of the answer.",
    ("route", "method"),
)
REQUESTS_RUNNING: Final = WorkerGauge(
    "hwtrust_http_requests_running", "Requests that are being answered.", ("worker",)
)
RATE_LIMITED: Final = Counter(
    "hwtrust_rate_limited_total",
    "Requests refused for coming too fast, by limit.",
    ("limit",),
    known=("address", "credentials", "device", "total", "connections"),
)
ATTESTATIONS: Final = Counter(
    "hwtrust_attestations_total",
    "Authentic evidence that was appraised, by the standing that it gave.",
    ("standing",),
    known=tuple(standing.value for standing in Standing),
)
ATTESTATIONS_OF_KIND: Final = Counter(
    "hwtrust_attestations_of_kind_total",
    "Authentic evidence that was appraised, by its kind: tpm, or an enclave's.",
    ("kind",),
    known=("tpm", "snp", "tdx", "sgx", "nitro", "cca", "azure"),
)
FAILURES: Final = Counter(
    "hwtrust_device_failures_total",
    "Failures that devices reported, by the step of their load or update.",
    ("step",),
    known=(
        *("verify", "measure", "extend", "activate", "unseal", "open"),
        *("stage", "confirm", "watch", "tpm", "other"),
    ),
)
REFUSALS: Final = Counter(
    "hwtrust_refusals_total", "Requests refused, by the code of the error.", ("code",)
)
DECISIONS: Final = Counter(
    "hwtrust_audit_records_total",
    "Audit records written, by event: enrolments, roots made and confirmed, and all else.",
    ("event",),
)
COMMIT_SECONDS: Final = Histogram(
    "hwtrust_commit_duration_seconds",
    "How long it took to make a group of attestations durable.",
)
COMMIT_SIZE: Final = Histogram(
    "hwtrust_commit_batch_size", "Attestations in one durable commit.", buckets=_SIZES
)
COMMIT_QUEUE: Final = WorkerGauge(
    "hwtrust_commit_queue_length", "Attestations that wait for their commit.", ("worker",)
)
WEBHOOKS: Final = Counter(
    "hwtrust_webhook_deliveries_total",
    "Attempts to deliver a webhook: delivered or failed; and given_up, where it was the last.",
    ("outcome",),
    known=("delivered", "failed", "given_up"),
)
TASK_SECONDS: Final = Histogram(
    "hwtrust_task_duration_seconds", "How long runs of background tasks took.", ("task",)
)
TASK_FAILURES: Final = Counter(
    "hwtrust_task_failures_total", "Runs of background tasks that failed.", ("task",)
)
TASK_TIME: Final = WorkerGauge(
    "hwtrust_task_last_success_timestamp_seconds",
    "When a background task last ended well, in seconds since 1970.",
    ("worker", "task"),
)
WAITING: Final = WorkerGauge(
    "hwtrust_devices_waiting", "Devices that wait for a push.", ("worker",)
)
DEVICES: Final = FleetGauge(
    "hwtrust_devices", "Enrolled devices that are not retired, by standing.", ("standing",)
)
DEVICES_SILENT: Final = FleetGauge(
    "hwtrust_devices_silent", "Devices that missed their watchdog's time."
)
DEVICES_FAILING: Final = FleetGauge(
    "hwtrust_devices_failing", "Devices that have reported a failure and not got over it yet."
)
ROTATIONS_DUE: Final = FleetGauge(
    "hwtrust_rotations_due", "Devices whose next root is due and not asked for yet."
)
REPOSITORY_EXPIRES: Final = FleetGauge(
    "hwtrust_repository_expires_seconds",
    "Until the releases' metadata of this role expires; below 0 devices refuse it.",
    ("role",),
)
READ_ONLY: Final = FleetGauge(
    "hwtrust_read_only", "1 while the backend is switched to read-only, else 0."
)
READY: Final = FleetGauge("hwtrust_ready", "1 while a check of /readyz passes, else 0.", ("check",))
BUILD: Final = FleetGauge("hwtrust_build_info", "Always 1; the label is the version.", ("version",))
CONNECTIONS: Final = WorkerGauge(
    "hwtrust_database_connections",
    "Connections to the database, by state: used, idle.",
    ("worker", "state"),
)
CLOCK_SKEW: Final = WorkerGauge(
    "hwtrust_clock_skew_seconds", "This machine's clock less the database's.", ("worker",)
)
MEMORY: Final = WorkerGauge(
    "hwtrust_worker_resident_memory_bytes", "Resident memory of a worker process.", ("worker",)
)
CPU: Final = WorkerGauge(
    "hwtrust_worker_cpu_seconds", "Processor time that a worker process has used.", ("worker",)
)
OPEN_FILES: Final = WorkerGauge(
    "hwtrust_worker_open_files", "Open file descriptors of a worker process.", ("worker",)
)
STARTED: Final = WorkerGauge(
    "hwtrust_worker_start_time_seconds",
    "When a worker process was started, in seconds since 1970.",
    ("worker",),
)
RESTARTS: Final = Counter(
    "hwtrust_worker_restarts_total", "Worker processes that died and were replaced."
)

METRICS: Final[tuple[Metric, ...]] = (
    REQUESTS,
    REQUEST_SECONDS,
    REQUESTS_RUNNING,
    RATE_LIMITED,
    ATTESTATIONS,
    ATTESTATIONS_OF_KIND,
    FAILURES,
    REFUSALS,
    DECISIONS,
    COMMIT_SECONDS,
    COMMIT_SIZE,
    COMMIT_QUEUE,
    WEBHOOKS,
    TASK_SECONDS,
    TASK_FAILURES,
    TASK_TIME,
    WAITING,
    DEVICES,
    DEVICES_SILENT,
    DEVICES_FAILING,
    ROTATIONS_DUE,
    REPOSITORY_EXPIRES,
    READ_ONLY,
    READY,
    BUILD,
    CONNECTIONS,
    CLOCK_SKEW,
    MEMORY,
    CPU,
    OPEN_FILES,
    STARTED,
    RESTARTS,
)


# --- counting --------------------------------------------------------------------


@dataclass(slots=True)
class _State:
    """The metrics of this process as the client library has them."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    registry: CollectorRegistry | None = None
    made: dict[str, Any] = field(default_factory=dict)
    children: dict[tuple[Any, ...], Any] = field(default_factory=dict)
    """What is counted with which labels: as many as there are time series (rule 2)."""
    worker: str = "0"
    directory: Path | None = None


_state = _State()


def worker() -> str:
    """The number of this worker process, "0" where it is the only one."""
    return _state.worker


def count_in_files(directory: Path) -> None:
    """From now on count in files of `directory`, which all workers share; before any fork.

    What this process has counted so far is forgotten.
    """
    from prometheus_client import values  # noqa: PLC0415 - not before it is needed (rule 3)

    os.environ[DIRECTORY_VARIABLE] = str(directory)
    with _state.lock:
        _state.directory, _state.registry = directory, None
        _state.made, _state.children = {}, {}
        # The documented way is a variable that is set before anybody imports the library.
        values.ValueClass = values.MultiProcessValue(worker)  # type: ignore[no-untyped-call]


def become_worker(number: int | None) -> None:
    """Count as the worker of that number; None is the process that supervises them."""
    _state.worker = "main" if number is None else str(number)
    # A lock that another thread held when this process was forked is never released.
    _state.lock = threading.Lock()


def forget_worker(number: int) -> None:
    """A worker has died: what it said of its state is not true any more."""
    if _state.directory is None:
        return
    for file in _state.directory.glob(f"gauge_live*_{number}.db"):
        file.unlink(missing_ok=True)


def begin_at_zero() -> None:
    """Show what has not happened yet, in a process that begins to serve (rule 5)."""
    for metric in METRICS:
        if not isinstance(metric, Counter):
            continue
        if not metric.labels:
            metric.inc(0)
        for value in metric.known:
            metric.inc(0, **{metric.labels[0]: value})


def _child(metric: Metric, labels: Mapping[str, str]) -> Any:  # noqa: ANN401 - the library's
    key = (metric.name, *labels.items())
    child = _state.children.get(key)
    if child is None:
        made = _state.made.get(metric.name) or _make(metric)
        child = _state.children[key] = made.labels(**labels) if metric.labels else made
    return child


def _make(metric: Metric) -> Any:  # noqa: ANN401 - the library's
    import prometheus_client as prometheus  # noqa: PLC0415 - not before it is needed (rule 3)

    with _state.lock:
        if metric.name in _state.made:
            return _state.made[metric.name]
        if _state.registry is None:
            _state.registry = prometheus.CollectorRegistry(auto_describe=True)
        given: dict[str, Any] = {
            "name": metric.name,
            "documentation": metric.meaning,
            "labelnames": metric.labels,
            "registry": _state.registry,
        }
        made: Any
        if isinstance(metric, Counter):
            made = prometheus.Counter(**given)
        elif isinstance(metric, Histogram):
            made = prometheus.Histogram(**given, buckets=metric.buckets)
        else:
            # No two workers have the same labels: the mode only says that dead ones are left out.
            made = prometheus.Gauge(**given, multiprocess_mode="livemax")
        _state.made[metric.name] = made
        return made


# --- showing ---------------------------------------------------------------------


def exposition(facts: Iterable[Fact] = ()) -> bytes:
    """Every metric as text, of all workers, and `facts` besides."""
    import prometheus_client as prometheus  # noqa: PLC0415 - not before it is needed (rule 3)
    from prometheus_client.multiprocess import MultiProcessCollector  # noqa: PLC0415

    shown = prometheus.CollectorRegistry()
    if _state.directory is not None:
        MultiProcessCollector(shown, path=str(_state.directory))  # type: ignore[no-untyped-call]
    elif _state.registry is not None:
        shown.register(_state.registry)
    shown.register(_Facts(tuple(facts)))
    return prometheus.generate_latest(shown)


class _Facts:
    """Shows values that are known already."""

    def __init__(self, facts: tuple[Fact, ...]) -> None:
        self._facts = facts

    def collect(self) -> Iterator[Family]:
        """One family for each metric."""
        from prometheus_client.core import GaugeMetricFamily  # noqa: PLC0415

        families: dict[str, GaugeMetricFamily] = {}
        for fact in self._facts:
            metric = fact.gauge
            if metric.name not in families:
                families[metric.name] = GaugeMetricFamily(
                    metric.name, metric.meaning, labels=metric.labels
                )
            values = [fact.labels[name] for name in metric.labels]
            families[metric.name].add_metric(values, fact.value)
        yield from families.values()


def sample_process(*, started: float) -> None:
    """Note what this process uses of its machine; `started` is seconds since 1970."""
    resident = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * _PAGE
    MEMORY.set(resident)
    CPU.set(time.process_time())
    OPEN_FILES.set(sum(1 for _ in Path("/proc/self/fd").iterdir()))
    STARTED.set(started)
