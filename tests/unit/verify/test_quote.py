"""Quotes: authentic means made by this key, for this challenge, over these PCRs, with these values.

Quotes are made by a software TPM with real signatures, so that each check can be
reached: an attacker of the format cannot sign, but a TPM, or a thief of its key,
can sign anything that is tried here.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from hwtrust.errors import (
    AttestTypeError,
    EmptyNonceError,
    HwTrustError,
    MalformedError,
    NotAttestedError,
    PcrDigestError,
    SelectionError,
    SignatureAlgorithmError,
    SignatureError,
    SignerError,
    StaleQuoteError,
    UnextendedBankError,
    UnsupportedError,
    WeakBankError,
)
from hwtrust.verify.attestation import PLATFORM, VERIFIED, Unsafe
from hwtrust.verify.quote import (
    ENDORSEMENT,
    OWNER,
    QuoteClaims,
    pcr_digest,
    qualified_name,
    qualified_name_under,
    require_extended,
    verify_quote,
)
from hwtrust.wire.algorithms import Alg, Curve, digest_size, new_hash
from hwtrust.wire.structures import Attest, ClockInfo, PcrSelection, QuoteInfo, Signature
from simulators.software_tpm import Signed, SoftwareTpm

NONCE = bytes(range(32))
TPM = SoftwareTpm(seed=b"test_quote")
OTHER = SoftwareTpm(seed=b"another device")


def value(bank: Alg, number: int) -> bytes:
    """A value that no other PCR has."""
    return new_hash(bank, bytes([number]))


PCRS = {bank: {n: value(bank, n) for n in range(24)} for bank in (Alg.SHA1, Alg.SHA256, Alg.SHA384)}
SELECTION = PcrSelection.parse("sha256:0,1,7,10")
GOOD = TPM.quote(NONCE, PCRS, selection=SELECTION)


def verify(quote: Signed = GOOD, **changes: Any) -> QuoteClaims:  # noqa: ANN401 - any argument
    """Verify `quote` as the good one is, but for `changes`."""
    arguments: dict[str, Any] = {
        "key": TPM.ak,
        "nonce": NONCE,
        "selection": SELECTION,
        "pcrs": PCRS,
        "signer": TPM.ak_qualified_name,
    }
    return verify_quote(quote.message, quote.signature, **(arguments | changes))


def quote_of(selection: str) -> Signed:
    """A quote over other PCRs."""
    return TPM.quote(NONCE, PCRS, selection=PcrSelection.parse(selection))


def resigned(**changes: Any) -> Signed:  # noqa: ANN401 - any field
    """The good quote with other fields, signed again by the same key."""
    message = replace(Attest.decode(GOOD.message), **changes).encode()
    return Signed(message, TPM.sign(message).encode())


# --- what passes -------------------------------------------------------------------


def test_a_good_quote_gives_what_the_tpm_vouches_for() -> None:
    """All of it, from signed bytes, and the values of no other PCR."""
    claims = verify()
    assert claims.nonce == NONCE
    assert claims.qualified_signer == TPM.ak_qualified_name
    assert claims.clock == TPM.clock
    assert claims.firmware_version == TPM.firmware_version
    assert claims.selection == SELECTION
    assert claims.pcrs == {Alg.SHA256: {n: value(Alg.SHA256, n) for n in (0, 1, 7, 10)}}


AKS = {
    "P-256": SoftwareTpm(seed=b"a"),
    "P-384": SoftwareTpm(
        ak_key=ec.generate_private_key(ec.SECP384R1()), scheme=Alg.ECDSA, hash_=Alg.SHA384
    ),
    "RSASSA": SoftwareTpm(
        ak_key=rsa.generate_private_key(65537, 2048), scheme=Alg.RSASSA, hash_=Alg.SHA256
    ),
    "RSAPSS": SoftwareTpm(
        ak_key=rsa.generate_private_key(65537, 2048), scheme=Alg.RSAPSS, hash_=Alg.SHA512
    ),
}


@pytest.mark.parametrize("tpm", AKS.values(), ids=AKS)
def test_a_quote_by_each_kind_of_key_verifies(tpm: SoftwareTpm) -> None:
    """The hash of the signature is also that of the pcrDigest."""
    quote = tpm.quote(NONCE, PCRS, selection=SELECTION)
    for key in (tpm.ak, tpm.ak.key()):
        assert verify(quote, key=key, signer=tpm.ak_qualified_name).selection == SELECTION
    decoded = Signature.decode(quote.signature)
    signed = verify_quote(
        quote.message,
        decoded,
        key=tpm.ak,
        nonce=NONCE,
        selection=SELECTION,
        pcrs=PCRS,
        signer=tpm.ak_qualified_name,
    )
    assert signed.nonce == NONCE


def test_clock_and_counts_are_those_of_the_tpm_now() -> None:
    """Nothing of an earlier quote is remembered."""
    tpm = SoftwareTpm(seed=b"clock")
    tpm.advance(5_000)
    tpm.reset()
    quote = tpm.quote(NONCE, PCRS, selection=SELECTION)
    claims = verify(quote, key=tpm.ak, signer=tpm.ak_qualified_name)
    assert claims.clock == ClockInfo(6_000, 2, 0, safe=True)


@pytest.mark.parametrize("text", ["sha256:all", "sha256:0+sha384:1", "sha1:0,1+sha256:all"])
def test_any_selection_that_is_asked_for_verifies(text: str) -> None:
    """Banks in any order, any number of PCRs."""
    claims = verify(quote_of(text), selection=PcrSelection.parse(text))
    assert str(claims.selection) == text


# --- format ------------------------------------------------------------------------


@pytest.mark.parametrize("magic", [b"\xffTCH", b"\x00\xc4TC", b"\xfeTCG"])
def test_a_message_without_the_tpms_magic_is_refused_although_the_key_signed_it(
    magic: bytes,
) -> None:
    """Adversary 1: an unrestricted key signs whatever local software composes."""
    message = magic + GOOD.message[4:]
    with pytest.raises(NotAttestedError) as refused:
        verify(Signed(message, TPM.sign(message).encode()))
    assert refused.value.code == "evidence:magic:mismatch"


def test_another_attestation_is_no_quote() -> None:
    """Adversary 2: a certified object, an index, and a type that is not believed at all."""
    others = [
        TPM.certify(TPM.storage, NONCE),
        TPM.attest(NONCE, Attest.decode(TPM.certify(TPM.tls, NONCE).message).attested),
    ]
    time = GOOD.message[:4] + b"\x80\x19" + GOOD.message[6:]
    others.append(Signed(time, TPM.sign(time).encode()))
    for other in others:
        with pytest.raises(AttestTypeError) as refused:
            verify(other)
        assert refused.value.code == "evidence:type:mismatch"


def test_a_quote_cut_at_every_byte_is_refused_although_the_key_signed_it() -> None:
    """Adversary 3: message and signature alike."""
    for length in range(len(GOOD.message)):
        message = GOOD.message[:length]
        with pytest.raises(MalformedError) as refused:
            verify(Signed(message, TPM.sign(message).encode()))
        assert refused.value.code == "wire:malformed"
    for length in range(len(GOOD.signature)):
        with pytest.raises(MalformedError) as refused:
            verify(Signed(GOOD.message, GOOD.signature[:length]))
        assert refused.value.code == "wire:malformed"


def test_trailing_bytes_are_refused_although_the_key_signed_them() -> None:
    """Adversary 4: message and signature alike."""
    message = GOOD.message + b"\0"
    for quote in (
        Signed(message, TPM.sign(message).encode()),
        Signed(GOOD.message, GOOD.signature + b"\0"),
    ):
        with pytest.raises(MalformedError) as refused:
            verify(quote)
        assert refused.value.code == "wire:malformed"


SELECTION_AT = len(GOOD.message) - 2 - 32 - 10


@pytest.mark.parametrize(
    ("what", "raw"),
    {
        "adversary 5: a huge size": GOOD.message[:6] + b"\xff\xff" + GOOD.message[8:],
        "adversary 6: a bank twice": GOOD.message[:SELECTION_AT]
        + bytes.fromhex("00000002 000b03010000 000b03020000")
        + GOOD.message[SELECTION_AT + 10 :],
        "adversary 7: an oversized bitmap": GOOD.message[:SELECTION_AT]
        + bytes.fromhex("00000001 000b050100000000")
        + GOOD.message[SELECTION_AT + 10 :],
    }.items(),
)
def test_a_malformed_quote_is_refused_although_the_key_signed_it(what: str, raw: bytes) -> None:
    """Lines 5 to 7 of the adversaries."""
    with pytest.raises(MalformedError) as refused:
        verify(Signed(raw, TPM.sign(raw).encode()), selection=Unsafe.ANY_SELECTION)
    assert refused.value.code == "wire:malformed", what


def test_every_bit_of_a_good_quote_counts() -> None:
    """Adversary 13: each bit of each byte flipped, one at a time; none is let through."""
    codes = set()
    for at in range(len(GOOD.message)):
        for bit in range(8):
            damaged = bytearray(GOOD.message)
            damaged[at] ^= 1 << bit
            with pytest.raises(HwTrustError) as refused:
                verify(Signed(bytes(damaged), GOOD.signature), selection=Unsafe.ANY_SELECTION)
            codes.add(refused.value.code)
    assert codes == {
        "evidence:magic:mismatch",
        "evidence:signature:invalid",
        "evidence:type:mismatch",
        "wire:malformed",
        "wire:unsupported",
    }


def test_every_bit_of_a_good_quotes_signature_counts() -> None:
    """Adversary 13: the algorithms in front of it too."""
    codes = set()
    for at in range(len(GOOD.signature)):
        for bit in range(8):
            damaged = bytearray(GOOD.signature)
            damaged[at] ^= 1 << bit
            with pytest.raises(HwTrustError) as refused:
                verify(Signed(GOOD.message, bytes(damaged)))
            codes.add(refused.value.code)
    assert codes == {
        "evidence:signature:algorithm",
        "evidence:signature:invalid",
        "wire:malformed",
        "wire:unsupported",
    }


@given(st.data())
def test_damage_ends_in_a_typed_error(data: st.DataObject) -> None:
    """Whatever is done to message and signature, nothing from outside the tree comes out."""
    message, signature = bytearray(GOOD.message), bytearray(GOOD.signature)
    for raw in (message, signature):
        for at in data.draw(st.lists(st.integers(0, len(raw) - 1), max_size=4)):
            raw[at] = data.draw(st.integers(0, 255))
    if (bytes(message), bytes(signature)) == (GOOD.message, GOOD.signature):
        return
    with pytest.raises(HwTrustError):
        verify(Signed(bytes(message), bytes(signature)))


# --- key and signer ----------------------------------------------------------------


def test_a_quote_by_another_key_is_refused() -> None:
    """Also when it names the right signer."""
    forged = OTHER.attest(NONCE, Attest.decode(GOOD.message).attested, signer=TPM.ak_qualified_name)
    with pytest.raises(SignatureError) as refused:
        verify(forged)
    assert refused.value.code == "evidence:signature:invalid"


def test_the_signature_of_another_quote_is_refused() -> None:
    """Both are good, but not for each other."""
    other = TPM.quote(bytes(32), PCRS, selection=SELECTION)
    with pytest.raises(SignatureError) as refused:
        verify(Signed(GOOD.message, other.signature))
    assert refused.value.code == "evidence:signature:invalid"


def test_a_quote_over_sha1_is_refused_unless_it_is_spelled_out() -> None:
    """A signature over SHA-1 proves nothing."""
    tpm = SoftwareTpm(seed=b"sha1", hash_=Alg.SHA1)
    quote = tpm.quote(NONCE, PCRS, selection=SELECTION)
    arguments = {"key": tpm.ak, "signer": tpm.ak_qualified_name}
    assert verify(quote, **arguments, unsafe_allow_sha1=True).selection == SELECTION
    with pytest.raises(SignatureAlgorithmError) as refused:
        verify(quote, **arguments)
    assert refused.value.code == "evidence:signature:algorithm"


WRONG_SIGNERS = {
    "another device's": OTHER.ak_qualified_name,
    "the same key in another hierarchy": qualified_name(TPM.ak.name, hierarchy=OWNER),
    "the same key with other attributes": qualified_name(
        replace(TPM.ak, attributes=TPM.tls.attributes).name, hierarchy=ENDORSEMENT
    ),
    "the key's Name, unqualified": TPM.ak.name,
    "a part of it": TPM.ak_qualified_name[:-1],
    "nothing": b"",
}


@pytest.mark.parametrize("signer", WRONG_SIGNERS.values(), ids=WRONG_SIGNERS)
def test_a_quote_with_another_signer_is_refused(signer: bytes) -> None:
    """Adversary 32: the expected one differs, or the quoted one does."""
    with pytest.raises(SignerError) as refused:
        verify(signer=signer)
    assert refused.value.code == "evidence:signer:mismatch"
    if signer:
        with pytest.raises(SignerError) as refused:
            verify(resigned(qualified_signer=signer))
        assert refused.value.code == "evidence:signer:mismatch"


def test_a_quote_without_signer_is_not_that_of_an_unknown_signer() -> None:
    """Adversary 32: two empty names are not a match."""
    with pytest.raises(SignerError) as refused:
        verify(resigned(qualified_signer=b""), signer=b"")
    assert refused.value.code == "evidence:signer:mismatch"


def test_going_without_the_signer_is_spelled_out() -> None:
    """A bare key has no Name to expect."""
    claims = verify(resigned(qualified_signer=b"\0\x0b"), signer=Unsafe.ANY_SIGNER)
    assert claims.qualified_signer == b"\0\x0b"


def test_a_qualified_name_holds_the_path_from_the_hierarchy() -> None:
    """TPM 2.0 Part 1 §16: QN = nameAlg || H(QN of the parent || Name)."""
    name = TPM.ak.name
    expected = b"\0\x0b" + new_hash(Alg.SHA256, bytes.fromhex("4000000b") + name)
    assert qualified_name(name, hierarchy=ENDORSEMENT) == expected
    ek = qualified_name(TPM.ek.name, hierarchy=ENDORSEMENT)
    child = qualified_name_under(name, parent=ek)
    assert child == b"\0\x0b" + new_hash(Alg.SHA256, ek + name)
    paths = {child, expected, *(qualified_name(name, hierarchy=h) for h in (OWNER, PLATFORM))}
    assert len(paths) == 4


@pytest.mark.parametrize("name", [b"", b"\0", b"\0\x0b", TPM.ak.name + b"\0", TPM.ak.name[:-1]])
def test_what_is_no_name_has_no_qualified_name(name: bytes) -> None:
    """A handle, for one, is not hashed as if it were a Name."""
    with pytest.raises(MalformedError) as refused:
        qualified_name(name, hierarchy=OWNER)
    assert refused.value.code == "wire:malformed"


def test_a_name_with_an_unknown_hash_has_no_qualified_name() -> None:
    """TPM_ALG_NULL in front of nothing."""
    with pytest.raises(UnsupportedError) as refused:
        qualified_name(b"\0\x10", hierarchy=OWNER)
    assert refused.value.code == "wire:unsupported"


# --- nonce -------------------------------------------------------------------------


WRONG_NONCES = {
    "another one": bytes(32),
    "its hex": NONCE.hex().encode(),
    "a part of it": NONCE[:-1],
    "more than it": NONCE + b"\0",
    "one bit off": bytes([NONCE[0] ^ 1]) + NONCE[1:],
}


@pytest.mark.parametrize("nonce", WRONG_NONCES.values(), ids=WRONG_NONCES)
def test_a_quote_for_another_nonce_is_refused(nonce: bytes) -> None:
    """Bytes are compared, all of them."""
    with pytest.raises(StaleQuoteError) as refused:
        verify(nonce=nonce)
    assert refused.value.code == "evidence:nonce:mismatch"


def test_an_empty_nonce_is_refused_although_the_quote_has_none_either() -> None:
    """Adversary 17: two empty nonces are not a match."""
    for quote in (GOOD, TPM.quote(b"", PCRS, selection=SELECTION)):
        with pytest.raises(EmptyNonceError) as refused:
            verify(quote, nonce=b"")
        assert refused.value.code == "evidence:nonce:empty"


def test_going_without_the_nonce_is_spelled_out() -> None:
    """The quote's own is in the claims, to be looked at."""
    assert verify(nonce=Unsafe.NO_NONCE).nonce == NONCE


