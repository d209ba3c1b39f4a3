"""The report of a real H100: it verifies, and with anything changed it does not."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from hwtrust.errors import HwTrustError
from hwtrust.errors.nvidia import NvidiaChainError, NvidiaExpiredError, NvidiaNonceError
from hwtrust.verify.certificates import pem_blocks, read_certificate
from hwtrust.verify.enclaves.nvidia import NVIDIA_ROOTS, NvidiaClaims, NvidiaTrust, verify_nvidia

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime(2026, 11, 22, tzinfo=UTC)
NONCE = bytes.fromhex("931d8dd0add203ac3d8b4fbde75e115278eefcdceac5b87671a748f32364dfcb")


def verify(
    vectors: Path,
    report: bytes | None = None,
    chain: list[bytes] | None = None,
    nonce: bytes = NONCE,
    now: datetime = NOW,
) -> NvidiaClaims:
    """Verify as the file is, but for what is given."""
    return verify_nvidia(
        read(vectors, "google-gpu-report.dat") if report is None else report,
        certificates=chain or [read(vectors, "google-gpu-chain.dat")],
        nonce=nonce,
        now=now,
        trust=NvidiaTrust(),
    )


def read(vectors: Path, name: str) -> bytes:
    """A file of the corpus."""
    return (vectors / "nvidia" / name).read_bytes()


def test_the_report_of_a_real_gpu_verifies(vectors: Path) -> None:
    """Up to the root that NVIDIA publishes, which ends in the year 9999."""
    claims = verify(vectors)
    assert claims.model == "GH100 A01 GSP BROM"
    assert (claims.driver_version, claims.vbios_version) == ("550.90.07", "96.00.9F.00.01")
    assert len(claims.measurements) == 64
    assert len(claims.firmware_id) == 48
    assert verify(vectors, now=datetime(9999, 12, 31, tzinfo=UTC)).nonce == NONCE


def test_the_pinned_root_is_the_published_one(vectors: Path) -> None:
    """Its fingerprint, and nothing else, is in hwtrust."""
    (root,) = pem_blocks(read(vectors, "nvidia-device-root.pem"), b"CERTIFICATE")
    assert frozenset({read_certificate(root).sha256}) == NVIDIA_ROOTS


def test_the_same_report_is_refused_otherwise(vectors: Path) -> None:
    """For another nonce, without its root, in another order, before it was made."""
    with pytest.raises(NvidiaNonceError):
        verify(vectors, nonce=NONCE[::-1])
    chain = pem_blocks(read(vectors, "google-gpu-chain.dat"), b"CERTIFICATE")
    assert len(chain) == 5
    for other in (chain[:-1], chain[1:], chain[::-1], [*chain[:2], *chain[3:]]):
        with pytest.raises(NvidiaChainError):
            verify(vectors, chain=other)
    with pytest.raises(NvidiaExpiredError):
        verify(vectors, now=datetime(2020, 1, 1, tzinfo=UTC))


def test_every_changed_bit_is_refused(vectors: Path) -> None:
    """A seeded sample; all of the report is signed, or is the signature."""
    report = read(vectors, "google-gpu-report.dat")
    for bit in random.Random(13).sample(range(len(report) * 8), 400):  # noqa: S311
        changed = bytearray(report)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(HwTrustError):
            verify(vectors, bytes(changed))
    chain = pem_blocks(read(vectors, "google-gpu-chain.dat"), b"CERTIFICATE")
    for at, certificate in enumerate(chain):
        for bit in random.Random(at).sample(range(len(certificate) * 8), 80):  # noqa: S311
            changed = bytearray(certificate)
            changed[bit // 8] ^= 1 << bit % 8
            with pytest.raises(HwTrustError):
                verify(vectors, chain=[*chain[:at], bytes(changed), *chain[at + 1 :]])
