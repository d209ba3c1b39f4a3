"""Layers, the register that they are measured into, and the log that explains it.

    log       layer ─▶ … ─▶ layer ─▶ reload ─▶ layer ─▶ …     SHA-384 of each event
    register  the same, where the anchor has registers (TDX, Nitro)

Rules:
1. A layer is measured, compared with its reference value, then extended. The first that
   differs is extended as a violation, and the load stops there.
2. Where there is a register, a record is on disk before its event is extended, as
   `hwtrust.measure` does it for a TPM: a log that is one record ahead of the register
   is cut back, any other difference is a conflict.
3. A register that can be locked is locked once all layers are in it: only then does the
   evidence hold it. From then on it explains one load alone; another in the same boot
   has to be of the same layers.
4. Without a register the log is what the measured code says, and begins anew with each
   load: the launch measurement vouches for that code.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

from hwtrust.anchors.protocols import Kind
from hwtrust.errors import (
    ConfigError,
    EnclaveRegisterError,
    LayerMismatchError,
    RegisterLockedError,
    StateMissingError,
)
from hwtrust.files import read_limited, write_atomic
from hwtrust.layers import measure
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.cel import LOG_LIMIT, RELOAD, Event, EventKind, EventLog
from hwtrust.wire.states import layer_event, layer_events

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from hwtrust.anchors.protocols import Anchor
    from hwtrust.wire.messages import LayerReference, Release

BANK: Final = Alg.SHA384
"""Of all records: registers of enclaves are of SHA-384."""
RESET_VALUE: Final = bytes(48)

_DEFAULTS: Final = {Kind.TDX: "rtmr3", Kind.NITRO: "pcr16"}


@runtime_checkable
class Locking(Protocol):
    """A measurer whose registers can be locked until the next start."""

    def lock(self, register: str) -> None:
        """Let nothing extend it any more."""


def register_value(events: Iterable[Event], initial: bytes = RESET_VALUE) -> bytes:
    """Fold `events` over a register that holds `initial`, 48 bytes."""
    value = initial
    for event in events:
        value = hashlib.sha384(value + event.digests((BANK,))[BANK]).digest()
    return value


class Measured:
    """The layers of one enclave as they were measured."""

    def __init__(self, anchor: Anchor, *, register: str, path: Path) -> None:
        """`register` is by default the anchor's own; `path` is the log's file.

        Raises:
            ConfigError: the anchor has no such register.
        """
        self._measurer = anchor.measurer
        self._register = register or _DEFAULTS.get(anchor.kind, "")
        if anchor.measurer is not None and self._register not in anchor.measurer.registers:
            message = f"register: the {anchor.kind} anchor has no {self._register!r} to extend"
            raise ConfigError(message, register=self._register)
        if anchor.measurer is None and register:
            raise ConfigError(f"register: the {anchor.kind} anchor has none", register=register)
        self._path = path
        self.log = EventLog()

    @property
    def number(self) -> int:
        """The register's number, as it stands in the log's records; 0 where there is none."""
        digits = "".join(filter(str.isdigit, self._register))
        return int(digits) if self._measurer is not None and digits else 0

    def load(
        self,
        release: Release,
        places: Mapping[str, str],
        *,
        on_layer: Callable[[str, LayerReference], None],
    ) -> None:
        """Measure, compare and extend each layer, in order.

        `on_layer` is told what is done before it is: `measure`, `verify` or `extend`.

        Raises:
            LayerUnreadableError: a layer cannot be read.
            LayerMismatchError: a layer differs; a violation has been extended.
            EnclaveRegisterError: the register holds what the log does not explain, or was
                locked with other layers in it.
            AnchorError: the hardware refused.
            StateError: the log cannot be kept.
        """
        self._synchronise()
        locked = bool(self.log.records) and not self._extended(RELOAD)
        for layer in release.layers:
            on_layer("measure", layer)
            found = measure(Path(places[layer.name]))
            if found != layer.digest:
                on_layer("verify", layer)
                violation = Event(EventKind.VIOLATION, layer.name, layer.version, found)
                if not locked:
                    self._extended(violation)
                    self._lock()
                message = f"layer {layer.name} is not what release {release.name} says"
                raise LayerMismatchError(
                    message, layer=layer.name, expected=layer.digest.hex(), found=found.hex()
                )
            on_layer("extend", layer)
            if not locked:
                self._extend(layer_event(layer))
        if locked and self.log.events != layer_events(release):
            message = f"{self._register} was locked with other layers in it: restart the enclave"
            raise EnclaveRegisterError(message, register=self._register)
        self._lock()

    def _synchronise(self) -> None:
        """Rule 2, and rule 4."""
        self.log = EventLog()
        if self._measurer is None:
            return
        value = self._measurer.read(self._register)
        if value == RESET_VALUE:
            return
        log = kept = self._read()
        if register_value(log.events) != value:
            log = log.without_last()
        if register_value(log.events) != value:
            raise EnclaveRegisterError(
                f"{self._register} holds what the event log does not explain",
                register=self._register,
            )
        self.log = log
        if log != kept:
            self._write(log)

    def _extend(self, event: Event) -> None:
        if not self._extended(event):
            message = f"{self._register} is locked, and holds no layers"
            raise EnclaveRegisterError(message, register=self._register)

    def _extended(self, event: Event) -> bool:
        """Extend; False: the register is locked."""
        grown = self.log.appended(event, pcr=self.number, banks=(BANK,))
        if self._measurer is not None:
            self._write(grown)
            try:
                self._measurer.extend(self._register, event.digests((BANK,))[BANK])
            except RegisterLockedError:
                self._write(self.log)
                return False
        self.log = grown
        return True

    def _lock(self) -> None:
        measurer: object = self._measurer
        if isinstance(measurer, Locking):
            measurer.lock(self._register)

    def _read(self) -> EventLog:
        try:
            return EventLog.recover(read_limited(self._path, limit=LOG_LIMIT))
        except StateMissingError:
            return EventLog()

    def _write(self, log: EventLog) -> None:
        write_atomic(self._path, log.encode())
