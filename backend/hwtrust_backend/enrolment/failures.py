"""What a device last reported to have failed: a step of a load or of an update.

    StepFailure ── note_failure ──▶ the device's row, the trail, a webhook
    a trusted attestation ─ settle ▶ the same report, as past

Rules:
1. A report is what a device says: nothing is decided by it. It tells people where
   to look, and whether the device has got over it.
2. Every text of a report is cut and freed of what a terminal obeys, or turns
   around, before it is kept.
3. A report is past once the device has attested trusted without another one, and
   is not ordered any more to take the release that the report is about.
4. Every report leaves a record; a webhook tells of one that is not the last one
   again.
"""

from __future__ import annotations

import unicodedata
from typing import Final

import msgspec
from sqlalchemy.orm import Session

from hwtrust.wire.messages import Standing, UpdateOrder
from hwtrust.wire.statement import StepFailure
from hwtrust_backend.audit import Event, record
from hwtrust_backend.enrolment.models import Device
from hwtrust_backend.enrolment.states import DeviceState
from hwtrust_backend.observe.metrics import FAILURES
from hwtrust_backend.webhooks import Topic, announce

OTHER_STEP: Final = "other"
"""How a step is counted that this version does not know."""

_REPLACED: Final = "\N{REPLACEMENT CHARACTER}"
_OBEYED: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Categories of Unicode: controls, directions, line ends, and what is no character."""


class KeptFailure(msgspec.Struct, frozen=True, kw_only=True):
    """A device's last report. Times are UTC milliseconds, `device_at` by the device's clock.

    Attributes:
        running: the release that the device claimed to run when it reported.
        times: how often it has reported the same since `first_at`.
        over_at: since when it is past; absent while it is not.
    """

    step: str
    code: str
    layer: str
    release: str
    detail: str
    running: str
    device_at: int
    first_at: int
    at: int
    times: int
    over_at: int | None = None

    @property
    def what(self) -> tuple[str, str, str, str]:
        """What tells it from other failures."""
        return self.step, self.code, self.layer, self.release


_DECODER: Final = msgspec.json.Decoder(KeptFailure)


def plain(text: str) -> str:
    """`text` in one line, with nothing in it that a terminal or a page would obey."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_REPLACED if unicodedata.category(one) in _OBEYED else one for one in text)


def step_label(step: str) -> str:
    """A step as metrics and advice name it."""
    return step if step in FAILURES.known else OTHER_STEP


def failure_of(device: Device | DeviceState) -> KeptFailure | None:
    """What the device last reported, if it ever did."""
    return None if device.failure is None else _DECODER.decode(device.failure)


def note_failure(session: Session, device: DeviceState, failure: StepFailure, *, now: int) -> None:
    """Keep what a device reports, record it, and tell of it if it is news."""
    last = failure_of(device)
    reported = KeptFailure(
        step=plain(failure.step),
        code=plain(failure.code),
        layer=plain(failure.layer),
        release=plain(failure.release),
        detail=plain(failure.detail),
        running=plain(device.release),
        device_at=failure.at_ms,
        first_at=now,
        at=now,
        times=1,
    )
    again = last is not None and last.over_at is None and last.what == reported.what
    if last is not None and again:
        reported = msgspec.structs.replace(reported, first_at=last.first_at, times=last.times + 1)
    device.failure = msgspec.json.encode(reported)
    device.failing_since = reported.first_at
    record(session, Event.FAILURE_REPORTED, now=now, device=device.id, reason=spelled(reported))
    if not again:
        data = {
            "kind": device.kind,
            "group": device.group,
            "step": reported.step,
            "code": reported.code,
            "layer": reported.layer,
            "release": reported.release,
            "detail": reported.detail,
            "running": reported.running,
        }
        announce(session, Topic.FAILURE_REPORTED, device=device.id, data=data, now=now)


def settle(device: DeviceState, *, ordered: UpdateOrder | None, now: int) -> None:
    """Hold the last report for past, if the device has got over it: it reports none now."""
    if device.failing_since is None or device.standing is not Standing.TRUSTED:
        return
    last = failure_of(device)
    if last is None or (ordered is not None and plain(ordered.release) == last.release):
        return
    device.failure = msgspec.json.encode(msgspec.structs.replace(last, over_at=now))
    device.failing_since = None


def spelled(failure: KeptFailure) -> str:
    """`stage of 2.0 failed: update:space (layer kernel): no space left`."""
    place = f" (layer {failure.layer})" if failure.layer else ""
    about = f" of {failure.release}" if failure.release else ""
    detail = f": {failure.detail}" if failure.detail else ""
    return f"{failure.step}{about} failed: {failure.code}{place}{detail}"
