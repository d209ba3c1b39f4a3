"""Rotate: bring the next root in, and only then let the last one die.

    import ─▶ save ─▶ reload, unseal E+1, cap ─▶ wrap under both ─▶ count ─▶ drop E

Rules:
1. The increment of the epoch counter is the only commit point. Before it root E
   opens the key store, after it root E+1 does; both find their wrap.
2. Every step may be the last before the power goes: what it leaves is either
   used or replaced by the next start.
3. The delivery is a checked `AcceptedRoot`; nothing else is ever imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hwtrust.device import trial
from hwtrust.device.attest import attest_once
from hwtrust.device.boot import load_and_unseal, read_pcrs
from hwtrust.device.conditions import absence_noted, failures_noted, follow
from hwtrust.device.results import AttestResult
from hwtrust.device.state import StoredRoot
from hwtrust.errors import RootApprovalError, RootStateError
from hwtrust.tpm import commands
from hwtrust.tpm.provision import increment_counter
from hwtrust.wire.states import live_value, state_digest

if TYPE_CHECKING:
    from hwtrust.device.context import DeviceContext
    from hwtrust.roots import AcceptedRoot


def attest(device: DeviceContext) -> AttestResult:
    """Attest once, and rotate where the backend sends the next root and the key store is open.

    Afterwards the device's condition is what the backend says.
    """
    with absence_noted(device):
        return _attest(device)


def _attest(device: DeviceContext) -> AttestResult:
    with device.step("attest"):
        answered, accepted = attest_once(device)
    # Obeyed before anything is remembered: a disk may be full, a root refused.
    follow(device, answered.reply)
    trial.confirm(device, answered.reply.standing)
    rotated_to, waits = None, accepted is not None and device.keystore is None
    if accepted is not None and device.keystore is not None:
        with failures_noted(device):
            rotated_to = rotate(device, accepted)
        with device.step("attest", "to confirm the new epoch"):
            answered, _ = attest_once(device)
        follow(device, answered.reply)
    reply = answered.reply
    trial.note_order(device, reply.update)
    device.answer = AttestResult(
        reply.standing,
        reply.findings,
        reply.mode,
        reply.heartbeat_ms,
        rotated_to,
        waits,
        reply.offline_grace_ms,
        reply.update,
        answered.clock_ms,
    )
    return device.answer


def store_root(device: DeviceContext, accepted: AcceptedRoot) -> StoredRoot:
    """Import a root into the TPM's storage hierarchy and keep it on disk."""
    delivery, epoch = accepted.delivery, accepted.metadata.epoch
    with device.step("import", f"root of epoch {epoch}"):
        private = commands.import_object(
            device.tpm,
            device.known().storage_key,
            public=accepted.public,
            duplicate=delivery.duplicate,
            seed=delivery.seed,
        )
    root = StoredRoot(
        epoch=epoch,
        metadata=delivery.metadata,
        public=delivery.public,
        private=private,
        approval=delivery.approval,
    )
    device.state.save_root(root)
    return root


def rotate(device: DeviceContext, accepted: AcceptedRoot) -> int:
    """Make `accepted` the device's root; gives its epoch. The key store is open throughout.

    Raises:
        RootError: the TPM does not release the new root; the old one stays.
        LayerError: a layer has changed; the old root stays, the key store is locked.
    """
    device.doing = "verify", ""
    keystore = device.opened()
    delivery = accepted.delivery
    if not accepted.increments:
        raise RootApprovalError("the next root comes without the leave to count to its epoch")
    if keystore.epoch == accepted.metadata.epoch:
        # Only the counting was left to do when the power went.
        _count(device, accepted)
        return keystore.epoch
    root = store_root(device, accepted)
    values = read_pcrs(device)
    device.measured.synchronise(values)
    pcr = device.config.tpm.pcr
    target = live_value(device.release, values[pcr])
    digest = state_digest(device.selection, values, pcr=pcr, value=target)
    branch = delivery.approval.branch_for(digest)
    if branch is None:
        raise RootStateError("the PCRs have moved since the quote: attest again", epoch=root.epoch)
    kek = load_and_unseal(device, root, branch=branch, reload=True)
    try:
        with device.step("wrap key store", f"for epoch {root.epoch} too"):
            keystore.begin_rotation(kek)
        _count(device, accepted)
        with device.step("drop old root"):
            keystore.finish_rotation(root.epoch)
            for epoch in [epoch for epoch in device.state.roots() if epoch < root.epoch]:
                device.state.drop_root(epoch)
    finally:
        kek.erase()
    return root.epoch


def _count(device: DeviceContext, accepted: AcceptedRoot) -> None:
    """Count up to the root's epoch: whatever comes before it is dead."""
    leaves = zip(accepted.delivery.increments, accepted.increments, strict=True)
    for increment, authorization in leaves:
        with device.step("count", f"epoch {increment.epoch} is revoked"):
            increment_counter(
                device.tpm,
                device.known().counter,
                device.known().storage_key,
                recipe=increment.policy(),
                authorization=authorization,
                policy_key=device.policy_key,
            )
