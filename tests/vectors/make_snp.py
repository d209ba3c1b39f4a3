"""Write the SEV-SNP vectors of this repository: `python tests/vectors/make_snp.py`.

Reports of simulated chips under test roots, each with the certificate table that a
host puts beside it, as in `simulators.snp_signer`; the keys in snp/keys are fixed, for
RSA keys of this size take seconds to make. All of it is deterministic: what is written
again is the same.

    snp/<name>.report   ATTESTATION_REPORT, 1184 bytes
    snp/<name>.table    certificate table: VCEK or VLEK, ASK or ASVK, ARK
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[1]))

from hwtrust.wire.enclaves.snp import Product, SigningKey
from simulators.snp_signer import Chip

FOLDER: Final = Path(__file__).parent / "snp"

CASES: Final = {
    "milan-v2-vcek": (Product.MILAN, SigningKey.VCEK, 2),
    "milan-v5-vlek": (Product.MILAN, SigningKey.VLEK, 5),
    "genoa-v3-vcek": (Product.GENOA, SigningKey.VCEK, 3),
    "turin-v4-vlek": (Product.TURIN, SigningKey.VLEK, 4),
    "turin-v5-vcek": (Product.TURIN, SigningKey.VCEK, 5),
}


def files() -> dict[str, bytes]:
    """Every file by its name."""
    made = {}
    for name, (product, kind, version) in CASES.items():
        chip = Chip(product)
        made[f"{name}.report"] = chip.report(kind, version=version)
        made[f"{name}.table"] = chip.table(kind).encode()
    return made


def main() -> None:
    """Write them."""
    FOLDER.mkdir(exist_ok=True)
    for name, content in files().items():
        (FOLDER / name).write_bytes(content)


if __name__ == "__main__":
    main()
