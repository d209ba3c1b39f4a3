"""An agent at work: its backend goes, its layers change, its TPM is pulled out."""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import pytest

from hwtrust.agent.config import AgentConfig
from hwtrust.device.results import State
from hwtrust.errors import (
    ChannelUnreachableError,
    KeyStoreLockedError,
    StateBusyError,
    TpmAwayError,
)
from hwtrust.tpm import commands
from hwtrust.tpm.connection import Tpm
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.cel import EventKind
from hwtrust.wire.messages import Mode, Standing
from hwtrust.wire.structures import PcrSelection
from hwtrust_backend.testing import policy_document
from simulators.running_agent import RunningAgent, quiet_ports
from simulators.site import APPLICATION_PCR

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hwtrust.agent.operations import AgentOperations
    from hwtrust.device.api import Device
    from hwtrust.device.config import DeviceConfig
    from hwtrust.device.results import Condition
    from hwtrust.testing.swtpm import Swtpm
    from simulators.site import Site

SETTINGS = AgentConfig(heartbeat=300, retry=0.05, settle=0.05, look_for_tpm=0.05, remeasure=0)
SECRET = b"a secret that is in no log"


def run(site: Site, settings: AgentConfig = SETTINGS) -> RunningAgent:
    """An agent for the site's device."""
    return RunningAgent(site, settings, ports=quiet_ports())


@pytest.fixture
def agent(site: Site) -> Iterator[RunningAgent]:
    """An agent whose device is normal."""
    with run(site) as running:
        running.await_condition(State.NORMAL)
        running.agent.ask(running.agent.attest_now)
        yield running


def operations(agent: RunningAgent) -> AgentOperations:
    """What host applications may ask."""
    assert agent.operations is not None
    return agent.operations


def pcr(tpm: Swtpm) -> bytes:
    """What the application PCR holds."""
    with Tpm(tpm.tcti) as opened:
        selection = PcrSelection(((Alg.SHA256, (APPLICATION_PCR,)),))
        return commands.pcr_read(opened, selection)[Alg.SHA256][APPLICATION_PCR]


def test_a_host_application_is_served(agent: RunningAgent) -> None:
    """Entries, the state, an attestation."""
    served = operations(agent)
    assert served.state().state is State.NORMAL
    served.keystore_put("payments/pin", SECRET)
    served.keystore_put("other", b"")
    assert served.keystore_get("payments/pin") == SECRET
    assert [entry.name for entry in served.keystore_list("payments/")] == ["payments/pin"]
    served.keystore_delete("other")
    assert served.attest().standing is Standing.TRUSTED
    assert served.event("transaction", "order 17")


def test_reading_an_entry_waits_for_no_attestation(agent: RunningAgent) -> None:
    """The owner is busy for as long as the test likes; entries are read all the same."""
    served = operations(agent)
    served.keystore_put("payments/pin", SECRET)
    busy, release = threading.Event(), threading.Event()

    def occupy() -> None:
        busy.set()
        release.wait(60)

    occupied = threading.Thread(target=lambda: agent.agent.ask(occupy), daemon=True)
    occupied.start()
    assert busy.wait(60)
    assert served.keystore_get("payments/pin") == SECRET
    assert occupied.is_alive()
    release.set()
    occupied.join(60)


def test_a_word_of_the_backend_leads_to_an_attestation_at_once(
    agent: RunningAgent, site: Site
) -> None:
    """No heartbeat is waited for: the long poll wakes the owner, and the root is replaced."""
    keeper = agent.agent.keeper
    assert keeper is not None
    device = agent.agent.ask(keeper.device.status).device
    rotated = threading.Event()
    watched = keeper._answered

    def answered(result: object) -> None:
        watched(result)  # type: ignore[arg-type]
        if getattr(result, "rotated_to", None) == 2:
            rotated.set()

    keeper._answered = answered  # type: ignore[method-assign]
    site.backend.rotate(device)
    assert rotated.wait(60)
    assert site.backend_epoch(device) == 2


