"""IMA logs that other projects have published, and the repository's own."""

from __future__ import annotations

import hashlib
import json
import os
import random
from pathlib import Path
from typing import Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from hwtrust.errors import HwTrustError, WireError
from hwtrust.errors.logs import ImaReplayError, ImaRulesError
from hwtrust.verify.logs.ima import START, Extend, ImaClaims, verify_ima
from hwtrust.verify.logs.ima_rules import boot_aggregates
from hwtrust.verify.logs.ima_signature import FileKeys, Outcome
from hwtrust.wire.algorithms import Alg, alg_from_name
from hwtrust.wire.logs.ima import ImaLog
from vectors.make_ima import FOLDER, make

ROOT: Final = Path(__file__).resolve().parents[2]
SHARED: Final = Path(os.environ.get("HWTRUST_VECTORS", ROOT.parent / "shared" / "vectors"))
PUBLIC: Final = SHARED / "ima-logs"

public = pytest.mark.skipif(
    not PUBLIC.exists(), reason="the test vectors are not there: set HWTRUST_VECTORS"
)

Row = tuple[int, dict[str, int], int, list[int], int]
"""Entries, templates, violations, wrong template hashes at, bytes in the tail."""

ROWS: Final[dict[str, Row]] = {
    "keylime/ima-log-sha1.txt": (2, {"ima-ng": 2}, 1, [], 0),
    "keylime/ima-log-sha256.txt": (2, {"ima-ng": 2}, 0, [], 0),
    "keylime/ima-log-sha384.txt": (2, {"ima-ng": 2}, 1, [], 0),
    "keylime/ima-log-sha512.txt": (2, {"ima-ng": 2}, 1, [], 0),
    "keylime/ima-log-sm3_256.txt": (2, {"ima-ng": 2}, 1, [1], 0),
    "keylime/ima-log-unknown.txt": (2, {"ima-ng": 2}, 1, [1], 0),
    "keylime/measurements.txt": (3, {"ima-sig": 3}, 0, [], 0),
    "keylime/signatures.txt": (2, {"ima-sig": 2}, 0, [], 0),
    "keylime/bad-signatures.txt": (1, {"ima-sig": 1}, 0, [0], 0),
    "keylime/keyrings.txt": (1, {"ima-buf": 1}, 0, [], 0),
    "keylime/dm-ima.txt": (15, {"ima-buf": 15}, 0, [], 0),
    "keylime/ast-valid.txt": (6, {"ima-sig": 3, "ima-buf": 1, "ima": 1, "ima-ng": 1}, 0, [], 0),
    "rust-keylime/ima_log.txt": (1, {"ima-ng": 1}, 0, [], 0),
    "keylime-tests/ima_log.txt": (5, {"ima-ng": 2, "ima-buf": 3}, 0, [], 0),
    "ima-evm-utils/sample-ascii_runtime_measurements-pcrs-8-9.txt": (1, {"ima-ng": 1}, 0, [], 0),
    "ima-evm-utils/test_ascii_runtime_measurements.txt": (3, {"ima-ng": 3}, 0, [], 0),
    "tpm2-tss/sml-ima-ng-sha1.bin": (6, {"ima-ng": 6}, 0, [], 1),
    "tpm2-tss/sml-ima-ng-sha1-invalidated.bin": (0, {}, 0, [], 86),
    "tpm2-tss/sml-ima-sha1.bin": (12, {"ima": 12}, 0, [], 1),
    "tpm2-tss/sml-ima-sha1-invalidated.bin": (1, {"ima": 1}, 1, [], 0),
    "tpm2-tss/sml-ima-sig-sha256.bin": (9, {"ima-sig": 9}, 0, [], 6),
    "tpm2-tss/sml-ima-sig-sha256-invalidated.bin": (2, {"ima-sig": 2}, 1, [], 0),
    "ibm-acs/imasig.bin": (1083, {"ima-sig": 1083}, 0, [1079], 0),
}
REFUSED: Final = ("keylime/ast-invalid.txt", "rust-keylime/invalid_ima_log.txt")


