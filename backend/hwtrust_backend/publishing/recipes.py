"""Making a root and signing what opens it; nothing is stored here.

Rules:
1. A root's bytes exist inside `make` and nowhere else: they are sealed for one
   storage key and dropped.
2. An approval is reckoned in the device's own TPM clock: the clock in the quote
   plus the time that is left.
3. States are folded from releases' reference values; from the device come
   only values that its TPM has quoted.
4. A second release is approved only where the caller gives it: what a device
   asks for is not looked at here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import msgspec
from msgspec.structs import replace

from hwtrust.verify.evidence import Claims, KnownDevice
from hwtrust.verify.kept import Kept
from hwtrust.wire.codec import U64_MAX, tpm2b
from hwtrust.wire.envelope import Envelope, seal
from hwtrust.wire.messages import Release
from hwtrust.wire.policy import approval_digest, fold
from hwtrust.wire.protect import seal_for
from hwtrust.wire.root import (
    Approval,
    Branch,
    Increment,
    RootMetadata,
    increment_ref,
    policy_key_public,
    root_policy,
    root_ref,
    sign_approval,
)
from hwtrust.wire.states import approved_states, root_selection
from hwtrust.wire.structures import PcrSelection, Public
from hwtrust_backend.keys import Signer

ROOT_SIZE = 32

STANDING_KEPT: Final = 8192
"""Devices whose approvals are kept but for the time, some two kilobytes each."""


@dataclass(frozen=True, slots=True)
class MadeRoot:
    """A root as only one TPM can take it in."""

    object_name: bytes
    public: bytes
    """TPM2B_PUBLIC."""
    duplicate: bytes
    seed: bytes


def make_root(*, device: bytes, epoch: int, storage_key: Public, policy_key: Signer) -> MadeRoot:
    """Draw a root and seal it for `storage_key` under the policy of `epoch`."""
    policy = root_policy(policy_key_public(policy_key.public_key), device, epoch)
    made = seal_for(storage_key, os.urandom(ROOT_SIZE), auth_policy=fold(policy))
    return MadeRoot(made.name, tpm2b(made.public), made.private, made.seed)


def sign_metadata(metadata: RootMetadata, *, metadata_key: Signer) -> Envelope:
    """Put the metadata under the backend's signature."""
    return seal(metadata, sign=metadata_key.sign)


def approve(
    claims: Claims,
    release: Release,
    *,
    other: Release | None,
    epoch: int,
    left_ms: int,
    policy_key: Signer,
) -> Approval:
    """Leave to open the root of `epoch` for `left_ms` more of the device's clock.

    In the states of `release`, and in those of `other` where the device may switch to it.
    """
    device = claims.device
    kept = _STANDING.get(device.name)
    if kept is None or not kept.is_of(claims, release, other, epoch):
        kept = _standing(claims, release, other, epoch)
        _STANDING.keep(device.name, kept)
    recipe = replace(kept.recipe, not_after=min(claims.clock.clock + left_ms, U64_MAX))
    digest = approval_digest(fold((recipe.deadline(),), begun=kept.folded), kept.ref)
    return replace(recipe, signature=policy_key.sign_digest(digest))


class _Standing(msgspec.Struct, frozen=True, eq=False):
    """What stays of a device's approvals from one heartbeat to the next, and what it is made of."""

    device: KnownDevice
    release: Release
    other: Release | None
    values: Mapping[int, bytes]
    recipe: Approval
    folded: bytes
    ref: bytes

    def is_of(self, claims: Claims, release: Release, other: Release | None, epoch: int) -> bool:
        """Whether it is made of just this: of the very objects, none of which can change."""
        return (
            self.device is claims.device
            and self.release is release
            and self.other is other
            and self.values is claims.pcrs
            and self.recipe.epoch == epoch
        )


_STANDING: Final[Kept[bytes, _Standing]] = Kept(most=STANDING_KEPT)
"""By the device's name."""


def _standing(claims: Claims, release: Release, other: Release | None, epoch: int) -> _Standing:
    device, values = claims.device, claims.pcrs
    selection = root_selection(device.selection, pcr=device.pcr)
    ((_, numbers),) = selection.banks
    quoted = tuple((number, values[number]) for number in numbers)
    recipe = Approval(
        epoch=epoch,
        selection=str(selection),
        branches=_branches(release, other, selection, quoted, device.pcr),
        counter_name=device.counter_name,
        not_after=0,
    )
    return _Standing(
        device=device,
        release=release,
        other=other,
        values=values,
        recipe=recipe,
        folded=fold(recipe.standing()),
        ref=root_ref(device.name, epoch),
    )


@lru_cache(maxsize=4096)
def _branches(
    release: Release,
    other: Release | None,
    selection: PcrSelection,
    values: tuple[tuple[int, bytes], ...],
    pcr: int,
) -> tuple[Branch, ...]:
    """The approved states of devices that are alike; they stay the same between releases."""
    return approved_states(release, other=other, selection=selection, values=dict(values), pcr=pcr)


def allow_increment(
    device: bytes, *, epoch: int | None, counter_name: bytes, policy_key: Signer
) -> Increment:
    """Leave to count the epoch counter up once, from `epoch` (None: from undefined)."""
    recipe = Increment(epoch=epoch, counter_name=counter_name)
    return sign_approval(recipe, increment_ref(device), sign_digest=policy_key.sign_digest)
