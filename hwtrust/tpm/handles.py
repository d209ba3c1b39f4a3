"""Where hwtrust keeps its things in a TPM."""

from __future__ import annotations

import msgspec


class Handles(msgspec.Struct, frozen=True):
    """Two persistent handles and an NV index, in the owner's ranges of the TCG's registry."""

    ak: int = 0x81018048
    storage_key: int = 0x81008048
    counter: int = 0x01804857
