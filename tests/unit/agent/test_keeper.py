"""What the keeper does with a device: a device of paper, and a clock of the test's own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import pytest
from msgspec.structs import replace

from hwtrust.agent.config import AgentConfig
from hwtrust.agent.keeper import ATTEST, GRACE, MEASURE, PAUSE, SETTLE, UPDATE, Keeper
from hwtrust.agent.offline import OfflineGrace
from hwtrust.agent.timers import Timers
from hwtrust.device.results import AttestResult, Condition, Lease, Outcome, State, UpdateResult
from hwtrust.device.state import Refusal, UpdateRecord
from hwtrust.errors import (
    AgentStoppedError,
    ChannelUnreachableError,
    HwTrustError,
    KeyStoreLockedError,
    LayerMismatchError,
    RootStateError,
    TpmAwayError,
    TpmFailureModeError,
    TpmTransportError,
    UpdateUnreachableError,
)
from hwtrust.updates.staging import Progress
from hwtrust.wire.messages import Mode, Standing, UpdateOrder

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from hwtrust.device.api import Device
    from hwtrust.device.push import Line

HEARTBEAT_S = 300
GRACE_S = 1000
FAR = 10**15
AWAY = ChannelUnreachableError("away")
GOOD = AttestResult(
    standing=Standing.TRUSTED,
    findings=(),
    mode=Mode.NORMAL,
    heartbeat_ms=HEARTBEAT_S * 1000,
    offline_grace_ms=GRACE_S * 1000,
)
LOCKED = replace(GOOD, standing=Standing.FAILED, mode=Mode.LOCKED)


@dataclass
class PaperDevice:
    """A device that does what the test says, and keeps account."""

    clock: float = 0.0
    answer: AttestResult | None = None
    next: AttestResult | HwTrustError = GOOD
    boots: HwTrustError | None = None
    checks: HwTrustError | None = None
    leases: HwTrustError | None = None
    fetches: HwTrustError | UpdateResult | None = None
    updates: UpdateRecord = field(default_factory=UpdateRecord)
    automatic: bool = True
    condition: Condition = field(default_factory=lambda: Condition(State.STARTING, since_ms=0))
    open: bool = False
    did: list[str] = field(default_factory=list)

    def _become(self, state: State) -> None:
        self.condition = replace(self.condition, state=state)
        self.open = state in {State.NORMAL, State.LIMITED}

    @property
    def keystore(self) -> object:
        """Open or not."""
        if not self.open:
            raise KeyStoreLockedError("locked")
        return self

    def load(self, **_: Any) -> Condition:  # noqa: ANN401 - as the device's
        """Attest, boot."""
        self.did.append("load")
        if isinstance(self.boots, TpmTransportError):
            self._become(State.TPM_AWAY)
        elif self.boots is not None:
            self._become(State.LOCKED)
        else:
            self._become(State.NORMAL)
        if isinstance(self.next, AttestResult):
            self._heard(self.next)
        return self.condition

    def boot(self, **_: object) -> None:
        """Open the key store."""
        self.did.append("boot")
        if self.boots is not None:
            raise self.boots
        self._become(State.NORMAL)

    def attest(self, **_: object) -> AttestResult:
        """Hear what the test has put there."""
        self.did.append("attest")
        if isinstance(self.next, HwTrustError):
            raise self.next
        self._heard(self.next)
        return self.next

    def _heard(self, result: AttestResult) -> None:
        self.answer = replace(result, clock_ms=round(self.clock * 1000))
        if result.mode is Mode.LOCKED:
            self._become(State.LOCKED)

    def check(self, *, only: Collection[str] | None, **_: object) -> None:
        """Measure."""
        self.did.append("check " + (",".join(sorted(only)) if only is not None else "all"))
        if self.checks is not None:
            self._become(State.LOCKED)
            raise self.checks

    def update(
        self, *, on_progress: Callable[[Progress], None], on_wait: Callable[[], None], **_: object
    ) -> UpdateResult:
        """Fetch."""
        self.did.append("update")
        on_wait()
        on_progress(Progress(release="2.0", layer="kernel", done=1, total=2))
        if isinstance(self.fetches, HwTrustError):
            raise self.fetches
        return self.fetches or UpdateResult("2.0", Outcome.CONFIRMED)

    def takes(self, order: UpdateOrder) -> bool:
        """What has to be; else as the test says."""
        return order.forced or (self.automatic and self.updates.refused is None)

    def line(self) -> Line:
        """One for the waiter."""
        return cast("Line", object())

    def lease(self) -> Lease:
        """The TPM's clock."""
        if self.leases is not None:
            raise self.leases
        return Lease(round(self.clock * 1000), FAR)

    def tpm_away(self, _: HwTrustError) -> None:
        """Lock."""
        self._become(State.TPM_AWAY)


