"""What is tried against a device and its backend: a real TPM, real TLS, a real database.

Each test names the line of the list of adversaries that it is about, and ends in a typed
error; where the backend refuses, also in an audit record. What other files cover whole is
not repeated here:

    42, 43       tests/unit/backend/test_backend_enrolment.py     tokens
    58, 66, 69   test_life_of_a_root.py       cleared TPM, expired root, two agents
    60           test_life_of_a_root.py       the TPM refuses E once the counter shows E + 1
    64           test_rotation_crashes.py     killed at every point
    77           tests/unit/tpm/test_connection.py     another key at the handle or on the bus
    82           tests/unit/backend/test_backend_keys.py     device certificates
    83           tests/integration/backend/test_backend_http.py     the server's side
"""

from __future__ import annotations

import ast
import base64
import shutil
import signal
import socket
import ssl
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

import hwtrust
from hwtrust import errors
from hwtrust.attest.tpm import gather, signed
from hwtrust.channel import AttestedKey, Channel
from hwtrust.device.attest import attest_once, bound_evidence
from hwtrust.device.rotate import rotate, store_root
from hwtrust.testing.faults import Alter, At, FaultPlan, FaultyTcti, Swallow
from hwtrust.testing.swtpm import Swtpm
from hwtrust.tpm import commands, provision
from hwtrust.tpm.leftovers import loaded
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.cel import EventLog
from hwtrust.wire.challenge import Purpose
from hwtrust.wire.envelope import seal
from hwtrust.wire.messages import (
    AttestReply,
    AttestRequest,
    ChallengeReply,
    ChallengeRequest,
    EnrolFinish,
    Evidence,
    Standing,
)
from hwtrust.wire.root import RootDelivery, RootMetadata, root_ref, sign_approval
from hwtrust.wire.structures import NvAttributes, NvPublic
from hwtrust_backend.app.tls import server_context
from hwtrust_backend.audit import Event
from hwtrust_backend.audit.service import check_chain, trail
from hwtrust_backend.config import system_clock
from hwtrust_backend.enrolment import Device as KnownDevice
from hwtrust_backend.keys import KeyRole
from hwtrust_backend.publishing.recipes import make_root
from hwtrust_backend.publishing.service import roots_of
from hwtrust_backend.testing import DAY, MINUTE, BackendServer
from simulators.backend_clients import BackendDevice, HttpApi
from simulators.site import Site
from simulators.software_tpm import SoftwareTpm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tpm2_pytss.TCTI import TCTI

    from hwtrust.device import Device
    from hwtrust.device.context import DeviceContext
    from hwtrust.device.state import Identity
    from hwtrust.testing.manufacture import Vendor
    from hwtrust.testing.plugin import TpmFactory
    from hwtrust.tpm.connection import Pinned
    from hwtrust.wire.root import Approval

OTHER_AK, OTHER_COUNTER = 0x81018077, 0x01804877
COUNTER = provision.COUNTER_ATTRIBUTES


# --- surroundings -----------------------------------------------------------------------


@dataclass
class Field:
    """An enrolled, booted and open device with its surroundings."""

    site: Site
    device: Device
    name: bytes

    @property
    def context(self) -> DeviceContext:
        """What is inside the device: the adversary is root on it."""
        return self.device._context

    def nonce(self, purpose: Purpose = Purpose.ATTEST) -> bytes:
        """A fresh challenge."""
        asked = ChallengeRequest(device=self.name, purpose=purpose)
        return self.context.channel.post("/v1/challenges", asked, ChallengeReply).nonce

    def evidence(self, nonce: bytes | None = None) -> Evidence:
        """Evidence as the device makes it."""
        key = self.context.client_key
        assert key is not None
        fresh = self.nonce() if nonce is None else nonce
        return bound_evidence(self.context, purpose=Purpose.ATTEST, nonce=fresh, key=key)

    def send(self, evidence: Evidence, *, name: bytes | None = None) -> AttestReply:
        """Bring evidence to the backend, over the device's own channel."""
        request = AttestRequest(device=name or self.name, evidence=evidence)
        return self.context.channel.post("/v1/attest", request, AttestReply)


