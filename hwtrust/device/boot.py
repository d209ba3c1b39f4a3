"""Boot: measure the layers, have the TPM open the root, open the key store.

    layers ─▶ PCR ─▶ TPM opens root ─▶ cap ─▶ KEK ─▶ key store

Rules:
1. Before anything is extended, the state that a good load will reach is looked
   up in the approval. If no branch is for it, a new approval is fetched first:
   what has been extended cannot be taken back.
2. A layer is measured, compared with its reference value, extended, then
   activated by the host application. The first that differs is extended as a
   violation, and the chain stops there, as it does at the first that cannot be
   read or activated.
3. `cap` is extended as soon as the root is out, and also when it is refused or
   the last layer is not activated, so that nobody opens the same state again.
4. The active root is the one that the counter opens; there is no pointer file.
   With one root on disk the TPM itself says whether it is that one.
5. What an application activates goes by its path, and somebody may have changed
   it since it was measured. So a layer is measured again once it is activated,
   and a difference is a violation: the TPM has not released anything by then.
   Who changes a layer and changes it back in between is not seen; only a layer
   that nothing can write to (fs-verity, dm-verity) keeps him out.
6. A device that its backend has locked asks it before it loads; while there is
   no answer it stays locked.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from hwtrust.device.conditions import failures_noted, loaded
from hwtrust.device.results import State
from hwtrust.errors import (
    ChannelError,
    ConfigError,
    DeviceLockedError,
    KeyStoreMissingError,
    LayerActivationError,
    LayerMismatchError,
    LayerSwappedError,
    LayerUnreadableError,
    RootMissingError,
    RootStateError,
)
from hwtrust.keys.kek import derive_kek
from hwtrust.keys.keystore import KeyStore
from hwtrust.keys.unseal import SealedRoot, unseal_root
from hwtrust.layers import measure
from hwtrust.roots import reopen_root
from hwtrust.tpm import commands
from hwtrust.tpm.sessions import hmac_session
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.cel import CAP, RELOAD, Event, EventKind
from hwtrust.wire.messages import Mode
from hwtrust.wire.states import cold_value, layer_event, live_value, state_digest

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from hwtrust.device.context import DeviceContext
    from hwtrust.device.results import Activate
    from hwtrust.device.state import Identity, StoredRoot
    from hwtrust.digests import MeasureCache
    from hwtrust.keys.kek import Kek
    from hwtrust.tpm.sessions import Session
    from hwtrust.wire.messages import LayerReference


def boot(device: DeviceContext, *, activate: Activate | None = None) -> None:
    """Load every layer and open the key store; afterwards `device.keystore` is open.

    `activate` starts a layer that has been extended, before the next is measured.
    What fails is noted (`hwtrust.device.conditions`), and raised.

    Raises:
        NotEnrolledError: there is nothing to load for.
        DeviceLockedError: the backend has locked the device.
        LayerError: a layer is missing, not what its release says, or not activated.
        RootError: the TPM does not release the root; the class says why.
        TpmPcrConflictError: the PCR was extended by another program.
        KeyStoreError: the key store is missing, damaged or of another epoch.
    """
    device.known()
    device.lock()
    device.become(State.LOADING)
    with failures_noted(device):
        _load(device, activate)
    loaded(device)


def _load(device: DeviceContext, activate: Activate | None) -> None:
    _require_unlocked(device)
    device.doing = "tpm", ""
    values = read_pcrs(device)
    cold = device.measured.synchronise(values)
    device.doing = "verify", ""
    root = active_root(device)
    branch = _branch(device, root, values, cold=cold)
    if branch is None:
        from hwtrust.device.attest import renew_approval  # noqa: PLC0415 - rarely needed

        root = renew_approval(device, root)
        branch = _branch(device, root, values, cold=cold)
    if branch is None:
        message = "no branch of the root's approval is for the state that the layers lead to"
        raise RootStateError(message, epoch=root.epoch)
    kek = load_and_unseal(device, root, branch=branch, reload=not cold, activate=activate)
    try:
        device.doing = "open", ""
        _open_keystore(device, kek)
    finally:
        kek.erase()


def _require_unlocked(device: DeviceContext) -> None:
    if device.heard is None or device.heard.mode is not Mode.LOCKED:
        return
    from hwtrust.device.attest import attest_once  # noqa: PLC0415 - rarely needed

    device.doing = "verify", ""
    message = "the backend has locked this device"
    try:
        with device.step("attest", "whether the device is still locked"):
            attest_once(device)
    except ChannelError as error:
        raise DeviceLockedError(f"{message}, and cannot be asked: {error.message}") from error
    if device.heard.mode is Mode.LOCKED:
        raise DeviceLockedError(message)


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
    from hwtrust.tpm.provision import read_counter  # noqa: PLC0415 - rarely needed

    counter = read_counter(device.tpm, device.known().counter)
    for epoch in [epoch for epoch in roots if epoch < counter]:
        device.state.drop_root(epoch)
    root = device.state.root_at(counter)
    if root is None:
        message = f"the device holds no root of epoch {counter}, which its counter shows"
        raise RootMissingError(message, epoch=counter)
    return root


def load_and_unseal(
    device: DeviceContext,
    root: StoredRoot,
    *,
    branch: int,
    reload: bool,
    activate: Activate | None = None,
) -> Kek:
    """Extend every layer, open `root`, extend `cap`; gives the root's KEK."""
    identity = device.known()
    device.doing = "verify", ""
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
        try:
            load_layers(device, session, reload=reload, activate=activate)
        except BaseException:
            if _complete(device):
                _cap(device, session)
            raise
        device.doing = "unseal", ""
        try:
            with device.step("unseal", f"root of epoch {root.epoch}"):
                opened = unseal_root(device.tpm, device.anchorage(), sealed, branch=branch)
        finally:
            _cap(device, session)
    if opened.ticket != root.ticket:
        device.state.save_root(msgspec.structs.replace(root, ticket=opened.ticket))
    return derive_kek(opened.secret, device=identity.device, epoch=root.epoch)