@dataclass
class Bench:
    """A keeper with its device."""

    keeper: Keeper
    device: PaperDevice
    timers: Timers
    clock: list[float]
    told: list[Condition]
    lines: list[object]
    said: list[str]
    ending: list[bool]
    wanted: list[bool]

    def state(self) -> State:
        """What the host application would be told."""
        return self.keeper.condition.state

    def opened(self) -> bool:
        """Whether the key store is open."""
        return self.device.open

    def pass_time(self, seconds: float) -> None:
        """Let time pass, and do what comes due at its end."""
        self.clock[0] += seconds
        self.device.clock += seconds
        self.keeper.turn(self.timers.due())


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A keeper whose draws are all one half."""
    device, clock = PaperDevice(), [1000.0]
    told: list[Condition] = []
    lines: list[object] = []
    said: list[str] = []
    ending, wanted = [False], [False]
    timers = Timers(lambda: clock[0])
    keeper = Keeper(
        cast("Device", device),
        AgentConfig(heartbeat=60, retry=2, remeasure=3600, settle=0.5),
        timers=timers,
        grace=OfflineGrace(tmp_path / "offline.json"),
        tell=told.append,
        lines=lines.append,
        log=said.append,
        fraction=lambda: 0.5,
        progress=lambda: None,
        ending=lambda: ending[0],
        wanted=lambda: wanted[0],
    )
    return Bench(keeper, device, timers, clock, told, lines, said, ending, wanted)


def test_heartbeats_come_as_the_backend_says_and_in_a_phase_of_their_own(bench: Bench) -> None:
    """The first anywhere in a heartbeat, the others a little early, each from an answer on."""
    bench.keeper.begin()
    assert bench.device.did == ["load"]
    assert bench.timers.left(ATTEST) == HEARTBEAT_S / 2
    bench.pass_time(HEARTBEAT_S / 2)
    assert bench.device.did == ["load", "attest"]
    assert bench.timers.left(ATTEST) == HEARTBEAT_S * 0.95
    bench.device.next = replace(GOOD, heartbeat_ms=10_000)
    bench.pass_time(HEARTBEAT_S)
    assert bench.timers.left(ATTEST) == pytest.approx(9.5)
    assert len(bench.lines) == 3


def test_a_backend_that_is_away_is_asked_later_and_later(bench: Bench) -> None:
    """Up to a heartbeat apart; one answer, and the heartbeat is as before."""
    bench.keeper.begin()
    bench.device.next = AWAY
    pauses = []
    for _ in range(12):
        bench.keeper.attest()
        pauses.append(bench.timers.left(ATTEST))
    assert pauses[:4] == [1, 2, 4, 8]
    assert pauses[-1] == HEARTBEAT_S / 2
    assert bench.device.condition.state is State.NORMAL
    bench.device.next = GOOD
    bench.keeper.attest()
    assert bench.timers.left(ATTEST) == HEARTBEAT_S * 0.95
    bench.device.next = AWAY
    bench.keeper.attest()
    assert bench.timers.left(ATTEST) == 1


def test_without_its_backend_for_too_long_a_device_is_limited_until_it_is_back(
    bench: Bench,
) -> None:
    """The key store stays open; the host application is told, both times."""
    bench.keeper.begin()
    bench.device.next = AWAY
    bench.keeper.attest()
    assert bench.timers.left(GRACE) == GRACE_S
    bench.pass_time(GRACE_S)
    limited = bench.keeper.condition
    assert (limited.state, limited.code) == (State.LIMITED, "agent:offline")
    assert [told.state for told in bench.told][-1] is State.LIMITED
    assert bench.opened()
    bench.device.next = GOOD
    bench.keeper.attest()
    assert [told.state for told in bench.told][-1] is State.NORMAL
    assert bench.timers.left(GRACE) is None


def test_the_grace_is_the_tpms_to_count(bench: Bench) -> None:
    """A timer that rings early by the machine's clock is set again for the rest."""
    bench.keeper.begin()
    bench.device.next = AWAY
    bench.keeper.attest()
    bench.clock[0] += GRACE_S
    bench.device.clock += GRACE_S / 2
    bench.keeper.turn(bench.timers.due())
    assert bench.state() is State.NORMAL
    assert bench.timers.left(GRACE) == GRACE_S / 2


