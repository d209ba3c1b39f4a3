"""Boot: measure the layers, have the TPM open the root, open the key store.

    layers ─▶ PCR ─▶ TPM opens root ─▶ cap ─▶ KEK ─▶ key store

Rules:
1. Before anything is extended, the state that a good load will reach is looked
   up in the approval. If no branch is for it, a new approval is fetched first:
   what has been extended cannot be taken back.
2. A layer is measured, compared with its reference value, then extended. The
   first that differs is extended as a violation, and the chain stops there.
3. `cap` is extended as soon as the root is out, and also when it is refused, so
   that nobody opens the same state again.
4. The active root is the one that the counter opens; there is no pointer file.
   With one root on disk the TPM itself says whether it is that one.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from hwtrust.device.attest import renew_approval
from hwtrust.errors import (
    KeyStoreMissingError,
    LayerMismatchError,
    RootMissingError,
    RootStateError,
)
from hwtrust.keys.kek import derive_kek
from hwtrust.keys.keystore import KeyStore
from hwtrust.keys.unseal import SealedRoot, unseal_root
from hwtrust.layers import measure
from hwtrust.roots import reopen_root
from hwtrust.tpm import commands
from hwtrust.tpm.provision import read_counter
from hwtrust.tpm.sessions import hmac_session
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.cel import CAP, RELOAD, Event, EventKind
from hwtrust.wire.states import cold_value, layer_event, live_value, state_digest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hwtrust.device.context import DeviceContext
    from hwtrust.device.state import StoredRoot
    from hwtrust.keys.kek import Kek
    from hwtrust.tpm.sessions import Session
    from hwtrust.wire.messages import LayerReference


def boot(device: DeviceContext) -> None:
    """Load every layer and open the key store; afterwards `device.keystore` is open.

    Raises:
        LayerError: a layer is missing or not what its release says.
        RootError: the TPM does not release the root; the class says why.
        TpmPcrConflictError: the PCR was extended by another program.
        KeyStoreError: the key store is missing, damaged or of another epoch.
    """
    device.lock()
    values = read_pcrs(device)
    cold = device.measured.synchronise(values)
    root = active_root(device)
    branch = _branch(device, root, values, cold=cold)
    if branch is None:
        root = renew_approval(device, root)
        branch = _branch(device, root, values, cold=cold)
    if branch is None:
        message = "no branch of the root's approval is for the state that the layers lead to"
        raise RootStateError(message, epoch=root.epoch)
    kek = load_and_unseal(device, root, branch=branch, reload=not cold)
    try:
        _open_keystore(device, kek)
    finally:
        kek.erase()


def read_pcrs(device: DeviceContext) -> Mapping[int, bytes]:
    """The selected PCRs of the SHA-256 bank."""
    return commands.pcr_read(device.tpm, device.selection)[Alg.SHA256]


def active_root(device: DeviceContext) -> StoredRoot:
    """The root that the counter opens; files of revoked ones go.

    Raises:
        RootMissingError: no root on disk has the counter's epoch, or a later one.
    """
    roots = device.state.roots()
    if len(roots) == 1:
        (only,) = roots.values()
        return only
    counter = read_counter(device.tpm, device.known().counter)
    for epoch in [epoch for epoch in roots if epoch < counter]:
        device.state.drop_root(epoch)
    root = device.state.root_at(counter)
    if root is None:
        message = f"the device holds no root of epoch {counter}, which its counter shows"
        raise RootMissingError(message, epoch=counter)
    return root


def load_and_unseal(device: DeviceContext, root: StoredRoot, *, branch: int, reload: bool) -> Kek:
    """Extend every layer, open `root`, extend `cap`; gives the root's KEK."""
    identity = device.known()
    accepted = reopen_root(
        root.metadata,
        root.public,
        root.approval,
        metadata_key=device.metadata_key,
        policy_key=device.policy_key,
        device=identity.device,
    )
    sealed = SealedRoot(
        accepted.public, root.private, root.approval, accepted.authorization, root.ticket
    )
    with hmac_session(device.tpm, identity.storage_key) as session:
        load_layers(device, session, reload=reload)
        try:
            with device.step("unseal", f"root of epoch {root.epoch}"):
                opened = unseal_root(device.tpm, device.anchorage(), sealed, branch=branch)
        finally:
            _cap(device, session)
    if opened.ticket != root.ticket:
        device.state.save_root(msgspec.structs.replace(root, ticket=opened.ticket))
    return derive_kek(opened.secret, device=identity.device, epoch=root.epoch)


def load_layers(device: DeviceContext, session: Session, *, reload: bool) -> None:
    """Measure, compare and extend each layer in order.

    Raises:
        LayerUnreadableError: a layer cannot be read.
        LayerMismatchError: a layer differs; a violation has been extended.
    """
    if reload:
        with device.step("reload"):
            device.measured.extend(device.tpm, RELOAD, session)
    for layer in device.release.layers:
        found = _found(device, layer)
        if found != layer.digest:
            report_violation(device, layer, found, session)
        with device.step("extend", layer.name):
            device.measured.extend(device.tpm, layer_event(layer), session)


def check_layers(device: DeviceContext) -> None:
    """Measure every layer again at run time, and lock at the first that has changed.

    Raises:
        LayerMismatchError: a violation has been extended and the key store is locked.
    """
    for layer in device.release.layers:
        found = _found(device, layer)
        if found != layer.digest:
            with hmac_session(device.tpm, device.known().storage_key) as session:
                report_violation(device, layer, found, session)


def _found(device: DeviceContext, layer: LayerReference) -> bytes:
    with device.step("measure", f"{layer.name} {layer.version}"):
        return measure(Path(device.config.layers[layer.name]))


def report_violation(
    device: DeviceContext, layer: LayerReference, found: bytes, session: Session
) -> None:
    """Extend what was found as a violation, lock the key store, and say so.

    Raises:
        LayerMismatchError: always.
    """
    device.lock()
    event = Event(EventKind.VIOLATION, layer.name, layer.version, found)
    with device.step("violation", layer.name):
        device.measured.extend(device.tpm, event, session)
    message = f"layer {layer.name} is not what release {device.release.name} says"
    raise LayerMismatchError(
        message, layer=layer.name, expected=layer.digest.hex(), found=found.hex()
    )


def _branch(
    device: DeviceContext, root: StoredRoot, values: Mapping[int, bytes], *, cold: bool
) -> int | None:
    pcr = device.config.tpm.pcr
    release = device.release
    value = cold_value(release) if cold else live_value(release, values[pcr])
    digest = state_digest(device.selection, values, pcr=pcr, value=value)
    return root.approval.branch_for(digest)


def _cap(device: DeviceContext, session: Session) -> None:
    with device.step("cap"):
        device.measured.extend(device.tpm, CAP, session, last=True)


def _open_keystore(device: DeviceContext, kek: Kek) -> None:
    state, identity = device.state, device.known()
    if state.keystore.exists():
        with device.step("open key store"):
            device.keystore = KeyStore.open(state.keystore, kek, device=identity.device)
            device.keystore.finish_rotation(kek.epoch)
    elif identity.keystore_made:
        raise KeyStoreMissingError(f"the key store {state.keystore} is gone")
    else:
        with device.step("create key store"):
            device.keystore = KeyStore.create(state.keystore, kek, device=identity.device)
            device.identity = msgspec.structs.replace(identity, keystore_made=True)
            state.save_identity(device.identity)
    for epoch in [epoch for epoch in state.roots() if epoch < kek.epoch]:
        state.drop_root(epoch)
