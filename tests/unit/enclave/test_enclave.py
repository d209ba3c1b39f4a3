"""An enclave's life: start, attest, rotate, lock, expire; on kernels that are models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from hwtrust.enclave import Enclave, State, kept
from hwtrust.enclave.clock import SignedClock
from hwtrust.enclave.measured import register_value
from hwtrust.errors import (
    AnchorStaleError,
    ChannelUnreachableError,
    ConfigError,
    DeviceLockedError,
    EnclaveAnchorError,
    EnclaveRegisterError,
    EnclaveSealedError,
    EnclaveUntrustedError,
    HwTrustError,
    KeyStoreEpochError,
    KeyStoreLockedError,
    KeyStoreMissingError,
    LayerMismatchError,
    NotEnrolledError,
    RefusedError,
    RootClockError,
    RootDeviceError,
    RootExpiredError,
    StateBusyError,
)
from hwtrust.files import write_atomic
from hwtrust.keys.keystore import KeyStore
from hwtrust.layers import reference
from hwtrust.wire.challenge import Purpose
from hwtrust.wire.enclave import EnclaveKind, EnclaveRootMetadata
from hwtrust.wire.messages import Finding, Mode, Release, Severity, Standing
from hwtrust.wire.statement import decode_statement
from simulators.enclave_backend import DAY_MS, TOKEN
from simulators.enclave_machines import (
    EnclaveMachine,
    NitroMachine,
    SgxMachine,
    SnpMachine,
    TdxMachine,
)
from simulators.enclave_world import World
from simulators.fake_machine import FakeMachine
from simulators.fake_tdx import MEASUREMENTS, FakeMeasurements

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MACHINES: dict[str, type[EnclaveMachine]] = {
    "SNP, which seals": SnpMachine,
    "SGX, which seals": SgxMachine,
    "TDX": TdxMachine,
    "Nitro": NitroMachine,
}
BAD = Finding(code="snp:debug", severity=Severity.FAIL, message="debugging is on")


@pytest.fixture(params=list(MACHINES))
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    """A machine of each kind."""
    return World(tmp_path / "w", MACHINES[request.param]())


@pytest.fixture
def snp(tmp_path: Path) -> World:
    """A machine that can seal."""
    return World(tmp_path / "w", SnpMachine())


@pytest.fixture
def nitro(tmp_path: Path) -> World:
    """A machine that cannot."""
    return World(tmp_path / "w", NitroMachine())


# --- starting ----------------------------------------------------------------------


def test_a_start_enrols_and_opens_a_key_store(world: World) -> None:
    """Whatever the anchor: layers measured, enrolled, root opened, key store open."""
    with world.open() as enclave:
        store = enclave.start()
        store.put("payments/transport", b"a key")
        assert enclave.keystore["payments/transport"] == b"a key"
        assert enclave.epoch == 1
        assert enclave.condition.state is State.NORMAL
        assert enclave.attest().standing is Standing.TRUSTED
        (device,) = world.backend.known
        assert enclave.device == device
    assert world.conditions == [State.LOADING, State.NORMAL]


def test_a_binding_holds_all_that_is_believed(world: World) -> None:
    """The evidence names key, release key, release, log and epoch of the enclave."""
    with world.open() as enclave:
        enclave.start()
        enclave.attest()
    enrol, attest = world.backend.bindings()
    assert (enrol.purpose, enrol.epoch) == (Purpose.ENROL, 0)
    assert (attest.purpose, attest.epoch) == (Purpose.ATTEST, 1)
    assert enrol.release_key == attest.release_key
    assert len(enrol.release_key) == 32
    assert enrol.tls_key == attest.tls_key
    assert attest.release == "1.0"


def test_closing_forgets_the_keys(world: World) -> None:
    """Who kept the key store finds it locked."""
    with world.open() as enclave:
        store = enclave.start()
    with pytest.raises(KeyStoreLockedError):
        store.list()
    with pytest.raises(KeyStoreLockedError):
        _ = enclave.keystore


def test_before_a_start_there_is_nothing(nitro: World) -> None:
    """No key store, no name, nothing to attest."""
    with nitro.open() as enclave:
        with pytest.raises(KeyStoreLockedError):
            _ = enclave.keystore
        with pytest.raises(NotEnrolledError):
            enclave.attest()
        with pytest.raises(NotEnrolledError):
            _ = enclave.device


def test_one_process_has_the_state_directory(snp: World) -> None:
    """A second one is refused."""
    with snp.open(), pytest.raises(StateBusyError), snp.open():
        pass


def test_a_machine_without_an_enclave_is_refused(nitro: World) -> None:
    """Evidence of an enclave is what the backend asks for."""
    anchor = SnpMachine().anchor
    forged = type(anchor)(kind=anchor.kind, name="", path="", attester=None)
    with pytest.raises(EnclaveAnchorError), nitro.open(anchor=forged):
        pass


def test_a_sealer_that_cannot_be_used_is_told(snp: World) -> None:
    """To be a new device at each start is for the configuration to say, not for a permission."""
    machine = snp.machine.kernel
    port = FakeMachine({path: dev for path, dev in machine.devices.items() if "sev" not in path})
    snp.machine.kernel = port
    with pytest.raises(HwTrustError) as caught, snp.open():
        pass
    assert caught.value.code == "anchor:none"
    config = snp.backend.config(snp.directory, memory_only=True)
    with snp.open(config=config) as enclave:
        enclave.start()
    assert "enclave.sealed" not in snp.names()


def test_a_changed_layer_opens_nothing_and_is_told(world: World) -> None:
    """The load stops at it; the next attestation of an enrolled enclave tells the backend."""
    with world.open() as enclave:
        enclave.start()
        (world.directory / "app").write_bytes(b"changed")
        with pytest.raises(LayerMismatchError):
            enclave.start()
        assert enclave.condition.state is State.LOCKED
        assert (enclave.condition.step, enclave.condition.layer) == ("verify", "app")
        with pytest.raises(KeyStoreLockedError):
            _ = enclave.keystore
        enclave.attest()
        failure = decode_statement(world.backend.bindings()[-1].statement).failure
        assert failure is not None
        assert (failure.code, failure.layer) == ("layer:mismatch", "app")
        enclave.attest()
        assert world.backend.bindings()[-1].statement == b""


UNTRUSTED: dict[str, tuple[dict[str, Any], type[HwTrustError]]] = {
    "it has failed": ({"standing": Standing.FAILED, "findings": (BAD,)}, EnclaveUntrustedError),
    "it is incomplete": ({"standing": Standing.INCOMPLETE}, EnclaveUntrustedError),
    "it is locked": ({"mode": Mode.LOCKED}, DeviceLockedError),
    "the backend is away": ({"away": True}, ChannelUnreachableError),
    "the time is another device's": ({"bad_time": {"device": b"other"}}, RootClockError),
    "the time answers another challenge": ({"bad_time": {"nonce": b"old"}}, RootClockError),
}


@pytest.mark.parametrize("case", UNTRUSTED)
def test_nothing_is_opened_without_the_backends_word(snp: World, case: str) -> None:
    """A sealed root alone opens nothing."""
    answers, error = UNTRUSTED[case]
    with snp.open() as enclave:
        enclave.start()
    for name, value in answers.items():
        setattr(snp.backend, name, value)
    with snp.open() as enclave:
        with pytest.raises(error):
            enclave.start()
        assert enclave.condition.state is State.LOCKED
        assert enclave.condition.code == error.code
        with pytest.raises(KeyStoreLockedError):
            _ = enclave.keystore


def test_a_forged_first_root_is_refused(world: World) -> None:
    """The rules of roots hold for the first one too."""
    world.backend.change = {"device": b"another"}
    with world.open() as enclave:
        with pytest.raises(RootDeviceError):
            enclave.start()
        assert enclave.condition.state is State.LOCKED


def test_an_enrolment_without_a_token_is_refused(world: World) -> None:
    """Nothing is open after it; the same enclave may try again."""
    with world.open(token="") as enclave:
        with pytest.raises(RefusedError):
            enclave.start()
        assert not world.backend.known
    with world.open() as enclave:
        enclave.start()


# --- an anchor that seals ------------------------------------------------------------


@pytest.mark.parametrize("machine", [SnpMachine, SgxMachine])
def test_a_restart_is_the_same_device(tmp_path: Path, machine: type[EnclaveMachine]) -> None:
    """Keys, root and key store are as they were; the token is not needed again."""
    world = World(tmp_path / "w", machine())
    with world.open() as enclave:
        enclave.start().put("name", b"value")
        device = enclave.device
    world.machine.reboot()
    with world.open(token="") as enclave:
        assert enclave.start()["name"] == b"value"
        assert (enclave.device, enclave.epoch) == (device, 1)
    assert len(world.backend.known) == 1


def test_an_updated_cpu_does_not_open_what_an_enclave_sealed(tmp_path: Path) -> None:
    """Gramine gives the key of the present CPU alone: a new device, where that is asked for."""
    machine = SgxMachine()
    world = World(tmp_path / "w", machine)
    with world.open() as enclave:
        enclave.start()
    machine.cpu_svn = bytes(range(1, 17))
    machine.reboot()
    world.backend.tokens.add(TOKEN)
    with world.open() as enclave:
        with pytest.raises(EnclaveSealedError) as caught:
            enclave.start()
        assert caught.value.data["cause"] == "anchor:blob:tcb"
        enclave.start(again=True)


def test_the_log_is_cut_back_to_what_the_register_holds(tmp_path: Path) -> None:
    """Killed between a record and its extend, the next start goes on."""
    machine = TdxMachine()
    world = World(tmp_path / "w", machine)
    with world.open() as enclave:
        enclave.start()
        measurements = machine.kernel.devices[MEASUREMENTS]
        assert isinstance(measurements, FakeMeasurements)
        measurements.swallows = True
        with pytest.raises(AnchorStaleError):
            enclave.start()
        measurements.swallows = False
        enclave.start()
        assert len(enclave._context.measured.log.records) == 5
        value = machine.domain.registers["rtmr3:sha384"]
        assert register_value(enclave._context.measured.log.events) == value


def test_what_is_sealed_shows_nothing(snp: World) -> None:
    """No key is on the disk, only what the anchor encrypted; files are the user's alone."""
    with snp.open() as enclave:
        enclave.start()
        identity = enclave._context.identity
        assert identity is not None
        secrets = secrets_of(enclave)
        on_disk = b"".join(path.read_bytes() for path in snp.state_dir.iterdir())
        assert all(secret not in on_disk for secret in secrets)
    assert (snp.state_dir / "enclave.sealed").stat().st_mode & 0o777 == 0o600
    assert snp.state_dir.stat().st_mode & 0o777 == 0o700


