"""The load of a device, step by step, on a software TPM and with a real backend.

For every step there is a case in which it fails: the chain stops there, nothing
above is activated or extended, the host application and the backend are told.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from tpm2_pytss import ESAPI, ESYS_TR

from hwtrust import errors
from hwtrust.channel import Channel
from hwtrust.device import State
from hwtrust.testing.faults import At, Cut, FaultPlan, FaultyTcti
from hwtrust.tpm import commands
from hwtrust.wire.cel import EventKind
from hwtrust.wire.messages import AttestRequest, TrustAnchor
from hwtrust.wire.statement import decode_statement
from hwtrust_backend.testing import policy_document
from simulators.site import APPLICATION_PCR, LAYERS, Site

if TYPE_CHECKING:
    from collections.abc import Callable

    from hwtrust.device import Condition, Device
    from hwtrust.testing.manufacture import Vendor
    from hwtrust.testing.swtpm import Swtpm
    from hwtrust.wire.messages import LayerReference
    from hwtrust.wire.statement import StepFailure
    from hwtrust_backend.testing import BackendServer

MANY = tuple(f"layer {number}" for number in range(12))
SECRET = b"what only a good load opens"


@dataclass
class Host:
    """A host application: what it was told, what it activated, and what it does on the way."""

    site: Site
    told: list[Condition] = field(default_factory=list)
    activated: list[str] = field(default_factory=list)
    on_layer: dict[str, Callable[[], None]] = field(default_factory=dict)
    device: Device | None = None

    def activate(self, layer: LayerReference, path: Path) -> None:
        """Start a layer, which is what it should be at this moment."""
        assert path == self.site.home / layer.name
        self.activated.append(layer.name)
        self.on_layer.get(layer.name, lambda: None)()

    def load(self, device: Device) -> Condition:
        """Load, and be told nothing else than what is given back."""
        condition = device.load(activate=self.activate)
        assert condition == device.condition == self.told[-1]
        return condition

    @property
    def states(self) -> list[State]:
        """The states that it was told of, in order."""
        return [condition.state for condition in self.told]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[StepFailure]:
    """The failures that the backend was told in attestations that it answered."""
    failures: list[StepFailure] = []
    post = Channel.post

    def spy(channel: Channel, path: str, body: object, kind: type) -> object:
        answer: object = post(channel, path, body, kind)  # type: ignore[arg-type]
        if isinstance(body, AttestRequest):
            failure = decode_statement(body.evidence.binding.statement).failure
            failures.extend([failure] if failure else [])
        return answer

    monkeypatch.setattr(Channel, "post", spy)
    return failures


def enrolled(site: Site) -> Host:
    """A device that keeps something and was switched off."""
    with site.open() as device:
        device.enrol(token=site.token())
        device.boot()
        device.keystore.put("name", SECRET)
        device.attest()
    site.tpm.reboot()
    return Host(site)


def extended(device: Device) -> list[str]:
    """The layers that were extended, in order."""
    return [event.name for event in device.event_log().events if event.kind is EventKind.LAYER]


# --- a load that succeeds ------------------------------------------------------------------


@pytest.mark.parametrize(
    "layers", [("alone",), LAYERS, MANY], ids=lambda layers: f"{len(layers)} layers"
)
def test_a_good_load_activates_every_layer_in_order_and_ends_normal(
    tmp_path: Path, tpm: Swtpm, backend: BackendServer, tpm_vendor: Vendor, layers: tuple[str, ...]
) -> None:
    """Any number of layers, named as the vendor likes; the host hears of each state once."""
    site = Site(tmp_path, tpm, backend, tpm_vendor, layers=layers)
    host = enrolled(site)
    with site.open(on_condition=host.told.append) as device:
        condition = host.load(device)
        assert device.keystore["name"] == SECRET
        assert extended(device) == host.activated == [*layers]
    assert (condition.state, condition.code, condition.release) == (State.NORMAL, "", "1.0")
    assert host.states == [State.STARTING, State.LOADING, State.NORMAL]
    assert all(condition.since_ms > 0 for condition in host.told)


def test_each_layer_is_extended_before_it_is_activated_and_the_next_one_after_that(
    site: Site,
) -> None:
    """What runs is in the PCR before it runs."""
    host = enrolled(site)
    with site.open(on_condition=host.told.append) as device:
        seen: dict[str, list[str]] = {}

        def look(name: str) -> Callable[[], None]:
            def record() -> None:
                log = device._context.measured.log
                seen[name] = [event.name for event in log.events]

            return record

        host.on_layer = {name: look(name) for name in LAYERS}
        host.load(device)
    assert seen == {name: [*LAYERS[: place + 1]] for place, name in enumerate(LAYERS)}


def test_a_backend_that_is_away_is_no_failure_of_a_load(site: Site) -> None:
    """The kept leave opens the root; the condition says since when nothing was heard."""
    host = enrolled(site)
    site.backend.__exit__(None, None, None)
    with site.open(on_condition=host.told.append) as device:
        condition = host.load(device)
        assert device.keystore["name"] == SECRET
        assert device.status().failure is None
    assert (condition.state, condition.code) == (State.NORMAL, "channel:unreachable")
    assert condition.step == ""
    assert "UTC" in condition.message


def test_a_device_that_was_limited_stays_limited_while_its_backend_is_away(site: Site) -> None:
    """The last word counts until there is another, also over a restart."""
    host = enrolled(site)
    site.backend.hold_to(policy_document(on_failure={"default": "limited"}))
    site.backend.retire("1.0")
    with site.open(on_condition=host.told.append) as device:
        assert host.load(device).state is State.LIMITED
        assert device.keystore["name"] == SECRET
        assert device.condition.code == "release:refused"
    site.tpm.reboot()
    site.backend.__exit__(None, None, None)
    with site.open() as device:
        condition = device.load()
        assert (condition.state, condition.code) == (State.LIMITED, "channel:unreachable")


def test_a_device_that_was_locked_asks_first_and_stays_locked_without_an_answer(
    site: Site,
) -> None:
    """Switching it off and on does not open what the backend has locked."""
    host = enrolled(site)
    site.backend.retire("1.0")
    with site.open(on_condition=host.told.append) as device:
        assert host.load(device).state is State.LOCKED
        assert host.activated == []
        assert extended(device) == []
    site.backend.__exit__(None, None, None)
    with site.open() as device:
        condition = device.load()
        assert (condition.state, condition.step) == (State.LOCKED, "verify")
        assert condition.code == "state:locked"
        assert extended(device) == []
        with pytest.raises(errors.DeviceLockedError):
            device.boot()


def test_a_device_that_is_not_enrolled_is_the_callers_error(site: Site) -> None:
    """No state of a device says it; so it is raised, and nothing is noted."""
    with site.open() as device:
        with pytest.raises(errors.NotEnrolledError):
            device.load()
        with pytest.raises(errors.NotEnrolledError):
            device.boot()
        assert device.condition.state is State.STARTING
    assert not (site.home / "state" / "failure.json").exists()


# --- a load that fails, at each step -------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """How a step is made to fail, and what must follow."""

    step: str
    code: str
    spoil: Callable[[Host], None]
    layer: str = ""
    extended: int = 0
    activated: int = 0


def remove(name: str) -> Callable[[Host], None]:
    """The layer is gone."""
    return lambda host: (host.site.home / name).unlink()


def change(name: str) -> Callable[[Host], None]:
    """The layer was changed."""
    return lambda host: host.site.change(name)


def refuse(name: str) -> Callable[[Host], None]:
    """The host application cannot start the layer."""

    def fail() -> None:
        raise OSError(5, "the password is sesame")

    def spoil(host: Host) -> None:
        host.on_layer[name] = fail

    return spoil


def swap(name: str) -> Callable[[Host], None]:
    """The layer is replaced after it was measured, before it is loaded."""

    def spoil(host: Host) -> None:
        other = host.site.home / "other"
        other.write_bytes(b"not what was measured")
        host.on_layer[name] = lambda: _into_place(other, host.site.home / name)

    return spoil


def _into_place(other: Path, layer: Path) -> None:
    other.rename(layer)


def expire(host: Host) -> None:
    """The TPM's clock passes the root's end on the way; the backend knows nothing of it."""
    with host.site.open() as device:
        until = device.status().not_after

    def pass_time() -> None:
        assert host.device is not None
        commands.clock_set(host.device._context.tpm, until)

    host.on_layer[LAYERS[-1]] = pass_time


def damage(host: Host) -> None:
    """The key store's file was written over."""
    (host.site.home / "state" / "keystore.db").write_bytes(b"\0" * 8192)