def newest(site: Site, name: bytes) -> tuple[str, str]:
    """Event and reason of a device's newest audit record; the chain is whole."""
    with site.backend.session() as session:
        check_chain(session)
        record = trail(session, name.hex(), limit=1)[0]
        return record.event, record.reason


def counter_of(device: Device) -> int:
    """What the epoch counter shows."""
    return provision.read_counter(device._context.tpm, device._context.known().counter)


@contextmanager
def opened(site: Site) -> Iterator[Field]:
    """Enrol, boot, attest; the device stays open."""
    name = site.enrol()
    with site.open() as device:
        device.boot()
        device.attest()
        yield Field(site, device, name)


@pytest.fixture(scope="module")
def grounds(
    tmp_path_factory: pytest.TempPathFactory, tpm_vendor: Vendor
) -> Iterator[Callable[[], Site]]:
    """Makes sites that last as long as the module."""
    from contextlib import ExitStack  # noqa: PLC0415

    with ExitStack() as stack:

        def make() -> Site:
            tpm = stack.enter_context(Swtpm.start())
            tpm_vendor.manufacture(tpm, algorithm="ecc256")
            backend = stack.enter_context(BackendServer())
            return Site(tmp_path_factory.mktemp("site"), tpm, backend, tpm_vendor)

        yield make


@pytest.fixture(scope="module")
def field(grounds: Callable[[], Site]) -> Iterator[Field]:
    """A device that attests."""
    with opened(grounds()) as made:
        yield made


@pytest.fixture(scope="module")
def offered(grounds: Callable[[], Site]) -> Iterator[Field]:
    """A device that is offered its next root, each time that it attests."""
    with opened(grounds()) as made:
        made.device.keystore.put("name", b"value")
        made.site.backend.rotate(made.name)
        yield made


@pytest.fixture(scope="module")
def door(grounds: Callable[[], Site]) -> Site:
    """A site whose device is not enrolled."""
    return grounds()


@contextmanager
def other_ak(context: DeviceContext) -> Iterator[Pinned]:
    """A second attestation key in the device's TPM, as good as the first."""
    tpm = context.tpm
    ak, _ = provision.make_attestation_key(tpm, OTHER_AK, unique=bytes(32))
    try:
        yield ak
    finally:
        commands.evict_control(tpm, tpm.at(ak), OTHER_AK)
        tpm.unpin(OTHER_AK)


@contextmanager
def other_counter(context: DeviceContext) -> Iterator[Pinned]:
    """A counter of the adversary's own, which anybody may count."""
    tpm = context.tpm
    attributes = (
        NvAttributes.COUNTER | NvAttributes.AUTHWRITE | NvAttributes.AUTHREAD | NvAttributes.NO_DA
    )
    index = commands.nv_define(tpm, NvPublic(OTHER_COUNTER, Alg.SHA256, attributes, b"", 8))
    try:
        tpm.call("TPM2_NV_Increment", tpm.esapi.nv_increment, index)
        yield tpm.pin(OTHER_COUNTER, index)
    finally:
        commands.nv_undefine(tpm, OTHER_COUNTER)


# --- replay, selection of evidence, names -------------------------------------------------


def answered_late(field: Field) -> Evidence:
    evidence = field.evidence()
    field.site.backend.clock.advance(16 * MINUTE)
    return evidence


def sent_twice(field: Field) -> Evidence:
    evidence = field.evidence()
    assert field.send(evidence).standing is Standing.TRUSTED
    return evidence


def overtaken(field: Field) -> Evidence:
    older, newer = field.evidence(), field.evidence()
    field.send(newer)
    return older


def for_another_device(field: Field) -> Evidence:
    return field.evidence(neighbour(field.site).next_nonce)


def neighbour(site: Site) -> BackendDevice:
    """Another device of the same backend."""
    other = BackendDevice(site.backend.backend)
    site.backend.allow_ek(other.name)
    other.enrol(HttpApi(site.backend))
    return other


def with_the_log_of_another_time(field: Field) -> Evidence:
    evidence = field.evidence()
    shorter = field.context.measured.log.without_last().encode()
    return msgspec.structs.replace(evidence, log=shorter)


