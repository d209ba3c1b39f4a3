"""An enclave, its files, and a backend that accepts it by a policy of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import tomlkit

from hwtrust.enclave import Enclave, EnclaveConfig
from hwtrust.layers import reference
from hwtrust.wire.enclaves.snp import Product
from hwtrust.wire.messages import Release
from hwtrust_backend.admin import local_administrator
from hwtrust_backend.admin.devices import lock, unlock
from hwtrust_backend.enclaves.trust import TrustKind, UnsafeRoots, add_authority
from hwtrust_backend.testing import DAY, policy_document
from simulators.enclave_machines import NitroMachine, SnpMachine
from simulators.snp_signer import TCBS, Authority

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from hwtrust_backend.testing import BackendServer
    from simulators.enclave_machines import EnclaveMachine


def snp_rules(machine: SnpMachine) -> dict[str, Any]:
    """What is accepted of the guest: it as it is."""
    fields, tcb = machine.chip.fields(), TCBS[Product.GENOA]
    return {
        "products": ["Genoa"],
        "signing_keys": ["vcek"],
        "measurements": [fields.measurement.hex()],
        "vmpl_maximum": 0,
        "policy_allowed": ["smt"],
        "policy_required": [],
        "abi_minimum": "1.55",
        "host_data": [fields.host_data.hex()],
        "id_key_digests": [fields.id_key_digest.hex()],
        "author_key_digests": [fields.author_key_digest.hex()],
        "guest_svn_minimum": 3,
        "tcb": {
            "Genoa": {
                "bootloader": tcb.bootloader,
                "tee": tcb.tee,
                "snp": tcb.snp,
                "microcode": tcb.microcode,
            }
        },
        "firmware_minimum": "1.55.40",
        "platform_required": [],
        "platform_forbidden": [],
    }


def nitro_rules(machine: NitroMachine) -> dict[str, Any]:
    """What is accepted of the enclave: its image, whatever it measured into the register."""
    image = {str(number): [machine.nsm.pcrs[number].hex()] for number in range(3)}
    zeros = {str(number): ["00" * 48] for number in range(3, 16)}
    return {"pcrs": image | zeros, "max_age_ms": DAY, "unsafe_any_pcrs": [16]}


class Site:
    """An enclave, its files, and a backend that accepts it."""

    def __init__(self, directory: Path, machine: EnclaveMachine, backend: BackendServer) -> None:
        self.directory, self.machine, self.backend = directory, machine, backend
        (directory / "app").write_bytes(b"the application")
        release = Release(name="1.0", layers=(reference("app", "1", directory / "app"),))
        (directory / "release.json").write_bytes(msgspec.json.encode(release))
        (directory / "trust.json").write_bytes(backend.trust_file.read_bytes())
        (directory / "enclave.toml").write_text(
            'state_dir = "state"\ntrust = "trust.json"\nrelease = "release.json"\n'
            '[layers]\napp = "app"\n'
        )
        backend.accept(release)
        self.trust()
        self.token = backend.token()
        self.boot_ms = 0

    def trust(self) -> None:
        """Trust the roots of the test's machines."""
        nitro = (
            machine.signer.trust.roots if isinstance(machine := self.machine, NitroMachine) else ()
        )
        roots = UnsafeRoots(
            snp={Product.GENOA: (Authority.of(Product.GENOA).ark.sha256,)}, nitro=tuple(nitro)
        )
        with self.backend.session() as session:
            add_authority(
                session,
                msgspec.json.encode(roots),
                kind=TrustKind.UNSAFE_ROOTS,
                now=self.backend.clock(),
            )

    def open(self, **options: Any) -> AbstractContextManager[Enclave]:  # noqa: ANN401
        """Open the enclave, as after a start of its process."""
        config = EnclaveConfig.load(self.directory / "enclave.toml")
        chosen: dict[str, Any] = {
            "anchor": self.machine.anchor,
            "token": self.token,
            "boot_time": lambda: self.boot_ms,
        }
        return Enclave.open(config, **(chosen | options))

    def advance(self, milliseconds: int) -> None:
        """Let time pass on both sides."""
        self.boot_ms += milliseconds
        self.backend.clock.advance(milliseconds)

    def lock(self, device: bytes, *, locked: bool) -> None:
        """Lock the enclave, or end that."""
        with self.backend.session() as session:
            by, now = local_administrator(), self.backend.clock()
            if locked:
                lock(session, device.hex(), reason="a test", by=by, now=now)
            else:
                unlock(session, device.hex(), by=by, now=now)


def policy_for(kind: str, rules: dict[str, Any], *, register: str = "") -> str:
    """The default policy, which accepts this kind alone."""
    document = tomlkit.parse(policy_document(evidence=[kind]))
    document[kind] = rules
    if register:
        document["enclaves"] = {"register": register}
    return tomlkit.dumps(document)
