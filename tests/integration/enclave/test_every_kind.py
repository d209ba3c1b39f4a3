"""Enclaves of every kind against a whole backend over TLS, from the kernel's files to the verdict.

TDX, SGX, Nitro and CCA run the library; of Azure's machines and of GPUs, whose device side is
another's, the evidence is wrapped as they would and sent by HTTP.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from hwtrust.errors import RefusedError
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.enclave import EnclaveEvidence, EnclaveKind
from hwtrust.wire.enclaves.azure import TeeKind
from hwtrust.wire.enclaves.snp import Product
from hwtrust.wire.messages import Standing
from hwtrust_backend.testing import DAY, BackendServer
from integration.enclave.site import (
    Site,
    cca_rules,
    nitro_rules,
    policy_for,
    sgx_rules,
    tdx_rules,
    trust_makers,
)
from simulators.attester import make_release
from simulators.azure_vtpm import PCRS
from simulators.backend_clients import RefusedByHttpError
from simulators.enclave_clients import SNP_TABLE, BackendEnclave, HttpWay, enclave_policy
from simulators.enclave_machines import CcaMachine, NitroMachine, SgxMachine, TdxMachine
from simulators.enclaves import GPU, Machine
from simulators.nvidia_signer import LINKS
from simulators.snp_signer import TCBS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from hwtrust.wire.messages import Binding
    from simulators.enclave_machines import EnclaveMachine


@dataclass(frozen=True)
class Kind:
    """How a kind is made, what is accepted of it, and what another launch is found by."""

    machine: Callable[[], EnclaveMachine]
    rules: Callable[[Any], dict[str, Any]]
    other: Callable[[], EnclaveMachine]
    finding: str
    register: str = ""
    seals: bool = False


def other_image() -> NitroMachine:
    """A Nitro enclave of another image."""
    machine = NitroMachine()
    machine.nsm.pcrs[0] = bytes(range(48))
    return machine


KINDS = {
    "tdx": Kind(
        TdxMachine, tdx_rules, lambda: TdxMachine(mr_td=bytes(48)), "tdx:mr-td", register="rtmr3"
    ),
    "sgx": Kind(
        SgxMachine,
        sgx_rules,
        lambda: SgxMachine(mr_enclave=bytes(32)),
        "sgx:mr-enclave",
        seals=True,
    ),
    "nitro": Kind(NitroMachine, nitro_rules, other_image, "nitro:pcr", register="pcr16"),
    "cca": Kind(CcaMachine, cca_rules, lambda: CcaMachine(**{"44238": bytes(32)}), "cca:rim"),
}


@pytest.fixture(params=KINDS)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """A machine of each kind, and a backend that accepts it alone."""
    kind = KINDS[request.param]
    machine = kind.machine()
    policy = policy_for(request.param, kind.rules(machine), register=kind.register)
    with BackendServer(policy=policy) as backend:
        yield Site(tmp_path, machine, backend)


def test_every_kind_enrols_attests_rotates_and_starts_again(site: Site) -> None:
    """Its root is opened, and the next; sealed it is there after a restart, else it is another."""
    with site.open() as enclave:
        enclave.start().put("payments/transport", b"a key")
        device = enclave.device
        result = enclave.attest()
        assert (result.standing, result.findings) == (Standing.TRUSTED, ())
        site.backend.rotate(device)
        site.advance(DAY // 12)
        assert enclave.attest().rotated_to == 2
        assert enclave.keystore["payments/transport"] == b"a key"
    site.machine.reboot()
    site.token = site.backend.token()
    with site.open() as enclave:
        store = enclave.start()
        seals = KINDS[site.machine.kind].seals
        assert (enclave.device == device) is seals
        assert (enclave.epoch, "payments/transport" in store) == (
            (2, True) if seals else (1, False)
        )


def test_another_launch_of_every_kind_does_not_enrol(site: Site) -> None:
    """The refusal says by what it was found."""
    kind = KINDS[site.machine.kind]
    other = kind.other()
    if isinstance(other, NitroMachine) and isinstance(site.machine, NitroMachine):
        other.signer = site.machine.signer
    site.machine = other
    with site.open() as enclave, pytest.raises(RefusedError) as caught:
        enclave.start()
    assert caught.value.data["problem"] == "evidence:verdict:untrusted"
    assert kind.finding in caught.value.message


class WrappedEnclave(BackendEnclave):
    """An enclave whose evidence is a machine's, wrapped."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine.kind)
        self.machine = machine

    def over(self, binding: Binding, **report: Any) -> EnclaveEvidence:  # noqa: ANN401
        """Evidence over a binding."""
        assert not report
        return EnclaveEvidence(
            kind=self.kind,
            binding=binding,
            log=self.log.encode(),
            evidence=self.machine.evidence(binding.report_data()),
        )


