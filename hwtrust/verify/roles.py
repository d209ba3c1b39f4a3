"""What may this TPM key or NV index be used for?

A certified Name proves a public area; these functions say whether a public area
is fit for a role. TPM2_ActivateCredential alone also succeeds for keys that can
leave the TPM, that sign anything, or that never were inside. Rules:

1. Attributes are a whitelist: all that a role requires are set, none is set that
   is neither required nor known to be harmless. A new attribute of a later
   specification is refused until someone has thought about it.
2. The key is strong, its scheme is bound to SHA-256 or longer where it attests,
   and its Name is formed with SHA-256 or longer: what Names prove is no stronger
   than their hash.

FIXED_TPM, FIXED_PARENT and SENSITIVE_DATA_ORIGIN together mean that the TPM made
the key and that it never leaves. RESTRICTED with SIGN means that it signs only
what the TPM composed; RESTRICTED with DECRYPT that it only protects children.
"""

from __future__ import annotations

from hmac import compare_digest
from typing import Final

from hwtrust.errors import CounterAttributesError, KeyAttributesError
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.structures import (
    NO_SYMMETRIC,
    EccParams,
    NvAttributes,
    NvPublic,
    ObjectAttributes,
    Public,
    RsaParams,
)

_A = ObjectAttributes
_N = NvAttributes

_STRONG_HASHES: Final = frozenset({Alg.SHA256, Alg.SHA384, Alg.SHA512})
_SIGNING_SCHEMES: Final = frozenset({Alg.ECDSA, Alg.RSASSA, Alg.RSAPSS})
_STRONG_AES: Final = frozenset({128, 192, 256})

_MADE_INSIDE: Final = _A.FIXED_TPM | _A.FIXED_PARENT | _A.SENSITIVE_DATA_ORIGIN

# Who may use the key, whether wrong passwords count, and when the TPM forgets it:
# the device's own affair. The *_LIMITED keys die with a firmware change.
_HARMLESS: Final = (
    _A.USER_WITH_AUTH
    | _A.ADMIN_WITH_POLICY
    | _A.NO_DA
    | _A.ST_CLEAR
    | _A.FIRMWARE_LIMITED
    | _A.SVN_LIMITED
)

_COUNTER_REQUIRED: Final = _N.COUNTER | _N.POLICYWRITE | _N.AUTHREAD | _N.NO_DA | _N.WRITTEN
# Further ways to read what is no secret.
_COUNTER_HARMLESS: Final = _N.OWNERREAD | _N.POLICYREAD | _N.PPREAD
_COUNTER_SIZE: Final = 8


def require_attestation_key(public: Public, *, unsafe_allow_sha1: bool = False) -> None:
    """Refuse what is no attestation key: made inside, restricted, signing.

    With `unsafe_allow_sha1` its scheme may be bound to SHA-1.

    Raises:
        KeyAttributesError: an attribute, the scheme or the Name's hash is wrong.
        WeakKeyError: the key itself is weak.
    """
    role = "an attestation key"
    _require_attributes(public, role, _MADE_INSIDE | _A.RESTRICTED | _A.SIGN)
    params = _asymmetric(public, role)
    hashes = _STRONG_HASHES | {Alg.SHA1} if unsafe_allow_sha1 else _STRONG_HASHES
    if params.scheme not in _SIGNING_SCHEMES or params.scheme_hash not in hashes:
        raise KeyAttributesError(
            f"{role} signs by ECDSA, RSASSA or RSAPSS with SHA-256 or longer, not by "
            + _spell_scheme(params)
        )
    _require_no_cipher(params, role)
    public.key()


def require_storage_key(public: Public) -> None:
    """Refuse what is no storage key: made inside, a parent of other objects.

    Raises:
        KeyAttributesError: an attribute, the cipher or the Name's hash is wrong.
        WeakKeyError: the key itself is weak.
    """
    role = "a storage key"
    _require_attributes(public, role, _MADE_INSIDE | _A.RESTRICTED | _A.DECRYPT)
    _require_parent(public, role)


def require_endorsement_key(public: Public) -> None:
    """Refuse what is no endorsement key: made inside, restricted, decrypting.

    The vendors' templates differ in who authorises its use, by policy
    (ADMIN_WITH_POLICY), by password, or by either (TCG EK Credential Profile
    §B.3, §B.4); for the verifier they are the same.

    Raises:
        KeyAttributesError: an attribute, the cipher or the Name's hash is wrong.
        WeakKeyError: the key itself is weak.
    """
    role = "an endorsement key"
    _require_attributes(public, role, _MADE_INSIDE | _A.RESTRICTED | _A.DECRYPT)
    _require_parent(public, role)


