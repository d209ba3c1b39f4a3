"""Signatures: only of this key, this message, and the one algorithm that the key makes."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from hypothesis import given
from hypothesis import strategies as st

from hwtrust.errors import (
    HwTrustError,
    SignatureAlgorithmError,
    SignatureError,
    WeakKeyError,
)
from hwtrust.verify.signature import prepare, run, verify_signature
from hwtrust.wire.algorithms import Alg, Curve
from hwtrust.wire.structures import (
    NO_SYMMETRIC,
    EccParams,
    KeyedHashParams,
    Public,
    RsaParams,
    Signature,
)
from simulators.software_tpm import (
    AK_ATTRIBUTES,
    PrivateKey,
    SoftwareTpm,
    ecc_public,
    rsa_public,
    sign,
)

MESSAGE = b"what a TPM has signed"
TPM = SoftwareTpm(seed=b"test_signature")
P256 = TPM.derive("p256")
P384 = TPM.derive("p384", Curve.P384)
RSA = rsa.generate_private_key(65537, 2048)
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
P384_ORDER = int(
    "FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF"
    "C7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973",
    16,
)


def public(key: PrivateKey, scheme: Alg = Alg.NULL, hash_: Alg | None = None) -> Public:
    """The public area of a key, bound to a scheme or not."""
    if isinstance(key, rsa.RSAPrivateKey):
        return rsa_public(key, AK_ATTRIBUTES, scheme=scheme, hash_=hash_)
    return ecc_public(key, AK_ATTRIBUTES, scheme=scheme, hash_=hash_)


KINDS: dict[str, tuple[PrivateKey, Alg, Alg]] = {
    "ECDSA P-256 SHA-256": (P256, Alg.ECDSA, Alg.SHA256),
    "ECDSA P-384 SHA-384": (P384, Alg.ECDSA, Alg.SHA384),
    "ECDSA P-256 SHA-512": (P256, Alg.ECDSA, Alg.SHA512),
    "RSASSA SHA-256": (RSA, Alg.RSASSA, Alg.SHA256),
    "RSASSA SHA-384": (RSA, Alg.RSASSA, Alg.SHA384),
    "RSAPSS SHA-256": (RSA, Alg.RSAPSS, Alg.SHA256),
    "RSAPSS SHA-512": (RSA, Alg.RSAPSS, Alg.SHA512),
}
kinds = pytest.mark.parametrize(("key", "scheme", "hash_"), KINDS.values(), ids=KINDS)


@kinds
def test_a_good_signature_verifies_under_every_form_of_the_key(
    key: PrivateKey, scheme: Alg, hash_: Alg
) -> None:
    """Bound to the scheme, unbound, and bare."""
    signature = sign(key, MESSAGE, scheme=scheme, hash_=hash_)
    for form in (public(key, scheme, hash_), public(key), key.public_key()):
        verify_signature(form, signature, MESSAGE)


@kinds
def test_a_signature_of_another_message_is_refused(
    key: PrivateKey, scheme: Alg, hash_: Alg
) -> None:
    """One bit more or less is another message."""
    signature = sign(key, MESSAGE, scheme=scheme, hash_=hash_)
    for message in (b"", MESSAGE + b"\0", MESSAGE[:-1] + b"c"):
        with pytest.raises(SignatureError) as refused:
            verify_signature(public(key, scheme, hash_), signature, message)
        assert refused.value.code == "evidence:signature:invalid"


@kinds
def test_a_signature_of_another_key_is_refused(key: PrivateKey, scheme: Alg, hash_: Alg) -> None:
    """A key of the same kind is not enough."""
    other: PrivateKey
    if isinstance(key, rsa.RSAPrivateKey):
        other = rsa.generate_private_key(65537, 2048)
    else:
        other = ec.generate_private_key(key.curve)
    signature = sign(other, MESSAGE, scheme=scheme, hash_=hash_)
    with pytest.raises(SignatureError) as refused:
        verify_signature(public(key, scheme, hash_), signature, MESSAGE)
    assert refused.value.code == "evidence:signature:invalid"


@pytest.mark.parametrize("name", ["ECDSA P-256 SHA-256", "RSASSA SHA-256", "RSAPSS SHA-256"])
def test_every_bit_of_a_signature_counts(name: str) -> None:
    """Adversary 13: each byte of the value flipped, one at a time."""
    key, scheme, hash_ = KINDS[name]
    raw = sign(key, MESSAGE, scheme=scheme, hash_=hash_).encode()
    for at in range(len(raw)):
        damaged = raw[:at] + bytes([raw[at] ^ 0x01]) + raw[at + 1 :]
        with pytest.raises(HwTrustError) as refused:
            verify_signature(public(key, scheme, hash_), Signature.decode(damaged), MESSAGE)
        assert refused.value.code in {
            "wire:malformed",
            "wire:unsupported",
            "evidence:signature:invalid",
            "evidence:signature:algorithm",
        }


def test_a_high_s_is_taken() -> None:
    """TPMs do not normalise, and nothing is identified by its signature."""
    signature = sign(P256, MESSAGE, scheme=Alg.ECDSA, hash_=Alg.SHA256)
    assert isinstance(signature.value, tuple)
    r, s = signature.value
    for value in ((r, s), (r, P256_ORDER - s)):
        verify_signature(public(P256), msgspec.structs.replace(signature, value=value), MESSAGE)


@pytest.mark.parametrize(("key", "order"), [(P256, P256_ORDER), (P384, P384_ORDER)])
@pytest.mark.parametrize("bad", ["zero", "order", "above"])
@pytest.mark.parametrize("which", [0, 1])
def test_a_number_out_of_range_is_refused(
    key: ec.EllipticCurvePrivateKey, order: int, bad: str, which: int
) -> None:
    """Adversary 9: r or s that is 0, n, or a good value plus n."""
    good = sign(key, MESSAGE, scheme=Alg.ECDSA, hash_=Alg.SHA256)
    assert isinstance(good.value, tuple)
    numbers = list(good.value)
    numbers[which] = {"zero": 0, "order": order, "above": numbers[which] + order}[bad]
    with pytest.raises(SignatureError) as refused:
        verify_signature(
            public(key), msgspec.structs.replace(good, value=(numbers[0], numbers[1])), MESSAGE
        )
    assert refused.value.code == "evidence:signature:invalid"


@pytest.mark.parametrize("curve", [Curve.P256, Curve.P384])
def test_the_range_ends_where_the_curve_does(curve: Curve) -> None:
    """Adversary 9: numbers out of range are refused here, before any backend sees them."""
    order = {Curve.P256: P256_ORDER, Curve.P384: P384_ORDER}[curve]
    key = TPM.derive("range", curve).public_key()
    for value in ((0, 1), (1, 0), (order, 1), (1, order), (order - 1, order), (order + 1, 1)):
        signature = Signature(Alg.ECDSA, Alg.SHA256, value)
        for form in (signature, signature.encode()):
            with pytest.raises(SignatureError):
                prepare(key, form, MESSAGE)
    for value in ((order - 1, order - 1), (1, 1)):
        check = prepare(key, Signature(Alg.ECDSA, Alg.SHA256, value), MESSAGE)
        assert check.arguments[0] == encode_dss_signature(*value)


@pytest.mark.parametrize("hash_", [Alg.SHA384, Alg.SHA512])
def test_another_hash_than_the_keys_is_refused_although_it_verifies(hash_: Alg) -> None:
    """Adversary 10: the key's scheme names the hash; the signature does not choose it."""
    for key, scheme in ((P256, Alg.ECDSA), (RSA, Alg.RSASSA), (RSA, Alg.RSAPSS)):
        signature = sign(key, MESSAGE, scheme=scheme, hash_=hash_)
        verify_signature(public(key), signature, MESSAGE)
        with pytest.raises(SignatureAlgorithmError) as refused:
            verify_signature(public(key, scheme, Alg.SHA256), signature, MESSAGE)
        assert refused.value.code == "evidence:signature:algorithm"