def bound_to_the_log_of_another_time(field: Field) -> Evidence:
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
    return msgspec.structs.replace(finish, secret=bytes(32))


def quote_by_another_ak(
    finish: EnrolFinish, context: DeviceContext, identity: Identity, nonce: bytes
) -> EnrolFinish:
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
    tpm = context.tpm
    with other_ak(context) as ak:
        certified = commands.certify(tpm, tpm.at(identity.storage_key), ak, qualifying=nonce)
    return msgspec.structs.replace(finish, storage_certify=signed(certified))


def offer_a_signing_key_for_storage(
    finish: EnrolFinish, context: DeviceContext, identity: Identity, nonce: bytes
) -> EnrolFinish:
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
    public = SoftwareTpm().storage.encode_sized()
    return msgspec.structs.replace(finish, storage_public=public)


def certify_another_counter(
    finish: EnrolFinish, context: DeviceContext, identity: Identity, nonce: bytes
) -> EnrolFinish:
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

    def finish(context: DeviceContext, identity: Identity, *more: object) -> EnrolFinish:
        made = honest(context, identity, *more)  # type: ignore[arg-type]
        return tamper(made, context, identity, made.evidence.binding.nonce)

    monkeypatch.setattr("hwtrust.device.enrol._finish", finish)
    refuse_enrolment(door, code)


