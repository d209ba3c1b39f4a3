"""The logs of firmware and kernel, read when the backend wants them.

    AttestReply.wants ─▶ quote ─▶ read ─▶ Evidence with logs ─▶ the next piece, until none is wanted

Rules:
1. A log is read after the quote: one that is longer than what was quoted does no harm,
   a shorter one proves nothing.
2. Of the kernel's log only what the backend has not seen is sent, as much as a message
   holds; the rest comes with the attestations that follow.
3. Where a piece was refused, the log is sent from its beginning again, once.
4. A log that cannot be read is a failure that the backend is told of; the device
   attests without it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from hwtrust.device.failures import failure_of
from hwtrust.errors import HwTrustError, StateDamagedError
from hwtrust.files import state_error
from hwtrust.wire.messages import FIRMWARE_LOG, FIRMWARE_LOG_LIMIT, IMA_LIMIT, IMA_LOG, ImaPart

if TYPE_CHECKING:
    from hwtrust.device.context import DeviceContext
    from hwtrust.wire.messages import Evidence

ROOM: Final = 640 * 1024
"""Bytes of both logs in one message: in base64 below the mebibyte that backends take."""
_LEAST: Final = 64 * 1024
_CHUNK: Final = 1024 * 1024


def has_logs(device: DeviceContext) -> bool:
    """Whether this device has any of the logs that are wanted."""
    tpm, names = device.config.tpm, device.wanted.names
    return bool((tpm.firmware_log and FIRMWARE_LOG in names) or (tpm.ima_log and IMA_LOG in names))


def with_logs(device: DeviceContext, evidence: Evidence) -> Evidence:
    """`evidence`, which was quoted a moment ago, with the logs that are wanted of it."""
    tpm, wanted = device.config.tpm, device.wanted
    firmware, ima = b"", None
    try:
        if tpm.firmware_log and FIRMWARE_LOG in wanted.names:
            firmware = _read(tpm.firmware_log, limit=FIRMWARE_LOG_LIMIT)
        room = min(IMA_LIMIT, ROOM - len(firmware))
        if tpm.ima_log and IMA_LOG in wanted.names and room >= _LEAST:
            start = 0 if device.afresh else wanted.ima_start
            ima = _part(tpm.ima_log, start, wanted.ima_pcr, room)
    except HwTrustError as error:
        release = device.release.name
        device.note_failure(failure_of(error, step="attest", layer="", release=release))
    return msgspec.structs.replace(evidence, firmware_log=firmware, ima=ima)


def _part(path: str, start: int, pcr: int, room: int) -> ImaPart:
    from hwtrust.wire.logs.ima import MAX_LOG, ImaLog  # noqa: PLC0415 - rarely needed
    from hwtrust.wire.logs.ima_part import part_of  # noqa: PLC0415 - as above

    log = ImaLog.decode(_read(path, limit=MAX_LOG))
    entries, more = part_of(log, pcr=pcr, start=start, size=room)
    if len(entries) > IMA_LIMIT:
        message = f"{path}: entry {start} is longer than a message can hold"
        raise StateDamagedError(message, path=path, limit=IMA_LIMIT)
    return ImaPart(start=start, entries=entries, more=more)


def _read(path: str, *, limit: int) -> bytes:
    """The whole file, chunk by chunk: what the kernel shows has no size.

    Raises:
        StateError: it cannot be read, or is longer than `limit`.
    """
    data = bytearray()
    try:
        with Path(path).open("rb", buffering=0) as file:
            while chunk := file.read(_CHUNK):
                data += chunk
                if len(data) > limit:
                    message = f"{path} is longer than {limit} bytes"
                    raise StateDamagedError(message, path=path, limit=limit)
    except OSError as error:
        raise state_error(error, path) from error
    return bytes(data)
