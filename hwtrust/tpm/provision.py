"""Make, find and remove what hwtrust keeps in a TPM.

    endorsement ── EK (transient; proves which TPM this is)
               └── AK            persistent   signs quotes
    owner ──────── storage key   persistent   parent of roots, salt of sessions
                 └ epoch counter NV index     revokes roots

Rules:
1. Only handles named in `Handles` are ever written. One that holds something
   that hwtrust did not put there is an error, never overwritten.
2. The EK is looked for in the vendor's order, elliptic curves first, and the
   first template with a certificate is taken; without any certificate it is
   P-256, or RSA-2048 where the TPM has no P-256.
3. Making a key is idempotent: primaries follow from their seeds.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwtrust.errors import (
    RootApprovalError,
    TpmBankError,
    TpmError,
    TpmObjectConflictError,
    TpmTamperedError,
)
from hwtrust.tpm import commands
from hwtrust.tpm.policy import TpmPolicySession
from hwtrust.tpm.response import (
    FMT1_POLICY_FAIL,
    RC_COMMAND_CODE,
    base_code,
    is_parameter_refusal,
)
from hwtrust.tpm.sessions import hmac_session, policy_session
from hwtrust.tpm.stack import ESYS_TR, TPM2_CAP, TPM2_RH, TPMT_PUBLIC_PARMS
from hwtrust.tpm.templates import (
    EK_CHAIN_INDICES,
    EK_P256,
    EK_RSA2048,
    EK_TEMPLATES,
    STORAGE_KEY,
    STORAGE_KEY_RSA,
    EkTemplate,
    ak_template,
    ak_template_rsa,
)
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.policy import Authorize, Policy, apply, fold
from hwtrust.wire.structures import NvAttributes, NvPublic, ObjectAttributes, Public

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hwtrust.tpm.connection import Pinned, Tpm
    from hwtrust.tpm.handles import Handles

COUNTER_SIZE = 8
COUNTER_ATTRIBUTES = (
    NvAttributes.COUNTER | NvAttributes.POLICYWRITE | NvAttributes.AUTHREAD | NvAttributes.NO_DA
)

_NV_RANGE, _PERSISTENT_RANGE = 0x01000000, 0x81000000
_HANDLES_A_READ = 128


@dataclass(frozen=True, slots=True)
class EndorsementKey:
    """Which EK a TPM has. `certificate` is DER as NV holds it, or empty."""

    template: EkTemplate
    certificate: bytes
    intermediates: tuple[bytes, ...]


def find_endorsement_key(tpm: Tpm) -> EndorsementKey:
    """The EK that the vendor certified, or the default one without a certificate."""
    indices = nv_indices(tpm)
    present = [index for index in EK_CHAIN_INDICES if index in indices]
    chain = tuple(filter(None, (vendor_data(tpm, index) for index in present)))
    for template in EK_TEMPLATES:
        if template.certificate_index in indices:
            certificate = vendor_data(tpm, template.certificate_index)
            if certificate:
                return EndorsementKey(template, certificate, chain)
    template = EK_P256 if has_p256(tpm) else EK_RSA2048
    return EndorsementKey(template, b"", chain)


@contextlib.contextmanager
def endorsement_key(tpm: Tpm, template: EkTemplate) -> Iterator[tuple[ESYS_TR, Public]]:
    """Load the EK for the length of a `with`. TPM2_CreatePrimary."""
    handle, public = commands.create_primary(tpm, TPM2_RH.ENDORSEMENT, template.public)
    with tpm.flushing(handle):
        yield handle, public


def make_attestation_key(tpm: Tpm, handle: int, *, unique: bytes) -> tuple[Pinned, Public]:
    """The AK, persistent at `handle`; `unique` is at most 32 bytes."""
    template = ak_template(unique) if has_p256(tpm) else ak_template_rsa(unique)
    return _persist(tpm, TPM2_RH.ENDORSEMENT, template, handle)


def make_storage_key(tpm: Tpm, handle: int) -> tuple[Pinned, Public]:
    """The storage key, persistent at `handle`."""
    template = STORAGE_KEY if has_p256(tpm) else STORAGE_KEY_RSA
    return _persist(tpm, TPM2_RH.OWNER, template, handle)


def activate(
    tpm: Tpm,
    template: EkTemplate,
    ak: Pinned,
    salt: Pinned,
    *,
    id_object: bytes,
    encrypted_secret: bytes,
) -> bytes:
    """Recover the secret that a backend wrapped for this EK and AK."""
    by_password = ObjectAttributes.USER_WITH_AUTH in template.public.attributes
    opened = hmac_session(tpm, salt) if by_password else policy_session(tpm, salt)
    with endorsement_key(tpm, template) as (ek, _), opened as session:
        if not by_password:
            tpm.call(
                "TPM2_PolicySecret",
                tpm.esapi.policy_secret,
                ESYS_TR.ENDORSEMENT,
                session.handle,
                nonce_tpm=b"",
                cp_hash_a=b"",
                policy_ref=b"",
                expiration=0,
            )
        return commands.activate_credential(
            tpm, ak, ek, session, id_object=id_object, encrypted_secret=encrypted_secret
        )


def define_counter(tpm: Tpm, handle: int, *, policy: Policy) -> Pinned:
    """A new epoch counter at `handle`, not yet counted. TPM2_NV_DefineSpace."""
    public = NvPublic(
        index=handle,
        name_alg=Alg.SHA256,
        attributes=COUNTER_ATTRIBUTES,
        auth_policy=fold(policy),
        size=COUNTER_SIZE,
    )
    return tpm.pin(handle, commands.nv_define(tpm, public))


def increment_counter(
    tpm: Tpm,
    counter: Pinned,
    salt: Pinned,
    *,
    recipe: Policy,
    authorization: Authorize,
    policy_key: Public,
) -> Pinned:
    """Count once, as the policy key has approved. Gives the counter's pin, whose Name may change.

    The first increment sets TPMA_NV_WRITTEN, which is part of an index's Name.

    Raises:
        RootRevokedError: the counter does not stand where the leave counts from.
        RootApprovalError: the leave is for another counter, or has been used.
        TpmObjectConflictError: the handle holds another index than the pinned one.
    """
    index = tpm.at(counter)
    with policy_session(tpm, salt) as session:
        runner = TpmPolicySession(session, policy_key=policy_key, index=counter)
        apply((*recipe, authorization), runner)
        try:
            commands.nv_increment(tpm, index, session)
        except TpmError as error:
            rc = error.data.get("rc")
            if not isinstance(rc, int) or base_code(rc) != FMT1_POLICY_FAIL:
                raise
            message = "the leave to count is not for this counter as it stands"
            raise RootApprovalError(message, rc=rc) from error
    return tpm.pin(counter.handle, index)


def read_counter(tpm: Tpm, counter: Pinned) -> int:
    """The counter's value; unsigned, to plan with."""
    return int.from_bytes(commands.nv_read(tpm, tpm.at(counter), COUNTER_SIZE), "big")


