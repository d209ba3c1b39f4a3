"""54 to 62 and 65 to 68, 70, 81: what is tried against clock, counter and rotation."""

from __future__ import annotations

import ast
import shutil
import signal
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

import hwtrust
from hwtrust import errors
from hwtrust.device.attest import attest_once
from hwtrust.device.rotate import rotate
from hwtrust.testing.swtpm import Swtpm
from hwtrust.tpm import commands, provision
from hwtrust.tpm.leftovers import loaded
from hwtrust.wire.envelope import seal
from hwtrust.wire.messages import (
    AttestReply,
    Standing,
)
from hwtrust.wire.root import RootDelivery, RootMetadata, root_ref, sign_approval
from hwtrust.wire.structures import NvAttributes, NvPublic
from hwtrust_backend.audit import Event, trail
from hwtrust_backend.enrolment import Device as KnownDevice
from hwtrust_backend.keys import KeyRole
from hwtrust_backend.publishing.recipes import make_root
from hwtrust_backend.publishing.service import roots_of
from hwtrust_backend.testing import DAY, MINUTE, BackendServer
from simulators.field import (
    Field,
    codes_of,
    counter_of,
    enrolled,
    ground,
    newest,
)
from simulators.site import Site
from simulators.software_tpm import SoftwareTpm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hwtrust.device import Step
    from hwtrust.testing.manufacture import Vendor
    from hwtrust.wire.root import Approval

COUNTER = provision.COUNTER_ATTRIBUTES


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory, tpm_vendor: Vendor) -> Iterator[Field]:
    """A device that is enrolled, booted and open."""
    with ground(tmp_path_factory.mktemp("field"), tpm_vendor) as site, enrolled(site) as made:
        yield made


@pytest.fixture(scope="module")
def offered(tmp_path_factory: pytest.TempPathFactory, tpm_vendor: Vendor) -> Iterator[Field]:
    """A device that is offered its next root, each time that it attests."""
    with ground(tmp_path_factory.mktemp("offered"), tpm_vendor) as site, enrolled(site) as made:
        made.device.keystore.put("name", b"value")
        made.site.backend.rotate(made.name)
        yield made


# --- clock and state ------------------------------------------------------------------------


def memory_of(tpm: Swtpm) -> bytes:
    """What a TPM has in its NV memory."""
    return (tpm.state_dir / "tpm2-00.permall").read_bytes()


def put_back(tpm: Swtpm, memory: bytes) -> None:
    """Power off, write an older content to the chip's memory, power on."""
    tpm._belongings.end_process(signal.SIGKILL)
    tpm._remove_sockets()
    (tpm.state_dir / "tpm2-00.permall").write_bytes(memory)
    tpm._power_on("startup-clear")


def test_54_a_tpm_that_was_rolled_back_fails(site: Site) -> None:
    """Its reset count is lower than it was: old counters and clocks would be back with it."""
    name = site.enrol()
    memory = memory_of(site.tpm)
    for _ in range(3):
        site.tpm.reboot()
    with site.open() as device:
        device.boot()
        assert device.attest().standing is Standing.TRUSTED
    put_back(site.tpm, memory)
    with site.open() as device:
        device.boot()
        standing, codes = codes_of(device)
    assert standing is Standing.FAILED
    assert "clock:reset-fell" in codes
    event, reason = newest(site, name)
    assert event == Event.EVIDENCE_ACCEPTED
    assert reason.startswith("failed: ")
    assert "clock:reset-fell" in reason


def test_55_a_suspend_and_then_a_reboot_passes(site: Site) -> None:
    """The restart count falls when the reset count rises: that is no rollback."""
    site.enrol()
    site.tpm.suspend()
    with site.open() as device:
        device.boot()
        assert device.attest().standing is Standing.TRUSTED
        restarts = device.status().clock.restart_count
    site.tpm.reboot()
    with site.open() as device:
        device.boot()
        assert device.status().clock.restart_count < restarts
        standing, codes = codes_of(device)
    assert standing is Standing.TRUSTED
    assert codes == set()


CUTS = 6


