"""Which TPMs this machine has, which of them to use, and why one cannot be used.

    udev (tpm, tpmrm) ─▶ Candidate… ─▶ preferred: /dev/tpmrm0 ─▶ open_tpm ─▶ Identity

Rules:
1. The resource-managed device is preferred: it swaps contexts, so that several
   programs share the TPM. The raw one is used only where there is no other, or
   where it is asked for.
2. Every reason not to work has its own error: none, permission, busy, version,
   failure mode, lockout.
3. Looking changes nothing: a device file is opened and closed, no command of it
   alters the TPM.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from hwtrust.errors import (
    TpmError,
    TpmFailureModeError,
    TpmLockoutError,
    TpmNotFoundError,
    TpmVersionError,
)
from hwtrust.tpm.connection import Tpm
from hwtrust.tpm.leftovers import sweep
from hwtrust.tpm.response import RC_FAILURE, SYS_GENERAL_FAILURE, translate_open
from hwtrust.tpm.stack import TPM2_CAP

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from hwtrust.tpm.stack import TCTI

_PT_FIXED, _PT_VAR = 0x100, 0x200
_MANUFACTURER, _VENDOR_STRINGS = 0x105, range(0x106, 0x10A)
_REVISION, _FIRMWARE_1, _FIRMWARE_2 = 0x102, 0x10B, 0x10C
_PERMANENT, _LOCKOUT_COUNTER = 0x200, 0x20E
_LOCKOUT_INTERVAL, _LOCKOUT_RECOVERY = 0x210, 0x211
_OWNER_AUTH_SET, _LOCKOUT_AUTH_SET, _IN_LOCKOUT = 1 << 0, 1 << 2, 1 << 9


class UdevDevice(Protocol):
    """What is read of a pyudev device."""

    @property
    def device_node(self) -> str | None:
        """Its device file."""

    @property
    def subsystem(self) -> str | None:
        """`tpm` or `tpmrm`."""

    @property
    def sys_path(self) -> str:
        """Its directory in sysfs."""


class Candidate(msgspec.Struct, frozen=True):
    """A TPM device file. `problem` says why this user cannot open it, if so."""

    path: str
    resource_managed: bool
    major_version: int | None
    problem: TpmError | None

    @property
    def tcti(self) -> str:
        """The TCTI string that names it."""
        return f"device:{self.path}"


class Identity(msgspec.Struct, frozen=True):
    """What a TPM says of itself; unsigned, for people.

    `lockout_recovery` is in seconds.
    """

    manufacturer: str
    vendor: str
    revision: str
    firmware_version: int
    owner_auth_set: bool
    lockout_auth_set: bool
    in_lockout: bool
    lockout_counter: int
    lockout_recovery: int


def discover(
    enumerate_devices: Callable[[], Iterable[UdevDevice]] | None = None,
) -> list[Candidate]:
    """The TPM device files that udev knows, resource-managed ones first."""
    devices = (enumerate_devices or _udev_devices)()
    found = [
        Candidate(
            path=device.device_node,
            resource_managed=device.subsystem == "tpmrm",
            major_version=_major_version(device),
            problem=_why_not(device.device_node),
        )
        for device in devices
        if device.device_node
    ]
    return sorted(found, key=lambda candidate: (not candidate.resource_managed, candidate.path))


def preferred(candidates: Iterable[Candidate]) -> Candidate:
    """The first resource-managed TPM 2.0 that can be opened; a raw one where no other is.

    Raises:
        TpmNotFoundError: there is none at all.
        TpmVersionError: there are only older ones.
        TpmPermissionError, TpmBusyError: why the best one cannot be opened.
    """
    candidates = list(candidates)
    if not candidates:
        raise TpmNotFoundError("no TPM: udev knows no device of the subsystems tpm and tpmrm")
    usable = [item for item in candidates if item.major_version in {2, None}]
    if not usable:
        raise TpmVersionError(f"{candidates[0].path} is a TPM 1.2", path=candidates[0].path)
    managed = [item for item in usable if item.resource_managed] or usable
    for candidate in managed:
        if candidate.problem is None:
            return candidate
    problem = managed[0].problem
    assert problem is not None  # noqa: S101 - every candidate without one was returned
    raise problem


def open_tpm(
    tcti: str | None = None,
    *,
    owner_auth: bytes = b"",
    wrap: Callable[[TCTI], TCTI] | None = None,
) -> Tpm:
    """Open the TPM that `tcti` names, or the preferred one, and see that it works.

    Raises:
        TpmError: one of the causes that this module tells apart.
    """
    name = tcti or preferred(discover()).tcti
    if name.startswith("device:"):
        problem = _why_not(name.removeprefix("device:"))
        if problem is not None:
            raise problem
    tpm = Tpm(name, owner_auth=owner_auth, wrap=wrap)
    try:
        _require_working(tpm)
        sweep(tpm)
    except BaseException:
        tpm.close()
        raise
    return tpm


def identify(tpm: Tpm) -> Identity:
    """Read a TPM's properties. TPM2_GetCapability, Part 3 §30.2."""
    fixed = _properties(tpm, _PT_FIXED, 16)
    if not fixed:
        raise TpmVersionError(f"{tpm.name} does not answer as a TPM 2.0 does")
    variable = _properties(tpm, _PT_VAR, 24)
    permanent = variable.get(_PERMANENT, 0)
    return Identity(
        manufacturer=_text(fixed.get(_MANUFACTURER, 0)),
        vendor="".join(_text(fixed.get(item, 0)) for item in _VENDOR_STRINGS),
        revision=f"{fixed.get(_REVISION, 0) / 100:.2f}",
        firmware_version=fixed.get(_FIRMWARE_1, 0) << 32 | fixed.get(_FIRMWARE_2, 0),
        owner_auth_set=bool(permanent & _OWNER_AUTH_SET),
        lockout_auth_set=bool(permanent & _LOCKOUT_AUTH_SET),
        in_lockout=bool(permanent & _IN_LOCKOUT),
        lockout_counter=variable.get(_LOCKOUT_COUNTER, 0),
        lockout_recovery=variable.get(_LOCKOUT_INTERVAL, 0),
    )


