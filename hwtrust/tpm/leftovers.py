"""Sweep a bare TPM: what a killed process left loaded takes up its few slots.

A resource manager (/dev/tpmrm0, tpm2-abrmd) does this when a connection closes.
A bare TPM (swtpm, /dev/tpm0) has one user at a time and three slots of each kind,
and keeps what its last user did not flush. Rule: only a TPM without a resource
manager is swept, where nobody else can be connected.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from hwtrust.tpm.stack import TPM2_CAP

if TYPE_CHECKING:
    from collections.abc import Callable

    from hwtrust.tpm.stack import ESAPI

T = TypeVar("T")

LOADED_RANGES = (0x80000000, 0x02000000, 0x03000000)
"""Transient objects, loaded sessions, saved sessions."""

_SLOTS = 64


class Connected(Protocol):
    """What is needed of a connection; `hwtrust.tpm.connection.Tpm` is one."""

    name: str

    @property
    def esapi(self) -> ESAPI:
        """The ESAPI context."""

    def call(self, command: str, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run one ESAPI function."""

    def flush_handle(self, handle: int) -> None:
        """Flush by TPM handle."""


def is_bare(tcti: str) -> bool:
    """Whether a TCTI string names a TPM that no resource manager stands before."""
    return tcti.startswith(("swtpm", "mssim", "device:/dev/tpm")) and not tcti.startswith(
        "device:/dev/tpmrm"
    )


def loaded(tpm: Connected) -> tuple[int, ...]:
    """The handles of everything transient in the TPM."""
    found: list[int] = []
    for start in LOADED_RANGES:
        _, data = tpm.call(
            "TPM2_GetCapability", tpm.esapi.get_capability, TPM2_CAP.HANDLES, start, _SLOTS
        )
        found += [int(handle) for handle in data.data.handles]
    return tuple(found)


def sweep(tpm: Connected) -> int:
    """Flush everything transient from a bare TPM; gives how much there was."""
    if not is_bare(tpm.name):
        return 0
    handles = loaded(tpm)
    for handle in handles:
        tpm.flush_handle(handle)
    return len(handles)
