"""The logs of a VM's firmware and kernel, sent to a backend and held against its policy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from hwtrust_backend.testing import policy_document
from vm.evidence import FIRMWARE_LOG, IMA_LOG
from vm.machine import STATE

if TYPE_CHECKING:
    from vm.vendor_device import VendorDevice

pytestmark = [pytest.mark.vm, pytest.mark.long]

OWN_PCR: Final = 12
EXPLAINED: Final = "0,1,2,3,4,5,6,7,8,9"
LOGS: Final = f"""\
quoted_pcrs = [8, 9, 10]
firmware_log = "{FIRMWARE_LOG}"
ima_log = "{IMA_LOG}"
"""
NO_PCRS: Final[dict[str, object]] = {"required": [], "unsafe_any": [], "values": {}}
UNTRUSTED: Final = 3
UNKNOWN: Final = "/run/unknown"


def test_the_backend_appraises_both_logs(device: VendorDevice) -> None:
    """What the machine measured is accepted; a program that nobody knows is named and refused.

    So is, in the next start, a kernel that the rules do not have.
    """
    device.set_up("--platform-pcrs", "0,1,2,3,4,5,6,7", "--pcr", str(OWN_PCR), tpm=LOGS)
    device.enrol()
    assert device.document("attest")["standing"] == "trusted"
    reference = ("hwtrust", "reference")
    run = device.machine.run
    firmware = run(*reference, "from-eventlog", FIRMWARE_LOG, "--pcrs", EXPLAINED).good()
    ima = run(*reference, "from-ima", IMA_LOG).good()
    ima = ima.replace("[ima]\n", f'[ima]\nexcludes = ["{STATE}/*"]\n', 1)
    device.backend.hold_to("\n".join([policy_document(pcrs=NO_PCRS), firmware, ima]))
    attested = device.document("attest")
    assert (attested["standing"], attested["findings"]) == ("trusted", [])

    run("sh", "-c", f"cp /bin/true {UNKNOWN} && echo >>{UNKNOWN} && {UNKNOWN}").good()
    refused = device.hwtrust("attest", "--json")
    assert refused.status == UNTRUSTED
    assert '"ima:' in refused.output
    assert UNKNOWN in refused.output

    device.machine.reboot(kernel_tail=b"another one!")
    refused = device.hwtrust("attest", "--json")
    assert refused.status == UNTRUSTED
    assert '"firmware:' in refused.output
