"""The rules of `hwtrust.device.update`, without a TPM or a server: what is switched, and when."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from hwtrust import errors
from hwtrust.device import rotate, trial
from hwtrust.device import update as module
from hwtrust.device.config import UpdateConfig
from hwtrust.device.context import DeviceContext
from hwtrust.device.results import Outcome
from hwtrust.device.state import DeviceState, Trial, UpdateRecord
from hwtrust.device.update import _leave as leave_for
from hwtrust.device.update import client_of
from hwtrust.files import private_directory
from hwtrust.wire.cel import RESET_VALUE
from hwtrust.wire.messages import LayerReference, Mode, Release, UpdateOrder
from hwtrust.wire.states import cold_value, live_value, state_digest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OLD = Release(name="1.0", layers=(LayerReference(name="kernel", version="1", digest=bytes(32)),))
NEW = Release(name="2.0", layers=(LayerReference(name="kernel", version="2", digest=bytes(32)),))


@dataclass
class Bench:
    """A device that runs 1.0; what it is given to judge by, and in `done` what it did."""

    device: DeviceContext
    done: list[str] = field(default_factory=list)
    mode: Mode = Mode.NORMAL
    leave: tuple[bool, bool] = (True, True)
    restart: tuple[str, ...] = ()
    manifest: Release = NEW
    refused: errors.HwTrustError | None = None

    def order(self, release: str, *, forced: bool = False) -> None:
        """What the backend said last."""
        self.device.state.save_updates(
            UpdateRecord(order=UpdateOrder(release=release, forced=forced))
        )

    def attest(self, device: DeviceContext) -> Any:  # noqa: ANN401 - plays an AttestResult
        """As `rotate.attest`."""
        self.done.append(f"attest {device.other}".rstrip())
        if self.refused is not None:
            raise self.refused
        return SimpleNamespace(mode=self.mode, findings=())

    def client(self, _: DeviceContext) -> Any:  # noqa: ANN401 - plays a ReleaseClient
        """As `client_of`."""

        def manifest(name: str) -> Any:  # noqa: ANN401 - plays a ReleaseManifest
            layers = self.manifest.layers
            release = Release(name=name, layers=layers)
            return SimpleNamespace(name=name, layers=layers, release=lambda: release)

        @contextmanager
        def opened() -> Iterator[Any]:
            yield SimpleNamespace(refresh=lambda **_: None, manifest=manifest)

        return opened()

    def switched(self) -> list[str]:
        """The switches."""
        return [step for step in self.done if step.startswith("switch")]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A device with slots, all of whose paths go through them."""
    nothing: Any = None
    current = tmp_path / "slots" / "current"
    config: Any = SimpleNamespace(
        updates=UpdateConfig(slots=str(tmp_path / "slots")),
        release=str(current / "release.json"),
        layers={"kernel": str(current / "kernel")},
    )
    trust: Any = SimpleNamespace(releases="")
    device = DeviceContext(
        config=config,
        trust=trust,
        release=OLD,
        state=DeviceState(private_directory(tmp_path / "state")),
        tpm=nothing,
        channel=nothing,
        measured=nothing,
        policy_key=nothing,
        metadata_key=nothing,
        utc_ahead_ms=0,
    )
    made = Bench(device)

    def begin(_: DeviceContext, release: str, *, restart: bool) -> None:
        made.done.append(f"switch to {release}{', with a restart' * restart}")

    monkeypatch.setattr(trial, "slots_of", lambda _: SimpleNamespace(current="a"))
    monkeypatch.setattr(trial, "begin", begin)
    monkeypatch.setattr(rotate, "attest", made.attest)
    monkeypatch.setattr(module, "attest_on_trial", made.attest)
    monkeypatch.setattr(module, "boot_on_trial", lambda _: made.done.append("boot"))
    monkeypatch.setattr(module, "client_of", made.client)
    monkeypatch.setattr(
        module, "stage", lambda *args, **_: made.done.append(f"stage {args[2].name}")
    )
    monkeypatch.setattr(module, "_leave", lambda *_: made.leave)
    return made


# --- what is brought in ------------------------------------------------------------------


@pytest.mark.parametrize("forced", [False, True])
def test_the_release_that_runs_is_fetched_again_only_where_that_is_ordered(
    bench: Bench, *, forced: bool
) -> None:
    """A repair is an order of the backend's."""
    bench.order("1.0", forced=forced)
    bench.leave = (False, True)
    outcome = module.update(bench.device).outcome
    assert outcome is (Outcome.RESTART if forced else Outcome.CURRENT)
    assert bool(bench.done) == forced


def test_an_order_forces_no_release_but_its_own(bench: Bench) -> None:
    """What somebody names on the device has no more leave for it."""
    bench.order("2.0", forced=True)
    bench.mode = Mode.LOCKED
    assert module.update(bench.device, "1.0").outcome is Outcome.CURRENT
    with pytest.raises(errors.UpdateLeaveError):
        module.update(bench.device, "3.0")
    assert bench.switched() == []
    module.update(bench.device, "2.0")
    assert bench.switched() == ["switch to 2.0"]


@pytest.mark.parametrize(
    ("restart", "outcome"), [(True, Outcome.RESTART), (False, Outcome.ON_TRIAL)]
)
def test_while_a_release_is_on_trial_no_other_is_brought_in(
    bench: Bench, *, restart: bool, outcome: Outcome
) -> None:
    """Its slot is in use, and the other one is the way back."""
    pending = Trial(release="2.0", previous="1.0", slot="a", begun=0, restart=restart)
    bench.device.state.save_updates(UpdateRecord(trial=pending))
    if not restart:
        bench.device.release = NEW
    result = module.update(bench.device, "3.0")
    assert (result.release, result.outcome) == ("2.0", outcome)
    assert bench.done == []


