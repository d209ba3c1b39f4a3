"""What appraising a TPM's quote costs beside the bare verification of its signatures.

Each figure is the time of the bare `cryptography` verify (key parsed, DER made,
algorithm objects made beforehand) divided by the time of the whole: 1 would be
an appraisal that costs nothing but its signatures. Both are measured in turn,
slice by slice of the same evidence, in processor time; of each slice the fastest
round counts, for both, so that what else the machine does is left out of both.

    evidence  verify_evidence + appraise, two signatures (quote and counter)
    judged    the same with the rules of a group's policy in the place of appraise alone
    quote     verify_quote + replay of the log + appraise, one signature
    stored    evidence, with what is known of the device decoded from its row first
    cold      stored, of devices whose key, log and release were never seen before

24 PCRs, a log of 12 events. Every evidence has its own nonce, its own signatures
and its own bytes, and is appraised once a round; keys, logs and PCR values come
again, as in a fleet. One thread, one core.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

sys.path.insert(0, str(Path(__file__).parents[1]))

from hwtrust.verify.appraise import FIRST_SIGHT, ClockRules, References, appraise
from hwtrust.verify.attestation import ENDORSEMENT, VERIFIED, qualified_name
from hwtrust.verify.evidence import Claims, KnownDevice, replayed, verify_evidence
from hwtrust.verify.policy import LogRules, PcrRules, Rules, judge
from hwtrust.verify.quote import verify_quote
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.challenge import Purpose
from hwtrust.wire.messages import Evidence, Signed, Standing
from hwtrust.wire.structures import PcrSelection, Public, Signature
from simulators.attester import Attester, make_release
from simulators.software_tpm import SoftwareTpm

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hwtrust.verify.appraise import Verdict
    from hwtrust.wire.messages import Release

ROUNDS: Final = 60
SLICE: Final = 8
DEVICES: Final = 12
HEARTBEATS: Final = 20
COLD_DEVICES: Final = {"p256": 120, "rsa2048": 24}
GOALS: Final = {"p256": 0.80, "rsa2048": 0.60}

SELECTION: Final = "sha256:all"
EVENTS: Final = 12
EPOCHS: Final = frozenset({7})
NOW_MS: Final = 0
CLOCK: Final = ClockRules(max_lag_ms=10**15, max_ahead_ms=10**15, max_drift=0.15, firmware_floor=0)

ECDSA: Final = ec.ECDSA(hashes.SHA256())
PKCS1: Final = padding.PKCS1v15()
SHA256: Final = hashes.SHA256()


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """One evidence, and all that it is held against."""

    evidence: Evidence
    nonce: bytes
    known: KnownDevice
    row: tuple[bytes, bytes, str, int, bytes]
    references: References
    rules: Rules
    bare: tuple[Callable[[], None], ...]
    """The bare verifies of the signatures: the quote's, then the counter's."""


def make_device(kind: str, number: int, release: Release) -> Attester:
    """A device that has loaded `release`, with PCR values of its own."""
    if kind == "p256":
        tpm = SoftwareTpm(ak_key=ec.generate_private_key(ec.SECP256R1()))
    else:
        ak_key = rsa.generate_private_key(65537, 2048)
        tpm = SoftwareTpm(ak_key=ak_key, scheme=Alg.RSASSA)
    device = Attester(tpm, selection=SELECTION, release=release.name)
    device.platform = {
        pcr: hashlib.sha256(f"{number} {pcr}".encode()).digest() for pcr in range(24)
    }
    device.load(release)
    return device


def make_bare(known: KnownDevice, signed: Signed) -> Callable[[], None]:
    """The verification of one signature, with everything else done beforehand."""
    key, message = known.ak.key(), signed.message
    value = Signature.decode(signed.signature).value
    if isinstance(key, rsa.RSAPublicKey):
        assert isinstance(value, bytes)
        return lambda: key.verify(value, message, PKCS1, SHA256)
    assert not isinstance(value, bytes)
    der = encode_dss_signature(*value)
    return lambda: key.verify(der, message, ECDSA)


def make_heartbeat(device: Attester, number: int, release: Release) -> Heartbeat:
    """What `device` sends with the challenge `number`, as it comes out of a request."""
    nonce = hashlib.sha256(f"nonce {number}".encode()).digest() + bytes(8)
    made = device.evidence(nonce)
    evidence = msgspec.json.decode(msgspec.json.encode(made), type=Evidence)
    references = References(releases={release.name: release}, accepted=frozenset({release.name}))
    known = device.known
    return Heartbeat(
        evidence=evidence,
        nonce=nonce,
        known=known,
        row=(
            known.name,
            known.ak.encode_sized(),
            SELECTION,
            known.pcr,
            known.counter_name,
        ),
        references=references,
        rules=Rules(
            references=references,
            clock=CLOCK,
            evidence=frozenset({"tpm"}),
            pcrs=PcrRules(
                required=frozenset({0, 7}),
                values={pcr: frozenset({value}) for pcr, value in device.platform.items()},
                unsafe_any=frozenset(),
            ),
            log=LogRules(max_records=1024, outdated_loads=False),
            on_failure=(),
            absent=(),
        ),
        bare=(make_bare(known, evidence.quote), make_bare(known, evidence.counter)),
    )


def make_fleet(kind: str) -> list[Heartbeat]:
    """Several heartbeats of each of several devices that run the same release, mixed."""
    release = make_release("1.0", *(f"layer {place}" for place in range(EVENTS - 1)))
    devices = [make_device(kind, number, release) for number in range(DEVICES)]
    # What a backend keeps of a device is the same at each of its heartbeats.
    known = [device.known for device in devices]
    return [
        replace(make_heartbeat(device, turn * DEVICES + number, release), known=known[number])
        for turn in range(HEARTBEATS)
        for number, device in enumerate(devices)
    ]


def make_strangers(kind: str) -> list[Heartbeat]:
    """The first heartbeats of devices whose keys, logs and releases nobody else has."""
    strangers = []
    for number in range(COLD_DEVICES[kind]):
        layers = (f"layer {place}" for place in range(EVENTS - 1))
        release = make_release(f"{kind} {number}", *layers)
        device = make_device(kind, number, release)
        strangers.append(make_heartbeat(device, number, release))
    return strangers


def verified(heartbeat: Heartbeat, known: KnownDevice) -> Claims:
    """Its claims, as the backend comes to them."""
    evidence = heartbeat.evidence
    return verify_evidence(
        evidence,
        device=known,
        nonce=heartbeat.nonce,
        purpose=Purpose.ATTEST,
        tls_key=evidence.binding.tls_key,
    )


def appraised(claims: Claims, heartbeat: Heartbeat) -> Verdict:
    """The verdict on `claims`."""
    return appraise(
        claims,
        references=heartbeat.references,
        history=FIRST_SIGHT,
        epochs=EPOCHS,
        clock_rules=CLOCK,
        now_ms=NOW_MS,
    )


def of_evidence(heartbeat: Heartbeat) -> Verdict:
    """Verify and appraise everything."""
    return appraised(verified(heartbeat, heartbeat.known), heartbeat)


def of_policy(heartbeat: Heartbeat) -> Verdict:
    """Verify, appraise and hold against the rules of a policy."""
    return judge(
        verified(heartbeat, heartbeat.known),
        rules=heartbeat.rules,
        history=FIRST_SIGHT,
        epochs=EPOCHS,
        locked=None,
        now_ms=NOW_MS,
    ).verdict


def of_row(heartbeat: Heartbeat) -> Verdict:
    """As a backend that has just read the device's row."""
    name, ak, selection, pcr, counter_name = heartbeat.row
    known = KnownDevice(
        name=name,
        ak=Public.decode_sized(ak),
        selection=PcrSelection.parse(selection),
        pcr=pcr,
        counter_name=counter_name,
    )
    return appraised(verified(heartbeat, known), heartbeat)


