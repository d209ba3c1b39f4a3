"""What verifying SEV-SNP evidence costs beside the bare verifications that it contains.

Each figure is the time of the bare `cryptography` work divided by the time of
`verify_snp`: 1 would be a verification that costs nothing but its signatures. Both
run over the same evidence in turn, in processor time; of each round the fastest
counts, for both. The bare work is what `verify_snp` does as well, and nothing else:
the ECDSA signature of the report and the two RSASSA-PSS signatures of the chain, that
of the pinned root's own left out. None of them is ever kept.

    vcek, vlek  certificates that came before, as with every heartbeat: the bare work has
                its keys parsed and its algorithm objects made. The goal is for these
    new         a VCEK that was never seen, under an ASK and ARK that were: the bare work
                loads the VCEK's certificate and its key. `verify_snp` reads and judges
                all of the certificate, which is Python, and is done once for a chip and
                TCB version
    appraised   `vcek` with the rules applied to the claims

Reports of 16 chips with a report data of their own each. One thread, one core.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

sys.path.insert(0, str(Path(__file__).parents[1]))

from hwtrust.verify import der
from hwtrust.verify.enclaves import snp_chain
from hwtrust.verify.enclaves.snp import SnpClaims, verify_snp
from hwtrust.verify.enclaves.snp_rules import SnpRules, TcbFloor, appraise_snp
from hwtrust.wire.enclaves.snp import SIGNED_SIZE, Product, SigningKey
from simulators.snp_signer import CSP, MEASUREMENT, NOW, PSS, Chip, trust

ROUNDS: Final = 60
CHIPS: Final = 16
GOAL: Final = 0.70
TRUST: Final = trust()
ECDSA: Final = ec.ECDSA(hashes.SHA384())
SHA384: Final = hashes.SHA384()
RULES: Final = SnpRules(
    products=(Product.MILAN,),
    signing_keys=("vcek",),
    csp_ids=(CSP,),
    measurements=(MEASUREMENT.hex(),),
    vmpl_maximum=1,
    policy_allowed=("smt",),
    policy_required=(),
    abi_minimum="1.55",
    unsafe_any_host_data=True,
    unsafe_any_id_key=True,
    unsafe_any_author_key=True,
    guest_svn_minimum=0,
    tcb={Product.MILAN: TcbFloor(bootloader=1, tee=0, snp=1, microcode=1)},
    firmware_minimum="1.55.0",
    platform_required=("ecc_en",),
    platform_forbidden=(),
)


@dataclass(frozen=True, slots=True)
class Evidence:
    """One report, its certificates, what it answers, and the bare work for it."""

    report: bytes
    certificates: tuple[bytes, ...]
    report_data: bytes
    bare: Callable[[], None]
    bare_new: Callable[[], None]


def evidence(chip: Chip, kind: SigningKey) -> Evidence:
    """Of that chip."""
    data = hashlib.sha512(chip.seed).digest()
    report, chain = chip.report(kind, report_data=data), chip.certificates(kind)
    numbers = report[SIGNED_SIZE : SIGNED_SIZE + 72], report[SIGNED_SIZE + 72 : SIGNED_SIZE + 144]
    signature = encode_dss_signature(*(int.from_bytes(one, "little") for one in numbers))
    signed = report[:SIGNED_SIZE]
    parsed = [x509.load_der_x509_certificate(one) for one in chain]
    key, ask, ark = (one.public_key() for one in parsed)
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert isinstance(ask, rsa.RSAPublicKey)
    assert isinstance(ark, rsa.RSAPublicKey)
    (leaf, _, leaf_value), (below, _, below_value) = (der.children(one) for one in chain[:2])
    # A BIT STRING of 512 bytes: tag, three bytes of length, no unused bits.
    leaf_value, below_value = leaf_value[5:], below_value[5:]

    def bare(key: ec.EllipticCurvePublicKey = key) -> None:
        key.verify(signature, signed, ECDSA)
        ask.verify(leaf_value, leaf, PSS, SHA384)
        ark.verify(below_value, below, PSS, SHA384)

    def bare_new() -> None:
        found = x509.load_der_x509_certificate(chain[0]).public_key()
        assert isinstance(found, ec.EllipticCurvePublicKey)
        bare(found)

    return Evidence(report, chain, data, bare, bare_new)


def verify(one: Evidence) -> SnpClaims:
    """All of it."""
    return verify_snp(
        one.report,
        certificates=one.certificates,
        report_data=one.report_data,
        now=NOW,
        trust=TRUST,
    )


def appraise(one: Evidence) -> None:
    """And the rules."""
    assert not appraise_snp(verify(one), rules=RULES)


def seconds(work: Callable[[Evidence], object], group: Sequence[Evidence]) -> float:
    """How long `work` takes for a group."""
    start = time.process_time()
    for one in group:
        work(one)
    return time.process_time() - start


def measured(
    bare: Callable[[Evidence], object],
    full: Callable[[Evidence], object],
    group: Sequence[Evidence],
    *,
    before: Callable[[], None] = lambda: None,
) -> float:
    """The fastest round of `bare` divided by that of `full`."""
    times = []
    for _ in range(ROUNDS):
        floor = seconds(bare, group)
        before()
        times.append((floor, seconds(full, group)))
    return min(floor for floor, _ in times) / min(whole for _, whole in times)


def report(name: str, value: float, goal: float | None) -> None:
    """Print one figure."""
    result = {
        "name": name,
        "value": round(value, 3),
        "unit": "of the rate of the bare verify",
        "goal": goal,
        "ok": goal is None or value >= goal,
    }
    print(json.dumps(result), flush=True)


def main() -> None:
    """Measure, and print the figures."""
    # The serial number of a VCEK is 0, of which the parser warns each time.
    warnings.simplefilter("ignore")
    groups = {
        kind: [evidence(Chip(Product.MILAN, seed=bytes([n])), kind) for n in range(CHIPS)]
        for kind in (SigningKey.VCEK, SigningKey.VLEK)
    }
    for kind, group in groups.items():
        value = measured(lambda one: one.bare(), verify, group)
        report(f"snp_verify_{kind.name.lower()}", value, GOAL)
    group = groups[SigningKey.VCEK]

    def forget() -> None:
        """All but the ASK and the ARK."""
        snp_chain._certificates.cache_clear()
        for certificate in group[0].certificates[1:]:
            snp_chain._certificates(certificate)

    value = measured(lambda one: one.bare_new(), verify, group, before=forget)
    report("snp_verify_new", value, None)
    report("snp_appraised", measured(lambda one: one.bare(), appraise, group), None)


if __name__ == "__main__":
    main()