def test_a_layer_without_a_place_is_not_fetched(bench: Bench) -> None:
    """The device would not load it; the failure is kept for the backend."""
    other = LayerReference(name="www", version="1", digest=bytes(32))
    bench.manifest = Release(name="2.0", layers=(*NEW.layers, other))
    with pytest.raises(errors.UpdatePlacesError) as caught:
        module.update(bench.device, "2.0")
    assert caught.value.data["layer"] == "www"
    assert bench.done == []
    failure = bench.device.failure
    assert failure is not None
    assert (failure.step, failure.release, failure.code) == ("stage", "2.0", caught.value.code)


@pytest.mark.parametrize("what", ["release", "kernel"])
def test_a_path_beside_the_slots_is_refused(bench: Bench, tmp_path: Path, what: str) -> None:
    """A switch would not move it."""
    config: Any = bench.device.config
    if what == "release":
        config.release = str(tmp_path / "release.json")
    else:
        config.layers[what] = str(tmp_path / what)
    with pytest.raises(errors.UpdatePlacesError) as caught:
        module.update(bench.device, "2.0")
    assert caught.value.code == "update:places"
    assert bench.done == []


def test_without_the_repositorys_first_root_nothing_is_asked(bench: Bench) -> None:
    """A device that knows no root would believe any."""
    with pytest.raises(errors.UpdateAnchorError) as caught:
        client_of(bench.device)
    assert caught.value.code == "update:metadata:anchor"


def test_a_device_without_a_signed_time_asks_for_it_first(bench: Bench) -> None:
    """What has expired is judged by it."""
    bench.device.utc_ahead_ms = None
    module.update(bench.device, "2.0")
    assert bench.done[:2] == ["attest", "stage 2.0"]


# --- leave -------------------------------------------------------------------------------

LEAVE: dict[str, tuple[tuple[bool, bool], bool, bool, Mode, str]] = {
    "leave for both": ((True, True), False, False, Mode.NORMAL, "switch to 2.0"),
    "leave for a live load": ((True, False), False, False, Mode.NORMAL, "switch to 2.0"),
    "leave after a restart": (
        (False, True),
        False,
        False,
        Mode.NORMAL,
        "switch to 2.0, with a restart",
    ),
    "a layer that takes a restart": (
        (True, True),
        True,
        False,
        Mode.NORMAL,
        "switch to 2.0, with a restart",
    ),
    "a layer that takes a restart, with leave for a live load": (
        (True, False),
        True,
        False,
        Mode.NORMAL,
        "",
    ),
    "no leave": ((False, False), False, False, Mode.NORMAL, ""),
    "no leave, forced": (
        (False, False),
        False,
        True,
        Mode.NORMAL,
        "switch to 2.0, with a restart",
    ),
    "a lock": ((True, True), False, False, Mode.LOCKED, ""),
    "a lock, forced": ((True, True), False, True, Mode.LOCKED, "switch to 2.0"),
}


@pytest.mark.parametrize("name", LEAVE)
def test_nothing_is_switched_without_leave_or_force(bench: Bench, name: str) -> None:
    """The TPM would not open after it; only the backend may say that this is better."""
    bench.leave, restarts, forced, bench.mode, expected = LEAVE[name]
    if restarts:
        config: Any = bench.device.config
        config.updates = UpdateConfig(slots=config.updates.slots, restart=("kernel",))
    bench.order("2.0", forced=forced)
    if expected:
        module.update(bench.device)
    else:
        with pytest.raises(errors.UpdateLeaveError) as caught:
            module.update(bench.device)
        assert caught.value.code == "update:leave"
    assert bench.switched() == [expected] * bool(expected)


@pytest.mark.parametrize("start", [RESET_VALUE, b"\x11" * 32], ids=["cold", "live"])
def test_leave_is_looked_for_in_the_state_that_the_load_leads_to(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, start: bytes
) -> None:
    """Before the first load since the reset, a load now is as one after a restart."""
    config: Any = bench.device.config
    config.tpm = SimpleNamespace(pcr=8, platform_pcrs=())
    value = cold_value(NEW) if start == RESET_VALUE else live_value(NEW, start)
    good = state_digest(bench.device.selection, {8: start}, pcr=8, value=value)
    approval = SimpleNamespace(branch_for=lambda digest: 0 if digest == good else None)
    monkeypatch.setattr(module, "read_pcrs", lambda _: {8: start})
    monkeypatch.setattr(module, "active_root", lambda _: SimpleNamespace(approval=approval))
    assert leave_for(bench.device, NEW) == (True, start == RESET_VALUE)


def test_leave_is_asked_for_both_releases_and_for_one_where_they_are_one(bench: Bench) -> None:
    """Later attestations do not ask for it: whatever has become of the update."""
    bench.order("1.0", forced=True)
    for name in ("2.0", "1.0"):
        module.update(bench.device, name)
    bench.refused = errors.ChannelUnreachableError("away")
    with pytest.raises(errors.ChannelUnreachableError):
        module.update(bench.device, "2.0")
    asked = [step for step in bench.done if step.startswith("attest ")]
    assert asked == ["attest 2.0", "attest 2.0"]
    assert bench.device.other == ""


def test_a_backend_that_goes_away_after_the_switch_leaves_the_release_there(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It speaks neither for nor against it; and layers are activated as before from then on."""

    def away(_: DeviceContext) -> None:
        raise errors.ChannelUnreachableError("away")

    def activate(*_: object) -> None:
        pass

    bench.device.activate = activate
    monkeypatch.setattr(module, "attest_on_trial", away)
    result = module.update(bench.device, "2.0")
    assert (result.release, result.attestation) == ("2.0", None)
    assert bench.device.activate is activate