# --- selection ---------------------------------------------------------------------


OTHER_SELECTIONS = {
    "adversary 21: PCR 16 for PCR 10": "sha256:0,1,7,16",
    "adversary 23: a subset": "sha256:0,1,7",
    "adversary 24: a superset": "sha256:0,1,7,8,10",
    "adversary 24: a second bank": "sha256:0,1,7,10+sha384:0",
    "adversary 25: another bank": "sha384:0,1,7,10",
    "adversary 25: the SHA-1 bank": "sha1:0,1,7,10",
    "another bank that selects nothing": "sha384:none+sha256:0,1,7,10",
}


@pytest.mark.parametrize("text", OTHER_SELECTIONS.values(), ids=OTHER_SELECTIONS)
def test_a_quote_over_other_pcrs_is_refused(text: str) -> None:
    """Lines 21 and 23 to 25: exactly what was asked for, although the values are all there."""
    with pytest.raises(SelectionError) as refused:
        verify(quote_of(text))
    assert refused.value.code == "evidence:selection:mismatch"
    assert refused.value.data == {"expected": str(SELECTION), "found": text}


def test_two_banks_swapped_are_refused() -> None:
    """Adversary 28: the order of the banks is the order in which values were hashed."""
    with pytest.raises(SelectionError) as refused:
        verify(quote_of("sha384:0+sha256:0"), selection=PcrSelection.parse("sha256:0+sha384:0"))
    assert refused.value.code == "evidence:selection:mismatch"


