"""TPMT_PUBLIC: form, Name, and the key in it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from hwtrust.errors import HwTrustError, MalformedError, UnsupportedError, WeakKeyError
from hwtrust.wire.algorithms import Alg, Curve
from hwtrust.wire.structures import (
    NO_SYMMETRIC,
    EccParams,
    EccPoint,
    KeyedHashParams,
    ObjectAttributes,
    Params,
    Public,
    RsaParams,
    require_strong,
)
from simulators.software_tpm import SoftwareTpm, rsa_public
from simulators.strategies import publics

AK = SoftwareTpm(seed=b"test_public").ak
ECC_PARAMS = EccParams(NO_SYMMETRIC, Alg.ECDSA, Alg.SHA256, Curve.P256)
MODULUS = (2**2048 - 1).to_bytes(256, "big")


def ecc(curve: Curve, x: int, y: int) -> Public:
    """An ECC key with any coordinates."""
    point = EccPoint(x.to_bytes(66, "big"), y.to_bytes(66, "big"))
    return replace(AK, params=structs.replace(ECC_PARAMS, curve=curve), unique=point)


def rsa_of(bits: int, modulus: int, exponent: int = 0) -> Public:
    """An RSA key with any numbers."""
    return Public(
        type=Alg.RSA,
        name_alg=Alg.SHA256,
        attributes=AK.attributes,
        auth_policy=b"",
        params=RsaParams(NO_SYMMETRIC, Alg.RSASSA, Alg.SHA256, bits, exponent),
        unique=modulus.to_bytes((modulus.bit_length() + 7) // 8, "big"),
    )


@given(publics())
def test_a_public_area_is_decoded_as_it_was_encoded(public: Public) -> None:
    """decode(encode(x)) == x, with and without its size, and so its Name."""
    assert Public.decode(public.encode()) == public
    assert Public.decode_sized(public.encode_sized()) == public
    assert Public.decode(public.encode()).name == public.name


def test_every_attribute_changes_the_name() -> None:
    """A certified Name leaves no attribute open."""
    changed = [replace(AK, attributes=AK.attributes ^ bit) for bit in ObjectAttributes]
    assert len({public.name for public in [AK, *changed]}) == len(ObjectAttributes) + 1


def test_bits_without_a_name_are_kept() -> None:
    """An attribute of a later specification stays in the Name, and in sight."""
    public = replace(AK, attributes=ObjectAttributes(AK.attributes | 1 << 30))
    assert Public.decode(public.encode()).attributes & 1 << 30


def test_an_object_without_name_algorithm_has_no_name() -> None:
    """It decodes, as a TPM takes it for external keys, but nothing can be certified of it."""
    public = Public.decode(replace(AK, name_alg=Alg.NULL).encode())
    with pytest.raises(UnsupportedError) as refused:
        _ = public.name
    assert refused.value.code == "wire:unsupported"


@pytest.mark.parametrize("public", [AK, rsa_of(2048, 2**2048 - 1)], ids=lambda p: p.type.name)
def test_a_public_area_cut_at_every_byte_or_followed_by_one_is_refused(public: Public) -> None:
    """Adversaries 3 and 4."""
    raw, sized = public.encode(), public.encode_sized()
    for length in range(len(raw)):
        with pytest.raises(MalformedError):
            Public.decode(raw[:length])
    for length in range(len(sized)):
        with pytest.raises(MalformedError):
            Public.decode_sized(sized[:length])
    with pytest.raises(MalformedError):
        Public.decode(raw + b"\0")
    with pytest.raises(MalformedError) as refused:
        Public.decode_sized(sized + b"\0")
    assert refused.value.code == "wire:malformed"


UNSUPPORTED = {
    "a type that is none": "0006",
    "a type that is unknown": "7fff",
    "a Name with a cipher": "00230006 00050072 0000 0010 0010 0003 0010 00000000",
    "a scheme of RSA in an ECC key": "0023000b 00050072 0000 0010 0014000b",
    "a scheme of ECC in an RSA key": "0001000b 00050072 0000 0010 0018000b",
    "an unknown scheme": "0023000b 00050072 0000 0010 7fff",
    "a scheme with a hash that is none": "0023000b 00050072 0000 0010 00180010",
    "anonymous signatures": "0023000b 00050072 0000 0010 001a000b0000",
    "an unknown curve": "0023000b 00050072 0000 0010 0018000b 7fff",
    "an unknown key derivation": "0023000b 00050072 0000 0010 0018000b 0003 0006",
    "a hash as cipher": "0023000b 00050072 0000 000b",
    "a cipher in a mode that is none": "0023000b 00050072 0000 00060080000b",
    "a keyed hash that signs": "0008000b 00050072 0000 0018",
    "an XOR key without derivation": "0008000b 00050072 0000 000a000b0010",
}


@pytest.mark.parametrize("raw", UNSUPPORTED.values(), ids=UNSUPPORTED)
def test_an_algorithm_out_of_place_is_refused(raw: str) -> None:
    """What follows such a number cannot be read, and is not guessed."""
    with pytest.raises(UnsupportedError) as refused:
        Public.decode(bytes.fromhex(raw))
    assert refused.value.code == "wire:unsupported"


@pytest.mark.parametrize(
    ("type_", "unique"),
    [(Alg.RSA, EccPoint(b"", b"")), (Alg.ECC, b""), (Alg.KEYEDHASH, EccPoint(b"", b""))],
)
def test_type_and_unique_field_must_belong_together(type_: Alg, unique: bytes | EccPoint) -> None:
    """No object is made that could not be decoded."""
    params: dict[Alg, Params] = {
        Alg.RSA: RsaParams(NO_SYMMETRIC, Alg.NULL, None, 2048),
        Alg.ECC: ECC_PARAMS,
        Alg.KEYEDHASH: KeyedHashParams(),
    }
    with pytest.raises(MalformedError) as refused:
        Public(type_, Alg.SHA256, AK.attributes, b"", params[type_], unique)
    assert refused.value.code == "wire:malformed"


def test_type_and_parameters_must_belong_together() -> None:
    """An RSA type in front of ECC parameters, or of an HMAC key's, is refused, not believed."""
    sealed = Public(Alg.KEYEDHASH, Alg.SHA256, AK.attributes, b"", KeyedHashParams(), b"")
    for public in (AK, sealed):
        with pytest.raises(MalformedError) as refused:
            replace(public, type=Alg.RSA)
        assert refused.value.code == "wire:malformed"


