"""TPMS_NV_PUBLIC: form and Name."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwtrust.errors import HwTrustError, MalformedError, UnsupportedError
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.structures import NvAttributes, NvPublic, NvType
from simulators.software_tpm import counter_public
from simulators.strategies import nv_publics

COUNTER = counter_public(bytes(32))


@given(nv_publics)
def test_an_index_is_decoded_as_it_was_encoded(public: NvPublic) -> None:
    """decode(encode(x)) == x, with and without its size."""
    assert NvPublic.decode(public.encode()) == public
    assert NvPublic.decode_sized(public.encode_sized()) == public


def test_every_field_changes_the_name() -> None:
    """A certified Name leaves nothing open: neither attributes nor policy."""
    changed = [
        *(replace(COUNTER, attributes=COUNTER.attributes ^ bit) for bit in NvAttributes),
        replace(COUNTER, index=COUNTER.index + 1),
        replace(COUNTER, auth_policy=bytes(31) + b"\1"),
        replace(COUNTER, size=9),
        replace(COUNTER, name_alg=Alg.SHA384),
    ]
    names = {public.name for public in [COUNTER, *changed]}
    assert len(names) == len(changed) + 1


@pytest.mark.parametrize("type_", NvType)
def test_the_type_is_read_from_among_the_attributes(type_: NvType) -> None:
    """TPM_NT is a number of four bits, not four flags."""
    attributes = NvAttributes.AUTHREAD | NvAttributes(type_ << 4) | NvAttributes.POLICY_DELETE
    assert replace(COUNTER, attributes=attributes).type == type_


@pytest.mark.parametrize("index", [0, 0x0080_0000, 0x0200_0000, 0x8100_0000, 0xFFFF_FFFF])
def test_what_is_no_handle_of_an_index_is_refused(index: int) -> None:
    """A persistent object does not pass for an index."""
    raw = index.to_bytes(4, "big") + COUNTER.encode()[4:]
    with pytest.raises(MalformedError) as refused:
        NvPublic.decode(raw)
    assert refused.value.code == "wire:malformed"


def test_a_name_algorithm_that_is_no_hash_is_refused() -> None:
    """An index always has a Name."""
    raw = COUNTER.encode()[:4] + b"\x00\x10" + COUNTER.encode()[6:]
    with pytest.raises(UnsupportedError) as refused:
        NvPublic.decode(raw)
    assert refused.value.code == "wire:unsupported"


def test_an_index_cut_at_every_byte_or_followed_by_one_is_refused() -> None:
    """Adversaries 3 and 4."""
    raw, sized = COUNTER.encode(), COUNTER.encode_sized()
    for length in range(len(raw)):
        with pytest.raises(MalformedError):
            NvPublic.decode(raw[:length])
    for length in range(len(sized)):
        with pytest.raises(MalformedError):
            NvPublic.decode_sized(sized[:length])
    with pytest.raises(MalformedError):
        NvPublic.decode(raw + b"\0")
    with pytest.raises(MalformedError) as refused:
        NvPublic.decode_sized(sized + b"\0")
    assert refused.value.code == "wire:malformed"


@given(st.binary(max_size=60))
def test_any_bytes_end_in_an_index_or_a_typed_error(noise: bytes) -> None:
    """Nothing from outside the tree leaves the decoder."""
    for start in (b"", COUNTER.encode()[:6], COUNTER.encode()[:10]):
        try:
            assert NvPublic.decode(start + noise).encode() == start + noise
        except HwTrustError:
            continue