def mislead(host: Host) -> None:
    """The device is to run what its backend does not know."""
    other = msgspec.structs.replace(host.site.release, layers=host.site.release.layers[:2])
    (host.site.home / "release.json").write_bytes(msgspec.json.encode(other))


def meddle(host: Host) -> None:
    """Another program has extended the PCR."""
    with ESAPI(host.site.tpm.tcti) as esapi:
        esapi.pcr_event(ESYS_TR(APPLICATION_PCR), b"not ours")


CASES = {
    "the PCR holds what is not ours": Case("tpm", "tpm:pcr:conflict", meddle),
    "no leave for the layers": Case("verify", "root:state:unapproved", mislead),
    "the first layer is gone": Case("measure", "layer:unreadable", remove(LAYERS[0]), LAYERS[0]),
    "a layer in the middle is gone": Case(
        "measure", "layer:unreadable", remove(LAYERS[2]), LAYERS[2], 2, 2
    ),
    "the first layer was changed": Case("verify", "layer:mismatch", change(LAYERS[0]), LAYERS[0]),
    "the last layer was changed": Case(
        "verify", "layer:mismatch", change(LAYERS[3]), LAYERS[3], 3, 3
    ),
    "the first layer is not activated": Case(
        "activate", "layer:activation", refuse(LAYERS[0]), LAYERS[0], 1, 1
    ),
    "the last layer is not activated": Case(
        "activate", "layer:activation", refuse(LAYERS[3]), LAYERS[3], 4, 4
    ),
    "a layer is swapped before it is loaded": Case(
        "activate", "layer:swapped", swap(LAYERS[1]), LAYERS[1], 2, 2
    ),
    "the last layer is swapped before it is loaded": Case(
        "activate", "layer:swapped", swap(LAYERS[3]), LAYERS[3], 4, 4
    ),
    "the TPM does not release the root": Case("unseal", "root:expired", expire, "", 4, 4),
    "the key store is damaged": Case("open", "keystore:damaged", damage, "", 4, 4),
}


