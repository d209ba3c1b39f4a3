"""Public files of evidence under `hwtrust evidence show`: each shown, or a coded error."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from hwtrust.cli import run
from hwtrust.errors import HwTrustError
from hwtrust.verify.forms import Form
from hwtrust.verify.shown import show

if TYPE_CHECKING:
    from pathlib import Path

FORMS = {
    "sev-snp": {Form.SNP, Form.CERTIFICATES},
    "tdx": {Form.TDX, Form.COLLATERAL},
    "sgx": {Form.SGX, Form.COLLATERAL, Form.CERTIFICATES},
    "nitro": {Form.NITRO, Form.CERTIFICATES},
    "cca": {Form.CCA},
    "nvidia": {Form.NVIDIA, Form.CERTIFICATES},
    "event-logs": {Form.FIRMWARE_LOG},
    "ima-logs": {Form.IMA_LOG, Form.CERTIFICATES},
    "tpm-quotes": {Form.TPM_QUOTE, Form.AZURE, Form.CERTIFICATES, Form.FIRMWARE_LOG},
}
"""What there is in each folder."""

REFUSED = {
    "tdx/google-v4-spr.quote": "wire:malformed",
    "event-logs/go-attestation/inline-event-size-too-large.bin": "wire:evidence:unknown",
    "event-logs/go-attestation/inline-specid-many-algs.bin": "wire:malformed",
    "event-logs/keylime/binary_bios_measurements-bogus.bin": "wire:evidence:unknown",
    "event-logs/keylime/binary_bios_measurements-empty.bin": "wire:evidence:unknown",
    "ima-logs/keylime/ast-invalid.txt": "wire:unsupported",
    "ima-logs/rust-keylime/invalid_ima_log.txt": "wire:evidence:unknown",
    "tpm-quotes/go-eventlog-linux-tpm12/attest.bin": "wire:evidence:unknown",
    "tpm-quotes/keylime-checkquote-bad-quote/attest.bin": "evidence:type:mismatch",
}
"""Files of evidence that are malformed: no log, no quote of a TPM 2.0, bytes behind the end."""

EVIDENCE = ("attest.bin", "-report.bin", "-report.hex", ".quote", ".cbor", ".dat", ".b64", ".txt")
LOGS = ("event-logs", "ima-logs")
NO_EVIDENCE = ("README.md", ".warn.txt", "test-quote.txt")


def is_evidence(path: Path, folder: str) -> bool:
    """Whether a file is evidence, and not what it is verified with or compared to."""
    if path.name.endswith(NO_EVIDENCE):
        return False
    return path.name.endswith(EVIDENCE) or (folder in LOGS and path.suffix == ".bin")


@pytest.mark.parametrize("folder", FORMS)
def test_every_file_of_evidence_is_shown_or_refused_with_a_code(vectors: Path, folder: str) -> None:
    """What is malformed is known by name; nothing leaves the tree of errors, whatever the file."""
    found: set[Form | None] = set()
    refused = {}
    shown = 0
    for path in sorted(one for one in (vectors / folder).rglob("*") if one.is_file()):
        name = str(path.relative_to(vectors))
        try:
            told = show(path.read_bytes())
        except HwTrustError as error:
            if is_evidence(path, folder):
                refused[name] = error.code
            continue
        if is_evidence(path, folder) or path.suffix in {".pem", ".der"}:
            found.add(told.form)
        assert told.facts, name
        shown += is_evidence(path, folder)
    assert refused == {
        name: code for name, code in REFUSED.items() if name.startswith(f"{folder}/")
    }
    assert found <= FORMS[folder]
    assert shown


@pytest.mark.parametrize("version", [1, 2])
def test_the_evidence_of_azures_machines_is_shown_in_its_parts(vectors: Path, version: int) -> None:
    """They come in a JSON of their collector's, and so does a bare HCL report in base64."""
    data = (vectors / "azure-vtpm" / f"coco-snp-evidence-v{version}.json").read_bytes()
    machine = show(data)
    told = dict(machine.parts)
    assert told["tee"].form is Form.AZURE
    assert told["tee"].facts["tee_signing_key"] == "vcek"
    assert told["quote"].facts["type"] == "quote"
    assert told["certificates"].form is Form.CERTIFICATES
    assert list(machine.problems()) == []
    assert show(json.loads(data)["hcl_report"].encode()).facts == told["tee"].facts


NONCES = {
    1: b"challenge".hex(),
    2: "982f5c6e45df0ed3f10b6f60b02f0c8390e281300f3805e2279c16168cd6ae9a"
    "a398f647caa2338748cd0fd9f5f819ef",
}


@pytest.mark.parametrize("version", NONCES)
def test_the_evidence_of_azures_machines_is_verified_as_it_is(
    vectors: Path, version: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Under AMD's own root, whose chain is a file beside it; no other nonce is taken."""
    (tmp_path / "policy.toml").write_text("")
    evidence = vectors / "azure-vtpm" / f"coco-snp-evidence-v{version}.json"
    chain = vectors / "sev-snp" / "gosev-ask_ark_milan.pem"
    command = ["evidence", "verify", str(evidence), "--policy", str(tmp_path / "policy.toml")]
    command += ["--certificates", str(chain), "--time", "2026-11-22T00:00:00Z", "--json"]
    for nonce, authentic in ((NONCES[version], True), (NONCES[3 - version], False)):
        assert run([*command, "--report-data", nonce]) == 3
        assert json.loads(capsys.readouterr().out)["authentic"] is authentic
