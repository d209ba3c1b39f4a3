"""The TPM commands that hwtrust uses, one function each, bytes in and bytes out.

What a command takes and gives is a `hwtrust.wire` structure or plain bytes, so
that nothing above this package knows which TSS is underneath. Sessions are
explicit: a function that takes a `Session` sends its command through it, one
that takes none uses an empty password and protects nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from hwtrust.errors import (
    MalformedError,
    TpmBankError,
    TpmError,
    TpmOwnerAuthError,
    TpmTamperedError,
)
from hwtrust.tpm.connection import Tpm
from hwtrust.tpm.response import FMT1_AUTH_FAIL, FMT1_BAD_AUTH, base_code
from hwtrust.tpm.stack import (
    ESYS_TR,
    TPM2_ALG,
    TPM2_RH,
    TPM2B_ENCRYPTED_SECRET,
    TPM2B_ID_OBJECT,
    TPM2B_NV_PUBLIC,
    TPM2B_PRIVATE,
    TPM2B_PUBLIC,
    TPM2B_SENSITIVE_CREATE,
    TPML_DIGEST_VALUES,
    TPML_PCR_SELECTION,
    TPMS_NV_PUBLIC,
    TPMT_HA,
    TPMT_PUBLIC,
    TPMT_SIG_SCHEME,
    TPMT_SIGNATURE,
    TPMT_SYM_DEF_OBJECT,
    TPMT_TK_HASHCHECK,
    TPMT_TK_VERIFIED,
    TPMU_HA,
    TSS2_Exception,
)
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.codec import tpm2b
from hwtrust.wire.structures import ClockInfo, NvPublic, PcrSelection, Public

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hwtrust.tpm.connection import Pinned
    from hwtrust.tpm.sessions import Session

_KEYS_OWN_SCHEME = TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL)
_PCRS_A_READ = 8
_NV_BYTES_A_READ = 512  # within TPM_PT_NV_BUFFER_MAX of all TPMs; 1024 is not


class SignedAttest(msgspec.Struct, frozen=True):
    """A TPMS_ATTEST and its TPMT_SIGNATURE, as the TPM sent them."""

    message: bytes
    signature: bytes


# --- PCRs ------------------------------------------------------------------------


def pcr_read(tpm: Tpm, selection: PcrSelection) -> dict[Alg, dict[int, bytes]]:
    """TPM2_PCR_Read, Part 3 §22.4; one command for every eight PCRs.

    Raises:
        TpmBankError: the TPM does not have one of the banks.
    """
    values: dict[Alg, dict[int, bytes]] = {bank: {} for bank, _ in selection.banks}
    for bank, indices in selection.banks:
        for start in range(0, len(indices), _PCRS_A_READ):
            part = indices[start : start + _PCRS_A_READ]
            asked = tpm_selection(PcrSelection(((bank, part),)))
            _, _, digests = tpm.call("TPM2_PCR_Read", tpm.esapi.pcr_read, asked)
            if len(digests) != len(part):
                raise TpmBankError(f"the TPM has no {bank.name} bank", bank=bank.name)
            values[bank].update(zip(part, map(bytes, digests), strict=True))
    return values


def pcr_extend(
    tpm: Tpm, pcr: int, digests: Mapping[Alg, bytes], session: Session, *, last: bool = False
) -> None:
    """TPM2_PCR_Extend, Part 3 §22.2: all banks in one command, through a salted session.

    The session's HMAC shows that the TPM has done it. `last` ends the session.
    """
    values = [TPMT_HA(hashAlg=int(bank), digest=_digest(value)) for bank, value in digests.items()]
    tpm.call(
        "TPM2_PCR_Extend",
        tpm.esapi.pcr_extend,
        ESYS_TR(pcr),
        TPML_DIGEST_VALUES(digests=values),
        session1=session.use(ends_with_next=last),
    )
    if last:
        session.ended()


# --- attestation -------------------------------------------------------------------


def quote(tpm: Tpm, key: Pinned, *, qualifying: bytes, selection: PcrSelection) -> SignedAttest:
    """Have `key` sign `qualifying` and the current value of the selected PCRs.

    TPM2_Quote, Part 3 §18.4. The result is a claim, not a fact: only
    `hwtrust.verify` may believe it.
    """
    message, signature = tpm.call(
        "TPM2_Quote", tpm.esapi.quote, tpm.at(key), tpm_selection(selection), qualifying
    )
    return _signed(message, signature)


def certify(tpm: Tpm, obj: ESYS_TR, key: Pinned, *, qualifying: bytes) -> SignedAttest:
    """Have `key` sign the Name of `obj`. TPM2_Certify, Part 3 §18.2."""
    message, signature = tpm.call(
        "TPM2_Certify", tpm.esapi.certify, obj, tpm.at(key), qualifying, _KEYS_OWN_SCHEME
    )
    return _signed(message, signature)


def nv_certify(
    tpm: Tpm, index: Pinned, key: Pinned, *, qualifying: bytes, size: int
) -> SignedAttest:
    """Have `key` sign the contents of an NV index. TPM2_NV_Certify, Part 3 §31.16."""
    handle = tpm.at(index)
    message, signature = tpm.call(
        "TPM2_NV_Certify",
        tpm.esapi.nv_certify,
        tpm.at(key),
        handle,
        qualifying,
        _KEYS_OWN_SCHEME,
        size,
        auth_handle=handle,
    )
    return _signed(message, signature)


def activate_credential(
    tpm: Tpm,
    ak: Pinned,
    ek: ESYS_TR,
    ek_session: Session,
    *,
    id_object: bytes,
    encrypted_secret: bytes,
) -> bytes:
    """Recover what was wrapped for this EK and AK. TPM2_ActivateCredential, Part 3 §12.5.

    `ek_session` is a policy session that satisfies the EK's policy; the secret
    comes back encrypted through it, and the session ends.

    Raises:
        MalformedError: no credential can be as long as that.
        TpmError: it was not made for this EK and AK.
    """
    credential = _parsed(TPM2B_ID_OBJECT, tpm2b(id_object))
    secret = _parsed(TPM2B_ENCRYPTED_SECRET, tpm2b(encrypted_secret))
    recovered = tpm.call(
        "TPM2_ActivateCredential",
        tpm.esapi.activate_credential,
        tpm.at(ak),
        ek,
        credential,
        secret,
        session2=ek_session.use(encrypt=True, ends_with_next=True),
    )
    ek_session.ended()
    return bytes(recovered)


# --- objects -----------------------------------------------------------------------


def create_primary(tpm: Tpm, hierarchy: int, template: Public) -> tuple[ESYS_TR, Public]:
    """Make the primary key that `template` stands for. TPM2_CreatePrimary, Part 3 §24.1.

    The handle is transient: keep it in `tpm.flushing(…)`.
    """
    by_owner = hierarchy == TPM2_RH.OWNER
    run = _with_owner if by_owner else Tpm.call
    handle, public, *_ = run(
        tpm,
        "TPM2_CreatePrimary",
        tpm.esapi.create_primary,
        TPM2B_SENSITIVE_CREATE(),
        _public(template),
        primary_handle=tpm.owner() if by_owner else ESYS_TR.ENDORSEMENT,
    )
    return handle, Public.decode(public.publicArea.marshal())


def create(tpm: Tpm, parent: Pinned, template: Public) -> tuple[bytes, Public]:
    """Make a child key. TPM2_Create, Part 3 §12.1. Gives TPM2B_PRIVATE's content and the public."""
    private, public, *_ = tpm.call(
        "TPM2_Create",
        tpm.esapi.create,
        tpm.at(parent),
        TPM2B_SENSITIVE_CREATE(),
        _public(template),
    )
    return bytes(private), Public.decode(public.publicArea.marshal())


