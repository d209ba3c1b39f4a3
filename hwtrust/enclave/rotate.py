"""Roots: take one, open the key store by it, bring the next one in.

    accept ─▶ open ─▶ seal both ─▶ wrap under both ─▶ drop E's wrap ─▶ seal E+1 alone ─▶ attest

Rules:
1. Dropping the wrap of E is the commit point. Before it root E opens the key store,
   after it root E+1 does; both are sealed until then.
2. Every step may be the last before the machine goes: `usable` finds which root the next
   start goes on with.
3. Without a sealer the same is done in memory, and a machine that goes takes all with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hwtrust.enclave.attest import known
from hwtrust.enclave.kept import Root
from hwtrust.enclave.roots import NO_EPOCH, accept_root
from hwtrust.errors import KeyStoreEpochError, KeyStoreMissingError
from hwtrust.keys.kek import derive_kek
from hwtrust.keys.keystore import KeyStore
from hwtrust.wire.enclave import open_root

if TYPE_CHECKING:
    from hwtrust.enclave.context import EnclaveContext
    from hwtrust.keys.kek import Kek
    from hwtrust.wire.enclave import EnclaveRoot


def usable(enclave: EnclaveContext) -> int:
    """The epoch of the sealed root that opens the key store, or `NO_EPOCH`: there is none.

    Of two it is the older one, as long as the key store is wrapped for it: a rotation that
    was cut off begins anew, perhaps with another root.

    Raises:
        KeyStoreEpochError: no root that is sealed opens the key store.
        KeyStoreError: it is damaged.
    """
    epochs = sorted(known(enclave).roots)
    if not epochs or not enclave.state.keystore.exists():
        return max(epochs, default=NO_EPOCH)
    wrapped = KeyStore.epochs(enclave.state.keystore)
    for epoch in epochs:
        if epoch in wrapped:
            return epoch
    message = "no root that is sealed opens the key store: one of the two is an older copy"
    raise KeyStoreEpochError(message, path=str(enclave.state.keystore))


def take(enclave: EnclaveContext, delivery: EnclaveRoot, *, now_ms: int) -> Root:
    """Check a root and open it; it is not kept yet.

    Raises:
        EnvelopeError, RootError, MalformedError: it is refused; the class says why.
    """
    identity = known(enclave)
    accepted = accept_root(
        delivery,
        metadata_key=enclave.metadata_key,
        device=identity.name,
        release_key=identity.release_public,
        held=enclave.epoch,
        release=enclave.release.name,
        now_ms=now_ms,
    )
    secret = open_root(
        accepted.delivery.sealed, key=identity.release_key, metadata=accepted.delivery.metadata
    )
    return Root(accepted.metadata, secret)


def hold(enclave: EnclaveContext, root: Root) -> None:
    """Make `root` the enclave's first, and keep it where that can be done."""
    identity = known(enclave)
    epoch = enclave.epoch = root.metadata.epoch
    identity.roots[epoch] = root
    identity.drop(but=epoch)
    enclave.state.save(identity)


def open_keystore(enclave: EnclaveContext) -> None:
    """Open the key store by the root of `enclave.epoch`, or make it.

    Raises:
        KeyStoreError: it is missing, damaged, or does not open by this root.
        StateError, AnchorError: that it was made cannot be kept.
    """
    identity, state = known(enclave), enclave.state
    root = identity.roots[enclave.epoch]
    kek = _kek(enclave, root)
    try:
        if not state.sealing:
            enclave.keystore = KeyStore.in_memory(kek, device=identity.name)
        elif state.keystore.exists():
            enclave.keystore = KeyStore.open(state.keystore, kek, device=identity.name)
            enclave.keystore.finish_rotation(kek.epoch)
        elif identity.keystore_made:
            raise KeyStoreMissingError(f"the key store {state.keystore} is gone")
        else:
            enclave.keystore = KeyStore.create(state.keystore, kek, device=identity.name)
    finally:
        kek.erase()
    enclave.not_after = root.metadata.not_after
    if state.sealing and (len(identity.roots) > 1 or not identity.keystore_made):
        identity.keystore_made = True
        identity.drop(but=enclave.epoch)
        state.save(identity)


def rotate(enclave: EnclaveContext, root: Root) -> int:
    """Make `root` the enclave's; gives its epoch. The key store is open throughout.

    Raises:
        KeyStoreError, StateError, AnchorError: the former root goes on.
    """
    identity, keystore = known(enclave), enclave.keystore
    assert keystore is not None  # noqa: S101 - who calls has opened it
    epoch = root.metadata.epoch
    kek = _kek(enclave, root)
    try:
        identity.roots[epoch] = root
        enclave.state.save(identity)
        keystore.begin_rotation(kek)
        keystore.finish_rotation(epoch)
        enclave.epoch, enclave.not_after = epoch, root.metadata.not_after
    finally:
        kek.erase()
    identity.drop(but=epoch)
    enclave.state.save(identity)
    return epoch


def _kek(enclave: EnclaveContext, root: Root) -> Kek:
    epoch = root.metadata.epoch
    return derive_kek(root.secret.reveal(), device=known(enclave).name, epoch=epoch)
