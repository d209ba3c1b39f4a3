"""Every target, by its name."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from hwtrust.errors import HwTrustError

if TYPE_CHECKING:
    from fuzz.target import Target


def modules() -> dict[str, dict[str, Target]]:
    """The tables of all modules `fuzz_*.py`, by the module's name."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("fuzz_*.py"))
    return {name: table_of(name) for name in names}


def table_of(module: str) -> dict[str, Target]:
    """The table of one of them."""
    table: dict[str, Target] = importlib.import_module(f"fuzz.{module}").TARGETS
    return table


def every_target() -> dict[str, Target]:
    """The tables of all of them, in one."""
    found: dict[str, Target] = {}
    for table in modules().values():
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
