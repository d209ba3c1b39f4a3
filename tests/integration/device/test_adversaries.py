"""What is tried against a device and its backend: a real TPM, real TLS, a real database.

Each test names the line of the list of adversaries that it is about, and ends in a typed
error; where the backend refuses, also in an audit record. What other files cover whole is
not repeated here:

    42, 43       tests/unit/backend/test_backend_enrolment.py     tokens
    54-62, 65-68 test_adversaries_roots.py    clock, state, rotation
    78-80, 83    test_adversaries_bus.py      interposers, relays, other servers
    58, 66, 69   test_life_of_a_root.py       cleared TPM, expired root, two agents
    60           test_life_of_a_root.py       the TPM refuses E once the counter shows E + 1
    64           test_rotation_crashes.py     killed at every point
    77           tests/unit/tpm/test_connection.py     another key at the handle or on the bus
    82           tests/unit/backend/test_backend_keys.py     device certificates
    83           tests/integration/backend/test_backend_http.py     the server's side
"""

from __future__ import annotations

import base64
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

import hwtrust
from hwtrust import errors
from hwtrust.attest.tpm import gather, signed
from hwtrust.channel import AttestedKey, Channel
from hwtrust.device.attest import bound_evidence
from hwtrust.testing.swtpm import Swtpm
from hwtrust.tpm import commands, provision
from hwtrust.tpm.leftovers import loaded
from hwtrust.wire.cel import EventLog
from hwtrust.wire.challenge import Purpose
from hwtrust.wire.messages import (
    AttestReply,
    AttestRequest,
    ChallengeReply,
    ChallengeRequest,
    EnrolFinish,
    Evidence,
    Standing,
)
from hwtrust.wire.structures import NvAttributes, NvPublic
from hwtrust_backend.audit import Event
from hwtrust_backend.enrolment import Device as KnownDevice
from hwtrust_backend.testing import MINUTE
from simulators.field import (
    OTHER_AK,
    Field,
    enrolled,
    ground,
    neighbour,
    newest,
    other_ak,
    other_counter,
)
from simulators.site import Site
from simulators.software_tpm import SoftwareTpm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hwtrust.device.context import DeviceContext
    from hwtrust.device.state import Identity
    from hwtrust.testing.manufacture import Vendor
    from hwtrust.testing.plugin import TpmFactory

COUNTER = provision.COUNTER_ATTRIBUTES


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory, tpm_vendor: Vendor) -> Iterator[Field]:
    """A device that is enrolled, booted and open."""
    with ground(tmp_path_factory.mktemp("field"), tpm_vendor) as site, enrolled(site) as made:
        yield made


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory, tpm_vendor: Vendor) -> Iterator[Site]:
    """A site whose device is not enrolled."""
    with ground(tmp_path_factory.mktemp("door"), tpm_vendor) as site:
        yield site


# --- replay, selection of evidence, names -------------------------------------------------


def answered_late(field: Field) -> Evidence:
    """An answer after the challenge has run out."""
    evidence = field.evidence()
    field.site.backend.clock.advance(16 * MINUTE)
    return evidence


def sent_twice(field: Field) -> Evidence:
    """An answer that has been accepted before."""
    evidence = field.evidence()
    assert field.send(evidence).standing is Standing.TRUSTED
    return evidence


def overtaken(field: Field) -> Evidence:
    """An answer to a challenge after one to a newer challenge."""
    older, newer = field.evidence(), field.evidence()
    field.send(newer)
    return older


def for_another_device(field: Field) -> Evidence:
    """An answer to a challenge that somebody else got."""
    return field.evidence(neighbour(field.site).next_nonce)


def with_the_log_of_another_time(field: Field) -> Evidence:
    """The quote of now with the log of before."""
    evidence = field.evidence()
    shorter = field.context.measured.log.without_last().encode()
    return msgspec.structs.replace(evidence, log=shorter)


def bound_to_the_log_of_another_time(field: Field) -> Evidence:
    """A log that is bound, and was not extended."""
    log = EventLog()
    binding = msgspec.structs.replace(field.evidence().binding, log_digest=log.digest())
    identity = field.context.known()
    made = gather(
        field.context.tpm,
        ak=identity.ak,
        counter=identity.counter,
        selection=field.context.selection,
        pcr=field.context.measured.pcr,
        log=log,
        binding=binding,
    )
    return msgspec.structs.replace(made, pcrs={8: field.context.measured.log.value()})


