"""Metrics: what is counted is shown, by every worker for all of them, and is documented."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from hwtrust_backend.observe import metrics
from hwtrust_backend.observe.metrics import METRICS, Counter, Fact, Kind

ROOT = Path(__file__).parents[3]
UNITS = ("_total", "_seconds", "_bytes", "_size", "_info")
NAME = re.compile(r"hwtrust_[a-z0-9_]+")
SUFFIXES = ("_bucket", "_sum", "_count")


def samples(text: bytes) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample by its name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def value(text: bytes, name: str, **labels: str) -> float:
    """One sample; 0 where there is none yet."""
    return samples(text).get((name, frozenset(labels.items())), 0.0)


def test_what_is_counted_is_shown() -> None:
    """Counters, histograms, gauges and facts are in the exposition with their labels."""
    before = metrics.exposition()
    metrics.ATTESTATIONS.inc(standing="trusted")
    metrics.COMMIT_SIZE.observe(3)
    metrics.WAITING.set(7)
    after = metrics.exposition([Fact(metrics.DEVICES, 5, {"standing": "failed"})])
    gained = value(after, "hwtrust_attestations_total", standing="trusted") - value(
        before, "hwtrust_attestations_total", standing="trusted"
    )
    assert gained == 1
    assert (
        value(after, "hwtrust_commit_batch_size_bucket", le="4.0")
        - value(before, "hwtrust_commit_batch_size_bucket", le="4.0")
        == 1
    )
    assert value(after, "hwtrust_devices_waiting", worker="0") == 7
    assert value(after, "hwtrust_devices", standing="failed") == 5


FIRST = """
import sys
from hwtrust_backend.observe import metrics

metrics.begin_at_zero()
metrics.WEBHOOKS.inc(outcome="delivered")
sys.stdout.buffer.write(metrics.exposition())
"""


def test_what_has_not_happened_yet_is_shown_as_nothing() -> None:
    """Prometheus sees no rise in a series that begins with 1: an alert would miss the first."""
    done = subprocess.run([sys.executable, "-c", FIRST], check=True, capture_output=True)
    shown = samples(done.stdout)
    for metric in METRICS:
        if isinstance(metric, Counter):
            for known in metric.known:
                assert (metric.name, frozenset({(metric.labels[0], known)})) in shown
    assert shown["hwtrust_worker_restarts_total", frozenset()] == 0
    assert shown["hwtrust_webhook_deliveries_total", frozenset({("outcome", "given_up")})] == 0
    assert shown["hwtrust_webhook_deliveries_total", frozenset({("outcome", "delivered")})] == 1


def test_a_process_says_what_it_uses() -> None:
    """Memory, processor time and open files of a worker, in base units."""
    metrics.sample_process(started=1000.0)
    text = metrics.exposition()
    assert value(text, "hwtrust_worker_resident_memory_bytes", worker="0") > 2**20
    assert value(text, "hwtrust_worker_cpu_seconds", worker="0") > 0
    assert value(text, "hwtrust_worker_open_files", worker="0") > 3
    assert value(text, "hwtrust_worker_start_time_seconds", worker="0") == 1000


def test_names_keep_to_the_conventions_of_prometheus() -> None:
    """The prefix, base units at the end, `_total` for counters alone, and no name twice."""
    assert len({metric.name for metric in METRICS}) == len(METRICS) > 20
    for metric in METRICS:
        assert NAME.fullmatch(metric.name)
        assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER), metric.name
        assert metric.meaning.endswith(".")
        if metric.kind is Kind.HISTOGRAM:
            assert metric.name.endswith(UNITS)


def test_importing_metrics_does_not_load_the_client_library() -> None:
    """Whoever counts nothing pays nothing."""
    program = (
        "import sys; import hwtrust_backend.observe.metrics, hwtrust_backend.observe.traces;"
        "print([m for m in sys.modules if m.startswith(('prometheus', 'opentelemetry'))])"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    assert done.stdout.strip() == b"[]"


WORKERS = """
import os, sys
from pathlib import Path
from hwtrust_backend.observe import metrics