@pytest.mark.parametrize("selection", [PcrSelection(()), PcrSelection.parse("sha256:none")])
def test_an_empty_selection_is_refused_always(selection: PcrSelection) -> None:
    """Adversary 22: also where it is expected, and where anything goes."""
    quote = TPM.quote(NONCE, PCRS, selection=selection)
    for expected in (SELECTION, selection, Unsafe.ANY_SELECTION):
        with pytest.raises(SelectionError) as refused:
            verify(quote, selection=expected)
        assert refused.value.code == "evidence:selection:mismatch"


def test_labels_beside_the_quote_do_not_say_which_pcr_it_is() -> None:
    """Adversary 21: PCR 16 is quoted, its value offered as that of PCR 10."""
    labelled = {Alg.SHA256: {10: value(Alg.SHA256, 16)}}
    quote = quote_of("sha256:16")
    with pytest.raises(PcrDigestError) as refused:
        verify(quote, selection=Unsafe.ANY_SELECTION, pcrs=labelled)
    assert refused.value.code == "evidence:pcrs:mismatch"
    with pytest.raises(SelectionError) as refused_selection:
        verify(quote, selection=PcrSelection.parse("sha256:10"), pcrs=labelled)
    assert refused_selection.value.code == "evidence:selection:mismatch"


