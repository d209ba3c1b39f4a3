"""Rewrite the vectors of TDX and SGX quotes: `python tests/vectors/make_dcap.py`.

The simulator signs them under its own root, whose certificate is the last of every
chain. They verify at the simulator's NOW, over REPORT_DATA.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from simulators.dcap_signer import NOW, TEE_TCB_SVN, DcapSigner, enclave_report, stamp, td_report

FOLDER = Path(__file__).resolve().parent / "dcap"
REPORT_DATA = bytes(range(64))


def made() -> dict[str, bytes]:
    """The files by their names."""
    signer = DcapSigner()
    case = {
        "now": stamp(NOW),
        "report_data": REPORT_DATA.hex(),
        "root_sha256": hashlib.sha256(signer.root.der).hexdigest(),
    }
    td = td_report(report_data=REPORT_DATA)
    td_15 = td_report(report_data=REPORT_DATA, tee_tcb_svn2=TEE_TCB_SVN)
    return {
        "case.json": json.dumps(case, indent=2).encode() + b"\n",
        "sgx-v3.quote": signer.sgx(enclave_report(report_data=REPORT_DATA)),
        "sgx.collateral.json": signer.collateral("sgx"),
        "tdx-v4.quote": signer.tdx(td, padding=bytes(70)),
        "tdx-v5.quote": signer.tdx(td, version=5),
        "tdx-v5-td15.quote": signer.tdx(td_15, version=5),
        "tdx.collateral.json": signer.collateral("tdx"),
    }


def main() -> None:
    """Write them."""
    FOLDER.mkdir(exist_ok=True)
    for name, content in made().items():
        (FOLDER / name).write_bytes(content)


if __name__ == "__main__":
    main()
