"""70 to 76, on a whole device: what a hostile host, a thief of time or a bad release can do.

Each attempt ends in a typed error by its code; nothing of it is switched to, and the
release that runs goes on, or comes back, and attests well.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import tarfile
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec
import pytest
from securesystemslib.signer import CryptoSigner

from hwtrust.device.results import Outcome, State
from hwtrust.errors import (
    HwTrustError,
    RootExpiredError,
    StateBusyError,
    UpdateError,
    UpdateExpiredError,
)
from hwtrust.testing.swtpm import Swtpm
from hwtrust.tpm import commands
from hwtrust.tpm.leftovers import loaded
from hwtrust.updates import source
from hwtrust.updates.source import Limits, PinnedCa
from hwtrust.wire.messages import Standing, TrustAnchor
from hwtrust.wire.release import (
    LayerEntry,
    LayerKind,
    encode_manifest,
    layer_target,
    release_target,
)
from hwtrust_backend.testing import DAY, BackendServer
from simulators.running_agent import AgentProcess
from simulators.tls_server import Pki, respond
from simulators.tuf_repository import METADATA, TARGETS, TufRepository, release, sender
from simulators.updating import UpdatingSite

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from hwtrust.device import Device, Step
    from hwtrust.testing.manufacture import Vendor
    from hwtrust.wire.messages import LayerReference

SECRET = UpdatingSite.SECRET
YEARS: Final = 10 * 365 * DAY


def check_running(device: Device, name: str) -> None:
    """The release runs: whole, open, trusted, and nothing is left in the TPM."""
    assert device.status().release == name
    device.check()
    assert device.attest().standing is Standing.TRUSTED
    assert device.condition.state is State.NORMAL
    assert device.keystore["name"] == SECRET
    assert loaded(device._context.tpm) == ()


def at(name: str, act: Callable[[], object]) -> Callable[[Step], None]:
    """Do something right after a step, once."""
    done = False

    def on_step(step: Step) -> None:
        nonlocal done
        if step.name == name and not done:
            done = True
            act()

    return on_step


# --- 70 to 73: a hostile host ----------------------------------------------------------------


class Host:
    """A device that gets its releases from a static host, whose repository is a test's own."""

    def __init__(self, site: UpdatingSite, pki: Pki) -> None:
        self.site = site
        self.pki = pki
        self._config = site.config_path.read_text()

    @contextlib.contextmanager
    def serving(self, name: str) -> Iterator[TufRepository]:
        """A new repository with a good release of that name, which the backend accepts."""
        site = self.site
        repository = TufRepository(datetime.fromtimestamp(site.backend.clock() / 1000, UTC))
        layers = site.layers | {"frontend": (name, name.encode())}
        made = repository.add_release(name, layers)
        site.backend.accept(made.release())
        repository.publish()
        trust = msgspec.json.decode((site.home / "trust.json").read_bytes(), type=TrustAnchor)
        trust = msgspec.structs.replace(trust, releases=repository.trusted_root)
        (site.home / "trust.json").write_bytes(msgspec.json.encode(trust))
        shutil.rmtree(site.home / "state" / "releases", ignore_errors=True)
        with repository.serve(self.pki) as server:
            urls = f'metadata_url = "{server.url}{METADATA}"\ntargets_url = "{server.url}{TARGETS}"'
            site.config_path.write_text(f"{self._config}{urls}\n")
            yield repository


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, tpm_vendor: Vendor) -> Iterator[Host]:
    """One device for many attacks; the CA of the host is one that its system believes."""
    with Swtpm.start() as tpm, BackendServer() as backend, pytest.MonkeyPatch.context() as patch:
        tpm_vendor.manufacture(tpm, algorithm="ecc256")
        home = tmp_path_factory.mktemp("attacks")
        pki = Pki(home)
        patch.setattr("hwtrust.device.update.SystemCas", lambda: PinnedCa(pki.ca_pem))
        patch.setattr(source, "Limits", lambda: Limits(silence=0.5, grace=1.0, rate=1 << 20))
        site = UpdatingSite(home, tpm, backend, tpm_vendor)
        site.enrol()
        with site.open() as device:
            device.boot()
            device.keystore.put(site.ENTRY, SECRET)
            device.attest()
        yield Host(site, pki)


def _older(repository: TufRepository) -> None:
    repository.timestamp.version = 0
    repository.publish_timestamp()


def _older_snapshot(repository: TufRepository) -> None:
    repository.snapshot.version = 0
    repository.publish_snapshot()
    repository.publish_timestamp()


def _older_targets(repository: TufRepository) -> None:
    repository.targets.version = 0
    repository.publish()


def _frozen(repository: TufRepository) -> None:
    repository.life = -timedelta(days=1)
    repository.publish_timestamp()