def load(tpm: Tpm, parent: Pinned, *, private: bytes, public: Public) -> ESYS_TR:
    """TPM2_Load, Part 3 §12.2. The handle is transient.

    Raises:
        MalformedError: no private part can be as long as that.
        TpmError: it is not of this parent, or was changed.
    """
    wrapped = _parsed(TPM2B_PRIVATE, tpm2b(private))
    return tpm.call("TPM2_Load", tpm.esapi.load, tpm.at(parent), wrapped, _public(public))


def load_external(tpm: Tpm, public: Public) -> ESYS_TR:
    """Load a public key to verify with, in the owner hierarchy, so that its tickets last.

    TPM2_LoadExternal, Part 3 §12.3. The handle is transient.
    """
    return tpm.call(
        "TPM2_LoadExternal", tpm.esapi.load_external, _public(public), hierarchy=ESYS_TR.OWNER
    )


def import_object(
    tpm: Tpm, parent: Pinned, *, public: Public, duplicate: bytes, seed: bytes
) -> bytes:
    """TPM2_Import, Part 3 §13.3: the private part, wrapped for this TPM alone.

    Import does not authenticate its sender; whoever calls this has checked
    signed metadata first (`hwtrust.roots`).

    Raises:
        MalformedError: no duplicate or seed can be as long as that.
        TpmError: it was not made for this parent, or was changed.
    """
    encrypted_seed = _parsed(TPM2B_ENCRYPTED_SECRET, tpm2b(seed))
    wrapped = _parsed(TPM2B_PRIVATE, tpm2b(duplicate))
    private = tpm.call(
        "TPM2_Import",
        tpm.esapi.import_,
        tpm.at(parent),
        b"",
        _public(public),
        wrapped,
        encrypted_seed,
        TPMT_SYM_DEF_OBJECT(algorithm=TPM2_ALG.NULL),
    )
    return bytes(private)