BAD_COUNTERS = {
    "that everybody may count": COUNTER | NvAttributes.AUTHWRITE,
    "that the owner may count": COUNTER | NvAttributes.OWNERWRITE,
    "that a power cut moves": COUNTER | NvAttributes.ORDERLY,
    "that guessed passwords lock": COUNTER & ~NvAttributes.NO_DA,
    "that forgets": COUNTER | NvAttributes.CLEAR_STCLEAR,
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

    def finish(*arguments: object) -> EnrolFinish:
        made = honest(*arguments)  # type: ignore[arg-type]
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


# --- clock and state ------------------------------------------------------------------------


def memory_of(tpm: Swtpm) -> bytes:
    """What a TPM has in its NV memory."""
    return (tpm.state_dir / "tpm2-00.permall").read_bytes()


def put_back(tpm: Swtpm, memory: bytes) -> None:
    """Power off, write an older content to the chip's memory, power on."""
    tpm._belongings.end_process(signal.SIGKILL)
    tpm._remove_sockets()
    (tpm.state_dir / "tpm2-00.permall").write_bytes(memory)
    tpm._power_on("startup-clear")


def codes_of(device: Device) -> tuple[Standing, set[str]]:
    """What the backend makes of the device: its standing, and the findings' codes."""
    result = device.attest()
    return result.standing, {finding.code for finding in result.findings}


def test_54_a_tpm_that_was_rolled_back_fails(site: Site) -> None:
    """Its reset count is lower than it was: old counters and clocks would be back with it."""
    name = site.enrol()
    memory = memory_of(site.tpm)
    for _ in range(3):
        site.tpm.reboot()
    with site.open() as device:
        device.boot()
        assert device.attest().standing is Standing.TRUSTED
    put_back(site.tpm, memory)
    with site.open() as device:
        device.boot()
        standing, codes = codes_of(device)
    assert standing is Standing.FAILED
    assert "clock:reset-fell" in codes
    event, reason = newest(site, name)
    assert event == Event.EVIDENCE_ACCEPTED
    assert reason.startswith("failed: ")
    assert "clock:reset-fell" in reason


def test_55_a_suspend_and_then_a_reboot_passes(site: Site) -> None:
    """The restart count falls when the reset count rises: that is no rollback."""
    site.enrol()
    site.tpm.suspend()
    with site.open() as device:
        device.boot()
        assert device.attest().standing is Standing.TRUSTED
        restarts = device.status().clock.restart_count
    site.tpm.reboot()
    with site.open() as device:
        device.boot()
        assert device.status().clock.restart_count < restarts
        standing, codes = codes_of(device)
    assert standing is Standing.TRUSTED
    assert codes == set()


def test_56_a_power_cut_leaves_an_unsafe_clock_which_alerts(site: Site) -> None:
    """The device works, somebody should look, and the record says so."""
    name = site.enrol()
    site.tpm.power_cut()
    with site.open() as device:
        device.boot()
        assert not device.status().clock.safe
        standing, codes = codes_of(device)
    assert standing is Standing.TRUSTED
    assert "clock:unsafe" in codes
    assert "clock:unsafe" in newest(site, name)[1]


def test_57_a_clock_that_runs_too_slowly_alerts_and_is_set_right(field: Field) -> None:
    """The backend's day was no day for the TPM; the signed time moves it forward."""
    field.site.backend.clock.advance(DAY // 4)
    result = field.device.attest()
    assert result.standing is Standing.TRUSTED
    reasons = []
    with field.site.backend.session() as session:
        reasons = [record.reason for record in trail(session, field.name.hex(), limit=4)]
    assert any("clock:drift" in reason and "clock:behind" in reason for reason in reasons)
    lag = field.site.backend.clock() - field.device.status().clock.clock
    assert abs(lag) < MINUTE


def test_57_59_a_clock_that_local_software_pushed_ahead_alerts(site: Site) -> None:
    """Years ahead: an alert and a new approval, and the device opens."""
    name = site.enrol()
    with site.open() as device:
        device.boot()
        commands.clock_set(device._context.tpm, site.backend.clock() + 5 * 365 * DAY)
        standing, codes = codes_of(device)
        assert standing is Standing.TRUSTED
        assert {"clock:ahead", "clock:drift"} <= codes
        assert "clock:ahead" in newest(site, name)[1]
        device.boot()
        assert device.keystore.list() == ()


@pytest.mark.parametrize("years", [pytest.param(-30, id="back"), pytest.param(30, id="forward")])
def test_59_the_clock_of_the_os_does_not_matter(
    site: Site, monkeypatch: pytest.MonkeyPatch, years: int
) -> None:
    """Turned back or forward, the device boots, attests, rotates, and its TPM clock is right."""
    name = site.enrol()
    turned = time.time() + years * 365 * 86400
    monkeypatch.setattr(time, "time", lambda: turned)
    monkeypatch.setattr(time, "time_ns", lambda: int(turned * 10**9))
    site.tpm.reboot()
    with site.open() as device:
        device.boot()
        assert codes_of(device) == (Standing.TRUSTED, set())
        site.backend.rotate(name)
        assert device.attest().rotated_to is not None
        lag = site.backend.clock() - device.status().clock.clock
    assert abs(lag) < 2 * MINUTE


def test_59_nothing_of_the_device_asks_the_os_for_the_time() -> None:
    """No module of the library calls for wall-clock time; durations are monotonic."""
    forbidden = {"time", "time_ns", "now", "utcnow", "today", "localtime", "gmtime"}
    root = Path(hwtrust.__file__).parent
    files = [path for path in root.rglob("*.py") if "testing" not in path.parts]
    found = []
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Attribute)
                and node.attr in forbidden
                and isinstance(node.value, ast.Name)
                and node.value.id in {"time", "datetime", "date"}
            ):
                found.append(f"{path.relative_to(root)}:{node.lineno}")
    assert len(files) > 40
    assert found == []


# --- rotation ---------------------------------------------------------------------------------


