"""TPMT_SIGNATURE: one value, one encoding."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from hypothesis import given
from hypothesis import strategies as st

from hwtrust.errors import HwTrustError, MalformedError, UnsupportedError
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.structures import Signature
from simulators.strategies import signatures

scalars = st.integers(1, 2**256 - 1)


@given(signatures())
def test_a_signature_is_decoded_as_it_was_encoded(signature: Signature) -> None:
    """Leading zeros included: TPMs differ in whether they write them."""
    raw = signature.encode()
    assert Signature.decode(raw) == signature
    assert Signature.decode(raw).encode() == raw


@given(scalars, scalars)
def test_a_der_signature_is_the_same_signature(r: int, s: int) -> None:
    """`tpm2_quote -f plain` loses nothing but the hash's name."""
    signature = Signature.from_der_ecdsa(encode_dss_signature(r, s), Alg.SHA256)
    assert signature == Signature(Alg.ECDSA, Alg.SHA256, (r, s))
    assert Signature.decode(signature.encode()) == signature


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ((1, 2), 32),
        ((1, 2**256 - 1), 32),
        ((1, 2**256), 48),
        ((2**384 - 1, 1), 48),
        ((2**384, 1), 66),
    ],
)
def test_numbers_are_written_in_the_size_of_the_smallest_curve_that_fits(
    value: tuple[int, int], size: int
) -> None:
    """A signature that came as DER is encoded as a TPM would."""
    assert len(Signature(Alg.ECDSA, Alg.SHA256, value).encode()) == 4 + 2 * (2 + size)


@pytest.mark.parametrize("raw", ["0001010002 0001", "0001010001 02", "0020" + "00" * 32 + "000102"])
def test_leading_zeros_come_back_as_they_were(raw: str) -> None:
    """TPMs differ in whether they write them."""
    signature = bytes.fromhex("0018000b" + raw)
    assert Signature.decode(signature).encode() == signature


def test_der_is_strict_whatever_the_backend_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adversary 8: what is read is encoded again and compared."""
    monkeypatch.setattr("hwtrust.wire.signatures.decode_dss_signature", lambda _: (1, 1))
    with pytest.raises(MalformedError) as refused:
        Signature.from_der_ecdsa(bytes.fromhex("300702020001020101"), Alg.SHA256)
    assert refused.value.code == "wire:malformed"


NOT_DER = {
    "a length in long form": "308106020101020101",
    "an indefinite length": "30800201010201010000",
    "a number with a needless zero": "300702020001020101",
    "a negative number": "30060201ff020101",
    "an empty number": "30050200020101",
    "a third number": "3009020101020101020101",
    "bytes behind it": "300602010102010100",
    "a set": "3106020101020101",
    "a bit string inside": "3006030101020101",
    "cut short": "30060201010201",
    "nothing": "",
}


@pytest.mark.parametrize("raw", NOT_DER.values(), ids=NOT_DER)
def test_a_signature_that_is_not_canonical_der_is_refused(raw: str) -> None:
    """Adversary 8: one signature has one DER form, and others are not read."""
    with pytest.raises(MalformedError) as refused:
        Signature.from_der_ecdsa(bytes.fromhex(raw), Alg.SHA256)
    assert refused.value.code == "wire:malformed"


def test_the_canonical_form_beside_them_is_accepted() -> None:
    """The cases above fail for what they say, not because nothing passes."""
    signature = Signature.from_der_ecdsa(bytes.fromhex("3006020101020101"), Alg.SHA256)
    assert signature.value == (1, 1)


@pytest.mark.parametrize(
    "signature",
    [
        Signature(Alg.ECDSA, Alg.SHA256, (2**255, 2**200)),
        Signature(Alg.RSASSA, Alg.SHA256, bytes(256)),
    ],
    ids=lambda signature: signature.alg.name,
)
def test_a_signature_cut_at_every_byte_or_followed_by_one_is_refused(signature: Signature) -> None:
    """Adversaries 3 and 4."""
    raw = signature.encode()
    for damaged in [*(raw[:length] for length in range(len(raw))), raw + b"\0"]:
        with pytest.raises(MalformedError) as refused:
            Signature.decode(damaged)
        assert refused.value.code == "wire:malformed"


@pytest.mark.parametrize(
    "raw",
    [
        "0010",
        "0005000b0000",
        "001a000b00000000",
        "001b000b00000000",
        "00170004",
        "7fff",
        "0018001000000000",
        "00187fff",
        "0014000100000000",
    ],
)
def test_an_algorithm_that_hwtrust_does_not_take_is_refused(raw: str) -> None:
    """NULL, HMAC, anonymous and foreign signatures; and hashes that are none."""
    with pytest.raises(UnsupportedError) as refused:
        Signature.decode(bytes.fromhex(raw))
    assert refused.value.code == "wire:unsupported"


@pytest.mark.parametrize("raw", ["0018000b0081" + "00" * 131, "0014000b0201" + "00" * 513])
def test_a_huge_field_is_refused_although_its_bytes_are_there(raw: str) -> None:
    """Adversary 5: no curve has numbers of 129 bytes, no key of ours 513."""
    with pytest.raises(MalformedError) as refused:
        Signature.decode(bytes.fromhex(raw))
    assert refused.value.code == "wire:malformed"


@pytest.mark.parametrize(
    ("alg", "value"),
    [(Alg.ECDSA, b""), (Alg.ECDSA, (-1, 1)), (Alg.RSASSA, (1, 1)), (Alg.RSAPSS, (1, 1))],
)
def test_a_value_of_another_algorithm_is_refused(alg: Alg, value: bytes | tuple[int, int]) -> None:
    """RSA signatures are bytes, ECDSA signatures numbers that are not negative."""
    with pytest.raises(MalformedError) as refused:
        Signature(alg, Alg.SHA256, value)
    assert refused.value.code == "wire:malformed"


@pytest.mark.parametrize("alg", [Alg.ECDH, Alg.HMAC, Alg.NULL])
def test_a_signature_of_what_signs_nothing_cannot_be_made(alg: Alg) -> None:
    """Not from a program, nor from bytes; and not over what is no hash."""
    for arguments in ((alg, Alg.SHA256), (Alg.ECDSA, alg)):
        with pytest.raises(UnsupportedError) as refused:
            Signature(*arguments, (1, 1))
        assert refused.value.code == "wire:unsupported"


def test_numbers_that_fit_no_curve_are_not_encoded() -> None:
    """No number is cut to size."""
    with pytest.raises(MalformedError) as refused:
        Signature(Alg.ECDSA, Alg.SHA256, (2**600, 1)).encode()
    assert refused.value.code == "wire:malformed"


def test_bare_rsa_bytes_are_taken_up_to_the_longest_key() -> None:
    """What is longer than an RSA-4096 signature is none."""
    assert Signature.from_raw_rsa(bytes(512), Alg.SHA256).alg is Alg.RSASSA
    with pytest.raises(MalformedError) as refused:
        Signature.from_raw_rsa(bytes(513), Alg.SHA256)
    assert refused.value.code == "wire:malformed"


@given(st.binary(max_size=100))
def test_any_bytes_end_in_a_signature_or_a_typed_error(noise: bytes) -> None:
    """Neither form lets an exception from outside the tree through."""
    for start in (b"", b"\x00\x18\x00\x0b", b"\x00\x14\x00\x0b"):
        try:
            assert Signature.decode(start + noise).encode() == start + noise
        except HwTrustError:
            continue
    try:
        Signature.from_der_ecdsa(noise, Alg.SHA256)
    except HwTrustError:
        return
