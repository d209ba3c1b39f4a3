"""Evidence is authentic only when every part of it hashes into what the TPM signed."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from hwtrust.errors import (
    AttestTypeError,
    BootMismatchError,
    CertifiedNameError,
    ChallengePurposeError,
    ChannelBindingError,
    EmptyNonceError,
    EvidenceError,
    HwTrustError,
    LogError,
    MalformedError,
    NotAttestedError,
    PcrDigestError,
    SelectionError,
    SignatureError,
    SignerError,
    StaleQuoteError,
    UnextendedBankError,
    WireError,
)
from hwtrust.verify.evidence import (
    Claims,
    KnownDevice,
    Offered,
    verify_evidence,
    verify_group,
)
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.cel import CAP, Event, EventKind, EventLog
from hwtrust.wire.challenge import Purpose
from hwtrust.wire.codec import u64
from hwtrust.wire.messages import Evidence, Signed
from hwtrust.wire.structures import NvCertifyInfo, ObjectAttributes, PcrSelection, QuoteInfo
from simulators.attester import BANKS, Attester, carried, make_release
from simulators.software_tpm import SoftwareTpm, counter_public

if TYPE_CHECKING:
    from collections.abc import Callable

NONCE: Final = bytes(range(40))
RELEASE: Final = make_release("1.0")


def loaded(**options: Any) -> Attester:  # noqa: ANN401 - the attester's own
    """A device that has loaded its release."""
    device = Attester(**options)
    device.load(RELEASE)
    return device


def verify(
    evidence: Evidence,
    device: Attester,
    *,
    known: KnownDevice | None = None,
    purpose: Purpose = Purpose.ATTEST,
    nonce: bytes = NONCE,
) -> Claims:
    """Verify as a backend does that knows the device and its connection."""
    return verify_evidence(
        evidence,
        device=device.known if known is None else known,
        nonce=nonce,
        purpose=purpose,
        tls_key=device.tls_key,
    )


def refusal(error: type[HwTrustError], code: str, call: Callable[[], object]) -> None:
    """Assert that `call` ends in exactly this error."""
    with pytest.raises(HwTrustError) as caught:
        call()
    assert type(caught.value) is error
    assert caught.value.code == code


# --- what is claimed -------------------------------------------------------------------


def test_claims_say_what_the_tpm_signed() -> None:
    """Authentic evidence becomes claims, each from signed bytes."""
    device = loaded()
    device.tpm.advance(5_000)
    evidence = device.evidence(NONCE)
    claims = verify(evidence, device)
    assert claims.device == device.known
    assert claims.binding == evidence.binding
    assert claims.counter == 7
    assert claims.clock == device.tpm.clock
    assert claims.firmware_version == device.tpm.firmware_version
    assert claims.log == device.log
    assert claims.pcrs == device.values
    assert set(claims.pcrs) == {0, 7, 12}


def test_a_device_that_has_measured_nothing_is_authentic() -> None:
    """An empty log explains a PCR that holds its reset value."""
    device = Attester()
    assert verify(device.evidence(NONCE), device).log == EventLog()


def test_an_attestation_key_may_be_rsa() -> None:
    """TPMs without P-256 attest by RSASSA or RSAPSS."""
    key = rsa.generate_private_key(65537, 2048)
    for scheme in (Alg.RSASSA, Alg.RSAPSS):
        device = loaded(tpm=SoftwareTpm(ak_key=key, scheme=scheme))
        assert verify(device.evidence(NONCE), device).counter == 7


@pytest.mark.parametrize("purpose", [Purpose.SESSION, Purpose.ENROL])
def test_a_first_contact_has_no_certificate_yet(purpose: Purpose) -> None:
    """Before there is a certificate, the evidence itself names the key that asks for one."""
    device = loaded()
    claims = verify_evidence(
        device.evidence(NONCE, purpose=purpose),
        device=device.known,
        nonce=NONCE,
        purpose=purpose,
        tls_key=None,
    )
    assert claims.binding.tls_key == device.tls_key


def test_values_that_nobody_signed_are_dropped() -> None:
    """Values beside the quote of PCRs that it does not cover are not claimed."""
    device = loaded()
    evidence = device.evidence(NONCE)
    padded = msgspec.structs.replace(evidence, pcrs={**evidence.pcrs, 10: bytes(32)})
    assert set(verify(padded, device).pcrs) == {0, 7, 12}


def test_an_unextended_bank_is_no_matter_where_firmware_is_not_quoted() -> None:
    """26: an application PCR may hold its reset value, and tells nothing of the firmware."""
    device = Attester(selection="sha256:12")
    assert verify(device.evidence(NONCE), device).counter == 7


# --- what is refused ----------------------------------------------------------------------


def changed_binding(device: Attester, **changes: object) -> Evidence:
    """Evidence over a binding that was changed before it was signed."""
    honest = device.binding(NONCE, purpose=Purpose.ATTEST)
    return device.evidence(NONCE, binding=msgspec.structs.replace(honest, **changes))


def after_signing(device: Attester, **changes: object) -> Evidence:
    """Evidence whose binding was changed after it was signed."""
    evidence = device.evidence(NONCE)
    binding = msgspec.structs.replace(evidence.binding, **changes)
    return msgspec.structs.replace(evidence, binding=binding)


def with_log(device: Attester, log: EventLog) -> Evidence:
    """Evidence that binds another log than the one that was extended."""
    return device.evidence(NONCE, log=log.encode(), pcrs=device.values)


def with_counter(device: Attester, counter: Signed) -> Evidence:
    """Evidence with another certified counter."""
    return msgspec.structs.replace(device.evidence(NONCE), counter=counter)


def with_quote(device: Attester, quote: Signed) -> Evidence:
    """Evidence with another quote."""
    return msgspec.structs.replace(device.evidence(NONCE), quote=quote)


def digest(device: Attester) -> bytes:
    """What this device signs over."""
    return device.binding(NONCE, purpose=Purpose.ATTEST).digest()


def certified(
    device: Attester, contents: bytes = u64(7), *, nonce: bytes | None = None, offset: int = 0
) -> Signed:
    """What the device's TPM says of its counter."""
    signed = device.tpm.nv_certify(
        device.index, contents, digest(device) if nonce is None else nonce, offset=offset
    )
    return carried(signed)


