"""`hwtrust.device.conditions`: what a device is, by its backend's word and its failures."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from hwtrust import errors
from hwtrust.device import State, conditions
from hwtrust.device.config import OnFailure
from hwtrust.device.context import DeviceContext
from hwtrust.device.state import DeviceState, Heard, Trial, UpdateRecord
from hwtrust.files import private_directory
from hwtrust.wire.messages import Finding, Mode, Severity, UpdateOrder
from hwtrust.wire.statement import StepFailure

if TYPE_CHECKING:
    from pathlib import Path

    from hwtrust.device import Condition

MINUTE = 60_000
OPEN: Any = SimpleNamespace(close=lambda: None)
"""Plays an open key store."""
FINDINGS = (
    Finding(code="clock:lag", severity=Severity.ALERT, message="the clock lags"),
    Finding(code="log:violation", severity=Severity.FAIL, message="a layer was found changed"),
)


@pytest.fixture
def told() -> list[Condition]:
    """What the host application was told."""
    return []


@pytest.fixture
def device(tmp_path: Path, told: list[Condition]) -> DeviceContext:
    """An open device that has not loaded; its clock stands at 5 ms."""
    nothing: Any = None
    config: Any = SimpleNamespace(on_failure=OnFailure.LOCKED)
    release: Any = SimpleNamespace(name="1.0")
    return DeviceContext(
        config=config,
        trust=nothing,
        release=release,
        state=DeviceState(private_directory(tmp_path / "state")),
        tpm=nothing,
        channel=nothing,
        measured=nothing,
        policy_key=nothing,
        metadata_key=nothing,
        on_condition=told.append,
        now=lambda: 5,
    )


def answer(mode: Mode, findings: tuple[Finding, ...] = ()) -> Any:  # noqa: ANN401 - plays an AttestReply
    """An answer of the backend."""
    return SimpleNamespace(mode=mode, findings=findings)


def failed(device: DeviceContext) -> None:
    """Let the load fail at the kernel."""
    device.doing = "verify", "kernel"
    conditions.note(device, errors.LayerMismatchError("changed"))


# --- a release that waits ---------------------------------------------------------------------

ORDER = UpdateOrder(release="2.0")
REPAIR = UpdateOrder(release="1.0", forced=True)
PENDING = Trial(release="2.0", previous="1.0", slot="b", begun=0, restart=True)


@pytest.mark.parametrize(
    ("record", "update", "restart"),
    [
        (None, "", False),
        (UpdateRecord(), "", False),
        (UpdateRecord(order=ORDER), "2.0", False),
        (UpdateRecord(order=UpdateOrder(release="1.0")), "", False),
        (UpdateRecord(order=REPAIR), "1.0", False),
        (UpdateRecord(order=ORDER, trial=PENDING), "2.0", True),
        (UpdateRecord(order=REPAIR, trial=replace(PENDING, restart=False)), "", False),
    ],
)
def test_the_host_application_is_told_of_a_release_that_waits(
    device: DeviceContext,
    told: list[Condition],
    record: UpdateRecord | None,
    update: str,
    *,
    restart: bool,
) -> None:
    """Ordered and not brought in, or in place until the restart; one on trial waits no more."""
    device.become(State.STARTING)
    device.updates = record
    device.tell_of_updates()
    assert (told[-1].state, told[-1].update, told[-1].restart) == (State.STARTING, update, restart)
    device.tell_of_updates()
    assert len(told) == (2 if update else 1)


# --- the backend's word ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "state"),
    [(Mode.NORMAL, State.NORMAL), (Mode.LIMITED, State.LIMITED), (Mode.LOCKED, State.LOCKED)],
)
def test_a_loaded_device_is_what_the_backend_says(
    device: DeviceContext, mode: Mode, state: State
) -> None:
    """And only `locked` takes the key store."""
    device.keystore = OPEN
    conditions.follow(device, answer(mode, FINDINGS))
    assert device.condition.state is state
    assert (device.keystore is None) == (state is State.LOCKED)
    assert device.condition.code == ("" if mode is Mode.NORMAL else "log:violation")


@pytest.mark.parametrize("mode", [Mode.NORMAL, Mode.LIMITED])
def test_no_word_of_the_backend_makes_a_device_normal_that_has_not_loaded(
    device: DeviceContext, mode: Mode
) -> None:
    """What is said of a device with a closed key store opens nothing."""
    states = []
    conditions.follow(device, answer(mode))
    states.append(device.condition.state)
    failed(device)
    conditions.follow(device, answer(Mode.NORMAL))
    states.append(device.condition.state)
    assert states == [State.STARTING, State.LOCKED]


@pytest.mark.parametrize("own", OnFailure)
@pytest.mark.parametrize("mode", [Mode.LIMITED, Mode.LOCKED])
def test_after_a_failed_load_the_backends_mode_overrides_the_devices_own(
    device: DeviceContext, own: OnFailure, mode: Mode
) -> None:
    """The step and layer that failed stay in the condition."""
    device.config = SimpleNamespace(on_failure=own)  # type: ignore[assignment]
    failed(device)
    assert device.condition.state.value == own.value
    conditions.follow(device, answer(mode, FINDINGS))
    condition = device.condition
    assert condition.state.value == mode.value
    assert (condition.step, condition.layer, condition.code) == (
        "verify",
        "kernel",
        "layer:mismatch",
    )


def test_the_last_word_is_written_when_it_changes_and_every_ten_minutes(
    device: DeviceContext,
) -> None:
    """A heartbeat a minute does not wear the disk."""
    for at_ms, kept_ms in [(0, 0), (MINUTE, 0), (9 * MINUTE, 0), (10 * MINUTE, 10 * MINUTE)]:
        conditions.hear(device, answer(Mode.NORMAL), utc_ms=at_ms)
        assert device.heard == Heard(mode=Mode.NORMAL, at_ms=at_ms)
        assert device.state.heard() == Heard(mode=Mode.NORMAL, at_ms=kept_ms)
    conditions.hear(device, answer(Mode.LOCKED), utc_ms=11 * MINUTE)
    assert device.state.heard() == Heard(mode=Mode.LOCKED, at_ms=11 * MINUTE)


@pytest.mark.parametrize("content", [b"{", b'{"mode":"normal","at_ms":-1}', b'{"mode":"x"}'])
def test_a_last_word_that_cannot_be_read_is_none(device: DeviceContext, content: bytes) -> None:
    """The device asks; the leave that it holds is what the TPM goes by."""
    (device.state.directory / "heard.json").write_bytes(content)
    assert device.state.heard() is None


def test_a_backend_that_was_never_heard_is_said_so(device: DeviceContext) -> None:
    """The condition stays; its message says what is wrong."""
    device.keystore = OPEN
    conditions.loaded(device)
    conditions.troubled(device, errors.ChannelUnreachableError("no connection"))
    assert device.condition.state is State.NORMAL
    assert device.condition.code == "channel:unreachable"
    device.heard = Heard(mode=Mode.NORMAL, at_ms=1_700_000_000_000)
    conditions.troubled(device, errors.ChannelUnreachableError("no connection"))
    assert "2023-11-14 22:13:20 UTC" in device.condition.message


# --- what failed -----------------------------------------------------------------------------


def test_what_was_told_is_forgotten_here_and_on_disk(device: DeviceContext) -> None:
    """Once told, never again."""
    failed(device)
    conditions.told(device, device.failure)
    assert device.failure is None
    assert device.state.failure() is None


def test_what_failed_while_another_failure_was_told_is_kept(device: DeviceContext) -> None:
    """An answer says that what it answers has come, and nothing of what came later."""
    failed(device)
    first = device.failure
    device.note_failure(StepFailure(step="stage", code="update"))
    conditions.told(device, first)
    assert device.failure is not None
    assert device.failure.code == "update"
    assert device.state.failure() == device.failure


def test_a_backend_that_is_away_does_not_replace_why_it_was_needed(device: DeviceContext) -> None:
    """The cause is told, and not that it could not be told before."""
    failed(device)
    device.doing = "verify", ""
    conditions.note(device, errors.ChannelUnreachableError("no connection"))
    assert device.condition.code == "channel:unreachable"
    assert device.failure is not None
    assert device.failure.code == "layer:mismatch"


def test_a_change_at_run_time_locks_whatever_the_configuration_says(device: DeviceContext) -> None:
    """`on_failure` is of loads; what runs already is not limited, it is stopped."""
    device.config = SimpleNamespace(on_failure=OnFailure.LIMITED)  # type: ignore[assignment]
    device.doing = "watch", "kernel"
    conditions.note(device, errors.LayerMismatchError("changed"), running=True)
    assert device.condition.state is State.LOCKED


def test_a_device_that_its_backend_has_locked_is_not_limited_by_itself(
    device: DeviceContext,
) -> None:
    """`on_failure` reaches no further than the lock, of which the backend need not be told."""
    device.config = SimpleNamespace(on_failure=OnFailure.LIMITED)  # type: ignore[assignment]
    conditions.note(device, errors.DeviceLockedError("locked"))
    assert (device.condition.state, device.failure) == (State.LOCKED, None)


def test_a_disk_that_does_not_take_the_backends_word_does_not_hide_it(
    device: DeviceContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts from memory, until the device is switched off."""

    def full(*_: object) -> None:
        raise errors.StateDiskError("full")

    monkeypatch.setattr(DeviceState, "save_heard", full)
    conditions.hear(device, answer(Mode.LIMITED), utc_ms=7)
    assert device.heard == Heard(mode=Mode.LIMITED, at_ms=7)
    conditions.loaded(device)
    assert device.condition.state is State.LIMITED


