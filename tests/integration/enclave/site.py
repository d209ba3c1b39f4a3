"""An enclave, its files, and a backend that accepts it by a policy of its own."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import msgspec
import tomlkit

from hwtrust.enclave import Enclave, EnclaveConfig
from hwtrust.layers import reference
from hwtrust.wire.enclaves.dcap import EnclaveReport, TdReport
from hwtrust.wire.enclaves.snp import Product
from hwtrust.wire.messages import Release
from hwtrust_backend.admin import local_administrator
from hwtrust_backend.admin.devices import lock, unlock
from hwtrust_backend.enclaves.trust import TrustKind, UnsafeRoots, add_authority
from hwtrust_backend.testing import DAY, policy_document
from simulators import cca_signer
from simulators.dcap_signer import enclave_report, revocation_list, stamp, td_report
from simulators.enclave_machines import NitroMachine, SnpMachine
from simulators.enclaves import GPU, INTEL, REALM
from simulators.snp_signer import TCBS, Authority

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from hwtrust_backend.testing import BackendServer
    from simulators.enclave_machines import CcaMachine, EnclaveMachine, SgxMachine, TdxMachine

DCAP_RULES: Final[dict[str, Any]] = {
    "accepted_tcb_statuses": ["UpToDate"],
    "tcb_evaluation_data_number_floor": 18,
}
"""What is accepted of Intel's platforms."""


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


def tdx_rules(machine: TdxMachine) -> dict[str, Any]:
    """What is accepted of the trust domain: it as it starts, whatever it measures into RTMR 3."""
    td = TdReport.decode(td_report())
    started = machine.domain.registers
    return DCAP_RULES | {
        "mr_td": [td.mr_td.hex()],
        **{f"rtmr{number}": [started[f"rtmr{number}:sha384"].hex()] for number in range(3)},
        "unsafe_any_rtmr": ["3"],
        "mr_seam": [td.mr_seam.hex()],
        "xfam": [f"0x{td.xfam:016x}"],
        "tee_tcb_svn_floor": td.tee_tcb_svn.hex(),
    }


def sgx_rules(machine: SgxMachine) -> dict[str, Any]:
    """What is accepted of the enclave: its own measurement."""
    del machine
    enclave = EnclaveReport.decode(enclave_report())
    own = {"mr_enclave": [enclave.mr_enclave.hex()], "xfrm": f"0x{enclave.xfrm:016x}"}
    return DCAP_RULES | own


def cca_rules(machine: CcaMachine) -> dict[str, Any]:
    """What is accepted of platform and realm."""
    del machine
    return {
        "implementation_ids": [cca_signer.IMPLEMENTATION_ID.hex()],
        "configs": [cca_signer.CONFIG.hex()],
        "sw_components": {name: [it.hex()] for name, it in cca_signer.COMPONENTS.items()},
        "signer_ids": [cca_signer.SIGNER_ID.hex()],
        "rims": [cca_signer.RIM.hex()],
        "rpvs": [cca_signer.RPV.hex()],
    }


def collateral_now(tee: str, now: datetime) -> bytes:
    """Collateral for `sgx` or `tdx` that is in force at `now`."""
    issued, next_update = now - timedelta(days=1), now + timedelta(days=30)
    term = {"issueDate": stamp(issued), "nextUpdate": stamp(next_update)}
    crls: dict[str, Any] = {
        name: revocation_list(issuer, issued=issued, next_update=next_update).hex()
        for name, issuer in (("root_ca_crl", INTEL.root), ("pck_crl", INTEL.ca))
    }
    return INTEL.collateral(tee, tcb_info=term, qe_identity=term, **crls)


def trust_makers(backend: BackendServer, *, nitro: Iterable[str] = ()) -> None:
    """Trust all makers of the tests' machines, as an administrator would."""
    roots = UnsafeRoots(
        snp={product: (Authority.of(product).ark.sha256,) for product in Product},
        dcap=hashlib.sha256(INTEL.root.der).hexdigest(),
        nitro=tuple(nitro),
        nvidia=tuple(GPU.trust.roots),
    )
    now = datetime.fromtimestamp(backend.clock() / 1000, UTC)
    files = (
        (TrustKind.UNSAFE_ROOTS, msgspec.json.encode(roots)),
        (TrustKind.COLLATERAL, collateral_now("tdx", now)),
        (TrustKind.COLLATERAL, collateral_now("sgx", now)),
        (TrustKind.ENDORSEMENTS, msgspec.json.encode([REALM.endorsement])),
    )
    with backend.session() as session:
        for kind, content in files:
            add_authority(session, content, kind=kind, now=backend.clock())


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
        machine = self.machine
        nitro = machine.signer.trust.roots if isinstance(machine, NitroMachine) else ()
        trust_makers(self.backend, nitro=nitro)

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
