"""Enclaves against a whole backend over TLS: kernels are models, signers and keys are real.

A guest with SEV-SNP, which seals, and a Nitro enclave, which does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from hwtrust.channel import Channel
from hwtrust.enclave import State
from hwtrust.enclave.attest import ATTEST
from hwtrust.errors import (
    ChannelUnreachableError,
    DeviceLockedError,
    EnclaveUntrustedError,
    RefusedError,
    RootExpiredError,
)
from hwtrust.wire.cel import EventLog
from hwtrust.wire.enclave import EnclaveAttest, EnclaveEnrol, EnclaveReply
from hwtrust.wire.messages import Mode, Standing
from hwtrust_backend.testing import DAY, BackendServer
from integration.enclave.site import Site, nitro_rules, policy_for, snp_rules
from simulators.enclave_machines import NitroMachine, SnpMachine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from hwtrust.wire.messages import Request


@pytest.fixture
def snp(tmp_path: Path) -> Iterator[Site]:
    """A guest that seals."""
    machine = SnpMachine()
    with BackendServer(policy=policy_for("snp", snp_rules(machine))) as backend:
        yield Site(tmp_path, machine, backend)


@pytest.fixture
def nitro(tmp_path: Path) -> Iterator[Site]:
    """An enclave that does not."""
    machine = NitroMachine()
    policy = policy_for("nitro", nitro_rules(machine), register="pcr16")
    with BackendServer(policy=policy) as backend:
        yield Site(tmp_path, machine, backend)


@pytest.fixture(params=["snp", "nitro"])
def site(request: pytest.FixtureRequest) -> Site:
    """Either."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Site)
    return found