@pytest.mark.parametrize("name", CASES)
def test_a_failed_step_stops_the_chain_and_host_and_backend_are_told_once(
    site: Site, sent: list[StepFailure], name: str
) -> None:
    """The same for every step: nothing above, nothing open, everybody knows which and why."""
    case, host = CASES[name], enrolled(site)
    case.spoil(host)
    with site.open(on_condition=host.told.append) as device:
        host.device = device
        with pytest.raises(errors.HwTrustError) as failed:
            device.boot(activate=host.activate)
        assert failed.value.code == case.code
        # (1): the chain has stopped there.
        assert host.activated == [*LAYERS[: case.activated]]
        assert len(loaded_names(device)) == case.extended
        with pytest.raises(errors.KeyStoreLockedError):
            _ = device.keystore
        # (2): the host application was told.
        condition = device.condition
        assert condition == host.told[-1]
        assert host.states == [State.STARTING, State.LOADING, State.LOCKED]
        assert (condition.step, condition.layer, condition.code) == (
            case.step,
            case.layer,
            case.code,
        )
    # (3): it is not forgotten over a restart of the program.
    sent.clear()
    if name != "the PCR holds what is not ours":
        with site.open() as device:
            device.attest()
            assert device.status().failure is None
            device.attest()
        assert [(told.step, told.layer, told.code) for told in sent] == [
            (case.step, case.layer, case.code)
        ]
        assert sent[0].at_ms > 0
        assert "sesame" not in sent[0].detail


def loaded_names(device: Device) -> list[str]:
    """The layers that were extended, as this process has written them down."""
    log = device._context.measured.log
    return [event.name for event in log.events if event.kind is EventKind.LAYER]