def test_a_clock_that_cannot_be_read_grants_nothing(bench: Bench) -> None:
    """No clock, no grace."""
    bench.keeper.begin()
    bench.device.next, bench.device.leases = AWAY, RootStateError("no root")
    bench.keeper.attest()
    assert bench.state() is State.LIMITED


def test_a_locked_device_goes_on_attesting_and_comes_back_by_itself(bench: Bench) -> None:
    """With pauses that grow; the first answer that allows it opens the key store again."""
    bench.keeper.begin()
    bench.device.next = LOCKED
    pauses = []
    for _ in range(3):
        bench.keeper.attest()
        pauses.append(bench.timers.left(ATTEST))
    assert pauses == [1, 2, 4]
    assert not bench.opened()
    assert "boot" not in bench.device.did
    bench.device.next = GOOD
    bench.keeper.attest()
    assert bench.opened()
    assert bench.told[-1].state is State.NORMAL


def test_a_load_that_fails_is_not_tried_with_every_answer(bench: Bench) -> None:
    """Each try extends the PCR: there is a pause, which grows."""
    bench.device.boots = RootStateError("not for this state")
    bench.keeper.begin()
    bench.keeper.attest()
    assert bench.device.did == ["load", "attest", "boot"]
    assert bench.timers.left(PAUSE) == 1
    bench.keeper.attest()
    assert bench.device.did[3:] == ["attest"]
    bench.clock[0] += 2
    bench.timers.due()
    bench.device.boots = None
    bench.keeper.attest()
    assert bench.opened()


def test_a_root_that_waits_is_taken_once_the_key_store_is_open(bench: Bench) -> None:
    """Attest, load, attest again: the root is rotated at once."""
    bench.keeper.begin()
    bench.device._become(State.LOCKED)
    bench.device.next = replace(GOOD, root_waits=True)
    bench.keeper.attest()
    assert bench.device.did[1:] == ["attest", "boot", "attest"]


def test_file_events_are_gathered_and_only_their_layers_measured(bench: Bench) -> None:
    """A hundred events within the pause are one measurement, which the last does not put off."""
    bench.keeper.begin()
    for _ in range(50):
        bench.keeper.layers_touched({"kernel"})
        bench.keeper.layers_touched({"frontend"})
    bench.keeper.layers_touched(frozenset())
    assert bench.timers.left(SETTLE) == 0.5
    bench.pass_time(0.5)
    assert bench.device.did == ["load", "check frontend,kernel"]
    bench.keeper.layers_touched({"system"})
    bench.pass_time(0.5)
    assert bench.device.did[-1] == "check system"


def test_a_layer_that_has_changed_is_reported_at_once(bench: Bench) -> None:
    """The device has locked itself; the backend hears of it by the next words."""
    bench.keeper.begin()
    bench.device.checks = LayerMismatchError("changed")
    bench.device.next = LOCKED
    bench.keeper.layers_touched({"kernel"})
    bench.pass_time(0.5)
    assert bench.device.did == ["load", "check kernel", "attest"]
    assert bench.told[-1].state is State.LOCKED
    bench.keeper.layers_touched({"kernel"})
    bench.pass_time(0.5)
    assert "check" not in " ".join(bench.device.did[3:])


