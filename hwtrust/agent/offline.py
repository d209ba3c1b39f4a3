"""How long a device goes on while its backend is away.

    last good answer ──── grace ────▶ limited        all of it in the TPM's clock

Rules:
1. The clock is the TPM's: no change of the wall clock stretches the time, and a
   restart of the agent does not begin it anew, for it is kept on disk.
2. The file is not trusted. The root's approval, which the backend has signed, ends
   by the same grace; whichever comes first counts, and without the file it does.
3. The file is written where it would otherwise be behind by more than a part of
   the grace, not at each heartbeat. After a restart the time may thus end early.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import msgspec

from hwtrust.errors import StateError
from hwtrust.files import read_limited, write_atomic

if TYPE_CHECKING:
    from pathlib import Path

    from hwtrust.device.results import Lease

_FILE_LIMIT = 4096
_PARTS = 64
_LONGEST_BEHIND_MS = 600_000


class _Answered(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When the backend last answered, by the TPM's clock, and what it allows. Milliseconds."""

    clock_ms: int
    grace_ms: int


class OfflineGrace:
    """The time that is left to a device without its backend."""

    def __init__(self, path: Path) -> None:
        """`path` is the file, in the device's state directory."""
        self._path = path
        self._kept: _Answered | None = None
        # A damaged file is as good as none: rule 2.
        with contextlib.suppress(StateError, msgspec.MsgspecError, UnicodeDecodeError):
            data = read_limited(path, limit=_FILE_LIMIT)
            self._kept = msgspec.json.decode(data, type=_Answered)
        self._last = self._kept

    def answered(self, clock_ms: int, *, grace_ms: int) -> None:
        """The backend has answered at `clock_ms`, and allows `grace_ms` (0: says nothing of it).

        Raises:
            StateError: it cannot be kept on disk; it counts until the agent ends.
        """
        self._last = answered = _Answered(clock_ms, grace_ms)
        kept = self._kept
        behind = min(grace_ms // _PARTS, _LONGEST_BEHIND_MS)
        if (
            kept is None
            or kept.grace_ms != grace_ms
            or not (0 <= clock_ms - kept.clock_ms <= behind)
        ):
            write_atomic(self._path, msgspec.json.encode(answered))
            self._kept = answered

    def left(self, lease: Lease) -> int:
        """Milliseconds of the TPM's clock until the device is limited; 0: it is."""
        ends = lease.not_after_ms
        if self._last is not None and self._last.grace_ms > 0:
            ends = min(ends, self._last.clock_ms + self._last.grace_ms)
        return max(0, ends - lease.clock_ms)