class Forge:
    """A backend gone bad, or a thief of one of its keys: it changes what the device is offered."""

    def __init__(self, field: Field, delivery: RootDelivery) -> None:
        self.delivery = delivery
        self.device = field.name
        self.storage = field.context.known().storage_key.name
        self.vault = field.site.backend.backend.vault
        self.metadata = msgspec.json.decode(delivery.metadata.payload, type=RootMetadata)
        self.held = field.context.newest_root()
        with field.site.backend.session() as session:
            row = session.get(KnownDevice, field.name.hex())
            assert row is not None
            self.storage_public = hwtrust.wire.structures.Public.decode_sized(row.storage_public)

    def dated(self, **changes: object) -> RootDelivery:
        """The delivery with other metadata, signed by the true key."""
        metadata = msgspec.structs.replace(self.metadata, **changes)  # type: ignore[arg-type]
        envelope = seal(metadata, sign=self.vault.signer(KeyRole.METADATA).sign)
        return msgspec.structs.replace(self.delivery, metadata=envelope)

    def remade(self, epoch: int) -> RootDelivery:
        """Another root, of this epoch, all by the true keys."""
        made = make_root(
            device=self.device,
            epoch=epoch,
            storage_key=self.storage_public,
            policy_key=self.vault.signer(KeyRole.POLICY),
        )
        dated = self.dated(epoch=epoch, object_name=made.object_name)
        return msgspec.structs.replace(
            dated, public=made.public, duplicate=made.duplicate, seed=made.seed
        )

    def approved(self, approval: Approval, *, ref: bytes | None = None) -> RootDelivery:
        """The delivery with another approval, signed by the true key."""
        signer = self.vault.signer(KeyRole.POLICY)
        ref = ref or root_ref(self.device, self.metadata.epoch)
        made = sign_approval(approval, ref, sign_digest=signer.sign_digest)
        return msgspec.structs.replace(self.delivery, approval=made)

    def by_another_policy_key(self) -> RootDelivery:
        """An approval that is right in all but its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        made = sign_approval(
            self.delivery.approval,
            root_ref(self.device, self.metadata.epoch),
            sign_digest=lambda digest: key.sign(digest, ec.ECDSA(utils.Prehashed(hashes.SHA256()))),
        )
        return msgspec.structs.replace(self.delivery, approval=made)

    def by_another_metadata_key(self) -> RootDelivery:
        """A whole root of the attacker's own: the import itself would succeed."""
        key = ec.generate_private_key(ec.SECP256R1())
        made = self.remade(self.metadata.epoch)
        metadata = msgspec.json.decode(made.metadata.payload, type=RootMetadata)
        envelope = seal(metadata, sign=lambda data: key.sign(data, ec.ECDSA(hashes.SHA256())))
        return msgspec.structs.replace(made, metadata=envelope)

    def object_of_another(self) -> RootDelivery:
        """The attacker's object under the honest metadata."""
        made = self.remade(self.metadata.epoch)
        return msgspec.structs.replace(made, metadata=self.delivery.metadata)

    def wrapped_for_another(self) -> RootDelivery:
        """The object of the metadata, wrapped for another TPM's storage key."""
        made = make_root(
            device=self.device,
            epoch=self.metadata.epoch,
            storage_key=SoftwareTpm().storage,
            policy_key=self.vault.signer(KeyRole.POLICY),
        )
        dated = self.dated(object_name=made.object_name)
        return msgspec.structs.replace(
            dated, public=made.public, duplicate=made.duplicate, seed=made.seed
        )

    def held_approval(self) -> RootDelivery:
        """The approval of the root that the device has."""
        return msgspec.structs.replace(self.delivery, approval=self.held.approval)

    def expired_approval(self) -> RootDelivery:
        """An approval that ended long ago by the TPM's clock."""
        return self.approved(msgspec.structs.replace(self.delivery.approval, not_after=1))

    def without_increment(self) -> RootDelivery:
        """The next root without the leave to revoke the last."""
        return msgspec.structs.replace(self.delivery, increment=None)


BAD_ROOTS: dict[str, tuple[Callable[[Forge], RootDelivery], str]] = {
    "60: is approved for the epoch before": (Forge.held_approval, "root:approval:invalid"),
    "60: is approved for another device": (
        lambda f: f.approved(f.delivery.approval, ref=root_ref(bytes(34), f.metadata.epoch)),
        "root:approval:invalid",
    ),
    "60: is approved by another policy key": (
        Forge.by_another_policy_key,
        "root:approval:invalid",
    ),
    "61: has no leave to count": (Forge.without_increment, "root:approval:invalid"),
    "65: skips an epoch": (lambda f: f.remade(f.metadata.epoch + 1), "root:epoch:mismatch"),
    "65: repeats an epoch": (lambda f: f.remade(f.metadata.epoch - 1), "root:epoch:mismatch"),
    "66: has expired": (
        lambda f: f.dated(not_before=0, not_after=f.metadata.not_before),
        "root:time:invalid",
    ),
    "66: is not valid yet": (
        lambda f: f.dated(not_before=f.metadata.not_after - 1),
        "root:time:invalid",
    ),
    "66: has an expired approval": (Forge.expired_approval, "root:expired"),
    "67: is for another storage key": (
        lambda f: f.dated(storage_key=bytes(34)),
        "root:device:mismatch",
    ),
    "67: is wrapped for another storage key": (Forge.wrapped_for_another, "tpm:command:failed"),
    "67: is for another device": (lambda f: f.dated(device=bytes(34)), "root:device:mismatch"),
    "70: is for another release": (lambda f: f.dated(release="0.9"), "root:release:mismatch"),
    "81: is the attacker's own": (Forge.by_another_metadata_key, "wire:envelope:signature"),
    "81: is another object than is signed for": (Forge.object_of_another, "root:name:mismatch"),
}