def unseal(tpm: Tpm, obj: ESYS_TR, session: Session) -> bytes:
    """TPM2_Unseal, Part 3 §12.7, through a salted policy session, encrypted; ends the session."""
    secret = tpm.call(
        "TPM2_Unseal",
        tpm.esapi.unseal,
        obj,
        session1=session.use(encrypt=True, ends_with_next=True),
    )
    session.ended()
    return bytes(secret)


def evict_control(tpm: Tpm, obj: ESYS_TR, persistent: int) -> ESYS_TR:
    """Make an object persistent, or a persistent one go. TPM2_EvictControl, Part 3 §28.5."""
    return _with_owner(
        tpm, "TPM2_EvictControl", tpm.esapi.evict_control, tpm.owner(), obj, persistent
    )


def sign(tpm: Tpm, key: ESYS_TR, digest: bytes) -> bytes:
    """A TPMT_SIGNATURE by an unrestricted key. TPM2_Sign, Part 3 §20.2."""
    no_ticket = TPMT_TK_HASHCHECK(tag=0x8024, hierarchy=TPM2_RH.NULL, digest=b"")
    signature = tpm.call(
        "TPM2_Sign", tpm.esapi.sign, key, digest, _KEYS_OWN_SCHEME, validation=no_ticket
    )
    return bytes(signature.marshal())


def verify_signature(tpm: Tpm, key: ESYS_TR, *, digest: bytes, signature: bytes) -> bytes:
    """The TPM's own word that a signature is good, a TPMT_TK_VERIFIED.

    TPM2_VerifySignature, Part 3 §20.1. A ticket of the owner hierarchy stays
    good until the hierarchy is cleared.

    Raises:
        MalformedError: not a TPMT_SIGNATURE.
        TpmError: not the key's signature.
    """
    parsed = _parsed(TPMT_SIGNATURE, signature)
    ticket = tpm.call("TPM2_VerifySignature", tpm.esapi.verify_signature, key, digest, parsed)
    return bytes(ticket.marshal())


def ticket_from(data: bytes) -> TPMT_TK_VERIFIED:
    """A ticket that was kept.

    Raises:
        MalformedError: not a TPMT_TK_VERIFIED.
    """
    return _parsed(TPMT_TK_VERIFIED, data)


# --- NV ----------------------------------------------------------------------------


def nv_define(tpm: Tpm, public: NvPublic) -> ESYS_TR:
    """TPM2_NV_DefineSpace, Part 3 §31.3, with an empty authValue."""
    area = _parsed(TPMS_NV_PUBLIC, public.encode())
    return _with_owner(
        tpm,
        "TPM2_NV_DefineSpace",
        tpm.esapi.nv_define_space,
        b"",
        TPM2B_NV_PUBLIC(nvPublic=area),
        auth_handle=tpm.owner(),
    )


def nv_undefine(tpm: Tpm, handle: int) -> None:
    """TPM2_NV_UndefineSpace, Part 3 §31.4."""
    index = tpm.call("TPM2_NV_ReadPublic", tpm.esapi.tr_from_tpmpublic, handle)
    _with_owner(
        tpm,
        "TPM2_NV_UndefineSpace",
        tpm.esapi.nv_undefine_space,
        index,
        auth_handle=tpm.owner(),
    )
    tpm.unpin(handle)