def milan_rules() -> dict[str, Any]:
    """What is accepted of the SNP guests that are wrapped here, which are at VMPL 0 and 1."""
    tcb = TCBS[Product.MILAN]
    levels = {name: getattr(tcb, name) for name in ("bootloader", "tee", "snp", "microcode")}
    return SNP_TABLE | {"products": ["Milan"], "tcb": {"Milan": levels}}


AZURE_RULES = {
    "secure_boot": True,
    "console_enabled": False,
    "unsafe_any_vm": True,
    "pcrs": {"7": [PCRS[Alg.SHA256][7].hex()]},
    "snp": milan_rules(),
    "tdx": tdx_rules(TdxMachine()) | {"unsafe_any_rtmr": ["0", "1", "2", "3"]},
}
GPU_RULES = {
    "models": [LINKS[1].name],
    "driver_versions": ["550.90.07"],
    "vbios_versions": ["96.00.9F.00.01"],
    "measurements": {str(index): [value.hex()] for index, value in GPU.measurements[:3]},
}
WRAPPED = {
    "azure on SNP": (Machine(EnclaveKind.AZURE), {"azure": AZURE_RULES}, "azure", "azure:console"),
    "azure on TDX": (
        Machine(EnclaveKind.AZURE, TeeKind.TDX),
        {"azure": AZURE_RULES},
        "azure",
        "azure:console",
    ),
    "snp with a GPU": (
        Machine(EnclaveKind.SNP, has_gpu=True),
        {"snp": milan_rules(), "nvidia": GPU_RULES},
        "nvidia",
        "nvidia:driver",
    ),
}
STRICTER = {"azure": {"console_enabled": True}, "nvidia": {"driver_versions": ["560.1"]}}


@pytest.mark.parametrize(("machine", "tables", "table", "finding"), WRAPPED.values(), ids=WRAPPED)
def test_composite_evidence_enrols_attests_and_is_judged_in_all_its_parts(
    machine: Machine, tables: dict[str, Any], table: str, finding: str
) -> None:
    """A root for it opens; by a policy that one part does not meet it fails, and is told which."""
    policy = enclave_policy(evidence=[machine.kind.value], **tables)
    with BackendServer(policy=policy) as backend:
        trust_makers(backend)
        backend.accept(make_release())
        way, enclave = HttpWay(backend), WrappedEnclave(machine)
        enclave.enrol(way, backend.token())
        assert enclave.attest(way).findings == ()
        backend.rotate(enclave.name)
        root = enclave.attest(way).root
        assert root is not None
        assert enclave.take(root) == 2
        stricter = tables | {table: tables[table] | STRICTER[table]}
        backend.hold_to(enclave_policy(evidence=[machine.kind.value], **stricter))
        reply = enclave.attest(way)
        assert (reply.standing, reply.root) == (Standing.FAILED, None)
        assert [found.code for found in reply.findings] == [finding]
        with pytest.raises(RefusedByHttpError) as caught:
            WrappedEnclave(machine).enrol(way, backend.token())
        assert caught.value.code == "evidence:verdict:untrusted"
