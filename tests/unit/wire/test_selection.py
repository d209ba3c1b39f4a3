"""PCR selections: the order of banks is kept, and nothing is selected twice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwtrust.errors import HwTrustError, MalformedError, UnsupportedError
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.codec import Reader
from hwtrust.wire.selection import LONGEST_KEPT
from hwtrust.wire.structures import PcrSelection
from simulators.strategies import selections


def decode(raw: bytes) -> PcrSelection:
    """The selection in `raw` and nothing else."""
    reader = Reader(raw, "TPML_PCR_SELECTION")
    selection = PcrSelection.decode(reader)
    reader.end()
    return selection


@given(selections())
def test_a_selection_is_decoded_as_it_was_encoded(selection: PcrSelection) -> None:
    """Banks, order, numbers, and the width of each bitmap come back."""
    decoded = decode(selection.encode())
    assert decoded == selection
    assert decoded.encode() == selection.encode()


@given(selections().filter(lambda selection: selection.banks))
def test_a_selection_is_parsed_as_it_is_spelled(selection: PcrSelection) -> None:
    """What a person reads in an error can be passed to an option."""
    assert PcrSelection.parse(str(selection)) == selection


def test_bitmaps_are_those_of_tpm2_tools() -> None:
    """Bit 0 of byte 0 is PCR 0; 3 bytes a bank."""
    selection = PcrSelection.parse("sha256:0,9,23+sha1:none")
    assert selection.encode() == bytes.fromhex("00000002 000b03010280 000403000000")
    assert str(selection) == "sha256:0,9,23+sha1:none"


def test_numbers_above_23_widen_the_bitmap() -> None:
    """A TPM with 32 PCRs can be asked for all of them, and one with 24 as it is used to."""
    assert PcrSelection(((Alg.SHA256, (23,)),)).widths == (3,)
    assert PcrSelection(((Alg.SHA256, (24,)),)).widths == (4,)
    assert PcrSelection(((Alg.SHA256, (31,)),)).encode() == bytes.fromhex("00000001 000b0400000080")


def test_all_means_the_24_pcrs_of_a_pc() -> None:
    """`all` is what tpm2-tools take it for."""
    assert PcrSelection.parse("sha256:all") == PcrSelection(((Alg.SHA256, tuple(range(24))),))
    assert str(PcrSelection.parse("sha256:all")) == "sha256:all"


def test_the_order_of_numbers_does_not_count_when_parsed_and_that_of_banks_does() -> None:
    """A bitmap has no order; a list of banks has."""
    assert PcrSelection.parse("sha256:7,0") == PcrSelection.parse("sha256: 0, 7")
    assert PcrSelection.parse("sha1:0+sha256:0") != PcrSelection.parse("sha256:0+sha1:0")


def test_an_empty_selection_says_so() -> None:
    """Banks without numbers select nothing."""
    assert PcrSelection.parse("sha256:none").is_empty
    assert PcrSelection(()).is_empty
    assert not PcrSelection.parse("sha1:none+sha256:0").is_empty


def test_a_width_says_nothing_about_what_is_selected() -> None:
    """The same PCRs in a wider bitmap are the same selection."""
    wide = decode(bytes.fromhex("00000001 000b0401000000"))
    assert wide == PcrSelection.parse("sha256:0")
    assert wide.encode() == bytes.fromhex("00000001 000b0401000000")


MALFORMED = {
    "adversary 6: a bank twice": "00000002 000b03010000 000b03020000",
    "adversary 6: a bank twice, once empty": "00000002 000b03010000 000b03000000",
    "adversary 7: a bitmap of 5 bytes": "00000001 000b050100000000",
    "adversary 7: a bitmap of 255 bytes": "00000001 000bff" + "00" * 255,
    "a bitmap of no bytes": "00000001 000b00",
    "17 banks": "00000011" + "000b03010000" * 17,
    "4 billion banks": "ffffffff 000b03010000",
    "a bank less than announced": "00000002 000b03010000",
    "adversary 4: a byte too many": "00000001 000b03010000 00",
    "a bitmap cut short": "00000001 000b030100",
}


@pytest.mark.parametrize("raw", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_selection_is_refused(raw: str) -> None:
    """Lines 4, 6 and 7 of the adversaries, and their neighbours."""
    with pytest.raises(MalformedError) as refused:
        decode(bytes.fromhex(raw))
    assert refused.value.code == "wire:malformed"


def test_too_many_banks_are_refused_before_any_is_read() -> None:
    """Adversary 5: a count buys no work."""
    reader = Reader(bytes.fromhex("00000011" + "000b03010000" * 17), "TPML_PCR_SELECTION")
    with pytest.raises(MalformedError) as refused:
        PcrSelection.decode(reader)
    assert refused.value.code == "wire:malformed"
    assert reader.remaining == 6 * 17


@pytest.mark.parametrize("bank", ["0006", "0010", "7fff"])
def test_a_bank_that_is_no_hash_is_refused(bank: str) -> None:
    """No PCR bank is made of AES."""
    with pytest.raises(UnsupportedError) as refused:
        decode(bytes.fromhex("00000001" + bank + "03010000"))
    assert refused.value.code == "wire:unsupported"


NO_SELECTIONS = [
    "",
    "sha256",
    "sha256:",
    "sha256:0,",
    "sha256:0;1",
    "sha256:-1",
    "sha256:32",
    "sha256:999",
    "sha256:0,0",
    "sha256:0x1",
    "sha256:+1",
    "sha256:" + "9" * 5000,
    "sha256:\u0661",
    "sha256:0++sha1:0",
    "sha256:0+sha256:1",
    "md5:0",
    "sha256:0" + "".join(f"+sha256:{number}" for number in range(20)),
]


@pytest.mark.parametrize("text", NO_SELECTIONS)
def test_what_is_no_selection_is_not_parsed(text: str) -> None:
    """No spelling is guessed at."""
    with pytest.raises((MalformedError, UnsupportedError)):
        PcrSelection.parse(text)


@pytest.mark.parametrize(
    ("banks", "widths"),
    [
        (((Alg.SHA256, (1, 0)),), ()),
        (((Alg.SHA256, (1, 1)),), ()),
        (((Alg.SHA256, (-1, 1)),), ()),
        (((Alg.SHA256, (32,)),), ()),
        (((Alg.SHA256, (8,)),), (1,)),
        (((Alg.SHA256, (8,)),), (5,)),
        (((Alg.SHA256, (8,)),), (3, 3)),
        (((Alg.SHA256, (0,)), (Alg.SHA256, (1,))), ()),
    ],
)
def test_a_selection_that_cannot_be_encoded_cannot_be_made(
    banks: tuple[tuple[Alg, tuple[int, ...]], ...], widths: tuple[int, ...]
) -> None:
    """Programs are held to the same rules as bytes."""
    with pytest.raises(MalformedError) as refused:
        PcrSelection(banks, widths=widths)
    assert refused.value.code == "wire:malformed"


@pytest.mark.parametrize("bank", [Alg.AES, Alg.NULL])
def test_a_selection_of_what_is_no_bank_cannot_be_made(bank: Alg) -> None:
    """Not from a program, nor from bytes."""
    with pytest.raises(UnsupportedError) as refused:
        PcrSelection(((bank, (0,)),))
    assert refused.value.code == "wire:unsupported"


@given(st.text())
def test_parsing_any_text_ends_in_a_selection_or_a_typed_error(text: str) -> None:
    """What a user types never ends in an exception from outside the tree."""
    try:
        selection = PcrSelection.parse(text)
    except HwTrustError:
        return
    assert PcrSelection.parse(str(selection)) == selection


def test_a_selection_that_comes_again_is_read_once() -> None:
    """By all of its bytes, and by all of its text; the width of a bitmap is one of them."""
    text = "sha256:0,1,7"
    assert PcrSelection.parse(text) is PcrSelection.parse("".join(list(text)))
    narrow = PcrSelection(((Alg.SHA256, (0, 1)),), widths=(1,))
    wide = PcrSelection(((Alg.SHA256, (0, 1)),), widths=(4,))
    for selection in (narrow, wide, narrow):
        reader = Reader(selection.encode(), "TPML_PCR_SELECTION")
        assert PcrSelection.decode(reader).encode() == selection.encode()
        reader.end()


def test_a_text_longer_than_any_selection_is_read_and_not_kept() -> None:
    """Spaces make it as long as one likes."""
    text = "sha256: " + " " * LONGEST_KEPT + "0"
    assert PcrSelection.parse(text) == PcrSelection.parse("sha256:0")
    assert PcrSelection.parse(text) is not PcrSelection.parse(text)
