"""The rules of `hwtrust.device.trial` and `hwtrust.device.confirm`, without a TPM.

Slots, configuration and state directory are real; the TPM's clock stands where a
test puts it, and what a boot or an attestation comes to is given. The same on a
TPM is in tests/integration/device.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from hwtrust import errors
from hwtrust.device import confirm, trial
from hwtrust.device.config import DeviceConfig, TpmConfig, UpdateConfig
from hwtrust.device.context import DeviceContext
from hwtrust.device.failures import failure_of
from hwtrust.device.results import AttestResult
from hwtrust.device.state import DeviceState, Heard, Refusal, Trial, UpdateRecord
from hwtrust.files import private_directory
from hwtrust.updates.slots import Slots
from hwtrust.wire.messages import (
    Finding,
    LayerReference,
    Mode,
    Release,
    Severity,
    Standing,
    UpdateOrder,
)

LAYER = "kernel"
OLD, NEW = "1.0", "2.0"
WITHIN_S = 600


class Kept:
    """Plays an open key store."""

    closed = False

    def close(self) -> None:
        """As KeyStore."""
        self.closed = True


def release(name: str) -> Release:
    """A release of one layer."""
    return Release(
        name=name, layers=(LayerReference(name=LAYER, version=name, digest=name[:1].encode() * 32),)
    )


@dataclass
class Bench:
    """A device whose inactive slot holds the next release."""

    device: DeviceContext
    slots: Slots
    clock: int = 1000
    cold: bool = False
    boots: list[str] = field(default_factory=list)
    """The release that each boot was one of."""
    heard: list[Heard | None] = field(default_factory=list)
    """What the backend had said last, at each boot."""
    ends: list[errors.HwTrustError | None] = field(default_factory=list)
    """What the next boots come to."""
    answers: list[AttestResult | errors.HwTrustError] = field(default_factory=list)
    """What the next attestations come to."""

    @property
    def record(self) -> UpdateRecord:
        """What the device remembers."""
        return self.device.state.updates()

    def trial(self) -> Trial:
        """The trial that the device is on."""
        on_trial = trial.trial_of(self.device)
        assert on_trial is not None
        return on_trial

    def change(self, **changes: object) -> None:
        """Change what is remembered of the trial."""
        changed = msgspec.structs.replace(self.trial(), **changes)
        self.device.state.save_updates(msgspec.structs.replace(self.record, trial=changed))

    def restarted(self) -> DeviceContext:
        """The device after a start of its process."""
        config = msgspec.structs.replace(
            self.device.config,
            release=str(self.slots.path("a", LAYER).parent.parent / "current" / "release.json"),
        )
        self.device.config, self.device.other = config, ""
        self.device.keystore = None
        self.device.release = config.read_release()
        trial.resume(self.device)
        return self.device


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A device that runs 1.0, with 2.0 in the other slot."""
    (tmp_path / LAYER).write_bytes(b"old")
    (tmp_path / "release.json").write_bytes(msgspec.json.encode(release(OLD)))
    slots = Slots(tmp_path / "slots")
    slots.create({LAYER: tmp_path / LAYER}, tmp_path / "release.json")
    slots.begin()
    slots.path(slots.inactive, LAYER).write_bytes(b"new")
    slots.seal(msgspec.json.encode(release(NEW)))
    current = tmp_path / "slots" / "current"
    config = DeviceConfig(
        state_dir=str(tmp_path / "state"),
        trust="",
        release=str(current / "release.json"),
        tpm=TpmConfig(pcr=8, banks=("sha256",)),
        layers={LAYER: str(current / LAYER)},
        updates=UpdateConfig(slots=str(tmp_path / "slots"), confirm_within_s=WITHIN_S),
    )
    nothing: Any = None
    device = DeviceContext(
        config=config,
        trust=nothing,
        release=release(OLD),
        state=DeviceState(private_directory(tmp_path / "state")),
        tpm=nothing,
        channel=nothing,
        measured=nothing,
        policy_key=nothing,
        metadata_key=nothing,
        now=lambda: 5,
    )
    made = Bench(device, slots)
    log: Any = SimpleNamespace(synchronise=lambda _: made.cold)
    device.measured = log

    def boot(device: DeviceContext, **_: object) -> None:
        made.boots.append(device.release.name)
        made.heard.append(device.heard)
        error = made.ends.pop(0) if made.ends else None
        if error is not None:
            device.note_failure(failure_of(error, step="unseal", layer="", release=""))
            raise error
        device.keystore = Kept()  # type: ignore[assignment]

    def attest(device: DeviceContext) -> AttestResult:
        answer = made.answers.pop(0)
        if isinstance(answer, errors.HwTrustError):
            raise answer
        device.heard = Heard(mode=answer.mode, at_ms=2)
        return answer

    monkeypatch.setattr(trial, "read_pcrs", lambda _: {})
    monkeypatch.setattr(
        trial, "commands", SimpleNamespace(read_clock=lambda _: SimpleNamespace(clock=made.clock))
    )
    monkeypatch.setattr(trial, "boot", boot)
    monkeypatch.setattr(confirm, "rotate", SimpleNamespace(attest=attest))
    return made


