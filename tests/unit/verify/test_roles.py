"""Roles: a key or counter is fit for exactly what it was made for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from msgspec import structs

from hwtrust.errors import CounterAttributesError, KeyAttributesError, WeakKeyError
from hwtrust.verify.roles import (
    require_attestation_key,
    require_endorsement_key,
    require_epoch_counter,
    require_storage_key,
    require_tls_key,
)
from hwtrust.wire.algorithms import Alg, Curve
from hwtrust.wire.structures import (
    AES_128_CFB,
    AES_256_CFB,
    NO_SYMMETRIC,
    EccParams,
    KeyedHashParams,
    NvAttributes,
    NvPublic,
    ObjectAttributes,
    Public,
    RsaParams,
    Symmetric,
)
from simulators.quote_vectors import quote_cases
from simulators.software_tpm import (
    AK_ATTRIBUTES,
    EK_ATTRIBUTES,
    STORAGE_ATTRIBUTES,
    TLS_ATTRIBUTES,
    SoftwareTpm,
    counter_public,
    ecc_public,
    rsa_public,
)

A, N = ObjectAttributes, NvAttributes
TPM = SoftwareTpm(seed=b"test_roles")
RSA = rsa.generate_private_key(65537, 2048)
P384 = ec.generate_private_key(ec.SECP384R1())
MADE_INSIDE = A.FIXED_TPM | A.FIXED_PARENT | A.SENSITIVE_DATA_ORIGIN

Require = Callable[[Public], None]
ROLES: dict[str, tuple[Require, Public, ObjectAttributes]] = {
    "attestation": (require_attestation_key, TPM.ak, MADE_INSIDE | A.RESTRICTED | A.SIGN),
    "storage": (require_storage_key, TPM.storage, MADE_INSIDE | A.RESTRICTED | A.DECRYPT),
    "endorsement": (require_endorsement_key, TPM.ek, MADE_INSIDE | A.RESTRICTED | A.DECRYPT),
    "TLS": (require_tls_key, TPM.tls, MADE_INSIDE | A.SIGN),
}
roles = pytest.mark.parametrize(("require", "good", "required"), ROLES.values(), ids=ROLES)
HARMLESS = (A.USER_WITH_AUTH, A.ADMIN_WITH_POLICY, A.NO_DA, A.ST_CLEAR)


def with_scheme(public: Public, scheme: Alg, scheme_hash: Alg | None) -> Public:
    """The same key, bound to another scheme."""
    assert isinstance(public.params, EccParams | RsaParams)
    return replace(
        public, params=structs.replace(public.params, scheme=scheme, scheme_hash=scheme_hash)
    )


def with_cipher(public: Public, cipher: Symmetric) -> Public:
    """The same key, protecting with another cipher."""
    assert isinstance(public.params, EccParams | RsaParams)
    return replace(public, params=structs.replace(public.params, symmetric=cipher))


def refuse(require: Require, public: Public) -> None:
    """`public` decodes, and is refused for its attributes."""
    with pytest.raises(KeyAttributesError) as refused:
        require(Public.decode(public.encode()))
    assert refused.value.code == "key:attributes"


# --- all roles ---------------------------------------------------------------------


@roles
def test_a_good_key_passes_with_and_without_harmless_attributes(
    require: Require, good: Public, required: ObjectAttributes
) -> None:
    """Who may use it, and whether wrong passwords count, is the device's own affair."""
    require(good)
    require(replace(good, attributes=required))
    for bit in HARMLESS:
        require(replace(good, attributes=required | bit))


@roles
def test_every_required_attribute_is_required(
    require: Require, good: Public, required: ObjectAttributes
) -> None:
    """Lines 29 to 31 of the adversaries, attribute by attribute."""
    for bit in required:
        refuse(require, replace(good, attributes=good.attributes & ~bit))


@roles
def test_every_other_attribute_is_refused(
    require: Require, good: Public, required: ObjectAttributes
) -> None:
    """Those that are known, and those of a later specification."""
    harmless = {*HARMLESS, A.FIRMWARE_LIMITED, A.SVN_LIMITED}
    for position in range(32):
        bit = A(1 << position)
        if bit not in harmless and not required & bit:
            refuse(require, replace(good, attributes=good.attributes | bit))


@roles
def test_no_role_is_filled_by_the_key_of_another(
    require: Require, good: Public, required: ObjectAttributes
) -> None:
    """Adversaries 37 and 40: TLS keys attest nothing, storage keys are no EK's equal by chance."""
    for name, (_, other, others) in ROLES.items():
        if others != required:
            refuse(require, other)
            assert other is not good, name