def test_an_enclave_enrols_attests_and_rotates(site: Site) -> None:
    """Over TLS with its own key: certificate, root, heartbeat, next root."""
    with site.open() as enclave:
        enclave.start().put("payments/transport", b"a key")
        result = enclave.attest()
        assert (result.standing, result.findings) == (Standing.TRUSTED, ())
        assert result.heartbeat_ms
        site.backend.rotate(enclave.device)
        site.advance(DAY // 12)
        assert enclave.attest().rotated_to == 2
        assert enclave.keystore["payments/transport"] == b"a key"
        assert enclave.attest().rotated_to is None


def test_a_guest_that_seals_is_the_same_after_a_restart(snp: Site) -> None:
    """The token is used up; key store, root and certificate are those from before."""
    with snp.open() as enclave:
        enclave.start().put("name", b"value")
        device = enclave.device
        snp.backend.rotate(device)
        assert enclave.attest().rotated_to == 2
    snp.machine.reboot()
    with snp.open(token="") as enclave:
        assert enclave.start()["name"] == b"value"
        assert (enclave.device, enclave.epoch) == (device, 2)


def test_an_enclave_without_a_sealer_is_a_new_device_after_a_restart(nitro: Site) -> None:
    """The used token does not enrol it again; nothing of it is on the disk."""
    with nitro.open() as enclave:
        enclave.start()
        device = enclave.device
    assert {path.name for path in (nitro.directory / "state").iterdir()} == {"lock", "eventlog.cel"}
    nitro.machine.reboot()
    with nitro.open() as enclave, pytest.raises(RefusedError) as caught:
        enclave.start()
    assert caught.value.data["problem"] == "enrolment:token:refused"
    nitro.token = nitro.backend.token()
    with nitro.open() as enclave:
        enclave.start()
        assert enclave.device != device


def test_a_locked_enclave_drops_its_keys(site: Site) -> None:
    """And gets a root again once it is unlocked, by a start."""
    with site.open() as enclave:
        store = enclave.start()
        site.lock(enclave.device, locked=True)
        assert enclave.attest().mode is Mode.LOCKED
        assert enclave.condition.state is State.LOCKED
        with pytest.raises(DeviceLockedError):
            enclave.start()
        site.lock(enclave.device, locked=False)
        assert enclave.start() is not store
        assert enclave.epoch == (1 if site.machine.kind == "snp" else 2)


def test_another_launch_measurement_does_not_enrol(snp: Site) -> None:
    """What runs is not what the policy accepts."""
    snp.machine = SnpMachine(measurement=b"\x01" * 48)
    with snp.open() as enclave:
        with pytest.raises(RefusedError) as caught:
            enclave.start()
        assert "snp:measurement" in caught.value.message
        assert enclave.condition.state is State.LOCKED


def test_a_policy_that_does_not_accept_it_any_more_opens_nothing(snp: Site) -> None:
    """The sealed root stays closed at the next start."""
    with snp.open() as enclave:
        enclave.start()
    machine = snp.machine
    assert isinstance(machine, SnpMachine)
    stricter = snp_rules(machine) | {"measurements": ["00" * 48]}
    snp.backend.hold_to(
        policy_for("snp", stricter).replace('default = "locked"', 'default = "limited"')
    )
    with snp.open() as enclave:
        with pytest.raises(EnclaveUntrustedError) as caught:
            enclave.start()
        assert caught.value.data["finding"] == "snp:measurement"


def test_a_register_that_the_log_does_not_explain_is_found(nitro: Site) -> None:
    """An enclave whose code lies about its log is told by its hardware."""
    with nitro.open() as enclave:
        enclave.start()
        enclave._context.measured.log = EventLog()
        codes = {finding.code for finding in enclave.attest().findings}
        assert "register:log" in codes


class Recorder(Channel):
    """A channel that keeps what it was asked, and can lose an answer."""

    lose = ""
    asked: list[Request]

    def post(self, path: str, request: Any, reply: Any) -> Any:  # noqa: ANN401
        """Ask."""
        self.asked = [*getattr(self, "asked", []), request]
        answer = super().post(path, request, reply)
        if self.lose and path.endswith(self.lose):
            self.lose = ""
            raise ChannelUnreachableError("the answer was lost")
        return answer


def recorder(site: Site) -> Recorder:
    """One to the site's backend."""
    return Recorder(site.backend.trust.url, tls_ca=site.backend.trust.tls_ca)


def test_a_replay_is_refused(site: Site) -> None:
    """Evidence answers its challenge once."""
    channel = recorder(site)
    with site.open(channel=channel) as enclave:
        enclave.start()
        enclave.attest()
        asked = [request for request in channel.asked if isinstance(request, EnclaveAttest)]
        with pytest.raises(RefusedError) as caught:
            channel.post(ATTEST, asked[-1], EnclaveReply)
        assert caught.value.data["problem"] == "challenge:used"


def test_an_enrolment_whose_answer_was_lost_goes_on(site: Site) -> None:
    """The token is used up; the same device asks, is known, and gets a root."""
    channel = recorder(site)
    channel.lose = "enrol"
    with site.open(channel=channel) as enclave:
        with pytest.raises(ChannelUnreachableError):
            enclave.start()
        if site.machine.kind != "snp":
            enclave.start()
            assert enclave.epoch == 2
    if site.machine.kind == "snp":
        with site.open() as enclave:
            enclave.start()
            assert enclave.epoch == 2
    assert sum(isinstance(request, EnclaveEnrol) for request in channel.asked) == 1


def test_a_lost_answer_with_a_root_is_asked_for_again(site: Site) -> None:
    """The backend offers the same root until its epoch is named."""
    channel = recorder(site)
    with site.open(channel=channel) as enclave:
        enclave.start().put("name", b"value")
        site.backend.rotate(enclave.device)
        channel.lose = "attest"
        with pytest.raises(ChannelUnreachableError):
            enclave.attest()
        assert enclave.attest().rotated_to == 2
        assert enclave.keystore["name"] == b"value"


def test_a_silent_backend_ends_the_grace(site: Site) -> None:
    """By its signed time and the machine's clock: what runs past it is refused."""
    with site.open() as enclave:
        enclave.start()
        site.backend.go_away()
        with pytest.raises(ChannelUnreachableError):
            enclave.attest()
        site.advance(7 * DAY - 1000)
        enclave.keystore.list()
        site.advance(1000)
        with pytest.raises(RootExpiredError):
            _ = enclave.keystore
