"""A device's connections, opened by many threads at once; run as a program.

    python -P tests/simulators/tls_client.py URL CA KEY CERTIFICATE DEVICE THREADS shared|own

Each thread shakes hands three times, and asks for a challenge over each connection.
Prints the challenges' nonces; where the library refuses, the error's code and nothing else.

1. `shared`: OpenSSL loads the key once, as in a device, whose threads take siblings of
   its channel. `own`: each connection loads it anew, and all stay loaded to the end.
2. OpenSSL reads OPENSSL_CONF once, so a key that needs it needs a process of its own.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from hwtrust.channel import Channel
from hwtrust.errors import HwTrustError
from hwtrust.wire.challenge import Purpose
from hwtrust.wire.messages import ChallengeReply, ChallengeRequest

if TYPE_CHECKING:
    from hwtrust.tls import ClientKey

PROGRAM: Final = Path(__file__).resolve()
HANDSHAKES: Final = 3


@dataclass(frozen=True, slots=True)
class FileKey:
    """A private key as a file has it, which may be one that only a TPM can use.

    Connections ask no more of a ClientKey than this.
    """

    path: Path

    def key_pem(self) -> bytes:
        """What OpenSSL takes it from."""
        return self.path.read_bytes()


def main(arguments: list[str]) -> None:
    """Do as the command line says."""
    url, authority, key, certificate, device, threads, keys = arguments
    asked = ChallengeRequest(device=bytes.fromhex(device), purpose=Purpose.ATTEST)
    opened: list[Channel] = []

    def load() -> Channel:
        channel = Channel(url, tls_ca=Path(authority).read_text())
        channel.authenticate(cast("ClientKey", FileKey(Path(key))), Path(certificate).read_text())
        opened.append(channel)
        return channel

    def ask(first: Channel | None) -> list[str]:
        nonces = []
        for _ in range(HANDSHAKES):
            channel = first.sibling() if first else load()
            nonces.append(channel.post("/v1/challenges", asked, ChallengeReply).nonce.hex())
        return nonces

    try:
        first = load() if keys == "shared" else None
        with ThreadPoolExecutor(int(threads)) as pool:
            found = [nonce for nonces in pool.map(ask, [first] * int(threads)) for nonce in nonces]
    except HwTrustError as error:
        sys.exit(error.code)
    sys.stdout.write(" ".join(found) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
