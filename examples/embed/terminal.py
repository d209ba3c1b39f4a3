"""A payment terminal that signs orders: `terminal.py hwtrust.toml [TOKEN-FILE] < orders`."""

from __future__ import annotations

import hmac
import secrets
import subprocess
import sys
from pathlib import Path

from hwtrust import Device, DeviceConfig
from hwtrust.device import State
from hwtrust.errors import HwTrustError

KEY = "payments/transport"


def main(config: str, token_file: str = "") -> None:
    """Start the layers, then sign with a key that opens in a trusted state only."""
    with Device.open(DeviceConfig.load(config)) as device:
        if not device.enrolled:
            device.enrol(token=Path(token_file).read_text().strip())
        condition = device.load(activate=lambda _, path: subprocess.run([path], check=True))
        if condition.state is not State.NORMAL:
            sys.exit(f"out of order: {condition.message} [{condition.code}]")
        if KEY not in device.keystore:
            device.keystore.put(KEY, secrets.token_bytes(32))
        for order in sys.stdin:
            print(hmac.digest(device.keystore[KEY], order.encode(), "sha256").hex(), flush=True)
            if device.report("transaction", detail="order"):
                device.attest()  # the backend is due to replace the root


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except HwTrustError as error:
        sys.exit(f"out of order: {error} [{error.code}]")