def test_going_without_the_selection_is_spelled_out() -> None:
    """What was quoted is in the claims, to be looked at."""
    claims = verify(quote_of("sha256:16"), selection=Unsafe.ANY_SELECTION)
    assert claims.pcrs == {Alg.SHA256: {16: value(Alg.SHA256, 16)}}


def test_a_wider_bitmap_is_the_same_selection() -> None:
    """A TPM with 32 PCRs may answer with 4 bytes."""
    wide = PcrSelection(SELECTION.banks, widths=(4,))
    assert verify(TPM.quote(NONCE, PCRS, selection=wide)).selection == SELECTION


@pytest.mark.parametrize("text", ["sha1:all", "sha1:0,1,7+sha256:0,1", "sha256:0+sha1:0,1"])
def test_a_pcr_in_the_sha1_bank_alone_is_refused_unless_spelled_out(text: str) -> None:
    """SHA-1 banks are extended, never trusted."""
    quote, selection = quote_of(text), PcrSelection.parse(text)
    assert verify(quote, selection=selection, unsafe_allow_sha1=True).selection == selection
    with pytest.raises(WeakBankError) as refused:
        verify(quote, selection=selection)
    assert refused.value.code == "evidence:bank:weak"


# --- values ------------------------------------------------------------------------


def changed(bank: Alg, values: Mapping[int, bytes]) -> dict[Alg, Mapping[int, bytes]]:
    """The good values with some others."""
    return {**PCRS, bank: {**PCRS[bank], **values}}