def foreign(device: Attester) -> Attester:
    """Another TPM that claims to be this device, with its log and counter."""
    other = Attester(policy_key=device.policy_key)
    other.log, other.index = device.log, device.index
    return other


def resigned(device: Attester, signer: bytes) -> Signed:
    """The device's own quote with another qualifiedSigner, signed by its own key."""
    values = b"".join(device.values.values())
    info = QuoteInfo(device.selection, hashlib.sha256(values).digest())
    return carried(device.tpm.attest(digest(device), info, signer=signer))


def without_magic(device: Attester) -> Signed:
    """A quote that an unrestricted key could sign: its magic is another."""
    message = b"\xfe" + device.evidence(NONCE).quote.message[1:]
    return Signed(message=message, signature=device.tpm.sign(message).encode())


def relayed(device: Attester) -> Evidence:
    """80: the evidence of a connection that somebody else has."""
    return changed_binding(device, tls_key=SoftwareTpm().tls.encode())


def unextended(device: Attester) -> Evidence:
    """26: firmware that measured into the SHA-1 bank alone."""
    device.platform = {number: bytes(32) for number in range(24)}
    return device.evidence(NONCE)


def spliced(device: Attester) -> Evidence:
    """19: a quote with the log of an earlier, better time."""
    better = device.evidence(NONCE)
    device.append(Event(EventKind.VIOLATION, "kernel", "1.0", bytes(32)))
    worse = device.evidence(NONCE)
    return msgspec.structs.replace(worse, log=better.log)


def rebooted(device: Attester, *, restart: bool) -> Evidence:
    """The counter of before a restart, the quote of after it."""
    counter = certified(device)
    clock = device.tpm.clock
    device.tpm.clock = (
        msgspec.structs.replace(clock, restart_count=clock.restart_count + 1)
        if restart
        else msgspec.structs.replace(clock, reset_count=clock.reset_count + 1)
    )
    return with_counter(device, counter)


