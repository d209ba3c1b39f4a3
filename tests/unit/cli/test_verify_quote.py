"""`hwtrust verify-quote`: what is checked is said, what is not checked is said too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hwtrust.cli.verify_quote import verify_quote
from hwtrust.errors import HwTrustError
from hwtrust.wire.algorithms import Alg, alg_name
from hwtrust.wire.codec import tpm2b
from hwtrust.wire.structures import PcrSelection
from simulators.good_quote import GOOD, NONCE, OTHER, PCRS, SELECTION, TPM, quote_of
from simulators.quote_vectors import Case, quote_cases
from simulators.software_tpm import Signed, SoftwareTpm

CASES = quote_cases()
GOOD_CASES = [
    case
    for case in CASES
    if case.expects("signature", "valid")
    and case.expects("pcr_digest", "match")
    and not case.expects("nonce", "mismatch")
]
BAD_CASES = [case for case in CASES if case not in GOOD_CASES and case.key_files]


VALUES = json.dumps(
    {
        alg_name(bank): {str(n): value.hex() for n, value in pcrs.items()}
        for bank, pcrs in PCRS.items()
    }
).encode()


def run(*arguments: str | Path) -> Result:
    """Run the command; exceptions are kept in the result."""
    return CliRunner().invoke(verify_quote, [str(argument) for argument in arguments])


def files(
    directory: Path, quote: Signed = GOOD, tpm: SoftwareTpm = TPM, **changes: bytes
) -> list[str | Path]:
    """The options for a quote, whose files are written to `directory`."""
    key = tpm.ak.key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    contents = {
        "message": quote.message,
        "signature": quote.signature,
        "pcrs": VALUES,
        "key": key,
    } | changes
    options: list[str | Path] = []
    for name, content in contents.items():
        path = directory / name
        path.write_bytes(content)
        options += [f"--{name}", path]
    return options


CHECKED = ["--nonce", NONCE.hex(), "--selection", str(SELECTION)]


def refused(result: Result, code: str) -> None:
    """The command raised the error of that code and printed nothing."""
    assert isinstance(result.exception, HwTrustError), result.output
    assert result.exception.code == code
    assert result.output == ""


def test_a_good_quote_is_told_in_words(tmp_path: Path) -> None:
    """Values, clock, resets and firmware version; and what a PEM key leaves open."""
    result = run(*files(tmp_path), *CHECKED)
    assert result.exit_code == 0, result.exception
    lines = [" ".join(line.split()) for line in result.output.splitlines()]
    assert lines[:10] == [
        "The quote is authentic.",
        "signature valid, ecdsa-sha256",
        "key attributes not checked: a PEM key comes without them",
        f"signer not checked: {TPM.ak_qualified_name.hex()}",
        "nonce as given, 32 bytes",
        "selection sha256:0,1,7,10, as asked for",
        "PCR values match the signed digest",
        "clock 1000 ms, safe",
        "resets, restarts 1, 0",
        "firmware version 2019102300163636",
    ]
    assert lines[10:] == [
        "sha256:",
        *(f"{n} {PCRS[Alg.SHA256][n].hex()}" for n in (0, 1, 7, 10)),
    ]


def test_a_good_quote_is_told_in_json(tmp_path: Path) -> None:
    """One object, for programs."""
    result = run(*files(tmp_path, key=TPM.ak.encode_sized()), *CHECKED, "--json")
    assert result.exit_code == 0, result.exception
    assert json.loads(result.output) == {
        "authentic": True,
        "checked": {
            "signature": True,
            "attributes": True,
            "signer": False,
            "nonce": True,
            "selection": True,
            "pcrs": True,
        },
        "signature": "ecdsa-sha256",
        "qualified_signer": TPM.ak_qualified_name.hex(),
        "nonce": NONCE.hex(),
        "selection": "sha256:0,1,7,10",
        "clock": 1000,
        "safe": True,
        "resets": 1,
        "restarts": 0,
        "firmware_version": "2019102300163636",
        "pcrs": {"sha256": {str(n): PCRS[Alg.SHA256][n].hex() for n in (0, 1, 7, 10)}},
        "unextended_banks": [],
    }


def test_every_spelling_of_the_nonce_is_read(tmp_path: Path) -> None:
    """Hex, a file of hex, a file of raw bytes."""
    options = files(tmp_path)
    (tmp_path / "hex").write_text(NONCE.hex().upper() + "\n")
    (tmp_path / "raw").write_bytes(NONCE)
    for nonce in (
        ["-n", NONCE.hex()],
        ["-n", f"@{tmp_path}/hex"],
        ["--nonce-file", str(tmp_path / "raw")],
    ):
        result = run(*options, "--selection", str(SELECTION), *nonce)
        assert result.exit_code == 0, result.exception


def test_a_raw_nonce_is_not_taken_for_hex_nor_hex_for_raw(tmp_path: Path) -> None:
    """Adversary 18: each option reads one form, and the wrong one does not match."""
    options = [*files(tmp_path), "--selection", str(SELECTION)]
    (tmp_path / "hex").write_text(NONCE.hex())
    (tmp_path / "raw").write_bytes(b"\xff" * 32)
    refused(run(*options, "--nonce-file", tmp_path / "hex"), "evidence:nonce:mismatch")
    assert run(*options, "-n", f"@{tmp_path}/raw").exit_code == 2


def test_a_sized_message_and_a_tpm_key_are_read(tmp_path: Path) -> None:
    """TPM2B_ATTEST, TPM2B_PUBLIC and TPMT_PUBLIC."""
    for key in (TPM.ak.encode(), TPM.ak.encode_sized()):
        result = run(*files(tmp_path, message=tpm2b(GOOD.message), key=key), *CHECKED)
        assert result.exit_code == 0, result.exception
        assert "those of an attestation key" in result.output


def test_the_signer_is_checked_where_it_is_known(tmp_path: Path) -> None:
    """Adversary 32: by its hierarchy, or by its qualified name."""
    options = [*files(tmp_path, key=TPM.ak.encode_sized()), *CHECKED, "--json"]
    for right in (
        ["--hierarchy", "endorsement"],
        ["--signer", TPM.ak_qualified_name.hex()],
    ):
        result = run(*options, *right)
        assert result.exit_code == 0, result.exception
        assert json.loads(result.output)["checked"]["signer"] is True
    for wrong in (["--hierarchy", "owner"], ["--signer", OTHER.ak_qualified_name.hex()]):
        refused(run(*options, *wrong), "evidence:signer:mismatch")


def test_going_without_a_check_is_spelled_out_and_said(tmp_path: Path) -> None:
    """Whoever reads the output sees what it does not prove."""
    result = run(
        *files(tmp_path, quote_of("sha256:16")), "--unsafe-no-nonce", "--unsafe-any-selection"
    )
    assert result.exit_code == 0, result.exception
    lines = [" ".join(line.split()) for line in result.output.splitlines()]
    assert "nonce NOT CHECKED: the quote may be of any age" in lines
    assert "selection sha256:16, NOT CHECKED: the device chose it" in lines


def test_a_clock_that_is_not_safe_is_said(tmp_path: Path) -> None:
    """It may have shown a later time before."""
    tpm = SoftwareTpm(seed=b"test_quote")
    tpm.clock = msgspec.structs.replace(tpm.clock, safe=False)
    result = run(*files(tmp_path, tpm.quote(NONCE, PCRS, selection=SELECTION)), *CHECKED)
    assert result.exit_code == 0, result.exception
    assert "1000 ms, NOT SAFE" in result.output


def test_a_bank_that_was_never_extended_is_said(tmp_path: Path) -> None:
    """Adversary 26: authentic, and worth nothing."""
    pcrs = {Alg.SHA256: {0: bytes(32), 1: bytes(32)}}
    quote = TPM.quote(NONCE, pcrs)
    result = run(
        *files(tmp_path, quote, pcrs=bytes(64)),
        "--nonce",
        NONCE.hex(),
        "--selection",
        "sha256:0,1",
    )
    assert result.exit_code == 0, result.exception
    assert "warning" in result.output
    assert "no measurement was made into sha256" in result.output


REFUSED: dict[str, tuple[dict[str, Any], list[str], str]] = {
    "another nonce": ({}, ["--nonce", "00" * 32], "evidence:nonce:mismatch"),
    "an empty nonce": ({}, ["--nonce", ""], "evidence:nonce:empty"),
    "another selection": ({}, ["--selection", "sha256:0,1,7"], "evidence:selection:mismatch"),
    "another key": ({"tpm": OTHER}, [], "evidence:signature:invalid"),
    "no attestation key": ({"key": TPM.tls.encode_sized()}, [], "key:attributes"),
    "no quote": ({"quote": TPM.certify(TPM.tls, NONCE)}, [], "evidence:type:mismatch"),
    "another magic": ({"message": b"\0" * 100}, [], "evidence:magic:mismatch"),
    "no message": ({"message": b""}, [], "wire:malformed"),
    "no signature": ({"signature": b""}, [], "wire:malformed"),
    "no values": ({"pcrs": b""}, [], "wire:malformed"),
    "no value of a quoted PCR": ({"pcrs": b"{}"}, [], "evidence:pcrs:mismatch"),
    "no key": ({"key": b""}, [], "wire:malformed"),
    "a file of a megabyte": ({"pcrs": VALUES.ljust(2**20 + 1)}, [], "wire:malformed"),
    "a SHA-1 bank": (
        {"quote": quote_of("sha1:0")},
        ["--selection", "sha1:0"],
        "evidence:bank:weak",
    ),
}


@pytest.mark.parametrize(("changes", "options", "code"), REFUSED.values(), ids=REFUSED)
def test_a_quote_is_refused_with_a_typed_error(
    changes: dict[str, Any], options: list[str], code: str, tmp_path: Path
) -> None:
    """And nothing is printed that could be taken for a result."""
    refused(run(*files(tmp_path, **changes), *CHECKED, *options), code)


def test_a_file_of_just_a_megabyte_is_read(tmp_path: Path) -> None:
    """JSON with a lot of space behind it."""
    result = run(*files(tmp_path, pcrs=VALUES.ljust(2**20)), *CHECKED)
    assert result.exit_code == 0, result.exception


def test_sha1_is_accepted_where_it_is_spelled_out(tmp_path: Path) -> None:
    """For the signature, for the key's scheme, and for the bank."""
    tpm = SoftwareTpm(seed=b"sha1", hash_=Alg.SHA1)
    quote = tpm.quote(NONCE, PCRS, selection=PcrSelection.parse("sha1:0"))
    for key in ({}, {"key": tpm.ak.encode_sized()}):
        options = [*files(tmp_path, quote, tpm, **key), "--nonce", NONCE.hex()]
        options += ["--selection", "sha1:0"]
        result = run(*options, "--unsafe-allow-sha1")
        assert result.exit_code == 0, result.exception
        assert isinstance(run(*options).exception, HwTrustError)


