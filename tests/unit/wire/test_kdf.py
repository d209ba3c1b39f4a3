"""KDFa and KDFe give what a TPM computes, to the bit."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from hwtrust.errors import UnsupportedError
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.kdf import MAX_BITS, kdf_a, kdf_e, mac

if TYPE_CHECKING:
    from pathlib import Path


def cases(vectors: Path, name: str) -> list[dict[str, Any]]:
    """The vectors of one file; never none."""
    found: list[dict[str, Any]] = json.loads((vectors / "tpm-structs/go-tpm" / name).read_bytes())
    assert len(found) >= 100
    return found


def test_kdfa_gives_what_a_tpm_computes(vectors: Path) -> None:
    """Keys derived here decrypt what a TPM encrypted, and the reverse, whatever the hash."""
    for case in cases(vectors, "kdfa.json"):
        derived = kdf_a(
            Alg(case["HashAlg"]),
            bytes.fromhex(case["Key"]),
            case["Label"].encode(),
            bytes.fromhex(case["ContextU"]),
            bytes.fromhex(case["ContextV"]),
            bits=case["Bits"],
        )
        assert derived.hex() == case["Result"], case["Name"]


def test_kdfe_gives_what_a_tpm_computes(vectors: Path) -> None:
    """A seed shared by ECDH is the same on both sides, whatever the hash."""
    for case in cases(vectors, "kdfe.json"):
        derived = kdf_e(
            Alg(case["HashAlg"]),
            bytes.fromhex(case["Z"]),
            case["Label"].encode(),
            bytes.fromhex(case["ContextU"]),
            bytes.fromhex(case["ContextV"]),
            bits=case["Bits"],
        )
        assert derived.hex() == case["Result"], case["Name"]


def test_a_derivation_of_too_many_bits_is_refused() -> None:
    """A key size from outside cannot eat memory."""
    for derive in (kdf_a, kdf_e):
        with pytest.raises(UnsupportedError) as refusal:
            derive(Alg.SHA256, b"k", b"LABEL", b"", b"", bits=MAX_BITS + 1)
        assert refusal.value.code == "wire:unsupported"


def test_a_derivation_with_something_that_is_no_hash_is_refused() -> None:
    """An algorithm number from a key ends in a typed error."""
    for derive in (kdf_a, kdf_e):
        with pytest.raises(UnsupportedError) as refusal:
            derive(Alg.AES, b"k", b"LABEL", b"", b"", bits=128)
        assert refusal.value.code == "wire:unsupported"


def test_an_hmac_that_this_python_cannot_compute_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A hash that OpenSSL was built without ends in a typed error, not in a ValueError."""

    def unavailable(*_: object) -> bytes:
        raise ValueError

    monkeypatch.setattr("hmac.digest", unavailable)
    with pytest.raises(UnsupportedError) as refusal:
        mac(Alg.SM3_256, b"key", b"data")
    assert refusal.value.code == "wire:unsupported"
    assert refusal.value.data["alg"] == Alg.SM3_256
