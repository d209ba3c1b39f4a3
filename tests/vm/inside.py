"""The tests for hardware, run in a VM on the TPM that its kernel found."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING

from hwtrust.testing.hardware import CONSENT_VARIABLE
from hwtrust.testing.plugin import TCTI_VARIABLE
from vm.machine import ROOT

if TYPE_CHECKING:
    from vm.machine import Done, Machine

MANAGED, RAW = "/dev/tpmrm0", "/dev/tpm0"

_SECONDS = 1800
_WITHOUT = ("cacheprovider", "faulthandler")


def hardware_tests(
    machine: Machine, *arguments: str, device: str = MANAGED, show: IO[str] | None = None
) -> Done:
    """Run the tests marked `hardware` in the VM, or those of them that `arguments` select.

    Leave for the TPM is given: it lives as long as the VM.
    """
    places = [one for one in arguments if (ROOT / one.partition("::")[0]).exists()]
    machine.run("mkdir", "-p", "/run/tests").good()
    return machine.run(
        *("pytest", "-m", "hardware", "-p", "hwtrust.testing.plugin"),
        *(f"-pno:{name}" for name in _WITHOUT),
        *([] if places else ["tests/hardware"]),
        *arguments,
        environment={
            TCTI_VARIABLE: f"device:{device}",
            CONSENT_VARIABLE: "1",
            "TMPDIR": "/run/tests",
            # Plugins of other packages take long to load where a processor is interpreted.
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        seconds=_SECONDS,
        show=show,
    )