USAGE = {
    "no nonce": ["--selection", "sha256:0"],
    "two nonces": ["--nonce", "00", "--unsafe-no-nonce", "--selection", "sha256:0"],
    "no selection": ["--nonce", "00"],
    "two selections": ["--nonce", "00", "--selection", "sha256:0", "--unsafe-any-selection"],
    "a nonce that is no hex": ["--nonce", "xyz", "--selection", "sha256:0"],
    "a nonce file that is not there": ["--nonce", "@/nowhere", "--selection", "sha256:0"],
    "a selection that is none": ["--nonce", "00", "--selection", "sha256"],
    "a selection of an unknown bank": ["--nonce", "00", "--selection", "md5:0"],
    "a signer that is no hex": [*CHECKED, "--signer", "xyz"],
    "two signers": [*CHECKED, "--signer", "00", "--hierarchy", "owner"],
    "a hierarchy for a PEM key": [*CHECKED, "--hierarchy", "owner"],
    "an unknown hierarchy": [*CHECKED, "--hierarchy", "null"],
}


@pytest.mark.parametrize("options", USAGE.values(), ids=USAGE)
def test_wrong_usage_is_told_from_a_refusal(options: list[str], tmp_path: Path) -> None:
    """Exit code 2, from click, before anything is verified."""
    arguments = [str(argument) for argument in (*files(tmp_path), *options)]
    assert CliRunner().invoke(verify_quote, arguments).exit_code in {1, 2}
    with pytest.raises(click.ClickException):
        verify_quote.main(arguments, standalone_mode=False)


