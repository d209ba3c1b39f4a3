"""A site whose machine measures as a real one: firmware and kernel, log and PCRs at once.

    site = LoggedSite(tmp_path, tpm, backend, vendor)     # firmware has run, the kernel too
    site.hold()                                           # the backend's policy asks for both logs
    site.run("/usr/bin/tool", b"its content")             # measured by IMA, into log and PCR 10

What the firmware measures follows from `Firmware`, what the kernel does from `ImaKernel`.
The files that the device reads are at `firmware_path` and `ima_path`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from tpm2_pytss import ESAPI, ESYS_TR, TPML_DIGEST_VALUES, TPMT_HA, TPMU_HA

from hwtrust.verify.logs.reference import reference_from_eventlog
from hwtrust.wire.algorithms import Alg, alg_name, new_hash
from hwtrust_backend.testing import policy_document
from simulators.firmware_log import Firmware, booted
from simulators.ima_log import ImaKernel
from simulators.site import APPLICATION_PCR, Site

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from hwtrust.testing.manufacture import Vendor
    from hwtrust.testing.swtpm import Swtpm
    from hwtrust_backend.testing import BackendServer

OWN_PCR: Final = 12
EXPLAINED: Final = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9)
FILES: Final = {"/usr/bin/init": b"the first process", "/usr/lib/libc.so": b"a library"}
BANKS: Final = (Alg.SHA1, Alg.SHA256)


class LoggedSite(Site):
    """A device whose firmware and kernel keep logs."""

    def __init__(
        self, home: Path, tpm: Swtpm, backend: BackendServer, vendor: Vendor, *, quoted: str = ""
    ) -> None:
        self.firmware_path = home / "binary_bios_measurements"
        self.ima_path = home / "binary_runtime_measurements"
        self.firmware = Firmware()
        self.kernel = ImaKernel()
        super().__init__(home, tpm, backend, vendor, platform_pcrs=tuple(range(8)))
        text = self.config_path.read_text().replace(
            f"pcr = {APPLICATION_PCR}\n",
            f"pcr = {OWN_PCR}\n"
            f"quoted_pcrs = {quoted or '[8, 9, 10]'}\n"
            f'firmware_log = "{self.firmware_path}"\n'
            f'ima_log = "{self.ima_path}"\n',
        )
        self.config_path.write_text(text)

    def start_firmware(self) -> None:
        """Boot: the firmware measures, then the kernel its first entries."""
        self.firmware = booted()
        for event in self.firmware.events:
            if event.type != 3:
                self.extend(event.register, event.digests)
        self.firmware_path.write_bytes(self.firmware.raw)
        self.kernel = ImaKernel()
        self.ima_path.write_bytes(b"")
        self.kernel.boot(dict(self.firmware.pcrs[Alg.SHA256]))
        self._measured()
        for path, content in FILES.items():
            self.run(path, content)

    def reboot(self) -> None:
        """Reset the machine."""
        self.tpm.reboot()
        self.start_firmware()

    def run(self, path: str, content: bytes, *, violation: bool = False) -> None:
        """Have the kernel measure a file; a violation: it is being written."""
        self.kernel.file(path, content, violation=violation)
        self._measured()

    def _measured(self) -> None:
        entry = self.kernel.entries[-1]
        if entry.violation:
            added: dict[int, bytes] = {Alg.SHA1: b"\xff" * 20, Alg.SHA256: b"\xff" * 32}
        else:
            added = {bank: new_hash(bank, entry.data) for bank in BANKS}
        self.extend(10, added)
        with self.ima_path.open("ab") as file:
            file.write(self.kernel.log(begin=len(self.kernel.entries) - 1))

    def extend(self, pcr: int, digests: Mapping[int, bytes]) -> None:
        """TPM2_PCR_Extend, as whoever runs on the machine can."""
        values = [
            TPMT_HA(hashAlg=bank, digest=TPMU_HA(**{alg_name(Alg(bank)): value}))
            for bank, value in digests.items()
        ]
        with ESAPI(self.tpm.tcti) as esapi:
            esapi.pcr_extend(ESYS_TR(pcr), TPML_DIGEST_VALUES(digests=values))

    def policy(self, *, ima: Mapping[str, object] | None = None, firmware: str = "") -> str:
        """A policy that accepts what this machine boots and `FILES`, and asks for both logs."""
        rules = firmware or reference_from_eventlog(
            self.firmware.log, pcrs=EXPLAINED, bank=Alg.SHA256
        )
        anywhere = [f"sha256:{new_hash(Alg.SHA256, content).hex()}" for content in FILES.values()]
        table = {"digests_anywhere": anywhere} if ima is None else ima
        lines = [f"{name} = {json.dumps(value)}" for name, value in table.items()]
        base = policy_document(pcrs={"unsafe_any": [], "values": {}})
        return "\n".join([base, rules, "[ima]", *lines, ""])

    def hold(self, *, ima: Mapping[str, object] | None = None, firmware: str = "") -> None:
        """Put that policy into force."""
        self.backend.hold_to(self.policy(ima=ima, firmware=firmware))
