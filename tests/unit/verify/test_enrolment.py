"""Enrolment believes only keys, counter and quote that are shown to be in one TPM."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from hwtrust.errors import (
    CertifiedNameError,
    ChallengePurposeError,
    ChannelBindingError,
    CounterAttributesError,
    CsrError,
    HwTrustError,
    KeyAttributesError,
    LogError,
    MalformedError,
    SelectionError,
    SignatureError,
    SignerError,
    StaleQuoteError,
    WeakKeyError,
)
from hwtrust.verify.attestation import ENDORSEMENT, qualified_name_under
from hwtrust.verify.enrolment import EnrolledDevice, verify_enrolment
from hwtrust.wire import codec
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.challenge import Purpose
from hwtrust.wire.messages import EnrolFinish, TlsKeyKind
from hwtrust.wire.policy import fold
from hwtrust.wire.root import counter_policy, policy_key_public
from hwtrust.wire.structures import CertifyInfo, NvAttributes, ObjectAttributes, PcrSelection
from simulators.attester import Attester, carried, make_csr, make_release, spki
from simulators.software_tpm import SoftwareTpm, counter_public, ecc_public

if TYPE_CHECKING:
    from collections.abc import Callable

    from hwtrust.wire.structures import Public

NONCE: Final = bytes(range(40))
RELEASE: Final = make_release("1.0")
_A = ObjectAttributes
_N = NvAttributes


def device() -> Attester:
    """A device that has loaded its release and wants to enrol."""
    device = Attester()
    device.load(RELEASE)
    return device


def enrol(finish: EnrolFinish, device: Attester, *, ak: Public | None = None) -> EnrolledDevice:
    """Verify as a backend does that has sent the nonce, and activated this AK."""
    return verify_enrolment(
        finish,
        ek=device.tpm.ek,
        ak=device.tpm.ak if ak is None else ak,
        nonce=NONCE,
        policy_key=device.policy_public,
    )


def refusal(error: type[HwTrustError], code: str, call: Callable[[], object]) -> None:
    """Assert that `call` ends in exactly this error."""
    with pytest.raises(HwTrustError) as caught:
        call()
    assert type(caught.value) is error
    assert caught.value.code == code


# --- what is enrolled ------------------------------------------------------------------


@pytest.mark.parametrize("kind", TlsKeyKind)
def test_an_honest_device_is_enrolled(kind: TlsKeyKind) -> None:
    """What is kept of a device is what its TPM has certified."""
    wanting = device()
    enrolled = enrol(wanting.finish(NONCE, kind=kind), wanting)
    assert enrolled.known == wanting.known
    assert enrolled.known.pcr == 12
    assert enrolled.storage_key == wanting.tpm.storage
    assert enrolled.counter == wanting.index
    assert enrolled.base_epoch == 7
    assert enrolled.tls_kind is kind
    assert enrolled.tls_key == wanting.tls_key
    assert enrolled.claims.log == wanting.log
    assert enrolled.claims.binding.purpose is Purpose.ENROL


def test_a_device_that_has_measured_nothing_is_enrolled() -> None:
    """A fresh device has an empty log, and an application PCR at its reset value."""
    fresh = Attester()
    assert enrol(fresh.finish(NONCE), fresh).claims.log.events == ()


def test_a_device_with_rsa_keys_is_enrolled() -> None:
    """RSA is the fallback of TPMs without P-256."""
    key = rsa.generate_private_key(65537, 2048)
    wanting = Attester(SoftwareTpm(ak_key=key, scheme=Alg.RSASSA))
    assert enrol(wanting.finish(NONCE), wanting).known.ak.type is Alg.RSA


SELECTIONS: dict[str, int] = {
    "sha256:8": 8,
    "sha256:15": 15,
    "sha256:0,1,2,3,4,5,6,7,14": 14,
    "sha256:9,17": 9,
}


@pytest.mark.parametrize("selection", SELECTIONS)
def test_the_application_pcr_is_the_one_of_eight_to_fifteen(selection: str) -> None:
    """No PCR has to be named apart from the selection."""
    pcr = SELECTIONS[selection]
    wanting = Attester(selection=selection, pcr=pcr)
    wanting.load(RELEASE)
    assert enrol(wanting.finish(NONCE), wanting).known.pcr == pcr


@pytest.mark.parametrize("pcr", [8, 12])
def test_a_device_that_quotes_others_for_their_logs_says_which_is_its_own(pcr: int) -> None:
    """What it says is shown by its log."""
    wanting = Attester(selection="sha256:0,7,8,10,12", pcr=pcr)
    wanting.platform = dict.fromkeys((0, 7, 8, 10, 12), b"\1" * 32)
    wanting.load(RELEASE)
    assert enrol(changed(wanting, pcr=pcr), wanting).known.pcr == pcr


def test_a_pcr_that_another_extends_is_not_the_devices_own() -> None:
    """Its log does not explain it."""
    wanting = Attester(selection="sha256:0,7,8,12", pcr=12)
    wanting.platform = dict.fromkeys((0, 7, 8, 12), b"\1" * 32)
    wanting.load(RELEASE)
    finish = changed(wanting, pcr=8)
    refusal(LogError, "evidence:log:mismatch", lambda: enrol(finish, wanting))


# --- what is refused ---------------------------------------------------------------------


def changed(wanting: Attester, **changes: object) -> EnrolFinish:
    """An honest message with changes."""
    return msgspec.structs.replace(wanting.finish(NONCE), **changes)


def storage_with(wanting: Attester, attributes: ObjectAttributes) -> EnrolFinish:
    """Another storage key, truly certified."""
    wanting.tpm.storage = replace(wanting.tpm.storage, attributes=attributes)
    return wanting.finish(NONCE)


def tls_with(wanting: Attester, attributes: ObjectAttributes) -> EnrolFinish:
    """Another TLS key, truly certified."""
    wanting.tpm.tls = replace(wanting.tpm.tls, attributes=attributes)
    return wanting.finish(NONCE)


def counter_with(wanting: Attester, attributes: NvAttributes) -> EnrolFinish:
    """Another counter, truly certified."""
    wanting.index = replace(wanting.index, attributes=attributes)
    return wanting.finish(NONCE)


def counter_under(wanting: Attester, policy: bytes) -> EnrolFinish:
    """A counter with another policy, truly certified."""
    wanting.index = replace(wanting.index, auth_policy=policy)
    return wanting.finish(NONCE)


def selecting(selection: str, pcr: int = 12) -> Callable[[Attester], EnrolFinish]:
    """A device that quotes these PCRs."""

    def make(wanting: Attester) -> EnrolFinish:
        wanting.selection, wanting.pcr = PcrSelection.parse(selection), pcr
        wanting.log = type(wanting.log)()
        wanting.load(RELEASE)
        return wanting.finish(NONCE)

    return make


def with_banks(wanting: Attester, selection: str) -> EnrolFinish:
    """An honest message that claims to be of other banks."""
    return changed(wanting, selection=selection)


def foreign_certified(wanting: Attester) -> EnrolFinish:
    """40: the storage key as the AK of another TPM certifies it."""
    signed = SoftwareTpm().certify(wanting.tpm.storage, NONCE)
    return changed(wanting, storage_certify=carried(signed))


def foreign_storage(wanting: Attester) -> EnrolFinish:
    """77: an interposer's storage key under the certificate of the device's own."""
    return changed(wanting, storage_public=SoftwareTpm().storage.encode_sized())


def foreign_evidence(wanting: Attester) -> EnrolFinish:
    """The quote of another TPM that has the same log and counter."""
    other = Attester(policy_key=wanting.policy_key)
    other.log, other.index = wanting.log, wanting.index
    honest = wanting.binding(NONCE, purpose=Purpose.ENROL)
    return wanting.finish(NONCE, evidence=other.evidence(NONCE, binding=honest))


def foreign_csr(wanting: Attester) -> EnrolFinish:
    """A request for another key than the one that the quote binds."""
    return wanting.finish(NONCE, csr=make_csr(wanting.tpm.derive("other")))


def other_tls_key(wanting: Attester) -> EnrolFinish:
    """A TPM's TLS key that is not the one which is requested and bound."""
    wanting.tpm.tls = ecc_public(wanting.tpm.derive("other"), wanting.tpm.tls.attributes)
    return wanting.finish(NONCE)