def with_another_counter(field: Field) -> Evidence:
    """A counter of the adversary, truly certified by the AK."""
    evidence = field.evidence()
    with other_counter(field.context) as counter:
        certified = commands.nv_certify(
            field.context.tpm,
            counter,
            field.context.known().ak,
            qualifying=evidence.binding.digest(),
            size=8,
        )
    return msgspec.structs.replace(evidence, counter=signed(certified))


def under_another_key(field: Field) -> Evidence:
    """A quote by an AK that this device did not enrol with."""
    evidence, identity = field.evidence(), field.context.known()
    with other_ak(field.context) as ak:
        return gather(
            field.context.tpm,
            ak=ak,
            counter=identity.counter,
            selection=field.context.selection,
            pcr=field.context.measured.pcr,
            log=field.context.measured.log,
            binding=evidence.binding,
        )


def for_another_connection(field: Field) -> Evidence:
    """A binding of a key that is not the connection's."""
    return bound_evidence(
        field.context, purpose=Purpose.ATTEST, nonce=field.nonce(), key=AttestedKey()
    )


BAD_EVIDENCE: dict[str, tuple[Callable[[Field], Evidence], str]] = {
    "14: answers an old nonce": (answered_late, "challenge:expired"),
    "14: answers an older nonce than the last": (overtaken, "challenge:used"),
    "15: answers a nonce again": (sent_twice, "challenge:used"),
    "16: answers another device's nonce": (for_another_device, "challenge:forged"),
    "17: answers an empty nonce": (lambda field: field.evidence(b""), "evidence:nonce:empty"),
    "18: answers the nonce as base64 has it": (
        lambda field: field.evidence(base64.b64encode(field.nonce())),
        "challenge:forged",
    ),
    "19: comes with another log": (with_the_log_of_another_time, "evidence:log:mismatch"),
    "19: binds another log than was measured": (
        bound_to_the_log_of_another_time,
        "evidence:log:mismatch",
    ),
    "20: answers a challenge for another purpose": (
        lambda field: field.evidence(field.nonce(Purpose.SESSION)),
        "challenge:purpose",
    ),
    "39: is signed by another key of the TPM": (under_another_key, "evidence:signature:invalid"),
    "63: certifies another index": (with_another_counter, "evidence:name:mismatch"),
    "80: was made for another connection": (for_another_connection, "evidence:tls-key:mismatch"),
}


@pytest.mark.parametrize("case", BAD_EVIDENCE)
def test_evidence_is_refused_that(case: str, field: Field) -> None:
    """The backend says why, keeps a record of it, and the honest device goes on."""
    make, code = BAD_EVIDENCE[case]
    evidence = make(field)
    with pytest.raises(errors.RefusedError) as refused:
        field.send(evidence)
    assert refused.value.data["problem"] == code
    event, reason = newest(field.site, field.name)
    assert event == Event.EVIDENCE_REFUSED
    assert reason.startswith(f"{code}: ")
    assert field.device.attest().standing is Standing.TRUSTED


def test_38_a_device_does_not_attest_under_another_name(field: Field) -> None:
    """Its certificate says who it is; the record stands under the name that was claimed."""
    other = neighbour(field.site)
    with pytest.raises(errors.RefusedError) as refused:
        field.send(field.evidence(), name=other.name)
    assert refused.value.data["problem"] == "identity:key:mismatch"
    event, reason = newest(field.site, other.name)
    assert (event, reason.split(": ")[0]) == (Event.EVIDENCE_REFUSED, "identity:key:mismatch")


def test_38_a_name_without_its_tpm_gets_no_certificate(field: Field) -> None:
    """Without a certificate a name can be claimed, but the quote is not under its AK."""
    other = neighbour(field.site)
    channel = Channel(field.site.backend.url, tls_ca=field.site.backend.trust.tls_ca)
    asked = ChallengeRequest(device=other.name, purpose=Purpose.SESSION)
    nonce = channel.post("/v1/challenges", asked, ChallengeReply).nonce
    key = AttestedKey()
    evidence = bound_evidence(field.context, purpose=Purpose.SESSION, nonce=nonce, key=key)
    request = AttestRequest(device=other.name, evidence=evidence, csr=key.csr())
    with pytest.raises(errors.RefusedError) as refused:
        channel.post("/v1/attest", request, AttestReply)
    assert refused.value.data["problem"] == "evidence:signature:invalid"
    assert newest(field.site, other.name)[0] == Event.EVIDENCE_REFUSED


# --- enrolment ----------------------------------------------------------------------------


