"""Algorithm numbers: what is unknown is refused, what is known is computed right."""

from __future__ import annotations

import hashlib

import pytest

from hwtrust.errors import UnsupportedError
from hwtrust.wire.algorithms import (
    Alg,
    Curve,
    alg_from_name,
    alg_name,
    digest_size,
    new_hash,
    to_alg,
    to_curve,
    to_hash_alg,
)

HASHES = [alg for alg in Alg if alg.name.startswith(("SHA", "SM3"))]


@pytest.mark.parametrize("alg", HASHES)
def test_a_hash_has_a_name_and_is_found_by_it(alg: Alg) -> None:
    """tpm2-tools and hwtrust mean the same by a bank's name."""
    assert alg_from_name(alg_name(alg)) is alg
    assert to_hash_alg(int(alg)) is alg


@pytest.mark.parametrize("alg", [alg for alg in HASHES if alg is not Alg.SM3_256])
def test_a_digest_is_the_one_of_hashlib(alg: Alg) -> None:
    """Sizes and values agree with the standard library's."""
    digest = new_hash(alg, b"abc")
    assert digest == hashlib.new(alg_name(alg), b"abc").digest()
    assert len(digest) == digest_size(alg)


@pytest.mark.parametrize("alg", [Alg.AES, Alg.NULL, Alg.ECDSA])
def test_what_is_no_hash_is_refused_as_one(alg: Alg) -> None:
    """A signature scheme in the place of a hash ends in a typed error."""
    for use in (digest_size, alg_name, lambda found: new_hash(found, b""), to_hash_alg):
        with pytest.raises(UnsupportedError) as refused:
            use(alg)
        assert refused.value.code == "wire:unsupported"


@pytest.mark.parametrize("look_up", [to_alg, to_curve, to_hash_alg])
def test_an_unknown_number_is_refused(look_up: type) -> None:
    """A number from a later specification is no surprise."""
    with pytest.raises(UnsupportedError) as refused:
        look_up(0x7FFF)
    assert refused.value.code == "wire:unsupported"


@pytest.mark.parametrize("name", ["", "SHA256", "sha256 ", "md5", "aes"])
def test_an_unknown_name_is_refused(name: str) -> None:
    """Names are spelled one way."""
    with pytest.raises(UnsupportedError) as refused:
        alg_from_name(name)
    assert refused.value.code == "wire:unsupported"


def test_a_hash_that_python_cannot_compute_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """An OpenSSL without SM3 ends in a typed error."""

    def refuse(*_: object, **__: object) -> None:
        raise ValueError

    monkeypatch.setattr(hashlib, "new", refuse)
    with pytest.raises(UnsupportedError) as refused:
        new_hash(Alg.SM3_256, b"")
    assert refused.value.code == "wire:unsupported"


def test_every_curve_is_found_by_its_number() -> None:
    """Weak curves are recognised, so that they are refused as what they are."""
    assert [to_curve(int(curve)) for curve in Curve] == list(Curve)
