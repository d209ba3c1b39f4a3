"""The rules of `hwtrust.device.load`, without a TPM: what is asked and loaded, in which order."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from hwtrust import errors
from hwtrust.device import load as module
from hwtrust.device.config import OnFailure
from hwtrust.device.context import DeviceContext
from hwtrust.device.results import State
from hwtrust.device.state import DeviceState
from hwtrust.files import private_directory
from hwtrust.wire.cel import RELOAD
from hwtrust.wire.messages import LayerReference, Mode, Release, UpdateOrder
from hwtrust.wire.states import layer_event

if TYPE_CHECKING:
    from pathlib import Path

    from hwtrust.device.results import Condition
    from hwtrust.wire.cel import Event

LAYERS = tuple(
    LayerReference(name=name, version="1", digest=bytes(32)) for name in ("kernel", "frontend")
)
OTHER = LayerReference(name="kernel", version="2", digest=bytes(32))
OPEN: Any = SimpleNamespace(close=lambda: None)
"""Plays an open key store."""


@dataclass
class Bench:
    """A device whose boots and attestations end as they are told to; `done` has them in order."""

    device: DeviceContext
    told: list[Condition]
    done: list[str] = field(default_factory=list)
    booted: errors.HwTrustError | None = None
    answers: list[errors.HwTrustError | Mode | UpdateOrder] = field(default_factory=list)
    noted: bool = False

    def boot(self, device: DeviceContext) -> None:
        """As `boot_on_trial`."""
        self.done.append("boot")
        if self.booted is not None:
            if self.noted:
                device.become(State.LOCKED, step="tpm", code=self.booted.code)
            raise self.booted
        device.keystore = OPEN
        device.become(State.NORMAL)

    def attest(self, _: DeviceContext) -> Any:  # noqa: ANN401 - plays an AttestResult
        """As `attest_on_trial`; NORMAL when nothing else is left to answer."""
        self.done.append("attest")
        answer = self.answers.pop(0) if self.answers else Mode.NORMAL
        if isinstance(answer, errors.HwTrustError):
            raise answer
        if isinstance(answer, UpdateOrder):
            return SimpleNamespace(mode=Mode.LOCKED, update=answer)
        return SimpleNamespace(mode=answer, update=None)

    def update(self, order: UpdateOrder) -> None:
        """As the host's `update`."""
        self.done.append(f"update {order.release}")

    def holds(self, *events: Event) -> None:
        """Have these events in the log since the reset."""
        log: Any = self.device.measured.log
        log.events[:] = events


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A device that is enrolled, of two layers, of which nothing is loaded."""
    nothing: Any = None
    known: Any = object()
    told: list[Condition] = []
    config: Any = SimpleNamespace(on_failure=OnFailure.LOCKED)
    measured: Any = SimpleNamespace(settle=lambda _: None, log=SimpleNamespace(events=[]))
    device = DeviceContext(
        config=config,
        trust=nothing,
        release=Release(name="1.0", layers=LAYERS),
        state=DeviceState(private_directory(tmp_path / "state")),
        tpm=nothing,
        channel=nothing,
        measured=measured,
        policy_key=nothing,
        metadata_key=nothing,
        identity=known,
        on_condition=told.append,
    )
    made = Bench(device, told)
    monkeypatch.setattr(module, "boot_on_trial", made.boot)
    monkeypatch.setattr(module, "attest_on_trial", made.attest)
    return made


# --- rule 1: a condition, and no error ---------------------------------------------------


@pytest.mark.parametrize(
    ("error", "state", "step"),
    [
        (errors.TpmTransportError("it is gone"), State.TPM_AWAY, "tpm"),
        (errors.TpmObjectConflictError("another TPM"), State.LOCKED, "tpm"),
        (errors.StateDamagedError("torn"), State.LOCKED, "open"),
        (errors.LayerUnreadableError("gone"), State.LOCKED, "open"),
        (errors.KeyStoreMissingError("gone"), State.LOCKED, "open"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, errors.HwTrustError) else None,
)
def test_what_is_wrong_with_the_device_ends_the_load_before_anything_is_loaded(
    bench: Bench, error: errors.HwTrustError, state: State, step: str
) -> None:
    """It is met while the backend is asked, and a boot would meet it too."""
    bench.answers = [error]
    condition = module.load(bench.device)
    assert bench.done == ["attest"]
    assert (condition.state, condition.step, condition.code) == (state, step, error.code)
    assert bench.told == [condition]


def test_what_nobody_has_noted_is_noted(bench: Bench) -> None:
    """A device that does not load is locked, and says why."""
    bench.booted = errors.SlotUnsealedError("the slot is open")
    condition = module.load(bench.device)
    assert (condition.state, condition.code) == (State.LOCKED, errors.SlotUnsealedError.code)
    assert bench.device.failure is not None


def test_what_was_noted_where_it_was_raised_stays_as_it_was_noted(bench: Bench) -> None:
    """Another TPM locks the device, also where a load that failed would leave it limited."""
    config: Any = bench.device.config
    config.on_failure = OnFailure.LIMITED
    bench.booted, bench.noted = errors.TpmObjectConflictError("another TPM"), True
    assert module.load(bench.device).state is State.LOCKED
    assert [condition.state for condition in bench.told] == [State.LOCKED]
    assert bench.device.failure is None


WRONG = errors.ConfigError("wrong")


def _refuse(_: UpdateOrder) -> None:
    raise WRONG


@pytest.mark.parametrize(
    ("answers", "booted"),
    [([WRONG], None), ([], WRONG), ([UpdateOrder(release="2.0")], None)],
    ids=["when it attests", "when it boots", "when it updates"],
)
def test_a_configuration_that_is_wrong_is_the_callers_error(
    bench: Bench, answers: list[Any], booted: errors.HwTrustError | None
) -> None:
    """No condition of the device says it."""
    bench.answers, bench.booted = answers, booted
    with pytest.raises(errors.ConfigError) as caught:
        module.load(bench.device, update=_refuse)
    assert caught.value.code == errors.ConfigError.code
    assert bench.told == []


# --- rules 2 and 4: asked first, and obeyed -----------------------------------------------


def test_a_device_that_its_backend_has_locked_loads_nothing(bench: Bench) -> None:
    """Nor does it where an update is ordered, and nobody is there to bring it in."""
    for answer in (Mode.LOCKED, UpdateOrder(release="2.0")):
        bench.answers = [answer]
        module.load(bench.device)
    assert bench.done == ["attest", "attest"]


def test_what_is_ordered_is_brought_in_before_anything_is_loaded(bench: Bench) -> None:
    """The way out of a lock, too."""
    bench.answers = [UpdateOrder(release="2.0")]
    module.load(bench.device, update=bench.update)
    assert bench.done == ["attest", "update 2.0", "boot", "attest"]


def test_where_an_update_fails_the_release_that_is_there_is_loaded(bench: Bench) -> None:
    """A repository that is away takes no device down."""

    def update(order: UpdateOrder) -> None:
        bench.update(order)
        raise errors.UpdateUnreachableError("away")

    bench.answers = [UpdateOrder(release="2.0")]
    assert module.load(bench.device, update=update).state is State.NORMAL
    assert bench.done == ["attest", "update 2.0", "boot", "attest"]


RAN: dict[str, tuple[tuple[Event, ...], bool]] = {
    "nothing": ((), False),
    "the release": (tuple(map(layer_event, LAYERS)), False),
    "the release, up to a layer": ((layer_event(LAYERS[0]),), False),
    "another release": ((layer_event(OTHER), layer_event(LAYERS[1])), True),
    "another release, up to a layer": ((layer_event(OTHER),), True),
    "another release, then this one": (
        (layer_event(OTHER), RELOAD, *map(layer_event, LAYERS)),
        False,
    ),
    "this release, then another one": (
        (*map(layer_event, LAYERS), RELOAD, layer_event(OTHER)),
        True,
    ),
}


@pytest.mark.parametrize("name", RAN)
def test_a_device_that_ran_another_release_loads_before_it_is_asked(
    bench: Bench, name: str
) -> None:
    """What was loaded last counts: of another release nothing good could be said."""
    events, first = RAN[name]
    bench.holds(*events)
    module.load(bench.device)
    assert bench.done == (["boot", "attest", "attest"] if first else ["attest", "boot", "attest"])


def test_a_load_that_failed_is_not_tried_a_second_time(bench: Bench) -> None:
    """The backend hears of it instead."""
    bench.holds(layer_event(OTHER))
    bench.booted = errors.LayerUnreadableError("gone")
    assert module.load(bench.device).state is State.LOCKED
    assert bench.done == ["boot", "attest", "attest"]