def good(number: int) -> bytes:
    """The right value in the SHA-256 bank."""
    return value(Alg.SHA256, number)


WRONG_VALUES = {
    "one bit off": {7: bytes([good(7)[0] ^ 1]) + good(7)[1:]},
    "another PCR's": {7: good(8)},
    "adversary 27: two values swapped": {0: good(1), 1: good(0)},
    "adversary 27: all in reverse": {0: good(10), 1: good(7), 7: good(1), 10: good(0)},
    "a byte wandered to the next": {0: good(0)[:-1], 1: good(0)[-1:] + good(1)},
    "all of one in the next": {0: b"", 1: good(0) + good(1)},
    "a value of another bank": {7: value(Alg.SHA384, 7)},
}


@pytest.mark.parametrize("values", WRONG_VALUES.values(), ids=WRONG_VALUES)
def test_other_values_than_the_signed_ones_are_refused(values: dict[int, bytes]) -> None:
    """Also those that give the same bytes in a row."""
    with pytest.raises(PcrDigestError) as refused:
        verify(pcrs=changed(Alg.SHA256, values))
    assert refused.value.code == "evidence:pcrs:mismatch"


@pytest.mark.parametrize("number", [0, 1, 7, 10])
def test_a_missing_value_is_refused(number: int) -> None:
    """No value is taken for zero."""
    values = {n: v for n, v in PCRS[Alg.SHA256].items() if n != number}
    with pytest.raises(PcrDigestError) as refused:
        verify(pcrs={Alg.SHA256: values})
    assert refused.value.data == {"bank": "sha256", "pcr": number}
    assert refused.value.code == "evidence:pcrs:mismatch"


