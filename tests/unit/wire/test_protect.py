"""What a server makes for one TPM opens in that TPM, and in no other.

Two oracles: published vectors with fixed randomness, and a software TPM.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from tpm2_pytss import (
    ESAPI,
    ESYS_TR,
    TPM2B_DATA,
    TPM2B_ENCRYPTED_SECRET,
    TPM2B_ID_OBJECT,
    TPM2B_PRIVATE,
    TPM2B_PUBLIC,
    TPM2B_SENSITIVE_CREATE,
    TPMT_PUBLIC,
    TPMT_SYM_DEF,
    TPMT_SYM_DEF_OBJECT,
    TSS2_Exception,
)
from tpm2_pytss.constants import TPM2_ALG, TPM2_CC, TPM2_RC, TPM2_SE

from hwtrust.errors import KeyAttributesError, MalformedError, UnsupportedError, WeakKeyError
from hwtrust.testing.swtpm import Swtpm, installed
from hwtrust.tpm.templates import (
    EK_P256,
    EK_P384_HIGH,
    EK_RSA2048,
    STORAGE_KEY,
    STORAGE_KEY_RSA,
    TLS_KEY,
    EkTemplate,
    ak_template,
)
from hwtrust.wire import protect
from hwtrust.wire.algorithms import Alg, Curve, digest_size, new_hash
from hwtrust.wire.codec import tpm2b, u16, u32
from hwtrust.wire.policy import EMPTY, POLICY_COMMAND_CODE
from hwtrust.wire.protect import (
    MAX_SEALED,
    Credential,
    Duplicate,
    Encapsulated,
    encapsulate,
    make_credential,
    seal_for,
)
from hwtrust.wire.structures import (
    AES_128_CFB,
    NO_SYMMETRIC,
    EccParams,
    EccPoint,
    KeyedHashParams,
    ObjectAttributes,
    Public,
    RsaParams,
    Symmetric,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SECRET = bytes(range(32))
UNSEAL = 0x15E
UNSEAL_ONLY = new_hash(Alg.SHA256, EMPTY + u32(POLICY_COMMAND_CODE) + u32(UNSEAL))
"""The digest of PolicyCommandCode(TPM2_Unseal)."""

CURVES: dict[Curve, ec.EllipticCurve] = {
    Curve.P256: ec.SECP256R1(),
    Curve.P384: ec.SECP384R1(),
    Curve.P521: ec.SECP521R1(),
}


def load(vectors: Path, name: str) -> Any:  # noqa: ANN401 - what JSON gives
    """One file of vectors."""
    return json.loads((vectors / "tpm-structs" / name).read_bytes())


def ek_from_pem(pem: str) -> Public:
    """A public key as the EK that the default template makes of it."""
    key = serialization.load_pem_public_key(pem.encode())
    if isinstance(key, ec.EllipticCurvePublicKey):
        point = key.public_numbers()
        unique = EccPoint(point.x.to_bytes(32, "big"), point.y.to_bytes(32, "big"))
        return replace(EK_P256.public, unique=unique)
    assert isinstance(key, rsa.RSAPublicKey)
    return replace(EK_RSA2048.public, unique=key.public_numbers().n.to_bytes(256, "big"))


@dataclass
class FixedOaep:
    """An RSA public key whose OAEP padding takes the salt that it is given.

    It reads hash and label from the padding that it is asked for, so that what
    a vector confirms is what the code under test has chosen.
    """

    key: rsa.RSAPublicKey
    salt: bytes

    def encrypt(self, plaintext: bytes, padding: padding.AsymmetricPadding) -> bytes:
        """EME-OAEP of RFC 8017 §7.1.1, then the RSA operation."""
        assert padding.algorithm.name == padding.mgf._algorithm.name  # type: ignore[attr-defined]
        algorithm: hashes.HashAlgorithm = padding.algorithm  # type: ignore[attr-defined]
        label: bytes = padding._label  # type: ignore[attr-defined]
        size = (self.key.key_size + 7) // 8
        data = digest(algorithm, label)
        data += bytes(size - len(plaintext) - 2 * algorithm.digest_size - 2) + b"\x01" + plaintext
        masked = xor(data, mgf1(algorithm, self.salt, len(data)))
        salt = xor(self.salt, mgf1(algorithm, masked, len(self.salt)))
        numbers = self.key.public_numbers()
        block = int.from_bytes(salt + masked, "big")
        return pow(block, numbers.e, numbers.n).to_bytes(size, "big")


def digest(algorithm: hashes.HashAlgorithm, data: bytes) -> bytes:
    """The digest of `data`."""
    context = hashes.Hash(algorithm)
    context.update(data)
    return context.finalize()


def mgf1(algorithm: hashes.HashAlgorithm, seed: bytes, size: int) -> bytes:
    """The mask generation function of RFC 8017 §B.2.1."""
    rounds = range(-(-size // algorithm.digest_size))
    return b"".join(digest(algorithm, seed + u32(i)) for i in rounds)[:size]


def xor(left: bytes, right: bytes) -> bytes:
    """Both, bit by bit."""
    return bytes(a ^ b for a, b in zip(left, right, strict=True))


# --- vectors ---------------------------------------------------------------------


def test_ecc_encapsulation_gives_what_the_reference_tpm_accepted(vectors: Path) -> None:
    """Every published ECC encapsulation comes out the same, whatever the curve and hash."""
    cases = load(vectors, "go-tpm/ecc_labeled_encaps.json")
    assert len(cases) >= 100
    for case in cases:
        public = Public.decode(bytes.fromhex(case["PublicKey"]))
        assert isinstance(public.params, EccParams)
        assert isinstance(public.unique, EccPoint)
        curve = CURVES[public.params.curve]
        x, y = (int.from_bytes(part, "big") for part in (public.unique.x, public.unique.y))
        shared = protect._encapsulate_ecc(
            ec.EllipticCurvePublicNumbers(x, y, curve).public_key(),
            public.name_alg,
            case["Label"].encode(),
            ephemeral=ec.derive_private_key(int(case["EphemeralPrivate"], 16), curve),
        )
        assert shared.seed.hex() == case["Secret"], case["Name"]
        assert shared.secret.hex() == case["Ciphertext"], case["Name"]


def test_rsa_encapsulation_gives_what_the_reference_tpm_accepted(vectors: Path) -> None:
    """Every published RSA encapsulation comes out the same, whatever the size and hash."""
    cases = load(vectors, "go-tpm/rsa_labeled_encaps.json")
    assert len(cases) >= 100
    for case in cases:
        public = Public.decode(bytes.fromhex(case["PublicKey"]))
        key = public.key()
        assert isinstance(key, rsa.RSAPublicKey)
        shared = protect._encapsulate_rsa(
            FixedOaep(key, bytes.fromhex(case["OAEPSalt"])),
            protect._oaep_hash(public),
            case["Label"].encode(),
            seed=bytes.fromhex(case["Secret"]),
        )
        assert shared.secret.hex() == case["Ciphertext"], case["Name"]


def wrapped(ek: Public, shared: Encapsulated, name: bytes, credential: bytes) -> bytes:
    """TPM2B_ID_OBJECT || TPM2B_ENCRYPTED_SECRET for a known seed."""
    assert isinstance(ek.params, EccParams | RsaParams)
    blob = protect._outer_wrap(
        ek.name_alg, ek.params.symmetric, shared.seed, name, tpm2b(credential)
    )
    return tpm2b(blob) + tpm2b(shared.secret)


def test_a_credential_for_an_ecc_ek_is_the_published_one(vectors: Path) -> None:
    """Two independent implementations' MakeCredential over P-256 come out the same."""
    case = load(vectors, "go-tpm/credential-activation-ecc.json")
    ek, scalar = ek_from_pem(case["ek_public_pem"]), 0x0042 << 240
    other = load(vectors, "keylime/makecredential-ecc.json")
    other_ek = Public.decode_sized(bytes.fromhex(other["ek_tpm2b_public"]))
    other_scalar = int(other["randomness"].split("0x")[1], 16)
    table = [
        (ek, scalar, case["ak_name"], case["credential"], case["expected_blob"]),
        (
            other_ek,
            other_scalar,
            other["ak_name"],
            other["challenge"],
            other["expected"].removeprefix("badcc0de00000001"),
        ),
    ]
    for public, ephemeral, name, credential, expected in table:
        key = public.key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        shared = protect._encapsulate_ecc(
            key,
            public.name_alg,
            protect.IDENTITY,
            ephemeral=ec.derive_private_key(ephemeral, key.curve),
        )
        blob = wrapped(public, shared, bytes.fromhex(name), bytes.fromhex(credential))
        assert blob.hex() == expected


