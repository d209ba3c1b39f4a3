"""Updates that the agent brings in: as an application at its socket and the backend see them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import msgspec
import pytest

from hwtrust import AgentClient
from hwtrust.agent.config import AgentConfig
from hwtrust.cli import run
from hwtrust.device.results import State
from hwtrust.updates.slots import Slots
from hwtrust.wire.messages import Standing
from hwtrust_backend.enrolment.devices import find_device
from hwtrust_backend.enrolment.failures import KeptFailure
from hwtrust_backend.references import retire_release
from simulators.running_agent import RunningAgent, quiet_ports
from simulators.updating import UpdatingSite

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from hwtrust.agent.protocol import Condition
    from hwtrust.testing.manufacture import Vendor
    from hwtrust.testing.swtpm import Swtpm
    from hwtrust_backend.testing import BackendServer


@pytest.fixture
def updating(
    tmp_path: Path, tpm: Swtpm, backend: BackendServer, tpm_vendor: Vendor
) -> UpdatingSite:
    """An enrolled device that takes updates; its layer `frontend` takes a restart."""
    site = UpdatingSite(
        tmp_path, tpm, backend, tpm_vendor, layers=("kernel", "frontend"), restart=("frontend",)
    )
    site.enrol()
    text = site.config_path.read_text()
    site.config_path.write_text(f'{text}\n[agent]\nsocket = "{tmp_path / "run" / "agent.sock"}"\n')
    return site


class Seen:
    """What an application sees that watches."""

    def __init__(self, updating: UpdatingSite) -> None:
        self._path = updating.home / "run" / "agent.sock"
        settings = AgentConfig(socket=str(self._path), heartbeat=300, retry=0.05, look_for_tpm=0.05)
        self.running = RunningAgent(updating, settings, ports=quiet_ports())

    def __enter__(self) -> Self:
        self.running.__enter__()
        self.running.await_condition(State.NORMAL)
        self.running.agent.ask(self.running.agent.attest_now)
        self.client = AgentClient(self._path)
        self._watch: Iterator[Condition] = self.client.watch()
        next(self._watch)
        return self

    def __exit__(self, *_: object) -> None:
        self.running.stop()
        self.client.close()

    def until(self, state: State, **fields: object) -> list[Condition]:
        """Attest, and watch until the device is in that state; gives all that was seen."""
        self.running.agent.attest_soon("the test says so")
        seen: list[Condition] = []
        for condition in self._watch:
            seen.append(condition)
            found = {name: getattr(condition, name) for name in fields}
            if condition.state == state and found == fields:
                return seen
        raise AssertionError(seen)

    def await_state(self, state: State) -> Condition:
        """Watch, and do nothing, until the device is in that state."""
        return next(condition for condition in self._watch if condition.state == state)


@pytest.fixture
def seen(updating: UpdatingSite) -> Iterator[Seen]:
    """An application that watches an agent whose device is normal."""
    with Seen(updating) as seen:
        yield seen


def known(updating: UpdatingSite) -> tuple[str, Standing, KeptFailure | None]:
    """What the backend knows: the release, the standing, what was reported to have failed."""
    with updating.backend.session() as session:
        row = find_device(session, updating.enrolled.hex())
        failure = msgspec.json.decode(row.failure, type=KeptFailure) if row.failure else None
        return row.release, Standing(row.standing), failure


def test_a_good_release_is_brought_in_and_confirmed(seen: Seen, updating: UpdatingSite) -> None:
    """The application is told that it waits, that it loads, and that it runs; the backend too."""
    seen.client.keystore.put("payments/pin", UpdatingSite.SECRET)
    updating.publish("2.0", kernel=b"the next kernel")
    told = [
        (condition.state, condition.release, condition.update)
        for condition in seen.until(State.NORMAL, release="2.0")
    ]
    assert told == [("normal", "1.0", "2.0"), ("loading", "2.0", ""), ("normal", "2.0", "")]
    assert updating.content("kernel") == b"the next kernel"
    assert seen.client.keystore["payments/pin"] == UpdatingSite.SECRET
    seen.running.agent.ask(seen.running.agent.attest_now)
    assert known(updating) == ("2.0", Standing.TRUSTED, None)


def test_a_release_that_fails_to_attest_is_given_up(
    seen: Seen, updating: UpdatingSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Called back while it comes up: the last one runs again, and both sides know why."""
    switch = Slots.switch
    retired: list[str] = []

    def switched(slots: Slots) -> None:
        switch(slots)
        if not retired:
            retired.append("2.0")
            with updating.backend.session() as session:
                retire_release(session, "2.0", now=updating.backend.clock(), by="test")

    monkeypatch.setattr(Slots, "switch", switched)
    updating.publish("2.0", kernel=b"the next kernel")
    told = [
        (condition.state, condition.release, condition.code)
        for condition in seen.until(State.NORMAL, release="1.0", update="")
    ]
    assert ("locked", "2.0", "release:refused") in told
    assert told.index(("loading", "1.0", "")) > told.index(("locked", "2.0", "release:refused"))
    release, standing, failure = known(updating)
    assert (release, standing) == ("1.0", Standing.TRUSTED)
    assert failure is not None
    assert (failure.release, failure.code) == ("2.0", "update:trial:failed")


