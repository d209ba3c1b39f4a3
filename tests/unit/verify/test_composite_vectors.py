"""The repository's own vectors of GPUs and of vTPMs in TEEs: there, good, and made again."""

from __future__ import annotations

import json
import runpy
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from hwtrust.verify.attestation import Unsafe
from hwtrust.verify.enclaves.azure import SnpTee, TdxTee, verify_azure
from hwtrust.verify.enclaves.dcap import DcapTrust
from hwtrust.verify.enclaves.nvidia import NvidiaTrust, verify_nvidia
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.enclaves.dcap import Collateral, Quote
from simulators.dcap_signer import DcapSigner
from simulators.snp_signer import trust

VECTORS = Path(__file__).parents[2] / "vectors"


def stored(kind: str) -> dict[str, bytes]:
    """The files of one folder by name."""
    return {file.name: file.read_bytes() for file in (VECTORS / kind).iterdir() if file.is_file()}


@pytest.mark.parametrize("kind", ["azure", "nvidia"])
def test_the_vectors_are_there_and_come_out_the_same_again(kind: str) -> None:
    """A generator that changed would say so here."""
    made: dict[str, bytes] = runpy.run_path(str(VECTORS / f"make_{kind}.py"))["files"]()
    assert stored(kind) == made
    assert len(made) >= 7
    assert max(map(len, made.values())) < 20_000


def test_the_stored_report_of_a_gpu_verifies() -> None:
    """From the files alone."""
    files = stored("nvidia")
    case: dict[str, Any] = json.loads(files["case.json"])
    claims = verify_nvidia(
        files["report.bin"],
        certificates=[files[f"certificate-{at}.der"] for at in range(5)],
        nonce=bytes.fromhex(case["nonce"]),
        now=datetime.fromisoformat(case["now"]),
        trust=NvidiaTrust(roots=frozenset({case["root"]})),
    )
    assert claims.driver_version == "550.90.07"


@pytest.mark.parametrize("kind", ["snp", "tdx"])
def test_the_stored_evidence_of_a_vtpm_verifies(kind: str) -> None:
    """From the files alone, but for the roots."""
    files = stored("azure")
    case: dict[str, Any] = json.loads(files["case.json"])
    tee: SnpTee | TdxTee
    if kind == "snp":
        tee = SnpTee(certificates=[files[f"snp-{at}.der"] for at in range(3)], trust=trust())
    else:
        tee = TdxTee(
            quote=Quote.decode(files["tdx-quote.bin"]),
            collateral=Collateral.decode(files["tdx-collateral.json"]),
            trust=DcapTrust.of(DcapSigner().root.der),
        )
    claims = verify_azure(
        files[f"{kind}-hcl-report.bin"],
        files[f"{kind}-message.bin"],
        files[f"{kind}-signature.bin"],
        tee=tee,
        nonce=bytes.fromhex(case["nonce"]),
        user_data=bytes.fromhex(case["user_data"]),
        selection=Unsafe.ANY_SELECTION,
        pcrs={Alg.SHA256: {int(n): bytes.fromhex(v) for n, v in case["pcrs"].items()}},
        now=datetime.fromisoformat(case["now"]),
    )
    assert claims.facts()["tee"] == kind