def test_a_credential_for_an_rsa_ek_is_the_published_one(vectors: Path) -> None:
    """Two independent implementations' MakeCredential over RSA-2048 come out the same."""
    case = load(vectors, "go-tpm/credential-activation-rsa.json")
    ek = ek_from_pem(case["ek_public_pem"])
    key = ek.key()
    assert isinstance(key, rsa.RSAPublicKey)
    shared = protect._encapsulate_rsa(
        FixedOaep(key, bytes(32)), ek.name_alg, protect.IDENTITY, seed=bytes(16)
    )
    blob = wrapped(ek, shared, bytes.fromhex(case["ak_name"]), bytes.fromhex(case["credential"]))
    assert blob.hex() == case["expected_blob"]

    other = load(vectors, "keylime/makecredential-rsa.json")
    ek = Public.decode_sized(bytes.fromhex(other["ek_tpm2b_public"]))
    name, credential = bytes.fromhex(other["ak_name"]), bytes.fromhex(other["challenge"])
    blob = wrapped(ek, Encapsulated(b"\x12" * 32, bytes(256)), name, credential)
    expected = other["expected_first_80_bytes"].removeprefix("badcc0de00000001")
    assert len(expected) > 100
    assert blob.hex().startswith(expected)


# --- what is refused --------------------------------------------------------------


