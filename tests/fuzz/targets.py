"""Every target, by its name."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from hwtrust.errors import HwTrustError

if TYPE_CHECKING:
    from fuzz.target import Target


def every_target() -> dict[str, Target]:
    """The tables of all modules `fuzz_*.py`, in one."""
    found: dict[str, Target] = {}
    for path in sorted(Path(__file__).parent.glob("fuzz_*.py")):
        table: dict[str, Target] = importlib.import_module(f"fuzz.{path.stem}").TARGETS
        doubled = found.keys() & table.keys()
        if doubled:
            raise LookupError(f"two targets have one name: {sorted(doubled)}")
        found |= table
    return found


def tried(target: Target, data: bytes) -> bool:
    """Whether `data` is taken; refused is what ends in an error of the tree. Nothing else may."""
    try:
        target.decode(data)
    except HwTrustError:
        return False
    return True