@pytest.mark.parametrize("hash_", [Alg.SHA384, Alg.SHA512])
def test_a_hash_that_is_swapped_in_the_signature_does_not_verify(hash_: Alg) -> None:
    """Adversary 10: an unbound key's signature says a hash, and must be over that hash."""
    for key, scheme in ((P256, Alg.ECDSA), (RSA, Alg.RSASSA), (RSA, Alg.RSAPSS)):
        signature = msgspec.structs.replace(
            sign(key, MESSAGE, scheme=scheme, hash_=Alg.SHA256), hash=hash_
        )
        with pytest.raises(SignatureError) as refused:
            verify_signature(public(key), signature, MESSAGE)
        assert refused.value.code == "evidence:signature:invalid"


def test_another_scheme_than_the_keys_is_refused_although_it_verifies() -> None:
    """A key bound to RSAPSS makes no RSASSA signatures."""
    signature = sign(RSA, MESSAGE, scheme=Alg.RSASSA, hash_=Alg.SHA256)
    with pytest.raises(SignatureAlgorithmError) as refused:
        verify_signature(public(RSA, Alg.RSAPSS, Alg.SHA256), signature, MESSAGE)
    assert refused.value.code == "evidence:signature:algorithm"


@pytest.mark.parametrize(
    ("key", "signer"), [(P256, RSA), (RSA, P256)], ids=["RSA for ECC", "ECC for RSA"]
)
def test_a_signature_of_the_other_kind_of_key_is_refused(
    key: PrivateKey, signer: PrivateKey
) -> None:
    """Adversary 11: for an unbound key and for a bare one."""
    scheme = Alg.RSASSA if isinstance(signer, rsa.RSAPrivateKey) else Alg.ECDSA
    signature = sign(signer, MESSAGE, scheme=scheme, hash_=Alg.SHA256)
    for form in (public(key), key.public_key()):
        with pytest.raises(SignatureAlgorithmError) as refused:
            verify_signature(form, signature, MESSAGE)
        assert refused.value.code == "evidence:signature:algorithm"