def test_the_state_of_a_load_whose_last_layer_failed_opens_to_nobody(site: Site) -> None:
    """All layers are in the PCR; it is capped, and the next load begins with a reload."""
    host = enrolled(site)
    refuse(LAYERS[-1])(host)
    with site.open() as device:
        with pytest.raises(errors.LayerActivationError) as failed:
            device.boot(activate=host.activate)
        assert isinstance(failed.value.__cause__, OSError)
        kinds = [event.kind for event in device.event_log().events]
        assert kinds == [EventKind.LAYER] * len(LAYERS) + [EventKind.CAP]
        device.attest()
        host.on_layer.clear()
        device.boot(activate=host.activate)
        assert device.keystore["name"] == SECRET


def test_a_layer_that_was_swapped_is_a_violation_in_the_log(site: Site) -> None:
    """74: found before the TPM was asked for anything; the backend sees it until the reset."""
    host = enrolled(site)
    swap(LAYERS[-1])(host)
    with site.open() as device:
        with pytest.raises(errors.LayerSwappedError) as swapped:
            device.boot(activate=host.activate)
        last = device.event_log().events[-1]
        assert last.kind is EventKind.VIOLATION
        assert last.digest.hex() == swapped.value.data["found"]
        assert [finding.code for finding in device.attest().findings] == ["log:violation"]


def test_a_program_that_ends_while_it_activates_leaves_nothing_that_opens(site: Site) -> None:
    """Not every end of a callback is an error; the state is capped all the same."""
    host = enrolled(site)

    def leave() -> None:
        raise SystemExit(1)

    host.on_layer[LAYERS[-1]] = leave
    with site.open(on_condition=host.told.append) as device:
        with pytest.raises(SystemExit):
            device.boot(activate=host.activate)
        assert device.event_log().events[-1].kind is EventKind.CAP
        assert host.told[-1].state is State.LOCKED


def test_of_twelve_layers_the_seventh_fails_and_the_five_above_are_never_touched(
    tmp_path: Path, tpm: Swtpm, backend: BackendServer, tpm_vendor: Vendor
) -> None:
    """However long the chain, it ends at the first that is not right."""
    site = Site(tmp_path, tpm, backend, tpm_vendor, layers=MANY)
    host = enrolled(site)
    site.change(MANY[6])
    for above in MANY[7:]:
        (site.home / above).unlink()
    with site.open(on_condition=host.told.append) as device:
        condition = host.load(device)
        assert (condition.state, condition.step) == (State.LOCKED, "verify")
        assert (condition.layer, condition.code) == (MANY[6], "layer:mismatch")
        assert loaded_names(device) == host.activated == [*MANY[:6]]


def test_a_load_tells_the_backend_of_its_failure_at_once(
    site: Site, sent: list[StepFailure]
) -> None:
    """`load` attests whatever has become of the device; nothing is left to tell."""
    host = enrolled(site)
    site.change("kernel")
    sent.clear()
    with site.open(on_condition=host.told.append) as device:
        condition = host.load(device)
        assert (condition.state, condition.step) == (State.LOCKED, "verify")
        assert (condition.layer, condition.code) == ("kernel", "layer:mismatch")
        assert device.status().failure is None
    assert [(told.layer, told.code, told.release) for told in sent] == [
        ("kernel", "layer:mismatch", "1.0")
    ]


def test_a_device_that_may_is_limited_after_a_failed_load_and_its_key_store_is_locked(
    site: Site,
) -> None:
    """`on_failure = "limited"` lets the host application go on, without what the root opens."""
    host = enrolled(site)
    configured = site.config_path.read_text()
    site.config_path.write_text('on_failure = "limited"\n' + configured)
    (site.home / "frontend").unlink()
    site.backend.__exit__(None, None, None)
    with site.open(on_condition=host.told.append) as device:
        condition = host.load(device)
        assert (condition.state, condition.code) == (State.LIMITED, "layer:unreadable")
        with pytest.raises(errors.KeyStoreLockedError):
            _ = device.keystore
        assert device.status().failure is not None