@pytest.mark.parametrize("missing", ["--message", "--signature", "--pcrs", "--key"])
def test_every_file_is_required(missing: str, tmp_path: Path) -> None:
    """Nothing is left out silently."""
    options = files(tmp_path)
    at = options.index(missing)
    result = run(*options[:at], *options[at + 2 :], *CHECKED)
    assert result.exit_code == 2


# --- the corpus ----------------------------------------------------------------------


def options_of(case: Case, key: Path, pcrs: Path) -> list[str | Path]:
    """The options that a user would pass for a case."""
    options: list[str | Path] = ["-m", case.message_file, "-s", case.signature_file]
    options += ["-k", key, "-p", pcrs]
    options += ["-n", case.nonce.hex()] if case.nonce else ["--unsafe-no-nonce"]
    return options


@pytest.mark.skipif(not CASES, reason="the test vectors are not there: set HWTRUST_VECTORS")
def test_every_good_quote_of_the_corpus_is_accepted() -> None:
    """With every form of its key and values."""
    assert len(GOOD_CASES) >= 29
    for case in GOOD_CASES:
        for key in case.key_files:
            for pcrs in case.pcr_files:
                options = options_of(case, key, pcrs)
                options += ["--selection", str(case.selection), "--json"]
                if case.needs_sha1:
                    assert isinstance(run(*options).exception, HwTrustError)
                    options.append("--unsafe-allow-sha1")
                result = run(*options)
                assert result.exit_code == 0, (case.folder.name, result.exception)
                report = json.loads(result.output)
                assert report["clock"] == case.facts["attest"]["clock"]
                assert report["firmware_version"] == case.facts["attest"]["firmwareVersion"]


@pytest.mark.skipif(not CASES, reason="the test vectors are not there: set HWTRUST_VECTORS")
def test_every_bad_quote_of_the_corpus_is_refused() -> None:
    """Bad signature, bad nonce, bad values, no quote."""
    assert len(BAD_CASES) >= 5
    for case in BAD_CASES:
        for key in case.key_files:
            for pcrs in case.pcr_files:
                result = run(*options_of(case, key, pcrs), "--unsafe-any-selection")
                assert isinstance(result.exception, HwTrustError), case.folder.name