@pytest.mark.parametrize("salt", [32, 222], ids=["as the digest", "as long as fits"])
def test_a_pss_salt_of_either_length_that_tpms_use_is_taken(salt: int) -> None:
    """FIPS mode and TPM 2.0 Part 1 §B.7."""
    signature = sign(RSA, MESSAGE, scheme=Alg.RSAPSS, hash_=Alg.SHA256, salt=salt)
    verify_signature(public(RSA, Alg.RSAPSS, Alg.SHA256), signature, MESSAGE)


@pytest.mark.parametrize("salt", [0, 31, 33, 221])
def test_a_pss_salt_of_another_length_is_refused(salt: int) -> None:
    """No TPM makes such a signature."""
    signature = sign(RSA, MESSAGE, scheme=Alg.RSAPSS, hash_=Alg.SHA256, salt=salt)
    with pytest.raises(SignatureError) as refused:
        verify_signature(public(RSA, Alg.RSAPSS, Alg.SHA256), signature, MESSAGE)
    assert refused.value.code == "evidence:signature:invalid"


@pytest.mark.parametrize(
    ("key", "scheme"), [(P256, Alg.ECDSA), (RSA, Alg.RSASSA), (RSA, Alg.RSAPSS)]
)
def test_sha1_is_refused_unless_it_is_spelled_out(key: PrivateKey, scheme: Alg) -> None:
    """The word Unsafe stands in the code of whoever believes SHA-1."""
    signature = sign(key, MESSAGE, scheme=scheme, hash_=Alg.SHA1)
    for form in (public(key, scheme, Alg.SHA1), public(key), key.public_key()):
        verify_signature(form, signature, MESSAGE, unsafe_allow_sha1=True)
        with pytest.raises(SignatureAlgorithmError) as refused:
            verify_signature(form, signature, MESSAGE)
        assert refused.value.code == "evidence:signature:algorithm"


@pytest.mark.parametrize("hash_", [Alg.SM3_256, Alg.SHA3_256])
def test_a_hash_that_no_tpm_of_ours_signs_with_is_refused(hash_: Alg) -> None:
    """Known is not accepted."""
    signature = Signature(Alg.ECDSA, hash_, (1, 1))
    with pytest.raises(SignatureAlgorithmError) as refused:
        verify_signature(public(P256), signature, MESSAGE)
    assert refused.value.code == "evidence:signature:algorithm"


def test_an_object_that_signs_nothing_is_refused() -> None:
    """Sealed data is not a key."""
    sealed = Public(Alg.KEYEDHASH, Alg.SHA256, AK_ATTRIBUTES, b"", KeyedHashParams(), b"")
    with pytest.raises(SignatureAlgorithmError) as refused:
        verify_signature(sealed, Signature(Alg.ECDSA, Alg.SHA256, (1, 1)), MESSAGE)
    assert refused.value.code == "evidence:signature:algorithm"


def test_a_key_that_only_exchanges_is_refused() -> None:
    """A scheme that is no signature is not the signature's."""
    key = public(P256, Alg.ECDH, Alg.SHA256)
    signature = sign(P256, MESSAGE, scheme=Alg.ECDSA, hash_=Alg.SHA256)
    with pytest.raises(SignatureAlgorithmError) as refused:
        verify_signature(key, signature, MESSAGE)
    assert refused.value.code == "evidence:signature:algorithm"


def test_a_weak_key_is_refused_although_its_signature_verifies() -> None:
    """Adversary 12: P-521 and secp256k1 as bare keys, P-224 and RSA-1024 in a TPM's form."""
    for curve in (ec.SECP521R1(), ec.SECP256K1()):
        key = ec.generate_private_key(curve)
        signature = sign(key, MESSAGE, scheme=Alg.ECDSA, hash_=Alg.SHA256)
        with pytest.raises(WeakKeyError) as refused:
            verify_signature(key.public_key(), signature, MESSAGE)
        assert refused.value.code == "evidence:key:weak"
    weak_rsa = replace(
        public(RSA),
        params=RsaParams(NO_SYMMETRIC, Alg.NULL, None, 1024),
        unique=(2**1024 - 1).to_bytes(128, "big"),
    )
    weak_ecc = replace(public(P256), params=EccParams(NO_SYMMETRIC, Alg.NULL, None, Curve.P224))
    for weak in (weak_rsa, weak_ecc):
        with pytest.raises(WeakKeyError) as refused:
            verify_signature(weak, Signature(Alg.ECDSA, Alg.SHA256, (1, 1)), MESSAGE)
        assert refused.value.code == "evidence:key:weak"