def test_a_device_that_would_be_limited_is_locked_where_its_backend_says_so(site: Site) -> None:
    """The backend's mode overrides what the configuration would have."""
    host = enrolled(site)
    configured = site.config_path.read_text()
    site.config_path.write_text('on_failure = "limited"\n' + configured)
    site.change("frontend")
    with site.open(on_condition=host.told.append) as device:
        condition = host.load(device)
    assert (condition.state, condition.layer) == (State.LOCKED, "frontend")
    assert State.LIMITED in host.states


def test_a_tpm_that_goes_away_in_the_middle_is_its_own_state(
    site: Site, sent: list[StepFailure]
) -> None:
    """The third extend is never answered; when the TPM is back, a load brings all up again."""
    host = enrolled(site)
    plan = FaultPlan(At(Cut("before"), nth=3, command="TPM2_PCR_Extend"))
    sent.clear()
    with site.open(
        on_condition=host.told.append, wrap_tcti=lambda inner: FaultyTcti(inner, plan)
    ) as device:
        condition = host.load(device)
        assert (condition.state, condition.step) == (State.TPM_AWAY, "extend")
        assert (condition.layer, condition.code) == (LAYERS[2], "tpm:transport")
        assert host.activated == [*LAYERS[:2]]
    assert plan.done
    with site.open() as device:
        assert device.load().state is State.NORMAL
    assert [told.code for told in sent] == ["tpm:transport"]


# --- who is told, and when -----------------------------------------------------------------


def test_a_failure_is_kept_until_an_answer_has_come(site: Site, sent: list[StepFailure]) -> None:
    """A backend that is away does not make it forgotten; then it is told, once."""
    host = enrolled(site)
    (site.home / "kernel").unlink()
    address = site.home / "trust.json"
    good = address.read_bytes()
    trust = msgspec.json.decode(good, type=TrustAnchor)
    away = msgspec.structs.replace(trust, url="https://localhost:1")
    address.write_bytes(msgspec.json.encode(away))
    sent.clear()
    # The second time there is no leave for what the first has left in the PCR.
    for code in ("layer:unreadable", "channel:unreachable"):
        with site.open(on_condition=host.told.append) as device:
            assert host.load(device).code == code
            failure = device.status().failure
            assert failure is not None
            assert (failure.code, failure.layer) == ("layer:unreadable", "kernel")
    assert sent == []
    address.write_bytes(good)
    with site.open() as device:
        device.attest()
        device.attest()
    assert [told.code for told in sent] == ["layer:unreadable"]


def test_a_callback_that_raises_does_not_reach_into_the_load(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """The device goes on; what was raised is in the log."""
    enrolled(site)

    def fail(_: Condition) -> None:
        raise RuntimeError("the host's own fault")

    with site.open(on_condition=fail) as device:
        assert device.load().state is State.NORMAL
        assert device.keystore["name"] == SECRET
    assert "the host's own fault" in caplog.text


def test_whoever_hears_locked_finds_the_key_store_locked(site: Site) -> None:
    """At a violation at run time, and when the application locks the device itself."""
    enrolled(site)
    found: list[tuple[State, bool]] = []
    devices: list[Device] = []

    def look(condition: Condition) -> None:
        if devices:
            found.append((condition.state, devices[0]._context.keystore is None))

    with site.open(on_condition=look) as device:
        devices.append(device)
        device.load()
        device.lock()
        device.load()
        site.change("system")
        with pytest.raises(errors.LayerMismatchError):
            device.check()
        assert (device.condition.step, device.condition.layer) == ("watch", "system")
    assert [entry for entry in found if entry[0] is State.LOCKED] == [(State.LOCKED, True)] * 2


def test_a_layer_that_is_gone_at_run_time_locks_the_device(site: Site) -> None:
    """Nobody knows what it is now."""
    enrolled(site)
    with site.open() as device:
        device.load()
        (site.home / "system").unlink()
        with pytest.raises(errors.LayerUnreadableError):
            device.check()
        assert (device.condition.state, device.condition.layer) == (State.LOCKED, "system")
        with pytest.raises(errors.KeyStoreLockedError):
            _ = device.keystore
