"""The rules of `hwtrust.device.boot`, without a TPM: what happens, in which order, and what not.

The TPM's part is played by a recorder; layers, event log, state directory and
approvals are real. The same on a TPM is in tests/integration/device.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from hwtrust import errors
from hwtrust.device import boot
from hwtrust.device.attest import renew_approval
from hwtrust.device.config import OnFailure
from hwtrust.device.context import DeviceContext
from hwtrust.device.results import State
from hwtrust.device.state import DeviceState, Heard, Identity, StoredRoot
from hwtrust.files import private_directory
from hwtrust.keys.kek import derive_kek
from hwtrust.layers import reference
from hwtrust.measure import application_selection
from hwtrust.tpm.connection import Pinned
from hwtrust.wire.cel import CAP, RELOAD, RESET_VALUE, Event, EventKind
from hwtrust.wire.envelope import Envelope
from hwtrust.wire.messages import Finding, Mode, Release, Severity, TlsKeyKind
from hwtrust.wire.root import Approval, Branch
from hwtrust.wire.states import cold_value, layer_event, live_value, state_digest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from hwtrust.device.results import Activate, Condition
    from hwtrust.keys.kek import Kek
    from hwtrust.wire.messages import LayerReference

LAYERS = ("kernel", "frontend")
PCR = 8
DEVICE = bytes(34)
SECRET = bytes(range(32))


class FakeLog:
    """Records what is extended; `cold` says what the PCR is held to be."""

    def __init__(self, done: list[str], *, cold: bool) -> None:
        self.done = done
        self.cold = cold
        self.events: list[Event] = []

    @property
    def log(self) -> FakeLog:
        """As MeasuredLog, as far as its events go."""
        return self

    def synchronise(self, values: Mapping[int, bytes]) -> bool:
        """As MeasuredLog."""
        self.done.append("synchronise")
        assert set(values) == {PCR}
        return self.cold

    def extend(self, _: object, event: Event, __: object, *, last: bool = False) -> None:
        """As MeasuredLog."""
        assert last == (event == CAP)
        self.events.append(event)
        self.done.append(f"extend {event.kind.name.lower()} {event.name}".rstrip())


class BenchContext(DeviceContext):
    """A DeviceContext that writes down when it is locked."""

    done: list[str] = msgspec.field(default_factory=list)

    def lock(self) -> None:
        """As DeviceContext."""
        self.done.append("lock")
        super().lock()

    def anchorage(self) -> Any:  # noqa: ANN401 - the recorder looks at nothing of it
        """As DeviceContext."""
        return None


@dataclass
class Bench:
    """A device on the bench: everything that it does is in `done`."""

    context: DeviceContext
    state: DeviceState
    release: Release
    log: FakeLog
    home: Path
    values: dict[int, bytes]
    done: list[str] = field(default_factory=list)
    told: list[Condition] = field(default_factory=list)
    counter: int = 1
    unseal_error: errors.HwTrustError | None = None

    def approval(self, *values: bytes) -> Approval:
        """Leave for these values of the application PCR."""
        selection = application_selection(PCR, ())
        branches = tuple(
            Branch(
                label=str(number),
                pcr_digest=state_digest(selection, self.values, pcr=PCR, value=value),
            )
            for number, value in enumerate(values)
        )
        return Approval(
            epoch=1,
            selection=str(selection),
            branches=branches,
            counter_name=bytes(34),
            not_after=1,
        )

    def hold(self, epoch: int, *values: bytes) -> StoredRoot:
        """Keep a root that is approved for these values."""
        root = StoredRoot(
            epoch=epoch,
            metadata=Envelope(payload_type="", payload=b"", signatures=()),
            public=b"",
            private=b"",
            approval=self.approval(*values),
        )
        self.state.save_root(root)
        return root

    def boot(self, activate: Activate | None = None) -> None:
        """Boot."""
        boot.boot(self.context, activate=activate)


@pytest.fixture(params=[True, False], ids=["cold", "live"])
def cold(request: pytest.FixtureRequest) -> bool:
    """Whether nothing has been measured since the reset."""
    return bool(request.param)


@pytest.fixture
def bench(tmp_path: Path, cold: bool, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """A device with two layers, whose TPM opens every root that it is asked for."""
    for name in LAYERS:
        (tmp_path / name).write_bytes(name.encode())
    release = Release(
        name="1.0", layers=tuple(reference(name, "1", tmp_path / name) for name in LAYERS)
    )
    state = DeviceState(private_directory(tmp_path / "state"))
    done: list[str] = []
    pinned = Pinned(1, b"name")
    identity = Identity(
        device=DEVICE,
        ek_profile="L-2",
        ak=pinned,
        storage_key=pinned,
        counter=pinned,
        tls_kind=TlsKeyKind.ATTESTED,
    )
    log = FakeLog(done, cold=cold)

    told: list[Condition] = []
    config: Any = SimpleNamespace(
        tpm=SimpleNamespace(pcr=PCR, platform_pcrs=()),
        layers={name: str(tmp_path / name) for name in LAYERS},
        on_failure=OnFailure.LOCKED,
    )
    nothing: Any = None
    measured: Any = log
    context = BenchContext(
        config=config,
        trust=nothing,
        release=release,
        state=state,
        tpm=nothing,
        channel=nothing,
        measured=measured,
        policy_key=nothing,
        metadata_key=nothing,
        identity=identity,
        on_condition=told.append,
    )
    context.done = done
    values = {PCR: RESET_VALUE if cold else b"\x11" * 32}
    made = Bench(context, state, release, log, tmp_path, values, done, told)
    state.save_identity(identity)

    @contextmanager
    def session(*_: object) -> Iterator[object]:
        done.append("session")
        yield None

    def unseal(*_: object, branch: int) -> object:
        done.append(f"unseal {branch}")
        if made.unseal_error is not None:
            raise made.unseal_error
        return SimpleNamespace(secret=SECRET, ticket=b"ticket")

    def read_counter(*_: object) -> int:
        done.append("read counter")
        return made.counter

    def renew(_: object, root: StoredRoot) -> StoredRoot:
        done.append("renew")
        return root

    monkeypatch.setattr(boot, "read_pcrs", lambda _: made.values)
    monkeypatch.setattr("hwtrust.tpm.provision.read_counter", read_counter)
    monkeypatch.setattr(boot, "hmac_session", session)
    monkeypatch.setattr(boot, "unseal_root", unseal)
    monkeypatch.setattr("hwtrust.device.attest.renew_approval", renew)
    monkeypatch.setattr(
        boot, "reopen_root", lambda *_, **__: SimpleNamespace(public=None, authorization=None)
    )
    yield made
    context.lock()


def good_value(bench: Bench) -> bytes:
    """What the application PCR holds after a good load."""
    if bench.log.cold:
        return cold_value(bench.release)
    return live_value(bench.release, bench.values[PCR])


def loaded(bench: Bench) -> list[str]:
    """What a good load extends."""
    reload = [] if bench.log.cold else ["extend reload"]
    return [*reload, *(f"extend layer {name}" for name in LAYERS)]


# --- rule 1: look before anything is extended ----------------------------------------------


def test_a_good_boot_extends_every_layer_then_unseals_then_caps(bench: Bench) -> None:
    """The order on which the policy rests; `reload` comes first where it is no cold start."""
    bench.hold(1, good_value(bench))
    bench.boot()
    assert bench.done == [
        "lock",
        "synchronise",
        "session",
        *loaded(bench),
        "unseal 0",
        "extend cap",
    ]
    assert bench.log.events[-1] == CAP
    expected = [layer_event(layer) for layer in bench.release.layers]
    assert [event for event in bench.log.events if event.kind is EventKind.LAYER] == expected
    if not bench.log.cold:
        assert bench.log.events[0] == RELOAD


def test_the_branch_is_the_one_of_the_state_that_the_load_leads_to(bench: Bench) -> None:
    """Of several approved states the right one is satisfied."""
    bench.hold(1, b"\x01" * 32, good_value(bench), b"\x02" * 32)
    bench.boot()
    assert "unseal 1" in bench.done


def test_without_a_branch_an_approval_is_fetched_before_anything_is_extended(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has been extended cannot be taken back."""
    root = bench.hold(1, b"\x01" * 32)

    def renew(_: object, held: StoredRoot) -> StoredRoot:
        bench.done.append("renew")
        assert held == root
        assert bench.log.events == []
        return bench.hold(1, good_value(bench))

    monkeypatch.setattr("hwtrust.device.attest.renew_approval", renew)
    bench.boot()
    assert bench.done[:4] == ["lock", "synchronise", "renew", "session"]
    assert bench.done[-1] == "extend cap"


