"""A device that takes updates, and the vendor who publishes them.

    site = UpdatingSite(tmp_path, tpm, backend, vendor)
    site.enrol()
    site.publish("2.0", kernel=b"the next kernel")
    with site.open() as device:
        device.boot()
        device.update()

The keys are those of a vendor made for the test.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from hwtrust.layers import reference
from hwtrust.updates.slots import Slots
from hwtrust.wire.messages import Release, TrustAnchor
from hwtrust.wire.release import LayerKind, layer_target
from simulators.site import Site
from simulators.vendor import Vendor as Publisher

if TYPE_CHECKING:
    from hwtrust.testing.manufacture import Vendor
    from hwtrust.testing.swtpm import Swtpm
    from hwtrust_backend.testing import BackendServer

FIRST = "1.0"


class UpdatingSite(Site):
    """A site whose layers lie in slots."""

    ENTRY, SECRET = "name", b"what must not be lost"
    enrolled = b""
    """The device's name, once it is enrolled."""

    def __init__(
        self,
        home: Path,
        tpm: Swtpm,
        backend: BackendServer,
        vendor: Vendor,
        *,
        restart: tuple[str, ...] = (),
        **options: object,
    ) -> None:
        super().__init__(home, tpm, backend, vendor, **options)  # type: ignore[arg-type]
        self.digests: dict[str, str] = {}
        """SHA-256 of each layer's file, by its target path."""
        self.publisher = Publisher(backend.backend, home / "published")
        first_root = self.publisher.begin()
        self.layers = {
            layer.name: (layer.version, (home / layer.name).read_bytes())
            for layer in self.release.layers
        }
        self.publisher.publish(FIRST, self.layers, accept=True)
        trust = msgspec.json.decode((home / "trust.json").read_bytes(), type=TrustAnchor)
        trust = msgspec.structs.replace(trust, releases=first_root)
        (home / "trust.json").write_bytes(msgspec.json.encode(trust))
        self.slots = Slots(home / "slots")
        places = {name: home / name for name in self.layers}
        self.slots.create(places, home / "release.json")
        current = home / "slots" / "current"
        text = self.config_path.read_text()
        text = text.replace('release = "release.json"', f'release = "{current / "release.json"}"')
        for name, place in places.items():
            text = text.replace(f'"{place}"', f'"{current / name}"')
        text += f'\n[updates]\nslots = "{home / "slots"}"\nrestart = {list(restart)}\n'
        self.config_path.write_text(text)

    def enrol(self) -> bytes:
        """Enrol, boot and attest once; gives the device's name."""
        self.enrolled = super().enrol()
        return self.enrolled

    def publish(self, name: str, *, accept: bool = True, **changes: bytes) -> Release:
        """Publish a release in which some layers have another content, and version `name`."""
        layers = dict(self.layers)
        layers |= {layer: (name, content) for layer, content in changes.items()}
        self.publisher.publish(name, layers, accept=accept)
        self.layers = layers
        self.digests |= {
            layer_target(layer, version, LayerKind.FILE): hashlib.sha256(content).hexdigest()
            for layer, (version, content) in layers.items()
        }
        scratch = self.home / "scratch"
        references = []
        for layer, (version, content) in layers.items():
            scratch.write_bytes(content)
            references.append(reference(layer, version, scratch))
        return Release(name=name, layers=tuple(references))

    def content(self, layer: str) -> bytes:
        """What lies where the device finds the layer."""
        return Path(self.config.layers[layer]).read_bytes()
