"""What verifying a Nitro document costs beside the bare verifies of its signatures.

Each figure is the time of the bare `cryptography` verifies divided by that of
`verify_nitro`: 1 would be a verification that costs nothing but its signatures. The
bare ones are five on P-384 with SHA-384: the four of the chain below the root, and the
document's own; keys parsed, DER made, algorithm objects made beforehand, nothing
decoded. The root's own signature is not among them: it is pinned, by neither.

    nitro        documents of enclaves that were seen before: their certificates have been
                 read, and what was read is kept. Every signature is verified
    nitro-fresh  the same, but each time with a leaf that was never seen
    nitro-cold   nothing was ever seen: all five certificates are read each time; told, no goal

Both sides run over the same documents in turn, in processor time, and of each the
fastest round counts. Every document has its own nonce. One thread, one core.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

sys.path.insert(0, str(Path(__file__).parents[1]))

from hwtrust.verify.enclaves import nitro_chain
from hwtrust.verify.enclaves.nitro import verify_nitro
from hwtrust.wire.enclaves.nitro import NitroDocument
from simulators.nitro_signer import NOW, USER_DATA, NitroSigner

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ROUNDS: Final = 40
ENCLAVES: Final = 4
DOCUMENTS: Final = 4
GOAL: Final = 0.70
SCHEME: Final = ec.ECDSA(hashes.SHA384())

Verify = tuple[ec.EllipticCurvePublicKey, bytes, bytes]


@dataclass(frozen=True)
class Case:
    """A document, what it answers, and the verifies that it contains."""

    document: bytes
    nonce: bytes
    bare: tuple[Verify, ...]


def make_cases() -> list[Case]:
    """Documents of several enclaves of one instance, several of each."""
    cases = []
    for enclave in range(ENCLAVES):
        signer = NitroSigner().with_changed("enclave", serial=enclave + 1)
        for number in range(DOCUMENTS):
            nonce = bytes([enclave, number]) * 16
            document = signer.document(nonce=nonce)
            cases.append(Case(document, nonce, bare_of(document)))
    return cases


def bare_of(document: bytes) -> tuple[Verify, ...]:
    """The verifies of chain and document, all that they need made beforehand."""
    read = NitroDocument.decode(document)
    chain = [x509.load_der_x509_certificate(der) for der in (*read.cabundle, read.certificate)]
    keys = [member.public_key() for member in chain]
    found = []
    for key, member in zip(keys, chain[1:], strict=False):
        assert isinstance(key, ec.EllipticCurvePublicKey)
        found.append((key, member.signature, member.tbs_certificate_bytes))
    last = keys[-1]
    assert isinstance(last, ec.EllipticCurvePublicKey)
    raw = read.message.signature
    der = encode_dss_signature(int.from_bytes(raw[:48], "big"), int.from_bytes(raw[48:], "big"))
    return (*found, (last, der, read.message.to_be_signed))


def bare(cases: Sequence[Case]) -> None:
    """The verifies alone."""
    for case in cases:
        for key, signature, signed in case.bare:
            key.verify(signature, signed, SCHEME)


def whole(cases: Sequence[Case]) -> None:
    """All of the verification."""
    for case in cases:
        verify_nitro(case.document, nonce=case.nonce, user_data=USER_DATA, now=NOW, trust=TRUST)


TRUST: Final = NitroSigner().trust


def seconds(work: Callable[[Sequence[Case]], None], cases: Sequence[Case]) -> float:
    """How long `work` takes."""
    start = time.process_time()
    work(cases)
    return time.process_time() - start


def measured(cases: Sequence[Case], forget: Callable[[], None]) -> float:
    """The time of the bare verifies divided by that of the whole, side by side."""
    signatures, all_of_it = [], []
    for _ in range(ROUNDS):
        signatures.append(seconds(bare, cases))
        forget()
        all_of_it.append(seconds(whole, cases))
    return min(signatures) / min(all_of_it)


def forget_leaves() -> None:
    """Keep the CAs alone: as if each leaf came for the first time."""
    nitro_chain._read.cache_clear()
    for der in NitroSigner().certificates[:-1]:
        nitro_chain._read(der)


def report(name: str, value: float, goal: float | None) -> bool:
    """Print a figure; whether it is as it should be."""
    ok = goal is None or value >= goal
    figure = {"name": name, "value": round(value, 3), "unit": "of the bare verifies"}
    print(json.dumps(figure | {"goal": goal, "ok": ok}), flush=True)
    return ok


def main() -> int:
    """Measure, and tell by the exit code whether the goals are met."""
    cases = make_cases()
    first_of_each = cases[::DOCUMENTS]
    good = report("nitro", measured(cases, lambda: None), GOAL)
    good &= report("nitro-fresh", measured(first_of_each, forget_leaves), GOAL)
    report("nitro-cold", measured(cases[:1], nitro_chain._read.cache_clear), None)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