def test_where_no_approval_helps_nothing_is_extended(bench: Bench) -> None:
    """The device can still be brought into an approved state."""
    bench.hold(1, b"\x01" * 32)
    with pytest.raises(errors.RootStateError) as refused:
        bench.boot()
    assert refused.value.code == "root:state:unapproved"
    assert bench.done == ["lock", "synchronise", "renew"]
    assert bench.log.events == []


def test_a_conflict_in_the_pcr_ends_the_boot_before_anything(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is measured on top of what nobody can explain."""

    def conflict(_: object) -> bool:
        raise errors.TpmPcrConflictError("in use", pcr=PCR)

    bench.hold(1, good_value(bench))
    monkeypatch.setattr(bench.log, "synchronise", conflict)
    with pytest.raises(errors.TpmPcrConflictError):
        bench.boot()
    assert bench.done == ["lock"]


# --- rule 2: measure, compare, extend --------------------------------------------------------


@pytest.mark.parametrize("place", range(len(LAYERS)))
def test_the_first_layer_that_differs_is_a_violation_and_ends_the_chain(
    bench: Bench, place: int
) -> None:
    """What was found is extended, nothing after it is even measured, and nothing is unsealed."""
    (bench.home / LAYERS[place]).write_bytes(b"changed")
    for later in LAYERS[place + 1 :]:
        (bench.home / later).unlink()
    bench.hold(1, good_value(bench))
    with pytest.raises(errors.LayerMismatchError) as mismatch:
        bench.boot()
    assert mismatch.value.data["layer"] == LAYERS[place]
    violation = bench.log.events[-1]
    assert violation.kind is EventKind.VIOLATION
    assert violation.digest.hex() == mismatch.value.data["found"]
    assert not any(step.startswith("unseal") for step in bench.done)
    assert bench.done[-1].startswith("extend violation")
    assert bench.context.keystore is None


def test_a_layer_that_cannot_be_read_ends_the_chain_without_an_event(bench: Bench) -> None:
    """There is nothing to extend; nothing is unsealed either."""
    (bench.home / "frontend").unlink()
    bench.hold(1, good_value(bench))
    with pytest.raises(errors.LayerUnreadableError) as unreadable:
        bench.boot()
    assert unreadable.value.code == "layer:unreadable"
    assert bench.done[-1] == "extend layer kernel"


def test_a_layer_that_changes_later_locks_the_key_store(bench: Bench) -> None:
    """Checking again at run time finds it, extends a violation and forgets the keys."""
    bench.hold(1, good_value(bench))
    bench.boot()
    boot.check_layers(bench.context)
    assert bench.context.opened() is not None
    (bench.home / "frontend").write_bytes(b"changed")
    with pytest.raises(errors.LayerMismatchError):
        boot.check_layers(bench.context)
    assert bench.context.keystore is None
    assert bench.log.events[-1].kind is EventKind.VIOLATION
    # The key store is locked before the TPM is asked for anything.
    assert bench.done[-2:] == ["lock", "extend violation frontend"]


# --- activating --------------------------------------------------------------------------------


def test_a_layer_is_activated_after_its_own_extend_and_before_the_next(bench: Bench) -> None:
    """What runs is in the PCR before it runs, and opens nothing before all of it is there."""
    bench.hold(1, good_value(bench))
    bench.boot(lambda layer, _: bench.done.append(f"activate {layer.name}"))
    started = [step for step in bench.done if step.startswith(("extend layer", "activate"))]
    assert started == [f"{what} {name}" for name in LAYERS for what in ("extend layer", "activate")]
    assert bench.done.index("unseal 0") > bench.done.index(f"activate {LAYERS[-1]}")


@pytest.mark.parametrize("place", range(len(LAYERS)))
def test_a_layer_that_is_not_activated_ends_the_chain(bench: Bench, place: int) -> None:
    """Nothing after it is measured; only the state that would open the root is capped."""
    failing = LAYERS[place]
    for later in LAYERS[place + 1 :]:
        (bench.home / later).unlink()

    def activate(layer: LayerReference, _: Path) -> None:
        if layer.name == failing:
            raise KeyError("sesame")

    bench.hold(1, good_value(bench))
    bench.context.started = bench.release
    with pytest.raises(errors.LayerActivationError) as failed:
        bench.boot(activate)
    assert failed.value.code == "layer:activation"
    assert failed.value.data["layer"] == failing
    assert isinstance(failed.value.__cause__, KeyError)
    assert "sesame" not in failed.value.message
    last = failing == LAYERS[-1]
    assert bench.done[-1] == ("extend cap" if last else f"extend layer {failing}")
    assert not any(step.startswith("unseal") for step in bench.done)
    assert bench.context.started is None


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_that_changes_while_it_is_activated_is_a_violation(bench: Bench, name: str) -> None:
    """74: what was loaded may not be what was measured, so the root stays in."""
    place = bench.home / name

    def activate(layer: LayerReference, path: Path) -> None:
        if layer.name == name:
            assert path == place
            path.write_bytes(b"swapped")

    bench.hold(1, good_value(bench))
    with pytest.raises(errors.LayerSwappedError) as swapped:
        bench.boot(activate)
    assert swapped.value.code == "layer:swapped"
    assert bench.log.events[-1].kind is EventKind.VIOLATION
    assert not any(step.startswith("unseal") for step in bench.done)


def test_the_last_layer_that_is_gone_after_its_activation_is_capped(bench: Bench) -> None:
    """All that opens the root is in the PCR then."""
    bench.hold(1, good_value(bench))
    with pytest.raises(errors.LayerUnreadableError):
        bench.boot(lambda layer, path: path.unlink() if layer.name == LAYERS[-1] else None)
    assert bench.done[-1] == "extend cap"


# --- what is told and kept -----------------------------------------------------------------------


def test_a_failure_is_told_then_kept_on_disk(bench: Bench) -> None:
    """Step, layer, code and time, for the host at once and for the backend later."""
    bench.context.now = lambda: 1234
    (bench.home / LAYERS[-1]).write_bytes(b"changed")
    bench.hold(1, good_value(bench))
    with pytest.raises(errors.LayerMismatchError):
        bench.boot()
    assert [told.state for told in bench.told] == [State.LOADING, State.LOCKED]
    kept = bench.state.failure()
    assert kept == bench.context.failure
    assert kept is not None
    assert (kept.step, kept.layer, kept.code) == ("verify", LAYERS[-1], "layer:mismatch")
    assert (kept.release, kept.at_ms) == ("1.0", 1234)
    assert bench.told[-1].since_ms == 1234


def test_a_disk_that_takes_no_failure_hides_neither_it_nor_its_cause(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told from memory while the process lives."""

    def full(_: object) -> None:
        raise errors.StateDiskError("full")

    monkeypatch.setattr(bench.state, "save_failure", full)
    (bench.home / LAYERS[0]).unlink()
    bench.hold(1, good_value(bench))
    with pytest.raises(errors.LayerUnreadableError):
        bench.boot()
    assert bench.context.failure is not None
    assert bench.context.failure.code == "layer:unreadable"


def test_a_kept_failure_that_cannot_be_read_is_told_as_one(bench: Bench) -> None:
    """A torn file does not keep the device from being opened, and is not passed over."""
    (bench.state.directory / "failure.json").write_bytes(b"{")
    found = bench.state.failure()
    assert found is not None
    assert (found.step, found.code) == ("open", "state:damaged")


@pytest.mark.parametrize("answer", ["locked", "away"])
def test_a_device_that_its_backend_has_locked_extends_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    """It is asked first; neither the same answer nor none opens anything, nor is it a failure."""

    def ask(_: object) -> None:
        if answer == "away":
            raise errors.ChannelUnreachableError("no connection")

    monkeypatch.setattr("hwtrust.device.attest.attest_once", ask)
    bench.context.heard = Heard(mode=Mode.LOCKED, at_ms=1)
    bench.hold(1, good_value(bench))
    with pytest.raises(errors.DeviceLockedError) as locked:
        bench.boot()
    assert locked.value.code == "state:locked"
    assert bench.log.events == []
    assert bench.context.condition.state is State.LOCKED
    assert bench.context.failure is None


def test_a_refused_approval_names_the_finding_that_weighs_most(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A changed kernel is told, and not that nothing was measured yet."""
    findings = tuple(
        Finding(code=code, severity=severity, message=code)
        for code, severity in (
            ("clock:unsafe", Severity.ALERT),
            ("log:empty", Severity.INCOMPLETE),
            ("pcr:platform", Severity.FAIL),
        )
    )
    for found, named in ((findings, "pcr:platform"), (findings[:2], "log:empty"), ((), "")):
        reply = SimpleNamespace(approval=None, findings=found)
        monkeypatch.setattr(
            "hwtrust.device.attest.attest_once",
            lambda _, reply=reply: (SimpleNamespace(reply=reply), None),
        )
        root = bench.hold(1, good_value(bench))
        with pytest.raises(errors.RootStateError) as caught:
            renew_approval(bench.context, root)
        assert caught.value.data["finding"] == named


def test_a_device_that_is_not_locked_any_more_boots(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer to the question counts."""

    def ask(device: DeviceContext) -> None:
        device.heard = Heard(mode=Mode.NORMAL, at_ms=2)

    monkeypatch.setattr("hwtrust.device.attest.attest_once", ask)
    bench.context.heard = Heard(mode=Mode.LOCKED, at_ms=1)
    bench.hold(1, good_value(bench))
    bench.boot()
    assert bench.context.condition.state is State.NORMAL


# --- rule 3: the cap ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [errors.RootExpiredError("x"), errors.RootRevokedError("x"), errors.TpmTamperedError("x")],
    ids=lambda error: error.code,
)
def test_a_refused_root_is_capped_too(bench: Bench, error: errors.HwTrustError) -> None:
    """Nobody finds the state approved and uncapped."""
    bench.hold(1, good_value(bench))
    bench.unseal_error = error
    with pytest.raises(type(error)):
        bench.boot()
    assert bench.done[-2:] == ["unseal 0", "extend cap"]
    assert bench.context.keystore is None
    assert not bench.state.keystore.exists()


def test_booting_again_locks_first(bench: Bench) -> None:
    """The old keys are gone while the layers are measured."""
    bench.hold(1, good_value(bench))
    bench.boot()
    bench.unseal_error = errors.RootExpiredError("x")
    with pytest.raises(errors.RootExpiredError):
        bench.boot()
    assert bench.context.keystore is None


# --- rule 4: which root ------------------------------------------------------------------------


def test_a_single_root_needs_no_counter(bench: Bench) -> None:
    """The TPM itself says whether it is the right one; a command is spared."""
    root = bench.hold(7, good_value(bench))
    assert boot.active_root(bench.context) == root
    assert bench.done == []


@pytest.mark.parametrize(("counter", "left"), [(1, [1, 2]), (2, [2])])
def test_of_two_roots_the_counter_names_the_active_one(
    bench: Bench, counter: int, left: list[int]
) -> None:
    """Before the increment it is the old one, after it the new one; revoked ones go."""
    bench.hold(1)
    bench.hold(2)
    bench.counter = counter
    assert boot.active_root(bench.context).epoch == counter
    assert list(bench.state.roots()) == left


@pytest.mark.parametrize("epochs", [(), (1, 2)], ids=["no root", "two others"])
def test_a_root_that_is_missing_is_named(bench: Bench, epochs: tuple[int, ...]) -> None:
    """The error says which epoch the counter shows."""
    for epoch in epochs:
        bench.hold(epoch)
    bench.counter = 3
    with pytest.raises(errors.RootMissingError) as missing:
        boot.active_root(bench.context)
    assert missing.value.code == "root:missing"
    assert missing.value.data["epoch"] == 3


# --- the key store -------------------------------------------------------------------------------


def test_the_key_store_is_made_once(bench: Bench) -> None:
    """Made at the first boot, opened at the second; the identity remembers it."""
    bench.hold(1, good_value(bench))
    bench.boot()
    bench.context.opened().put("name", b"value")
    assert bench.state.identity().keystore_made
    bench.boot()
    assert bench.context.opened()["name"] == b"value"
    bench.context.opened().close()


def test_a_key_store_that_is_gone_is_not_replaced_by_an_empty_one(bench: Bench) -> None:
    """Losing every secret is an error, not a fresh start."""
    bench.hold(1, good_value(bench))
    bench.boot()
    bench.context.opened().close()
    bench.state.keystore.unlink()
    with pytest.raises(errors.KeyStoreMissingError) as missing:
        bench.boot()
    assert missing.value.code == "keystore:missing"
    assert not bench.state.keystore.exists()


def test_the_ticket_of_an_opened_root_is_kept(bench: Bench) -> None:
    """The next boot spares the signature's verification."""
    bench.hold(1, good_value(bench))
    bench.boot()
    assert bench.state.roots()[1].ticket == b"ticket"
    bench.context.opened().close()


def test_a_boot_finishes_a_rotation_that_was_cut_short(bench: Bench) -> None:
    """After the increment the new root opens the store, and the old wrap and file go."""
    bench.hold(1, good_value(bench))
    bench.boot()
    store = bench.context.keystore
    assert store is not None
    store.put("name", b"value")
    kek = derive_kek(SECRET, device=DEVICE, epoch=2)
    store.begin_rotation(kek)
    kek.erase()
    bench.hold(2, good_value(bench))
    bench.counter = 2
    bench.boot()
    store = bench.context.keystore
    assert store is not None
    assert (store.epoch, store["name"]) == (2, b"value")
    assert type(store).epochs(bench.state.keystore) == (2,)
    assert list(bench.state.roots()) == [2]
    store.close()


def test_a_root_that_came_on_the_way_leaves_none_of_before(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the counter has passed opens nothing, and does not stay on the disk."""

    def renew(*_: object) -> StoredRoot:
        return msgspec.structs.replace(bench.hold(2, good_value(bench)), epoch=2)

    monkeypatch.setattr("hwtrust.device.attest.renew_approval", renew)
    bench.hold(1, b"\x01" * 32)
    bench.boot()
    assert list(bench.state.roots()) == [2]


def test_a_key_store_that_was_not_noted_is_noted_by_the_next_boot(bench: Bench) -> None:
    """The power went after it was made: from now on it is missed when it goes."""
    bench.hold(1, good_value(bench))
    bench.boot()
    identity = msgspec.structs.replace(bench.state.identity(), keystore_made=False)
    bench.state.save_identity(identity)
    bench.context.identity = identity
    bench.boot()
    assert bench.state.identity().keystore_made


@pytest.mark.parametrize("opens", [True, False])
def test_the_kek_is_erased_once_the_key_store_was_tried(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, *, opens: bool
) -> None:
    """It does not wait in memory for whoever reads that later."""
    made: list[Kek] = []

    def derive(secret: bytes, *, device: bytes, epoch: int) -> Kek:
        made.append(derive_kek(secret, device=device, epoch=epoch))
        return made[-1]

    monkeypatch.setattr(boot, "derive_kek", derive)
    bench.hold(1, good_value(bench))
    if opens:
        bench.boot()
    else:
        bench.state.keystore.write_bytes(b"no key store")
        with pytest.raises(errors.KeyStoreError):
            bench.boot()
    assert [repr(kek) for kek in made] == ["<Kek of epoch 1, erased>"]
