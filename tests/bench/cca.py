"""What verifying a CCA token costs beside the bare verifies of its signatures.

Each figure is the time of the bare `cryptography` verifies divided by that of
`verify_cca`: 1 would be a verification that costs nothing but its signatures. The bare
ones are two, of the platform's and of the realm's token: keys parsed, DER made,
algorithm objects made beforehand, nothing decoded.

    cca        both keys on P-384, as RMMs have them, 13 software components
    cca-es256  the platform's key on P-256: its signature is the cheapest one, told, no goal

The realm's key comes with the token: it is decoded, and its point put on its curve,
within the whole. Both sides run over the same tokens in turn, in processor time, and
of each the fastest round counts. Every token has its own challenge. One thread, one core.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

sys.path.insert(0, str(Path(__file__).parents[1]))

from hwtrust.verify.enclaves.cca import CcaTrust, verify_cca
from hwtrust.wire.enclaves.cca import CcaToken
from simulators.cca_signer import SIGNER_ID, CcaSigner
from simulators.cose_signer import key_named

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hwtrust.wire.enclaves.cose import CoseSign1

ROUNDS: Final = 60
TOKENS: Final = 8
COMPONENTS: Final = 13
GOAL: Final = 0.70
SCHEMES: Final = {
    "secp256r1": ec.ECDSA(hashes.SHA256()),
    "secp384r1": ec.ECDSA(hashes.SHA384()),
}

Verify = tuple[ec.EllipticCurvePublicKey, bytes, bytes, ec.ECDSA]


@dataclass(frozen=True)
class Case:
    """A token, what it answers, and the verifies that it contains."""

    token: bytes
    challenge: bytes
    trust: CcaTrust
    bare: tuple[Verify, Verify]


def make_cases(signer: CcaSigner) -> list[Case]:
    """Tokens of one realm, each for its own challenge."""
    components = [
        {1: f"COMPONENT_{number}", 5: SIGNER_ID, 2: sha256(b"%d" % number).digest(), 6: "sha-256"}
        for number in range(COMPONENTS)
    ]
    trust, cases = signer.trust, []
    for number in range(TOKENS):
        challenge = bytes([number]) * 64
        token = signer.token(platform={2399: components}, realm={10: challenge})
        read = CcaToken.decode(token)
        verifies = (
            bare_of(read.platform_message, signer.cpak),
            bare_of(read.realm_message, signer.rak),
        )
        cases.append(Case(token, challenge, trust, verifies))
    return cases


def bare_of(message: CoseSign1, key: ec.EllipticCurvePrivateKey) -> Verify:
    """A verify, all that it needs made beforehand."""
    raw = message.signature
    half = len(raw) // 2
    r, s = int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big")
    der = encode_dss_signature(r, s)
    return key.public_key(), der, message.to_be_signed, SCHEMES[key.curve.name]


def bare(cases: Sequence[Case]) -> None:
    """The verifies alone."""
    for case in cases:
        for key, signature, signed, scheme in case.bare:
            key.verify(signature, signed, scheme)


def whole(cases: Sequence[Case]) -> None:
    """All of the verification."""
    for case in cases:
        verify_cca(case.token, challenge=case.challenge, trust=case.trust)


def seconds(work: Callable[[Sequence[Case]], None], cases: Sequence[Case]) -> float:
    """How long `work` takes."""
    start = time.process_time()
    work(cases)
    return time.process_time() - start


def measured(cases: Sequence[Case]) -> float:
    """The time of the bare verifies divided by that of the whole, side by side."""
    times = [(seconds(bare, cases), seconds(whole, cases)) for _ in range(ROUNDS)]
    return min(time for time, _ in times) / min(time for _, time in times)


def report(name: str, value: float, goal: float | None) -> bool:
    """Print a figure; whether it is as it should be."""
    ok = goal is None or value >= goal
    figure = {"name": name, "value": round(value, 3), "unit": "of the bare verifies"}
    print(json.dumps(figure | {"goal": goal, "ok": ok}), flush=True)
    return ok


def main() -> int:
    """Measure, and tell by the exit code whether the goal is met."""
    good = report("cca", measured(make_cases(CcaSigner())), GOAL)
    cheapest = CcaSigner(cpak=key_named("CPAK", ec.SECP256R1()))
    report("cca-es256", measured(make_cases(cheapest)), None)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