def remove(tpm: Tpm, handles: Handles) -> None:
    """Take everything of hwtrust's out of the TPM. Whoever calls this knows that it is ours."""
    present = persistent_handles(tpm)
    for handle in (handles.ak, handles.storage_key):
        if handle in present:
            known = tpm.call("TPM2_ReadPublic", tpm.esapi.tr_from_tpmpublic, handle)
            commands.evict_control(tpm, known, handle)
            tpm.unpin(handle)
    if handles.counter in nv_indices(tpm):
        commands.nv_undefine(tpm, handles.counter)


def occupied(tpm: Tpm, handles: Handles) -> tuple[int, ...]:
    """Which of the handles hold something."""
    present = {*persistent_handles(tpm), *nv_indices(tpm)}
    ours = (handles.ak, handles.storage_key, handles.counter)
    return tuple(handle for handle in ours if handle in present)


def require_free(tpm: Tpm, handles: Handles) -> None:
    """Refuse handles that are in use.

    Raises:
        TpmObjectConflictError: names the first of them.
    """
    taken = occupied(tpm, handles)
    if taken:
        message = f"handle {taken[0]:#010x} holds something that hwtrust did not put there"
        raise TpmObjectConflictError(message, handle=taken[0])


def active_banks(tpm: Tpm) -> tuple[Alg, ...]:
    """The hash algorithms of the PCR banks that the TPM has allocated.

    Raises:
        TpmBankError: SHA-256 is not among them.
    """
    _, data = tpm.call("TPM2_GetCapability", tpm.esapi.get_capability, TPM2_CAP.PCRS, 0, 16)
    banks = tuple(
        Alg(int(item.hash))
        for item in data.data.assignedPCR
        if any(bytes(item.pcrSelect)[: int(item.sizeofSelect)]) and int(item.hash) in set(Alg)
    )
    if Alg.SHA256 not in banks:
        raise TpmBankError("the TPM has no SHA-256 bank allocated")
    return banks


