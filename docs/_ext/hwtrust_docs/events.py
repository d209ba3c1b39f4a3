"""Records of the device's event log, events of the audit trail, topics of webhooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sphinx.pycode import ModuleAnalyzer

from hwtrust.wire import cel as wire_cel
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.cel import CAP, RELOAD, Event, EventKind
from hwtrust_backend.audit.events import Event as AuditEvent
from hwtrust_backend.webhooks.topics import Topic
from hwtrust_docs.markdown import block, code, plain, table, target

if TYPE_CHECKING:
    from collections.abc import Mapping

_SOURCES = {
    "device": "What a device does",
    "backend": "What the backend does by itself",
    "admin": "What an administrator does",
}


def cel(_: Mapping[str, str]) -> list[str]:
    """The kinds of events, and one record as bytes."""
    said = ModuleAnalyzer.for_module(wire_cel.__name__).find_attr_docs()
    rows = [
        (code(kind.name.lower()), str(kind.value), plain(" ".join(said["EventKind", kind.name])))
        for kind in EventKind
    ]
    example = Event(EventKind.LAYER, "kernel", "6.1", bytes(32))
    lines = table(("kind", "value", "meaning"), rows)
    lines += ["A layer `kernel`, version `6.1`, whose digest is all zeros, is this content TLV:"]
    lines += block(example.content().hex(" "))
    lines += ["What is extended into the SHA-256 bank is the hash of these bytes:"]
    lines += block(example.digests([Alg.SHA256])[Alg.SHA256].hex())
    constant = [
        (code(name), code(event.digests([Alg.SHA256])[Alg.SHA256].hex()))
        for name, event in (("cap", CAP), ("reload", RELOAD))
    ]
    lines += ["Two events are the same for everybody; their digests in the SHA-256 bank are:"]
    return [*lines, *table(("event", "SHA-256"), constant)]


def audit(words: Mapping[str, str]) -> list[str]:
    """The events of the audit trail by who acts; the words are the page's own."""
    lines: list[str] = []
    for source, heading in _SOURCES.items():
        events = sorted(one.value for one in AuditEvent if one.value.startswith(f"{source}:"))
        lines += [target("audit", source), f"## {heading}", ""]
        lines += table(("event", "meaning"), [(code(one), words[one]) for one in events])
    return lines


def webhooks(words: Mapping[str, str]) -> list[str]:
    """What webhooks tell of; the words are the page's own."""
    return table(("topic", "meaning"), [(code(one.value), words[one.value]) for one in Topic])