def test_a_missing_bank_is_refused() -> None:
    """The values of another bank do not stand in."""
    with pytest.raises(PcrDigestError) as refused:
        verify(pcrs={Alg.SHA384: PCRS[Alg.SHA384]})
    assert refused.value.code == "evidence:pcrs:mismatch"


def test_the_values_of_two_swapped_banks_are_refused() -> None:
    """Adversary 28: labels of banks beside the quote do not count."""
    text = "sha256:0+sha512:0"
    pcrs = {bank: {0: new_hash(bank, b"0")} for bank in (Alg.SHA256, Alg.SHA512)}
    quote = TPM.quote(NONCE, pcrs, selection=PcrSelection.parse(text))
    swapped = {Alg.SHA256: pcrs[Alg.SHA512], Alg.SHA512: pcrs[Alg.SHA256]}
    assert verify(quote, selection=PcrSelection.parse(text), pcrs=pcrs).pcrs == pcrs
    with pytest.raises(PcrDigestError) as refused:
        verify(quote, selection=PcrSelection.parse(text), pcrs=swapped)
    assert refused.value.code == "evidence:pcrs:mismatch"


@pytest.mark.parametrize("digest", [b"", bytes(32), bytes(20), bytes(64)])
def test_another_digest_than_that_of_the_values_is_refused(digest: bytes) -> None:
    """An empty or cut digest matches nothing."""
    quote = resigned(attested=QuoteInfo(SELECTION, digest))
    with pytest.raises(PcrDigestError) as refused:
        verify(quote)
    assert refused.value.code == "evidence:pcrs:mismatch"


def test_the_order_in_which_values_are_passed_does_not_count() -> None:
    """It is the signed selection that orders them."""
    backwards = {Alg.SHA256: dict(reversed(PCRS[Alg.SHA256].items()))}
    assert verify(pcrs=backwards).pcrs == verify().pcrs


@given(st.lists(st.sampled_from([Alg.SHA256, Alg.SHA384, Alg.SHA512]), unique=True, min_size=1))
def test_a_digest_is_that_of_the_values_in_signed_order(order: list[Alg]) -> None:
    """TPM 2.0 Part 1 §17.6: bank by bank, ascending within a bank."""
    pcrs = {bank: {n: bytes([n]) * digest_size(bank) for n in (3, 1)} for bank in order}
    row = b"".join(bytes([n]) * digest_size(bank) for bank in order for n in (1, 3))
    selection = PcrSelection(tuple((bank, (1, 3)) for bank in order))
    assert pcr_digest(pcrs, selection, Alg.SHA384) == new_hash(Alg.SHA384, row)