@pytest.fixture
def tried(bench: Bench) -> Bench:
    """The same, switched to 2.0 and come up with it once."""
    trial.begin(bench.device, NEW, restart=False)
    trial.boot_on_trial(bench.device)
    return bench


def answer(*findings: tuple[str, Severity]) -> AttestResult:
    """An answer of the backend."""
    found = tuple(Finding(code=code, severity=weight, message="") for code, weight in findings)
    failed = any(finding.severity is Severity.FAIL for finding in found)
    standing = Standing.FAILED if failed else Standing.TRUSTED
    return AttestResult(standing, found, Mode.LOCKED if failed else Mode.NORMAL, 1000)


# --- switching ---------------------------------------------------------------------


def test_a_release_that_is_switched_to_is_on_trial_with_closed_keys(bench: Bench) -> None:
    """What was opened in the state of the last release does not serve the next."""
    kept: Any = Kept()
    bench.device.keystore = kept
    trial.begin(bench.device, NEW, restart=False)
    assert (bench.device.release.name, bench.slots.current) == (NEW, "b")
    assert bench.device.other == OLD
    assert bench.trial() == Trial(release=NEW, previous=OLD, slot="b", begun=1000)
    assert (bench.device.keystore, kept.closed) == (None, True)


def test_the_trial_is_remembered_before_the_slots_are_switched(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in between, the device finds the release before, and no trial."""

    def killed(_: Slots) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Slots, "switch", killed)
    with pytest.raises(KeyboardInterrupt):
        trial.begin(bench.device, NEW, restart=False)
    assert bench.trial().release == NEW
    assert bench.restarted().release.name == OLD
    assert bench.record.trial is None


def test_until_the_restart_the_release_before_runs_from_its_own_slot(bench: Bench) -> None:
    """Neither its starts are counted, nor does its attestation confirm the next."""
    trial.begin(bench.device, NEW, restart=True)
    for again in (False, True):
        device = bench.restarted() if again else bench.device
        assert device.release.name == OLD
        assert device.config.layers == {LAYER: str(bench.slots.path("a", LAYER))}
        assert device.other == NEW
        trial.boot_on_trial(device)
        trial.confirm(device, Standing.TRUSTED)
        bench.clock += 2 * WITHIN_S * 1000
        trial.require_in_time(device)
        assert (bench.trial().starts, bench.trial().restart) == (0, True)
    bench.cold = True
    assert bench.restarted().release.name == NEW
    assert (bench.trial().starts, bench.trial().restart) == (0, False)
    assert bench.trial().begun == bench.clock


def test_a_start_of_the_process_does_not_make_a_trial_longer(tried: Bench) -> None:
    """It began with the switch."""
    tried.clock += 5
    tried.restarted()
    assert (tried.trial().begun, tried.device.other) == (1000, OLD)


@pytest.mark.parametrize("renamed", [False, True])
def test_a_switch_that_fails_leaves_the_device_with_what_runs(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, *, renamed: bool
) -> None:
    """Renamed or not: no file of the next release is taken for one of this."""
    switch = Slots.switch

    def failing(slots: Slots) -> None:
        if renamed:
            switch(slots)
        raise errors.StateError("the disk is full")

    monkeypatch.setattr(Slots, "switch", failing)
    with pytest.raises(errors.StateError):
        trial.begin(bench.device, NEW, restart=False)
    assert bench.device.release.name == OLD
    place = Path(bench.device.config.layers[LAYER])
    assert place.read_bytes() == b"old"
    assert place.parent.name == ("a" if renamed else "current")


def test_without_a_way_back_a_device_goes_on_with_what_is_there(tried: Bench) -> None:
    """Its backend judges that; an error would leave nobody to repair it."""
    tried.change(failed="layer:mismatch")
    tried.slots.path("a", LAYER).with_name("release.json").unlink()
    assert tried.restarted().release.name == NEW


def test_a_device_without_a_trial_starts_as_it_is(bench: Bench) -> None:
    """There is nothing to take up."""
    assert bench.restarted().release.name == OLD
    assert (bench.record.trial, bench.device.other) == (None, "")


def test_killed_on_the_way_back_a_device_goes_on_back(tried: Bench) -> None:
    """A release that was given up is not started again."""
    tried.change(failed="layer:mismatch")
    assert tried.restarted().release.name == OLD
    assert (tried.slots.current, tried.record.trial) == ("a", None)


# --- starts ------------------------------------------------------------------------


def test_a_start_is_counted_before_it_is_made(tried: Bench) -> None:
    """A release that takes the power with it is given up too; leave is asked for both."""
    assert (tried.trial().starts, tried.device.other) == (1, OLD)
    tried.restarted()
    tried.ends = [errors.TpmTransportError("the power went")]
    with pytest.raises(errors.TpmTransportError):
        trial.boot_on_trial(tried.device)
    assert not tried.trial().up
    assert (tried.trial().starts, tried.device.other) == (2, OLD)


def test_a_release_is_started_three_times_and_then_given_up(bench: Bench) -> None:
    """The start after them is one of the release before."""
    trial.begin(bench.device, NEW, restart=False)
    for _ in range(trial.MOST_STARTS + 1):
        trial.boot_on_trial(bench.restarted())
    assert bench.boots == [NEW] * trial.MOST_STARTS + [OLD]
    refused = bench.record.refused
    assert refused is not None
    assert (refused.release, refused.code) == (NEW, errors.TrialStartsError.code)
    assert bench.device.other == ""


# --- confirming --------------------------------------------------------------------


def test_a_trusted_attestation_ends_the_trial(tried: Bench) -> None:
    """And what was said against an earlier release is over."""
    refused = Refusal(release="1.5", code="c", message="m", at=1)
    tried.device.state.save_updates(msgspec.structs.replace(tried.record, refused=refused))
    trial.confirm(tried.device, Standing.TRUSTED)
    assert (tried.record.trial, tried.record.refused) == (None, None)
    assert tried.device.other == ""


@pytest.mark.parametrize("standing", [one for one in Standing if one is not Standing.TRUSTED])
def test_an_attestation_that_is_not_trusted_confirms_nothing(
    tried: Bench, standing: Standing
) -> None:
    """The way back stays open."""
    trial.confirm(tried.device, standing)
    assert tried.trial().release == NEW
    assert tried.device.other == OLD


def test_a_release_that_has_not_opened_the_root_is_not_confirmed(tried: Bench) -> None:
    """What is trusted before it came up is what ran before."""
    tried.restarted()
    tried.change(up=False)
    trial.confirm(tried.device, Standing.TRUSTED)
    assert tried.trial().release == NEW


def test_a_release_that_runs_from_another_slot_is_not_confirmed(tried: Bench) -> None:
    """The trial is one of what lies in its slot."""
    tried.slots.switch_back()
    trial.confirm(tried.device, Standing.TRUSTED)
    assert tried.trial().release == NEW


def test_a_release_that_was_given_up_is_not_confirmed(tried: Bench) -> None:
    """Not even where there was no way back from it."""
    tried.change(failed="layer:mismatch")
    trial.confirm(tried.device, Standing.TRUSTED)
    assert tried.trial().release == NEW


@pytest.mark.parametrize(("late_ms", "overdue"), [(0, False), (1, True)])
def test_a_trial_lasts_as_long_as_configured_by_the_clock_of_the_tpm(
    tried: Bench, late_ms: int, *, overdue: bool
) -> None:
    """Away for ever, a backend does not leave a device with what nobody has confirmed."""
    away = errors.ChannelError("away")
    tried.clock = tried.trial().begun + WITHIN_S * 1000 + late_ms
    tried.answers = [away]
    with pytest.raises(errors.ChannelError) as caught:
        confirm.attest_on_trial(tried.device)
    assert caught.value is away
    if not overdue:
        assert tried.trial().release == NEW
        return
    assert tried.boots == [NEW, OLD]
    assert tried.record.refused is not None
    assert tried.record.refused.code == errors.TrialOverdueError.code


# --- giving up ---------------------------------------------------------------------


def test_what_is_given_up_is_remembered_and_told(tried: Bench) -> None:
    """With its layer; the keys that it opened are closed."""
    error = errors.LayerMismatchError("changed", layer=LAYER)
    trial.give_up(tried.device, error)
    assert tried.record.trial is None
    assert tried.record.refused == Refusal(
        release=NEW, code=error.code, message="changed", at=tried.clock
    )
    failure = tried.device.failure
    assert failure is not None
    assert (failure.step, failure.code, failure.layer, failure.release) == (
        "confirm",
        error.code,
        LAYER,
        NEW,
    )
    assert (tried.device.release.name, tried.slots.current) == (OLD, "a")
    assert (tried.device.keystore, tried.device.other) == (None, "")


def test_that_a_release_was_given_up_is_remembered_before_the_slots_are_switched(
    tried: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in between, the next start goes back; it does not try again."""

    def killed(_: Slots) -> None:
        raise KeyboardInterrupt

    switch_back = Slots.switch_back
    monkeypatch.setattr(Slots, "switch_back", killed)
    with pytest.raises(KeyboardInterrupt):
        trial.give_up(tried.device, errors.LayerMismatchError("changed"))
    assert tried.trial().failed == errors.LayerMismatchError.code
    monkeypatch.setattr(Slots, "switch_back", switch_back)
    assert tried.restarted().release.name == OLD


@pytest.mark.parametrize("error", [errors.LayerMismatchError("x"), errors.RootStateError("x")])
def test_a_boot_that_speaks_against_the_release_gives_it_up(
    bench: Bench, error: errors.HwTrustError
) -> None:
    """And the last one is booted."""
    trial.begin(bench.device, NEW, restart=False)
    bench.ends = [error]
    trial.boot_on_trial(bench.device)
    assert bench.boots == [NEW, OLD]
    assert bench.device.keystore is not None


NOT_OF_THE_RELEASE = [
    errors.ChannelError("the backend is away"),
    errors.TpmTransportError("the TPM is pulled"),
    errors.RootExpiredError("the root's time is over"),
    errors.RootRevokedError("the counter has passed it"),
]


@pytest.mark.parametrize("error", NOT_OF_THE_RELEASE, ids=lambda error: error.code)
def test_a_boot_that_fails_for_something_else_gives_nothing_up(
    bench: Bench, error: errors.HwTrustError
) -> None:
    """A pulled TPM and an expired root say nothing of a release."""
    trial.begin(bench.device, NEW, restart=False)
    bench.ends = [error]
    with pytest.raises(type(error)):
        trial.boot_on_trial(bench.device)
    assert bench.trial().release == NEW


def test_without_a_trial_a_boot_that_fails_is_not_made_again(bench: Bench) -> None:
    """Its error is the caller's."""
    bench.ends = [errors.LayerMismatchError("changed")]
    with pytest.raises(errors.LayerMismatchError):
        trial.boot_on_trial(bench.device)
    assert bench.boots == [OLD]


@pytest.mark.parametrize("code", ["release:outdated", "log:violation", "pcr:value"])
def test_a_verdict_against_the_release_gives_it_up(tried: Bench, code: str) -> None:
    """What was said of it is no word on the last one, which is booted and attested."""
    before = Heard(mode=Mode.NORMAL, at_ms=1)
    tried.device.heard = before
    good = answer()
    tried.answers = [answer((code, Severity.FAIL)), good]
    assert confirm.attest_on_trial(tried.device) is good
    assert tried.boots == [NEW, OLD]
    assert tried.heard[-1] == before
    assert tried.record.refused is not None
    assert tried.record.refused.code == errors.TrialFailedError.code


def test_a_verdict_on_the_device_too_is_not_taken_back(tried: Bench) -> None:
    """An administrator's lock outlives the release."""
    tried.answers = [
        answer(("release:outdated", Severity.FAIL), ("admin:locked", Severity.FAIL)),
        answer(("admin:locked", Severity.FAIL)),
    ]
    confirm.attest_on_trial(tried.device)
    assert tried.boots == [NEW, OLD]
    assert tried.heard[-1] == Heard(mode=Mode.LOCKED, at_ms=2)


@pytest.mark.parametrize(
    "finding",
    [
        ("release:outdated", Severity.ALERT),
        ("admin:locked", Severity.FAIL),
        ("clock:lag", Severity.FAIL),
        ("epoch:revoked", Severity.FAIL),
        ("evidence:kind", Severity.FAIL),
        ("policy:absent", Severity.FAIL),
    ],
)
def test_a_verdict_that_is_none_on_the_release_gives_nothing_up(
    tried: Bench, finding: tuple[str, Severity]
) -> None:
    """The release before would get it as well."""
    tried.answers = [answer(finding)]
    confirm.attest_on_trial(tried.device)
    assert tried.boots == [NEW]
    assert tried.trial().release == NEW


def test_a_verdict_before_the_release_came_up_gives_nothing_up(tried: Bench) -> None:
    """It is one on what ran before, but for what is said of the name."""
    tried.change(up=False)
    tried.answers = [answer(("log:violation", Severity.FAIL))]
    confirm.attest_on_trial(tried.device)
    assert tried.trial().release == NEW
    tried.answers = [answer(("release:outdated", Severity.FAIL)), answer()]
    confirm.attest_on_trial(tried.device)
    assert tried.record.trial is None


def test_a_verdict_on_the_name_gives_up_no_repair_of_the_same_release(tried: Bench) -> None:
    """The other slot is of that name too."""
    tried.change(previous=NEW)
    tried.answers = [answer(("release:outdated", Severity.FAIL))]
    confirm.attest_on_trial(tried.device)
    assert tried.trial().release == NEW


def test_the_failure_of_which_another_is_the_consequence_is_told(tried: Bench) -> None:
    """The last release may need a restart, because of the one that was given up."""
    why = errors.LayerMismatchError("changed", layer=LAYER)
    tried.ends = [errors.RootStateError("closed")]
    with pytest.raises(errors.RootStateError):
        trial.fall_back(tried.device, why)
    assert tried.device.failure is not None
    assert tried.device.failure.code == why.code


def test_without_a_trial_a_verdict_switches_nothing(bench: Bench) -> None:
    """There is one release only."""
    trial.boot_on_trial(bench.device)
    bench.answers = [answer(("release:outdated", Severity.FAIL))]
    confirm.attest_on_trial(bench.device)
    assert (bench.boots, bench.slots.current) == ([OLD], "a")


def test_what_the_backend_orders_is_remembered(bench: Bench) -> None:
    """And forgotten, when it orders nothing any more."""
    for order in (UpdateOrder(release=NEW, forced=True), None):
        trial.note_order(bench.device, order)
        assert bench.record.order == order
