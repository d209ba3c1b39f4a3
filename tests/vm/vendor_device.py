"""A vendor's device in a VM: layers in slots on its disk, releases in its backend's repository.

device = VendorDevice(machine, backend, tmp_path)
device.set_up("--platform-pcrs", "4")
device.enrol()
device.publish("2.0", frontend=b"the next frontend")

What it keeps in its key store, `secret` gives back.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from hwtrust.layers import reference
from hwtrust.wire.messages import Release, TrustAnchor
from simulators.vendor import Vendor as Publisher
from vm.device_work import AT_STEP, ENTRY
from vm.machine import ROOT, STATE

if TYPE_CHECKING:
    from hwtrust_backend.testing import BackendServer
    from vm.machine import Done, Machine

HOME: Final = Path(STATE)
CONFIG: Final = str(HOME / "hwtrust.toml")
KEPT: Final = "kept"
LAYERS: Final = ("kernel", "frontend")
_WORK: Final = ("python", str(ROOT / "tests" / "vm" / "device_work.py"), CONFIG)


class VendorDevice:
    """A device in a VM; its layer `kernel` takes a restart to be replaced.

    Its programs run in `environment`.
    """

    def __init__(self, machine: Machine, backend: BackendServer, directory: Path) -> None:
        self.machine = machine
        self.backend = backend
        self.directory = directory
        self.publisher = Publisher(backend.backend, directory / "published")
        self.layers = {name: ("1.0", f"layer {name}\n".encode() * 64) for name in LAYERS}
        self.name = b""
        self.environment: dict[str, str] = {}

    def set_up(self, *options: str, tpm: str = "", tables: str = "") -> None:
        """Bring layers and trust onto the disk, and write the configuration.

        `options` are of `hwtrust init`, `tpm` lines of that table, `tables` more of them.
        """
        first_root = self.publisher.begin()
        self.publisher.publish("1.0", self.layers, accept=True)
        references = []
        for name, (version, content) in self.layers.items():
            (self.directory / name).write_bytes(content)
            references.append(reference(name, version, self.directory / name))
            self.machine.write(str(HOME / name), content)
        release = Release(name="1.0", layers=tuple(references))
        trust = msgspec.structs.replace(self.backend.trust, releases=first_root)
        assert isinstance(trust, TrustAnchor)
        self.machine.write(str(HOME / "release.json"), msgspec.json.encode(release))
        self.machine.write(str(HOME / "trust.json"), msgspec.json.encode(trust))
        layers = [word for name in LAYERS for word in ("--layer", f"{name}={HOME / name}")]
        self.machine.run(
            *("hwtrust", "init", "--trust", "trust.json", "--release", "release.json"),
            *("--state", "state", "--slots", "slots", "--output", CONFIG, *layers, *options),
            cwd=STATE,
        ).good()
        text = self.machine.read(CONFIG).decode().replace("[tpm]\n", f"[tpm]\n{tpm}")
        self.machine.write(CONFIG, f'{text}restart = ["kernel"]\n{tables}'.encode())

    def enrol(self) -> None:
        """Enrol, and keep a secret."""
        token = self.backend.token().encode()
        said = self.hwtrust("enrol", "--token-file", "-", "--json", given=token).good()
        self.name = bytes.fromhex(json.loads(said)["device"])
        self.hwtrust("keystore", "put", ENTRY, given=KEPT.encode()).good()

    def hwtrust(self, *words: str, given: bytes = b"") -> Done:
        """Run a command of the device."""
        command = ("hwtrust", *words, "--config", CONFIG)
        return self.machine.run(*command, environment=self.environment, given=given)

    def document(self, *words: str) -> dict[str, Any]:
        """What a command prints as JSON, of one that succeeds."""
        shown: dict[str, Any] = json.loads(self.hwtrust(*words, "--json").good())
        return shown

    def secret(self) -> str:
        """Measure, unseal, cap: what is in the key store."""
        return self.hwtrust("keystore", "get", ENTRY).good()

    def work(self, *words: str) -> str:
        """Run `device_work` to its end; gives what it prints."""
        return self.machine.run(*_WORK, *words, environment=self.environment).good()

    def cut_power_after(self, work: str, step: str) -> None:
        """Take the power away after a step of some work."""
        command = (*_WORK, work, step)
        self.machine.cut_power_when(AT_STEP, *command, environment=self.environment)

    def check(self) -> dict[str, Any]:
        """Boot and attest; what the device is then."""
        shown: dict[str, Any] = json.loads(self.work("check").splitlines()[-1])
        return shown

    def publish(self, name: str, **changes: bytes) -> None:
        """Publish and accept a release in which some layers are others."""
        self.layers |= {layer: (name, content) for layer, content in changes.items()}
        self.publisher.publish(name, self.layers, accept=True)