def p256(attributes: ObjectAttributes, symmetric: Symmetric = AES_128_CFB) -> Public:
    """A storage key in software, with the attributes and the cipher that it says."""
    point = ec.generate_private_key(ec.SECP256R1()).public_key().public_numbers()
    return replace(
        STORAGE_KEY,
        attributes=attributes,
        params=EccParams(symmetric, Alg.NULL, None, Curve.P256),
        unique=EccPoint(point.x.to_bytes(32, "big"), point.y.to_bytes(32, "big")),
    )


GOOD = p256(STORAGE_KEY.attributes)
NAME = u16(Alg.SHA256) + bytes(32)


@pytest.mark.parametrize(
    ("key", "error", "code"),
    [
        pytest.param(
            p256(STORAGE_KEY.attributes & ~ObjectAttributes.RESTRICTED),
            KeyAttributesError,
            "key:attributes",
            id="an unrestricted key, which decrypts for whoever asks",
        ),
        pytest.param(
            p256(TLS_KEY.attributes), KeyAttributesError, "key:attributes", id="a signing key"
        ),
        pytest.param(
            p256(STORAGE_KEY.attributes | ObjectAttributes.SIGN),
            KeyAttributesError,
            "key:attributes",
            id="a key that signs and decrypts",
        ),
        pytest.param(
            p256(STORAGE_KEY.attributes, NO_SYMMETRIC),
            UnsupportedError,
            "wire:unsupported",
            id="a key without a cipher",
        ),
        pytest.param(
            p256(STORAGE_KEY.attributes, Symmetric(Alg.AES, 128, Alg.CBC)),
            UnsupportedError,
            "wire:unsupported",
            id="a key with AES in another mode",
        ),
        pytest.param(
            p256(STORAGE_KEY.attributes, Symmetric(Alg.CAMELLIA, 128, Alg.CFB)),
            UnsupportedError,
            "wire:unsupported",
            id="a key with another cipher",
        ),
        pytest.param(
            p256(STORAGE_KEY.attributes, Symmetric(Alg.AES, 8, Alg.CFB)),
            UnsupportedError,
            "wire:unsupported",
            id="a key whose AES keys have 8 bits",
        ),
        pytest.param(
            replace(GOOD, unique=EccPoint(bytes(32), bytes(32))),
            WeakKeyError,
            "evidence:key:weak",
            id="a point that is not on the curve",
        ),
        pytest.param(
            Public(
                Alg.KEYEDHASH,
                Alg.SHA256,
                STORAGE_KEY.attributes,
                b"",
                KeyedHashParams(),
                bytes(32),
            ),
            UnsupportedError,
            "wire:unsupported",
            id="an object that is no key",
        ),
    ],
)
def test_nothing_is_made_for_a_key_that_does_not_protect_it(
    key: Public, error: type[Exception], code: str
) -> None:
    """A secret is wrapped only under restricted decryption keys, with AES-CFB."""
    for make in (
        lambda: make_credential(key, NAME, SECRET),
        lambda: seal_for(key, SECRET, auth_policy=UNSEAL_ONLY),
    ):
        with pytest.raises(error) as refusal:
            make()
        assert getattr(refusal.value, "code", None) == code