def nv_read_public(tpm: Tpm, index: ESYS_TR) -> NvPublic:
    """TPM2_NV_ReadPublic, Part 3 §31.6."""
    public, _ = tpm.call("TPM2_NV_ReadPublic", tpm.esapi.nv_read_public, index)
    return NvPublic.decode(public.nvPublic.marshal())


def nv_read(tpm: Tpm, index: ESYS_TR, size: int, *, owner: bool = False) -> bytes:
    """TPM2_NV_Read, Part 3 §31.13, with the index's own empty authValue or as owner."""
    run = _with_owner if owner else Tpm.call
    data = b""
    while len(data) < size:
        wanted = min(_NV_BYTES_A_READ, size - len(data))
        part = run(
            tpm,
            "TPM2_NV_Read",
            tpm.esapi.nv_read,
            index,
            wanted,
            offset=len(data),
            auth_handle=tpm.owner() if owner else index,
        )
        if len(part) != wanted:
            # A TPM answers in full or not at all; whoever answers with nothing could go on so.
            raise TpmTamperedError("TPM2_NV_Read answered with less than was asked for")
        data += bytes(part)
    return data


def nv_increment(tpm: Tpm, index: ESYS_TR, session: Session) -> None:
    """TPM2_NV_Increment, Part 3 §31.8, authorised by a policy session, which ends."""
    tpm.call(
        "TPM2_NV_Increment",
        tpm.esapi.nv_increment,
        index,
        auth_handle=index,
        session1=session.use(ends_with_next=True),
    )
    session.ended()


# --- clock -------------------------------------------------------------------------


def read_clock(tpm: Tpm) -> ClockInfo:
    """TPM2_ReadClock, Part 3 §29.1. Unsigned: to show and to plan with, not to believe."""
    time = tpm.call("TPM2_ReadClock", tpm.esapi.read_clock)
    info = time.clockInfo
    return ClockInfo(int(info.clock), int(info.resetCount), int(info.restartCount), bool(info.safe))


def clock_set(tpm: Tpm, utc_ms: int) -> None:
    """Move the clock forward. TPM2_ClockSet, Part 3 §29.2; it never moves back."""
    _with_owner(tpm, "TPM2_ClockSet", tpm.esapi.clock_set, utc_ms, auth=tpm.owner())


# --- conversions ---------------------------------------------------------------------


def _with_owner(tpm: Tpm, command: str, function: Any, *args: Any, **kwargs: Any) -> Any:
    try:
        return tpm.call(command, function, *args, **kwargs)
    except TpmError as error:
        rc = error.data.get("rc")
        if isinstance(rc, int) and base_code(rc) in {FMT1_AUTH_FAIL, FMT1_BAD_AUTH}:
            message = f"{command}: the owner hierarchy's password is missing or wrong"
            raise TpmOwnerAuthError(message, command=command, rc=rc) from error
        raise


def _parsed(kind: Any, data: bytes) -> Any:
    """`data`, all of it, as the TSS structure `kind`."""
    try:
        structure, used = kind.unmarshal(data)
    except (TSS2_Exception, ValueError, TypeError) as error:
        raise MalformedError(f"not a {kind.__name__}", structure=kind.__name__) from error
    if used != len(data):
        raise MalformedError(f"a {kind.__name__} is followed by something that is none of it")
    return structure


def _public(public: Public) -> TPM2B_PUBLIC:
    return TPM2B_PUBLIC(publicArea=_parsed(TPMT_PUBLIC, public.encode()))


def _signed(message: Any, signature: Any) -> SignedAttest:
    return SignedAttest(bytes(message), bytes(signature.marshal()))


def tpm_selection(selection: PcrSelection) -> TPML_PCR_SELECTION:
    """A selection as tpm2-pytss takes it."""
    return _parsed(TPML_PCR_SELECTION, selection.encode())


def _digest(value: bytes) -> TPMU_HA:
    # The union's members overlap: what counts is how many bytes are written.
    union = TPMU_HA()
    names = {20: "sha1", 32: "sha256", 48: "sha384", 64: "sha512"}
    setattr(union, names[len(value)], value)
    return union