# --- banks that nobody extended -----------------------------------------------------


ZERO, ONES = bytes(32), b"\xff" * 32

UNEXTENDED = {
    "all zero": dict.fromkeys(range(24), ZERO),
    "as after a reset": {n: ONES if 17 <= n <= 22 else ZERO for n in range(24)},
    "PCR 0 with the locality of the start": {0: bytes(31) + b"\3", 1: ZERO},
    "only others than the firmware's were extended": {0: ZERO, 7: ZERO, 10: good(10)},
    "none of the firmware's is quoted": {10: ZERO, 16: ZERO},
}


@pytest.mark.parametrize("values", UNEXTENDED.values(), ids=UNEXTENDED)
def test_a_bank_that_was_never_extended_is_refused(values: dict[int, bytes]) -> None:
    """Adversary 26: authentic, but any program can bring it to any value."""
    pcrs = {Alg.SHA256: values}
    claims = verify(TPM.quote(NONCE, pcrs), selection=Unsafe.ANY_SELECTION, pcrs=pcrs)
    with pytest.raises(UnextendedBankError) as refused:
        require_extended(claims, bank=Alg.SHA256)
    assert refused.value.code == "evidence:bank:unextended"


EXTENDED = {
    "one of the firmware's": {0: ZERO, 7: good(7)},
    "PCR 0, with nearly the value of a reset": {0: bytes(31) + b"\5"},
    "PCR 1, with what would be a locality in PCR 0": {1: bytes(31) + b"\3"},
    "the application's alone": {10: good(10), 16: ZERO},
}


@pytest.mark.parametrize("values", EXTENDED.values(), ids=EXTENDED)
def test_a_bank_that_was_extended_passes(values: dict[int, bytes]) -> None:
    """One measurement by the firmware is enough to tell."""
    pcrs = {Alg.SHA256: values}
    claims = verify(TPM.quote(NONCE, pcrs), selection=Unsafe.ANY_SELECTION, pcrs=pcrs)
    require_extended(claims, bank=Alg.SHA256)


def test_a_bank_that_is_not_quoted_counts_as_never_extended() -> None:
    """Adversary 26: no values prove nothing."""
    with pytest.raises(UnextendedBankError) as refused:
        require_extended(verify(), bank=Alg.SHA384)
    assert refused.value.code == "evidence:bank:unextended"


# --- claims ------------------------------------------------------------------------


def test_only_the_verifier_makes_claims() -> None:
    """Who holds claims holds proof that they were verified."""
    claims = verify()
    fields = {
        "nonce": claims.nonce,
        "qualified_signer": claims.qualified_signer,
        "clock": claims.clock,
        "firmware_version": claims.firmware_version,
        "selection": claims.selection,
        "pcrs": claims.pcrs,
    }
    for verified in (None, True, object()):
        with pytest.raises(TypeError):
            QuoteClaims(**fields, verified=verified)
    with pytest.raises((TypeError, ValueError)):
        replace(claims, nonce=b"")  # type: ignore[call-arg]
    assert QuoteClaims(**fields, verified=VERIFIED) == claims


def test_claims_cannot_be_changed() -> None:
    """Neither a field, nor a value inside, nor by what was passed in."""
    pcrs = copy.deepcopy({Alg.SHA256: dict(PCRS[Alg.SHA256])})
    claims = verify(pcrs=pcrs)
    with pytest.raises(AttributeError):
        claims.nonce = b""  # type: ignore[misc]
    with pytest.raises(TypeError):
        claims.pcrs[Alg.SHA256][0] = ZERO  # type: ignore[index]
    pcrs[Alg.SHA256][0] = ZERO
    assert claims.pcrs[Alg.SHA256][0] == good(0)


def test_a_derived_key_is_the_same_in_every_run() -> None:
    """The software TPM of a seed is one device."""
    again = SoftwareTpm(seed=b"test_quote")
    assert again.ak == TPM.ak
    assert again.derive("x", Curve.P384).curve.name == "secp384r1"
