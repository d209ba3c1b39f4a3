"""Makes the attestation documents of Nitro enclaves in `nitro/`, from the tests' own signer.

    python tests/vectors/make_nitro.py

Keys come from names, signatures are deterministic, the time stands still: the same
bytes each time. `root.pem` is the root, NOW of the signer the time of verification.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

sys.path.insert(0, str(Path(__file__).parents[1]))

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from simulators.nitro_signer import PCRS, NitroSigner

if TYPE_CHECKING:
    from collections.abc import Mapping

FOLDER: Final = Path(__file__).parent / "nitro"


def make() -> Mapping[str, bytes]:
    """The files by their names."""
    signer = NitroSigner()
    root = x509.load_der_x509_certificate(signer.certificates[0])
    debug = PCRS | {number: bytes(48) for number in range(3)}
    return {
        "root.pem": root.public_bytes(Encoding.PEM),
        "document.cbor": signer.document(),
        "debug-mode.cbor": signer.document(pcrs=debug),
        "no-nonce.cbor": signer.document(nonce=None, user_data=None, public_key=b"public key"),
    }


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, content in make().items():
        (FOLDER / name).write_bytes(content)