def test_an_ecc_key_is_the_one_that_was_put_in() -> None:
    """Leading zeros of coordinates do not matter."""
    key = SoftwareTpm(seed=b"test_public").ak_key.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert AK.key() == key
    numbers = key.public_numbers()
    assert ecc(Curve.P256, numbers.x, numbers.y).key() == key


def test_a_coordinate_is_written_in_one_way() -> None:
    """Adversary 12: p stands for 0 to OpenSSL, which would give one key two Names."""
    b = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
    root = pow(b, (P256_P + 1) // 4, P256_P)
    assert ecc(Curve.P256, 0, root).key().key_size == 256
    with pytest.raises(WeakKeyError) as refused:
        ecc(Curve.P256, P256_P, root).key()
    assert refused.value.code == "evidence:key:weak"


def test_an_rsa_key_is_the_one_that_was_put_in() -> None:
    """The exponent 0 stands for 65537."""
    private = rsa.generate_private_key(65537, 2048)
    public = rsa_public(private, AK.attributes)
    assert isinstance(public.params, RsaParams)
    assert public.params.exponent == 0
    assert public.key() == private.public_key()


P256_X = 0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296
P256_Y = 0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5
P256_P = 2**256 - 2**224 + 2**192 + 2**96 - 1

WEAK = {
    "a point that is not on the curve": ecc(Curve.P256, P256_X, P256_Y ^ 1),
    "the point at infinity": ecc(Curve.P256, 0, 0),
    "coordinates that are not reduced": ecc(Curve.P256, P256_X + P256_P, P256_Y),
    "a point of another curve": ecc(Curve.P384, P256_X, P256_Y),
    "P-192": ecc(Curve.P192, 1, 1),
    "P-224": ecc(Curve.P224, 1, 1),
    "P-521": ecc(Curve.P521, 1, 1),
    "a Barreto-Naehrig curve": ecc(Curve.BN_P256, 1, 2),
    "RSA with 1024 bits": rsa_of(1024, 2**1024 - 1),
    "RSA with 2047 bits": rsa_of(2047, 2**2047 - 1),
    "RSA with fewer bits than it says": rsa_of(2048, 2**1024 - 1),
    "RSA with more bits than it says": rsa_of(2048, 2**3072 - 1),
    "RSA with an empty modulus": rsa_of(2048, 0),
    "RSA with an even modulus": rsa_of(2048, 2**2048 - 2),
    "exponent 1": rsa_of(2048, 2**2048 - 1, 1),
    "exponent 2": rsa_of(2048, 2**2048 - 1, 2),
    "exponent 3": rsa_of(2048, 2**2048 - 1, 3),
    "an even exponent": rsa_of(2048, 2**2048 - 1, 65538),
    "sealed data": Public(Alg.KEYEDHASH, Alg.SHA256, AK.attributes, b"", KeyedHashParams(), b""),
}


@pytest.mark.parametrize("public", WEAK.values(), ids=WEAK)
def test_a_weak_key_is_refused(public: Public) -> None:
    """Adversary 12: decodes, but gives no key."""
    with pytest.raises(WeakKeyError) as refused:
        Public.decode(public.encode()).key()
    assert refused.value.code == "evidence:key:weak"


BARE_WEAK = {
    "P-224": ec.generate_private_key(ec.SECP224R1()).public_key(),
    "P-521": ec.generate_private_key(ec.SECP521R1()).public_key(),
    "secp256k1": ec.generate_private_key(ec.SECP256K1()).public_key(),
    "RSA with 1024 bits": rsa.RSAPublicNumbers(65537, 2**1024 - 1).public_key(),
    "RSA with 8192 bits": rsa.RSAPublicNumbers(65537, 2**8192 - 1).public_key(),
    "exponent 3": rsa.RSAPublicNumbers(3, 2**2048 - 1).public_key(),
}


@pytest.mark.parametrize(
    "key",
    [
        AK.key(),
        ec.generate_private_key(ec.SECP384R1()).public_key(),
        rsa.RSAPublicNumbers(65537, 2**2048 - 1).public_key(),
        rsa.RSAPublicNumbers(65539, 2**4096 - 1).public_key(),
    ],
    ids=["P-256", "P-384", "RSA-2048", "RSA-4096"],
)
def test_a_strong_key_passes(key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey) -> None:
    """The cases below fail for what they say, not because nothing passes."""
    require_strong(key)


@pytest.mark.parametrize("key", BARE_WEAK.values(), ids=BARE_WEAK)
def test_a_weak_key_is_refused_wherever_it_comes_from(
    key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey,
) -> None:
    """Adversary 12: a PEM file is held to the same rules as a TPM's structure."""
    with pytest.raises(WeakKeyError) as refused:
        require_strong(key)
    assert refused.value.code == "evidence:key:weak"


@given(st.data())
def test_damaged_bytes_end_in_a_public_area_or_a_typed_error(data: st.DataObject) -> None:
    """Neither decoding nor Name nor key lets an exception from outside the tree through."""
    raw = bytearray(data.draw(publics()).encode())
    for at in data.draw(st.lists(st.integers(0, len(raw) - 1), min_size=1, max_size=4)):
        raw[at] = data.draw(st.integers(0, 255))
    try:
        public = Public.decode(bytes(raw))
        assert public.encode() == bytes(raw)
        assert public.name
        public.key()
    except HwTrustError:
        return


def test_a_public_area_that_comes_again_is_parsed_once() -> None:
    """What parsing costs is paid once for each key of a fleet."""
    raw = AK.encode()
    first, again = Public.decode(bytes(bytearray(raw))), Public.decode(bytes(bytearray(raw)))
    assert again is first
    assert again.key() is first.key()
    assert first == AK
    assert (first.name, first.key()) == (AK.name, AK.key())


def test_a_public_area_with_other_attributes_has_its_own_name() -> None:
    """All of the bytes are what it is kept by; what a copy changes, it does not remember."""
    assert AK.name
    other = replace(AK, attributes=AK.attributes ^ ObjectAttributes.NO_DA)
    assert other.name != AK.name
    assert Public.decode(other.encode()).name == other.name
    assert Public.decode(AK.encode()).name == AK.name


def test_a_weak_key_is_refused_each_time() -> None:
    """That it was decoded before does not make it pass."""
    public = Public.decode(next(iter(WEAK.values())).encode())
    for _ in range(2):
        with pytest.raises(WeakKeyError):
            public.key()
