"""A device in the field, for tests of what runs on it.

    with EnrolledDevice(site) as unit:
        unit.keystore.put("payments/transport", b"secret")
        unit.reboot()
        assert unit.keystore["payments/transport"] == b"secret"

It enrols, boots and attests when it is entered, and is open from then on. What a
test does to it is what happens to one in the field: `reboot`, `change` of a byte
on the disk, `steal_disk` and `return_disk`, the faults of its `tpm`, the clock
and the decisions of its `backend`.

`device` is the library's own object; nothing here stands between it and a test.
"""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Self

from hwtrust.errors import KeyStoreLockedError

if TYPE_CHECKING:
    from types import TracebackType

    from hwtrust.device import AttestResult, Condition, Device, DeviceConfig
    from hwtrust.keys.keystore import KeyStore
    from hwtrust.testing.site import Site
    from hwtrust.testing.swtpm import Swtpm
    from hwtrust_backend.testing import BackendServer


class EnrolledDevice:
    """A device that is enrolled, booted and attested; a context manager.

    `site` is where it stands, `name` its EK's Name, by which the backend knows it,
    `conditions` what the host application was told, the oldest first.
    """

    def __init__(self, site: Site) -> None:
        self.site = site
        self.name = b""
        self.conditions: list[Condition] = []
        self._open = contextlib.ExitStack()
        self._device: Device | None = None

    def __enter__(self) -> Self:
        """Enrol, boot and attest."""
        device = self.open()
        try:
            self.name = device.enrol(token=self.site.token()).device
            device.boot()
            device.attest()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    @property
    def device(self) -> Device:
        """The open device.

        Raises:
            KeyStoreLockedError: it is closed: `open` it, or `reboot`.
        """
        if self._device is None:
            raise KeyStoreLockedError("the device is closed")
        return self._device

    @property
    def keystore(self) -> KeyStore:
        """Its key store.

        Raises:
            KeyStoreLockedError: it is closed, or has not booted.
        """
        return self.device.keystore

    @property
    def tpm(self) -> Swtpm:
        """Its TPM."""
        return self.site.tpm

    @property
    def backend(self) -> BackendServer:
        """Its backend."""
        return self.site.backend

    @property
    def config(self) -> DeviceConfig:
        """Its configuration, for a program that opens the device itself; `close` it first."""
        return self.site.config

    @property
    def config_path(self) -> Path:
        """The file of its configuration."""
        return self.site.config_path

    def open(self) -> Device:
        """Open it as a program does that has just started; nothing is loaded yet.

        Raises:
            TpmError, StateError, ConfigError: as `Device.open`.
        """
        self.close()
        self._device = self._open.enter_context(self.site.open(on_condition=self.conditions.append))
        return self._device

    def close(self) -> None:
        """Close it, as the program's end does; harmless when repeated."""
        self._device = None
        self._open.close()

    def reboot(self, *, boot: bool = True) -> Device:
        """Restart the machine: the TPM is reset, the firmware runs, the program starts.

        `boot` has it load as well: whatever keeps it from that is raised.
        """
        self.close()
        self.tpm.reboot()
        self.site.start_firmware()
        device = self.open()
        if boot:
            device.boot()
        return device

    def attest(self) -> AttestResult:
        """Attest once, and take a new root where one is offered."""
        return self.device.attest()

    def rotate(self) -> AttestResult:
        """Have the backend ask for the next root, and take it."""
        self.backend.rotate(self.name)
        return self.attest()

    def change(self, layer: str) -> None:
        """Change one byte of a layer on the disk."""
        self.site.change(layer)

    def steal_disk(self) -> Path:
        """A copy of all that the device keeps on its disk, as it is now."""
        copy = self.site.home / "stolen"
        shutil.rmtree(copy, ignore_errors=True)
        return Path(shutil.copytree(self.config.state_dir, copy))

    def return_disk(self, copy: Path) -> None:
        """Put an earlier copy in the place of what the device keeps now. It is closed by that."""
        self.close()
        shutil.rmtree(self.config.state_dir)
        shutil.copytree(copy, self.config.state_dir)