def require_tls_key(public: Public) -> None:
    """Refuse what is no TLS key: made inside, signing, not restricted, not decrypting.

    Raises:
        KeyAttributesError: an attribute, the scheme or the Name's hash is wrong.
        WeakKeyError: the key itself is weak.
    """
    role = "a TLS key"
    _require_attributes(public, role, _MADE_INSIDE | _A.SIGN)
    params = _asymmetric(public, role)
    bound = params.scheme in _SIGNING_SCHEMES and params.scheme_hash in _STRONG_HASHES
    if not bound and params.scheme is not Alg.NULL:
        raise KeyAttributesError(f"{role} does not sign by {_spell_scheme(params)}")
    _require_no_cipher(params, role)
    public.key()


def require_epoch_counter(nv: NvPublic, *, policy: bytes) -> None:
    """Refuse what is no epoch counter whose only way to be written is `policy`.

    An index with AUTHWRITE or OWNERWRITE lets a local program revoke every root;
    an ORDERLY one jumps after a power cut; one with CLEAR_STCLEAR forgets.

    Raises:
        CounterAttributesError: type, attributes, policy, size or Name's hash is wrong.
    """
    allowed = _COUNTER_REQUIRED | _COUNTER_HARMLESS
    missing, excess = _difference(nv.attributes, _COUNTER_REQUIRED, allowed)
    if missing or excess:
        raise CounterAttributesError(
            "an NV index is no epoch counter: " + _spell_difference(NvAttributes, missing, excess),
            index=nv.index,
            attributes=int(nv.attributes),
        )
    if nv.name_alg not in _STRONG_HASHES:
        raise CounterAttributesError(
            f"an epoch counter's Name is formed with {nv.name_alg.name}", index=nv.index
        )
    if nv.size != _COUNTER_SIZE:
        raise CounterAttributesError(
            f"an epoch counter has {nv.size} bytes, not {_COUNTER_SIZE}", index=nv.index
        )
    if not policy or not compare_digest(nv.auth_policy, policy):
        raise CounterAttributesError(
            "an epoch counter is written under another policy than the backend's", index=nv.index
        )


def _require_attributes(public: Public, role: str, required: ObjectAttributes) -> None:
    missing, excess = _difference(public.attributes, required, required | _HARMLESS)
    if missing or excess:
        raise KeyAttributesError(
            f"a key is not {role}: " + _spell_difference(ObjectAttributes, missing, excess),
            attributes=int(public.attributes),
        )
    if public.name_alg not in _STRONG_HASHES:
        raise KeyAttributesError(f"the Name of {role} is formed with {public.name_alg.name}")


def _asymmetric(public: Public, role: str) -> EccParams | RsaParams:
    if not isinstance(public.params, EccParams | RsaParams):
        raise KeyAttributesError(f"an object of type {public.type.name} is not {role}")
    return public.params


def _require_parent(public: Public, role: str) -> None:
    params = _asymmetric(public, role)
    cipher = params.symmetric
    if cipher.alg is not Alg.AES or cipher.mode is not Alg.CFB or cipher.bits not in _STRONG_AES:
        raise KeyAttributesError(
            f"{role} protects its children by AES-128-CFB or stronger, "
            f"not by {cipher.alg.name}-{cipher.bits}-{cipher.mode.name}"
        )
    if params.scheme is not Alg.NULL:
        raise KeyAttributesError(f"{role} has no scheme, not {_spell_scheme(params)}")
    public.key()


def _require_no_cipher(params: EccParams | RsaParams, role: str) -> None:
    if params.symmetric != NO_SYMMETRIC:
        raise KeyAttributesError(f"{role} protects no children, and has no cipher for it")


def _spell_scheme(params: EccParams | RsaParams) -> str:
    hash_name = "no hash" if params.scheme_hash is None else params.scheme_hash.name
    return f"{params.scheme.name} with {hash_name}"


def _difference(found: int, required: int, allowed: int) -> tuple[int, int]:
    # On plain numbers, so that bits without a name count too.
    return int(required) & ~int(found), int(found) & ~int(allowed)


def _spell_difference(
    names: type[ObjectAttributes | NvAttributes], missing: int, excess: int
) -> str:
    parts = []
    if missing:
        parts.append(f"{_spell_bits(names, missing)} must be set")
    if excess:
        parts.append(f"{_spell_bits(names, excess)} must not be set")
    return "; ".join(parts)


def _spell_bits(names: type[ObjectAttributes | NvAttributes], bits: int) -> str:
    known = {int(member): member.name for member in names}
    single = (1 << position for position in range(bits.bit_length()) if bits >> position & 1)
    return ", ".join(known.get(bit) or f"bit {bit:#x}" for bit in single)