def test_an_rsa_key_whose_name_algorithm_has_no_oaep_is_refused() -> None:
    """A nameAlg from outside ends in a typed error, not in a KeyError."""
    modulus = rsa.generate_private_key(65537, 2048).public_key().public_numbers().n
    key = replace(STORAGE_KEY_RSA, name_alg=Alg.SHA3_256, unique=modulus.to_bytes(256, "big"))
    with pytest.raises(UnsupportedError) as refusal:
        encapsulate(key, b"LABEL")
    assert refusal.value.code == "wire:unsupported"


@pytest.mark.parametrize(
    ("name", "code"),
    [
        pytest.param(b"", "wire:malformed", id="no name at all"),
        pytest.param(NAME[:-1], "wire:malformed", id="a name cut short"),
        pytest.param(NAME + b"\0", "wire:malformed", id="a name with a byte too many"),
        pytest.param(u32(0x40000001), "wire:unsupported", id="a handle, as hierarchies have"),
    ],
)
def test_a_credential_is_bound_to_the_name_of_an_object(name: bytes, code: str) -> None:
    """An empty or strange Name would let any key of the TPM recover the credential."""
    with pytest.raises((MalformedError, UnsupportedError)) as refusal:
        make_credential(GOOD, name, SECRET)
    assert refusal.value.code == code


@pytest.mark.parametrize("size", [0, 33])
def test_a_credential_that_the_tpm_would_not_take_is_refused(size: int) -> None:
    """A credential is 1 to 32 bytes for an EK with SHA-256."""
    with pytest.raises(UnsupportedError) as refusal:
        make_credential(GOOD, NAME, bytes(size))
    assert refusal.value.code == "wire:unsupported"


@pytest.mark.parametrize("size", [0, MAX_SEALED + 1])
def test_a_sealed_object_that_the_tpm_would_not_take_is_refused(size: int) -> None:
    """Sealed data are 1 to 128 bytes."""
    with pytest.raises(UnsupportedError) as refusal:
        seal_for(GOOD, bytes(size), auth_policy=UNSEAL_ONLY)
    assert refusal.value.code == "wire:unsupported"


@pytest.mark.parametrize("policy", [b"", bytes(31), bytes(48)])
def test_a_sealed_object_needs_a_policy(policy: bytes) -> None:
    """Without a SHA-256 policy the object would open for nobody, or for another condition."""
    with pytest.raises(MalformedError) as refusal:
        seal_for(GOOD, SECRET, auth_policy=policy)
    assert refusal.value.code == "wire:malformed"


def test_the_sealed_object_opens_by_its_policy_only() -> None:
    """No password, no lockout, and the digest binds its two halves together."""
    made = seal_for(GOOD, SECRET, auth_policy=UNSEAL_ONLY)
    public = Public.decode(made.public)
    assert public.attributes == ObjectAttributes.ADMIN_WITH_POLICY | ObjectAttributes.NO_DA
    assert public.auth_policy == UNSEAL_ONLY
    assert public.name == made.name