def software_tls_key(wanting: Attester) -> EnrolFinish:
    """A software key that is requested and bound, beside a TPM's key that is certified."""
    key = ec.generate_private_key(ec.SECP256R1())
    binding = msgspec.structs.replace(
        wanting.binding(NONCE, purpose=Purpose.ENROL), tls_key=spki(key)
    )
    return wanting.finish(
        NONCE, csr=make_csr(key), evidence=wanting.evidence(NONCE, binding=binding)
    )


def certified_tls(wanting: Attester, qualifying: bytes) -> EnrolFinish:
    """The TLS key certified over something else."""
    return changed(wanting, tls_certify=carried(wanting.tpm.certify(wanting.tpm.tls, qualifying)))


def other_certified(wanting: Attester) -> EnrolFinish:
    """The certificate of another object, over the right request."""
    csr = make_csr(wanting.tpm.tls_key)
    qualifying = hashlib.sha256(NONCE + csr).digest()
    signed = wanting.tpm.certify(wanting.tpm.tls, qualifying, name=wanting.tpm.storage.name)
    return msgspec.structs.replace(wanting.finish(NONCE, csr=csr), tls_certify=carried(signed))


def forged_csr(wanting: Attester) -> EnrolFinish:
    """A request for the right key that another key has signed."""
    honest = make_csr(wanting.tpm.tls_key)
    return wanting.finish(NONCE, csr=honest[:-1] + bytes([honest[-1] ^ 1]))