@public
@pytest.mark.parametrize("name", ROWS)
def test_a_public_log_says_what_its_collection_says(name: str) -> None:
    """Entries, templates, violations, wrong template hashes and what is cut short."""
    log = ImaLog.decode((PUBLIC / name).read_bytes())
    entries = list(log.entries())
    templates: dict[str, int] = {}
    for entry in entries:
        templates[entry.template] = templates.get(entry.template, 0) + 1
    wrong = [at for at, entry in enumerate(entries) if entry.hash_fits is False]
    violations = sum(entry.violation for entry in entries)

    assert (len(entries), templates, violations, wrong, log.tail) == ROWS[name]
    assert log.template_data(10) == [entry.data for entry in entries if entry.pcr == 10]
    assert log.facts()["entries"] == len(entries)


@public
def test_no_public_log_is_left_out() -> None:
    """Every log of the collection is in a table here."""
    logs = {str(p.relative_to(PUBLIC)) for p in PUBLIC.rglob("*") if p.suffix in {".bin", ".txt"}}
    assert logs == {*ROWS, *REFUSED}


@public
@pytest.mark.parametrize("name", REFUSED)
def test_every_line_of_a_bad_log_is_refused(name: str) -> None:
    """Each by itself, so that none hides behind another."""
    lines = (PUBLIC / name).read_bytes().splitlines(keepends=True)
    assert lines
    for line in lines:
        with pytest.raises(WireError):
            list(ImaLog.decode(line).entries())


def outcomes(name: str, *keys: str) -> dict[str, int]:
    """What the signatures in a log come to."""
    found: dict[str, int] = {}
    checked = FileKeys(keys, unsafe_allow_rsa1024=True)
    for entry in ImaLog.decode((PUBLIC / name).read_bytes()).entries():
        what = "NONE"
        if entry.signature:
            assert entry.digest is not None
            what = checked.check(entry.signature, entry.digest).name
        found[what] = found.get(what, 0) + 1
    return found


def key(name: str) -> str:
    """A key beside a log, PEM."""
    raw = (PUBLIC / name).read_bytes()
    if name.endswith(".der"):
        form = serialization.Encoding.PEM
        return x509.load_der_x509_certificate(raw).public_bytes(form).decode()
    return raw.decode()


@public
def test_public_file_signatures_verify() -> None:
    """RSA and ECDSA, valid, malformed, and by keys that are not there."""
    keylime = (key("keylime/rsa2048pub.pem"), key("keylime/secp256k1pub.pem"))
    assert outcomes("keylime/signatures.txt", *keylime) == {"VALID": 2}
    assert outcomes("keylime/bad-signatures.txt", *keylime) == {"MALFORMED": 1}
    assert outcomes("keylime/signatures.txt", keylime[0]) == {"VALID": 1, "NO_KEY": 1}
    assert outcomes("ibm-acs/imasig.bin", key("ibm-acs/imakey.der")) == {
        "NONE": 184,
        "VALID": 896,
        "NO_KEY": 1,
        "INVALID": 1,
        "WEAK": 1,
    }
    with pytest.raises(ImaRulesError):
        FileKeys([key("ibm-acs/imakey.der")])