def updated(device: Attester) -> Evidence:
    """The counter of before a firmware update, the quote of after it."""
    counter = certified(device)
    device.tpm.firmware_version += 1
    return with_counter(device, counter)


def elsewhere(device: Attester) -> Evidence:
    """A log whose records are of another PCR than the one that is quoted."""
    log = EventLog()
    for event in device.log.events:
        log = log.appended(event, pcr=13, banks=BANKS)
    return with_log(device, log)


def rewritten(device: Attester) -> Evidence:
    """The same events in the log, but not the bytes that were bound."""
    log = EventLog()
    for event in device.log.events:
        log = log.appended(event, pcr=12, banks=(Alg.SHA256,))
    assert log.value() == device.log.value()
    return msgspec.structs.replace(device.evidence(NONCE), log=log.encode())


def weakly(device: Attester) -> Evidence:
    """A log with a record that has the SHA-1 digest alone."""
    log = device.log.without_last().appended(device.log.events[-1], pcr=12, banks=(Alg.SHA1,))
    return with_log(device, log)


NONCES: Final = (StaleQuoteError, "evidence:nonce:mismatch")
LOGS: Final = (LogError, "evidence:log:mismatch")
NAMES: Final = (CertifiedNameError, "evidence:name:mismatch")
SELECTIONS: Final = (SelectionError, "evidence:selection:mismatch")
BOOTS: Final = (BootMismatchError, "evidence:boot:mismatch")
SIGNATURES: Final = (SignatureError, "evidence:signature:invalid")
SIGNERS: Final = (SignerError, "evidence:signer:mismatch")
PURPOSES: Final = (ChallengePurposeError, "challenge:purpose")
CHANNELS: Final = (ChannelBindingError, "evidence:tls-key:mismatch")

