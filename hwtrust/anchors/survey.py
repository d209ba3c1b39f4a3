"""Which anchors this machine has, what each can do, and why something cannot be done.

Rules:
1. Looking changes nothing that lasts: a report's directory is made to ask for the
   provider's name, and removed; device files are not opened.
2. A machine may have several anchors; all are told.
3. What the hardware has and this process cannot use is told with its reason.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

from hwtrust.anchors import cca, gramine, nsm, sev_guest, tdx
from hwtrust.anchors.port import converted
from hwtrust.anchors.protocols import Anchor, Capability, Kind
from hwtrust.anchors.snp_sealer import SnpSealer
from hwtrust.anchors.tsm import PROVIDERS, REPORTS, Tsm, TsmAttester
from hwtrust.errors.anchors import (
    AnchorError,
    AnchorMissingError,
    AnchorProviderError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from hwtrust.anchors.port import Port
    from hwtrust.anchors.protocols import Attester, Measurer, Sealer

T = TypeVar("T")

SNP_PROVIDER: Final = "sev_guest"
NAMES: Final = {
    Kind.TPM: "TPM 2.0",
    Kind.SNP: "AMD SEV-SNP",
    Kind.TDX: "Intel TDX",
    Kind.SGX: "Intel SGX under Gramine",
    Kind.NITRO: "AWS Nitro Enclave",
    Kind.CCA: "Arm CCA realm",
    Kind.UNKNOWN: "unknown",
}
_NO_SEALER: Final = "it has no key to seal with: roots are held in memory only"
_NO_REGISTERS: Final = "it has no registers to extend"


def find_anchors(
    port: Port, *, tpm: Callable[[], Iterable[Anchor]] | None = None
) -> tuple[Anchor, ...]:
    """All anchors of this machine; `tpm` tells its TPMs, None leaves them out."""
    reports = _Reports(port)
    beside = (_snp(port, reports), _tdx(port, reports), _cca(reports), _nitro(port), _sgx(port))
    told = (*(tpm() if tpm is not None else ()), *filter(None, beside))
    unknown = _unknown(reports, {anchor.kind for anchor in told})
    return told if unknown is None else (*told, unknown)


class _Reports:
    """Who makes reports behind configfs-tsm, asked once."""

    def __init__(self, port: Port) -> None:
        self.tsm = Tsm(port)
        self.provider, self.problem = _tried(self.tsm.provider)
        self.floor: int | None = None
        if self.provider == SNP_PROVIDER:
            self.floor, _ = _tried(self.tsm.privlevel_floor)

    def attester(self, provider: str, *, privlevel: int | None = None) -> Attester:
        """An attester by this provider.

        Raises:
            AnchorError: why there is none.
        """
        if self.problem is not None:
            raise self.problem
        if self.provider != provider:
            raise AnchorProviderError(f"reports are made by {self.provider}, not by {provider}")
        return TsmAttester(self.tsm, provider=provider, privlevel=privlevel)


def _snp(port: Port, reports: _Reports) -> Anchor | None:
    device_problem = _problem(port, sev_guest.DEVICE)
    has_device = not isinstance(device_problem, AnchorMissingError)
    if not has_device and reports.provider != SNP_PROVIDER:
        return None
    vmpl = reports.floor or 0
    device = sev_guest.SevGuest(port)
    attester, problem = _tried(lambda: reports.attester(SNP_PROVIDER, privlevel=reports.floor))
    if attester is None and device_problem is None:
        attester, problem = sev_guest.SevGuestAttester(device, vmpl=vmpl), None
    sealer: Sealer | None = SnpSealer(device, vmpl=vmpl) if device_problem is None else None
    return Anchor(
        kind=Kind.SNP,
        name=NAMES[Kind.SNP],
        path=sev_guest.DEVICE if has_device else REPORTS,
        attester=attester,
        sealer=sealer,
        problems=_problems(attest=problem, seal=device_problem),
        notes=(_NO_REGISTERS, *((f"it runs at VMPL {vmpl}",) if vmpl else ())),
    )


def _tdx(port: Port, reports: _Reports) -> Anchor | None:
    places = (tdx.DEVICE, tdx.MEASUREMENTS)
    present = [path for path in places if not isinstance(_problem(port, path), AnchorMissingError)]
    if not present and reports.provider != tdx.PROVIDER:
        return None
    attester, attest_problem = _tried(lambda: reports.attester(tdx.PROVIDER))
    measurer, measure_problem = _tried(lambda: tdx.tdx_measurer(port))
    return Anchor(
        kind=Kind.TDX,
        name=NAMES[Kind.TDX],
        path=present[0] if present else REPORTS,
        attester=attester,
        measurer=measurer,
        registers=_registers(measurer),
        problems=_problems(measure=measure_problem, attest=attest_problem),
        notes=(_NO_SEALER,),
    )


def _cca(reports: _Reports) -> Anchor | None:
    if reports.provider != cca.PROVIDER:
        return None
    return Anchor(
        kind=Kind.CCA,
        name=NAMES[Kind.CCA],
        path=REPORTS,
        attester=cca.cca_attester(reports.tsm),
        notes=(_NO_REGISTERS, _NO_SEALER),
    )


def _nitro(port: Port) -> Anchor | None:
    problem = _problem(port, nsm.DEVICE)
    if isinstance(problem, AnchorMissingError):
        return None
    module, described = None, None
    if problem is None:
        module, problem = _tried(lambda: nsm.Nsm(port))
    if module is not None:
        described, problem = _tried(module.describe)
    usable = module is not None and described is not None
    measurer = nsm.NsmMeasurer(module, count=described.max_pcrs) if module and described else None
    return Anchor(
        kind=Kind.NITRO,
        name=NAMES[Kind.NITRO],
        path=nsm.DEVICE,
        measurer=measurer,
        attester=nsm.NsmAttester(module) if module and usable else None,
        registers=_registers(measurer),
        problems=_problems(measure=problem, attest=problem),
        notes=(_NO_SEALER, "a PCR is in the evidence once it is locked"),
    )


def _sgx(port: Port) -> Anchor | None:
    files = gramine.GramineFiles(port)
    made_by, problem = _tried(files.attestation_type)
    if isinstance(problem, AnchorMissingError):
        return None
    if made_by is not None and made_by != gramine.DCAP:
        problem = AnchorProviderError(
            f"attestation type {made_by}: sgx.remote_attestation is off in the manifest"
        )
    sealer, seal_problem = _tried(lambda: _gramine_sealer(port, files))
    return Anchor(
        kind=Kind.SGX,
        name=NAMES[Kind.SGX],
        path=gramine.FILES,
        attester=gramine.GramineAttester(files) if problem is None else None,
        sealer=sealer,
        problems=_problems(attest=problem, seal=seal_problem),
        notes=(_NO_REGISTERS,),
    )


def _gramine_sealer(port: Port, files: gramine.GramineFiles) -> Sealer:
    path = f"{gramine.FILES}/keys/_sgx_mrenclave"
    with converted(path):
        # Gramine's files cannot be asked for permissions; there are no keys outside of SGX.
        if "_sgx_mrenclave" not in port.listdir(f"{gramine.FILES}/keys"):
            raise AnchorMissingError(f"there is no {path}", path=path)
    return gramine.GramineSealer(files, seal_to=gramine.SealTo.ENCLAVE)


def _unknown(reports: _Reports, told: set[Kind]) -> Anchor | None:
    """Reports that somebody makes, nobody knows who."""
    problem = reports.problem
    if reports.provider is not None:
        if reports.provider in PROVIDERS:
            return None
        problem = AnchorProviderError(f"hwtrust does not know the provider {reports.provider}")
    elif isinstance(problem, AnchorMissingError | AnchorProviderError) or told & {
        Kind.SNP,
        Kind.TDX,
    }:
        return None
    return Anchor(
        kind=Kind.UNKNOWN,
        name=reports.provider or NAMES[Kind.UNKNOWN],
        path=REPORTS,
        problems=_problems(attest=problem),
    )


def _tried(action: Callable[[], T]) -> tuple[T | None, AnchorError | None]:
    try:
        return action(), None
    except AnchorError as error:
        return None, error


def _problem(port: Port, path: str) -> AnchorError | None:
    """Why a path cannot be used."""
    try:
        with converted(path):
            port.probe(path)
    except AnchorError as error:
        return error
    return None


def _problems(**found: AnchorError | None) -> dict[Capability, AnchorError]:
    return {Capability(name): problem for name, problem in found.items() if problem is not None}


def _registers(measurer: Measurer | None) -> tuple[str, ...]:
    return measurer.registers if measurer is not None else ()