def has_p256(tpm: Tpm) -> bool:
    """Whether the TPM has NIST P-256. TPM2_TestParms, Part 3 §30.3."""
    parameters = STORAGE_KEY.type.to_bytes(2, "big") + STORAGE_KEY.params.encode()
    parsed, _ = TPMT_PUBLIC_PARMS.unmarshal(parameters)
    try:
        tpm.call("TPM2_TestParms", tpm.esapi.test_parms, parsed)
    except TpmError as error:
        # A TPM that is busy, broken or out of reach has not said that it lacks the curve.
        rc = error.data.get("rc")
        if is_parameter_refusal(rc) or rc == RC_COMMAND_CODE:
            return False
        raise
    return True


def nv_indices(tpm: Tpm) -> frozenset[int]:
    """The NV indices that are defined."""
    return _handles(tpm, _NV_RANGE)


def persistent_handles(tpm: Tpm) -> frozenset[int]:
    """The persistent objects."""
    return _handles(tpm, _PERSISTENT_RANGE)


def vendor_data(tpm: Tpm, handle: int) -> bytes:
    """What an NV index of the vendor's holds; empty where that cannot be read without harm.

    A wrong password counts towards the lockout where an index lacks TPMA_NV_NO_DA (Part 2
    §13.4), so that none is tried there: the owner reads it, or nobody.
    """
    index = tpm.call("TPM2_NV_ReadPublic", tpm.esapi.tr_from_tpmpublic, handle)
    try:
        public = commands.nv_read_public(tpm, index)
        if NvAttributes.WRITTEN not in public.attributes:
            return b""
        by_owner = NvAttributes.AUTHREAD | NvAttributes.NO_DA not in public.attributes
        if by_owner and NvAttributes.OWNERREAD not in public.attributes:
            return b""
        return commands.nv_read(tpm, index, public.size, owner=by_owner)
    finally:
        tpm.esapi.tr_close(index)


def _handles(tpm: Tpm, start: int) -> frozenset[int]:
    found: set[int] = set()
    more, following = True, start
    while more:
        more, data = tpm.call(
            "TPM2_GetCapability",
            tpm.esapi.get_capability,
            TPM2_CAP.HANDLES,
            following,
            _HANDLES_A_READ,
        )
        batch = [int(handle) for handle in data.data.handles]
        if not batch:
            break
        if min(batch) < following:
            raise TpmTamperedError("TPM2_GetCapability answered with handles out of order")
        found.update(batch)
        following = max(batch) + 1
    return frozenset(found)


def _persist(tpm: Tpm, hierarchy: int, template: Public, handle: int) -> tuple[Pinned, Public]:
    transient, public = commands.create_primary(tpm, hierarchy, template)
    with tpm.flushing(transient):
        if handle in persistent_handles(tpm):
            pinned = tpm.pin(handle)
            if pinned.name != public.name:
                message = f"handle {handle:#010x} holds another object"
                raise TpmObjectConflictError(message, handle=handle)
            return pinned, public
        return tpm.pin(handle, commands.evict_control(tpm, transient, handle)), public