def test_a_layer_that_changes_locks_the_device_and_its_backend_knows(
    agent: RunningAgent, site: Site, tpm: Swtpm
) -> None:
    """The PCR holds the violation, the keys are gone, and the backend has locked the device."""
    served = operations(agent)
    served.keystore_put("payments/pin", SECRET)
    before = pcr(tpm)
    site.change("kernel")
    locked = agent.await_condition(State.LOCKED)
    assert (locked.code, locked.layer) == ("layer:mismatch", "kernel")
    with pytest.raises(KeyStoreLockedError):
        served.keystore_get("payments/pin")
    assert pcr(tpm) != before
    result = served.attest()
    assert (result.standing, result.mode) == (Standing.FAILED, Mode.LOCKED)
    agent.stop()
    with site.open() as device:
        kinds = [record.event.kind for record in device.event_log().records]
    assert EventKind.VIOLATION in kinds


def test_a_change_that_no_event_told_of_is_found_by_measuring_at_intervals(site: Site) -> None:
    """File events are a reason to look, and not the only one."""
    settings = AgentConfig(
        heartbeat=300, retry=0.05, settle=0.05, watch=False, remeasure=0.2, look_for_tpm=0.05
    )
    with run(site, settings) as agent:
        agent.await_condition(State.NORMAL)
        site.change("frontend")
        assert agent.await_condition(State.LOCKED).layer == "frontend"


def test_a_touched_layer_that_is_what_it_was_locks_nothing(agent: RunningAgent, site: Site) -> None:
    """An event is no evidence of a change."""
    kernel = site.home / "kernel"
    kernel.write_bytes(kernel.read_bytes())
    keeper = agent.agent.keeper
    assert keeper is not None
    agent.agent.ask(lambda: keeper.turn(["settle"]))
    assert agent.agent.condition.state is State.NORMAL


def test_a_backend_that_goes_and_comes_back_finds_its_device_again(
    agent: RunningAgent, site: Site
) -> None:
    """Meanwhile the device goes on; then it attests as soon as it asks again."""
    site.backend.go_away()
    served = operations(agent)
    with pytest.raises(ChannelUnreachableError):
        served.attest()
    assert agent.agent.condition.state is State.NORMAL
    site.backend.come_back()
    assert served.attest().standing is Standing.TRUSTED


def test_a_device_without_its_backend_is_limited_after_the_grace_also_across_restarts(
    site: Site, tpm: Swtpm
) -> None:
    """A restart begins no time anew; after its end the TPM itself opens nothing any more."""
    site.backend.hold_to(policy_document(heartbeat="1s", watchdog="2s", offline_grace="6s"))
    with run(site) as agent:
        agent.await_condition(State.NORMAL)
        answered = agent.agent.ask(agent.agent.attest_now)
        site.backend.go_away()
    with run(site) as agent:
        agent.await_condition(State.NORMAL, "channel:unreachable")
        limited = agent.await_condition(State.LIMITED, "agent:offline")
        assert limited.since_ms > agent.told[0].since_ms
        keeper = agent.agent.keeper
        assert keeper is not None
        lease = agent.agent.ask(keeper.device.lease)
        assert lease.clock_ms - answered.clock_ms >= answered.offline_grace_ms
        assert lease.not_after_ms <= answered.clock_ms + answered.offline_grace_ms
    tpm.reboot()
    with run(site) as agent:
        agent.await_condition(State.LOCKED, "root:expired")
        site.backend.come_back()
        agent.agent.attest_soon("the test says so")
        agent.await_condition(State.NORMAL)


@pytest.mark.parametrize("how", ["reboot", "power_cut"])
def test_a_tpm_that_goes_and_comes_back_is_loaded_anew(
    agent: RunningAgent, tpm: Swtpm, how: str
) -> None:
    """Away: the keys are gone and entries refused. Back: measured, loaded, attested."""
    served = operations(agent)
    served.keystore_put("payments/pin", SECRET)
    told = len(agent.told)
    getattr(tpm, how)()
    with pytest.raises(TpmAwayError):
        served.attest()
    agent.await_condition(State.TPM_AWAY, after=told)
    agent.await_condition(State.NORMAL, after=told)
    assert served.keystore_get("payments/pin") == SECRET
    assert served.attest().standing is Standing.TRUSTED


