"""The rules of `hwtrust.device.boot`, without a TPM: what happens, in which order, and what not.

The TPM's part is played by a recorder; layers, event log, state directory and
approvals are real. The same on a TPM is in tests/integration/device.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from hwtrust import errors
from hwtrust.device import boot
from hwtrust.device.state import DeviceState, Identity, StoredRoot
from hwtrust.files import private_directory
from hwtrust.keys.kek import derive_kek
from hwtrust.layers import reference
from hwtrust.measure import application_selection
from hwtrust.tpm.connection import Pinned
from hwtrust.wire.cel import CAP, RELOAD, RESET_VALUE, Event, EventKind
from hwtrust.wire.envelope import Envelope
from hwtrust.wire.messages import Release, TlsKeyKind
from hwtrust.wire.root import Approval, Branch
from hwtrust.wire.states import cold_value, layer_event, live_value, state_digest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


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


@dataclass
class Bench:
    """A device on the bench: everything that it does is in `done`."""

    context: Any
    """Plays a DeviceContext."""
    state: DeviceState
    release: Release
    log: FakeLog
    home: Path
    values: dict[int, bytes]
    done: list[str] = field(default_factory=list)
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

    def boot(self) -> None:
        """Boot."""
        boot.boot(self.context)


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

    @contextmanager
    def step(name: str, detail: str = "") -> Iterator[None]:
        yield

    context: Any = SimpleNamespace(
        config=SimpleNamespace(
            tpm=SimpleNamespace(pcr=PCR),
            layers={name: str(tmp_path / name) for name in LAYERS},
        ),
        release=release,
        state=state,
        tpm=None,
        measured=log,
        metadata_key=None,
        policy_key=None,
        selection=application_selection(PCR, ()),
        identity=identity,
        keystore=None,
        known=lambda: context.identity,
        anchorage=lambda: None,
        step=step,
    )

    def lock() -> None:
        done.append("lock")
        if context.keystore is not None:
            context.keystore.close()
            context.keystore = None

    context.lock = lock
    values = {PCR: RESET_VALUE if cold else b"\x11" * 32}
    made = Bench(context, state, release, log, tmp_path, values, done)
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
    monkeypatch.setattr(boot, "read_counter", read_counter)
    monkeypatch.setattr(boot, "hmac_session", session)
    monkeypatch.setattr(boot, "unseal_root", unseal)
    monkeypatch.setattr(boot, "renew_approval", renew)
    monkeypatch.setattr(
        boot, "reopen_root", lambda *_, **__: SimpleNamespace(public=None, authorization=None)
    )
    yield made
    lock()


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

    monkeypatch.setattr(boot, "renew_approval", renew)
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
    assert bench.context.keystore is not None
    (bench.home / "frontend").write_bytes(b"changed")
    with pytest.raises(errors.LayerMismatchError):
        boot.check_layers(bench.context)
    assert bench.context.keystore is None
    assert bench.log.events[-1].kind is EventKind.VIOLATION
    # The key store is locked before the TPM is asked for anything.
    assert bench.done[-2:] == ["lock", "extend violation frontend"]


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
    bench.context.keystore.put("name", b"value")
    assert bench.state.identity().keystore_made
    bench.boot()
    assert bench.context.keystore["name"] == b"value"
    bench.context.keystore.close()


def test_a_key_store_that_is_gone_is_not_replaced_by_an_empty_one(bench: Bench) -> None:
    """Losing every secret is an error, not a fresh start."""
    bench.hold(1, good_value(bench))
    bench.boot()
    bench.context.keystore.close()
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
    bench.context.keystore.close()


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