def require_no_lockout(identity: Identity) -> None:
    """Refuse to set up a device whose TPM is locked out.

    A running device goes on: no object of hwtrust is subject to the lockout.

    Raises:
        TpmLockoutError: names the time after which the TPM forgives one failure.
    """
    if identity.in_lockout:
        seconds = identity.lockout_recovery
        message = f"the TPM is in dictionary-attack lockout; it forgives one failure in {seconds} s"
        raise TpmLockoutError(message, recovery=seconds)


def _require_working(tpm: Tpm) -> None:
    try:
        _, result = tpm.call("TPM2_GetTestResult", tpm.esapi.get_test_result)
    except TpmError as error:
        if error.data.get("rc") != SYS_GENERAL_FAILURE:
            raise
        message = f"{tpm.name} does not answer as a TPM 2.0 does"
        raise TpmVersionError(message, tcti=tpm.name) from error
    if int(result) == RC_FAILURE:
        raise TpmFailureModeError(f"the TPM at {tpm.name} is in failure mode", tcti=tpm.name)


def _properties(tpm: Tpm, first: int, count: int) -> dict[int, int]:
    _, data = tpm.call(
        "TPM2_GetCapability", tpm.esapi.get_capability, TPM2_CAP.TPM_PROPERTIES, first, count
    )
    return {int(item.property): int(item.value) for item in data.data.tpmProperties}


def _text(value: int) -> str:
    raw = value.to_bytes(4, "big").rstrip(b"\0 ")
    return raw.decode("ascii", errors="replace")


def _udev_devices() -> Iterable[UdevDevice]:
    import pyudev  # noqa: PLC0415 - only discovery needs it

    context = pyudev.Context()
    for subsystem in ("tpmrm", "tpm"):
        yield from context.list_devices(subsystem=subsystem)


def _major_version(device: UdevDevice) -> int | None:
    if device.subsystem == "tpmrm":
        return 2  # the kernel makes a resource-managed device for no other
    try:
        return int((Path(device.sys_path) / "tpm_version_major").read_text().strip())
    except (OSError, ValueError):
        return None


def _why_not(path: str) -> TpmError | None:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return TpmNotFoundError(f"there is no {path}", path=path)
    except OSError as error:
        return translate_open(error, path, _group_of(path))
    os.close(descriptor)
    return None


def _group_of(path: str) -> str:
    try:
        return Path(path).group()
    except (OSError, KeyError):
        return "tss"
