"""Machines that are enclaves: kernels that are models, signers that are real.

    machine = SnpMachine()
    Enclave.open(config, anchor=machine.anchor)

Evidence holds what the machine measured: a TD's registers, a Nitro enclave's locked PCRs.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from hwtrust.anchors.survey import find_anchors
from hwtrust.verify.enclaves.kinds import EnclaveTrust
from hwtrust.wire.enclave import EnclaveKind
from hwtrust.wire.enclaves.snp import Product
from simulators import enclaves, nitro_signer
from simulators.dcap_signer import enclave_report, td_report
from simulators.fake_gramine import FILES, FakeGramine
from simulators.fake_machine import FakeMachine
from simulators.fake_nsm import FakeNsm
from simulators.fake_sev_guest import FakeSevGuest
from simulators.fake_tdx import DEVICE as TDX_DEVICE
from simulators.fake_tdx import MEASUREMENTS, FakeMeasurements, FakeTdxGuest, TrustDomain
from simulators.fake_tsm import FakeTsm
from simulators.nitro_signer import NitroSigner
from simulators.snp_signer import Chip
from simulators.snp_signer import trust as snp_trust

if TYPE_CHECKING:
    from hwtrust.anchors.protocols import Anchor
    from simulators.fake_machine import Device

REPORTS: Final = "/sys/kernel/config/tsm/report"
_DAY: Final = timedelta(days=1)


class EnclaveMachine:
    """A machine; its anchor is found as on a real one."""

    kind: EnclaveKind
    trust: EnclaveTrust
    now: datetime
    """A time at which its certificates are valid."""

    def __init__(self, **report: Any) -> None:  # noqa: ANN401
        """`report` is what its evidence says otherwise, where the signer takes it."""
        self.report = report
        self.kernel = FakeMachine(self.boot())

    def boot(self) -> dict[str, Device]:
        """The devices after a start of the machine."""
        raise NotImplementedError

    def reboot(self) -> None:
        """Start anew: registers are as they were at the first start."""
        self.kernel = FakeMachine(self.boot())

    @property
    def anchor(self) -> Anchor:
        """What this machine has."""
        (found,) = find_anchors(self.kernel)
        return found

    @property
    def now_ms(self) -> int:
        """`now`, UTC milliseconds."""
        return int(self.now.timestamp()) * 1000


class SnpMachine(EnclaveMachine):
    """A guest with SEV-SNP, which can seal; another `seed` makes another chip."""

    kind = EnclaveKind.SNP
    now = enclaves.NOW
    trust = EnclaveTrust(snp=snp_trust(Product.GENOA))

    def __init__(self, *, seed: bytes = b"chip", measurement: bytes | None = None) -> None:
        self.chip = Chip(Product.GENOA, seed)
        fields = self.chip.fields()
        self.measurement = measurement or fields.measurement
        self.committed_tcb = fields.committed_tcb
        super().__init__()

    def boot(self) -> dict[str, Device]:
        """The report interface, and the firmware's keys."""
        guest = FakeSevGuest(self._report, chip=self.chip.hwid)
        guest.guest_svn = self.chip.fields().guest_svn
        guest.measurement = self.measurement
        guest.committed_tcb = int.from_bytes(self.committed_tcb, "little")
        table = self.chip.table().encode()
        return {REPORTS: FakeTsm(self._report, certificates=table), "/dev/sev-guest": guest}

    def update_firmware(self) -> None:
        """Commit newer firmware, and start anew: the former's keys can still be had."""
        level = bytearray(self.committed_tcb)
        level[7] += 1
        self.committed_tcb = bytes(level)
        self.reboot()

    def _report(self, report_data: bytes) -> bytes:
        return self.chip.report(
            report_data=report_data,
            vmpl=0,
            measurement=self.measurement,
            committed_tcb=self.committed_tcb,
            current_tcb=self.committed_tcb,
        )


class SgxMachine(EnclaveMachine):
    """An enclave under Gramine, which can seal; `cpu_svn` rises with an update of the CPU."""

    kind = EnclaveKind.SGX
    now = enclaves.NOW
    trust = enclaves.TRUST
    cpu_svn = bytes(range(16))

    def boot(self) -> dict[str, Device]:
        """The files of one enclave."""
        files = FakeGramine(self._quote)
        files.cpu_svn = self.cpu_svn
        return {FILES: files}

    def _quote(self, report_data: bytes) -> bytes:
        return enclaves.INTEL.sgx(enclave_report(report_data=report_data, **self.report))


class TdxMachine(EnclaveMachine):
    """A trust domain, which has registers and cannot seal."""

    kind = EnclaveKind.TDX
    now = enclaves.NOW
    trust = enclaves.TRUST

    def boot(self) -> dict[str, Device]:
        """A new trust domain."""
        self.domain = TrustDomain()
        return {
            REPORTS: FakeTsm(self._quote, provider="tdx_guest"),
            MEASUREMENTS: FakeMeasurements(self.domain),
            TDX_DEVICE: FakeTdxGuest(self.domain),
        }

    def _quote(self, report_data: bytes) -> bytes:
        rtmrs = {f"rtmr{n}": self.domain.registers[f"rtmr{n}:sha384"] for n in range(4)}
        return enclaves.INTEL.tdx(td_report(report_data=report_data, **(rtmrs | self.report)))


class CcaMachine(EnclaveMachine):
    """A realm, which has no registers and cannot seal; its report is by claims' numbers."""

    kind = EnclaveKind.CCA
    now = enclaves.NOW
    trust = enclaves.TRUST

    def boot(self) -> dict[str, Device]:
        """A new realm."""
        return {REPORTS: FakeTsm(self._token, provider="arm_cca_guest")}

    def _token(self, report_data: bytes) -> bytes:
        changes = {int(label): value for label, value in self.report.items()}
        return enclaves.REALM.token(realm={10: report_data} | changes)


class NitroMachine(EnclaveMachine):
    """A Nitro enclave, which has PCRs and cannot seal. `now` is by default the real time."""

    kind = EnclaveKind.NITRO

    def __init__(self, *, now: datetime | None = None) -> None:
        self.now = now or datetime.now(UTC)
        chain = tuple(
            replace(issued, not_before=self.now - _DAY, not_after=self.now + 30 * _DAY)
            for issued in nitro_signer.CHAIN
        )
        self.signer = NitroSigner(chain=chain)
        self.trust = EnclaveTrust(nitro=self.signer.trust)
        super().__init__()

    def boot(self) -> dict[str, Device]:
        """A new enclave of the same image."""
        self.nsm = FakeNsm(self._document)
        for number in range(3):
            self.nsm.pcrs[number] = hashlib.sha384(b"image %d" % number).digest()
        return {"/dev/nsm": self.nsm}

    def _document(self, nonce: bytes) -> bytes:
        pcrs = {number: self.nsm.pcrs[number] for number in sorted(self.nsm.locked)}
        return self.signer.document(
            nonce=nonce, user_data=None, pcrs=pcrs, timestamp=int(self.now.timestamp() * 1000)
        )