def test_whoever_hears_of_the_backends_lock_finds_nothing_open(device: DeviceContext) -> None:
    """The keys are gone before anybody is told."""
    device.keystore = OPEN
    found: list[object] = []
    device.on_condition = lambda _: found.append(device.keystore)
    conditions.follow(device, answer(Mode.LOCKED))
    assert found == [None]


@pytest.mark.parametrize("mode", [None, Mode.NORMAL, Mode.LIMITED])
def test_a_load_ends_in_what_the_backend_said_last(
    device: DeviceContext, mode: Mode | None
) -> None:
    """A device that was limited is not more than that for having loaded."""
    device.heard = None if mode is None else Heard(mode=mode, at_ms=1)
    conditions.loaded(device)
    assert device.condition.state.value == (mode or Mode.NORMAL).value


def test_a_tpm_that_is_away_takes_the_key_store_with_it(
    device: DeviceContext, told: list[Condition]
) -> None:
    """Its first reason stays, however often it is missed."""
    device.keystore = OPEN
    device.doing = "extend", "kernel"
    conditions.note(device, errors.TpmTransportError("broken"))
    device.doing = "tpm", ""
    conditions.tpm_away(device, errors.TpmGoneError("gone"))
    assert device.keystore is None
    assert [(entry.state, entry.code, entry.layer) for entry in told] == [
        (State.TPM_AWAY, "tpm:transport", "kernel")
    ]


# --- how it is told --------------------------------------------------------------------------


def test_a_condition_is_told_when_it_changes_and_since_when_its_state_is(
    device: DeviceContext, told: list[Condition]
) -> None:
    """The same twice is told once; another reason does not make the state younger."""
    device.become(State.LOCKED, message="one")
    device.now = lambda: 6
    device.become(State.LOCKED, message="one")
    device.become(State.LOCKED, message="two")
    device.become(State.LOADING)
    assert [(entry.state, entry.message, entry.since_ms) for entry in told] == [
        (State.LOCKED, "one", 5),
        (State.LOCKED, "two", 5),
        (State.LOADING, "", 6),
    ]


def test_what_a_callback_raises_is_logged_and_goes_no_further(
    device: DeviceContext, caplog: pytest.LogCaptureFixture
) -> None:
    """The device is in its condition all the same."""

    def fail(_: Condition) -> None:
        raise RuntimeError("the host's own fault")

    device.on_condition = fail
    device.become(State.LOCKED)
    assert device.condition.state is State.LOCKED
    assert "the host's own fault" in caplog.text