REFUSED: dict[str, tuple[type[HwTrustError], str, Callable[[Attester], Evidence]]] = {
    "20: it was made to enrol": (*PURPOSES, lambda d: d.evidence(NONCE, purpose=Purpose.ENROL)),
    "20: it was made for a session": (
        *PURPOSES,
        lambda d: d.evidence(NONCE, purpose=Purpose.SESSION),
    ),
    "20: its purpose was changed after signing": (
        *NONCES,
        lambda d: msgspec.structs.replace(
            d.evidence(NONCE, purpose=Purpose.SESSION),
            binding=d.binding(NONCE, purpose=Purpose.ATTEST),
        ),
    ),
    "14: it answers an older nonce": (*NONCES, lambda d: d.evidence(b"an older nonce")),
    "17: it answers nothing": (*NONCES, lambda d: d.evidence(b"")),
    "14: its nonce was changed after signing": (
        *NONCES,
        lambda d: msgspec.structs.replace(
            d.evidence(b"an older nonce"), binding=d.binding(NONCE, purpose=Purpose.ATTEST)
        ),
    ),
    "80: it was relayed from another connection": (*CHANNELS, relayed),
    "80: its TLS key was changed after signing": (
        *NONCES,
        lambda d: msgspec.structs.replace(
            relayed(d), binding=d.binding(NONCE, purpose=Purpose.ATTEST)
        ),
    ),
    "its epoch was changed after signing": (*NONCES, lambda d: after_signing(d, epoch=8)),
    "its release was changed after signing": (*NONCES, lambda d: after_signing(d, release="2")),
    "19: its log is another's": (*LOGS, spliced),
    "19: its log was changed with its binding, after signing": (
        *NONCES,
        lambda d: msgspec.structs.replace(
            after_signing(d, log_digest=hashlib.sha256(b"").digest()), log=b""
        ),
    ),
    "its log is written otherwise than the bound one": (*LOGS, rewritten),
    "46: its log leaves the last event out": (*LOGS, lambda d: with_log(d, d.log.without_last())),
    "51: its log is empty, its PCR is not": (*LOGS, lambda d: with_log(d, EventLog())),
    "its log has an event that was not extended": (
        *LOGS,
        lambda d: with_log(d, d.log.appended(CAP, pcr=12, banks=BANKS)),
    ),
    "44: its log tells another event": (
        *LOGS,
        lambda d: with_log(
            d,
            d.log.without_last().appended(Event(EventKind.RELOAD), pcr=12, banks=BANKS),
        ),
    ),
    "its log is of another PCR": (*LOGS, elsewhere),
    "its log has a record with the SHA-1 digest alone": (*LOGS, weakly),
    "its log is no log": (
        MalformedError,
        "wire:malformed",
        lambda d: d.evidence(NONCE, log=b"no log"),
    ),
    "33: it was made by another TPM": (
        *SIGNATURES,
        lambda d: foreign(d).evidence(NONCE, binding=d.binding(NONCE, purpose=Purpose.ATTEST)),
    ),
    "its quote is by another TPM": (
        *SIGNATURES,
        lambda d: with_quote(d, foreign(d).evidence(NONCE).quote),
    ),
    "40: its counter is by another TPM": (
        *SIGNATURES,
        lambda d: with_counter(d, certified(foreign(d), nonce=digest(d))),
    ),
    "32: its quote is by the same key under the owner": (
        *SIGNERS,
        lambda d: with_quote(d, resigned(d, d.tpm.ak.name)),
    ),
    "32: its counter is by the same key under the owner": (
        *SIGNERS,
        lambda d: with_counter(
            d,
            carried(
                d.tpm.attest(
                    digest(d), NvCertifyInfo(d.index.name, 0, u64(7)), signer=d.tpm.ak.name
                )
            ),
        ),
    ),
    "1: its quote was not made by a TPM": (
        NotAttestedError,
        "evidence:magic:mismatch",
        lambda d: with_quote(d, without_magic(d)),
    ),
    "2: its counter stands in for its quote": (
        AttestTypeError,
        "evidence:type:mismatch",
        lambda d: with_quote(d, d.evidence(NONCE).counter),
    ),
    "2: its quote stands in for its counter": (
        AttestTypeError,
        "evidence:type:mismatch",
        lambda d: with_counter(d, d.evidence(NONCE).quote),
    ),
    "23: it quotes fewer PCRs": (
        *SELECTIONS,
        lambda d: d.evidence(NONCE, selection=PcrSelection.parse("sha256:0,12")),
    ),
    "24: it quotes more PCRs": (
        *SELECTIONS,
        lambda d: d.evidence(
            NONCE,
            selection=PcrSelection.parse("sha256:0,4,7,12"),
            pcrs={**d.values, 4: bytes(32)},
        ),
    ),
    "21: it quotes another PCR under the name of this one": (
        *SELECTIONS,
        lambda d: d.evidence(
            NONCE,
            selection=PcrSelection.parse("sha256:0,7,16"),
            pcrs={**d.values, 16: d.log.value()},
        ),
    ),
    "a PCR has another value than the quoted": (
        PcrDigestError,
        "evidence:pcrs:mismatch",
        lambda d: msgspec.structs.replace(d.evidence(NONCE), pcrs={**d.values, 7: bytes(32)}),
    ),
    "27: two PCR values are exchanged": (
        PcrDigestError,
        "evidence:pcrs:mismatch",
        lambda d: msgspec.structs.replace(
            d.evidence(NONCE), pcrs={**d.values, 0: d.values[7], 7: d.values[0]}
        ),
    ),
    "a PCR value is missing": (
        PcrDigestError,
        "evidence:pcrs:mismatch",
        lambda d: msgspec.structs.replace(d.evidence(NONCE), pcrs={12: d.log.value()}),
    ),
    "26: its firmware never extended the bank": (
        UnextendedBankError,
        "evidence:bank:unextended",
        unextended,
    ),
    "63: its counter is another index": (
        *NAMES,
        lambda d: with_counter(
            d,
            carried(
                d.tpm.nv_certify(
                    counter_public(d.index.auth_policy, index=0x0180_0200), u64(7), digest(d)
                )
            ),
        ),
    ),
    "63: its counter has another policy": (
        *NAMES,
        lambda d: with_counter(
            d, carried(d.tpm.nv_certify(counter_public(bytes(32)), u64(7), digest(d)))
        ),
    ),
    "its counter is shown in part": (
        *NAMES,
        lambda d: with_counter(d, certified(d, u64(7)[4:], offset=4)),
    ),
    "its counter is shown from an offset": (
        *NAMES,
        lambda d: with_counter(d, certified(d, u64(7), offset=1)),
    ),
    "14: its counter answers an older binding": (
        *NONCES,
        lambda d: with_counter(d, certified(d, nonce=bytes(32))),
    ),
    "its counter was certified before a reset": (*BOOTS, lambda d: rebooted(d, restart=False)),
    "its counter was certified before a resume": (*BOOTS, lambda d: rebooted(d, restart=True)),
    "its counter was certified by another firmware": (*BOOTS, updated),
}