def _mixed(repository: TufRepository) -> None:
    before = repository.files["2.targets.json"]
    repository.add_target("layers/kernel/other", b"another kernel")
    repository.publish()
    repository.files["3.targets.json"] = before


def _by_a_stranger(repository: TufRepository) -> None:
    repository.signers["targets"] = [CryptoSigner.generate_ecdsa()]
    repository.publish()


def _endless(repository: TufRepository, name: str) -> None:
    def answer(connection: socket.socket, request: bytes) -> None:
        del request
        connection.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        while True:
            connection.sendall(b"10000\r\n" + b" " * 0x10000 + b"\r\n")

    repository.answers[name] = answer


def _trickle(repository: TufRepository) -> None:
    def answer(connection: socket.socket, request: bytes) -> None:
        del request
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
        while True:
            connection.sendall(b"x")
            time.sleep(0.1)

    repository.answers["timestamp.json"] = answer


def _silent(repository: TufRepository) -> None:
    def answer(connection: socket.socket, request: bytes) -> None:
        del request
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nx")
        connection.recv(1)  # until the device has had enough

    repository.answers[LAYER] = answer


def _answered(repository: TufRepository, name: str, body: bytes) -> None:
    repository.answers[name] = sender(body)


def _page(repository: TufRepository) -> None:
    repository.answers["timestamp.json"] = respond(b"<html>sign in first</html>")


LAYER: Final = "NEW"
"""The file of the layer that changes, whatever it is called."""

ATTACKS: Final[dict[str, tuple[Callable[[TufRepository], None], str]]] = {
    "70: an older timestamp": (_older, "update:metadata:rollback"),
    "70: an older snapshot": (_older_snapshot, "update:metadata:rollback"),
    "70: older targets": (_older_targets, "update:metadata:rollback"),
    "70: frozen": (_frozen, "update:metadata:expired"),
    "70: a mixture": (_mixed, "update:metadata:mismatch"),
    "71: below the threshold": (_by_a_stranger, "update:metadata:threshold"),
    "72: endless metadata": (partial(_endless, name="timestamp.json"), "update:metadata:length"),
    "72: an endless layer": (partial(_endless, name=LAYER), "update:target:length"),
    "72: a trickle of metadata": (_trickle, "update:channel:slow"),
    "72: a layer that stops": (_silent, "update:channel:slow"),
    "72: a layer too long": (
        partial(_answered, name=LAYER, body=b"x" * 99),
        "update:target:length",
    ),
    "72: a layer too short": (partial(_answered, name=LAYER, body=b"x"), "update:target:length"),
    "72: another layer": (partial(_answered, name=LAYER, body=b"12345"), "update:target:digest"),
    "a page instead": (_page, "update:metadata:malformed"),
}


@pytest.mark.parametrize("case", ATTACKS)
def test_an_attack_leaves_the_device_with_what_it_runs(case: str, host: Host) -> None:
    """Refused by its name, each time anew; and the update succeeds when it is over."""
    attack, code = ATTACKS[case]
    name = f"n{[*ATTACKS].index(case):04}"
    with host.serving(name) as repository, host.site.open() as device:
        device.boot()
        running = device.status().release
        current = host.site.slots.current
        # What the device knows is the honest state, from before.
        with pytest.raises(UpdateError):
            device.update("unheard-of")
        repository.publish()
        with pytest.raises(UpdateError):
            device.update("unheard-of")
        signers = dict(repository.signers)
        attack(repository)
        if LAYER in repository.answers:
            repository.answers[name] = repository.answers.pop(LAYER)
        for _ in range(2):
            with pytest.raises(UpdateError) as caught:
                device.update(name)
            assert caught.value.code == code
            assert host.site.slots.current == current
        check_running(device, running)
        repository.answers, repository.signers = {}, signers
        repository.life = timedelta(days=30)
        for role in (repository.targets, repository.snapshot, repository.timestamp):
            role.version = 9
        repository.publish()
        assert device.update(name).outcome is Outcome.CONFIRMED
        check_running(device, name)
    host.site.tpm.reboot()


def _entry(name: str, kind: bytes = tarfile.REGTYPE, *, mode: int = 0o644, link: str = "") -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.linkname = kind, mode, link
    return info.tobuf(tarfile.PAX_FORMAT) + bytes(1024)


ARCHIVES: Final[dict[str, tuple[bytes, str]]] = {
    "a path upwards": (_entry("../evil"), "update:archive:name"),
    "an absolute path": (_entry("/tmp/evil"), "update:archive:name"),  # noqa: S108 - it is refused
    "a link out": (
        _entry("evil", tarfile.SYMTYPE, mode=0o777, link="../.."),
        "update:archive:link",
    ),
    "a device node": (_entry("evil", tarfile.CHRTYPE), "update:archive:kind"),
    "a hard link": (_entry("evil", tarfile.LNKTYPE, link="../x"), "update:archive:kind"),
    "setuid": (_entry("evil", mode=0o4755), "update:archive:mode"),
}


