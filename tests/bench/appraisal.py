"""What appraising a TPM's evidence costs beside the bare verification of its signatures.

Each figure is the time of the bare `cryptography` verify (key parsed, DER made,
algorithm objects made beforehand) divided by the time of the whole: 1 would be
an appraisal that costs nothing but its signatures. Both run over the same evidence
in turn, group by group, in processor time; of each group the fastest round counts,
for both, so that what else the machine does is left out of both.

    quote     quotes are read, their signatures checked, and the rest of the rules of
              `verify_quote` applied (selection, nonce, PCR values); then the log is
              replayed, and `judge` holds all of it against a policy. What the quote
              has to answer is given, as `verify_quote` takes it. One signature
    evidence  `verify_group`, as a backend takes evidence that comes at the same time,
              then `judge`: the same with a certified counter, and with the rules for
              evidence (purpose, challenge, TLS key, binding, boot). Two signatures
    single    evidence, each verified alone (`verify_evidence`)
    stored    single, with what is known of the device decoded from its row first
    cold      stored, of devices whose key, log and release were never seen before

24 PCRs, a log of 12 events, groups of 32. Every evidence has its own nonce, its own
signatures and its own bytes, and its signatures are verified in each round; keys,
logs and PCR values come again, as they do from one heartbeat of a device to the
next, and one policy is that of all devices. One thread, one core.
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

from hwtrust.verify.appraise import FIRST_SIGHT, ClockRules, References
from hwtrust.verify.attestation import VERIFIED, Unverified, read
from hwtrust.verify.evidence import (
    Claims,
    KnownDevice,
    Offered,
    replayed,
    require_log,
    verify_evidence,
    verify_group,
)
from hwtrust.verify.policy import LogRules, PcrRules, Rules, UpdateRules, judge
from hwtrust.verify.quote import quote_claims
from hwtrust.verify.signature import run
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.challenge import Purpose
from hwtrust.wire.messages import Evidence, Signed, Standing
from hwtrust.wire.structures import PcrSelection, Public, QuoteInfo, Signature
from simulators.attester import Attester, make_release
from simulators.software_tpm import SoftwareTpm

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hwtrust.verify.appraise import Verdict
    from hwtrust.wire.messages import Release

ROUNDS: Final = 120
GROUP: Final = 32
DEVICES: Final = 12
HEARTBEATS: Final = 16
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
    bound: bytes
    """What its signatures are over: the digest of its binding."""
    known: KnownDevice
    row: tuple[bytes, bytes, str, int, bytes]
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


def make_rules(release: Release, devices: Sequence[Attester]) -> Rules:
    """The policy of these devices: the release that they run, and what their PCRs hold."""
    return Rules(
        references=References(releases={release.name: release}, accepted=frozenset({release.name})),
        updates=UpdateRules.of({release.name: 0}, published=(), within_ms=None),
        clock=CLOCK,
        evidence=frozenset({"tpm"}),
        pcrs=PcrRules(
            required=frozenset({0, 7}),
            values={
                pcr: frozenset(device.platform[pcr] for device in devices) for pcr in range(24)
            },
            unsafe_any=frozenset(),
        ),
        log=LogRules(max_records=1024, outdated_loads=False),
        on_failure=(),
        absent=(),
    )


def make_heartbeat(device: Attester, number: int, rules: Rules) -> Heartbeat:
    """What `device` sends with the challenge `number`, as it comes out of a request."""
    nonce = hashlib.sha256(f"nonce {number}".encode()).digest() + bytes(8)
    made = device.evidence(nonce)
    evidence = msgspec.json.decode(msgspec.json.encode(made), type=Evidence)
    known = device.known
    return Heartbeat(
        evidence=evidence,
        nonce=nonce,
        bound=evidence.binding.digest(),
        known=known,
        row=(known.name, known.ak.encode_sized(), SELECTION, known.pcr, known.counter_name),
        rules=rules,
        bare=(make_bare(known, evidence.quote), make_bare(known, evidence.counter)),
    )


def make_fleet(kind: str) -> list[Heartbeat]:
    """Several heartbeats of each of several devices that run the same release, mixed."""
    release = make_release("1.0", *(f"layer {place}" for place in range(EVENTS - 1)))
    devices = [make_device(kind, number, release) for number in range(DEVICES)]
    rules = make_rules(release, devices)
    # What a backend keeps of a device is the same at each of its heartbeats.
    known = [device.known for device in devices]
    return [
        replace(make_heartbeat(device, turn * DEVICES + number, rules), known=known[number])
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
        strangers.append(make_heartbeat(device, number, make_rules(release, [device])))
    return strangers


def judged(claims: Claims, heartbeat: Heartbeat) -> Verdict:
    """The verdict on `claims`, by the policy."""
    return judge(
        claims,
        rules=heartbeat.rules,
        history=FIRST_SIGHT,
        epochs=EPOCHS,
        locked=None,
        now_ms=NOW_MS,
    ).verdict


def of_group(group: Sequence[Heartbeat]) -> list[Verdict]:
    """Verify all together, then judge each."""
    results = verify_group(
        [
            Offered(
                evidence=heartbeat.evidence,
                device=heartbeat.known,
                nonce=heartbeat.nonce,
                purpose=Purpose.ATTEST,
                tls_key=heartbeat.evidence.binding.tls_key,
            )
            for heartbeat in group
        ]
    )
    verdicts = [
        judged(result, heartbeat)
        for result, heartbeat in zip(results, group, strict=True)
        if isinstance(result, Claims)
    ]
    assert len(verdicts) == len(group), results
    return verdicts


def alone(heartbeat: Heartbeat, known: KnownDevice) -> Verdict:
    """Verify and judge one."""
    claims = verify_evidence(
        heartbeat.evidence,
        device=known,
        nonce=heartbeat.nonce,
        purpose=Purpose.ATTEST,
        tls_key=heartbeat.evidence.binding.tls_key,
    )
    return judged(claims, heartbeat)


def of_each(group: Sequence[Heartbeat]) -> list[Verdict]:
    """Verify and judge one after the other."""
    return [alone(heartbeat, heartbeat.known) for heartbeat in group]


def of_rows(group: Sequence[Heartbeat]) -> list[Verdict]:
    """As a backend that has just read the devices' rows."""
    verdicts = []
    for heartbeat in group:
        name, ak, selection, pcr, counter_name = heartbeat.row
        known = KnownDevice(
            name=name,
            ak=Public.decode_sized(ak),
            selection=PcrSelection.parse(selection),
            pcr=pcr,
            counter_name=counter_name,
        )
        verdicts.append(alone(heartbeat, known))
    return verdicts


