"""Makes the IMA logs in `ima/`, from the tests' own kernel.

    python tests/vectors/make_ima.py

Digests come from names, and the signature is deterministic: the same bytes each time.
`pcr10.json` has what PCR 10 holds after each log, by bank.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

sys.path.insert(0, str(Path(__file__).parents[1]))

import msgspec

from hwtrust.wire.algorithms import Alg, alg_name
from simulators.ima_log import ImaKernel, Way, ec_key, public_pem, sign

if TYPE_CHECKING:
    from collections.abc import Mapping

FOLDER: Final = Path(__file__).parent / "ima"
PCRS: Final = {number: hashlib.sha256(b"%d" % number).digest() for number in range(10)}
BANKS: Final = (Alg.SHA1, Alg.SHA256, Alg.SHA384)


def kernel(way: Way = "hashed") -> ImaKernel:
    """One that has measured an entry of each kind."""
    signature = sign(ec_key(), hashlib.sha256(b"signed").digest())
    return (
        ImaKernel(way)
        .boot(PCRS)
        .file("/bin/sh", b"shell")
        .file("/bin/signed", b"signed", template="ima-sig", signature=signature)
        .file("/bin/old", b"old", template="ima", algorithm="sha1")
        .file("/bin/second", b"second", template="ima-ngv2")
        .file("/bin/custom", b"custom", template="d-ng|sig|n-ng")
        .file("/var/log/open", violation=True)
        .buffer("kexec-cmdline", b"root=/dev/vda")
    )


def make() -> Mapping[str, bytes]:
    """The files by their names."""
    measured = kernel()
    values = {
        way: {alg_name(bank): kernel(way).pcr(bank).hex() for bank in BANKS}
        for way in ("hashed", "padded", "padded-ones")
    }
    return {
        "binary.bin": measured.log(),
        "binary-sha256.bin": measured.log(bank=Alg.SHA256),
        "binary-growing.bin": measured.log()[:-9],
        "ascii.txt": measured.text(),
        "signer.pem": public_pem(ec_key()).encode(),
        "pcr10.json": msgspec.json.format(msgspec.json.encode(values), indent=2) + b"\n",
    }


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, content in make().items():
        (FOLDER / name).write_bytes(content)
