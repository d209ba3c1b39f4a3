"""Make the vectors of a vTPM in a TEE again: python tests/vectors/make_azure.py.

For SNP and TDX: the HCL report, the quote, what the TEE is verified with, and what is
to be expected. The keys in `azure/keys` are those of the simulators, and guard nothing.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from hwtrust.verify.enclaves.azure import SnpTee
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.enclaves.azure import TeeKind
from simulators.azure_vtpm import INTEL, NOW, PCRS, AzureVm

FOLDER = Path(__file__).parent / "azure"
NONCE = bytes(range(32))
USER_DATA = b"user data"


def files() -> dict[str, bytes]:
    """The contents by name."""
    case = {
        "nonce": NONCE.hex(),
        "user_data": USER_DATA.hex(),
        "now": NOW.isoformat(),
        "pcrs": {number: value.hex() for number, value in PCRS[Alg.SHA256].items()},
        "expected": "both verify; the quote under the report of a machine with other keys does not",
    }
    found = {"case.json": json.dumps(case, indent=1).encode() + b"\n"}
    for kind in TeeKind:
        vm, name = AzureVm(kind=kind), kind.name.lower()
        quote = vm.bare_quote(NONCE)
        report = vm.hcl_report(vm.runtime_data(user_data=USER_DATA)).rstrip(b"\0")
        found |= {
            f"{name}-hcl-report.bin": report,
            f"{name}-message.bin": quote.message,
            f"{name}-signature.bin": quote.signature,
        }
        tee = vm.tee(report)
        if isinstance(tee, SnpTee):
            found |= {f"snp-{at}.der": data for at, data in enumerate(tee.certificates)}
        else:
            found["tdx-quote.bin"] = tee.quote.raw
            found["tdx-collateral.json"] = INTEL.collateral("tdx")
    return found


def main() -> None:
    """Write them."""
    FOLDER.mkdir(exist_ok=True)
    for name, data in files().items():
        (FOLDER / name).write_bytes(data)


if __name__ == "__main__":
    main()
