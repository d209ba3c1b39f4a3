"""The reader takes what is there, and not one byte more or less."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwtrust.errors import MalformedError
from hwtrust.wire import codec
from hwtrust.wire.codec import Reader

NUMBERS = {
    "u8": (codec.u8, Reader.u8, 1),
    "u16": (codec.u16, Reader.u16, 2),
    "u32": (codec.u32, Reader.u32, 4),
    "u64": (codec.u64, Reader.u64, 8),
}
numbers = pytest.mark.parametrize(("pack", "read", "size"), NUMBERS.values(), ids=NUMBERS)
Pack = Callable[[int], bytes]
Read = Callable[[Reader], int]


@numbers
@given(data=st.data())
def test_a_number_is_read_as_it_was_written(
    pack: Pack, read: Read, size: int, data: st.DataObject
) -> None:
    """Big-endian, in exactly its size."""
    number = data.draw(st.integers(0, 2 ** (8 * size) - 1))
    packed = pack(number)
    assert packed == number.to_bytes(size, "big")
    reader = Reader(packed, "number")
    assert read(reader) == number
    reader.end()


@numbers
def test_a_number_that_does_not_fit_is_refused(pack: Pack, read: Read, size: int) -> None:
    """Neither a negative number nor one too large is cut to size."""
    for number in (-1, 2 ** (8 * size)):
        with pytest.raises(MalformedError) as refused:
            pack(number)
        assert refused.value.code == "wire:malformed"


@numbers
def test_a_number_cut_short_is_refused(pack: Pack, read: Read, size: int) -> None:
    """Missing bytes do not read as zero."""
    with pytest.raises(MalformedError) as refused:
        read(Reader(bytes(size - 1), "number"))
    assert refused.value.code == "wire:malformed"


@given(content=st.binary(max_size=300), rest=st.binary(max_size=20))
def test_a_sized_field_is_read_as_it_was_written(content: bytes, rest: bytes) -> None:
    """A TPM2B gives its content, and what follows stays."""
    reader = Reader(codec.tpm2b(content) + rest, "field")
    assert reader.sized() == content
    assert reader.remaining == len(rest)
    assert reader.rest() == rest
    reader.end()


def test_a_huge_size_is_refused_before_anything_is_taken() -> None:
    """Adversary 5: a length of 65535 in front of 2 bytes is a shortage, and allocates nothing."""
    with pytest.raises(MalformedError) as refused:
        Reader(b"\xff\xff\x00\x00", "field").sized()
    assert refused.value.code == "wire:malformed"


def test_a_size_above_the_fields_limit_is_refused_although_the_bytes_are_there() -> None:
    """Adversary 5: a digest of 65 bytes is no digest."""
    with pytest.raises(MalformedError) as refused:
        Reader(codec.tpm2b(bytes(65)), "field").sized(64)
    assert refused.value.code == "wire:malformed"


def test_a_size_of_the_fields_limit_is_taken() -> None:
    """A digest of 64 bytes is one."""
    assert Reader(codec.tpm2b(bytes(64)), "field").sized(64) == bytes(64)


def test_a_field_too_long_to_be_sized_is_refused() -> None:
    """A TPM2B holds 65535 bytes at most."""
    with pytest.raises(MalformedError) as refused:
        codec.tpm2b(bytes(2**16))
    assert refused.value.code == "wire:malformed"


@pytest.mark.parametrize("count", [-1, 4])
def test_taking_less_than_nothing_or_more_than_is_there_is_refused(count: int) -> None:
    """A negative count does not move the cursor back."""
    reader = Reader(b"abc", "bytes")
    with pytest.raises(MalformedError) as refused:
        reader.take(count)
    assert refused.value.code == "wire:malformed"
    assert reader.rest() == b"abc"


def test_trailing_bytes_are_refused() -> None:
    """Adversary 4: whoever reads a whole structure finds out what is behind it."""
    reader = Reader(b"ab", "bytes")
    reader.take(1)
    with pytest.raises(MalformedError) as refused:
        reader.end()
    assert refused.value.code == "wire:malformed"
    assert refused.value.data == {"offset": 1}
