"""A machine of every kind, and evidence as it wraps it; one trust for all of them.

machine = Machine(EnclaveKind.SNP)
verify_enclave(machine.evidence(report_data), kind=machine.kind, …, trust=TRUST)
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Final

import msgspec

from hwtrust.verify.enclaves.dcap_chain import DcapTrust
from hwtrust.verify.enclaves.kinds import EnclaveTrust, gpu_nonce, quote_nonce
from hwtrust.wire.algorithms import alg_name
from hwtrust.wire.enclave import EnclaveKind
from hwtrust.wire.enclave_parts import EnclaveParts, join_quote, pem, pem_of_table, wrap
from hwtrust.wire.enclaves.azure import HclReport, TeeKind
from hwtrust.wire.enclaves.dcap import Collateral
from hwtrust.wire.enclaves.snp import Product
from simulators import nitro_signer
from simulators.azure_vtpm import CHIP, PCRS, AzureVm
from simulators.cca_signer import CcaSigner
from simulators.dcap_signer import DcapSigner, enclave_report, td_report
from simulators.nitro_signer import NitroSigner
from simulators.nvidia_signer import GpuSigner
from simulators.snp_signer import trust as snp_trust

__all__ = ["GPU", "KINDS", "MACHINES", "NOW", "REPORT_DATA", "TRUST", "Machine"]

NOW: Final = datetime(2026, 6, 1, tzinfo=UTC)
"""When every certificate but those of Nitro is valid; see `Machine.now`."""
REPORT_DATA: Final = bytes(range(64))

INTEL: Final = DcapSigner()
NITRO: Final = NitroSigner()
REALM: Final = CcaSigner()
GPU: Final = GpuSigner()

TRUST: Final = EnclaveTrust(
    snp=snp_trust(*Product),
    dcap=DcapTrust.of(INTEL.root.der),
    collateral=tuple(Collateral.decode(INTEL.collateral(tee)) for tee in ("tdx", "sgx")),
    nitro=NITRO.trust,
    cca=REALM.trust,
    nvidia=GPU.trust,
)


@dataclass(frozen=True)
class Machine:
    """A machine of `kind`; an Azure machine has a TEE of `tee`. With a GPU, or without."""

    kind: EnclaveKind
    tee: TeeKind = TeeKind.SNP
    has_gpu: bool = False

    @property
    def now(self) -> datetime:
        """A time at which its certificates are valid."""
        return nitro_signer.NOW if self.kind is EnclaveKind.NITRO else NOW

    @property
    def now_ms(self) -> int:
        """The same, UTC milliseconds."""
        return int(self.now.timestamp()) * 1000

    @cached_property
    def _vm(self) -> AzureVm:
        return AzureVm(kind=self.tee)

    def parts(self, report_data: bytes = REPORT_DATA) -> EnclaveParts:
        """Evidence that answers `report_data`."""
        made = self._made(report_data)
        if not self.has_gpu:
            return made
        return msgspec.structs.replace(
            made, gpu=GPU.report(gpu_nonce(report_data)), gpu_certificates=pem(GPU.chain)
        )

    def evidence(self, report_data: bytes = REPORT_DATA) -> str:
        """The same, wrapped."""
        return wrap(self.parts(report_data), kind=self.kind)

    def _made(self, report_data: bytes) -> EnclaveParts:
        match self.kind:
            case EnclaveKind.SNP:
                report = CHIP.report(report_data=report_data)
                table = CHIP.table().encode()
                return EnclaveParts(tee=report, certificates=pem_of_table(table))
            case EnclaveKind.TDX:
                return EnclaveParts(tee=INTEL.tdx(td_report(report_data=report_data)))
            case EnclaveKind.SGX:
                return EnclaveParts(tee=INTEL.sgx(enclave_report(report_data=report_data)))
            case EnclaveKind.NITRO:
                return EnclaveParts(tee=NITRO.document(nonce=report_data, user_data=None))
            case EnclaveKind.CCA:
                return EnclaveParts(tee=REALM.token(realm={10: report_data}))
            case EnclaveKind.AZURE:
                return self._azure(report_data)

    def _azure(self, report_data: bytes) -> EnclaveParts:
        report = self._vm.hcl_report()
        quote = self._vm.quote(quote_nonce(report_data))
        values = {
            alg_name(bank): {str(at): value.hex() for at, value in pcrs.items()}
            for bank, pcrs in PCRS.items()
        }
        bound = HclReport.decode(report).report_data
        is_snp = self.tee is TeeKind.SNP
        return EnclaveParts(
            tee=report,
            quote=join_quote(quote.message, quote.signature),
            pcrs=json.dumps(values).encode(),
            certificates=pem(CHIP.certificates()) if is_snp else b"",
            td_quote=b"" if is_snp else INTEL.tdx(td_report(report_data=bound)),
        )


KINDS: Final = tuple(EnclaveKind)
MACHINES: Final = {
    **{kind.value: Machine(kind) for kind in KINDS},
    "azure in a TD": Machine(EnclaveKind.AZURE, TeeKind.TDX),
    "snp with a GPU": Machine(EnclaveKind.SNP, has_gpu=True),
}
