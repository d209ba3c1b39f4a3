"""A device whose TLS key never leaves its TPM, on a kernel's own resource manager.

Needs tpm2-openssl 1.2 or newer in the VM, whose root is this machine's:

    HWTRUST_TEST_VM=all scripts/platform-test trixie -m vm tests/vm/test_tls_key.py
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from hwtrust.errors import TlsKeyError
from simulators.resource_manager import documented_configuration, require_provider
from simulators.tls_client import HANDSHAKES, PROGRAM
from vm.vendor_device import HOME, KEPT

if TYPE_CHECKING:
    from hwtrust.testing.swtpm import Swtpm
    from vm.machine import Done
    from vm.vendor_device import VendorDevice

pytestmark = [pytest.mark.vm, pytest.mark.long]

COMMAND: Final = "HWTRUST_TEST_VM=all scripts/platform-test trixie -m vm tests/vm/test_tls_key.py"
OPENSSL_CONF: Final = str(HOME / "openssl.cnf")
AUTHORITY: Final = str(HOME / "ca.pem")
KEY: Final = str(HOME / "state" / "tls-key.pem")
CERTIFICATE: Final = str(HOME / "state" / "tls-certificate.pem")
THREADS: Final = 4
CHANNEL_FAILED: Final = 5


@pytest.fixture
def provider(tpm: Swtpm) -> None:
    """Find out before a VM is booted; the one in it is of the same files."""
    require_provider(tpm.tcti, manager=False, command=COMMAND)


@pytest.mark.usefixtures("provider")
def test_a_device_lives_and_is_rotated_with_its_tls_key_in_its_tpm(device: VendorDevice) -> None:
    """Enrolled, booted, attested, rotated, rebooted: all over TLS that only its TPM can open.

    Threads open connections at once. Without the provider nothing takes the key's place.
    """
    device.machine.write(OPENSSL_CONF, documented_configuration().encode())
    device.machine.write(AUTHORITY, device.backend.trust.tls_ca.encode())
    device.environment = {
        "OPENSSL_CONF": OPENSSL_CONF,
        "TPM2OPENSSL_TCTI": "device:/dev/tpmrm0",
    }
    device.set_up("--tls-key", "tpm")
    device.enrol()
    assert device.document("status")["tls_key"] == "tpm"
    # Nothing that a thief of the disk could use: the key is wrapped for this TPM.
    key = device.machine.read(KEY)
    assert b"TSS2 PRIVATE KEY" in key
    device.hwtrust("boot").good()
    assert device.document("attest")["standing"] == "trusted"

    before = device.check()
    device.backend.rotate(device.name)
    rotated = device.check()
    assert rotated["epoch"] == rotated["counter"] == rotated["opened"] > before["epoch"]
    assert rotated["roots"] == [rotated["epoch"]]
    assert (rotated["standing"], rotated["after"]) == ("trusted", KEPT)
    assert device.machine.read(KEY) == key

    # Linux lets OpenSSL's connection have three objects: a program that loads the key again and
    # again is refused, and does no harm.
    assert shake_hands(device, "own").complaint.strip() == TlsKeyError.code
    nonces = shake_hands(device, "shared").good().split()
    assert len(set(nonces)) == THREADS * HANDSHAKES

    device.machine.reboot()
    found = device.check()
    assert (found["epoch"], found["standing"], found["kept"]) == (rotated["epoch"], "trusted", KEPT)
    assert device.document("status")["tls_key"] == "tpm"

    device.environment = {}
    refused = device.hwtrust("attest")
    assert refused.status == CHANNEL_FAILED
    assert f"[{TlsKeyError.code}]" in refused.complaint


def shake_hands(device: VendorDevice, keys: str) -> Done:
    """Have threads open connections at once, each for a challenge."""
    return device.machine.run(
        *("python", "-P", str(PROGRAM), device.backend.url, AUTHORITY, KEY, CERTIFICATE),
        *(device.name.hex(), str(THREADS), keys),
        environment=device.environment | {"TSS2_LOG": "all+none"},
    )