@pytest.mark.parametrize("case", REFUSED)
def test_evidence_is_refused_when(case: str) -> None:
    """Every rule of the module docstring has evidence that breaks it alone."""
    error, code, make = REFUSED[case]
    device = loaded()
    evidence = make(device)
    refusal(error, code, lambda: verify(evidence, device))


# What is known of a device differs from what the evidence is of.
EXPECTED: dict[str, tuple[type[HwTrustError], str, Callable[[Attester], KnownDevice]]] = {
    "another attestation key": (
        *SIGNATURES,
        lambda d: replace(d.known, ak=SoftwareTpm().ak),
    ),
    "the same key with other attributes": (
        *SIGNERS,
        lambda d: replace(
            d.known,
            ak=replace(d.tpm.ak, attributes=d.tpm.ak.attributes | ObjectAttributes.NO_DA),
        ),
    ),
    "another selection": (
        *SELECTIONS,
        lambda d: replace(d.known, selection=PcrSelection.parse("sha256:0,7,13")),
    ),
    "25: another bank": (
        *SELECTIONS,
        lambda d: replace(d.known, selection=PcrSelection.parse("sha1:0,7,12")),
    ),
    "28: two banks": (
        *SELECTIONS,
        lambda d: replace(d.known, selection=PcrSelection.parse("sha1:0+sha256:0,7,12")),
    ),
    "another application PCR": (*LOGS, lambda d: replace(d.known, pcr=7)),
    "an application PCR that is not quoted": (*LOGS, lambda d: replace(d.known, pcr=13)),
    "another counter": (*NAMES, lambda d: replace(d.known, counter_name=bytes(34))),
    "no counter": (*NAMES, lambda d: replace(d.known, counter_name=b"")),
}


@pytest.mark.parametrize("case", EXPECTED)
def test_evidence_is_refused_where_its_device_is_known_to_have(case: str) -> None:
    """Evidence is of one device, as it was enrolled."""
    error, code, make = EXPECTED[case]
    device = loaded()
    evidence = device.evidence(NONCE)
    refusal(error, code, lambda: verify(evidence, device, known=make(device)))


def test_an_empty_log_does_not_excuse_a_pcr_that_is_not_the_application_pcr() -> None:
    """With nothing measured, the application PCR is still one that was quoted."""
    device = Attester()
    known = replace(device.known, pcr=13)
    evidence = device.evidence(NONCE)
    refusal(*LOGS, lambda: verify(evidence, device, known=known))


def test_an_expected_nonce_is_never_empty() -> None:
    """17: a backend that expects nothing gets nothing."""
    device = loaded()
    evidence = device.evidence(b"")
    refusal(EmptyNonceError, "evidence:nonce:empty", lambda: verify(evidence, device, nonce=b""))


def test_an_attestation_without_its_connection_is_refused() -> None:
    """80: what a client certificate should vouch for is not taken without one."""
    device = loaded()
    evidence = device.evidence(NONCE)
    refusal(
        *CHANNELS,
        lambda: verify_evidence(
            evidence, device=device.known, nonce=NONCE, purpose=Purpose.ATTEST, tls_key=None
        ),
    )


def test_the_log_is_not_decoded_before_its_binding_is_known_to_be_signed() -> None:
    """A log that would not decode is refused for the signature that is missing."""
    device = loaded()
    evidence = device.evidence(NONCE, log=b"no log")
    broken = msgspec.structs.replace(evidence, quote=foreign(device).evidence(NONCE).quote)
    refusal(*SIGNATURES, lambda: verify(broken, device))


