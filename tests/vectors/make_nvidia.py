"""Make the vectors of a GPU again: python tests/vectors/make_nvidia.py.

A report of the simulated GPU, its certificates, and what is to be expected.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from simulators.nvidia_signer import NOW, GpuSigner

FOLDER = Path(__file__).parent / "nvidia"
NONCE = bytes(range(32))


def files() -> dict[str, bytes]:
    """The contents by name."""
    gpu = GpuSigner()
    case = {
        "nonce": NONCE.hex(),
        "now": NOW.isoformat(),
        "root": next(iter(gpu.trust.roots)),
        "expected": "verifies; driver 550.90.07, VBIOS 96.00.9F.00.01",
    }
    certificates = {f"certificate-{at}.der": data for at, data in enumerate(gpu.chain)}
    return {
        "report.bin": gpu.report(NONCE),
        "case.json": json.dumps(case, indent=1).encode() + b"\n",
    } | certificates


def main() -> None:
    """Write them."""
    FOLDER.mkdir(exist_ok=True)
    for name, data in files().items():
        (FOLDER / name).write_bytes(data)


if __name__ == "__main__":
    main()