@roles
@pytest.mark.parametrize("name_alg", [Alg.SHA1, Alg.NULL, Alg.SM3_256])
def test_a_name_with_a_weak_hash_is_refused(
    require: Require, good: Public, required: ObjectAttributes, name_alg: Alg
) -> None:
    """What a Name proves is no stronger than its hash."""
    refuse(require, replace(good, name_alg=name_alg))


@roles
def test_an_object_that_is_no_key_is_refused(
    require: Require, good: Public, required: ObjectAttributes
) -> None:
    """An HMAC key with all the right attributes."""
    hmac = KeyedHashParams(Alg.HMAC, Alg.SHA256)
    refuse(require, replace(good, type=Alg.KEYEDHASH, params=hmac, unique=bytes(32)))


@roles
def test_a_weak_key_is_refused(require: Require, good: Public, required: ObjectAttributes) -> None:
    """Adversary 12: right attributes, wrong key."""
    assert isinstance(good.params, EccParams)
    short = RsaParams(good.params.symmetric, good.params.scheme, good.params.scheme_hash, 1024)
    if short.scheme is Alg.ECDSA:
        short = structs.replace(short, scheme=Alg.RSASSA)
    for weak in (
        replace(good, params=structs.replace(good.params, curve=Curve.P224)),
        replace(good, params=structs.replace(good.params, curve=Curve.P384)),
        replace(good, type=Alg.RSA, params=short, unique=(2**1024 - 1).to_bytes(128, "big")),
    ):
        with pytest.raises(WeakKeyError) as refused:
            require(weak)
        assert refused.value.code == "evidence:key:weak"


# --- attestation key ---------------------------------------------------------------

IMPOSTORS = {
    "adversary 29: unrestricted": TPM.ak.attributes & ~A.RESTRICTED,
    "adversary 30: imported": TPM.ak.attributes & ~(A.FIXED_TPM | A.FIXED_PARENT),
    "adversary 30: imported, its origin hidden": TPM.ak.attributes & ~A.FIXED_TPM,
    "adversary 30: duplicable within an encrypted group": TPM.ak.attributes
    & ~(A.FIXED_TPM | A.FIXED_PARENT)
    | A.ENCRYPTED_DUPLICATION,
    "adversary 31: an external software key": A.SIGN | A.USER_WITH_AUTH,
    "adversary 31: a software key, loaded as restricted": A.SIGN | A.RESTRICTED,
    "adversary 31: fixed, but not made there": TPM.ak.attributes & ~A.SENSITIVE_DATA_ORIGIN,
    "adversary 37: a TLS key": TLS_ATTRIBUTES,
    "a storage key": STORAGE_ATTRIBUTES,
    "one that signs and decrypts": AK_ATTRIBUTES | A.DECRYPT,
    "one that signs X.509 certificates": AK_ATTRIBUTES | A.X509_SIGN,
}


@pytest.mark.parametrize("attributes", IMPOSTORS.values(), ids=IMPOSTORS)
def test_an_impostor_is_no_attestation_key(attributes: ObjectAttributes) -> None:
    """Lines 29 to 31 and 37: TPM2_ActivateCredential succeeds for most of these."""
    refuse(require_attestation_key, replace(TPM.ak, attributes=attributes))


@pytest.mark.parametrize(("scheme", "hash_"), [(Alg.RSASSA, Alg.SHA256), (Alg.RSAPSS, Alg.SHA384)])
def test_an_rsa_attestation_key_passes(scheme: Alg, hash_: Alg) -> None:
    """The fallback for TPMs without P-256."""
    require_attestation_key(rsa_public(RSA, AK_ATTRIBUTES, scheme=scheme, hash_=hash_))


def test_a_p384_attestation_key_passes() -> None:
    """With a hash of its strength, or with SHA-256."""
    for hash_ in (Alg.SHA256, Alg.SHA384, Alg.SHA512):
        require_attestation_key(ecc_public(P384, AK_ATTRIBUTES, scheme=Alg.ECDSA, hash_=hash_))


@pytest.mark.parametrize(
    ("scheme", "hash_"),
    [
        (Alg.NULL, None),
        (Alg.ECDSA, Alg.SHA1),
        (Alg.ECDSA, Alg.SM3_256),
        (Alg.SM2, Alg.SHA256),
        (Alg.ECDH, Alg.SHA256),
    ],
)
def test_an_attestation_key_with_another_scheme_is_refused(scheme: Alg, hash_: Alg | None) -> None:
    """An unbound key would let the device choose the hash."""
    refuse(require_attestation_key, with_scheme(TPM.ak, scheme, hash_))