@pytest.mark.parametrize("case", ARCHIVES)
def test_73_a_signed_archive_that_leads_out_seals_no_slot(case: str, host: Host) -> None:
    """Nothing of it is outside of the inactive slot, and nothing is switched to."""
    archive, code = ARCHIVES[case]
    site, name = host.site, f"t{[*ARCHIVES].index(case):04}"
    with host.serving(f"good-{name}") as repository:
        made = release(name, site.layers)
        target = layer_target("frontend", name, LayerKind.TREE)
        tree = LayerEntry(
            name="frontend",
            version=name,
            digest=hashlib.sha256(b"whatever it is").digest(),
            kind=LayerKind.TREE,
            target=target,
            frequency="daily",
        )
        layers = (*(layer for layer in made.layers if layer.name != "frontend"), tree)
        made = msgspec.structs.replace(made, layers=layers)
        repository.add_target(target, archive)
        repository.add_target(release_target(name), encode_manifest(made))
        for layer in layers[:-1]:
            repository.add_target(layer.target, site.layers[layer.name][1])
        repository.publish()
        site.backend.accept(made.release())
        with site.open() as device:
            device.boot()
            running, current = device.status().release, site.slots.current
            with pytest.raises(UpdateError) as caught:
                device.update(name)
            assert caught.value.code == code
            assert site.slots.current == current
            assert site.slots.release(site.slots.inactive) is None
            assert list(site.home.rglob("evil")) == []
            check_running(device, running)
            assert device.update(f"good-{name}").outcome is Outcome.CONFIRMED
            check_running(device, f"good-{name}")
    site.tpm.reboot()


# --- 70: the real repository, and clocks ------------------------------------------------------


def test_70_a_repository_that_is_not_signed_anew_is_refused_when_it_expires(
    updating: UpdatingSite,
) -> None:
    """By the time that the backend signs, whatever this machine's clock says."""
    updating.publish("2.0", kernel=b"the next kernel")
    with updating.open() as device, pytest.MonkeyPatch.context() as patch:
        device.boot()
        patch.setattr(time, "time", lambda: 0.0)
        patch.setattr(time, "time_ns", lambda: 0)
        updating.backend.clock.advance(60 * DAY)
        device.attest()
        device.boot()
        with pytest.raises(UpdateExpiredError):
            device.update("2.0")
        check_running(device, "1.0")
        updating.backend.run_due()
        updating.publisher.publish("2.1", updating.layers, accept=True)
        assert device.update("2.0").outcome is Outcome.CONFIRMED
        check_running(device, "2.0")


@pytest.mark.parametrize(("years", "step"), [(-10, "refresh"), (10, "stage"), (10, "switch")])
def test_the_clock_of_the_machine_decides_nothing(
    step: str, years: int, updating: UpdatingSite
) -> None:
    """It jumps in the midst of an update."""
    updating.publish("2.0", kernel=b"the next kernel")
    jumped = time.time_ns() + years * YEARS // 10 * 1_000_000
    with updating.open() as device, pytest.MonkeyPatch.context() as patch:
        device.boot()

        def jump() -> None:
            patch.setattr(time, "time_ns", lambda: jumped)
            patch.setattr(time, "time", lambda: jumped / 1e9)

        assert device.update("2.0", on_step=at(step, jump)).outcome is Outcome.CONFIRMED
        check_running(device, "2.0")


@pytest.mark.parametrize(
    ("days", "step"), [(1, "switch"), (3650, "refresh"), (3650, "stage"), (3650, "switch")]
)
def test_a_clock_of_the_tpm_that_jumps_ends_in_a_typed_error_or_an_update(
    step: str, days: int, updating: UpdatingSite
) -> None:
    """Forward is the only way; a release of which nobody can say that it is current is refused."""
    updating.publish("2.0", kernel=b"the next kernel")
    with updating.open() as device:
        device.boot()
        tpm = device._context.tpm

        def jump() -> None:
            commands.clock_set(tpm, commands.read_clock(tpm).clock + days * DAY)

        with contextlib.suppress(UpdateError, RootExpiredError):
            device.update("2.0", on_step=at(step, jump))
        assert loaded(tpm) == ()
        device.attest()
        device.boot()
        assert device.keystore["name"] == SECRET
        # An expired root says nothing of the release that was switched to: it is still on trial.
        device.attest()
        assert device.update("2.0").outcome in {Outcome.CURRENT, Outcome.CONFIRMED}
        assert device.status().release == "2.0"
        assert device.keystore["name"] == SECRET