def load_layers(
    device: DeviceContext, session: Session, *, reload: bool, activate: Activate | None = None
) -> None:
    """Measure, compare, extend and activate each layer in order.

    Raises:
        LayerUnreadableError: a layer cannot be read.
        LayerMismatchError: a layer differs; a violation has been extended.
        LayerActivationError: `activate` has raised what is its cause.
    """
    if activate is not None:
        # Until the load is at its end it is not known what runs.
        device.started = None
    if reload:
        device.doing = "extend", ""
        with device.step("reload"):
            device.measured.extend(device.tpm, RELOAD, session)
    for layer in device.release.layers:
        device.doing = "measure", layer.name
        found = _found(device, layer)
        if found != layer.digest:
            device.doing = "verify", layer.name
            report_violation(device, layer, found, session)
        device.doing = "extend", layer.name
        with device.step("extend", layer.name):
            device.measured.extend(device.tpm, layer_event(layer), session)
        if activate is not None:
            _activate(device, layer, session, activate)
    if activate is not None:
        device.started = device.release


def _activate(
    device: DeviceContext, layer: LayerReference, session: Session, activate: Activate
) -> None:
    device.doing = "activate", layer.name
    with device.step("activate", layer.name):
        try:
            activate(layer, Path(device.config.layers[layer.name]))
        except Exception as error:
            # Its text is the application's, and may hold what is not for others to read.
            message = f"layer {layer.name} was not activated: {type(error).__name__}"
            raise LayerActivationError(message, layer=layer.name) from error
    found = _found(device, layer)
    if found != layer.digest:
        report_violation(device, layer, found, session, kind=LayerSwappedError)


def _complete(device: DeviceContext) -> bool:
    """Whether the PCR holds the state for which the TPM would open the root."""
    events = device.measured.log.events
    return bool(events) and events[-1] == layer_event(device.release.layers[-1])


def check_layers(
    device: DeviceContext,
    *,
    only: Collection[str] | None = None,
    cache: MeasureCache | None = None,
) -> None:
    """Measure layers again at run time, and lock at the first that has changed.

    All of them, unless `only` names some. With a `cache`, files that fs-verity
    guards are not read again.

    Raises:
        LayerMismatchError: a violation has been extended and the key store is locked.
        LayerUnreadableError: a layer is gone; the key store is locked.
        ConfigError: `only` names what is no layer.
    """
    unknown = sorted(set(only or ()) - device.config.layers.keys())
    if unknown:
        raise ConfigError(f"there is no layer {unknown[0]!r}", layer=unknown[0])
    with failures_noted(device, running=True):
        for layer in device.release.layers:
            if only is None or layer.name in only:
                device.doing = "watch", layer.name
                _check(device, layer, cache)


def _check(device: DeviceContext, layer: LayerReference, cache: MeasureCache | None) -> None:
    try:
        found = _found(device, layer, cache)
    except LayerUnreadableError:
        device.lock()
        raise
    if found != layer.digest:
        with hmac_session(device.tpm, device.known().storage_key) as session:
            report_violation(device, layer, found, session)


def _found(
    device: DeviceContext, layer: LayerReference, cache: MeasureCache | None = None
) -> bytes:
    with device.step("measure", f"{layer.name} {layer.version}"):
        return measure(Path(device.config.layers[layer.name]), cache=cache or device.cache)


def report_violation(
    device: DeviceContext,
    layer: LayerReference,
    found: bytes,
    session: Session,
    *,
    kind: type[LayerMismatchError] = LayerMismatchError,
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
    raise kind(message, layer=layer.name, expected=layer.digest.hex(), found=found.hex())


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
        if not identity.keystore_made:
            # The power went between making it and noting that it was made.
            _note_keystore(device, identity)
    elif identity.keystore_made:
        raise KeyStoreMissingError(f"the key store {state.keystore} is gone")
    else:
        with device.step("create key store"):
            device.keystore = KeyStore.create(state.keystore, kek, device=identity.device)
            _note_keystore(device, identity)
    for epoch in [epoch for epoch in state.roots() if epoch < kek.epoch]:
        state.drop_root(epoch)


def _note_keystore(device: DeviceContext, identity: Identity) -> None:
    """Note that there is a key store, so that one which goes is missed."""
    device.identity = msgspec.structs.replace(identity, keystore_made=True)
    device.state.save_identity(device.identity)