directory = Path(sys.argv[1])
metrics.count_in_files(directory)
metrics.become_worker(None)

def worker(number, count):
    process = os.fork()
    if not process:
        metrics.become_worker(number)
        for _ in range(count):
            metrics.REFUSALS.inc(code="challenge:used")
            metrics.COMMIT_SECONDS.observe(0.001)
        metrics.MEMORY.set(100 + number)
        os._exit(0)
    os.waitpid(process, 0)

worker(0, 3)
worker(1, 4)
metrics.forget_worker(0)
worker(0, 5)
metrics.forget_worker(1)
metrics.RESTARTS.inc()
sys.stdout.buffer.write(metrics.exposition())
"""


def test_workers_are_added_up_and_dead_ones_leave_their_counts_behind(tmp_path: Path) -> None:
    """A counter never falls when a worker is replaced; the dead worker's state is gone."""
    command = [sys.executable, "-c", WORKERS, str(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, env={**os.environ})
    text = done.stdout
    assert value(text, "hwtrust_refusals_total", code="challenge:used") == 12
    assert value(text, "hwtrust_commit_duration_seconds_count") == 12
    assert value(text, "hwtrust_worker_resident_memory_bytes", worker="0") == 100
    assert value(text, "hwtrust_worker_resident_memory_bytes", worker="1") == 0
    assert value(text, "hwtrust_worker_restarts_total") == 1
    # Worker 0 was there twice and has one file of each kind.
    assert len(list(tmp_path.glob("counter_0.db"))) == 1
    assert len(list(tmp_path.glob("counter_*.db"))) == 3


# --- what is written about them ---------------------------------------------------------


def base_name(name: str) -> str:
    """A metric's name without what a histogram's series add to it."""
    known = {metric.name for metric in METRICS}
    for suffix in SUFFIXES:
        if name not in known and name.removesuffix(suffix) in known:
            return name.removesuffix(suffix)
    return name


def test_the_documented_metrics_are_those_that_exist() -> None:
    """The table has every metric with its type and labels, and no other."""
    text = (ROOT / "docs" / "operations.md").read_text()
    rows = re.findall(r"^\| `(hwtrust_\w+)` \| (\w+) \| ([^|]*) \| (.+) \|$", text, re.MULTILINE)
    table = {name: (kind, set(re.findall(r"\w+", labels))) for name, kind, labels, _ in rows}
    assert table == {metric.name: (metric.kind.value, set(metric.labels)) for metric in METRICS}
    mentioned = {base_name(name) for name in NAME.findall(text)} - {"hwtrust_backend"}
    assert mentioned <= table.keys()


def test_the_dashboard_asks_for_metrics_and_labels_that_exist() -> None:
    """Each query of the example dashboard, and each alert of the documentation."""
    known = {metric.name: set(metric.labels) for metric in METRICS}
    board = json.loads((ROOT / "docs" / "grafana" / "hwtrust-fleet.json").read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    assert len(queries) > 10
    for query in queries:
        names = {base_name(name) for name in NAME.findall(query)}
        assert names, query
        assert names <= known.keys(), query
        allowed = set().union(*(known[name] for name in names)) | {"le", "instance", "job"}
        grouped = re.findall(r"\bby \(([^)]*)\)", query)
        used = {label for group in grouped for label in re.findall(r"\w+", group)}
        used |= set(re.findall(r"[{,]\s*(\w+)\s*(?:=~|!~|!=|=)", query))
        assert used <= allowed, query


def test_the_panels_of_the_dashboard_do_not_overlap() -> None:
    """Every panel has a place of its own on the grid of 24 columns."""
    board = json.loads((ROOT / "docs" / "grafana" / "hwtrust-fleet.json").read_text())
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


@pytest.mark.parametrize("bad", ["who", "device"])
def test_a_label_that_is_not_declared_is_an_error(bad: str) -> None:
    """Nobody adds a label in passing that could be anything."""
    with pytest.raises(ValueError, match="label"):
        metrics.REFUSALS.inc(1, **{bad: "x"})
