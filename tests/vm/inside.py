"""The tests for hardware, run in a VM on the TPM that its kernel found."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from typing import IO, TYPE_CHECKING

from hwtrust.testing.hardware import CONSENT_VARIABLE
from hwtrust.testing.plugin import TCTI_VARIABLE
from vm.machine import ROOT

if TYPE_CHECKING:
    from vm.machine import Done, Machine

MANAGED, RAW = "/dev/tpmrm0", "/dev/tpm0"

_SECONDS = 3600
_OPTIONS = (
    *("-m", "hardware", "-p", "hwtrust.testing.plugin"),
    *("-pno:cacheprovider", "-pno:faulthandler"),
)
# Plugins of other packages take long to load where a processor is interpreted.
_ENVIRONMENT = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


def hardware_tests(
    machine: Machine, *arguments: str, device: str = MANAGED, show: IO[str] | None = None
) -> Done:
    """Run the tests marked `hardware` in the VM, or those of them that `arguments` select.

    Leave for the TPM is given: it lives as long as the VM.
    """
    compile_tests()
    left_out = [arguments[place + 1] for place, one in enumerate(arguments) if one == "--ignore"]
    places = [one for one in arguments if (ROOT / one.partition("::")[0]).exists()]
    machine.run("mkdir", "-p", "/run/tests").good()
    return machine.run(
        "pytest",
        *_OPTIONS,
        *([] if set(places) - set(left_out) else ["tests/hardware"]),
        *arguments,
        environment={
            **_ENVIRONMENT,
            TCTI_VARIABLE: f"device:{device}",
            CONSENT_VARIABLE: f"device:{device}",
            "TMPDIR": "/run/tests",
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        seconds=_SECONDS,
        show=show,
    )


@cache
def compile_tests() -> None:
    """Have the host compile what the VM would compile, which reads the host's files."""
    subprocess.run(
        [sys.executable, "-m", "pytest", *_OPTIONS, "--collect-only", "-q", "tests/hardware"],
        cwd=ROOT,
        env=os.environ | _ENVIRONMENT,
        check=True,
        capture_output=True,
    )
    subprocess.run([sys.executable, "-m", "compileall", "-q", "hwtrust"], cwd=ROOT, check=True)
