"""The rules by which an enclave accepts a root.

    EnclaveRoot ── accept_root ─▶ AcceptedRoot ── open_root ─▶ 32 bytes

Pure: no file, socket or clock. HPKE's base mode authenticates nobody, so a root is
opened only once it is an `AcceptedRoot`. Rules, in the order in which they are checked
(the code carries their numbers; those of a TPM's roots are in `hwtrust.roots`):

1.  signature    the metadata key has signed the metadata; nothing else is looked at
                 before that.
2.  device       it is for this enclave.
3.  release key  it is sealed to this enclave's key.
4.  epoch        it is above that of the root which the enclave holds: by one, or by
                 more, where the backend leaves out epochs that it has offered to
                 another key, or may have given away and forgotten. 0 is none.
5.  release      it is for the release that this enclave runs.
6.  time         not_before <= now < not_after.
"""

from __future__ import annotations

from dataclasses import InitVar, dataclass
from hmac import compare_digest
from typing import TYPE_CHECKING, Final

from hwtrust.errors import (
    RootDeviceError,
    RootEpochError,
    RootReleaseError,
    RootTimeError,
)
from hwtrust.wire.enclave import EnclaveRootMetadata
from hwtrust.wire.envelope import unseal

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

    from hwtrust.wire.enclave import EnclaveRoot

NO_EPOCH: Final = 0
"""What an enclave names as its epoch that holds no root."""

_ACCEPTED: Final = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptedRoot:
    """A root that passed every rule; only `accept_root` makes them."""

    metadata: EnclaveRootMetadata
    delivery: EnclaveRoot
    accepted: InitVar[object]

    def __post_init__(self, accepted: object) -> None:
        if accepted is not _ACCEPTED:
            raise TypeError("roots are accepted by hwtrust.enclave.roots.accept_root alone")


def accept_root(
    delivery: EnclaveRoot,
    *,
    metadata_key: ec.EllipticCurvePublicKey,
    device: bytes,
    release_key: bytes,
    held: int,
    release: str,
    now_ms: int,
) -> AcceptedRoot:
    """Check a root before it is opened.

    `device` is the `enclave_name`, `release_key` the public X25519 key, raw; `held` is
    the epoch of the root that the enclave holds, or `NO_EPOCH`. `now_ms` is UTC.

    Raises:
        EnvelopeError: the metadata is not signed by the metadata key.
        RootError: the root is refused; the class says why.
        MalformedError: the metadata is signed, and is none.
    """
    # (1): signature.
    metadata = unseal(delivery.metadata, EnclaveRootMetadata, key=metadata_key)
    # (2): device.
    if not compare_digest(metadata.device, device):
        raise RootDeviceError("the root was made for another device")
    # (3): release key.
    if not compare_digest(metadata.release_key, release_key):
        raise RootDeviceError("the root was sealed to another key than this enclave's")
    # (4): epoch.
    if metadata.epoch <= max(held, NO_EPOCH):
        raise RootEpochError(
            f"the root of epoch {metadata.epoch} is not the one that must come next; "
            f"the enclave holds {held}",
            epoch=metadata.epoch,
            held=held,
        )
    # (5): release.
    if metadata.release != release:
        raise RootReleaseError(
            f"the root is for release {metadata.release!r}, this enclave runs {release!r}",
            expected=release,
            found=metadata.release,
        )
    # (6): time.
    if not metadata.not_before <= now_ms < metadata.not_after:
        raise RootTimeError(
            "the root is not valid yet, or no longer",
            not_before=metadata.not_before,
            not_after=metadata.not_after,
            now=now_ms,
        )
    return AcceptedRoot(metadata=metadata, delivery=delivery, accepted=_ACCEPTED)
