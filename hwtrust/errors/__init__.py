"""Every error that hwtrust raises, in one tree, each with a stable code.

    base ── evidence · root · tpm · device · and those of `LATER`

Import them from here; the modules only keep the tree readable. Those of `LATER` are
loaded when one of their errors is first asked for: a device that boots needs none.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

from hwtrust.errors.base import *
from hwtrust.errors.base import HwTrustError
from hwtrust.errors.device import *
from hwtrust.errors.evidence import *
from hwtrust.errors.root import *
from hwtrust.errors.tpm import *

if TYPE_CHECKING:
    from hwtrust.errors.admin import *
    from hwtrust.errors.agent import *
    from hwtrust.errors.ak import *
    from hwtrust.errors.anchors import *
    from hwtrust.errors.audit import *
    from hwtrust.errors.azure import *
    from hwtrust.errors.backend import *
    from hwtrust.errors.cca import *
    from hwtrust.errors.cmw import *
    from hwtrust.errors.cose import *
    from hwtrust.errors.dcap import *
    from hwtrust.errors.enclave import *
    from hwtrust.errors.enrolment import *
    from hwtrust.errors.forms import *
    from hwtrust.errors.logs import *
    from hwtrust.errors.nitro import *
    from hwtrust.errors.nvidia import *
    from hwtrust.errors.operations import *
    from hwtrust.errors.pages import *
    from hwtrust.errors.repository import *
    from hwtrust.errors.results import *
    from hwtrust.errors.schedule import *
    from hwtrust.errors.snp import *
    from hwtrust.errors.testing import *
    from hwtrust.errors.updates import *

LATER: Final = (
    "updates",
    "enrolment",
    "agent",
    "admin",
    "ak",
    "anchors",
    "audit",
    "azure",
    "backend",
    "cca",
    "cmw",
    "cose",
    "dcap",
    "enclave",
    "forms",
    "logs",
    "nitro",
    "nvidia",
    "operations",
    "pages",
    "repository",
    "results",
    "schedule",
    "snp",
    "testing",
)
"""Modules of errors; a name is sought in this order."""

if not TYPE_CHECKING:  # to whom every name would be known

    def __getattr__(name: str) -> object:
        """An error of a module that nobody has needed yet."""
        for module in LATER:
            found = getattr(importlib.import_module(f"{__name__}.{module}"), name, None)
            if isinstance(found, type) and issubclass(found, HwTrustError):
                globals()[name] = found
                return found
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def all_errors() -> dict[str, type[HwTrustError]]:
    """Every error class by its code, in alphabetical order of the codes."""
    for module in LATER:
        importlib.import_module(f"{__name__}.{module}")
    found: dict[str, type[HwTrustError]] = {}
    pending: list[type[HwTrustError]] = [HwTrustError]
    while pending:
        cls = pending.pop()
        found[cls.code] = cls
        pending.extend(cls.__subclasses__())
    return dict(sorted(found.items()))