def weak_csr(wanting: Attester) -> EnrolFinish:
    """A request for a key on a curve that is not accepted."""
    return wanting.finish(NONCE, csr=make_csr(ec.generate_private_key(ec.SECP521R1())))


def odd_csr(wanting: Attester) -> EnrolFinish:
    """A request for a key of another kind."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "device")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    request = builder.sign(ed25519.Ed25519PrivateKey.generate(), None)
    return wanting.finish(NONCE, csr=request.public_bytes(Encoding.DER))


def attested(wanting: Attester, **changes: object) -> EnrolFinish:
    """A device that says that its TLS key is not in the TPM, with changes."""
    honest = wanting.finish(NONCE, kind=TlsKeyKind.ATTESTED)
    return msgspec.structs.replace(honest, **changes)


KEYS: Final = (KeyAttributesError, "key:attributes")
COUNTERS: Final = (CounterAttributesError, "counter:attributes")
NAMES: Final = (CertifiedNameError, "evidence:name:mismatch")
NONCES: Final = (StaleQuoteError, "evidence:nonce:mismatch")
SIGNATURES: Final = (SignatureError, "evidence:signature:invalid")
SIGNERS: Final = (SignerError, "evidence:signer:mismatch")
PCRS: Final = (SelectionError, "evidence:selection:mismatch")
REQUESTS: Final = (CsrError, "enrolment:csr:refused")
CHANNELS: Final = (ChannelBindingError, "evidence:tls-key:mismatch")
MALFORMED: Final = (MalformedError, "wire:malformed")

REFUSED: dict[str, tuple[type[HwTrustError], str, Callable[[Attester], EnrolFinish]]] = {
    # storage key
    "40: its storage key can be duplicated": (
        *KEYS,
        lambda d: storage_with(d, d.tpm.storage.attributes & ~_A.FIXED_TPM),
    ),
    "40: its storage key is a signing key": (
        *KEYS,
        lambda d: storage_with(d, d.tpm.tls.attributes),
    ),
    "40: its storage key is not restricted": (
        *KEYS,
        lambda d: storage_with(d, d.tpm.storage.attributes & ~_A.RESTRICTED),
    ),
    "40: its storage key is certified by another AK": (*SIGNATURES, foreign_certified),
    "77: its storage key is an interposer's": (*NAMES, foreign_storage),
    "its storage key was certified over another nonce": (
        *NONCES,
        lambda d: changed(d, storage_certify=carried(d.tpm.certify(d.tpm.storage, bytes(40)))),
    ),
    "its storage key is certified by the AK under another parent": (
        *SIGNERS,
        lambda d: changed(
            d,
            storage_certify=carried(
                d.tpm.attest(
                    NONCE,
                    CertifyInfo(d.tpm.storage.name, d.tpm.storage.name),
                    signer=qualified_name_under(d.tpm.ak.name, parent=bytes(34)),
                )
            ),
        ),
    ),
    "its storage key is cut short": (
        *MALFORMED,
        lambda d: changed(d, storage_public=d.tpm.storage.encode_sized()[:-1]),
    ),
    # counter
    "41: its counter is no counter": (
        *COUNTERS,
        lambda d: counter_with(d, d.index.attributes & ~_N.COUNTER),
    ),
    "41: its counter can be counted up by a password": (
        *COUNTERS,
        lambda d: counter_with(d, d.index.attributes | _N.AUTHWRITE),
    ),
    "41: its counter can be counted up by the owner": (
        *COUNTERS,
        lambda d: counter_with(d, d.index.attributes | _N.OWNERWRITE),
    ),
    "41: its counter is orderly": (
        *COUNTERS,
        lambda d: counter_with(d, d.index.attributes | _N.ORDERLY),
    ),
    "41: its counter was never written": (
        *COUNTERS,
        lambda d: counter_with(d, d.index.attributes & ~_N.WRITTEN),
    ),
    "its counter is that of another device": (
        *COUNTERS,
        lambda d: counter_under(d, fold(counter_policy(d.policy_public, SoftwareTpm().ek.name))),
    ),
    "its counter is under another policy key": (
        *COUNTERS,
        lambda d: counter_under(
            d,
            fold(
                counter_policy(
                    policy_key_public(ec.generate_private_key(ec.SECP256R1()).public_key()),
                    d.tpm.ek.name,
                )
            ),
        ),
    ),
    "its counter is under no policy": (*COUNTERS, lambda d: counter_under(d, b"")),
    "41: its counter is not the certified one": (
        *NAMES,
        lambda d: changed(
            d, counter_public=counter_public(d.index.auth_policy, index=0x0180_0999).encode()
        ),
    ),
    "its counter is followed by something": (
        *MALFORMED,
        lambda d: changed(d, counter_public=d.index.encode() + b"\0"),
    ),
    # selection
    "25: it quotes the SHA-1 bank": (*PCRS, lambda d: with_banks(d, "sha1:0,7,12")),
    "28: it quotes two banks": (*PCRS, lambda d: with_banks(d, "sha1:0+sha256:0,7,12")),
    "22: it quotes nothing": (*PCRS, lambda d: with_banks(d, "sha256:none")),
    "it quotes no application PCR": (*PCRS, selecting("sha256:0,7", 7)),
    "it quotes two application PCRs": (*PCRS, selecting("sha256:0,8,12")),
    "it names a PCR that it does not quote": (*PCRS, lambda d: changed(d, pcr=10)),
    "its application PCR is the resettable PCR 16": (*PCRS, selecting("sha256:0,16", 16)),
    "its application PCR is the resettable PCR 23": (*PCRS, selecting("sha256:0,23", 23)),
    "it quotes the resettable PCR 16 too": (*PCRS, selecting("sha256:0,12,16")),
    "it quotes the resettable PCR 23 too": (*PCRS, selecting("sha256:0,12,23")),
    "it quotes other PCRs than it says": (*PCRS, lambda d: with_banks(d, "sha256:0,12")),
    "its selection is none": (*MALFORMED, lambda d: with_banks(d, "12")),
    # certificate request
    "its request is no request": (*REQUESTS, lambda d: d.finish(NONCE, csr=b"no request")),
    "its request is empty": (*REQUESTS, lambda d: d.finish(NONCE, csr=b"")),
    "its request is signed by another key": (*REQUESTS, forged_csr),
    "its request is for a key of another kind": (*REQUESTS, odd_csr),
    "its request is for a key on another curve": (
        WeakKeyError,
        "evidence:key:weak",
        weak_csr,
    ),
    "its request is for another key than its quote binds": (*CHANNELS, foreign_csr),
    # evidence
    "20: its evidence was made to attest": (
        ChallengePurposeError,
        "challenge:purpose",
        lambda d: d.finish(NONCE, evidence=d.evidence(NONCE, purpose=Purpose.ATTEST)),
    ),
    "14: its evidence answers another nonce": (
        *NONCES,
        lambda d: d.finish(NONCE, evidence=d.evidence(bytes(40), purpose=Purpose.ENROL)),
    ),
    "33: its evidence is another TPM's": (*SIGNATURES, foreign_evidence),
    "51: its application PCR was extended before, and its log is empty": (
        LogError,
        "evidence:log:mismatch",
        lambda d: d.finish(
            NONCE,
            evidence=d.evidence(NONCE, purpose=Purpose.ENROL, log=b"", pcrs=d.values),
        ),
    ),
    # TLS key
    "its TLS key can be duplicated": (
        *KEYS,
        lambda d: tls_with(d, d.tpm.tls.attributes & ~_A.FIXED_PARENT),
    ),
    "its TLS key was made outside": (
        *KEYS,
        lambda d: tls_with(d, d.tpm.tls.attributes & ~_A.SENSITIVE_DATA_ORIGIN),
    ),
    "its TLS key is in the TPM, but another is requested": (*REQUESTS, software_tls_key),
    "its TLS key is another than the requested": (*REQUESTS, other_tls_key),
    "its TLS key is certified for no request": (*NONCES, lambda d: certified_tls(d, NONCE)),
    "its TLS key is certified for another request": (
        *NONCES,
        lambda d: certified_tls(d, hashlib.sha256(NONCE + b"another request").digest()),
    ),
    "its TLS key is not the certified one": (
        *NAMES,
        other_certified,
    ),
    "its TLS key is not certified": (*KEYS, lambda d: changed(d, tls_certify=None)),
    "its TLS key is not there": (*MALFORMED, lambda d: changed(d, tls_public=b"")),
    "its TLS key is not the TPM's, but there is one": (
        *KEYS,
        lambda d: attested(d, tls_public=d.tpm.tls.encode_sized()),
    ),
    "its TLS key is not the TPM's, but one is certified": (
        *KEYS,
        lambda d: attested(d, tls_certify=carried(d.tpm.certify(d.tpm.tls, NONCE))),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_device_is_not_enrolled_when(case: str) -> None:
    """Every rule of the module docstring has a device that breaks it alone."""
    error, code, make = REFUSED[case]
    wanting = device()
    finish = make(wanting)
    refusal(error, code, lambda: enrol(finish, wanting))


AKS: dict[str, Callable[[ObjectAttributes], ObjectAttributes]] = {
    "29: is not restricted": lambda honest: honest & ~_A.RESTRICTED,
    "30: was imported": lambda honest: honest & ~(_A.FIXED_TPM | _A.FIXED_PARENT),
    "30: can move with its parent": lambda honest: honest & ~_A.FIXED_TPM,
    "31: was made outside": lambda honest: honest & ~_A.SENSITIVE_DATA_ORIGIN,
    "decrypts as well": lambda honest: honest | _A.DECRYPT,
    "does not sign": lambda honest: (honest & ~_A.SIGN) | _A.DECRYPT,
}


@pytest.mark.parametrize("case", AKS)
def test_a_device_is_not_enrolled_whose_attestation_key(case: str) -> None:
    """TPM2_ActivateCredential succeeds for these keys; their attributes tell them."""
    tpm = SoftwareTpm()
    tpm.ak = replace(tpm.ak, attributes=AKS[case](tpm.ak.attributes))
    wanting = Attester(tpm)
    wanting.load(RELEASE)
    finish = wanting.finish(NONCE)
    refusal(*KEYS, lambda: enrol(finish, wanting))


def test_a_device_is_not_enrolled_whose_attestation_key_is_none_of_its_ek() -> None:
    """39: what the credential was made for is what has to sign."""
    wanting = device()
    finish = wanting.finish(NONCE)
    refusal(*SIGNATURES, lambda: enrol(finish, wanting, ak=SoftwareTpm().ak))


def test_an_attestation_key_of_the_owner_hierarchy_is_refused() -> None:
    """Its reset counts would be obfuscated: the same key, but under another hierarchy."""
    wanting = device()
    owned = qualified_name_under(wanting.tpm.ak.name, parent=codec.u32(0x4000_0001))
    assert owned != wanting.tpm.ak_qualified_name
    assert ENDORSEMENT == 0x4000_000B
    info = CertifyInfo(wanting.tpm.storage.name, wanting.tpm.storage.name)
    finish = changed(
        wanting, storage_certify=carried(wanting.tpm.attest(NONCE, info, signer=owned))
    )
    refusal(*SIGNERS, lambda: enrol(finish, wanting))


def test_every_byte_of_a_request_counts() -> None:
    """No byte of what a request says can be flipped, and no other ends in a foreign error."""
    wanting = device()
    csr = make_csr(wanting.tpm.tls_key)
    said = x509.load_der_x509_csr(csr).tbs_certrequest_bytes
    begin = csr.index(said)
    passed = []
    for position in range(len(csr)):
        flipped = bytearray(csr)
        flipped[position] ^= 0x01
        try:
            enrol(attested(wanting, csr=bytes(flipped)), wanting)
        except HwTrustError:
            continue
        passed.append(position)
    # The count of a bit string's unused bits may be one where its last bit is zero.
    assert not [position for position in passed if begin <= position < begin + len(said)]
    assert len(passed) <= 1