# --- 74: a layer that changes meanwhile -------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "layer"), [("stage", "frontend"), ("switch", "root-of-trust"), ("reload", "frontend")]
)
def test_74_a_layer_that_changes_on_its_way_is_never_loaded(
    step: str, layer: str, updating: UpdatingSite
) -> None:
    """Measured, sealed and switched to is not enough: it is measured when it is loaded."""
    updating.publish("2.0", frontend=b"the next frontend")

    def change() -> None:
        slots = updating.slots
        slot = slots.inactive if step == "stage" else slots.current
        slots.path(slot, layer).write_bytes(b"something else")

    with updating.open() as device:
        device.boot()
        with pytest.raises(HwTrustError) as caught:
            device.update("2.0", on_step=at(step, change))
        assert caught.value.code == "root:state:unapproved"
        assert device.status().release == "1.0"
        assert loaded(device._context.tpm) == ()
    updating.tpm.reboot()
    with updating.open() as device:
        device.boot()
        check_running(device, "1.0")
        assert device.update("2.0").outcome is Outcome.CONFIRMED
        check_running(device, "2.0")


# --- 76: a release that does not come up ------------------------------------------------------


def test_76_a_release_that_is_not_activated_is_given_up_live(updating: UpdatingSite) -> None:
    """What its program raises is told by the class alone."""
    updating.publish("2.0", kernel=b"the next kernel")

    def start(layer: LayerReference, _: Path) -> None:
        if layer.version == "2.0":
            raise RuntimeError("it does not start")

    with updating.open() as device:
        device.boot(activate=start)
        try:
            assert device.update("2.0").outcome is Outcome.FELL_BACK
        except HwTrustError as error:
            assert error.code == "root:state"  # noqa: PT017 - then it takes a restart
        refused = device.updates.refused
        assert refused is not None
        assert (refused.release, refused.code) == ("2.0", "layer:activation")
        assert device.status().release == "1.0"
    updating.tpm.reboot()
    with updating.open() as device:
        device.boot()
        check_running(device, "1.0")
        assert device.update("2.0").outcome is Outcome.CONFIRMED


def test_76_a_release_that_changes_a_layer_once_it_runs_is_given_up(
    updating: UpdatingSite,
) -> None:
    """The backend finds a violation in the log; the last release needs a restart."""
    updating.publish("2.0", kernel=b"the next kernel")
    with updating.open() as device:
        device.boot()

        def deviate() -> None:
            place = updating.slots.path(updating.slots.current, "frontend")
            place.write_bytes(b"another frontend")
            with contextlib.suppress(HwTrustError):
                device.check()

        with contextlib.suppress(HwTrustError):
            device.update("2.0", on_step=at("open key store", deviate))
        assert loaded(device._context.tpm) == ()
    for _ in range(4):
        updating.tpm.reboot()
        with updating.open() as device, contextlib.suppress(HwTrustError):
            device.boot()
    with updating.open() as device:
        check_running_after_boot(device, "1.0")


def check_running_after_boot(device: Device, name: str) -> None:
    """As `check_running`, of a device that has just been opened."""
    device.boot()
    check_running(device, name)


def test_76_a_release_that_nobody_confirms_in_time_is_given_up(updating: UpdatingSite) -> None:
    """The backend is silent; how long, the TPM's clock says."""
    updating.publish("2.0", kernel=b"the next kernel")
    with updating.open() as device:
        device.boot()
        done = device.update("2.0", on_step=at("switch", updating.backend.go_away))
        assert done.outcome is Outcome.ON_TRIAL
        tpm, updates = device._context.tpm, updating.config.updates
        assert updates is not None
        ahead = (updates.confirm_within_s + 60) * 1000
        commands.clock_set(tpm, commands.read_clock(tpm).clock + ahead)
        with pytest.raises(HwTrustError):
            device.attest()
        refused = device.updates.refused
        assert refused is not None
        assert refused.code == "update:trial:overdue"
        assert device.status().release == "1.0"
        updating.backend.come_back()
        if device.condition.state is not State.NORMAL:
            device.boot()
        check_running(device, "1.0")


# --- two at once ------------------------------------------------------------------------------


def test_an_update_waits_for_nobody_else_on_the_device(updating: UpdatingSite) -> None:
    """Neither for another process, nor for the agent: it says who is to be asked."""
    updating.publish("2.0", kernel=b"the next kernel")
    with updating.open() as device:
        device.boot()

        def second() -> None:
            with pytest.raises(StateBusyError) as caught, updating.open() as other:
                other.update("2.0")
            assert "agent" in caught.value.hint

        assert device.update("2.0", on_step=at("stage", second)).outcome is Outcome.CONFIRMED
        check_running(device, "2.0")
    with AgentProcess(updating) as agent:
        agent.await_word("READY=1")
        with pytest.raises(StateBusyError), updating.open():
            pass
        assert agent.end()[0] == 0
