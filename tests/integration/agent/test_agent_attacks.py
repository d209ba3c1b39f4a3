"""An agent whose peers, files and threads do their worst."""

from __future__ import annotations

import contextlib
import gc
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import pytest

from hwtrust.agent.config import AgentConfig
from hwtrust.agent.ports import open_device, watch_layers
from hwtrust.device.results import State
from hwtrust.errors import (
    AgentStoppedError,
    ChannelUnreachableError,
    HwTrustError,
    KeyStoreLockedError,
)
from hwtrust.keys.kek import Secret
from simulators.running_agent import PATIENCE_S, RunningAgent, quiet_ports

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from hwtrust.agent.operations import AgentOperations
    from hwtrust.agent.ports import Watch
    from hwtrust.device.api import Device
    from hwtrust.device.config import DeviceConfig
    from hwtrust.device.push import Line
    from hwtrust.device.results import Condition
    from simulators.site import Site

SETTINGS = AgentConfig(heartbeat=300, retry=0.05, settle=0.05, look_for_tpm=0.05, remeasure=0)
SECRET = b"a secret that is in no log"
PEERS = 4


@contextlib.contextmanager
def running(site: Site, settings: AgentConfig = SETTINGS) -> Iterator[RunningAgent]:
    """An agent whose device is normal."""
    with RunningAgent(site, settings, ports=quiet_ports()) as agent:
        agent.await_condition(State.NORMAL)
        agent.agent.ask(agent.agent.attest_now)
        yield agent


def operations(agent: RunningAgent) -> AgentOperations:
    """What host applications may ask."""
    assert agent.operations is not None
    return agent.operations


@contextlib.contextmanager
def insisting(what: Callable[[], object]) -> Iterator[list[threading.Thread]]:
    """Do something again and again, in several threads; they end with the agent, or the `with`."""
    ending = threading.Event()

    def insist() -> None:
        while not ending.is_set():
            try:
                what()
            except AgentStoppedError:
                return
            except HwTrustError:
                continue

    threads = [threading.Thread(target=insist, daemon=True) for _ in range(PEERS)]
    for thread in threads:
        thread.start()
    try:
        yield threads
    finally:
        ending.set()
        for thread in threads:
            thread.join(PATIENCE_S)


def test_who_attests_without_end_keeps_no_change_of_a_layer_from_being_found(site: Site) -> None:
    """`attest` alone gives nobody the owner's time."""
    with running(site) as agent, insisting(operations(agent).attest):
        site.change("kernel")
        assert agent.await_condition(State.LOCKED).code == "layer:mismatch"


def test_who_attests_without_end_does_not_keep_the_agent_from_ending(site: Site) -> None:
    """And is told that it has ended."""
    with running(site) as agent, insisting(operations(agent).attest) as threads:
        agent.stop()
        agent.agent._inbox.close()
        for thread in threads:
            thread.join(PATIENCE_S)
        assert not any(thread.is_alive() for thread in threads)


def test_after_a_violation_no_operation_succeeds_and_no_key_is_left(site: Site) -> None:
    """Of the threads that were at it, none gets anything once `locked` was told."""
    heard = threading.Event()
    late: list[bytes] = []
    with running(site) as agent:
        served = operations(agent)
        served.keystore_put("payments/pin", SECRET)
        told = agent.publish

        def publish(condition: object) -> None:
            if getattr(condition, "state", None) is State.LOCKED:
                heard.set()
            told(condition)  # type: ignore[arg-type]

        agent.publish = publish  # type: ignore[method-assign]

        def read() -> None:
            before = heard.is_set()
            served.keystore_put("payments/pin", SECRET)
            value = served.keystore_get("payments/pin")
            if before:
                late.append(value)

        with insisting(read):
            site.change("kernel")
            assert agent.await_condition(State.LOCKED).code == "layer:mismatch"
        assert late == []
        for operation in (served.keystore_get, served.keystore_delete):
            with pytest.raises(KeyStoreLockedError):
                operation("payments/pin")
        gc.collect()
        held = [one for one in gc.get_objects() if isinstance(one, Secret) and not one.erased]
        assert held == []


def test_a_storm_of_file_events_is_looked_at_once_in_each_pause(site: Site) -> None:
    """However often a layer is replaced, touched and replaced again meanwhile."""
    looks: list[frozenset[str]] = []

    def watch(layers: Mapping[str, Path]) -> Watch | None:
        made = watch_layers(layers)
        assert made is not None
        changed = made.changed

        def look() -> frozenset[str]:
            looks.append(changed())
            return looks[-1]

        made.changed = look  # type: ignore[method-assign]
        return made

    kernel = site.home / "kernel"
    other, content = kernel.with_name("kernel.other"), kernel.read_bytes()
    ports = replace(quiet_ports(), watch_layers=watch)
    settings = AgentConfig(heartbeat=300, retry=0.05, settle=30, remeasure=0)
    with RunningAgent(site, settings, ports=ports) as agent:
        agent.await_condition(State.NORMAL)
        agent.agent.ask(agent.agent.attest_now)
        looks.clear()
        for _ in range(1000):
            other.write_bytes(content)
            other.rename(kernel)
            agent.agent.ask(lambda: None)
        assert len(looks) <= 2
        keeper = agent.agent.keeper
        assert keeper is not None
        assert keeper.settling


def test_an_event_under_way_does_not_hold_up_the_end(site: Site) -> None:
    """A backend that takes a report and says nothing is hung up on."""

    class Silent:
        """A line on which nothing comes back."""

        def __init__(self) -> None:
            self.entered, self.closed = threading.Event(), threading.Event()

        def report(self, *_: object, **__: object) -> bool:
            self.entered.set()
            assert self.closed.wait(PATIENCE_S)
            raise ChannelUnreachableError("the channel was closed")

        def close(self) -> None:
            self.closed.set()

    line = Silent()
    with running(site) as agent:
        keeper = agent.agent.keeper
        assert keeper is not None
        keeper._line = cast("Line", line)
        served = operations(agent)

        def report() -> None:
            with contextlib.suppress(ChannelUnreachableError):
                served.event("transaction", "")

        peer = threading.Thread(target=report, daemon=True)
        peer.start()
        assert line.entered.wait(PATIENCE_S)
        agent.stop()
        assert line.closed.is_set()
        peer.join(PATIENCE_S)
        assert not peer.is_alive()


def test_an_agent_whose_waiter_has_died_ends(site: Site) -> None:
    """The service manager starts it again: nobody is told that all is well."""
    with running(site) as agent:
        agent.agent._waiter.stop()
        agent.agent.attest_soon("the test says so")
        with pytest.raises(AgentStoppedError):
            agent.await_condition(State.TPM_AWAY)
        agent._error = None
        with pytest.raises(KeyStoreLockedError):
            operations(agent).keystore_get("payments/pin")


def test_who_is_told_to_end_while_the_tpm_is_opened_loads_nothing(site: Site) -> None:
    """Nor is the backend asked, which may say nothing for as long as it likes."""

    @contextlib.contextmanager
    def opened(config: DeviceConfig, on_condition: Callable[[Condition], None]) -> Iterator[Device]:
        with open_device(config, on_condition) as device:
            agent.agent.stop()
            yield device
            assert device.answer is None
            assert device.condition.state is State.STARTING

    agent = RunningAgent(site, SETTINGS, ports=replace(quiet_ports(), open_device=opened))
    with agent:
        agent._thread.join(PATIENCE_S)
        assert not agent._thread.is_alive()
