"""The life of a root across starts of a machine whose TPM and disk stay."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

import pytest

from hwtrust_backend.testing import policy_document
from vm.vendor_device import HOME, KEPT

if TYPE_CHECKING:
    from vm.vendor_device import VendorDevice

pytestmark = [pytest.mark.vm, pytest.mark.long]

LAYER_REFUSED: Final = 8
ROOT_REFUSED: Final = 6
KERNEL_PCR: Final = 4
PCRS: Final = frozenset(range(24))

CUTS: Final = {
    "a rotation, its root imported": ("attest", "import"),
    "a rotation, before it is counted": ("attest", "wrap key store"),
    "a rotation, counted, the old root still there": ("attest", "count"),
    "an update, staged": ("update", "stage"),
    "an update, switched and on trial": ("update", "reload"),
}


def test_a_root_opens_the_key_store_in_every_start_of_its_life(device: VendorDevice) -> None:
    """Enrolled, capped, rebooted, updated, rotated: the device keeps what it was told to keep.

    In the same start nothing else opens the root; a changed layer keeps it in the TPM.
    """
    device.set_up()
    device.enrol()
    assert device.work("unseal") == "root:state:unapproved\n"

    device.machine.reboot()
    assert device.work("unseal") == "root:state:unapproved\n"
    assert device.secret() == KEPT
    assert device.work("unseal") == "root:state:unapproved\n"

    device.publish("2.0", frontend=b"the second frontend")
    device.hwtrust("boot").good()
    assert device.document("update")["outcome"] == "confirmed"
    device.publish("3.0", kernel=b"the third kernel")
    device.hwtrust("attest").good()
    assert device.document("update")["outcome"] == "restart"
    device.machine.reboot()
    found = device.check()
    assert (found["release"], found["standing"], found["kept"]) == ("3.0", "trusted", KEPT)
    assert device.document("update")["outcome"] == "current"

    device.backend.rotate(device.name)
    rotated = device.check()
    assert rotated["epoch"] == rotated["counter"] == rotated["opened"] > found["epoch"]
    device.machine.reboot()
    assert device.secret() == KEPT

    device.machine.write(str(HOME / "slots" / "current" / "kernel"), b"another kernel")
    device.machine.reboot()
    refused = device.hwtrust("keystore", "get", "payments/transport")
    assert (refused.status, refused.output) == (LAYER_REFUSED, "")


def test_a_power_cut_at_any_step_loses_nothing(device: VendorDevice) -> None:
    """Machine and TPM lose their power there; the next start opens, is trusted, and goes on."""
    device.set_up()
    device.enrol()
    before = device.check()
    assert before["kept"] == KEPT
    for number, (what, (work, step)) in enumerate(CUTS.items(), 2):
        release = before["release"]
        if work == "update":
            release = f"{number}.0"
            device.publish(release, frontend=f"frontend {number}".encode())
        else:
            device.backend.rotate(device.name)
        device.cut_power_after(work, step)
        device.machine.start()
        found = device.check()
        assert (found["kept"], found["after"], found["standing"]) == (KEPT, KEPT, "trusted"), what
        assert found["release"] in {before["release"], release}, what
        assert found["epoch"] == found["counter"] == found["opened"], what
        assert found["roots"] == [found["epoch"]], what
        if work == "update":
            assert device.document("update", release)["outcome"] in {"current", "confirmed"}, what
            found = device.check()
            assert (found["release"], found["kept"]) == (release, KEPT), what
        else:
            assert found["epoch"] > before["epoch"], what
        before = found


def test_another_kernel_takes_the_backends_approval(device: VendorDevice) -> None:
    """A platform PCR that changed keeps the root in the TPM until the policy accepts its value."""
    read = ("cat", f"/sys/class/tpm/tpm0/pcr-sha256/{KERNEL_PCR}")
    first = device.machine.run(*read).good().strip().lower()
    hold(device, first)
    device.set_up("--platform-pcrs", str(KERNEL_PCR))
    device.enrol()
    assert device.check()["standing"] == "trusted"

    device.machine.reboot(kernel_tail=b"another one!")
    second = device.machine.run(*read).good().strip().lower()
    assert second != first
    refused = device.hwtrust("keystore", "get", "payments/transport")
    assert (refused.status, refused.output) == (ROOT_REFUSED, "")
    assert "[root:state:unapproved]" in refused.complaint
    findings = json.loads(device.hwtrust("attest", "--json").output)["findings"]
    (changed,) = (one for one in findings if one["code"] == "pcr:value")
    assert f"PCR {KERNEL_PCR} " in changed["message"]

    hold(device, first, second)
    assert device.secret() == KEPT
    assert device.check()["standing"] == "trusted"
    device.machine.reboot()
    assert device.secret() == KEPT


def hold(device: VendorDevice, *values: str) -> None:
    """Have the policy accept these values of the PCR that firmware measures the kernel into."""
    document = policy_document(
        pcrs={
            "required": [KERNEL_PCR],
            "unsafe_any": sorted(PCRS - {KERNEL_PCR}),
            "values": {str(KERNEL_PCR): list(values)},
        }
    )
    device.backend.hold_to(document)
