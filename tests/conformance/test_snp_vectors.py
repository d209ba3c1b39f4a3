"""SEV-SNP reports of real chips, and this repository's own: each gives what is written of it.

The real ones are Milan and Genoa under AMD's roots, in the folder `sev-snp` of the
vectors; its README says what is to be expected of each.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hwtrust.errors import HwTrustError, StaleQuoteError
from hwtrust.errors.snp import SnpChainError, SnpError, SnpExpiredError, SnpSignatureError
from hwtrust.verify.certificates import pem_blocks
from hwtrust.verify.enclaves.snp import AMD, SnpClaims, SnpTrust, Unsafe, verify_snp
from hwtrust.verify.enclaves.snp_rules import SnpRules, appraise_snp
from hwtrust.wire.enclaves.snp import CertificateTable, Product, SigningKey, SnpReport
from simulators.snp_signer import NOW, REPORT_DATA, trust
from vectors.make_snp import CASES, FOLDER, files

BITS = 400


@dataclass(frozen=True)
class Real:
    """A report of a real chip, with the files that go with it."""

    report: str
    vcek: str
    product: Product
    version: int
    years: tuple[int, int]
    day: tuple[int, int]
    debug: bool = False


REALS = {
    "go-sev-guest, Milan": Real(
        "gosev-milan-v2-report.bin",
        "gosev-milan-vcek.der",
        Product.MILAN,
        2,
        (2022, 2029),
        (9, 24),
        debug=True,
    ),
    "virtee, Milan": Real(
        "virtee-milan-report.hex", "virtee-milan-vcek.der", Product.MILAN, 2, (2023, 2030), (4, 3)
    ),
    "trustee, Milan": Real(
        "coco-milan-report.bin", "coco-milan-vcek.der", Product.MILAN, 2, (2023, 2030), (1, 24)
    ),
    "Microsoft, Milan": Real(
        "ms-milan-report.bin", "ms-milan-vcek.pem", Product.MILAN, 3, (2026, 2033), (2, 5)
    ),
    "Microsoft, Genoa": Real(
        "ms-genoa-report.bin", "ms-genoa-vcek.pem", Product.GENOA, 3, (2026, 2033), (2, 5)
    ),
}
REAL = pytest.mark.parametrize("real", REALS.values(), ids=REALS)


@pytest.fixture(name="folder")
def _folder(vectors: Path) -> Path:
    return vectors / "sev-snp"


def report_of(folder: Path, real: Real) -> bytes:
    """The report, which some keep as hex."""
    content = (folder / real.report).read_bytes()
    return bytes.fromhex(content.decode()) if real.report.endswith(".hex") else content


def chain_of(folder: Path, real: Real) -> list[bytes]:
    """The VCEK, and the bundle of ASK and ARK."""
    bundle = folder / f"gosev-ask_ark_{real.product.lower()}.pem"
    return [(folder / real.vcek).read_bytes(), bundle.read_bytes()]


def verify(
    report: bytes, chain: Sequence[bytes], *, now: datetime, trusted: SnpTrust = AMD
) -> SnpClaims:
    """Verify under AMD's roots, whatever was asked for."""
    return verify_snp(
        report,
        certificates=chain,
        report_data=Unsafe.NO_REPORT_DATA,
        now=now,
        trust=trusted,
    )


def within(real: Real) -> datetime:
    """A year after the certificate was made."""
    return datetime(real.years[0] + 1, *real.day, tzinfo=UTC)


@REAL
def test_a_real_report_is_authentic_and_says_what_is_known_of_it(folder: Path, real: Real) -> None:
    """Of another chip each, with AMD's own certificates."""
    claims = verify(report_of(folder, real), chain_of(folder, real), now=within(real))
    assert claims.product is real.product
    assert claims.report.version == real.version
    assert claims.report.signing_key is SigningKey.VCEK
    assert claims.chip_id == claims.report.chip_id
    assert claims.report.debug is real.debug
    found = {finding.code for finding in appraise_snp(claims, rules=SnpRules())}
    assert ("snp:debug" in found) is real.debug
    assert "snp:absent" in found


@REAL
def test_a_real_report_is_refused_outside_of_its_certificates_validity(
    folder: Path, real: Real
) -> None:
    """A day before and a day after what is written of it."""
    report, chain = report_of(folder, real), chain_of(folder, real)
    month, day = real.day
    for now in (
        datetime(real.years[0], month, day - 1, tzinfo=UTC),
        datetime(real.years[1], month, day + 1, tzinfo=UTC),
    ):
        with pytest.raises(SnpExpiredError):
            verify(report, chain, now=now)