@pytest.mark.parametrize("case", BAD_ROOTS)
def test_a_device_takes_no_root_that(
    case: str, offered: Field, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is counted and nothing kept that could be opened; the key store stays open."""
    forge, code = BAD_ROOTS[case]
    device, channel = offered.device, offered.context.channel
    post, epoch = channel.post, device.keystore.epoch

    def altered(path: str, request: object, kind: type[object]) -> object:
        answer = post(path, request, kind)  # type: ignore[arg-type,type-var]
        if isinstance(answer, AttestReply) and answer.root is not None:
            changed = forge(Forge(offered, answer.root))
            return msgspec.structs.replace(answer, root=changed)
        return answer

    monkeypatch.setattr(channel, "post", altered)
    with pytest.raises(errors.HwTrustError) as refused:
        device.attest()
    assert refused.value.code == code
    assert counter_of(device) == device.keystore.epoch == epoch
    assert list(offered.context.state.roots()) == [epoch]
    assert device.keystore["name"] == b"value"
    assert loaded(offered.context.tpm) == ()


def test_60_a_kept_approval_of_another_epoch_opens_nothing(site: Site) -> None:
    """Nobody guards the disk: an approval put back there is refused before anything is extended."""
    name = site.enrol()
    with site.open() as device:
        device.boot()
        old = device._context.newest_root().approval
        site.backend.rotate(name)
        device.attest()
    site.tpm.reboot()
    with site.open() as device:
        state = device._context.state
        state.save_root(msgspec.structs.replace(device._context.newest_root(), approval=old))
        with pytest.raises(errors.RootApprovalError) as refused:
            device.boot()
        assert device.event_log().records == ()
    assert refused.value.code == "root:approval:invalid"


def test_61_an_increment_counts_once(site: Site) -> None:
    """The leave is compare-and-swap: played again it moves nothing."""
    name = site.enrol()
    with site.open() as device:
        context = device._context
        device.boot()
        device.attest()
        site.backend.rotate(name)
        _, accepted = attest_once(context)
        assert accepted is not None
        assert accepted.increment is not None
        assert accepted.delivery.increment is not None
        epoch = rotate(context, accepted)
        with pytest.raises(errors.RootRevokedError) as refused:
            provision.increment_counter(
                context.tpm,
                context.known().counter,
                context.known().storage_key,
                recipe=accepted.delivery.increment.policy(),
                authorization=accepted.increment,
                policy_key=context.policy_key,
            )
        assert counter_of(device) == epoch
        assert loaded(context.tpm) == ()
    assert refused.value.code == "root:revoked"


@pytest.mark.parametrize("again", [False, True], ids=["undefined", "undefined and redefined"])
def test_62_a_counter_that_was_taken_away_ends_the_root_and_enrolling_again_works(
    site: Site, again: bool
) -> None:
    """A local program with the owner's rights can deny service, and no more."""
    name = site.enrol()
    with site.open() as device:
        context = device._context
        epoch, counter = counter_of(device), context.known().counter
        public = commands.nv_read_public(context.tpm, context.tpm.at(counter))
        commands.nv_undefine(context.tpm, counter.handle)
        if again:
            unwritten = public.attributes & ~NvAttributes.WRITTEN
            commands.nv_define(
                context.tpm,
                NvPublic(public.index, public.name_alg, unwritten, public.auth_policy, public.size),
            )
    site.tpm.reboot()
    with site.open() as device:
        with pytest.raises((errors.TpmError, errors.RootError)) as refused:
            device.boot()
        assert refused.value.code == "tpm:object:conflict"
        with pytest.raises(errors.TpmError):
            device.attest()
        assert loaded(device._context.tpm) == ()
        assert device.enrol(token=site.token()).device == name
        device.boot()
        assert device.keystore.epoch > epoch
        assert device.attest().standing is Standing.TRUSTED


def test_68_a_restored_backend_issues_no_epoch_twice(site: Site, tmp_path: Path) -> None:
    """It sees that its database is older than the device, says so, and makes no root."""
    name = site.enrol()
    backup = backed_up(site, tmp_path)
    with site.open() as device:
        device.boot()
        site.backend.rotate(name)
        epoch = device.attest().rotated_to
        assert epoch is not None
    with restored(site, backup) as backend, site.open() as device:
        device.boot()
        result = device.attest()
        assert result.standing is Standing.FAILED
        assert "epoch:unknown" in {finding.code for finding in result.findings}
        assert not result.root_waits
        with backend.session() as session:
            assert max(root.epoch for root in roots_of(session, name.hex())) < epoch
            events = [record.event for record in trail(session, name.hex(), limit=8)]
        assert Event.EPOCH_UNKNOWN in events


def test_68_a_root_that_was_offered_before_the_restore_does_not_cost_the_key_store(
    site: Site, tmp_path: Path
) -> None:
    """The device holds E + 1 of the lost database and has not counted: the new E + 1 replaces it."""
    name = site.enrol()
    backup = backed_up(site, tmp_path)
    with site.open() as device:
        device.boot()
        device.keystore.put("name", b"value")
        device.attest()
        site.backend.rotate(name)
        _, accepted = attest_once(device._context)
        assert accepted is not None
        lost = store_root(device._context, accepted)
    with restored(site, backup) as backend, site.open() as device:
        backend.rotate(name)
        device.boot()
        assert device.attest().rotated_to == lost.epoch
        assert device._context.newest_root().public != lost.public
        assert device.keystore["name"] == b"value"
    site.backend = backend


def backed_up(site: Site, directory: Path) -> Path:
    """A copy of the backend's data, taken while it does nothing."""
    return Path(shutil.copytree(site.backend.directory, directory / "backup"))


@contextmanager
def restored(site: Site, backup: Path) -> Iterator[BackendServer]:
    """The backend as it was backed up, in the place of the one that ran."""
    site.backend.__exit__(None, None, None)
    with BackendServer(backup, clock=site.backend.clock) as backend:
        trust = msgspec.structs.replace(backend.trust, url=backend.url)
        (site.home / "trust.json").write_bytes(msgspec.json.encode(trust))
        yield backend


# --- bus and transport ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "offset",
    [
        pytest.param(16, id="in the size of the secret"),
        pytest.param(30, id="in the encrypted secret"),
        pytest.param(-1, id="in the HMAC"),
    ],
)
def test_78_a_tampered_unseal_is_noticed(site: Site, offset: int) -> None:
    """Nothing opens, nothing stays in the TPM, and the next boot is as ever."""
    site.enrol()
    site.tpm.reboot()
    plan = FaultPlan(At(Alter("response", offset), command="TPM2_Unseal"))

    def interpose(inner: TCTI) -> TCTI:
        return FaultyTcti(inner, plan)

    with site.open(wrap_tcti=interpose) as device:
        with pytest.raises(errors.TpmError) as noticed:
            device.boot()
        assert plan.done
        with pytest.raises(errors.KeyStoreLockedError):
            _ = device.keystore
        assert loaded(device._context.tpm) == ()
    assert noticed.value.code == "tpm:response:tampered"
    with site.open() as device:
        device.boot()
        assert device.attest().standing is Standing.TRUSTED