def test_nothing_is_made_twice() -> None:
    """Seeds, ephemeral keys and the object's own seed are fresh at every call."""
    first, second = (seal_for(GOOD, SECRET, auth_policy=UNSEAL_ONLY) for _ in range(2))
    assert first.name != second.name
    assert first.seed != second.seed
    modulus = rsa.generate_private_key(65537, 2048).public_key().public_numbers().n
    for key in (GOOD, replace(STORAGE_KEY_RSA, unique=modulus.to_bytes(256, "big"))):
        seeds = {encapsulate(key, b"LABEL").seed for _ in range(2)}
        assert {len(seed) for seed in seeds} == {32}
        assert len(seeds) == 2
        credentials = {make_credential(key, NAME, SECRET).id_object for _ in range(2)}
        assert len(credentials) == 2


def test_no_secret_appears_in_a_repr() -> None:
    """A seed, a credential or a sealed secret cannot slip into a log."""
    shared = encapsulate(GOOD, b"LABEL")
    assert repr(shared.seed) not in repr(shared)
    assert shared.seed.hex() not in repr(shared)
    for made in (
        make_credential(GOOD, NAME, SECRET),
        seal_for(GOOD, SECRET, auth_policy=UNSEAL_ONLY),
    ):
        assert repr(SECRET)[2:-1] not in repr(made)


# --- a TPM ------------------------------------------------------------------------

needs_swtpm = pytest.mark.skipif(not installed(), reason="swtpm is not installed")


@pytest.fixture
def tpm(tmp_path: Path) -> Iterator[ESAPI]:
    """A new software TPM."""
    with Swtpm.start(tmp_path) as software, ESAPI(software.tcti) as context:
        yield context


def create_primary(tpm: ESAPI, hierarchy: ESYS_TR, template: Public) -> tuple[ESYS_TR, Public]:
    """TPM2_CreatePrimary, Part 3 §24.1."""
    area, _ = TPMT_PUBLIC.unmarshal(template.encode())
    handle, public, *_ = tpm.create_primary(TPM2B_SENSITIVE_CREATE(), TPM2B_PUBLIC(area), hierarchy)
    return handle, Public.decode_sized(public.marshal())


def policy_session(tpm: ESAPI) -> ESYS_TR:
    """A policy session with SHA-256."""
    none, plain = ESYS_TR.NONE, TPMT_SYM_DEF(TPM2_ALG.NULL)
    return tpm.start_auth_session(none, none, TPM2_SE.POLICY, plain, TPM2_ALG.SHA256)


def activate(tpm: ESAPI, ak: ESYS_TR, ek: ESYS_TR, made: Credential) -> bytes:
    """TPM2_ActivateCredential with policy A or B of the EK, Part 3 §12.5."""
    session = policy_session(tpm)
    tpm.policy_secret(ESYS_TR.ENDORSEMENT, session, b"", b"", b"", 0)
    try:
        recovered = tpm.activate_credential(
            ak,
            ek,
            TPM2B_ID_OBJECT(made.id_object),
            TPM2B_ENCRYPTED_SECRET(made.encrypted_secret),
            session2=ESYS_TR.PASSWORD if user_with_auth(tpm, ek) else session,
        )
    finally:
        tpm.flush_context(session)
    return bytes(recovered)


def user_with_auth(tpm: ESAPI, key: ESYS_TR) -> bool:
    """Whether the EK opens with its (empty) password too, as those of the high range do."""
    public, *_ = tpm.read_public(key)
    return bool(public.publicArea.objectAttributes & int(ObjectAttributes.USER_WITH_AUTH))


EKS = [
    pytest.param(EK_RSA2048, id="RSA-2048"),
    pytest.param(EK_P256, id="P-256"),
    pytest.param(EK_P384_HIGH, id="P-384"),
]


@needs_swtpm
@pytest.mark.parametrize("template", EKS)
def test_the_tpm_with_the_ek_and_the_ak_recovers_the_credential(
    tpm: ESAPI, template: EkTemplate
) -> None:
    """MakeCredential here and ActivateCredential there agree, for each kind of EK."""
    ek_handle, ek = create_primary(tpm, ESYS_TR.ENDORSEMENT, template.public)
    ak_handle, ak = create_primary(tpm, ESYS_TR.ENDORSEMENT, ak_template(bytes(32)))
    longest = bytes(range(digest_size(ek.name_alg)))
    for credential in (b"c", longest):
        made = make_credential(ek, ak.name, credential)
        assert activate(tpm, ak_handle, ek_handle, made) == credential


