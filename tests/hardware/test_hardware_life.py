"""The whole life of a root, from enrolment to the device's end, on whatever TPM there is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from hwtrust.device import Device, DeviceConfig
from hwtrust.device.boot import load_layers
from hwtrust.errors import LayerMismatchError, RefusedError, RootRevokedError, RootStateError
from hwtrust.keys.unseal import SealedRoot, unseal_root
from hwtrust.layers import reference
from hwtrust.roots import reopen_root
from hwtrust.testing.hardware import HANDLES, PCR, reset_pcr
from hwtrust.tpm import commands, provision
from hwtrust.tpm.connection import Tpm
from hwtrust.tpm.sessions import hmac_session
from hwtrust.verify import enrolment
from hwtrust.wire.messages import Release, Standing
from hwtrust_backend.admin import local_administrator
from hwtrust_backend.admin.devices import retire
from hwtrust_backend.testing import BackendServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hwtrust.device.context import DeviceContext
    from hwtrust.device.state import StoredRoot
    from hwtrust.testing.plugin import HardwareTpm
    from hwtrust.testing.swtpm import Swtpm

pytestmark = pytest.mark.hardware

LAYERS = ("root-of-trust", "kernel", "application")
NEVER_SET_S = 10**10
"""Seconds by which the TPM's clock may be behind: it is somebody's, and stays as it is."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[BackendServer]:
    """A backend that takes the tests' own PCR.

    It refuses PCRs that programs can reset; the others cannot be put back on
    somebody's machine.
    """
    monkeypatch.setattr(enrolment, "APPLICATION_PCRS", range(PCR, PCR + 1))
    monkeypatch.setattr(enrolment, "RESETTABLE_PCRS", frozenset())
    with BackendServer() as started:
        yield started


@pytest.fixture
def config(
    tmp_path: Path, tpm: Swtpm | HardwareTpm, owner_auth: bytes, server: BackendServer
) -> Iterator[DeviceConfig]:
    """A device with three layers that is not enrolled; the TPM is as before afterwards."""
    for name in LAYERS:
        (tmp_path / name).write_bytes(f"layer {name}\n".encode() * 64)
    layers = tuple(reference(name, "1.0", tmp_path / name) for name in LAYERS)
    release = Release(name="1.0", layers=layers)
    server.accept(release)
    (tmp_path / "release.json").write_bytes(msgspec.json.encode(release))
    with Tpm(tpm.tcti, owner_auth=owner_auth) as opened:
        if not provision.has_p256(opened):
            pytest.skip("the TPM has no P-256, on which approvals are signed")
        banks = [bank.name.lower() for bank in provision.active_banks(opened)]
        template = provision.find_endorsement_key(opened).template
        with provision.endorsement_key(opened, template) as (_, ek):
            server.allow_ek(ek.name)
    lines = [
        'state_dir = "state"',
        f'trust = "{server.trust_file}"',
        'release = "release.json"',
        'tls_key = "attested"',
        "[tpm]",
        f'tcti = "{tpm.tcti}"',
        f"pcr = {PCR}",
        "unsafe_resettable_pcr = true",
        f"clock_threshold_s = {NEVER_SET_S}",
        f"banks = {banks}",
        "[tpm.handles]",
        *(f"{name} = {value}" for name, value in msgspec.structs.asdict(HANDLES).items()),
        "[layers]",
        *(f'"{name}" = "{tmp_path / name}"' for name in LAYERS),
    ]
    (tmp_path / "hwtrust.toml").write_text("\n".join(lines))
    yield DeviceConfig.load(tmp_path / "hwtrust.toml")
    with Tpm(tpm.tcti, owner_auth=owner_auth) as opened:
        provision.remove(opened, HANDLES)
        reset_pcr(opened)


def as_a_thief(device: DeviceContext, root: StoredRoot) -> bytes:
    """Ask the TPM for a root past the library."""
    held = reopen_root(
        root.metadata,
        root.public,
        root.approval,
        metadata_key=device.metadata_key,
        policy_key=device.policy_key,
        device=device.known().device,
    )
    sealed = SealedRoot(held.public, root.private, root.approval, held.authorization)
    return unseal_root(device.tpm, device.anchorage(), sealed, branch=0).secret


def load_cold(device: DeviceContext) -> None:
    """Extend the layers after a reboot, and neither unseal nor cap."""
    device.measured.settle(device.tpm)
    with hmac_session(device.tpm, device.known().storage_key) as session:
        load_layers(device, session, reload=False)


def test_a_device_lives_from_enrolment_to_retirement(
    config: DeviceConfig, server: BackendServer, owner_auth: bytes
) -> None:
    """Enrol, boot, cap, attest, rotate, boot again, retire: the secret lasts as long as that."""
    with Device.open(config, owner_auth=lambda: owner_auth) as device:
        clock = commands.read_clock(device._context.tpm).clock
        name = device.enrol(token=server.token()).device
        device.boot()
        device.keystore.put("payments/transport", b"secret")
        first = device._context.newest_root()
        with pytest.raises(RootStateError) as capped:
            as_a_thief(device._context, first)
        assert capped.value.code == "root:state:unapproved"
        assert device.attest().standing is Standing.TRUSTED
        server.rotate(name)
        assert device.attest().rotated_to == first.epoch + 1
        assert device.keystore["payments/transport"] == b"secret"
        reset_pcr(device._context.tpm)

    with Device.open(config, owner_auth=lambda: owner_auth) as device:
        load_cold(device._context)
        with pytest.raises(RootRevokedError) as revoked:
            as_a_thief(device._context, first)
        assert revoked.value.code == "root:revoked"
        reset_pcr(device._context.tpm)

    with Device.open(config, owner_auth=lambda: owner_auth) as device:
        device.boot()
        assert device.keystore.epoch == first.epoch + 1
        assert device.keystore["payments/transport"] == b"secret"
        assert device.attest().standing is Standing.TRUSTED
        with server.session() as session:
            by = local_administrator()
            retire(session, name.hex(), reason="sold", by=by, now=server.clock())
        with pytest.raises(RefusedError) as refused:
            device.attest()
        assert refused.value.data["problem"] == "device:retired"
        moved = commands.read_clock(device._context.tpm).clock - clock
        assert moved < 24 * 3_600_000, "the TPM's clock runs, and is not set"


def test_a_changed_layer_keeps_the_key_in_the_tpm(
    config: DeviceConfig, server: BackendServer, owner_auth: bytes
) -> None:
    """The chain stops at the layer, nothing opens, and the backend is told which one it was."""
    with Device.open(config, owner_auth=lambda: owner_auth) as device:
        device.enrol(token=server.token())
        device.boot()
        device.attest()
        reset_pcr(device._context.tpm)
    with Path(config.layers["kernel"]).open("ab") as layer:
        layer.write(b"changed")
    with Device.open(config, owner_auth=lambda: owner_auth) as device:
        with pytest.raises(LayerMismatchError) as mismatch:
            device.boot()
        assert mismatch.value.data["layer"] == "kernel"
        with pytest.raises(RootStateError):
            as_a_thief(device._context, device._context.newest_root())
        assert device.attest().standing is not Standing.TRUSTED