@pytest.mark.parametrize("part", ["quote", "counter"])
def test_every_byte_of_what_was_signed_counts(part: str) -> None:
    """13: no byte of a message or signature can be flipped."""
    device = loaded()
    evidence = device.evidence(NONCE)
    signed: Signed = getattr(evidence, part)
    flips = 0
    for field in ("message", "signature"):
        whole: bytes = getattr(signed, field)
        for position in range(len(whole)):
            flipped = bytearray(whole)
            flipped[position] ^= 0x40
            other = msgspec.structs.replace(signed, **{field: bytes(flipped)})
            with pytest.raises((EvidenceError, WireError)):
                verify(msgspec.structs.replace(evidence, **{part: other}), device)
            flips += 1
    assert flips > 200


def test_claims_cannot_be_made_otherwise() -> None:
    """The type carries the trust: no code but the verifier's makes claims."""
    device = loaded()
    claims = verify(device.evidence(NONCE), device)
    with pytest.raises(TypeError):
        Claims(
            device=claims.device,
            quote=claims.quote,
            counter=claims.counter,
            log=claims.log,
            binding=claims.binding,
            verified=object(),
        )
    with pytest.raises((TypeError, ValueError)):
        msgspec.structs.replace(claims, counter=8)


# --- in groups ----------------------------------------------------------------------------


def offered(evidence: Evidence, device: Attester, known: KnownDevice | None = None) -> Offered:
    """The same as `verify` takes, as one of a group."""
    return Offered(
        evidence=evidence,
        device=device.known if known is None else known,
        nonce=NONCE,
        purpose=Purpose.ATTEST,
        tls_key=device.tls_key,
    )


def test_an_empty_group_comes_to_nothing() -> None:
    """Nobody asked, nobody is answered."""
    assert verify_group([]) == []


def test_a_group_is_answered_in_its_order() -> None:
    """The same devices, and the same evidence, may occur more than once."""
    devices = [loaded(counter=number) for number in range(4)]
    devices += devices
    evidence = [device.evidence(NONCE) for device in devices]
    evidence[0] = evidence[4]
    results = verify_group(map(offered, evidence, devices))
    assert results == [verify(one, device) for one, device in zip(evidence, devices, strict=True)]
    counters = [result.counter for result in results if isinstance(result, Claims)]
    assert counters == [0, 1, 2, 3, 0, 1, 2, 3]


@pytest.mark.parametrize("case", [*REFUSED, *EXPECTED])
def test_one_that_is_refused_is_refused_alone_when(case: str) -> None:
    """Whatever is wrong with it, its neighbours have their claims, and it has none."""
    device, other = loaded(), loaded()
    good, known = other.evidence(NONCE), device.known
    if case in REFUSED:
        error, code, make = REFUSED[case]
        bad = make(device)
    else:
        error, code, expect = EXPECTED[case]
        bad, known = device.evidence(NONCE), expect(device)
    before, refused, after = verify_group(
        [offered(good, other), offered(bad, device, known), offered(good, other)]
    )
    assert type(refused) is error
    assert refused.code == code
    assert before == after == verify(good, other)


def test_neighbours_lend_each_other_no_signature() -> None:
    """Each signature is checked over its own message, by the key of its own device."""
    devices = loaded(), loaded()
    first, second = (device.evidence(NONCE) for device in devices)
    for part in ("quote", "counter"):
        ours, theirs = getattr(first, part), getattr(second, part)
        exchanged = (
            msgspec.structs.replace(
                first, **{part: msgspec.structs.replace(ours, signature=theirs.signature)}
            ),
            msgspec.structs.replace(
                second, **{part: msgspec.structs.replace(theirs, signature=ours.signature)}
            ),
        )
        for result in verify_group(map(offered, exchanged, devices)):
            assert type(result) is SignatureError


def test_a_form_that_is_wrong_is_found_before_a_signature_that_is() -> None:
    """All of a group is read before the first signature of it is checked."""
    device = loaded()
    evidence = with_quote(device, foreign(device).evidence(NONCE).quote)
    refusal(*SIGNATURES, lambda: verify(evidence, device))
    broken = msgspec.structs.replace(evidence, counter=Signed(message=b"", signature=b""))
    refusal(MalformedError, "wire:malformed", lambda: verify(broken, device))