def guess_the_secret(finish: EnrolFinish, *_: object) -> EnrolFinish:
    """Finish without having opened the credential."""
    return msgspec.structs.replace(finish, secret=bytes(32))


def quote_by_another_ak(
    finish: EnrolFinish, context: DeviceContext, identity: Identity, nonce: bytes
) -> EnrolFinish:
    """Finish with evidence by an AK that got no credential."""
    with other_ak(context) as ak:
        evidence = gather(
            context.tpm,
            ak=ak,
            counter=identity.counter,
            selection=context.selection,
            pcr=context.measured.pcr,
            log=context.measured.log,
            binding=finish.evidence.binding,
        )
    return msgspec.structs.replace(finish, evidence=evidence)


def certify_storage_by_another_ak(
    finish: EnrolFinish, context: DeviceContext, identity: Identity, nonce: bytes
) -> EnrolFinish:
    """Finish with a storage key that another AK vouches for."""
    tpm = context.tpm
    with other_ak(context) as ak:
        certified = commands.certify(tpm, tpm.at(identity.storage_key), ak, qualifying=nonce)
    return msgspec.structs.replace(finish, storage_certify=signed(certified))


def offer_a_signing_key_for_storage(
    finish: EnrolFinish, context: DeviceContext, identity: Identity, nonce: bytes
) -> EnrolFinish:
    """Finish with a key that protects nothing, truly certified."""
    tpm = context.tpm
    ak, public = provision.make_attestation_key(tpm, OTHER_AK, unique=bytes(32))
    try:
        certified = commands.certify(tpm, tpm.at(ak), identity.ak, qualifying=nonce)
    finally:
        commands.evict_control(tpm, tpm.at(ak), OTHER_AK)
        tpm.unpin(OTHER_AK)
    return msgspec.structs.replace(
        finish, storage_public=public.encode_sized(), storage_certify=signed(certified)
    )


def offer_an_interposers_storage_key(finish: EnrolFinish, *_: object) -> EnrolFinish:
    """Finish with an interposer's key under the true certificate."""
    public = SoftwareTpm().storage.encode_sized()
    return msgspec.structs.replace(finish, storage_public=public)


def certify_another_counter(
    finish: EnrolFinish, context: DeviceContext, identity: Identity, nonce: bytes
) -> EnrolFinish:
    """Finish with a counter that is not the one described."""
    with other_counter(context) as counter:
        qualifying = finish.evidence.binding.digest()
        certified = commands.nv_certify(
            context.tpm, counter, identity.ak, qualifying=qualifying, size=8
        )
    evidence = msgspec.structs.replace(finish.evidence, counter=signed(certified))
    return msgspec.structs.replace(finish, evidence=evidence)


BAD_ENROLMENTS: dict[str, tuple[Callable[..., EnrolFinish], str]] = {
    "39: did not open the credential": (guess_the_secret, "enrolment:credential:mismatch"),
    "39: quotes by another AK than the credential's": (
        quote_by_another_ak,
        "evidence:signature:invalid",
    ),
    "40: has its storage key certified by another AK": (
        certify_storage_by_another_ak,
        "evidence:signature:invalid",
    ),
    "40: offers a signing key as storage key": (offer_a_signing_key_for_storage, "key:attributes"),
    "77: offers an interposer's storage key": (
        offer_an_interposers_storage_key,
        "evidence:name:mismatch",
    ),
    "41: certifies another counter": (certify_another_counter, "evidence:name:mismatch"),
}