def test_what_openssl_refuses_ends_in_a_typed_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy of the machine (FIPS) may take algorithms away."""

    class Refusing(hashes.HashAlgorithm):
        name = "none"
        digest_size = 32
        block_size = None

    monkeypatch.setattr("hwtrust.verify.signature._ECDSA", {Alg.SHA256: ec.ECDSA(Refusing())})
    signature = sign(P256, MESSAGE, scheme=Alg.ECDSA, hash_=Alg.SHA256)
    with pytest.raises(UnsupportedAlgorithm):
        RSA.public_key().verify(bytes(256), MESSAGE, padding.PKCS1v15(), Refusing())
    with pytest.raises(SignatureAlgorithmError) as refused:
        verify_signature(public(P256), signature, MESSAGE)
    assert refused.value.code == "evidence:signature:algorithm"


@given(st.binary(max_size=300))
def test_any_value_ends_in_a_typed_error(value: bytes) -> None:
    """Whatever stands in the place of a signature."""
    number = int.from_bytes(value, "big")
    for key, signature in (
        (RSA, Signature(Alg.RSASSA, Alg.SHA256, value)),
        (RSA, Signature(Alg.RSAPSS, Alg.SHA256, value)),
        (P256, Signature(Alg.ECDSA, Alg.SHA256, (number, number))),
    ):
        with pytest.raises(SignatureError) as refused:
            verify_signature(public(key), signature, MESSAGE)
        assert refused.value.code == "evidence:signature:invalid"


# --- prepared first, run later -------------------------------------------------------


@kinds
def test_a_check_that_was_not_run_has_not_passed(key: PrivateKey, scheme: Alg, hash_: Alg) -> None:
    """Whoever forgets to run it gets nothing for it."""
    signature = sign(key, MESSAGE, scheme=scheme, hash_=hash_)
    check = prepare(public(key, scheme, hash_), signature.encode(), MESSAGE)
    with pytest.raises(SignatureError) as refused:
        check.require_passed()
    assert refused.value.code == "evidence:signature:invalid"
    run((check,))
    check.require_passed()


def test_of_many_checks_each_passes_or_fails_for_itself() -> None:
    """A bad one among good ones, of every kind."""
    cases = [
        (public(key, scheme, hash_), sign(key, MESSAGE, scheme=scheme, hash_=hash_))
        for key, scheme, hash_ in KINDS.values()
    ]
    for bad in range(len(cases)):
        checks = [
            prepare(key, signature, b"another" if place == bad else MESSAGE)
            for place, (key, signature) in enumerate(cases)
        ]
        run(checks)
        assert [check.passed for check in checks] == [place != bad for place in range(len(cases))]


@given(
    r=st.integers(1, P256_ORDER - 1) | st.integers(1, 300),
    s=st.integers(1, P256_ORDER - 1) | st.integers(1, 300),
    padding_of_r=st.integers(0, 40),
    padding_of_s=st.integers(0, 40),
)
def test_numbers_are_taken_however_many_zeros_a_tpm_writes_before_them(
    r: int, s: int, padding_of_r: int, padding_of_s: int
) -> None:
    """What OpenSSL is given is the one DER encoding of the numbers."""
    sizes = (r.bit_length() + 7) // 8 + padding_of_r, (s.bit_length() + 7) // 8 + padding_of_s
    signature = Signature(Alg.ECDSA, Alg.SHA256, (r, s), sizes)
    for form in (signature, signature.encode()):
        check = prepare(public(P256), form, MESSAGE)
        assert check.arguments[0] == encode_dss_signature(r, s)


@pytest.mark.parametrize("number", [0, P256_ORDER, P256_ORDER + 1, 2**256 - 1, 2**256, 2**300])
def test_a_number_out_of_range_is_refused_before_openssl_sees_it(number: int) -> None:
    """As a number and as a TPM writes it, with zeros before it and without."""
    for value in ((number, 1), (1, number)):
        for size in (40, 60):
            signature = Signature(Alg.ECDSA, Alg.SHA256, value, (size, size))
            for form in (signature, signature.encode()):
                with pytest.raises(SignatureError) as refused:
                    prepare(public(P256), form, MESSAGE)
                assert refused.value.code == "evidence:signature:invalid"