def test_an_attestation_key_over_sha1_is_spelled_out() -> None:
    """And everything else stays required."""
    sha1 = with_scheme(TPM.ak, Alg.ECDSA, Alg.SHA1)
    require_attestation_key(sha1, unsafe_allow_sha1=True)
    for bad in (
        replace(sha1, attributes=TLS_ATTRIBUTES),
        replace(sha1, name_alg=Alg.SHA1),
        with_scheme(TPM.ak, Alg.ECDSA, Alg.SM3_256),
    ):
        with pytest.raises(KeyAttributesError) as refused:
            require_attestation_key(bad, unsafe_allow_sha1=True)
        assert refused.value.code == "key:attributes"


@pytest.mark.parametrize("require", [require_attestation_key, require_tls_key])
def test_a_signing_key_protects_no_children(require: Require) -> None:
    """A cipher in a signing key is no public area that a TPM makes."""
    good = TPM.ak if require is require_attestation_key else TPM.tls
    refuse(require, with_cipher(good, AES_128_CFB))


# --- storage and endorsement keys ---------------------------------------------------

parents = pytest.mark.parametrize(
    ("require", "attributes"),
    [(require_storage_key, STORAGE_ATTRIBUTES), (require_endorsement_key, EK_ATTRIBUTES)],
    ids=["storage", "endorsement"],
)


@parents
def test_parents_of_every_accepted_kind_pass(
    require: Require, attributes: ObjectAttributes
) -> None:
    """P-256, P-384 and RSA-2048 with AES-128-CFB or stronger."""
    for public in (
        rsa_public(RSA, attributes),
        ecc_public(TPM.ek_key, attributes),
        with_cipher(ecc_public(P384, attributes), AES_256_CFB),
    ):
        require(public)


@parents
@pytest.mark.parametrize(
    "cipher",
    [
        NO_SYMMETRIC,
        Symmetric(Alg.AES, 128, Alg.CBC),
        Symmetric(Alg.AES, 64, Alg.CFB),
        Symmetric(Alg.TDES, 128, Alg.CFB),
        Symmetric(Alg.CAMELLIA, 256, Alg.CFB),
    ],
    ids=lambda cipher: f"{cipher.alg.name}-{cipher.bits}-{cipher.mode.name}",
)
def test_a_parent_with_another_cipher_is_refused(
    require: Require, attributes: ObjectAttributes, cipher: Symmetric
) -> None:
    """The root travels under it."""
    refuse(require, with_cipher(ecc_public(TPM.ek_key, attributes), cipher))


@parents
def test_a_parent_with_a_scheme_is_refused(require: Require, attributes: ObjectAttributes) -> None:
    """A parent only protects children."""
    refuse(require, with_scheme(ecc_public(TPM.ek_key, attributes), Alg.ECDH, Alg.SHA256))
    refuse(require, with_scheme(rsa_public(RSA, attributes), Alg.OAEP, Alg.SHA256))


# --- TLS key -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scheme", "hash_"), [(Alg.NULL, None), (Alg.ECDSA, Alg.SHA256), (Alg.ECDSA, Alg.SHA384)]
)
def test_a_tls_key_may_be_bound_to_a_scheme_or_not(scheme: Alg, hash_: Alg | None) -> None:
    """The handshake chooses the hash, where the key lets it."""
    require_tls_key(with_scheme(TPM.tls, scheme, hash_))


@pytest.mark.parametrize(
    ("scheme", "hash_"), [(Alg.ECDSA, Alg.SHA1), (Alg.ECDH, Alg.SHA256), (Alg.SM2, Alg.SHA256)]
)
def test_a_tls_key_with_another_scheme_is_refused(scheme: Alg, hash_: Alg) -> None:
    """It could not make a signature that TLS 1.3 takes."""
    refuse(require_tls_key, with_scheme(TPM.tls, scheme, hash_))


def test_a_restricted_key_is_no_tls_key() -> None:
    """A handshake would have it sign what the TPM did not compose, which it cannot."""
    refuse(require_tls_key, replace(TPM.tls, attributes=TLS_ATTRIBUTES | A.RESTRICTED))


# --- epoch counter -----------------------------------------------------------------

POLICY = bytes(range(32))
COUNTER = counter_public(POLICY)
REQUIRED = N.COUNTER | N.POLICYWRITE | N.AUTHREAD | N.NO_DA | N.WRITTEN


def refuse_counter(nv: NvPublic, policy: bytes = POLICY) -> None:
    """`nv` decodes, and is refused as an epoch counter."""
    with pytest.raises(CounterAttributesError) as refused:
        require_epoch_counter(NvPublic.decode(nv.encode()), policy=policy)
    assert refused.value.code == "counter:attributes"


