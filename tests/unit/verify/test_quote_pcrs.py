"""Quotes: exactly the PCRs that were asked for, with exactly the values that were signed."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwtrust.errors import (
    PcrDigestError,
    SelectionError,
    UnextendedBankError,
    WeakBankError,
)
from hwtrust.verify.attestation import Unsafe
from hwtrust.verify.quote import (
    pcr_digest,
    require_extended,
)
from hwtrust.wire.algorithms import Alg, digest_size, new_hash
from hwtrust.wire.structures import PcrSelection, QuoteInfo
from simulators.good_quote import (
    NONCE,
    PCRS,
    SELECTION,
    TPM,
    good,
    quote_of,
    resigned,
    value,
    verify,
)

# --- selection -----------------------------------------------------------------------


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


# --- values --------------------------------------------------------------------------


def changed(bank: Alg, values: Mapping[int, bytes]) -> dict[Alg, Mapping[int, bytes]]:
    """The good values with some others."""
    return {**PCRS, bank: {**PCRS[bank], **values}}


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


# --- banks that nobody extended ------------------------------------------------------


ZERO, ONES = bytes(32), b"\xff" * 32

UNEXTENDED = {
    "all zero": dict.fromkeys(range(24), ZERO),
    "as after a reset": {n: ONES if 17 <= n <= 22 else ZERO for n in range(24)},
    "PCR 0 with the locality of the start": {0: bytes(31) + b"\3", 1: ZERO},
    "PCR 0 with the highest locality": {0: bytes(31) + b"\4"},
    "a PCR of the dynamic launch, not launched": {17: ONES},
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
    "PCR 0, that only ends like a reset": {0: b"\1" + bytes(30) + b"\3"},
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