def of_quote(heartbeat: Heartbeat) -> Verdict:
    """The quote, its log and the rules, without a certified counter."""
    evidence, known = heartbeat.evidence, heartbeat.known
    binding = evidence.binding
    quote = verify_quote(
        evidence.quote.message,
        evidence.quote.signature,
        key=known.ak,
        nonce=binding.digest(),
        selection=known.selection,
        pcrs={Alg.SHA256: evidence.pcrs},
        signer=qualified_name(known.ak.name, hierarchy=ENDORSEMENT),
    )
    digest = hashlib.sha256(evidence.log).digest()
    log, value = replayed(evidence.log, digest=digest, pcr=known.pcr)
    assert digest == binding.log_digest
    assert value == quote.pcrs[Alg.SHA256][known.pcr]
    claims = Claims(
        device=known, quote=quote, counter=7, log=log, binding=binding, verified=VERIFIED
    )
    return appraised(claims, heartbeat)


def seconds(run: Callable[[Heartbeat], object], heartbeats: Sequence[Heartbeat]) -> float:
    """How long `run` takes for all `heartbeats`."""
    start = time.process_time()
    for heartbeat in heartbeats:
        run(heartbeat)
    return time.process_time() - start


def verify_both(heartbeat: Heartbeat) -> None:
    """The bare verifies of both signatures."""
    quote, counter = heartbeat.bare
    quote()
    counter()


def verify_one(heartbeat: Heartbeat) -> None:
    """The bare verify of the quote's signature."""
    heartbeat.bare[0]()


def measured(
    bare: Callable[[Heartbeat], None],
    full: Callable[[Heartbeat], Verdict],
    heartbeats: Sequence[Heartbeat],
    *,
    rounds: int,
) -> float:
    """The time of `bare` divided by that of `full`, each the sum of the fastest of its slices."""
    alone = whole = 0.0
    for start in range(0, len(heartbeats), SLICE):
        some = heartbeats[start : start + SLICE]
        times = [(seconds(bare, some), seconds(full, some)) for _ in range(rounds)]
        alone += min(time for time, _ in times)
        whole += min(time for _, time in times)
    return alone / whole


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
    """Measure and print, for each kind of key."""
    for kind, goal in GOALS.items():
        # First, while no key and no log was ever seen.
        value = measured(verify_both, of_row, make_strangers(kind), rounds=1)
        report(f"appraisal_cold_{kind}", value, None)
        fleet = make_fleet(kind)
        for full in (of_evidence, of_policy, of_quote, of_row):
            standings = {full(heartbeat).standing for heartbeat in fleet}
            assert standings == {Standing.TRUSTED}, standings
        value = measured(verify_both, of_evidence, fleet, rounds=ROUNDS)
        report(f"appraisal_evidence_{kind}", value, goal)
        value = measured(verify_one, of_quote, fleet, rounds=ROUNDS)
        report(f"appraisal_quote_{kind}", value, goal)
        value = measured(verify_both, of_policy, fleet, rounds=ROUNDS)
        report(f"appraisal_judged_{kind}", value, None)
        value = measured(verify_both, of_row, fleet, rounds=ROUNDS)
        report(f"appraisal_stored_{kind}", value, None)


if __name__ == "__main__":
    main()