@needs_swtpm
def test_another_key_of_the_same_tpm_does_not_recover_the_credential(tpm: ESAPI) -> None:
    """A credential for one AK is useless to another, though the EK is right."""
    ek_handle, ek = create_primary(tpm, ESYS_TR.ENDORSEMENT, EK_P256.public)
    _, ak = create_primary(tpm, ESYS_TR.ENDORSEMENT, ak_template(bytes(32)))
    other_handle, _ = create_primary(tpm, ESYS_TR.ENDORSEMENT, ak_template(b"\x01" * 32))
    with pytest.raises(TSS2_Exception) as refusal:
        activate(tpm, other_handle, ek_handle, make_credential(ek, ak.name, SECRET))
    assert refusal.value.error == TPM2_RC.INTEGRITY


@needs_swtpm
def test_another_tpm_does_not_recover_the_credential(tpm: ESAPI) -> None:
    """A credential for one EK is useless to a TPM with another, though the AK is right."""
    _, ek = create_primary(tpm, ESYS_TR.ENDORSEMENT, EK_P256.public)
    other = replace(EK_P256.public, unique=EccPoint(b"\x01" * 32, bytes(32)))
    other_handle, _ = create_primary(tpm, ESYS_TR.ENDORSEMENT, other)
    ak_handle, ak = create_primary(tpm, ESYS_TR.ENDORSEMENT, ak_template(bytes(32)))
    with pytest.raises(TSS2_Exception) as refusal:
        activate(tpm, ak_handle, other_handle, make_credential(ek, ak.name, SECRET))
    assert refusal.value.error == TPM2_RC.INTEGRITY


def import_and_unseal(tpm: ESAPI, parent: ESYS_TR, made: Duplicate) -> bytes:
    """TPM2_Import, TPM2_Load and TPM2_Unseal under PolicyCommandCode(Unseal)."""
    area, _ = TPMT_PUBLIC.unmarshal(made.public)
    private = tpm.import_(
        parent,
        TPM2B_DATA(),
        TPM2B_PUBLIC(area),
        TPM2B_PRIVATE(made.private),
        TPM2B_ENCRYPTED_SECRET(made.seed),
        TPMT_SYM_DEF_OBJECT(TPM2_ALG.NULL),
    )
    loaded = tpm.load(parent, private, TPM2B_PUBLIC(area))
    session = policy_session(tpm)
    try:
        tpm.policy_command_code(session, TPM2_CC.Unseal)
        return bytes(tpm.unseal(loaded, session1=session))
    finally:
        tpm.flush_context(session)
        tpm.flush_context(loaded)


PARENTS = [pytest.param(STORAGE_KEY, id="P-256"), pytest.param(STORAGE_KEY_RSA, id="RSA-2048")]


@needs_swtpm
@pytest.mark.parametrize("template", PARENTS)
def test_the_tpm_with_the_storage_key_unseals_the_secret(tpm: ESAPI, template: Public) -> None:
    """Import, load and unseal give back what was sealed, for the shortest and the longest."""
    handle, parent = create_primary(tpm, ESYS_TR.OWNER, template)
    for secret in (b"s", SECRET, bytes(MAX_SEALED)):
        made = seal_for(parent, secret, auth_policy=UNSEAL_ONLY)
        assert import_and_unseal(tpm, handle, made) == secret


@needs_swtpm
def test_the_sealed_object_does_not_open_without_its_policy(tpm: ESAPI) -> None:
    """The empty password is no way in."""
    handle, parent = create_primary(tpm, ESYS_TR.OWNER, STORAGE_KEY)
    made = seal_for(parent, SECRET, auth_policy=UNSEAL_ONLY)
    area, _ = TPMT_PUBLIC.unmarshal(made.public)
    private = tpm.import_(
        handle,
        TPM2B_DATA(),
        TPM2B_PUBLIC(area),
        TPM2B_PRIVATE(made.private),
        TPM2B_ENCRYPTED_SECRET(made.seed),
        TPMT_SYM_DEF_OBJECT(TPM2_ALG.NULL),
    )
    loaded = tpm.load(handle, private, TPM2B_PUBLIC(area))
    with pytest.raises(TSS2_Exception) as refusal:
        tpm.unseal(loaded)
    assert refusal.value.error == TPM2_RC.AUTH_UNAVAILABLE


