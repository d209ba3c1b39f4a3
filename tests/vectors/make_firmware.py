"""Writes the firmware logs beside it: `python tests/vectors/make_firmware.py`.

Made by `simulators.firmware_log`; no real machine's. Beside each log stand the values
of the registers that it comes to, by bank and number, and what it must claim.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[1]))

from hwtrust.wire.logs.firmware import EventType
from simulators.firmware_log import Firmware, booted

FOLDER: Final = Path(__file__).parent / "firmware"
REGISTERS: Final = (*range(10), 14)


def confidential() -> Firmware:
    """A confidential VM, whose log has measurement registers."""
    firmware = Firmware("sha384", confidential=True).variable("SecureBoot", b"\x01")
    firmware.separate(1, 2).measure(2, EventType.EFI_ACTION, b"Exit Boot Services Invocation")
    return firmware.measure(3, EventType.IPL, b"/vmlinuz-6.1\0", b"the kernel")


def files() -> dict[str, bytes]:
    """The contents by name."""
    machines = {
        "agile": booted("sha1", "sha256", "sha384"),
        "locality-3": booted("sha256", locality=3),
        "sha1": booted("sha1"),
        "secure-boot-off": Firmware("sha256").start(secure_boot=b"\0").load(),
        "ccel": confidential(),
    }
    found = {}
    for name, firmware in machines.items():
        registers = range(1, 5) if firmware.confidential else REGISTERS
        facts = {
            "secure_boot": "off" if name == "secure-boot-off" else "on",
            "confidential": firmware.confidential,
            "pcrs": {
                bank: {str(number): values[number].hex() for number in registers}
                for bank, values in firmware.values.items()
            },
        }
        found[f"{name}.bin"] = firmware.raw + (b"\xff" * 64 if firmware.confidential else b"")
        found[f"{name}.json"] = (json.dumps(facts, indent=1) + "\n").encode()
    return found


def main() -> None:
    """Write them."""
    FOLDER.mkdir(exist_ok=True)
    for name, content in files().items():
        (FOLDER / name).write_bytes(content)


if __name__ == "__main__":
    main()