@REAL
def test_a_real_report_answers_what_it_holds_and_nothing_else(folder: Path, real: Real) -> None:
    """All 64 bytes of it."""
    report, chain = report_of(folder, real), chain_of(folder, real)
    data = SnpReport.decode(report).report_data
    now = within(real)
    claims = verify_snp(report, certificates=chain, report_data=data, now=now, trust=AMD)
    assert claims.report.report_data == data
    with pytest.raises(StaleQuoteError):
        verify_snp(report, certificates=chain, report_data=b"\x01" * 64, now=now, trust=AMD)


@REAL
def test_no_bit_of_a_real_report_can_be_changed(folder: Path, real: Real) -> None:
    """A sample of all 9472 bits: what is not signed must be zero, or is the signature."""
    report, chain = report_of(folder, real), chain_of(folder, real)
    for bit in random.Random(real.report).sample(range(8 * len(report)), BITS):  # noqa: S311
        changed = bytearray(report)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(HwTrustError) as caught:
            verify(bytes(changed), chain, now=within(real))
        assert caught.value.code.startswith(("evidence:", "wire:"))


@REAL
@pytest.mark.parametrize("at", [0, 1], ids=["VCEK", "ASK and ARK"])
def test_no_bit_of_a_real_chain_can_be_changed(folder: Path, real: Real, at: int) -> None:
    """A sample of the bits of the certificates themselves, out of PEM."""
    report, chain = report_of(folder, real), chain_of(folder, real)
    ders = [der for file in chain for der in _ders(file)]
    changeable = ders[:1] if at == 0 else ders[1:]
    drawn = random.Random(real.vcek)  # noqa: S311
    for _ in range(BITS // 4):
        which = drawn.randrange(len(changeable))
        changed = bytearray(changeable[which])
        bit = drawn.randrange(8 * len(changed))
        changed[bit // 8] ^= 1 << bit % 8
        others = [der for der in ders if der is not changeable[which]]
        with pytest.raises(HwTrustError) as caught:
            verify(report, [*others, bytes(changed)], now=within(real))
        assert caught.value.code.startswith(("evidence:", "wire:"))


def _ders(file: bytes) -> list[bytes]:
    return pem_blocks(file, b"CERTIFICATE") if b"-----BEGIN" in file else [file]


def test_a_real_report_with_the_vcek_of_another_chip_is_refused(folder: Path) -> None:
    """Both of Milan, both AMD's."""
    real = REALS["trustee, Milan"]
    other = (folder / "virtee-milan-vcek.der").read_bytes()
    chain = [other, chain_of(folder, real)[1]]
    with pytest.raises(SnpSignatureError):
        verify(report_of(folder, real), chain, now=datetime(2025, 1, 1, tzinfo=UTC))


def test_a_vcek_that_amd_has_not_signed_is_refused(folder: Path) -> None:
    """It bears all of AMD's names."""
    real = REALS["trustee, Milan"]
    forged = (folder / "coco-vcek-invalid-legacy.der").read_bytes()
    chain = [forged, chain_of(folder, real)[1]]
    with pytest.raises(SnpChainError):
        verify(report_of(folder, real), chain, now=datetime(2025, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize("product", list(Product))
def test_the_bundle_of_another_kind_or_product_makes_no_chain(
    folder: Path, product: Product
) -> None:
    """Every published bundle but the right one, under a report of Milan."""
    real = REALS["virtee, Milan"]
    report, vcek = report_of(folder, real), chain_of(folder, real)[0]
    bundles = sorted(folder.glob(f"gosev-ask_ark_{product.lower()}*.pem"))
    assert len(bundles) == 2
    for bundle in bundles:
        if bundle.name == "gosev-ask_ark_milan.pem":
            continue
        with pytest.raises(SnpError):
            verify(report, [vcek, bundle.read_bytes()], now=within(real))


# --- this repository's own ------------------------------------------------------------


def test_there_are_vectors_of_our_own() -> None:
    """Each a report and a table, and all small."""
    stored = {path.name for path in FOLDER.iterdir() if path.is_file()}
    assert stored == set(files())
    assert len(stored) == 2 * len(CASES) > 0


def test_our_vectors_are_made_again_byte_by_byte() -> None:
    """From the generator beside them."""
    for name, content in files().items():
        assert (FOLDER / name).read_bytes() == content, name
        assert len(content) < 20_000


@pytest.mark.parametrize("name", CASES)
def test_our_vectors_verify(name: str) -> None:
    """With the certificates of the table beside them."""
    product, kind, version = CASES[name]
    table = CertificateTable.decode((FOLDER / f"{name}.table").read_bytes())
    claims = verify_snp(
        (FOLDER / f"{name}.report").read_bytes(),
        certificates=table.certificates,
        report_data=REPORT_DATA,
        now=NOW,
        trust=trust(),
    )
    assert (claims.product, claims.report.signing_key) == (product, kind)
    assert claims.report.version == version