def flipped(data: bytes, at: int, bit: int = 1) -> bytes:
    """`data` with one bit changed."""
    changed = bytearray(data)
    changed[at] ^= bit
    return bytes(changed)


CHANGES: dict[str, Callable[[Duplicate], Duplicate]] = {
    "the HMAC of the private part": lambda d: replace(d, private=flipped(d.private, 2)),
    "the first encrypted byte": lambda d: replace(d, private=flipped(d.private, 34)),
    "the last encrypted byte": lambda d: replace(d, private=flipped(d.private, -1)),
    "the lockout attribute in the public part": lambda d: replace(
        d, public=flipped(d.public, 6, ObjectAttributes.NO_DA >> 8)
    ),
    "the policy in the public part": lambda d: replace(d, public=flipped(d.public, 12)),
    "the digest in the public part": lambda d: replace(d, public=flipped(d.public, -1)),
}


@needs_swtpm
@pytest.mark.parametrize("template", PARENTS)
def test_the_tpm_refuses_a_changed_import(tpm: ESAPI, template: Public) -> None:
    """One changed bit of the private or the public part, and nothing is imported."""
    handle, parent = create_primary(tpm, ESYS_TR.OWNER, template)
    made = seal_for(parent, SECRET, auth_policy=UNSEAL_ONLY)
    for what, change in CHANGES.items():
        with pytest.raises(TSS2_Exception) as refusal:
            import_and_unseal(tpm, handle, change(made))
        assert refusal.value.error == TPM2_RC.INTEGRITY, what
    with pytest.raises(TSS2_Exception):
        import_and_unseal(tpm, handle, replace(made, seed=flipped(made.seed, -1)))
    assert import_and_unseal(tpm, handle, made) == SECRET


@needs_swtpm
def test_the_tpm_refuses_an_import_with_any_byte_changed(tpm: ESAPI) -> None:
    """Every byte of the private part and of the seed counts."""
    handle, parent = create_primary(tpm, ESYS_TR.OWNER, STORAGE_KEY)
    made = seal_for(parent, SECRET, auth_policy=UNSEAL_ONLY)
    changed = [replace(made, private=flipped(made.private, at)) for at in range(len(made.private))]
    changed += [replace(made, seed=flipped(made.seed, at)) for at in range(len(made.seed))]
    for one in changed:
        with pytest.raises(TSS2_Exception):
            import_and_unseal(tpm, handle, one)


@needs_swtpm
@pytest.mark.parametrize("template", PARENTS)
def test_a_root_for_another_storage_key_is_refused(tpm: ESAPI, template: Public) -> None:
    """What is sealed for one storage key cannot be imported under another."""
    _, parent = create_primary(tpm, ESYS_TR.OWNER, template)
    other_handle, _ = create_primary(tpm, ESYS_TR.NULL, template)
    made = seal_for(parent, SECRET, auth_policy=UNSEAL_ONLY)
    with pytest.raises(TSS2_Exception):
        import_and_unseal(tpm, other_handle, made)


@needs_swtpm
def test_an_attackers_import_blob_is_not_the_object_that_was_named(tpm: ESAPI) -> None:
    """Anybody can make an import for a storage key; its Name gives it away.

    The TPM does not know its sender, so the device compares the Name with the
    signed metadata before it imports.
    """
    handle, parent = create_primary(tpm, ESYS_TR.OWNER, STORAGE_KEY)
    ours = seal_for(parent, SECRET, auth_policy=UNSEAL_ONLY)
    forged = seal_for(parent, SECRET, auth_policy=UNSEAL_ONLY)
    assert import_and_unseal(tpm, handle, forged) == SECRET
    assert Public.decode(forged.public).name != ours.name
    spliced = replace(forged, public=ours.public)
    with pytest.raises(TSS2_Exception):
        import_and_unseal(tpm, handle, spliced)