def test_a_good_counter_passes_with_and_without_further_readers() -> None:
    """What it has counted to is no secret."""
    require_epoch_counter(COUNTER, policy=POLICY)
    for bit in (N.OWNERREAD, N.POLICYREAD, N.PPREAD):
        require_epoch_counter(replace(COUNTER, attributes=REQUIRED | bit), policy=POLICY)
    require_epoch_counter(replace(COUNTER, name_alg=Alg.SHA384), policy=POLICY)


@pytest.mark.parametrize("bit", REQUIRED, ids=lambda bit: bit.name)
def test_every_attribute_of_a_counter_is_required(bit: NvAttributes) -> None:
    """Adversary 41: without COUNTER it is no counter; without WRITTEN it has no value."""
    refuse_counter(replace(COUNTER, attributes=COUNTER.attributes & ~bit))


@pytest.mark.parametrize("position", range(32))
def test_every_other_attribute_of_a_counter_is_refused(position: int) -> None:
    """Adversary 41: AUTHWRITE, OWNERWRITE, ORDERLY, and whatever else there is or will be."""
    bit = N(1 << position)
    if REQUIRED & bit or bit in {N.OWNERREAD, N.POLICYREAD, N.PPREAD}:
        require_epoch_counter(replace(COUNTER, attributes=REQUIRED | bit), policy=POLICY)
    else:
        refuse_counter(replace(COUNTER, attributes=REQUIRED | bit))


@pytest.mark.parametrize("type_", [0, 2, 4, 8, 9, 15])
def test_an_index_of_another_type_is_no_counter(type_: int) -> None:
    """Adversary 41: bits can be set, ordinary contents overwritten."""
    attributes = COUNTER.attributes & ~N.COUNTER | N(type_ << 4)
    refuse_counter(replace(COUNTER, attributes=attributes))


@pytest.mark.parametrize("size", [0, 4, 7, 9, 16])
def test_a_counter_of_another_size_is_refused(size: int) -> None:
    """Adversary 41: counters have 8 bytes."""
    refuse_counter(replace(COUNTER, size=size))


@pytest.mark.parametrize("name_alg", [Alg.SHA1, Alg.SM3_256])
def test_a_counter_with_a_weak_name_is_refused(name_alg: Alg) -> None:
    """What a Name proves is no stronger than its hash."""
    refuse_counter(replace(COUNTER, name_alg=name_alg))


def test_a_counter_under_another_policy_is_refused() -> None:
    """Adversary 41: whoever can satisfy the policy can revoke; and none is no match for none."""
    refuse_counter(replace(COUNTER, auth_policy=bytes(32)))
    refuse_counter(replace(COUNTER, auth_policy=POLICY[:-1]))
    refuse_counter(replace(COUNTER, auth_policy=b""), policy=b"")


# --- real keys ---------------------------------------------------------------------


def test_the_attestation_keys_of_the_corpus_are_attestation_keys() -> None:
    """Of Google's, Immune's, keylime's and our own TPMs; Windows binds its key to SHA-1."""
    seen = 0
    for case in quote_cases():
        for file in case.key_files:
            if file.suffix == ".pem":
                continue
            decode = Public.decode if file.suffix == ".tpmt_public" else Public.decode_sized
            public = decode(file.read_bytes())
            if "windows" in file.parent.name:
                refuse(require_attestation_key, public)
                require_attestation_key(public, unsafe_allow_sha1=True)
            else:
                require_attestation_key(public)
            for require in (require_storage_key, require_endorsement_key, require_tls_key):
                refuse(require, public)
            seen += 1
    if not quote_cases():
        pytest.skip("the test vectors are not there: say where by HWTRUST_VECTORS")
    assert seen >= 15


@pytest.mark.parametrize("kind", ["rsa", "ecc"])
def test_the_endorsement_keys_of_the_corpus_are_endorsement_keys(vectors: Path, kind: str) -> None:
    """Those of a virtual machine, made by the templates L-1 and L-2."""
    file = vectors / "tpm-structs" / f"vm-ek-{kind}.tpm2b_public"
    public = Public.decode_sized(file.read_bytes())
    require_endorsement_key(public)
    refuse(require_attestation_key, public)
    refuse(require_tls_key, public)


def test_a_template_is_no_key(vectors: Path) -> None:
    """The right attributes, and zeros for a modulus."""
    raw = (vectors / "tpm-structs" / "tpm2-tools" / "ek-template-default.bin").read_bytes()
    with pytest.raises(WeakKeyError) as refused:
        require_endorsement_key(Public.decode(raw))
    assert refused.value.code == "evidence:key:weak"