def test_every_layer_is_measured_again_and_again(bench: Bench) -> None:
    """At the interval of the configuration, a little early, so that devices differ."""
    bench.keeper.begin()
    interval = bench.timers.left(MEASURE)
    assert interval == 3600 * 0.95
    bench.pass_time(interval)
    assert "check all" in bench.device.did
    assert bench.timers.left(MEASURE) == interval


@pytest.mark.parametrize("error", [TpmTransportError("gone"), TpmFailureModeError("broken")])
@pytest.mark.parametrize("where", ["next", "checks", "leases", "fetches"])
def test_a_tpm_that_is_gone_ends_the_keeper_wherever_it_is_noticed(
    bench: Bench, where: str, error: HwTrustError
) -> None:
    """The device is told, which drops the keys; the code of how it was seen is kept."""
    bench.keeper.begin()
    setattr(bench.device, where, error)
    if where == "fetches":
        bench.device.next = replace(GOOD, update=UpdateOrder(release="2.0"))
    doing: dict[str, Callable[[], object]] = {
        "next": bench.keeper.attest,
        "checks": lambda: bench.keeper.turn([MEASURE]),
        "leases": bench.keeper.probe,
        "fetches": bench.keeper.attest,
    }
    with pytest.raises(TpmAwayError) as caught:
        doing[where]()
    assert caught.value.data["problem"] == error.code
    assert not bench.opened()


def test_a_tpm_that_goes_while_the_device_loads_ends_the_keeper(bench: Bench) -> None:
    """A load raises nothing: its condition says so."""
    bench.device.boots, bench.device.next = TpmTransportError("gone"), AWAY
    with pytest.raises(TpmAwayError):
        bench.keeper.begin()


# --- updates ---------------------------------------------------------------------------


def ordered(*, forced: bool = False) -> AttestResult:
    """An answer with an order."""
    return replace(GOOD, update=UpdateOrder(release="2.0", forced=forced))


def test_an_order_is_carried_out(bench: Bench) -> None:
    """Once: then the backend orders nothing any more."""
    bench.keeper.begin()
    bench.device.next = ordered()
    bench.keeper.attest()
    assert bench.device.did == ["load", "attest", "update"]
    assert bench.timers.left(UPDATE) is None


def test_an_update_that_fails_is_tried_again_later(bench: Bench) -> None:
    """Not with every heartbeat."""
    bench.keeper.begin()
    bench.device.next = ordered()
    bench.device.fetches = UpdateUnreachableError("away")
    bench.keeper.attest()
    bench.keeper.attest()
    assert bench.device.did.count("update") == 1
    assert bench.timers.left(UPDATE) == 60
    bench.clock[0] += 60
    bench.timers.due()
    bench.keeper.attest()
    assert bench.device.did.count("update") == 2
    assert bench.timers.left(UPDATE) == 120


@pytest.mark.parametrize(("forced", "tried"), [(False, 0), (True, 1)])
def test_a_release_that_was_given_up_is_tried_again_only_where_it_is_forced(
    bench: Bench, *, forced: bool, tried: int
) -> None:
    """Else a bad release would come back with every heartbeat."""
    bench.keeper.begin()
    refused = Refusal(release="2.0", code="layer:mismatch", message="", at=0)
    bench.device.updates = UpdateRecord(refused=refused)
    bench.device.next = ordered(forced=forced)
    bench.keeper.attest()
    bench.keeper.attest()
    assert bench.device.did.count("update") == (2 if tried else 0)
    assert len([line for line in bench.said if "given up" in line]) == 1 - tried


@pytest.mark.parametrize(("forced", "tried"), [(False, 0), (True, 1)])
def test_who_brings_in_releases_himself_is_told_and_obeyed_unless_it_is_forced(
    bench: Bench, *, forced: bool, tried: int
) -> None:
    """`automatic = false` is the device's owner's word, a forced order the backend's."""
    bench.device.automatic = False
    bench.keeper.begin()
    bench.device.next = ordered(forced=forced)
    bench.keeper.attest()
    assert bench.device.did.count("update") == tried
    assert any("waits" in line for line in bench.said) is (not tried)