@pytest.mark.parametrize("case", BAD_ENROLMENTS)
def test_a_device_is_not_enrolled_that(
    case: str, door: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A modified client on a good TPM: refused with a code and a record, and no device stored."""
    tamper, code = BAD_ENROLMENTS[case]
    honest = hwtrust.device.enrol._finish

    def finish(context: DeviceContext, identity: Identity, **more: Any) -> EnrolFinish:  # noqa: ANN401
        made = honest(context, identity, **more)
        return tamper(made, context, identity, made.evidence.binding.nonce)

    monkeypatch.setattr("hwtrust.device.enrol._finish", finish)
    refuse_enrolment(door, code)


BAD_COUNTERS = {
    "that everybody may count": COUNTER | NvAttributes.AUTHWRITE,
    "that the owner may count": COUNTER | NvAttributes.OWNERWRITE,
    "that a power cut moves": COUNTER | NvAttributes.ORDERLY,
    "that guessed passwords lock": COUNTER & ~NvAttributes.NO_DA,
}


@pytest.mark.parametrize("case", BAD_COUNTERS)
def test_41_no_device_is_enrolled_with_a_counter(
    case: str, door: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made by a real TPM for a modified client, and truly certified."""
    monkeypatch.setattr("hwtrust.tpm.provision.COUNTER_ATTRIBUTES", BAD_COUNTERS[case])
    refuse_enrolment(door, "counter:attributes")


def test_41_a_bad_counter_is_not_hidden_by_a_good_description(
    door: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Name that the TPM certifies tells the attributes that the index really has."""
    bad, honest = COUNTER | NvAttributes.AUTHWRITE, hwtrust.device.enrol._finish
    monkeypatch.setattr("hwtrust.tpm.provision.COUNTER_ATTRIBUTES", bad)

    def finish(context: DeviceContext, identity: Identity, **more: Any) -> EnrolFinish:  # noqa: ANN401
        made = honest(context, identity, **more)
        public = NvPublic.decode(made.counter_public)
        good = NvPublic(
            public.index,
            public.name_alg,
            public.attributes & ~NvAttributes.AUTHWRITE,
            public.auth_policy,
            public.size,
        )
        return msgspec.structs.replace(made, counter_public=good.encode())

    monkeypatch.setattr("hwtrust.device.enrol._finish", finish)
    refuse_enrolment(door, "evidence:name:mismatch")


def refuse_enrolment(site: Site, code: str) -> None:
    """The backend refuses with `code`, records it, and knows no such device."""
    with site.open() as device:
        with pytest.raises(errors.RefusedError) as refused:
            device.enrol(token=site.token())
        assert loaded(device._context.tpm) == ()
        assert not device.enrolled
        with provision.endorsement_key(
            device._context.tpm, provision.find_endorsement_key(device._context.tpm).template
        ) as (_, ek):
            name = ek.name
    assert refused.value.data["problem"] == code
    event, reason = newest(site, name)
    assert event == Event.ENROLMENT_REFUSED
    assert reason.startswith(f"{code}: ")
    with site.backend.session() as session:
        assert session.get(KnownDevice, name.hex()) is None


def test_33_the_certificate_of_another_tpm_is_refused(
    site: Site, tpm_factory: TpmFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A certificate of a trusted vendor, for another EK than the one that is offered."""
    stolen = certificate_of(site, tpm_factory())
    found = provision.find_endorsement_key

    def with_stolen(tpm: object) -> provision.EndorsementKey:
        mine = found(tpm)  # type: ignore[arg-type]
        return provision.EndorsementKey(mine.template, stolen, ())

    monkeypatch.setattr("hwtrust.tpm.provision.find_endorsement_key", with_stolen)
    with site.open() as device:
        with pytest.raises(errors.RefusedError) as refused:
            device.enrol(token=site.token())
        assert loaded(device._context.tpm) == ()
    assert refused.value.data["problem"] == "enrolment:ek:key"


def test_33_the_whole_ek_of_another_tpm_opens_no_credential(
    site: Site, tpm_factory: TpmFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EK and certificate are public: what they do not give is the credential's secret."""
    other = tpm_factory()
    stolen = certificate_of(site, other)
    found, make = provision.find_endorsement_key, provision.endorsement_key
    with (
        hwtrust.tpm.discover.open_tpm(other.tcti) as tpm,
        make(tpm, found(tpm).template) as (_, ek),
    ):
        claimed = ek

    @contextmanager
    def disguised(tpm: object, template: object) -> Iterator[tuple[object, object]]:
        with make(tpm, template) as (handle, _):  # type: ignore[arg-type]
            yield handle, claimed

    monkeypatch.setattr(
        "hwtrust.tpm.provision.find_endorsement_key",
        lambda tpm: provision.EndorsementKey(found(tpm).template, stolen, ()),
    )
    monkeypatch.setattr("hwtrust.tpm.provision.endorsement_key", disguised)
    with site.open() as device:
        with pytest.raises(errors.TpmError) as refused:
            device.enrol(token=site.token())
        assert loaded(device._context.tpm) == ()
    assert refused.value.code == "tpm:command:failed"
    with site.backend.session() as session:
        assert session.get(KnownDevice, claimed.name.hex()) is None


def certificate_of(site: Site, tpm: Swtpm) -> bytes:
    """The EK certificate that is in a TPM."""
    del site
    with hwtrust.tpm.discover.open_tpm(tpm.tcti) as opened_tpm:
        return provision.find_endorsement_key(opened_tpm).certificate