def of_quotes(group: Sequence[Heartbeat]) -> list[Verdict]:
    """The quotes, their logs and the policy, without a certified counter."""
    quotes = [
        read(
            heartbeat.evidence.quote.message,
            heartbeat.evidence.quote.signature,
            QuoteInfo,
            key=heartbeat.known.ak,
        )
        for heartbeat in group
    ]
    run([quote.check for quote in quotes])
    claims = [_claims(quote, heartbeat) for quote, heartbeat in zip(quotes, group, strict=True)]
    return [judged(one, heartbeat) for one, heartbeat in zip(claims, group, strict=True)]


def _claims(unverified: Unverified[QuoteInfo], heartbeat: Heartbeat) -> Claims:
    evidence, known = heartbeat.evidence, heartbeat.known
    binding = evidence.binding
    quote = quote_claims(
        unverified,
        nonce=heartbeat.bound,
        selection=known.selection,
        pcrs={Alg.SHA256: evidence.pcrs},
        signer=known.signer,
    )
    require_log(evidence.log, digest=binding.log_digest, pcr=known.pcr)
    log, value = replayed(evidence.log, digest=binding.log_digest, pcr=known.pcr)
    assert value == quote.pcrs[Alg.SHA256][known.pcr]
    return Claims(device=known, quote=quote, counter=7, log=log, binding=binding, verified=VERIFIED)


def both(group: Sequence[Heartbeat]) -> None:
    """The bare verifies of both signatures."""
    for heartbeat in group:
        quote, counter = heartbeat.bare
        quote()
        counter()


def quotes_alone(group: Sequence[Heartbeat]) -> None:
    """The bare verifies of the quotes' signatures."""
    for heartbeat in group:
        heartbeat.bare[0]()


def seconds(work: Callable[[Sequence[Heartbeat]], object], group: Sequence[Heartbeat]) -> float:
    """How long `work` takes for a group."""
    start = time.process_time()
    work(group)
    return time.process_time() - start


def measured(
    bare: Callable[[Sequence[Heartbeat]], None],
    full: Callable[[Sequence[Heartbeat]], list[Verdict]],
    heartbeats: Sequence[Heartbeat],
    *,
    rounds: int,
) -> float:
    """The time of `bare` divided by that of `full`, each the sum of its groups' fastest rounds."""
    signatures = whole = 0.0
    for start in range(0, len(heartbeats), GROUP):
        group = heartbeats[start : start + GROUP]
        times = [(seconds(bare, group), seconds(full, group)) for _ in range(rounds)]
        signatures += min(time for time, _ in times)
        whole += min(time for _, time in times)
    return signatures / whole


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
        cold = measured(both, of_rows, make_strangers(kind), rounds=1)
        fleet = make_fleet(kind)
        for full in (of_group, of_quotes, of_each, of_rows):
            standings = {verdict.standing for verdict in full(fleet)}
            assert standings == {Standing.TRUSTED}, standings
        value = measured(both, of_group, fleet, rounds=ROUNDS)
        report(f"appraisal_evidence_{kind}", value, goal)
        value = measured(quotes_alone, of_quotes, fleet, rounds=ROUNDS)
        report(f"appraisal_quote_{kind}", value, goal)
        value = measured(both, of_each, fleet, rounds=ROUNDS)
        report(f"appraisal_single_{kind}", value, None)
        value = measured(both, of_rows, fleet, rounds=ROUNDS)
        report(f"appraisal_stored_{kind}", value, None)
        report(f"appraisal_cold_{kind}", cold, None)


if __name__ == "__main__":
    main()
