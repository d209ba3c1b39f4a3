"""Arm CCA: a realm's token, through configfs-tsm.

A realm has neither a key to seal with nor registers that hwtrust can reach: it gets its
root by attested release to an ephemeral key that the report data binds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hwtrust.anchors.tsm import TsmAttester

if TYPE_CHECKING:
    from hwtrust.anchors.tsm import Tsm

PROVIDER: Final = "arm_cca_guest"


def cca_attester(tsm: Tsm) -> TsmAttester:
    """Makes CCA tokens; the report data is the realm's challenge, 64 bytes."""
    return TsmAttester(tsm, provider=PROVIDER)