@pytest.mark.parametrize("nth", [1, 3, 5], ids=["first layer", "third layer", "cap"])
def test_79_a_swallowed_extend_is_noticed(site: Site, nth: int) -> None:
    """An interposer that answers in the TPM's place has no HMAC; the log still tells the truth."""
    site.enrol()
    site.tpm.reboot()
    plan = FaultPlan(At(Swallow(), command="TPM2_PCR_Extend", nth=nth))

    def interpose(inner: TCTI) -> TCTI:
        return FaultyTcti(inner, plan)

    with site.open(wrap_tcti=interpose) as device:
        with pytest.raises(errors.TpmTamperedError) as noticed:
            device.boot()
        assert plan.done
        with pytest.raises(errors.KeyStoreLockedError):
            _ = device.keystore
    assert noticed.value.code == "tpm:response:tampered"
    with site.open() as device:
        assert len(device.event_log().records) == nth - 1
        device.boot()
        assert device.keystore.list() == ()


def test_80_a_quote_is_worth_nothing_in_another_tls_session(site: Site) -> None:
    """A thief with a certificate of the same device relays a quote that binds the owner's key."""
    name = site.enrol()
    with site.open() as device:
        device.boot()
        device.attest()
        context = device._context
        owner, thief = context.client_key, AttestedKey()
        assert owner is not None
        context.client_key = thief
        context.channel.anonymous()
        device.attest()
        field = Field(site, device, name)
        relayed = bound_evidence(context, purpose=Purpose.ATTEST, nonce=field.nonce(), key=owner)
        with pytest.raises(errors.RefusedError) as refused:
            field.send(relayed)
    assert refused.value.data["problem"] == "evidence:tls-key:mismatch"
    event, reason = newest(site, name)
    assert event == Event.EVIDENCE_REFUSED
    assert reason.startswith("evidence:tls-key:mismatch")