@public
def test_changed_public_signatures_are_refused() -> None:
    """No bit of signature or digest can be changed."""
    checked = FileKeys([key("keylime/rsa2048pub.pem"), key("keylime/secp256k1pub.pem")])
    for entry in ImaLog.decode((PUBLIC / "keylime/signatures.txt").read_bytes()).entries():
        signature, digest = entry.signature, entry.digest
        assert digest is not None
        for bit in range(len(signature) * 8):
            changed = bytearray(signature)
            changed[bit // 8] ^= 1 << bit % 8
            assert checked.check(bytes(changed), digest) is not Outcome.VALID
        for bit in range(256):
            other = int.to_bytes(int.from_bytes(digest.digest, "big") ^ 1 << bit, 32, "big")
            changed_digest = type(digest)(digest.algorithm, other)
            assert checked.check(signature, changed_digest) is Outcome.INVALID


@public
@pytest.mark.parametrize(
    ("log", "boot"),
    [
        (
            "ima-evm-utils/sample-ascii_runtime_measurements-pcrs-8-9.txt",
            "ima-evm-utils/sample-binary_bios_measurements-pcrs-8-9",
        ),
        (
            "ima-evm-utils/test_ascii_runtime_measurements.txt",
            "ima-evm-utils/test_binary_bios_measurements",
        ),
    ],
)
def test_public_boot_aggregates_are_those_of_their_event_logs(log: str, boot: str) -> None:
    """Over PCRs 0 to 9 and over PCRs 0 to 7: both are in the field."""
    document = json.loads((SHARED / "event-logs" / f"{boot}.pcrs.json").read_text())
    replay = document["tpm2_eventlog"]["pcrs"]
    pcrs = {}
    for bank, held in replay.items():
        size = len(next(iter(held.values()))) // 2
        values = {int(number): bytes.fromhex(value) for number, value in held.items()}
        pcrs[alg_from_name(bank)] = {number: bytes(size) for number in range(10)} | values
    entries = list(ImaLog.decode((PUBLIC / log).read_bytes()).entries())
    last = [entry for entry in entries if entry.path == "boot_aggregate"][-1]
    assert last.digest in boot_aggregates(pcrs)


def replayed(raw: bytes, value: bytes, bank: Alg) -> ImaClaims:
    """From the start of the boot."""
    return verify_ima(ImaLog.decode(raw), bank=bank, value=value, state=START)


@public
def test_changes_of_a_real_log_are_refused() -> None:
    """A seeded sample of bits: what is hashed is bound, what is not changes no claim."""
    raw = (PUBLIC / "ibm-acs/imasig.bin").read_bytes()
    data = ImaLog.decode(raw).template_data(10)
    value = bytes(32)
    for one in data:
        value = hashlib.sha256(value + hashlib.sha256(one).digest()).digest()
    assert replayed(raw, value, Alg.SHA256).new == 1083

    refused = 0
    for bit in random.Random(5).sample(range(len(raw) * 8), 400):  # noqa: S311 - a sample
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << bit % 8
        try:
            claims = replayed(bytes(changed), value, Alg.SHA256)
        except HwTrustError as error:
            refused += error.code in {"evidence:ima-log:replay", "wire:malformed"}
        else:
            # A header: template hash or template name, which no PCR binds.
            assert claims.log.template_data(10) == data
    assert refused > 300


def test_the_repository_has_the_logs_that_its_generator_makes() -> None:
    """The same bytes, and not none."""
    made = make()
    assert made
    assert {path.name: path.read_bytes() for path in FOLDER.iterdir()} == made


@pytest.mark.parametrize("name", ["binary.bin", "binary-sha256.bin", "ascii.txt"])
def test_the_repositorys_logs_explain_their_values(name: str) -> None:
    """In every bank, by each way of extending it; and cut, none."""
    raw = (FOLDER / name).read_bytes()
    values = json.loads((FOLDER / "pcr10.json").read_text())
    growing = (FOLDER / "binary-growing.bin").read_bytes()
    for way, banks in values.items():
        for bank, value in banks.items():
            claims = replayed(raw, bytes.fromhex(value), alg_from_name(bank))
            assert claims.new == 8
            assert claims.violations == (6,)
            expected = Extend.HASHED if bank == "sha1" else Extend(way)
            assert claims.state.extend is expected
            with pytest.raises(ImaReplayError):
                replayed(growing, bytes.fromhex(value), alg_from_name(bank))