def test_56_a_power_cut_leaves_an_unsafe_clock_which_alerts(site: Site) -> None:
    """The device works, somebody should look, and the record says so."""
    name = site.enrol()
    reasons: list[str] = []
    # A TPM trusts its clock again at the next multiple of 4,096 ms, which may be soon after a cut.
    # It goes on from what the backend has set it to: that moves, or all cuts would be alike.
    for _ in range(CUTS):
        site.backend.clock.advance(1100)
        site.tpm.power_cut()
        with site.open() as device:
            device.boot()
            standing, _codes = codes_of(device)
        assert standing is Standing.TRUSTED
        with site.backend.session() as session:
            reasons += [record.reason for record in trail(session, name.hex(), limit=4)]
        if any("clock:unsafe" in reason for reason in reasons):
            return
    pytest.fail(f"{CUTS} power cuts, and no finding: {reasons}")


def test_57_a_clock_that_runs_too_slowly_alerts_and_is_set_right(field: Field) -> None:
    """The backend's day was no day for the TPM; the signed time moves it forward."""
    field.site.backend.clock.advance(DAY // 4)
    result = field.device.attest()
    assert result.standing is Standing.TRUSTED
    reasons = []
    with field.site.backend.session() as session:
        reasons = [record.reason for record in trail(session, field.name.hex(), limit=4)]
    assert any("clock:drift" in reason and "clock:behind" in reason for reason in reasons)
    lag = field.site.backend.clock() - field.device.status().clock.clock
    assert abs(lag) < MINUTE


def test_57_59_a_clock_that_local_software_pushed_ahead_alerts(site: Site) -> None:
    """Years ahead: an alert and a new approval, and the device opens."""
    name = site.enrol()
    with site.open() as device:
        device.boot()
        commands.clock_set(device._context.tpm, site.backend.clock() + 5 * 365 * DAY)
        standing, codes = codes_of(device)
        assert standing is Standing.TRUSTED
        assert "clock:ahead" in codes
        with site.backend.session() as session:
            reasons = [record.reason for record in trail(session, name.hex(), limit=4)]
        assert any("clock:ahead" in reason and "clock:drift" in reason for reason in reasons)
        device.boot()
        assert device.keystore.list() == ()


@pytest.mark.parametrize("years", [pytest.param(-30, id="back"), pytest.param(30, id="forward")])
def test_59_the_clock_of_the_os_does_not_matter(
    site: Site, monkeypatch: pytest.MonkeyPatch, years: int
) -> None:
    """Turned back or forward, the device boots, attests, rotates, and its TPM clock is right."""
    name = site.enrol()
    turned = time.time() + years * 365 * 86400
    monkeypatch.setattr(time, "time", lambda: turned)
    monkeypatch.setattr(time, "time_ns", lambda: int(turned * 10**9))
    site.tpm.reboot()
    with site.open() as device:
        device.boot()
        assert codes_of(device) == (Standing.TRUSTED, set())
        site.backend.rotate(name)
        assert device.attest().rotated_to is not None
        lag = site.backend.clock() - device.status().clock.clock
    assert abs(lag) < 2 * MINUTE


def asks_the_os(node: ast.AST) -> bool:
    """Whether this is a call for wall-clock time."""
    forbidden = {"time", "time_ns", "now", "utcnow", "today", "localtime", "gmtime"}
    return (
        isinstance(node, ast.Attribute)
        and node.attr in forbidden
        and isinstance(node.value, ast.Name)
        and node.value.id in {"time", "datetime", "date"}
    )


def test_59_nothing_of_the_device_asks_the_os_for_the_time() -> None:
    """No module asks for wall-clock time, but to date what is thrown away, or told to people.

    Whoever verifies evidence by hand verifies it as of now, unless told another time.
    """
    root = Path(hwtrust.__file__).parent
    modules = [path for path in root.rglob("*.py") if "testing" not in path.parts]
    found = {
        str(path.relative_to(root))
        for path in modules
        if any(asks_the_os(node) for node in ast.walk(ast.parse(path.read_text())))
    }
    assert len(modules) > 40
    assert found == {
        "cli/evidence_verify.py",
        "device/results.py",
        "tpm/tls_key.py",
        "updates/bundle.py",
    }


# --- rotation ---------------------------------------------------------------------------------


class Forge:
    """A backend gone bad, or a thief of one of its keys: it changes what the device is offered."""

    def __init__(self, field: Field, delivery: RootDelivery) -> None:
        self.delivery = delivery
        self.device = field.name
        self.storage = field.context.known().storage_key.name
        self.vault = field.site.backend.backend.vault
        self.metadata = msgspec.json.decode(delivery.metadata.payload, type=RootMetadata)
        self.held = field.context.newest_root()
        with field.site.backend.session() as session:
            row = session.get(KnownDevice, field.name.hex())
            assert row is not None
            self.storage_public = hwtrust.wire.structures.Public.decode_sized(row.storage_public)

    def dated(self, **changes: object) -> RootDelivery:
        """The delivery with other metadata, signed by the true key."""
        metadata = msgspec.structs.replace(self.metadata, **changes)
        envelope = seal(metadata, sign=self.vault.signer(KeyRole.METADATA).sign)
        return msgspec.structs.replace(self.delivery, metadata=envelope)

    def remade(self, epoch: int) -> RootDelivery:
        """Another root, of this epoch, all by the true keys."""
        made = make_root(
            device=self.device,
            epoch=epoch,
            storage_key=self.storage_public,
            policy_key=self.vault.signer(KeyRole.POLICY),
        )
        dated = self.dated(epoch=epoch, object_name=made.object_name)
        return msgspec.structs.replace(
            dated, public=made.public, duplicate=made.duplicate, seed=made.seed
        )

    def approved(self, approval: Approval, *, ref: bytes | None = None) -> RootDelivery:
        """The delivery with another approval, signed by the true key."""
        signer = self.vault.signer(KeyRole.POLICY)
        ref = ref or root_ref(self.device, self.metadata.epoch)
        made = sign_approval(approval, ref, sign_digest=signer.sign_digest)
        return msgspec.structs.replace(self.delivery, approval=made)

    def by_another_policy_key(self) -> RootDelivery:
        """An approval that is right in all but its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        made = sign_approval(
            self.delivery.approval,
            root_ref(self.device, self.metadata.epoch),
            sign_digest=lambda digest: key.sign(digest, ec.ECDSA(utils.Prehashed(hashes.SHA256()))),
        )
        return msgspec.structs.replace(self.delivery, approval=made)

    def by_another_metadata_key(self) -> RootDelivery:
        """A whole root of the attacker's own: the import itself would succeed."""
        key = ec.generate_private_key(ec.SECP256R1())
        made = self.remade(self.metadata.epoch)
        metadata = msgspec.json.decode(made.metadata.payload, type=RootMetadata)
        envelope = seal(metadata, sign=lambda data: key.sign(data, ec.ECDSA(hashes.SHA256())))
        return msgspec.structs.replace(made, metadata=envelope)

    def object_of_another(self) -> RootDelivery:
        """The attacker's object under the honest metadata."""
        made = self.remade(self.metadata.epoch)
        return msgspec.structs.replace(made, metadata=self.delivery.metadata)

    def wrapped_for_another(self) -> RootDelivery:
        """The object of the metadata, wrapped for another TPM's storage key."""
        made = make_root(
            device=self.device,
            epoch=self.metadata.epoch,
            storage_key=SoftwareTpm().storage,
            policy_key=self.vault.signer(KeyRole.POLICY),
        )
        dated = self.dated(object_name=made.object_name)
        return msgspec.structs.replace(
            dated, public=made.public, duplicate=made.duplicate, seed=made.seed
        )

    def held_approval(self) -> RootDelivery:
        """The approval of the root that the device has."""
        return msgspec.structs.replace(self.delivery, approval=self.held.approval)

    def expired_approval(self) -> RootDelivery:
        """An approval that ended long ago by the TPM's clock."""
        return self.approved(msgspec.structs.replace(self.delivery.approval, not_after=1))

    def without_increment(self) -> RootDelivery:
        """The next root without the leave to revoke the last."""
        return msgspec.structs.replace(self.delivery, increments=())


BAD_ROOTS: dict[str, tuple[Callable[[Forge], RootDelivery], str]] = {
    "60: is approved for the epoch before": (Forge.held_approval, "root:approval:invalid"),
    "60: is approved for another device": (
        lambda f: f.approved(f.delivery.approval, ref=root_ref(bytes(34), f.metadata.epoch)),
        "root:approval:invalid",
    ),
    "60: is approved by another policy key": (
        Forge.by_another_policy_key,
        "root:approval:invalid",
    ),
    "61: has no leave to count": (Forge.without_increment, "root:approval:invalid"),
    "65: skips an epoch, with leave for one": (
        lambda f: f.remade(f.metadata.epoch + 1),
        "root:approval:invalid",
    ),
    "65: skips two epochs": (lambda f: f.remade(f.metadata.epoch + 2), "root:epoch:mismatch"),
    "65: repeats an epoch": (lambda f: f.remade(f.metadata.epoch - 1), "root:epoch:mismatch"),
    "66: has expired": (
        lambda f: f.dated(not_before=0, not_after=f.metadata.not_before),
        "root:time:invalid",
    ),
    "66: is not valid yet": (
        lambda f: f.dated(not_before=f.metadata.not_after - 1),
        "root:time:invalid",
    ),
    "66: has an expired approval": (Forge.expired_approval, "root:expired"),
    "67: is for another storage key": (
        lambda f: f.dated(storage_key=bytes(34)),
        "root:device:mismatch",
    ),
    "67: is wrapped for another storage key": (Forge.wrapped_for_another, "tpm:command:failed"),
    "67: is for another device": (lambda f: f.dated(device=bytes(34)), "root:device:mismatch"),
    "70: is for another release": (lambda f: f.dated(release="0.9"), "root:release:mismatch"),
    "81: is the attacker's own": (Forge.by_another_metadata_key, "wire:envelope:signature"),
    "81: is another object than is signed for": (Forge.object_of_another, "root:name:mismatch"),
}


@pytest.mark.parametrize("case", BAD_ROOTS)
def test_a_device_takes_no_root_that(
    case: str, offered: Field, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is counted and nothing kept that could be opened; the key store stays open."""
    forge, code = BAD_ROOTS[case]
    device, channel = offered.device, offered.context.channel
    post, epoch = channel.post, device.keystore.epoch

    def altered(path: str, request: object, kind: type[object]) -> object:
        answer = post(path, request, kind)  # type: ignore[arg-type,type-var]
        if isinstance(answer, AttestReply) and answer.root is not None:
            changed = forge(Forge(offered, answer.root))
            return msgspec.structs.replace(answer, root=changed)
        return answer

    monkeypatch.setattr(channel, "post", altered)
    with pytest.raises(errors.HwTrustError) as refused:
        device.attest()
    assert refused.value.code == code
    assert counter_of(device) == device.keystore.epoch == epoch
    assert list(offered.context.state.roots()) == [epoch]
    assert device.keystore["name"] == b"value"
    assert loaded(offered.context.tpm) == ()


def test_60_a_kept_approval_of_another_epoch_opens_nothing(site: Site) -> None:
    """Nobody guards the disk: an approval put back there is refused before anything is extended."""
    name = site.enrol()
    with site.open() as device:
        device.boot()
        old = device._context.newest_root().approval
        site.backend.rotate(name)
        device.attest()
    site.tpm.reboot()
    with site.open() as device:
        state = device._context.state
        state.save_root(msgspec.structs.replace(device._context.newest_root(), approval=old))
        with pytest.raises(errors.RootApprovalError) as refused:
            device.boot()
        assert device.event_log().records == ()
    assert refused.value.code == "root:approval:invalid"


def test_61_an_increment_counts_once(site: Site) -> None:
    """The leave is compare-and-swap: played again it moves nothing."""
    name = site.enrol()
    with site.open() as device:
        context = device._context
        device.boot()
        device.attest()
        site.backend.rotate(name)
        _, accepted = attest_once(context)
        assert accepted is not None
        epoch = rotate(context, accepted)
        with pytest.raises(errors.RootRevokedError) as refused:
            provision.increment_counter(
                context.tpm,
                context.known().counter,
                context.known().storage_key,
                recipe=accepted.delivery.increments[0].policy(),
                authorization=accepted.increments[0],
                policy_key=context.policy_key,
            )
        assert counter_of(device) == epoch
        assert loaded(context.tpm) == ()
    assert refused.value.code == "root:revoked"


@pytest.mark.parametrize("again", [False, True], ids=["undefined", "undefined and redefined"])
def test_62_a_counter_that_was_taken_away_ends_the_root_and_enrolling_again_works(
    site: Site, again: bool
) -> None:
    """A local program with the owner's rights can deny service, and no more."""
    name = site.enrol()
    with site.open() as device:
        context = device._context
        epoch, counter = counter_of(device), context.known().counter
        public = commands.nv_read_public(context.tpm, context.tpm.at(counter))
        commands.nv_undefine(context.tpm, counter.handle)
        if again:
            unwritten = public.attributes & ~NvAttributes.WRITTEN
            commands.nv_define(
                context.tpm,
                NvPublic(public.index, public.name_alg, unwritten, public.auth_policy, public.size),
            )
    site.tpm.reboot()
    with site.open() as device:
        with pytest.raises((errors.TpmError, errors.RootError)) as refused:
            device.boot()
        assert refused.value.code == "tpm:object:conflict"
        with pytest.raises(errors.TpmError):
            device.attest()
        assert loaded(device._context.tpm) == ()
        assert device.enrol(token=site.token()).device == name
        device.boot()
        assert device.keystore.epoch > epoch
        assert device.attest().standing is Standing.TRUSTED


def test_68_a_restored_backend_issues_no_epoch_twice(site: Site, tmp_path: Path) -> None:
    """It sees that its database is older than the device, says so, and makes no root."""
    name = site.enrol()
    backup = backed_up(site, tmp_path)
    with site.open() as device:
        device.boot()
        site.backend.rotate(name)
        epoch = device.attest().rotated_to
        assert epoch is not None
    with restored(site, backup) as backend, site.open() as device:
        device.boot()
        result = device.attest()
        assert result.standing is Standing.FAILED
        assert "epoch:unknown" in {finding.code for finding in result.findings}
        assert not result.root_waits
        with backend.session() as session:
            assert max(root.epoch for root in roots_of(session, name.hex())) < epoch
            events = [record.event for record in trail(session, name.hex(), limit=8)]
        assert Event.EPOCH_UNKNOWN in events


class PowerCutError(Exception):
    """The rotation ends here."""


@pytest.mark.parametrize("last_step", ["reload", "cap", "wrap key store"])
def test_68_a_root_of_the_lost_database_does_not_cost_the_key_store(
    site: Site, tmp_path: Path, last_step: str
) -> None:
    """The device holds an E + 1 that its backend has lost: the new E + 1 replaces it."""
    name = site.enrol()
    backup = backed_up(site, tmp_path)

    def cut(step: Step) -> None:
        if step.name == last_step:
            raise PowerCutError

    with site.open() as device:
        device.boot()
        device.keystore.put("name", b"value")
        device.attest()
        site.backend.rotate(name)
        with pytest.raises(PowerCutError):
            device.attest(on_step=cut)
        lost = device._context.newest_root()
    with restored(site, backup) as backend, site.open() as device:
        device.boot()
        assert device.attest().standing is Standing.TRUSTED
        backend.rotate(name)
        assert device.attest().rotated_to == lost.epoch
        assert device._context.newest_root().public != lost.public
        assert device.keystore["name"] == b"value"
    site.tpm.reboot()
    with site.open() as device:
        device.boot()
        assert device.keystore["name"] == b"value"


def backed_up(site: Site, directory: Path) -> Path:
    """A copy of the backend's data, taken while it does nothing."""
    return Path(shutil.copytree(site.backend.directory, directory / "backup"))


@contextmanager
def restored(site: Site, backup: Path) -> Iterator[BackendServer]:
    """The backend as it was backed up, in the place of the one that ran."""
    site.backend.__exit__(None, None, None)
    with BackendServer(backup, clock=site.backend.clock) as backend:
        trust = msgspec.structs.replace(backend.trust, url=backend.url)
        (site.home / "trust.json").write_bytes(msgspec.json.encode(trust))
        yield backend