@contextmanager
def listening(context: ssl.SSLContext | None, host: str = "127.0.0.1") -> Iterator[int]:
    """Somebody in the backend's place, for one connection: TLS as `context` says, or HTTP."""
    with socket.create_server((host, 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.settimeout(10)
                try:
                    if context is None:
                        connection.recv(1024)
                        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
                    else:
                        context.wrap_socket(connection, server_side=True)
                except OSError:
                    return

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            thread.join()


def backend_tls(site: Site, version: ssl.TLSVersion) -> ssl.SSLContext:
    """The backend's own certificate, under another version of TLS."""
    backend = site.backend.backend
    context = server_context(backend.settings, backend.vault, clock=system_clock)
    context.minimum_version = context.maximum_version = version
    return context


def test_83_the_device_speaks_tls_1_3_or_nothing(field: Field) -> None:
    """The right certificate under TLS 1.2, or no TLS at all, gets no request."""
    asked = ChallengeRequest(device=field.name, purpose=Purpose.ATTEST)
    ca = field.site.backend.trust.tls_ca
    for context in (backend_tls(field.site, ssl.TLSVersion.TLSv1_2), None):
        with listening(context) as port, pytest.raises(errors.ChannelError) as refused:
            Channel(f"https://localhost:{port}", tls_ca=ca).post(
                "/v1/challenges", asked, ChallengeReply
            )
        assert refused.value.code == "channel:tls"


def test_83_the_device_takes_no_other_server(field: Field) -> None:
    """Another CA's server, or the right one under another name, is not the backend."""
    asked = ChallengeRequest(device=field.name, purpose=Purpose.ATTEST)
    trust = field.site.backend.trust
    with BackendServer() as stranger:
        strange = Channel(field.site.backend.url, tls_ca=stranger.trust.tls_ca)
        with pytest.raises(errors.ChannelTlsError) as other_ca:
            strange.post("/v1/challenges", asked, ChallengeReply)
    ours = backend_tls(field.site, ssl.TLSVersion.TLSv1_3)
    with (
        listening(ours, host="127.0.0.2") as port,
        pytest.raises(errors.ChannelTlsError) as other_name,
    ):
        Channel(f"https://127.0.0.2:{port}", tls_ca=trust.tls_ca).post(
            "/v1/challenges", asked, ChallengeReply
        )
    assert {other_ca.value.code, other_name.value.code} == {"channel:tls"}


def test_83_the_device_takes_no_plain_url(field: Field) -> None:
    """A trust file that says http:// is refused as it is read."""
    with pytest.raises(errors.ConfigError) as refused:
        Channel("http://localhost:8443", tls_ca=field.site.backend.trust.tls_ca)
    assert refused.value.code == "config"