def test_what_fails_for_the_same_reason_again_and_again_is_logged_once(bench: Bench) -> None:
    """A backend that is away for a week does not fill the disk; that it is back is said too."""
    bench.keeper.begin()
    bench.device.next = AWAY
    for _ in range(5):
        bench.keeper.attest()
    bench.device.next = GOOD
    bench.keeper.attest()
    lines = [line for line in bench.said if line.startswith("attest")]
    assert lines == [
        "attested: trusted, mode normal",
        "attest failed: away [channel:unreachable]",
        "attest: succeeds again",
    ]


def test_a_download_ends_with_the_agent(bench: Bench) -> None:
    """What was fetched is kept; nobody waits for the rest of a gigabyte."""
    bench.keeper.begin()
    bench.device.next = ordered()
    bench.ending[0] = True
    bench.keeper.attest()
    assert isinstance(bench.keeper.failure, AgentStoppedError)


def endless(bench: Bench, *, seconds: float) -> None:
    """Have a download make one step a second, for so long."""

    def update(*, on_progress: Callable[[Progress], None], **_: object) -> UpdateResult:
        bench.device.did.append("update")
        for done in range(round(seconds)):
            bench.clock[0] += 1
            on_progress(Progress(release="2.0", layer="kernel", done=done, total=10**6))
        return UpdateResult("2.0", Outcome.CONFIRMED)

    bench.device.update = update  # type: ignore[method-assign]
    bench.device.next = ordered()


def test_a_download_gives_way_to_what_else_is_to_be_done(bench: Bench) -> None:
    """A server that trickles keeps no device from being watched; the download goes on after it."""
    bench.keeper.begin()
    endless(bench, seconds=10**6)
    bench.wanted[0] = True
    began = bench.clock[0]
    bench.keeper.attest()
    assert bench.clock[0] - began <= 12
    assert bench.timers.left(UPDATE) is None
    assert bench.timers.left(ATTEST) == 1
    endless(bench, seconds=5)
    bench.pass_time(1)
    assert bench.device.did == ["load", "attest", "update", "attest", "update"]
    assert bench.timers.left(ATTEST) is not None


def test_a_download_that_keeps_nobody_waiting_is_not_broken_off(bench: Bench) -> None:
    """Nor is one of a device whose key store is closed: there is nothing to be watched."""
    bench.keeper.begin()
    endless(bench, seconds=100)
    bench.keeper.attest()
    assert bench.said[-1] == "release 2.0: confirmed"
    bench.device._become(State.LOCKED)
    bench.device.next = replace(LOCKED, update=UpdateOrder(release="2.0", forced=True))
    bench.wanted[0] = True
    bench.keeper.attest()
    assert bench.device.did.count("update") == 2
    assert bench.said[-1] == "release 2.0: confirmed"


def test_a_storm_of_file_events_leaves_half_of_the_time_to_others(bench: Bench) -> None:
    """Layers that take long to be measured are not measured without a pause."""
    bench.keeper.begin()

    def check(**_: object) -> None:
        bench.clock[0] += 4

    bench.device.check = check  # type: ignore[method-assign]
    bench.keeper.layers_touched({"kernel"})
    assert bench.timers.left(SETTLE) == 0.5
    bench.pass_time(0.5)
    assert bench.timers.left(SETTLE) is None
    bench.keeper.layers_touched({"kernel"})
    assert bench.timers.left(SETTLE) == 4


def test_a_list_of_releases_that_comes_slowly_is_no_agent_that_hangs(bench: Bench) -> None:
    """The watchdog is fed while it comes, and it ends with the agent."""
    bench.keeper.begin()
    fed: list[int] = []
    bench.keeper._progress = lambda: fed.append(1)

    def update(*, on_wait: Callable[[], None], **_: object) -> UpdateResult:
        on_wait()
        assert fed
        bench.ending[0] = True
        on_wait()
        raise AssertionError

    bench.device.update = update  # type: ignore[method-assign]
    bench.device.next = ordered()
    bench.keeper.attest()
    assert isinstance(bench.keeper.failure, AgentStoppedError)