def test_a_tampered_release_is_refused_and_goes_on_waiting(
    seen: Seen, updating: UpdatingSite
) -> None:
    """Nothing is switched; the next attestation tells the backend what was refused."""
    updating.publish("2.0", kernel=b"the next kernel")
    digest = updating.digests["layers/kernel/2.0"]
    (blob,) = updating.backend.backend.settings.targets.rglob(f"*{digest}*")
    blob.write_bytes(b"another  kernel")
    assert seen.until(State.NORMAL, update="2.0")[-1].release == "1.0"
    seen.running.agent.ask(seen.running.agent.attest_now)
    release, standing, failure = known(updating)
    assert (release, standing) == ("1.0", Standing.TRUSTED)
    assert failure is not None
    assert (failure.step, failure.code) == ("stage", "update:target:digest")


def test_a_release_that_takes_a_restart_says_so_until_it_has_come_up(
    seen: Seen, updating: UpdatingSite, tpm: Swtpm, capsys: pytest.CaptureFixture[str]
) -> None:
    """The application may choose the moment; `hwtrust status` says it to people."""
    updating.publish("2.0", frontend=b"the next frontend")
    assert seen.until(State.NORMAL, update="2.0", restart=True)[-1].release == "1.0"
    status(updating)
    assert "2.0, in place, and comes up with the next restart" in capsys.readouterr().out
    tpm.reboot()
    told = seen.until(State.NORMAL, release="2.0")
    assert {(one.update, one.restart) for one in told if one.state == "tpm-away"} == {("2.0", True)}
    assert (told[-1].update, told[-1].restart) == ("", False)
    seen.running.agent.ask(seen.running.agent.attest_now)
    assert known(updating)[:2] == ("2.0", Standing.TRUSTED)


def test_what_runs_is_watched_while_a_release_waits_for_its_restart(
    seen: Seen, updating: UpdatingSite
) -> None:
    """It lies in the slot that is not current any more; no heartbeat is due to find it."""
    running = updating.slots.path(updating.slots.current, "kernel")
    updating.publish("2.0", frontend=b"the next frontend")
    seen.until(State.NORMAL, update="2.0", restart=True)
    running.write_bytes(b"a changed kernel")
    told = seen.await_state(State.LOCKED)
    assert (told.layer, told.code) == ("kernel", "layer:mismatch")


def test_without_automatic_updates_the_application_learns_that_one_waits(
    updating: UpdatingSite, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is told once, also after a restart of the agent; nothing is brought in."""
    text = updating.config_path.read_text()
    updating.config_path.write_text(text.replace("[updates]", "[updates]\nautomatic = false"))
    with Seen(updating) as seen:
        updating.publish("2.0", kernel=b"the next kernel")
        assert not seen.until(State.NORMAL, update="2.0")[-1].restart
    with Seen(updating) as seen:
        assert seen.client.state().update == "2.0"
        assert seen.client.state().release == "1.0"
    status(updating)
    assert "2.0, not brought in yet" in capsys.readouterr().out


def status(updating: UpdatingSite) -> None:
    """Ask as people do; of the agent, where one has the device."""
    assert run(["status", "--config", str(updating.config_path)]) == 0
