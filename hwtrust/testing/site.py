"""A whole site for a test: a TPM with its vendor, a backend, and a device with layers.

    site = Site(tmp_path, tpm, backend)
    with site.open() as device:
        device.enrol(token=site.token())

Everything is real but the TPM's hardware and the time of the backend. Needs the
`device` extra and hwtrust-backend.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from tpm2_pytss import ESAPI, ESYS_TR

from hwtrust.device import Device, DeviceConfig
from hwtrust.device.results import unwatched
from hwtrust.errors import EkAuthorityConflictError
from hwtrust.layers import reference
from hwtrust.wire.messages import Release
from hwtrust_backend.publishing.models import RootState
from hwtrust_backend.publishing.service import roots_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tpm2_pytss.TCTI import TCTI

    from hwtrust.device import Condition
    from hwtrust.testing.manufacture import Vendor
    from hwtrust.testing.swtpm import Swtpm
    from hwtrust.tpm.tcti import Exchange
    from hwtrust_backend.testing import BackendServer

LAYERS = ("root-of-trust", "system", "kernel", "frontend")
APPLICATION_PCR = 8


def _some(layer: str) -> bytes:
    """The content of a layer that nobody gave one."""
    return f"layer {layer}\n".encode() * 64


class Site:
    """One device and its surroundings, set up as `hwtrust init` does; not enrolled yet.

    `home` has its configuration, its state and its layers: some bytes for each name of
    `layers`, or the bytes that it says. They are release `release`, which the backend
    accepts from now on, as it trusts the TPM's vendor.
    """

    def __init__(
        self,
        home: Path,
        tpm: Swtpm,
        backend: BackendServer,
        vendor: Vendor,
        *,
        layers: Iterable[str] | Mapping[str, bytes] = LAYERS,
        release: str = "1.0",
        platform_pcrs: tuple[int, ...] = (),
        tls_key: str = "attested",
    ) -> None:
        self.home = home
        self.tpm = tpm
        self.backend = backend
        self.config_path = home / "hwtrust.toml"
        contents = layers if isinstance(layers, Mapping) else {name: _some(name) for name in layers}
        for name, content in contents.items():
            (home / name).write_bytes(content)
        references = tuple(reference(name, release, home / name) for name in contents)
        self.release = Release(name=release, layers=references)
        with suppress(EkAuthorityConflictError):  # it does already
            backend.add_ek_ca(vendor.ca_pem)
        backend.accept(self.release)
        (home / "release.json").write_bytes(msgspec.json.encode(self.release))
        (home / "trust.json").write_bytes(backend.trust_file.read_bytes())
        lines = [
            'state_dir = "state"',
            'trust = "trust.json"',
            'release = "release.json"',
            f'tls_key = "{tls_key}"',
            "[tpm]",
            f'tcti = "{tpm.tcti}"',
            f"pcr = {APPLICATION_PCR}",
            f"platform_pcrs = {list(platform_pcrs)}",
            'banks = ["sha1", "sha256"]',
            "[layers]",
            *(f'"{name}" = "{home / name}"' for name in contents),
        ]
        self.config_path.write_text("\n".join(lines))
        self.platform_pcrs = platform_pcrs
        self.start_firmware()

    def start_firmware(self) -> None:
        """Measure something into each platform PCR, as firmware does after a reset."""
        for pcr in self.platform_pcrs:
            with ESAPI(self.tpm.tcti) as esapi:
                esapi.pcr_event(ESYS_TR(pcr), b"firmware")

    @property
    def config(self) -> DeviceConfig:
        """The device's configuration."""
        return DeviceConfig.load(self.config_path)

    def token(self) -> str:
        """A fresh enrolment token."""
        return self.backend.token()

    @contextmanager
    def open(
        self,
        *,
        on_command: Callable[[Exchange], None] | None = None,
        wrap_tcti: Callable[[TCTI], TCTI] | None = None,
        on_condition: Callable[[Condition], None] = unwatched,
    ) -> Iterator[Device]:
        """The device, open."""
        with Device.open(
            self.config, on_command=on_command, wrap_tcti=wrap_tcti, on_condition=on_condition
        ) as device:
            yield device

    def enrol(self) -> bytes:
        """Enrol, boot and attest once; gives the device's name."""
        with self.open() as device:
            identity = device.enrol(token=self.token())
            device.boot()
            device.attest()
        return identity.device

    def backend_epoch(self, name: bytes) -> int:
        """The epoch of the root that the backend holds for active."""
        with self.backend.session() as session:
            (active,) = [
                root for root in roots_of(session, name.hex()) if root.state is RootState.ACTIVE
            ]
            return active.epoch

    def change(self, layer: str) -> None:
        """Change one byte of a layer."""
        content = bytearray((self.home / layer).read_bytes())
        content[0] ^= 1
        (self.home / layer).write_bytes(content)