def test_newer_firmware_seals_anew(snp: World) -> None:
    """After a TCB change the blob is made under the new key, and it is the same device."""
    with snp.open() as enclave:
        enclave.start()
        device = enclave.device
    before = (snp.state_dir / "enclave.sealed").read_bytes()
    machine = snp.machine
    assert isinstance(machine, SnpMachine)
    machine.update_firmware()
    with snp.open() as enclave:
        enclave.start()
        assert enclave.device == device
    sealer = machine.anchor.sealer
    assert sealer is not None
    assert sealer.needs_reseal(before)
    assert not sealer.needs_reseal((snp.state_dir / "enclave.sealed").read_bytes())


DAMAGE: dict[str, Callable[[World], None]] = {
    "a bit is flipped": lambda world: flip(world.state_dir / "enclave.sealed"),
    "it is cut short": lambda world: cut(world.state_dir / "enclave.sealed"),
    "it is gone": lambda world: (world.state_dir / "enclave.sealed").unlink(),
    "it comes to another chip": lambda world: setattr(
        world, "machine", SnpMachine(seed=b"another")
    ),
    "another program was launched": lambda world: setattr(
        world, "machine", SnpMachine(measurement=bytes(48))
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_blob_that_does_not_open_is_an_error(snp: World, case: str) -> None:
    """It stays as it is; a new device is made only where the caller asks for it."""
    with snp.open() as enclave:
        enclave.start().put("name", b"value")
        device = enclave.device
    DAMAGE[case](snp)
    before = {path.name: path.read_bytes() for path in snp.state_dir.iterdir()}
    snp.backend.tokens.add(TOKEN)
    with snp.open() as enclave:
        with pytest.raises(EnclaveSealedError):
            enclave.start()
        assert {path.name: path.read_bytes() for path in snp.state_dir.iterdir()} == before
        assert len(enclave.start(again=True)) == 0
        assert enclave.device != device
    assert "keystore.db.before" in snp.names()


def test_a_blob_of_another_kind_is_refused(snp: World) -> None:
    """What opens, and is not what an enclave keeps, is no identity."""
    sealer = snp.machine.anchor.sealer
    assert sealer is not None
    snp.state_dir.mkdir(mode=0o700)
    (snp.state_dir / "enclave.sealed").write_bytes(sealer.seal(b"something else"))
    with snp.open() as enclave, pytest.raises(EnclaveSealedError):
        enclave.start()


def test_a_key_store_that_is_gone_is_missed(snp: World) -> None:
    """It is not made anew without a word."""
    with snp.open() as enclave:
        enclave.start()
    (snp.state_dir / "keystore.db").unlink()
    with snp.open() as enclave, pytest.raises(KeyStoreMissingError):
        enclave.start()


def test_an_older_blob_does_not_open_the_newer_key_store(snp: World) -> None:
    """A blob that was put back holds a root whose wrap is gone."""
    with snp.open() as enclave:
        enclave.start()
        older = (snp.state_dir / "enclave.sealed").read_bytes()
        snp.backend.due = True
        assert enclave.attest().rotated_to == 2
    (snp.state_dir / "enclave.sealed").write_bytes(older)
    with snp.open() as enclave, pytest.raises(KeyStoreEpochError):
        enclave.start()


# --- an anchor that does not -----------------------------------------------------------


@pytest.mark.parametrize("machine", [TdxMachine, NitroMachine])
def test_without_a_sealer_nothing_secret_is_written(
    tmp_path: Path, machine: type[EnclaveMachine]
) -> None:
    """Neither keys, nor roots, nor the key store, nor its values, at any time."""
    world = World(tmp_path / "w", machine())
    with world.open() as enclave:
        enclave.start().put("name", b"a value that is secret")
        world.backend.due = True
        assert enclave.attest().rotated_to == 2
        assert world.names() == {"lock", "eventlog.cel"}
        on_disk = b"".join(path.read_bytes() for path in world.state_dir.iterdir())
        secrets = [*secrets_of(enclave), b"a value that is secret"]
        assert all(secret not in on_disk for secret in secrets)
    assert world.names() == {"lock", "eventlog.cel"}


def test_without_a_sealer_a_restart_is_a_new_device(nitro: World) -> None:
    """It enrols again, and its key store is empty."""
    with nitro.open() as enclave:
        enclave.start().put("name", b"value")
        device = enclave.device
    nitro.machine.reboot()
    with nitro.open() as enclave, pytest.raises(RefusedError):
        enclave.start()
    nitro.backend.tokens.add(TOKEN)
    with nitro.open() as enclave:
        assert len(enclave.start()) == 0
        assert enclave.device != device


# --- rotation --------------------------------------------------------------------------


def test_a_root_that_is_due_replaces_the_last(world: World) -> None:
    """Entries stay, the epoch counts up, and the backend hears of it in the same call."""
    with world.open() as enclave:
        enclave.start().put("name", b"value")
        for epoch in (2, 3):
            world.backend.due = True
            assert enclave.attest().rotated_to == epoch
            assert enclave.epoch == enclave.keystore.epoch == epoch
            assert enclave.keystore["name"] == b"value"
        (known,) = world.backend.known.values()
        assert (known.active, known.offered) == (3, None)


def test_a_rotation_survives_a_restart(snp: World) -> None:
    """The new root is sealed, the old one is not any more."""
    with snp.open() as enclave:
        enclave.start().put("name", b"value")
        snp.backend.due = True
        enclave.attest()
        assert enclave._context.state.identity().roots.keys() == {2}
    with snp.open() as enclave:
        assert enclave.start()["name"] == b"value"
        assert enclave.epoch == 2
        identity = enclave._context.identity
        assert identity is not None
        assert set(identity.roots) == {2}


def test_a_root_that_is_due_at_a_start_is_taken(snp: World) -> None:
    """Even where the held one has expired meanwhile: the same answer has the next."""
    with snp.open() as enclave:
        enclave.start().put("name", b"value")
    snp.advance(31 * DAY_MS)
    with snp.open() as enclave:
        snp.conditions.clear()
        with pytest.raises(RootExpiredError):
            enclave.start()
        assert snp.conditions == [State.LOADING, State.LOCKED]
        snp.backend.due = True
        assert enclave.start()["name"] == b"value"
        assert enclave.epoch == 2


def test_a_refused_root_leaves_the_current_one(world: World) -> None:
    """A next root that does not pass the rules changes nothing."""
    with world.open() as enclave:
        enclave.start().put("name", b"value")
        world.backend.due, world.backend.change = True, {"release": "2.0"}
        with pytest.raises(HwTrustError) as caught:
            enclave.attest()
        assert caught.value.code == "root:release:mismatch"
        assert enclave.keystore["name"] == b"value"
        assert enclave.epoch == 1


# --- lock, limit, expiry -----------------------------------------------------------------


def test_a_lock_drops_the_keys(world: World) -> None:
    """Key store and roots are gone from memory; a start brings back what was sealed."""
    with world.open() as enclave:
        store = enclave.start()
        store.put("name", b"value")
        identity = enclave._context.identity
        assert identity is not None
        world.backend.mode = Mode.LOCKED
        assert enclave.attest().mode is Mode.LOCKED
        assert enclave.condition.state is State.LOCKED
        assert identity.wiped
        with pytest.raises(KeyStoreLockedError):
            store.list()
        with pytest.raises(DeviceLockedError):
            enclave.start()
        world.backend.mode = Mode.NORMAL
        kept = enclave.start()
        seals = world.machine.anchor.sealer is not None
        assert kept.get("name") == (b"value" if seals else None)
        assert enclave.epoch == (1 if seals else 2)


def test_who_is_limited_keeps_what_it_has(world: World) -> None:
    """Until the grace that it was given before is over: no answer prolongs it."""
    world.backend.offline_grace_ms = DAY_MS
    with world.open() as enclave:
        enclave.start()
        world.backend.mode, world.backend.standing = Mode.LIMITED, Standing.FAILED
        world.advance(DAY_MS // 2)
        enclave.attest()
        assert enclave.condition.state is State.LIMITED
        enclave.keystore.list()
        world.advance(DAY_MS // 2)
        with pytest.raises(RootExpiredError):
            _ = enclave.keystore
    assert world.conditions[-2:] == [State.LIMITED, State.LOCKED]


EXPIRY = {"its root expires": (0, 30 * DAY_MS), "it is not heard": (DAY_MS, DAY_MS)}


@pytest.mark.parametrize("case", EXPIRY)
def test_a_key_store_whose_time_is_over_is_refused(world: World, case: str) -> None:
    """By the backend's signed time, carried on by the clock since the start of the machine."""
    world.backend.offline_grace_ms, life = EXPIRY[case]
    with world.open() as enclave:
        store = enclave.start()
        world.advance(life - 1)
        enclave.keystore.list()
        world.advance(1)
        assert enclave.condition.state is State.LOCKED
        assert enclave.condition.code == "root:expired"
        with pytest.raises(KeyStoreLockedError):
            _ = enclave.keystore
        with pytest.raises(KeyStoreLockedError):
            store.list()


def test_an_answer_in_time_prolongs_the_grace(world: World) -> None:
    """An enclave that attests within it runs on."""
    world.backend.offline_grace_ms = DAY_MS
    with world.open() as enclave:
        enclave.start()
        for _ in range(5):
            world.advance(DAY_MS - 1)
            enclave.attest()
            enclave.keystore.list()


@pytest.mark.parametrize("attests", [False, True])
def test_the_time_is_reckoned_from_before_the_question(nitro: World, *, attests: bool) -> None:
    """A slow answer makes nothing good for longer."""
    nitro.backend.offline_grace_ms = DAY_MS
    slow = nitro.backend.way()
    answer, post = 60_000, slow.post

    def late(*args: Any, **options: Any) -> Any:  # noqa: ANN401
        reply = post(*args, **options)
        nitro.boot_ms += answer
        return reply

    with pytest.MonkeyPatch.context() as patched, nitro.open(channel=slow) as enclave:
        patched.setattr(slow, "post", late)
        enclave.start()
        if attests:
            enclave.attest()
        nitro.boot_ms += DAY_MS - answer - 1
        enclave.keystore.list()
        nitro.boot_ms += 1
        with pytest.raises(RootExpiredError):
            _ = enclave.keystore


def test_the_time_never_goes_back() -> None:
    """A backend whose clock was turned back revives nothing; without any there is no time."""
    clock = SignedClock(lambda: 7)
    with pytest.raises(RootClockError):
        clock.now()
    for utc_ms, expected in ((1_000, 1_000), (500, 1_000), (1_001, 1_001)):
        clock.follow(utc_ms, asked=clock.elapsed())
        assert clock.now() == expected


def test_a_start_is_whole_or_nothing_is_open(snp: World) -> None:
    """Where the backend was not heard of the new root, the key store is closed again."""
    with snp.open() as enclave:
        enclave.start().put("name", b"value")
    snp.backend.due, snp.backend.lose, snp.backend.spare = True, "attest", 1
    with snp.open() as enclave:
        with pytest.raises(ChannelUnreachableError):
            enclave.start()
        with pytest.raises(KeyStoreLockedError):
            _ = enclave.keystore
        assert enclave.start()["name"] == b"value"
        assert enclave.epoch == 2


def test_an_expired_certificate_is_replaced(world: World) -> None:
    """The key is proved again, and the same call attests."""
    with world.open() as enclave:
        enclave.start()
        world.backend.expired = True
        enclave.attest()
        purposes = [binding.purpose for binding in world.backend.bindings()]
        assert purposes[-3:] == [Purpose.ATTEST, Purpose.SESSION, Purpose.ATTEST]


# --- registers -----------------------------------------------------------------------------


def test_a_register_that_somebody_else_extended_is_a_conflict(tmp_path: Path) -> None:
    """Nothing is extended on top of what the log does not explain."""
    machine = TdxMachine()
    world = World(tmp_path / "w", machine)
    machine.domain.registers["rtmr3:sha384"] = b"\x01" * 48
    with world.open() as enclave, pytest.raises(EnclaveRegisterError):
        enclave.start()
    config = world.backend.config(world.directory, register="rtmr2")
    with world.open(config=config) as enclave:
        enclave.start()


def test_a_register_that_there_is_not_is_refused(world: World) -> None:
    """A misspelt register measures nowhere."""
    config = world.backend.config(world.directory, register="rtmr9")
    with pytest.raises(ConfigError), world.open(config=config):
        pass


def test_a_locked_register_explains_one_load(nitro: World) -> None:
    """A process that starts anew in the same Nitro enclave goes on with the same layers alone."""
    with nitro.open() as enclave:
        enclave.start()
    nitro.backend.tokens.add(TOKEN)
    with nitro.open() as enclave:
        enclave.start()
        assert len(enclave._context.measured.log.records) == 2
    (nitro.directory / "app").write_bytes(b"changed")
    config = nitro.backend.config(nitro.directory)
    (nitro.directory / "app").write_bytes(b"also changed")
    with nitro.open(config=config) as enclave, pytest.raises(LayerMismatchError):
        enclave.start()


def test_another_release_needs_another_start_of_a_locked_enclave(nitro: World) -> None:
    """What is locked in the register cannot be taken back."""
    with nitro.open() as enclave:
        enclave.start()
        (nitro.directory / "app").write_bytes(b"the next release")
        release = nitro.directory / "release.json"
        digest_of_next(release, nitro.directory / "app")
    with nitro.open() as enclave, pytest.raises(EnclaveRegisterError):
        enclave.start()


# --- killed at any step ----------------------------------------------------------------------


class KilledError(BaseException):
    """Stands for SIGKILL: nothing of the library handles it, and what was on disk is there."""


LOST = {"the answer to its enrolment": "enrol", "the nonce to enrol": "challenges"}


@pytest.mark.parametrize("case", LOST)
def test_a_lost_answer_loses_no_enrolment(world: World, case: str) -> None:
    """The token is used up, and the same device asks whether it is known."""
    world.backend.lose = LOST[case]
    with world.open() as enclave:
        with pytest.raises(ChannelUnreachableError):
            enclave.start()
        enclave.start()
        enclave.keystore.list()
    assert len(world.backend.known) == 1


WRITES = range(12)


@pytest.mark.parametrize("nth", WRITES)
@pytest.mark.parametrize("work", ["enrol", "rotate"])
def test_killed_at_any_write_nothing_is_lost(
    snp: World, monkeypatch: pytest.MonkeyPatch, work: str, nth: int
) -> None:
    """Before and after each durable step of enrolment and rotation the next start goes on."""
    device = b""
    if work == "rotate":
        with snp.open() as enclave:
            enclave.start().put("name", b"value")
            device = enclave.device
        snp.backend.due = True
    count = 0

    def cut_off(real: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **options: Any) -> Any:  # noqa: ANN401
            nonlocal count
            count += 1
            if count == nth + 1:
                raise KilledError
            done = real(*args, **options)
            count += 1
            if count == nth + 1:
                if isinstance(done, KeyStore):
                    done.close()  # as the kernel does
                raise KilledError
            return done

        return wrapped

    with monkeypatch.context() as patched:
        patched.setattr(kept, "write_atomic", cut_off(write_atomic))
        for name in ("begin_rotation", "finish_rotation"):
            patched.setattr(KeyStore, name, cut_off(getattr(KeyStore, name)))
        patched.setattr(KeyStore, "create", staticmethod(cut_off(KeyStore.create)))
        killed = False
        try:
            with snp.open() as enclave:
                enclave.start()
        except KilledError:
            killed = True
    assert killed is (nth < count)
    with snp.open() as enclave:
        store = enclave.start()
        if work == "rotate":
            assert store["name"] == b"value"
            assert enclave.device == device
            assert enclave.epoch == 2
    assert len(snp.backend.known) == 1


def test_a_rotation_that_was_cut_off_begins_anew(
    snp: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The older epoch is named, so that another root of the same number does as well."""
    with snp.open() as enclave:
        enclave.start().put("name", b"value")
        snp.backend.due = True
        with monkeypatch.context() as patched:
            patched.setattr(KeyStore, "finish_rotation", killed)
            with pytest.raises(KilledError):
                enclave.attest()
    (known,) = snp.backend.known.values()
    known.offered, snp.backend.due = None, True
    with snp.open() as enclave:
        assert enclave.start()["name"] == b"value"
        assert enclave.epoch == 2
    assert 2 not in known.epochs[:-1]


# --- what the tests share ----------------------------------------------------------------------


def secrets_of(enclave: Enclave) -> list[bytes]:
    """All that must not be seen, as it could stand in a file."""
    identity = enclave._context.identity
    assert identity is not None
    pem = identity.tls_key.key_pem()
    raw = [
        identity.release_key.private_bytes_raw(),
        *(bytes(root.secret.reveal()) for root in identity.roots.values()),
    ]
    return [pem, pem.splitlines()[1], *raw, *(part.hex().encode() for part in raw)]


def killed(*_: object) -> None:
    """What never returns."""
    raise KilledError


def flip(path: Path) -> None:
    """Change a bit in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    """Leave the first half."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_what_is_kept_shows_no_secret() -> None:
    """Neither whole nor a root of it: a traceback with local variables tells no key."""
    identity = kept.Identity(EnclaveKind.SNP)
    metadata = EnclaveRootMetadata(
        device=identity.name,
        epoch=1,
        release="1.0",
        not_before=0,
        not_after=1,
        release_key=identity.release_public,
    )
    identity.roots[1] = kept.Root(metadata, b"S" * 32)
    whole = msgspec.json.decode(identity.encode(), type=kept._Kept)
    for shown in (repr(whole), repr(whole.roots)):
        assert "SSSS" not in shown
        assert "PRIVATE" not in shown


def digest_of_next(release: Path, layer: Path) -> None:
    """Write the layer's present digest into the release file."""
    was = msgspec.json.decode(release.read_bytes(), type=Release)
    layers = (*was.layers[:-1], reference("app", "2", layer))
    release.write_bytes(msgspec.json.encode(Release(name="2.0", layers=layers)))
