"""Which logs a backend wants beside the next evidence; `hwtrust.device.logs` reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from hwtrust.wire.messages import AttestReply


class Wanted(msgspec.Struct, frozen=True):
    """What an answer asked for."""

    names: tuple[str, ...] = ()
    ima_start: int = 0
    ima_pcr: int = 0

    @classmethod
    def by(cls, reply: AttestReply) -> Wanted:
        """What `reply` asks for."""
        return cls(reply.wants, reply.ima_start, reply.ima_pcr)
