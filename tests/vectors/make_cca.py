"""Makes the attestation tokens of Arm CCA in `cca/`, from the tests' own signer.

    python tests/vectors/make_cca.py

Keys come from names, and signatures are deterministic: the same bytes each time.
`endorsements.json` has the key of the platform.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

sys.path.insert(0, str(Path(__file__).parents[1]))

import msgspec

from simulators.cca_signer import CcaSigner

if TYPE_CHECKING:
    from collections.abc import Mapping

FOLDER: Final = Path(__file__).parent / "cca"


def make() -> Mapping[str, bytes]:
    """The files by their names."""
    signer = CcaSigner()
    return {
        "endorsements.json": msgspec.json.encode([signer.endorsement]) + b"\n",
        "token.cbor": signer.token(),
        "token-legacy.cbor": CcaSigner(legacy=True).token(),
        "token-debug.cbor": signer.token(platform={2395: 0x5000}),
    }


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, content in make().items():
        (FOLDER / name).write_bytes(content)