def test_a_command_that_has_the_device_when_the_tpm_is_back_does_not_end_the_agent(
    site: Site, tpm: Swtpm
) -> None:
    """`hwtrust status` may be quicker; since when the TPM is away does not change by that."""
    ports, opened = quiet_ports(), 0

    @contextmanager
    def open_device(config: DeviceConfig, heard: Callable[[Condition], None]) -> Iterator[Device]:
        nonlocal opened
        opened += 1
        if opened == 2:
            raise StateBusyError("a command has it")
        with ports.open_device(config, heard) as device:
            yield device

    with RunningAgent(site, SETTINGS, ports=replace(ports, open_device=open_device)) as agent:
        agent.await_condition(State.NORMAL)
        told = len(agent.told)
        tpm.reboot()
        agent.agent.attest_soon("the test says so")
        busy = agent.await_condition(State.TPM_AWAY, "state:busy", after=told)
        assert agent.await_condition(State.TPM_AWAY, after=told).since_ms == busy.since_ms
        agent.await_condition(State.NORMAL, after=told)


def test_a_tpm_that_stays_away_is_waited_for(agent: RunningAgent, tpm: Swtpm) -> None:
    """The state is told, the socket is served, and the agent ends when it is told to."""
    served = operations(agent)
    tpm.stop()
    with pytest.raises(TpmAwayError):
        served.attest()
    away = agent.await_condition(State.TPM_AWAY)
    assert away.code == "tpm:gone"
    with pytest.raises(KeyStoreLockedError):
        served.keystore_get("payments/pin")
    with pytest.raises(TpmAwayError):
        served.event("transaction", "order 17")
    assert served.state().state is State.TPM_AWAY
    agent.stop()


def test_a_tpm_that_was_cleared_meanwhile_opens_nothing(agent: RunningAgent, tpm: Swtpm) -> None:
    """Its storage key and counter are gone: the device stays locked, and says why."""
    told = len(agent.told)
    tpm.reboot()
    with Tpm(tpm.tcti) as opened:
        opened.call("TPM2_Clear", opened.esapi.clear, _lockout())
    agent.agent.attest_soon("the test says so")
    agent.await_condition(State.LOCKED, "tpm:object:conflict", after=told)
    with pytest.raises(KeyStoreLockedError):
        operations(agent).keystore_get("payments/pin")


def test_a_device_that_its_backend_has_locked_comes_back_when_it_is_unlocked(
    agent: RunningAgent, site: Site
) -> None:
    """A retired release locks; accepted again it opens, without a restart."""
    site.backend.retire(site.release.name)
    served = operations(agent)
    assert served.attest().standing is Standing.FAILED
    agent.await_condition(State.LOCKED)
    told = len(agent.told)
    with site.backend.session() as session:
        _accept_again(session, site)
    agent.agent.attest_soon("the test says so")
    agent.await_condition(State.NORMAL, after=told)


def test_no_line_of_the_log_holds_a_secret(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """Neither values nor names of entries, at any level, through a whole life."""
    caplog.set_level(logging.DEBUG)
    with run(site) as agent:
        agent.await_condition(State.NORMAL)
        served = operations(agent)
        served.keystore_put("payments/pin", SECRET)
        served.keystore_get("payments/pin")
        site.change("kernel")
        agent.await_condition(State.LOCKED)
    text = "\n".join(record.getMessage() for record in caplog.records)
    assert "locked" in text
    assert SECRET.decode() not in text
    assert SECRET.hex() not in text


def _lockout() -> object:
    from tpm2_pytss import ESYS_TR  # noqa: PLC0415

    return cast("object", ESYS_TR.LOCKOUT)


def _accept_again(session: object, site: Site) -> None:
    from hwtrust_backend.references import accept_release  # noqa: PLC0415

    accept_release(session, site.release.name, now=site.backend.clock())  # type: ignore[arg-type]
